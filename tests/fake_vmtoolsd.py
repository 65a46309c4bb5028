"""Plays ``vmtoolsd --cmd RPC`` with a folder for the host: what it remembers, what it has to tell, how it behaves.

``host.json``: tokens, queue, acknowledged, calls, behaviour.  Replies and errors have the shapes of the real host's,
as public scripts for it show them; like the real program it says errors on its standard error.
"""

import fcntl
import json
import os
import sys
import time


def succeed(**facts: object) -> None:
    sys.stdout.write(json.dumps({"version": "1.0.0", "result": True, **facts}) + "\n")


def refuse(rpc: str, why: str) -> None:
    text = f"vm-operation-notification.{rpc}: Invalid input: {why}, please see schema for detail and examples"
    sys.exit(json.dumps({"version": "1.0.0", "result": False, "errorMessage": text}))


def misbehave(behaviour: str) -> None:
    """Whatever else a program may do."""
    if behaviour == "hang":
        time.sleep(1000)
    elif behaviour == "fail":
        sys.exit(3)
    elif behaviour == "outside":  # what vmtoolsd 12.2.0 does on a machine that is no guest of VMware's
        sys.exit(1)
    elif behaviour == "complain":
        sys.exit("Unable to send command to VMware hypervisor.")
    elif behaviour == "flood":
        while True:
            sys.stdout.write("x" * 10_000)
    elif behaviour:
        sys.stdout.buffer.write(behaviour.encode("utf-8", "surrogateescape") + b"\n")
        sys.exit(0)


def main(folder: str, option: str, text: str) -> None:
    assert option == "--cmd", option
    name, _, parameters = text.partition(" ")
    family, _, rpc = name.partition(".")
    assert family == "vm-operation-notification", family
    given = json.loads(parameters)
    with open(os.path.join(folder, "host.json"), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        host = json.load(file)
        host["calls"].append([rpc, given, os.getpid()])
        behaviour = host["behaviour"].get(rpc, host["behaviour"].get("*", ""))
        answer = None if behaviour else decide(host, rpc, given)
        file.seek(0)
        file.truncate()
        json.dump(host, file)
    misbehave(behaviour)
    assert answer is not None
    answer()


def decide(host: dict, rpc: str, given: dict):  # type: ignore[no-untyped-def, type-arg]
    """What the host does and says."""
    if not host["enabled"]:
        return lambda: refuse(rpc, "VM operation notification not enabled on this VM")
    if rpc == "register":
        if len(host["tokens"]) == 1:
            most = "Failed to register additional apps. Max allowed limit of 1 concurrent apps already registered."
            return lambda: refuse(rpc, most)
        token = f"525b5364-6caf-24a0-562c-{len(host['calls']):012}"
        host["tokens"].append(token)
        return lambda: succeed(guaranteed=True, uniqueToken=token, notificationTimeoutInSec=120)
    if given["uniqueToken"] not in host["tokens"]:
        return lambda: refuse(rpc, "Could not find application with the token.")
    if rpc == "ack-event":
        host["acknowledged"].append(given["operationId"])
        return lambda: succeed(operationId=given["operationId"], ackStatus="ack_received")
    assert rpc == "check-for-event", rpc
    event = host["queue"].pop(0) if host["queue"] else {}
    return lambda: succeed(**event)


if __name__ == "__main__":
    main(*sys.argv[1:])
