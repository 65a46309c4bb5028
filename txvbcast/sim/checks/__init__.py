"""What must hold in every run, whatever happens: checked from outside the nodes.

Each module looks at one subject.  The checks are watchers of a world (:mod:`txvbcast.sim.watch`),
and always on; they raise :class:`Violation`, which names the invariant.
"""

from __future__ import annotations

from txvbcast.sim.checks.absences import Absences
from txvbcast.sim.checks.agreement import Agreement
from txvbcast.sim.checks.bounds import Bounds, EqualStates
from txvbcast.sim.checks.facts import Facts
from txvbcast.sim.checks.offices import Offices
from txvbcast.sim.checks.outcomes import check_outcomes
from txvbcast.sim.checks.promises import Promises
from txvbcast.sim.checks.reads import Reads
from txvbcast.sim.checks.standings import Standings
from txvbcast.sim.checks.steps import Steps
from txvbcast.sim.checks.violation import Violation
from txvbcast.sim.checks.votes import Everywhere, Votes
from txvbcast.sim.watch import Watcher

__all__ = ["Agreement", "Violation", "all_checks", "check_outcomes"]


def all_checks() -> tuple[Watcher, ...]:
    """Every check that a world is watched by, for one world."""
    facts = Facts()
    checks = (
        Promises(facts),
        Offices(facts),
        Standings(facts),
        Absences(facts),
        Votes(facts),
        Everywhere(facts),
        Bounds(facts),
    )
    return (Steps(facts, checks), Agreement(), *checks, EqualStates(), Reads())
