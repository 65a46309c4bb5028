"""What the built-in key-value store is asked to do, and what it answers, as bytes.

Clients write these payloads and read these results; :mod:`txvbcast.managers.kv` performs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Union

import attrs
import msgspec

#: Characters of a key; 0 is too few.
KEY_CHARS_MAX = 512

_Key = Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_CHARS_MAX)]
_Version = Annotated[int, msgspec.Meta(ge=0)]


class Put(msgspec.Struct, frozen=True, array_like=True, tag="put", forbid_unknown_fields=True, gc=False):
    """Sets ``key``; with ``if_version`` only if the key has that version, 0 for "is not there"."""

    key: _Key
    value: bytes
    if_version: _Version | None


class Delete(msgspec.Struct, frozen=True, array_like=True, tag="delete", forbid_unknown_fields=True, gc=False):
    """Removes ``key``."""

    key: _Key
    if_version: _Version | None


Operation = Union[Put, Delete]

_encoder = msgspec.msgpack.Encoder()
_operations: msgspec.msgpack.Decoder[Operation] = msgspec.msgpack.Decoder(Operation)
_results = msgspec.msgpack.Decoder(tuple[bool, int, int, str])
_snapshots = msgspec.msgpack.Decoder(tuple[tuple[_Key, bytes, _Version], ...])


@attrs.frozen
class KvResult:
    """What came of a transaction on a key.

    :ivar ok: it did what it was asked to; False when ``if_version`` did not match.
    :ivar version: the key's version afterwards, 0 when it is not there.
    :ivar found_version: the key's version before, 0 when it was not there.
    :ivar reason: why not ``ok``, else empty.
    """

    ok: bool
    version: int
    found_version: int
    reason: str = ""


def _checked_key(key: str) -> str:
    if not 1 <= len(key) <= KEY_CHARS_MAX:
        raise ValueError(f"a key has 1 to {KEY_CHARS_MAX} characters, this one has {len(key)}")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a key is text that UTF-8 can hold, this one is not: {error.reason}") from error
    return key


def _checked_version(if_version: int | None) -> int | None:
    if if_version is not None and if_version < 0:
        raise ValueError(f"if_version is 0 (there must be no such key) or a version, got {if_version}")
    return if_version


def put_payload(key: str, value: bytes, if_version: int | None = None) -> bytes:
    """The payload that sets ``key``; with ``if_version`` only if the key has that version, 0 for "is not there".

    :raises ValueError: the key or the version cannot be one.
    """
    return _encoder.encode(Put(_checked_key(key), value, _checked_version(if_version)))


def delete_payload(key: str, if_version: int | None = None) -> bytes:
    """The payload that removes ``key``; deleting what is not there is no failure (``found_version`` is 0).

    :raises ValueError: the key or the version cannot be one.
    """
    return _encoder.encode(Delete(_checked_key(key), _checked_version(if_version)))


def decode_operation(payload: bytes) -> Operation | None:
    """The operation in ``payload``, or None: it came over the network and may be anything."""
    try:
        return _operations.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def decode_operations(payloads: Sequence[bytes]) -> Sequence[Operation | None]:
    """As :func:`decode_operation`, of each of ``payloads``."""
    decode = _operations.decode
    try:
        return [decode(payload) for payload in payloads]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return [decode_operation(payload) for payload in payloads]


def encode_result(ok: bool, version: int, found_version: int, reason: str = "") -> bytes:
    """The bytes of a :class:`KvResult`."""
    return _encoder.encode((ok, version, found_version, reason))


def decode_result(result: bytes) -> KvResult:
    """What a transaction of the key-value store has returned.

    :raises ValueError: the bytes are no result of the key-value store.
    """
    return KvResult(*_results.decode(result))


def encode_snapshot(items: Sequence[tuple[str, bytes, int]]) -> bytes:
    """All keys, values and versions as bytes."""
    return _encoder.encode(items)


def decode_snapshot(state: bytes) -> tuple[tuple[str, bytes, int], ...]:
    """What :func:`encode_snapshot` was given.

    :raises ValueError: ``state`` is no snapshot of a key-value store.
    """
    return _snapshots.decode(state)
