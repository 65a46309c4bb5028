"""The bytes of every message, as ``tests/vectors`` tells them to other implementations.

``TXVBCAST_REWRITE_VECTORS=1`` writes the files anew: read the difference before you commit it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.trial import unittest

from tests import wire_samples as samples
from txvbcast.errors import RemoteProtocolError
from txvbcast.wire import codec, items
from txvbcast.wire.bodies import type_number
from txvbcast.wire.client_messages import CLIENT_OPCODES
from txvbcast.wire.datagram import decode_datagram, encode_datagram
from txvbcast.wire.messages import DATAGRAM_TYPES, OPCODES, Message

FOLDER = Path(__file__).parent / "vectors"
SENDER = 3
_LINE_BYTES = 32


@attrs.frozen
class Vector:
    """A file's name without its ending, what it means, and both ways between that and bytes; the family of a frame."""

    name: str
    value: Any
    comment: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    family: codec.Family[Any] | None = None

    @property
    def path(self) -> Path:
        """Where the vector is kept."""
        return FOLDER / f"{self.name}.hex"

    @property
    def text(self) -> str:
        """The file as it should be."""
        meaning = msgspec.json.encode(self.value, order="sorted").decode()
        data = self.encode(self.value)
        rows = [data[at : at + _LINE_BYTES].hex() for at in range(0, len(data), _LINE_BYTES)]
        return "\n".join((f"# {self.comment}", f"# {meaning}", *rows)) + "\n"

    def read(self) -> bytes:
        """The bytes that the file holds."""
        lines = self.path.read_text().splitlines()
        return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def decode_frame(data: bytes, family: codec.Family[Any]) -> Any:
    """The one message of one whole frame; what claims to be longer than it is is refused, not waited for."""
    decoder: codec.FrameDecoder[Any] = codec.FrameDecoder(len(data) - codec.HEADER_BYTES, family=family)
    (message,) = decoder.feed(data)
    return message


def with_extremes(typical: Mapping[str, Any], classes: Iterable[type]) -> dict[str, Any]:
    """Every message to make a vector of."""
    found = dict(typical)
    for cls in classes:
        found[f"{cls.__name__}.min"] = samples.extreme(cls, greatest=False)
        found[f"{cls.__name__}.max"] = samples.extreme(cls, greatest=True)
    return found


def messages() -> dict[str, Message]:
    """Those of the nodes to each other."""
    return with_extremes(samples.TYPICAL, OPCODES.values())


def frame_vectors() -> list[Vector]:
    """One of each message of each family."""
    clients = with_extremes(samples.CLIENT_TYPICAL, CLIENT_OPCODES.values())
    return [
        Vector(
            f"{prefix}{name}", message, f"frame of type {type_number(message)}, {name.split('.')[0]}",
            codec.encode_frame, functools.partial(decode_frame, family=family), family,
        )
        for prefix, family, found in (("", codec.PEERS, messages()), ("client-", codec.CLIENTS, clients))
        for name, message in found.items()
    ]  # fmt: skip


def datagram_vectors() -> list[Vector]:
    """The same for those that travel as datagrams."""
    return [
        Vector(
            f"{name}.datagram",
            message,
            f"datagram of node {SENDER}, cluster id {samples.CLUSTER_ID}",
            lambda value: encode_datagram(SENDER, samples.CLUSTER_ID, value),
            lambda data: decode_datagram(data, samples.CLUSTER_ID)[1],
        )
        for name, message in messages().items()
        if type(message) in DATAGRAM_TYPES
    ]


def stored_vectors() -> list[Vector]:
    """Log entries as the store keeps them."""
    found = {"flight": samples.FLIGHT_ENTRY, "standing": samples.STANDING_ENTRY}
    return [
        Vector(f"Entry.{name}.stored", entry, "stored entry", codec.encode_entry, codec.decode_entry)
        for name, entry in found.items()
    ]


def item_vectors() -> list[Vector]:
    """Transactions as they lie in a flight."""
    named = items.Transaction("counter", b"", items.Request("order", 7, 5))
    found = {"plain": items.Transaction("kv", b"abc"), "named": named}
    return [
        Vector(f"Transaction.{name}.item", value, "element of a flight's items", items.pack, items.unpack)
        for name, value in found.items()
    ]


CHECKED = frame_vectors() + datagram_vectors() + stored_vectors()
VECTORS = CHECKED + item_vectors()


def rewrite() -> None:
    """Make the folder what the code says."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.hex"):
        path.unlink()
    for vector in VECTORS:
        vector.path.write_text(vector.text)


if os.environ.get("TXVBCAST_REWRITE_VECTORS") == "1":
    rewrite()


class VectorTests(unittest.TestCase):
    """Bytes and meaning agree, both ways, and damage is noticed."""

    def test_files(self) -> None:
        """There is a file for every vector, and no other."""
        self.assertEqual(sorted(path.name for path in FOLDER.iterdir()), sorted(vector.path.name for vector in VECTORS))

    def test_every_message(self) -> None:
        """No message of the registry is without a typical, a least and a greatest vector."""
        names = {vector.name for vector in frame_vectors()}
        for prefix, classes in (("", OPCODES), ("client-", CLIENT_OPCODES)):
            for cls in classes.values():
                found = f"{prefix}{cls.__name__}"
                self.assertLessEqual({found, f"{found}.min", f"{found}.max"}, names)

    def test_meaning_to_bytes(self) -> None:
        """Encoding gives the bytes of the file."""
        for vector in VECTORS:
            self.assertEqual(vector.encode(vector.value), vector.read(), vector.name)
            self.assertEqual(vector.text, vector.path.read_text(), vector.name)

    def test_bytes_to_meaning(self) -> None:
        """Decoding the bytes of the file gives the value."""
        for vector in VECTORS:
            self.assertEqual(vector.decode(vector.read()), vector.value, vector.name)

    def test_flipped_byte(self) -> None:
        """Any one byte changed, in one bit or in all: nothing comes out."""
        for vector in CHECKED:
            whole = vector.read()
            for at in range(len(whole)):
                for flip in (0x01, 0xFF):
                    damaged = bytearray(whole)
                    damaged[at] ^= flip
                    with self.assertRaises((RemoteProtocolError, codec.CorruptEntry), msg=f"{vector.name} byte {at}"):
                        vector.decode(bytes(damaged))

    def test_cut_off(self) -> None:
        """The beginning of a datagram or stored entry is refused; that of a frame is waited for."""
        for vector in datagram_vectors() + stored_vectors():
            whole = vector.read()
            for size in range(len(whole)):
                with self.assertRaises((RemoteProtocolError, codec.CorruptEntry), msg=f"{vector.name} to {size}"):
                    vector.decode(whole[:size])
        for vector in frame_vectors():
            whole = vector.read()
            for size in range(len(whole)):
                assert vector.family is not None
                decoder: codec.FrameDecoder[Any] = codec.FrameDecoder(family=vector.family)
                self.assertEqual(list(decoder.feed(whole[:size])), [], f"{vector.name} to {size}")
