"""The adapters of a node together, and how one is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.plugin import getPlugins
from twisted.trial import unittest
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.recording_sink import surroundings
from tests.test_virt_sink import RecordingNode
from txvbcast import plugins
from txvbcast.config import PluginConfig
from txvbcast.errors import ConfigError
from txvbcast.interfaces import IChangeAdapter, IChangeAdapterFactory, IChangeSink, Surroundings
from txvbcast.virt import BUILT_IN, BuiltIn
from txvbcast.virt import adapters as module
from txvbcast.virt.adapters import Adapters


@implementer(IChangeAdapter)
class Told:
    """An adapter that does what its test wants."""

    kinds: tuple[str, ...] = ("freeze", "snapshot")

    def __init__(self, options: Mapping[str, object], given: Surroundings) -> None:
        self.options = options
        self.given = given
        self.sinks: list[Any] = []
        self.stops = 0
        self.on_start: Callable[[IChangeSink], object] = lambda sink: None
        self.on_stop: Callable[[], Deferred[None] | None] = lambda: None

    def start(self, sink: IChangeSink) -> None:
        """Keep the sink."""
        self.sinks.append(sink)
        self.on_start(sink)

    def stop(self) -> Deferred[None] | None:
        """Count."""
        self.stops += 1
        return self.on_stop()


@implementer(IChangeAdapterFactory)
class Factory:
    """Makes them, and remembers."""

    plugin = "told"

    def __init__(self) -> None:
        self.made: list[Told] = []

    def make(self, options: Mapping[str, object], given: Surroundings) -> Any:
        """One, or what the options say instead."""
        if "instead" in options:
            return options["instead"]
        if options.get("refused"):
            raise ValueError("refused: expected no such thing")
        self.made.append(Told(options, given))
        return self.made[-1]


def wanted(plugin: str = "told", kinds: tuple[str, ...] = (), **options: object) -> PluginConfig:
    """An item of ``adapters``."""
    return PluginConfig(name=plugin, plugin=plugin, options=options, kinds=kinds)


class AdaptersTests(unittest.SynchronousTestCase):
    """Made, started and stopped together."""

    def setUp(self) -> None:
        self.factory = Factory()
        self.patch(plugins, "getPlugins", lambda interface: [self.factory])
        self.clock = Clock()
        self.given = surroundings(self.clock)
        self.node = RecordingNode()

    def started(self, *items: PluginConfig) -> Adapters:
        """Adapters for these items, running."""
        adapters = Adapters(items, self.given)
        adapters.start(self.node, self.clock.seconds)
        return adapters

    def told(self) -> list[str]:
        """The reasons of all events."""
        return [call[2] for call in self.node.calls if call[0] == "tell"]

    def test_made(self) -> None:
        """Each with its options, and a name of its own."""
        adapters = self.started(wanted(a=1), wanted(kinds=("snapshot",)), wanted())
        first, second, third = self.factory.made
        self.assertEqual((first.options, first.given, second.options), ({"a": 1}, self.given, {}))
        self.assertEqual(
            [(document["adapter"], document["kinds"]) for document in adapters.documents()],
            [("told", ["freeze", "snapshot"]), ("told-2", ["snapshot"]), ("told-3", ["freeze", "snapshot"])],
        )
        third.sinks[0].connected("somewhere")
        self.assertEqual(self.told(), ["adapter told-3: hears somewhere"])
        self.assertEqual(adapters.documents()[2]["state"], "connected")

    def test_none(self) -> None:
        adapters = self.started()
        self.assertEqual(adapters.documents(), [])
        self.successResultOf(Deferred.fromCoroutine(adapters.stop()))

    def test_not_made(self) -> None:
        """The item and what is wrong with it."""
        silent = Told({}, self.given)
        silent.kinds = ()
        for item, text in (
            (wanted("nothing"), "adapters[1]: there is no plugin 'nothing'; expected one of: aws, azure, "),
            (wanted(refused=True), "adapters[1]: options of plugin 'told': refused: expected no such thing"),
            (
                wanted(kinds=("freeze", "vcpu")),
                "adapters[1]: options of plugin 'told': kinds: it cannot tell of 'vcpu'; it tells of: freeze, snapshot",
            ),
            (wanted(kinds=("vcpu",), instead=silent), "it cannot tell of 'vcpu'; it tells of: no kind of change"),
            (wanted(instead=object()), "adapters[1]: plugin 'told' does not make an IChangeAdapter: "),
        ):
            with self.assertRaises(ConfigError) as caught:
                Adapters([wanted(), item], self.given)
            self.assertIn(text, str(caught.exception))

    def test_one_cannot_start(self) -> None:
        """It is lost, with the reason; the others run."""
        adapters = Adapters([wanted(), wanted()], self.given)
        self.factory.made[0].on_start = lambda sink: [][1]
        adapters.start(self.node, self.clock.seconds)
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)
        self.assertEqual(
            self.told(), ["adapter told: it cannot start, see the log of this node: list index out of range"]
        )
        self.assertEqual([document["state"] for document in adapters.documents()], ["lost", "starting"])
        self.successResultOf(Deferred.fromCoroutine(adapters.stop()))
        self.assertEqual([adapter.stops for adapter in self.factory.made], [1, 1])

    def test_stopped(self) -> None:
        """Nothing that is said afterwards is heard; the stop waits until all have let go."""
        adapters = self.started(wanted(), wanted())
        letting_go: Deferred[None] = Deferred()
        self.factory.made[0].on_stop = lambda: letting_go
        stopping = Deferred.fromCoroutine(adapters.stop())
        self.assertNoResult(stopping)
        self.factory.made[0].sinks[0].connected("somewhere")
        self.assertEqual(self.told(), [])
        letting_go.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_cannot_be_stopped(self) -> None:
        """By an exception, or for ever: neither keeps the others nor the node from stopping."""
        adapters = self.started(wanted(), wanted(), wanted())
        self.factory.made[0].on_stop = lambda: [][1]
        self.factory.made[1].on_stop = Deferred
        stopping = Deferred.fromCoroutine(adapters.stop())
        self.clock.advance(module.STOP_S_MAX - 0.01)
        self.assertNoResult(stopping)
        self.clock.advance(0.01)
        self.successResultOf(stopping)
        self.assertEqual([adapter.stops for adapter in self.factory.made], [1, 1, 1])
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_stopped_before_the_start(self) -> None:
        """As when the node fails between the two."""
        adapters = Adapters([wanted()], self.given)
        self.successResultOf(Deferred.fromCoroutine(adapters.stop()))
        adapters.start(self.node, self.clock.seconds)
        self.assertEqual((self.factory.made[0].sinks, self.factory.made[0].stops), ([], 0))

    def test_stopped_by_the_first(self) -> None:
        """What it says at its start stops the node: the others never start."""
        adapters = Adapters([wanted(), wanted()], self.given)
        self.factory.made[0].on_start = lambda sink: sink.stop_node("it is a clone")
        self.patch(self.node, "stop_for", lambda reason: Deferred.fromCoroutine(adapters.stop()))
        adapters.start(self.node, self.clock.seconds)
        self.assertEqual([adapter.sinks != [] for adapter in self.factory.made], [True, False])
        self.assertEqual([adapter.stops for adapter in self.factory.made], [1, 0])


class BuiltInTests(unittest.SynchronousTestCase):
    """The adapters that need no plugin."""

    def test_factories(self) -> None:
        for name, factory in BUILT_IN.items():
            self.assertTrue(verifyObject(IChangeAdapterFactory, factory))
            self.assertEqual(factory.plugin, name)

    def test_make(self) -> None:
        """The module of the name is imported, and makes it."""
        adapter = BuiltIn("pause").make({}, surroundings(Clock()))
        self.assertTrue(verifyObject(IChangeAdapter, adapter))
        self.assertEqual(type(adapter).__module__, "txvbcast.virt.pause")

    def test_library_missing(self) -> None:
        """An adapter's own library is not there: the configuration cannot be used, and the text says why."""
        with self.assertRaisesRegex(
            ValueError,
            "it needs a library that is not installed: No module named .*, see docs/adapters/carrier_pigeon.md",
        ):
            BuiltIn("carrier_pigeon").make({}, surroundings(Clock()))

    def test_no_plugin_needed(self) -> None:
        self.assertEqual([found.plugin for found in getPlugins(IChangeAdapterFactory) if found.plugin in BUILT_IN], [])
