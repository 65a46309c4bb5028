"""This node's absences, as adapters, operators and applications see them.

Begins, refines and ends changes in the core; keeps the record of each; says whether the cluster can
spare a member now, and lets changes that can be held wait for their turn.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from txvbcast import errors
from txvbcast.config import CHANGE_KINDS
from txvbcast.core import effects, inputs
from txvbcast.core.inputs import Input, PastAbsence
from txvbcast.core.replica import Replica
from txvbcast.core.table import leave_step
from txvbcast.events import EventLog
from txvbcast.interfaces import Go
from txvbcast.units import format_duration
from txvbcast.wire.messages import Standing

log = Logger()

#: Records of past absences that are kept for people and for the estimator.
ABSENCES_KEPT = 1000
#: How long an asker waits for the cluster's word who does not say.
WAIT_S = 5.0
_STOPPED = "this node has stopped"


class Timer(Protocol):
    """The part of IDelayedCall that is used."""

    def cancel(self) -> object:
        """Do not call."""

    def active(self) -> object:
        """Whether the call is still to come."""


class Clock(Protocol):
    """The part of IReactorTime that is used."""

    def seconds(self) -> float:
        """The time, monotonic."""

    def callLater(self, delay_s: float, function: Callable[..., object], /, *args: object) -> Timer:
        """Call ``function`` after ``delay`` seconds."""


@attrs.frozen
class Change:
    """The answer to :meth:`Absences.begin`.

    :ivar unsafe: why the cluster cannot afford this absence; empty when it can, or did not say.
    """

    change_id: int
    expected_s: float
    confirmed: bool
    unsafe: str


@attrs.define(eq=False)
class ChangeRecord:
    """A change that this node has announced; times of the monotonic clock but ``began_unix_s``.

    :ivar member: whom it makes absent: this node, or another of which a third party spoke here.
    :ivar announced_s: the first estimate; expected_s: the latest, both from the beginning on.
    :ivar basis: what the latest estimate rests on.
    """

    change_id: int
    member: int
    kind: str
    source: str
    announced_s: float
    expected_s: float
    basis: str
    began_s: float
    began_unix_s: float
    confirmed: bool = False
    unsafe: str = ""
    outcome: str | None = None
    actual_s: float | None = None
    waiting: Deferred[Change] | None = None
    timeout: Timer | None = None


@attrs.frozen
class Notice:
    """What somebody says of a change that is about to happen, or happens.

    :ivar facts: see :data:`txvbcast.interfaces.FACTS`; source: who says so.
    :ivar holdable: the change can be held back, for ``hold_s`` at most; what is negative or no number is 0.
    :ivar member: whom it happens to: this node, if None.
    :ivar expected_s: how long it takes, by an operator's word; None leaves it to the estimator.
    """

    kind: str
    facts: Mapping[str, object]
    source: str
    holdable: bool
    hold_s: float | None = None
    member: int | None = None
    expected_s: float | None = None


@attrs.define(eq=False)
class HeldChange:
    """A change that an adapter or an operator speaks of.

    One that can be held is announced in its turn: when nobody else is away whom the cluster waits for, and
    the quorum stands it.  When two members have asked at once, the log says who came first, and the
    other takes its announcement back and waits.  The bound always wins: then it is announced and let go,
    whatever the cluster says.  One that cannot be held is announced at once.
    """

    absences: Absences
    notice: Notice
    facts: dict[str, object]
    member: int
    bound_s: float
    change_id: int | None = None
    _retry_s: float = 0.0
    _answer: Go | None = None
    _announced: bool = False
    _outcome: str = ""
    _waiting: list[Deferred[Go]] = attrs.field(factory=list)
    _bound: Timer | None = None
    _next: Timer | None = None
    _unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Announce it, now or in its turn."""
        if not self.notice.holdable:
            self._announce(0.0)
            return
        clock = self.absences.clock
        self._bound = clock.callLater(max(0.0, self.bound_s - clock.seconds()), self._on_bound)
        self._unsubscribe = self.absences.events.subscribe(lambda event: self._look_after(0.0))
        self._look()

    @property
    def over(self) -> bool:
        """Whether it has ended: by its source's word, or by its time."""
        if self._outcome:
            return True
        return self.change_id is not None and not self.absences.is_under_way(self.change_id)

    @property
    def announced_s(self) -> float:
        """How long it is expected to take, in seconds; 0 until it is announced."""
        return 0.0 if self.change_id is None else self.absences.expected_s(self.change_id)

    @property
    def confirmed(self) -> bool:
        """Whether the cluster has taken note of it."""
        return self._answer is not None and self._answer.confirmed

    @property
    def unsafe(self) -> str:
        """Why the cluster cannot afford it, else empty."""
        return "" if self._answer is None else self._answer.unsafe

    @property
    def go(self) -> Deferred[Go]:
        """A new Deferred that fires when the platform may be let go; see :class:`txvbcast.interfaces.IChangeSink`."""
        waiting: Deferred[Go] = Deferred()
        if self._answer is not None:
            waiting.callback(self._answer)
        else:
            self._waiting.append(waiting)
        return waiting

    def update(self, facts: Mapping[str, object]) -> None:
        """New facts; they replace those of the same names."""
        self.facts.update(facts)
        if self.change_id is not None and not self.over:
            self.absences.update(self.change_id, None, facts)

    def end(self, outcome: str) -> None:
        """It is over: ``done``, ``cancelled`` or ``failed``."""
        if self.change_id is not None and not self.over:
            self.absences.end(self.change_id, outcome)
        self._outcome = outcome
        self._let_go(Go(confirmed=False, unsafe="the change is over"))

    # --- its turn ---------------------------------------------------------------------------

    def _look_after(self, delay_s: float) -> None:
        # Events come in the middle of a step of the core, which must be over before the next begins.
        _cancel(self._next)
        if self._answer is None:
            self._next = self.absences.clock.callLater(delay_s, self._look)

    def _look(self) -> None:
        """Announce it, if it is its turn."""
        if self._announced or self._answer is not None:
            return
        now_s = self.absences.clock.seconds()
        if now_s < self._retry_s or self.absences.refusal(self.member, self.notice.expected_s):
            self._look_after(self.absences.retry_s)
        else:
            self._announce(self.bound_s - now_s)

    def _announce(self, wait_s: float) -> None:
        in_time = wait_s > 0
        notice = self.notice
        self._announced = True
        begun = self.absences.begin(
            notice.kind,
            notice.expected_s,
            self.facts,
            notice.holdable and in_time,
            notice.source,
            wait_s if in_time else WAIT_S,
            self.member,
            self._on_opened,
        )
        begun.addCallbacks(self._on_answer, self._on_stopped)

    def _on_opened(self, change_id: int) -> None:
        self.change_id = change_id
        if self._outcome:  # it was over sooner than the core, which was busy, could name it
            self.absences.end(change_id, self._outcome)

    def _on_stopped(self, failure: Failure) -> None:
        failure.trap(errors.NoQuorum)
        self.stop()

    def _on_answer(self, change: Change) -> None:
        if self._answer is not None or change.change_id != self.change_id:
            return
        in_time = self.notice.holdable and self.absences.clock.seconds() < self.bound_s
        if in_time and (change.unsafe or self.absences.came_before(self.member)):
            self._take_back(change.change_id)
        else:
            self._let_go(Go(change.confirmed, change.unsafe))

    def _take_back(self, change_id: int) -> None:
        self.change_id, self._announced = None, False
        self._retry_s = self.absences.clock.seconds() + self.absences.retry_s
        if self.absences.is_under_way(change_id):
            self.absences.end(change_id, "cancelled")
        self._look_after(self.absences.retry_s)

    def _on_bound(self) -> None:
        refused = ""
        if not self._announced:
            refused = self.absences.refusal(self.member, self.notice.expected_s)
            self._announce(0.0)
        self._let_go(Go(confirmed=False, unsafe=refused))

    def stop(self) -> None:
        """The node does nothing more: nobody waits any longer."""
        self._let_go(Go(confirmed=False, unsafe=_STOPPED))

    def _let_go(self, answer: Go) -> None:
        if self._answer is not None:
            return
        self._answer = answer
        self.absences.held.remove(self)
        self._unsubscribe()
        _cancel(self._bound)
        _cancel(self._next)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            # Not in the middle of a step of the core: whoever hears it may begin the next change at once.
            self.absences.clock.callLater(0.0, each.callback, answer)


