"""The exhaustive search: it finds what is wrong, what it finds replays, and the protocol survives it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import attrs
from click.testing import CliRunner
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from tests.core_samples import config, stored
from txvbcast.core import epochs, ordering
from txvbcast.core.effects import ReplyAborted, Send
from txvbcast.core.following import Following
from txvbcast.core.journal import Journal
from txvbcast.core.mastership import Mastership, MastershipCore
from txvbcast.core.ordering import Office
from txvbcast.core.replica import Replica
from txvbcast.core.roster import Roster
from txvbcast.core.submissions import Submissions
from txvbcast.core.succession import Succession
from txvbcast.core.table import needed
from txvbcast.errors import LocalProtocolError
from txvbcast.sim.explore.__main__ import main
from txvbcast.sim.explore.replay import Replay, replay
from txvbcast.sim.explore.scopes import SCOPES
from txvbcast.sim.explore.search import Happening, Result, Search, State
from txvbcast.sim.explore.snapshot import FAR_S, OLD_S, TIMEOUT_S, Mould, Shelf, quantised
from txvbcast.sim.explore.trace import read, shown, text_of, written
from txvbcast.wire.messages import Claim, Entry, Start

# --- wrong versions of the protocol ----------------------------------------------------------


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner`` has another ``name`` for a while."""
    kept = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def order_below_promise_accepted() -> Iterator[None]:
    """A node takes ORDER and COMMITTED of an epoch below the one that it has promised."""

    def is_from_master(self: Replica, peer: int, epoch: int) -> bool:
        if peer != epochs.master_of(epoch) or epoch < self.following.epoch:
            return False
        self.following.follow(epoch)
        return True

    def on_start(self: Replica, peer: int, message: Start) -> None:
        if message.epoch >= self.journal.promised and self._is_from_master(peer, message.epoch):
            self.following.on_start(message)

    adopted = property(lambda self: self.epoch != 0 and self.epoch == self.journal.log_epoch)
    with (
        replaced(Replica, "_is_from_master", is_from_master),
        replaced(Replica, "_on_start", on_start),
        replaced(Following, "adopted", adopted),
    ):
        yield


@contextmanager
def start_below_promise_accepted() -> Iterator[None]:
    """A node adopts the log of an epoch below the one that it has promised."""

    def is_from_master(self: Replica, peer: int, epoch: int) -> bool:
        if peer != epochs.master_of(epoch):
            return False
        self.following.follow(epoch)
        return True

    with replaced(Replica, "_is_from_master", is_from_master):
        yield


@contextmanager
def promise_lost_at_restart() -> Iterator[None]:
    """A node that starts again knows of no promise above the epoch of its log."""
    init = Journal.__init__

    def forgetful(self: Journal, *args: Any) -> None:
        init(self, *args)
        self.promised = self.log_epoch

    with replaced(Journal, "__init__", forgetful):
        yield


@contextmanager
def grants_counted_by_own_table() -> Iterator[None]:
    """The candidate counts grants by the voters of its own log, not of the best one."""
    on_grant = Mastership.on_grant

    def counted(self: Mastership, peer: int, grant: Any) -> None:
        on_grant(self, peer, attrs.evolve(grant, voters=self.core.journal.table.voters))

    with replaced(Mastership, "on_grant", counted):
        yield


@contextmanager
def candidate_keeps_own_log() -> Iterator[None]:
    """The candidate starts with its own log, whatever the grants say."""

    def own(self: Mastership, grants: Any) -> Any:
        me = self.core.commons.me
        return me, grants[me]

    with replaced(Mastership, "_best", own):
        yield


@contextmanager
def ordering_after_handoff() -> Iterator[None]:
    """A master that has handed over keeps ordering."""
    order = Replica._order

    def on(self: Replica, fid: Any) -> None:
        if self.office is not None:
            paused, self.office.paused = self.office.paused, ""
            order(self, fid)
            if self.office is not None:
                self.office.paused = paused

    leave = MastershipCore.leave_office

    def stay(self: MastershipCore, reason: str) -> None:
        if reason != "handed over":
            leave(self, reason)

    with replaced(Replica, "_order", on), replaced(MastershipCore, "leave_office", stay):
        yield


