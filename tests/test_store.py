"""The stores: one contract for both, then what only a real disk and real processes can show."""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.trial import unittest

from tests.store_samples import CLUSTER, NODE, absence, entries, entry
from txvbcast.absences import ABSENCES_KEPT
from txvbcast.core.effects import Persist
from txvbcast.core.epochs import pair
from txvbcast.core.inputs import PastAbsence, StoredState
from txvbcast.errors import LocalProtocolError, StoreError
from txvbcast.store import database, directory, front, sqlite
from txvbcast.store.front import StoreFront
from txvbcast.store.memory import Disk, MemoryStore
from txvbcast.store.sqlite import SqliteStore, dump, inspect
from txvbcast.wire.codec import encode_entry
from txvbcast.wire.messages import Entry, Standing, StandingEntry

reactor: Any = _reactor

ROOT = Path(__file__).resolve().parent.parent
ENTRY_BYTES = len(encode_entry(entry(1)))
UNPRIVILEGED_USER = 65534


class StoreContract:
    """What every store does; mixed into a TestCase that says how to open one."""

    assertEqual: Any
    assertIn: Any
    assertIsInstance: Any
    assertRaises: Any
    assertTrue: Any

    def prepare(self) -> None:
        """Begin with nothing heard."""
        self.acked: list[int] = []
        self.found: list[tuple[Entry, ...]] = []
        self.failures: list[Exception] = []

    def open(self) -> tuple[Any, StoredState]:
        """Open the store of this test once more."""
        raise NotImplementedError

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the store work until ``condition`` holds."""
        raise NotImplementedError

    async def turn(self) -> None:
        """Let one turn of the reactor pass."""
        raise NotImplementedError

    async def closed(self, store: StoreFront) -> None:
        """Close the store and wait for it: nothing can come from it any more."""
        fired: list[None] = []
        store.close().addCallback(fired.append)
        await self.until(lambda: fired)

    def transactions(self, store: Any) -> int:
        """How many transactions the store made in this life, the opening left out."""
        raise NotImplementedError

    def break_disk(self) -> None:
        """From now on every write fails."""
        raise NotImplementedError

    def slow_disk(self) -> contextlib.AbstractContextManager[None]:
        """Inside, no transaction comes to its end."""
        raise NotImplementedError

    def persist(self, store: StoreFront, token: int, **what: Any) -> None:
        """Queue a write whose token goes to ``acked``."""
        store.persist(Persist(token=token, **what), self.acked.append)

    async def written(self, store: StoreFront, token: int, **what: Any) -> None:
        """Write and wait."""
        self.persist(store, token, **what)
        await self.until(lambda: token in self.acked)

    async def log(self) -> tuple[Entry, ...]:
        """The log as the next life finds it."""
        store, _ = self.open()
        pieces = list(store.entries(3 * ENTRY_BYTES))
        await self.closed(store)
        return tuple(item for piece in pieces for item in piece)

    async def refused(self, text: str, **what: Any) -> None:
        """A write on a log of three entries, two committed, is refused for this reason, and ends everything."""
        store, _ = self.open()
        numbers = {"promised_epoch": pair(5, 1), "log_epoch": pair(4, 1), "committed": 2}
        await self.written(store, 1, entries=entries(1, 3), **numbers)
        self.persist(store, 2, **what)
        self.assertEqual(self.failures, [], "the caller of persist is in the middle of a step")
        self.persist(store, 3, entries=entries(4, 4))
        store.read(1, 1, 1, self.found.append)
        await self.until(lambda: self.failures)
        self.assertIsInstance(self.failures[0], LocalProtocolError)
        self.assertIn(text, str(self.failures[0]))
        await self.closed(store)
        self.assertEqual((len(self.failures), self.acked, self.found), (1, [1], []))
        self.assertEqual(await self.log(), entries(1, 3))

    async def test_new(self) -> None:
        """A new store knows nothing, and keeps its disk id; each opening is another incarnation."""
        store, first = self.open()
        self.assertEqual(
            first,
            StoredState(incarnation=1, disk_id=first.disk_id, promised_epoch=0, log_epoch=0, committed=0, last_seq=0),
        )
        self.assertTrue(first.disk_id)
        self.assertEqual(list(store.entries(1000)), [])
        await self.closed(store)
        store, second = self.open()
        self.assertEqual((second.incarnation, second.disk_id), (2, first.disk_id))
        await self.closed(store)

    async def test_kept(self) -> None:
        """What was acknowledged is there in the next life; None leaves the stored number."""
        store, _ = self.open()
        await self.written(store, 1, promised_epoch=pair(3, 1))
        await self.written(store, 2, entries=entries(1, 5), log_epoch=pair(2, 1))
        await self.written(store, 3, committed=4)
        await self.written(store, 4)
        await self.closed(store)
        store, state = self.open()
        self.assertEqual(
            (state.promised_epoch, state.log_epoch, state.committed, state.last_seq), (pair(3, 1), pair(2, 1), 4, 5)
        )
        await self.closed(store)
        self.assertEqual(await self.log(), entries(1, 5))

    async def test_truncated(self) -> None:
        """A tail is replaced in one step."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 5))
        await self.written(store, 2, truncate_from=3, entries=entries(3, 4, number=2), log_epoch=pair(2, 1))
        self.assertEqual(self.transactions(store), 2)
        await self.written(store, 3, truncate_from=5)
        await self.written(store, 4, entries=entries(5, 6))
        await self.closed(store)
        self.assertEqual(await self.log(), entries(1, 2) + entries(3, 4, number=2) + entries(5, 6))

    async def test_group_commit(self) -> None:
        """What is queued in one turn is one transaction; every write is answered, in order."""
        store, _ = self.open()
        for seq in range(1, 51):
            self.persist(store, seq, entries=entries(seq, seq), committed=seq - 1)
        self.assertEqual(self.acked, [])
        await self.until(lambda: len(self.acked) == 50)
        self.assertEqual(self.acked, list(range(1, 51)))
        self.assertEqual(self.transactions(store), 1)
        await self.closed(store)
        store, state = self.open()
        self.assertEqual((state.committed, state.last_seq), (49, 50))
        await self.closed(store)

    async def test_queued_while_writing(self) -> None:
        """What comes while a transaction is under way goes into the next one."""
        store, _ = self.open()

        def more(token: int) -> None:
            self.acked.append(token)
            if token <= 10:
                self.persist(store, token + 10, entries=entries(token + 10, token + 10))

        for seq in range(1, 11):
            store.persist(Persist(token=seq, entries=entries(seq, seq)), more)
        await self.until(lambda: len(self.acked) == 20)
        self.assertEqual(self.acked, list(range(1, 21)))
        self.assertEqual(self.transactions(store), 2)
        await self.closed(store)

    async def test_group_commit_over_turns(self) -> None:
        """All that came in any number of turns while the disk was at work is one transaction."""
        store, _ = self.open()
        with self.slow_disk():
            for seq in range(1, 11):
                self.persist(store, seq, entries=entries(seq, seq))
                await self.turn()
        await self.until(lambda: len(self.acked) == 10)
        self.assertEqual(self.acked, list(range(1, 11)))
        self.assertIn(self.transactions(store), (1, 2), "the first may have been under way already")
        await self.closed(store)

    async def test_read(self) -> None:
        """A read sees the writes queued before it and not those after; it is limited, but gives at least one."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 4))
        self.persist(store, 2, truncate_from=4, entries=entries(4, 6, number=2))
        store.read(2, 5, 100 * ENTRY_BYTES, self.found.append)
        self.persist(store, 3, truncate_from=5)
        for first, last, bytes_max in ((1, 4, 2 * ENTRY_BYTES), (1, 4, 0), (3, 3, 10**6), (4, 9, 10**6), (5, 9, 10**6)):
            store.read(first, last, bytes_max, self.found.append)
        await self.until(lambda: len(self.found) == 6)
        self.assertEqual(
            self.found,
            [
                entries(2, 3) + entries(4, 5, number=2),
                entries(1, 2),
                entries(1, 1),
                entries(3, 3),
                entries(4, 4, number=2),
                (),
            ],
        )
        self.assertEqual(self.acked, [1, 2, 3])
        await self.closed(store)

    async def test_pieces(self) -> None:
        """The log comes in pieces of the size asked for, at least one entry each."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 7))
        self.assertEqual([len(piece) for piece in store.entries(3 * ENTRY_BYTES)], [3, 3, 1])
        self.assertEqual([len(piece) for piece in store.entries(1)], [1] * 7)
        await self.closed(store)

    async def test_gap(self) -> None:
        """An append that leaves a gap is refused."""
        await self.refused("entry 5 cannot be stored behind entry 3", entries=entries(5, 5))

    async def test_repeat(self) -> None:
        """An append of what is there is refused."""
        await self.refused("entry 3 cannot be stored behind entry 3", entries=entries(3, 4))

    async def test_gap_inside(self) -> None:
        """An append with a gap in itself is refused."""
        await self.refused("entry 6 cannot be stored behind entry 4", entries=(entry(4), entry(6)))

    async def test_gap_after_truncation(self) -> None:
        """What follows a truncation has to fit to what it leaves."""
        await self.refused("entry 4 cannot be stored behind entry 2", truncate_from=3, entries=entries(4, 4))

    async def test_committed_dropped(self) -> None:
        """Committed entries are never dropped."""
        await self.refused("entries from 2 on cannot be dropped", truncate_from=2)

    async def test_promise_falls(self) -> None:
        """A promise is never taken back."""
        await self.refused("promised_epoch cannot fall", promised_epoch=pair(4, 7))

    async def test_log_epoch_falls(self) -> None:
        """The log never goes back to an earlier epoch."""
        await self.refused("log_epoch cannot fall", log_epoch=pair(3, 1))

    async def test_committed_falls(self) -> None:
        """What is committed stays committed."""
        await self.refused("committed cannot fall from 2 to 1", committed=1)

    async def test_rules_outlive(self) -> None:
        """The rules hold against what an earlier life wrote, too."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 3), promised_epoch=pair(5, 1), committed=1)
        await self.closed(store)
        for what in ({"entries": entries(5, 5)}, {"promised_epoch": pair(4, 9)}, {"truncate_from": 1}):
            store, _ = self.open()
            self.persist(store, 2, **what)
            await self.until(lambda: self.failures)
            await self.closed(store)
            self.assertIsInstance(self.failures.pop(), LocalProtocolError)
        self.assertEqual(self.acked, [1])

    async def test_overflow(self) -> None:
        """One more operation than the bound is a failure."""
        with mock.patch.object(front, "OPERATIONS_MAX", 4):
            store, _ = self.open()
            for token in range(8):
                self.persist(store, token)
                if token in (3, 7):
                    await self.until(lambda: token in self.acked)  # noqa: B023 - called before the next round
            for token in range(8, 13):
                self.persist(store, token)
            await self.until(lambda: self.failures)
            await self.closed(store)
        self.assertIn("more than 4", str(self.failures[0]))
        self.assertEqual((len(self.failures), self.acked), (1, list(range(8))))

    async def test_disk_fails(self) -> None:
        """An error of the disk is told once; nothing is acknowledged or written after it."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 2))
        self.break_disk()
        self.persist(store, 2, promised_epoch=pair(9, 1))
        await self.until(lambda: self.failures)
        self.persist(store, 3)
        store.read(1, 1, 1, self.found.append)
        await self.closed(store)
        self.assertEqual((len(self.failures), self.acked, self.found), (1, [1], []))

    async def test_disk_fails_with_more_queued(self) -> None:
        """What waits behind the transaction that fails is never answered; the failure is told before the closing."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 2))
        self.break_disk()
        self.persist(store, 2, promised_epoch=pair(9, 1))
        await self.turn()
        self.persist(store, 3, promised_epoch=pair(10, 1))
        failures_at_closing: list[int] = []
        store.close().addCallback(lambda _: failures_at_closing.append(len(self.failures)))
        await self.until(lambda: failures_at_closing)
        self.assertEqual((failures_at_closing, len(self.failures), self.acked), ([1], 1, [1]))

    async def test_disk_fails_after_refusal(self) -> None:
        """Of two failures only the first is told."""
        store, _ = self.open()
        self.break_disk()
        self.persist(store, 1, committed=1)
        await self.turn()
        self.persist(store, 2, entries=entries(9, 9))
        await self.closed(store)
        await self.turn()
        self.assertEqual((len(self.failures), self.acked), (1, []))

    async def test_answer_fails_store(self) -> None:
        """Nothing is answered after a failure that an answer brought about."""
        store, _ = self.open()

        def break_rules(token: int) -> None:
            self.acked.append(token)
            self.persist(store, 3, entries=entries(7, 7))

        store.persist(Persist(token=1), break_rules)
        self.persist(store, 2)
        await self.until(lambda: self.failures)
        self.assertEqual((len(self.failures), self.acked), (1, [1]))
        await self.closed(store)

    async def test_close_writes_queue(self) -> None:
        """Closing writes and answers what is queued, then takes no more; it may be asked for again."""
        store, _ = self.open()
        self.persist(store, 1, entries=entries(1, 2))
        store.read(2, 2, 1, self.found.append)
        fired: list[int] = []
        store.close().addCallback(lambda _: fired.append(1))
        store.close().addCallback(lambda _: fired.append(2))
        self.persist(store, 2, entries=entries(3, 3))
        await self.until(lambda: len(fired) == 2)
        store.close().addCallback(lambda _: fired.append(3))
        self.assertEqual((fired, self.acked, self.found), ([1, 2, 3], [1], [entries(2, 2)]))
        self.assertEqual(await self.log(), entries(1, 2))

    async def absences(self) -> tuple[PastAbsence, ...]:
        """The records as the next life finds them."""
        store, state = self.open()
        await self.closed(store)
        return state.absences

    async def test_remembered(self) -> None:
        """A record goes with the next write and makes no transaction of its own; the next life knows it."""
        store, state = self.open()
        self.assertEqual(state.absences, ())
        store.remember(absence(1))
        store.remember(absence(2, "Zürich 'drop'; \0"))
        store.read(1, 1, 1, self.found.append)
        await self.until(lambda: self.found)
        self.assertEqual(self.transactions(store), 0)
        await self.written(store, 1, entries=entries(1, 1))
        self.assertEqual(self.transactions(store), 1)
        await self.closed(store)
        self.assertEqual(await self.absences(), (absence(1), absence(2, "Zürich 'drop'; \0")))
        self.assertEqual(await self.log(), entries(1, 1))

    async def test_remembered_at_close(self) -> None:
        """A record that nothing followed is written when the store is closed, and none after that."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 1))
        store.remember(absence(1))
        closing = store.close()
        store.remember(absence(2))
        fired: list[None] = []
        closing.addCallback(fired.append)
        await self.until(lambda: fired)
        store.remember(absence(3))
        self.assertEqual(await self.absences(), (absence(1),))
        self.assertEqual(await self.absences(), (absence(1),), "it is kept")

    async def test_latest_remembered(self) -> None:
        """The store keeps a bounded number of records, the latest; no more than that wait for a write."""
        store, _ = self.open()
        for number in range(ABSENCES_KEPT + 3):
            store.remember(absence(number))
        await self.written(store, 1)
        self.assertEqual(self.transactions(store), 1)
        for number in range(2):
            store.remember(absence(10**6 + number))
        await self.closed(store)
        wanted = [*range(5, ABSENCES_KEPT + 3), 10**6, 10**6 + 1]
        self.assertEqual([int(record.began_unix_s) for record in await self.absences()], wanted)

    async def test_remembered_no_more(self) -> None:
        """After a failure nothing is kept."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 1))
        store.remember(absence(1))
        self.persist(store, 2, entries=entries(7, 7))
        await self.until(lambda: self.failures)
        store.remember(absence(2))
        await self.closed(store)
        self.assertEqual(await self.absences(), ())

    async def test_exclusive(self) -> None:
        """A second store on the same disk is refused until the first is closed."""
        store, _ = self.open()
        self.assertIn("in use by", str(self.assertRaises(StoreError, self.open)))
        self.persist(store, 1, entries=entries(1, 1))
        await self.closed(store)
        store, state = self.open()
        self.assertEqual((state.incarnation, state.last_seq), (2, 1))
        await self.closed(store)


class MemoryStoreTests(StoreContract, unittest.TestCase):
    """The simulated store."""

    def setUp(self) -> None:
        self.prepare()
        self.clock = Clock()
        self.disk = Disk("disk-1")
        self.delays: list[float] = []

    def open(self) -> tuple[MemoryStore, StoredState]:
        self.opened_at = self.disk.transactions
        return MemoryStore.open(self.disk, self.clock, self.delay, self.failures.append)

    def delay(self) -> float:
        self.delays.append(0.01)
        return 0.01

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(100):
            if condition():
                return
            self.clock.advance(0.005)
        self.fail("it did not come about")

    async def turn(self) -> None:
        self.clock.advance(0)

    async def closed(self, store: StoreFront) -> None:
        await super().closed(store)
        self.clock.pump([0.02] * 5)

    def transactions(self, store: MemoryStore) -> int:
        return self.disk.transactions - self.opened_at

    def break_disk(self) -> None:
        self.disk.error = OSError("broken")

    @contextlib.contextmanager
    def slow_disk(self) -> Iterator[None]:
        yield  # until() alone moves the clock

    def test_takes_its_time(self) -> None:
        """A transaction takes as long as the delay says; a read behind it waits, one alone does not."""
        store, _ = self.open()
        self.persist(store, 1, entries=entries(1, 1))
        store.read(1, 1, 1, self.found.append)
        self.clock.advance(0)
        self.clock.advance(0.0099)
        self.assertEqual((self.acked, self.found), ([], []))
        self.clock.advance(0.0002)
        self.assertEqual((self.acked, self.found), ([1], [entries(1, 1)]))
        store.read(1, 1, 1, self.found.append)
        self.clock.pump([0, 0])
        self.assertEqual((len(self.found), len(self.delays)), (2, 1))

    def test_crash(self) -> None:
        """What is not synced is lost, whatever stage it had reached; nobody hears of it."""
        store, _ = self.open()
        self.persist(store, 1, entries=entries(1, 1))
        self.clock.pump([0, 0.02])
        self.persist(store, 2, entries=entries(2, 2))
        self.clock.advance(0)
        self.persist(store, 3, entries=entries(3, 3))
        self.clock.advance(0)
        self.persist(store, 4, entries=entries(4, 4))
        closing = store.close()
        store.crash()
        store.crash()
        self.clock.pump([0.02] * 5)
        self.assertEqual((self.acked, self.failures, self.disk.entries), ([1], [], list(entries(1, 1))))
        self.assertNoResult(closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_crash_keeps_syncing(self) -> None:
        """The transaction under way may reach the disk unheard; what waits behind it does not."""
        store, _ = self.open()
        self.persist(store, 1, entries=entries(1, 1))
        self.clock.advance(0)
        self.persist(store, 2, entries=entries(2, 2))
        store.crash(keep=1.0)
        self.clock.pump([0.02] * 5)
        self.assertEqual((self.acked, self.disk.entries), ([], list(entries(1, 1))))

    def test_crash_from_answer(self) -> None:
        """A node may crash while it is answered, and be alive again before the answering ends."""
        store, _ = self.open()
        lives: list[tuple[MemoryStore, StoredState]] = []

        def crash(token: int) -> None:
            store.crash()
            lives.append(self.open())

        store.persist(Persist(token=1, entries=entries(1, 1)), crash)
        self.persist(store, 2, entries=entries(2, 2))
        self.clock.advance(0)
        self.persist(store, 3, entries=entries(3, 3))
        self.clock.advance(0)
        closing = store.close()
        self.clock.pump([0.02, 0.02])
        self.assertNoResult(closing)
        self.assertIsNone(self.successResultOf(store.close()))
        ((_, state),) = lives
        self.assertEqual((self.acked, state.last_seq, len(self.disk.entries)), ([], 2, 2))
        self.assertTrue(self.disk.held, "by the second life")

    def test_disk_works_again(self) -> None:
        """A store that has failed writes nothing more, even if it could."""
        store, _ = self.open()
        self.break_disk()
        self.persist(store, 1, committed=1)
        self.clock.advance(0)
        self.persist(store, 2, entries=entries(1, 1))
        self.clock.advance(0)
        self.clock.advance(0.01)
        self.disk.error = None
        self.clock.pump([0.02] * 5)
        self.assertEqual((len(self.failures), self.acked, self.disk.entries), (1, [], []))

    def test_failure_without_listener(self) -> None:
        """Unless told otherwise a failure comes out of the clock."""
        store, _ = MemoryStore.open(self.disk, self.clock, lambda: 0.0)
        self.persist(store, 1, entries=entries(2, 2))
        self.assertRaises(LocalProtocolError, self.clock.advance, 0)


class SqliteCase(unittest.TestCase):
    """A data directory with a difficult name."""

    def setUp(self) -> None:
        self.data_dir = Path(self.mktemp()) / "März 2026 #1 %41?" / "data"
        self.path = self.data_dir / database.DATABASE_NAME
        self.failures: list[Exception] = []

    def open(self) -> tuple[SqliteStore, StoredState]:
        return SqliteStore.open(self.data_dir, NODE, CLUSTER, reactor, self.failures.append)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await deferLater(reactor, 0.001)

    async def fill(self, count: int) -> None:
        """Make a store that holds ``count`` entries."""
        store, _ = self.open()
        store.persist(Persist(token=1, entries=entries(1, count), committed=count), lambda token: None)
        await store.close()

    def execute(self, statement: str, *values: object) -> None:
        """Change the database behind the store's back."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement, values)

    def refusal(self, *words: str) -> None:
        """Opening is refused; the text names the directory and these words, and the lock is free again."""
        for _ in range(2):
            text = str(self.assertRaises(StoreError, self.open))
            for word in (str(self.data_dir), *words):
                self.assertIn(word, text)


