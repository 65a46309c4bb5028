"""A master's office: giving places in the log, and counting who has them on disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from tests.core_samples import (
    E1_1,
    E2_2,
    commons,
    effects,
    entry,
    examples,
    flight,
    journal,
    last_token,
    signals,
    standing,
)
from txvbcast.core.commons import TURN
from txvbcast.core.effects import Persist, Send, SetTimer
from txvbcast.core.ordering import Office, accepted_part, fits
from txvbcast.core.signals import Advanced
from txvbcast.wire.messages import Committed, FlightId, Mode, Order, Run, Standing, Start


class OfficeCase(unittest.TestCase):
    """Node 2 is master of a cluster; its log holds one entry of an earlier epoch for each of ``before``."""

    nodes = 3
    before = 0

    def setUp(self) -> None:
        self.commons = commons(node_id=2, nodes=self.nodes)
        self.journal = journal(self.commons)
        self.journal.append([entry(seq) for seq in range(1, self.before + 1)])
        self.journal.adopt(self.before, (), E2_2)
        self.journal.on_persisted(last_token(self.commons))
        self.office = Office(self.commons, self.journal, E2_2, start_last=self.before)
        effects(self.commons)

    def order(self, *standings: tuple[int, Standing, bool]) -> None:
        """Put these in the log, or a flight where there is none."""
        for node_id, to, voter in standings:
            self.office.order_standing(standing(node_id, to, voter))
        if not standings:
            self.office.order_flight(flight(self.journal.tail + 1), None)

    def stored(self, **upto: int) -> None:
        """``n1=5``: node 1 has it up to 5."""
        for name, seq in upto.items():
            self.office.on_stored(int(name[1:]), seq)

    @property
    def marks(self) -> tuple[int, int]:
        """committed and everywhere."""
        return (self.journal.committed, self.office.everywhere)


class Ordering(OfficeCase):
    """ORDER, and what goes with it."""

    before = 2

    def test_flight(self) -> None:
        """It goes to the disk and, by name, to the others."""
        self.office.order_flight(flight(7, origin=3, items=(b"a", b"b", b"c")), (0, 2))
        name = FlightId(3, 1, 7)
        write, *sent = effects(self.commons)
        assert isinstance(write, Persist)
        (written,) = write.entries
        assert written.flight is not None
        self.assertEqual((written.seq, written.epoch), (3, E2_2))
        self.assertEqual((written.flight.items, written.flight.indices), ((b"a", b"c"), (0, 2)))
        order = Order(E2_2, 3, 0, 0, flight=name, accepted=(0, 2))
        self.assertEqual(sent, [Send(1, order), Send(3, order)])
        self.assertEqual(self.journal.where(name), 3)

    def test_own_flight(self) -> None:
        """What nobody has seen yet travels whole; what was voted on, everybody has."""
        own = flight(7, origin=2)
        self.office.order_flight(own, None)
        order = Order(E2_2, 3, 0, 0, proposal=own)
        self.assertEqual(effects(self.commons)[1:], [Send(1, order), Send(3, order)])
        self.assertEqual(order.flight_id, own.id)
        voted = flight(8, origin=2, mode=Mode.TWO_PHASE)
        self.office.order_flight(voted, None)
        order = Order(E2_2, 4, 0, 0, flight=voted.id)
        self.assertEqual(effects(self.commons)[1:], [Send(1, order), Send(3, order)])

    def test_standing(self) -> None:
        """It travels whole, and counts in the master's own table at once."""
        away = standing(3, Standing.INACTIVE, voter=False)
        self.office.order_standing(away)
        order = Order(E2_2, 3, 0, 0, standing=away)
        self.assertEqual(effects(self.commons)[1:], [Send(1, order), Send(3, order)])
        self.assertEqual(self.journal.table.voters, (1, 2))

    def test_start(self) -> None:
        """The log from its first run on, with what was ordered in this epoch so far."""
        self.order()
        self.assertEqual(self.office.start_message(), Start(E2_2, 0, (Run(1, E1_1), Run(3, E2_2)), 3))

    def test_watermarks_ride_on_orders(self) -> None:
        """COMMITTED goes out only with news that no ORDER has carried."""
        self.order()
        self.stored(n1=3, n2=3, n3=3)
        effects(self.commons)
        self.office.tell_everybody()
        news = Committed(E2_2, 3, 3)
        self.assertEqual(effects(self.commons), [Send(1, news), Send(3, news)])
        self.office.tell_everybody()
        self.assertEqual(effects(self.commons), [])
        self.order()
        self.stored(n1=4, n2=4)
        self.office.order_flight(flight(9), None)
        order = Order(E2_2, 5, 4, 3, flight=FlightId(1, 1, 9))
        self.assertEqual(effects(self.commons)[-2:], [Send(1, order), Send(3, order)])
        self.office.tell_everybody()
        self.assertEqual(effects(self.commons), [])

    def told(self) -> list[int]:
        """Who hears COMMITTED at the end of this turn."""
        effects(self.commons)
        self.office.tell_whom_it_concerns()
        return [effect.to for effect in effects(self.commons)]

    def test_who_waits_hears_at_once(self) -> None:
        """In broadcast the coordinator; the others hear it with the next order, or in a while."""
        self.office.order_flight(flight(7, origin=3), None)
        self.assertEqual(self.told(), [], "nothing is committed yet")
        self.stored(n1=3, n2=3)
        self.assertEqual((self.told(), self.told()), ([3], []))
        self.office.order_flight(flight(1, origin=2), None)
        self.stored(n1=4, n2=4)
        self.assertEqual(self.told(), [], "the master waits for nobody's word")
        self.office.hasten(1)
        self.assertEqual((self.told(), self.told()), ([1], []))

    def test_everybody_hears_of_votes_and_standings_at_once(self) -> None:
        """The next votes rest on what was voted on before; and who is waited for, on standings."""
        self.office.order_flight(flight(7, origin=3, mode=Mode.TWO_PHASE), None)
        self.stored(n1=3, n2=3)
        self.assertEqual(self.told(), [1, 3])
        self.office.order_standing(standing(3, Standing.INACTIVE))
        self.stored(n1=4, n2=4)
        self.assertEqual(self.told(), [1, 3])

    def test_three_phases(self) -> None:
        """The coordinator hears at once that every normal member holds it."""
        self.office.order_flight(flight(7, origin=3, mode=Mode.THREE_PHASE), None)
        self.stored(n1=3, n2=3)
        self.assertEqual(self.told(), [1, 3])
        self.stored(n3=3)
        self.assertEqual(self.told(), [3])


