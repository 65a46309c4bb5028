"""The resource managers of a node: who votes, and who performs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txvbcast.errors import Committed, RemoteProtocolError
from txvbcast.interfaces import IBatchResourceManager, IResourceManager, PrepareAnswer, Refused, Run, Tx
from txvbcast.requests import RequestWindow
from txvbcast.wire.items import Request, Transaction, unpack, unpack_many
from txvbcast.wire.messages import Entry, Flight, FlightId, Refusal

log = Logger()

_Prepare = Callable[[Tx], PrepareAnswer]
_Perform = Callable[[Run], list[bytes]]


@attrs.define(eq=False)
class Ballot:
    """A flight on which this node's resource managers vote.

    :ivar yes: the transactions that a manager has prepared, by place in the flight.
    :ivar runs: what was voted on together, and which places of it were refused.
    :ivar open: answers that are still missing.
    :ivar kept: None while undecided, else the places that are performed.
    """

    done: Callable[[tuple[Refusal, ...]], None]
    open: int
    yes: dict[int, Tx] = attrs.field(factory=dict)
    runs: list[tuple[Run, frozenset[int]]] = attrs.field(factory=list)
    refused: list[Refusal] = attrs.field(factory=list)
    kept: frozenset[int] | None = None


@attrs.frozen
class Performed:
    """What came of an entry.

    :ivar results: one for each of its transactions, in their places.
    :ivar repeats: where an earlier answer stands instead of a result: it, or None if it is forgotten.
    """

    results: Sequence[bytes] = ()
    repeats: dict[int, Committed | None] = attrs.field(factory=dict)


class Applications:
    """All resource managers of a node.

    :param managers: providers of :class:`~txvbcast.interfaces.IResourceManager`.
    """

    def __init__(self, managers: Iterable[IResourceManager]) -> None:
        self._managers = {manager.name: manager for manager in managers}
        self._perform: dict[str, _Perform] = {name: _performer(each) for name, each in self._managers.items()}
        self._batchwise: dict[str, Any] = {name: each for name, each in self._managers.items() if _is_batchwise(each)}
        self._ballots: dict[FlightId, Ballot] = {}
        self._window = RequestWindow()
        self._missing: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which transactions may address a manager."""
        return tuple(sorted(self._managers))

    def outcome(self, request_id: str) -> Committed | None:
        """What a transaction of that request id led to, if it is in the window."""
        return self._window.answer(Request.parse(request_id))

    # --- voting --------------------------------------------------------------------

    def prepare(self, flight: Flight, done: Callable[[tuple[Refusal, ...]], None]) -> None:
        """Ask for votes; ``done`` hears the refusals once every manager has answered."""
        ballot = self._ballots[flight.id] = Ballot(done, open=len(flight.items))
        together: dict[str, list[tuple[int, Transaction]]] = {}
        transactions, malformed = _unpack_all(flight.items)
        repeats = self._window.repeats(_requests_of(transactions))
        for index, transaction in enumerate(transactions):
            if transaction is None:
                self._on_answer(Refused(str(malformed[index])), ballot, index, None)
            elif index in repeats:
                self._on_answer(True, ballot, index, None)  # a repeat is answered, not performed
            elif transaction.rm in self._batchwise:
                together.setdefault(transaction.rm, []).append((index, transaction))
            else:
                self._prepare_one(flight, ballot, index, transaction)
        for rm, asked in together.items():
            self._prepare_run(rm, flight, ballot, asked)

    def _prepare_one(self, flight: Flight, ballot: Ballot, index: int, transaction: Transaction) -> None:
        manager = self._managers.get(transaction.rm)
        if manager is None:
            reason = f"this node has no resource manager named {transaction.rm!r}"
            self._on_answer(Refused(reason), ballot, index, None)
            return
        tx = _tx(flight, index, transaction)
        answer: Deferred[PrepareAnswer] = maybeDeferred(cast(_Prepare, manager.prepare), tx)
        answer.addErrback(self._on_prepare_failed, tx.rm, tx.flight)
        answer.addCallback(self._on_answer, ballot, index, tx)

    def _prepare_run(self, rm: str, flight: Flight, ballot: Ballot, asked: list[tuple[int, Transaction]]) -> None:
        places = [index for index, _ in asked]
        payloads = [transaction.payload for _, transaction in asked]
        requests = [transaction.request for _, transaction in asked]
        run = Run(rm, flight.mode, _name(flight.id), 0, places, payloads, requests)
        try:
            answers = list(self._batchwise[rm].prepare_many(run))
        except Exception:  # noqa: BLE001 - as for the Deferred of a single vote: a manager that fails refuses
            answers = [self._on_prepare_failed(Failure(), rm, run.flight)] * len(run)
        if len(answers) != len(run):
            raise ValueError(f"resource manager {rm} gave {len(answers)} votes on {len(run)} transactions")
        refused = {place: answer for place, answer in zip(places, answers, strict=True) if answer is not True}
        ballot.runs.append((run, frozenset(refused)))
        ballot.open -= len(run)
        ballot.refused += [Refusal(place, _reason(answer)) for place, answer in refused.items()]
        self._check_complete(ballot)

    def _on_prepare_failed(self, failure: Failure, rm: str, flight: str) -> Refused:
        log.failure("resource manager {rm} failed to vote on {flight}", failure, rm=rm, flight=flight)
        return Refused(f"resource manager {rm} failed to vote: {failure.getErrorMessage()}")

    def _on_answer(self, answer: PrepareAnswer, ballot: Ballot, index: int, tx: Tx | None) -> None:
        ballot.open -= 1
        if answer is True:
            if tx is not None:
                self._on_yes(ballot, index, tx)
        else:
            ballot.refused.append(Refusal(index, _reason(answer)))
        self._check_complete(ballot)

    def _check_complete(self, ballot: Ballot) -> None:
        if not ballot.open and ballot.kept is None:
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
        for run, refused in ballot.runs:
            given_up = set(run.indices) - kept - refused
            for tx in run if given_up else ():
                if tx.index in given_up:
                    self._managers[tx.rm].abort(tx)

    # --- performing ----------------------------------------------------------------

    def apply(self, entry: Entry, dead: bool) -> Performed:
        """Perform an entry of the log; a dead one has no results."""
        flight = entry.flight
        if flight is None:
            return Performed()
        if dead:
            self._settle(flight.id, frozenset())
            return Performed()
        transactions, malformed = _unpack_all(flight.items)
        for error in malformed.values():
            log.warn("an item of the log changes nothing: {error}", error=error)
        requests = _requests_of(transactions)
        repeats = self._window.take(requests)
        places = flight.indices if flight.indices is not None else range(len(flight.items))
        if flight.id in self._ballots:
            self._settle(flight.id, _performed(places, transactions, repeats))
        results = self._perform_all(entry.seq, flight, places, transactions, repeats)
        self._window.keep(entry.seq, results)
        answers = {index: self._window.answer(cast(Request, requests[index])) for index in sorted(repeats)}
        return Performed(results, answers)

    def _perform_all(
        self,
        seq: int,
        flight: Flight,
        places: Sequence[int],
        transactions: Sequence[Transaction | None],
        repeats: frozenset[int],
    ) -> list[bytes]:
        """The results; nothing in the places of repeats and of what is no transaction."""
        names = [
            transaction.rm if transaction is not None and index not in repeats else None
            for index, transaction in enumerate(transactions)
        ]
        results: list[bytes] = []
        while len(results) < len(names):
            begin, name = len(results), names[len(results)]
            end = _end_of_run(names, begin)
            if name is None:
                results += [b""] * (end - begin)
            else:
                members = cast(Sequence[Transaction], transactions[begin:end])
                results += self._perform_run(seq, flight, name, places[begin:end], members)
        return results

    def _perform_run(
        self, seq: int, flight: Flight, rm: str, places: Sequence[int], transactions: Sequence[Transaction]
    ) -> list[bytes]:
        manager = self._managers.get(rm)
        if manager is None:
            if rm not in self._missing:
                self._missing.add(rm)
                log.warn("no resource manager named {rm}: its transactions change nothing here", rm=rm)
            return [b""] * len(transactions)
        if seq <= manager.applied_seq:
            return [b""] * len(transactions)  # its own disk held this already at start
        payloads = [transaction.payload for transaction in transactions]
        requests = [transaction.request for transaction in transactions]
        results = self._perform[rm](Run(rm, flight.mode, _name(flight.id), seq, places, payloads, requests))
        if len(results) != len(payloads):
            raise ValueError(f"resource manager {rm} gave {len(results)} results for {len(payloads)} transactions")
        return results


