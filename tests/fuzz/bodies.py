"""Makes other MessagePack bodies of one: by the fuzzer's blind changes, or value by value."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Hashable, Iterable
from random import Random
from typing import Any, Final

import attrs
import msgspec

from tests import fuzz, wire_samples
from txvbcast.wire.bodies import encode
from txvbcast.wire.client_messages import CLIENT_OPCODES, ClientMessage
from txvbcast.wire.messages import OPCODES, Message

#: The fuzzer's own changes: bytes, and how long the result may be.
Blind = Callable[[bytes, int], bytes]

_CLASSES: Final[dict[int, type]] = {**OPCODES, **CLIENT_OPCODES}
_FIELDS: Final = {cls: tuple(field.name for field in attrs.fields(cls)) for cls in _CLASSES.values()}

#: The names of types and fields in a decoder's words.
_REASON: Final = re.compile(r"`[^`]*`")
REASON_CHARS_MAX: Final = 120

_ODD: Final[tuple[Any, ...]] = (
    0, 1, -1, 127, 128, 65535, 65536, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63),
    None, True, False, 1.5, math.nan, math.inf,
    "", "a", "\0", "\n", "\x1b[2J", "\u202e", "e\u0301", "\xe9", "\U0001f600", "x" * 300, "normal", "2pc", "silence",
    b"", b"\xff", b"\0" * 300,
    [], [0], [None] * 20, {}, {"": None}, {"id": 1},
)  # fmt: skip


def messages() -> dict[str, Message]:
    """Each message type: typical, and with the least and the greatest in every field."""
    return {**wire_samples.TYPICAL, **_extremes(OPCODES.values())}


def client_messages() -> dict[str, ClientMessage]:
    """The same of what clients and nodes say to each other."""
    return {**wire_samples.CLIENT_TYPICAL, **_extremes(CLIENT_OPCODES.values())}


def _extremes(classes: Iterable[type]) -> dict[str, Any]:
    return {
        f"{cls.__name__}.{name}": wire_samples.extreme(cls, greatest)
        for cls in classes
        for name, greatest in (("min", False), ("max", True))
    }


def good(number: int, chance: Random) -> bytes:
    """A body that is read as a message of type ``number``."""
    return chance.choice(_GOOD[number])


_GOOD: Final = {
    number: [encode(message) for message in (*messages().values(), *client_messages().values()) if type(message) is cls]
    for number, cls in _CLASSES.items()
}


def tell_kinds(message: Message | ClientMessage) -> None:
    """Tell the fuzzer what kind of value each field of ``message`` has."""
    cls = type(message)
    for name in _FIELDS[cls]:
        fuzz.reached((cls, name, _kind(getattr(message, name))))


def tell_refused(cls: type, said: str) -> None:
    """Tell the fuzzer which field of a ``cls`` was wrong, and in which way, by the decoder's words."""
    fuzz.reached((cls, *_REASON.findall(said[:REASON_CHARS_MAX])))


def _kind(value: object) -> Hashable:
    """Roughly how large it is."""
    if isinstance(value, int):
        return value.bit_length() // 8
    if isinstance(value, str | bytes | tuple):
        return len(value).bit_length()
    return (type(value), value if isinstance(value, enum.Enum) else None)


def changed(body: bytes, bytes_max: int, chance: Random, blind: Blind) -> bytes:
    """Another body: mostly still MessagePack, as far as ``body`` is, and with values of the same types."""
    if chance.random() < 0.25:
        return blind(body, bytes_max)
    try:
        value = msgspec.msgpack.decode(body)
        other = msgspec.msgpack.encode(_changed_value(value, chance))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, OverflowError):
        return blind(body, bytes_max)
    return other if len(other) <= bytes_max else body


def _changed_value(value: Any, chance: Random) -> Any:
    """``value`` with one value inside it replaced, left out, repeated or added."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        return _changed_map(value, chance)
    if isinstance(value, list) and value and chance.random() < 0.9:
        return _changed_list(value, chance)
    if type(value) is int and chance.random() < 0.3:
        return value + chance.choice((-1, 1, 256, -256))
    alike = [odd for odd in _ODD if type(odd) is type(value)]
    return chance.choice(alike if alike and chance.random() < 0.9 else _ODD)


def _changed_map(fields: dict[Any, Any], chance: Random) -> dict[Any, Any]:
    name = chance.choice(list(fields))
    what = chance.random()
    if what < 0.1:
        return {key: value for key, value in fields.items() if key != name}
    if what < 0.2:
        return {**fields, f"{name}2": fields[name]}
    return {**fields, name: _changed_value(fields[name], chance)}


def _changed_list(items: list[Any], chance: Random) -> list[Any]:
    at = chance.randrange(len(items))
    what = chance.random()
    if what < 0.1:
        return items[:at] + items[at + 1 :]
    if what < 0.2:
        return items[:at] + items[at : at + 1] + items[at:]
    return [*items[:at], _changed_value(items[at], chance), *items[at + 1 :]]
