"""A coordinator's desk under a flood: what it refuses by how long those before have waited, and what it never does."""

from __future__ import annotations

from twisted.trial import unittest

from tests.core_samples import commons, effects, journal
from txvbcast.config import LimitsConfig
from txvbcast.core.admission import STOP_WAITS, UNHURRIED_PENDING
from txvbcast.core.effects import ReplyOverloaded
from txvbcast.core.inputs import Submitted
from txvbcast.core.submissions import Submissions
from txvbcast.wire.messages import Mode

WAIT_S = 0.012
TIMEOUT_S = 5.0
#: The cluster of these tests: it orders whatever is under way after so long, ten times in ``limits.wait``.
ROUND_S = WAIT_S / 10


class Desk(unittest.SynchronousTestCase):
    """The desk of a node whose master answers one flight after the other."""

    def setUp(self) -> None:
        self.commons = commons(limits=LimitsConfig(wait_s=WAIT_S, flights=2))
        self.desk = Submissions(self.commons, journal(self.commons))
        self.desk.on_master(1)
        self.tickets = 0
        self.worst_s = 0.0

    def submit(self, count: int) -> str:
        """So many transactions come at once; why they are refused, empty if they are not."""
        self.tickets += 1
        self.desk.submit(Submitted(self.tickets, Mode.BROADCAST, (b"x",) * count, TIMEOUT_S))
        self.desk.dispatch()
        refused = [effect.reason for effect in effects(self.commons) if isinstance(effect, ReplyOverloaded)]
        return refused[0] if refused else ""

    def answer(self) -> int:
        """The first flight is ordered and applied; how many transactions that answers."""
        if not self.desk.under_way:
            return 0
        flight = next(iter(self.desk.under_way.values())).core
        self.worst_s = max(self.worst_s, self.commons.now_s - (flight.deadline_s - TIMEOUT_S))
        count = flight.waiting_clients
        self.desk.on_applied(flight.flight.id, 1)
        self.desk.dispatch()
        effects(self.commons)
        return count

    def run_open(self, rounds: int, due: int, capacity: int) -> int:
        """In each round ``due`` transactions come, and about ``capacity`` can be answered; how many are refused."""
        refused, credit = 0, 0
        for _ in range(rounds):
            self.commons.now_s += ROUND_S
            credit = min(credit + capacity, capacity)
            while credit > 0 and self.desk.under_way:
                credit -= self.answer()
            if self.submit(due):
                refused += due
        return refused


class FloodTests(Desk):
    """More comes than can be answered."""

    def test_waiting_is_bounded(self) -> None:
        """Twice as much as can be answered: the rest is refused, and what is taken waits for a few times the bound."""
        capacity = UNHURRIED_PENDING // 5
        refused = self.run_open(1000, 2 * capacity, capacity)
        self.assertGreater(refused, 1000 * capacity // 2)
        self.assertLess(self.worst_s, 4 * WAIT_S)
        self.assertLess(self.desk.pending, 6 * UNHURRIED_PENDING)

    def test_it_ends(self) -> None:
        """Nothing is refused when half as much comes, and nothing soon after a flood."""
        capacity = UNHURRIED_PENDING // 5
        self.assertEqual(self.run_open(1000, capacity // 2, capacity), 0)
        self.assertGreater(self.run_open(200, 2 * capacity, capacity), 0)
        self.run_open(40, capacity // 2, capacity)
        self.assertEqual(self.run_open(1000, capacity // 2, capacity), 0)

    def test_reason(self) -> None:
        """It names the bound, and says what to do."""
        self.submit(UNHURRIED_PENDING)
        self.submit(1)
        self.commons.now_s += WAIT_S / 2
        self.answer()
        self.submit(UNHURRIED_PENDING)
        self.commons.now_s += WAIT_S
        reason = self.submit(1)
        self.assertRegex(reason, r"more than 12 ms \(limits\.wait\); send fewer at a time")


class PatienceTests(Desk):
    """What is not a flood."""

    def test_clients_that_wait_for_their_answers(self) -> None:
        """1024 under way are never refused, however slow the cluster is."""
        for _ in range(20):
            self.assertEqual(self.submit(UNHURRIED_PENDING // 2), "")
            self.commons.now_s += WAIT_S
            self.assertEqual(self.submit(UNHURRIED_PENDING // 2), "")
            self.commons.now_s += 2 * WAIT_S
            while self.answer():
                pass

    def test_stop(self) -> None:
        """While nothing is answered, and afterwards for as long as that took, only limits.pending counts."""
        self.submit(1)
        stop_s = 0.8
        for _ in range(80):
            self.commons.now_s += stop_s / 80
            if self.commons.now_s > STOP_WAITS * WAIT_S:
                self.assertEqual(self.submit(100), "")
        self.assertGreater(self.desk.pending, 4 * UNHURRIED_PENDING)
        self.answer()
        self.commons.now_s += 0.9 * stop_s
        self.answer()
        self.assertEqual(self.submit(1), "")
        self.submit(UNHURRIED_PENDING)
        self.commons.now_s += 0.2 * stop_s
        self.answer()
        self.submit(1)
        self.assertIn("limits.pending", self.submit(20_000))

    def test_no_master(self) -> None:
        """Who has no master waits for one."""
        self.submit(UNHURRIED_PENDING)
        self.commons.now_s += 2 * WAIT_S
        self.desk.on_master(0)
        self.assertEqual(self.submit(1), "")
        self.desk.on_master(2)
        self.assertIn("limits.wait", self.submit(1))
