"""A single transaction as the bytes that travel inside a flight.

The protocol never looks inside: only the coordinator that packs it and the nodes that
prepare or perform it do.
"""

from __future__ import annotations

import attrs
import msgspec

from txvbcast.errors import RemoteProtocolError


@attrs.frozen
class Transaction:
    """One operation for one resource manager.

    :ivar rm: the configured name of the resource manager.
    :ivar payload: the operation, in the resource manager's own encoding.
    :ivar request_id: a client's name for it, so that a repeat takes effect once; may be None.
    """

    rm: str
    payload: bytes
    request_id: str | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[str, bytes, str | None])


def pack(transaction: Transaction) -> bytes:
    """The bytes of ``transaction``."""
    return _encoder.encode((transaction.rm, transaction.payload, transaction.request_id))


def unpack(item: bytes) -> Transaction:
    """The transaction in ``item``.

    :raises RemoteProtocolError: the bytes are not a transaction.
    """
    try:
        return Transaction(*_decoder.decode(item))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"an item of a flight is not a transaction: {error}") from error
