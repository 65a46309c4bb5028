"""The resource managers of a node: who votes, who performs, and what was asked before.

The window of request ids is part of the replicated state: it follows from the log alone,
so it is the same on every node at the same seq.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import cast

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txvbcast.errors import Committed, RemoteProtocolError
from txvbcast.interfaces import IResourceManager, PrepareAnswer, Refused, Tx
from txvbcast.wire.items import Transaction, unpack
from txvbcast.wire.messages import Entry, Flight, FlightId, Refusal

log = Logger()

_Prepare = Callable[[Tx], PrepareAnswer]

#: How many of the latest request ids are remembered.
REQUEST_WINDOW = 10_000


@attrs.define(eq=False)
class Ballot:
    """A flight on which this node's resource managers vote.

    :ivar yes: the transactions that a manager has prepared, by place in the flight.
    :ivar open: answers that are still missing.
    :ivar kept: None while undecided, else the places that are performed.
    """

    done: Callable[[tuple[Refusal, ...]], None]
    open: int
    yes: dict[int, Tx] = attrs.field(factory=dict)
    refused: list[Refusal] = attrs.field(factory=list)
    kept: frozenset[int] | None = None


class Applications:
    """All resource managers of a node.

    :param managers: providers of :class:`~txvbcast.interfaces.IResourceManager`.
    """

    def __init__(self, managers: Iterable[IResourceManager]) -> None:
        self._managers = {manager.name: manager for manager in managers}
        self._ballots: dict[FlightId, Ballot] = {}
        self._window: OrderedDict[str, Committed] = OrderedDict()
        self._missing: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which transactions may address a manager."""
        return tuple(sorted(self._managers))

    def outcome(self, request_id: str) -> Committed | None:
        """What a transaction of that request id led to, if it is in the window."""
        return self._window.get(request_id)

    # --- voting --------------------------------------------------------------------

    def prepare(self, flight: Flight, done: Callable[[tuple[Refusal, ...]], None]) -> None:
        """Ask for votes; ``done`` hears the refusals once every manager has answered."""
        ballot = self._ballots[flight.id] = Ballot(done, open=len(flight.items))
        for index, item in enumerate(flight.items):
            self._prepare_item(flight, ballot, index, item)

    def _prepare_item(self, flight: Flight, ballot: Ballot, index: int, item: bytes) -> None:
        try:
            transaction = unpack(item)
        except RemoteProtocolError as error:
            self._on_answer(Refused(str(error)), flight.id, ballot, index, None)
            return
        manager = self._managers.get(transaction.rm)
        if manager is None:
            reason = f"this node has no resource manager named {transaction.rm!r}"
            self._on_answer(Refused(reason), flight.id, ballot, index, None)
        elif transaction.request_id in self._window:
            self._on_answer(True, flight.id, ballot, index, None)  # a repeat is answered, not performed
        else:
            tx = _tx(flight, index, transaction)
            answer: Deferred[PrepareAnswer] = maybeDeferred(cast(_Prepare, manager.prepare), tx)
            answer.addErrback(self._on_prepare_failed, tx)
            answer.addCallback(self._on_answer, flight.id, ballot, index, tx)

    def _on_prepare_failed(self, failure: Failure, tx: Tx) -> Refused:
        log.failure("resource manager {rm} failed to vote on {tx.flight}", failure, rm=tx.rm, tx=tx)
        return Refused(f"resource manager {tx.rm} failed to vote: {failure.getErrorMessage()}")

    def _on_answer(self, answer: PrepareAnswer, fid: FlightId, ballot: Ballot, index: int, tx: Tx | None) -> None:
        ballot.open -= 1
        if answer is True:
            if tx is not None:
                self._on_yes(ballot, index, tx)
        else:
            reason = answer.reason if isinstance(answer, Refused) else "refused by the resource manager"
            ballot.refused.append(Refusal(index, reason))
        if ballot.open:
            return
        if ballot.kept is None:
            ballot.done(tuple(sorted(ballot.refused, key=lambda refusal: refusal.index)))

    def _on_yes(self, ballot: Ballot, index: int, tx: Tx) -> None:
        if ballot.kept is None:
            ballot.yes[index] = tx
        elif index not in ballot.kept:  # the flight was decided before the manager had answered
            self._managers[tx.rm].abort(tx)

    def release(self, fid: FlightId) -> None:
        """The flight will never be performed: what was prepared for it is aborted."""
        self._settle(fid, frozenset())

    def _settle(self, fid: FlightId, kept: frozenset[int]) -> None:
        ballot = self._ballots.pop(fid, None)
        if ballot is None:
            return
        ballot.kept = kept
        for index, tx in sorted(ballot.yes.items()):
            if index not in kept:
                self._managers[tx.rm].abort(tx)

    # --- performing ----------------------------------------------------------------

    def apply(self, entry: Entry, dead: bool) -> list[Committed]:
        """Perform an entry of the log; the results by place in the entry, none if it is dead."""
        flight = entry.flight
        if flight is None:
            return []
        if dead:
            self._settle(flight.id, frozenset())
            return []
        places = flight.indices if flight.indices is not None else tuple(range(len(flight.items)))
        transactions = [_unpack_or_none(item) for item in flight.items]
        self._settle(flight.id, self._performed(places, transactions))
        results = [
            self._perform(flight, entry.seq, index, place, transaction)
            for index, (place, transaction) in enumerate(zip(places, transactions, strict=True))
        ]
        # Not while the entry is performed: what was found to be a repeat stays one to its end.
        while len(self._window) > REQUEST_WINDOW:
            self._window.popitem(last=False)
        return results

    def _performed(self, places: tuple[int, ...], transactions: list[Transaction | None]) -> frozenset[int]:
        performed: set[int] = set()
        asked: set[str] = set()
        for place, transaction in zip(places, transactions, strict=True):
            if transaction is None or transaction.request_id in self._window or transaction.request_id in asked:
                continue
            performed.add(place)
            if transaction.request_id is not None:
                asked.add(transaction.request_id)
        return frozenset(performed)

    def _perform(self, flight: Flight, seq: int, index: int, place: int, transaction: Transaction | None) -> Committed:
        if transaction is None:
            return Committed(seq, index, b"")
        request_id = transaction.request_id
        if request_id is not None and request_id in self._window:
            return self._window[request_id]
        result = Committed(seq, index, self._commit(flight, seq, place, transaction))
        if request_id is not None:
            self._window[request_id] = result
        return result

    def _commit(self, flight: Flight, seq: int, place: int, transaction: Transaction) -> bytes:
        manager = self._managers.get(transaction.rm)
        if manager is None:
            if transaction.rm not in self._missing:
                self._missing.add(transaction.rm)
                log.warn("no resource manager named {rm}: its transactions change nothing here", rm=transaction.rm)
            return b""
        if seq <= manager.applied_seq:
            return b""  # its own disk held this already at start
        result: bytes = manager.commit(_tx(flight, place, transaction, seq))
        return result


def _tx(flight: Flight, index: int, transaction: Transaction, seq: int = 0) -> Tx:
    fid = flight.id
    return Tx(
        rm=transaction.rm,
        payload=transaction.payload,
        mode=flight.mode,
        flight=f"{fid.origin}.{fid.incarnation}.{fid.number}",
        index=index,
        seq=seq,
        request_id=transaction.request_id,
    )


def _unpack_or_none(item: bytes) -> Transaction | None:
    try:
        return unpack(item)
    except RemoteProtocolError as error:
        log.warn("an item of the log changes nothing: {error}", error=error)
        return None
