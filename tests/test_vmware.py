"""The adapter ``vmware``, with a program that plays the guest's tools."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from tests.recording_sink import RecordingSink, surroundings
from txvbcast.interfaces import Go, IChangeAdapter
from txvbcast.virt import vmware

TOOLS = Path(__file__).parent / "fake_vmtoolsd.py"

#: Greater than 2**53, as the real ones are: a float would change its last digits.
OPERATION = 6279072692702276663

NEW_HOST: dict[str, Any] = {
    "enabled": True,
    "tokens": [],
    "queue": [],
    "acknowledged": [],
    "calls": [],
    "behaviour": {},
}


def started(**changes: object) -> dict[str, object]:
    """The event before a migration."""
    return {
        "eventType": "start", "opType": "host-migration", "eventGenTimeInSec": int(time.time()),
        "notificationTimeoutInSec": 120, "destNotificationTimeoutInSec": 120, "notificationTypes": ["sla-miss"],
        "operationId": OPERATION, **changes,
    }  # fmt: skip


def ended(status: str = "success") -> dict[str, object]:
    """The event after it; the clock of the other host is behind."""
    return {
        "eventType": "end", "opType": "host-migration", "opStatus": status, "eventGenTimeInSec": 1000,
        "notificationTypes": ["sla-miss"], "operationId": OPERATION,
    }  # fmt: skip


class Case(unittest.TestCase):
    """An adapter, the program that it runs, and the host behind that."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.data_dir = self.folder / "data"
        self.data_dir.mkdir()
        self.host_path = self.folder / "host.json"
        self.host_path.write_text(json.dumps(NEW_HOST))
        self.sink = RecordingSink()

    def host(self, **changes: object) -> dict[str, Any]:
        """The host as it is, after some changes."""
        with self.host_path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            host: dict[str, Any] = json.load(file)
            if changes:
                host.update(changes)
                file.seek(0)
                file.truncate()
                json.dump(host, file)
        return host

    def until_host(self, condition: Callable[[dict[str, Any]], bool]) -> Deferred[dict[str, Any]]:
        """Fires with the host as soon as something holds of it."""
        host = self.host()
        if condition(host):
            return deferLater(reactor, 0, lambda: host)
        return deferLater(reactor, 0.02).addCallback(lambda _: self.until_host(condition))

    def said(self, name: str, times: int = 1) -> Deferred[None]:
        """Fires when the adapter has said something, and has left the reactor's turn in which it did."""
        return self.sink.until_said(name, times).addCallback(lambda _: deferLater(reactor, 0))

    def calls(self) -> list[str]:
        return [rpc for rpc, _, _ in self.host()["calls"]]

    def start(self, **options: object) -> None:
        """A new adapter."""
        command = [sys.executable, "-S", str(TOOLS), str(self.folder), "--cmd"]
        given = {"command": command, "poll": "50ms", "timeout": "20s", **options}
        self.adapter: Any = vmware.make(given, surroundings(reactor, self.data_dir))
        verifyObject(IChangeAdapter, self.adapter)
        self.adapter.start(self.sink)
        self.addCleanup(self.adapter.stop)


