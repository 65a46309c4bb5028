"""Azure's Scheduled Events, replayed by a loopback service."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from tests import metadata_server as broken
from tests.metadata_server import AzurePages, CloudTestCase, azure_event
from tests.recording_sink import surroundings
from tests.test_virt_sink import RecordingNode
from txvbcast.config import CHANGE_KINDS
from txvbcast.interfaces import Go, IChangeAdapter
from txvbcast.virt import BUILT_IN, azure
from txvbcast.virt.sink import Sink

EVENTS = "/metadata/scheduledevents"
INSTANCE = "/metadata/instance"


class OptionsTests(unittest.TestCase):
    """What may be configured."""

    def refused(self, options: dict[str, object], words: str) -> None:
        """It is refused with these words."""
        self.assertIn(words, str(self.assertRaises(ValueError, azure.make, options, surroundings(reactor))))

    def test_kinds(self) -> None:
        kinds = azure.make({}, surroundings(reactor)).kinds
        self.assertEqual(set(kinds), {*azure.KINDS.values(), azure.UNKNOWN_KIND})
        self.assertLessEqual(set(kinds), set(CHANGE_KINDS))

    def test_built_in(self) -> None:
        adapter = BUILT_IN["azure"].make({}, surroundings(reactor))
        self.assertTrue(verifyObject(IChangeAdapter, adapter))

    def test_refused(self) -> None:
        self.refused({"colour": "red"}, "colour: there is no such option; expected one of: endpoint, api_version, name")
        self.refused({"endpoint": "169.254.169.254"}, "endpoint: expected a URL")
        self.refused({"approve": "yes"}, "approve: expected true or false")
        self.refused({"third_party": 1}, "third_party: expected true or false")
        self.refused({"name": ""}, "name: expected a text")
        for name in ("interval", "timeout", "first_timeout", "lead", "start_within", "unknown_length"):
            self.refused({name: "5"}, f"{name}: '5' has no unit")


class AzureCase(CloudTestCase):
    """The adapter of a machine vm1, which is the node node1."""

    adapter = azure
    pages_of = AzurePages
    options = {"interval": "2ms"}

    def begun(self) -> list[tuple[str, str, bool, dict[str, Any]]]:
        """What has begun: kind, name, whether it waits, and for how long or for whom."""
        return [(kind, name, holdable, extra) for kind, _, name, holdable, extra in self.sink.of("begin")]

    async def running(self, **options: object) -> None:
        """The adapter has heard a first, empty document."""
        self.start(**options)
        await self.polled()

    async def confirmed(self, duration_s: int = 9) -> None:
        """An event for this machine alone, which the cluster lets happen."""
        self.pages.publish(azure_event(duration_s=duration_s))
        await self.sink.until_said("begin")
        self.sink.begun["C7061BAC"].callback(Go(confirmed=True))


class EventsTests(AzureCase):
    """What becomes of an event that names this machine."""

    async def test_questions(self) -> None:
        await self.running()
        first, second = self.server.asked[:2]
        self.assertEqual((first.method, first.path, first.query), ("GET", INSTANCE, {"api-version": "2021-02-01"}))
        self.assertEqual((second.method, second.path, second.query), ("GET", EVENTS, {"api-version": "2020-07-01"}))
        self.assertEqual(self.server.count(INSTANCE), 1)
        where = f"the scheduled events of vm1 at {self.server.endpoint}"
        self.assertEqual(set(self.sink.of("connected")), {(where,)})
        self.assertEqual(set(self.sink.names()), {"connected"})

    async def test_name_and_version_given(self) -> None:
        await self.running(name="VM1", api_version="2019-08-01")
        self.assertEqual(self.server.count(INSTANCE), 0)
        self.assertEqual(self.server.asked[0].query, {"api-version": "2019-08-01"})
        self.pages.publish(azure_event(status="Started"))
        await self.sink.until_said("begin")

    async def test_approved(self) -> None:
        """The whole way: held, confirmed, approved, started, gone."""
        await self.running()
        self.pages.publish(azure_event(in_s=900, duration_s=9))
        await self.sink.until_said("begin")
        ((kind, facts, name, holdable, extra),) = self.sink.of("begin")
        self.assertEqual((kind, name, holdable), ("freeze", "C7061BAC", True))
        self.assertTrue(880 < extra["hold_s"] <= 890, extra)
        self.assertEqual(facts["expected_s"], 39.0)
        self.assertEqual((facts["event_type"], facts["event_source"]), ("Freeze", "Platform"))
        self.assertEqual(facts["description"], "Host server is undergoing maintenance.")
        await self.polled()
        self.assertEqual(self.pages.approved, [])
        self.sink.begun[name].callback(Go(confirmed=True))
        await self.sink.until_said("begin", 2)
        self.assertEqual(self.pages.approved, ["C7061BAC"])
        (post,) = (asked for asked in self.server.asked if asked.method == "POST")
        self.assertEqual((post.path, post.query["api-version"]), (EVENTS, "2020-07-01"))
        self.assertEqual(json.loads(post.body), {"StartRequests": [{"EventId": "C7061BAC"}]})
        kind, facts, name, holdable, extra = self.sink.of("begin")[1]
        self.assertEqual((kind, name, holdable, extra), ("freeze", "C7061BAC", False, {}))
        self.assertEqual(facts["expected_s"], 39.0)
        self.pages.publish()
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [("C7061BAC", "done")])
        await self.polled()
        self.assertEqual(self.pages.approved, ["C7061BAC"])

    async def test_not_confirmed(self) -> None:
        """What the cluster has not confirmed is never approved; the platform goes by itself."""
        await self.running()
        self.pages.publish(azure_event())
        await self.sink.until_said("begin")
        self.sink.begun["C7061BAC"].callback(Go(confirmed=False, unsafe="no quorum"))
        await self.polled(5)
        self.assertEqual((self.pages.approved, self.server.count(method="POST")), ([], 0))
        self.pages.start()
        await self.sink.until_said("begin", 2)

    async def test_confirmed_too_late(self) -> None:
        """There is nothing to approve in what has started."""
        await self.running()
        self.pages.publish(azure_event())
        await self.sink.until_said("begin")
        go = self.sink.begun["C7061BAC"]
        self.pages.start()
        await self.sink.until_said("begin", 2)
        go.callback(Go(confirmed=True))
        await self.polled()
        self.assertEqual(self.server.count(method="POST"), 0)

    async def test_confirmed_and_over(self) -> None:
        """The absence has ended by its time meanwhile, so nobody may be sent away."""
        await self.running()
        self.pages.publish(azure_event())
        await self.sink.until_said("begin")
        self.sink.end("C7061BAC", "overdue")
        self.sink.begun["C7061BAC"].callback(Go(confirmed=True))
        await self.polled()
        self.assertEqual(self.server.count(method="POST"), 0)

    async def test_endless(self) -> None:
        """Whatever number the platform gives."""
        await self.running()
        self.pages.publish(azure_event(status="Started", duration_s=2**62))
        await self.sink.until_said("begin")
        await self.polled()
        self.assertEqual(self.sink.of("lost"), [])

    async def test_not_approved_by_configuration(self) -> None:
        await self.running(approve=False, lead="60s")
        self.pages.publish(azure_event(in_s=900))
        await self.polled()
        self.assertEqual(self.begun(), [])
        self.pages.publish(azure_event(in_s=50))
        await self.sink.until_said("begin")
        self.assertEqual(self.begun(), [("freeze", "C7061BAC", False, {})])
        self.assertEqual(self.sink.of("begin")[0][1]["expected_s"], 60.0 + 30.0 + 9.0)

    async def test_shortly_before(self) -> None:
        """Not when the platform says, but when the time has come."""
        await self.running(approve=False, lead="3599s")
        self.pages.publish(azure_event(in_s=3601))
        await self.polled()
        self.assertEqual(self.begun(), [])
        self.server.break_down(broken.hang)  # it needs no further word of the platform
        await self.sink.until_said("begin")
        self.assertEqual(self.begun(), [("freeze", "C7061BAC", False, {})])

    async def test_several_machines(self) -> None:
        """An approval would let it happen to all of them."""
        await self.running(lead="60s")
        self.pages.publish(azure_event(resources=["vm1", "vm7"], in_s=900))
        await self.polled()
        self.assertEqual(self.begun(), [])
        self.pages.publish(azure_event(resources=["vm1", "vm7"], in_s=50))
        await self.sink.until_said("begin")
        self.assertEqual(self.begun(), [("freeze", "C7061BAC", False, {})])
        self.sink.begun["C7061BAC"].callback(Go(confirmed=True))
        await self.polled()
        self.assertEqual(self.pages.approved, [])

    async def test_kinds(self) -> None:
        """Preempt and Terminate are not approved: they would only take the machine away sooner."""
        await self.running(lead="60s")
        kinds = {**azure.KINDS, "Melt": "custom"}
        self.pages.publish(*(azure_event(name, name, in_s=900) for name in kinds))
        await self.sink.until_said("begin", 3)
        await self.polled()
        self.assertEqual({name for _, name, holdable, _ in self.begun() if holdable}, {"Freeze", "Reboot", "Redeploy"})
        self.assertEqual(len(self.begun()), 3)
        self.pages.publish(*(azure_event(name, name, in_s=5) for name in kinds))
        await self.sink.until_said("begin", 6)
        self.assertEqual({name: kind for kind, name, _, _ in self.begun()}, kinds)

    async def test_started_at_once(self) -> None:
        """A failure of the hardware: there is no Scheduled before."""
        await self.running()
        self.pages.publish(azure_event(event_type="Reboot", status="Started", duration_s=-1))
        await self.sink.until_said("begin")
        self.assertEqual(self.begun(), [("reboot", "C7061BAC", False, {})])
        self.assertEqual(self.sink.of("begin")[0][1]["expected_s"], 30.0 + 300.0)
        self.pages.publish()
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [("C7061BAC", "done")])

    async def test_cancelled(self) -> None:
        await self.running()
        self.pages.publish(azure_event())
        await self.sink.until_said("begin")
        self.pages.publish()
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [("C7061BAC", "cancelled")])
        self.sink.begun["C7061BAC"].callback(Go(confirmed=True))
        await self.polled()
        self.assertEqual(self.server.count(method="POST"), 0)

    async def test_cancelled_before_it_was_announced(self) -> None:
        await self.running(approve=False)
        self.pages.publish(azure_event())
        await self.polled()
        self.pages.publish()
        await self.polled()
        self.assertEqual(set(self.sink.names()), {"connected"})

    async def test_cancelled_shortly_before(self) -> None:
        """What has left the list is not announced when its time comes."""
        await self.running(approve=False, lead="3598s")
        # Whole seconds, rounded down: the time of A comes in one to two seconds, that of B a second later.
        a, b = azure_event("A", in_s=3600), azure_event("B", in_s=3601)
        self.pages.publish(a, b)
        await self.polled()
        self.pages.publish(b)
        await self.sink.until_said("begin")
        self.assertEqual([name for _, name, _, _ in self.begun()], ["B"])

    async def test_waits_for_other_machines(self) -> None:
        """It may start at any moment, though it has not for a while: that is said again and again."""
        self.pages.starts = False
        await self.running(start_within="20ms")
        await self.confirmed(duration_s=1)
        await self.sink.until_said("update", 3)
        self.assertEqual(set(map(str, self.sink.of("update"))), {"('C7061BAC', {'expected_s': 1.02})"})
        self.pages.start()
        await self.sink.until_said("begin", 2)
        said = len(self.sink.of("update"))
        await self.sink.until_said("end")
        self.assertEqual(len(self.sink.of("update")), said)

    async def test_waits_until_it_is_due(self) -> None:
        """The platform begins at NotBefore; if it does not, the absence ends by its own time."""
        self.pages.starts = False
        await self.running(start_within="20ms", lead="3599s")
        self.pages.publish(azure_event(in_s=3600.5))
        await self.sink.until_said("update", 3)
        said = 0
        while said < len(self.sink.of("update")):
            said = len(self.sink.of("update"))
            await self.polled(50)
        self.assertEqual(self.sink.under_way(), ("C7061BAC",))

    async def test_put_off_while_held(self) -> None:
        """It is held until the new time."""
        await self.running()
        self.pages.publish(azure_event(in_s=900))
        await self.sink.until_said("begin")
        self.pages.publish(azure_event(in_s=1900))
        await self.sink.until_said("begin", 2)
        before, now = (extra["hold_s"] for *_, extra in self.begun())
        self.assertTrue(998 < now - before <= 1001, (before, now))
        self.sink.begun["C7061BAC"].callback(Go(confirmed=True))
        await self.server.until(lambda: self.pages.approved == ["C7061BAC"])

    async def test_approved_and_gone_between_two_polls(self) -> None:
        """The machine was frozen while it was Started, say."""
        self.pages.starts = False
        await self.running()
        await self.confirmed()
        await self.server.until(lambda: bool(self.pages.approved))
        self.pages.publish()
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [("C7061BAC", "done")])

    async def test_still_listed(self) -> None:
        """It stays listed for minutes after a freeze of seconds; here it is over before."""
        await self.running(start_within="20ms")
        self.pages.publish(azure_event(status="Started", duration_s=1))
        await self.sink.until_said("begin")
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [("C7061BAC", "done")])
        self.pages.publish(azure_event(status="Started", duration_s=2))
        await self.polled()
        self.pages.publish()
        await self.polled()
        self.assertEqual(self.sink.names("connected"), ["begin", "end"])

    async def test_no_interruption(self) -> None:
        await self.running(lead="3600s")
        self.pages.publish(azure_event(duration_s=0), azure_event("B", status="Started", duration_s=0))
        await self.polled()
        self.assertEqual(self.begun(), [])

    async def test_not_this_machine(self) -> None:
        await self.running(lead="3600s")
        self.pages.publish(azure_event(resources=["vm7"]), azure_event("B", status="Started", resources=[]))
        await self.polled()
        self.assertEqual(self.begun(), [])

    async def test_postponed(self) -> None:
        await self.running(approve=False, lead="3599s")
        self.pages.publish(azure_event(in_s=3601))
        await self.polled()
        self.pages.publish(azure_event(in_s=7200))
        await self.polled()
        self.pages.publish(azure_event(in_s=3602), azure_event("B", in_s=3600.5))
        await self.sink.until_said("begin", 2)
        self.assertEqual([name for _, name, _, _ in self.begun()], ["B", "C7061BAC"])

    async def test_time_unknown(self) -> None:
        """It may begin at any time, so it is announced at once."""
        for number, not_before in enumerate(("", None, "soon", "Mon, 19 Sep 2016 18:29:47 GMT")):
            self.sink.calls.clear()
            self.pages.publish()
            self.start()
            await self.polled()
            self.pages.publish(azure_event(f"E{number}", NotBefore=not_before))
            await self.sink.until_said("begin")
            self.assertIn(("freeze", f"E{number}", False, {}), self.begun())

    async def test_announced_anew(self) -> None:
        """Its time was over before the platform has started it."""
        self.pages.starts = False
        await self.running()
        await self.confirmed()
        await self.server.until(lambda: bool(self.pages.approved))
        self.sink.end("C7061BAC", "overdue")
        self.pages.publish(azure_event(in_s=9))
        await self.sink.until_said("begin", 2)
        self.assertEqual(self.begun()[1], ("freeze", "C7061BAC", False, {}))
        self.assertEqual(self.pages.approved, ["C7061BAC"])

    async def test_unknown_status(self) -> None:
        """There is no status for what is over; should there be one, it is."""
        await self.running()
        self.pages.publish(azure_event(status="Started"))
        await self.sink.until_said("begin")
        self.pages.publish(azure_event(status="Completed"))
        await self.sink.until_said("end")

    async def test_shapes_that_vary(self) -> None:
        """Older versions leave fields out; ISO times are those of Microsoft's mock server."""
        await self.running(lead="60s")
        old = {"EventId": "A", "EventType": "Reboot", "EventStatus": "Scheduled", "Resources": ["VM1"]}
        self.pages.publish({**old, "NotBefore": "2026-01-01T00:00:00Z", "DurationInSeconds": "9", "New": [{}]})
        await self.sink.until_said("begin")
        self.assertEqual(self.sink.of("begin")[0][1]["expected_s"], 60.0 + 30.0 + 9.0)


