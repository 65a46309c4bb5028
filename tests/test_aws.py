"""EC2's instance metadata, replayed by a loopback service that insists on tokens."""

from __future__ import annotations

import time
from email.utils import formatdate

from twisted.internet import reactor
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from tests import metadata_server as broken
from tests.metadata_server import AwsPages, CloudTestCase
from tests.recording_sink import surroundings
from txvbcast.config import CHANGE_KINDS
from txvbcast.interfaces import IChangeAdapter
from txvbcast.virt import BUILT_IN, aws


def aws_time(in_s: float) -> str:
    """As EC2 writes it, that is, without the day of the week."""
    return formatdate(time.time() + in_s, usegmt=True).split(", ")[1]


def event(
    event_id: str = "instance-event-0d59937288b749b32",
    code: str = "system-reboot",
    in_s: float = 10.0,
    until_s: float | None = 1000.0,
    state: str = "active",
    **other: object,
) -> dict[str, object]:
    """An item of the list; times from now."""
    times = {"NotBefore": aws_time(in_s)} | ({} if until_s is None else {"NotAfter": aws_time(until_s)})
    return {"EventId": event_id, "Code": code, "State": state, "Description": "scheduled reboot", **times, **other}


class OptionsTests(unittest.TestCase):
    """What may be configured."""

    def refused(self, options: dict[str, object], words: str) -> None:
        """It is refused with these words."""
        self.assertIn(words, str(self.assertRaises(ValueError, aws.make, options, surroundings(reactor))))

    def test_kinds(self) -> None:
        kinds = aws.make({}, surroundings(reactor)).kinds
        known = {*aws.KINDS.values(), *aws.SPOT_KINDS.values(), aws.UNKNOWN_KIND, aws.SPOT_KIND}
        self.assertEqual(set(kinds), known)
        self.assertLessEqual(known, set(CHANGE_KINDS))

    def test_built_in(self) -> None:
        adapter = BUILT_IN["aws"].make({}, surroundings(reactor))
        self.assertTrue(verifyObject(IChangeAdapter, adapter))

    def test_refused(self) -> None:
        self.refused(
            {"approve": True}, "approve: there is no such option; expected one of: endpoint, interval, timeout"
        )
        self.refused({"endpoint": "http://169.254.169.254/latest"}, "endpoint: expected a URL")
        self.refused({"rebalance": "no"}, "rebalance: expected true or false")
        for name in ("interval", "timeout", "lead"):
            self.refused({name: "5 parsecs"}, f"{name}: '5 parsecs' has the unknown unit")


class AwsCase(CloudTestCase):
    """The adapter."""

    adapter = aws
    pages_of = AwsPages
    options = {"interval": "2ms"}

    async def running(self, **options: object) -> None:
        """The adapter has heard that nothing is planned."""
        self.start(**options)
        await self.polled()

    def begun(self) -> list[tuple[str, str, bool, dict[str, object]]]:
        """What has begun: kind, name, whether it waits, and the rest."""
        return [(kind, name, holdable, extra) for kind, _, name, holdable, extra in self.sink.of("begin")]


class TokenTests(AwsCase):
    """Nothing is told without one."""

    async def test_questions(self) -> None:
        await self.running()
        first, second = self.server.asked[:2]
        self.assertEqual((first.method, first.path), ("PUT", "/latest/api/token"))
        self.assertEqual(first.header("X-aws-ec2-metadata-token-ttl-seconds"), "21600")
        self.assertEqual((second.method, second.path), ("GET", "/latest/meta-data/spot/instance-action"))
        self.assertEqual(second.header("X-aws-ec2-metadata-token"), "AQAEA1==")
        self.assertEqual(self.server.count("token"), 1)
        self.assertEqual(set(self.sink.calls), {("connected", f"EC2's instance metadata at {self.server.endpoint}")})

    async def test_renewed(self) -> None:
        await self.running()
        self.pages.expire()
        await self.polled()
        self.assertEqual(self.server.count("token"), 2)
        self.assertEqual(self.sink.of("lost"), [])

    async def test_never_good(self) -> None:
        """It is not asked for again and again without a pause."""
        self.server.break_down(broken.status(401), "meta-data")
        self.start()
        await self.sink.until_said("lost", 2)
        self.assertIn("answered 401", self.sink.of("lost")[0][0])
        self.assertLessEqual(self.server.count("token"), 3)

    async def test_no_token(self) -> None:
        await self.running()
        for text in ("", "two words", "x" * 1025, "line\nbreak", "ä"):
            self.pages.expire()
            await self.lost(broken.says(text), "no token", "/latest/api/token")

    async def test_service_switched_off(self) -> None:
        self.server.break_down(broken.status(403))
        self.start()
        await self.sink.until_said("lost")
        self.assertIn("PUT", self.sink.of("lost")[0][0])
        self.assertIn("answered 403", self.sink.of("lost")[0][0])


