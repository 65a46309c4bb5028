"""What random runs have found, each in the smallest cluster that shows it."""

from __future__ import annotations

from twisted.trial import unittest

from txvbcast.absences import Change
from txvbcast.sim.network import Conditions
from txvbcast.sim.watch import Watcher
from txvbcast.sim.world import World
from txvbcast.wire.messages import Entry, Inactive, Message, Mode, Resumed, Standing, StandingEntry


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
