"""Virtual time: an own heap, so that the same seed gives the same run."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

import attrs


@attrs.define(eq=False)
class Call:
    """A call to come; the part of IDelayedCall that is used."""

    at_s: float
    function: Callable[..., Any] | None
    args: tuple[Any, ...]

    def cancel(self) -> None:
        """Do not call."""
        self.function = None

    def active(self) -> bool:
        """Whether it is still to come."""
        return self.function is not None

    def run(self) -> None:
        """Call now."""
        function, self.function = self.function, None
        if function is not None:
            function(*self.args)


class SimClock:
    """The time of a whole simulated world; calls due at the same time run first in, first out."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._heap: list[tuple[float, int, Call]] = []
        self._order = itertools.count()

    def seconds(self) -> float:
        """Seconds since the world began."""
        return self._now_s

    def callLater(self, delay_s: float, function: Callable[..., Any], *args: Any) -> Call:
        """Call ``function`` after ``delay_s`` seconds."""
        call = Call(self._now_s + max(0.0, delay_s), function, args)
        heapq.heappush(self._heap, (call.at_s, next(self._order), call))
        return call

    def step(self, until_s: float) -> bool:
        """Run the next call that is due by ``until_s``; False if there is none, and it is ``until_s``."""
        while self._heap and self._heap[0][0] <= until_s:
            at_s, _, call = heapq.heappop(self._heap)
            if call.active():
                self._now_s = at_s
                call.run()
                return True
        self._now_s = max(self._now_s, until_s)
        return False


class NodeClock:
    """The clock of one node's process: while the process is stopped its calls pile up.

    When it goes on, overdue calls run before anything that came in over the network, as
    they do in a real event loop.
    """

    def __init__(self, world: SimClock) -> None:
        self._world = world
        self._frozen = False
        self._overdue: list[Call] = []
        self._dead = False

    def seconds(self) -> float:
        """The world's time: a stopped process sees the gap."""
        return self._world.seconds()

    def callLater(self, delay_s: float, function: Callable[..., Any], *args: Any) -> Call:
        """Call ``function`` after ``delay_s`` seconds, or when the process goes on."""
        call = Call(self._world.seconds() + delay_s, function, args)
        self._world.callLater(delay_s, self._due, call)
        return call

    def _due(self, call: Call) -> None:
        if self._dead:
            return
        if self._frozen:
            self._overdue.append(call)
        else:
            call.run()

    def freeze(self) -> None:
        """The process is stopped."""
        self._frozen = True

    def thaw(self) -> None:
        """The process goes on."""
        self._frozen = False
        overdue, self._overdue = self._overdue, []
        for call in overdue:
            if not self._dead:
                call.run()

    def kill(self) -> None:
        """The process is gone: nothing of it is ever called again."""
        self._dead = True
        self._overdue.clear()