class SqliteStoreTests(SqliteCase, StoreContract):
    """The real store, as far as one process can show it."""

    def setUp(self) -> None:
        super().setUp()
        self.prepare()

    async def turn(self) -> None:
        await deferLater(reactor, 0)

    def transactions(self, store: SqliteStore) -> int:
        return store.transactions

    def break_disk(self) -> None:
        self.execute("DROP TABLE meta")

    @contextlib.contextmanager
    def slow_disk(self) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    def warned(self, words: str) -> None:
        """This was logged, once, and nothing went wrong."""
        events, self.logged[:] = list(self.logged), []
        self.assertEqual([words in formatEvent(event) for event in events], [True])
        self.assertEqual(self.failures, [])

    def listen_to_log(self) -> None:
        """Collect what is logged as a warning."""
        self.logged: list[Any] = []

        def observe(event: Any) -> None:
            if event["log_level"] is LogLevel.warn:
                self.logged.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    async def test_table_bounded(self) -> None:
        """What is older than the latest records is deleted."""
        store, _ = self.open()
        for number in range(ABSENCES_KEPT):
            store.remember(absence(number))
        await self.written(store, 1)
        store.remember(absence(ABSENCES_KEPT))
        await store.close()
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            (found,) = connection.execute("SELECT count(*), min(number) FROM absences")
        self.assertEqual(found, (ABSENCES_KEPT, 2))

    async def test_older_database(self) -> None:
        """A database from before there were records goes on working, and its format is the same."""
        await self.fill(3)
        self.execute("DROP TABLE absences")
        store, state = self.open()
        self.assertEqual((state.last_seq, state.absences), (3, ()))
        store.remember(absence(1))
        await store.close()
        self.assertEqual(await self.absences(), (absence(1),))
        self.assertEqual(inspect(self.data_dir)["format"], 1)

    async def test_damaged_records(self) -> None:
        """A record that cannot be read is passed over, and said; the others are there, and the log is."""
        store, _ = self.open()
        for number in range(1, 9):
            store.remember(absence(number))
        await self.written(store, 1, entries=entries(1, 1))
        await store.close()
        damaged = (b"\xff\xfe", "{", '{"member": "two"}', b"", 7, "[" * 10**5)
        for number, wrong in enumerate(damaged, 2):
            self.execute("UPDATE absences SET record = ? WHERE number = ?", wrong, number)
        self.listen_to_log()
        store, state = self.open()
        self.warned("some records of past absences are damaged")
        self.assertEqual(state.absences, (absence(1), absence(8)))
        store.remember(absence(9))
        await store.close()
        self.assertEqual(await self.absences(), (absence(1), absence(8), absence(9)))
        self.assertEqual(await self.log(), entries(1, 1))

    async def check_without_records(self, words: str) -> None:
        """They are neither read nor written; that is said once in this life, and the log goes on."""
        store, state = self.open()
        self.assertEqual(state.absences, ())
        for seq in (2, 3):
            store.remember(absence(seq))
            await self.written(store, seq, entries=entries(seq, seq), committed=seq)
        await store.close()
        self.warned(words)
        self.assertEqual(await self.log(), entries(1, 3))

    async def test_records_of_another_shape(self) -> None:
        """A table that is not ours."""
        self.listen_to_log()
        for number, (columns, words) in enumerate(
            {
                "what TEXT": "no such column: record",
                "record TEXT": "no such column: number",
                "number INTEGER PRIMARY KEY, record TEXT, more NOT NULL": "NOT NULL constraint failed",
            }.items()
        ):
            self.data_dir = self.data_dir.with_name(f"data-{number}")
            self.path = self.data_dir / database.DATABASE_NAME
            await self.fill(1)
            self.execute("DROP TABLE absences")
            self.execute(f"CREATE TABLE absences ({columns})")
            await self.check_without_records(words)
            self.acked.clear()
            self.logged.clear()

    async def test_table_lost(self) -> None:
        """Somebody drops it while the node runs."""
        store, _ = self.open()
        self.execute("DROP TABLE absences")
        self.listen_to_log()
        store.remember(absence(1))
        await self.written(store, 1, entries=entries(1, 1))
        await store.close()
        self.warned("no such table: absences")
        self.assertEqual((await self.absences(), await self.log()), ((), entries(1, 1)))

    async def test_damaged_table(self) -> None:
        """A page of the table that holds garbage costs the records, and not the log."""
        store, _ = self.open()
        store.remember(absence(1))
        await self.written(store, 1, entries=entries(1, 1))
        await store.close()
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            query = "SELECT rootpage - 1 FROM sqlite_master WHERE name = 'absences'"
            (page,) = connection.execute(query).fetchone()
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        with self.path.open("r+b") as file:
            file.seek(page * page_bytes)
            file.write(b"\x55" * page_bytes)
        self.listen_to_log()
        await self.check_without_records("malformed")

    async def test_record_of_nonsense(self) -> None:
        """Half a character in a name, no number as a length: the record is lost, and nothing else is."""
        store, _ = self.open()
        for wrong in (absence(1, "\ud800"), absence(2, actual_s=math.nan), absence(3)):
            store.remember(wrong)
        await self.written(store, 1, entries=entries(1, 1))
        await store.close()
        self.listen_to_log()
        self.assertEqual((await self.absences(), await self.log()), ((absence(3),), entries(1, 1)))

    async def test_disk_fails_at_record(self) -> None:
        """An error that has cost the log's part of the transaction too is a failure of the store."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 1))
        store._writer._writing.execute("PRAGMA max_page_count = 1")
        for number in range(100):
            store.remember(absence(number))
        self.persist(store, 2)
        await self.until(lambda: self.failures)
        self.assertIn("make room on that disk", str(self.failures[0]))
        await store.close()
        self.assertEqual((self.acked, await self.absences(), await self.log()), ([1], (), entries(1, 1)))

    async def test_durable_settings(self) -> None:
        """Every commit reaches the disk, and SQLite makes no checkpoint whose failure we would not hear of."""
        store, _ = self.open()
        found = [
            store._writer._writing.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "wal_autocheckpoint")
        ]
        await store.close()
        self.assertEqual(found, ["wal", 2, 0])

    async def test_write_ahead_log_bounded(self) -> None:
        """The write-ahead log is copied into the database now and then, and used anew."""
        with mock.patch.object(sqlite, "CHECKPOINT_PAGES", 20):
            store, _ = self.open()
            statements: list[str] = []
            store._writer._writing.set_trace_callback(statements.append)
            for seq in range(1, 101):
                await self.written(store, seq, entries=entries(seq, seq), committed=seq)
            wal_bytes = self.path.with_name(f"{self.path.name}-wal").stat().st_size
            await store.close()
        # Each of the 100 transactions takes at least two pages of 4096 bytes.
        self.assertLess(wal_bytes, 60 * 4096)
        self.assertIn(sum("checkpoint" in statement for statement in statements), range(5, 50))
        self.assertEqual(await self.log(), entries(1, 100))

    async def test_checkpoint_fails(self) -> None:
        """A failed checkpoint is a failure of the disk like any other; what was durable before it is acknowledged."""
        store, _ = self.open()
        writing = store._writer._writing

        class Failing:
            def execute(self, statement: str, *values: Any) -> Any:
                if "checkpoint" in statement:
                    raise sqlite3.OperationalError("disk I/O error")
                return writing.execute(statement, *values)

            def __getattr__(self, name: str) -> Any:
                return getattr(writing, name)

        with mock.patch.object(sqlite, "CHECKPOINT_PAGES", 0), mock.patch.object(store._writer, "_writing", Failing()):
            self.persist(store, 1, entries=entries(1, 1))
            await self.until(lambda: self.failures)
            await store.close()
        self.assertEqual((self.acked, len(self.failures)), ([1], 1))
        self.assertIn(str(self.path), str(self.failures[0]))

    async def test_cannot_encode(self) -> None:
        """An entry that cannot be encoded stops the node instead of the thread."""
        store, _ = self.open()
        standing = StandingEntry(
            node_id=1, standing=Standing.NORMAL, voter=True, incarnation=1, change_id=0, reason="\ud800"
        )
        self.persist(store, 1, entries=(Entry(seq=1, epoch=1, standing=standing),))
        await self.until(lambda: self.failures)
        await store.close()
        self.assertIsInstance(self.failures[0], LocalProtocolError)
        self.assertEqual((self.acked, await self.log()), ([], ()))

    async def test_read_damaged(self) -> None:
        """A damaged entry met by a read is a failure that names it."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 3))
        self.execute("UPDATE log SET body = x'00' WHERE seq = 2")
        store.read(1, 3, 10**6, self.found.append)
        await self.until(lambda: self.failures)
        await store.close()
        self.assertIn(f"{self.path}: entry 2 of the log", str(self.failures[0]))
        self.assertEqual(self.found, [])

    async def test_dump_and_inspect(self) -> None:
        """Both look into a running and into a stopped store, and do not disturb it."""
        store, state = self.open()
        await self.written(store, 1, entries=entries(1, 5), promised_epoch=pair(3, 1), committed=4)
        facts = {
            "format": 1,
            "cluster_id": CLUSTER,
            "node_id": NODE,
            "disk_id": state.disk_id,
            "incarnation": 1,
            "promised_epoch": pair(3, 1),
            "log_epoch": 0,
            "committed": 4,
            "last_seq": 5,
        }
        with mock.patch.object(sqlite, "_DUMP_BYTES", 2 * ENTRY_BYTES):
            running = dump(self.data_dir)
            self.assertEqual(next(running), entry(1))
            self.assertEqual(inspect(self.data_dir), facts)
            await self.written(store, 2, truncate_from=5, entries=entries(5, 6, number=2))
            self.assertEqual((entry(1), *running), entries(1, 4) + entries(5, 6, number=2))
            await store.close()
            self.assertEqual(tuple(dump(self.data_dir)), entries(1, 4) + entries(5, 6, number=2))
        self.assertEqual(inspect(self.data_dir), {**facts, "last_seq": 6})
        _, state = await self.reopened()
        self.assertEqual(state.incarnation, 2)

    async def reopened(self) -> tuple[SqliteStore, StoredState]:
        """Open and close."""
        store, state = self.open()
        await store.close()
        return store, state

    async def test_slow_dump(self) -> None:
        """A dump that nobody reads on keeps no node from starting."""
        await self.fill(5)
        with mock.patch.object(sqlite, "_DUMP_BYTES", 1), mock.patch.object(database, "BUSY_TIMEOUT_S", 0.01):
            halfway = dump(self.data_dir)
            next(halfway)
            _, state = await self.reopened()
            self.assertEqual((state.last_seq, len(list(halfway))), (5, 4))

    async def test_crash_image(self) -> None:
        """A write-ahead log left over by a crash is read; rubbish behind its end is not."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 5))
        image = self.data_dir.with_name("image")
        shutil.copytree(self.data_dir, image)
        await store.close()
        with image.joinpath(f"{self.path.name}-wal").open("ab") as wal:
            self.assertGreater(wal.tell(), 0)
            wal.write(os.urandom(10000))
        self.data_dir = image
        self.assertEqual(await self.log(), entries(1, 5))

    async def test_write_ahead_log_begun_anew(self) -> None:
        """What a crash left in the write-ahead log may not be on the disk: nothing new is written behind it."""
        store, _ = self.open()
        await self.written(store, 1, entries=entries(1, 100))
        image = self.data_dir.with_name("image")
        shutil.copytree(self.data_dir, image)
        await store.close()
        self.assertNotIn(b"<100>", image.joinpath(self.path.name).read_bytes())
        self.data_dir = image
        store, _ = self.open()
        database_bytes = image.joinpath(self.path.name).read_bytes()
        left_bytes = image.joinpath(f"{self.path.name}-wal").stat().st_size
        await store.close()
        self.assertIn(b"<100>", database_bytes)
        self.assertLess(left_bytes, 5 * 4096)

    async def test_directories_durable(self) -> None:
        """Every directory that is made is made known to the disk, from the top."""
        with mock.patch.object(directory, "sync_directory") as synced:
            store, _ = self.open()
        await store.close()
        top = self.data_dir.parent.parent
        self.assertEqual([call.args[0] for call in synced.call_args_list][-2:], [top, self.data_dir.parent])


class SqliteRefusals(SqliteCase):
    """What cannot be opened, and whether the error says what, where and what to do."""

    async def test_in_use(self) -> None:
        """The error names the directory and the process that has it."""
        store, _ = self.open()
        self.refusal(f"in use by process {os.getpid()};", "stop that process")
        await store.close()

    def test_file_in_place(self) -> None:
        """data_dir is a file, or is below one."""
        self.data_dir.parent.mkdir(parents=True)
        self.data_dir.touch()
        self.refusal("is not a directory")
        self.data_dir /= "below"
        self.refusal("cannot be made: Not a directory")

    def test_dangling_link(self) -> None:
        """data_dir is a link to nowhere."""
        self.data_dir.parent.mkdir(parents=True)
        self.data_dir.symlink_to("nowhere")
        self.refusal("cannot be made: File exists")

    async def test_link(self) -> None:
        """data_dir may be a link to a directory."""
        self.data_dir.parent.joinpath("elsewhere").mkdir(parents=True)
        self.data_dir.symlink_to("elsewhere")
        await self.fill(1)
        self.assertEqual(tuple(dump(self.data_dir.with_name("elsewhere"))), entries(1, 1))

    def test_lock_is_directory(self) -> None:
        """The lock file cannot be made."""
        (self.data_dir / "lock").mkdir(parents=True)
        self.refusal("cannot be used: Is a directory", "lock")

    def test_database_is_directory(self) -> None:
        """The database cannot be opened."""
        self.path.mkdir(parents=True)
        self.refusal(database.DATABASE_NAME, "unable to open", "give this user the right")

    def use_readable_directory(self) -> None:
        """Set a data_dir that other users can reach; the directory of the tests may be closed to them."""
        top = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, top)
        top.chmod(0o755)
        self.data_dir = top / "data"
        self.data_dir.mkdir()
        self.path = self.data_dir / database.DATABASE_NAME

    @contextlib.contextmanager
    def as_somebody_else(self) -> Iterator[None]:
        """Be a user who may read, but not write in data_dir."""
        self.data_dir.chmod(0o555)
        self.addCleanup(self.data_dir.chmod, 0o755)
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(UNPRIVILEGED_USER)
        try:
            yield
        finally:
            os.seteuid(0)

    def test_not_writable(self) -> None:
        """The user has no right to write there."""
        self.use_readable_directory()
        with self.as_somebody_else():
            self.refusal("cannot be used: Permission denied", "lock", "give this user the right")
            self.data_dir /= "below"
            self.refusal("cannot be made: Permission denied", "give this user the right")

    async def test_dump_needs_rights(self) -> None:
        """To read a stopped node's log SQLite makes a file beside it."""
        self.use_readable_directory()
        await self.fill(1)
        with self.as_somebody_else():
            error = self.assertRaises(StoreError, list, dump(self.data_dir))
        self.assertIn("give this user the right", str(error))

    def test_not_a_database(self) -> None:
        """Something else has the name of the database."""
        self.data_dir.mkdir(parents=True)
        self.path.write_bytes(b"Dear diary, " * 1000)
        self.refusal(str(self.path), "not a database", "move it away")

    async def test_empty_database(self) -> None:
        """An opening that was killed at its very beginning leaves an empty file: a new store."""
        self.data_dir.mkdir(parents=True)
        self.path.touch()
        self.assertIn("is empty", str(self.assertRaises(StoreError, inspect, self.data_dir)))
        await self.fill(1)
        self.assertEqual(tuple(dump(self.data_dir)), entries(1, 1))

    def test_other_program(self) -> None:
        """The database is somebody else's."""
        self.data_dir.mkdir(parents=True)
        self.execute("CREATE TABLE songs (title)")
        before = self.path.read_bytes()
        self.refusal(str(self.path), "of another program")
        self.assertEqual(self.path.read_bytes(), before)

    async def test_other_identity(self) -> None:
        """The store belongs to another cluster or node; it is left as it was."""
        await self.fill(1)
        for node_id, cluster_id, text in ((NODE, "badcafe", f"cluster {CLUSTER}"), (3, CLUSTER, f"node {NODE}")):
            error = self.assertRaises(
                StoreError, SqliteStore.open, self.data_dir, node_id, cluster_id, reactor, self.failures.append
            )
            self.assertIn(f"{self.path} belongs to {text}", str(error))
        self.assertEqual(inspect(self.data_dir)["incarnation"], 1)

    async def test_newer_format(self) -> None:
        """A newer program wrote it."""
        await self.fill(1)
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            database.write_meta(connection, {"format": 2})
        self.refusal("has format 2, this program reads up to 1", "newer program")
        self.assertRaises(StoreError, inspect, self.data_dir)

    async def test_damaged_meta(self) -> None:
        """A promise that was altered or is gone is not believed."""
        await self.fill(1)
        self.execute("UPDATE meta SET value = value + 1 WHERE key = 'promised_epoch'")
        self.refusal("the value of promised_epoch was damaged", "restore a backup")
        self.execute("DELETE FROM meta WHERE key = 'promised_epoch'")
        self.refusal("the value of promised_epoch is missing", "restore a backup")

    async def test_gap(self) -> None:
        """Entries are missing, in the middle or at the beginning."""
        await self.fill(5)
        self.execute("DELETE FROM log WHERE seq = 3")
        self.refusal("entry 3 of the log is missing", "restore a backup")
        self.assertIn("entry 3 of the log", str(self.assertRaises(StoreError, list, dump(self.data_dir))))
        self.execute("DELETE FROM log WHERE seq < 3")
        self.refusal("entry 1 of the log is missing")

    async def test_flipped_byte(self) -> None:
        """A byte of a payload that changed on the disk is found; the error names the entry."""
        await self.fill(20)
        data = bytearray(self.path.read_bytes())
        data[data.index(b"<13>...") + 100] ^= 0x04
        self.path.write_bytes(data)
        self.assertIn("entry 13 of the log", str(self.assertRaises(StoreError, list, dump(self.data_dir))))
        store, _ = self.open()
        pieces = store.entries(1)
        self.assertEqual(tuple(next(pieces)[0] for _ in range(12)), entries(1, 12))
        text = str(self.assertRaises(StoreError, next, pieces))
        self.assertIn(f"{self.path}: entry 13 of the log", text)
        self.assertIn("restore a backup", text)
        await store.close()

    async def test_wrong_entry(self) -> None:
        """A whole entry in the wrong place, or of the wrong epoch, or no bytes at all."""
        await self.fill(3)
        for body, epoch, words in (
            (encode_entry(entry(3)), pair(1, 1), "it holds entry 3"),
            (encode_entry(entry(2)), pair(7, 1), f"in place of epoch {pair(7, 1)}"),
            ("text", pair(1, 1), "holds no bytes"),
        ):
            self.execute("UPDATE log SET body = ?, epoch = ? WHERE seq = 2", body, epoch)
            text = str(self.assertRaises(StoreError, list, dump(self.data_dir)))
            self.assertIn("entry 2 of the log", text)
            self.assertIn(words, text)

    async def test_cut_off(self) -> None:
        """The database file lost its end."""
        await self.fill(100)
        os.truncate(self.path, self.path.stat().st_size // 2)
        self.refusal(str(self.path), "malformed", "restore a backup")

    async def test_database_lost(self) -> None:
        """Only the write-ahead log is left: SQLite would begin anew, as if nothing had been promised."""
        await self.fill(1)
        self.path.with_name(f"{self.path.name}-wal").write_bytes(b"frames")
        self.path.unlink()
        self.refusal("the log was lost", "joins anew")

    async def test_held(self) -> None:
        """Another program writes to the database or reads it for long."""
        await self.fill(1)
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        with mock.patch.object(database, "BUSY_TIMEOUT_S", 0.01):
            other.execute("BEGIN IMMEDIATE")
            self.refusal("another program uses it", "end that program")
            database.write_meta(other, {"committed": 0})
            other.execute("COMMIT")
            other.execute("BEGIN")
            other.execute("SELECT * FROM log").fetchall()
            self.refusal("another program uses it", "end that program")
            other.execute("COMMIT")
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.write_meta(other, {"committed": 1})
            self.refusal("database is locked", "end the other program")

    def test_no_shared_memory(self) -> None:
        """The file system cannot do what the write-ahead log needs."""

        def connect(path: Path, mode: str) -> sqlite3.Connection:
            uri = f"{path.absolute().as_uri()}?mode={mode}&vfs=unix-dotfile"
            return sqlite3.connect(uri, uri=True, isolation_level=None)

        with mock.patch.object(database, "connect", connect):
            self.refusal("cannot share memory", "set another data_dir")

    def test_directory_not_durable(self) -> None:
        """The disk does not take the names of the files."""
        with mock.patch.object(database, "sync_directory", side_effect=OSError(5, "Input/output error")):
            self.refusal("Input/output error", "look after that disk")

    def test_nothing_there(self) -> None:
        """There is nothing to dump."""
        for look in (inspect, lambda path: list(dump(path))):
            self.assertIn("is not there", str(self.assertRaises(StoreError, look, self.data_dir)))
        self.assertFalse(self.data_dir.exists())


def _root_can_mount() -> bool:
    return os.geteuid() == 0 and shutil.which("mount") is not None


def _strace_works() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


class Child:
    """A process that writes to the store (:mod:`tests.store_child`)."""

    def __init__(self, data_dir: Path, *arguments: str, under: tuple[str, ...] = ()) -> None:
        command = [*under, sys.executable, "-m", "tests.store_child", str(data_dir.absolute()), *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self._stdout = self.process.stdout
        self.said: list[str] = []

    def listen(self, lines_max: int | None = None) -> None:
        """Wait for so many more lines, or for its end."""
        while lines_max is None or lines_max > 0:
            line = self._stdout.readline()
            if not line:
                return
            self.said.append(line.rstrip("\n"))
            lines_max = None if lines_max is None else lines_max - 1

    def kill(self) -> None:
        """End it at once, and hear what it had said before."""
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Wait for its end."""
        self.listen()
        self._stdout.close()
        self.process.wait()

    @property
    def acked(self) -> list[int]:
        """The entries that it was told are durable."""
        return [int(line.removeprefix("acked ")) for line in self.said if line.startswith("acked ")]

    @property
    def said_otherwise(self) -> list[str]:
        """All but the acknowledgements, one word each."""
        return [line.split()[0] for line in self.said if not line.startswith("acked ")]


class SqliteProcessTests(SqliteCase):
    """The real store in processes that are killed, and on disks that fail."""

    timeout = 60

    def child(self, *arguments: str, under: tuple[str, ...] = ()) -> Child:
        """Start a process that writes to the store; it does not outlive the test."""
        child = Child(self.data_dir, *arguments, under=under)
        self.addCleanup(child.process.kill)
        return child

    async def check_log(self, acked: list[int]) -> int:
        """What was acknowledged is there, nothing is wrong with the rest; returns the number of entries."""
        store, state = self.open()
        found = tuple(item for piece in store.entries(10**6) for item in piece)
        await store.close()
        self.assertEqual(found, entries(1, state.last_seq))
        self.assertGreaterEqual(state.last_seq, max(acked, default=0))
        return state.last_seq

    async def test_killed(self) -> None:
        """Killed at any instant, a node comes back with all that was acknowledged, in the right order."""
        seed = random.randrange(10**6)
        instants = random.Random(seed)
        count = 0
        for life in range(1, 7):
            child = self.child(str(instants.choice((1, 4, 32))))
            child.listen(instants.choice((1, instants.randrange(2, 20), instants.randrange(20, 400))))
            child.kill()
            message = f"seed {seed}, life {life}"
            self.assertEqual(child.said[0], f"open {count}", message)
            self.assertEqual(child.acked, list(range(count + 1, count + 1 + len(child.acked))), message)
            count = await self.check_log(child.acked)
            self.assertEqual(inspect(self.data_dir)["incarnation"], 2 * life, message)
        self.assertGreater(count, 0)

    async def test_second_process(self) -> None:
        """Another process is refused, is told who has the directory, and changes nothing."""
        store, _ = self.open()
        child = self.child("1", "--count", "5")
        child.end()
        await store.close()
        self.assertEqual(child.said_otherwise, ["refused"])
        self.assertIn(f"{self.data_dir.absolute()} is in use by process {os.getpid()};", child.said[0])
        self.assertEqual(inspect(self.data_dir)["incarnation"], 1)

    async def check_failed(self, child: Child, *words: str) -> None:
        """The child met a failure, told it once, and acknowledged nothing after it."""
        child.end()
        self.assertEqual(child.process.returncode, 0)
        self.assertEqual(child.said_otherwise, ["open", "failed", "closed"])
        failed = [number for number, line in enumerate(child.said) if line.startswith("failed ")]
        self.assertEqual(failed, [1 + len(child.acked)], "acknowledged after the failure")
        for word in (str(self.path.name), *words):
            self.assertIn(word, child.said[failed[0]])

    async def test_file_size_limit(self) -> None:
        """A file may not grow any more."""
        child = self.child("8", "--file-bytes-max", "400000")
        await self.check_failed(child, "look after that disk")
        self.assertGreater(len(child.acked), 10)
        await self.check_log(child.acked)

    async def test_disk_full(self) -> None:
        """There is no room left; once there is, the node starts with all that was acknowledged."""
        if not _root_can_mount():
            raise unittest.SkipTest("only root can mount a small file system")
        disk = self.data_dir.parent
        disk.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            raise unittest.SkipTest("a small file system cannot be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", str(disk)], check=True)
        child = self.child("8")
        await self.check_failed(child, "full", "make room on that disk")
        self.assertGreater(len(child.acked), 10)
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        await self.check_log(child.acked)

    def traced(self, *injections: str) -> tuple[str, ...]:
        """The command that traces what a child writes and syncs, and lets some of it fail."""
        if not _strace_works():
            raise unittest.SkipTest("strace is not installed or may not trace here")
        self.trace = Path(self.mktemp()).absolute()
        inject = [f"-einject={injection}" for injection in injections]
        return ("strace", "-f", "-o", str(self.trace), "-etrace=write,fsync,fdatasync", "-s64", *inject)

    def events(self) -> list[str]:
        """``sync``, ``failed sync`` and ``acked``, in the order in which they happened."""
        names = {"acked": r'write\(1, "acked', "failed sync": r"sync\(\d+\) += -1", "sync": r"sync\(\d+\) += 0"}
        found = []
        for line in self.trace.read_text().splitlines():
            found += [name for name, pattern in names.items() if re.search(pattern, line)]
        return found

    async def test_synced_before_acknowledged(self) -> None:
        """Between two acknowledgements of one write each the disk was asked, and had answered."""
        child = self.child("1", "--count", "20", under=self.traced())
        child.end()
        self.assertEqual(len(child.acked), 20)
        before = 0
        for place, event in enumerate(self.events()):
            if event == "acked":
                self.assertIn("sync", self.events()[before:place])
                before = place + 1

    async def test_sync_fails(self) -> None:
        """A failed fsync is the end: no acknowledgement and no other fsync, by closing neither."""
        await self.fill(1)
        # strace counts per thread; the one that opens makes fewer.
        child = self.child("1", under=self.traced("fdatasync:error=EIO:when=12"))
        await self.check_failed(child, "disk I/O error (SQLITE_IOERR_FSYNC)")
        events = self.events()
        self.assertIn("acked", events)
        self.assertEqual(events.count("failed sync"), 1)
        self.assertEqual(events[events.index("failed sync") :], ["failed sync"])
        await self.check_log(child.acked)

    async def test_killed_at_each_sync(self) -> None:
        """Killed at the first, second, ... fsync of its first life, a node can begin anew."""
        reached = 0
        for number in range(1, 10):
            shutil.rmtree(self.data_dir, ignore_errors=True)
            under = self.traced(f"fsync:signal=KILL:when={number}", f"fdatasync:signal=KILL:when={number}")
            child = self.child("1", "--count", "3", under=under)
            child.end()
            reached += child.process.returncode != 0
            await self.check_log(child.acked)
        self.assertGreater(reached, 3)