class MigrationTests(Case):
    """From the notice to the end."""

    @inlineCallbacks
    def test_migration(self) -> Any:
        self.start()
        yield self.said("connected")
        self.host(queue=[{"eventType": "timeout-change", "newNotificationTimeoutInSec": 60}, started()])
        yield self.said("begin")
        ((kind, facts, source_id, holdable, extra),) = self.sink.of("begin")
        self.assertEqual(
            (kind, facts, source_id, holdable), ("migrate_out", {"operation": "host-migration"}, str(OPERATION), True)
        )
        # Of 120 s the margin of 2 s is off, and what has passed since a time in whole seconds.
        self.assertTrue(100 < extra["hold_s"] <= 118, extra)
        before = len(self.calls())
        yield self.until_host(lambda host: len(host["calls"]) >= before + 3)
        self.assertNotIn("ack-event", self.calls())  # it asks on, and the host is held

        self.sink.begun[source_id].callback(Go(confirmed=True))
        host = yield self.until_host(lambda host: bool(host["acknowledged"]))
        self.assertEqual(host["acknowledged"], [OPERATION])
        self.host(queue=[ended()])
        yield self.said("end")
        self.assertEqual(self.sink.of("end"), [(source_id, "done")])
        self.assertEqual(self.sink.of("lost"), [])
        self.assertEqual(self.calls().count("register"), 1)
        self.assertEqual(self.calls().count("ack-event"), 1)

    @inlineCallbacks
    def test_failed_migration(self) -> Any:
        self.host(queue=[started(), ended("failure")])
        self.start()
        yield self.said("end")
        self.assertEqual(self.sink.of("end"), [(str(OPERATION), "failed")])

    @inlineCallbacks
    def test_how_long_the_host_can_be_held(self) -> Any:
        now = int(time.time())
        for number, (changes, least, most) in enumerate(
            (
                ({"eventGenTimeInSec": now - 60}, 40, 58),
                ({"eventGenTimeInSec": now + 3600}, 118, 118),  # its clock is no use
                ({"eventGenTimeInSec": now - 3600}, 118, 118),
                ({"notificationTimeoutInSec": 1}, 0, 0),  # less than the margin
                ({"notificationTimeoutInSec": 0}, 0, 0),  # the host's default
                ({"eventGenTimeInSec": None}, 118, 118),
                ({"eventGenTimeInSec": now - 20, "notificationTimeoutInSec": 30.5}, 0.1, 8.5),
            )
        ):
            sink = self.sink = RecordingSink()
            self.host(queue=[started(operationId=number, **changes)])
            self.start()
            yield self.said("begin")
            ((_, _, _, holdable, extra),) = sink.of("begin")
            self.assertTrue(least <= extra["hold_s"] <= most, f"{changes}: {extra}")
            self.assertEqual(holdable, most > 0)
            yield self.adapter.stop()

    @inlineCallbacks
    def test_another_operation(self) -> Any:
        """One that did not exist when this was written holds the machine up as well."""
        self.host(queue=[started(opType="host-teleportation")])
        self.start()
        yield self.said("begin")
        self.assertEqual(self.sink.of("begin")[0][:2], ("custom", {"operation": "host-teleportation"}))

    @inlineCallbacks
    def test_events_that_nobody_knows(self) -> Any:
        """Are passed over."""
        self.host(queue=[{"eventType": "party"}, {"eventType": "start"}, started()])
        self.start()
        yield self.said("begin")
        self.assertEqual(self.sink.names("connected"), ["begin"])

    @inlineCallbacks
    def test_many_events(self) -> Any:
        """In a row, as long as there are some, up to ten; then it is heard, and asks again after its interval."""
        self.host(queue=[started(operationId=number) for number in range(12)])
        self.start()
        yield self.said("begin", 12)
        self.assertEqual(self.sink.names(), ["begin"] * 10 + ["connected"] + ["begin"] * 2)
        self.assertEqual([call[2] for call in self.sink.of("begin")], [str(number) for number in range(12)])


class AcknowledgementTests(Case):
    """The host's side of a Go."""

    @inlineCallbacks
    def test_tried_again(self) -> Any:
        self.host(queue=[started()], behaviour={"ack-event": "garbage"})
        self.start()
        yield self.said("begin")
        self.sink.begun[str(OPERATION)].callback(Go(confirmed=True))
        yield self.until_host(lambda host: sum(call[0] == "ack-event" for call in host["calls"]) == 1)
        self.host(behaviour={})
        host = yield self.until_host(lambda host: bool(host["acknowledged"]))
        self.assertEqual(host["acknowledged"], [OPERATION])
        self.assertEqual(self.sink.of("lost"), [])  # the other questions were answered

    @inlineCallbacks
    def test_refused(self) -> Any:
        """Once is enough."""
        self.host(queue=[started()])
        self.start()
        yield self.said("begin")
        refusal = json.dumps({"result": False, "errorMessage": "no such operation"})
        self.host(behaviour={"ack-event": refusal})
        self.sink.begun[str(OPERATION)].callback(Go(confirmed=True))
        yield self.until_host(lambda host: "ack-event" in [call[0] for call in host["calls"]])
        yield deferLater(reactor, 2.5)  # longer than the longest pause before a second try
        self.assertEqual(self.calls().count("ack-event"), 1)

    @inlineCallbacks
    def test_go_after_stop(self) -> Any:
        """Nothing is run any more."""
        self.host(queue=[started()])
        self.start()
        yield self.said("begin")
        yield self.adapter.stop()
        before = len(self.calls())
        self.sink.begun[str(OPERATION)].callback(Go(confirmed=True))
        yield deferLater(reactor, 0.3)
        self.assertEqual(len(self.calls()), before)

    @inlineCallbacks
    def test_stop_while_it_is_tried(self) -> Any:
        self.host(queue=[started()], behaviour={"ack-event": "hang"})
        self.start()
        yield self.said("begin")
        self.sink.begun[str(OPERATION)].callback(Go(confirmed=True))
        host = yield self.until_host(lambda host: "ack-event" in [call[0] for call in host["calls"]])
        (pid,) = [pid for rpc, _, pid in host["calls"] if rpc == "ack-event"]
        yield self.adapter.stop()
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)


