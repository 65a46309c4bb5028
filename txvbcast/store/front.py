"""The reactor's side of every store: admission, bounds, answers in order, failure and closing.

A store is used from the reactor thread only.  What is asked of it during one turn of the
reactor is handed on together at the end of the turn, so that it can become one
transaction; the answers come back in the order of the questions.

Once a store has failed, or has been told to close, it takes nothing more: writes and
reads are dropped and never answered, so nothing can come to rest on them.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Union

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from txvbcast.absences import ABSENCES_KEPT
from txvbcast.core.effects import Persist
from txvbcast.core.inputs import PastAbsence, StoredState
from txvbcast.errors import LocalProtocolError
from txvbcast.turns import Turn
from txvbcast.wire.messages import Entry

log = Logger()

#: How many writes and reads may wait for their answer.  The core bounds what it has under
#: way far below this; more is a defect.
OPERATIONS_MAX = 16384

#: Calls a caller's ``done`` with its result.
Answer = Callable[[], None]


@attrs.frozen
class Write:
    """A queued :meth:`StoreFront.persist`."""

    persist: Persist
    done: Callable[[int], None]


@attrs.frozen
class Read:
    """A queued :meth:`StoreFront.read`."""

    first: int
    last: int
    bytes_max: int
    done: Callable[[tuple[Entry, ...]], None]


@attrs.frozen
class Remember:
    """A :meth:`StoreFront.remember` on its way; it is not answered."""

    record: PastAbsence


Operation = Union[Write, Read, Remember]

#: The numbers of a Persist that may only rise.
RISING = ("promised_epoch", "log_epoch", "committed")


class LogRules:
    """What the log will look like once all that was admitted is written, and what may follow it."""

    def __init__(self, state: StoredState) -> None:
        self._last_seq = state.last_seq
        self._numbers = {name: getattr(state, name) for name in RISING}

    def admit(self, write: Persist) -> None:
        """Check ``write`` against what was admitted before, and take note of it.

        :raises LocalProtocolError: the entries leave a gap or repeat a seq, a committed entry
            would be dropped, or a number that may only rise would fall.  Nothing was noted.
        """
        last_seq = self._after_truncation(write)
        for entry in write.entries:
            if entry.seq != last_seq + 1:
                raise LocalProtocolError(f"entry {entry.seq} cannot be stored behind entry {last_seq}")
            last_seq = entry.seq
        numbers = {name: getattr(write, name) for name in RISING if getattr(write, name) is not None}
        for name, value in numbers.items():
            if value < self._numbers[name]:
                raise LocalProtocolError(f"{name} cannot fall from {self._numbers[name]} to {value}")
        self._last_seq = last_seq
        self._numbers.update(numbers)

    def _after_truncation(self, write: Persist) -> int:
        if write.truncate_from is None or write.truncate_from > self._last_seq:
            return self._last_seq
        committed: int = self._numbers["committed"]
        if write.truncate_from <= committed:
            raise LocalProtocolError(
                f"entries from {write.truncate_from} on cannot be dropped: they are committed up to {committed}"
            )
        return write.truncate_from - 1


class StoreFront(abc.ABC):
    """What a driver talks to; the subclasses write.

    :param turn: the turns of the reactor or simulated clock in whose thread this is used.
    :param state: what the opened store holds.
    :param on_failure: called at most once, from the reactor: nothing after that is ever
        answered, and the node has to stop.
    """

    def __init__(self, turn: Turn, state: StoredState, on_failure: Callable[[Exception], None]) -> None:
        self._turn = turn
        self._rules = LogRules(state)
        self._on_failure = on_failure
        self._asked: list[Operation] = []
        self._records: deque[PastAbsence] = deque(maxlen=ABSENCES_KEPT)
        self._remembers = True
        self._waiting = 0
        self._taking = True
        self._silent = False
        self._closed = False
        self._close_waiters: list[Deferred[None]] = []

    def persist(self, write: Persist, done: Callable[[int], None]) -> None:
        """Queue ``write``; ``done`` is called with its token once it is durable.

        All ``done`` calls come in the order of the ``persist`` calls.  A write that breaks
        the rules of the log, or is one too many, is a failure of the store
        (``on_failure`` with :class:`~txvbcast.errors.LocalProtocolError`).
        """
        if not self._taking:
            return
        try:
            self._rules.admit(write)
        except LocalProtocolError as error:
            self._refuse(error)
        else:
            self._queue(Write(write, done))

    def read(self, first: int, last: int, bytes_max: int, done: Callable[[tuple[Entry, ...]], None]) -> None:
        """Read entries ``first`` to ``last``, as they are after every earlier :meth:`persist`.

        :param bytes_max: stop before the encoded entries exceed this; the first one is
            given whatever its size.
        :param done: called with a run of entries that begins at ``first`` and has no gap; empty
            when the log ends before ``first``.
        """
        if self._taking:
            self._queue(Read(first, last, bytes_max, done))

    def remember(self, record: PastAbsence) -> None:
        """Keep the record of an absence for the next lives, among the last ABSENCES_KEPT.

        It is worth less than the log: it goes with the next write, or when the store is closed, and is lost in a
        crash before.  When records cannot be kept that is logged, once, and is no failure of the store.
        """
        if self._taking and self._remembers:
            self._records.append(record)

    def close(self) -> Deferred[None]:
        """Write and answer everything queued, then let go of the disk; fires when that is done.

        It never fails, and may be called again.  After a failure nothing more is written.
        """
        if self._closed:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._close_waiters.append(waiter)
        if len(self._close_waiters) == 1:
            self._asked += self._take_records()
            self._hand_over()
            self._taking = False
            self._stop()
        return waiter

    @abc.abstractmethod
    def _begin(self, batch: list[Operation]) -> None:
        """Take over what one turn asked for; ends in :meth:`_answer` or :meth:`_fail`."""

    @abc.abstractmethod
    def _stop(self) -> None:
        """No more batches follow; ends in :meth:`_stopped`."""

    def _queue(self, operation: Operation) -> None:
        if self._waiting == OPERATIONS_MAX:
            self._refuse(LocalProtocolError(f"more than {OPERATIONS_MAX} writes and reads wait for the disk"))
            return
        self._waiting += 1
        if not self._asked:
            self._turn.at_end_first(self._hand_over)
        self._asked.append(operation)

    def _hand_over(self) -> None:
        batch, self._asked = self._asked, []
        if any(isinstance(operation, Write) for operation in batch):
            batch += self._take_records()
        if batch:
            self._begin(batch)

    def _take_records(self) -> list[Remember]:
        taken = [Remember(record) for record in self._records]
        self._records.clear()
        return taken

    def _forget(self, problem: str) -> None:
        """No records are kept in this life; the log is as it should be."""
        if self._remembers:
            self._remembers = False
            log.warn("records of past absences cannot be kept: {problem}", problem=problem)

    def _answer(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            # Looked at each time: an answer may have consequences that make the store fail.
            if self._silent:
                return
            self._waiting -= 1
            answer()

    def _fail(self, error: Exception) -> None:
        if not self._silent:
            self._fall_silent()
            self._on_failure(error)

    def _refuse(self, error: LocalProtocolError) -> None:
        self._fall_silent()
        # Not at once: the caller is in the middle of a step.
        self._turn.at_end(partial(self._on_failure, error))

    def _fall_silent(self) -> None:
        self._taking = False
        self._silent = True
        self._asked.clear()
        self._records.clear()

    def _stopped(self) -> None:
        self._closed = True
        waiters, self._close_waiters = self._close_waiters, []
        for waiter in waiters:
            waiter.callback(None)
