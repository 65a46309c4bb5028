"""The brain of a client, without sockets: the test plays the nodes and the clock."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from random import Random
from typing import Any, TypeVar

import attrs
from twisted.trial import unittest

from txvbcast.client import effects
from txvbcast.client.effects import Dial, Effect, Event, HangUp, Send, SetTimer, TellCommitted, TellFailed, Using
from txvbcast.client.failures import Failure
from txvbcast.client.queries import QUERIES_MAX
from txvbcast.client.session import Session
from txvbcast.errors import OutcomeUnknown
from txvbcast.wire import client_messages as wire
from txvbcast.wire.client_messages import FailureKind, NodeLine
from txvbcast.wire.messages import Mode

E = TypeVar("E")

NODES = tuple(NodeLine(k, f"node{k}", f"node{k}:84{k}1") for k in (1, 2, 3))
#: When somebody begins to follow events.
WALL_S = 97.0
SEEDS = ("tcp:node1:8411",)


def welcome(node_id: int, serving: bool = True, outstanding_max: int = 1000, cluster: str = "c") -> wire.Welcome:
    """A node's greeting."""
    return wire.Welcome(1, cluster, "name", node_id, serving, 100, outstanding_max, NODES)


@attrs.define
class Told:
    """What the user was told of transactions: by (ticket, place)."""

    committed: dict[tuple[int, int], tuple[int, int, bytes]] = attrs.field(factory=dict)
    failed: dict[tuple[int, int], Failure] = attrs.field(factory=dict)
    names: dict[tuple[int, int], str] = attrs.field(factory=dict)

    def take(self, told: Iterable[Effect]) -> None:
        """Note what a step tells; nobody is told twice."""
        for effect in told:
            if isinstance(effect, TellCommitted):
                for offset, result in enumerate(effect.results):
                    self._once((effect.ticket, effect.place + offset))
                    here = (effect.seq, effect.index + offset, result)
                    self.committed[effect.ticket, effect.place + offset] = here
            elif isinstance(effect, TellFailed):
                for k, place in enumerate(effect.places):
                    self._once((effect.ticket, place))
                    self.failed[effect.ticket, place] = effect.failure
                    if effect.request_ids:
                        self.names[effect.ticket, place] = effect.request_ids[k]

    def _once(self, who: tuple[int, int]) -> None:
        assert who not in self.committed and who not in self.failed, f"{who} was told twice"

    def kinds(self, ticket: int = 1) -> dict[int, str]:
        """What was told of a submission, by place."""
        found = {place: "committed" for each, place in self.committed if each == ticket}
        return found | {place: told.kind.value for (each, place), told in self.failed.items() if each == ticket}


class SessionCase(unittest.TestCase):
    """A session and its surroundings, which this test plays.

    :ivar now_s: the time.
    :ivar log: all effects so far.
    """

    def setUp(self) -> None:
        self.now_s = 100.0
        self.log: list[Effect] = []
        self.told = Told()
        self.timer_s: float | None = None

    def begin(self, *addresses: str, **options: Any) -> Session:
        """A session that has started."""
        self.session = Session(addresses or SEEDS, "s", **options)
        self.do(self.session.start(self.now_s))
        return self.session

    def do(self, wanted: list[Effect]) -> list[Effect]:
        """Note what a step wants; returns it."""
        self.log.extend(wanted)
        self.told.take(wanted)
        for effect in wanted:
            if isinstance(effect, SetTimer):
                self.timer_s = effect.at_s
        self._assert_timely()
        return wanted

    def _assert_timely(self) -> None:
        """The timer comes no later than anything that has to be looked at; it may come too early."""
        parts = (self.session._links, self.session._transactions, self.session._queries)
        times = [at_s for part in parts if (at_s := part.next_s()) is not None]
        if times and not self.session._closed:
            assert self.timer_s is not None
            self.assertLessEqual(self.timer_s, max(min(times), self.now_s))

    def of(self, kind: type[E], wanted: Iterable[Effect] | None = None) -> list[E]:
        """The effects of one class."""
        return [effect for effect in (self.log if wanted is None else wanted) if isinstance(effect, kind)]

    def sent(self, kind: type[E], wanted: Iterable[Effect] | None = None) -> list[tuple[int, E]]:
        """The messages of one class that were sent, with the links."""
        return [(each.link, each.message) for each in self.of(Send, wanted) if isinstance(each.message, kind)]

    def dialled(self) -> list[str]:
        """All addresses that were dialled."""
        return [effect.address for effect in self.of(Dial)]

    def welcome(self, link: int, node_id: int, **facts: Any) -> list[Effect]:
        """A connection is made, and its node says welcome."""
        return self.do(self.session.opened(self.now_s, link)) + self.hear(link, welcome(node_id, **facts))

    def hear(self, link: int, message: wire.ClientMessage) -> list[Effect]:
        """A message comes."""
        return self.do(self.session.received(self.now_s, link, message))

    def lose(self, link: int, reason: str = "reset") -> list[Effect]:
        """A connection ends."""
        return self.do(self.session.closed(self.now_s, link, reason))

    def submit(self, count: int = 1, ticket: int = 1, **options: Any) -> list[Effect]:
        """Hand transactions in."""
        payloads = [b"%d" % k for k in range(count)]
        return self.do(self.session.submit(self.now_s, ticket, "kv", payloads, **options))

    def wait(self, seconds: float, mute: tuple[int, ...] = ()) -> list[Effect]:
        """Let time pass; the nodes answer every Ping, but not on the links ``mute``."""
        until_s, happened = self.now_s + seconds, []
        while self.timer_s is not None and self.timer_s <= until_s:
            self.now_s, self.timer_s = max(self.now_s, self.timer_s), None
            wanted = self.do(self.session.due(self.now_s))
            for link, ping in self.sent(wire.Ping, wanted):
                if link not in mute:
                    wanted = wanted + self.hear(link, wire.Pong(ping.number))
            happened += wanted
        self.now_s = until_s
        return happened

    def connect(self, **options: Any) -> tuple[int, int]:
        """A session with node 1 in use and another one ready; the links, and the standby is node 2 or 3."""
        self.begin(**options)
        self.welcome(1, 1)
        self.welcome(2, self.standby)
        return 1, 2

    @property
    def standby(self) -> int:
        """The node that was dialled second."""
        return int(self.dialled()[1][len("tcp:node")])


