"""What a client writes to the port for clients: frames, cut anyhow, to the decoder and to a real connection.

The properties of the decoder are those of :mod:`tests.fuzz.frames`.  Behind the connection is a desk
with a node that answers at once, so whatever a client asked has its answer when its bytes have been read.
"""

from __future__ import annotations

import zlib
from collections import Counter
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from tests.fake_node import FakeNode
from tests.fuzz import frames
from tests.fuzz.bodies import Blind
from tests.fuzz.frames import Transport, check_decoder, check_return, check_words, cut
from tests.wire_samples import CLIENT_TYPICAL, CLUSTER_ID
from txvbcast.control.client_desk import DeskFacts, Desks
from txvbcast.control.client_port import ClientPort
from txvbcast.wire.client_messages import (
    ClientHello,
    ClientMessage,
    Committed,
    Event,
    Failed,
    Follow,
    Items,
    Leaving,
    Outcome,
    Ping,
    Pong,
    Query,
    QueryFailed,
    Refused,
    Status,
    Submit,
    Values,
    Welcome,
)
from txvbcast.wire.codec import CLIENTS, FrameDecoder, encode_frame

_FACTS: Final = DeskFacts(
    cluster_id=CLUSTER_ID,
    cluster_name="demo",
    node_id=1,
    payload_bytes_max=1 << 20,
    outstanding_max=100,
    clients_max=1,
    nodes=lambda host: (),
)
_HELLO: Final = CLIENT_TYPICAL["ClientHello"]
_TO_CLIENTS: Final = (
    Welcome, Refused, Leaving, Pong, Committed, Failed, Values, Items, Outcome, Status, Event, QueryFailed,
)  # fmt: skip


class _Connection:
    """A connection of the real port, without a network, and what was said over it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.node = FakeNode()
        self.desks = Desks(self.node, [self.node.kv], _FACTS)
        self.port = ClientPort(self.desks, self.clock)
        self.transport = Transport(IPv4Address("TCP", "192.0.2.9", 40000))
        self.logged: list[str] = []
        self.protocol = self.port.buildProtocol(None)
        assert self.protocol is not None
        self.protocol.makeConnection(self.transport)

    def feed(self, pieces: list[bytes]) -> None:
        """Bytes come in, one turn of the event loop for each piece, and then an event happens."""
        assert self.protocol is not None
        observer: Any = self._on_log
        globalLogPublisher.addObserver(observer)
        for piece in pieces:
            self.protocol.dataReceived(piece)
            self.clock.advance(0)
        self.node.events.add("own_standing", 1, "it leaves", state="leaving", before="normal")
        self.clock.advance(0)
        globalLogPublisher.removeObserver(observer)

    def _on_log(self, event: LogEvent) -> None:
        self.logged.append(formatEvent(event))

    def lose(self) -> None:
        """It is gone; nothing stays."""
        assert self.protocol is not None
        self.protocol.connectionLost()
        assert not self.clock.getDelayedCalls()
        assert not self.desks._open and not self.port._open and not self.port._strangers
        assert len(self.logged) <= 1
        for line in self.logged:
            check_words(line)


def check_connection(pieces: list[bytes], messages: list[ClientMessage], failure: str | None, greeted: bool) -> None:
    """Everything is answered once, in the bounds of what may be said, and an end has a reason.

    :param messages: what the decoder finds in ``pieces``, and ``failure`` how it ends.
    :param greeted: the client said a good ClientHello before.
    """
    connection = _Connection()
    connection.feed([encode_frame(_HELLO), *pieces] if greeted else pieces)
    value = connection.transport.value()
    if value.startswith(b"HTTP/1.1 400 "):
        assert failure is not None and not greeted and connection.transport.ended
    else:
        said: list[Any] = list(FrameDecoder(family=CLIENTS).feed(value))
        _check_said(said, connection.transport.ended)
        if not (said and isinstance(said[-1], Refused)):
            assert failure is None, failure
            _check_answered([_HELLO, *messages] if greeted else messages, said)
    connection.lose()


def _check_said(said: list[Any], ended: bool) -> None:
    """Words for logs; Refused is last, and then only."""
    assert all(isinstance(message, _TO_CLIENTS) for message in said)
    for message in said:
        check_words(getattr(message, "reason", ""))
    assert [isinstance(message, Refused) for message in said] == [False] * (len(said) - 1) + [ended] * bool(said)


def _check_answered(messages: list[ClientMessage], said: list[Any]) -> None:
    """Each transaction and query has one answer; and the client heard that the node leaves."""
    if not messages:
        assert not said
        return
    assert isinstance(messages[0], ClientHello) and isinstance(said[0], Welcome)
    asked: Counter[tuple[Any, ...]] = Counter()
    for message in messages[1:]:
        if isinstance(message, Submit):
            asked.update(("tx", message.batch, place) for place in range(len(message.payloads)))
        elif isinstance(message, Query) and not isinstance(message, Follow):
            asked["query", message.query] += 1
        elif isinstance(message, Ping):
            asked["ping", message.number] += 1
    answered: Counter[tuple[Any, ...]] = Counter()
    follows = {message.query for message in messages[1:] if isinstance(message, Follow)}
    for answer in said[1:]:
        if isinstance(answer, Committed):
            answered.update(("tx", answer.batch, answer.place + at) for at in range(len(answer.results)))
        elif isinstance(answer, Failed):
            answered.update(("tx", answer.batch, place) for place in answer.places)
        elif isinstance(answer, Pong):
            answered["ping", answer.number] += 1
        elif not isinstance(answer, Leaving | Event) and answer.query not in follows:
            answered["query", answer.query] += 1
    assert answered == asked
    assert [message for message in said if isinstance(message, Leaving)] == [Leaving("it leaves")]


# --- the target --------------------------------------------------------------------------


def check(data: bytes) -> None:
    """Bytes of a client, whole and cut, to the decoder and (one time in four, since it is slow) to a connection."""
    chance = zlib.crc32(data)
    pieces = cut(data, chance)
    whole = check_decoder(data, pieces, CLIENTS)
    check_return(whole.messages, CLIENTS)
    if chance >> 30 == 0:
        check_connection(pieces, whole.messages, whole.failure, greeted=chance >> 29 & 1 == 1)


def check_connections(data: bytes, size: int) -> None:
    """The same bytes, in pieces of ``size``, to a connection before and after its greeting."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    whole = frames.decoded([data], CLIENTS)
    for greeted in (False, True):
        check_connection(pieces, whole.messages, whole.failure, greeted)


def mutate(data: bytes, bytes_max: int, seed: int, blind: Blind) -> bytes:
    """Another stream: mostly one whose headers and checksums are right, with something else in them."""
    return frames.mutate(data, bytes_max, seed, blind, CLIENTS)
