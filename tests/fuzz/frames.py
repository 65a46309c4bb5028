"""What a peer writes on a link: frames, cut anyhow, to the decoder and to a real link.

An input is the bytes as they travel.  How they are cut, and what the link went through before, follow from a hash of
them, so that an input always does the same.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any, Final

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from tests.fuzz import bodies
from tests.fuzz.bodies import Blind
from txvbcast.config import Address, Config, ListenConfig, MemberConfig, ProtocolConfig
from txvbcast.core.inputs import StoredState
from txvbcast.errors import RemoteProtocolError
from txvbcast.net.link import Link
from txvbcast.net.links import Links, own_hello
from txvbcast.wire.codec import HEADER_BYTES, PEERS, Family, FrameDecoder, encode_frame
from txvbcast.wire.limits import FRAME_BYTES_MAX, VERSION
from txvbcast.wire.messages import Hello, HelloRefused, Message

_HEADER: Final = struct.Struct("!IBBHI")
_CHECKED_BYTES: Final = 8
_LENGTH_BYTES: Final = 4

#: The most characters in what a node says about malformed bytes, to its log and to its peer.
SAID_CHARS_MAX: Final = 1000

#: The messages of an input about which the fuzzer is told more than their number.
TOLD_MAX: Final = 2


# --- the decoder -------------------------------------------------------------------------


@attrs.frozen
class Stream:
    """How bytes divide into frames, by ``docs/wire.md`` and not by the decoder.

    :ivar frames: type number and body of each whole frame.
    :ivar ends: how many bytes were there when each was.
    :ivar refused_at: how many bytes show that the rest is not to be read; None: it may be.
    :ivar left: the bytes after the last frame, if they may be the beginning of another.
    """

    frames: list[tuple[int, bytes]]
    ends: list[int]
    refused_at: int | None
    left: int


def divided(data: bytes, family: Family[Any] = PEERS) -> Stream:
    """What a decoder has to find in ``data``, before it looks into the bodies."""
    frames: list[tuple[int, bytes]] = []
    ends = [0]
    while True:
        start = ends[-1]
        left = len(data) - start
        if left < _LENGTH_BYTES:
            return Stream(frames, ends[1:], None, left)
        length = int.from_bytes(data[start : start + _LENGTH_BYTES])
        if not 1 <= length <= FRAME_BYTES_MAX:
            return Stream(frames, ends[1:], start + _LENGTH_BYTES, 0)
        if left < HEADER_BYTES:
            return Stream(frames, ends[1:], None, left)
        _, version, number, flags, checksum = _HEADER.unpack_from(data, start)
        if version != VERSION or number not in family.classes or flags != 0:
            return Stream(frames, ends[1:], start + HEADER_BYTES, 0)
        if left < HEADER_BYTES + length:
            return Stream(frames, ends[1:], None, left)
        end = start + HEADER_BYTES + length
        body = data[start + HEADER_BYTES : end]
        if checksum != zlib.crc32(data[start : start + _CHECKED_BYTES] + body):
            return Stream(frames, ends[1:], end, 0)
        frames.append((number, body))
        ends.append(end)


@attrs.frozen
class Decoded:
    """What a decoder made of bytes.

    :ivar failure: what it said when it refused to go on.
    :ivar fed: the bytes that it had been given by then.
    :ivar held: the bytes that it kept.
    """

    messages: list[Any]
    failure: str | None
    fed: int
    held: int


def decoded(pieces: list[bytes], family: Family[Any] = PEERS) -> Decoded:
    """What a decoder makes of ``pieces``; anything that it raises but its declared error goes through."""
    decoder: FrameDecoder[Any] = FrameDecoder(family=family)
    messages: list[Any] = []
    fed = 0
    try:
        for piece in pieces:
            fed += len(piece)
            messages.extend(decoder.feed(piece))
    except RemoteProtocolError as error:
        return Decoded(messages, str(error), fed, decoder.buffered_bytes)
    return Decoded(messages, None, fed, decoder.buffered_bytes)


def check_decoder(data: bytes, pieces: list[bytes], family: Family[Any] = PEERS) -> Decoded:
    """The decoder reads what is there, refuses the rest as early as it can, and keeps no more than it must.

    :return: what it made of ``data`` in one piece.
    """
    stream = divided(data, family)
    whole = decoded([data], family)
    types = [family.classes[number] for number, _ in stream.frames]
    assert [type(message) for message in whole.messages] == types[: len(whole.messages)]
    refused_at = stream.refused_at
    if len(whole.messages) < len(types):  # a whole frame, with a body that is none
        assert whole.failure is not None
        assert whole.failure.startswith(f"the body is no {types[len(whole.messages)].__name__}: "), whole.failure
        refused_at = stream.ends[len(whole.messages)]
        bodies.tell_refused(types[len(whole.messages)], whole.failure)
    for message in whole.messages[:TOLD_MAX]:
        bodies.tell_kinds(message)
    assert (whole.failure is None) == (refused_at is None), whole.failure
    assert whole.held == (stream.left if refused_at is None else 0)
    check_words(whole.failure or "")

    cut = decoded(pieces, family)
    assert (cut.messages, cut.failure, cut.held) == (whole.messages, whole.failure, whole.held)
    if refused_at is not None:
        assert refused_at <= cut.fed < refused_at + max(map(len, pieces)), "it did not refuse as early as it could"
    return whole


def check_words(said: str) -> None:
    """What a node says about malformed bytes cannot damage a log."""
    assert len(said) <= SAID_CHARS_MAX, f"{len(said)} characters: {said[:200]}"
    assert said.isprintable(), repr(said)


def check_return(messages: list[Any], family: Family[Any] = PEERS) -> None:
    """What was read can be said, in just one way, and is read the same again."""
    said = [encode_frame(message) for message in messages]
    again = decoded([b"".join(said)], family)
    assert (again.messages, again.failure, again.held) == (messages, None, 0)
    assert [encode_frame(message) for message in again.messages] == said


def cut(data: bytes, chance: int) -> list[bytes]:
    """``data`` in up to eight pieces, or (one time in 64, since it is slow) byte by byte."""
    size = 1 if chance % 64 == 0 else len(data) // (1 + chance % 7) + 1
    first = (chance >> 6) % size
    return [data[max(at, 0) : at + size] for at in range(first - size, len(data), size)]


# --- the link ----------------------------------------------------------------------------


class Transport(StringTransport):
    """Twisted's in-memory transport, with the calls of TCP that a link makes."""

    def __init__(self, peer: IPv4Address) -> None:
        super().__init__(hostAddress=IPv4Address("TCP", "192.0.2.1", 8410), peerAddress=peer)
        self.ended = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing to do in memory."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing to do in memory."""

    def loseWriteConnection(self) -> None:
        """Our side is done."""
        self.ended = True