class Connecting(SessionCase):
    """Which nodes are dialled, and which one is used."""

    def test_first_address_first(self) -> None:
        self.begin("tcp:node2:8421", "tcp:node1:8411")
        self.assertEqual(self.dialled(), ["tcp:node2:8421"])

    def test_welcome(self) -> None:
        self.begin(program="p", cluster_id="c")
        wanted = self.welcome(1, 1)
        hello = wire.ClientHello(1, 1, "s", "p", "c")
        self.assertEqual(self.sent(wire.ClientHello), [(1, hello)])
        self.assertEqual(self.of(Using, wanted), [Using(1)])
        self.assertEqual((self.session.node_id, self.session.cluster_id), (1, "c"))

    def test_a_second_one_is_kept_ready(self) -> None:
        self.connect()
        self.assertEqual(len(self.dialled()), 2)
        self.assertNotIn("node1", self.dialled()[1])
        self.wait(20.0)
        self.assertEqual(len(self.dialled()), 2)
        self.assertEqual(self.of(HangUp), [])

    def test_clients_are_spread_over_the_others(self) -> None:
        seconds = set()
        for name in range(20):
            self.log.clear()
            self.session = Session(SEEDS, f"client {name}")
            self.do(self.session.start(self.now_s))
            self.welcome(1, 1)
            seconds.add(self.dialled()[1])
        self.assertEqual(seconds, {"tcp:node2:8421", "tcp:node3:8431"})

    def test_others_are_tried_while_one_does_not_answer(self) -> None:
        self.begin("tcp:a:1", "tcp:b:1")
        self.wait(0.2)
        self.assertEqual(self.dialled(), ["tcp:a:1", "tcp:b:1"])

    def test_no_welcome(self) -> None:
        self.begin()
        self.do(self.session.opened(self.now_s, 1))
        self.wait(4.0)
        self.assertEqual(self.of(HangUp)[0], HangUp(1, "no answer"))
        self.assertEqual(self.dialled()[:2], [SEEDS[0]] * 2)

    def test_pause_between_attempts_grows(self) -> None:
        self.begin()
        tries = []
        for link in range(1, 9):
            self.lose(link, "refused")
            before_s = self.now_s
            while len(self.dialled()) == link:
                self.wait(0.01)
            tries.append(self.now_s - before_s)
        for shorter, longer in zip(tries[:4], tries[1:5], strict=True):
            self.assertGreater(longer, 1.5 * shorter)
        self.assertLess(tries[-1], 1.5)
        self.assertIn("tcp:node1:8411: refused", self.session.problems())

    def test_not_serving(self) -> None:
        self.begin("tcp:node1:8411", "tcp:node2:8421")
        wanted = self.welcome(1, 1, serving=False)
        self.assertEqual(self.of(HangUp, wanted), [HangUp(1, "node 1 takes no transactions now")])
        self.assertEqual(self.dialled()[-1], "tcp:node2:8421")
        self.assertEqual(self.session.node_id, 0)

    def test_another_cluster(self) -> None:
        self.begin("tcp:node1:8411", "tcp:other:1", cluster_id="c")
        wanted = self.welcome(1, 1, cluster="d")
        self.assertEqual(self.of(HangUp, wanted), [HangUp(1, "node 1 is of cluster 'd', not 'c'")])

    def test_a_second_address_of_one_node(self) -> None:
        self.begin("tcp:alias:1", "tcp:alias:2")
        self.welcome(1, 1)
        self.assertIn("tcp:alias:2", self.dialled())
        wanted = self.welcome(2, 1)
        self.assertEqual(self.of(HangUp, wanted), [HangUp(2, "there is a link to node 1 already")])
        self.assertIn("tcp:node", self.dialled()[-1])

    def test_another_version(self) -> None:
        self.begin()
        self.do(self.session.opened(self.now_s, 1))
        wanted = self.hear(1, attrs.evolve(welcome(1), version=9))
        self.assertEqual(self.of(HangUp, wanted), [HangUp(1, "node 1 speaks version 9, this client speaks 1")])

    def test_all_refuse(self) -> None:
        self.begin("tcp:a:1", "tcp:b:1")
        self.do(self.session.opened(self.now_s, 1))
        self.assertEqual(self.of(effects.AllRefused, self.hear(1, wire.Refused("no"))), [])
        self.do(self.session.opened(self.now_s, 2))
        wanted = self.hear(2, wire.Refused("never"))
        self.assertEqual(
            self.of(effects.AllRefused, wanted), [effects.AllRefused("tcp:a:1: refused: no; tcp:b:1: refused: never")]
        )

    def test_nodes_that_are_no_members_any_more_are_forgotten(self) -> None:
        self.connect()
        self.assertEqual(len(self.dialled()), 2)
        self.lose(1)
        self.lose(2)
        alone = attrs.evolve(welcome(1), nodes=NODES[:1])
        link = self.of(Dial)[-1].link
        self.wait(0.1)
        link = self.of(Dial)[-1].link
        self.do(self.session.opened(self.now_s, link))
        for number in range(1, link):
            self.lose(number)
        self.hear(link, alone)
        before = len(self.dialled())
        self.wait(10.0)
        self.assertEqual(set(self.dialled()[before:]) & {"tcp:node2:8421", "tcp:node3:8431"}, set())

    def test_addresses(self) -> None:
        self.assertRaises(ValueError, Session, (), "s")
        self.assertRaises(ValueError, Session, SEEDS, "s", patience_s=0)

    def test_ipv6(self) -> None:
        self.begin()
        self.do(self.session.opened(self.now_s, 1))
        self.hear(1, attrs.evolve(welcome(1), nodes=(NODES[0], NodeLine(2, "b", "[::1]:8421"))))
        self.assertEqual(self.dialled()[-1], r"tcp:\:\:1:8421")


