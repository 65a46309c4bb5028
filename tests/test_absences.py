"""Turns, bounds and third parties: changes as adapters and operators see them, in a simulated cluster."""

from __future__ import annotations

from typing import Any

from twisted.trial import unittest

from txvbcast.absences import Absences, HeldChange, Notice
from txvbcast.config import InactivityConfig, ProtocolConfig, QuorumConfig
from txvbcast.interfaces import Go
from txvbcast.sim.world import World


class AbsencesCase(unittest.SynchronousTestCase):
    """Three nodes, settled."""

    config = ProtocolConfig(node_id=1, members=())

    def setUp(self) -> None:
        self.world = World(1, 3, config=self.config)
        self.until(self.world.quiet, "everything is settled")
        self.heard: dict[int, Go] = {}

    def until(self, condition: Any, what: str) -> None:
        """Let time pass until something holds."""
        self.world.run_until(condition, 30.0, what)

    def absences(self, node_id: int) -> Absences:
        """Of that node."""
        return self.world.nodes[node_id].driver.absences

    def hold(self, node_id: int, hold_s: float = 10.0, **more: Any) -> HeldChange:
        """A change that can be held; its answer goes to ``heard``."""
        driver = self.world.nodes[node_id].driver
        held = driver.absences.hold(Notice("migrate_out", {}, "test", True, hold_s, expected_s=2.0, **more))
        held.go.addCallback(lambda go: self.heard.__setitem__(node_id, go))
        return held

    def standing(self, node_id: int, of: int) -> str:
        """Of a member, as a node sees it."""
        members = self.world.nodes[node_id].driver.status()["members"]
        return str(next(member["standing"] for member in members if member["node_id"] == of))


