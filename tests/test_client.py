"""Clients, with and without a reactor, of nodes in this process, over real sockets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from tests.test_service import EmbeddedCase
from txvbcast.client import BadRequest, Client, Event, KeyValue, Outcomes, Unreachable, blocking, connect
from txvbcast.client.answers import mode_of
from txvbcast.client.blocking import _host_and_port
from txvbcast.client.effects import TellCommitted, TellFailed
from txvbcast.client.failures import Failure
from txvbcast.client.followers import EVENTS_WAITING_MAX, Waiting
from txvbcast.errors import Aborted, Committed, NoQuorum, OutcomeUnknown, Overloaded
from txvbcast.wire import client_messages as wire
from txvbcast.wire.client_messages import FailureKind, Item
from txvbcast.wire.codec import CLIENTS, FrameDecoder, encode_frame
from txvbcast.wire.kv import decode_result, put_payload
from txvbcast.wire.messages import Mode

reactor: Any = default_reactor


class ClientCase(EmbeddedCase):
    """A cluster of three, and clients of it."""

    def endpoint(self, node_id: int) -> str:
        """Where a node listens for clients."""
        address = self.configs[node_id - 1].listen.client
        return f"tcp:{address.host}:{address.port}"

    async def client(self, *node_ids: int, **options: Any) -> Client:
        """A client that ends with the test."""
        client = await connect(*map(self.endpoint, node_ids or (1,)), **options)
        self.addCleanup(client.close)
        return client

    async def plain(self, *node_ids: int, **options: Any) -> blocking.Client:
        """A client without a reactor, likewise."""
        endpoints = map(self.endpoint, node_ids or (1,))
        client: blocking.Client = await deferToThread(blocking.connect, *endpoints, **options)
        self.addCleanup(client.close)
        return client


class Calls(ClientCase):
    """Every call, of both clients."""

    async def check(self, client: Any, call: Callable[..., Any]) -> None:
        """``call`` makes a call of the client, and gives its result."""
        self.assertEqual((client.node_id, client.cluster_id), (1, self.configs[0].cluster_id))
        first = await call(client.submit, "register", b"one")
        second = await call(client.submit, "register", b"two", mode="3pc", timeout=2.0)
        self.assertEqual((first.result, second.result, second.index), (b"", b"one", 0))
        again = await call(client.submit, "register", b"two", request_id=f"{client.session}#2")
        self.assertEqual(again, second)
        self.assertEqual(await call(client.outcome, f"{client.session}#2"), second)
        self.assertIsNone(await call(client.outcome, "nobody's"))
        for wrong, error in ((b"no", Aborted), (b"x" * (2**20 + 1), ValueError)):
            with self.assertRaises(error):
                await call(client.submit, "register", wrong, mode="2pc")
        with self.assertRaises(BadRequest) as caught:
            await call(client.submit, "nothing", b"")
        self.assertIn("no resource manager is named 'nothing'", caught.exception.reason)
        for arguments in ({"mode": "4pc"}, {"timeout": 0}):
            with self.assertRaises(ValueError):
                await call(client.submit, "register", b"", **arguments)
        self.assertEqual((await call(client.status))["node_id"], 1)
        await self.check_many(client, call)
        await self.check_keys(client, call)
        await call(client.close)
        await call(client.close)
        for name, arguments in (("submit", ("register", b"")), ("submit_many", ("register", [b""])), ("status", ())):
            with self.assertRaises(NoQuorum) as closed:
                await call(getattr(client, name), *arguments)
            self.assertEqual(closed.exception.reason, "the client is closed")

    async def check_many(self, client: Any, call: Callable[..., Any]) -> None:
        """Many at once."""
        outcomes = await call(client.submit_many, "register", [b"a", b"no", b"b"], mode=Mode.TWO_PHASE)
        self.assertEqual((len(outcomes), outcomes.committed, list(outcomes.failures)), (3, 2, [1]))
        self.assertIsInstance(outcomes[1], Aborted)
        self.assertEqual(outcomes[-1].result, b"a")
        self.assertEqual([type(each) for each in outcomes], [Committed, Aborted, Committed])
        for arguments in ((), {"request_ids": ["a", "b"]}):
            with self.assertRaises(ValueError):
                await call(client.submit_many, "register", [], **dict(arguments))
        outcomes = await call(client.submit_many, "register", [b"c", b"d"], request_ids=["r", "r"])
        self.assertEqual(outcomes[0], outcomes[1])

    async def check_keys(self, client: Any, call: Callable[..., Any]) -> None:
        """The key-value store."""
        self.assertIsNone(await call(client.get, "k/1"))
        put = await call(client.put, "k/1", b"v", if_version=0)
        self.assertTrue(put.ok)
        self.assertFalse((await call(client.put, "k/1", b"w", if_version=0)).ok)
        got = await call(client.get, "k/1")
        self.assertEqual(got, KeyValue(b"v", put.version, got.applied))
        self.assertGreater(got.applied, put.version)
        await call(client.put, "k/2", b"w", mode="2pc")
        self.assertEqual((await call(client.get, "k/2", consistency="local")).value, b"w")
        with self.assertRaises(ValueError):
            await call(client.get, "k/1", consistency="none")
        self.assertEqual([item.key for item in await call(client.items, "k/")], ["k/1", "k/2"])
        self.assertEqual((await call(client.items, "k/1"))[0], Item("k/1", b"v", put.version))
        self.assertTrue((await call(client.delete, "k/1", if_version=put.version)).ok)
        self.assertEqual(await call(client.items, "k/1"), [])

    async def test_twisted(self) -> None:
        """As Deferreds and coroutines."""
        await self.start()

        async def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return await method(*args, **kwargs)

        await self.check(await self.client(1), call)

    async def test_blocking(self) -> None:
        """As calls that wait."""
        await self.start()
        await self.check(await self.plain(1), deferToThread)

    async def test_a_long_listing(self) -> None:
        """It comes in parts."""
        await self.start()
        client, plain = await self.client(), await self.plain()
        keys = [f"key {k:05}" for k in range(2500)]
        outcomes = await client.submit_many("kv", [put_payload(key, b"v") for key in keys])
        self.assertEqual(outcomes.committed, 2500)
        self.assertEqual([item.key for item in await client.items("key")], keys)
        self.assertEqual([item.key for item in await deferToThread(plain.items, "key")], keys)

    async def test_one_by_one_in_one_turn(self) -> None:
        """They leave together and stand together in the log."""
        await self.start()
        client = await self.client()
        waiting = [client.submit("kv", put_payload(f"{k}", b"v")) for k in range(100)]
        waiting.append(client.submit("kv", put_payload("named", b"v"), request_id="n"))
        committed = await gatherResults(waiting)
        self.assertEqual([each.index for each in committed[:100]], list(range(100)))
        self.assertEqual(len({each.seq for each in committed[:100]}), 1)
        self.assertTrue(all(decode_result(each.result).ok for each in committed))

    async def test_nobody_waits_any_more(self) -> None:
        """A cancelled call takes its own way, and disturbs nobody."""
        await self.start()
        client = await self.client()
        one, other = (client.submit("register", text) for text in (b"1", b"2"))
        many = client.submit_many("register", [b"3"])
        status = ensureDeferred(client.status())
        for each in (one, many, status):
            each.addErrback(lambda failure: None)
            each.cancel()
        self.assertEqual((await other).index, 1)
        self.assertEqual((await client.status())["node_id"], 1)
        await self.until(lambda: self.registers[0].held == b"3")

    async def test_a_callback_that_submits(self) -> None:
        """Whoever is told something may want something at once."""
        await self.start()
        client = await self.client()
        first = client.submit("register", b"1")
        second: Deferred[Any] = first.addCallback(lambda _: client.submit_many("register", [b"2"]))
        self.assertEqual((await second).committed, 1)


class Following(ClientCase):
    """Events."""

    async def test_twisted(self) -> None:
        """From now on, from the beginning, until it is enough."""
        await self.start()
        client = await self.client(1)
        now, all_of_it = client.events(), client.events(after=0)
        first = await all_of_it.__anext__()
        self.assertEqual((first.told_by, first.id, first.document["kind"]), (1, 1, first.kind))
        await self.services[0].driver.move_master(2)
        heard = await self.next_of("master_changed", now)
        self.assertEqual((heard.document["master"], heard.told_by), (2, 1))
        all_of_it.close()
        await client.close()
        self.assertEqual([each async for each in now if each.id <= heard.id], [])
        self.assertEqual([each async for each in client.events()], [])

    async def next_of(self, kind: str, events: Any) -> Event:
        """The next event of a kind."""
        async for event in events:
            if event.kind == kind:
                return event
        raise AssertionError("the events ended")

    async def test_blocking(self) -> None:
        """The same with plain calls."""
        await self.start()
        client = await self.plain(1)
        now = await deferToThread(client.events)
        await self.services[0].driver.move_master(2)
        heard = await deferToThread(self.hears_plainly, 2, now)
        self.assertEqual((heard.kind, heard.told_by), ("master_changed", 1))
        self.assertIsNone(await deferToThread(now.wait, 0.01))
        await deferToThread(now.close)
        self.assertEqual(list(now), [])
        other = await deferToThread(client.events)
        await deferToThread(client.close)
        self.assertEqual(list(other), [])

    async def test_goes_on_elsewhere(self) -> None:
        """The node that told them stops; who is master now is told by another one."""
        await self.start()
        client = await self.client(1)
        plain = await self.plain(1)
        events, plain_events = client.events(), await deferToThread(plain.events)
        await self.services[0].stopService()
        heard = await self.next_of("master_changed", events)
        self.assertIn(heard.told_by, (1, 2, 3))
        await self.services[1].driver.move_master(3)
        found = await gatherResults(
            [ensureDeferred(self.hears(3, events)), deferToThread(self.hears_plainly, 3, plain_events)]
        )
        self.assertLessEqual({event.told_by for event in found}, {2, 3})

    async def hears(self, master: int, events: Any) -> Event:
        """The event that says who is master now."""
        while (event := await self.next_of("master_changed", events)).document["master"] != master:
            pass
        return event

    def hears_plainly(self, master: int, events: blocking.Events) -> Event:
        """The same, of the client without a reactor."""
        while (event := events.wait(30.0)) is not None:
            if event.document.get("master") == master:
                return event
        raise TimeoutError(f"nobody said that node {master} is master")


class ChangingOver(ClientCase):
    """The node in use goes."""

    async def test_stopped(self) -> None:
        """It says so, and nobody fails."""
        await self.start()
        client = await self.client(1)
        outcomes: list[Outcomes] = []

        async def load() -> None:
            while len(outcomes) < 60:
                outcomes.append(await client.submit_many("kv", [put_payload("k", b"%d" % k) for k in range(20)]))

        loads = [ensureDeferred(load()) for _ in range(4)]
        await self.until(lambda: len(outcomes) > 10)
        await self.services[0].stopService()
        self.assertIn(client.node_id, (2, 3))
        await gatherResults(loads)
        self.assertEqual([dict(each.failures) for each in outcomes if each.failures], [])

    async def test_stopped_between_two_calls(self) -> None:
        """The client without a reactor finds that out with the next call."""
        await self.start()
        plain = await self.plain(1)
        await deferToThread(plain.put, "k", b"1")
        await self.services[0].stopService()
        self.assertTrue((await deferToThread(plain.put, "k", b"2")).ok)
        self.assertIn(plain.node_id, (2, 3))

    async def test_closed_while_it_waits(self) -> None:
        """Whoever waits hears that the outcome is unknown."""
        await self.start()
        client = await self.client(1)
        for service in self.services[1:]:
            await service.stopService()
        waiting = client.submit("register", b"1", timeout=60.0)
        await deferLater(reactor, 0.05)
        asking = ensureDeferred(client.get("k"))
        await client.close()
        with self.assertRaises((OutcomeUnknown, NoQuorum)) as caught:
            await waiting
        if isinstance(caught.exception, OutcomeUnknown):
            self.assertEqual(caught.exception.request_id, f"{client.session}#1")
        with self.assertRaises(NoQuorum):
            await asking


class Refusals(ClientCase):
    """Clients that are not taken."""

    async def unreachable(self, *endpoints: str, **options: Any) -> set[str]:
        """What both clients say of it."""
        said = set()
        for call in (connect, lambda *args, **kwargs: deferToThread(blocking.connect, *args, **kwargs)):
            with self.assertRaises(Unreachable) as caught:
                await call(*endpoints, **options)
            said.add(str(caught.exception))
        return said

    async def test_the_port_of_the_nodes(self) -> None:
        await self.start()
        address = self.configs[0].listen.peer
        for text in await self.unreachable(f"tcp:{address.host}:{address.port}", timeout=0.3):
            self.assertIn("belongs to the port for nodes (listen.peer)", text)

    async def test_another_cluster(self) -> None:
        """All nodes refuse: that is final, and is said at once."""
        await self.start()
        for text in await self.unreachable(self.endpoint(1), self.endpoint(2), cluster_id="other", timeout=60.0):
            self.assertEqual(text.count("refused: this node belongs to cluster"), 2)

    async def test_nobody_there(self) -> None:
        """The reason of every address."""
        for text in await self.unreachable(self.endpoint(1), "tcp:no.such.host.invalid:1", timeout=0.5):
            self.assertRegex(text, "[Cc]onnection refused|Connection was refused")
            self.assertIn("no.such.host.invalid", text)
        for text in await self.unreachable("tcp:255.255.255.255:1", timeout=0.2):
            self.assertRegex(text, "Permission denied|unreachable")

    async def test_nobody_answers(self) -> None:
        """A listener that never says a word."""
        port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        for text in await self.unreachable(f"tcp:127.0.0.1:{port.getHost().port}", timeout=0.2):
            self.assertIn("no node takes this client", text)

    async def test_cancelled(self) -> None:
        """Nothing is left behind, which trial checks."""
        connecting = connect("tcp:127.0.0.1:1")
        connecting.addErrback(lambda failure: None)
        connecting.cancel()
        await connecting

    def test_what_cannot_be_dialled(self) -> None:
        self.assertRaises(ValueError, connect)
        self.assertRaises(ValueError, connect, "nonsense")
        self.assertRaises(ValueError, blocking.connect)
        for wrong in ("ssl:h:1", "tcp:h", "tcp::1", "tcp:h:x", "h:1"):
            self.assertRaises(ValueError, blocking.connect, wrong)
        self.assertEqual(_host_and_port(r"tcp:\:\:1:8421"), ("::1", 8421))
        self.assertEqual(_host_and_port("tcp:[::1]:8421"), ("::1", 8421))

    def test_mode_of(self) -> None:
        self.assertIs(mode_of("2pc"), Mode.TWO_PHASE)
        self.assertIs(mode_of(Mode.THREE_PHASE), Mode.THREE_PHASE)


class OddNode(Protocol):
    """What accepts a client, and then does what the test wants.

    :ivar got: the messages that came.
    """

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.tcp: Any = None
        self._decoder = FrameDecoder(family=CLIENTS)

    def connectionMade(self) -> None:
        """Be ready."""
        self.tcp = self.transport

    def dataReceived(self, data: bytes) -> None:
        """Say Welcome to whoever comes."""
        for message in self._decoder.feed(data):
            self.got.append(message)
            if isinstance(message, wire.ClientHello):
                self.say(wire.Welcome(1, "c", "odd", 1, True, 2**24, 100, ()))

    def say(self, message: wire.ToClient) -> None:
        """Send a message."""
        self.tcp.write(encode_frame(message))


class Odd(unittest.TestCase):
    """Connections that do what connections may do; both clients go on."""

    timeout = 60

    def setUp(self) -> None:
        self.nodes: list[OddNode] = []
        port = reactor.listenTCP(0, Factory.forProtocol(self.make), interface="127.0.0.1")
        self.endpoint = f"tcp:127.0.0.1:{port.getHost().port}"
        self.addCleanup(port.stopListening)
        self.addCleanup(self.until, lambda: all(node.tcp.disconnected for node in self.nodes))

    def make(self) -> OddNode:
        """A node for the next connection."""
        self.nodes.append(OddNode())
        return self.nodes[-1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; the test's own timeout bounds it."""
        while not condition():
            await deferLater(reactor, 0.01)

    def submits(self) -> list[wire.Submit]:
        """Every Submit that came, over any connection."""
        return [message for node in self.nodes for message in node.got if isinstance(message, wire.Submit)]

    async def check(self, submit: Callable[..., Deferred[Outcomes]]) -> None:
        """The connection is full, is reset, says nonsense; then all is well."""
        payloads = [b"%d" % k + bytes(2**20) for k in range(20)]
        self.nodes[-1].tcp.pauseProducing()  # more than the kernel takes
        waiting = submit("kv", payloads, timeout=30.0)
        await deferLater(reactor, 0.1)
        self.nodes[-1].tcp.resumeProducing()
        await self.until(lambda: sum(len(each.payloads) for each in self.submits()) == 20)
        for times, end in enumerate(("abortConnection", "loseConnection", "nonsense"), 2):
            if end == "nonsense":
                self.nodes[-1].tcp.write(bytes(20))
            else:
                getattr(self.nodes[-1].tcp, end)()
            await self.until(lambda times=times: sum(len(each.payloads) for each in self.submits()) == 20 * times)
        for message in self.nodes[-1].got:
            if isinstance(message, wire.Submit):
                self.nodes[-1].say(wire.Committed(message.batch, 0, 9, message.first, (b"r",) * len(message.payloads)))
        outcomes = await waiting
        self.assertEqual([each.index for each in outcomes], list(range(1, 21)))  # all under their first names
        self.assertEqual({message.first for message in self.submits()}, set(range(1, 21)))

    async def test_twisted(self) -> None:
        client = await connect(self.endpoint)
        await self.check(client.submit_many)
        await client.close()

    async def test_blocking(self) -> None:
        client = await deferToThread(blocking.connect, self.endpoint)
        await self.check(lambda *args, **kwargs: deferToThread(client.submit_many, *args, **kwargs))
        await deferToThread(client.close)

    async def test_no_answer(self) -> None:
        """To a question, and to the wish to follow events."""
        client = await deferToThread(blocking.connect, self.endpoint)
        with self.assertRaises(NoQuorum):
            await deferToThread(client.get, "k", timeout=0.1)
        events = await deferToThread(client.events)
        waiting = deferToThread(next, events)
        await self.refuse_to_tell()
        with self.assertRaises(Overloaded):
            await waiting
        await deferToThread(client.close)
        self.nodes.clear()
        other = await connect(self.endpoint)
        told = ensureDeferred(other.events().__anext__())
        await self.refuse_to_tell()
        with self.assertRaises(Overloaded):
            await told
        await other.close()

    async def refuse_to_tell(self) -> None:
        """Wait until somebody wants to follow, and tell one event at most."""

        def follows() -> list[wire.Follow]:
            return [message for message in self.nodes[-1].got if isinstance(message, wire.Follow)]

        await self.until(lambda: bool(self.nodes and follows()))
        self.nodes[-1].say(wire.QueryFailed(follows()[-1].query, FailureKind.OVERLOADED, "too many"))

    async def test_reset_between_two_calls(self) -> None:
        """The client without a reactor finds that out when it writes or reads."""
        client = await deferToThread(blocking.connect, self.endpoint)
        self.nodes[-1].tcp.abortConnection()
        await self.until(lambda: self.nodes[-1].tcp.disconnected)
        waiting = deferToThread(client.submit, "kv", b"x", timeout=30.0)
        await self.until(lambda: len(self.submits()) == 1)
        self.nodes[-1].say(wire.Committed(self.submits()[0].batch, 0, 1, 0, (b"",)))
        await waiting
        await deferToThread(client.close)


