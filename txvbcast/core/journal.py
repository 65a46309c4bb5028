"""The in-memory face of the log: watermarks, the tail that is not applied yet, promises.

The journal decides what has to be persisted and remembers which replies wait for the
disk.  Bodies of applied entries are not kept: they are read back from the store.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence

import attrs

from txvbcast.core.commons import Commons
from txvbcast.core.effects import Effect, Persist, Send
from txvbcast.core.marks import Mark
from txvbcast.core.signals import Signal
from txvbcast.core.table import Table, with_standing
from txvbcast.errors import LocalProtocolError
from txvbcast.wire.messages import Entry, Flight, FlightId, Run

#: How many epochs of the log's history travel in a Start or a Grant.
RUNS_MAX = 64


def payload_bytes(entry: Entry) -> int:
    """Of the transactions in it."""
    return sum(map(len, entry.flight.items)) if entry.flight is not None else 0


@attrs.define
class SeenFlights:
    """Per origin the flights of its latest life that the log holds: a floor and a set above it."""

    incarnation: int = 0
    floor: int = 1
    above: set[int] = attrs.field(factory=set)

    def holds(self, flight: FlightId) -> bool:
        """Whether the flight may never be ordered again: applied, or given up by its origin."""
        if flight.incarnation != self.incarnation:
            return flight.incarnation < self.incarnation
        return flight.number < self.floor or flight.number in self.above

    def add(self, flight: Flight) -> None:
        """Take note of an applied flight; one of an earlier life says nothing about the present one."""
        if flight.id.incarnation < self.incarnation:
            return
        if flight.id.incarnation > self.incarnation:
            self.incarnation, self.floor, self.above = flight.id.incarnation, 1, set()
        self.above.add(flight.id.number)
        self.floor = max(self.floor, flight.oldest)
        self.above = {number for number in self.above if number >= self.floor}


@attrs.frozen
class _Write:
    """A Persist under way, and what the disk will hold when it is done."""

    token: int
    tail: int
    log_epoch: int


class Journal:
    """The log of one node.

    :ivar promised: the highest epoch this node has promised.
    :ivar log_epoch: the epoch whose log this is.
    :ivar tail: the last seq.
    :ivar stored: the last seq that is durable under ``log_epoch``; -1 while the adoption of it is not.
    :ivar committed, applied: watermarks, ``applied <= committed <= tail``.
    """

    def __init__(self, commons: Commons, table: Table) -> None:
        stored = commons.stored
        self._commons = commons
        self.promised = stored.promised_epoch
        self.log_epoch = stored.log_epoch
        self.tail = 0
        self.stored = 0
        self.committed = 0
        self.applied = 0
        self._bytes = array("Q", [0])
        self.applied_table = table
        self._tables: list[tuple[int, Table]] = []
        self._runs: list[Run] = []
        self._entries: dict[int, Entry] = {}
        self._flights: dict[FlightId, int] = {}
        self._seen: dict[int, SeenFlights] = {}
        self._writes: deque[_Write] = deque()
        self._waiting: deque[tuple[int, tuple[Effect, ...], tuple[Signal, ...]]] = deque()
        self._token = 0

    # --- what the log says ---------------------------------------------------------

    @property
    def table(self) -> Table:
        """The table with everything that is in the log, committed or not."""
        return self._tables[-1][1] if self._tables else self.applied_table

    @property
    def committed_table(self) -> Table:
        """The table as of ``committed``."""
        at = self.applied_table
        for seq, table in self._tables:
            if seq <= self.committed:
                at = table
        return at

    @property
    def open_standings(self) -> tuple[Entry, ...]:
        """Entries about standings that are not committed yet."""
        return tuple(self._entries[seq] for seq, _ in self._tables if seq > self.committed)

    def epoch_at(self, seq: int) -> int:
        """The epoch in which the entry at ``seq`` was ordered; 0 where there is none."""
        if not 1 <= seq <= self.tail:
            return 0
        return self._runs[bisect_right(self._runs, seq, key=lambda run: run.first) - 1].epoch

    def runs(self) -> tuple[int, tuple[Run, ...]]:
        """(base, runs): the epochs of all entries above ``base``, the latest RUNS_MAX of them."""
        latest = tuple(self._runs[-RUNS_MAX:])
        return (latest[0].first - 1 if latest else self.tail, latest)

    def matching(self, base: int, runs: Sequence[Run], last: int) -> int:
        """How far this log is the same as one of these ``runs``, at least ``committed``.

        Two entries of the same seq and epoch are the same entry, because an epoch has one
        master that orders each seq once.
        """
        if self.committed < base:
            self._commons.reach(Mark.EARLIER_RUNS_LACKING)
            return self.committed
        match = self.committed
        for number, run in enumerate(runs):
            end = min(runs[number + 1].first - 1 if number + 1 < len(runs) else last, last, self.tail)
            for seq in range(max(run.first, match + 1), end + 1):
                if seq != match + 1 or self.epoch_at(seq) != run.epoch:
                    return match
                match = seq
        return match

    def where(self, flight: FlightId) -> int | None:
        """The seq of a flight among the entries that are not applied yet."""
        return self._flights.get(flight)

    def finished(self, flight: FlightId) -> bool:
        """Whether a flight is applied, or can never be ordered any more."""
        seen = self._seen.get(flight.origin)
        return seen is not None and seen.holds(flight)

    def dead(self, flight: Flight, table: Table) -> bool:
        """Whether ``table`` says that the flight's origin was away since it proposed it."""
        member = table.get(flight.id.origin)
        return member is None or flight.born < member.since or flight.id.incarnation < member.incarnation

    def bytes_above(self, seq: int) -> int:
        """Payload bytes of the entries after ``seq``: what a member that holds ``seq`` lacks."""
        return self._bytes[-1] - self._bytes[min(seq, self.tail)]

    # --- changing it ---------------------------------------------------------------

    def restore(self, entries: Sequence[Entry]) -> None:
        """Take over entries that the store already holds."""
        for entry in entries:
            self._put(entry)
        self.stored = self.tail
        self.committed = max(self.committed, min(self._commons.stored.committed, self.tail))

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries at the end, and to the disk."""
        if not entries:
            return
        for entry in entries:
            self._put(entry)
        self._persist(entries=tuple(entries))

    def adopt(self, match: int, entries: Sequence[Entry], epoch: int) -> None:
        """Become the log of ``epoch`` in one durable step: keep up to ``match``, then ``entries``."""
        first = match + 1
        if epoch < self.promised:
            raise LocalProtocolError(f"epoch {epoch} cannot be adopted: epoch {self.promised} is promised")
        if first <= self.committed:
            raise LocalProtocolError(f"adopting epoch {epoch} would drop committed entries from {first} on")
        dropping = first <= self.tail
        if dropping:
            self._truncate(first)
        for entry in entries:
            self._put(entry)
        self.log_epoch = epoch
        self.stored = -1  # nothing is durable under this epoch before the disk has answered
        self.promised = epoch
        self._persist(
            truncate_from=first if dropping else None,
            entries=tuple(entries),
            promised_epoch=self.promised,
            log_epoch=epoch,
        )

    def promise(self, epoch: int) -> None:
        """Refuse everything of lower epochs from now on, and after a restart."""
        if epoch < self.promised:
            raise LocalProtocolError(f"epoch {epoch} is below the promised {self.promised}")
        self.promised = epoch
        self._persist(promised_epoch=epoch)

    def commit(self, upto: int) -> bool:
        """Raise ``committed``; True if it rose."""
        upto = min(upto, self.tail)
        if upto <= self.committed:
            return False
        self.committed = upto
        return True

    def take_applicable(self) -> Iterator[tuple[Entry, bool]]:
        """Each entry that is committed and not applied, in order, and whether it is dead."""
        while self.applied < self.committed:
            seq = self.applied + 1
            entry = self._entries.pop(seq)
            dead = False
            if entry.flight is not None:
                dead = self.dead(entry.flight, self.applied_table) or self.finished(entry.flight.id)
                if self._flights.get(entry.flight.id) == seq:
                    del self._flights[entry.flight.id]
                self._seen.setdefault(entry.flight.id.origin, SeenFlights()).add(entry.flight)
            else:
                self.applied_table = self._tables.pop(0)[1]
            self.applied = seq
            yield entry, dead

    def _put(self, entry: Entry) -> None:
        if entry.seq != self.tail + 1:
            raise LocalProtocolError(f"entry {entry.seq} cannot follow entry {self.tail}")
        if not self._runs or self._runs[-1].epoch != entry.epoch:
            self._runs.append(Run(entry.seq, entry.epoch))
        self.tail = entry.seq
        self._entries[entry.seq] = entry
        self._bytes.append(self._bytes[-1] + payload_bytes(entry))
        if entry.flight is not None:
            self._flights.setdefault(entry.flight.id, entry.seq)
        elif entry.standing is not None:
            self._tables.append((entry.seq, with_standing(self.table, entry.seq, entry.standing)))

    def _truncate(self, first: int) -> None:
        if self._tables and self._tables[-1][0] >= first:
            self._commons.reach(Mark.STANDING_DROPPED_WITH_TAIL)
        for seq in range(first, self.tail + 1):
            entry = self._entries.pop(seq)
            if entry.flight is not None and self._flights.get(entry.flight.id) == seq:
                del self._flights[entry.flight.id]
        self._tables = [(seq, table) for seq, table in self._tables if seq < first]
        self._runs = [run for run in self._runs if run.first < first]
        del self._bytes[first:]
        self.tail = first - 1
        self.stored = min(self.stored, self.tail)

    # --- the disk ------------------------------------------------------------------

    def _persist(
        self,
        truncate_from: int | None = None,
        entries: tuple[Entry, ...] = (),
        promised_epoch: int | None = None,
        log_epoch: int | None = None,
    ) -> None:
        self._token += 1
        self._writes.append(_Write(self._token, self.tail, self.log_epoch))
        self._commons.out.append(
            Persist(self._token, truncate_from, entries, promised_epoch, log_epoch, committed=self.committed)
        )

    @property
    def writing(self) -> bool:
        """Whether the disk has not answered everything yet."""
        return bool(self._writes)

    def when_durable(self, effects: tuple[Effect, ...] = (), signals: tuple[Signal, ...] = ()) -> None:
        """Do this once everything asked for so far is on disk."""
        if self._writes:
            self._waiting.append((self._writes[-1].token, effects, signals))
            return
        self._release(effects, signals)

    def on_persisted(self, token: int) -> bool:
        """The disk has answered; True if ``stored`` rose under the present log epoch."""
        done: _Write | None = None
        while self._writes and self._writes[0].token <= token:
            done = self._writes.popleft()
        while self._waiting and self._waiting[0][0] <= token:
            _, effects, signals = self._waiting.popleft()
            self._release(effects, signals)
        if done is None or done.log_epoch != self.log_epoch:
            if done is not None:
                self._commons.reach(Mark.WRITE_OF_EARLIER_LOG_DONE)
            return False
        before, self.stored = self.stored, min(done.tail, self.tail)
        return self.stored > before

    def _release(self, effects: tuple[Effect, ...], signals: tuple[Signal, ...]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._commons.send(effect.to, effect.message)
            else:
                self._commons.out.append(effect)
        for signal in signals:
            self._commons.signal(signal)