class Counting(OfficeCase):
    """``committed`` and ``everywhere``."""

    def test_majority_commits_all_store_everywhere(self) -> None:
        """The master counts once its own disk has answered."""
        self.order()
        self.order()
        self.stored(n1=2)
        self.assertEqual(self.marks, (0, 0))
        self.stored(n2=1)
        self.assertEqual(self.marks, (1, 0))
        self.stored(n2=2, n3=1)
        self.assertEqual(self.marks, (2, 1))
        self.stored(n3=2)
        self.assertEqual(self.marks, (2, 2))

    def test_others_alone_can_commit(self) -> None:
        """A slow disk of the master does not hold the log up, only ``everywhere``."""
        self.order()
        self.stored(n1=1, n3=1)
        self.assertEqual(self.marks, (1, 0))

    def test_news_is_told(self) -> None:
        """By a signal to the other parts, and to the others at the end of the turn."""
        self.order()
        effects(self.commons)
        self.stored(n1=1)
        self.assertEqual((signals(self.commons), effects(self.commons)), ([], []))
        self.stored(n2=1)
        self.assertEqual((signals(self.commons), effects(self.commons)), ([Advanced()], [SetTimer(TURN, 0.0)]))
        self.stored(n3=1)
        self.assertEqual((signals(self.commons), effects(self.commons)), ([Advanced()], []))
        self.stored(n3=1)
        self.assertEqual(signals(self.commons), [])

    def test_nonsense_is_not_counted(self) -> None:
        """Neither more than there is, nor less than was said before."""
        self.order()
        self.stored(n1=2, n3=2)
        self.assertEqual((self.marks, self.office.stored), ((0, 0), {}))
        self.stored(n1=1, n2=1)
        self.stored(n1=0)
        self.assertEqual((self.marks, self.office.stored), ((1, 0), {1: 1, 2: 1}))

    def test_master_without_a_vote(self) -> None:
        """Does not count itself: both voters are needed."""
        self.order((2, Standing.NORMAL, False))
        self.stored(n2=1, n1=1)
        self.assertEqual(self.marks, (0, 0))
        self.stored(n3=1)
        self.assertEqual(self.marks, (1, 1))

    def test_vote_is_gone_with_the_entry(self) -> None:
        """Before that entry commits: a member without the flag counts in no quorum any more."""
        self.order()
        self.order((3, Standing.INACTIVE, False))
        self.stored(n2=2, n3=2)
        self.assertEqual(self.marks, (0, 0))
        self.stored(n1=1)
        self.assertEqual(self.marks, (1, 1))
        self.stored(n1=2)
        self.assertEqual(self.marks, (2, 2))

    def test_leaving_everywhere(self) -> None:
        """A member that goes away is waited for until its STANDING commits; in the log is not enough."""
        self.order()
        self.order((3, Standing.INACTIVE, True))
        self.stored(n2=2, n1=1)
        self.assertEqual(self.marks, (1, 0))
        self.stored(n1=2)
        self.assertEqual(self.marks, (2, 2), "node 3 has stored nothing, and is counted no more")

    def test_entering_everywhere(self) -> None:
        """A member that returns is waited for as soon as STANDING(normal) is in the log, committed or not."""
        self.order((3, Standing.INACTIVE, True))
        self.order((3, Standing.CATCHING_UP, True))
        self.stored(n1=2, n2=2)
        self.assertEqual(self.marks, (2, 2))
        self.order()
        self.order((3, Standing.NORMAL, True))
        self.stored(n1=3, n2=4)
        self.assertEqual(self.marks, (3, 2))
        self.stored(n1=4)
        self.assertEqual(self.marks, (4, 2))
        self.stored(n3=1)
        self.assertEqual(self.marks, (4, 2), "what was said once does not fall")
        self.stored(n3=4)
        self.assertEqual(self.marks, (4, 4))

    def test_everywhere_is_committed(self) -> None:
        """Who is normal may be too few for a quorum."""
        self.order((1, Standing.INACTIVE, True), (3, Standing.INACTIVE, True))
        self.stored(n1=2, n2=2)
        self.assertEqual(self.marks, (2, 2))
        self.order()
        self.stored(n2=3)
        self.assertEqual(self.marks, (2, 2))

    def test_nobody_is_normal(self) -> None:
        """Then nobody can be relied on to serve."""
        self.order(*((node_id, Standing.CATCHING_UP, True) for node_id in (1, 2, 3)))
        self.stored(n1=3, n2=3, n3=3)
        self.assertEqual(self.marks, (3, 0))

    def test_member_without_a_vote_is_waited_for(self) -> None:
        """Standing and voter flag are two things."""
        self.order((3, Standing.NORMAL, False))
        self.stored(n1=1, n2=1)
        self.assertEqual(self.marks, (1, 0))
        self.stored(n3=1)
        self.assertEqual(self.marks, (1, 1))


