"""Invariants 1, 3, 6, 9, 13 and 14: who becomes master, and what may count as committed."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from txvbcast.core import epochs
from txvbcast.core.effects import Apply, Notify, Persist
from txvbcast.core.inputs import Received
from txvbcast.sim.checks.facts import Facts, Office
from txvbcast.sim.checks.steps import Check, Look
from txvbcast.sim.checks.violation import Violation
from txvbcast.wire.messages import Entry, Grant, Handoff

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode


@attrs.frozen
class Promise:
    """What a promise to a candidate says of the promiser's log.

    :ivar last_epoch: of its last entry; 0 if it is the candidate's own log.
    """

    log_epoch: int
    stored: int
    last_epoch: int
    voters: frozenset[int]

    @classmethod
    def of(cls, grant: Grant) -> Promise:
        """What came over the network."""
        last_epoch = grant.runs[-1].epoch if grant.runs else 0
        return cls(grant.log_epoch, grant.stored, last_epoch, frozenset(grant.voters))


@attrs.define
class Candidacy:
    """The latest claim of a node: what it has promised itself, and what others have, in their order."""

    epoch: int
    own: Promise | None = None
    others: list[tuple[int, Promise]] = attrs.field(factory=list)


class Offices(Check):
    """Takes down who was elected by whom, and counts anew, from the disks, what is committed."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._candidacies: dict[int, Candidacy] = {}
        self._newest = 0

    def looks_at_inputs(self) -> Mapping[type, Look]:
        """Promises."""
        return {Grant: self._on_grant, Handoff: self._on_handoff}

    def looks_at_effects(self) -> Mapping[type, Look]:
        """Own promises, offices, and what is performed."""
        return {Persist: self._on_persist, Notify: self._on_notify, Apply: self._on_apply}

    # --- elections -----------------------------------------------------------------------------

    def _candidacy(self, node_id: int, epoch: int) -> Candidacy:
        known = self._candidacies.get(node_id)
        if known is None or known.epoch != epoch:
            known = self._candidacies[node_id] = Candidacy(epoch)
        return known

    def _on_grant(self, node: SimNode, event: Received) -> None:
        assert isinstance(event.message, Grant)
        self._promised(node, event.peer, event.message)

    def _on_handoff(self, node: SimNode, event: Received) -> None:
        assert isinstance(event.message, Handoff)
        self._promised(node, event.peer, event.message.grant)

    def _promised(self, node: SimNode, peer: int, grant: Grant) -> None:
        known = self._candidacies.get(node.node_id)
        if known is None or grant.epoch >= known.epoch:
            self._candidacy(node.node_id, grant.epoch).others.append((peer, Promise.of(grant)))

    def _on_persist(self, node: SimNode, persist: Persist) -> None:
        epoch = persist.promised_epoch
        if epoch is None or persist.log_epoch is not None or epochs.master_of(epoch) != node.node_id:
            return
        view = self.facts.views[node.node_id]
        self._candidacy(node.node_id, epoch).own = Promise(view.log_epoch, view.tail, 0, view.members.voters)

    def _on_notify(self, node: SimNode, notify: Notify) -> None:
        if notify.kind == "mastership" and notify.facts.get("role") == "starting":
            self._on_office(node)

    def _on_office(self, node: SimNode) -> None:
        """A node becomes master: nobody else is or was in that epoch, it was elected, and it lacks nothing."""
        epoch, disk = node.driver.replica.journal.log_epoch, node.disk
        who = f"node {node.node_id}, master of epoch {epochs.text(epoch)},"
        if epochs.master_of(epoch) != node.node_id or epoch in self.facts.offices:
            raise Violation(f"invariant 6: {who} is not the only one: {self.facts.offices.get(epoch)}")
        if disk.log_epoch != epoch or disk.promised_epoch < epoch:
            raise Violation(
                f"invariant 6: {who} begins before that is on its disk: it has the log of epoch "
                f"{epochs.text(disk.log_epoch)} and has promised {epochs.text(disk.promised_epoch)}"
            )
        self._check_elected(node, epoch, who)
        # An office may begin late, when its epoch is long over: what was committed in later ones is not its concern.
        committed = self.facts.committed_before(epoch)
        for entry, held in zip(committed, disk.entries, strict=False):
            if held.epoch != entry.epoch:
                raise Violation(f"invariant 3: {who} holds an entry of epoch {held.epoch} in the place of {entry}")
        if len(disk.entries) < len(committed):
            lacking = committed[len(disk.entries)]
            raise Violation(f"invariant 3: {who} holds {len(disk.entries)} entries and lacks {lacking}")
        held_epochs = array("Q", (entry.epoch for entry in disk.entries))
        self.facts.offices[epoch] = Office(node.node_id, node.incarnation, held_epochs)
        self._newest = max(self._newest, epoch)

    def _check_elected(self, node: SimNode, epoch: int, who: str) -> None:
        candidacy = self._candidacies.get(node.node_id)
        if candidacy is None or candidacy.epoch != epoch or candidacy.own is None:
            raise Violation(f"invariant 6: {who} has not promised that epoch itself")
        promises = {node.node_id: candidacy.own}
        best = _elected(promises)
        for peer, promise in candidacy.others:
            if best is not None:
                break
            promises[peer] = promise
            best = _elected(promises)
        if best is None:
            raise Violation(f"invariant 9: {who} was not elected by the voters of the best log: {promises}")
        entries = node.disk.entries
        adopts = best is not candidacy.own and best.stored > 0
        if adopts and (len(entries) < best.stored or entries[best.stored - 1].epoch != best.last_epoch):
            raise Violation(f"invariant 3: {who} has not adopted the best log of those who elected it: {promises}")

    # --- commits -----------------------------------------------------------------------------------

    def _on_apply(self, node: SimNode, apply: Apply) -> None:
        entry = apply.entry
        if entry.seq != len(self.facts.log) + 1:
            return
        epoch = node.driver.replica.journal.log_epoch
        if epochs.master_of(epoch) != node.node_id:
            raise Violation(f"invariant 6: node {node.node_id} performs {entry}, which no master has committed")
        holders = {node_id for node_id in self.facts.views if self.facts.holds(node_id, entry, epoch)}
        view = self.facts.views[node.node_id]
        if not any(members.has_quorum(holders) for members in view.members_in(self.facts.step)):
            raise Violation(
                f"invariant 9: node {node.node_id}, master of epoch {epochs.text(epoch)}, counts {entry} as committed, "
                f"which only {sorted(holders)} hold in that epoch, of the voters "
                f"{sorted(view.members.voters)}"
            )
        if epoch < self._newest:
            self._check_later(entry, epoch)

    def _check_later(self, entry: Entry, epoch: int) -> None:
        """What is committed now, in an epoch that is over, is in the log with which every later one began."""
        for later, office in self.facts.offices.items():
            lacks = len(office.epochs) < entry.seq or office.epochs[entry.seq - 1] != entry.epoch
            if later > epoch and lacks:
                raise Violation(
                    f"invariant 3: {entry} is committed in epoch {epochs.text(epoch)}, and node {office.node_id}, "
                    f"master of epoch {epochs.text(later)}, has begun without it"
                )


def _elected(promises: Mapping[int, Promise]) -> Promise | None:
    """The best of the logs, if those who have promised are a majority of its voters."""
    best = max(promises.values(), key=lambda promise: (promise.log_epoch, promise.stored))
    return best if 2 * len(best.voters & promises.keys()) > len(best.voters) else None