class FirstDocumentTests(AzureCase):
    """What had started before this node did."""

    async def test_restarted(self) -> None:
        """The event that has restarted this machine stays listed; the machine is back."""
        self.pages.publish(azure_event(event_type="Reboot", status="Started", duration_s=-1))
        await self.running()
        self.assertEqual(self.begun(), [])
        self.pages.publish()
        await self.polled()
        self.assertEqual(set(self.sink.names()), {"connected"})

    async def test_freeze(self) -> None:
        """A freeze may be still to come."""
        self.pages.publish(azure_event(status="Started"))
        await self.running()
        self.assertEqual(self.begun(), [("freeze", "C7061BAC", False, {})])

    async def test_another_member(self) -> None:
        """It may be long back."""
        self.pages.publish(azure_event(resources=["node2"], status="Started"))
        await self.running()
        self.assertEqual(self.begun(), [])

    async def test_another_member_after_silence(self) -> None:
        """What has started while the platform could not be heard may be over as well."""
        await self.running(start_within="20ms", timeout="50ms")
        self.server.break_down(broken.hang)
        await self.sink.until_said("lost")
        self.pages.publish(azure_event(resources=["node2"], status="Started"))
        self.server.mend()
        await self.polled()
        self.assertEqual(self.begun(), [])


class OtherMembersTests(AzureCase):
    """The platform tells every machine of a set."""

    async def test_third_party(self) -> None:
        await self.running()
        self.pages.publish(azure_event(resources=["node2"]))
        await self.polled()
        self.pages.publish(azure_event(resources=["Node2", "vm7", "node3"]))
        await self.polled()
        self.assertEqual(self.begun(), [])
        self.pages.start()
        await self.sink.until_said("begin", 2)
        expected = [("freeze", f"C7061BAC node{node_id}", False, {"member": node_id}) for node_id in (2, 3)]
        self.assertEqual(self.begun(), expected)
        self.pages.publish()
        await self.sink.until_said("end", 2)
        self.assertEqual(self.sink.of("end"), [("C7061BAC node2", "done"), ("C7061BAC node3", "done")])
        self.assertEqual(self.server.count(method="POST"), 0)

    async def test_letters_case(self) -> None:
        """Names of machines are the same in capitals."""
        adapter = azure.make(
            {"endpoint": self.server.endpoint, "interval": "2ms", "name": "VM1"},
            surroundings(reactor, members={"node1": 1, "NODE2": 2}),
        )
        adapter.start(self.sink)
        self.addCleanup(adapter.stop)
        await self.polled()
        self.pages.publish(azure_event(resources=["Vm1", "Node2"], status="Started"))
        await self.sink.until_said("begin", 2)

    async def test_with_this_machine(self) -> None:
        await self.running()
        self.pages.publish(azure_event(resources=["vm1", "node2"], status="Started"))
        await self.sink.until_said("begin", 2)
        self.assertEqual([extra for *_, extra in self.begun()], [{}, {"member": 2}])

    async def test_switched_off(self) -> None:
        await self.running(third_party=False)
        self.pages.publish(azure_event(resources=["node2"], status="Started"))
        await self.polled()
        self.assertEqual(self.begun(), [])

    async def test_own_name(self) -> None:
        """The node's own name is no other member, and neither is its machine's, whoever else is called so."""
        await self.running(name="node2")
        self.pages.publish(azure_event(resources=["node1", "node2"], status="Started"))
        await self.sink.until_said("begin")
        await self.polled()
        self.assertEqual(self.begun(), [("freeze", "C7061BAC", False, {})])


