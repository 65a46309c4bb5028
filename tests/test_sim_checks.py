"""The checks of the simulator, one by one: what they go by, and that each notices what it is for.

That they are tripped by wrong versions of the protocol is shown by test_planted.
"""

from __future__ import annotations

from twisted.trial import unittest

from tests.planted import QUIET
from txvbcast.core.effects import Persist
from txvbcast.errors import Aborted, Committed
from txvbcast.sim.checks import Agreement, Violation, all_checks, check_outcomes
from txvbcast.sim.checks.facts import Change, LogView, Members
from txvbcast.sim.checks.reads import Reads
from txvbcast.sim.swarm import Swarm
from txvbcast.sim.world import Outcome, Read, World
from txvbcast.wire.messages import Entry, Flight, FlightId, Mode, Standing, StandingEntry

EPOCH = 65537


def flight(seq: int, number: int = 1) -> Entry:
    """An entry with a flight."""
    return Entry(seq, EPOCH, flight=Flight(FlightId(1, 1, number), Mode.BROADCAST, 0, 1, (b"x",)))


def standing(seq: int, node_id: int, standing: Standing, voter: bool) -> Entry:
    """An entry about a member."""
    return Entry(seq, EPOCH, standing=StandingEntry(node_id, standing, voter, 1, 0))


class ViolationTests(unittest.SynchronousTestCase):
    """What a check says."""

    def test_names_its_invariant(self) -> None:
        """By the beginning of its text; a core that stops has none."""
        self.assertEqual(Violation("invariant 12: no").invariant, 12)
        self.assertEqual(Violation("node 1 stopped: KeyError(3)").invariant, 0)
        self.assertEqual(Violation("not invariant 3: x").invariant, 0)


class AgreementTests(unittest.SynchronousTestCase):
    """Invariants 1, 2 and 5."""

    def test_order(self) -> None:
        """A gap or a repeat is a violation."""
        agreement = Agreement()
        agreement.note(1, 1, flight(1), False)
        self.assertRaises(Violation, agreement.note, 1, 1, flight(1), False)
        self.assertRaises(Violation, agreement.note, 1, 1, flight(3), False)
        agreement.note(1, 2, flight(1), False)  # the next life begins anew

    def test_agreement(self) -> None:
        """Another entry, or another judgement on it, is a violation."""
        agreement = Agreement()
        agreement.note(1, 1, flight(1), False)
        self.assertRaises(Violation, agreement.note, 2, 1, standing(1, 1, Standing.NORMAL, True), False)
        self.assertRaises(Violation, agreement.note, 3, 1, flight(1), True)

    def test_flight_once(self) -> None:
        """A flight at two places of the log is a violation, also where it is dead."""
        for dead in (False, True):
            agreement = Agreement()
            agreement.note(1, 1, flight(1), False)
            self.assertRaises(Violation, agreement.note, 1, 1, flight(2), dead)


class OutcomeTests(unittest.SynchronousTestCase):
    """Invariants 3, 4 and 5, as clients see them."""

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


