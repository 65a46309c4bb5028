"""What the tests of the network share: configurations, a receiver that takes notes, a peer made by hand."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial import unittest

from txvbcast.config import Address, Config, ListenConfig, MemberConfig, ProtocolConfig
from txvbcast.core.inputs import StoredState
from txvbcast.net.links import own_hello
from txvbcast.net.network import Network
from txvbcast.wire.codec import FrameDecoder, encode_frame
from txvbcast.wire.messages import Hello, Message

reactor: Any = _reactor
LOOPBACK = "127.0.0.1"
CLUSTER = "c0ffee"


def free_port(host: str = LOOPBACK) -> int:
    """A port that is free for TCP and UDP, at this moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            tcp.bind((host, 0))
            port = int(tcp.getsockname()[1])
            try:
                udp.bind((host, port))
            except OSError:
                continue
            return port


def no_ipv6() -> str | None:
    """Why there is no ::1 here; None: there is."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return f"no ::1 on this machine: {error}"
    return None


def members(count: int, host: str = LOOPBACK) -> tuple[MemberConfig, ...]:
    """So many members at free ports of ``host``."""
    return tuple(MemberConfig(n, f"n{n}", Address(host, free_port(host))) for n in range(1, count + 1))


def config(node_id: int, listed: tuple[MemberConfig, ...], listen: Address | None = None, **more: Any) -> Config:
    """A member's configuration; it listens at its line's address unless told otherwise."""
    own = next(member for member in listed if member.id == node_id)
    peer = listen or own.peer
    made = Config(
        cluster_id=CLUSTER,
        cluster_name="test",
        node_name=own.name,
        vms=(),
        listen=ListenConfig(peer=peer, client=Address(peer.host, 0), http=Address(peer.host, 0)),
        data_dir=Path("unused"),
        protocol=ProtocolConfig(node_id=node_id, members=listed),
    )
    return attrs.evolve(made, **more)


def stored(node_id: int, incarnation: int = 1) -> StoredState:
    """What the store of a fresh node knows."""
    return StoredState(
        incarnation=incarnation, disk_id=f"disk{node_id}", promised_epoch=0, log_epoch=0, committed=0, last_seq=0
    )


def hello(node_id: int, listed: tuple[MemberConfig, ...], incarnation: int = 1, **more: Any) -> Hello:
    """What a member says first."""
    return own_hello(config(node_id, listed, **more), stored(node_id, incarnation))


class Notes:
    """A receiver that writes down what it hears.

    :ivar said: ``("up", peer, incarnation, disk_id)`` and ``("down", peer, reason)``, in order.
    :ivar got: ``(peer, message)``, in order.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.got: list[tuple[int, Message]] = []
        self._changed = changed

    def received(self, peer: int, message: Message) -> None:
        self.got.append((peer, message))
        self._changed()

    def peer_up(self, peer: int, incarnation: int, disk_id: str, vms: tuple[str, ...]) -> None:
        self.said.append(("up", peer, incarnation, disk_id))
        self._changed()

    def peer_down(self, peer: int, reason: str) -> None:
        self.said.append(("down", peer, reason))
        self._changed()

    def of(self, peer: int) -> list[tuple[Any, ...]]:
        """What was said about one peer."""
        return [note for note in self.said if note[1] == peer]

    def ups(self, peer: int) -> int:
        """How often it came up."""
        return sum(note[0] == "up" for note in self.of(peer))

    def downs(self, peer: int) -> list[str]:
        """Why it went down, each time."""
        return [note[2] for note in self.of(peer) if note[0] == "down"]


class ByHand(Protocol):
    """One side of a connection, made by hand.

    :ivar got: the messages that came in.
    :ivar lost: whether the connection is gone.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.got: list[Message] = []
        self.lost = False
        self.tcp: Any = None
        self._changed = changed
        self._decoder = FrameDecoder()

    def connectionMade(self) -> None:
        self.tcp = self.transport
        self.tcp.setTcpNoDelay(True)
        self._changed()

    def dataReceived(self, data: bytes) -> None:
        self.got.extend(self._decoder.feed(data))
        self._changed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._changed()

    def say(self, *messages: Message) -> None:
        """Send messages in one write."""
        self.tcp.write(b"".join(encode_frame(message) for message in messages))


class _AcceptByHand(Factory):
    noisy = False

    def __init__(self, changed: Callable[[], None]) -> None:
        self.accepted: list[ByHand] = []
        self._changed = changed

    def buildProtocol(self, addr: object) -> ByHand:
        self.accepted.append(ByHand(self._changed))
        return self.accepted[-1]


class NetCase(unittest.TestCase):
    """A test that waits on conditions.

    :ivar logged: the text of what was logged as a warning or worse.
    """

    timeout = 30

    def setUp(self) -> None:
        self.logged: list[str] = []
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        observer: Any = self._on_log
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _on_log(self, event: Any) -> None:
        if event["log_level"].name in ("warn", "error", "critical"):
            self.logged.append(formatEvent(event))
        self.changed()

    def changed(self) -> None:
        """Something happened: wake whose condition holds now, in a turn of its own."""
        for waiting in [waiting for waiting in self._waiting if waiting[0]()]:
            self._waiting.remove(waiting)
            reactor.callLater(0, waiting[1].callback, None)

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires when ``condition`` holds."""
        done: Deferred[None] = Deferred()
        self._waiting.append((condition, done))
        self.changed()
        return done

    def turn(self) -> Deferred[None]:
        """Fires in the next turn of the reactor."""
        return deferLater(reactor, 0)

    def log_has(self, *parts: str) -> bool:
        """Whether one warning has all these parts."""
        return any(all(part in line for part in parts) for line in self.logged)

    async def network(self, made: Config, incarnation: int = 1, **more: Any) -> tuple[Network, Notes]:
        """A started network, stopped when the test ends, and the notes of its receiver."""
        notes = Notes(self.changed)
        network = Network(made, stored(made.node_id, incarnation), reactor, **more)
        network.receiver = notes
        self.addCleanup(network.stop)
        await network.start()
        return network, notes

    async def dial(self, address: Address) -> ByHand:
        """A connection to a node, made by hand."""
        connection = await HostnameEndpoint(reactor, address.host, address.port).connect(
            Factory.forProtocol(lambda: ByHand(self.changed))
        )
        assert isinstance(connection, ByHand)
        self.addCleanup(self.end, connection)
        return connection

    async def linked(self, address: Address, *said: Message) -> ByHand:
        """A connection to a node that said Hello, as a member would."""
        connection = await self.dial(address)
        await self.until(lambda: bool(connection.got))
        connection.say(*said)
        return connection

    def accept(self, address: Address) -> list[ByHand]:
        """Listen in the place of a node; the connections that come."""
        factory = _AcceptByHand(self.changed)
        port = reactor.listenTCP(address.port, factory, interface=address.host)
        self.addCleanup(port.stopListening)
        self.addCleanup(lambda: [self.end(connection) for connection in factory.accepted])
        return factory.accepted

    def end(self, connection: ByHand) -> Deferred[None]:
        """Abort a connection; fires when it is gone."""
        connection.tcp.abortConnection()
        return self.until(lambda: connection.lost)
