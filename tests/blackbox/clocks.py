"""Disturbances of the wall clock of nodes that run."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import ClassVar, Final, Self

import attrs

from tests.blackbox.disturbance import Disturbance
from tests.blackbox.lab import Lab, LabNode
from txvbcast.cli.failures import Failed

#: Seconds: a leap, a bad server, a battery that was empty.
STEPS_S: Final = (-86_400, -600, -30, -5, 5, 30, 600, 86_400)

#: How exactly a node's clock can be read: in whole seconds, some of which pass meanwhile.
_EXACT_S: Final = 2.0


def set_clock(lab: Lab, node_id: int, ahead_s: int) -> None:
    """Let the wall clock of a node be ``ahead_s`` before the machine's; returns when the node has it so."""
    node = lab[node_id]
    assert node.offset_file is not None
    beside = node.offset_file.with_suffix(".new")
    beside.write_text(f"{ahead_s:+d}")
    beside.replace(node.offset_file)  # the node may read it at any moment
    lab.wait(f"node {node_id} has stepped its clock to {ahead_s:+d} s", lambda: _is_ahead(node, ahead_s))


def _is_ahead(node: LabNode, ahead_s: int) -> bool:
    try:
        date = node.api.get("/v1/status").headers["date"]
    except Failed:
        return False
    return abs(parsedate_to_datetime(date).timestamp() - time.time() - ahead_s) <= _EXACT_S


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
