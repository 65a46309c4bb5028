"""What must hold in every run, whatever happens: checked from outside the nodes.

Each module looks at one subject.  The checks are watchers of a world (:mod:`txvbcast.sim.watch`),
and always on; they raise :class:`Violation`, which names the invariant.
"""

from txvbcast.sim.checks.agreement import Agreement
from txvbcast.sim.checks.outcomes import check_outcomes
from txvbcast.sim.checks.violation import Violation

__all__ = ["Agreement", "Violation", "check_outcomes"]
