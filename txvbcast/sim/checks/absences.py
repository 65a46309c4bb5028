"""Invariants 11 and 20: nobody is accused without cause, and an announced absence is no cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from txvbcast.core import epochs
from txvbcast.core.effects import Apply, Persist, Send
from txvbcast.core.inputs import PeerUp, Received, TimerFired
from txvbcast.sim.checks.facts import Facts
from txvbcast.sim.checks.steps import Check, Look
from txvbcast.sim.checks.violation import Violation
from txvbcast.wire.messages import (
    SELF,
    AbsenceOver,
    Claim,
    ClaimWhy,
    Entry,
    Inactive,
    Message,
    Normal,
    Resumed,
    Standing,
    StandingEntry,
)

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode

#: The one kind of fault that a cluster has to take without accusing anybody.
CALM_FAULT = "punctual"
#: A network is calm up to this delay, and this chance that a datagram is lost.
CALM_DELAY_S = 0.005
CALM_LOSS = 0.02


@attrs.define
class Announcement:
    """What a node knows of a member's absence; ``over`` names the last one that the log has as ended.

    :ivar third_party: somebody else has said so, and the member has not.
    """

    key: tuple[int, int, int] = (0, 0, -1)
    third_party: bool = False
    deadline_s: float | None = None
    over: tuple[int, int] = (0, 0)


@attrs.define
class Ear:
    """What one life of a node has heard, all in its own time.

    :ivar awake_s: since when it runs without a long pause.
    """

    awake_s: float
    tick_s: float
    heard_s: dict[int, float] = attrs.field(factory=dict)
    announcements: dict[int, Announcement] = attrs.field(factory=dict)

    def announcement(self, member: int) -> Announcement:
        """Of that member."""
        return self.announcements.setdefault(member, Announcement())


class Absences(Check):
    """Keeps, for each node, who was heard when and who has announced what, and judges each accusation by it."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._ears: dict[int, Ear] = {}
        self._calm: bool | None = None
        self._office_s: float | None = None

    def looks_at_inputs(self) -> Mapping[type, Look]:
        """Ticks, links and the three messages."""
        return {
            TimerFired: self._on_timer,
            PeerUp: self._on_peer_up,
            Inactive: self._on_inactive,
            Resumed: self._on_back,
            Normal: self._on_back,
            AbsenceOver: self._on_over,
        }

    def looks_at_effects(self) -> Mapping[type, Look]:
        """What the log says, accusations and claims."""
        return {
            Apply: self._on_apply,
            Persist: self._on_persist,
            Claim: self._on_claim,
            Inactive: self._on_said,
            AbsenceOver: self._on_said_over,
        }

    def on_life(self, node: SimNode) -> None:
        """A new life has heard nothing."""
        now_s = node.clock.seconds()
        self._ears[node.node_id] = Ear(now_s, now_s)

    def on_delivery(self, sender: int, to: int, sent_s: float, message: Message, by_link: bool) -> None:
        """Whatever comes from a member is a sign of life."""
        self._ears[to].heard_s[sender] = self.world.nodes[to].clock.seconds()

    def on_fault(self, what: str) -> None:
        """A run is calm while it has seen calm faults only."""
        kind = what.split(" ", 1)[0]
        if kind != "peace":
            self._calm = self._calm is not False and kind == CALM_FAULT

    # --- what a node has heard -------------------------------------------------------------------

    def _on_timer(self, node: SimNode, event: TimerFired) -> None:
        if event.key != "tick":
            return
        ear, heartbeat = self._ears[node.node_id], self.world.config.heartbeat
        now_s = node.clock.seconds()
        if now_s - ear.tick_s > 2.5 * heartbeat.interval_s:
            ear.awake_s = now_s
        ear.tick_s = now_s

    def _on_peer_up(self, node: SimNode, event: PeerUp) -> None:
        self._ears[node.node_id].heard_s[event.peer] = node.clock.seconds()

    def _deadline_s(self, node: SimNode, expected_ms: int) -> float:
        config = self.world.config
        believed_s = expected_ms / 1000 * config.inactivity.margin + config.heartbeat.timeout_s
        return node.clock.seconds() + believed_s

    def _on_inactive(self, node: SimNode, event: Received) -> None:
        assert isinstance(event.message, Inactive)
        self._hear(node, event.message, third_party=event.message.member != event.peer)

    def _on_said(self, node: SimNode, effect: Send) -> None:
        """A node hears itself when it speaks of others."""
        assert isinstance(effect.message, Inactive)
        if effect.message.member != node.node_id:
            self._hear(node, effect.message, third_party=True)

    def _hear(self, node: SimNode, message: Inactive, third_party: bool) -> None:
        known = self._ears[node.node_id].announcement(message.member)
        key = (message.incarnation, message.change_id, message.revision)
        if key > known.key and key[:2] > known.over:
            known.key, known.deadline_s = key, self._deadline_s(node, message.expected_ms)
            known.third_party = third_party

    def _on_back(self, node: SimNode, event: Received) -> None:
        message = event.message
        assert isinstance(message, (Resumed, Normal))
        known = self._ears[node.node_id].announcement(message.member)
        if (message.incarnation, message.change_id) >= known.key[:2]:
            known.deadline_s = None

    def _on_over(self, node: SimNode, event: Received) -> None:
        assert isinstance(event.message, AbsenceOver)
        self._hear_over(node, event.message)

    def _on_said_over(self, node: SimNode, effect: Send) -> None:
        assert isinstance(effect.message, AbsenceOver)
        self._hear_over(node, effect.message)

    def _hear_over(self, node: SimNode, message: AbsenceOver) -> None:
        """A third party's word ends what it has said itself, and no more."""
        known = self._ears[node.node_id].announcement(message.member)
        if known.third_party and known.key[:2] == (message.incarnation, message.change_id):
            known.deadline_s = None

    def _on_apply(self, node: SimNode, apply: Apply) -> None:
        entry = apply.entry.standing
        if entry is None:
            return
        known = self._ears[node.node_id].announcement(entry.node_id)
        key = (entry.incarnation, entry.change_id)
        if entry.standing in (Standing.NORMAL, Standing.CATCHING_UP):
            known.over = max(known.over, key)
        if key < known.key[:2]:
            return
        if entry.standing is not Standing.INACTIVE:
            known.deadline_s = None
        elif key > known.key[:2]:  # the announcement itself did not come
            known.key = (*key, -1)
            known.third_party = entry.source != SELF
            known.deadline_s = self._deadline_s(node, entry.expected_ms)

    # --- accusations -----------------------------------------------------------------------------------

    def _on_persist(self, node: SimNode, persist: Persist) -> None:
        epoch = self.facts.views[node.node_id].log_epoch
        if persist.log_epoch is None and epochs.master_of(epoch) == node.node_id:
            for entry in persist.entries:
                if entry.standing is not None and entry.standing.standing is Standing.FAILED:
                    self._check_failed(node, entry, entry.standing)

    def _check_failed(self, node: SimNode, entry: Entry, standing: StandingEntry) -> None:
        before = self.facts.views[node.node_id].members.standings[standing.node_id]
        if before is Standing.FAILED:
            return  # only the voter flag changes
        ear, now_s = self._ears[node.node_id], node.clock.seconds()
        deadline_s = ear.announcement(standing.node_id).deadline_s
        if deadline_s is not None and now_s < deadline_s:
            raise Violation(f"invariant 11: {entry} is ordered {deadline_s - now_s:.3f} s before that node is overdue")
        since_s = max(ear.awake_s, ear.heard_s.get(standing.node_id, 0.0))
        if now_s - since_s <= self.world.config.heartbeat.timeout_s:
            raise Violation(
                f"invariant 11: {entry} is ordered after {now_s - since_s:.3f} s in which node {node.node_id} has run "
                f"and not heard of that node"
            )
        if self._is_calm():
            raise Violation(f"invariant 11: {entry} is ordered where absences are announced and short")

    def _on_claim(self, node: SimNode, effect: Send) -> None:
        assert isinstance(effect.message, Claim)
        if effect.message.why is ClaimWhy.SILENCE and self._has_settled() and self._is_calm():
            raise Violation(
                f"invariant 20: node {node.node_id} claims epoch {epochs.text(effect.message.epoch)} for silence where "
                f"absences are announced and short"
            )

    def _has_settled(self) -> bool:
        if self._office_s is None and self.facts.offices:
            self._office_s = self.world.clock.seconds()
        patience_s = 2 * self.world.config.heartbeat.timeout_s
        return self._office_s is not None and self.world.clock.seconds() > self._office_s + patience_s

    def _is_calm(self) -> bool:
        conditions = self.world.network.conditions
        disturbed = conditions.delay_max_s > CALM_DELAY_S or conditions.datagram_loss > CALM_LOSS
        return self._calm is True and not disturbed and not conditions.link_break
