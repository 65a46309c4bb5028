"""Which rare situations a campaign of runs has been in, and which it never was.

A campaign that never gets into a situation proves nothing about it.  Every run yields the
set of marks that it has reached; a campaign counts them, and has failed if one of the marks
that it was made for is missing.  The idea is that of FoundationDB's code probes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from enum import Enum
from typing import TYPE_CHECKING

import attrs

from txvbcast.core.marks import Mark
from txvbcast.sim.watch import Watcher

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode

#: Every enum of marks, under the title that it has in docs/reach.md.
KINDS: Mapping[str, type[Enum]] = {"Situations of the protocol": Mark}
#: How many of the marks that the fewest runs have reached a report names.
RAREST = 10


class ReachWatcher(Watcher):
    """Sees what the replicas of one run reach, in all lives of all nodes."""

    def __init__(self) -> None:
        self._lives: list[Set[Mark]] = []

    def on_life(self, node: SimNode) -> None:
        """Remember where this replica writes down what it reaches."""
        self._lives.append(node.driver.replica.commons.reached)

    @property
    def reached(self) -> frozenset[Mark]:
        """What the run has reached so far."""
        return frozenset().union(*self._lives)


@attrs.define
class Reached:
    """How many runs of a campaign have reached each mark.

    :ivar kinds: the enums whose members are the marks, in the order in which to report them.
    :ivar runs: how many there were; counts: how many of them reached a mark.
    """

    kinds: tuple[type[Enum], ...]
    runs: int = 0
    counts: Counter[Enum] = attrs.field(factory=Counter)

    def add(self, marks: Iterable[Enum]) -> None:
        """Take note of one run; a mark that it names twice counts once."""
        self.runs += 1
        self.counts.update(set(marks))

    @property
    def marks(self) -> tuple[Enum, ...]:
        """All that a campaign has to reach."""
        return tuple(mark for kind in self.kinds for mark in kind)

    @property
    def missing(self) -> tuple[Enum, ...]:
        """What no run has reached."""
        return tuple(mark for mark in self.marks if not self.counts[mark])

    def report(self) -> list[str]:
        """Lines for people: how much was reached, what the fewest runs did, and what none did."""
        marks, missing = self.marks, self.missing
        reached = sorted((mark for mark in marks if self.counts[mark]), key=lambda mark: self.counts[mark])
        lines = [f"{len(reached)} of {len(marks)} rare situations were reached in {self.runs} runs"]
        if reached:
            rarest = ", ".join(f"{mark.name} ({self.counts[mark]})" for mark in reached[:RAREST])
            lines.append(f"reached by the fewest runs: {rarest}")
        lines += [f"never reached: {mark.name}: {mark.value}" for mark in missing]
        return lines


_INTRODUCTION = """\
# The situations that a campaign of tests must reach

<!-- Generated from txvbcast/sim/reach.py: TXVBCAST_REWRITE_DOCS=1 python -m twisted.trial tests.test_reach -->

A random run that never gets into a situation proves nothing about it. So the code says where a defect could hide: each
mark below stands in one rare branch, and a replica keeps the set of those that it has been in. Nothing depends on that
set, and it costs one addition to it. The simulator unites the sets of all nodes, in all their lives, over all seeds of
a campaign, prints the marks that none of them has reached, and fails if there is one.

The idea is that of the code probes of FoundationDB and of the "sometimes" assertions of Antithesis.
"""


def page() -> str:
    """``docs/reach.md``."""
    lines = [_INTRODUCTION]
    for title, kind in KINDS.items():
        lines += [f"## {title}", "", "| mark | the situation |", "| --- | --- |"]
        lines += [f"| `{mark.name}` | {mark.value} |" for mark in kind]
        lines.append("")
    return "\n".join(lines)
