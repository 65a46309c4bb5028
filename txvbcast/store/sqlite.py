"""The store of a real node: SQLite behind one thread that writes.

All that waits when the thread is free becomes one transaction and so one fsync (group
commit).  The first error ends the writing for good: after a failed fsync nobody knows what the disk
holds, and asking it again may bring a false yes.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import attrs
from twisted.logger import Logger

from txvbcast.core.effects import Persist
from txvbcast.core.inputs import PastAbsence, StoredState
from txvbcast.store import database, records
from txvbcast.store.directory import DirectoryLock, make_directory
from txvbcast.store.front import RISING, Answer, Operation, Read, Remember, StoreFront, Write
from txvbcast.turns import Clock, Turn
from txvbcast.wire.messages import Entry

log = Logger()

#: After about this many pages in the write-ahead log they are copied into the database. Nothing is written meanwhile,
#: and with a member away the others wait for that: few pages make many short stops of what would be a long one.
CHECKPOINT_PAGES = 128
#: So many nodes of a cluster, which write the same, do that at different times.
_CHECKPOINT_PHASES = 4
#: What a transaction takes besides the bodies of its entries: the pages of the tables that it touches.
_TRANSACTION_PAGES = 3
#: The same of the table of records; about ten records fill a page.
_RECORDS_PAGES = 3
_PAGE_BYTES = 4096
#: ``committed`` is written with every so many transactions, unless the meta table is written anyway.
COMMITTED_EVERY = 64

#: How much of the log :func:`dump` reads at a time.
_DUMP_BYTES = 1024 * 1024


class Reactor(Clock, Protocol):
    """What the store needs of a Twisted reactor."""

    def callFromThread(self, call: Callable[..., object], /, *args: object) -> object:
        """Call in the thread of the reactor; may be called from any thread."""


class SqliteStore(StoreFront):
    """The Store of a real node; made by :meth:`open`."""

    @classmethod
    def open(
        cls,
        data_dir: Path,
        node_id: int,
        cluster_id: str,
        reactor: Reactor,
        on_failure: Callable[[Exception], None],
        turn: Turn | None = None,
    ) -> tuple[SqliteStore, StoredState]:
        """Open the store in ``data_dir``, or make it, and begin a new incarnation.

        :param turn: the reactor's turns, which others may share.
        :param on_failure: called at most once, in the reactor thread: nothing after that is
            ever answered, and the node has to stop.
        :raises StoreError: the directory cannot be used, is in use, holds something else, or
            what it holds is damaged.
        """
        make_directory(data_dir)
        with contextlib.ExitStack() as undo:
            lock = DirectoryLock.take(data_dir)
            undo.callback(lock.release)
            connection, state = database.open_for_writing(data_dir, node_id, cluster_id)
            undo.callback(connection.close)
            reading, path = database.open_for_reading(data_dir)
            undo.pop_all()
        pages = CHECKPOINT_PAGES * (node_id % _CHECKPOINT_PHASES) // _CHECKPOINT_PHASES
        store = cls(reactor, turn or Turn(reactor), state, on_failure, lock, connection, reading, path, pages)
        return store, attrs.evolve(state, absences=store._recall())

    def __init__(
        self,
        reactor: Reactor,
        turn: Turn,
        state: StoredState,
        on_failure: Callable[[Exception], None],
        lock: DirectoryLock,
        writing: sqlite3.Connection,
        reading: sqlite3.Connection,
        path: Path,
        pages: int,
    ) -> None:
        super().__init__(turn, state, on_failure)
        self._lock = lock
        self._reading = reading
        self._path = path
        self._writer = _Writer(
            path,
            writing,
            reading,
            pages,
            answer=partial(reactor.callFromThread, self._answer),
            fail=partial(reactor.callFromThread, self._fail),
            forget=partial(reactor.callFromThread, self._forget),
            stopped=partial(reactor.callFromThread, self._join),
        )
        self._thread = threading.Thread(target=self._writer.run, name="txvbcast-store", daemon=True)
        self._thread.start()

    @property
    def transactions(self) -> int:
        """How many transactions this life has written."""
        return self._writer.transactions

    def entries(self, bytes_max: int) -> Iterator[tuple[Entry, ...]]:
        """What the disk holds of the log, from its beginning, in pieces of about ``bytes_max`` encoded bytes.

        It reads in the calling thread, and is meant for the start.

        :raises StoreError: an entry was damaged; the text names its seq.
        """
        return database.read_log_in_pieces(self._reading, self._path, bytes_max)

    def _recall(self) -> tuple[PastAbsence, ...]:
        try:
            absences, problem = records.read(self._reading)
        except sqlite3.Error as error:
            self._forget(f"{self._path}: {error}")
            return ()
        if problem:
            log.warn("{path}: some records of past absences are damaged: {problem}", path=self._path, problem=problem)
        return absences

    def _begin(self, batch: list[Operation]) -> None:
        self._writer.batches.put(batch)

    def _stop(self) -> None:
        self._writer.batches.put(None)

    def _join(self) -> None:
        # The thread has made this call as its last act, so there is nothing to wait for.
        self._thread.join()
        self._lock.release()
        self._stopped()


class _Writer:
    """The thread's side: owns the connection from the start of :meth:`run` on.

    :ivar batches: in order; None is the last.  Bounded by the front's OPERATIONS_MAX.
    :ivar transactions: how many were committed.
    :param pages: counts as written already.
    """

    def __init__(
        self,
        path: Path,
        writing: sqlite3.Connection,
        reading: sqlite3.Connection,
        pages: int,
        answer: Callable[[list[Answer]], object],
        fail: Callable[[Exception], object],
        forget: Callable[[str], object],
        stopped: Callable[[], object],
    ) -> None:
        self.batches: queue.SimpleQueue[list[Operation] | None] = queue.SimpleQueue()
        self.transactions = 0
        self._path = path
        self._writing = writing
        self._reading = reading
        self._answer = answer
        self._fail = fail
        self._forget = forget
        self._report_stop = stopped
        self._stopping = False
        self._broken = False
        self._postponed: dict[str, int] = {}
        self._pages = pages

    def run(self) -> None:
        """Write what comes, until None comes."""
        while not self._stopping:
            waiting = self._take_waiting()
            if waiting and not self._broken:
                self._perform(waiting)
        self._write_postponed()
        self._close()
        self._report_stop()

    def _take_waiting(self) -> list[Operation]:
        """Wait until there is something, then take all there is."""
        waiting: list[Operation] = []
        batch = self.batches.get()
        while batch is not None:
            waiting += batch
            if self.batches.empty():
                return waiting
            batch = self.batches.get()
        self._stopping = True
        return waiting

    def _perform(self, waiting: list[Operation]) -> None:
        try:
            self._answer(self._transact(waiting))
            if self._pages >= CHECKPOINT_PAGES:
                self._writing.execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._pages = 0
        except sqlite3.Error as error:
            self._break(database.explain(self._path, error))
        except Exception as error:  # noqa: BLE001 - nobody above a thread would tell the node, which would wait for ever
            self._break(error)

    def _break(self, error: Exception) -> None:
        self._broken = True
        self._fail(error)

    def _transact(self, waiting: list[Operation]) -> list[Answer]:
        numbers = self._due_numbers(waiting)
        is_writing = any(not isinstance(item, Read) for item in waiting)
        # One statement is a transaction of its own, and the most frequent one: each further one costs the
        # reactor's thread the interpreter for a moment.
        is_one_row = not numbers and len(waiting) == 1 and isinstance(waiting[0], Write) and _is_row(waiting[0].persist)
        if is_writing and not is_one_row:
            self._writing.execute("BEGIN IMMEDIATE")
        asked = [item for item in waiting if not isinstance(item, Remember)]
        answers = [self._write(item) if isinstance(item, Write) else self._read(item) for item in asked]
        if is_writing and not is_one_row:
            self._keep([item.record for item in waiting if isinstance(item, Remember)])
            database.write_meta(self._writing, numbers)
            self._writing.execute("COMMIT")
        if is_writing:
            self.transactions += 1
            self._pages += _TRANSACTION_PAGES
        return answers

    def _due_numbers(self, waiting: list[Operation]) -> dict[str, int]:
        """What is to be written of the meta table now.

        ``committed`` alone waits for company: coming back lower after a crash it costs a question to the master.
        """
        numbers = self._postponed
        for item in waiting:
            if isinstance(item, Write):
                numbers.update((name, value) for name in RISING if (value := getattr(item.persist, name)) is not None)
        if numbers.keys() == {"committed"} and self.transactions % COMMITTED_EVERY:
            return {}
        self._postponed = {}
        return numbers

    def _write(self, item: Write) -> Answer:
        self._pages += database.write_log(self._writing, item.persist) // _PAGE_BYTES
        return partial(item.done, item.persist.token)

    def _read(self, item: Read) -> Answer:
        entries = database.read_log(self._writing, self._path, item.first, item.last, item.bytes_max)
        return partial(item.done, entries)

    def _keep(self, absences: list[PastAbsence]) -> None:
        if not absences:
            return
        self._pages += _RECORDS_PAGES
        problem = records.keep(self._writing, absences)
        if problem:
            self._forget(f"{self._path}: {problem}")

    def _write_postponed(self) -> None:
        """Keep ``committed`` over a stop in good order; one that fails loses nothing that anybody rests on."""
        if self._postponed and not self._broken:
            try:
                database.write_meta(self._writing, self._postponed)
            except sqlite3.Error as error:
                self._break(database.explain(self._path, error))

    def _close(self) -> None:
        # Whoever closes the database last copies the write-ahead log into it, with an fsync.  After a failure that
        # would be asking the disk again, so the connection that cannot write stays to the last.
        in_order = (self._writing, self._reading) if self._broken else (self._reading, self._writing)
        for connection in in_order:
            connection.close()


def _is_row(write: Persist) -> bool:
    """Whether it only adds one entry."""
    return len(write.entries) == 1 and write.truncate_from is None


def dump(data_dir: Path) -> Iterator[Entry]:
    """The log in ``data_dir``, from its beginning; the node may be running or not.

    It reads in pieces.  Of a running node's log the end may change meanwhile, the committed
    entries do not.

    :raises StoreError: there is no log, it cannot be read, or an entry was damaged.
    """
    connection, path = database.open_for_reading(data_dir)
    with contextlib.closing(connection):
        for piece in database.read_log_in_pieces(connection, path, _DUMP_BYTES):
            yield from piece


def inspect(data_dir: Path) -> dict[str, int | str]:
    """Everything that the store in ``data_dir`` says of itself; the node may be running or not.

    Ready for JSON: the fields of the ``meta`` table, and ``last_seq``.

    :raises StoreError: there is no store, or it cannot be read.
    """
    connection, path = database.open_for_reading(data_dir)
    with contextlib.closing(connection), database.refusals(path):
        (last_seq,) = connection.execute("SELECT coalesce(max(seq), 0) FROM log").fetchone()
        return {**attrs.asdict(database.read_meta(connection, path)), "last_seq": last_seq}
