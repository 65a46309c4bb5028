"""A follower's log, by hand: what it takes from whom."""

from __future__ import annotations

import attrs
from twisted.trial import unittest

from tests.core_samples import E1_1, commons, effects, entry, journal
from txvbcast.config import Address, MemberConfig, ProtocolConfig
from txvbcast.core import epochs
from txvbcast.core.catchup import WINDOW_BYTES, WINDOW_ENTRIES, Server
from txvbcast.core.commons import TICK, TURN
from txvbcast.core.effects import DropDatagrams, Effect, Persist, Prepare, ReadLog, Send, SetTimer
from txvbcast.core.inputs import Persisted, Received, Restored, StoredState, Submitted, TimerFired
from txvbcast.core.replica import Replica
from txvbcast.wire.messages import (
    Claim,
    ClaimWhy,
    Committed,
    Entries,
    Entry,
    Fetch,
    Flight,
    FlightId,
    Grant,
    Heartbeat,
    Inactive,
    Message,
    Mode,
    Order,
    Probe,
    ProbeReply,
    Propose,
    Refuse,
    Run,
    Standing,
    StandingEntry,
    Start,
    Stored,
)

FIRST = epochs.pair(1, 1)
SECOND = epochs.pair(2, 3)


class FollowerTests(unittest.SynchronousTestCase):
    """Node 2 of three."""

    def setUp(self) -> None:
        members = tuple(MemberConfig(k, f"n{k}", Address("127.0.0.1", 8400 + k)) for k in (1, 2, 3))
        self.replica = Replica(ProtocolConfig(2, members), StoredState(1, "disk-2", 0, 0, 0, 0))
        self.replica.step(0.0, Restored((), last=True))
        self.now_s = 0.0

    def receive(self, peer: int, message: Message) -> list[Effect]:
        """Let a message come in; everything is on disk at once, and the turn is over."""
        effects = self.replica.step(self.now_s, Received(peer, message))
        for effect in tuple(effects):
            if isinstance(effect, Persist):
                effects += self.replica.step(self.now_s, Persisted(effect.token))
        return effects

    def sent(self, effects: list[Effect], kind: type[Message]) -> list[Message]:
        """What of one kind was sent."""
        return [effect.message for effect in effects if isinstance(effect, Send) and type(effect.message) is kind]

    def flight(self, number: int, origin: int = 1) -> Flight:
        """A flight of one item."""
        return Flight(FlightId(origin, 1, number), Mode.BROADCAST, 0, 1, (b"x",))

    def order(self, seq: int, number: int, epoch: int = FIRST, origin: int = 1) -> Order:
        """Its place."""
        return Order(epoch, seq, 0, 0, flight=FlightId(origin, 1, number))

    def test_grows_in_order(self) -> None:
        """Orders that come before their payload, or before their predecessors, wait."""
        self.receive(1, Start(FIRST, 0, (), 0))
        journal = self.replica.journal
        self.receive(1, self.order(2, 2))
        self.receive(1, Propose(self.flight(2)))
        self.assertEqual(journal.tail, 0)
        self.receive(1, self.order(1, 1))
        self.assertEqual(journal.tail, 0)
        self.receive(1, Propose(self.flight(1)))
        self.assertEqual(journal.tail, 2)

    def carried(self, seq: int, number: int, origin: int = 1) -> Order:
        """The place of a flight of the master's own, which comes with it."""
        return Order(FIRST, seq, 0, 0, proposal=self.flight(number, origin))

    def test_grows_with_the_masters_own(self) -> None:
        """An order that carries its flight needs no proposal; one that is ahead keeps the name of it only."""
        self.receive(1, Start(FIRST, 0, (), 0))
        self.receive(1, self.carried(2, 2))
        self.assertEqual(self.replica.following.ahead, {2: self.order(2, 2)})
        self.assertEqual(set(self.replica.proposals.held), {FlightId(1, 1, 2)})
        (written,) = [effect for effect in self.receive(1, self.carried(1, 1)) if isinstance(effect, Persist)]
        self.assertEqual([entry.flight for entry in written.entries], [self.flight(1), self.flight(2)])
        self.assertEqual(self.replica.following.ahead, {})

    def test_carries_what_is_not_its_own(self) -> None:
        """Only its coordinator speaks for a flight: the order waits for that."""
        self.receive(1, Start(FIRST, 0, (), 0))
        self.receive(1, self.carried(1, 1, origin=3))
        self.assertEqual((self.replica.journal.tail, self.replica.proposals.held), (0, {}))
        self.receive(3, Propose(self.flight(1, origin=3)))
        self.assertEqual(self.replica.journal.tail, 1)

    def test_stopped(self) -> None:
        """What lay in its sockets while it was stopped is read when it has taken note of that."""
        self.assertFalse(any(isinstance(effect, DropDatagrams) for effect in self.receive(1, Start(FIRST, 0, (), 0))))
        self.now_s = 5.0
        stopped, *_ = self.receive(1, Propose(self.flight(1)))
        self.assertEqual(stopped, DropDatagrams())
        self.assertFalse(any(isinstance(effect, DropDatagrams) for effect in self.receive(1, self.order(1, 1))))
        self.assertEqual(self.replica.journal.tail, 1)

    def test_fetches_what_no_order_brings(self) -> None:
        """Orders from beyond the end of the log show at once that those before them will not come."""
        self.receive(1, Start(FIRST, 0, (), 0))
        self.assertEqual(self.sent(self.receive(1, self.order(3, 3)), Fetch), [Fetch(FIRST, FIRST, 1, 3)])
        self.receive(1, Propose(self.flight(4)))
        self.assertEqual(self.sent(self.receive(1, self.order(4, 4)), Fetch), [])
        entries = tuple(Entry(seq, FIRST, flight=self.flight(seq)) for seq in (1, 2, 3))
        self.assertEqual(self.sent(self.receive(1, Entries(FIRST, FIRST, entries)), Fetch), [])
        self.assertEqual((self.replica.journal.tail, self.replica.following.ahead), (4, {}))

    def test_fetches_the_gap_behind_a_fetch(self) -> None:
        """What was ordered between the last entry of a fetch and the first order is fetched without delay."""
        start = Start(FIRST, 0, (Run(1, FIRST),), 2)
        self.assertEqual(self.sent(self.receive(1, start), Fetch), [Fetch(FIRST, FIRST, 1, 2)])
        self.assertEqual(self.sent(self.receive(1, self.order(5, 5)), Fetch), [])
        entries = tuple(Entry(seq, FIRST, flight=self.flight(seq)) for seq in (1, 2))
        self.assertEqual(self.sent(self.receive(1, Entries(FIRST, FIRST, entries)), Fetch), [Fetch(FIRST, FIRST, 3, 5)])

    def held_back(self, count: int, item: bytes) -> list[Order]:
        """Let the orders of flights of one such item come in, but the first, which is returned with one more."""
        self.receive(1, Start(FIRST, 0, (), 0))
        flights = [attrs.evolve(self.flight(number), items=(item,)) for number in range(1, count + 2)]
        first, *others, last = (Order(FIRST, flight.id.number, 0, 0, proposal=flight) for flight in flights)
        for order in others:
            self.receive(1, order)
        return [first, last]

    def written(self, effects: list[Effect]) -> list[tuple[int, int]]:
        """The first and last seq of each write among ``effects``."""
        writes = [effect.entries for effect in effects if isinstance(effect, Persist) and effect.entries]
        return [(entries[0].seq, entries[-1].seq) for entries in writes]

    def test_takes_much_by_windows(self) -> None:
        """What has gathered goes to the disk in pieces, each when the one before is there, and the rest in its turn."""
        first, last = self.held_back(3 * WINDOW_ENTRIES, b"x")
        windows = [(1 + k * WINDOW_ENTRIES, (k + 1) * WINDOW_ENTRIES) for k in range(3)]
        out = self.replica.step(self.now_s, Received(1, first))
        self.assertEqual(self.written(out), windows[:1])
        for window in windows[1:]:
            (token,) = (effect.token for effect in out if isinstance(effect, Persist))
            out = self.replica.step(self.now_s, Persisted(token))
            self.assertEqual(self.written(out), [window])
        out = self.replica.step(self.now_s, Received(1, last))
        self.assertEqual(self.written(out), [(last.seq, last.seq)])

    def test_takes_much_by_bytes(self) -> None:
        """Few large ones are a window too, and one that is larger than a window goes alone."""
        for item, window in ((bytes(WINDOW_BYTES // 2), 2), (bytes(2 * WINDOW_BYTES), 1)):
            self.setUp()
            first, _ = self.held_back(5, item)
            self.assertEqual(self.written(self.replica.step(self.now_s, Received(1, first))), [(1, window)])

    def test_next_window_when_one_is_on_disk(self) -> None:
        """To write one while the next one comes would take from the others, with whom it shares its machine."""
        self.assertEqual(self.sent(self.receive(1, Start(FIRST, 0, (Run(1, FIRST),), 0)), Fetch), [])
        self.assertEqual(self.sent(self.receive(1, self.order(3, 3)), Fetch), [Fetch(FIRST, FIRST, 1, 3)])
        window = Entries(FIRST, FIRST, (Entry(1, FIRST, flight=self.flight(1)),))
        out = self.replica.step(self.now_s, Received(1, window))
        self.assertEqual((self.written(out), self.sent(out, Fetch)), ([(1, 1)], []))
        (token,) = (effect.token for effect in out if isinstance(effect, Persist))
        out = self.replica.step(self.now_s, Persisted(token))
        self.assertEqual(self.sent(out, Fetch), [Fetch(FIRST, FIRST, 2, 3)])

    def test_keeps_payloads_while_it_lags(self) -> None:
        """What its coordinator has settled may still be ahead of this node: then it needs no second copy of it."""
        self.receive(1, Start(FIRST, 0, (Run(1, FIRST),), 2))
        for number in (3, 4, 5):
            later = attrs.evolve(self.flight(number), oldest=number, seen=number - 1)
            self.receive(1, Propose(later))
            self.receive(1, self.order(number, number))
        entries = tuple(Entry(seq, FIRST, flight=self.flight(seq)) for seq in (1, 2))
        self.assertEqual(self.sent(self.receive(1, Entries(FIRST, FIRST, entries)), Fetch), [])
        self.assertEqual(self.replica.journal.tail, 5)
        self.receive(1, Propose(attrs.evolve(self.flight(6), oldest=6, seen=5)))
        self.assertEqual([fid.number for fid in self.replica.proposals.held], [6])

    def test_missing_payload_is_waited_for(self) -> None:
        """It comes from its coordinator, over another link, and may be on its way."""
        self.receive(1, Start(FIRST, 0, (), 0))
        self.assertEqual(self.sent(self.receive(1, self.order(1, 1, origin=3)), Fetch), [])
        self.assertEqual(self.sent(self.receive(1, self.order(2, 2, origin=3)), Fetch), [])

    def test_nothing_below_the_promise(self) -> None:
        """After a grant to another candidate nothing of the old epoch is appended, not even what waited."""
        self.receive(1, Start(FIRST, 0, (), 0))
        self.receive(1, self.order(1, 1))  # its payload is not here yet
        grants = self.sent(self.receive(3, Claim(SECOND, ClaimWhy.HANDOVER, FIRST)), Grant)
        self.assertEqual([(grant.epoch, grant.stored) for grant in grants if isinstance(grant, Grant)], [(SECOND, 0)])
        self.receive(1, Propose(self.flight(1)))
        self.assertEqual(self.replica.journal.tail, 0)
        refused = self.sent(self.receive(1, self.order(2, 2)), Refuse)
        self.assertEqual([message.promised for message in refused if isinstance(message, Refuse)], [SECOND])

    def test_no_adoption_below_the_promise(self) -> None:
        """Entries of a log that was to be adopted come too late once a higher epoch is promised.

        Found by random runs: a candidate went on adopting what it had fetched as a follower. The STORED that
        followed could have counted in the lower epoch, behind the back of its own claim.
        """
        self.receive(3, Start(SECOND, 0, (Run(1, FIRST),), 1))
        self.replica.journal.promise(epochs.pair(3, 2))  # its own claim
        late = self.receive(3, Entries(SECOND, SECOND, (entry(1, self.flight(1), FIRST),)))
        self.assertEqual((self.replica.journal.tail, self.replica.journal.log_epoch), (0, 0))
        self.assertEqual([each.log_epoch for each in late if isinstance(each, Persist)], [None])  # the promise

    def test_adoption_drops_what_differs(self) -> None:
        """A START with another log replaces the tail, after what is missing has been fetched."""
        self.receive(1, Start(FIRST, 0, (), 0))
        for number in (1, 2):
            self.receive(1, Propose(self.flight(number)))
            self.receive(1, self.order(number, number))
        runs = (Run(1, FIRST), Run(2, SECOND - 1))
        start = Start(epochs.pair(3, 3), 0, runs, 3)
        fetches = self.sent(self.receive(3, start), Fetch)
        self.assertEqual(fetches, [Fetch(start.epoch, start.epoch, 2, 3)])
        self.assertEqual((self.replica.journal.tail, self.replica.journal.log_epoch), (2, FIRST))
        entries = tuple(Entry(seq, SECOND - 1, flight=self.flight(seq + 7, origin=3)) for seq in (2, 3))
        self.receive(3, Entries(start.epoch, start.epoch, entries))
        journal = self.replica.journal
        self.assertEqual((journal.tail, journal.log_epoch, journal.stored), (3, start.epoch, 3))
        self.assertEqual([journal.epoch_at(seq) for seq in (1, 2, 3)], [FIRST, SECOND - 1, SECOND - 1])

    def test_adopts_what_the_epoch_started_with(self) -> None:
        """What was ordered since is no part of the one step: it comes in windows, when that is on disk."""
        self.receive(1, Start(FIRST, 0, (), 0))
        self.receive(1, self.carried(1, 1))
        start = Start(SECOND, 0, (Run(1, FIRST), Run(3, SECOND)), 4)
        self.assertEqual(self.sent(self.receive(3, start), Fetch), [Fetch(SECOND, SECOND, 2, 2)])
        second = Entry(2, FIRST, flight=self.flight(2))
        adopted = self.replica.step(0.0, Received(3, Entries(SECOND, SECOND, (second,))))
        (write,) = (effect for effect in adopted if isinstance(effect, Persist))
        self.assertEqual((write.log_epoch, write.entries, self.sent(adopted, Fetch)), (SECOND, (second,), []))
        durable = self.replica.step(0.0, Persisted(write.token))
        self.assertEqual([type(message) for message in self.sent(durable, Stored)], [Stored])
        self.assertEqual(self.sent(durable, Fetch), [Fetch(SECOND, SECOND, 3, 4)])
        rest = tuple(Entry(seq, SECOND, flight=self.flight(seq, origin=3)) for seq in (3, 4))
        self.assertEqual(self.sent(self.receive(3, Entries(SECOND, SECOND, rest)), Fetch), [])
        self.assertEqual((self.replica.journal.tail, self.replica.journal.stored), (4, 4))

    def heartbeat(self, epoch: int, beat: int, ordered: int, standing: Standing) -> Heartbeat:
        """A master's, in whose log this node has that standing."""
        table = self.replica.journal.committed_table.digest
        return Heartbeat(epoch, beat, ordered, 0, ordered, standing, 1, 0, table)

    def test_asks_before_it_succeeds_an_absent_master(self) -> None:
        """What it knows of the master's absence may be old: it promises nothing before a quorum agrees.

        Found by random runs: a node whose log lagged took every new master for absent, and deposed each in turn.
        """
        self.receive(1, Start(FIRST, 0, (), 0))
        self.receive(1, Inactive(1, 1, 1, 1, "custom", 9000, FIRST, 0, "self"))
        asked: list[Message] = []
        for tick in range(1, 12):
            asked += self.sent(self.replica.step(0.05 * tick, TimerFired(TICK)), Probe)
        self.assertEqual((self.replica.mastership.core.role, self.replica.journal.promised), ("probing", FIRST))
        nonce = next(message.nonce for message in asked if isinstance(message, Probe))
        self.now_s = 0.6
        self.receive(3, ProbeReply(FIRST, nonce, lost=False))
        self.assertEqual((self.replica.mastership.core.role, self.replica.journal.promised), ("probing", FIRST))
        self.receive(3, ProbeReply(FIRST, nonce, lost=True))
        self.assertEqual(self.replica.mastership.core.role, "claiming")

    def test_normal_although_an_entry_was_dropped(self) -> None:
        """A node that was told that it catches up, by a log that is dropped then, is normal as the next log says.

        Found by random runs: it waited for an entry that no log had any more.
        """
        self.receive(1, Start(FIRST, 0, (), 0))
        for seq, standing in ((1, Standing.CATCHING_UP), (2, Standing.NORMAL)):
            told = StandingEntry(2, standing, True, 1, 0)
            self.receive(1, Order(FIRST, seq, seq, 0, standing=told))
        self.assertEqual(self.replica.own.state, "normal")
        self.replica.own.machine.woke()
        self.receive(1, self.heartbeat(FIRST, 1, 2, Standing.CATCHING_UP))
        self.assertEqual(self.replica.own.state, "catching_up")
        self.receive(3, Start(SECOND, 0, (Run(1, FIRST),), 2))
        self.receive(3, self.heartbeat(SECOND, 1, 3, Standing.NORMAL))
        self.assertEqual(self.replica.own.state, "catching_up")  # an entry that is not here yet may be about it
        self.receive(3, self.heartbeat(SECOND, 2, 2, Standing.NORMAL))
        self.assertEqual(self.replica.own.state, "normal")

    def test_next_office_of_the_same_master(self) -> None:
        """What it was sent in its last one is sent again: a master forgets it with its office."""
        self.receive(1, Start(FIRST, 0, (), 0))
        for seq, standing in ((1, Standing.CATCHING_UP), (2, Standing.NORMAL)):
            self.receive(1, Order(FIRST, seq, seq, 0, standing=StandingEntry(2, standing, True, 1, 0)))
        self.replica.step(0.0, Submitted(1, Mode.BROADCAST, (b"x",), 5.0))
        first = self.sent(self.replica.step(0.0, TimerFired(TURN)), Propose)
        self.assertEqual(len(first), 2)
        again = self.sent(self.receive(1, Start(epochs.pair(2, 1), 0, (Run(1, FIRST),), 2)), Propose)
        self.assertEqual(again, first[:1])

    def test_stored_only_after_the_disk(self) -> None:
        """Neither the adoption nor an entry is acknowledged before it is durable."""
        effects = self.replica.step(0.0, Received(1, Start(FIRST, 0, (), 0)))
        token = next(effect.token for effect in effects if isinstance(effect, Persist))
        self.assertEqual(self.replica.journal.stored, -1)
        self.assertEqual(self.sent(effects, Stored), [])
        self.replica.following.say_stored()
        self.assertEqual(self.sent(self.replica.commons.out, Stored), [])
        self.assertEqual(len(self.sent(self.replica.step(0.0, Persisted(token)), Stored)), 1)
        self.replica.following.say_stored()
        self.assertEqual(self.sent(self.replica.commons.out, Stored), [])

    def test_stored_once_for_all_that_the_disk_says(self) -> None:
        """While the disk has more to answer, the end of the turn is waited for."""
        self.receive(1, Start(FIRST, 0, (), 0))
        writes = [
            effect
            for seq in (1, 2)
            for effect in self.replica.step(0.0, Received(1, self.carried(seq, seq)))
            if isinstance(effect, Persist)
        ]
        first, second = (self.replica.step(0.0, Persisted(write.token)) for write in writes)
        self.assertEqual((first, self.sent(second, Stored)), ([SetTimer(TURN, 0.0)], [Stored(FIRST, 2, "disk-2")]))
        self.assertEqual(self.replica.step(0.0, TimerFired(TURN)), [])

    def test_older_master_is_told(self) -> None:
        """A deposed master learns of the higher promise."""
        self.receive(3, Start(SECOND, 0, (), 0))
        refused = self.sent(self.receive(1, Start(FIRST, 0, (), 0)), Refuse)
        self.assertEqual([message.promised for message in refused if isinstance(message, Refuse)], [SECOND])

    def test_votes_after_what_the_coordinator_has_seen(self) -> None:
        """A vote waits until this node has applied what the coordinator's clients may have heard of."""
        self.replica.own.machine.told_normal()
        self.receive(1, Start(FIRST, 0, (), 0))
        self.receive(1, Propose(self.flight(1)))
        self.receive(1, self.order(1, 1))
        voted = Flight(FlightId(1, 1, 2), Mode.TWO_PHASE, 0, 1, (b"x",), seen=1)
        self.assertNotIn(Prepare(voted), self.receive(1, Propose(voted)))
        self.assertIn(Prepare(voted), self.receive(1, Committed(FIRST, 1, 0)))


class ServerTests(unittest.SynchronousTestCase):
    """Who has the entries."""

    def test_window(self) -> None:
        """One answer is bounded by entries too: while they are read, nothing is written."""
        shared = commons()
        log = journal(shared)
        log.append([entry(seq) for seq in range(1, 1001)])
        log.adopt(1000, (), E1_1)
        server = Server(shared, log)
        effects(shared)
        for first, last in ((1, WINDOW_ENTRIES), (100, 99 + WINDOW_ENTRIES), (999, 1000)):
            server.on_fetch(2, Fetch(E1_1, E1_1, first, 5000))
            (read,) = effects(shared)
            self.assertEqual((read.first, read.last) if isinstance(read, ReadLog) else read, (first, last))
