"""The MessagePack bodies that frames, datagrams and stored entries have in common.

A body is a map from field names to values.  It is checked against the class field by
field while it is read: a missing field, a wrong type, a number out of its range are
refused; a field that the class does not know is skipped, so that later versions may add some.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import attrs
import msgspec

from txvbcast.errors import LocalProtocolError, RemoteProtocolError
from txvbcast.wire.client_messages import CLIENT_OPCODES, ClientMessage
from txvbcast.wire.limits import DETAIL_CHARS_MAX
from txvbcast.wire.messages import OPCODES, Entry, Message

T = TypeVar("T")
M = TypeVar("M", Message, ClientMessage)

_encoder = msgspec.msgpack.Encoder(order="sorted")


def _decoders_of(family: Family[M]) -> dict[int, msgspec.msgpack.Decoder[M]]:
    return {number: msgspec.msgpack.Decoder(cls) for number, cls in family.classes.items()}


@attrs.frozen(eq=False)
class Family(Generic[M]):
    """The messages that may come over one kind of connection; no two families have a type number in common.

    :ivar port: who listens for them, and under which key of the configuration, in words.
    :ivar classes: the message class of each type number.
    """

    port: str
    classes: dict[int, type[M]]
    decoders: dict[int, msgspec.msgpack.Decoder[M]] = attrs.field(
        init=False, default=attrs.Factory(_decoders_of, takes_self=True)
    )


PEERS: Final[Family[Message]] = Family("the port for nodes (listen.peer)", OPCODES)
CLIENTS: Final[Family[ClientMessage]] = Family("the port for clients (listen.client)", CLIENT_OPCODES)

_type_numbers: dict[type, int] = {
    **{cls: number for number, cls in OPCODES.items()},
    **{cls: number for number, cls in CLIENT_OPCODES.items()},
}


def check_number(number: int, family: Family[Any]) -> None:
    """Refuse a type number that is not of ``family``.

    :raises RemoteProtocolError: the text says so, and of which other family it is.
    """
    if number in family.classes:
        return
    for other in (PEERS, CLIENTS):
        if number in other.classes:
            raise RemoteProtocolError(
                f"a frame of type {number} ({other.classes[number].__name__}) belongs to {other.port}, and one of "
                f"{family.port} was expected: correct the address that was dialled"
            )
    raise RemoteProtocolError(f"a frame has the unknown type {number}")


def type_number(message: Message | ClientMessage) -> int:
    """The number that stands for the class of ``message``.

    :raises LocalProtocolError: it is no message.
    """
    number = _type_numbers.get(type(message))
    if number is None:
        raise LocalProtocolError(f"{type(message).__name__} is not a message: it has no type number")
    return number


def encode(value: Message | ClientMessage | Entry) -> bytes:
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


def decode_message(family: Family[M], number: int, body: bytes | bytearray) -> M:
    """The message of type ``number``, which must be of ``family``, in ``body``.

    :raises RemoteProtocolError: the body does not fit that type.
    """
    return decode(family.decoders[number], body, family.classes[number].__name__)


def _clipped(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= DETAIL_CHARS_MAX else f"{text[:DETAIL_CHARS_MAX]}..."