class IncarnationTests(AzureCase):
    """The document's number."""

    async def test_backwards(self) -> None:
        """It begins anew when nobody has asked for a day; what is under way goes on."""
        warnings = self.warnings()
        self.pages.incarnation = 56
        await self.running()
        self.pages.publish(azure_event(status="Started"))
        await self.sink.until_said("begin")
        self.pages.publish(azure_event(status="Started"), azure_event("B", status="Started"), incarnation=2)
        await self.sink.until_said("begin", 2)
        self.pages.publish(azure_event("B", status="Started"), incarnation=1)
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [("C7061BAC", "done")])
        self.assertEqual(warnings, ["Azure's document went back from 57 to 2; everything in it is read anew"])

    async def test_sequences_rise(self) -> None:
        sequences: list[int | None] = []
        self.patch(self.sink, "end", lambda source_id, outcome, sequence: sequences.append(sequence))
        await self.running()
        for incarnation in (57, 58, 2, 3, 1):
            self.sink.calls.clear()
            self.pages.publish(azure_event(str(incarnation), status="Started"), incarnation=incarnation)
            await self.sink.until_said("begin")
        self.assertEqual(sequences, sorted(set(sequences)))
        self.assertEqual(len(sequences), 4)


class NodeTests(AzureCase):
    """With the sink of a node, which applies each event once."""

    def setUp(self) -> None:
        super().setUp()
        self.node = RecordingNode()
        adapter = self.make()
        adapter.start(Sink(self.node, "azure", azure.Azure.kinds, reactor.seconds))
        self.addCleanup(adapter.stop)

    async def test_document_that_goes_back(self) -> None:
        """What was begun under a high number goes on under low ones."""
        await self.server.until_asked(3)
        self.pages.publish(azure_event(), incarnation=57)
        await self.server.until(lambda: bool(self.node.held))
        (held,) = self.node.held
        held.waiting[0].callback(Go(confirmed=True))
        await self.server.until(lambda: bool(held.facts))
        self.assertEqual((self.pages.approved, self.pages.incarnation), (["C7061BAC"], 58))
        self.assertEqual([facts["expected_s"] for facts in held.facts], [39.0])
        self.pages.publish(azure_event(status="Started", duration_s=20), incarnation=2)
        await self.server.until(lambda: len(held.facts) == 2)
        self.pages.publish(incarnation=1)
        await self.server.until(lambda: bool(held.outcomes))
        self.assertEqual((held.outcomes, len(self.node.held)), (["done"], 1))

    async def test_its_time_was_over(self) -> None:
        """It is announced anew when it starts."""
        await self.server.until_asked(3)
        self.pages.publish(azure_event())
        await self.server.until(lambda: bool(self.node.held))
        self.node.held[0].over = True
        self.pages.start()
        await self.server.until(lambda: len(self.node.held) == 2)
        self.assertEqual([call[1].holdable for call in self.node.calls if call[0] == "hold"], [True, False])


