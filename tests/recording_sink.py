"""A sink that writes down what an adapter says, for tests of single adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from txvbcast.interfaces import Go, IChangeSink, Surroundings


@implementer(IChangeSink)
class RecordingSink:
    """Calls in order, each as a tuple that begins with the method's name.

    :ivar calls: what was said.
    :ivar begun: per source id, the Deferred that ``begin`` returned: fire it with a Go to let the platform go.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.begun: dict[str, Deferred[Go]] = {}
        self._under_way: list[str] = []
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def begin(
        self,
        kind: str,
        facts: Mapping[str, object],
        source_id: str,
        holdable: bool,
        sequence: int | None = None,
        hold_s: float | None = None,
        member: int | None = None,
    ) -> Deferred[Go]:
        """A change begins."""
        go: Deferred[Go] = Deferred()
        if source_id not in self._under_way:
            self._under_way.append(source_id)
        self.begun[source_id] = go
        extra = {"hold_s": hold_s, "member": member}
        self._add("begin", kind, dict(facts), source_id, holdable, {k: v for k, v in extra.items() if v is not None})
        return go

    def update(self, source_id: str, facts: Mapping[str, object], sequence: int | None = None) -> None:
        """New facts."""
        self._add("update", source_id, dict(facts))

    def end(self, source_id: str, outcome: str, sequence: int | None = None) -> None:
        """It is over."""
        if source_id in self._under_way:
            self._under_way.remove(source_id)
        self._add("end", source_id, outcome)

    def under_way(self) -> tuple[str, ...]:
        """Begun and not ended."""
        return tuple(self._under_way)

    def connected(self, where: str) -> None:
        """The platform is heard."""
        self._add("connected", where)

    def lost(self, problem: str) -> None:
        """It is not."""
        self._add("lost", problem)

    def paused(self, pause_s: float, evidence: str) -> None:
        """The node was stopped."""
        self._add("paused", pause_s, evidence)

    def stop_node(self, reason: str) -> None:
        """The node must stop."""
        self._add("stop_node", reason)

    def names(self, *but: str) -> list[str]:
        """The methods' names in order, without those of ``but``."""
        return [call[0] for call in self.calls if call[0] not in but]

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """The calls of one method, without its name."""
        return [call[1:] for call in self.calls if call[0] == name]

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires as soon as ``condition`` holds after something was said (or holds already)."""
        waiting: Deferred[None] = Deferred()
        if condition():
            waiting.callback(None)
        else:
            self._waiting.append((condition, waiting))
        return waiting

    def until_said(self, name: str, times: int = 1) -> Deferred[None]:
        """Fires as soon as a method has been called so often."""
        return self.until(lambda: len(self.of(name)) >= times)

    def _add(self, *call: Any) -> None:
        self.calls.append(call)
        ready = [waiting for condition, waiting in self._waiting if condition()]
        self._waiting = [pair for pair in self._waiting if pair[1] not in ready]
        for waiting in ready:
            waiting.callback(None)


def surroundings(reactor: Any, data_dir: Path | str = ".", **changes: Any) -> Surroundings:
    """What an adapter of node 1, called node1, of three is given."""
    values: dict[str, Any] = {
        "reactor": reactor,
        "node_id": 1,
        "node_name": "node1",
        "members": {"node1": 1, "node2": 2, "node3": 3},
        "data_dir": Path(data_dir),
    }
    return Surroundings(**{**values, **changes})
