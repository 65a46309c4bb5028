"""What a disturbance is: something that is done to a lab from outside, and undone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Self

from tests.blackbox.lab import Lab


class Violation(AssertionError):
    """A cluster did what it must not do."""


class Disturbance:
    """Something that is done to a lab, and undone.

    :cvar needs: what the machine must be able to do (:data:`tests.blackbox.machine.CAPABILITIES`).
    :cvar alone: no other disturbance may be under way beside it.
    :ivar nodes: whom it is done to.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    alone: ClassVar[bool] = False
    nodes: tuple[int, ...]

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """One of this kind, by chance, for a cluster of these nodes."""
        raise NotImplementedError

    def begin(self, lab: Lab) -> None:
        """Do it."""
        raise NotImplementedError

    def heal(self, lab: Lab) -> None:
        """Undo it."""
        raise NotImplementedError