class Starting(OfficeCase):
    """What the epoch started with."""

    nodes = 5
    before = 3

    def test_nothing_counts_before_the_whole_log_is_held(self) -> None:
        """A part of an older log that a majority holds may still be overtaken."""
        self.stored(n2=3, n1=2, n3=2, n4=2, n5=2)
        self.assertEqual((self.marks, self.office.has_majority()), ((0, 0), False))
        self.order()
        self.stored(n2=4, n1=3)
        self.assertEqual((self.marks, self.office.has_majority()), ((0, 0), False))
        self.stored(n5=3)
        self.assertEqual((self.marks, self.office.has_majority()), ((3, 2), True))
        self.stored(n1=4, n5=4)
        self.assertEqual(self.marks, (4, 2))

    def test_majority_of_voters(self) -> None:
        """Others may hold the log too; that says nothing."""
        self.order((4, Standing.FAILED, False), (5, Standing.FAILED, False))
        self.stored(n4=3, n5=3, n2=3)
        self.assertFalse(self.office.has_majority())
        self.stored(n3=3)
        self.assertTrue(self.office.has_majority())


class EmptyStart(OfficeCase):
    """The first epoch of all."""

    def test_empty_log(self) -> None:
        """A majority must still have said that it adopted it."""
        self.assertFalse(self.office.has_majority())
        self.stored(n2=0)
        self.assertFalse(self.office.has_majority())
        self.stored(n3=0)
        self.assertTrue(self.office.has_majority())
        self.assertEqual(self.marks, (0, 0))


class Parts(unittest.TestCase):
    """What of a flight is accepted."""

    def test_accepted_part(self) -> None:
        """Everything, as it is; or some items, with their original places."""
        whole = flight(1, items=(b"a", b"b", b"c"))
        self.assertIs(accepted_part(whole, None), whole)
        part = accepted_part(whole, (1, 2))
        self.assertEqual((part.id, part.items, part.indices), (whole.id, (b"b", b"c"), (1, 2)))

    def test_fits(self) -> None:
        """Some places of the flight, rising."""
        whole = flight(1, items=(b"a", b"b", b"c"))
        for good in (None, (0,), (2,), (0, 1, 2), (0, 2)):
            self.assertTrue(fits(whole, good), good)
        for bad in ((), (3,), (-1, 0), (1, 0), (0, 0), (0, 3), (0, 1, 2, 3)):
            self.assertFalse(fits(whole, bad), bad)

    @examples()
    @given(st.sets(st.integers(0, 4), min_size=1))
    def test_every_choice_fits(self, places: set[int]) -> None:
        """And takes exactly these items."""
        whole = flight(1, items=(b"0", b"1", b"2", b"3", b"4"))
        accepted = tuple(sorted(places))
        self.assertTrue(fits(whole, accepted))
        self.assertEqual([int(item) for item in accepted_part(whole, accepted).items], sorted(places))