class Turns(AbsencesCase):
    """One after the other."""

    def test_alone(self) -> None:
        """Nobody is away: it is announced and confirmed."""
        held = self.hold(2)
        self.until(lambda: 2 in self.heard, "the answer")
        self.assertEqual(self.heard[2], Go(confirmed=True))
        self.assertEqual((held.confirmed, held.unsafe, held.announced_s, held.over), (True, "", 2.0, False))
        held.end("done")
        self.until(self.world.quiet, "everything is settled")
        self.assertTrue(held.over)
        self.assertEqual([record["outcome"] for record in self.absences(2).documents()], ["done"])

    def test_two_at_once(self) -> None:
        """The log says who goes first; the other goes when that one is back."""
        changes = {node_id: self.hold(node_id) for node_id in (2, 3)}
        self.until(lambda: bool(self.heard), "the first answer")
        self.world.run(2.0)
        ((first, go),) = self.heard.items()
        second = 5 - first
        self.assertEqual(go, Go(confirmed=True))
        self.assertEqual(self.standing(1, second), "normal")
        self.assertIn(f"node {first} is inactive (migrate_out)", self.absences(second).refusal())
        changes[first].end("done")
        self.until(lambda: second in self.heard, "the second answer")
        self.assertEqual(self.heard[second], Go(confirmed=True))
        self.assertEqual(self.standing(1, first), "normal")

    def test_bound(self) -> None:
        """A platform that will go anyway is not waited for: at its bound the change is announced and let go."""
        self.hold(2)
        self.until(lambda: 2 in self.heard, "the first answer")
        asked_s = self.world.clock.seconds()
        held = self.hold(3, hold_s=1.5)
        self.until(lambda: 3 in self.heard, "the answer at the bound")
        self.assertAlmostEqual(self.world.clock.seconds() - asked_s, 1.5, 1)
        self.assertFalse(self.heard[3].confirmed)
        self.assertIn("node 2 is inactive", self.heard[3].unsafe)
        self.assertIsNotNone(held.change_id)
        self.until(lambda: self.standing(1, 3) == "inactive", "the announcement")

    def test_bound_that_is_over(self) -> None:
        """No time at all to wait for the answer: it is announced all the same."""
        self.hold(2, hold_s=-1.0)
        self.until(lambda: 2 in self.heard, "the answer")
        self.until(lambda: self.standing(1, 2) == "inactive", "the announcement")

    def test_ended_while_it_waits(self) -> None:
        """The platform has thought better of it: nothing was announced, and nothing will be."""
        self.hold(2)
        self.until(lambda: 2 in self.heard, "the first answer")
        held = self.hold(3)
        self.world.run(0.5)
        held.update({"remaining_bytes": 1})
        held.end("cancelled")
        self.until(lambda: 3 in self.heard, "the answer")
        self.assertFalse(self.heard[3].confirmed)
        self.world.run(5.0)
        self.assertEqual((held.change_id, self.absences(3).documents()), (None, []))

    def test_later_asker_of_the_answer(self) -> None:
        """It is kept for whoever asks again."""
        held = self.hold(2)
        self.until(lambda: 2 in self.heard, "the answer")
        self.assertEqual(self.successResultOf(held.go), Go(confirmed=True))

    def test_cannot_be_held(self) -> None:
        """It is announced at once, whoever else is away."""
        self.hold(2)
        self.until(lambda: 2 in self.heard, "the first answer")
        self.world.nodes[3].driver.absences.hold(Notice("freeze", {}, "test", False))
        self.assertEqual([record["kind"] for record in self.absences(3).documents()], ["freeze"])

    def test_begun_while_the_core_is_busy(self) -> None:
        """By somebody who hears of an event, in a step: each has its own name, and can be ended at once."""
        driver = self.world.nodes[2].driver
        begun: list[HeldChange] = []

        def begin(event: object) -> None:
            unsubscribe()
            for kind in ("snapshot", "memory"):
                begun.append(driver.absences.hold(Notice(kind, {}, "test", False)))
            begun[0].end("cancelled")

        unsubscribe = driver.events.subscribe(begin)
        self.hold(2)
        self.until(lambda: len(begun) == 2 and begun[1].confirmed, "the answer")
        kinds = {record["change_id"]: (record["kind"], record["outcome"]) for record in driver.absences.documents()}
        self.assertEqual(kinds[begun[0].change_id], ("snapshot", "cancelled"))
        self.assertEqual(kinds[begun[1].change_id], ("memory", None))

    def test_new_facts(self) -> None:
        """They refine what was announced, and small changes are not worth a word."""
        held = self.world.nodes[2].driver.absences.hold(Notice("migrate_out", {}, "test", True))
        held.go.addCallback(lambda go: self.heard.__setitem__(2, go))
        self.until(lambda: 2 in self.heard, "the answer")
        held.update({"remaining_bytes": 60e9, "bandwidth_bytes_per_s": 1e9})
        (record,) = self.absences(2).documents()
        self.assertEqual((record["announced_ms"], record["basis"]), (5000, "formula"))
        self.assertGreater(int(str(record["expected_ms"])), 60_000)
        self.until(lambda: self.expected_ms(1, 2) == 60_000, "the new estimate")
        held.update({"remaining_bytes": 59e9})
        self.assertEqual(self.absences(2).documents()[0]["expected_ms"], record["expected_ms"])

    def expected_ms(self, node_id: int, of: int) -> int:
        """How long a node expects a member to be away."""
        members = self.world.nodes[node_id].driver.status()["members"]
        return int(next(member["expected_ms"] or 0 for member in members if member["node_id"] == of))

    def test_stopped(self) -> None:
        """A node that stops lets everybody go."""
        self.hold(2)
        self.until(lambda: 2 in self.heard, "the first answer")
        self.hold(3)
        driver = self.world.nodes[3].driver
        self.world.run(0.2)
        driver.halt()
        late = driver.absences.hold(Notice("freeze", {}, "test", False))
        self.world.run(0.1)  # and not only at its bound
        self.assertEqual(self.heard[3].confirmed, False)
        self.assertEqual(self.successResultOf(late.go), Go(confirmed=False, unsafe="this node has stopped"))


