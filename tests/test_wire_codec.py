"""Frames: cut in any way, malformed in every way; stored entries; any bytes at all."""

from __future__ import annotations

import itertools
import struct
import time
import typing
import zlib
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from tests import wire_samples as samples
from tests.wire_samples import framed
from txvbcast.errors import LocalProtocolError, RemoteProtocolError, StoreError
from txvbcast.wire import codec, items
from txvbcast.wire import messages as m
from txvbcast.wire.client_messages import CLIENT_OPCODES
from txvbcast.wire.codec import CorruptEntry, FrameDecoder, decode_entry, encode_entry, encode_frame
from txvbcast.wire.limits import DETAIL_CHARS_MAX, FRAME_BYTES_MAX

QUICK = settings(derandomize=True, deadline=None, database=None, max_examples=150)
STORED = samples.TYPICAL["Stored"]
NUMBERS = {cls: number for number, cls in m.OPCODES.items()}


def fields(value: object) -> dict[str, Any]:
    """A message as the map that travels, to be spoilt."""
    found: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return found


def pack(value: object) -> bytes:
    """Any value as MessagePack."""
    return msgspec.msgpack.encode(value)


class FeedTests(unittest.TestCase):
    """The same messages come out however the bytes come in."""

    messages = list(samples.TYPICAL.values())
    stream = b"".join(encode_frame(message) for message in messages)

    def test_whole(self) -> None:
        """Many frames in one segment."""
        decoder = FrameDecoder()
        self.assertEqual(list(decoder.feed(self.stream)), self.messages)
        self.assertEqual(decoder.buffered_bytes, 0)

    def test_byte_by_byte(self) -> None:
        """Each message comes with its last byte, not before."""
        decoder = FrameDecoder()
        for message in self.messages:
            frame = encode_frame(message)
            for at in range(len(frame) - 1):
                self.assertEqual(list(decoder.feed(frame[at : at + 1])), [])
            self.assertEqual(decoder.buffered_bytes, len(frame) - 1)
            self.assertEqual(list(decoder.feed(frame[-1:])), [message])
            self.assertEqual(decoder.buffered_bytes, 0)

    def test_trailing_bytes(self) -> None:
        """What follows a frame is the beginning of the next."""
        for extra in range(1, 30):
            decoder = FrameDecoder()
            frame = encode_frame(STORED)
            self.assertEqual(list(decoder.feed(frame + frame[:extra])), [STORED])
            self.assertEqual(decoder.buffered_bytes, extra)
            self.assertEqual(list(decoder.feed(frame[extra:])), [STORED])

    def test_nothing(self) -> None:
        """An empty segment changes nothing."""
        decoder = FrameDecoder()
        self.assertEqual(list(decoder.feed(b"")), [])
        self.assertEqual(list(decoder.feed(encode_frame(STORED))), [STORED])

    def test_left_for_later(self) -> None:
        """What is not asked for now comes with the next call, once."""
        decoder = FrameDecoder()
        self.assertEqual(next(decoder.feed(self.stream)), self.messages[0])
        self.assertEqual(list(decoder.feed(encode_frame(STORED))), [*self.messages[1:], STORED])

    def test_bytes_are_bytes(self) -> None:
        """What comes out can be hashed and kept: it is not a view of the buffer."""
        (message,) = FrameDecoder().feed(encode_frame(samples.TYPICAL["Propose"]))
        assert isinstance(message, m.Propose)
        self.assertEqual([type(item) for item in message.flight.items], [bytes, bytes])

    def test_cost_is_linear(self) -> None:
        """A frame 32 times as long, fed byte by byte, costs nowhere near 1024 times as much."""

        def cost(size: int) -> float:
            frame = encode_frame(m.HelloRefused(reason="x" * size))
            decoder = FrameDecoder()
            began = time.process_time()
            for at in range(len(frame)):
                for _ in decoder.feed(frame[at : at + 1]):
                    pass
            self.assertEqual(decoder.buffered_bytes, 0)
            return time.process_time() - began

        self.assertLess(min(cost(1 << 19) for _ in range(2)), 80 * min(cost(1 << 14) for _ in range(3)))


