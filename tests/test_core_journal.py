"""The log in memory: growing, adopting another one, what of it is durable, and what was applied."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.trial import unittest

from tests.core_samples import (
    E1_1,
    E2_2,
    E3_3,
    commons,
    effects,
    entry,
    examples,
    flight,
    journal,
    last_token,
    only,
    signals,
    standing,
    stored,
    to_self,
)
from txvbcast.core import journal as journal_module
from txvbcast.core.commons import Commons
from txvbcast.core.effects import ForgetResults, Persist, Send
from txvbcast.core.journal import Journal, SeenFlights
from txvbcast.core.signals import Advanced
from txvbcast.core.table import Table, initial, with_standing
from txvbcast.errors import LocalProtocolError
from txvbcast.wire.messages import Entry, FlightId, Read, Run, Standing

AWAY = standing(3, Standing.INACTIVE, change_id=1)
BACK = standing(3, Standing.CATCHING_UP, change_id=1)


class Growing(unittest.TestCase):
    """Append, commit, apply."""

    def setUp(self) -> None:
        self.commons = commons()
        self.journal = journal(self.commons)

    def apply(self, upto: int) -> list[tuple[int, bool]]:
        """Commit and apply; (seq, dead) of each."""
        self.journal.commit(upto)
        return [(each.seq, dead) for each, dead in self.journal.take_applicable()]

    def test_append_is_persisted_as_one_step(self) -> None:
        """With the committed mark riding along; nothing is dropped and no epoch changes."""
        self.journal.append((entry(1), entry(2)))
        self.journal.commit(1)
        self.journal.append((entry(3),))
        self.journal.append(())
        first, second = effects(self.commons)
        self.assertEqual(first, Persist(1, entries=(entry(1), entry(2)), committed=0))
        self.assertEqual(second, Persist(2, entries=(entry(3),), committed=1))

    def test_gap_is_a_defect(self) -> None:
        """An entry follows its predecessor, or nothing of it is taken."""
        self.journal.append((entry(1),))
        for seq in (1, 3):
            with self.assertRaises(LocalProtocolError) as caught:
                self.journal.append((entry(seq),))
            self.assertEqual(str(caught.exception), f"entry {seq} cannot follow entry 1")
        self.assertEqual(self.journal.tail, 1)

    def test_commit_only_rises(self) -> None:
        """And never beyond the end of the log."""
        self.journal.append((entry(1), entry(2)))
        self.assertTrue(self.journal.commit(1))
        self.assertFalse(self.journal.commit(1))
        self.assertFalse(self.journal.commit(0))
        self.assertTrue(self.journal.commit(9))
        self.assertEqual(self.journal.committed, 2)

    def test_apply_in_order_once(self) -> None:
        """Each committed entry, none before it is committed."""
        self.journal.append((entry(1), entry(2), entry(3)))
        self.assertEqual(self.apply(2), [(1, False), (2, False)])
        self.assertEqual(self.apply(2), [])
        self.assertEqual(self.apply(3), [(3, False)])
        self.assertEqual(self.journal.applied, 3)

    def test_half_way_through_applying(self) -> None:
        """Whoever looks between two entries sees the log applied up to the first of them."""
        self.journal.append((entry(1), entry(2, AWAY)))
        self.journal.commit(2)
        for each, _ in self.journal.take_applicable():
            self.assertEqual(self.journal.applied, each.seq)
            expected = Standing.NORMAL if each.seq == 1 else Standing.INACTIVE
            self.assertIs(self.journal.applied_table[3].standing, expected)

    def test_flights_by_place(self) -> None:
        """A flight is found until it is applied, and is finished from then on."""
        self.journal.append((entry(1, flight(7, origin=2)),))
        name = FlightId(2, 1, 7)
        self.assertEqual((self.journal.where(name), self.journal.finished(name)), (1, False))
        self.apply(1)
        self.assertEqual((self.journal.where(name), self.journal.finished(name)), (None, True))
        self.assertFalse(self.journal.finished(FlightId(2, 1, 8)))
        self.assertFalse(self.journal.finished(FlightId(3, 1, 7)))

    def test_second_copy_of_a_flight_is_dead(self) -> None:
        """The first one counts, also when both wait in the tail."""
        self.journal.append((entry(1, flight(7)), entry(2, flight(7)), entry(3, flight(8))))
        self.assertEqual(self.journal.where(FlightId(1, 1, 7)), 1)
        self.assertEqual(self.apply(3), [(1, False), (2, True), (3, False)])

    def test_flight_from_before_an_absence_is_dead(self) -> None:
        """The log shows that its origin was away since it proposed it."""
        self.journal.append((entry(1, AWAY), entry(2, flight(1, origin=3, born=0)), entry(3, flight(2, 3, born=1))))
        self.assertEqual(self.apply(3), [(1, False), (2, True), (3, False)])

    def test_flight_of_an_earlier_life_is_dead(self) -> None:
        """Once the table knows of a later one."""
        later = standing(3, Standing.NORMAL, incarnation=2)
        self.journal.append((entry(1, later), entry(2, flight(1, origin=3, incarnation=1, born=5))))
        self.assertEqual(self.apply(2), [(1, False), (2, True)])

    def test_flight_of_a_stranger_is_dead(self) -> None:
        """Whoever is not in the table proposes nothing."""
        self.assertTrue(self.journal.dead(flight(1, origin=9), self.journal.table))
        self.assertFalse(self.journal.dead(flight(1, origin=3), self.journal.table))

    def test_tables(self) -> None:
        """With everything in the log, with what is committed, with what is applied."""
        self.journal.append((entry(1, AWAY), entry(2), entry(3, BACK)))
        self.journal.commit(1)

        def standings() -> list[Standing]:
            tables = (self.journal.applied_table, self.journal.committed_table, self.journal.table)
            return [each[3].standing for each in tables]

        self.assertEqual(standings(), [Standing.NORMAL, Standing.INACTIVE, Standing.CATCHING_UP])
        self.assertEqual([each.seq for each in self.journal.open_standings], [3])
        self.apply(3)
        self.assertEqual(standings(), [Standing.CATCHING_UP] * 3)
        self.assertEqual(self.journal.open_standings, ())
        self.assertEqual(self.journal.table[3].since, 3)

    def test_bytes_above(self) -> None:
        """Payload only: a standing costs nothing, and a member that holds everything lacks nothing."""
        self.journal.append((entry(1, flight(1, items=(b"12345", b"678"))), entry(2, AWAY), entry(3, flight(3))))
        self.assertEqual([self.journal.bytes_above(seq) for seq in range(6)], [12, 4, 4, 0, 0, 0])
        self.apply(3)
        self.assertEqual(self.journal.bytes_above(1), 4)

    def test_restore(self) -> None:
        """What the store held is stored; committed is as far as it was known, and not further than the log."""
        self.commons.stored = stored(4, promised_epoch=E3_3, log_epoch=E2_2, committed=3, last_seq=4)
        log = journal(self.commons)
        log.restore((entry(1), entry(2)))
        self.assertEqual((log.tail, log.stored, log.committed), (2, 2, 2))
        log.restore((entry(3), entry(4, epoch=E2_2)))
        self.assertEqual((log.tail, log.stored, log.committed, log.applied), (4, 4, 3, 0))
        self.assertEqual((log.promised, log.log_epoch, log.epoch_at(4)), (E3_3, E2_2, E2_2))
        self.assertEqual(effects(self.commons), [], "what is on disk is not written again")


class Adopting(unittest.TestCase):
    """Becoming the log of another epoch."""

    def setUp(self) -> None:
        self.commons = commons()
        self.journal = journal(self.commons)
        self.journal.adopt(0, (), E1_1)
        self.journal.append((entry(1), entry(2, AWAY), entry(3, flight(3)), entry(4, BACK), entry(5, flight(5))))
        self.journal.on_persisted(last_token(self.commons))
        effects(self.commons)

    def test_one_durable_step(self) -> None:
        """What differs goes, what is missing comes, and with it the epoch and the promise."""
        new = (entry(3, flight(9), epoch=E2_2),)
        self.journal.adopt(2, new, E2_2)
        (write,) = effects(self.commons)
        self.assertEqual(write, Persist(3, 3, new, promised_epoch=E2_2, log_epoch=E2_2, committed=0))
        self.assertEqual((self.journal.tail, self.journal.log_epoch, self.journal.promised), (3, E2_2, E2_2))

    def test_nothing_to_drop(self) -> None:
        """A log that is only behind keeps all it has."""
        self.journal.adopt(5, (entry(6),), E2_2)
        (write,) = only(Persist, effects(self.commons))
        self.assertIsNone(write.truncate_from)
        self.assertEqual(self.journal.tail, 6)

    def test_higher_promise_stays(self) -> None:
        """The log of a lower epoch than the promised one is never adopted."""
        self.journal.promise(E3_3)
        self.assertRaises(LocalProtocolError, self.journal.adopt, 5, (), E2_2)
        self.assertEqual((self.journal.promised, self.journal.log_epoch), (E3_3, self.journal.epoch_at(5)))

    def test_dropped_tail_is_rolled_back(self) -> None:
        """Tables, flights, bytes and epochs are what they were before it."""
        self.assertIs(self.journal.table[3].standing, Standing.CATCHING_UP)
        self.journal.adopt(2, (), E2_2)
        self.assertIs(self.journal.table[3].standing, Standing.INACTIVE)
        self.assertEqual([each.seq for each in self.journal.open_standings], [2])
        self.assertEqual([self.journal.where(FlightId(1, 1, k)) for k in (1, 3, 5)], [1, None, None])
        self.assertEqual(self.journal.bytes_above(0), 4)
        self.assertEqual([self.journal.epoch_at(seq) for seq in range(5)], [0, E1_1, E1_1, 0, 0])
        self.journal.append((entry(3, flight(5), epoch=E2_2),))
        self.assertEqual(self.journal.where(FlightId(1, 1, 5)), 3)
        self.assertEqual(self.journal.runs(), (0, (Run(1, E1_1), Run(3, E2_2))))

    def test_first_copy_is_kept_when_the_second_is_dropped(self) -> None:
        """The flight stays where it was found."""
        self.journal.append((entry(6, flight(3)),))
        self.journal.adopt(5, (), E2_2)
        self.assertEqual(self.journal.where(FlightId(1, 1, 3)), 3)

    def test_committed_entries_are_never_dropped(self) -> None:
        """It would be a defect to ask for that."""
        self.journal.commit(3)
        with self.assertRaises(LocalProtocolError) as caught:
            self.journal.adopt(2, (entry(3, epoch=E2_2),), E2_2)
        self.assertEqual(str(caught.exception), f"adopting epoch {E2_2} would drop committed entries from 3 on")
        self.assertEqual((self.journal.tail, self.journal.log_epoch), (5, E1_1))
        self.journal.adopt(3, (), E2_2)
        self.assertEqual(self.journal.tail, 3)

    def test_stored_after_adoption(self) -> None:
        """Nothing counts as stored under the new epoch until the disk has answered for the adoption itself."""
        self.journal.append((entry(6),))
        before = last_token(self.commons)
        self.journal.adopt(5, (), E2_2)
        self.assertEqual(self.journal.stored, -1)
        adoption = last_token(self.commons)
        self.journal.append((entry(6, flight(7), epoch=E2_2),))
        self.assertFalse(self.journal.on_persisted(before))
        self.assertEqual(self.journal.stored, -1)
        self.assertTrue(self.journal.on_persisted(adoption))
        self.assertEqual(self.journal.stored, 5)
        self.assertTrue(self.journal.on_persisted(last_token(self.commons)))
        self.assertEqual(self.journal.stored, 6)

    def test_stored_after_two_adoptions(self) -> None:
        """The answer to the first says nothing about the second."""
        self.journal.adopt(5, (), E2_2)
        first = last_token(self.commons)
        self.journal.adopt(4, (), E3_3)
        self.assertFalse(self.journal.on_persisted(first))
        self.assertEqual(self.journal.stored, -1)
        self.assertTrue(self.journal.on_persisted(last_token(self.commons)))
        self.assertEqual(self.journal.stored, 4)

    def test_adopting_the_empty_log(self) -> None:
        """Nothing stored is another thing than nothing known to be stored."""
        log = journal(commons())
        log.adopt(0, (), E1_1)
        self.assertEqual(log.stored, -1)
        self.assertTrue(log.on_persisted(1))
        self.assertEqual(log.stored, 0)


class Promising(unittest.TestCase):
    """Promises and what waits for the disk."""

    def setUp(self) -> None:
        self.commons = commons()
        self.journal = journal(self.commons)

    def test_promise(self) -> None:
        """Counts at once, is written, and never falls."""
        self.journal.promise(E2_2)
        self.assertEqual(self.journal.promised, E2_2)
        self.assertEqual(effects(self.commons), [Persist(1, promised_epoch=E2_2, committed=0)])
        with self.assertRaises(LocalProtocolError):
            self.journal.promise(E1_1)
        self.assertEqual((self.journal.promised, effects(self.commons)), (E2_2, []))

    def test_promise_stores_nothing(self) -> None:
        """A durable promise does not make stored rise by itself."""
        self.journal.promise(E1_1)
        self.assertFalse(self.journal.on_persisted(1))

    def test_when_durable(self) -> None:
        """What rests on the disk leaves in order, and not before the write that it rests on is done."""
        self.journal.promise(E1_1)
        self.journal.when_durable((Send(2, Read(1)),), (Advanced(),))
        self.journal.append((entry(1),))
        self.journal.append((entry(2),))
        self.journal.when_durable((Send(1, Read(2)), ForgetResults(FlightId(1, 1, 1)), Send(3, Read(3))))
        self.journal.when_durable(signals=(Advanced(),))
        effects(self.commons)
        self.assertTrue(self.journal.on_persisted(2))
        self.assertEqual((effects(self.commons), signals(self.commons)), ([Send(2, Read(1))], [Advanced()]))
        self.assertTrue(self.journal.on_persisted(3))
        self.assertEqual(effects(self.commons), [ForgetResults(FlightId(1, 1, 1)), Send(3, Read(3))])
        self.assertEqual(to_self(self.commons), [Read(2)], "to itself, not over a link")
        self.assertEqual(signals(self.commons), [Advanced()])

    def test_when_durable_with_nothing_to_wait_for(self) -> None:
        """It happens at once."""
        self.journal.when_durable((Send(2, Read(1)),), (Advanced(),))
        self.assertEqual((effects(self.commons), signals(self.commons)), ([Send(2, Read(1))], [Advanced()]))

    def test_one_answer_for_several_writes(self) -> None:
        """A token stands for all before it; a late or repeated one changes nothing."""
        self.journal.append((entry(1),))
        self.journal.append((entry(2),))
        self.journal.when_durable((Send(2, Read(1)),))
        effects(self.commons)
        self.assertTrue(self.journal.on_persisted(2))
        self.assertEqual((self.journal.stored, effects(self.commons)), (2, [Send(2, Read(1))]))
        self.assertFalse(self.journal.on_persisted(1))
        self.assertFalse(self.journal.on_persisted(2))
        self.assertEqual((self.journal.stored, effects(self.commons)), (2, []))


class SeenFlightsTests(unittest.TestCase):
    """At most once: the memory of an origin's flights."""

    def test_floor_and_set_above(self) -> None:
        """What is below the oldest under way is settled, and need not be kept one by one."""
        seen = SeenFlights()
        for each in (flight(1), flight(4, oldest=2), flight(3, oldest=2)):
            seen.add(each)
        self.assertEqual([k for k in range(1, 7) if seen.holds(FlightId(1, 1, k))], [1, 3, 4])
        seen.add(flight(6, oldest=4))
        self.assertEqual([k for k in range(1, 8) if seen.holds(FlightId(1, 1, k))], [1, 2, 3, 4, 6])
        self.assertEqual(seen.above, {4, 6})

    def test_floor_never_falls(self) -> None:
        """A flight that was long under way names an older one than what is known."""
        seen = SeenFlights()
        seen.add(flight(9, oldest=9))
        seen.add(flight(5, oldest=2))
        self.assertTrue(all(seen.holds(FlightId(1, 1, k)) for k in range(1, 10)))

    def test_lives(self) -> None:
        """A later life begins anew; nothing of an earlier one is ever ordered again."""
        seen = SeenFlights()
        seen.add(flight(8, incarnation=3, oldest=8))
        self.assertFalse(seen.holds(FlightId(1, 4, 1)))
        self.assertTrue(seen.holds(FlightId(1, 2, 99)))
        seen.add(flight(1, incarnation=4))
        self.assertEqual([k for k in range(1, 10) if seen.holds(FlightId(1, 4, k))], [1])
        self.assertTrue(seen.holds(FlightId(1, 3, 9)))

    def test_late_flight_of_an_earlier_life(self) -> None:
        """Its number says nothing about the flights of the present life."""
        seen = SeenFlights()
        seen.add(flight(1, incarnation=2))
        seen.add(flight(50, incarnation=1, oldest=40))
        self.assertEqual([k for k in range(1, 60) if seen.holds(FlightId(1, 2, k))], [1])