class ScheduledTests(AwsCase):
    """Maintenance that is known days ahead."""

    async def test_whole_way(self) -> None:
        await self.running()
        self.pages.events = [event(in_s=86400.0, until_s=87400.0)]
        await self.polled()
        self.assertEqual(self.begun(), [])
        self.pages.events = [event(in_s=10.0, until_s=1000.0)]
        await self.sink.until_said("begin")
        ((kind, facts, name, holdable, extra),) = self.sink.of("begin")
        self.assertEqual((kind, name), ("reboot", "instance-event-0d59937288b749b32"))
        self.assertEqual((holdable, extra), (False, {}))
        self.assertTrue(980 < facts.pop("expected_s") <= 1000)
        self.assertEqual(facts, {"code": "system-reboot", "description": "scheduled reboot"})
        await self.polled()
        self.pages.events = []
        await self.sink.until_said("end")
        self.assertEqual(self.sink.names("connected"), ["begin", "end"])
        self.assertEqual(self.sink.of("end"), [(name, "cancelled")])

    async def test_lead(self) -> None:
        """Announced when the time has come; and that needs no further word."""
        await self.running(lead="3598s")
        self.pages.events = [event(in_s=3600.0)]
        await self.polled()
        self.assertEqual(self.begun(), [])
        self.server.break_down(broken.hang)
        await self.sink.until_said("begin")
        self.assertEqual(len(self.begun()), 1)

    async def test_kinds(self) -> None:
        await self.running()
        kinds = {**aws.KINDS, "instance-melt": "custom"}
        self.pages.events = [event(code, code) for code in kinds]
        await self.sink.until_said("begin", len(kinds))
        self.assertEqual({name: kind for kind, name, _, _ in self.begun()}, kinds)

    async def test_completed(self) -> None:
        for state, outcome in (("completed", "done"), ("canceled", "cancelled")):
            self.sink.calls.clear()
            self.pages.events = []
            self.start()
            await self.polled()
            self.pages.events = [event(state, "system-maintenance", in_s=-5.0)]
            await self.sink.until_said("begin")
            self.pages.events = [event(state, "system-maintenance", in_s=-5.0, state=state)]
            await self.sink.until_said("end")
            self.assertIn((state, outcome), self.sink.of("end"))

    async def test_put_off(self) -> None:
        await self.running()
        self.pages.events = [event()]
        await self.sink.until_said("begin")
        self.pages.events = [event(in_s=86400.0, until_s=90000.0)]
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end")[0][1], "cancelled")
        self.pages.events = [event()]
        await self.sink.until_said("begin", 2)

    async def test_longer(self) -> None:
        """A later end is a new estimate."""
        await self.running()
        self.pages.events = [event(until_s=1000.0)]
        await self.sink.until_said("begin")
        self.pages.events = [event(until_s=2000.0)]
        await self.sink.until_said("begin", 2)
        self.assertTrue(1980 < self.sink.of("begin")[1][1]["expected_s"] <= 2000)
        self.assertEqual(self.sink.of("end"), [])

    async def test_called_off_before_it_was_announced(self) -> None:
        await self.running(lead="3599s")
        self.pages.events = [event("A", in_s=3600.0, until_s=None), event("B", in_s=3601.0, until_s=None)]
        await self.polled()
        self.pages.events = self.pages.events[1:]
        await self.sink.until_said("begin")
        self.assertEqual([name for _, name, _, _ in self.begun()], ["B"])

    async def test_no_end_known(self) -> None:
        await self.running()
        self.pages.events = [event(until_s=None, code="instance-stop")]
        await self.sink.until_said("begin")
        self.assertNotIn("expected_s", self.sink.of("begin")[0][1])

    async def test_end_is_past(self) -> None:
        """It stays listed for a while."""
        await self.running()
        self.pages.events = [event(in_s=-100.0, until_s=-5.0)]
        await self.polled()
        self.assertEqual(self.begun(), [])

    async def test_machine_restarted_since(self) -> None:
        """A reboot that began before this machine was started is behind it; a maintenance of the network is not."""
        uptime_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.pages.events = [event(code, code, in_s=-uptime_s - 60.0) for code in aws.KINDS]
        self.start()
        await self.polled()
        self.assertEqual([name for _, name, _, _ in self.begun()], ["system-maintenance"])

    async def test_machine_not_restarted_yet(self) -> None:
        self.pages.events = [event(in_s=-1.0)]
        self.start()
        await self.polled()
        self.assertEqual(len(self.begun()), 1)

    async def test_time_unreadable(self) -> None:
        """Events are known days ahead: without a time nothing can be announced, but it is said, once."""
        warnings = self.warnings()
        await self.running()
        self.pages.events = [event(NotBefore="soon"), event("B")]
        await self.sink.until_said("begin")
        await self.polled(3)
        self.assertEqual([name for _, name, _, _ in self.begun()], ["B"])
        (warning,) = warnings
        self.assertIn("instance-event-0d59937288b749b32 is passed over: NotBefore 'soon' is no time", warning)

    async def test_no_page(self) -> None:
        """Some machines have no list at all."""
        self.pages.events = None
        await self.running()
        self.assertEqual(self.sink.of("lost"), [])

    async def test_its_time_was_over(self) -> None:
        await self.running()
        self.pages.events = [event()]
        await self.sink.until_said("begin")
        self.sink.end("instance-event-0d59937288b749b32", "overdue")
        self.pages.events = []
        await self.polled()
        self.assertEqual(len(self.sink.of("end")), 1)


