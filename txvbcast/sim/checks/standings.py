"""Invariants 12, 13, 14 and 17: what a master does with the table, and what the absent will find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from txvbcast.core import epochs
from txvbcast.core.effects import Apply, Notify, Persist
from txvbcast.sim.checks.steps import Check, Look
from txvbcast.sim.checks.violation import Violation
from txvbcast.wire.messages import Entry, HandoverWhy, Standing, StandingEntry

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode

_AWAY = (Standing.INACTIVE, Standing.CATCHING_UP)


class Standings(Check):
    """Looks at each standing when it is ordered and when it is performed, and at each handback."""

    def looks_at_effects(self) -> Mapping[type, Look]:
        """Orders, what is performed, and handovers."""
        return {Persist: self._on_persist, Apply: self._on_apply, Notify: self._on_notify}

    def _on_persist(self, node: SimNode, persist: Persist) -> None:
        epoch = self.facts.views[node.node_id].log_epoch
        if persist.log_epoch is None and epochs.master_of(epoch) == node.node_id:
            for entry in persist.entries:
                if entry.standing is not None:
                    self._check_ordered(node, entry, entry.standing)

    def _check_ordered(self, node: SimNode, entry: Entry, standing: StandingEntry) -> None:
        """One change of the table at a time, and none before a majority has the log that the epoch began with."""
        view = self.facts.views[node.node_id]
        self._check_vote(node, entry, standing)
        for change in view.changes:
            if change.seq > node.driver.replica.journal.committed and change.node_id != standing.node_id:
                raise Violation(
                    f"invariant 14: {entry} is ordered while the change of node {change.node_id} at {change.seq} "
                    f"is not committed"
                )
        began = len(self.facts.offices[view.log_epoch].epochs)
        if view.changes[-1].seq > began:
            return
        holders = {
            node_id
            for node_id, disk in self.facts.world.disks.items()
            if disk.log_epoch >= view.log_epoch and len(disk.entries) >= began
        }
        if not view.members.has_quorum(holders):
            raise Violation(
                f"invariant 14: {entry} is ordered when only {sorted(holders)}, of the voters "
                f"{sorted(view.members.voters)}, have the log with which epoch {epochs.text(view.log_epoch)} began"
            )

    def _check_vote(self, node: SimNode, entry: Entry, standing: StandingEntry) -> None:
        """Who gets its voter flag back is normal with it, and has all that the epoch began with on its disk."""
        view, disk = self.facts.views[node.node_id], self.facts.world.disks[standing.node_id]
        if not standing.voter or standing.node_id in view.members.voters:
            return
        began = len(self.facts.offices[view.log_epoch].epochs)
        caught_up = disk.log_epoch >= view.log_epoch and len(disk.entries) >= began
        if standing.standing is not Standing.NORMAL or not caught_up:
            raise Violation(
                f"invariant 17: {entry} gives a vote to a node whose disk has {len(disk.entries)} entries of epoch "
                f"{epochs.text(disk.log_epoch)}, epoch {epochs.text(view.log_epoch)} began with {began}"
            )

    def _on_apply(self, node: SimNode, apply: Apply) -> None:
        """A member comes back: what it has missed is there, on a majority of the voters' disks."""
        entry = apply.entry
        if entry.seq != len(self.facts.log) + 1 or entry.standing is None:
            return
        if entry.standing.standing is not Standing.CATCHING_UP:
            return
        disks = self.facts.world.disks
        first = len(disks[entry.standing.node_id].entries)
        missed = self.facts.log[first:]
        able = {node_id for node_id, disk in disks.items() if disk.entries[first : entry.seq - 1] == missed}
        # A last man standing has taken the vote of the absent one further on in its log: that counts already.
        members = self.facts.views[node.node_id].members
        if missed and not self.facts.members.has_quorum(able) and not members.has_quorum(able):
            raise Violation(
                f"invariant 13: node {entry.standing.node_id} comes back and lacks entries {first + 1} to "
                f"{entry.seq - 1}, which only {sorted(able)} have, of the voters {sorted(self.facts.members.voters)}"
            )

    def _on_notify(self, node: SimNode, notify: Notify) -> None:
        if notify.kind != "mastership" or notify.facts.get("role") != "handing_over":
            return
        plan = node.driver.replica.succession.plan
        standings = self.facts.views[node.node_id].members.standings
        away = [node_id for node_id, standing in standings.items() if standing in _AWAY]
        if plan is not None and plan.why is HandoverWhy.HANDBACK and away:
            raise Violation(f"invariant 12: node {node.node_id} hands the office back to {plan.to}, {away} are away")