rising_epochs = st.lists(st.sampled_from([E1_1, E2_2, E3_3, E3_3 + 65536]), max_size=12).map(sorted)


def log_of(epochs_in_order: list[int], committed: int = 0) -> Journal:
    """A log whose entries were ordered in these epochs."""
    log = journal(commons())
    log.append([entry(seq, epoch=epoch) for seq, epoch in enumerate(epochs_in_order, 1)])
    log.commit(committed)
    return log


class Matching(unittest.TestCase):
    """How far two logs are the same, told from the epochs of their entries."""

    def test_runs(self) -> None:
        """One for each epoch; the latest ones, and where they begin."""
        log = log_of([E1_1, E1_1, E2_2, E3_3, E3_3])
        self.assertEqual(log.runs(), (0, (Run(1, E1_1), Run(3, E2_2), Run(4, E3_3))))
        self.patch(journal_module, "RUNS_MAX", 2)
        self.assertEqual(log.runs(), (2, (Run(3, E2_2), Run(4, E3_3))))
        self.assertEqual(log_of([]).runs(), (0, ()))

    @examples()
    @given(rising_epochs)
    def test_epoch_at(self, epochs_in_order: list[int]) -> None:
        """Of every entry; none outside the log."""
        log = log_of(epochs_in_order)
        self.assertEqual([log.epoch_at(seq) for seq in range(len(epochs_in_order) + 2)], [0, *epochs_in_order, 0])

    @examples(200)
    @given(rising_epochs, rising_epochs, rising_epochs, st.data())
    def test_against_brute_force(
        self, common: list[int], mine: list[int], theirs: list[int], data: st.DataObject
    ) -> None:
        """Entry by entry from the first on, wherever the runs that are told begin."""
        here, there = sorted(common + mine), sorted(common + theirs)
        same = 0
        while same < min(len(here), len(there)) and here[same] == there[same]:
            same += 1
        committed = data.draw(st.integers(0, same), "committed here")
        last = data.draw(st.integers(committed, len(there)), "what of the other log counts")
        kept = data.draw(st.integers(1, 4), "runs told")
        base, runs = log_of(there).runs()
        if len(runs) > kept:
            runs = runs[-kept:]
            base = runs[0].first - 1
        expected = committed if committed < base else min(same, last)
        self.assertEqual(log_of(here, committed).matching(base, runs, last), expected)

    def test_committed_is_common(self) -> None:
        """Runs from further on than what is committed here cannot be compared; nor is anything below looked at."""
        log = log_of([E1_1, E1_1, E2_2], committed=1)
        self.assertEqual(log.matching(2, (Run(3, E2_2),), 3), 1)
        self.assertEqual(log.matching(1, (Run(2, E1_1), Run(3, E2_2)), 3), 3)
        self.assertEqual(log_of([E1_1], committed=1).matching(0, (Run(1, E3_3),), 1), 1)

    def test_gap_in_the_runs(self) -> None:
        """What a peer leaves out is not taken for the same."""
        self.assertEqual(log_of([E1_1, E1_1, E2_2]).matching(0, (Run(2, E1_1), Run(3, E2_2)), 3), 0)