@contextmanager
def stored_of_another_epoch_counted() -> Iterator[None]:
    """The master counts a STORED that speaks of another epoch's log."""

    def on_stored(self: Replica, peer: int, message: Any) -> None:
        if self.office is not None:
            self._count_stored(self.office, peer, message.seq)

    with replaced(Replica, "_on_stored", on_stored):
        yield


@contextmanager
def committed_believed_under_another_log() -> Iterator[None]:
    """A follower believes COMMITTED though its log is of another epoch."""

    def on_committed(self: Replica, peer: int, message: Any) -> None:
        if self._is_from_master(peer, message.epoch):
            self.following.heard(0, message.committed, message.everywhere)
            self.following.drain()
            if self.journal.commit(message.committed):
                self._apply()

    with replaced(Replica, "_on_committed", on_committed):
        yield


@contextmanager
def two_grants_in_one_epoch() -> Iterator[None]:
    """Epochs are compared by their number alone, so two candidates of the same number are both granted it."""
    on_claim = Succession.on_claim

    def granting(self: Succession, peer: int, claim: Claim) -> None:
        journal = self.journal
        same = epochs.number_of(claim.epoch) == epochs.number_of(journal.promised)
        if same and claim.epoch < journal.promised and journal.log_epoch < claim.epoch:
            journal.when_durable((Send(peer, self.mastership.core.own_grant(claim.epoch)),))
            return
        on_claim(self, peer, claim)

    def is_from_master(self: Replica, peer: int, epoch: int) -> bool:
        if peer != epochs.master_of(epoch) or epochs.number_of(epoch) < epochs.number_of(self.journal.promised):
            return False
        self.following.follow(epoch)
        return True

    with replaced(Succession, "on_claim", granting), replaced(Replica, "_is_from_master", is_from_master):
        yield


@contextmanager
def tail_dropped_before_adoption() -> Iterator[None]:
    """A node drops all that it does not know to be committed when it hears START, not when it adopts."""
    on_start = Following.on_start

    def dropping(self: Following, start: Any) -> None:
        journal = self.journal
        if journal.log_epoch != start.epoch and journal.tail > journal.committed:
            journal._truncate(journal.committed + 1)
            journal._persist(truncate_from=journal.committed + 1)
        on_start(self, start)

    with replaced(Following, "on_start", dropping):
        yield


@contextmanager
def standing_before_start_has_majority() -> Iterator[None]:
    """The master orders standings before a majority holds the log that it starts with."""

    def reconcile(self: Replica) -> None:
        office = self.office
        if office is not None and not office.paused:
            self.roster.reconcile(office)

    with replaced(Replica, "_reconcile", reconcile):
        yield


@contextmanager
def master_without_vote_counts_itself() -> Iterator[None]:
    """A master without the voter flag counts its own disk."""

    count = Office.count

    def counted(self: Office) -> None:
        def watermark(voters: Any, watermarks: Any) -> int:
            holders = {*voters, self.commons.me}
            return sorted((watermarks.get(holder, 0) for holder in holders), reverse=True)[needed(voters) - 1]

        with replaced(ordering, "majority_watermark", watermark):
            count(self)

    with replaced(Office, "count", counted):
        yield


@contextmanager
def second_standing_before_first_commits() -> Iterator[None]:
    """The master orders an entry about a member while one about another is not committed."""

    def reconcile(self: Roster, office: Office) -> None:
        for member in self.journal.table.members:
            wanted = self._wanted(member, office)
            if wanted is not None:
                office.order_standing(wanted)

    with replaced(Roster, "reconcile", reconcile):
        yield


@contextmanager
def acknowledged_before_sync() -> Iterator[None]:
    """A node says STORED of what its disk has not answered yet."""
    persist = Journal._persist

    def at_once(self: Journal, *args: Any, **more: Any) -> None:
        persist(self, *args, **more)
        self.stored = self.tail

    with replaced(Journal, "_persist", at_once):
        yield


