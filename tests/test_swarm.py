"""Random runs in simulation, and that the checks of them can fail."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from twisted.trial import unittest

from txvbcast.core.effects import ReplyAborted
from txvbcast.core.following import Following
from txvbcast.core.journal import Journal
from txvbcast.core.marks import Mark
from txvbcast.core.ordering import Office
from txvbcast.core.signals import Advanced
from txvbcast.core.submissions import Submissions
from txvbcast.errors import Aborted, Committed
from txvbcast.sim.campaign import CampaignResult, Result, run
from txvbcast.sim.checks import Agreement, Violation, check_outcomes
from txvbcast.sim.faults import FAULTS
from txvbcast.sim.options import Options
from txvbcast.sim.reach import Reached
from txvbcast.sim.swarm import Swarm
from txvbcast.sim.world import Outcome
from txvbcast.wire.messages import Entry, Flight, FlightId, Mode, Standing, StandingEntry, Stored

#: Seeds that every run of the tests goes through, and how many of the long kind.
SEEDS, SOAKS = 1100, 30
#: How much time must pass in these runs together, in virtual hours.
HOURS = 20
#: How many seeds a planted defect may survive.
SEEDS_TO_FIND = 60


class SwarmTests(unittest.SynchronousTestCase):
    """Whatever the faults: what clients heard is what happened, and afterwards all goes on."""

    def test_campaign(self) -> None:
        """Many seeds in all: nothing is violated, and every rare situation was met by some of them."""
        done = [self.campaign(range(SOAKS), soak=True), self.campaign(range(SEEDS), soak=False)]
        reached = Reached((Mark,))
        for result in done[0].results + done[1].results:
            reached.add(result.marks)
        hours = sum(campaign.virtual_s for campaign in done) / 3600
        cores = sum(campaign.cpu_s for campaign in done)
        say(f"{hours:.1f} virtual hours, {hours * 60 * 60 / cores:.0f} times as fast as life on one core")
        for line in reached.report():
            say(line)
        self.assertEqual([describe(result) for campaign in done for result in campaign.failing], [])
        self.assertGreaterEqual(hours, HOURS)
        self.assertEqual([mark.name for mark in reached.missing], [])

    def campaign(self, seeds: range, soak: bool) -> CampaignResult:
        """Run these seeds on all cores, and say how far it is."""
        count = 0

        def on_result(result: Result) -> None:
            nonlocal count
            count += 1
            if count % 100 == 0 or result.violation:
                say(f"{count} of {len(seeds)} {'soaks' if soak else 'seeds'}")

        return run(seeds, soak=soak, on_result=on_result)

    def test_every_fault_is_drawn(self) -> None:
        """The seeds above have among them every kind of fault and every number of nodes."""
        options = [Options.draw(seed) for seed in range(SEEDS)]
        self.assertEqual({kind for option in options for kind in option.faults}, set(FAULTS))
        self.assertEqual({option.nodes for option in options}, {2, 3, 4, 5, 6, 7, 8, 9})


def say(text: str) -> None:
    """Tell whoever watches the tests how far this is: it takes minutes."""
    sys.stdout.write(f"\n{text}")
    sys.stdout.flush()


def describe(result: Result) -> str:
    """What failed, and what repeats it."""
    return f"python -m txvbcast.sim --seed {result.seed}{' --soak' if result.soak else ''}: {result.violation}"


class PlantedDefectTests(unittest.SynchronousTestCase):
    """Wrong versions of the protocol do not get through."""

    timeout = 600

    def assert_found(self) -> None:
        """Some seed trips a check, or the core stops by itself."""
        for seed in range(SEEDS_TO_FIND):
            try:
                Swarm(seed).run()
            except Exception:  # noqa: BLE001 - whatever stops the run has found it
                self.flushLoggedErrors()
                return
        self.fail(f"survived {SEEDS_TO_FIND} seeds")

    def test_acknowledged_before_the_disk(self) -> None:
        """STORED says what is in memory."""

        def say_stored(following: Following) -> None:
            if following.adopted and following.master != following.commons.me:
                stored = Stored(following.epoch, following.journal.tail, following.commons.stored.disk_id)
                following.commons.send(following.master, stored)

        append = Journal.append

        def append_and_tell(journal: Journal, entries: Sequence[Entry]) -> None:
            append(journal, entries)
            journal._commons.need_turn()

        self.patch(Following, "say_stored", say_stored)
        self.patch(Journal, "append", append_and_tell)
        self.assert_found()

    def test_one_is_enough(self) -> None:
        """What one member has stored is committed."""

        def count(office: Office) -> None:
            if office.journal.commit(max(office.stored.values(), default=0)):
                office.commons.need_turn()
                office.commons.signal(Advanced())

        self.patch(Office, "count", count)
        self.assert_found()

    def test_dead_flights_take_effect(self) -> None:
        """What a coordinator proposed before it was away is performed all the same, and proposed anew too."""
        self.patch(Journal, "dead", lambda journal, flight, table: False)
        self.assert_found()

    def test_aborted_after_decide(self) -> None:
        """A coordinator says Aborted although its flight may be in the log."""
        on_tick = Submissions.on_tick

        def hasty(submissions: Submissions) -> None:
            for flight in submissions.under_way.values():
                core = flight.core
                if core.phase == "decided" and submissions.commons.now_s > core.proposed_s + 0.3 and core.tickets:
                    submissions.commons.out.append(ReplyAborted(tuple(core.tickets.values()), "hasty"))
                    core.tickets = {}
            on_tick(submissions)

        self.patch(Submissions, "on_tick", hasty)
        self.assert_found()


class CheckTests(unittest.SynchronousTestCase):
    """The checks themselves."""

    def flight(self, seq: int, number: int = 1) -> Entry:
        """An entry with a flight."""
        return Entry(seq, 65537, flight=Flight(FlightId(1, 1, number), Mode.BROADCAST, 0, 1, (b"x",)))

    def test_order(self) -> None:
        """A gap or a repeat is a violation."""
        agreement = Agreement()
        agreement.note(1, 1, self.flight(1), False)
        self.assertRaises(Violation, agreement.note, 1, 1, self.flight(1), False)
        self.assertRaises(Violation, agreement.note, 1, 1, self.flight(3), False)
        agreement.note(1, 2, self.flight(1), False)  # the next life begins anew

    def test_agreement(self) -> None:
        """Another entry, or another judgement on it, is a violation."""
        agreement = Agreement()
        agreement.note(1, 1, self.flight(1), False)
        other = Entry(1, 65537, standing=StandingEntry(1, Standing.NORMAL, True, 1, 0))
        self.assertRaises(Violation, agreement.note, 2, 1, other, False)
        self.assertRaises(Violation, agreement.note, 3, 1, self.flight(1), True)

    def test_flight_once(self) -> None:
        """A flight that takes effect at two places is a violation."""
        agreement = Agreement()
        agreement.note(1, 1, self.flight(1), False)
        self.assertRaises(Violation, agreement.note, 1, 1, self.flight(2), False)

    def outcome(self, payload: bytes, answer: Committed | Exception, request_id: str | None = None) -> Outcome:
        """What a client heard."""
        return Outcome(payload, 1, 0.0, request_id=request_id, answer=answer)

    def test_outcomes(self) -> None:
        """What a client heard must be what happened."""
        committed = self.outcome(b"a", Committed(1, 0, b""))
        check_outcomes([committed], [(1, b"a")])
        self.assertRaises(Violation, check_outcomes, [committed], [])
        self.assertRaises(Violation, check_outcomes, [committed], [(2, b"a")])
        self.assertRaises(Violation, check_outcomes, [self.outcome(b"a", Aborted("no"))], [(1, b"a")])
        self.assertRaises(Violation, check_outcomes, [], [(1, b"a"), (2, b"a")])

    def test_requests(self) -> None:
        """All attempts at a request hear of the one that took effect."""
        first = self.outcome(b"a.1", Committed(1, 0, b""), "a")
        second = self.outcome(b"a.2", Committed(1, 0, b""), "a")
        check_outcomes([first, second], [(1, b"a.1")])
        check_outcomes([first, second], [(1, b"a.2")])
        self.assertRaises(Violation, check_outcomes, [first, second], [(1, b"a.1"), (2, b"a.2")])
        other = self.outcome(b"a.2", Committed(2, 0, b""), "a")
        self.assertRaises(Violation, check_outcomes, [first, other], [(1, b"a.1")])
