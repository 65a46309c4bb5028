"""Bytes to frames and back, for links; and log entries as the store keeps them.

A frame is a header of 12 bytes and a body; ``docs/wire.md`` has them byte by byte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final, Generic, overload

import msgspec

from txvbcast.errors import LocalProtocolError, RemoteProtocolError, StoreError
from txvbcast.wire import bodies
from txvbcast.wire.bodies import CLIENTS, PEERS, Family, M
from txvbcast.wire.client_messages import ClientMessage
from txvbcast.wire.limits import FRAME_BYTES_MAX, VERSION
from txvbcast.wire.messages import Entry, Message

__all__ = (
    "CLIENTS", "ENTRY_VERSION", "HEADER_BYTES", "PEERS", "CorruptEntry", "Family", "FrameDecoder",
    "decode_entry", "encode_entry", "encode_frame",
)  # fmt: skip

_LENGTH = struct.Struct("!I")
_CHECKED = struct.Struct("!IBBH")  # the part of the header that the checksum covers: length, version, type, flags
_CHECKSUM = struct.Struct("!I")
HEADER_BYTES: Final = _CHECKED.size + _CHECKSUM.size

ENTRY_VERSION: Final = 1
_ENTRY_HEADER = struct.Struct("!BI")
_entry_decoder = msgspec.msgpack.Decoder(Entry)


class CorruptEntry(StoreError):
    """The bytes of a stored log entry are not those that were written."""


def encode_frame(message: Message | ClientMessage, frame_bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """The frame that carries ``message``.

    :param message: of any family; its class tells the type number.
    :param frame_bytes_max: the longest body that the other side reads.
    :raises LocalProtocolError: it is no message, or its body is too long.
    """
    number = bodies.type_number(message)
    body = bodies.encode(message)
    if len(body) > frame_bytes_max:
        raise LocalProtocolError(
            f"a {type(message).__name__} of {len(body)} bytes does not fit a frame of at most {frame_bytes_max}"
        )
    checked = _CHECKED.pack(len(body), VERSION, number, 0)
    return checked + _CHECKSUM.pack(zlib.crc32(body, zlib.crc32(checked))) + body


class FrameDecoder(Generic[M]):
    """Finds the messages in what arrives over one connection, in pieces of any size.

    The length of a frame is checked as soon as its four bytes are there, version, type
    and flags with the rest of the header: nothing of a body that will be refused is waited for.  The
    cost is linear in the bytes fed, however they are cut.

    :ivar frame_bytes_max: the longest body that is read; may be changed between two calls.
    :param family: the messages that may come; by default those of the nodes to each other.
    """

    @overload
    def __init__(self: FrameDecoder[Message], frame_bytes_max: int = ...) -> None: ...

    @overload
    def __init__(self, frame_bytes_max: int = ..., *, family: Family[M]) -> None: ...

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX, *, family: Family[Any] = PEERS) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._family: Family[M] = family
        self._buffer = bytearray()
        self._start = 0  # of the frame that comes next; what lies before it is done with
        self._failure: str | None = None

    @property
    def buffered_bytes(self) -> int:
        """How much has been fed and not come out as a message yet; 0 between two frames."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> Iterator[M]:
        """Take in ``data``; iterate to get the messages that are now complete.

        Each message is decoded when it is asked for, so those before a malformed frame
        come out first, and what is not asked for now comes with the next call.

        :raises RemoteProtocolError: from the iterator at the malformed frame; from here
            at every call after it, because nothing that follows can be trusted.
        """
        if self._failure is not None:
            raise RemoteProtocolError(self._failure)
        del self._buffer[: self._start]
        self._start = 0
        self._buffer += data
        return self._messages()

    def _messages(self) -> Iterator[M]:
        try:
            while (message := self._read_frame()) is not None:
                yield message
        except RemoteProtocolError as error:
            self._failure = str(error)
            self._buffer.clear()
            self._start = 0
            raise

    def _read_frame(self) -> M | None:
        buffer, start = self._buffer, self._start
        if len(buffer) < start + _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(buffer, start)
        if not 1 <= length <= self.frame_bytes_max:
            raise RemoteProtocolError(
                f"a frame has a body of {length} bytes where 1 to {self.frame_bytes_max} are allowed"
            )
        body_start = start + HEADER_BYTES
        if len(buffer) < body_start:
            return None
        _, version, number, flags = _CHECKED.unpack_from(buffer, start)
        if version != VERSION or flags != 0 or number not in self._family.classes:
            self._refuse_header(version, number, flags)
        end = body_start + length
        if len(buffer) < end:
            return None
        body = buffer[body_start:end]
        (checksum,) = _CHECKSUM.unpack_from(buffer, start + _CHECKED.size)
        if checksum != zlib.crc32(body, zlib.crc32(buffer[start : start + _CHECKED.size])):
            raise RemoteProtocolError(f"a frame of type {number} was damaged on its way: its CRC-32 does not match")
        self._start = end
        return bodies.decode_message(self._family, number, body)

    def _refuse_header(self, version: int, number: int, flags: int) -> None:
        if version != VERSION:
            raise RemoteProtocolError(f"a frame has wire version {version}, this program reads version {VERSION}")
        bodies.check_number(number, self._family)
        raise RemoteProtocolError(f"a frame of type {number} has flags {flags:#06x} where none are known")


def encode_entry(entry: Entry) -> bytes:
    """The bytes by which the store keeps ``entry``: version, CRC-32, body.

    :raises LocalProtocolError: a field holds what MessagePack cannot carry.
    """
    body = bodies.encode(entry)
    return _ENTRY_HEADER.pack(ENTRY_VERSION, _entry_checksum(ENTRY_VERSION, body)) + body


def decode_entry(data: bytes) -> Entry:
    """The entry in what :func:`encode_entry` made.

    :raises CorruptEntry: the bytes were damaged, or written by another version.
    """
    if len(data) < _ENTRY_HEADER.size:
        raise CorruptEntry(f"a stored entry was cut off: {len(data)} bytes are left of it")
    version, checksum = _ENTRY_HEADER.unpack_from(data)
    body = data[_ENTRY_HEADER.size :]
    if checksum != _entry_checksum(version, body):
        raise CorruptEntry("a stored entry was damaged: its CRC-32 does not match")
    if version != ENTRY_VERSION:
        raise CorruptEntry(f"a stored entry has version {version}, this program reads version {ENTRY_VERSION}")
    try:
        return bodies.decode(_entry_decoder, body, "log entry")
    except RemoteProtocolError as error:
        raise CorruptEntry(f"a stored entry cannot be read: {error}") from error


def _entry_checksum(version: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(bytes((version,))))
