"""What is kept of a run: a tally that costs next to nothing, for every run."""

from __future__ import annotations

from collections import Counter

from txvbcast.core.marks import Mark
from txvbcast.sim.node import SimNode
from txvbcast.sim.watch import Watcher

#: Events that tell of a member's standing.
STANDINGS = ("node_normal", "node_inactive", "node_catching_up", "node_failed")


class Tally(Watcher):
    """Counts what happened in a run.

    :ivar faults: how often each kind of fault began.
    """

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self._reached: list[set[Mark]] = []

    def on_life(self, node: SimNode) -> None:
        """Keep what this life reaches: a node that dies takes nothing back."""
        self._reached.append(node.driver.replica.commons.reached)

    def on_fault(self, what: str) -> None:
        """Count it by the word that it begins with."""
        self.faults[what.split()[0]] += 1

    @property
    def outcomes(self) -> Counter[str]:
        """Transactions by what their clients heard."""
        return Counter(outcome.kind for outcome in self.world.outcomes)

    @property
    def standings(self) -> Counter[str]:
        """How often some node saw another, or itself, enter a standing."""
        kinds = (event["kind"] for _, _, event in self.world.events)
        return Counter(str(kind) for kind in kinds if kind in STANDINGS)

    @property
    def epochs(self) -> int:
        """How many epochs had a master that somebody followed."""
        return len({event["epoch"] for _, _, event in self.world.events if event["kind"] == "master_changed"})

    @property
    def reached(self) -> frozenset[str]:
        """The names of the reach marks that any life of any node came to."""
        return frozenset(mark.name for marks in self._reached for mark in marks)
