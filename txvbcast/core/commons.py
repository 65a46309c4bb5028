"""What the parts of a replica share: who it is, its configuration, and where effects are put.

The parts never call each other's machines.  They append effects for the driver and
signals for the replica, which routes them (:mod:`txvbcast.core.replica`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import attrs

from txvbcast.config import ProtocolConfig
from txvbcast.core.effects import Effect, Notify, Send, SendDatagram, SetTimer
from txvbcast.core.inputs import StoredState
from txvbcast.core.marks import Mark
from txvbcast.core.signals import Signal
from txvbcast.wire.messages import Message

TICK = "tick"
TURN = "turn"
#: Lengths of past absences of one kind and source that are remembered.
PAST_KEPT = 100
#: Kinds and sources whose past is remembered.
PAIRS_KEPT = 200


@attrs.frozen
class Link:
    """An open link to a peer."""

    incarnation: int
    disk_id: str


@attrs.define(eq=False)
class Commons:
    """Shared by all parts of one replica.

    :ivar now_s: the time of the step under way, on the caller's monotonic clock.
    :ivar loopback: messages to this node itself, delivered before the step ends.
    :ivar me: this node's id; others: those of the other nodes, rising.
    :ivar past_s: how long this node's changes took, by kind and source, oldest first.
    :ivar reached: the rare branches that this replica has been in; for tests to read, and for nobody else.
    """

    config: ProtocolConfig
    stored: StoredState
    now_s: float = 0.0
    links: dict[int, Link] = attrs.field(factory=dict)
    out: list[Effect] = attrs.field(factory=list)
    signals: deque[Signal] = attrs.field(factory=deque)
    loopback: deque[Message] = attrs.field(factory=deque)
    turn_armed: bool = False
    reached: set[Mark] = attrs.field(factory=set)
    past_s: dict[tuple[str, str], deque[float]] = attrs.field(init=False)
    me: int = attrs.field(init=False)
    others: tuple[int, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.me = self.config.node_id
        self.others = tuple(sorted(member.id for member in self.config.members if member.id != self.me))
        self.past_s = {}
        for past in self.stored.absences:
            if past.member == self.me:
                self.learn(past.kind, past.source, past.actual_s, past.outcome)

    def learn(self, kind: str, source: str, actual_s: float, outcome: str) -> None:
        """Remember how long a change took, or at least took; one that did not happen teaches nothing."""
        if outcome not in ("done", "overdue"):
            return
        lengths_s = self.past_s.pop((kind, source), deque(maxlen=PAST_KEPT))
        lengths_s.append(actual_s)
        self.past_s[kind, source] = lengths_s
        if len(self.past_s) > PAIRS_KEPT:
            del self.past_s[next(iter(self.past_s))]  # the one that has not been heard of for longest

    def send(self, to: int, message: Message) -> None:
        """To a peer over its link, or to this node itself."""
        if to == self.me:
            self.loopback.append(message)
        else:
            self.out.append(Send(to, message))

    def send_others(self, message: Message) -> None:
        """To every other member."""
        for to in self.others:
            self.out.append(Send(to, message))

    def send_all(self, message: Message) -> None:
        """To every member, this one too."""
        self.send_others(message)
        self.loopback.append(message)

    def send_datagrams(self, message: Message) -> None:
        """To every other member, at once and without a link."""
        for to in self.others:
            self.out.append(SendDatagram(to, message))

    def signal(self, signal: Signal) -> None:
        """Tell the other parts, when this part is done."""
        self.signals.append(signal)

    def reach(self, mark: Mark) -> None:
        """Say that a rare branch was taken; it changes nothing."""
        self.reached.add(mark)

    def notify(self, kind: str, node_id: int, reason: str, facts: Mapping[str, object] | None = None) -> None:
        """Tell operators and applications."""
        self.out.append(Notify(kind, node_id, reason, facts or {}))

    def need_turn(self) -> None:
        """Ask for a TURN timer: what is gathered now is sent when the present turn is over."""
        if not self.turn_armed:
            self.turn_armed = True
            self.out.append(SetTimer(TURN, 0.0))
