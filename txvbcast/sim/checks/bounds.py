"""Invariants 19 and 21: every queue has its bound, and equal logs lead to equal states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from txvbcast.config import FLIGHTS_MAX
from txvbcast.core.following import AHEAD_MAX
from txvbcast.core.inputs import TimerFired
from txvbcast.core.replica import Replica
from txvbcast.sim.checks.steps import Check, Look
from txvbcast.sim.checks.violation import Violation
from txvbcast.sim.watch import Watcher

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode


class Bounds(Check):
    """Measures the queues of a replica at each of its ticks."""

    def looks_at_inputs(self) -> Mapping[type, Look]:
        """Ticks."""
        return {TimerFired: self._on_timer}

    def _on_timer(self, node: SimNode, event: TimerFired) -> None:
        if event.key == "tick":
            for what, length, limit in _queues(node.driver.replica):
                if length > limit:
                    raise Violation(f"invariant 19: node {node.node_id} has {length} {what}, more than {limit}")


def _queues(replica: Replica) -> Iterator[tuple[str, int, int]]:
    """What is queued, how many there are, and how many there may be."""
    limits, members = replica.commons.config.limits, len(replica.peers)
    submissions = replica.submissions
    waiting = sum(map(len, submissions.making.values()))
    flying = sum(len(flight.core.tickets) for flight in submissions.under_way.values())
    yield "clients' transactions", waiting + flying, limits.pending
    yield "flights under way", len(submissions.under_way), limits.flights
    yield "clients' reads", replica.reads.pending, limits.pending
    yield "proposals", len(replica.proposals.held), FLIGHTS_MAX * members
    yield "orders ahead of the log", len(replica.following.ahead), AHEAD_MAX


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
