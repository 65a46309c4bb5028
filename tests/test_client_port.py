"""The port for clients over loopback, with a node that has no cluster: messages, bad input, who does not read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import msgspec
from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from tests.fake_node import FakeNode
from tests.net_samples import NetCase, hello, members
from tests.wire_samples import framed
from txvbcast import errors
from txvbcast.control import client_queries
from txvbcast.control.client_desk import RESULT_BYTES_MAX, RESULTS_BYTES_MAX, DeskFacts, Desks
from txvbcast.control.client_port import (
    CLOSE_TIMEOUT_S,
    HELLO_BYTES_MAX,
    HELLO_TIMEOUT_S,
    STRANGERS_MAX,
    UNREAD_BYTES_MAX,
    UNREAD_S,
    ClientPort,
)
from txvbcast.control.reading import TIMEOUT_MS_MAX
from txvbcast.turns import Turn
from txvbcast.wire import client_messages as m
from txvbcast.wire.client_messages import FailureKind
from txvbcast.wire.codec import CLIENTS, FrameDecoder, encode_frame
from txvbcast.wire.items import Request
from txvbcast.wire.limits import FRAME_BYTES_MAX
from txvbcast.wire.messages import Mode

reactor: Any = _reactor
LOOK_S = 0.001
#: So many turns of the reactor without a change: nothing moves any more.
SETTLED_TURNS = 200

T = TypeVar("T")

HELLO = m.ClientHello(version_min=1, version_max=1, session="s", program="test")
NODES = (m.NodeLine(1, "one", ""), m.NodeLine(2, "two", "10.0.0.2:8421"))
FACTS = DeskFacts(
    cluster_id="c0ffee",
    cluster_name="test",
    node_id=1,
    payload_bytes_max=1 << 20,
    outstanding_max=100,
    clients_max=3,
    nodes=lambda host: (attrs.evolve(NODES[0], client=f"{host}:8411"), NODES[1]),
)


def submit(batch: int, *payloads: bytes, rm: str = "echo", **more: Any) -> m.Submit:
    """Transactions that are numbered from 10 times the batch on."""
    fields: dict[str, Any] = {"mode": Mode.BROADCAST, "timeout_ms": 5000, "first": 10 * batch, "done": 0, **more}
    return m.Submit(batch=batch, rm=rm, payloads=payloads, **fields)


class Client(Protocol):
    """A client made by hand.

    :ivar got: the messages that came in; ``raw``: the bytes.
    :ivar lost: whether the connection is gone.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.got: list[m.ClientMessage] = []
        self.raw = bytearray()
        self.lost = False
        self.tcp: Any = None
        self._changed = changed
        self._decoder: FrameDecoder[m.ClientMessage] = FrameDecoder(family=CLIENTS)

    def connectionMade(self) -> None:
        self.tcp = self.transport
        self._changed()

    def dataReceived(self, data: bytes) -> None:
        self.raw += data
        if not self.raw.startswith(b"HTTP"):
            self.got.extend(self._decoder.feed(data))
        self._changed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._changed()

    def say(self, *messages: Any) -> None:
        """Send messages in one write."""
        self.tcp.write(b"".join(map(encode_frame, messages)))

    def of(self, kind: type[T]) -> list[T]:
        """The messages of one kind that came in."""
        return [message for message in self.got if isinstance(message, kind)]