class _Notes:
    """A receiver that writes down what it hears.

    :ivar up: the peers that it was told of and that are not gone.
    """

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.up: list[int] = []

    def received(self, peer: int, message: Message) -> None:
        assert self.up == [peer]
        self.got.append(message)

    def peer_up(self, peer: int, incarnation: int, disk_id: str, vms: tuple[str, ...]) -> None:
        assert not self.up
        self.up.append(peer)

    def peer_down(self, peer: int, reason: str) -> None:
        self.up.remove(peer)


OWN_ID: Final = 2
_MEMBERS: Final = tuple(MemberConfig(n, f"n{n}", Address("192.0.2.1", 8400 + n)) for n in (1, 2, 3))
_STORED: Final = StoredState(incarnation=1, disk_id="d", promised_epoch=0, log_epoch=0, committed=0, last_seq=0)


def config(node_id: int = OWN_ID) -> Config:
    """The configuration of one of three nodes; the links under test are those of the second."""
    own = _MEMBERS[node_id - 1]
    return Config(
        cluster_id="6f1d2c1e-demo",
        cluster_name="demo",
        node_name=own.name,
        vms=(),
        listen=ListenConfig(peer=own.peer, client=Address("192.0.2.1", 1), http=Address("192.0.2.1", 2)),
        data_dir=Path("unused"),
        protocol=ProtocolConfig(node_id=node_id, members=_MEMBERS),
    )


def hello_of(node_id: int) -> Hello:
    """What that node says first."""
    return own_hello(config(node_id), _STORED)


