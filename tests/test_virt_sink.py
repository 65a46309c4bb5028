"""What a sink makes of what an adapter says, with a node that writes down what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from txvbcast.absences import Notice
from txvbcast.interfaces import Go, IChangeSink
from txvbcast.virt import sink as sinks
from txvbcast.virt.sink import Sink


class RecordingHeld:
    """A change that is over when it was ended, or when a test says so."""

    def __init__(self) -> None:
        self.over = False
        self.facts: list[Mapping[str, object]] = []
        self.outcomes: list[str] = []
        self.waiting: list[Deferred[Go]] = []

    @property
    def go(self) -> Deferred[Go]:
        """A new one each time."""
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def update(self, facts: Mapping[str, object]) -> None:
        """New facts."""
        self.facts.append(facts)

    def end(self, outcome: str) -> None:
        """It is over."""
        self.outcomes.append(outcome)
        self.over = True


class RecordingNode:
    """Calls in order, and what was held."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.held: list[RecordingHeld] = []
        self.refusal = ""

    @property
    def absences(self) -> RecordingNode:
        """Where changes are announced: here."""
        return self

    def hold(self, notice: Notice) -> RecordingHeld:
        """Announce a change."""
        if self.refusal:
            raise ValueError(self.refusal)
        self.calls.append(("hold", notice))
        self.held.append(RecordingHeld())
        return self.held[-1]

    def was_paused(self, pause_s: float, evidence: str) -> None:
        """The node was stopped."""
        self.calls.append(("was_paused", pause_s, evidence))

    def stop_for(self, reason: str) -> None:
        """The node must stop."""
        self.calls.append(("stop_for", reason))

    def tell(self, kind: str, reason: str, facts: Mapping[str, object]) -> None:
        """Raise an event."""
        self.calls.append(("tell", kind, reason, facts))