class LogViewTests(unittest.SynchronousTestCase):
    """A node's log, as it follows from its writes."""

    def setUp(self) -> None:
        """Three members, nothing in the log."""
        self.view = LogView(0, 0, 0, [Change(0, 0, 0, Members.first([1, 2, 3]))])

    def test_standings_count_at_once_and_go_with_a_dropped_tail(self) -> None:
        """Voters are those of the log, committed or not."""
        self.view.write(Persist(1, entries=(flight(1), standing(2, 3, Standing.INACTIVE, False))), step=1)
        self.assertEqual(self.view.members.voters, {1, 2})
        self.assertFalse(self.view.members.normal(3))
        self.view.write(Persist(2, truncate_from=2, entries=(flight(2, 2),), log_epoch=7, promised_epoch=8), step=2)
        self.assertEqual(self.view.members.voters, {1, 2, 3})
        self.assertEqual((self.view.tail, self.view.log_epoch, self.view.promised), (2, 7, 8))

    def test_members_within_a_step(self) -> None:
        """What was counted in a step may have been counted by the table before or after each of its changes."""
        self.view.write(Persist(1, entries=(standing(1, 3, Standing.INACTIVE, False),)), step=1)
        self.view.write(Persist(2, entries=(standing(2, 3, Standing.NORMAL, True),)), step=2)
        self.assertEqual([sorted(members.voters) for members in self.view.members_in(2)], [[1, 2, 3], [1, 2]])
        self.assertEqual([sorted(members.voters) for members in self.view.members_in(3)], [[1, 2, 3]])

    def test_quorum(self) -> None:
        """More than half of the voters, whoever else is there."""
        members = Members.first([1, 2, 3, 4]).after(StandingEntry(4, Standing.FAILED, True, 1, 0))
        self.assertFalse(members.has_quorum({1, 2, 9}))
        self.assertTrue(members.has_quorum({1, 2, 4}))


class ReadTests(unittest.SynchronousTestCase):
    """Invariant 16."""

    def setUp(self) -> None:
        """A world in which one write was performed, which nobody has asked for yet."""
        self.world = World(nodes=2)
        for node in self.world.nodes.values():
            node.recorder.performed.append((1, b"k=1"))
        self.reads = Reads()
        self.reads.on_world(self.world)

    def written(self, began_s: float, ended_s: float) -> None:
        """A client has written."""
        outcome = Outcome(b"k=1", 1, began_s, answer=Committed(1, 0, b""), ended_s=ended_s)
        self.world.outcomes.append(outcome)
        self.reads.on_answer(outcome)

    def read(self, began_s: float, ended_s: float, seq: int, value: bytes | None) -> Read:
        """A client has read."""
        read = Read(b"k", 2, began_s, seq, value, ended_s=ended_s)
        self.world.reads.append(read)
        return read

    def test_stale(self) -> None:
        """A read that begins after a write was heard of has to know of it; one that overlaps need not."""
        self.written(1.0, 2.0)
        self.reads.on_read(self.read(1.5, 2.5, 0, None))
        self.reads.on_read(self.read(2.5, 3.0, 1, b"1"))
        self.reads.on_end()
        self.assertRaises(Violation, self.reads.on_read, self.read(2.5, 3.5, 0, None))
        self.assertRaises(Violation, self.reads.on_end)

    def test_of_another_read(self) -> None:
        """What one reader has seen the next one sees too."""
        self.written(1.0, 9.0)
        self.reads.on_read(self.read(2.0, 3.0, 1, b"1"))
        self.assertRaises(Violation, self.reads.on_read, self.read(4.0, 5.0, 0, None))

    def test_wrong_value(self) -> None:
        """The value is that of the log at the read's place."""
        self.written(1.0, 2.0)
        self.reads.on_read(self.read(3.0, 4.0, 1, b"2"))
        self.assertRaises(Violation, self.reads.on_end)

    def test_written_before_it_was_asked_for(self) -> None:
        """The log may not contradict the clients' times."""
        self.reads.on_read(self.read(1.0, 2.0, 1, b"1"))
        self.written(3.0, 4.0)
        self.assertRaises(Violation, self.reads.on_end)


class AllChecksTests(unittest.SynchronousTestCase):
    """All of them together."""

    def test_fresh_for_each_world(self) -> None:
        """Two worlds share nothing."""
        one, other = all_checks(), all_checks()
        self.assertFalse(set(map(id, one)) & set(map(id, other)))

    def test_always_on(self) -> None:
        """Every world is watched by every check, and a quiet run is clean."""
        world = Swarm(0, QUIET).run()
        watching = {
            type(hook.__self__) for name in ("on_step", "on_apply", "on_end") for hook in world.watchers.of(name)
        }
        self.assertLessEqual({"Steps", "Agreement", "Reads", "EqualStates"}, {kind.__name__ for kind in watching})