class Submitting(SessionCase):
    """Transactions and their answers on one link."""

    def test_one_message_for_many(self) -> None:
        self.connect()
        wanted = self.submit(500, mode=Mode.TWO_PHASE, timeout_s=2.0)
        ((link, submit),) = self.sent(wire.Submit, wanted)
        self.assertEqual((link, submit.first, submit.done, len(submit.payloads)), (1, 1, 0, 500))
        self.assertEqual((submit.rm, submit.mode, submit.timeout_ms), ("kv", Mode.TWO_PHASE, 2000))

    def test_committed_in_pieces(self) -> None:
        self.connect()
        ((_, submit),) = self.sent(wire.Submit, self.submit(5))
        wanted = self.hear(1, wire.Committed(submit.batch, 2, 7, 10, (b"c", b"d", b"e")))
        self.assertEqual(self.of(TellCommitted, wanted), [TellCommitted(1, 2, 7, 10, (b"c", b"d", b"e"))])
        self.assertEqual(self.session.done, 0)
        self.hear(1, wire.Committed(submit.batch, 0, 8, 0, (b"a", b"b")))
        self.assertEqual(self.told.committed[1, 1], (8, 1, b"b"))
        self.assertEqual((self.session.done, self.session.unanswered), (5, 0))

    def test_done_rises_with_the_answers(self) -> None:
        self.connect()
        ((_, first),) = self.sent(wire.Submit, self.submit(3, ticket=1))
        ((_, second),) = self.sent(wire.Submit, self.submit(3, ticket=2))
        self.assertEqual((second.first, second.done), (4, 0))
        self.hear(1, wire.Committed(second.batch, 0, 1, 0, (b"",) * 3))
        ((_, third),) = self.sent(wire.Submit, self.submit(1, ticket=3))
        self.assertEqual(third.done, 0)
        self.hear(1, wire.Committed(first.batch, 0, 2, 0, (b"",)))
        ((_, fourth),) = self.sent(wire.Submit, self.submit(1, ticket=4))
        self.assertEqual(fourth.done, 1)
        self.hear(1, wire.Committed(first.batch, 1, 2, 1, (b"", b"")))
        ((_, fifth),) = self.sent(wire.Submit, self.submit(1, ticket=5))
        self.assertEqual(fifth.done, 6)

    def test_failures_of_every_kind(self) -> None:
        self.connect()
        ((_, submit),) = self.sent(wire.Submit, self.submit(4))
        kinds = (FailureKind.ABORTED, FailureKind.OVERLOADED, FailureKind.BAD_REQUEST, FailureKind.NO_QUORUM)
        for place, kind in enumerate(kinds):
            self.hear(1, wire.Failed(submit.batch, (place,), kind, "why", (2,)))
        self.assertEqual(self.told.kinds(), {place: kind.value for place, kind in enumerate(kinds)})
        self.assertEqual(self.session.unanswered, 0)
        self.assertEqual(self.told.failed[1, 0].who, (2,))

    def test_names_of_the_users(self) -> None:
        self.connect()
        ((_, submit),) = self.sent(wire.Submit, self.submit(2, request_ids=("a", "b")))
        self.assertEqual((submit.request_ids, submit.first, submit.done), (("a", "b"), 0, 0))
        ((_, numbered),) = self.sent(wire.Submit, self.submit(1, ticket=2))
        self.assertEqual((numbered.first, numbered.done), (1, 0))

    def test_what_makes_no_sense(self) -> None:
        self.connect()
        self.assertRaises(ValueError, self.submit, 0)
        self.assertRaises(ValueError, self.submit, 1, timeout_s=0)
        self.assertRaises(ValueError, self.submit, 2, request_ids=("a",))
        self.assertRaises(ValueError, self.session.submit, self.now_s, 1, "kv", [b"x" * 101])
        self.assertEqual(self.session.unanswered, 0)

    def test_the_node_takes_on_so_many(self) -> None:
        self.begin()
        self.welcome(1, 1, outstanding_max=10)
        ((_, first),) = self.sent(wire.Submit, self.submit(25))
        self.assertEqual(len(first.payloads), 10)
        wanted = self.hear(1, wire.Committed(first.batch, 0, 1, 0, (b"",) * 4))
        ((_, second),) = self.sent(wire.Submit, wanted)
        self.assertEqual((second.first, len(second.payloads)), (11, 4))

    def test_too_many(self) -> None:
        self.connect(waiting_max=100)
        self.submit(1090)
        wanted = self.submit(15, ticket=2)
        ((failed),) = self.of(TellFailed, wanted)
        self.assertEqual(failed.places, tuple(range(10, 15)))
        self.assertIs(failed.failure.kind, FailureKind.OVERLOADED)
        self.assertEqual(self.session.unanswered, 1100)

    def test_too_many_bytes(self) -> None:
        self.connect(waiting_bytes_max=1000)
        payloads = [b"x" * 100] * 12
        (failed,) = self.of(TellFailed, self.do(self.session.submit(self.now_s, 1, "kv", payloads)))
        self.assertEqual(failed.places, (10, 11))
        ((_, submit),) = self.sent(wire.Submit)
        self.hear(1, wire.Committed(submit.batch, 0, 1, 0, (b"",) * 10))
        self.assertEqual(self.of(TellFailed, self.submit(10, ticket=2)), [])

    def test_too_many_and_too_many_bytes(self) -> None:
        """Whichever bound is reached first counts."""
        self.begin(waiting_max=5, waiting_bytes_max=600)
        (failed,) = self.of(TellFailed, self.do(self.session.submit(self.now_s, 1, "kv", [b"x" * 100] * 12)))
        self.assertEqual(failed.places, tuple(range(5, 12)))

    def test_large_ones_go_in_several_messages(self) -> None:
        self.begin()
        self.do(self.session.opened(self.now_s, 1))
        self.hear(1, attrs.evolve(welcome(1), payload_bytes_max=2**20))
        payloads = [b"x" * 300_000] * 7
        sent = self.sent(wire.Submit, self.do(self.session.submit(self.now_s, 1, "kv", payloads)))
        self.assertEqual([len(submit.payloads) for _, submit in sent], [3, 3, 1])
        self.assertEqual([submit.first for _, submit in sent], [1, 4, 7])

    def test_one_that_stays_behind_stops_the_numbers(self) -> None:
        """Nodes remember a bounded number of answers; what is unanswered must not fall out of that."""
        self.begin()
        self.welcome(1, 1, outstanding_max=10_000)
        self.submit(1, ticket=1, timeout_s=600.0)
        sent = 0
        for ticket in range(2, 12):
            for _, submit in self.sent(wire.Submit, self.submit(5000, ticket=ticket)):
                sent += len(submit.payloads)
                self.hear(1, wire.Committed(submit.batch, 0, 1, 0, (b"",) * len(submit.payloads)))
        self.assertGreater(sent, 20_000)
        self.assertLessEqual(sent, 32_768)
        ((_, first), *_) = self.sent(wire.Submit)
        wanted = self.hear(1, wire.Committed(first.batch, 0, 1, 0, (b"",)))
        (_, next_one), *_ = self.sent(wire.Submit, wanted)
        self.assertEqual((next_one.first, next_one.done), (sent + 2, sent + 1))

    def test_before_there_is_a_node(self) -> None:
        self.begin()
        self.assertEqual(self.sent(wire.Submit, self.submit(3)), [])
        self.assertEqual(len(self.sent(wire.Submit, self.welcome(1, 1))), 1)

    def test_never_sent(self) -> None:
        self.begin()
        self.submit(3, timeout_s=1.0)
        self.wait(0.9)
        self.assertEqual(self.told.kinds(), {})
        self.wait(0.2)
        self.assertEqual(self.told.kinds(), dict.fromkeys(range(3), "no-quorum"))
        self.assertIn("nothing was sent", self.told.failed[1, 0].reason)

    def test_no_answer(self) -> None:
        self.connect()
        self.submit(2, timeout_s=1.0)
        self.wait(1.4)
        self.assertEqual(self.told.kinds(), {})
        self.wait(0.2)
        self.assertEqual(self.told.kinds(), dict.fromkeys(range(2), "outcome-unknown"))
        self.assertEqual(self.told.names, {(1, 0): "s#1", (1, 1): "s#2"})
        error = self.told.failed[1, 0].error(self.told.names[1, 0])
        assert isinstance(error, OutcomeUnknown)
        self.assertEqual(error.request_id, "s#1")

    def test_unknown_at_the_time_limit_is_told_at_once(self) -> None:
        self.connect()
        ((_, submit),) = self.sent(wire.Submit, self.submit(1, timeout_s=1.0))
        self.wait(1.0)
        self.hear(1, wire.Failed(submit.batch, (0,), FailureKind.OUTCOME_UNKNOWN, "late", (3,)))
        self.assertEqual(self.told.kinds(), {0: "outcome-unknown"})
        self.assertEqual(self.told.failed[1, 0].who, (3,))

    def test_unknown_early_is_asked_again(self) -> None:
        self.connect()
        ((_, submit),) = self.sent(wire.Submit, self.submit(2))
        self.hear(1, wire.Failed(submit.batch, (1,), FailureKind.OUTCOME_UNKNOWN, "stopped"))
        self.assertEqual(self.told.kinds(), {})
        ((_, again),) = self.sent(wire.Submit, self.wait(0.1))
        self.assertEqual((again.first, again.payloads), (2, (b"1",)))
        self.hear(1, wire.Committed(again.batch, 0, 4, 2, (b"r",)))
        self.assertEqual(self.told.committed, {(1, 1): (4, 2, b"r")})

    def test_an_unknown_one_can_be_asked_for(self) -> None:
        """Its number holds ``done`` back for a while: else the nodes would forget the answer."""
        self.connect()
        self.submit(1, timeout_s=0.1)
        self.wait(1.0)
        self.assertEqual(self.told.kinds(), {0: "outcome-unknown"})
        for ticket in range(2, 5):
            ((_, submit),) = self.sent(wire.Submit, self.submit(400, ticket=ticket))
            self.assertEqual(submit.done, 0 if ticket < 4 else 801)
            self.hear(1, wire.Committed(submit.batch, 0, ticket, 0, (b"",) * 400))

    def test_answers_that_do_not_fit(self) -> None:
        for wrong in (
            lambda batch: wire.Committed(batch, 1, 1, 0, (b"", b"")),
            lambda batch: wire.Committed(batch, 0, 1, 0, ()),
            lambda batch: wire.Failed(batch, (7,), FailureKind.ABORTED, "no"),
            lambda batch: welcome(1),
            lambda batch: wire.Ping(1),
        ):
            self.setUp()
            self.connect()
            ((_, submit),) = self.sent(wire.Submit, self.submit(2))
            self.assertEqual(len(self.of(HangUp, self.hear(1, wrong(submit.batch)))), 1)
            self.assertEqual(self.session.node_id, self.standby)

    def test_answers_that_come_twice(self) -> None:
        self.connect()
        ((_, submit),) = self.sent(wire.Submit, self.submit(3))
        self.hear(1, wire.Committed(submit.batch, 0, 1, 0, (b"", b"")))
        self.hear(1, wire.Committed(submit.batch, 0, 1, 0, (b"", b"")))
        self.hear(1, wire.Failed(submit.batch, (2, 2), FailureKind.ABORTED, "no"))
        self.hear(1, wire.Failed(submit.batch, (2,), FailureKind.ABORTED, "no"))
        self.assertEqual(self.told.kinds(), {0: "committed", 1: "committed", 2: "aborted"})

    def test_a_name_of_the_users_whose_outcome_is_unknown(self) -> None:
        self.connect()
        self.submit(2, timeout_s=0.5, request_ids=("a", "b"))
        self.wait(1.1)
        self.assertEqual(self.told.names, {(1, 0): "a", (1, 1): "b"})
        ((_, numbered),) = self.sent(wire.Submit, self.submit(1, ticket=2))
        self.assertEqual(numbered.done, 0)

    def test_close(self) -> None:
        self.begin()
        self.welcome(1, 1, outstanding_max=1)
        self.submit(2)
        wanted = self.do(self.session.close(self.now_s))
        self.assertEqual(self.told.kinds(), {0: "outcome-unknown", 1: "no-quorum"})
        self.assertIn(HangUp(1, "the client was closed"), wanted)
        self.assertEqual(self.do(self.session.closed(self.now_s, 1, "gone")), [])


