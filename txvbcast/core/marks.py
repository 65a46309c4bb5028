"""Reach marks: named rare branches of the protocol that a campaign of tests must get into.

A test that never gets into a situation proves nothing about it.  A part of the core says
:meth:`~txvbcast.core.commons.Commons.reach` in a branch where a defect could hide; the
simulator collects what its runs have reached (:mod:`txvbcast.sim.reach`) and names what
none of them did.  The idea is that of FoundationDB's code probes and of Antithesis'
"sometimes" assertions.  Nothing in the core may depend on what was reached.
"""

from __future__ import annotations

from enum import Enum, unique


@unique
class Mark(Enum):
    """A situation by its name, and one sentence that says what it is."""

    TAIL_DROPPED_FOR_START = "A follower drops entries that differ from the log of Start."
