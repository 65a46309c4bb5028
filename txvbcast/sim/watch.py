"""Who watches a simulated world: checks, traces and counts are plug-ins that see all that happens.

A watcher overrides the methods that it needs; the others cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from txvbcast.core.effects import Effect
from txvbcast.core.inputs import Input
from txvbcast.wire.messages import Entry, Message

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode
    from txvbcast.sim.world import Outcome, Read, World


class Watcher:
    """Sees a whole world from outside.

    :ivar world: the world, from :meth:`on_world` on.
    """

    world: World

    def on_world(self, world: World) -> None:
        """The watcher joins a world, before any node begins to act."""
        self.world = world

    def on_life(self, node: SimNode) -> None:
        """A process of a node begins: the first one, or the next after a crash."""

    def on_step(self, node: SimNode, event: Input, effects: Sequence[Effect]) -> None:
        """A replica has taken a step; its effects are not carried out yet."""

    def on_apply(self, node: SimNode, entry: Entry, dead: bool) -> None:
        """A node is about to perform a committed entry."""

    def on_delivery(self, sender: int, to: int, sent_s: float, message: Message, by_link: bool) -> None:
        """A message comes in at a running process; :meth:`on_step` follows."""

    def on_submitted(self, outcome: Outcome) -> None:
        """A client hands something in."""

    def on_answer(self, outcome: Outcome) -> None:
        """A client hears what became of it."""

    def on_read(self, read: Read) -> None:
        """A client's read is answered, or has failed."""

    def on_freeze(self, node: SimNode) -> None:
        """A process is stopped, and will go on."""

    def on_thaw(self, node: SimNode) -> None:
        """A process goes on; what has piled up for it comes next."""

    def on_stop(self, node: SimNode) -> None:
        """An operator stops a node; it hands over, and its process ends a little later."""

    def on_death(self, node: SimNode) -> None:
        """A process was killed, and its disk is as the crash left it."""

    def on_fault(self, what: str) -> None:
        """Something was done to the world: a line for people."""

    def on_end(self) -> None:
        """The run is over and everything is settled: the last look."""


class Watchers:
    """The watchers of a world: per method those that override it."""

    def __init__(self) -> None:
        self._hooks: dict[str, list[Callable[..., None]]] = {
            name: [] for name in vars(Watcher) if name.startswith("on_")
        }

    def add(self, watcher: Watcher) -> None:
        """Tell it from now on."""
        for name, hooks in self._hooks.items():
            if getattr(type(watcher), name) is not getattr(Watcher, name):
                hooks.append(getattr(watcher, name))

    def of(self, name: str) -> Sequence[Callable[..., Any]]:
        """Those who want to hear of ``name``: the live list, so that it can be kept."""
        return self._hooks[name]
