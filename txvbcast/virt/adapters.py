"""All adapters of a node: made from the configuration, started and stopped together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from txvbcast.config import PluginConfig
from txvbcast.interfaces import IChangeAdapter, IChangeAdapterFactory, Surroundings
from txvbcast.plugins import make
from txvbcast.virt import BUILT_IN
from txvbcast.virt.sink import Node, Sink

log = Logger()


class Adapters:
    """The adapters of one node.

    :raises ConfigError: one cannot be had, or refuses its options or kinds.
    """

    def __init__(self, wanted: Iterable[PluginConfig], surroundings: Surroundings) -> None:
        self._adapters: list[tuple[str, tuple[str, ...], IChangeAdapter]] = []
        self._sinks: list[Sink] = []
        names: Counter[str] = Counter()
        for place, each in enumerate(wanted):
            adapter = load(place, each, surroundings)
            names[each.plugin] += 1
            name = each.plugin if names[each.plugin] == 1 else f"{each.plugin}-{names[each.plugin]}"
            self._adapters.append((name, each.kinds or tuple(adapter.kinds), adapter))

    def start(self, node: Node, seconds: Callable[[], float]) -> None:
        """Have every adapter register with its platform."""
        for name, kinds, adapter in self._adapters:
            sink = Sink(node, name, kinds, seconds)
            self._sinks.append(sink)
            adapter.start(sink)

    async def stop(self) -> None:
        """Have every adapter let go."""
        for sink in self._sinks:
            sink.close()
        started = [adapter for _, _, adapter in self._adapters[: len(self._sinks)]]
        await gatherResults([maybeDeferred(adapter.stop).addErrback(self._cannot_stop) for adapter in started])

    def _cannot_stop(self, failure: Failure) -> None:
        log.failure("an adapter could not be stopped", failure)

    def documents(self) -> list[Mapping[str, object]]:
        """Every adapter's state, for ``status``."""
        return [sink.document() for sink in self._sinks]


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
            raise ValueError(f"kinds: it cannot tell of {kind!r}; it tells of: {', '.join(adapter.kinds)}")
    return adapter
