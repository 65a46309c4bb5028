"""What random runs have found, each in the smallest cluster that shows it."""

from __future__ import annotations

from itertools import pairwise

from twisted.trial import unittest

from txvbcast.absences import Change
from txvbcast.config import HeartbeatConfig
from txvbcast.core.liveness import TICKS_PER_HEARTBEAT
from txvbcast.sim.network import Conditions
from txvbcast.sim.watch import Watcher
from txvbcast.sim.world import Outcome, World
from txvbcast.wire.messages import Entry, Inactive, Message, Mode, Resumed, Standing, StandingEntry

#: At which the nodes of these clusters look at their timers.
TICK_S = HeartbeatConfig().interval_s / TICKS_PER_HEARTBEAT


def settled(seed: int, nodes: int) -> World:
    """A cluster that has begun its work."""
    world = World(seed, nodes)
    world.run_until(world.quiet, 30.0, "everything is settled")
    return world


class Resumes(Watcher):
    """Counts the RESUMED that come in."""

    count = 0

    def on_delivery(self, sender: int, to: int, sent_s: float, message: Message, by_link: bool) -> None:
        """A message comes in."""
        self.count += isinstance(message, Resumed)


class FoundTests(unittest.SynchronousTestCase):
    """A defect that was found is not found again."""

    def test_mute_member_fills_the_log(self) -> None:
        """A member whose words reach the master only through others is not back, and not failed anew for each copy."""
        world = settled(7, 5)
        before = len(world.logs()[1])
        world.network.cut.add((5, 1))
        world.network.break_link(1, 5, "cut off")
        world.run(3.0)
        self.assertEqual(len(world.logs()[1]), before + 1)
        world.network.heal()
        world.run_until(world.quiet, 30.0, "everything is settled")
        world.check()

    def test_read_forgotten_by_a_master_that_was_stopped(self) -> None:
        """A read whose quorum check was under way when the master was stopped is served when it goes on."""
        world = settled(9, 3)
        checks = world.nodes[1].driver.replica.checks
        read = world.read(2, b"k")
        world.run_until(lambda: checks.round is not None, 1.0, "the quorum check", every_s=0.0001)
        world.freeze(1)
        world.run(0.5)
        world.thaw(1)
        world.run_until(lambda: read.ended_s > 0, 10.0, "an answer")
        self.assertEqual(read.failed, "")

    def test_read_before_the_office_is_open(self) -> None:
        """A read that is asked while the master waits for a majority to hold its log is served once one does."""
        world = settled(10, 3)
        world.nodes[1].driver.move_master(2)
        starting = world.nodes[2].driver.replica.mastership.core
        world.run_until(lambda: starting.role == "starting", 5.0, "the handover", every_s=0.0001)
        read = world.read(2, b"k")
        world.run_until(lambda: read.ended_s > 0, 10.0, "an answer")
        self.assertEqual(read.failed, "")

    def test_resumed_and_heartbeats_go_round(self) -> None:
        """A member that is back while the master can order nothing does not fill the network with RESUMED."""
        resumes = Resumes()
        world = World(8, 5, Conditions(datagram_copy=0.3), watchers=[resumes])
        world.run_until(world.quiet, 30.0, "everything is settled")
        for node_id in (2, 3, 4):
            world.freeze(node_id)
        world.nodes[1].driver.received(4, Inactive(4, 1, 1, 1, "custom", 9000, 0, 0))  # cannot be committed now
        opened: list[Change] = []
        world.nodes[5].driver.absences.begin("migrate_out", 20.0, wait_s=0.01).addCallback(opened.append)
        world.run(0.05)
        world.nodes[5].driver.absences.end(opened[0].change_id)
        world.run(0.5)
        # One at the end of the change; then, for as long as the master cannot order it, one each heartbeat of
        # its own and one for each of the master's.
        self.assertLessEqual(resumes.count, 1 + 2 * 6)

    def test_vote_given_back_by_a_stale_look(self) -> None:
        """The flag that one member's leave takes from another is not given back by the other's return in one look."""
        world = settled(11, 5)
        for node_id in (5, 4):
            world.nodes[node_id].driver.absences.begin("migrate_out", 20.0)
            world.run(0.2)
        master = world.nodes[1].driver
        office = master.replica.office
        assert office is not None
        office.order_standing(StandingEntry(2, Standing.NORMAL, True, 1, 0))  # what comes now has to wait for it
        master.received(3, Inactive(3, 1, 1, 1, "custom", 9000, 0, 0, "self"))
        master.received(5, Resumed(5, 1, 1, 0, 0, 0))
        world.run(0.05)
        told = [entry.standing for entry in world.logs()[1] if entry.standing and entry.standing.node_id == 5]
        taken = next(place for place, entry in enumerate(told) if not entry.voter)
        back = next(place for place, entry in enumerate(told) if place > taken and entry.voter)
        self.assertIs(told[back].standing, Standing.NORMAL)

    def test_overdue_for_a_new_master(self) -> None:
        """A master that has just begun fails nobody for being overdue before it has listened for a while itself."""
        world = settled(12, 3)
        world.nodes[3].driver.absences.begin("migrate_out", 0.3)
        world.run(0.1)
        world.freeze(3)
        world.run(1.1)  # patience with it, 0.3 s x 1.5 + 0.8 s from its announcement on, is about to end
        world.nodes[1].driver.move_master(2)
        world.run(0.3)
        world.thaw(3)
        world.run_until(world.quiet, 30.0, "everything is settled")
        told = [entry.standing.standing for entry in world.logs()[1] if entry.standing and entry.standing.node_id == 3]
        self.assertNotIn(Standing.FAILED, told)

    def test_flights_of_a_handover_that_is_called_off(self) -> None:
        """What coordinators have had decided meanwhile is ordered when the master goes on."""
        world = settled(13, 3)
        refused: list[object] = []
        world.disk_factor[2] = 2000.0  # the successor does not store the log in time
        world.submit(3, b"fills the log")
        world.run(0.05)
        world.nodes[1].driver.move_master(2).addErrback(lambda failure: refused.append(failure.value))
        world.run(0.05)
        waiting = world.submit(3, b"waits", Mode.TWO_PHASE, 20.0)
        world.run_until(lambda: bool(refused), 10.0, "an answer to the move")
        world.disk_factor[2] = 1.0
        world.run_until(lambda: waiting.answer is not None, 10.0, "an answer to the client")
        self.assertEqual(waiting.kind, "committed")


