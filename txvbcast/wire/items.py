"""A single transaction as the bytes that travel inside a flight.

The protocol never looks inside: only the coordinator that packs it and the nodes that
prepare or perform it do.  There is one for each transaction, hence msgspec's own classes: they are
made in a tenth of the time that an attrs class takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec

from txvbcast.errors import RemoteProtocolError
from txvbcast.wire.messages import U64_MAX

#: At most 18 digits: all of them are numbers that :class:`Request` holds.
_NUMBER = re.compile("[1-9][0-9]{0,17}")

_Count = Annotated[int, msgspec.Meta(ge=0, le=U64_MAX)]


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A client's name for a transaction, so that a repeat takes effect once.

    :ivar session: who names it; a request id that is not numbered is a session of its own.
    :ivar number: its number there, 0 where transactions are not numbered.
    :ivar done: the client has heard the outcome of all numbers up to this one, and will not ask again.
    """

    session: str
    number: _Count = 0
    done: _Count = 0

    @property
    def text(self) -> str:
        """As people and interfaces write it: ``session#number``, or the session alone."""
        return f"{self.session}#{self.number}" if self.number else self.session

    @classmethod
    def parse(cls, text: str) -> Request:
        """The request that ``text`` names."""
        session, _, number = text.rpartition("#")
        if session and _NUMBER.fullmatch(number):
            return cls(session, int(number))
        return cls(text)


class Transaction(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One operation for one resource manager.

    :ivar rm: the configured name of the resource manager.
    :ivar payload: the operation, in the resource manager's own encoding.
    :ivar request: a client's name for it; may be None.
    """

    rm: str
    payload: bytes
    request: Request | None = None

    @property
    def request_id(self) -> str | None:
        """Its name as text."""
        return self.request.text if self.request is not None else None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Transaction)


def pack(transaction: Transaction) -> bytes:
    """The bytes of ``transaction``."""
    return _encoder.encode(transaction)


def pack_many(rm: str, payloads: Sequence[bytes], requests: Sequence[Request] | None) -> tuple[bytes, ...]:
    """The bytes of one transaction for each payload."""
    encode = _encoder.encode
    if requests is None:
        return tuple([encode(Transaction(rm, payload)) for payload in payloads])
    pairs = zip(payloads, requests, strict=True)
    return tuple([encode(Transaction(rm, payload, request)) for payload, request in pairs])


def unpack(item: bytes) -> Transaction:
    """The transaction in ``item``.

    :raises RemoteProtocolError: the bytes are not a transaction.
    """
    try:
        return _decoder.decode(item)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _no_transaction(error) from error


def unpack_many(items: Sequence[bytes]) -> list[Transaction]:
    """The transaction in each of ``items``.

    :raises RemoteProtocolError: the bytes of one are not a transaction.
    """
    decode = _decoder.decode
    try:
        return [decode(item) for item in items]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _no_transaction(error) from error


def _no_transaction(error: Exception) -> RemoteProtocolError:
    return RemoteProtocolError(f"an item of a flight is not a transaction: {error}")