class TokenTests(Case):
    """It is shown once, and there is room for one application."""

    @property
    def path(self) -> Path:
        return self.data_dir / "vmware.token"

    @inlineCallbacks
    def test_kept_over_restarts(self) -> Any:
        for _ in range(2):
            self.start()
            yield self.said("connected", len(self.sink.of("connected")) + 1)
            yield self.adapter.stop()
        host = self.host()
        self.assertEqual(self.calls().count("register"), 1)
        self.assertNotIn("unregister", self.calls())
        self.assertEqual(host["calls"][0][1], {"appName": "txvbcast", "notificationTypes": ["sla-miss"]})
        self.assertEqual(self.path.read_text(), host["tokens"][0])
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual([path.name for path in self.data_dir.iterdir()], ["vmware.token"])

    @inlineCallbacks
    def test_forgotten_by_the_host(self) -> Any:
        """Another is asked for; what was told meanwhile is not lost."""
        self.path.write_text("an-old-token")
        self.host(queue=[started()])
        self.start(app_name="my node")
        yield self.said("begin")
        host = self.host()
        self.assertEqual(self.calls()[:3], ["check-for-event", "register", "check-for-event"])
        self.assertEqual(host["calls"][1][1]["appName"], "my node")
        self.assertEqual(self.path.read_text(), host["tokens"][0])
        self.assertEqual(self.sink.of("lost"), [])

    @inlineCallbacks
    def test_no_room(self) -> Any:
        """The old token is kept: the host may know it again, as after a migration back."""
        self.path.write_text("an-old-token")
        self.host(tokens=["somebody-else"])
        self.start()
        yield self.said("lost")
        self.assertIn("Max allowed limit of 1 concurrent apps already registered", self.sink.of("lost")[0][0])
        self.host(tokens=["an-old-token"])
        yield self.said("connected")
        self.assertEqual(self.path.read_text(), "an-old-token")

    @inlineCallbacks
    def test_cannot_be_kept(self) -> Any:
        """Then the node does not register: nobody could use, or give back, what it would get."""
        self.data_dir.rmdir()
        self.start()
        yield self.said("lost")
        self.assertIn(f"the token cannot be kept in {self.data_dir}", self.sink.of("lost")[0][0])
        self.assertEqual(self.calls(), [])
        self.data_dir.mkdir()
        yield self.said("connected")

    @inlineCallbacks
    def test_cannot_be_read(self) -> Any:
        self.path.mkdir()
        self.start()
        yield self.said("lost")
        self.assertIn("the token cannot be read from", self.sink.of("lost")[0][0])
        self.assertEqual(self.calls(), [])

    @inlineCallbacks
    def test_rubbish_in_its_file(self) -> Any:
        self.path.write_bytes(b"\xff\xfe" * 10_000)
        self.start()
        yield self.said("connected")
        self.assertEqual(self.path.read_text(), self.host()["tokens"][0])

    @inlineCallbacks
    def test_registered_without_a_token(self) -> Any:
        self.host(behaviour={"register": '{"version": "1.0.0", "result": true}'})
        self.start()
        yield self.said("lost")
        self.assertIn("registered this node without a token", self.sink.of("lost")[0][0])
        self.assertFalse(self.path.exists())


