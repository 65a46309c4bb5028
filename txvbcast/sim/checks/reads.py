"""Invariant 16: linearizable reads and writes of each register form a linearizable history."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from txvbcast.errors import Committed
from txvbcast.sim import linearizability, witness
from txvbcast.sim.checks.violation import Violation
from txvbcast.sim.linearizability import NEVER, Operation, Verdict, Write
from txvbcast.sim.watch import Watcher
from txvbcast.sim.witness import AFTER_ALL, Asked, Get, Logged, Set

if TYPE_CHECKING:
    from txvbcast.sim.world import Outcome, Read

#: The search for an order stops here: the log has been found to be one by then.
STEPS_MAX = 50_000


class Reads(Watcher):
    """Every read knows of all that anybody had heard before it began; at the end, all of it is put in an order."""

    def __init__(self) -> None:
        self._heard_s: list[float] = []
        self._heard: list[int] = []

    def on_answer(self, outcome: Outcome) -> None:
        """Somebody hears of a place of the log."""
        if isinstance(outcome.answer, Committed):
            self._hear(outcome.ended_s, outcome.answer.seq)

    def on_read(self, read: Read) -> None:
        """Somebody has read.

        :raises Violation: less than others had heard of before.
        """
        if read.seq is None:
            return
        before = bisect_left(self._heard_s, read.began_s)
        if before and read.seq < self._heard[before - 1]:
            raise Violation(
                f"invariant 16: a read at node {read.node_id} begins at {read.began_s:.3f} s and sees {read.seq} "
                f"entries, somebody has heard of {self._heard[before - 1]} before"
            )
        self._hear(read.ended_s, read.seq)

    def _hear(self, at_s: float, seq: int) -> None:
        self._heard_s.append(at_s)
        self._heard.append(max(seq, self._heard[-1]) if self._heard else seq)

    def on_end(self) -> None:
        """The log explains every answer, and does not contradict the times; nor do the answers by themselves.

        :raises Violation: it does, or they do.
        """
        performed = min(self.world.nodes.items())[1].recorder.performed
        self._check_values(performed)
        for complaint in witness.check(self._asked(performed), _logged(performed)):
            raise Violation(f"invariant 16: {complaint}")
        finding = linearizability.check(self._history(performed), STEPS_MAX)
        if finding.verdict is Verdict.NOT_LINEARIZABLE:
            raise Violation(f"invariant 16: {finding}")

    def _check_values(self, performed: Sequence[tuple[int, bytes]]) -> None:
        seqs: dict[bytes, list[int]] = defaultdict(list)
        values: dict[bytes, list[bytes]] = defaultdict(list)
        for seq, payload in performed:
            key, _, value = payload.partition(b"=")
            seqs[key].append(seq)
            values[key].append(value)
        for read in self.world.reads:
            if read.seq is None:
                continue
            before = bisect_left(seqs[read.key], read.seq + 1)
            expected = values[read.key][before - 1] if before else None
            if expected != read.value:
                raise Violation(
                    f"invariant 16: a read of {read.key!r} at node {read.node_id} finds {read.value!r}, "
                    f"after {read.seq} entries it is {expected!r}"
                )

    def _asked(self, performed: Sequence[tuple[int, bytes]]) -> list[Asked]:
        there = {payload for _, payload in performed}
        asked = []
        for outcome in self.world.outcomes:
            if outcome.payload in there:
                returned = outcome.ended_s if isinstance(outcome.answer, Committed) else NEVER
                asked.append(Asked(repr(outcome.payload), _request(outcome.payload), outcome.began_s, returned))
        for number, read in enumerate(self.world.reads):
            if read.seq is not None:
                place = (read.seq, AFTER_ALL)
                asked.append(Asked(f"read {number}", Get(repr(read.key)), read.began_s, read.ended_s, place=place))
        return asked

    def _history(self, performed: Sequence[tuple[int, bytes]]) -> list[Operation]:
        """The same without the log's part."""
        found = iter([read.value for read in self.world.reads if read.seq is not None])
        history = []
        for asked in self._asked(performed):
            action = Write(asked.request.value) if isinstance(asked.request, Set) else linearizability.Read(next(found))
            history.append(Operation(asked.name, asked.request.key, action, asked.called, asked.returned))
        return history


def _request(payload: bytes) -> Set:
    key, _, value = payload.partition(b"=")
    return Set(repr(key), value)


def _logged(performed: Sequence[tuple[int, bytes]]) -> list[Logged]:
    return [Logged((seq, index), repr(payload), _request(payload)) for index, (seq, payload) in enumerate(performed)]
