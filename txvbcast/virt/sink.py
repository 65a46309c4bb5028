"""Between an adapter and the node: each event once, each change under one name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from txvbcast.absences import Notice
from txvbcast.interfaces import Go, IChangeSink

log = Logger()

#: Changes of one adapter that are remembered, so that repeats of their events are known as such.
OBJECTS_MAX = 1000
#: Contradictions about one change that are told.
CONTRADICTIONS_MAX = 10
#: How a change can end.
OUTCOMES = ("done", "cancelled", "failed")


class Held(Protocol):
    """A change that the node was told of; :class:`txvbcast.admission.HeldChange` is one."""

    @property
    def over(self) -> bool:
        """Whether it has ended: by the adapter's word, or by its time."""

    @property
    def go(self) -> Deferred[Go]:
        """A new Deferred that fires when the platform may be let go."""

    def update(self, facts: Mapping[str, object]) -> None:
        """New facts."""

    def end(self, outcome: str) -> None:
        """It is over."""


class Absences(Protocol):
    """Announces changes; :class:`txvbcast.absences.Absences` does."""

    def hold(self, notice: Notice, /) -> Held:
        """Announce a change, in its turn when it can be held.

        :raises ValueError: no such member.
        """


class Node(Protocol):
    """What a sink needs of the node; :class:`txvbcast.driver.Driver` has it."""

    @property
    def absences(self) -> Absences:
        """Where changes are announced."""

    def was_paused(self, pause_s: float, evidence: str) -> None:
        """The node was stopped for a while."""

    def stop_for(self, reason: str) -> None:
        """The node must not go on."""

    def tell(self, kind: str, reason: str, facts: Mapping[str, object]) -> None:
        """Raise an event about this node."""


@attrs.define(eq=False)
class _Object:
    """A change as its platform names it.

    :ivar contradictions: what was said already about contradictory words.
    """

    kind: str
    member: int | None
    sequence: int | None
    held: Held
    contradictions: set[str] = attrs.field(factory=set)