class FaultTests(Case):
    """What the program may do instead of answering: it is said, and asked again later."""

    @inlineCallbacks
    def check(self, behaviour: str, expected: str, **options: object) -> Any:
        """Lost for that reason, then heard, with the event that has waited."""
        self.host(behaviour={"check-for-event": behaviour}, queue=[started()])
        self.start(**options)
        yield self.said("lost")
        self.assertIn(expected, self.sink.of("lost")[0][0])
        self.assertEqual(set(self.sink.names()), {"lost"})
        self.host(behaviour={})
        yield self.said("connected")
        self.assertEqual(len(self.sink.of("begin")), 1)

    @inlineCallbacks
    def test_stays_so(self) -> Any:
        """The same is said in the same words, so that it is logged once."""
        self.host(behaviour={"register": "?!"})
        self.start()
        yield self.said("lost", 3)
        self.assertEqual(len(set(self.sink.of("lost"))), 1, self.sink.calls)

    @inlineCallbacks
    def test_hang(self) -> Any:
        yield self.check("hang", "asked to check-for-event, did not answer within 1500ms", timeout="1500ms")
        for _, _, pid in self.host()["calls"][:3]:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_fail(self) -> Deferred[Any]:
        return self.check("fail", "said nothing; it ended with exit code 3")

    def test_outside_of_vmware(self) -> Deferred[Any]:
        return self.check("outside", "said nothing; it ended with exit code 1; is this machine a guest of VMware?")

    def test_complaint(self) -> Deferred[Any]:
        return self.check("complain", "it ended with exit code 1: Unable to send command to VMware hypervisor.")

    def test_flood(self) -> Deferred[Any]:
        return self.check("flood", "says more than 65536 bytes")

    def test_garbage(self) -> Deferred[Any]:
        return self.check("?!", "gave no answer that is understood, b'?!\\n'; it ended with exit code 0")

    def test_half_a_json(self) -> Deferred[Any]:
        return self.check('{"version": "1.0.0", "resu', "no answer that is understood")

    def test_deep_json(self) -> Deferred[Any]:
        return self.check('{"x":' + "[" * 10_000, "no answer that is understood")

    def test_not_utf8(self) -> Deferred[Any]:
        return self.check('{"result": true, "eventType": "\udcff"}', "no answer that is understood")

    def test_an_operation_that_is_no_whole_number(self) -> Deferred[Any]:
        event = json.dumps({"result": True, **started(operationId=6.2e18)})
        return self.check(event, "no answer that is understood")

    def test_other_refusal(self) -> Deferred[Any]:
        refusal = json.dumps({"result": False, "errorMessage": "the host is busy"})
        return self.check(refusal, "was refused: the host is busy")

    def test_refusal_without_reason(self) -> Deferred[Any]:
        return self.check('{"result": false}', "was refused: no reason is given")

    @inlineCallbacks
    def test_not_enabled(self) -> Any:
        self.host(enabled=False)
        self.start()
        yield self.said("lost")
        self.assertIn("VM operation notification not enabled on this VM", self.sink.of("lost")[0][0])
        self.assertFalse((self.data_dir / "vmware.token").exists())

    @inlineCallbacks
    def test_no_such_program(self) -> Any:
        self.start(command=[str(self.folder / "tools")])
        yield self.said("lost", 2)
        self.assertEqual(
            set(self.sink.of("lost")), {(f"'{self.folder}/tools' cannot be run: No such file or directory",)}
        )

    @inlineCallbacks
    def test_stop_while_it_hangs(self) -> Any:
        self.host(behaviour={"*": "hang"})
        self.start()
        host = yield self.until_host(lambda host: bool(host["calls"]))
        yield self.adapter.stop()
        self.assertRaises(ProcessLookupError, os.kill, host["calls"][0][2], 0)
        self.assertEqual(self.sink.calls, [])


class OptionTests(unittest.TestCase):
    """What cannot be used is refused by name."""

    def test_refused(self) -> None:
        for options, expected in (
            ({"command": []}, "command: expected a program and its arguments"),
            ({"command": ["a\0"]}, "command: expected a program and its arguments"),
            ({"command": "vmtoolsd"}, "command: expected a list of texts"),
            ({"app_name": ""}, "app_name: expected a text that is not empty"),
            ({"poll": "1"}, "poll: '1' has no unit"),
            ({"timeout": "0s"}, "timeout: expected at least 0.001s"),
            ({"margin": 2}, "margin: expected a duration"),
            (
                {"token": "x"},
                "token: there is no such option; expected one of: command, app_name, poll, timeout, margin",
            ),
        ):
            with self.assertRaises(ValueError) as caught:
                vmware.make(options, surroundings(reactor))
            self.assertIn(expected, str(caught.exception))

    def test_defaults(self) -> None:
        adapter = vmware.make({}, surroundings(reactor))
        self.assertEqual(tuple(adapter.kinds), ("migrate_out", "custom"))
        self.assertIsNone(self.successResultOf(adapter.stop()))
