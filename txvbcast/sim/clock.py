"""Virtual time: an own heap, so that the same seed gives the same run."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

import attrs

#: Sums of delays in floating point may differ by this much.
CLOCK_ERROR_S = 1e-9


@attrs.define(eq=False, slots=True)
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
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self.calls = 0

    def seconds(self) -> float:
        """Seconds since the world began."""
        return self._now_s

    def post(self, delay_s: float, function: Callable[..., object], *args: Any) -> None:
        """Call ``function`` after ``delay_s`` seconds, whatever happens meanwhile."""
        at_s = self._now_s + delay_s if delay_s > 0.0 else self._now_s
        heapq.heappush(self._heap, (at_s, next(self._order), function, args))

    def callLater(self, delay_s: float, function: Callable[..., Any], *args: Any) -> Call:
        """Call ``function`` after ``delay_s`` seconds, unless it is cancelled."""
        call = Call(self._now_s + delay_s, function, args)
        self.post(delay_s, call.run)
        return call

    def run(self, until_s: float) -> None:
        """Run every call that is due by ``until_s``; then it is ``until_s``."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self._now_s, _, function, args = heapq.heappop(heap)
            self.calls += 1
            function(*args)
        self._now_s = max(self._now_s, until_s)


class NodeClock:
    """The clock of one node's process: while the process is stopped its calls pile up.

    When it goes on, overdue calls run before anything that came in over the network, as
    they do in a real event loop.  A hypervisor may stop the guest's clock too: the guest
    then never learns of the pause, and what was due comes later by as much.
    """

    def __init__(self, world: SimClock) -> None:
        self._world = world
        self._behind_s = 0.0
        self._frozen_at_s: float | None = None
        self._overdue: list[tuple[float, Call]] = []
        self._dead = False

    def seconds(self) -> float:
        """The node's own time."""
        return self._world.seconds() - self._behind_s

    def callLater(self, delay_s: float, function: Callable[..., Any], *args: Any) -> Call:
        """Call ``function`` after ``delay_s`` seconds, or when the process goes on."""
        due_s = self.seconds() + delay_s
        call = Call(due_s, function, args)
        self._world.post(delay_s, self._due, due_s, call)
        return call

    def _due(self, due_s: float, call: Call) -> None:
        if self._dead or call.function is None:
            return
        if self._frozen_at_s is not None:
            self._overdue.append((due_s, call))
        elif due_s > self.seconds() + CLOCK_ERROR_S:
            self._world.post(due_s - self.seconds(), self._due, due_s, call)
        else:
            call.run()

    def freeze(self) -> None:
        """The process is stopped."""
        self._frozen_at_s = self._world.seconds()

    def thaw(self, clock_stood: bool = False) -> None:
        """The process goes on; ``clock_stood``: its clock was stopped with it."""
        if self._frozen_at_s is None:
            return
        if clock_stood:
            self._behind_s += self._world.seconds() - self._frozen_at_s
        self._frozen_at_s = None
        overdue, self._overdue = self._overdue, []
        for due_s, call in overdue:
            self._due(due_s, call)

    def kill(self) -> None:
        """The process is gone: nothing of it is ever called again."""
        self._dead = True
        self._overdue.clear()
