"""Tells the adapter `command` when memory is taken from this machine, or given back: watch_balloon.py [MEMINFO]."""

import json
import sys
import time

EVERY_S = 0.5
SETTLED = 4  # looks without a change after which it is over


def total_bytes(path: str) -> int:
    """What the kernel counts as its memory; a balloon's pages are taken off."""
    with open(path) as lines:
        words = next(line.split() for line in lines if line.startswith("MemTotal:"))
    return int(words[1]) * 1024


def say(event: str, number: int, **facts: object) -> None:
    print(json.dumps({"event": event, "id": f"balloon-{number}", **facts}), flush=True)


def main(path: str = "/proc/meminfo") -> None:
    known, number, still = total_bytes(path), 0, SETTLED
    while True:
        time.sleep(EVERY_S)
        now = total_bytes(path)
        if now != known:
            event = {"event": "update"} if still < SETTLED else {"event": "begin", "kind": "memory"}
            number += event["event"] == "begin"
            say(number=number, facts={"memory_bytes": now, "memory_delta_bytes": now - known}, **event)
            known, still = now, 0
        elif still < SETTLED:
            still += 1
            if still == SETTLED:
                say("end", number, outcome="done")


main(*sys.argv[1:])
