"""Invariants 1, 6, 7 and 17: what a node says is on its disk, never falls, and survives its death."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from txvbcast.core import epochs
from txvbcast.core.effects import Persist, Send, SendDatagram
from txvbcast.core.inputs import Persisted
from txvbcast.sim.checks.facts import Facts
from txvbcast.sim.checks.steps import Check, Look
from txvbcast.sim.checks.violation import Violation
from txvbcast.wire.messages import Entry, Grant, Handoff, HeartbeatReply, Stored

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode


@attrs.define
class Said:
    """What the lives of a node so far have told others, or begun with.

    :ivar stored: (log epoch, seq) of the longest log that was acknowledged.
    """

    incarnation: int = 0
    promised: int = 0
    stored: tuple[int, int] = (0, 0)


@attrs.define
class Marks:
    """The numbers of one life that may only rise."""

    promised: int
    log_epoch: int
    committed: int


class Promises(Check):
    """Compares what leaves a node with its disk, and each life of a node with what the ones before have said."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._said: dict[int, Said] = {}
        self._marks: dict[int, Marks] = {}
        self._ordered: dict[tuple[int, int], Entry] = {}

    def looks_at_inputs(self) -> Mapping[type, Look]:
        """The moments at which numbers have risen."""
        return {Persisted: self._on_persisted}

    def looks_at_effects(self) -> Mapping[type, Look]:
        """Writes, and what rests on them."""
        return {
            Persist: self._on_persist,
            Stored: self._on_stored,
            HeartbeatReply: self._on_heartbeat_reply,
            Grant: self._on_grant,
            Handoff: self._on_handoff,
        }

    def on_life(self, node: SimNode) -> None:
        """What was promised before this life still is."""
        disk, said = node.disk, self._said.setdefault(node.node_id, Said())
        who = f"life {node.incarnation} of node {node.node_id}"
        if self.facts.is_original(node.node_id):
            if node.incarnation <= said.incarnation:
                raise Violation(f"invariant 7: {who} comes after life {said.incarnation}")
            if (disk.log_epoch, len(disk.entries)) < said.stored:
                raise Violation(
                    f"invariant 17: {who} goes on as the same, with a log of {len(disk.entries)} entries of epoch "
                    f"{epochs.text(disk.log_epoch)}, and has acknowledged {said.stored}"
                )
            if disk.promised_epoch < said.promised:
                raise Violation(
                    f"invariant 7: {who} has promised {epochs.text(disk.promised_epoch)}, "
                    f"an earlier one {epochs.text(said.promised)}"
                )
        said.incarnation = node.incarnation
        self._marks[node.node_id] = Marks(disk.promised_epoch, disk.log_epoch, 0)

    # --- within a life ---------------------------------------------------------------------------

    def _on_persisted(self, node: SimNode, event: Persisted) -> None:
        journal, marks = node.driver.replica.journal, self._marks[node.node_id]
        now = Marks(journal.promised, journal.log_epoch, journal.committed)
        if now.promised < marks.promised or now.log_epoch < marks.log_epoch or now.committed < marks.committed:
            raise Violation(f"invariant 7: the numbers of node {node.node_id} fall from {marks} to {now}")
        self._marks[node.node_id] = now

    def _on_persist(self, node: SimNode, persist: Persist) -> None:
        view = self.facts.views[node.node_id]
        who = f"node {node.node_id}, having promised epoch {epochs.text(view.promised)},"
        if persist.promised_epoch is not None and persist.promised_epoch < view.promised:
            raise Violation(f"invariant 7: {who} promises epoch {epochs.text(persist.promised_epoch)}")
        if persist.log_epoch is not None:
            if persist.log_epoch < view.promised:
                raise Violation(f"invariant 6: {who} adopts the log of epoch {epochs.text(persist.log_epoch)}")
        elif persist.entries and view.promised != view.log_epoch:
            raise Violation(f"invariant 6: {who} takes orders of epoch {epochs.text(view.log_epoch)}")
        for entry in persist.entries:
            known = self._ordered.setdefault((entry.epoch, entry.seq), entry)
            if known is not entry and known != entry:
                raise Violation(f"invariant 1: {who} writes {entry}, ordered was {known}")

    # --- what leaves it ------------------------------------------------------------------------------

    def _on_stored(self, node: SimNode, effect: Send) -> None:
        assert isinstance(effect.message, Stored)
        self._acknowledge(node, effect.message.epoch, effect.message.seq)

    def _on_heartbeat_reply(self, node: SimNode, effect: Send | SendDatagram) -> None:
        assert isinstance(effect.message, HeartbeatReply)
        if effect.message.log_epoch == effect.message.epoch:  # another one would not be counted
            self._acknowledge(node, effect.message.epoch, effect.message.stored)

    def _acknowledge(self, node: SimNode, epoch: int, seq: int) -> None:
        disk = node.disk
        view = self.facts.views[node.node_id]
        if view.promised > epoch:
            raise Violation(
                f"invariant 6: node {node.node_id}, having promised epoch {epochs.text(view.promised)}, acknowledges "
                f"{seq} entries of epoch {epochs.text(epoch)}"
            )
        if disk.log_epoch != epoch or len(disk.entries) < seq:
            raise Violation(
                f"invariant 6: node {node.node_id} acknowledges {seq} entries of epoch {epochs.text(epoch)}, "
                f"its disk has {len(disk.entries)} of {epochs.text(disk.log_epoch)}"
            )
        said = self._said[node.node_id]
        said.stored = max(said.stored, (epoch, seq))

    def _on_grant(self, node: SimNode, effect: Send) -> None:
        assert isinstance(effect.message, Grant)
        self._check_grant(node, effect.to, effect.message)

    def _on_handoff(self, node: SimNode, effect: Send) -> None:
        assert isinstance(effect.message, Handoff)
        self._check_grant(node, effect.to, effect.message.grant)

    def _check_grant(self, node: SimNode, to: int, grant: Grant) -> None:
        disk, who = node.disk, f"node {node.node_id} grants epoch {epochs.text(grant.epoch)} to node {to}"
        if epochs.master_of(grant.epoch) != to:
            raise Violation(f"invariant 6: {who}, whose epoch that is not")
        if disk.promised_epoch < grant.epoch:
            raise Violation(f"invariant 6: {who}, its disk has promised {epochs.text(disk.promised_epoch)}")
        view = self.facts.views[node.node_id]
        stale = view.log_epoch > grant.log_epoch  # others' promises were enough: the candidate's log is adopted already
        if not stale and (disk.log_epoch, len(disk.entries)) < (grant.log_epoch, grant.stored):
            raise Violation(f"invariant 6: {who} for a log that is not on its disk: {grant}")
        if not stale and frozenset(grant.voters) != view.members.voters:
            raise Violation(f"invariant 9: {who} with other voters than its log has: {grant.voters}")
        self._said[node.node_id].promised = max(self._said[node.node_id].promised, grant.epoch)