class Costs(SessionCase):
    """What is done in Python is done for a message, not for a transaction."""

    def calls(self, count: int) -> int:
        """Function calls for a submission of so many, and its answer."""
        self.setUp()
        self.connect()
        payloads, results, calls = [b""] * count, (b"",) * count, 0

        def note(frame: object, what: str, argument: object) -> None:
            nonlocal calls
            calls += what in ("call", "c_call")

        sys.setprofile(note)
        try:
            wanted = self.session.submit(self.now_s, 1, "kv", payloads)
            ((_, submit),) = self.sent(wire.Submit, wanted)
            wanted += self.session.received(self.now_s, 1, wire.Committed(submit.batch, 0, 1, 0, results))
        finally:
            sys.setprofile(None)
        self.assertEqual(self.session.unanswered, 0)
        return calls

    def test_calls(self) -> None:
        self.assertGreater(self.calls(1), 10)
        self.assertLess(self.calls(1000), self.calls(1) + 10)


class ChangingOver(SessionCase):
    """One node goes, another is used."""

    def test_leaving(self) -> None:
        one, two = self.connect()
        ((_, before),) = self.sent(wire.Submit, self.submit(4))
        self.hear(one, wire.Committed(before.batch, 1, 1, 0, (b"",)))
        wanted = self.hear(one, wire.Leaving("migration", 5000))
        self.assertEqual(self.of(Using, wanted), [Using(self.standby)])
        sent = self.sent(wire.Submit, wanted)
        self.assertEqual([(link, each.first, len(each.payloads)) for link, each in sent], [(two, 1, 1), (two, 3, 2)])
        self.assertEqual(self.of(HangUp, wanted), [])

    def test_the_first_answer_counts(self) -> None:
        one, two = self.connect()
        ((_, before),) = self.sent(wire.Submit, self.submit(2))
        ((_, after),) = self.sent(wire.Submit, self.hear(one, wire.Leaving("away")))
        self.hear(one, wire.Committed(before.batch, 0, 5, 0, (b"x",)))
        self.hear(two, wire.Committed(after.batch, 0, 5, 0, (b"x", b"y")))
        self.assertEqual(self.told.committed, {(1, 0): (5, 0, b"x"), (1, 1): (5, 1, b"y")})

    def test_the_left_node_is_hung_up_when_it_owes_nothing(self) -> None:
        one, two = self.connect()
        ((_, before),) = self.sent(wire.Submit, self.submit(2))
        self.hear(one, wire.Leaving("away"))
        self.assertEqual(self.of(HangUp), [])
        wanted = self.hear(one, wire.Committed(before.batch, 0, 5, 0, (b"x", b"y")))
        self.assertEqual(self.of(HangUp, wanted), [HangUp(one, "its node leaves")])

    def test_a_standby_that_leaves_is_replaced(self) -> None:
        _, two = self.connect()
        wanted = self.hear(two, wire.Leaving("away"))
        self.assertEqual(self.of(HangUp, wanted), [HangUp(two, "its node leaves")])
        self.assertEqual(self.of(Using, wanted), [])
        third = ({"tcp:node2:8421", "tcp:node3:8431"} - {self.dialled()[1]}).pop()
        self.assertEqual(self.dialled()[2:], [third])

    def test_lost(self) -> None:
        one, two = self.connect()
        self.submit(2)
        wanted = self.lose(one)
        self.assertEqual(self.of(Using, wanted), [Using(self.standby)])
        ((link, submit),) = self.sent(wire.Submit, wanted)
        self.assertEqual((link, submit.first, submit.timeout_ms), (two, 1, 5000))

    def test_silent(self) -> None:
        one, two = self.connect(patience_s=0.8)
        self.submit(1)
        happened = self.wait(0.7, mute=(one,))
        self.assertEqual([link for link, _ in self.sent(wire.Ping, happened)], [one])
        self.assertEqual(self.of(Using, happened), [])
        happened = self.wait(0.2, mute=(one,))
        self.assertIn(HangUp(one, "node 1 is silent"), happened)
        ((link, submit),) = self.sent(wire.Submit, happened)
        self.assertEqual((link, submit.first), (two, 1))
        self.assertLess(submit.timeout_ms, 4300)

    def test_slow_but_there(self) -> None:
        self.connect()
        self.submit(1, timeout_s=60.0)
        self.wait(30.0)
        self.assertEqual(self.of(HangUp), [])

    def test_idle_links_are_tried_now_and_then(self) -> None:
        one, two = self.connect()
        happened = self.wait(6.0, mute=(two,))
        self.assertIn(HangUp(two, f"node {self.standby} is silent"), happened)
        self.assertEqual(len(set(self.dialled()[:3])), 3)
        self.assertEqual([link for link, _ in self.sent(wire.Ping, happened)], [one, two])

    def test_this_program_was_stopped(self) -> None:
        """No node is to blame for what was not read meanwhile."""
        self.connect()
        self.submit(1, timeout_s=60.0)
        self.wait(0.5, mute=(1,))
        self.assertEqual(len(self.sent(wire.Ping)), 1)
        self.now_s += 20.0
        self.timer_s = None
        self.do(self.session.due(self.now_s))
        self.assertEqual(self.of(HangUp), [])
        self.wait(0.6, mute=(1,))
        self.assertEqual(self.of(Using)[-1], Using(self.standby))

    def test_aborted_elsewhere_is_in_doubt(self) -> None:
        """The lost node may yet commit it: the user hears Aborted from nobody."""
        one, two = self.connect()
        self.submit(1, timeout_s=2.0)
        ((_, second),) = self.sent(wire.Submit, self.lose(one))
        self.hear(two, wire.Failed(second.batch, (0,), FailureKind.ABORTED, "reserved", (2,)))
        self.assertEqual(self.told.kinds(), {})
        ((_, third),) = self.sent(wire.Submit, self.wait(0.1))
        self.assertEqual(third.first, 1)
        self.hear(two, wire.Committed(third.batch, 0, 9, 0, (b"r",)))
        self.assertEqual(self.told.committed, {(1, 0): (9, 0, b"r")})

    def test_in_doubt_until_the_end(self) -> None:
        one, two = self.connect()
        self.submit(1, timeout_s=2.0)
        wanted = self.lose(one)
        for _ in range(100):
            if not self.sent(wire.Submit, wanted):
                break
            ((_, submit),) = self.sent(wire.Submit, wanted)
            self.hear(two, wire.Failed(submit.batch, (0,), FailureKind.NO_QUORUM, "no master"))
            wanted = self.wait(0.85)
        self.assertEqual(self.told.kinds(), {0: "outcome-unknown"})
        self.assertEqual(self.told.failed[1, 0].reason, "no answer in time; the last that was heard: no master")
        self.assertLess(len(self.sent(wire.Submit)), 9)  # the pause grows

    def test_too_late_to_be_sent_again(self) -> None:
        one, two = self.connect()
        self.submit(1, timeout_s=0.2)
        self.lose(two)
        self.lose(one)
        self.wait(0.3)
        link, node_id = next((each.link, int(each.address[8])) for each in reversed(self.of(Dial)))
        self.assertEqual(self.sent(wire.Submit, self.welcome(link, node_id)), [])
        self.wait(0.5)
        self.assertEqual(self.told.kinds(), {0: "outcome-unknown"})

    def test_aborted_by_both(self) -> None:
        """A node that leaves still answers: when both say No it is a No."""
        one, two = self.connect()
        ((_, first),) = self.sent(wire.Submit, self.submit(1))
        ((_, second),) = self.sent(wire.Submit, self.hear(one, wire.Leaving("away")))
        self.hear(two, wire.Failed(second.batch, (0,), FailureKind.ABORTED, "no"))
        self.assertEqual(self.told.kinds(), {})
        self.hear(one, wire.Failed(first.batch, (0,), FailureKind.ABORTED, "no"))
        self.assertEqual(self.told.kinds(), {0: "aborted"})

    def test_a_node_that_leaves_refuses(self) -> None:
        one, two = self.connect()
        ((_, first),) = self.sent(wire.Submit, self.submit(1))
        ((_, second),) = self.sent(wire.Submit, self.hear(one, wire.Leaving("away")))
        self.hear(one, wire.Failed(first.batch, (0,), FailureKind.NO_QUORUM, "stopped"))
        self.assertEqual(self.told.kinds(), {})
        self.hear(two, wire.Committed(second.batch, 0, 1, 0, (b"",)))
        self.assertEqual(self.told.kinds(), {0: "committed"})

    def test_a_late_yes_after_a_held_no(self) -> None:
        one, two = self.connect()
        ((_, first),) = self.sent(wire.Submit, self.submit(1))
        ((_, second),) = self.sent(wire.Submit, self.hear(one, wire.Leaving("away")))
        self.hear(two, wire.Failed(second.batch, (0,), FailureKind.ABORTED, "no"))
        self.hear(one, wire.Committed(first.batch, 0, 3, 0, (b"",)))
        self.assertEqual(self.told.kinds(), {0: "committed"})
        self.assertEqual(self.sent(wire.Submit, self.wait(2.0)), [])

    def test_nobody_is_left(self) -> None:
        one, two = self.connect()
        self.submit(2)
        self.lose(two)
        wanted = self.lose(one)
        self.assertEqual(self.of(Using, wanted), [Using(0)])
        self.submit(1, ticket=2)
        link = next(each.link for each in reversed(self.of(Dial)) if "node1" not in each.address)
        sent = self.sent(wire.Submit, self.welcome(link, int(self.of(Dial)[link - 1].address[len("tcp:node")])))
        self.assertEqual([submit.first for _, submit in sent], [1, 3])

    def test_a_node_without_quorum(self) -> None:
        """It may be on the wrong side of a cut: the other one is asked from now on, and not to and fro."""
        one, two = self.connect()
        ((_, first),) = self.sent(wire.Submit, self.submit(1))
        ((_, other),) = self.sent(wire.Submit, self.submit(1, ticket=2))
        wanted = self.hear(one, wire.Failed(first.batch, (0,), FailureKind.NO_QUORUM, "cut off"))
        self.assertEqual(self.told.kinds(), {0: "no-quorum"})
        self.assertEqual(self.of(Using, wanted), [Using(self.standby)])
        ((link, again),) = self.sent(wire.Submit, wanted)
        self.assertEqual((link, again.first), (two, 2))
        wanted = self.hear(two, wire.Failed(again.batch, (0,), FailureKind.NO_QUORUM, "cut off"))
        self.assertEqual(self.of(Using, wanted), [])
        self.hear(one, wire.Failed(other.batch, (0,), FailureKind.NO_QUORUM, "cut off"))
        self.assertEqual(self.told.kinds(2), {0: "no-quorum"})

    def test_garbage(self) -> None:
        self.connect()
        wanted = self.do(self.session.broken(self.now_s, 1, "no frame"))
        self.assertEqual(self.of(HangUp, wanted), [HangUp(1, "no frame")])
        self.assertEqual(self.of(Using, wanted), [Using(self.standby)])
        self.assertEqual(self.do(self.session.broken(self.now_s, 1, "no frame")), [])
        self.assertEqual(self.hear(1, wire.Pong(1)), [])

    def test_refused_in_the_middle(self) -> None:
        self.connect()
        self.submit(1)
        wanted = self.hear(1, wire.Refused("batch 1 came after batch 1"))
        self.assertEqual(self.of(HangUp, wanted), [HangUp(1, "batch 1 came after batch 1")])
        self.assertEqual(len(self.sent(wire.Submit, wanted)), 1)


