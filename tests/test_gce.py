"""Google's maintenance-event, replayed by a loopback service with long polls."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from tests import metadata_server as broken
from tests.metadata_server import CloudTestCase, GcePages
from tests.recording_sink import surroundings
from txvbcast.config import CHANGE_KINDS
from txvbcast.interfaces import IChangeAdapter
from txvbcast.virt import BUILT_IN, gce, polling

MIGRATE = "MIGRATE_ON_HOST_MAINTENANCE"
TERMINATE = "TERMINATE_ON_HOST_MAINTENANCE"


class OptionsTests(unittest.TestCase):
    """What may be configured."""

    def refused(self, options: dict[str, object], words: str) -> None:
        """It is refused with these words."""
        self.assertIn(words, str(self.assertRaises(ValueError, gce.make, options, surroundings(reactor))))

    def test_kinds(self) -> None:
        kinds = gce.make({}, surroundings(reactor)).kinds
        self.assertEqual(set(kinds), set(gce.KINDS.values()))
        self.assertLessEqual(set(kinds), set(CHANGE_KINDS))

    def test_built_in(self) -> None:
        adapter = BUILT_IN["gce"].make({}, surroundings(reactor))
        self.assertTrue(verifyObject(IChangeAdapter, adapter))

    def test_refused(self) -> None:
        self.refused(
            {"approve": True}, "approve: there is no such option; expected one of: endpoint, wait, timeout, lead"
        )
        self.refused({"endpoint": "metadata.google.internal"}, "endpoint: expected a URL")
        self.refused({"wait": "500ms"}, "wait: expected at least 1s")
        for name in (
            "wait",
            "timeout",
            "lead",
            "migration_notice",
            "migration_length",
            "termination_notice",
            "termination_length",
        ):
            self.refused({name: 5}, f"{name}: expected a duration")


class GceCase(CloudTestCase):
    """The adapter."""

    adapter = gce
    pages_of = GcePages
    options = {"wait": "1s"}

    def setUp(self) -> None:
        super().setUp()
        self.patch(gce, "PAUSE_S", 0.002)
        self.patch(gce, "UNAVAILABLE_S", 0.1)

    async def running(self, **options: object) -> None:
        """The adapter waits in its first long poll."""
        self.start(**options)
        await self.server.until_asked(2)

    async def lost(self, fault: broken.Fault, words: str, at: str = "") -> str:
        """The long poll under way ends as usual, and the next one meets the fault."""
        reactor.callLater(0.0, self.pages.wake)
        return await super().lost(fault, words, at)

    async def polled(self, times: int = 1) -> None:
        """One answer is enough: the next one takes as long as the long poll."""
        await super().polled(1)

    async def set(self, value: str) -> None:
        """A new value, which the adapter has heard and acted on."""
        asked = self.server.until_asked()
        self.pages.set(value)
        await asked

    def begun(self) -> list[tuple[str, bool, float]]:
        """What has begun: kind, whether it waits, how long it is expected to take."""
        return [(kind, holdable, facts["expected_s"]) for kind, facts, _, holdable, _ in self.sink.of("begin")]


class EventsTests(GceCase):
    """What becomes of each value."""

    async def test_questions(self) -> None:
        await self.running()
        first, second = self.server.asked
        common = {"wait_for_change": "true", "timeout_sec": "1"}
        self.assertEqual((first.method, first.path), ("GET", "/computeMetadata/v1/instance/maintenance-event"))
        self.assertEqual(first.query, {**common, "last_etag": "0"})
        self.assertEqual(second.query, {**common, "last_etag": self.pages.etag})
        self.assertEqual(self.sink.calls, [("connected", f"maintenance-event at {self.server.endpoint}")])

    async def test_nothing_new(self) -> None:
        """A long poll that ends without news says the same value again."""
        await self.running()
        self.pages.wake()
        await self.sink.until_said("connected", 2)
        self.assertEqual(set(self.sink.names()), {"connected"})

    async def test_migration(self) -> None:
        await self.running()
        self.pages.set(MIGRATE)
        await self.sink.until_said("begin")
        ((kind, facts, source_id, holdable, extra),) = self.sink.of("begin")
        self.assertEqual((kind, holdable, extra), ("migrate_out", False, {}))
        self.assertEqual(facts, {"expected_s": 120.0, "maintenance_event": MIGRATE})
        self.pages.set("NONE")
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [(source_id, "done")])
        self.pages.set(MIGRATE)
        await self.sink.until_said("begin", 2)
        self.assertNotEqual(self.sink.of("begin")[1][2], source_id)

    async def test_termination(self) -> None:
        for value in (TERMINATE, "SHUTDOWN_ON_HOST_MAINTENANCE"):
            self.sink.calls.clear()
            self.pages.set("NONE")
            await self.running()
            self.pages.set(value)
            await self.sink.until_said("begin")
            self.assertEqual(self.begun()[0], ("redeploy", False, 360.0))

    async def test_migration_becomes_termination(self) -> None:
        await self.running()
        self.pages.set(MIGRATE)
        await self.sink.until_said("begin")
        self.pages.set(TERMINATE)
        await self.sink.until_said("begin", 2)
        self.assertEqual(self.sink.names("connected"), ["begin", "end", "begin"])
        self.assertEqual(self.sink.of("end")[0][1], "failed")

    async def test_under_way_at_the_start(self) -> None:
        self.pages.set(MIGRATE)
        await self.running()
        self.assertEqual(self.begun(), [("migrate_out", False, 120.0)])

    async def test_lead(self) -> None:
        """Not at the platform's word, but so long before the maintenance; and it needs no further word."""
        await self.running(migration_notice="1800ms", migration_length="5s", lead="1s")
        self.pages.set(MIGRATE)
        await self.sink.until_said("connected", 2)
        self.assertEqual(self.begun(), [])
        self.server.break_down(broken.hang)
        await self.sink.until_said("begin")
        self.assertEqual(self.begun(), [("migrate_out", False, 6.0)])

    async def test_lead_longer_than_the_notice(self) -> None:
        await self.running(migration_notice="30s", lead="1h")
        await self.set(MIGRATE)
        self.assertEqual(self.begun(), [("migrate_out", False, 90.0)])

    async def test_long_notice(self) -> None:
        """A machine with a GPU hears of its termination an hour ahead."""
        await self.running(termination_notice="60m", termination_length="10m")
        await self.set(TERMINATE)
        self.assertEqual(self.begun(), [])
        await self.set("NONE")
        self.assertEqual(set(self.sink.names()), {"connected"})

    async def test_called_off_before_it_was_announced(self) -> None:
        await self.running(migration_notice="1500ms", lead="1s")
        await self.set(MIGRATE)
        await self.set("NONE")
        await deferLater(reactor, 0.6)
        self.assertEqual(set(self.sink.names()), {"connected"})

    async def test_its_time_was_over(self) -> None:
        await self.running()
        await self.set(MIGRATE)
        self.sink.end(self.sink.of("begin")[0][2], "overdue")
        await self.set("NONE")
        self.assertEqual([outcome for _, outcome in self.sink.of("end")], ["overdue"])