class MalformedTests(unittest.TestCase):
    """Every way in which a frame can be wrong, and what is said about it."""

    def refused(self, data: bytes, *words: str, decoder: FrameDecoder[Any] | None = None) -> str:
        """Feed ``data``; the error holds ``words``; the decoder keeps nothing and stays failed."""
        decoder = decoder or FrameDecoder()
        with self.assertRaises(RemoteProtocolError) as caught:
            list(decoder.feed(data))
        for word in words:
            self.assertIn(word, str(caught.exception))
        self.assertEqual(decoder.buffered_bytes, 0)
        with self.assertRaises(RemoteProtocolError) as again:
            decoder.feed(encode_frame(STORED))
        self.assertEqual(str(again.exception), str(caught.exception))
        self.assertEqual(decoder.buffered_bytes, 0)
        return str(caught.exception)

    def test_length(self) -> None:
        """Lengths out of bounds are refused at their fourth byte."""
        for length in (0, FRAME_BYTES_MAX + 1, 2**32 - 1):
            self.refused(struct.pack("!I", length), f"body of {length} bytes", f"1 to {FRAME_BYTES_MAX}")

    def test_length_allowed(self) -> None:
        """Lengths in bounds are waited for."""
        for length in (1, FRAME_BYTES_MAX):
            decoder = FrameDecoder()
            self.assertEqual(list(decoder.feed(struct.pack("!I", length))), [])
            self.assertEqual(decoder.buffered_bytes, 4)

    def test_longest_frame(self) -> None:
        """A body of exactly the limit goes through, one byte more is refused on both sides."""
        frame = encode_frame(m.HelloRefused(reason="x" * 100))
        limit = len(frame) - codec.HEADER_BYTES
        self.assertEqual(encode_frame(m.HelloRefused(reason="x" * 100), limit), frame)
        self.assertEqual(list(FrameDecoder(limit).feed(frame)), [m.HelloRefused(reason="x" * 100)])
        self.refused(frame, f"body of {limit} bytes where 1 to {limit - 1}", decoder=FrameDecoder(limit - 1))
        with self.assertRaises(LocalProtocolError) as caught:
            encode_frame(m.HelloRefused(reason="x" * 100), limit - 1)
        self.assertIn(f"HelloRefused of {limit} bytes", str(caught.exception))

    def test_default_limit(self) -> None:
        """The default limit holds for what is sent, too."""
        with self.assertRaises(LocalProtocolError):
            encode_frame(m.HelloRefused(reason="x" * FRAME_BYTES_MAX))

    def test_shortest_body(self) -> None:
        """A body of one byte, an empty map: whole, and lacking its fields."""
        self.refused(framed(b"\x80"), "no Stored", "missing required field")

    def test_version(self) -> None:
        """Another version, before its body is there."""
        for version in (0, 2, 255):
            self.refused(framed(pack(fields(STORED)), version=version)[:12], f"wire version {version}", "version 1")

    def test_type(self) -> None:
        """A type that nobody knows, before its body is there."""
        for number in set(range(256)) - set(m.OPCODES) - set(CLIENT_OPCODES):
            self.refused(framed(b"\x80", number=number)[:12], f"unknown type {number}")

    def test_other_family(self) -> None:
        """What belongs to another port is named, with both ports, before its body is there."""
        for family, other in ((codec.PEERS, codec.CLIENTS), (codec.CLIENTS, codec.PEERS)):
            for number, cls in other.classes.items():
                decoder: FrameDecoder[Any] = FrameDecoder(family=family)
                said = f"type {number} ({cls.__name__}) belongs to {other.port}, and one of {family.port} was expected"
                self.refused(framed(b"\x80", number=number)[:12], said, decoder=decoder)

    def test_flags(self) -> None:
        """Flags, before the body is there."""
        for flags in (1, 0x8000):
            self.refused(framed(pack(fields(STORED)), flags=flags)[:12], f"flags {flags:#06x}")

    def test_checksum(self) -> None:
        """A body that is not the one that was sent."""
        frame = bytearray(encode_frame(STORED))
        frame[-1] ^= 1
        self.refused(bytes(frame), "type 14", "CRC-32")

    def test_checksum_covers_the_length(self) -> None:
        """A length that grew swallows what follows, and is found out as soon as that is there."""
        frame = encode_frame(STORED)
        grown = struct.pack("!I", len(frame) - 12 + 3) + frame[4:]
        decoder = FrameDecoder()
        self.assertEqual(list(decoder.feed(grown)), [])
        self.refused(frame, "CRC-32", decoder=decoder)
        body = pack(fields(STORED))
        checked = struct.pack("!IBBH", len(body) + 1, 1, 14, 0)
        forged = struct.pack("!I", len(body)) + checked[4:] + struct.pack("!I", zlib.crc32(checked + body)) + body
        self.refused(forged, "CRC-32")

    def test_messages_before(self) -> None:
        """What came before the bad frame comes out first, and only then the error."""
        stream = encode_frame(STORED) * 3 + framed(b"\xc0") + encode_frame(STORED)
        decoder = FrameDecoder()
        found = []
        with self.assertRaises(RemoteProtocolError):
            for message in decoder.feed(stream):
                found.append(message)
        self.assertEqual(found, [STORED] * 3)
        with self.assertRaises(RemoteProtocolError):
            decoder.feed(b"")

    def test_nonsense_bodies(self) -> None:
        """MessagePack that is no map, no MessagePack at all, and more than one value."""
        good = pack(fields(STORED))
        for body in (
            b"\xc0", b"\xc1", b"\x01", b"\x90", b"\xa1x", b"\xc4\x01x", b"\xcb" + b"\0" * 8, b"\xd4\x01\x00",
            good[:-1], good + b"\x80", good + good, b"\xff" * 40, b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff",
        ):  # fmt: skip
            self.refused(framed(body), "the body is no Stored")

    def test_lengths_inside(self) -> None:
        """A count inside the body that is larger than the body allocates nothing and is refused."""
        head = b"\x82\xa6flight" + pack({"origin": 1, "incarnation": 1, "number": 1}) + b"\xa8accepted"
        for count in (b"\xdd\xff\xff\xff\xff", b"\xdd\x0f\xff\xff\xff", b"\xdc\xff\xff", b"\xdb\xff\xff\xff\xff"):
            self.refused(framed(head + count, number=NUMBERS[m.Decide]), "the body is no Decide")

    def test_field_errors(self) -> None:
        """Missing fields, wrong types and numbers out of range are named."""
        for changes, words in (
            ({"seq": None}, ("Expected `int`", "$.seq")),
            ({"seq": "1"}, ("Expected `int`", "$.seq")),
            ({"seq": 1.0}, ("Expected `int`", "$.seq")),
            ({"seq": True}, ("Expected `int`", "$.seq")),
            ({"seq": [1]}, ("Expected `int`", "$.seq")),
            ({"seq": -1}, ("seq must be from 0 to", "got -1")),
            ({"seq": 2**63}, ("seq must be from 0 to", f"got {2**63}")),
            ({"epoch": 0}, ("epoch must be from 1 to",)),
            ({"disk_id": b"d"}, ("Expected `str`", "$.disk_id")),
            ({"disk_id": 1}, ("Expected `str`", "$.disk_id")),
        ):
            self.refused(framed(pack(fields(STORED) | typing.cast(dict[str, Any], changes))), "no Stored", *words)
        for name in fields(STORED):
            rest = {key: value for key, value in fields(STORED).items() if key != name}
            self.refused(framed(pack(rest)), f"missing required field `{name}`")

    def test_element_errors(self) -> None:
        """Inside arrays and nested maps the place is named."""
        for name, path, value, word in (
            ("Propose", ("flight", "items", 1), "text", "$.flight.items[1]"),
            ("Propose", ("flight", "mode"), "4pc", "$.flight.mode"),
            ("Propose", ("flight", "id", "origin"), 0, "$.flight.id"),
            ("Propose", ("flight", "indices", 0), "0", "$.flight.indices[0]"),
            ("Propose", ("flight", "indices", 0), -1, "indices[0] must be from 0"),
            ("Decide", ("accepted", 1), -1, "accepted[1] must be from 0"),
            ("Order", ("accepted", 1), 2**63, "accepted[1] must be from 0"),
            ("Grant", ("voters", 2), 65536, "voters[2] must be from 1 to 65535"),
            ("Grant", ("runs", 0), [41, 1], "$.runs[0]"),
            ("Vote", ("refused", 0, "reason"), None, "$.refused[0].reason"),
            ("Hello", ("members", 2, "id"), 65536, "$.members[2]"),
            ("Entries", ("entries", 1, "standing", "voter"), 1, "$.entries[1].standing.voter"),
            ("Entries", ("entries", 0, "flight", "items"), None, "$.entries[0].flight.items"),
        ):  # fmt: skip
            message = samples.TYPICAL[name]
            spoilt = fields(message)
            place: Any = spoilt
            for step in path[:-1]:
                place[step] = list(place[step]) if isinstance(place[step], tuple) else place[step]
                place = place[step]
            place[path[-1]] = value
            self.refused(framed(pack(spoilt), number=NUMBERS[type(message)]), f"no {name}", word)

    def test_exactly_one(self) -> None:
        """Entry and Order hold one thing: two and none are refused."""
        own = fields(samples.OWN_FLIGHT) | {"id": fields(samples.OWN_FLIGHT.id), "mode": "broadcast"}
        things = {"flight": fields(samples.FLIGHT_ID), "standing": fields(samples.STANDING), "proposal": own}
        nothing = fields(samples.TYPICAL["Order"]) | dict.fromkeys(things)
        for spoilt in (nothing, *(nothing | dict(two) for two in itertools.combinations(things.items(), 2))):
            self.refused(framed(pack(spoilt), number=NUMBERS[m.Order]), "an order is of one thing")
        for changes in ({"standing": fields(samples.STANDING)}, {"flight": None}):
            entries = [fields(samples.FLIGHT_ENTRY) | changes]
            spoilt = fields(samples.TYPICAL["Entries"]) | {"entries": entries}
            error = self.refused(framed(pack(spoilt), number=NUMBERS[m.Entries]), "either a flight or a standing")
            self.assertIn("$.entries[0]", error)

    def test_voted_on_before(self) -> None:
        """What the members vote on cannot come with its order."""
        for mode in (m.Mode.TWO_PHASE, m.Mode.THREE_PHASE):
            own = fields(samples.OWN_FLIGHT) | {"id": fields(samples.OWN_FLIGHT.id), "mode": mode.value}
            spoilt = fields(samples.TYPICAL["Order.proposal"]) | {"proposal": own}
            words = f"a flight of mode {mode.value} is proposed before it is ordered"
            self.refused(framed(pack(spoilt), number=NUMBERS[m.Order]), words)

    def test_a_place_for_each_item(self) -> None:
        """Whoever performs the flight takes items and places together."""
        for indices in ([], [0], [0, 1, 2]):
            spoilt = fields(samples.TYPICAL["Propose"])
            spoilt["flight"] = spoilt["flight"] | {"indices": indices}
            words = f"indices must name a place for each item: {len(indices)} for 2"
            self.refused(framed(pack(spoilt), number=NUMBERS[m.Propose]), words, "$.flight")

    def test_text_that_is_no_text(self) -> None:
        """A str that is not UTF-8."""
        body = pack(fields(STORED) | {"disk_id": "dd"}).replace(b"\xa2dd", b"\xa2\xff\xfe")
        self.refused(framed(body), "no Stored", "utf-8")

    def test_keys(self) -> None:
        """Field names must be text."""
        for key in (b"\x01", b"\xc0", b"\x90"):
            self.refused(framed(b"\x81" + key + b"\x01"), "no Stored")

    def test_deep_nesting(self) -> None:
        """Arrays within arrays without end are refused, also where they would be skipped."""
        deep = b"\x91" * 1_000_000 + b"\xc0"
        body = pack(fields(STORED))
        self.refused(framed(bytes([body[0] + 1]) + body[1:] + b"\xa1z" + deep), "no Stored", "recursion")
        self.refused(framed(bytes([body[0] + 1]) + body[1:] + b"\xa3seq" + deep), "no Stored")

    def test_long_words_are_cut(self) -> None:
        """An error quotes little of what the peer sent, and nothing that a terminal would obey."""
        spoilt = fields(samples.TYPICAL["Claim"]) | {"why": "\x1b[2J\n" + "x" * 100_000}
        error = self.refused(framed(pack(spoilt), number=NUMBERS[m.Claim]), "no Claim")
        self.assertLess(len(error), DETAIL_CHARS_MAX + 50)
        self.assertTrue(error.isprintable())


