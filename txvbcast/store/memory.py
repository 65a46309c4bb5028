"""A store without a disk, for simulated nodes: deterministic, driven by a clock, no threads.

A :class:`Disk` outlives the node: it holds what was synced, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import attrs

from txvbcast.absences import ABSENCES_KEPT
from txvbcast.core.effects import Persist
from txvbcast.core.inputs import PastAbsence, StoredState
from txvbcast.errors import StoreError
from txvbcast.store.front import RISING, Answer, Operation, Read, StoreFront, Write
from txvbcast.turns import Clock, Turn
from txvbcast.wire.codec import encode_entry
from txvbcast.wire.messages import Entry


@attrs.define
class Disk:
    """What survives a crash of a simulated node.

    :ivar disk_id: as random as the simulation wants it.
    :ivar entries: the log; ``entries[k]`` has seq ``k + 1``.
    :ivar absences: the records of absences that are over.
    :ivar held: an open store uses this disk.
    :ivar error: when set, the next transaction fails with it and leaves no trace.
    :ivar transactions: how many were synced so far.
    """

    disk_id: str
    incarnation: int = 0
    promised_epoch: int = 0
    log_epoch: int = 0
    committed: int = 0
    entries: list[Entry] = attrs.Factory(list)
    absences: list[PastAbsence] = attrs.Factory(list)
    held: bool = False
    error: Exception | None = None
    transactions: int = 0

    def state(self) -> StoredState:
        """What a store that is opened now would find."""
        return StoredState(
            incarnation=self.incarnation,
            disk_id=self.disk_id,
            promised_epoch=self.promised_epoch,
            log_epoch=self.log_epoch,
            committed=self.committed,
            last_seq=len(self.entries),
            absences=tuple(self.absences),
        )

    def write(self, write: Persist) -> None:
        """Do what ``write`` says, at once."""
        if write.truncate_from is not None:
            del self.entries[write.truncate_from - 1 :]
        self.entries.extend(write.entries)
        for name in RISING:
            value = getattr(write, name)
            if value is not None:
                setattr(self, name, value)

    def remember(self, record: PastAbsence) -> None:
        """Keep a record, among the latest."""
        self.absences.append(record)
        del self.absences[:-ABSENCES_KEPT]

    def append_torn(self, write: Persist, part: float) -> None:
        """The first entries of an append; what has to be one step (a truncation, an epoch) leaves no trace."""
        if (write.truncate_from, write.promised_epoch, write.log_epoch) == (None, None, None):
            self.entries.extend(write.entries[: int(part * len(write.entries))])

    def read(self, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
        """Entries from ``first`` on, up to ``last`` and ``bytes_max``, but at least one if there is one."""
        wanted = self.entries[first - 1 : last]
        bytes_read = 0
        for count, entry in enumerate(wanted):
            bytes_read += len(encode_entry(entry))
            if count and bytes_read > bytes_max:
                return tuple(wanted[:count])
        return tuple(wanted)


class Timer(Protocol):
    """What ``callLater`` of a clock returns."""

    def cancel(self) -> None:
        """Do not call."""


class MemoryClock(Clock, Protocol):
    """A clock whose calls can be cancelled."""

    def callLater(self, delay_s: float, call: Callable[..., object], /, *args: object) -> Timer:
        """Call later, unless cancelled."""


def _raise(error: Exception) -> None:
    raise error


def _is_writing(batch: list[Operation]) -> bool:
    return any(not isinstance(operation, Read) for operation in batch)


class MemoryStore(StoreFront):
    """The Store of a simulated node; made by :meth:`open`."""

    @classmethod
    def open(
        cls,
        disk: Disk,
        clock: MemoryClock,
        delay: Callable[[], float],
        on_failure: Callable[[Exception], None] = _raise,
        turn: Turn | None = None,
    ) -> tuple[MemoryStore, StoredState]:
        """Begin another life of the node whose disk this is.

        :param delay: asked before each transaction how long it takes, in seconds.
        :param on_failure: as for every store; by default the error comes out of the clock.
        :param turn: the clock's turns, which others may share.
        :raises StoreError: another open store uses the disk.
        """
        if disk.held:
            raise StoreError(f"disk {disk.disk_id}: in use by an open store; close it or let it crash first")
        disk.held = True
        disk.incarnation += 1
        state = disk.state()
        return cls(disk, clock, turn or Turn(clock), delay, state, on_failure), state

    def __init__(
        self,
        disk: Disk,
        clock: MemoryClock,
        turn: Turn,
        delay: Callable[[], float],
        state: StoredState,
        on_failure: Callable[[Exception], None],
    ) -> None:
        super().__init__(turn, state, on_failure)
        self._disk = disk
        self._timers = clock
        self._delay = delay
        self._backlog: list[Operation] = []
        self._syncing: list[Operation] = []
        self._timer: Timer | None = None
        self._stopping = False

    def entries(self, bytes_max: int) -> Iterator[tuple[Entry, ...]]:
        """The log from its beginning, in pieces of about ``bytes_max`` encoded bytes."""
        first = 1
        while piece := self._disk.read(first, len(self._disk.entries), bytes_max):
            yield piece
            first = piece[-1].seq + 1

    def crash(self, keep: float = 0.0) -> None:
        """End this life at once: what is not synced is lost, and nobody hears of anything more.

        :param keep: how much of the writes under way reaches the disk all the same, in their order, from
            0 (nothing) to 1 (everything); where the line falls within an append, its first entries do.
        """
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tear(keep)
        self._fall_silent()
        self._backlog.clear()
        self._stopping = False
        self._closed = True
        self._disk.held = False

    def _tear(self, keep: float) -> None:
        writes = [operation.persist for operation in self._syncing if isinstance(operation, Write)]
        whole, part = divmod(keep * len(writes), 1.0)
        for persist in writes[: int(whole)]:
            self._disk.write(persist)
        for persist in writes[int(whole) :][:1]:
            self._disk.append_torn(persist, part)

    def _begin(self, batch: list[Operation]) -> None:
        self._backlog.extend(batch)
        if self._timer is None:
            self._sync()

    def _sync(self) -> None:
        self._syncing, self._backlog = self._backlog, []
        self._timer = self._timers.callLater(self._delay() if _is_writing(self._syncing) else 0.0, self._synced)

    def _synced(self) -> None:
        self._timer = None
        batch, self._syncing = self._syncing, []
        if self._disk.error is not None:
            self._backlog.clear()
            self._fail(self._disk.error)
        else:
            self._answer(self._perform(batch))
        if self._backlog:
            self._sync()
        elif self._stopping:
            self._let_go()

    def _perform(self, batch: list[Operation]) -> list[Answer]:
        answers: list[Answer] = []
        for item in batch:
            if isinstance(item, Write):
                answers.append(self._write(item))
            elif isinstance(item, Read):
                answers.append(self._read(item))
            else:
                self._disk.remember(item.record)
        if _is_writing(batch):
            self._disk.transactions += 1
        return answers

    def _write(self, item: Write) -> Answer:
        self._disk.write(item.persist)
        return partial(item.done, item.persist.token)

    def _read(self, item: Read) -> Answer:
        return partial(item.done, self._disk.read(item.first, item.last, item.bytes_max))

    def _stop(self) -> None:
        self._stopping = True
        if self._timer is None:
            self._let_go()

    def _let_go(self) -> None:
        self._disk.held = False
        self._stopped()
