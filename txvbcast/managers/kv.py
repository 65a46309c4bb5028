"""The built-in key-value store: a resource manager that checks at the time of performing.

Every key holds a value and a **version**, the seq of the log entry that last wrote it.
A key that is not there has version 0.  Transactions of one entry (one flight) share their
seq, so two writes of one key in the same entry leave the same version: a version names the
entry that wrote, and the later write of that entry is the one that stays.  ``if_version``
compares with the version as it is when the transaction is performed, in log order; whether
it matched is part of the *result* (:class:`KvResult`), never an exception, because a
transaction in the log takes its place whatever it does.

In the voted modes a node also checks ``if_version`` when it is asked, and reserves the key
until the decision, so that of two transactions under way on one key the later asked is
refused.  Mode ``broadcast`` asks nobody and heeds no reservation: where both modes write a
key, the check at the time of performing decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Union

import attrs
import msgspec
from zope.interface import implementer

from txvbcast.interfaces import IResourceManager, IResourceManagerFactory, PrepareAnswer, Refused, Tx

#: Characters of a key; 0 is too few.
KEY_CHARS_MAX = 512

_Key = Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_CHARS_MAX)]
_Version = Annotated[int, msgspec.Meta(ge=0)]


class _Put(msgspec.Struct, frozen=True, array_like=True, tag="put", forbid_unknown_fields=True):
    key: _Key
    value: bytes
    if_version: _Version | None


class _Delete(msgspec.Struct, frozen=True, array_like=True, tag="delete", forbid_unknown_fields=True):
    key: _Key
    if_version: _Version | None


_Operation = Union[_Put, _Delete]

_encoder = msgspec.msgpack.Encoder()
_operations: msgspec.msgpack.Decoder[_Operation] = msgspec.msgpack.Decoder(_Operation)
_results = msgspec.msgpack.Decoder(tuple[bool, int, int, str])
_snapshots = msgspec.msgpack.Decoder(tuple[tuple[_Key, bytes, _Version], ...])

_MALFORMED = "the payload is not an operation of the key-value store"


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
    return _encoder.encode(_Put(_checked_key(key), value, _checked_version(if_version)))


def delete_payload(key: str, if_version: int | None = None) -> bytes:
    """The payload that removes ``key``; deleting what is not there is no failure (``found_version`` is 0).

    :raises ValueError: the key or the version cannot be one.
    """
    return _encoder.encode(_Delete(_checked_key(key), _checked_version(if_version)))


def decode_result(result: bytes) -> KvResult:
    """What :meth:`KeyValueManager.commit` returned.

    :raises ValueError: the bytes are no result of the key-value store.
    """
    return KvResult(*_results.decode(result))


def _encode_result(result: KvResult) -> bytes:
    return _encoder.encode((result.ok, result.version, result.found_version, result.reason))


def _decode(payload: bytes) -> _Operation | None:
    """The operation in ``payload``, or None: it came over the network and may be anything."""
    try:
        return _operations.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _mismatch(operation: _Operation, version: int) -> str:
    """Why ``if_version`` forbids ``operation`` on a key of ``version``; empty when it does not."""
    wanted = operation.if_version
    if wanted is None or wanted == version:
        return ""
    found = f"has version {version}" if version else "is not there"
    expected = f"version {wanted}" if wanted else "that it is not there"
    return f"key {operation.key!r} {found}, the transaction expects {expected}"


@implementer(IResourceManager)
class KeyValueManager:
    """Keys and values in memory, rebuilt from the log when the node starts.

    :ivar applied_seq: 0, or the seq of the snapshot that it was restored from.
    """

    #: For those that hold only the manager and not this module.
    put_payload = staticmethod(put_payload)
    delete_payload = staticmethod(delete_payload)
    decode_result = staticmethod(decode_result)

    def __init__(self, name: str = "kv") -> None:
        self.name = name
        self.applied_seq = 0
        self._values: dict[str, tuple[bytes, int]] = {}
        self._reserved: dict[str, tuple[str, int]] = {}
        self._reservations: dict[tuple[str, int], str] = {}

    # --- reading ---

    def get(self, key: str) -> tuple[bytes, int] | None:
        """Value and version of ``key``, or None."""
        return self._values.get(key)

    def items(self, prefix: str = "") -> list[tuple[str, bytes, int]]:
        """Key, value and version of every key that starts with ``prefix``, in the order of the keys."""
        keys = sorted(key for key in self._values if key.startswith(prefix))
        return [(key, *self._values[key]) for key in keys]

    # --- IResourceManager ---

    def prepare(self, tx: Tx) -> PrepareAnswer:
        """Refuse what ``if_version`` forbids now and what another prepared transaction reserved; else reserve."""
        operation = _decode(tx.payload)
        if operation is None:
            return Refused(_MALFORMED)
        key, holder = operation.key, (tx.flight, tx.index)
        if self._reserved.get(key, holder) != holder:
            return Refused(f"key {key!r} is reserved by transaction {self._reserved[key][0]}, which is not decided yet")
        reason = _mismatch(operation, self._version(key))
        if reason:
            return Refused(reason)
        self._reserved[key] = holder
        self._reservations[holder] = key
        return True

    def commit(self, tx: Tx) -> bytes:
        """Perform ``tx``; the result is a :class:`KvResult` (:func:`decode_result`)."""
        self._release(tx)
        operation = _decode(tx.payload)
        if operation is None:
            return _encode_result(KvResult(False, 0, 0, _MALFORMED))
        found = self._version(operation.key)
        reason = _mismatch(operation, found)
        if reason:
            return _encode_result(KvResult(False, found, found, reason))
        if isinstance(operation, _Put):
            self._values[operation.key] = (operation.value, tx.seq)
        else:
            self._values.pop(operation.key, None)
        return _encode_result(KvResult(True, self._version(operation.key), found))

    def abort(self, tx: Tx) -> None:
        """Let go of the key that ``prepare`` reserved."""
        self._release(tx)

    def snapshot(self) -> bytes:
        """All keys, values and versions; equal states give equal bytes.  Reservations are this node's own."""
        return _encoder.encode(self.items())

    def restore(self, state: bytes, seq: int) -> None:
        """Replace everything by ``state``, taken at ``seq``; reservations stay until they are decided.

        :raises ValueError: ``state`` is no snapshot of a key-value store; nothing is changed.
        """
        items = _snapshots.decode(state)
        self._values = {key: (value, version) for key, value, version in items}
        self.applied_seq = seq

    # --- inside ---

    def _version(self, key: str) -> int:
        return self._values[key][1] if key in self._values else 0

    def _release(self, tx: Tx) -> None:
        key = self._reservations.pop((tx.flight, tx.index), None)
        if key is not None:
            del self._reserved[key]


@implementer(IResourceManagerFactory)
class KeyValueFactory:
    """Makes key-value stores; has no options."""

    plugin = "kv"

    def make(self, name: str, options: Mapping[str, object]) -> IResourceManager:
        """A new, empty store that transactions address as ``name``.

        :raises ValueError: an option was given.
        """
        if options:
            raise ValueError(f"kv takes no options, got {', '.join(sorted(options))}")
        manager: IResourceManager = KeyValueManager(name)
        return manager