@contextmanager
def aborted_after_decide() -> Iterator[None]:
    """A coordinator tells its client Aborted although the master may have been told to order the flight."""
    on_tick = Submissions.on_tick

    def impatient(self: Submissions) -> None:
        for flight in self.under_way.values():
            core = flight.core
            if core.phase == "decided" and core.tickets and self.commons.now_s >= core.deadline_s:
                self.commons.out.append(ReplyAborted(tuple(core.tickets.values()), "too late"))
                core.tickets = {}
        on_tick(self)

    with replaced(Submissions, "on_tick", impatient):
        yield


@contextmanager
def flight_ordered_twice() -> Iterator[None]:
    """The log is not asked whether it holds a flight already."""
    with (
        replaced(Journal, "where", lambda self, flight: None),
        replaced(Journal, "finished", lambda self, flight: False),
    ):
        yield


@contextmanager
def everywhere_is_committed() -> Iterator[None]:
    """The master takes for everywhere what is merely committed."""
    with replaced(Office, "_held_everywhere", lambda self: self.journal.committed):
        yield


@contextmanager
def entry_skipped() -> Iterator[None]:
    """A node that learns of several commits at once performs only the last of them."""
    take = Journal.take_applicable

    def hasty(self: Journal) -> Iterator[tuple[Entry, bool]]:
        yield from list(take(self))[-1:]

    with replaced(Journal, "take_applicable", hasty):
        yield


@contextmanager
def core_raises() -> Iterator[None]:
    """The core does not know what to do with a GRANT."""

    def on_grant(self: Mastership, peer: int, grant: Any) -> None:
        raise LocalProtocolError("planted")

    with replaced(Mastership, "on_grant", on_grant):
        yield


#: (wrong version, the scope that finds it, what it is found by, states within which it must be found).
PLANTED: tuple[tuple[Callable[[], AbstractContextManager[None]], str, str, int], ...] = (
    (order_below_promise_accepted, "three", "invariant", 400_000),
    (start_below_promise_accepted, "three", "", 400_000),
    (promise_lost_at_restart, "crash", "invariant 3", 400_000),
    (grants_counted_by_own_table, "standing", "invariant", 900_000),
    (candidate_keeps_own_log, "three", "invariant 3", 400_000),
    (ordering_after_handoff, "handover", "invariant 3", 400_000),
    (stored_of_another_epoch_counted, "three", "invariant 9", 400_000),
    (committed_believed_under_another_log, "three", "invariant 1", 400_000),
    (two_grants_in_one_epoch, "three", "", 400_000),
    (tail_dropped_before_adoption, "crash", "invariant", 600_000),
    (standing_before_start_has_majority, "parted", "invariant", 400_000),
    (master_without_vote_counts_itself, "pair", "invariant 9", 400_000),
    (second_standing_before_first_commits, "standing", "invariant 14", 400_000),
    (acknowledged_before_sync, "crash", "invariant", 400_000),
    (aborted_after_decide, "voted", "invariant 4", 400_000),
    (flight_ordered_twice, "three", "invariant 5", 400_000),
    (everywhere_is_committed, "voted", "invariant 10", 400_000),
    (entry_skipped, "three", "invariant 2", 400_000),
    (core_raises, "three", "a node stops", 400_000),
)

#: How many states of each scope are searched on every change, in two processes.
SHARES: tuple[dict[str, int], ...] = (
    {"voted": 3_000_000, "two": 200_000, "standing": 100_000, "pair": 150_000, "handover-claim": 100_000},
    {
        "frozen": 3_000_000, "handover": 3_000_000, "three": 200_000, "crash": 300_000, "parted": 150_000,
        "four": 100_000, "voted-claim": 100_000,
    },
)  # fmt: skip
#: Scopes of which every state is seen.
EXHAUSTED = ("voted", "frozen", "handover")


def search(scope: str, states_max: int) -> Result:
    """What a search finds, however long it takes."""
    return Search(SCOPES[scope]).run(states_max, float("inf"))


