"""Bytes to datagrams and back: heartbeats, and announcements that cannot wait for a link.

A datagram carries one message and says who sent it, in which cluster.  It may be lost,
repeated, late, or come from a stranger: what cannot be read is dropped, and hurts nobody.
"""

from __future__ import annotations

import functools
import hashlib
import struct
import zlib
from typing import Final

from txvbcast.errors import LocalProtocolError, RemoteProtocolError
from txvbcast.wire import bodies
from txvbcast.wire.limits import DATAGRAM_BYTES_MAX, VERSION
from txvbcast.wire.messages import DATAGRAM_TYPES, NODE_ID, OPCODES, Message

MAGIC: Final = b"VB"
_LEAD = struct.Struct("!2sBBH")  # magic, version, type, sender
_CHECKSUM = struct.Struct("!I")
_CLUSTER_BYTES: Final = 8
_CLUSTER_START: Final = _LEAD.size + _CHECKSUM.size
HEADER_BYTES: Final = _CLUSTER_START + _CLUSTER_BYTES
_CLUSTERS_KEPT: Final = 16

_types = frozenset(number for number, cls in OPCODES.items() if cls in DATAGRAM_TYPES)


def encode_datagram(sender: int, cluster_id: str, message: Message) -> bytes:
    """The datagram by which node ``sender`` of the cluster tells ``message``.

    :raises LocalProtocolError: the message may not travel so, is too long for a datagram,
        or ``sender`` is no node id.
    """
    name = type(message).__name__
    number = bodies.type_number(message)
    if number not in _types:
        raise LocalProtocolError(f"{name} may not be sent as a datagram")
    if not NODE_ID.low <= sender <= NODE_ID.high:
        raise LocalProtocolError(f"the sender of a datagram must be from {NODE_ID.low} to {NODE_ID.high}, got {sender}")
    lead = _LEAD.pack(MAGIC, VERSION, number, sender)
    rest = _cluster_mark(cluster_id) + bodies.encode(message)
    size = _CLUSTER_START + len(rest)
    if size > DATAGRAM_BYTES_MAX:
        raise LocalProtocolError(f"a {name} of {size} bytes does not fit a datagram of at most {DATAGRAM_BYTES_MAX}")
    return lead + _CHECKSUM.pack(zlib.crc32(rest, zlib.crc32(lead))) + rest


def decode_datagram(data: bytes, cluster_id: str) -> tuple[int, Message]:
    """Who sent the datagram, and its message.

    :raises RemoteProtocolError: it is malformed, damaged, or of another cluster.
    """
    _check_size(len(data))
    magic, version, number, sender = _LEAD.unpack_from(data)
    if magic != MAGIC:
        raise RemoteProtocolError("a datagram is not of this protocol: it does not begin with VB")
    if version != VERSION:
        raise RemoteProtocolError(f"a datagram has wire version {version}, this program reads version {VERSION}")
    (checksum,) = _CHECKSUM.unpack_from(data, _LEAD.size)
    if checksum != zlib.crc32(data[_CLUSTER_START:], zlib.crc32(data[: _LEAD.size])):
        raise RemoteProtocolError("a datagram was damaged on its way: its CRC-32 does not match")
    if data[_CLUSTER_START:HEADER_BYTES] != _cluster_mark(cluster_id):
        raise RemoteProtocolError(f"a datagram of node {sender} belongs to another cluster")
    if number not in _types:
        raise RemoteProtocolError(f"a datagram of node {sender} has type {number}, which may not travel so")
    if sender < NODE_ID.low:
        raise RemoteProtocolError(f"a datagram names node {sender} as its sender")
    return sender, bodies.decode_message(bodies.PEERS, number, data[HEADER_BYTES:])


def _check_size(size: int) -> None:
    if not HEADER_BYTES < size <= DATAGRAM_BYTES_MAX:
        raise RemoteProtocolError(
            f"a datagram has {size} bytes where {HEADER_BYTES + 1} to {DATAGRAM_BYTES_MAX} are allowed"
        )


@functools.lru_cache(maxsize=_CLUSTERS_KEPT)
def _cluster_mark(cluster_id: str) -> bytes:
    return hashlib.sha256(cluster_id.encode()).digest()[:_CLUSTER_BYTES]
