"""A client as a process of its own that keeps so many transactions under way: puts, each to a key of its own.

``closed_loop_child.py OUTSTANDING MODE ENDPOINT...``: for each line on its standard input, ``count N`` or
``seconds S``, it hands in so many or for so long, and prints how many were committed, and how many were not.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from txvbcast.client import Client, Outcomes, connect
from txvbcast.wire.kv import put_payload

VALUE = b"v" * 128
#: Handed in at once at first; what is answered in one turn of the reactor is replaced at once.
BATCHES = 8
#: In the voted modes a key is held until its node has applied, which may be after its client has heard of it.
KEYS_PER_SLOT = 16


class ClosedLoop:
    """Transactions that replace each other until ``wanted`` gives 0.

    :param wanted: how many of so many that could be handed in may be.
    """

    def __init__(self, reactor: Any, client: Client, mode: str, outstanding: int) -> None:
        keys = range(KEYS_PER_SLOT * outstanding)
        self._payloads = itertools.cycle([put_payload(f"key {key}", VALUE) for key in keys])
        self._reactor, self._client, self._mode, self._outstanding = reactor, client, mode, outstanding

    async def run(self, wanted: Callable[[int], int]) -> tuple[int, int]:
        """How many were committed, and how many were not."""
        self._wanted, self._free, self._under_way = wanted, 0, 0
        self._committed = self._failed = 0
        self._done: Deferred[None] = Deferred()
        for _ in range(BATCHES):
            self._hand_in(self._outstanding // BATCHES)
        await self._done
        return self._committed, self._failed

    def _hand_in(self, room: int) -> None:
        count = self._wanted(room)
        if count:
            self._under_way += count
            payloads = list(itertools.islice(self._payloads, count))
            self._client.submit_many("kv", payloads, mode=self._mode, timeout=10.0).addCallback(self._answered)
        elif not self._under_way and not self._done.called:
            self._done.callback(None)

    def _answered(self, outcomes: Outcomes) -> None:
        self._committed += outcomes.committed
        self._failed += len(outcomes) - outcomes.committed
        self._under_way -= len(outcomes)
        if not self._free:
            self._reactor.callLater(0, self._replace)
        self._free += len(outcomes)

    def _replace(self) -> None:
        count, self._free = self._free, 0
        self._hand_in(count)


def bound(kind: str, value: str) -> Callable[[int], int]:
    """What a command says."""
    if kind == "count":
        left = [int(value)]

        def counted(room: int) -> int:
            count = min(room, left[0])
            left[0] -= count
            return count

        return counted
    assert kind == "seconds", kind
    until_s = time.monotonic() + float(value)
    return lambda room: room if time.monotonic() < until_s else 0


async def main(reactor: Any, outstanding: str, mode: str, *endpoints: str) -> None:
    """Connect, and do as standard input says."""
    client = await connect(*endpoints)
    loop = ClosedLoop(reactor, client, mode, int(outstanding))
    while words := (await deferToThread(sys.stdin.readline)).split():
        committed, failed = await loop.run(bound(*words))
        sys.stdout.write(f"{committed} {failed}\n")
        sys.stdout.flush()
    await client.close()


if __name__ == "__main__":
    react(main, sys.argv[1:])
