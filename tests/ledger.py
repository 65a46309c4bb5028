"""A resource manager for tests that writes down what it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from txvbcast.interfaces import IBatchResourceManager, IResourceManager, Run, Tx
from txvbcast.wire.items import Request, Transaction, pack

Answer = Any  # what prepare may give back, and what it should not


@implementer(IResourceManager)
class Ledger:
    """A resource manager that writes down what it is told.

    :ivar answers: what prepare gives back, by payload; True where nothing is said.
    """

    def __init__(self, name: str = "ledger", applied_seq: int = 0) -> None:
        self.name = name
        self.applied_seq = applied_seq
        self.answers: dict[bytes, Callable[[], Answer]] = {}
        self.told: list[tuple[str, bytes]] = []
        self.transactions: list[Tx] = []

    def _note(self, what: str, tx: Tx) -> None:
        self.told.append((what, tx.payload))
        self.transactions.append(tx)

    def prepare(self, tx: Tx) -> Answer:
        """Vote."""
        self._note("prepare", tx)
        return self.answers.get(tx.payload, lambda: True)()

    def commit(self, tx: Tx) -> bytes:
        """Perform."""
        self._note("commit", tx)
        return b"did " + tx.payload

    def abort(self, tx: Tx) -> None:
        """Release."""
        self._note("abort", tx)

    def snapshot(self) -> bytes:
        """Not asked for."""
        raise NotImplementedError

    def restore(self, state: bytes, seq: int) -> None:
        """Not asked for."""
        raise NotImplementedError


@implementer(IBatchResourceManager)
class BatchLedger(Ledger):
    """One that is asked about whole runs; each answer comes at once."""

    def prepare_many(self, run: Run) -> list[Answer]:
        """Vote."""
        return [self.prepare(tx) for tx in run]

    def commit_many(self, run: Run) -> list[bytes]:
        """Perform."""
        return [self.commit(tx) for tx in run]


def item(payload: bytes, request_id: str | None = None, rm: str = "ledger") -> bytes:
    """A transaction."""
    return pack(Transaction(rm, payload, Request.parse(request_id) if request_id is not None else None))