class _Keeper:
    """The real links of node 2, without a network: connections are handed to them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.links = Links(config(), _STORED, self.clock, linked=lambda peer, host: None)
        self.logged: list[str] = []
        observer: Any = self._on_log
        globalLogPublisher.addObserver(observer)

    def _on_log(self, event: LogEvent) -> None:
        self.logged.append(formatEvent(event))

    def check(self, pieces: list[bytes], whole: Decoded, dialled: bool, greeted: bool) -> None:
        """A link passes on what the decoder finds as long as it may, and says why when it stops.

        :param dialled: the peer is node 1, which this node dials; otherwise node 3, which dials this one.
        :param greeted: the peer said a good Hello before.
        """
        peer = 1 if dialled else 3
        notes = self.links.receiver = _Notes()
        transport = Transport(IPv4Address("TCP", "192.0.2.9", 40000))
        link = Link(self.links, peer if dialled else None)
        link.makeConnection(transport)
        for piece in [_HELLO_FRAMES[peer], *pieces] if greeted else pieces:
            link.dataReceived(piece)
        messages = [_HELLOS[peer], *whole.messages] if greeted else whole.messages
        assert not greeted or link.up_since_s is not None
        if link.up_since_s is None:
            assert not notes.up and not notes.got
        else:
            self._check_heard(messages, whole.failure, notes, link)
        self._check_said(transport, dialled, link)
        link.connectionLost()
        assert not notes.up
        assert not any(self.links.links().values())
        self._check_nothing_stays(dialled)

    def _check_heard(self, messages: list[Message], failure: str | None, notes: _Notes, link: Link) -> None:
        """The receiver got what came between Hello and whatever ends a link, if anything did."""
        hello, rest = messages[0], messages[1:]
        assert isinstance(hello, Hello)
        assert link.peer == hello.node_id
        ending = next((at for at, m in enumerate(rest) if isinstance(m, Hello | HelloRefused)), None)
        assert notes.got == rest[:ending]
        assert notes.up == ([link.peer] if ending is None and failure is None else [])

    def _check_said(self, transport: Transport, dialled: bool, link: Link) -> None:
        """Hello at most, and then a reason at most, after which our side is closed."""
        said = list(FrameDecoder().feed(transport.value()))
        if not dialled or link.up_since_s is not None:
            assert said.pop(0) == self.links.hello
        assert len(said) <= 1
        for message in said:
            assert isinstance(message, HelloRefused)
            assert transport.ended
            check_words(message.reason)

    def _check_nothing_stays(self, dialled: bool) -> None:
        waiting = self.clock.getDelayedCalls()
        assert len(waiting) == (1 if dialled else 0), waiting  # the next attempt to dial
        for call in waiting:
            call.cancel()
        for line in self.logged:
            check_words(line)
        self.logged.clear()


_HELLOS: Final = {peer: hello_of(peer) for peer in (1, 3)}
_HELLO_FRAMES: Final = {peer: encode_frame(hello) for peer, hello in _HELLOS.items()}
_keeper: Final = _Keeper()


# --- the target --------------------------------------------------------------------------


def check(data: bytes) -> None:
    """Bytes of a peer, whole and cut, to the decoder and (one time in four, since it is slow) to a link."""
    chance = zlib.crc32(data)
    pieces = cut(data, chance)
    whole = check_decoder(data, pieces)
    check_return(whole.messages)
    if chance >> 30 == 0:
        _keeper.check(pieces, whole, dialled=chance >> 28 & 1 == 1, greeted=chance >> 29 & 1 == 1)


def check_links(data: bytes, size: int) -> None:
    """The same bytes, in pieces of ``size``, to a link of each kind and state."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    whole = decoded([data])
    for dialled, greeted in itertools.product((False, True), repeat=2):
        _keeper.check(pieces, whole, dialled, greeted)


def mutate(data: bytes, bytes_max: int, seed: int, blind: Blind, family: Family[Any] = PEERS) -> bytes:
    """Another stream: mostly one whose headers and checksums are right, with something else in them."""
    chance = Random(seed)
    numbers = tuple(family.classes)
    frames = divided(data, family).frames
    if not frames or chance.random() < 0.1:
        return blind(data, bytes_max)
    changed = _changed(frames, bytes_max, chance, blind, numbers)
    other = b"".join(frame(number, body) for number, body in changed)
    return (other + _tail(chance, numbers))[:bytes_max]


def frame(number: int, body: bytes, length: int | None = None, version: int = VERSION, flags: int = 0) -> bytes:
    """A frame with a checksum that is right, whatever else is."""
    header = _HEADER.pack(len(body) if length is None else length, version, number, flags, 0)[:_CHECKED_BYTES]
    return header + zlib.crc32(header + body).to_bytes(4) + body


def _changed(
    frames: list[tuple[int, bytes]], bytes_max: int, chance: Random, blind: Blind, numbers: tuple[int, ...]
) -> list[tuple[int, bytes]]:
    """Other frames: one has another body or type, or is somewhere else, twice, or not at all.

    Half of the time all the others are good: a stream is read no further than its first bad frame.
    """
    if chance.random() < 0.5:
        frames = [(number, bodies.good(number, chance)) for number, _ in frames]
    at = chance.randrange(len(frames))
    number, body = frames[at]
    what = chance.random()
    if what < 0.7:
        return [*frames[:at], (number, bodies.changed(body, bytes_max, chance, blind)), *frames[at + 1 :]]
    if what < 0.8:
        return [*frames[:at], (chance.choice(numbers), body), *frames[at + 1 :]]
    if what < 0.9:
        return [*frames[:at], *frames[at + 1 :], frames[at]]
    return [*frames, (number, body)] if what < 0.95 else frames[:at] + frames[at + 1 :]


def _tail(chance: Random, numbers: tuple[int, ...]) -> bytes:
    """Mostly nothing; else a frame that is to be refused, with a checksum that is right."""
    if chance.random() < 0.9:
        return b""
    return frame(
        number=chance.choice((*numbers, 0, 255, chance.randrange(256))),
        body=chance.randbytes(chance.randrange(20)),
        length=chance.choice((None, 0, 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1)),
        version=chance.choice((VERSION, 0, VERSION + 1, 255)),
        flags=chance.choice((0, 1, 0x8000)),
    )
