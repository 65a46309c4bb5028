"""What anybody sends to a node's UDP port: one datagram, to the decoder and to the node's real datagrams.

An input is the datagram as it travels.  What else is tried with it follows from a hash of it.
"""

from __future__ import annotations

import struct
import zlib
from random import Random
from typing import Any, Final

from twisted.internet.task import Clock

from tests.fuzz import bodies
from tests.fuzz.bodies import Blind
from tests.fuzz.frames import check_words, config
from tests.wire_samples import CLUSTER_ID, enveloped
from txvbcast.errors import RemoteProtocolError
from txvbcast.net.datagrams import Datagrams
from txvbcast.wire.datagram import HEADER_BYTES, MAGIC, decode_datagram, encode_datagram
from txvbcast.wire.limits import DATAGRAM_BYTES_MAX, VERSION
from txvbcast.wire.messages import DATAGRAM_TYPES, NODE_ID_MAX, OPCODES, Message

_LEAD: Final = struct.Struct("!2sBBHI")  # magic, version, type, sender, checksum
_CHECKED_BYTES: Final = 6
_NUMBERS: Final = tuple(number for number, cls in OPCODES.items() if cls in DATAGRAM_TYPES)

#: The fields that have a default are written even if they were not read, which takes so many bytes at most.
_DEFAULTS_BYTES_MAX: Final = 64


# --- the decoder -------------------------------------------------------------------------


def wanted(data: bytes) -> type[Message] | None:
    """What the body of ``data`` has to be, by ``docs/wire.md`` and not by the decoder; None: it is not to be read."""
    if not HEADER_BYTES < len(data) <= DATAGRAM_BYTES_MAX:
        return None
    magic, version, number, sender, checksum = _LEAD.unpack_from(data)
    intact = checksum == zlib.crc32(data[:_CHECKED_BYTES] + data[_LEAD.size :])
    ours = enveloped(b"", cluster_id=CLUSTER_ID)[_LEAD.size :] == data[_LEAD.size : HEADER_BYTES]
    if magic != MAGIC or version != VERSION or number not in _NUMBERS or sender < 1 or not intact or not ours:
        return None
    return OPCODES[number]


def refusal(data: bytes) -> str | None:
    """Why ``data`` is not read; None: it is.  Anything that is raised but the declared error goes through."""
    try:
        decode_datagram(data, CLUSTER_ID)
    except RemoteProtocolError as error:
        return str(error)
    return None


def check_decoder(data: bytes) -> tuple[int, Message] | None:
    """The decoder reads what it has to, and refuses the rest in words that can be logged."""
    cls = wanted(data)
    said = refusal(data)
    if said is not None:
        check_words(said)
        if cls is not None:
            assert said.startswith(f"the body is no {cls.__name__}: "), said
            bodies.tell_refused(cls, said)
        return None
    sender, message = decode_datagram(data, CLUSTER_ID)
    assert type(message) is cls
    assert sender == int.from_bytes(data[4:6])
    bodies.tell_kinds(message)
    return sender, message


def check_return(sender: int, message: Message) -> None:
    """What was read can be said, in just one way, and is read the same again."""
    said = encode_datagram(sender, CLUSTER_ID, message)
    again, read = decode_datagram(said, CLUSTER_ID)
    assert (again, read) == (sender, message)
    assert encode_datagram(again, CLUSTER_ID, read) == said


def check_others(data: bytes, chance: int) -> None:
    """A datagram that is read is not read any more with something wrong, though its checksum be right."""
    number, sender, body = data[3], int.from_bytes(data[4:6]), data[HEADER_BYTES:]
    at = chance % len(body)
    for other in (
        enveloped(body, number, sender, cluster_id="another"),
        enveloped(body, number, sender, version=VERSION + 1),
        enveloped(body, number, sender, magic=b"VC"),
        enveloped(body, number, sender=0),
        enveloped(body[:at], number, sender),
        enveloped(body + b"\0", number, sender),
        data[:at] + bytes((data[at] ^ 1 << chance % 8,)) + data[at + 1 :],
    ):
        assert refusal(other) is not None, other.hex()


# --- a node's datagrams ------------------------------------------------------------------


class _Reactor(Clock):
    """Hands over what would be bound to a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.bound: Any = None

    def listenUDP(self, port: int, protocol: Any, interface: str, maxPacketSize: int) -> None:
        self.bound = protocol


class _Node:
    """The real datagrams of node 2 of three."""

    def __init__(self) -> None:
        reactor = _Reactor()
        self.datagrams = Datagrams(config(), reactor)
        self.datagrams.start(self._received)
        self.datagrams.listen("192.0.2.1", 8402)
        self.socket = reactor.bound
        self.got: list[tuple[int, Message]] = []

    def _received(self, sender: int, message: Message) -> None:
        self.got.append((sender, message))

    def check(self, data: bytes, read: tuple[int, Message] | None) -> None:
        """What a peer sent is passed on; anything else is counted, and hurts nobody."""
        self.got.clear()
        malformed = self.datagrams.malformed.count
        self.socket.datagramReceived(data, ("192.0.2.9", 8409))
        good = read is not None and read[0] in (1, 3)
        assert self.got == ([read] if good else [])
        assert self.datagrams.malformed.count == malformed + (not good)


_node: Final = _Node()


# --- the target --------------------------------------------------------------------------


def check(data: bytes) -> None:
    """One datagram, and some that differ from it in one thing."""
    read = check_decoder(data)
    _node.check(data, read)
    if read is None:
        return
    if len(data) <= DATAGRAM_BYTES_MAX - _DEFAULTS_BYTES_MAX:
        check_return(*read)
    check_others(data, zlib.crc32(data))


def mutate(data: bytes, bytes_max: int, seed: int, blind: Blind) -> bytes:
    """Another datagram: mostly one whose header and checksum are right, with something else in its body."""
    chance = Random(seed)
    if wanted(data) is None or chance.random() < 0.1:
        return blind(data, bytes_max)
    number, sender, body = data[3], int.from_bytes(data[4:6]), data[HEADER_BYTES:]
    if chance.random() < 0.5:
        body = bodies.good(number, chance)
    what = chance.random()
    if what < 0.1:
        number = chance.choice((*_NUMBERS, chance.randrange(256)))
    elif what < 0.2:
        sender = chance.choice((0, 1, 2, 3, 4, NODE_ID_MAX))
    else:
        body = bodies.changed(body, bytes_max - HEADER_BYTES, chance, blind)
    return enveloped(body, number, sender)
