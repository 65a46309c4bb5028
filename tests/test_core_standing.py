"""Who is away: a member as this node sees it, and this node's own life."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from tests.core_samples import commons, effects, examples, only, signals, standing
from txvbcast.core.charts import CHARTS, Decision
from txvbcast.core.effects import Notify
from txvbcast.core.signals import OwnStandingChanged, PeerChanged
from txvbcast.core.standing import OwnLife, Peer
from txvbcast.wire.messages import Inactive, Standing, StandingEntry

NORMAL, INACTIVE = Standing.NORMAL, Standing.INACTIVE
CATCHING_UP, FAILED = Standing.CATCHING_UP, Standing.FAILED


def inactive(
    change_id: int = 1, revision: int = 1, incarnation: int = 1, kind: str = "freeze", expected_ms: int = 4000
) -> Inactive:
    """Node 3 announces an absence."""
    return Inactive(3, incarnation, change_id, revision, kind, expected_ms, epoch=0, stored=0)


def said(to: Standing, change_id: int = 1, incarnation: int = 1) -> StandingEntry:
    """The log speaks of node 3."""
    return standing(3, to, True, incarnation, change_id, kind="reboot", expected_ms=9000, source="master")


class PeerTests(unittest.TestCase):
    """Node 3 in the eyes of node 1, at second 50."""

    def setUp(self) -> None:
        self.commons = commons()
        self.commons.now_s = 50.0
        self.peer = Peer.make(self.commons, 3)

    @property
    def seen(self) -> tuple[Standing, float | None]:
        """Its standing, and until when its announcement is believed."""
        return (self.peer.core.standing, self.peer.core.deadline_s)

    def log_says(self, *entries: StandingEntry, deadline_s: float = 70.0) -> list[Any]:
        """These entries are applied; what the other parts hear."""
        for each in entries:
            self.peer.on_entry(each, deadline_s)
        return signals(self.commons)

    def test_at_first(self) -> None:
        """Normal, as in a fresh table."""
        self.assertEqual(self.seen, (NORMAL, None))

    def test_announced(self) -> None:
        """Believed at once, before the log says it."""
        self.assertTrue(self.peer.on_announcement(inactive(), 60.0))
        core = self.peer.core
        self.assertEqual(self.seen, (INACTIVE, 60.0))
        self.assertEqual((core.kind, core.source, core.expected_ms), ("freeze", "self", 4000))
        self.assertEqual((core.announced_s, core.since_s, core.absence), (50.0, 50.0, (1, 1)))
        self.assertEqual(signals(self.commons), [PeerChanged(3, INACTIVE, None)])

    def test_whole_absence(self) -> None:
        """Each change of standing is told once, with the entry that says so."""
        self.peer.on_announcement(inactive(), 60.0)
        away, catching_up, normal = said(INACTIVE), said(CATCHING_UP), said(NORMAL)
        told = [*signals(self.commons), *self.log_says(away, catching_up, normal)]
        self.assertEqual(
            told,
            [PeerChanged(3, INACTIVE, None), PeerChanged(3, CATCHING_UP, catching_up), PeerChanged(3, NORMAL, normal)],
        )
        self.assertEqual(self.seen, (NORMAL, None))

    def test_since(self) -> None:
        """Counted from when its standing changed, not from when the same was said again."""
        self.peer.on_announcement(inactive(), 60.0)
        self.commons.now_s = 52.0
        self.log_says(said(INACTIVE))
        self.assertEqual(self.peer.core.since_s, 50.0)
        self.log_says(said(CATCHING_UP))
        self.assertEqual(self.peer.core.since_s, 52.0)

    def test_repeated_and_late_announcements(self) -> None:
        """A copy, an older estimate, an older absence, an earlier life: nothing changes."""
        self.assertTrue(self.peer.on_announcement(inactive(2, 5, 3), 60.0))
        for late in (inactive(2, 5, 3), inactive(2, 4, 3), inactive(1, 9, 3), inactive(9, 9, 2)):
            self.assertFalse(self.peer.on_announcement(late, 99.0))
        self.assertEqual(self.seen, (INACTIVE, 60.0))
        self.assertEqual(len(signals(self.commons)), 1)

    def test_new_estimate(self) -> None:
        """Counts from now on, and is no change of standing."""
        self.peer.on_announcement(inactive(), 60.0)
        signals(self.commons)
        self.commons.now_s = 55.0
        self.assertTrue(self.peer.on_announcement(inactive(1, 2, expected_ms=20_000), 90.0))
        core = self.peer.core
        self.assertEqual((self.seen, core.expected_ms, core.announced_s), ((INACTIVE, 90.0), 20_000, 55.0))
        self.assertEqual(signals(self.commons), [])

    def test_log_alone(self) -> None:
        """The announcement did not reach this node: the log says what it needs to know."""
        away = said(INACTIVE)
        self.assertEqual(self.log_says(away), [PeerChanged(3, INACTIVE, away)])
        core = self.peer.core
        self.assertEqual((self.seen, core.announced_s), ((INACTIVE, 70.0), 50.0))
        self.assertEqual((core.kind, core.source, core.expected_ms), ("reboot", "master", 9000))

    def test_announcement_after_the_log(self) -> None:
        """It knows better how long; a new absence begins with any revision."""
        self.peer.on_announcement(inactive(1, 7), 60.0)
        self.log_says(said(INACTIVE), said(CATCHING_UP), said(NORMAL))
        self.log_says(said(INACTIVE, incarnation=2))
        self.assertEqual(self.seen, (INACTIVE, 70.0))
        self.assertTrue(self.peer.on_announcement(inactive(1, 1, incarnation=2), 65.0))
        self.assertEqual(self.seen, (INACTIVE, 65.0))

    def test_log_says_the_same(self) -> None:
        """What was announced is not overwritten by what the master made of it earlier."""
        self.peer.on_announcement(inactive(expected_ms=4000), 60.0)
        self.log_says(said(INACTIVE))
        self.assertEqual((self.seen, self.peer.core.expected_ms), ((INACTIVE, 60.0), 4000))

    def test_log_about_an_older_absence(self) -> None:
        """Does not overrule the announcement of a newer one, whatever it says."""
        self.peer.on_announcement(inactive(2), 60.0)
        signals(self.commons)
        self.assertEqual(self.log_says(*map(said, Standing)), [])
        self.assertEqual(self.seen, (INACTIVE, 60.0))
        self.log_says(said(NORMAL, 2))
        self.assertEqual(self.seen, (NORMAL, None))

    def test_log_without_an_announcement(self) -> None:
        """Then it is followed in any case: it is the authority."""
        self.log_says(said(FAILED, 2))
        self.log_says(said(CATCHING_UP, 1))
        self.assertEqual((self.seen, self.peer.core.absence), ((CATCHING_UP, None), (1, 2)))
        self.log_says(said(NORMAL, 2), said(CATCHING_UP, 1))
        self.assertFalse(self.peer.on_announcement(inactive(2), 60.0), "the log has it as over")

    def test_next_absence_from_the_log_alone(self) -> None:
        """It has its own time: what is left of an earlier announcement says nothing about it.

        Found by random runs, invariant 11: a master failed a member within the time that it had announced.
        """
        self.peer.on_announcement(inactive(1), 60.0)
        self.log_says(said(INACTIVE, 2), deadline_s=90.0)
        self.assertEqual((self.seen, self.peer.core.absence), ((INACTIVE, 90.0), (1, 2)))
        self.log_says(said(INACTIVE, 2), deadline_s=95.0)  # its vote is taken
        self.assertEqual(self.seen, (INACTIVE, 90.0))

    def test_overdue(self) -> None:
        """Failed ends the announcement; a new estimate of the same absence is believed all the same."""
        self.peer.on_announcement(inactive(), 60.0)
        self.log_says(said(FAILED))
        self.assertEqual(self.seen, (FAILED, None))
        self.assertFalse(self.peer.on_announcement(inactive(), 80.0))
        self.assertTrue(self.peer.on_announcement(inactive(1, 2), 90.0))
        self.assertEqual(self.seen, (INACTIVE, 90.0))

    def test_announcement_that_comes_after_its_end(self) -> None:
        """The log has it back from that absence, so what was on its way all the time is not believed."""
        for back in (CATCHING_UP, NORMAL):
            self.setUp()
            self.log_says(said(INACTIVE, 2), said(back, 2))
            self.assertFalse(self.peer.on_announcement(inactive(1, 8), 60.0))
            self.assertFalse(self.peer.on_announcement(inactive(2, 9), 60.0))
            self.assertIs(self.peer.core.standing, back)
            self.assertTrue(self.peer.on_announcement(inactive(3, 10), 60.0))
            self.assertEqual(self.seen, (INACTIVE, 60.0))

    def test_leaves_again_while_catching_up(self) -> None:
        """A new absence before the last one is quite over."""
        self.peer.on_announcement(inactive(), 60.0)
        self.log_says(said(INACTIVE), said(CATCHING_UP))
        self.assertTrue(self.peer.on_announcement(inactive(2, 2), 90.0))
        self.log_says(said(NORMAL))
        self.assertEqual(self.seen, (INACTIVE, 90.0))

    def test_timeouts_return_with_the_log(self) -> None:
        """Also if the third message never comes."""
        self.log_says(said(INACTIVE), said(CATCHING_UP))
        self.assertEqual(self.seen, (CATCHING_UP, 70.0))
        self.log_says(said(NORMAL))
        self.assertEqual(self.seen, (NORMAL, None))

    def test_timeouts_return_with_its_word(self) -> None:
        """The third message comes before this node has applied what it speaks of."""
        self.log_says(said(INACTIVE), said(CATCHING_UP))
        self.peer.machine.returned()
        self.assertEqual(self.seen, (CATCHING_UP, None))
        self.log_says(said(NORMAL))
        self.assertEqual(self.seen, (NORMAL, None))

    def test_its_word_too_early(self) -> None:
        """It was on its way when the absence began: the announcement stands."""
        self.peer.on_announcement(inactive(), 60.0)
        self.peer.machine.returned()
        self.assertEqual(self.seen, (INACTIVE, 60.0))

    def test_replay_of_a_log(self) -> None:
        """After a restart nothing is left of absences that are over."""
        self.log_says(said(INACTIVE), said(CATCHING_UP), said(NORMAL), said(INACTIVE, 2), said(CATCHING_UP, 2))
        self.log_says(said(NORMAL, 2))
        self.assertEqual(self.seen, (NORMAL, None))


anything = st.one_of(
    st.builds(lambda to, k: said(to, k), st.sampled_from(list(Standing)), st.integers(0, 3)),
    st.builds(lambda k, revision: inactive(k, revision), st.integers(1, 3), st.integers(0, 5)),
)


class PeerInGeneral(unittest.TestCase):
    """Whatever is heard, in whatever order."""

    @examples(200)
    @given(st.lists(anything, max_size=12))
    def test_any_order(self, heard: list[StandingEntry | Inactive]) -> None:
        """Only an absent member has a deadline, absences never fall back, and every change is told."""
        shared = commons()
        peer = Peer.make(shared, 3)
        now = NORMAL
        for each in heard:
            before = peer.core.absence
            if isinstance(each, Inactive):
                peer.on_announcement(each, 60.0)
            else:
                peer.on_entry(each, 70.0)
            self.assertGreaterEqual(peer.core.absence, before)
            for told in only(PeerChanged, signals(shared)):
                self.assertIsNot(told.standing, now)
                now = told.standing
            self.assertIs(peer.core.standing, now)
            if now is INACTIVE:
                self.assertIsNotNone(peer.core.deadline_s)
            if now in (NORMAL, FAILED):
                self.assertIsNone(peer.core.deadline_s)


OWN = next(chart for chart in CHARTS if chart.name == "OwnMachine")
#: What the machine does not say to itself.
OUTSIDE = [name for name in OWN.inputs if not name.startswith("_")]


class OwnLifeTests(unittest.TestCase):
    """A node that has just started."""

    def setUp(self) -> None:
        self.commons = commons()
        self.own = OwnLife.make(self.commons)

    def told(self) -> list[tuple[object, ...]]:
        """(before, state, reason) of what operators heard; the other parts heard the same states."""
        notices = only(Notify, effects(self.commons))
        self.assertEqual(signals(self.commons), [OwnStandingChanged(str(each.facts["state"])) for each in notices])
        self.assertEqual({(each.kind, each.node_id) for each in notices} - {("own_standing", 1)}, set())
        return [(each.facts["before"], each.facts["state"], each.reason) for each in notices]

    def go(self, *inputs: str) -> str:
        """These happen; the state afterwards."""
        for name in inputs:
            getattr(self.own.machine, name)()
        return self.own.state

    def test_start(self) -> None:
        """It takes itself for absent until it is told otherwise."""
        self.assertEqual((self.own.state, self.told()), ("returning", []))
        self.assertEqual(self.go("told_absent", "woke"), "returning")
        self.assertEqual(self.go("told_catching_up", "told_normal"), "normal")
        self.assertEqual(
            self.told(),
            [
                ("returning", "catching_up", "the master sends what this node has missed"),
                ("catching_up", "normal", "this node has applied all it missed"),
            ],
        )

    def test_planned_absence(self) -> None:
        """Leave, go, come back; what the log says meanwhile changes nothing."""
        self.go("told_normal", "change_began")
        self.assertEqual(self.go("woke", "told_absent", "told_catching_up", "told_normal", "change_began"), "leaving")
        self.told()
        self.own.core.announced = True
        self.assertEqual(self.go("cleared"), "inactive")
        self.assertEqual(self.go("woke", "told_absent", "told_catching_up", "told_normal", "change_began"), "inactive")
        self.assertEqual(self.go("changes_over"), "returning")
        self.assertFalse(self.own.core.announced)
        self.assertEqual(
            self.told(),
            [
                ("leaving", "inactive", "own flights are drained and the office, if any, is handed over"),
                ("inactive", "returning", "the configuration change is over"),
            ],
        )
        self.assertEqual(self.go("told_normal"), "normal")

    def test_over_before_it_was_announced(self) -> None:
        """Nobody knows of it, so there is nothing to return from."""
        self.go("told_normal", "change_began")
        self.told()
        self.assertEqual(self.go("changes_over"), "normal")
        self.assertEqual(self.told(), [("leaving", "normal", "the change ended before it was announced")])

    def test_over_after_it_was_announced(self) -> None:
        """The others have been told, so it returns as from any absence."""
        self.go("told_normal", "change_began")
        self.own.core.announced = True
        self.told()
        self.assertEqual(self.go("changes_over"), "returning")
        self.assertFalse(self.own.core.announced)
        self.assertEqual(self.told(), [("leaving", "returning", "the configuration change is over")])
        self.assertEqual(self.go("told_normal"), "normal")

    def test_change_before_the_return(self) -> None:
        """It is away already: there is nothing to drain."""
        reason = "a configuration change begins before the return from the last absence"
        for before in ((), ("told_catching_up",)):
            self.setUp()
            state = self.go(*before)
            self.told()
            self.assertEqual(self.go("change_began"), "inactive")
            self.assertEqual(self.told(), [(state, "inactive", reason)])

    def test_woke(self) -> None:
        """It was stopped without knowing, so it takes itself for absent."""
        reason = "this node was stopped for a while and asks the master before it acts"
        for before in ("told_normal", "told_catching_up"):
            self.setUp()
            state = self.go(before)
            self.told()
            self.assertEqual(self.go("woke"), "returning")
            self.assertEqual(self.told(), [(state, "returning", reason)])

    def test_told_absent(self) -> None:
        """It has been given up by the others without noticing."""
        for before in ("told_normal", "told_catching_up"):
            self.setUp()
            state = self.go(before)
            self.told()
            self.assertEqual(self.go("told_absent"), "returning")
            self.assertEqual(self.told(), [(state, "returning", "the cluster has this node as absent")])

    def test_told_catching_up(self) -> None:
        """The master may know before the node does."""
        self.assertEqual(self.go("told_normal", "told_catching_up"), "catching_up")

    def test_said_again(self) -> None:
        """What it knows already is no news."""
        for name, state in (("told_normal", "normal"), ("told_catching_up", "catching_up")):
            self.setUp()
            self.go(name)
            self.told()
            self.assertEqual((self.go(name), self.told()), (state, []))

    @examples()
    @given(st.lists(st.tuples(st.sampled_from(OUTSIDE), st.booleans()), max_size=15))
    def test_state_is_that_of_the_machine(self, happenings: list[tuple[str, bool]]) -> None:
        """Whatever happens that can happen: what the other parts see is where the machine is."""
        self.setUp()
        table = {(cell.state, cell.input): cell for cell in OWN.cells}
        for name, announced in happenings:
            cell = table[self.own.state, name]
            if cell.decision is Decision.FORBIDDEN:
                continue
            self.own.core.announced = announced and cell.state == "leaving"
            to = cell.to
            if (cell.state, name) == ("leaving", "changes_over"):
                to = "returning" if announced else "normal"
            self.assertEqual(self.go(name), to)