class ToleranceTests(unittest.TestCase):
    """What a later version, or another implementation, may do."""

    def test_unknown_fields(self) -> None:
        """They are skipped, whatever they hold, on every level."""
        spoilt = fields(samples.TYPICAL["Propose"])
        for place in (spoilt, spoilt["flight"], spoilt["flight"]["id"]):
            place["later"] = {"a": [1, None, b"x", {"b": 1.5}], "c": True}
        frame = framed(pack(spoilt), number=NUMBERS[m.Propose])
        self.assertEqual(list(FrameDecoder().feed(frame)), [samples.TYPICAL["Propose"]])

    def test_defaults(self) -> None:
        """A field with a default may be absent."""
        decide = fields(samples.TYPICAL["Decide.all"])
        del decide["accepted"]
        frame = framed(pack(decide), number=NUMBERS[m.Decide])
        self.assertEqual(list(FrameDecoder().feed(frame)), [samples.TYPICAL["Decide.all"]])

    def test_order_and_width(self) -> None:
        """Fields in any order, numbers in any width."""
        body = b"\x83\xa3seq\xcf" + (42).to_bytes(8, "big") + b"\xa5epoch\xd3" + samples.EPOCH.to_bytes(8, "big")
        frame = framed(body + b"\xa7disk_id\xdb\0\0\0\x02d2")
        self.assertEqual(list(FrameDecoder().feed(frame)), [STORED])

    def test_last_of_two(self) -> None:
        """Of a field that is there twice the last counts."""
        body = pack(fields(STORED) | {"seq": 1})
        frame = framed(bytes([body[0] + 1]) + body[1:] + b"\xa3seq\x2a")
        self.assertEqual(list(FrameDecoder().feed(frame)), [STORED])