@implementer(IChangeSink)
class Sink:
    """What one adapter speaks to.

    :param source: the adapter's name, which marks what it says.
    :param kinds: the kinds of change that were configured.
    :ivar state: ``starting``, ``connected`` or ``lost``.
    :ivar since_s: since when, by the clock that was given.
    :ivar problem: why it is lost, else empty.
    :ivar counters: events by what became of them.
    """

    def __init__(self, node: Node, source: str, kinds: tuple[str, ...], seconds: Callable[[], float]) -> None:
        self.source = source
        self.kinds = kinds
        self.state = "starting"
        self.where = ""
        self.problem = ""
        self.since_s = seconds()
        self.counters: Counter[str] = Counter()
        self._node = node
        self._seconds = seconds
        self._objects: dict[str, _Object] = {}
        self._closed = False
        self._full = False
        self._refusal = ""

    def close(self) -> None:
        """Hear no more; what is under way is ended by its time, or by the next life of this adapter."""
        self._closed = True

    # --- changes ---------------------------------------------------------------------------

    def begin(
        self,
        kind: str,
        facts: Mapping[str, object],
        source_id: str,
        holdable: bool,
        sequence: int | None = None,
        hold_s: float | None = None,
        member: int | None = None,
    ) -> Deferred[Go]:
        """See :meth:`txvbcast.interfaces.IChangeSink.begin`."""
        known = self._objects.get(source_id)
        if self._closed or kind not in self.kinds:
            self.counters["passed_over"] += 1
            return succeed(Go(confirmed=False))
        if known is not None and self._is_repeat(known, sequence):
            return known.held.go
        if known is not None and not known.held.over:
            self._begun_again(known, source_id, kind, member, facts)
            return known.held.go
        if not self._make_room():
            self.counters["passed_over"] += 1
            return succeed(Go(confirmed=False))
        try:
            held = self._node.absences.hold(Notice(kind, facts, self.source, holdable, hold_s, member))
        except ValueError as error:
            self._refused(str(error))
            return succeed(Go(confirmed=False))
        self.counters["begun"] += 1
        self._objects.pop(source_id, None)
        self._objects[source_id] = _Object(kind, member, sequence, held)
        return held.go

    def _begun_again(
        self, known: _Object, source_id: str, kind: str, member: int | None, facts: Mapping[str, object]
    ) -> None:
        if kind != known.kind:
            self._contradict(known, source_id, f"it was said to be {known.kind} and is now said to be {kind}")
        elif member != known.member:
            before, now = (f"node {each}" if each else "this node" for each in (known.member, member))
            self._contradict(known, source_id, f"it was said to happen to {before} and is now said to happen to {now}")
        else:
            self.counters["updated"] += 1
            known.held.update(facts)

    def update(self, source_id: str, facts: Mapping[str, object], sequence: int | None = None) -> None:
        """See :meth:`txvbcast.interfaces.IChangeSink.update`."""
        known = self._heard_of(source_id, sequence)
        if known is not None:
            self.counters["updated"] += 1
            known.held.update(facts)

    def end(self, source_id: str, outcome: str, sequence: int | None = None) -> None:
        """See :meth:`txvbcast.interfaces.IChangeSink.end`."""
        known = self._heard_of(source_id, sequence)
        if known is None:
            return
        if outcome not in OUTCOMES:
            self._contradict(known, source_id, f"it is said to have ended as {outcome!r}")
            return
        self.counters["ended"] += 1
        known.held.end(outcome)

    def _heard_of(self, source_id: str, sequence: int | None) -> _Object | None:
        """The change that news are about; None if they are no news, or too late."""
        known = self._objects.get(source_id)
        if known is not None and not self._closed and self._is_repeat(known, sequence):
            return None
        if self._closed or known is None or known.held.over:
            self.counters["passed_over"] += 1
            return None
        return known

    def under_way(self) -> tuple[str, ...]:
        """See :meth:`txvbcast.interfaces.IChangeSink.under_way`."""
        return tuple(source_id for source_id, known in self._objects.items() if not known.held.over)

    def _is_repeat(self, known: _Object, sequence: int | None) -> bool:
        if sequence is None:
            return False
        if known.sequence is not None and sequence <= known.sequence:
            self.counters["repeated"] += 1
            return True
        known.sequence = sequence
        return False

    def _contradict(self, known: _Object, source_id: str, what: str) -> None:
        """The node stays inactive, until the change's end or its time: that is the safe side."""
        self.counters["contradicted"] += 1
        if what in known.contradictions or len(known.contradictions) >= CONTRADICTIONS_MAX:
            return
        known.contradictions.add(what)
        reason = f"adapter {self.source} contradicts itself about {source_id!r}: {what}; the node stays inactive"
        self._node.tell("adapter_contradiction", reason, {"adapter": self.source, "source_id": source_id})

    def _refused(self, why: str) -> None:
        """The node knows no such member, say: told once, however often the platform repeats it."""
        self.counters["passed_over"] += 1
        if why != self._refusal:
            self._refusal = why
            reason = f"adapter {self.source} tells of a change that is passed over: {why}"
            self._node.tell("adapter_refused", reason, {"adapter": self.source})

    def _make_room(self) -> bool:
        if len(self._objects) >= OBJECTS_MAX:
            over = [source_id for source_id, known in self._objects.items() if known.held.over]
            for source_id in over[:1]:
                del self._objects[source_id]
        was_full, self._full = self._full, len(self._objects) >= OBJECTS_MAX
        if self._full and not was_full:
            reason = f"adapter {self.source} has {OBJECTS_MAX} changes under way; no more are taken"
            self._node.tell("adapter_full", reason, {"adapter": self.source})
        return not self._full

    # --- the platform ------------------------------------------------------------------------

    def connected(self, where: str) -> None:
        """See :meth:`txvbcast.interfaces.IChangeSink.connected`."""
        self._enter("connected", "", where)

    def lost(self, problem: str) -> None:
        """See :meth:`txvbcast.interfaces.IChangeSink.lost`."""
        self.counters["lost"] += 1
        self._enter("lost", problem, self.where)

    def _enter(self, state: str, problem: str, where: str) -> None:
        if self._closed or (state, problem, where) == (self.state, self.problem, self.where):
            return
        if state != self.state:
            self.since_s = self._seconds()
        self.state, self.problem, self.where = state, problem, where
        reason = f"adapter {self.source}: {problem or f'hears {where}'}"
        self._node.tell(f"adapter_{state}", reason, {"adapter": self.source})

    def paused(self, pause_s: float, evidence: str) -> None:
        """See :meth:`txvbcast.interfaces.IChangeSink.paused`."""
        if not self._closed:
            self.counters["paused"] += 1
            self._node.was_paused(pause_s, evidence)

    def stop_node(self, reason: str) -> None:
        """See :meth:`txvbcast.interfaces.IChangeSink.stop_node`."""
        if not self._closed:
            self._node.stop_for(reason)

    def document(self) -> dict[str, object]:
        """For ``status``, ready for JSON."""
        return {
            "adapter": self.source,
            "state": self.state,
            "where": self.where,
            "problem": self.problem,
            "since_ms": round((self._seconds() - self.since_s) * 1000),
            "kinds": list(self.kinds),
            "under_way": list(self.under_way()),
            "counters": dict(sorted(self.counters.items())),
        }