class FaultsTests(AzureCase):
    """The service breaks down."""

    async def test_events_page(self) -> None:
        await self.running()
        await self.survives(EVENTS)

    async def test_instance_page(self) -> None:
        """A machine without a name hears of nothing."""
        self.server.break_down(broken.says({"compute": {"name": ""}}), INSTANCE)
        self.start()
        await self.sink.until_said("lost", 2)
        self.assertIn("compute.name is empty; give the option name", self.sink.of("lost")[0][0])
        self.server.break_down(broken.says({"network": {}}), INSTANCE)
        await self.sink.until(lambda: "`compute`" in self.sink.of("lost")[-1][0])
        self.assertEqual(self.server.count(EVENTS), 0)
        self.server.mend()
        await self.polled()

    async def test_documents_of_other_forms(self) -> None:
        await self.running()
        for document in (
            [],
            {"DocumentIncarnation": 1},
            {"DocumentIncarnation": "x", "Events": []},
            {"DocumentIncarnation": 1, "Events": {}},
            {"DocumentIncarnation": 1, "Events": [{}]},
            {"DocumentIncarnation": 1, "Events": [azure_event(event_id="x" * 201)]},
            {"DocumentIncarnation": 1, "Events": [azure_event(Resources="vm1")]},
            {"DocumentIncarnation": 1, "Events": [azure_event(DurationInSeconds="9s")]},
        ):
            await self.lost(broken.says(document), "nobody understands", EVENTS)

    async def test_missed(self) -> None:
        """What ended and what began meanwhile is heard afterwards."""
        await self.running()
        self.pages.publish(azure_event(status="Started"))
        await self.sink.until_said("begin")
        self.server.break_down(broken.status(410))
        await self.sink.until_said("lost", 2)
        self.pages.publish(azure_event("B", event_type="Reboot", status="Started", duration_s=-1))
        self.server.mend()
        await self.sink.until_said("begin", 2)
        self.assertEqual(self.sink.of("end"), [("C7061BAC", "done")])
        self.assertEqual(self.sink.under_way(), ("B",))

    async def test_hung(self) -> None:
        await self.running(timeout="50ms")
        problem = await self.lost(broken.hang, "no answer within 50ms", EVENTS)
        self.assertIn("is this a machine of Azure", problem)

    async def test_slow_first_answer(self) -> None:
        """The first question turns the service on, which takes its time."""
        self.server.break_down(
            broken.after(0.3, lambda request: self.pages.answer(self.server.asked[-1], request)), EVENTS
        )
        self.start(name="vm1", timeout="100ms", first_timeout="10s")
        await self.sink.until_said("connected")
        self.assertEqual(self.sink.of("lost"), [])
        await self.sink.until_said("lost")
        self.assertIn("no answer within 100ms", self.sink.of("lost")[0][0])

    async def test_stopped_while_it_hangs(self) -> None:
        self.server.break_down(broken.hang)
        adapter = self.start()
        await self.server.until_asked()
        adapter.stop()
        self.assertEqual(self.sink.calls, [])

    async def test_stopped_before_its_time(self) -> None:
        adapter = self.start()
        await self.polled()
        self.pages.publish(azure_event())
        await self.sink.until_said("begin")
        adapter.stop()  # trial fails if the appointment stays


