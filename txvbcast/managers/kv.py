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

from collections.abc import Mapping, Sequence

from zope.interface import implementer

from txvbcast.interfaces import (
    IBatchResourceManager,
    IResourceManager,
    IResourceManagerFactory,
    PrepareAnswer,
    Refused,
    Run,
    Tx,
)
from txvbcast.wire import kv
from txvbcast.wire.kv import Operation, Put, decode_operation, decode_operations, encode_result

_MALFORMED = "the payload is not an operation of the key-value store"
_ABSENT = (b"", 0)


def _mismatch(operation: Operation, version: int) -> str:
    """Why ``if_version`` forbids ``operation`` on a key of ``version``; empty when it does not."""
    wanted = operation.if_version
    if wanted is None or wanted == version:
        return ""
    found = f"has version {version}" if version else "is not there"
    expected = f"version {wanted}" if wanted else "that it is not there"
    return f"key {operation.key!r} {found}, the transaction expects {expected}"


@implementer(IBatchResourceManager)
class KeyValueManager:
    """Keys and values in memory, rebuilt from the log when the node starts.

    :ivar applied_seq: 0, or the seq of the snapshot that it was restored from.
    """

    #: For those that hold only the manager and not this module.
    put_payload = staticmethod(kv.put_payload)
    delete_payload = staticmethod(kv.delete_payload)
    decode_result = staticmethod(kv.decode_result)

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
        return self._vote(tx.payload, (tx.flight, tx.index))

    def prepare_many(self, run: Run) -> list[PrepareAnswer]:
        """The answers are as those of :meth:`prepare`."""
        vote, flight = self._vote, run.flight
        return [vote(payload, (flight, index)) for payload, index in zip(run.payloads, run.indices, strict=True)]

    def _vote(self, payload: bytes, holder: tuple[str, int]) -> PrepareAnswer:
        operation = decode_operation(payload)
        if operation is None:
            return Refused(_MALFORMED)
        key = operation.key
        if self._reserved.get(key, holder) != holder:
            return Refused(f"key {key!r} is reserved by transaction {self._reserved[key][0]}, which is not decided yet")
        if operation.if_version is not None and (reason := _mismatch(operation, self._version(key))):
            return Refused(reason)
        self._reserved[key] = holder
        self._reservations[holder] = key
        return True

    def commit(self, tx: Tx) -> bytes:
        """Perform ``tx``; the result is a :class:`~txvbcast.wire.kv.KvResult`."""
        self._release(tx.flight, tx.index)
        return self._perform((tx.payload,), tx.seq)[0]

    def commit_many(self, run: Run) -> list[bytes]:
        """Perform a run of transactions; the results are as those of :meth:`commit`."""
        if self._reservations:
            for index in run.indices:
                self._release(run.flight, index)
        return self._perform(run.payloads, run.seq)

    def _perform(self, payloads: Sequence[bytes], seq: int) -> list[bytes]:
        values = self._values
        results: list[bytes] = []
        alike: dict[int, bytes] = {}  # results of puts, by the version found: most are the same, and share one object
        for operation in decode_operations(payloads):
            if operation is None:
                results.append(encode_result(False, 0, 0, _MALFORMED))
                continue
            key = operation.key
            found = values.get(key, _ABSENT)[1]
            if operation.if_version is not None and (reason := _mismatch(operation, found)):
                results.append(encode_result(False, found, found, reason))
            elif type(operation) is Put:
                values[key] = (operation.value, seq)
                if found not in alike:
                    alike[found] = encode_result(True, seq, found)
                results.append(alike[found])
            else:
                values.pop(key, None)
                results.append(encode_result(True, 0, found))
        return results

    def abort(self, tx: Tx) -> None:
        """Let go of the key that ``prepare`` reserved."""
        self._release(tx.flight, tx.index)

    def snapshot(self) -> bytes:
        """All keys, values and versions; equal states give equal bytes.  Reservations are this node's own."""
        return kv.encode_snapshot(self.items())

    def restore(self, state: bytes, seq: int) -> None:
        """Replace everything by ``state``, taken at ``seq``; reservations stay until they are decided.

        :raises ValueError: ``state`` is no snapshot of a key-value store; nothing is changed.
        """
        items = kv.decode_snapshot(state)
        self._values = {key: (value, version) for key, value, version in items}
        self.applied_seq = seq

    # --- inside ---

    def _version(self, key: str) -> int:
        return self._values.get(key, _ABSENT)[1]

    def _release(self, flight: str, index: int) -> None:
        key = self._reservations.pop((flight, index), None)
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
