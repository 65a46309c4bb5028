"""The resource manager of a simulated node: writes down what it is told, refuses and delays on demand."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from zope.interface import implementer

from txvbcast.interfaces import IResourceManager, Refused, Tx


@implementer(IResourceManager)
class Recorder:
    """A resource manager that writes down what it is told.

    A payload ``key=value`` also sets a register, so that reads have something to find.

    :ivar performed: (seq, payload) in order.
    :ivar registers: what the payloads so far have set.
    :ivar prepared: what it has said Yes to and not heard of since; aborted: payloads released.
    :ivar released: what was aborted in this life, and may not be performed any more.
    :ivar voting: transactions that it has not voted on yet.
    :ivar refuse: why prepare says No; empty for Yes.
    :ivar later: calls its argument when a vote is due; None for a vote at once.
    :ivar wrong: told what no resource manager may be told.
    :ivar held: answers that are kept back, while ``holding``.
    """

    name = "recorder"

    def __init__(self) -> None:
        self.applied_seq = 0
        self.performed: list[tuple[int, bytes]] = []
        self.registers: dict[bytes, bytes] = {}
        self.prepared: dict[tuple[str, int], Tx] = {}
        self.voting: set[tuple[str, int]] = set()
        self.aborted: list[bytes] = []
        self.released: set[tuple[str, int]] = set()
        self.refuse: Callable[[Tx], str] = lambda tx: ""
        self.wrong: Callable[[str], None] = _raise
        self.later: Callable[[Callable[[], None]], None] | None = None
        self.holding = False
        self.held: list[tuple[Deferred[bool | Refused], Tx]] = []

    def prepare(self, tx: Tx) -> bool | Refused | Deferred[bool | Refused]:
        """Vote now, later, or when told."""
        self.voting.add((tx.flight, tx.index))
        if not self.holding and self.later is None:
            return self._vote(tx)
        deferred: Deferred[bool | Refused] = Deferred()
        if self.later is not None:
            self.later(lambda: deferred.callback(self._vote(tx)))
        else:
            self.held.append((deferred, tx))
        return deferred

    def answer(self) -> None:
        """Give the answers that were kept back."""
        held, self.held = self.held, []
        for deferred, tx in held:
            deferred.callback(self._vote(tx))

    def _vote(self, tx: Tx) -> bool | Refused:
        if (tx.flight, tx.index) not in self.voting:
            return True  # performed meanwhile: nothing is left to prepare
        self.voting.remove((tx.flight, tx.index))
        reason = self.refuse(tx)
        if reason:
            return Refused(reason)
        if (tx.flight, tx.index) in self.prepared:
            self.wrong(f"prepare {tx} a second time")
        self.prepared[tx.flight, tx.index] = tx
        return True

    def commit(self, tx: Tx) -> bytes:
        """Perform."""
        if (tx.flight, tx.index) in self.released:
            self.wrong(f"commit {tx}, which it was told to abort")
        self.prepared.pop((tx.flight, tx.index), None)
        self.voting.discard((tx.flight, tx.index))
        self.performed.append((tx.seq, tx.payload))
        key, found, value = tx.payload.partition(b"=")
        if found:
            self.registers[key] = value
        return b"done " + tx.payload

    def abort(self, tx: Tx) -> None:
        """Release."""
        if self.prepared.pop((tx.flight, tx.index), None) is None:
            self.wrong(f"abort {tx}, which it does not hold")
        self.released.add((tx.flight, tx.index))
        self.aborted.append(tx.payload)

    def snapshot(self) -> bytes:
        """Not used: the log is whole."""
        return b""

    def restore(self, state: bytes, seq: int) -> None:
        """Not used: the log is whole."""


def _raise(what: str) -> None:
    raise ValueError(f"a resource manager is told to {what}")
