"""Disturbances of the wall clock of nodes that run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Final, Self

import attrs

from tests.blackbox.disturbance import Disturbance
from tests.blackbox.lab import Lab

#: Seconds: a leap, a bad server, a battery that was empty.
STEPS_S: Final = (-86_400, -600, -30, -1, 1, 30, 600, 86_400)


def set_clock(lab: Lab, node_id: int, ahead_s: int) -> None:
    """Let the wall clock of a node be ``ahead_s`` before the machine's, from now on."""
    file = lab[node_id].offset_file
    assert file is not None
    beside = file.with_suffix(".new")
    beside.write_text(f"{ahead_s:+d}")
    beside.replace(file)  # the node may read it at any moment


@attrs.define(eq=False)
class StepClock(Disturbance):
    """The wall clocks of some nodes are stepped, and later stepped back."""

    needs: ClassVar[tuple[str, ...]] = ("stepped clock",)
    nodes: tuple[int, ...]
    ahead_s: int

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """The lowest node, the highest, or both: no others have a clock of their own."""
        lowest, highest = min(node_ids), max(node_ids)
        return cls(chance.choice(((lowest,), (highest,), (lowest, highest))), chance.choice(STEPS_S))

    def begin(self, lab: Lab) -> None:
        """Step."""
        for k in self.nodes:
            set_clock(lab, k, self.ahead_s)

    def heal(self, lab: Lab) -> None:
        """Step back."""
        for k in self.nodes:
            set_clock(lab, k, 0)