@attrs.define
class Model:
    """The obvious journal: a list, and a disk that carries out writes one by one."""

    log: list[Entry] = attrs.field(factory=list)
    disk: list[Entry] = attrs.field(factory=list)
    disk_epoch: int = 0
    disk_promised: int = 0
    writes: list[Persist] = attrs.field(factory=list)

    def table(self, upto: int) -> Table:
        """The members as of an entry."""
        made = initial([1, 2, 3])
        for each in self.log[:upto]:
            if each.standing is not None:
                made = with_standing(made, each.seq, each.standing)
        return made

    def write(self) -> int:
        """The disk does the next write; its token."""
        write = self.writes.pop(0)
        if write.truncate_from is not None:
            del self.disk[write.truncate_from - 1 :]
        self.disk += write.entries
        self.disk_epoch = write.log_epoch or self.disk_epoch
        self.disk_promised = write.promised_epoch or self.disk_promised
        return write.token


class JournalMachine(RuleBasedStateMachine):
    """A journal against the obvious one, whatever happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.commons: Commons = commons()
        self.journal = journal(self.commons)
        self.model = Model()
        self.number = 0
        self.epoch_number = 1
        self.adopt(0, 0)

    def entries(self, first: int, count: int, standings: bool) -> list[Entry]:
        """New ones."""
        made = []
        for seq in range(first, first + count):
            self.number += 1
            what = standing(self.number % 3 + 1, list(Standing)[self.number % 4], self.number % 2 == 0)
            some_flight = flight(self.number, items=(bytes(self.number % 5),), oldest=1, born=self.number)
            made.append(entry(seq, what if standings else some_flight, self.epoch_number << 16 | 1))
        return made

    @rule(count=st.integers(0, 3), standings=st.booleans())
    def append(self, count: int, standings: bool) -> None:
        """The log grows."""
        new = self.entries(len(self.model.log) + 1, count, standings)
        self.journal.append(new)
        self.model.log += new

    @rule(kept=st.integers(0, 4), count=st.integers(0, 3))
    def adopt(self, kept: int, count: int) -> None:
        """Another epoch's log: some of the uncommitted entries stay, others come."""
        match = min(self.journal.committed + kept, len(self.model.log))
        self.epoch_number += 1
        new = self.entries(match + 1, count, standings=kept % 2 == 0)
        self.journal.adopt(match, new, self.epoch_number << 16 | 1)
        self.model.log[match:] = new

    @rule()
    def promise(self) -> None:
        """A higher epoch."""
        self.journal.promise((self.epoch_number + 1) << 16)

    @precondition(lambda self: self.model.writes)
    @rule(count=st.integers(1, 3))
    def disk_answers(self, count: int) -> None:
        """Some of the writes are done; one answer for all of them."""
        before = self.journal.stored
        for _ in range(min(count, len(self.model.writes))):
            token = self.model.write()
        assert self.journal.on_persisted(token) == (self.journal.stored > before)

    @rule(upto=st.integers(0, 20))
    def commit_and_apply(self, upto: int) -> None:
        """As far as the log goes."""
        self.journal.commit(upto)
        for each, _ in self.journal.take_applicable():
            assert each == self.model.log[each.seq - 1]

    @invariant()
    def agree(self) -> None:
        """After every step."""
        self.model.writes += only(Persist, effects(self.commons))
        self.assert_same_log()
        self.assert_stored_is_on_disk()

    def assert_same_log(self) -> None:
        """Ends, epochs, bytes, tables and flights are those of the list."""
        log, model = self.journal, self.model
        tail = len(model.log)
        assert log.tail == tail
        assert [log.epoch_at(each.seq) for each in model.log] == [each.epoch for each in model.log]
        sizes = [sum(map(len, each.flight.items)) if each.flight else 0 for each in model.log]
        assert [log.bytes_above(seq) for seq in range(tail + 1)] == [sum(sizes[seq:]) for seq in range(tail + 1)]
        assert log.table == model.table(tail)
        assert log.committed_table == model.table(log.committed)
        assert log.applied_table == model.table(log.applied)
        waiting = {each.flight.id: each.seq for each in model.log[log.applied :] if each.flight}
        names = [FlightId(1, 1, number) for number in range(1, self.number + 1)]
        assert list(map(log.where, names)) == list(map(waiting.get, names))

    def assert_stored_is_on_disk(self) -> None:
        """Under the present epoch, entry by entry; and everything is, once all writes are done."""
        log, model = self.journal, self.model
        if log.stored >= 0:
            assert model.disk_epoch == log.log_epoch
            assert model.disk[: log.stored] == model.log[: log.stored]
            assert log.stored <= len(model.disk)
        if not model.writes:
            assert model.disk == model.log
            assert (log.stored, model.disk_epoch, model.disk_promised) == (log.tail, log.log_epoch, log.promised)


class JournalAgainstModel(unittest.TestCase):
    """Run the machine."""

    def test_machine(self) -> None:
        """Many short lives."""
        run_state_machine_as_test(JournalMachine, settings=examples(40, stateful_step_count=20))