class LocalTests(unittest.TestCase):
    """Our own mistakes are not sent."""

    def test_not_a_message(self) -> None:
        """A part of a message has no type number."""
        with self.assertRaises(LocalProtocolError) as caught:
            encode_frame(typing.cast(m.Message, samples.FLIGHT))
        self.assertIn("Flight is not a message", str(caught.exception))

    def test_not_encodable(self) -> None:
        """Half a surrogate pair, a number without bounds, an object."""
        for reason in ("\ud800", 2**64, object()):
            with self.assertRaises(LocalProtocolError) as caught:
                encode_frame(m.HelloRefused(reason=typing.cast(str, reason)))
            self.assertIn("HelloRefused cannot be encoded", str(caught.exception))


class EntryTests(unittest.TestCase):
    """Entries as the store keeps them."""

    def corrupt(self, data: bytes, *words: str) -> None:
        """The store is told, by an error of its own family."""
        with self.assertRaises(CorruptEntry) as caught:
            decode_entry(data)
        self.assertIsInstance(caught.exception, StoreError)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def stored(self, body: bytes, version: int = 1) -> bytes:
        """A stored entry made by hand."""
        return bytes([version]) + struct.pack("!I", zlib.crc32(bytes([version]) + body)) + body

    def test_round_trip(self) -> None:
        """Both kinds."""
        for entry in (samples.FLIGHT_ENTRY, samples.STANDING_ENTRY):
            self.assertEqual(decode_entry(encode_entry(entry)), entry)
            self.assertEqual(encode_entry(entry), self.stored(encode_entry(entry)[5:]))

    def test_damage(self) -> None:
        """Cut off, longer, changed, of another version, and not an entry."""
        good = encode_entry(samples.FLIGHT_ENTRY)
        self.corrupt(b"", "0 bytes")
        self.corrupt(good[:4], "4 bytes")
        self.corrupt(good[:-1], "CRC-32")
        self.corrupt(good + b"\0", "CRC-32")
        self.corrupt(good[:-1] + bytes([good[-1] ^ 1]), "CRC-32")
        self.corrupt(b"\x02" + good[1:], "CRC-32")
        self.corrupt(self.stored(good[5:], version=2), "version 2", "version 1")
        self.corrupt(self.stored(b""), "no log entry")
        self.corrupt(self.stored(good[5:] + b"\0"), "no log entry", "trailing")
        self.corrupt(self.stored(pack(fields(samples.FLIGHT_ENTRY) | {"flight": None})), "either a flight")

    def test_not_encodable(self) -> None:
        """An entry with half a surrogate pair in it."""
        entry = attrs.evolve(samples.STANDING_ENTRY, standing=attrs.evolve(samples.STANDING, reason="\ud800"))
        with self.assertRaises(LocalProtocolError):
            encode_entry(entry)