class PlantedTest(TestCase):
    """What is wrong is found, by a short trace, and the trace replays with production drivers."""

    def _find(self, planted: Callable[[], AbstractContextManager[None]], scope: str, by: str, states_max: int) -> None:
        with planted():
            found = search(scope, states_max).counterexample
            self.assertIsNotNone(found, f"{planted.__name__} is not found in scope {scope}")
            assert found is not None
            self.assertIn(by, found.what)
            again = replay(read(written(found)))
        self.assertEqual(again, found.what)
        self.flushLoggedErrors()  # a driver whose core raises says so
        self.assertIn(found.what, shown(found))


def _add_planted_tests() -> None:
    for planted, scope, by, states_max in PLANTED:

        def test(
            self: PlantedTest,
            planted: Callable[[], AbstractContextManager[None]] = planted,
            scope: str = scope,
            by: str = by,
            states_max: int = states_max,
        ) -> None:
            self._find(planted, scope, by, states_max)

        test.__doc__ = planted.__doc__
        setattr(PlantedTest, f"test_{planted.__name__}", test)


_add_planted_tests()


class FaithfulTest(TestCase):
    """The search's shortcuts change nothing: it does what drivers do that live on."""

    def test_random_walks_lead_drivers_to_the_same_place(self) -> None:
        """Every node's log, promise and role, and every message, are those of a driver to which the same happened."""
        for name in SCOPES:
            for seed in range(3):
                self._walk(name, Random(f"{name} {seed}"))

    def _walk(self, name: str, random: Random) -> None:
        walked, drivers = Search(SCOPES[name]), Replay(SCOPES[name])
        state, told = walked.tell(walked.settle)
        assert state is not None
        self._do(drivers, told)
        for _ in range(25):
            successors = list(walked.successors(state))
            if not successors:
                return
            action, after = random.choice(successors)
            _, told = walked.tell(partial(walked.perform, state, action))
            self._do(drivers, told)
            state = after
            self._compare(walked, state, drivers)

    def _do(self, drivers: Replay, told: tuple[Happening, ...]) -> None:
        for happening in told:
            drivers.do(read(f"scope {drivers.scope.name}\n{text_of(happening)}").lines[0])

    def _compare(self, walked: Search, state: State, drivers: Replay) -> None:
        expected = [(local.facts, local.durable) for local in walked.nodes(state)]
        self.assertEqual([(local.facts, local.durable) for local in drivers.locals()], expected)
        self.assertLessEqual(walked.under_way(state), set(drivers.packets))

    def test_hash_seeds_change_nothing(self) -> Deferred[None]:
        """Two processes with other hash seeds see the same states in the same number of steps."""
        return self._compare_seeds()

    @inlineCallbacks
    def _compare_seeds(self) -> Generator[Deferred[Any], Any, None]:
        runs = yield gatherResults([explored("two", 20_000, seed) for seed in ("1", "2")])
        one, two = (re.sub(r"[\d,]+ states a second, [\d.]+ s", "", text) for text in runs)
        self.assertEqual(one, two)