class MoreAtOnce(AbsencesCase):
    """As many as the operator allows, and as the quorum stands."""

    config = ProtocolConfig(
        node_id=1, members=(), inactivity=InactivityConfig(at_once=2), quorum=QuorumConfig(planned_floor=1)
    )

    def test_two(self) -> None:
        """Both go."""
        self.hold(2)
        self.hold(3)
        self.until(lambda: len(self.heard) == 2, "both answers")
        self.assertEqual(self.heard, {2: Go(confirmed=True), 3: Go(confirmed=True)})

    def test_quorum(self) -> None:
        """The last one does not, and hears why."""
        for node_id in (2, 3):
            self.hold(node_id)
        self.until(lambda: len(self.heard) == 2, "both answers")
        self.assertIn("without node 1 only 0 of 1 voters would be normal", self.absences(1).refusal())


class Questions(AbsencesCase):
    """May it be absent for so long, now?"""

    def test_yes(self) -> None:
        """Any member, from any node."""
        for node_id in (1, 2, 3):
            self.assertEqual([self.absences(node_id).refusal(of, 60.0) for of in (None, 1, 2, 3)], [""] * 4)

    def test_too_long(self) -> None:
        """Nobody would believe it."""
        self.assertIn("longer than inactivity.max (1h)", self.absences(1).refusal(2, 3601.0))

    def test_stranger(self) -> None:
        """There is no such member."""
        with self.assertRaises(ValueError) as caught:
            self.absences(1).refusal(4)
        self.assertIn("node 4 is no member; the members are: 1, 2, 3", str(caught.exception))

    def test_no_master(self) -> None:
        """Nobody can say."""
        self.world.network.isolate(3)
        self.until(lambda: not self.world.nodes[3].driver.replica.master, "the loss of the master")
        self.assertIn("no master is known", self.absences(3).refusal())


class ThirdParties(AbsencesCase):
    """What one node says of another."""

    def tell(self, teller: int, member: int, expected_s: float = 3.0) -> HeldChange:
        """The word of an operator of another node."""
        driver = self.world.nodes[teller].driver
        held = driver.absences.hold(Notice("freeze", {}, "test", False, None, member, expected_s))
        held.go.addCallback(lambda go: self.heard.__setitem__(teller, go))
        return held

    def test_member_that_is_there(self) -> None:
        """It leaves as for a change of its own, marked with who has said so, until that one says it is over."""
        held = self.tell(2, 3)
        self.until(lambda: 2 in self.heard, "the answer")
        self.assertEqual(self.heard[2], Go(confirmed=True))
        self.assertEqual([self.standing(node_id, 3) for node_id in (1, 2, 3)], ["inactive"] * 3)
        (own,) = self.absences(3).documents()
        self.assertEqual((own["member"], own["source"], own["outcome"]), (3, "node 2: test", None))
        self.world.run(2.0)
        self.assertEqual(self.standing(1, 3), "inactive")
        held.end("done")
        self.until(self.world.quiet, "everything is settled")
        self.assertEqual([self.absences(node_id).documents()[0]["outcome"] for node_id in (2, 3)], ["done", "done"])

    def test_member_that_is_gone(self) -> None:
        """It is believed to be away for the time that was said, and nobody fails it."""
        self.world.freeze(3)
        self.tell(2, 3, 5.0)
        self.until(lambda: 2 in self.heard, "the answer")
        self.world.run(4.0)
        self.assertEqual(self.standing(1, 3), "inactive")
        self.world.thaw(3)
        self.until(self.world.quiet, "everything is settled")
        self.assertEqual([event for _, _, event in self.world.events if event["kind"] == "node_failed"], [])

    def test_word_taken_back(self) -> None:
        """A member that has not said anything itself is a silent one from then on."""
        self.world.freeze(3)
        held = self.tell(2, 3, 60.0)
        self.until(lambda: 2 in self.heard, "the answer")
        held.end("done")
        self.until(lambda: self.standing(1, 3) == "failed", "the failure")

    def test_own_word_counts_more(self) -> None:
        """A member that is away by its own word needs no other, and who gives one hears so."""
        self.hold(3)
        self.until(lambda: 3 in self.heard, "the answer")
        held = self.tell(2, 3)
        self.until(lambda: 2 in self.heard, "the answer")
        self.assertIn("node 3 is away already (migrate_out, by self)", self.heard[2].unsafe)
        self.assertTrue(held.over)
        self.assertEqual(self.world.nodes[2].driver.history()["absences"], [])

    def test_member_after_words_of_its_own(self) -> None:
        """Who has spoken of others hears what is said of itself."""
        for member in (2, 1):
            held = self.tell(3, member)
            self.until(lambda: 3 in self.heard, "the answer")
            held.end("done")
            self.until(self.world.quiet, "everything is settled")
            del self.heard[3]
        self.tell(2, 3)
        self.until(lambda: 2 in self.heard, "the answer")
        self.assertEqual(len(self.absences(3).documents()), 3)

    def test_time_limit(self) -> None:
        """Nobody ends it: its time does, on both sides."""
        self.tell(2, 3, 0.5)
        self.until(lambda: 2 in self.heard, "the answer")
        self.until(self.world.quiet, "everything is settled")
        outcomes = {self.absences(node_id).documents()[0]["outcome"] for node_id in (2, 3)}
        self.assertLessEqual(outcomes, {"overdue", "done"})
        self.assertIn("overdue", outcomes)

    def test_pause_seen(self) -> None:
        """Evidence from outside of its clock: the node asks before it acts, and says what it knows it by."""
        self.world.nodes[2].driver.was_paused(2.0, "its marker has moved")
        self.until(self.world.quiet, "everything is settled")
        reasons = [str(event["reason"]) for _, node_id, event in self.world.events if node_id == 2]
        self.assertIn("this node was stopped for about 2.0 s: its marker has moved", reasons)