class ClosedLoop(Watcher):
    """A client of one node with one transaction under way."""

    def __init__(self, node_id: int, mode: Mode) -> None:
        self._node_id, self._mode = node_id, mode
        self.answered_s: list[float] = []

    def on_world(self, world: World) -> None:
        """The cluster that is used."""
        self._world = world

    def on_answer(self, outcome: Outcome) -> None:
        """The next one, please."""
        assert outcome.kind == "committed", outcome
        self.answered_s.append(outcome.ended_s)
        self.hand_in()

    def hand_in(self) -> None:
        """One transaction."""
        self._world.submit(self._node_id, b"%d" % len(self._world.outcomes), self._mode)

    @property
    def longest_gap_s(self) -> float:
        """The longest time without an answer."""
        return max(later - earlier for earlier, later in pairwise(self.answered_s))


class HandoverTests(unittest.SynchronousTestCase):
    """The office changes hands under load."""

    def test_nobody_waits_for_a_tick(self) -> None:
        """The clients of any node have their next answer after some messages, not when timers are looked at."""
        for mode in Mode:
            for node_id in (1, 2, 3):
                loop = ClosedLoop(node_id, mode)
                world = World(node_id, 3, Conditions(0.0001, 0.0002), (0.0005, 0.001), watchers=[loop])
                world.run_until(world.quiet, 30.0, "everything is settled")
                loop.hand_in()
                for move in range(20):
                    world.nodes[3].driver.move_master(2 - move % 2)
                    world.run(0.0577)  # a bit more than a tick: every move comes at another moment between two
                self.assertEqual(world.master(), 1)
                self.assertLess(loop.longest_gap_s, TICK_S / 4, (mode, node_id))

    def test_what_the_office_began_with(self) -> None:
        """Who coordinated what a master finds in its log hears at once that it is committed."""
        for mode in Mode:
            waited_s = [self._waited_s(seed, mode) for seed in range(20)]
            self.assertLess(max(waited_s), TICK_S / 4, mode)

    def test_announced_absence(self) -> None:
        """A member that says so leaves, is away, and comes back without the others' clients waiting for a tick."""
        for mode in Mode:
            for absent, node_id in ((1, 2), (1, 3), (3, 1), (3, 2)):
                loop = ClosedLoop(node_id, mode)
                world = World(node_id, 3, Conditions(0.0001, 0.0002), (0.0005, 0.001), watchers=[loop])
                world.run_until(world.quiet, 30.0, "everything is settled")
                loop.hand_in()
                opened: list[Change] = []
                absences = world.nodes[absent].driver.absences
                absences.begin("freeze", 1.0).addCallback(opened.append)
                world.run_until(lambda: bool(opened), 1.0, "its leave")  # noqa: B023
                world.run(0.1)
                world.freeze(absent)
                world.run(0.5)
                world.thaw(absent)
                absences.end(opened[0].change_id)
                world.run(2.5)
                self.assertEqual(world.master(), 1)
                self.assertLess(loop.longest_gap_s, TICK_S / 4, (mode, absent, node_id))

    def _waited_s(self, seed: int, mode: Mode) -> float:
        """How long after the opening of an office the coordinator of a flight from before hears of it."""
        world = settled(seed, 3)
        world.run(seed * 0.0023)  # the office opens at another moment between two ticks
        last = world.nodes[3].driver.replica.journal
        before, outcome = last.tail, world.submit(3, b"x", mode)
        world.run_until(lambda: last.tail > before, 1.0, "the order", every_s=0.0001)
        world.network.cut.add((1, 3))
        world.network.break_link(1, 3, "cut off")  # before the master can say that it is committed
        world.nodes[2].driver.move_master(2)
        core = world.nodes[2].driver.replica.mastership.core
        world.run_until(lambda: core.role == "master", 1.0, "the handover", every_s=0.0001)
        opened_s = world.clock.seconds()
        world.run_until(lambda: outcome.answer is not None, 1.0, "an answer", every_s=0.0001)
        return outcome.ended_s - opened_s


class Succession(unittest.SynchronousTestCase):
    """Who becomes master after all were gone."""

    def test_candidate_without_a_vote_lets_others_claim(self) -> None:
        """Its log was behind one that had taken its vote; first by its id, it put the others off for ever."""
        world = settled(1, 3)
        for node_id in world.nodes:
            world.crash(node_id)
        leave = [
            StandingEntry(node_id, Standing.INACTIVE, False, 1, 1, "freeze", 1000, "self", "it announced its absence")
            for node_id in (1, 2)
        ]
        for node_id, known in ((3, 1), (2, 2)):
            disk = world.disks[node_id]
            for standing in leave[:known]:
                disk.entries.append(Entry(len(disk.entries) + 1, disk.log_epoch, standing=standing))
        for node_id in world.nodes:
            world.restart(node_id)
        world.run_until(world.quiet, 30.0, "everything is settled")
        world.check()
