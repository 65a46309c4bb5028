"""All adapters of a node: made from the configuration, started and stopped together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txvbcast.config import PluginConfig
from txvbcast.interfaces import IChangeAdapter, IChangeAdapterFactory, Surroundings
from txvbcast.plugins import make
from txvbcast.virt import BUILT_IN
from txvbcast.virt.sink import Node, Sink

log = Logger()

#: A stopping node waits so long for an adapter to let go of its platform.
STOP_S_MAX = 5.0


class Adapters:
    """The adapters of one node.

    :raises ConfigError: one cannot be had, or refuses its options or kinds.
    """

    def __init__(self, wanted: Iterable[PluginConfig], surroundings: Surroundings) -> None:
        self._adapters: list[tuple[str, tuple[str, ...], IChangeAdapter]] = []
        self._started: list[tuple[IChangeAdapter, Sink]] = []
        self._reactor = surroundings.reactor
        self._stopped = False
        names: Counter[str] = Counter()
        for place, each in enumerate(wanted):
            adapter = load(place, each, surroundings)
            names[each.plugin] += 1
            name = each.plugin if names[each.plugin] == 1 else f"{each.plugin}-{names[each.plugin]}"
            self._adapters.append((name, each.kinds or tuple(adapter.kinds), adapter))

    def start(self, node: Node, seconds: Callable[[], float]) -> None:
        """Have every adapter register with its platform; what one says at once may stop the node."""
        for name, kinds, adapter in self._adapters:
            if self._stopped:
                return
            sink = Sink(node, name, kinds, seconds)
            self._started.append((adapter, sink))
            maybeDeferred(adapter.start, sink).addErrback(self._cannot_start, sink)

    async def stop(self) -> None:
        """Have every adapter let go; one that takes longer than :data:`STOP_S_MAX` is not waited for."""
        self._stopped = True
        for _, sink in self._started:
            sink.close()
        await gatherResults([self._let_go(adapter, sink) for adapter, sink in self._started])

    def _let_go(self, adapter: IChangeAdapter, sink: Sink) -> Deferred[Any]:
        letting_go: Deferred[Any] = maybeDeferred(adapter.stop)
        letting_go.addTimeout(STOP_S_MAX, self._reactor)
        return letting_go.addErrback(self._cannot_stop, sink)

    def _cannot_start(self, failure: Failure, sink: Sink) -> None:
        # A defect of one adapter takes neither the others nor the node with it.
        log.failure("adapter {name} cannot start", failure, name=sink.source)
        sink.lost(f"it cannot start, see the log of this node: {failure.getErrorMessage()}")

    def _cannot_stop(self, failure: Failure, sink: Sink) -> None:
        log.failure("adapter {name} cannot be stopped", failure, name=sink.source)

    def documents(self) -> list[Mapping[str, object]]:
        """Every adapter's state, for ``status``."""
        return [sink.document() for _, sink in self._started]


def load(place: int, wanted: PluginConfig, surroundings: Surroundings) -> IChangeAdapter:
    """The adapter for one item of ``adapters``.

    :raises ConfigError: there is no such plugin, it refuses its options, it cannot tell of a kind that is
        wanted, or what it makes is no adapter.
    """
    where = f"adapters[{place}]"
    adapter: IChangeAdapter = make(
        where,
        wanted.plugin,
        BUILT_IN,
        IChangeAdapterFactory,
        IChangeAdapter,
        lambda factory: _make(factory, wanted, surroundings),
    )
    return adapter


def _make(factory: IChangeAdapterFactory, wanted: PluginConfig, surroundings: Surroundings) -> IChangeAdapter:
    adapter = factory.make(wanted.options, surroundings)
    for kind in wanted.kinds:
        if kind not in adapter.kinds:
            told = ", ".join(adapter.kinds) or "no kind of change"
            raise ValueError(f"kinds: it cannot tell of {kind!r}; it tells of: {told}")
    return adapter