def explored(scope: str, states_max: int, hash_seed: str = "0") -> Deferred[str]:
    """What the command prints; fails unless no invariant is broken."""
    heard = getProcessOutputAndValue(
        sys.executable,
        ["-m", "txvbcast.sim.explore", "--scope", scope, "--states-max", str(states_max), "--seconds-max", "100000"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )

    def check(answer: tuple[bytes, bytes, int]) -> str:
        out, err, status = answer
        assert status == 0, f"{out.decode()}\n{err.decode()}"
        return out.decode()

    return heard.addCallback(check)


class MillionTest(TestCase):
    """The protocol survives all of its small scopes, and the beginning of the larger ones."""

    timeout = 3600  # trial's own is two minutes; how fast this machine is decides nothing

    def test_million_states(self) -> Deferred[None]:
        """At least a million distinct global states, in two processes, and no violation among them."""
        return self._search_all()

    @inlineCallbacks
    def _search_all(self) -> Generator[Deferred[Any], Any, None]:
        self.assertEqual({name for share in SHARES for name in share}, set(SCOPES))
        counts = yield gatherResults([self._search_each(share) for share in SHARES])
        self.assertGreaterEqual(sum(counts), 1_000_000)

    @inlineCallbacks
    def _search_each(self, share: dict[str, int]) -> Generator[Deferred[Any], Any, int]:
        states = 0
        for name, states_max in share.items():
            text = yield explored(name, states_max)
            self.assertEqual("exhausted" in text, name in EXHAUSTED, text)
            found = re.match(r"[\w-]+: ([\d,]+) states", text)
            states += int(found[1].replace(",", "")) if found else 0
        return states


class SnapshotTest(TestCase):
    """A replica's state as a value."""

    def test_quantised(self) -> None:
        """Times are told apart as far as a timeout does."""
        pairs = (
            (-2 * TIMEOUT_S, OLD_S), (-TIMEOUT_S, OLD_S), (-TIMEOUT_S / 4, 0.0), (0.0, 0.0), (0.5, 0.5),
            (TIMEOUT_S - 2, TIMEOUT_S), (3 * TIMEOUT_S, FAR_S), (float("-inf"), OLD_S),
        )  # fmt: skip
        for relative_s, expected in pairs:
            self.assertEqual(quantised(relative_s), expected)
        self.assertEqual(quantised(-TIMEOUT_S / 4, exact=True), -TIMEOUT_S / 4)
        self.assertEqual(quantised(-4 * TIMEOUT_S, exact=True), OLD_S)

    def test_unknown_part(self) -> None:
        """Something new in a replica is refused rather than forgotten."""
        replica = Replica(config(), stored())
        mould = Mould(replica, Shelf())
        replica.vms = object()  # type: ignore[assignment]
        self.assertRaises(TypeError, mould.read)

    def test_marks_are_no_state(self) -> None:
        """What only tests read does not make two states of one."""
        replica = Replica(config(), stored())
        mould = Mould(replica, Shelf())
        before = mould.read()
        replica.commons.reached.add("mark")
        self.assertEqual(mould.read(), before)


class CommandTest(TestCase):
    """``python -m txvbcast.sim.explore``."""

    def _call(self, *words: str) -> Any:
        return CliRunner().invoke(main, words)

    def test_counterexample_is_saved_and_replayed(self) -> None:
        """A violation ends with status 1; its file replays; without the defect the file fits no more."""
        path = self.mktemp()
        with candidate_keeps_own_log():
            found = self._call("--scope", "three", "--save", path)
            self.assertEqual(found.exit_code, 1, found.output)
            self.assertIn("invariant 3", found.output)
            again = self._call("--replay", path)
        self.assertEqual(again.exit_code, 1, again.output)
        self.assertIn("invariant 3", again.output)
        mended = self._call("--replay", path)
        self.assertEqual(mended.exit_code, 1)
        self.assertIn(path, mended.output)

    def test_bounds_are_told(self) -> None:
        """A search that ends early says so."""
        self.assertIn("bounded: 3000 states", self._call("--scope", "three", "--states-max", "3000").output)
        self.assertIn("bounded: the time", self._call("--scope", "three", "--seconds-max", "0.01").output)

    def test_bad_traces(self) -> None:
        """What is wrong with a trace file, and in which line."""
        cases = {
            "": "the first line of a trace must be",
            "scope nine": "no scope is called 'nine'",
            "scope two\n1 restart\n1 jumps": "line 3: nothing is called 'jumps'",
            "scope two\nhello": "line 2: 'hello' says nothing",
            "scope two\n7 restart": "line 2: there is no node 7",
            "scope two\n1 sync": "line 2: node 1 is down",
            "scope two\n1 restart\n1 restart": "line 3: node 1 runs already",
            "scope two\n1 restart\n1 receives 2 Order": "line 3: node 2 has sent no such message to node 1",
            "scope two\n1 restart\nviolation of nothing": "written down for another outcome",
        }
        for text, expected in cases.items():
            path = Path(self.mktemp())
            path.write_text(text, "utf-8")
            answer = self._call("--replay", str(path))
            self.assertEqual(answer.exit_code, 1, text)
            self.assertIn(expected, answer.output)