class ClientCase(NetCase):
    """A port with a node behind it, whose timers stand still."""

    timeout = 10
    unread_bytes_max = UNREAD_BYTES_MAX

    def setUp(self) -> None:
        super().setUp()
        self.node = FakeNode()
        self.clock = Clock()
        self.desks = Desks(self.node, [self.node.kv], FACTS)
        self.port = ClientPort(self.desks, self.clock, unread_bytes_max=self.unread_bytes_max, turn=Turn(reactor))
        self.listening: IListeningPort = reactor.listenTCP(0, self.port, interface="127.0.0.1")
        self.addCleanup(self.listening.stopListening)
        self.addCleanup(self.until, lambda: not self.port._open)

    async def until(self, condition: Callable[[], bool]) -> None:  # type: ignore[override]
        """Let the reactor turn until ``condition`` holds; trial's own timeout ends a wait in vain."""
        while not condition():
            await deferLater(reactor, LOOK_S)

    async def dial(self) -> Client:  # type: ignore[override]
        """A connection that has said nothing."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listening.getHost().port)
        client = await endpoint.connect(Factory.forProtocol(lambda: Client(self.changed)))
        assert isinstance(client, Client)
        self.addCleanup(self.leave, client)
        return client

    def leave(self, client: Client) -> Any:
        """Abort a connection; fires when it is gone."""
        client.tcp.abortConnection()
        return self.until(lambda: client.lost)

    async def welcomed(self, hello: m.ClientHello = HELLO) -> Client:
        """A connection that has been greeted; nothing that came before is left in ``got``."""
        client = await self.dial()
        client.say(hello)
        await self.until(lambda: bool(client.got))
        self.assertIsInstance(client.got.pop(), m.Welcome)
        return client

    async def answers(self, client: Client, count: int = 1) -> list[Any]:
        """The next ``count`` messages, taken out."""
        await self.until(lambda: len(client.got) >= count)
        found, client.got = client.got[:count], client.got[count:]
        return found

    async def ask(self, client: Client, message: Any) -> Any:
        """Send a message; the next answer."""
        client.say(message)
        (answer,) = await self.answers(client)
        return answer

    async def refused(self, client: Client, *parts: str) -> str:
        """The last message says why, with all these parts, the connection ends, and the log has it."""
        await self.until(lambda: client.lost)
        (last,) = client.of(m.Refused)
        self.assertIs(client.got[-1], last)
        for part in parts:
            self.assertIn(part, last.reason)
        self.assertTrue(self.log_has("ending the connection of client", "at 127.0.0.1", *parts), self.logged)
        return last.reason


class Greetings(ClientCase):
    """Who may stay."""

    async def test_welcome(self) -> None:
        """The node tells of itself, its bounds, and where the others are."""
        client = await self.dial()
        answer = await self.ask(client, HELLO)
        nodes = (m.NodeLine(1, "one", "127.0.0.1:8411"), NODES[1])
        self.assertEqual(answer, m.Welcome(1, "c0ffee", "test", 1, True, 1 << 20, 100, nodes))
        (connection,) = self.port._open
        self.assertTrue(connection.transport.getTcpNoDelay() and connection.transport.getTcpKeepAlive())

    async def test_not_serving(self) -> None:
        """Without a quorum or a master another node is the better one."""
        self.node.quorum = False
        self.assertFalse((await self.ask(await self.dial(), HELLO)).serving)
        self.node.quorum, self.node.master = True, None
        self.assertFalse((await self.ask(await self.dial(), HELLO)).serving)

    async def test_byte_by_byte(self) -> None:
        """Frames may be cut anyhow."""
        client = await self.dial()
        client.tcp.setTcpNoDelay(True)
        for byte in encode_frame(HELLO) + encode_frame(m.Ping(3)):
            client.tcp.write(bytes((byte,)))
            await self.turn()
        self.assertEqual((await self.answers(client, 2))[1], m.Pong(3))

    async def test_all_at_once(self) -> None:
        """Greeting and requests in one write, the beginning of another behind them."""
        client = await self.dial()
        rest = encode_frame(m.Ping(2))
        frames = map(encode_frame, (HELLO, m.Ping(1), submit(1, b"x" * 2 * HELLO_BYTES_MAX)))
        client.tcp.write(b"".join(frames) + rest[:-1])
        _, pong, committed = await self.answers(client, 3)
        self.assertEqual((pong, committed.results), (m.Pong(1), (b"x" * 2 * HELLO_BYTES_MAX,)))
        client.tcp.write(rest[-1:])
        self.assertEqual(await self.answers(client), [m.Pong(2)])

    async def test_versions(self) -> None:
        """The ranges must meet."""
        client = await self.dial()
        client.say(attrs.evolve(HELLO, version_min=2, version_max=3))
        await self.refused(client, "this node speaks 1, the client 2 to 3", "use a client library")
        await self.welcomed(attrs.evolve(HELLO, version_max=9))

    async def test_cluster(self) -> None:
        """Only the cluster that the client wants, if it wants one."""
        client = await self.dial()
        client.say(attrs.evolve(HELLO, cluster_id="\x1b[2Jdecaf" * 200))
        reason = await self.refused(client, "cluster 'c0ffee' (name 'test')", "decaf", "correct the address")
        self.assertTrue(reason.isprintable())
        self.assertLess(len(reason), 600)
        await self.welcomed(attrs.evolve(HELLO, cluster_id="c0ffee"))

    async def test_sessions(self) -> None:
        """A session has a name of bounded length."""
        for session in ("", "s" * 65):
            client = await self.dial()
            client.say(attrs.evolve(HELLO, session=session))
            await self.refused(client, f"has {len(session)} characters, 1 to 64")

    async def test_order(self) -> None:
        """ClientHello is first, and comes once."""
        client = await self.dial()
        client.say(submit(1, b"x"))
        await self.refused(client, "Submit came before ClientHello")
        client = await self.welcomed()
        client.say(HELLO)
        await self.refused(client, "a second ClientHello")
        self.assertEqual(self.node.asked, [])

    async def test_wrong_way(self) -> None:
        """What only nodes say."""
        client = await self.welcomed()
        client.say(m.Pong(1), submit(1, b"x"))
        await self.refused(client, "Pong is what a node says to its clients")
        self.assertEqual(self.node.asked, [])

    async def test_too_many_clients(self) -> None:
        """limits.clients; one that leaves makes room."""
        clients = [await self.welcomed() for _ in range(FACTS.clients_max)]
        late = await self.dial()
        late.say(HELLO)
        await self.refused(late, "3 clients are connected", "limits.clients", "connect to another node")
        clients[0].tcp.loseConnection()
        await self.until(lambda: len(self.port._open) == FACTS.clients_max - 1)
        await self.welcomed()

    async def test_too_many_strangers(self) -> None:
        """Of those who do not say who they are the oldest goes."""
        known = await self.welcomed()
        strangers = [await self.dial() for _ in range(STRANGERS_MAX + 1)]
        await self.until(lambda: strangers[0].lost)
        self.assertTrue(self.log_has("more than 64 connections have not said ClientHello"))
        self.assertEqual([client for client in [known, *strangers[1:]] if client.lost], [])

    async def test_late_hello(self) -> None:
        """Whoever says nothing is told that it is his turn: a node that dialled this port waits for us."""
        client = await self.dial()
        await self.until(lambda: bool(self.port._open))
        self.clock.advance(HELLO_TIMEOUT_S)
        await self.refused(client, "no ClientHello came within 5 s", "listen.client")

    async def test_known_clients_may_be_silent(self) -> None:
        """The time limit is for the greeting."""
        client = await self.welcomed()
        self.clock.advance(100 * HELLO_TIMEOUT_S)
        self.assertEqual(await self.ask(client, m.Ping(1)), m.Pong(1))


class Strange(ClientCase):
    """What is no client, or a broken one."""

    async def sent(self, data: bytes, *parts: str, greeted: bool = False) -> None:
        """These bytes get that answer, also when they come one by one."""
        for size in (len(data), 1):
            client = await (self.welcomed() if greeted else self.dial())
            client.tcp.setTcpNoDelay(True)
            for at in range(0, len(data), size):
                client.tcp.write(data[at : at + size])
                await self.turn()
            await self.refused(client, *parts)
            self.logged.clear()

    async def test_garbage(self) -> None:
        """Neither length nor anything."""
        await self.sent(b"\xff" * 64, "a frame has a body of 4294967295 bytes")
        await self.sent(b"\xff" * 64, "a frame has a body of 4294967295 bytes", greeted=True)

    async def test_trailing(self) -> None:
        """A body that goes on behind its end, or stops before it."""
        body = encode_frame(m.Ping(1))[12:]
        for bad in (body + b"\0", body[:-1]):
            await self.sent(framed(bad, number=132), "the body is no Ping", greeted=True)

    async def test_other_wire_version(self) -> None:
        """Of the frame itself."""
        await self.sent(framed(b"\x80", number=128, version=2)[:12], "wire version 2, this program reads version 1")

    async def test_peer(self) -> None:
        """Another node that dials this port."""
        peer = encode_frame(hello(2, members(3)))
        said = ("type 1 (Hello) belongs to the port for nodes (listen.peer)", "the port for clients (listen.client)")
        await self.sent(peer, *said)

    async def test_refusal_of_a_node(self) -> None:
        """What a node that dialled wrong reads as our answer tells it so, too."""
        with self.assertRaises(errors.RemoteProtocolError) as caught:
            list(FrameDecoder().feed(encode_frame(m.Refused("x"))))
        self.assertIn("type 130 (Refused) belongs to the port for clients (listen.client)", str(caught.exception))

    async def test_long_hello(self) -> None:
        """No stranger makes the node keep much."""
        await self.sent(
            struct.pack("!I", HELLO_BYTES_MAX + 1), f"body of {HELLO_BYTES_MAX + 1} bytes where 1 to {HELLO_BYTES_MAX}"
        )

    async def test_long_frame(self) -> None:
        """Later more may come at once, but not anything."""
        await self.sent(
            struct.pack("!I", FRAME_BYTES_MAX + 1), f"where 1 to {FRAME_BYTES_MAX} are allowed", greeted=True
        )

    async def test_tls(self) -> None:
        """The port is in the clear."""
        await self.sent(b"\x16\x03\x01\x02\x00\x01", "it speaks TLS", "connect in the clear")

    async def test_http(self) -> None:
        """Someone has taken this port for the other one."""
        for line in (b"GET / HTTP/1.1\r\n\r\n", b"POST /v1/tx HTTP/1.1\r\n", b"PUT /v1/kv/a HTTP/1.1\r\n"):
            client = await self.dial()
            for byte in line:
                client.tcp.write(bytes((byte,)))
                await self.turn()
            await self.until(lambda client=client: client.lost)  # type: ignore[misc]
            head, _, body = client.raw.partition(b"\r\n\r\n")
            self.assertTrue(head.startswith(b"HTTP/1.1 400 Bad Request\r\n"), client.raw)
            self.assertIn(b"Content-Length: %d" % len(body), head)
            self.assertIn(b"This is not the HTTP port of this node but the port for clients (listen.client)", body)
            self.assertIn(b"listen.http", body)
            self.assertTrue(self.log_has("it speaks HTTP"))

    async def test_http_later(self) -> None:
        """Behind a greeting it is garbage."""
        await self.sent(b"GET / HTTP/1.1\r\n\r\n", "a frame has a body of", greeted=True)


class Transactions(ClientCase):
    """Submit and its answers."""

    async def test_committed(self) -> None:
        """Many in one message; their names follow from the session and the first number."""
        client = await self.welcomed()
        answer = await self.ask(client, submit(7, b"a", b"b", b"", first=40, done=39, mode=Mode.TWO_PHASE))
        self.assertEqual(answer, m.Committed(7, 0, 1, 0, (b"a", b"b", b"")))
        requests = [Request("s", number, 39) for number in (40, 41, 42)]
        self.assertEqual(self.node.asked, [("echo", (b"a", b"b", b""), Mode.TWO_PHASE, 5.0, requests)])

    async def test_named(self) -> None:
        """Names that the client's user gave."""
        client = await self.welcomed()
        await self.ask(client, submit(1, b"a", b"b", first=0, request_ids=("order-7", "z#5")))
        self.assertEqual(self.node.asked[0][-1], [Request("order-7"), Request("z", 5)])

    async def test_failures(self) -> None:
        """Each class of failure has its word."""
        client = await self.welcomed()
        for batch, (kind, error) in enumerate(
            (
                (FailureKind.ABORTED, errors.Aborted("no", (3,))),
                (FailureKind.OUTCOME_UNKNOWN, errors.OutcomeUnknown("who knows")),
                (FailureKind.OVERLOADED, errors.Overloaded("full")),
                (FailureKind.NO_QUORUM, errors.NoQuorum("alone", (2, 3))),
            ),
            1,
        ):
            self.node.failure = error
            answer = await self.ask(client, submit(batch, b"a", b"b"))
            self.assertEqual(answer, m.Failed(batch, (0, 1), kind, error.reason, error.who))

    async def test_bad_requests(self) -> None:
        """What nobody could do; the connection goes on."""
        client = await self.welcomed()
        for batch, (bad, said) in enumerate(
            (
                ({"rm": "nobody"}, "there is no resource manager 'nobody'"),
                ({"timeout_ms": TIMEOUT_MS_MAX + 1}, f"600001 ms, at most {TIMEOUT_MS_MAX}"),
                ({"request_ids": ("",)}, "a request id has 1 to 128 characters"),
                ({"request_ids": ("x" * 129,)}, "a request id has 1 to 128 characters"),
            ),
            1,
        ):
            answer = await self.ask(client, submit(batch, b"a", **bad))
            self.assertEqual((answer.batch, answer.places, answer.kind), (batch, (0,), FailureKind.BAD_REQUEST))
            self.assertIn(said, answer.reason)
        self.assertIsInstance(await self.ask(client, submit(9, b"a")), m.Committed)

    async def test_numbers(self) -> None:
        """Those of batches rise, and so do those of queries."""
        for first, second, what in (
            (submit(2, b"a"), submit(2, b"b"), "batch"),
            (submit(2, b"a"), submit(1, b"b"), "batch"),
            (m.AskStatus(2), m.AskStatus(2), "query"),
        ):
            client = await self.welcomed()
            client.say(first, second)
            await self.refused(client, f"{what} ", f"came after {what} 2")

    async def test_pieces(self) -> None:
        """Answers come as the driver gives them."""
        self.node.held = {}
        client = await self.welcomed()
        client.say(submit(1, b"a", b"b", b"c"))
        await self.until(lambda: bool(self.node.held))
        (sink,) = self.node.held.values()
        sink.committed(1, 9, 4, (b"B",))
        sink.failed((0, 2), errors.Aborted("no"))
        self.assertEqual(
            await self.answers(client, 2),
            [m.Committed(1, 1, 9, 4, (b"B",)), m.Failed(1, (0, 2), FailureKind.ABORTED, "no")],
        )
        self.assertEqual(self.desks._open.popitem()[0]._batches, {})

    async def test_one_write(self) -> None:
        """What is answered in one turn leaves at once."""
        self.node.held = {}
        client = await self.welcomed()
        client.say(*(submit(batch, b"a") for batch in range(1, 6)))
        await self.until(lambda: len(self.node.held or ()) == 5)
        client.raw, reads = bytearray(), []
        client._changed = lambda: (reads.append(len(client.raw)), self.changed())
        for sink in self.node.held.values():
            sink.committed(0, 1, 0, (b"",))
        await self.answers(client, 5)
        self.assertEqual(len(reads), 1)

    async def test_large_results(self) -> None:
        """They come in several messages; one that is too large is not told."""
        self.node.held = {}
        client = await self.welcomed()
        client.say(submit(1, *[b""] * 6))
        await self.until(lambda: bool(self.node.held))
        (sink,) = self.node.held.values()
        half = b"r" * (RESULTS_BYTES_MAX // 2)
        sink.committed(0, 5, 2, [half, half, half, b"", b"r" * (RESULT_BYTES_MAX + 1), b"e"])
        await self.until(lambda: sum(len(each.results) for each in client.of(m.Committed)) == 5)
        found = {each.place + at: (each.seq, each.index + at, result)
                 for each in client.of(m.Committed) for at, result in enumerate(each.results)}  # fmt: skip
        told = {0: half, 1: half, 2: half, 3: b"", 5: b"e"}
        self.assertEqual(found, {place: (5, 2 + place, result) for place, result in told.items()})
        (failed,) = client.of(m.Failed)
        self.assertEqual((failed.places, failed.kind), ((4,), FailureKind.OUTCOME_UNKNOWN))
        self.assertIn("committed at seq 5, index 6, but its result has 16777217 bytes", failed.reason)

    async def test_flood(self) -> None:
        """More than may be unanswered is refused, batch by batch, until there is room."""
        self.node.held = {}
        client = await self.welcomed()
        client.say(submit(1, *[b"x"] * 98), submit(2, *[b"x"] * 3), submit(3, b"x", b"x"))
        (failed,) = await self.answers(client)
        self.assertEqual((failed.batch, failed.places, failed.kind), (2, (0, 1, 2), FailureKind.OVERLOADED))
        self.assertIn("98 transactions are unanswered", failed.reason)
        self.assertIn("than the 100 that may", failed.reason)
        await self.until(lambda: len(self.node.held or ()) == 2)
        self.node.held[1].committed(0, 1, 0, [b""] * 98)
        self.assertIsInstance((await self.answers(client))[0], m.Committed)
        self.node.held = None
        self.assertIsInstance(await self.ask(client, submit(4, *[b"x"] * 98)), m.Committed)
        self.assertEqual((await self.ask(client, submit(5, *[b"x"] * 99))).kind, FailureKind.OVERLOADED)

    async def test_bad_requests_take_no_room(self) -> None:
        """What was refused is not unanswered."""
        client = await self.welcomed()
        for batch in range(1, 4):
            await self.ask(client, submit(batch, *[b"x"] * 60, rm="nobody"))
        self.assertIsInstance(await self.ask(client, submit(4, *[b"x"] * 100)), m.Committed)

    async def test_lost(self) -> None:
        """Nobody listens any more to what is under way; late answers hurt nobody."""
        self.node.held = {}
        client = await self.welcomed()
        client.say(submit(1, b"x", b"y"), submit(2, b"x"), m.Ping(1))
        await self.answers(client)
        self.node.held[2].committed(0, 1, 0, (b"",))
        await self.answers(client)
        client.tcp.abortConnection()
        await self.until(lambda: not self.port._open)
        self.assertEqual(self.node.forgotten, [1])
        self.node.held[1].committed(0, 1, 0, (b"", b""))


class Readers(ClientCase):
    """Queries."""

    async def asked(self, *queries: Any) -> list[Any]:
        """The answers to queries on a new connection."""
        client = await self.welcomed()
        client.say(*queries)
        found = await self.answers(client, len(queries))
        await self.leave(client)
        return found

    def put(self, **values: bytes) -> None:
        """Let the store hold these."""
        for key, value in values.items():
            self.node.submit("kv", self.node.kv.put_payload(key, value))

    async def failed(self, query: Any, kind: FailureKind, *parts: str) -> None:
        """A query is not answered, and why."""
        (answer,) = await self.asked(query)
        self.assertEqual((type(answer), answer.query, answer.kind), (m.QueryFailed, query.query, kind))
        for part in parts:
            self.assertIn(part, answer.reason)

    async def test_get(self) -> None:
        """Values and versions, and 0 for what is not there; local or behind a barrier."""
        self.put(a=b"1", b=b"2")
        keys = ("b", "none", "a")
        values = (m.Value(b"2", 2), m.Value(b"", 0), m.Value(b"1", 1))
        self.node.asked.clear()
        self.assertEqual(await self.asked(m.GetKeys(1, "kv", keys, False, 9)), [m.Values(1, 2, values)])
        self.assertEqual(self.node.asked, [])
        self.assertEqual(await self.asked(m.GetKeys(1, "kv", keys, True, 900)), [m.Values(1, 2, values)])
        self.assertEqual(self.node.asked, [("barrier", 0.9)])

    async def test_barrier_fails(self) -> None:
        """Without a quorum."""
        self.node.failure = errors.NoQuorum("alone")
        await self.failed(m.GetKeys(1, "kv", ("a",), True, 900), FailureKind.NO_QUORUM, "alone")

    async def test_bad(self) -> None:
        """What nobody could answer."""
        bad = FailureKind.BAD_REQUEST
        await self.failed(m.GetKeys(1, "nobody", ("a",), False, 9), bad, "no key-value store", "'nobody'", "are: kv")
        await self.failed(m.ListKeys(1, "nobody", "", "", 1, True, 9), bad, "no key-value store")
        await self.failed(m.GetKeys(1, "kv", ("a",) * 10_001, False, 9), bad, "names 10001 keys", "ask in parts")
        await self.failed(m.GetKeys(1, "kv", (), True, TIMEOUT_MS_MAX + 1), bad, "the timeout is 600001 ms")

    async def test_much(self) -> None:
        """An answer has its bounds, but one value always goes."""
        large = b"v" * client_queries.ANSWER_BYTES_MAX
        self.put(a=large, b=b"1")
        await self.failed(m.GetKeys(1, "kv", ("a", "b"), False, 9), FailureKind.BAD_REQUEST, "ask for fewer keys")
        (values,) = await self.asked(m.GetKeys(1, "kv", ("a",), False, 9))
        self.assertEqual(values.values, (m.Value(large, 1),))
        (items,) = await self.asked(m.ListKeys(1, "kv", "", "", 10, False, 9))
        self.assertEqual(([item.key for item in items.items], items.more), (["a"], True))

    async def test_list(self) -> None:
        """In parts, each from behind the last key of the one before."""
        self.put(**{f"k{n}": b"%d" % n for n in range(5)}, other=b"")
        found, after = [], ""
        for count, more in ((2, True), (2, True), (1, False)):
            (part,) = await self.asked(m.ListKeys(1, "kv", "k", after, 2, True, 9))
            self.assertEqual((len(part.items), part.more, part.applied), (count, more, 6))
            found += part.items
            after = part.items[-1].key
        self.assertEqual(found, [m.Item(f"k{n}", b"%d" % n, n + 1) for n in range(5)])
        self.assertEqual(await self.asked(m.ListKeys(1, "kv", "k", "k9", 2, False, 9)), [m.Items(1, 6, (), False)])

    async def test_outcome(self) -> None:
        """Known, unknown, and too large to tell."""
        self.node.outcomes["s#7"] = errors.Committed(4, 2, b"r")
        self.node.outcomes["big"] = errors.Committed(5, 1, b"r" * (client_queries.ANSWER_BYTES_MAX + 1))
        found = await self.asked(m.AskOutcome(1, "s#7"), m.AskOutcome(2, "?"))
        self.assertEqual(found, [m.Outcome(1, 4, 2, b"r"), m.Outcome(2, 0, 0, b"")])
        await self.failed(
            m.AskOutcome(1, "big"), FailureKind.BAD_REQUEST, "committed at seq 5, index 1, but its result"
        )

    async def test_status(self) -> None:
        """The same document as over HTTP."""
        (answer,) = await self.asked(m.AskStatus(1))
        self.assertEqual(msgspec.json.decode(answer.document), self.node.status())

    async def test_too_many(self) -> None:
        """Queries that wait are bounded, and are given up with their connection."""
        self.node.holding = []
        client = await self.welcomed()
        count = client_queries.QUERIES_MAX
        client.say(*(m.GetKeys(n, "kv", ("a",), True, 900) for n in range(1, count + 2)))
        (answer,) = await self.answers(client)
        self.assertEqual((answer.query, answer.kind), (count + 1, FailureKind.OVERLOADED))
        client.tcp.abortConnection()
        await self.until(lambda: not self.port._open)
        self.assertEqual([barrier for barrier in self.node.holding if not barrier.called], [])


class Happenings(ClientCase):
    """Events, and the word that the node leaves."""

    def happen(self, count: int) -> None:
        """So many events."""
        for _ in range(count):
            self.node.events.add("node_normal", 2)

    @staticmethod
    def ids(found: list[Any]) -> list[int]:
        """Of events."""
        return [msgspec.json.decode(event.document)["id"] for event in found]

    async def test_from_now_on(self) -> None:
        """Without ``after`` only what comes, as the log has it."""
        self.happen(3)
        client = await self.welcomed()
        client.say(m.Follow(1), m.Ping(1))
        self.assertEqual(await self.answers(client), [m.Pong(1)])
        self.happen(2)
        found = await self.answers(client, 2)
        self.assertEqual([(event.query, event.missed) for event in found], [(1, 0), (1, 0)])
        self.assertEqual(msgspec.json.decode(found[1].document), self.node.events.kept[-1])

    async def test_resume(self) -> None:
        """Over a new connection, without a gap."""
        client = await self.welcomed()
        client.say(m.Follow(1, 0))
        self.happen(2)
        self.assertEqual(self.ids(await self.answers(client, 2)), [1, 2])
        client.tcp.abortConnection()
        await self.until(lambda: not self.port._open)
        self.happen(2)
        client = await self.welcomed()
        client.say(m.Follow(1, 2))
        self.assertEqual(self.ids(await self.answers(client, 2)), [3, 4])
        self.happen(1)
        self.assertEqual(self.ids(await self.answers(client)), [5])

    async def test_missed(self) -> None:
        """What is not kept any more is counted; numbers of an earlier life are none."""
        self.node.events.keep = 3
        self.happen(10)
        for after, missed in ((2, 5), (99, 7), (-5, 7)):
            client = await self.welcomed()
            client.say(m.Follow(1, after))
            found = await self.answers(client, 3)
            self.assertEqual(self.ids(found), [8, 9, 10])
            self.assertEqual([event.missed for event in found], [missed, 0, 0])
            await self.leave(client)

    async def test_unfollow(self) -> None:
        """Of two followers one ends."""
        client = await self.welcomed()
        client.say(m.Follow(1), m.Follow(2), m.Unfollow(1), m.Unfollow(77), m.Ping(1))
        await self.answers(client)
        self.happen(1)
        self.assertEqual([event.query for event in await self.answers(client)], [2])

    async def test_too_many_followers(self) -> None:
        """Of one connection."""
        client = await self.welcomed()
        client.say(*(m.Follow(n) for n in range(1, client_queries.FOLLOWERS_MAX + 2)))
        (failed,) = await self.answers(client)
        self.assertEqual((failed.query, failed.kind), (17, FailureKind.BAD_REQUEST))
        self.assertIn("16 queries follow the events", failed.reason)

    async def test_leaving(self) -> None:
        """Everyone hears it at once, before the event itself, with how long it takes."""
        clients = [await self.welcomed(), await self.welcomed()]
        clients[0].say(m.Follow(1), m.Ping(1))
        await self.answers(clients[0])
        for member, expected_ms, outcome in ((1, 4000, None), (1, 9000, "done"), (2, 7000, None)):
            self.node.absences.records.append({"member": member, "expected_ms": expected_ms, "outcome": outcome})
        self.node.events.add("own_standing", 1, "a change begins", state="leaving", before="normal")
        leaving, event = await self.answers(clients[0], 2)
        self.assertEqual((leaving, type(event)), (m.Leaving("a change begins", 4000), m.Event))
        self.assertEqual(await self.answers(clients[1]), [leaving])

    async def test_not_leaving(self) -> None:
        """What a node does on its way back, and what other nodes do, is no reason to go."""
        client = await self.welcomed()
        self.node.events.add("own_standing", 1, "back", state="normal", before="catching_up")
        self.node.events.add("own_standing", 1, "it was stopped")
        self.happen(1)
        self.assertEqual(await self.ask(client, m.Ping(1)), m.Pong(1))

    async def test_stop(self) -> None:
        """First the word, then answers to what is under way, then the end; nobody new comes in."""
        self.node.held = {}
        client = await self.welcomed()
        client.say(submit(1, b"x"))
        await self.until(lambda: bool(self.node.held))
        self.desks.leave("node 1 stops")
        self.assertEqual(await self.answers(client), [m.Leaving("node 1 stops")])
        late = await self.dial()
        late.say(HELLO)
        await self.refused(late, "node 1 stops: connect to another one")
        self.node.held[1].failed((0,), errors.OutcomeUnknown("it stops"))
        closed = self.port.close()
        await closed
        self.assertIsNone(self.port.buildProtocol(None))
        await self.until(lambda: client.lost)
        self.assertEqual([type(each) for each in client.got], [m.Failed])
        self.assertEqual(self.node.events.callbacks, [])

    async def test_stop_with_a_client_that_stays(self) -> None:
        """It has a moment to end its side, no more."""
        client = await self.welcomed()
        client.tcp.pauseProducing()
        closed = self.port.close()
        for _ in range(5):
            await self.turn()
        self.assertFalse(closed.called)
        self.clock.advance(CLOSE_TIMEOUT_S)
        await closed


class Slow(ClientCase):
    """Clients that do not read."""

    unread_bytes_max = 1 << 20

    @property
    def connection(self) -> Any:
        """The node's side of the one that is connected."""
        (connection,) = self.port._open
        return connection

    async def filled(self, count: int) -> tuple[Client, list[bytes]]:
        """A client that sends much and reads nothing, once the node reads no more of it."""
        client = await self.welcomed()
        client.tcp.pauseProducing()
        payloads = [bytes((number,)) * (1 << 18) for number in range(count)]
        client.say(*(submit(number, payload) for number, payload in enumerate(payloads, 1)))
        await self.settled()
        return client, payloads

    async def settled(self) -> None:
        """Wait until nothing moves any more."""
        taken = -1
        while taken < len(self.node.asked) or not self.connection._full:
            taken = len(self.node.asked)
            for _ in range(SETTLED_TURNS):
                await self.turn()

    async def test_back_pressure(self) -> None:
        """The node stops to read, and loses nothing."""
        count = 200
        client, payloads = await self.filled(count)
        taken = len(self.node.asked)
        self.assertLess(taken, count)
        self.assertLess(self.connection._decoder.buffered_bytes, 1 << 20)
        client.tcp.resumeProducing()
        await self.until(lambda: len(client.of(m.Committed)) == count)
        self.assertEqual([each.results for each in client.of(m.Committed)], [(payload,) for payload in payloads])
        self.clock.advance(2 * UNREAD_S)
        client.say(m.Ping(1))
        await self.until(lambda: bool(client.of(m.Pong)))

    async def test_small_questions(self) -> None:
        """Those that came in one piece are read one by one as their large answers are."""
        self.node.submit("kv", self.node.kv.put_payload("a", bytes(1 << 19)))
        client = await self.welcomed()
        client.tcp.pauseProducing()
        self.node.asked.clear()
        client.say(*(m.GetKeys(number, "kv", ("a",), True, 900) for number in range(1, 61)))
        await self.settled()
        self.assertLess(len(self.node.asked), 60)
        client.tcp.resumeProducing()
        await self.until(lambda: len(client.of(m.Values)) == 60)

    async def test_stop_of_the_node(self) -> None:
        """It still gets what is on its way, and is gone when it has read that."""
        client, payloads = await self.filled(200)
        taken = len(self.node.asked)
        closed = self.port.close()
        client.tcp.resumeProducing()
        await closed
        self.assertEqual([each.results for each in client.of(m.Committed)], [(each,) for each in payloads[:taken]])

    async def test_for_long(self) -> None:
        """In the end it is disconnected."""
        client, _ = await self.filled(200)
        self.clock.advance(UNREAD_S)
        await self.until(lambda: not self.port._open)
        self.assertTrue(self.log_has("client 'test'", "it has read nothing, or too little, for 30 s"))
        client.tcp.resumeProducing()

    async def test_too_much(self) -> None:
        """So it is when too much waits for it."""
        self.node.held = {}
        client = await self.welcomed()
        client.tcp.pauseProducing()
        client.say(*(submit(batch, b"x") for batch in range(1, 61)))
        await self.until(lambda: len(self.node.held or ()) == 60)
        for sink in self.node.held.values():
            sink.committed(0, 1, 0, (bytes(1 << 18),))
        await self.until(lambda: not self.port._open)
        self.assertTrue(self.log_has("it leaves more than 1048576 bytes of answers unread"))
        client.tcp.resumeProducing()

    async def test_lost_in_the_middle_of_a_submission(self) -> None:
        """The answer that comes before the driver has given its ticket is one too much: the rest is forgotten."""
        client = await self.welcomed()
        connection = self.connection
        self.node.held = {}
        given = self.node.submit_many

        def submit_many(*args: Any) -> int:
            connection.abort("enough")
            return given(*args)

        self.node.submit_many = submit_many  # type: ignore[method-assign]
        client.say(submit(1, b"x"))
        await self.until(lambda: not self.port._open)
        self.assertEqual(self.node.forgotten, [1])

    async def test_queries_wait(self) -> None:
        """What is asked is not answered before it can be read; nor are events told."""
        self.node.holding = []
        client = await self.welcomed()
        client.say(m.GetKeys(1, "kv", ("a",), True, 900), m.Follow(2))
        await self.until(lambda: bool(self.node.holding))
        (desk,) = self.desks._open
        desk.hold()
        self.node.holding[0].callback(0)
        self.node.events.add("node_normal", 2)
        self.assertEqual(await self.ask(client, m.Ping(1)), m.Pong(1))
        desk.go_on()
        self.assertEqual([type(each) for each in await self.answers(client, 2)], [m.Values, m.Event])