class Asking(SessionCase):
    """Queries and events."""

    def ask(self, ticket: int = 7, timeout_s: float = 5.0) -> list[Effect]:
        """Ask for the status."""
        question = wire.GetKeys(1, "kv", ("k",), True, 1)
        return self.do(self.session.ask(self.now_s, ticket, question, timeout_s))

    def values(self, number: int) -> wire.Values:
        """An answer."""
        return wire.Values(number, 3, (wire.Value(b"v", 2),))

    def test_answer(self) -> None:
        self.connect()
        ((_, question),) = self.sent(wire.GetKeys, self.ask())
        self.assertEqual((question.keys, question.timeout_ms), (("k",), 5000))
        wanted = self.hear(1, self.values(question.query))
        self.assertEqual(self.of(effects.TellAnswer, wanted), [effects.TellAnswer(7, self.values(question.query))])
        self.assertEqual(self.of(effects.TellAnswer, self.hear(1, self.values(question.query))), [])
        late = wire.QueryFailed(question.query, FailureKind.NO_QUORUM, "no")
        self.assertEqual(self.of(effects.TellQueryFailed, self.hear(1, late)), [])

    def test_asked_again_elsewhere(self) -> None:
        one, two = self.connect()
        self.ask()
        self.now_s += 1.0
        ((link, again),) = self.sent(wire.GetKeys, self.lose(one))
        self.assertEqual((link, again.timeout_ms), (two, 4000))
        self.assertEqual(len(self.of(effects.TellAnswer, self.hear(two, self.values(again.query)))), 1)

    def test_a_no_counts_when_nobody_else_is_asked(self) -> None:
        one, two = self.connect()
        ((_, first),) = self.sent(wire.GetKeys, self.ask())
        ((_, second),) = self.sent(wire.GetKeys, self.hear(one, wire.Leaving("away")))
        no = FailureKind.NO_QUORUM
        wanted = self.hear(one, wire.QueryFailed(first.query, no, "stopped"))
        self.assertEqual(self.of(effects.TellQueryFailed, wanted), [])
        wanted = self.hear(two, wire.QueryFailed(second.query, no, "no quorum"))
        self.assertEqual(
            self.of(effects.TellQueryFailed, wanted), [effects.TellQueryFailed(7, Failure(no, "no quorum"))]
        )

    def test_no_answer(self) -> None:
        self.begin()
        self.ask(timeout_s=1.0)
        (failed,) = self.of(effects.TellQueryFailed, self.wait(1.1))
        self.assertIs(failed.failure.kind, FailureKind.NO_QUORUM)

    def test_a_silent_node(self) -> None:
        one, two = self.connect()
        self.ask()
        ((link, _),) = self.sent(wire.GetKeys, self.wait(1.0, mute=(one,)))
        self.assertEqual(link, two)

    def test_too_many(self) -> None:
        self.connect()
        for ticket in range(QUERIES_MAX):
            self.ask(ticket)
        (failed,) = self.of(effects.TellQueryFailed, self.ask(QUERIES_MAX))
        self.assertIs(failed.failure.kind, FailureKind.OVERLOADED)

    def test_close(self) -> None:
        self.connect()
        self.ask()
        self.do(self.session.follow(self.now_s, WALL_S, 8))
        self.assertEqual(len(self.of(effects.TellQueryFailed, self.do(self.session.close(self.now_s)))), 2)

    # --- events ---

    def event(self, number: int, query: int, time_s: float, missed: int = 0) -> wire.Event:
        """A node's word of something that happened."""
        document = {"id": number, "kind": "k", "time_s": time_s}
        return wire.Event(query, json.dumps(document).encode(), missed)

    def events(self, wanted: Iterable[Effect]) -> list[tuple[int, int]]:
        """Who told, and its number."""
        return [(each.event.told_by, each.event.id) for each in self.of(effects.TellEvent, wanted)]

    def test_events(self) -> None:
        self.connect()
        ((_, follow),) = self.sent(wire.Follow, self.do(self.session.follow(self.now_s, WALL_S, 8, after=3)))
        self.assertEqual(follow.after, 3)
        wanted = self.hear(1, self.event(5, follow.query, 10.0, missed=1))
        document = {"id": 5, "kind": "k", "time_s": 10.0}
        self.assertEqual(
            self.of(effects.TellEvent, wanted), [effects.TellEvent(8, Event(1, 5, 10.0, "k", document, 1))]
        )
        self.assertEqual(self.events(self.hear(1, self.event(6, follow.query, 9.0))), [(1, 6)])  # its clock was set
        self.assertEqual(
            self.sent(wire.Unfollow, self.do(self.session.forget(self.now_s, 8))), [(1, wire.Unfollow(follow.query))]
        )
        self.assertEqual(self.events(self.hear(1, self.event(7, follow.query, 11.0))), [])

    def test_events_go_on_elsewhere(self) -> None:
        one, two = self.connect()
        ((_, follow),) = self.sent(wire.Follow, self.do(self.session.follow(self.now_s, WALL_S, 8)))
        self.hear(one, self.event(50, follow.query, 100.0))
        wanted = self.hear(one, wire.Leaving("away"))
        self.assertEqual(self.sent(wire.Unfollow, wanted), [(one, wire.Unfollow(follow.query))])
        ((link, again),) = self.sent(wire.Follow, wanted)
        self.assertEqual((link, again.after), (two, 0))
        self.assertEqual(self.events(self.hear(one, self.event(51, follow.query, 101.0))), [])
        told = [self.hear(two, self.event(k, again.query, 98.0 + k)) for k in (0, 1, 2, 3)]
        self.assertEqual([self.events(each) for each in told], [[], [], [(self.standby, 2)], [(self.standby, 3)]])

    def test_events_go_on_at_a_node_that_was_started_anew(self) -> None:
        self.begin()
        self.welcome(1, 1)
        ((_, follow),) = self.sent(wire.Follow, self.do(self.session.follow(self.now_s, WALL_S, 8)))
        self.hear(1, self.event(50, follow.query, 100.0))
        self.lose(1)
        self.wait(0.5)
        link = next(each.link for each in reversed(self.of(Dial)) if "node1" in each.address)
        ((_, again),) = self.sent(wire.Follow, self.welcome(link, 1))
        told = [self.hear(link, self.event(k, again.query, 99.5 + k)) for k in (0, 1)]
        self.assertEqual([self.events(each) for each in told], [[], [(1, 1)]])

    def test_followed_before_there_is_a_node(self) -> None:
        """What happened since then is told, and nothing older."""
        self.begin()
        self.do(self.session.follow(self.now_s, WALL_S, 8))
        ((_, follow),) = self.sent(wire.Follow, self.welcome(1, 1))
        self.assertEqual(follow.after, 0)
        told = [self.hear(1, self.event(k, follow.query, 95.5 + k)) for k in (0, 1)]
        self.assertEqual([self.events(each) for each in told], [[], [(1, 1)]])

    def test_nothing_happened_before_the_change(self) -> None:
        one, two = self.connect()
        self.do(self.session.follow(self.now_s, WALL_S, 8))
        ((_, again),) = self.sent(wire.Follow, self.lose(one))
        told = [self.hear(two, self.event(k, again.query, 95.5 + k)) for k in (0, 1)]
        self.assertEqual([self.events(each) for each in told], [[], [(self.standby, 1)]])

    def test_all_that_is_kept_is_asked_for_late(self) -> None:
        self.begin()
        self.do(self.session.follow(self.now_s, WALL_S, 8, after=7))
        ((_, follow),) = self.sent(wire.Follow, self.welcome(1, 1))
        self.assertEqual(follow.after, 7)
        self.assertEqual(self.events(self.hear(1, self.event(8, follow.query, 1.0))), [(1, 8)])

    def test_events_that_are_none(self) -> None:
        for document in (b"{", b"[]", b'{"id": 1}'):
            self.setUp()
            self.connect()
            ((_, follow),) = self.sent(wire.Follow, self.do(self.session.follow(self.now_s, WALL_S, 8)))
            self.assertEqual(len(self.of(HangUp, self.hear(1, wire.Event(follow.query, document)))), 1)