@attrs.frozen
class _Opening:
    """A change that the core has not named yet, and who waits for that."""

    answer: Deferred[Change]
    wait_s: float
    opened: Callable[[int], None]


class Absences:
    """The changes that this node has announced, its own and those of others.

    :param step: hands an input to the core.
    :param remember: keeps the record of a change that has ended.
    :param wall_s: seconds of the wall clock, for people.
    :ivar held: changes whose platforms still wait to be let go.
    """

    def __init__(
        self,
        replica: Replica,
        step: Callable[[Input], None],
        clock: Clock,
        wall_s: Callable[[], float],
        events: EventLog,
        remember: Callable[[PastAbsence], None],
    ) -> None:
        self.clock = clock
        self.events = events
        self._replica = replica
        self._step = step
        self._wall_s = wall_s
        self._remember = remember
        self._tickets = itertools.count(1)
        self.held: list[HeldChange] = []
        self._opening: dict[int, _Opening] = {}
        self._records: deque[ChangeRecord] = deque(maxlen=ABSENCES_KEPT)
        self._halted = False

    @property
    def retry_s(self) -> float:
        """A change that waits for its turn asks again after this long, unless something happens before."""
        return self._replica.commons.config.heartbeat.timeout_s

    # --- changes ---------------------------------------------------------------------------

    def hold(self, notice: Notice) -> HeldChange:
        """Announce a change: in its turn if it can be held, at once if not.

        :raises ValueError: an unknown kind or member, or an expected time that is not positive.
        """
        self._check(notice.kind, notice.expected_s)
        hold_s = WAIT_S if notice.hold_s is None else notice.hold_s
        bound_s = self.clock.seconds() + _at_least_0(hold_s)
        held = HeldChange(self, notice, dict(notice.facts), self._known_member(notice.member), bound_s)
        self.held.append(held)
        held.start()
        return held

    def begin(
        self,
        kind: str,
        expected_s: float | None = None,
        facts: Mapping[str, object] | None = None,
        holdable: bool = True,
        source: str = "operator",
        wait_s: float = WAIT_S,
        member: int | None = None,
        opened: Callable[[int], None] = lambda change_id: None,
    ) -> Deferred[Change]:
        """Announce at once that a change makes a member inactive.

        :param expected_s: how long; None leaves it to the estimator.
        :param holdable: the change waits for the answer, so own flights are decided first.
        :param wait_s: answer unconfirmed after this long.
        :param member: this node, unless a third party speaks of another.
        :param opened: hears the name of the change, before this returns unless the core is busy.
        :returns: fails with :class:`~txvbcast.errors.NoQuorum` if the node stops first.
        :raises ValueError: an unknown kind or member, or a time that is not positive.
        """
        self._check(kind, expected_s)
        check_positive("the time to wait", wait_s)
        who = self._known_member(member)
        if self._halted:
            return fail(errors.NoQuorum(_STOPPED))
        ticket = next(self._tickets)
        deferred: Deferred[Change] = Deferred()
        self._opening[ticket] = _Opening(deferred, wait_s, opened)
        facts = dict(facts or {})
        if who == self._replica.commons.me:
            self._step(inputs.ChangeBegan(ticket, kind, expected_s, facts, holdable, source))
        else:
            self._step(inputs.MemberAbsent(ticket, who, kind, expected_s, facts, source))
        return deferred

    def update(self, change_id: int, expected_s: float | None, facts: Mapping[str, object] | None = None) -> None:
        """A new estimate for a change under way: ``expected_s`` from now on, or what new facts lead to.

        :raises KeyError: there is no such change under way.
        :raises ValueError: an expected time that is not positive.
        """
        self._under_way(change_id)
        if expected_s is not None:
            check_positive("the expected time", expected_s)
        self._step(inputs.ChangeUpdated(change_id, expected_s, dict(facts or {})))

    def end(self, change_id: int, outcome: str = "done") -> None:
        """A change is over: ``done``, ``cancelled`` or ``failed``.

        :raises KeyError: there is no such change under way.
        """
        self._under_way(change_id)
        self._step(inputs.ChangeEnded(change_id, outcome))

    def is_under_way(self, change_id: int) -> bool:
        """Whether that change has begun and not ended."""
        return any(record.change_id == change_id and record.outcome is None for record in self._records)

    def expected_s(self, change_id: int) -> float:
        """How long a change is expected to take, from its beginning on; 0 when it is not remembered."""
        return next((record.expected_s for record in self._records if record.change_id == change_id), 0.0)

    def _under_way(self, change_id: int) -> ChangeRecord:
        for record in self._records:
            if record.change_id == change_id and record.outcome is None:
                return record
        raise KeyError(change_id)

    def _check(self, kind: str, expected_s: float | None) -> None:
        if kind not in CHANGE_KINDS:
            raise ValueError(f"{kind!r} is no kind of change; there are: {', '.join(CHANGE_KINDS)}")
        if expected_s is not None:
            check_positive("the expected time", expected_s)

    def _known_member(self, member: int | None) -> int:
        if member is None:
            return self._replica.commons.me
        if member not in self._replica.peers:
            ids = ", ".join(map(str, sorted(self._replica.peers)))
            raise ValueError(f"node {member} is no member; the members are: {ids}")
        return member

    # --- may it be absent? -------------------------------------------------------------------

    def refusal(self, member: int | None = None, expected_s: float | None = None) -> str:
        """Whether the cluster can spare a member now: empty for yes, else the reason why not.

        :param member: this node, if None.
        :param expected_s: for how long, in seconds.
        """
        replica, config = self._replica, self._replica.commons.config
        who = self._known_member(member)
        if not replica.master:
            return "no master is known, so nobody can say"
        if expected_s is not None and expected_s > config.inactivity.max_s:
            longest = format_duration(config.inactivity.max_s)
            return (
                f"{format_duration(expected_s)} is longer than inactivity.max ({longest}), and not believed for longer"
            )
        unsafe = leave_step(replica.journal.table, who, config.quorum.planned_floor).unsafe
        if unsafe:
            return unsafe
        away = [
            f"node {node_id} is {peer.core.standing.value}{_for(peer.core.kind)}"
            for node_id, peer in sorted(replica.peers.items())
            if node_id != who and peer.core.standing in (Standing.INACTIVE, Standing.CATCHING_UP)
        ]
        return self._crowded(away)

    def came_before(self, member: int) -> str:
        """Whose absence the log has from before that of ``member``, if that makes too many at once; else empty."""
        table = self._replica.journal.table
        own = table[member]
        since = own.since if own.standing is Standing.INACTIVE else self._replica.journal.tail + 1
        away = [
            f"node {other.node_id} is inactive{_for(other.kind)}"
            for other in table.members
            if other.node_id != member and other.standing is Standing.INACTIVE and other.since < since
        ]
        return self._crowded(away)

    def _crowded(self, away: list[str]) -> str:
        at_once = self._replica.commons.config.inactivity.at_once
        if len(away) < at_once:
            return ""
        return f"{', '.join(away)}; inactivity.at_once lets {at_once} be away at a time"

    # --- records -----------------------------------------------------------------------------

    def documents(self) -> list[dict[str, object]]:
        """The changes announced here since this node has started, the latest last.

        Times in milliseconds, ``began`` in unix seconds.
        """
        return [self._document(record) for record in self._records]

    def _document(self, record: ChangeRecord) -> dict[str, object]:
        elapsed_s = self.clock.seconds() - record.began_s if record.actual_s is None else record.actual_s
        return {
            "change_id": record.change_id,
            "member": record.member,
            "kind": record.kind,
            "source": record.source,
            "announced_ms": round(record.announced_s * 1000),
            "expected_ms": round(record.expected_s * 1000),
            "basis": record.basis,
            "began": record.began_unix_s,
            "elapsed_ms": round(elapsed_s * 1000),
            "confirmed": record.confirmed,
            "unsafe": record.unsafe,
            "outcome": record.outcome,
            "actual_ms": None if record.actual_s is None else round(record.actual_s * 1000),
        }

    # --- what the core says --------------------------------------------------------------------

    def on_opened(self, effect: effects.ChangeOpened) -> None:
        """A change has its name; one with ticket 0 was begun by a third party's word about this node."""
        opening = self._opening.pop(effect.ticket, None)
        length_s = effect.expected_s
        record = ChangeRecord(
            change_id=effect.change_id,
            member=effect.member,
            kind=effect.kind,
            source=effect.source,
            announced_s=length_s,
            expected_s=length_s,
            basis=effect.basis,
            began_s=self.clock.seconds(),
            began_unix_s=self._wall_s(),
        )
        self._records.append(record)
        if opening is not None:
            record.waiting = opening.answer
            record.timeout = self.clock.callLater(opening.wait_s, self._settle, record)
            opening.opened(effect.change_id)

    def on_estimated(self, effect: effects.ChangeEstimated) -> None:
        """There is a new estimate, from now on."""
        for record in self._records:
            if record.change_id == effect.change_id:
                record.expected_s = self.clock.seconds() - record.began_s + effect.expected_s
                record.basis = effect.basis

    def on_answered(self, effect: effects.ChangeAnswered) -> None:
        """The cluster has spoken."""
        for record in self._records:
            if record.change_id == effect.change_id:
                record.confirmed, record.unsafe = effect.confirmed, effect.unsafe
                self._settle(record)

    def _settle(self, record: ChangeRecord) -> None:
        _cancel(record.timeout)
        waiting, record.waiting = record.waiting, None
        if waiting is not None:
            waiting.callback(Change(record.change_id, record.expected_s, record.confirmed, record.unsafe))

    def on_closed(self, effect: effects.ChangeClosed) -> None:
        """A change is over: it is logged and kept."""
        for record in self._records:
            if record.change_id == effect.change_id:
                record.outcome = effect.outcome
                record.actual_s = self.clock.seconds() - record.began_s
                self._log(record)
                if record.member == self._replica.commons.me or record.confirmed:
                    # A third party's word without effect is no absence: the member has given its own.
                    self._remember(_past(record))

    def _log(self, record: ChangeRecord) -> None:
        log.info(
            "absence {record.change_id} of node {record.member} ({record.kind}, by {record.source}) ended: "
            "{record.outcome}; announced {announced_s:.1f} s, took {actual_s:.1f} s",
            record=record,
            announced_s=record.announced_s,
            actual_s=record.actual_s,
        )

    def halt(self) -> None:
        """The node does nothing more: whoever waits hears it."""
        self._halted = True
        for held in tuple(self.held):
            held.stop()
        opening, self._opening = self._opening, {}
        for each in opening.values():
            each.answer.errback(errors.NoQuorum(_STOPPED))
        for record in self._records:
            self._settle(record)


