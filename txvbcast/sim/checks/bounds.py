"""Invariants 19 and 21: every queue has its bound, and equal logs lead to equal states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from txvbcast.config import FLIGHTS_MAX
from txvbcast.core.effects import Send
from txvbcast.core.following import AHEAD_MAX
from txvbcast.core.inputs import ReadRequested, Received, Submitted
from txvbcast.sim.checks.steps import Check, Look
from txvbcast.sim.checks.violation import Violation
from txvbcast.sim.watch import Watcher
from txvbcast.wire.messages import Order, Propose

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode


class Bounds(Check):
    """Measures each queue of a replica when something has come into it."""

    def looks_at_inputs(self) -> Mapping[type, Look]:
        """What makes queues longer."""
        return {
            Submitted: self._on_submitted,
            ReadRequested: self._on_read,
            Propose: self._on_propose,
            Order: self._on_order,
        }

    def looks_at_effects(self) -> Mapping[type, Look]:
        """Proposals of its own, also those that travel in its orders."""
        return {Propose: self._on_proposed, Order: self._on_proposed}

    def _on_submitted(self, node: SimNode, event: Submitted) -> None:
        submissions = node.driver.replica.submissions
        waiting = [each for queue in submissions.making.values() for each in queue]
        gathered, gathered_bytes = sum(each.share.count for each in waiting), sum(each.flight_bytes for each in waiting)
        flying = sum(flight.core.waiting_clients for flight in submissions.under_way.values())
        _check(node, "clients' transactions", gathered + flying, node.driver.config.limits.pending)
        if (gathered, gathered_bytes) != (submissions.gathered, submissions.gathered_bytes):
            raise Violation(f"node {node.node_id} has counted its waiting transactions wrongly")

    def _on_read(self, node: SimNode, event: ReadRequested) -> None:
        reads = node.driver.replica.reads
        waiting = len(reads.gathering) + sum(len(batch.tickets) for batch in reads.batches.values())
        _check(node, "clients' reads", waiting, node.driver.config.limits.pending)

    def _on_propose(self, node: SimNode, event: Received) -> None:
        replica = node.driver.replica
        _check(node, "proposals", len(replica.proposals.held), FLIGHTS_MAX * len(replica.peers))

    def _on_order(self, node: SimNode, event: Received) -> None:
        replica = node.driver.replica
        _check(node, "proposals", len(replica.proposals.held), FLIGHTS_MAX * len(replica.peers))
        ahead = replica.following.ahead
        _check(node, "orders ahead of the log", len(ahead), AHEAD_MAX)
        _check(node, "payloads of such orders", sum(order.proposal is not None for order in ahead.values()), 0)

    def _on_proposed(self, node: SimNode, effect: Send) -> None:
        under_way = node.driver.replica.submissions.under_way
        _check(node, "flights under way", len(under_way), node.driver.config.limits.flights)


def _check(node: SimNode, what: str, length: int, limit: int) -> None:
    if length > limit:
        raise Violation(f"invariant 19: node {node.node_id} has {length} {what}, more than {limit}")


class EqualStates(Watcher):
    """At the end all resource managers have done the same, and know the same."""

    def on_end(self) -> None:
        """Compare the nodes.

        :raises Violation: two of them differ.
        """
        one, *others = self.world.nodes.values()
        for other in others:
            mine, theirs = one.recorder, other.recorder
            if mine.performed != theirs.performed or mine.registers != theirs.registers:
                raise Violation(
                    f"invariant 21: with the same log nodes {one.node_id} and {other.node_id} did other things"
                )
