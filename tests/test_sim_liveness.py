"""Failure detection on virtual time: no false alarms, and no datagrams needed."""

from __future__ import annotations

from twisted.trial import unittest

from txvbcast.config import ProtocolConfig, QuorumConfig, ResponseTimeoutConfig
from txvbcast.sim.network import Conditions
from txvbcast.sim.world import World
from txvbcast.wire.messages import Mode


class LivenessTests(unittest.SynchronousTestCase):
    """What makes a cluster accuse somebody, and what does not."""

    def quiet_hour(self, conditions: Conditions, seconds: float) -> list[object]:
        """What is told of an idle cluster after it has settled."""
        world = World(3, 3, conditions)
        world.run_until(world.settled, 10.0, "settled")
        world.events.clear()
        world.run(seconds)
        return [event["kind"] for _, _, event in world.events if event["kind"] in ("node_failed", "master_changed")]

    def test_idle(self) -> None:
        """An idle cluster stays as it is."""
        self.assertEqual(self.quiet_hour(Conditions(), 600.0), [])

    def test_lossy_datagrams(self) -> None:
        """A third of the datagrams lost accuses nobody."""
        self.assertEqual(self.quiet_hour(Conditions(datagram_loss=0.33), 600.0), [])

    def test_no_datagrams_at_all(self) -> None:
        """Where a firewall eats every datagram the links prove life."""
        self.assertEqual(self.quiet_hour(Conditions(datagram_loss=1.0), 120.0), [])

    def test_dead_with_datagrams_lost(self) -> None:
        """And a member that is really gone is still found out."""
        world = World(3, 3, Conditions(datagram_loss=1.0))
        world.run_until(world.settled, 10.0, "settled")
        world.events.clear()
        world.crash(3)
        world.run(3.0)
        self.assertIn("node_failed", [event["kind"] for _, _, event in world.events])

    def test_short_stops(self) -> None:
        """Stops of half a heartbeat timeout, one node after the other, accuse nobody."""
        world = World(4, 3)
        world.run_until(world.settled, 10.0, "settled")
        world.events.clear()
        for round_number in range(30):
            node_id = 1 + round_number % 3
            world.freeze(node_id)
            world.run(world.config.heartbeat.timeout_s / 2)
            world.thaw(node_id)
            world.run(1.0)
        kinds = [event["kind"] for _, _, event in world.events]
        self.assertNotIn("node_failed", kinds)
        self.assertNotIn("master_changed", kinds)

    def time_of_vote(self, response_timeout: ResponseTimeoutConfig) -> float:
        """How long a voted flight takes while a member is away by announcement."""
        world = World(5, 3, config=ProtocolConfig(1, (), response_timeout=response_timeout))
        world.run_until(world.settled, 10.0, "settled")
        world.nodes[3].driver.absences.begin("migrate_out", 5.0)
        world.run(0.1)
        world.freeze(3)
        outcome = world.submit(2, b"vote", Mode.TWO_PHASE)
        world.run_until(lambda: outcome.answer is not None, 5.0, "an answer")
        self.assertEqual(outcome.kind, "committed")
        return outcome.ended_s - outcome.began_s

    def test_response_timeout_of_an_inactive_member(self) -> None:
        """An absent member is not waited for at all, or for ``response_timeout.inactive``."""
        self.assertLess(self.time_of_vote(ResponseTimeoutConfig()), 0.1)
        patient_s = self.time_of_vote(ResponseTimeoutConfig(normal_s=1.0, inactive_s=0.4))
        self.assertGreater(patient_s, 0.4)
        self.assertLess(patient_s, 0.6)

    def one_after_the_other(self, last_man_standing: bool) -> str:
        """What a client hears on the only node that is left after two crashes, some time apart."""
        quorum = QuorumConfig(last_man_standing=last_man_standing)
        world = World(6, 3, config=ProtocolConfig(1, (), quorum=quorum))
        world.run_until(world.settled, 10.0, "settled")
        for node_id in (3, 2):
            world.crash(node_id)
            world.run(2.0)
        outcome = world.submit(1, b"alone", timeout_s=1.0)
        world.run(2.0)
        for node_id in (3, 2):
            world.restart(node_id)
        world.run_until(world.quiet, 30.0, "everybody is back")
        world.check()
        voters = {node.driver.replica.journal.table.voters for node in world.nodes.values()}
        self.assertEqual(voters, {(1, 2, 3)})
        return outcome.kind

    def test_last_man_standing(self) -> None:
        """Only if it is configured do silent members lose their votes, one after the other, down to the last."""
        self.assertEqual(self.one_after_the_other(last_man_standing=True), "committed")
        self.assertEqual(self.one_after_the_other(last_man_standing=False), "NoQuorum")