class SpotTests(AwsCase):
    """Two minutes."""

    async def test_interruption(self) -> None:
        await self.running()
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120.0))
        self.pages.spot = {"action": "terminate", "time": at}
        await self.sink.until_said("begin")
        expected = ("redeploy", {"spot_action": "terminate", "spot_time": at}, "spot terminate", False, {})
        self.assertEqual(self.sink.of("begin"), [expected])
        await self.polled()
        self.pages.spot = None
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [("spot terminate", "cancelled")])
        self.assertEqual(len(self.begun()), 1)

    async def test_back_again(self) -> None:
        """Hibernated, and woken up."""
        await self.running()
        self.pages.spot = {"action": "hibernate", "time": "2017-09-18T08:22:00Z"}
        await self.sink.until_said("begin")
        self.assertEqual(self.begun(), [("suspend", "spot hibernate", False, {})])
        self.pages.spot = None
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [("spot hibernate", "done")])

    async def test_time_unknown(self) -> None:
        await self.running()
        self.pages.spot = {"action": "stop"}
        await self.sink.until_said("begin")
        self.pages.spot = None
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [("spot stop", "done")])

    async def test_rebalance(self) -> None:
        """People are told, once; nothing is announced, for nothing happens yet."""
        warnings = self.warnings()
        await self.running()
        for since in ("2020-10-26T21:03:00Z", "2020-10-27T21:03:00Z"):
            self.pages.rebalance = {"noticeTime": since}
            await self.polled(3)
            self.assertIn(f"Amazon says since {since} that this spot instance is likely", warnings[-1])
        self.assertEqual((len(warnings), self.begun()), (2, []))

    async def test_rebalance_switched_off(self) -> None:
        await self.running(rebalance=False)
        self.assertEqual(self.server.count("rebalance"), 0)


class FaultsTests(AwsCase):
    """The service breaks down."""

    async def test_pages(self) -> None:
        await self.running()
        await self.survives(aws.SCHEDULED_PATH)
        self.assertEqual(set(self.sink.names()), {"connected", "lost"})

    async def test_spot_page(self) -> None:
        await self.running()
        for body in ([], {"time": "x"}, {"action": 3}, {"action": "x" * 201}):
            await self.lost(broken.says(body), "nobody understands", aws.SPOT_PATH)

    async def test_scheduled_page(self) -> None:
        await self.running()
        for body in ({}, [3], [{"Code": "x"}], [event(NotBefore=3)], [event(event_id="x" * 201)]):
            await self.lost(broken.says(body), "nobody understands", aws.SCHEDULED_PATH)

    async def test_rebalance_page(self) -> None:
        await self.running()
        await self.lost(broken.says({"noticeTime": 3}), "nobody understands", aws.REBALANCE_PATH)

    async def test_missed(self) -> None:
        """What ended and what began meanwhile is heard afterwards."""
        await self.running()
        self.pages.events = [event("A", in_s=-1.0)]
        await self.sink.until_said("begin")
        self.server.break_down(broken.status(500))
        await self.sink.until_said("lost", 2)
        self.pages.events = [event("B")]
        self.server.mend()
        await self.sink.until_said("begin", 2)
        self.assertEqual(self.sink.of("end"), [("A", "done")])
        self.assertEqual(self.sink.under_way(), ("B",))

    async def test_hung(self) -> None:
        await self.running(timeout="50ms")
        await self.lost(broken.hang, "no answer within 50ms", aws.SPOT_PATH)

    async def test_stopped_while_it_hangs(self) -> None:
        self.server.break_down(broken.hang)
        adapter = self.start()
        await self.server.until_asked()
        adapter.stop()
        self.assertEqual(self.sink.calls, [])

    async def test_stopped_before_its_time(self) -> None:
        adapter = self.start()
        self.pages.events = [event(in_s=86400.0, until_s=None)]
        await self.polled()
        adapter.stop()  # trial fails if the appointment stays