class ApprovalFaultsTests(AzureCase):
    """The platform does not take an approval."""

    def break_approvals(self, fault: broken.Fault) -> None:
        """Only those."""

        def some(request: Any) -> None:
            if request.method == b"POST":
                fault(request)
            else:
                asked = self.server.asked[-1]
                self.pages.answer(asked, request)

        self.server.break_down(some, EVENTS)

    async def test_given_up(self) -> None:
        """The events are heard meanwhile; the platform begins by itself."""
        warnings = self.warnings()
        self.break_approvals(broken.status(500))
        await self.running()
        await self.confirmed()
        await self.server.until(lambda: self.server.count(method="POST") == azure.APPROVALS_MAX)
        await self.polled(5)
        self.assertEqual(self.server.count(method="POST"), azure.APPROVALS_MAX)
        (warning,) = warnings
        self.assertIn("Azure takes no approval of C7061BAC, and will begin by itself: POST http://127.0.0.1", warning)
        self.assertIn("answered 500", warning)
        self.assertEqual(self.sink.of("lost"), [])

    async def test_taken_the_second_time(self) -> None:
        warnings = self.warnings()
        self.break_approvals(broken.cut)
        await self.running()
        await self.confirmed()
        await self.server.until(lambda: self.server.count(method="POST") == 1)
        self.server.mend()
        await self.sink.until_said("begin", 2)
        self.assertEqual((self.pages.approved, warnings), (["C7061BAC"], []))

    async def test_two_events(self) -> None:
        await self.running()
        self.pages.starts = False
        self.pages.publish(azure_event("A"), azure_event("B"))
        await self.sink.until_said("begin", 2)
        for source_id in "AB":
            self.sink.begun[source_id].callback(Go(confirmed=True))
        await self.server.until(lambda: len(self.pages.approved) == 2)
        self.assertEqual(self.pages.approved, ["A", "B"])