def check_positive(name: str, seconds: float) -> None:
    """:raises ValueError: ``seconds`` is not positive; ``name`` says which."""
    if not seconds > 0:  # NaN is not, either
        raise ValueError(f"{name} must be positive, got {seconds}")


def past_document(past: PastAbsence) -> dict[str, object]:
    """The record of an absence for people and programs: milliseconds, and unix seconds."""
    return {
        "member": past.member,
        "kind": past.kind,
        "source": past.source,
        "began": past.began_unix_s,
        "announced_ms": round(past.announced_s * 1000),
        "expected_ms": round(past.expected_s * 1000),
        "actual_ms": round(past.actual_s * 1000),
        "basis": past.basis,
        "confirmed": past.confirmed,
        "unsafe": past.unsafe,
        "outcome": past.outcome,
    }


def _past(record: ChangeRecord) -> PastAbsence:
    return PastAbsence(
        member=record.member,
        kind=record.kind,
        source=record.source,
        began_unix_s=record.began_unix_s,
        announced_s=record.announced_s,
        expected_s=record.expected_s,
        actual_s=record.actual_s or 0.0,
        basis=record.basis,
        confirmed=record.confirmed,
        unsafe=record.unsafe,
        outcome=record.outcome or "",
    )


def _cancel(timer: Timer | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()


def _at_least_0(seconds: float) -> float:
    return seconds if seconds > 0 else 0.0


def _for(kind: str) -> str:
    return f" ({kind})" if kind else ""