class ItemTests(unittest.TestCase):
    """Transactions inside a flight."""

    def test_round_trip(self) -> None:
        """With and without the client's name for it."""
        for value in (items.Transaction("kv", b"\0\xff"), items.Transaction("kv", b"", items.Request("r1"))):
            self.assertEqual(items.unpack(items.pack(value)), value)

    def test_malformed(self) -> None:
        """Wrong types, wrong number of elements, no UTF-8, trailing bytes, nothing."""
        good = items.pack(items.Transaction("kv", b"abc"))
        for item in (
            b"", b"\xc0", good[:-1], good + b"\0", pack(["kv"]), pack(["kv", "text", None]), pack([1, b"", None]),
            pack(["kv", b"", None, 1]), good.replace(b"\xa2kv", b"\xa2\xff\xfe"), b"\x91" * 5000,
        ):  # fmt: skip
            with self.assertRaises(RemoteProtocolError):
                items.unpack(item)


# --- properties ------------------------------------------------------------------------


def values(cls: type) -> st.SearchStrategy[Any]:
    """Any value of a class of messages or parts."""
    hints = typing.get_type_hints(cls)
    parts = {field.name: field_values(hints[field.name], field.validator) for field in attrs.fields(cls)}
    if cls is m.Flight:
        parts["indices"] = st.none()
        return st.one_of(st.builds(cls, **parts), st.builds(cls, **parts).map(with_indices))
    if cls is m.Order:
        parts["proposal"] = values(m.Flight).map(lambda flight: attrs.evolve(flight, mode=m.Mode.BROADCAST))
    if cls not in samples.ONE_OF:
        return st.builds(cls, **parts)
    nothing = {name: st.none() for name in samples.ONE_OF[cls]}
    something = {name: parts[name].filter(lambda found: found is not None) for name in nothing}
    return st.one_of(*(st.builds(cls, **(parts | nothing | {name: values})) for name, values in something.items()))


