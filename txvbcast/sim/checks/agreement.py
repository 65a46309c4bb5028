"""Invariants 1, 2 and 5: every node applies the same entries in the same order, and a flight once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txvbcast.sim.checks.violation import Violation
from txvbcast.sim.watch import Watcher
from txvbcast.wire.messages import Entry, FlightId

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode


class Agreement(Watcher):
    """What the nodes perform, one beside the other."""

    def __init__(self) -> None:
        self.canonical: dict[int, tuple[Entry, bool]] = {}
        self.applied: dict[tuple[int, int], int] = {}
        self.flights: dict[FlightId, int] = {}

    def on_apply(self, node: SimNode, entry: Entry, dead: bool) -> None:
        """A node applies an entry.

        :raises Violation: out of order, other than on another node, or a flight for the second time.
        """
        self.note(node.node_id, node.incarnation, entry, dead)

    def note(self, node_id: int, incarnation: int, entry: Entry, dead: bool) -> None:
        """The same, for who has no whole node."""
        before = self.applied.get((node_id, incarnation), 0)
        if entry.seq != before + 1:
            raise Violation(f"invariant 2: node {node_id} applies {entry.seq} after {before}")
        self.applied[node_id, incarnation] = entry.seq
        known = self.canonical.setdefault(entry.seq, (entry, dead))
        if known != (entry, dead):
            raise Violation(
                f"invariant 1: node {node_id} applies {entry} (dead: {dead}) at {entry.seq}, others {known}"
            )
        if entry.flight is not None:
            at = self.flights.setdefault(entry.flight.id, entry.seq)
            if at != entry.seq:
                raise Violation(f"invariant 5: flight {entry.flight.id} is in the log at {at} and at {entry.seq}")