class Values(unittest.SynchronousTestCase):
    """What users get."""

    def test_outcomes(self) -> None:
        outcomes = Outcomes(6)
        outcomes.on_committed(TellCommitted(1, 3, 9, 0, (b"d", b"e")))
        outcomes.on_committed(TellCommitted(1, 0, 8, 5, (b"a", b"b")))
        outcomes.on_failed(TellFailed(1, (2,), Failure(FailureKind.OUTCOME_UNKNOWN, "late"), ("s#3",)))
        self.assertFalse(outcomes.complete)
        outcomes.on_failed(TellFailed(1, (5,), Failure(FailureKind.OVERLOADED, "full")))
        self.assertTrue(outcomes.complete)
        self.assertEqual(outcomes[0:2], [Committed(8, 5, b"a"), Committed(8, 6, b"b")])
        self.assertEqual(outcomes[4], Committed(9, 1, b"e"))
        self.assertEqual((outcomes.committed, list(outcomes.failures)), (4, [2, 5]))
        unknown = outcomes[2]
        assert isinstance(unknown, OutcomeUnknown)
        self.assertEqual(unknown.request_id, "s#3")
        self.assertIsInstance(outcomes[-1], Overloaded)
        self.assertRaises(IndexError, outcomes.__getitem__, 6)

    def test_a_reader_that_is_slow(self) -> None:
        """The oldest events are dropped, and counted."""
        waiting = Waiting()
        for number in range(EVENTS_WAITING_MAX + 3):
            waiting.add(Event(1, number, 0.0, "k", {}, missed=1 if number == 1 else 0))
        first = waiting.take()
        assert first is not None
        self.assertEqual((first.id, first.missed), (3, 4))

    def test_no_reactor(self) -> None:
        """To import it installs none."""
        code = "import sys, txvbcast.client, txvbcast.client.blocking; print('twisted.internet.reactor' in sys.modules)"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        self.assertEqual(ran.stdout, "False\n", ran.stderr)