def with_indices(flight: m.Flight) -> m.Flight:
    """One of whose items some were refused: every other place of the proposal."""
    return attrs.evolve(flight, indices=tuple(range(0, 2 * len(flight.items), 2)))


def field_values(hint: Any, rule: Any) -> st.SearchStrategy[Any]:
    """Any value of a field."""
    if isinstance(rule, m.EachInRange):
        rule = rule.element
    if type(None) in typing.get_args(hint):
        return st.none() | field_values(typing.get_args(hint)[0], rule)
    if typing.get_origin(hint) is tuple:
        return st.lists(field_values(typing.get_args(hint)[0], rule), max_size=20).map(tuple)
    if isinstance(rule, m.InRange):
        return st.integers(rule.low, rule.high)
    if attrs.has(hint):
        return values(hint)
    plain: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {bool: st.booleans, str: st.text, bytes: st.binary}
    return plain[hint]() if hint in plain else st.sampled_from(hint)


ANY_MESSAGE = st.sampled_from(list(m.OPCODES.values())).flatmap(values)
COUNTS = st.integers(0, m.U64_MAX)
KEYS = st.text(max_size=4) | st.integers(0, 9)
ANY_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


class PropertyTests(unittest.TestCase):
    """What holds for any message, and for any bytes."""

    @QUICK
    @given(ANY_MESSAGE)
    def test_identity(self, message: m.Message) -> None:
        """Decoding what was encoded gives the same, and the same bytes again."""
        frame = encode_frame(message)
        (found,) = FrameDecoder().feed(frame)
        self.assertEqual(found, message)
        self.assertIs(type(found), type(message))
        self.assertEqual(encode_frame(found), frame)

    @QUICK
    @given(values(m.Entry))
    def test_entry_identity(self, entry: m.Entry) -> None:
        """So for stored entries."""
        self.assertEqual(decode_entry(encode_entry(entry)), entry)

    @QUICK
    @given(st.text(), st.binary(), st.none() | st.builds(items.Request, st.text(), COUNTS, COUNTS))
    def test_item_identity(self, rm: str, payload: bytes, request: items.Request | None) -> None:
        """So for transactions."""
        value = items.Transaction(rm, payload, request)
        self.assertEqual(items.unpack(items.pack(value)), value)

    @QUICK
    @given(st.lists(ANY_MESSAGE, max_size=6), st.data())
    def test_any_cut(self, messages: list[m.Message], data: st.DataObject) -> None:
        """The cuts between segments do not matter."""
        stream = b"".join(encode_frame(message) for message in messages)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
        decoder = FrameDecoder()
        found: list[m.Message] = []
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            found += decoder.feed(stream[start:end])
        self.assertEqual(found, messages)

    @QUICK
    @given(st.binary(max_size=200), st.integers(0, 200))
    def test_any_bytes(self, data: bytes, cut: int) -> None:
        """No bytes make anything else than messages and RemoteProtocolError."""
        decoder = FrameDecoder()
        try:
            list(decoder.feed(data[:cut]))
            list(decoder.feed(data[cut:]))
        except RemoteProtocolError as error:
            self.assertNotEqual(error.reply, "")

    @QUICK
    @given(st.sampled_from(sorted(m.OPCODES)), st.binary(max_size=100))
    def test_any_body(self, number: int, body: bytes) -> None:
        """Nor does any body with a right header."""
        self.only_remote_error(number, body)

    @QUICK
    @given(st.sampled_from(sorted(m.OPCODES)), ANY_VALUE)
    def test_any_value(self, number: int, value: Any) -> None:
        """Nor any MessagePack value."""
        self.only_remote_error(number, pack(value))

    @QUICK
    @given(ANY_MESSAGE, ANY_VALUE, st.data())
    def test_any_spoilt_field(self, message: m.Message, value: Any, data: st.DataObject) -> None:
        """Nor a message with anything at all in the place of a field."""
        spoilt = fields(message)
        spoilt[data.draw(st.sampled_from(sorted(spoilt)))] = value
        self.only_remote_error(NUMBERS[type(message)], pack(spoilt))

    @QUICK
    @given(st.binary(max_size=100), st.booleans())
    def test_any_stored_bytes(self, data: bytes, checked: bool) -> None:
        """Nor do bytes in the store make anything else than entries and CorruptEntry."""
        stored = b"\x01" + struct.pack("!I", zlib.crc32(b"\x01" + data)) + data if checked else data
        try:
            self.assertIsInstance(decode_entry(stored), m.Entry)
        except CorruptEntry as error:
            self.assertIn("a stored entry", str(error))

    def only_remote_error(self, number: int, body: bytes) -> None:
        """The frame gives a message of its type or a RemoteProtocolError."""
        try:
            for message in FrameDecoder().feed(framed(body, number=number)):
                self.assertIs(type(message), m.OPCODES[number])
        except RemoteProtocolError as error:
            self.assertNotEqual(error.reply, "")