class FaultsTests(GceCase):
    """The service breaks down."""

    async def test_page(self) -> None:
        await self.running()
        await self.survives(json=False)
        self.assertEqual(set(self.sink.names()), {"connected", "lost"})

    async def test_unavailable_during_maintenance(self) -> None:
        """503 is no end; the service is asked again soon, and not later and later."""
        self.patch(polling, "back_off_s", lambda failures: 3600.0)
        await self.running()
        self.pages.set(MIGRATE)
        await self.sink.until_said("begin")
        self.server.break_down(broken.status(503))
        self.pages.wake()
        await self.sink.until_said("lost", 3)
        self.assertEqual(self.sink.of("end"), [])
        self.assertIn("answered 503", self.sink.of("lost")[0][0])
        self.server.mend()
        self.pages.set("NONE")
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end")[0][1], "done")

    async def test_missed_while_lost(self) -> None:
        """After silence the present value is asked for."""
        await self.running()
        self.server.break_down(broken.cut)
        self.pages.set(MIGRATE)  # the long poll that waits is answered, the next one is cut
        await self.sink.until_said("lost")
        self.pages.set("NONE")
        asked = len(self.server.asked)
        self.server.mend()
        await self.sink.until_said("end")
        self.assertIn("0", [later.query["last_etag"] for later in self.server.asked[asked - 1 :]])

    async def test_unknown_value(self) -> None:
        """It is said, and is no end."""
        await self.running()
        self.pages.set(MIGRATE)
        await self.sink.until_said("begin")
        self.pages.set("BAKE_A_CAKE")
        await self.sink.until_said("lost", 2)
        self.assertIn("no value of maintenance-event): b'BAKE_A_CAKE'", self.sink.of("lost")[0][0])
        self.assertEqual(self.sink.of("end"), [])
        self.pages.set("NONE")
        await self.sink.until_said("end")

    async def test_somebody_else(self) -> None:
        await self.running()
        await self.lost(broken.says("NONE", ETag="1"), "it is not Google's metadata server")

    async def test_no_etag(self) -> None:
        """Then every question is answered at once; it is asked no more often than with pauses."""
        self.server.break_down(broken.says(MIGRATE, Metadata_Flavor="Google"))
        self.start()
        await self.server.until_asked(3)
        self.assertEqual({asked.query["last_etag"] for asked in self.server.asked}, {"0"})
        self.assertEqual(len(self.begun()), 1)

    async def test_strange_etag(self) -> None:
        self.server.break_down(broken.says("NONE", Metadata_Flavor="Google", ETag="a&b=\xff " + "c" * 1000))
        self.start()
        await self.server.until_asked(3)
        etag = self.server.asked[-1].query["last_etag"]
        self.assertEqual((etag[:4], len(etag)), ("a&b=", 200))
        self.assertEqual(self.sink.of("lost"), [])

    async def test_hung(self) -> None:
        """The question for the present value has a short limit, the long poll one above its wait."""
        self.server.break_down(broken.hang)
        self.start(timeout="50ms")
        await self.sink.until_said("lost")
        self.assertIn("no answer within 50ms", self.sink.of("lost")[0][0])
        self.server.mend()
        await self.sink.until_said("connected", 2)  # the second one had waited for its second
        self.server.break_down(broken.hang)
        await self.sink.until(lambda: "no answer within 1050ms" in self.sink.of("lost")[-1][0])

    async def test_stopped_in_a_long_poll(self) -> None:
        adapter = self.start()
        await self.server.until_asked(2)
        said = list(self.sink.calls)
        adapter.stop()
        self.assertEqual(self.sink.calls, said)

    async def test_stopped_before_its_time(self) -> None:
        adapter = self.start(lead="1s")
        await self.server.until_asked(2)
        self.pages.set(MIGRATE)
        await self.sink.until_said("connected", 2)
        adapter.stop()
        self.assertEqual(self.begun(), [])