def _is_batchwise(manager: IResourceManager) -> bool:
    return bool(IBatchResourceManager.providedBy(manager))


def _reason(answer: PrepareAnswer) -> str:
    return answer.reason if isinstance(answer, Refused) else "refused by the resource manager"


def _performer(manager: Any) -> _Perform:
    if _is_batchwise(manager):
        return lambda run: cast(list[bytes], manager.commit_many(run))
    return lambda run: [manager.commit(tx) for tx in run]


def _performed(
    places: Sequence[int], transactions: Sequence[Transaction | None], repeats: frozenset[int]
) -> frozenset[int]:
    """The places in the flight of what is about to be performed."""
    pairs = enumerate(zip(places, transactions, strict=True))
    return frozenset(place for index, (place, transaction) in pairs if transaction is not None and index not in repeats)


def _end_of_run(names: Sequence[str | None], begin: int) -> int:
    """Where the names cease to be the one at ``begin``."""
    name = names[begin]
    if begin == 0 and names.count(name) == len(names):
        return len(names)  # as it mostly is
    end = begin + 1
    while end < len(names) and names[end] == name:
        end += 1
    return end


def _name(fid: FlightId) -> str:
    return f"{fid.origin}.{fid.incarnation}.{fid.number}"


def _tx(flight: Flight, index: int, transaction: Transaction) -> Tx:
    return Tx(
        rm=transaction.rm,
        payload=transaction.payload,
        mode=flight.mode,
        flight=_name(flight.id),
        index=index,
        request_id=transaction.request_id,
    )


def _unpack_all(items: Sequence[bytes]) -> tuple[Sequence[Transaction | None], Mapping[int, RemoteProtocolError]]:
    """The transactions in the items of a flight, None for what is none; and why it is none, by place."""
    try:
        return unpack_many(items), {}
    except RemoteProtocolError:
        return _unpack_each(items)


def _unpack_each(items: Sequence[bytes]) -> tuple[Sequence[Transaction | None], Mapping[int, RemoteProtocolError]]:
    transactions: list[Transaction | None] = []
    malformed: dict[int, RemoteProtocolError] = {}
    for place, item in enumerate(items):
        try:
            transactions.append(unpack(item))
        except RemoteProtocolError as error:
            transactions.append(None)
            malformed[place] = error
    return transactions, malformed


def _requests_of(transactions: Sequence[Transaction | None]) -> list[Request | None]:
    return [transaction.request if transaction is not None else None for transaction in transactions]
