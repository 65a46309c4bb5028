"""Who was heard when, and a node's own lateness."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from tests.core_samples import examples
from txvbcast.config import HeartbeatConfig
from txvbcast.core.liveness import LATENESS_DECAY, STOPPED_AFTER_HEARTBEATS, TICKS_PER_HEARTBEAT, Liveness

#: Binary fractions, so that sums of them are exact.
HEARTBEAT = HeartbeatConfig(interval_s=0.5, timeout_s=4.0)
TICK_S = 0.25
STOPPED_S = 1.0


class LivenessTests(unittest.TestCase):
    """A node that begins to listen to peers 2 and 3 at second 100."""

    def setUp(self) -> None:
        self.now_s = 100.0
        self.liveness = Liveness(HEARTBEAT)
        self.liveness.begin(self.now_s, (2, 3))
        self.liveness.on_tick(self.now_s)

    def tick(self, late_s: float = 0.0) -> float:
        """The next tick comes so late; what that means."""
        self.now_s += TICK_S + late_s
        return self.liveness.on_tick(self.now_s)

    def test_tick(self) -> None:
        """Often enough to see every heartbeat's deadline."""
        self.assertEqual(self.liveness.tick_s, TICK_S)
        self.assertEqual(TICK_S * TICKS_PER_HEARTBEAT, HEARTBEAT.interval_s)
        self.assertEqual(STOPPED_S, STOPPED_AFTER_HEARTBEATS * HEARTBEAT.interval_s)

    def test_silence(self) -> None:
        """Counted for each peer from when it was heard last, or from the beginning."""
        self.liveness.on_heard(2, 103.0)
        self.assertEqual(self.liveness.silence_s(2, 105.0), 2.0)
        self.assertEqual(self.liveness.silence_s(3, 105.0), 5.0)
        self.assertEqual(self.liveness.silence_s(9, 105.0), 0.0, "nothing is expected of a stranger")

    def test_begin_again(self) -> None:
        """Nobody's silence so far counts."""
        self.liveness.begin(105.0, (2, 3))
        self.assertEqual([self.liveness.silence_s(peer, 106.0) for peer in (2, 3)], [1.0, 1.0])

    def test_punctual_ticks(self) -> None:
        """Nothing is stretched."""
        self.assertEqual([self.tick() for _ in range(5)], [0.0] * 5)
        self.assertEqual(self.liveness.timeout_s, HEARTBEAT.timeout_s)

    def test_early_tick(self) -> None:
        """Is not late."""
        self.assertEqual(self.tick(-0.125), 0.0)
        self.assertEqual(self.liveness.timeout_s, HEARTBEAT.timeout_s)

    def test_first_tick_is_never_late(self) -> None:
        """Before it, nothing was expected."""
        fresh = Liveness(HEARTBEAT)
        self.assertEqual(fresh.on_tick(1e6), 0.0)
        self.assertEqual(fresh.stretch_s, 0.0)

    def test_poor_scheduling_makes_patient(self) -> None:
        """By as much as the ticks came late; the worst one is forgotten slowly."""
        self.assertEqual(self.tick(0.5), 0.0)
        self.assertEqual(self.liveness.timeout_s, 4.5)
        self.tick()
        self.assertEqual(self.liveness.timeout_s, 4.0 + 0.5 * LATENESS_DECAY)
        self.tick(0.5)
        self.assertEqual(self.liveness.timeout_s, 4.5)
        for _ in range(200):
            self.tick()
        self.assertAlmostEqual(self.liveness.timeout_s, 4.0, places=3)

    def test_as_late_as_may_be(self) -> None:
        """Two heartbeats are still poor scheduling; the others' silence counts on."""
        self.assertEqual(self.tick(STOPPED_S), 0.0)
        self.assertEqual(self.liveness.timeout_s, 5.0)
        self.assertEqual(self.liveness.silence_s(2, self.now_s), self.now_s - 100.0)

    def test_stopped(self) -> None:
        """Later than that the node was stopped: it hears how long, and holds nobody's silence against them."""
        self.assertEqual(self.tick(3.0), 3.0)
        self.assertEqual([self.liveness.silence_s(peer, self.now_s) for peer in (2, 3)], [0.0, 0.0])
        self.assertEqual(self.liveness.timeout_s, 4.0, "a stop says nothing about the scheduling afterwards")
        self.assertEqual(self.tick(), 0.0)

    def test_stopped_listens_to_the_same(self) -> None:
        """Whom it listened to before, also those heard only since the beginning."""
        self.liveness.on_heard(4, self.now_s)
        self.tick(3.0)
        self.assertEqual(sorted(self.liveness.heard_s), [2, 3, 4])

    @examples()
    @given(st.lists(st.floats(0, 3), max_size=20))
    def test_patience(self, lateness: list[float]) -> None:
        """Never below the configured timeout, never above it by more than what poor scheduling is."""
        self.setUp()
        for late_s in lateness:
            self.tick(late_s)
            self.assertTrue(HEARTBEAT.timeout_s <= self.liveness.timeout_s <= HEARTBEAT.timeout_s + STOPPED_S)
