"""Hands each input and each effect to the checks that want to see things of its type."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from txvbcast.core.effects import Apply, Effect, Persist, Send, SendDatagram
from txvbcast.core.inputs import Input, Received
from txvbcast.sim.checks.facts import Facts
from txvbcast.sim.watch import Watcher

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode

#: Sees an input or an effect of a node's step.
Look = Callable[["SimNode", Any], None]


class Check(Watcher):
    """A check of some invariants: a watcher that may also look at single inputs and effects."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    def looks_at_inputs(self) -> Mapping[type, Look]:
        """By type of input, what is to be called; of a message received, by its type."""
        return {}

    def looks_at_effects(self) -> Mapping[type, Look]:
        """By type of effect, what is to be called; of a message sent, by its type."""
        return {}


class Steps(Watcher):
    """Goes through every step once, for all checks: first the input, then each effect in its order."""

    def __init__(self, facts: Facts, checks: Sequence[Check]) -> None:
        self._facts = facts
        self._inputs: dict[type, list[Look]] = defaultdict(list)
        self._effects: dict[type, list[Look]] = defaultdict(list)
        for check in checks:
            for kind, look in check.looks_at_inputs().items():
                self._inputs[kind].append(look)
            for kind, look in check.looks_at_effects().items():
                self._effects[kind].append(look)
        # The checks see the facts as they were before.
        self._effects[Persist].append(facts.on_persist)
        self._effects[Apply].append(facts.on_apply)

    def on_life(self, node: SimNode) -> None:
        """The facts about a node begin with what its disk holds."""
        self._facts.begin_life(node)

    def on_step(self, node: SimNode, event: Input, effects: Sequence[Effect]) -> None:
        """Show it to whom it concerns."""
        self._facts.step += 1
        sort: type = type(event.message) if isinstance(event, Received) else type(event)
        for look in self._inputs.get(sort, ()):
            look(node, event)
        for effect in effects:
            sort = type(effect.message) if isinstance(effect, (Send, SendDatagram)) else type(effect)
            for look in self._effects.get(sort, ()):
                look(node, effect)