# --- random schedules ------------------------------------------------------------------------


@attrs.define(eq=False)
class Part:
    """A transaction of a Submit that a node has not settled."""

    link: int
    batch: int
    place: int
    number: int


class World(SessionCase):
    """Nodes that share a log, and answer, lose and leave as chance wants it.

    What a session promises is compared with the log at the end, when all that a node still had was performed.

    :ivar placed: where each number stands in the log.
    :ivar floor: numbers up to this are over: never performed again.
    :ivar parts: what nodes still have, also those whose client is gone.
    """

    def play(self, seed: int) -> None:
        """One schedule."""
        SessionCase.setUp(self)
        self.random = Random(seed)
        self.placed: dict[int, int] = {}
        self.floor = 0
        self.parts: list[Part] = []
        self.open: dict[int, int] = {}
        self.dialling: dict[int, int] = {}
        self.numbers: dict[tuple[int, int], int] = {}
        self.handed_in = 0
        self.tickets = 0
        self.begin(waiting_max=60)
        for _ in range(300):
            self.random.choice(self.moves())()
            self.check_bounds()
        self.settle_down()
        self.check_truth()

    def do(self, wanted: list[Effect]) -> list[Effect]:
        """Carry out what the session wants."""
        SessionCase.do(self, wanted)
        for effect in wanted:
            if isinstance(effect, Dial):
                self.dialling[effect.link] = int(effect.address[len("tcp:node")])
            elif isinstance(effect, HangUp):
                self.dialling.pop(effect.link, None)
                self.open.pop(effect.link, None)
            elif isinstance(effect, Send) and isinstance(effect.message, wire.Submit):
                self.take(effect.link, effect.message)
        return wanted

    def take(self, link: int, submit: wire.Submit) -> None:
        """A node gets transactions."""
        assert submit.done < submit.first, "done passes what is being sent"
        self.floor = max(self.floor, submit.done)
        for place in range(len(submit.payloads)):
            self.parts.append(Part(link, submit.batch, place, submit.first + place))

    def moves(self) -> list[Any]:
        """What may happen now."""
        moves: list[Any] = [self.pass_time, self.hand_in, self.hand_in]
        if self.dialling:
            moves += [self.accept, self.accept, self.fail_to_connect]
        if self.parts:
            moves += [self.settle_one, self.settle_run] * 4
        if self.open:
            moves += [self.drop, self.leave]
        return moves

    def hand_in(self) -> None:
        count = self.random.choice([1, 1, 3, 20])
        self.tickets += 1
        overloaded = self.submit(count, ticket=self.tickets, timeout_s=self.random.choice([0.3, 2.0, 5.0]))
        refused = sum(len(each.places) for each in self.of(TellFailed, overloaded) if each.ticket == self.tickets)
        for place in range(count - refused):
            self.handed_in += 1
            self.numbers[self.tickets, place] = self.handed_in

    def accept(self) -> None:
        link, node_id = self.dialling.popitem()
        self.open[link] = node_id
        self.welcome(link, node_id, outstanding_max=30, serving=self.random.random() < 0.9)

    def fail_to_connect(self) -> None:
        link, _ = self.dialling.popitem()
        self.lose(link)

    def drop(self) -> None:
        link = self.random.choice(list(self.open))
        del self.open[link]
        self.lose(link)

    def leave(self) -> None:
        link = self.random.choice(list(self.open))
        self.hear(link, wire.Leaving("away"))

    def pass_time(self) -> None:
        mute = tuple(link for link in self.open if self.random.random() < 0.2)
        self.wait(self.random.choice([0.01, 0.1, 0.5]), mute)

    def settle_one(self) -> None:
        self.settle([self.parts.pop(self.random.randrange(len(self.parts)))])

    def settle_run(self) -> None:
        """Several of one batch, side by side."""
        first = self.random.choice(self.parts)
        run = [part for part in self.parts if (part.link, part.batch) == (first.link, first.batch)]
        for part in run:
            self.parts.remove(part)
        for part in run:
            self.settle([part])

    def settle(self, parts: list[Part]) -> None:
        """A node decides about transactions; if it is still connected the client hears of it."""
        for part in parts:
            answer = self.decide(part)
            if part.link in self.open and self.random.random() < 0.95:
                self.hear(part.link, answer)

    def decide(self, part: Part) -> wire.Committed | wire.Failed:
        seq = self.placed.get(part.number)
        if seq is None and self.random.random() < 0.6 and part.number > self.floor:
            seq = self.placed[part.number] = len(self.placed) + 1
        if seq is not None and part.number > self.floor:
            return wire.Committed(part.batch, part.place, seq, 0, (b"%d" % part.number,))
        kinds = list(FailureKind)[:4] if part.number > self.floor else [FailureKind.OUTCOME_UNKNOWN]
        kind = self.random.choice(kinds)
        if kind is FailureKind.OUTCOME_UNKNOWN:  # the node does not know: it may yet happen
            self.parts.append(attrs.evolve(part, link=0))
        return wire.Failed(part.batch, (part.place,), kind, "chance")

    def settle_down(self) -> None:
        """Nothing new is handed in; nodes answer or do not; the time runs out."""
        for _ in range(200):
            if self.session.unanswered == 0:
                break
            if self.dialling:
                self.accept()
            self.pass_time()
        self.assertEqual(self.session.unanswered, 0)
        for part in [*self.parts]:
            self.decide(part)

    def check_bounds(self) -> None:
        untold = [number for who, number in self.numbers.items() if not self.is_told(who)]
        self.assertLessEqual(self.session.unanswered, 60 + 30)
        self.assertEqual(self.session.unanswered, len(untold))
        self.assertLess(self.session.done, min(untold, default=self.handed_in + 1))

    def is_told(self, who: tuple[int, int]) -> bool:
        return who in self.told.committed or who in self.told.failed

    def check_truth(self) -> None:
        """What the user was told is what the log says."""
        for who, number in self.numbers.items():
            self.assertTrue(self.is_told(who), f"{who} was told nothing")
            if who in self.told.committed:
                heard = (self.placed[number], 0, b"%d" % number)
                self.assertEqual(self.told.committed[who], heard)
            elif self.told.failed[who].kind is FailureKind.OUTCOME_UNKNOWN:
                self.assertEqual(self.told.names[who], f"s#{number}")
            else:
                self.assertNotIn(number, self.placed, f"{who} was told {self.told.failed[who]}")

    def test_schedules(self) -> None:
        told = {"committed": 0, "aborted": 0, "outcome-unknown": 0, "no-quorum": 0, "overloaded": 0}
        for seed in range(400):
            try:
                self.play(seed)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
            for ticket in range(1, self.tickets + 1):
                for kind in self.told.kinds(ticket).values():
                    told[kind] += 1
        self.assertGreater(min(told.values()), 100, told)