class SinkTests(unittest.SynchronousTestCase):
    """Each event once, each change under one name."""

    def setUp(self) -> None:
        self.node = RecordingNode()
        self.clock = Clock()
        self.sink = Sink(self.node, "qmp", ("freeze", "migrate_out"), self.clock.seconds)

    def begin(self, source_id: str = "job", kind: str = "freeze", **more: Any) -> Deferred[Go]:
        """A change begins, with what does not matter left out."""
        facts = more.pop("facts", {})
        return self.sink.begin(kind, facts, source_id, more.pop("holdable", True), **more)

    def told(self, kind: str) -> list[str]:
        """The reasons of the events of a kind."""
        return [call[2] for call in self.node.calls if call[:2] == ("tell", kind)]

    def test_interface(self) -> None:
        self.assertTrue(verifyObject(IChangeSink, self.sink))

    def test_begin(self) -> None:
        """Everything is handed on; whoever asked hears the node's word."""
        facts = {"memory_bytes": 5}
        go = self.begin(facts=facts, holdable=False, hold_s=2.5, member=3)
        self.assertEqual(self.node.calls, [("hold", Notice("freeze", facts, "qmp", False, 2.5, 3))])
        self.assertNoResult(go)
        self.node.held[0].waiting[0].callback(Go(True))
        self.assertEqual(self.successResultOf(go), Go(True))
        self.assertEqual(self.sink.under_way(), ("job",))

    def test_kind_not_configured(self) -> None:
        """The platform may go: nobody waits for it."""
        self.assertEqual(self.successResultOf(self.begin(kind="memory")), Go(False))
        self.assertEqual((self.node.calls, self.sink.counters), ([], {"passed_over": 1}))

    def test_begun_again(self) -> None:
        """Without numbers a second beginning brings it up to date, and its caller waits as the first one does."""
        first = self.begin(facts={"memory_bytes": 5})
        second = self.begin(facts={"memory_bytes": 6})
        self.assertIsNot(first, second)
        self.assertEqual(self.node.held[0].facts, [{"memory_bytes": 6}])
        self.assertEqual(self.sink.counters, {"begun": 1, "updated": 1})

    def test_repeated(self) -> None:
        """What is not above the last number changes nothing, whatever it says."""
        self.begin(sequence=7)
        for sequence in (7, 6, -1):
            self.assertNoResult(self.begin(sequence=sequence, facts={"memory_bytes": 1}))
            self.sink.update("job", {"memory_bytes": 1}, sequence)
            self.sink.end("job", "done", sequence)
        self.assertEqual((self.node.held[0].facts, self.node.held[0].outcomes), ([], []))
        self.assertEqual(self.sink.counters, {"begun": 1, "repeated": 9})
        self.sink.update("job", {"memory_bytes": 2}, 8)
        self.sink.end("job", "done", 9)
        self.assertEqual(self.node.held[0].facts, [{"memory_bytes": 2}])
        self.assertEqual(self.node.held[0].outcomes, ["done"])

    def test_first_number_of_one_that_had_none(self) -> None:
        self.begin()
        self.sink.update("job", {"memory_bytes": 2}, -5)
        self.assertEqual(len(self.node.held[0].facts), 1)

    def test_numbers_are_of_one_object(self) -> None:
        self.begin("a", sequence=9)
        self.begin("b", sequence=1)
        self.assertEqual(len(self.node.held), 2)
        self.assertEqual(self.sink.under_way(), ("a", "b"))

    def test_begun_after_the_end(self) -> None:
        """Another change of the same name, and the youngest; a repeat of the old beginning is none."""
        self.begin("a", sequence=1)
        self.begin("b", sequence=1)
        self.sink.end("a", "done", 2)
        self.begin("a", sequence=1)
        self.begin("a", sequence=2)
        self.assertEqual(len(self.node.held), 2)
        self.begin("a", sequence=3)
        self.assertEqual(len(self.node.held), 3)
        self.assertEqual(self.sink.under_way(), ("b", "a"))

    def test_ended_as(self) -> None:
        for outcome in ("done", "cancelled", "failed"):
            self.begin(outcome)
            self.sink.end(outcome, outcome)
        self.assertEqual([held.outcomes for held in self.node.held], [["done"], ["cancelled"], ["failed"]])
        self.assertEqual(self.sink.under_way(), ())
        self.assertEqual(self.sink.counters, {"begun": 3, "ended": 3})

    def test_too_late(self) -> None:
        """Its time is over, or it was ended: later news are passed over."""
        self.begin()
        self.node.held[0].over = True
        self.sink.update("job", {"memory_bytes": 2})
        self.sink.end("job", "done")
        self.assertEqual((self.node.held[0].facts, self.node.held[0].outcomes), ([], []))
        self.assertEqual(self.sink.counters, {"begun": 1, "passed_over": 2})

    def test_never_begun(self) -> None:
        self.sink.update("other", {})
        self.sink.end("other", "done")
        self.assertEqual((self.node.calls, self.sink.counters), ([], {"passed_over": 2}))

    def test_contradictions(self) -> None:
        """Each is told once; the change goes on as it was."""
        self.begin()
        for _ in range(3):
            self.begin(kind="migrate_out", facts={"memory_bytes": 2})
            self.begin(member=2)
            self.sink.end("job", "exploded")
        self.assertEqual(
            self.told("adapter_contradiction"),
            [
                f"adapter qmp contradicts itself about 'job': {what}; the node stays inactive"
                for what in (
                    "it was said to be freeze and is now said to be migrate_out",
                    "it was said to happen to this node and is now said to happen to node 2",
                    "it is said to have ended as 'exploded'",
                )
            ],
        )
        self.assertEqual(self.node.calls[-1][-1], {"adapter": "qmp", "source_id": "job"})
        self.assertEqual((self.node.held[0].facts, self.node.held[0].outcomes), ([], []))
        self.assertEqual(self.sink.counters, {"begun": 1, "contradicted": 9})
        self.assertEqual(self.sink.under_way(), ("job",))

    def test_contradictions_are_bounded(self) -> None:
        self.begin()
        for number in range(100):
            self.sink.end("job", f"outcome {number}")
        self.assertEqual(len(self.told("adapter_contradiction")), sinks.CONTRADICTIONS_MAX)
        self.assertEqual(self.sink.counters["contradicted"], 100)

    def test_node_refuses(self) -> None:
        """A member that there is not, say: the platform may go, and it is told once."""
        self.node.refusal = "there is no node 9"
        for _ in range(3):
            self.assertEqual(self.successResultOf(self.begin(member=9)), Go(False))
        self.assertEqual(
            self.told("adapter_refused"), ["adapter qmp tells of a change that is passed over: there is no node 9"]
        )
        self.assertEqual((self.sink.under_way(), self.sink.counters), ((), {"passed_over": 3}))

    def test_too_many(self) -> None:
        """One more is taken when one is over, and the oldest that is over is forgotten for it."""
        self.patch(sinks, "OBJECTS_MAX", 3)
        for source_id in ("a", "b", "c"):
            self.begin(source_id)
        for _ in range(2):
            self.assertEqual(self.successResultOf(self.begin("d")), Go(False))
        self.assertEqual(self.told("adapter_full"), ["adapter qmp has 3 changes under way; no more are taken"])
        self.assertEqual(self.sink.counters, {"begun": 3, "passed_over": 2})
        self.sink.end("b", "done")
        self.sink.end("c", "done")
        self.begin("d")
        self.begin("c", sequence=1)
        self.assertEqual(self.sink.under_way(), ("a", "d", "c"))
        self.assertEqual(self.successResultOf(self.begin("e")), Go(False))
        self.assertEqual(len(self.told("adapter_full")), 2)

    def test_platform(self) -> None:
        """Said once, and since when; another problem is news."""
        self.clock.advance(2)
        self.assertEqual((self.sink.document()["state"], self.sink.document()["since_ms"]), ("starting", 2000))
        for _ in range(2):
            self.sink.connected("/run/qmp.sock")
        self.clock.advance(1)
        for _ in range(2):
            self.sink.lost("it hung up")
        self.clock.advance(1)
        self.sink.lost("it is not there")
        self.clock.advance(1)
        self.assertEqual(
            self.node.calls,
            [
                ("tell", "adapter_connected", "adapter qmp: hears /run/qmp.sock", {"adapter": "qmp"}),
                ("tell", "adapter_lost", "adapter qmp: it hung up", {"adapter": "qmp"}),
                ("tell", "adapter_lost", "adapter qmp: it is not there", {"adapter": "qmp"}),
            ],
        )
        self.assertEqual(
            self.sink.document(),
            {
                "adapter": "qmp",
                "state": "lost",
                "where": "/run/qmp.sock",
                "problem": "it is not there",
                "since_ms": 2000,
                "kinds": ["freeze", "migrate_out"],
                "under_way": [],
                "counters": {"lost": 3},
            },
        )
        self.sink.connected("/run/qmp.sock")
        self.assertEqual((self.sink.state, self.sink.problem), ("connected", ""))

    def test_paused_and_stopped(self) -> None:
        self.sink.paused(2.5, "it slept")
        self.sink.stop_node("it is a clone")
        self.assertEqual(self.node.calls, [("was_paused", 2.5, "it slept"), ("stop_for", "it is a clone")])
        self.assertEqual(self.sink.document()["counters"], {"paused": 1})

    def test_closed(self) -> None:
        """Nothing reaches the node any more; what is under way stays so."""
        self.begin(sequence=1)
        self.node.calls.clear()
        self.sink.close()
        self.assertEqual(self.successResultOf(self.begin("other")), Go(False))
        self.assertEqual(self.successResultOf(self.begin(sequence=2)), Go(False))
        self.sink.update("job", {"memory_bytes": 1}, 3)
        self.sink.end("job", "done", 4)
        self.sink.connected("somewhere")
        self.sink.lost("something")
        self.sink.paused(1.0, "it slept")
        self.sink.stop_node("it is a clone")
        self.assertEqual(self.node.calls, [])
        self.assertEqual((self.node.held[0].facts, self.node.held[0].outcomes), ([], []))
        self.assertEqual((self.sink.under_way(), self.sink.state), (("job",), "starting"))
