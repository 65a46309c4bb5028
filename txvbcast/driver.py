"""Carries out a replica's effects, and tells it what happened.

The same in production and in simulation: the clock, the network, the store and the
applications are handed in.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from txvbcast import errors
from txvbcast.absences import ABSENCES_KEPT, Absences, Clock, Timer, check_positive, past_document
from txvbcast.applications import Applications, Performed
from txvbcast.config import ProtocolConfig
from txvbcast.core import effects, inputs, report
from txvbcast.core.commons import TURN
from txvbcast.core.effects import Share
from txvbcast.core.history import Counters, predictions
from txvbcast.core.inputs import Input, PastAbsence, StoredState
from txvbcast.core.replica import Replica
from txvbcast.events import EventLog
from txvbcast.turns import Turn
from txvbcast.wire.items import Request, pack_many
from txvbcast.wire.messages import Entry, FlightId, Message, Mode, Refusal

log = Logger()

_STOPPED = "this node has stopped"
_FORGOTTEN = "it was asked before, and so long ago that what came of it is not remembered"


class Store(Protocol):
    """Where the log is kept."""

    def persist(self, write: effects.Persist, done: Callable[[int], None]) -> None:
        """Write as one step; ``done(token)`` once it is durable, tokens in order."""

    def read(self, first: int, last: int, bytes_max: int, done: Callable[[tuple[Entry, ...]], None]) -> None:
        """Read a part of the log; sees every earlier ``persist``."""

    def remember(self, record: PastAbsence) -> None:
        """Keep the record of an absence."""


class Network(Protocol):
    """How messages reach the other nodes."""

    def send(self, to: int, message: Message) -> None:
        """Over the link; dropped when there is none."""

    def send_datagram(self, to: int, message: Message) -> None:
        """At once; may be lost."""

    def drop_datagrams(self) -> None:
        """Throw away what waits in the socket."""

    def reset_links(self, reason: str) -> None:
        """Close every link and open it anew."""


class Sink(Protocol):
    """Who hears the answers to a submission: each of its transactions is answered once, in any number of pieces.

    Neither call may raise.
    """

    def committed(self, place: int, seq: int, index: int, results: Sequence[bytes]) -> None:
        """Those from ``place`` on are, and stand side by side in the entry ``seq`` from ``index`` on."""

    def failed(self, places: Sequence[int], error: errors.SubmissionError) -> None:
        """Those in ``places`` are not committed, or nobody knows."""


@attrs.define(eq=False)
class _Submission:
    """A submission that is not answered completely.

    :ivar unanswered: how many of its ``count`` transactions are not; those in the places of ``answered`` are.
    """

    sink: Sink
    count: int
    unanswered: int
    answered: list[range] = attrs.field(factory=list)

    def answer(self, share: Share) -> None:
        """Those of ``share`` have their answer."""
        self.unanswered -= share.count
        self.answered.append(range(share.place, share.place + share.count))

    def open_places(self) -> list[int]:
        """Where an answer is missing."""
        return sorted(set(range(self.count)).difference(*self.answered))


class _One:
    """The sink of a single transaction: a Deferred.

    :ivar abandoned: called when it is cancelled.
    """

    def __init__(self) -> None:
        self.deferred: Deferred[errors.Committed] = Deferred(lambda _: self.abandoned())
        self.abandoned: Callable[[], None] = lambda: None

    def committed(self, place: int, seq: int, index: int, results: Sequence[bytes]) -> None:
        """It is."""
        self.deferred.callback(errors.Committed(seq, index, results[0]))

    def failed(self, places: Sequence[int], error: errors.SubmissionError) -> None:
        """It is not, or nobody knows."""
        self.deferred.errback(error)


def _tell_committed(sink: Sink, share: Share, seq: int, index: int, performed: Performed) -> None:
    """Tell of ``share``, which begins at ``index`` of the entry: in one piece but for the repeats in it."""
    end = index + share.count
    told = index
    for repeat in sorted(performed.repeats.keys() & range(index, end)) if performed.repeats else ():
        if told < repeat:
            sink.committed(share.place + told - index, seq, told, performed.results[told:repeat])
        place, earlier = share.place + repeat - index, performed.repeats[repeat]
        if earlier is not None:
            sink.committed(place, earlier.seq, earlier.index, (earlier.result,))
        else:
            sink.failed((place,), errors.OutcomeUnknown(_FORGOTTEN))
        told = repeat + 1
    if told < end:
        sink.committed(share.place + told - index, seq, told, performed.results[told:end])


class Driver:
    """One node, given its surroundings.

    :param clock: monotonic time and timers.
    :param wall_s: seconds of the wall clock, for events only.
    :param on_halt: called once with the error that stopped the node: it must not go on.
    :param node_facts: what ``status`` adds about this node (name, vms).
    :param on_step: told of every input and its effects before these are carried out, for tracing.
    :param turn: the clock's turns, which others may share.
    """

    def __init__(
        self,
        config: ProtocolConfig,
        stored: StoredState,
        store: Store,
        network: Network,
        applications: Applications,
        clock: Clock,
        wall_s: Callable[[], float],
        on_halt: Callable[[BaseException], None],
        node_facts: Callable[[], Mapping[str, object]] = dict,
        on_step: Callable[[Input, Sequence[effects.Effect]], None] | None = None,
        turn: Turn | None = None,
    ) -> None:
        self.config = config
        self.replica = Replica(config, stored)
        self.applications = applications
        self.events = EventLog()
        self._stored = stored
        self._store = store
        self._network = network
        self._clock = clock
        self._turn = turn or Turn(clock)
        self._wall_s = wall_s
        self._on_halt = on_halt
        self._node_facts = node_facts
        self._on_step = on_step
        self._halted = False
        self._inputs: deque[Input] = deque()
        self._stepping = False
        self._timers: dict[str, Timer] = {}
        self._tickets = itertools.count(1)
        self._submissions: dict[int, _Submission] = {}
        self._readers: dict[int, Deferred[int]] = {}
        self._movers: dict[int, Deferred[None]] = {}
        self._stopper: Deferred[None] | None = None
        self._performed: dict[FlightId, Performed] = {}
        self.absences = Absences(self.replica, self._step, clock, wall_s, self.events, self._remember)
        self._past: deque[PastAbsence] = deque(stored.absences, maxlen=ABSENCES_KEPT)
        self._counters = Counters()
        self._effects: dict[type, Callable[[Any], None]] = {
            effects.Persist: lambda e: self._store.persist(e, self._persisted),
            effects.Send: lambda e: self._network.send(e.to, e.message),
            effects.SendDatagram: lambda e: self._network.send_datagram(e.to, e.message),
            effects.SetTimer: self._set_timer,
            effects.DropDatagrams: lambda e: self._network.drop_datagrams(),
            effects.ResetLinks: lambda e: self._network.reset_links(e.reason),
            effects.ReadLog: self._read_log,
            effects.Prepare: self._prepare,
            effects.Release: lambda e: self.applications.release(e.flight),
            effects.Apply: self._apply,
            effects.ReplyCommitted: self._reply_committed,
            effects.ReplyAborted: self._reply_aborted,
            effects.ReplyUnknown: lambda e: self._fail(e.shares, errors.OutcomeUnknown(e.reason, e.who)),
            effects.ReplyOverloaded: lambda e: self._fail(e.shares, errors.Overloaded(e.reason)),
            effects.ForgetResults: self._forget_results,
            effects.ReadReady: self._read_ready,
            effects.ReadFailed: self._read_failed,
            effects.ChangeOpened: self.absences.on_opened,
            effects.ChangeEstimated: self.absences.on_estimated,
            effects.ChangeAnswered: self.absences.on_answered,
            effects.ChangeClosed: self.absences.on_closed,
            effects.MoveAnswered: self._move_answered,
            effects.StopAllowed: self._stop_allowed,
            effects.Notify: self._notify,
        }

    # --- life ------------------------------------------------------------------------

    def start(self, pieces: Iterable[tuple[Entry, ...]]) -> None:
        """Take over the stored log, piece by piece, and begin to act."""
        for piece in pieces:
            self._step(inputs.Restored(piece, last=False))
        self._step(inputs.Restored((), last=True))

    def stop(self) -> Deferred[None]:
        """Hand the office over if this node holds it; fires when nothing keeps the node."""
        deferred = self._stopper = Deferred()
        if self._halted:
            self._stop_allowed(effects.StopAllowed())
            return deferred
        patience_s = 2 * self.config.heartbeat.timeout_s
        timeout = self._clock.callLater(patience_s, self._stop_allowed, effects.StopAllowed())
        deferred.addBoth(lambda result: timeout.cancel() if timeout.active() else None)
        self._step(inputs.StopRequested())
        return deferred

    @property
    def halted(self) -> bool:
        """Whether it does nothing more."""
        return self._halted

    def halt(self) -> None:
        """Do nothing more, at once.

        Every client that waits hears that its outcome is unknown; whoever comes later hears
        :class:`~txvbcast.errors.NoQuorum`, as do all who wait for something else.
        """
        self._halted = True
        self._inputs.clear()
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        self._timers.clear()
        submissions, self._submissions = self._submissions, {}
        for submission in submissions.values():
            submission.sink.failed(submission.open_places(), errors.OutcomeUnknown(_STOPPED))
        for ticket in tuple(self._readers):
            self._read_failed(effects.ReadFailed(ticket, _STOPPED))
        for ticket in tuple(self._movers):
            self._move_answered(effects.MoveAnswered(ticket, _STOPPED, no_quorum=True))
        self.absences.halt()
        self._stop_allowed(effects.StopAllowed())

    def _step(self, event: Input) -> None:
        """One input, and whatever it leads to, in the order in which it happened."""
        if self._halted:
            return
        self._inputs.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._inputs:
                self._handle(self._inputs.popleft())
        except Exception as error:  # noqa: BLE001
            # A defect in the core, or a resource manager whose state is no longer the
            # others': going on could break what was promised, so the node stops here.
            log.failure("the node stops: {error}", error=error)
            self.halt()
            self._on_halt(error)
        finally:
            self._stepping = False

    def _handle(self, event: Input) -> None:
        wanted = self.replica.step(self._clock.seconds(), event)
        if self._on_step is not None:
            self._on_step(event, wanted)
        self._carry_out(wanted)

    def _carry_out(self, wanted: Iterable[effects.Effect]) -> None:
        for effect in wanted:
            if self._halted:
                return
            self._effects[type(effect)](effect)

    # --- from the network, the store, the clock --------------------------------------

    def received(self, peer: int, message: Message) -> None:
        """A message from a peer."""
        self._step(inputs.Received(peer, message))

    def peer_up(self, peer: int, incarnation: int, disk_id: str, vms: tuple[str, ...] = ()) -> None:
        """A link was opened."""
        self._step(inputs.PeerUp(peer, incarnation, disk_id, vms))

    def peer_down(self, peer: int, reason: str) -> None:
        """A link is gone."""
        self._step(inputs.PeerDown(peer, reason))

    def _persisted(self, token: int) -> None:
        self._step(inputs.Persisted(token))

    def _set_timer(self, effect: effects.SetTimer) -> None:
        if effect.key == TURN:
            self._turn.at_end(self._turn_over)
            return
        earlier = self._timers.get(effect.key)
        if earlier is not None and earlier.active():
            earlier.cancel()
        self._timers[effect.key] = self._clock.callLater(effect.delay_s, self._step, inputs.TimerFired(effect.key))

    def _turn_over(self) -> None:
        self._step(inputs.TimerFired(TURN))

    def _read_log(self, effect: effects.ReadLog) -> None:
        self._store.read(
            effect.first,
            effect.last,
            effect.bytes_max,
            lambda entries: self._step(inputs.LogRead(effect.token, entries)),
        )

    # --- transactions ------------------------------------------------------------------

    def submit(
        self,
        rm: str,
        payload: bytes,
        mode: Mode = Mode.BROADCAST,
        timeout_s: float = 5.0,
        request_id: str | None = None,
    ) -> Deferred[errors.Committed]:
        """Have every member perform a transaction, or none.

        :param timeout_s: after this long the answer is Aborted, NoQuorum or OutcomeUnknown.
        :raises ValueError: an unknown resource manager, a payload above ``limits.payload``, a timeout
            that is not positive, or a request id that is not Unicode text.
        """
        requests = None if request_id is None else (Request.parse(request_id),)
        one = _One()
        ticket = self.submit_many(rm, (payload,), mode, timeout_s, requests, one)
        one.abandoned = lambda: self.forget(ticket)
        return one.deferred

    def submit_many(
        self,
        rm: str,
        payloads: Sequence[bytes],
        mode: Mode,
        timeout_s: float,
        requests: Sequence[Request] | None,
        sink: Sink,
    ) -> int:
        """Have every member perform each of some transactions, or none of them that one.

        :param timeout_s: after this long every one of them is answered.
        :param requests: their names, one each.
        :param sink: hears the answers, some perhaps before this call returns.
        :returns: a ticket, for :meth:`forget`.
        :raises ValueError: as :meth:`submit`, or there is no payload.
        """
        if rm not in self.applications.names:
            raise ValueError(f"no resource manager is named {rm!r}; there are: {', '.join(self.applications.names)}")
        if not payloads:
            raise ValueError("there is no transaction: the list of payloads is empty")
        limit, largest = self.config.limits.payload, max(map(len, payloads))
        if largest > limit:
            raise ValueError(f"a payload of {largest} bytes is above limits.payload, {limit} bytes")
        check_positive("the timeout", timeout_s)
        items = pack_many(rm, payloads, requests)
        ticket = next(self._tickets)
        if self._halted:
            sink.failed(range(len(items)), errors.NoQuorum(_STOPPED))
            return ticket
        self._submissions[ticket] = _Submission(sink, len(items), len(items))
        self._step(inputs.Submitted(ticket, mode, items, timeout_s))
        return ticket

    def forget(self, ticket: int) -> None:
        """Nobody listens any more for answers to that submission; its transactions go on."""
        self._submissions.pop(ticket, None)

    def outcome(self, request_id: str) -> errors.Committed | None:
        """What a transaction of that request id led to, as far as this node has applied the log."""
        return self.applications.outcome(request_id)

    @property
    def applied(self) -> int:
        """The seq that this node has applied last."""
        return self.replica.journal.applied

    def _prepare(self, effect: effects.Prepare) -> None:
        def done(refused: tuple[Refusal, ...]) -> None:
            self._step(inputs.Prepared(effect.flight.id, refused))

        self.applications.prepare(effect.flight, done)

    def _apply(self, effect: effects.Apply) -> None:
        performed = self.applications.apply(effect.entry, effect.dead)
        flight = effect.entry.flight
        mine = (self.config.node_id, self._stored.incarnation)
        if flight is not None and not effect.dead and (flight.id.origin, flight.id.incarnation) == mine:
            self._performed[flight.id] = performed

    def _reply_committed(self, effect: effects.ReplyCommitted) -> None:
        performed = self._performed.pop(effect.flight)
        for share, index in zip(effect.shares, effect.indices, strict=True):
            sink = self._sink(share)
            if sink is not None:
                _tell_committed(sink, share, effect.seq, index, performed)

    def _reply_aborted(self, effect: effects.ReplyAborted) -> None:
        kind = errors.NoQuorum if effect.no_quorum else errors.Aborted
        self._fail(effect.shares, kind(effect.reason, effect.who))

    def _forget_results(self, effect: effects.ForgetResults) -> None:
        self._performed.pop(effect.flight, None)

    def _sink(self, share: Share) -> Sink | None:
        """Who is to hear of ``share``, each of whose transactions counts as answered now; None if nobody listens."""
        submission = self._submissions.get(share.ticket)
        if submission is None:
            return None
        submission.answer(share)
        if not submission.unanswered:
            del self._submissions[share.ticket]
        return submission.sink

    def _fail(self, shares: tuple[Share, ...], error: errors.SubmissionError) -> None:
        for share in shares:
            sink = self._sink(share)
            if sink is not None:
                sink.failed(range(share.place, share.place + share.count), error)

    # --- reads ---------------------------------------------------------------------------

    def read_barrier(self, timeout_s: float = 5.0) -> Deferred[int]:
        """Fires once this node has applied everything that was committed at the time of the call.

        :returns: the applied seq; fails with :class:`~txvbcast.errors.NoQuorum`.
        :raises ValueError: a timeout that is not positive.
        """
        check_positive("the timeout", timeout_s)
        if self._halted:
            return fail(errors.NoQuorum(_STOPPED))
        ticket = next(self._tickets)
        deferred: Deferred[int] = Deferred(lambda _: self._forget_reader(ticket))
        self._readers[ticket] = deferred
        self._step(inputs.ReadRequested(ticket, timeout_s))
        return deferred

    def _forget_reader(self, ticket: int) -> None:
        self._readers.pop(ticket, None)

    def _read_ready(self, effect: effects.ReadReady) -> None:
        reader = self._readers.pop(effect.ticket, None)
        if reader is not None:
            reader.callback(effect.seq)

    def _read_failed(self, effect: effects.ReadFailed) -> None:
        reader = self._readers.pop(effect.ticket, None)
        if reader is not None:
            reader.errback(errors.NoQuorum(effect.reason))

    # --- absence -------------------------------------------------------------------------

    def was_paused(self, pause_s: float, evidence: str) -> None:
        """This node was stopped for about ``pause_s`` without a word: it asks before it acts."""
        self._step(inputs.PauseSeen(pause_s, evidence))

    def stop_for(self, reason: str) -> None:
        """Stop at once, in the middle of everything: this node must not go on, and ``reason`` says why.

        The error that ``on_halt`` hears is :class:`~txvbcast.errors.MustNotGoOn`.
        """
        if not self._halted:
            self.halt()
            self._on_halt(errors.MustNotGoOn(reason))

    def tell(self, kind: str, reason: str, facts: Mapping[str, object]) -> None:
        """Raise an event about this node."""
        self._notify(effects.Notify(kind, self.config.node_id, reason, facts))

    def history(self) -> dict[str, Any]:
        """The absences that are over, this node's and those that it was told of, and how well they were foretold.

        The document behind ``GET /v1/inactive/history``, oldest first; times in milliseconds, ``began`` in unix
        seconds.
        """
        margin = self.config.inactivity.margin
        return {
            "absences": [past_document(record) for record in self._past],
            "predictions": [attrs.asdict(prediction) for prediction in predictions(self._past, margin)],
            "margin": float(margin),
        }

    def _remember(self, record: PastAbsence) -> None:
        self._past.append(record)
        self._counters.count(record)
        self._store.remember(record)

    # --- an operator's wishes --------------------------------------------------------------

    def move_master(self, to: int) -> Deferred[None]:
        """Hand the office to node ``to``.

        :return: fails with :class:`~txvbcast.errors.Unsafe` if it cannot be done now, with
            :class:`~txvbcast.errors.NoQuorum` if there is no master.

        :raises ValueError: there is no such member.
        """
        ids = sorted(member.id for member in self.config.members)
        if to not in ids:
            raise ValueError(f"node {to} is no member; the members are: {', '.join(map(str, ids))}")
        if self._halted:
            return fail(errors.NoQuorum(_STOPPED))
        ticket = next(self._tickets)
        deferred: Deferred[None] = Deferred()
        self._movers[ticket] = deferred
        self._step(inputs.MasterMoveRequested(ticket, to))
        return deferred

    def _move_answered(self, effect: effects.MoveAnswered) -> None:
        deferred = self._movers.pop(effect.ticket)
        if effect.no_quorum:
            deferred.errback(errors.NoQuorum(effect.refused))
        elif effect.refused:
            deferred.errback(errors.Unsafe(effect.refused))
        else:
            deferred.callback(None)

    def _stop_allowed(self, effect: effects.StopAllowed) -> None:
        stopper, self._stopper = self._stopper, None
        if stopper is not None:
            stopper.callback(None)

    def status(self) -> dict[str, Any]:
        """The document behind ``GET /v1/status``, ready for JSON."""
        facts = self._node_facts()
        document = {**facts, **report.status(self.replica), "absences": self._counters.documents()}
        for member in document["members"]:
            if member["node_id"] == self.config.node_id:
                member["vms"] = facts.get("vms", [])
        return document

    # --- events ----------------------------------------------------------------------------

    def _notify(self, effect: effects.Notify) -> None:
        event = self.events.add(effect.kind, effect.node_id, effect.reason, self._wall_s(), dict(effect.facts))
        facts = ", ".join(f"{key} {value}" for key, value in effect.facts.items() if value not in (None, ""))
        log.info(
            "{kind}{about}: {reason}{facts}",
            kind=effect.kind,
            about=f" node {effect.node_id}" if effect.node_id else "",
            reason=effect.reason,
            facts=f" ({facts})" if facts else "",
            event=event,
        )
