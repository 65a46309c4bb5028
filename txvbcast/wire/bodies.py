"""The MessagePack bodies that frames, datagrams and stored entries have in common.

A body is a map from field names to values.  It is checked against the class field by
field while it is read: a missing field, a wrong type, a number out of its range are
refused; a field that the class does not know is skipped, so that later versions may add some.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from txvbcast.errors import LocalProtocolError, RemoteProtocolError
from txvbcast.wire.limits import DETAIL_CHARS_MAX
from txvbcast.wire.messages import OPCODES, Entry, Message

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder(order="sorted")
_type_numbers: dict[type[Message], int] = {cls: number for number, cls in OPCODES.items()}
_decoders: dict[int, msgspec.msgpack.Decoder[Message]] = {
    number: msgspec.msgpack.Decoder(cls) for number, cls in OPCODES.items()
}


def type_number(message: Message) -> int:
    """The number that stands for the class of ``message``.

    :raises LocalProtocolError: it is no message.
    """
    number = _type_numbers.get(type(message))
    if number is None:
        raise LocalProtocolError(f"{type(message).__name__} is not a message: it has no type number")
    return number


def encode(value: Message | Entry) -> bytes:
    """The body of ``value``: the same value always gives the same bytes.

    :raises LocalProtocolError: a field holds what MessagePack cannot carry.
    """
    try:
        return _encoder.encode(value)
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise LocalProtocolError(f"{type(value).__name__} cannot be encoded: {_clipped(error)}") from error


def decode(decoder: msgspec.msgpack.Decoder[T], body: bytes | bytearray, name: str) -> T:
    """The value in ``body``; ``name`` says in an error what it should have been.

    :raises RemoteProtocolError: it is not one value of the decoder's class and nothing more.
    """
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"the body is no {name}: {_clipped(error)}") from error


def decode_message(number: int, body: bytes | bytearray) -> Message:
    """The message of type ``number``, which must be known, in ``body``.

    :raises RemoteProtocolError: the body does not fit that type.
    """
    return decode(_decoders[number], body, OPCODES[number].__name__)


def _clipped(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= DETAIL_CHARS_MAX else f"{text[:DETAIL_CHARS_MAX]}..."