class Learning(AbsencesCase):
    """What earlier changes took."""

    def test_learned(self) -> None:
        """After a few, the next one of that kind and source is expected to take as long."""
        driver = self.world.nodes[2].driver
        for _ in range(5):
            held = driver.absences.hold(Notice("snapshot", {}, "test", False))
            self.world.run(3.0)
            held.end("done")
            self.until(self.world.quiet, "everything is settled")
        driver.absences.hold(Notice("snapshot", {}, "test", False))
        record = self.absences(2).documents()[-1]
        self.assertEqual((record["announced_ms"], record["basis"]), (3000, "learned"))
        other = driver.absences.hold(Notice("snapshot", {}, "somebody else", False))
        self.assertEqual((other.announced_s, self.absences(2).documents()[-1]["basis"]), (10.0, "fixed"))

    def test_kept(self) -> None:
        """It is there after a restart."""
        held = self.hold(2)
        self.until(lambda: 2 in self.heard, "the answer")
        held.end("done")
        self.until(self.world.quiet, "everything is settled")
        before = self.world.nodes[2].driver.history()
        self.world.crash(2)
        self.world.restart(2)
        self.until(self.world.quiet, "everything is settled")
        self.assertEqual(self.world.nodes[2].driver.history(), before)
        self.assertEqual([(past["kind"], past["outcome"]) for past in before["absences"]], [("migrate_out", "done")])

    def test_learned_from_what_took_too_long(self) -> None:
        """A platform that always says too little is not believed for ever; what is past does not count again."""
        driver = self.world.nodes[2].driver
        for _ in range(5):
            driver.absences.hold(Notice("freeze", {"expected_s": 2.0}, "test", False))
            self.world.freeze(2)
            self.world.run(7.0)
            self.world.thaw(2)
            self.until(self.world.quiet, "everything is settled")
        self.assertEqual({record["outcome"] for record in self.absences(2).documents()}, {"overdue"})
        held = driver.absences.hold(Notice("freeze", {"expected_s": 2.0}, "test", False))
        record = self.absences(2).documents()[-1]
        self.assertEqual((record["announced_ms"], record["basis"]), (7000, "learned"))
        self.world.run(6.0)
        held.update({"expected_s": 4.0})
        record = self.absences(2).documents()[-1]
        self.assertEqual((record["expected_ms"], record["basis"]), (10_000, "platform"))
