"""A client of a cluster as a process of its own: puts keys at a fixed pace until it is told to stop.

``client_child.py twisted|blocking PER_S TIMEOUT_S MODE ENDPOINT...``: each line on its standard output is what one
transaction led to, as JSON; a line on its standard input ends it, when all have their answer.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from typing import Any

from twisted.internet.task import LoopingCall, deferLater, react

from txvbcast.client import blocking, connect
from txvbcast.errors import Committed, OutcomeUnknown, SubmissionError
from txvbcast.wire.kv import put_payload


def report(name: str, node_id: int, sent_s: float, outcome: Any) -> None:
    """Say what became of the transaction of that name."""
    facts: dict[str, Any] = {"request_id": name, "node_id": node_id, "sent_s": sent_s, "answered_s": time.monotonic()}
    if isinstance(outcome, Committed):
        facts |= {"kind": "committed", "seq": outcome.seq, "index": outcome.index}
    else:
        assert isinstance(outcome, SubmissionError), outcome
        facts |= {"kind": type(outcome).__name__, "detail": outcome.reason}
        if isinstance(outcome, OutcomeUnknown):
            assert outcome.request_id == name, (outcome.request_id, name)
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def payload(name: str) -> bytes:
    """What sets the key of that name."""
    return put_payload(name, name.encode())


async def run_twisted(reactor: Any, per_s: float, timeout_s: float, mode: str, *endpoints: str) -> None:
    """With a reactor: the pace does not follow the answers."""
    client = await connect(*endpoints)
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stopped.set()), daemon=True).start()
    numbers = itertools.count(1)
    unanswered: set[str] = set()

    def submit() -> None:
        name, sent_s, node_id = f"{client.session}#{next(numbers)}", time.monotonic(), client.node_id
        unanswered.add(name)

        def answered(outcome: Any) -> None:
            unanswered.discard(name)
            report(name, node_id, sent_s, getattr(outcome, "value", outcome))

        client.submit("kv", payload(name), mode, timeout_s).addBoth(answered)

    def submit_several(count: int) -> None:
        if not stopped.is_set():
            for _ in range(count):
                submit()

    pace = LoopingCall.withCount(submit_several)
    pace.start(1 / per_s)
    while not stopped.is_set() or unanswered:
        await deferLater(reactor, 0.02)
    pace.stop()
    await client.close()


def run_blocking(per_s: float, timeout_s: float, mode: str, *endpoints: str) -> None:
    """Without one: one after the other, and ten at once every now and then."""
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stopped.set()), daemon=True).start()
    with blocking.connect(*endpoints) as client:
        number = 0
        while not stopped.is_set():
            count = 10 if number % 3 == 0 else 1
            names = [f"{client.session}#{number + k}" for k in range(1, count + 1)]
            number += count
            sent_s, node_id = time.monotonic(), client.node_id
            outcomes = client.submit_many("kv", [payload(name) for name in names], mode, timeout_s)
            for name, outcome in zip(names, outcomes, strict=True):
                report(name, node_id, sent_s, outcome)
            time.sleep(max(0.0, sent_s + count / per_s - time.monotonic()))


if __name__ == "__main__":
    kind, per_s, timeout_s, mode, *endpoints = sys.argv[1:]
    if kind == "blocking":
        run_blocking(float(per_s), float(timeout_s), mode, *endpoints)
    else:
        react(run_twisted, (float(per_s), float(timeout_s), mode, *endpoints))
