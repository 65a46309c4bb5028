"""The qmp adapter against a socket that speaks QEMU's machine protocol, well and badly."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from tests.recording_sink import RecordingSink, surroundings
from txvbcast.interfaces import Go, IChangeAdapter
from txvbcast.virt import BUILT_IN, polling, qmp
from txvbcast.virt.qmp_machine import Balloon, Job, Look, Machine, MemorySize, Migration, RunState
from txvbcast.virt.qmp_protocol import LINE_BYTES_MAX, Event

reactor: Any = _reactor

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": ["oob"]}}

#: What a machine of 256 MiB answers that runs and does nothing else.
QUIET: dict[str, Any] = {
    "qmp_capabilities": {},
    "migrate-set-capabilities": {},
    "query-status": {"running": True, "singlestep": False, "status": "running"},
    "query-migrate": {},
    "query-jobs": [],
    "query-memory-size-summary": {"base-memory": 256 << 20, "plugged-memory": 0},
    "query-balloon": {"actual": 256 << 20},
}

COPYING: dict[str, Any] = {
    "status": "active",
    "expected-downtime": 300,
    "ram": {
        "total": 1 << 30, "remaining": 1 << 29, "page-size": 4096, "pages-per-second": 25000, "mbps": 800.5,
        "dirty-pages-rate": 0, "dirty-sync-count": 1, "transferred": 1 << 29,
    },
}  # fmt: skip


class Refusal(Exception):
    """What a command is answered with that cannot be performed."""


class Monitor(LineOnlyReceiver):
    """QEMU's end of one connection."""

    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def __init__(self, qemu: Qemu) -> None:
        self._qemu = qemu

    def connectionMade(self) -> None:
        """Greet, in this QEMU's way."""
        self._qemu.monitors.append(self)
        self.send_bytes(self._qemu.greeting)

    def send_bytes(self, content: bytes) -> None:
        """Anything."""
        self.transport.write(content)

    def send(self, document: object) -> None:
        """A line that QEMU could have written."""
        self.send_bytes(json.dumps(document).encode() + b"\r\n")

    def event(self, name: str, at_us: int = 0, **data: object) -> None:
        """An event."""
        timestamp = {"seconds": at_us // 1_000_000, "microseconds": at_us % 1_000_000}
        self.send({"event": name, "data": data, "timestamp": timestamp})

    def lineReceived(self, line: bytes) -> None:
        """Answer a command, unless this QEMU has no answer for it."""
        asked = json.loads(line)
        self._qemu.asked.append(asked["execute"])
        self._qemu.before_answer(self, asked["execute"])
        answer = self._qemu.answers.get(asked["execute"], Refusal("The command is not known"))
        if isinstance(answer, Refusal):
            self.send({"id": asked["id"], "error": {"class": "GenericError", "desc": str(answer)}})
        elif answer is not None:
            self.send({"id": asked["id"], "return": answer})


class Qemu(Factory):
    """Answers as it is told to; None for a command that is never answered."""

    noisy = False

    def __init__(self) -> None:
        self.greeting = json.dumps(GREETING).encode() + b"\r\n"
        self.answers = dict(QUIET)
        self.asked: list[str] = []
        self.monitors: list[Monitor] = []
        self.before_answer: Callable[[Monitor, str], None] = lambda _monitor, _command: None

    def buildProtocol(self, addr: object) -> Monitor:
        """Another client."""
        return Monitor(self)


class Notes(RecordingSink):
    """Keeps the sequences as well."""

    def __init__(self) -> None:
        super().__init__()
        self.sequences: list[int | None] = []

    def begin(self, *arguments: Any, sequence: int | None = None, **more: Any) -> Deferred[Go]:
        """A change begins."""
        self.sequences.append(sequence)
        return super().begin(*arguments, **more)

    def end(self, source_id: str, outcome: str, sequence: int | None = None) -> None:
        """It is over."""
        self.sequences.append(sequence)
        super().end(source_id, outcome)


class QmpCase(unittest.TestCase):
    """An adapter, and a socket that plays QEMU."""

    timeout = 20

    def setUp(self) -> None:
        """Listen, and let attempts follow on each other quickly."""
        # A socket's path may have 107 bytes, and trial's own folders are deep.
        folder = tempfile.mkdtemp(prefix="qmp-")
        self.addCleanup(shutil.rmtree, folder)
        self.path = Path(folder) / "qmp"
        self.address = f"unix:{self.path}"
        self.qemu = Qemu()
        self.sink = Notes()
        self.failures: list[int] = []
        self.patch(polling, "back_off_s", self.back_off_s)
        self.patch(qmp, "_RECONNECT_S", 0.01)
        self.listen()

    def back_off_s(self, failures: int) -> float:
        """Remember how many failures there were."""
        self.failures.append(failures)
        return 0.01

    def listen(self) -> None:
        """Be there."""
        self.port = reactor.listenUNIX(str(self.path), self.qemu)
        self.addCleanup(lambda: self.port.stopListening())

    def adapter(self, **options: Any) -> qmp.Adapter:
        """One with ``options``, started; stopped at the end of the test."""
        adapter = qmp.make({"socket": self.address, "timeout": "250ms", **options}, surroundings(reactor))
        assert isinstance(adapter, qmp.Adapter)
        self.addCleanup(lambda: maybeDeferred(adapter.stop))
        adapter.start(self.sink)
        return adapter

    async def looking(self, **options: Any) -> Monitor:
        """The other end of an adapter that knows the state."""
        adapter = self.adapter(**options)
        await self.until(lambda: adapter.has_looked)
        return self.qemu.monitors[-1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what nobody tells of; trial's timeout is the bound."""
        while not condition():
            await deferLater(reactor, 0.002)

    async def problem(self) -> str:
        """What is said to be wrong, again and again, in the same words."""
        self.adapter()
        await self.sink.until_said("lost", 3)
        problems = {problem for (problem,) in self.sink.of("lost")}
        self.assertEqual(len(problems), 1, problems)
        where, _, problem = problems.pop().partition(f"{self.address}: ")
        self.assertEqual(where, "")
        return problem


class Faults(QmpCase):
    """What is said of a QEMU that is none: always the same, while it is tried again later and later."""

    async def test_nobody_listens(self) -> None:
        await self.port.stopListening()
        problem = await self.problem()
        self.assertIn("cannot connect (", problem)
        self.assertIn(f"was QEMU started with -qmp {self.address},server=on,wait=off?", problem)
        self.assertEqual(self.failures[:3], [0, 1, 2])

    async def test_no_greeting(self) -> None:
        self.qemu.greeting = b""
        self.assertEqual(await self.problem(), "no greeting within 250ms")
        self.assertEqual(self.failures[:3], [0, 1, 2])
        self.assertEqual(self.qemu.asked, [])

    async def test_half_a_greeting(self) -> None:
        self.qemu.greeting = json.dumps(GREETING).encode()[:20]
        self.assertEqual(await self.problem(), "no greeting within 250ms")

    async def test_half_a_document_as_a_line(self) -> None:
        self.qemu.greeting = json.dumps(GREETING).encode()[:20] + b"\n"
        shown = """b'{"QMP": {"version": '"""
        self.assertEqual(await self.problem(), f"it sends what is not of QEMU's machine protocol: {shown}")

    async def test_something_else_listens(self) -> None:
        self.qemu.greeting = b"220 mail.example.org ESMTP ready, and here is much more that nobody wants to read\r\n"
        self.assertIn("b'220 mail.example.org ESMTP ready", await self.problem())

    async def test_another_greeting(self) -> None:
        self.qemu.greeting = b'{"event": "STOP"}\n'
        self.assertEqual(await self.problem(), "it does not greet as QEMU's machine protocol does")

    async def test_sixteen_megabytes_in_one_line(self) -> None:
        self.qemu.greeting = b'{"QMP": "' + b"x" * (16 << 20)
        self.assertEqual(await self.problem(), f"it sends a line of more than {LINE_BYTES_MAX} bytes")

    async def test_a_nest_without_end(self) -> None:
        self.qemu.greeting = b'{"QMP": ' + b"[" * 200_000 + b"\n"
        self.assertIn("it sends what is not of QEMU's machine protocol", await self.problem())

    async def test_a_connection_that_is_closed_at_once(self) -> None:
        self.qemu.before_answer = lambda monitor, _: monitor.transport.loseConnection()
        self.assertEqual(await self.problem(), "QEMU has closed the connection")
        self.assertEqual(self.failures[:3], [0, 1, 2])

    async def test_answers_that_never_come(self) -> None:
        for command in ("qmp_capabilities", "migrate-set-capabilities", "query-status", "query-jobs"):
            self.sink = Notes()
            self.qemu.answers = {**QUIET, command: None}
            self.assertEqual(await self.problem(), f"no answer to {command} within 250ms")

    async def test_answers_that_make_no_sense(self) -> None:
        for command, answer in (
            ("query-status", {}),
            ("query-status", 5),
            ("query-migrate", {"status": "active", "ram": {"total": "much"}}),
            ("query-jobs", [[]]),
            ("query-memory-size-summary", {"base-memory": -1.5}),
        ):
            self.sink = Notes()
            self.qemu.answers = {**QUIET, command: answer}
            self.assertIn(f"it answers {command} with what makes no sense: ", await self.problem())

    async def test_refusals(self) -> None:
        """Of what cannot be done without."""
        for command in ("qmp_capabilities", "query-status", "query-migrate"):
            self.sink = Notes()
            self.qemu.answers = {**QUIET, command: Refusal("not today")}
            self.assertEqual(await self.problem(), f"{command}: not today")

    async def test_answers_to_nobody(self) -> None:
        self.qemu.before_answer = lambda monitor, _: monitor.send({"return": {}, "id": 99})
        self.assertEqual(await self.problem(), "it answers what was not asked")

    async def test_an_error_that_answers_nothing(self) -> None:
        error = {"error": {"class": "GenericError", "desc": "JSON parse error, stray '}'"}}
        self.qemu.before_answer = lambda monitor, _: monitor.send(error)
        self.assertEqual(await self.problem(), "JSON parse error, stray '}'")

    async def test_neither_an_answer_nor_an_error(self) -> None:
        self.qemu.answers = {}
        self.qemu.before_answer = lambda monitor, _: monitor.send({"id": 1})
        self.assertIn("it answers qmp_capabilities with what makes no sense", await self.problem())

    async def test_events_that_make_no_sense(self) -> None:
        for name, data in (
            ("MIGRATION", {}),
            ("MIGRATION", {"status": 7}),
            ("JOB_STATUS_CHANGE", {"id": "job0"}),
            ("BALLOON_CHANGE", {"actual": "all"}),
            ("ACPI_DEVICE_OST", {"info": {"slot": 1}}),
            ("DEVICE_DELETED", {"device": 1}),
            ("MEMORY_DEVICE_SIZE_CHANGE", {}),
        ):
            self.sink = Notes()
            monitor = await self.looking(hotplug=True)
            monitor.event(name, **data)
            await self.sink.until_said("connected", 2)
            self.assertEqual(self.sink.names(), ["connected", "lost", "connected"])
            self.assertIn("it sends what is not of QEMU's machine protocol", self.sink.of("lost")[0][0])


class Following(QmpCase):
    """A QEMU that is one."""

    def at_once(self, monitor: Monitor, *statuses: str) -> None:
        """A migration's events in one go."""
        for number, status in enumerate(statuses):
            monitor.event("MIGRATION", 1_700_000_000_000_000 + number, status=status)

    async def test_a_migration(self) -> None:
        monitor = await self.looking(poll_migrating="10ms")
        self.qemu.answers["query-migrate"] = COPYING
        self.at_once(monitor, "setup", "active")
        facts: dict[str, object] = {"memory_bytes": 1 << 30, "remaining_bytes": 1 << 29}
        facts["bandwidth_bytes_per_s"] = 102_400_000
        await self.sink.until_said("update")
        again = {**COPYING["ram"], "dirty-pages-rate": 500, "dirty-sync-count": 2}
        self.qemu.answers["query-migrate"] = {**COPYING, "expected-downtime": 45, "ram": again}
        await self.sink.until_said("update", 2)
        self.qemu.answers["query-migrate"] = {"status": "completed"}
        self.at_once(monitor, "completed")
        await self.sink.until_said("end")
        self.assertEqual(
            self.sink.calls,
            [
                ("connected", self.address),
                ("begin", "migrate_out", {"memory_bytes": 256 << 20}, "migrate_out", False, {}),
                ("update", "migrate_out", facts),
                ("update", "migrate_out", {**facts, "dirty_bytes_per_s": 2_048_000, "downtime_s": 0.045}),
                ("end", "migrate_out", "done"),
            ],
        )

    async def test_it_is_told_while_the_line_is_read(self) -> None:
        """Nothing is asked before."""
        monitor = await self.looking()
        asked = len(self.qemu.asked)
        self.at_once(monitor, "setup")
        await self.sink.until_said("begin")
        self.assertEqual(len(self.qemu.asked), asked)

    async def test_a_whole_migration_in_one_piece(self) -> None:
        monitor = await self.looking(member="node2")
        self.at_once(monitor, "setup", "active", "completed", "setup", "failed")
        await self.sink.until_said("end", 2)
        self.assertEqual(self.sink.names("update", "connected"), ["begin", "end", "begin", "end"])
        self.assertEqual(self.sink.of("end"), [("migrate_out", "done"), ("migrate_out", "failed")])
        self.assertEqual([extra for *_, extra in self.sink.of("begin")], [{"member": 2}, {"member": 2}])

    async def test_time_stands_still_and_goes_backwards(self) -> None:
        """Events count in the order in which they come; none is taken for a repeat."""
        monitor = await self.looking()
        at_us = 1_700_000_000_000_000
        for name, step_us in (("STOP", 0), ("RESUME", 0), ("STOP", -3_600_000_000), ("RESUME", 5)):
            monitor.event(name, at_us + step_us)
        monitor.send({"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}})
        monitor.send({"event": "RESUME"})
        await self.sink.until_said("end", 3)
        self.assertEqual(self.sink.sequences, [at_us, at_us + 1, at_us + 2, at_us + 5, at_us + 6, at_us + 7])

    async def test_what_is_not_known_is_passed_over(self) -> None:
        monitor = await self.looking()
        monitor.event("NOBODY_KNOWS", data=[1])
        monitor.send_bytes(b'{"event": "RTC_CHANGE", "data": {"offset": 1}, "timestamp": {}, "new": [{}]}\n\r\n')
        monitor.event("BALLOON_CHANGE", actual="not looked at")
        monitor.event("STOP")
        await self.sink.until_said("begin")
        self.assertEqual(self.sink.names(), ["connected", "begin"])

    async def test_an_event_in_many_pieces(self) -> None:
        monitor = await self.looking()
        for byte in b'{"event": "STOP", "data": {}, "timestamp": {"seconds": 1, "microseconds": 2}}\r\n':
            monitor.send_bytes(bytes([byte]))
            await deferLater(reactor, 0)
        await self.sink.until_said("begin")

    async def test_an_answer_that_events_have_overtaken(self) -> None:
        """What QEMU said before it told of an end does not begin the change again."""
        monitor = await self.looking(poll_migrating="10ms")
        overtaken: list[str] = []

        def finish(other: Monitor, command: str) -> None:
            if command == "query-jobs" and not overtaken:
                overtaken.append(command)
                self.qemu.answers["query-migrate"] = {"status": "completed"}
                self.at_once(other, "completed")

        self.qemu.answers["query-migrate"] = COPYING
        self.qemu.before_answer = finish
        self.at_once(monitor, "setup")
        await self.sink.until_said("end")
        asked = len(self.qemu.asked)
        await self.until(lambda: len(self.qemu.asked) >= asked + 4)
        self.assertEqual(self.sink.names("connected", "update"), ["begin", "end"])

    async def test_a_machine_that_is_never_quiet(self) -> None:
        """The state is asked for ten times at most; what events say holds meanwhile."""
        monitor = await self.looking(poll_idle="1h")
        names = ["STOP", "RESUME"]

        def change(other: Monitor, command: str) -> None:
            if command == "query-status":
                other.event(names[self.qemu.asked.count(command) % 2])

        self.qemu.before_answer = change
        self.qemu.asked.clear()
        monitor.event("STOP")
        await self.until(lambda: self.qemu.asked.count("query-memory-size-summary") == 10)
        await deferLater(reactor, 0.05)
        self.assertEqual(self.qemu.asked.count("query-status"), 10)

    async def test_how_often_it_is_asked(self) -> None:
        """Often while a migration is under way, else now and then."""
        monitor = await self.looking(poll_migrating="10ms", poll_idle="1h")
        self.assertEqual(self.qemu.asked.count("query-status"), 1)
        self.qemu.answers["query-migrate"] = COPYING
        self.at_once(monitor, "setup")
        await self.until(lambda: self.qemu.asked.count("query-status") > 5)

    async def test_an_end_that_nobody_told_of(self) -> None:
        monitor = await self.looking(poll_migrating="10ms")
        self.qemu.answers["query-migrate"] = COPYING
        self.at_once(monitor, "setup")
        await self.sink.until_said("update")
        self.qemu.answers["query-migrate"] = {"status": "cancelled"}
        await self.sink.until_said("end")
        self.assertEqual(self.sink.of("end"), [("migrate_out", "cancelled")])

    async def test_an_old_qemu(self) -> None:
        """It knows neither jobs nor the size of its memory, and does not let its events be switched on yet."""
        for command in ("query-jobs", "query-memory-size-summary", "query-balloon", "migrate-set-capabilities"):
            self.qemu.answers[command] = Refusal("The command has not been found")
        monitor = await self.looking(hotplug=True, poll_idle="100ms")
        monitor.event("STOP")
        await self.sink.until_said("begin")
        self.assertEqual(self.sink.calls[-1], ("begin", "freeze", {}, "freeze", False, {}))
        self.qemu.answers["migrate-set-capabilities"] = {}
        self.qemu.asked.clear()
        await self.until(lambda: self.qemu.asked.count("query-status") > 2)
        self.assertEqual(self.qemu.asked.count("migrate-set-capabilities"), 1)

    async def test_a_new_connection(self) -> None:
        """What went on meanwhile is begun, what is over is ended."""
        monitor = await self.looking()
        monitor.event("STOP")
        await self.sink.until_said("begin")
        self.qemu.answers["query-status"] = {"status": "inmigrate", "running": False}
        self.qemu.answers["query-migrate"] = {"status": "active"}
        monitor.transport.loseConnection()
        await self.sink.until_said("end")
        self.assertEqual(self.sink.names(), ["connected", "begin", "lost", "connected", "begin", "end"])
        self.assertEqual([kind for kind, *_ in self.sink.of("begin")], ["freeze", "migrate_in"])
        self.assertEqual(self.sink.of("lost"), [(f"{self.address}: QEMU has closed the connection",)])
        self.assertEqual(self.failures, [])

    async def test_a_change_whose_time_is_over_is_begun_again(self) -> None:
        """Once with each connection, if it is still going on."""
        self.qemu.answers["query-status"] = {"status": "paused", "running": False}
        monitor = await self.looking()
        self.assertEqual(self.sink.names(), ["connected", "begin"])
        self.sink.end("freeze", "done")
        monitor.transport.loseConnection()
        await self.sink.until_said("begin", 2)

    async def test_stopped_while_it_tells(self) -> None:
        """A node that stops because of what it hears takes the adapter with it."""
        monitor = await self.looking()
        adapter = qmp.make({"socket": self.address}, surroundings(reactor))
        other = RecordingSink()
        adapter.start(other)
        stopped = other.until_said("begin").addCallback(lambda _: adapter.stop())
        await self.until(lambda: len(self.qemu.monitors) == 2)
        await other.until_said("connected")
        self.qemu.monitors[1].event("STOP")
        self.qemu.answers["query-status"] = {"status": "paused"}
        await stopped
        self.assertEqual(other.names(), ["connected", "begin"])
        self.assertTrue(monitor.transport.connected)

    async def test_stopped_before_there_is_a_connection(self) -> None:
        adapter = qmp.make({"socket": self.address}, surroundings(reactor))
        adapter.start(self.sink)
        await maybeDeferred(adapter.stop)
        self.assertEqual(self.sink.calls, [])

    async def test_over_tcp(self) -> None:
        port = reactor.listenTCP(0, self.qemu, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.address = f"tcp:127.0.0.1:{port.getHost().port}"
        await self.looking()
        self.assertEqual(self.sink.calls, [("connected", self.address)])

    async def test_an_unknown_host(self) -> None:
        self.address = "tcp:no-such-host.invalid:4444"
        self.assertIn("cannot connect (", await self.problem())


class OptionsTests(unittest.TestCase):
    """What may be configured."""

    def refused(self, words: str, **options: object) -> None:
        """It is refused with these words."""
        options = {"socket": "unix:/run/qmp", **options}
        self.assertIn(words, str(self.assertRaises(ValueError, qmp.make, options, surroundings(reactor))))

    def test_kinds(self) -> None:
        """What does not stop a guest is told only if that is wanted."""
        pauses = ("migrate_out", "migrate_in", "freeze", "suspend", "snapshot")
        for hotplug, kinds in ((False, pauses), (True, (*pauses, "memory", "vcpu", "device"))):
            options = {"socket": "tcp:[::1]:4444", "hotplug": hotplug}
            adapter = BUILT_IN["qmp"].make(options, surroundings(reactor))
            self.assertTrue(verifyObject(IChangeAdapter, adapter))
            self.assertEqual(adapter.kinds, kinds)

    def test_refused(self) -> None:
        self.assertIn(
            "socket: it must be given", str(self.assertRaises(ValueError, qmp.make, {}, surroundings(reactor)))
        )
        for socket in ("/run/qmp", "unix:", "vsock:2:4444", "unix"):
            self.refused("socket: expected unix:PATH or tcp:HOST:PORT", socket=socket)
        self.refused("socket: expected a path of at most 107 bytes", socket="unix:/" + "x" * 107)
        self.refused("socket: expected a path of at most 107 bytes", socket="unix:/run/\0qmp")
        self.refused("socket: expected HOST:PORT", socket="tcp:4444")
        self.refused("member: expected one of node1, node2, node3, got 'node4'", member="node4")
        self.refused("poll_migrating: expected at least 0.01s", poll_migrating="1ms")
        self.refused("poll_idle: expected at least 0.1s", poll_idle="10ms")
        self.refused("hotplug: expected true or false", hotplug="yes")
        self.refused("path: there is no such option", path="/run/qmp")
        for name in ("poll_migrating", "poll_idle", "timeout", "settle"):
            self.refused(f"{name}: expected a duration", **{name: 5})


class MachineTests(unittest.TestCase):
    """What follows from what QEMU says, where it takes too much to have a real one say it."""

    def setUp(self) -> None:
        """A machine that runs, and has never done anything else."""
        self.machine = Machine(plugs=True, settle_s=2.0)
        self.under_way: set[str] = set()
        self.said: list[str] = []
        self.see()

    def see(self, run_state: str = "running", migration: str = "none", **more: Any) -> None:
        """A look."""
        memory = MemorySize(base_memory=1 << 30)
        look = {"run_state": RunState(run_state), "migration": Migration(migration), "memory": memory, **more}
        self.machine.see(Look(**look))
        self.note(0.0)

    def hear(self, *events: str, now_s: float = 0.0) -> None:
        """Events, each a name, or the status of a migration."""
        for name in events:
            event = Event(name, {}, 0) if name.isupper() else Event("MIGRATION", {"status": name}, 0)
            self.assertTrue(self.machine.hear(event, now_s))
            self.note(now_s)

    def hear_slot(self, source: int, status: int, now_s: float = 0.0, slot: str = "1", device: str = "cpu1") -> None:
        """What a guest does with a CPU."""
        info = {"slot": slot, "slot-type": "CPU", "source": source, "status": status, "device": device}
        self.machine.hear(Event("ACPI_DEVICE_OST", {"info": info}, 0), now_s)
        self.note(now_s)

    def note(self, now_s: float) -> None:
        """What has begun and what has ended."""
        changes = self.machine.changes(now_s)
        self.said += [f"begin {name}" for name in changes if name not in self.under_way]
        self.said += [f"end {name} {self.machine.outcome(name)}" for name in sorted(self.under_way - changes.keys())]
        self.under_way = set(changes)

    def test_post_copy_that_is_recovered(self) -> None:
        self.see("inmigrate")
        self.hear("setup", "active", "postcopy-active", "RESUME", "postcopy-paused", "postcopy-recover")
        self.assertEqual(self.said, ["begin migrate_in", "end migrate_in done", "begin migrate_in"])
        self.hear("postcopy-active", "completed")
        self.assertEqual(self.said[3:], ["end migrate_in done"])

    def test_a_state_of_a_newer_qemu(self) -> None:
        """Whatever is no end is part of the migration."""
        self.hear("setup", "active", "postcopy-device", "completed")
        self.assertEqual(self.said, ["begin migrate_out", "end migrate_out done"])

    def test_a_source_that_vanished(self) -> None:
        self.hear("setup")
        self.see("running", "none")
        self.assertEqual(self.said, ["begin migrate_out", "end migrate_out failed"])

    def test_a_stop_outlives_the_migration_that_failed(self) -> None:
        """As long as QEMU is about to let the guest go on, it is the migration's."""
        self.hear("setup", "active", "STOP", "failed")
        self.assertEqual(self.said, ["begin migrate_out"])
        self.see("paused", "failed")
        self.assertEqual(self.said[1:], ["begin freeze", "end migrate_out failed"])

    def test_a_guest_that_does_not_go_on(self) -> None:
        for run_state in ("guest-panicked", "internal-error", "shutdown"):
            self.said.clear()
            self.hear("STOP")
            self.see(run_state)
            self.assertEqual(self.said, ["begin freeze", "end freeze failed"])

    def test_states_of_a_machine_that_stands_still(self) -> None:
        expected = {"paused": "freeze", "io-error": "freeze", "save-vm": "freeze", "suspended": "suspend"}
        expected |= {"prelaunch": "", "postmigrate": "", "inmigrate": "", "guest-panicked": "", "colo": ""}
        for run_state, change in expected.items():
            self.see(run_state)
            self.assertEqual(self.under_way, {change} - {""}, run_state)

    def test_a_job_of_no_known_kind_may_be_a_snapshot(self) -> None:
        """Until QEMU answers, which it does when a snapshot is done."""
        for status in ("created", "running"):
            self.machine.hear(Event("JOB_STATUS_CHANGE", {"id": "copy", "status": status}, 0), 0.0)
        self.hear("STOP")
        self.see("paused", jobs=[Job("copy", "running", "backup")])
        self.hear("RESUME")
        self.assertEqual(self.said, ["begin job:copy", "begin freeze", "end job:copy done", "end freeze done"])

    def test_a_snapshot_that_was_aborted(self) -> None:
        for status in ("running", "aborting", "concluded"):
            if status == "aborting":
                self.hear("STOP")
            self.machine.hear(Event("JOB_STATUS_CHANGE", {"id": "save", "status": status}, 0), 0.0)
        self.note(0.0)
        self.assertEqual(self.said, ["begin job:save", "begin freeze", "end job:save failed"])

    def test_migrations_within_a_snapshot_are_none(self) -> None:
        self.machine.hear(Event("JOB_STATUS_CHANGE", {"id": "save", "status": "running"}, 0), 0.0)
        self.hear("STOP", "setup", "completed", "RESUME")
        self.assertEqual(self.said, ["begin job:save", "end job:save done"])

    def test_a_snapshot_whose_end_was_missed(self) -> None:
        """What comes afterwards is no part of it."""
        self.machine.hear(Event("JOB_STATUS_CHANGE", {"id": "save", "status": "running"}, 0), 0.0)
        self.hear("STOP")
        self.see("running")
        self.hear("setup")
        self.assertEqual(self.said, ["begin job:save", "end job:save done", "begin migrate_out"])

    def test_no_end_of_jobs(self) -> None:
        for number in range(1000):
            event = Event("JOB_STATUS_CHANGE", {"id": f"{number}{'x' * 1000}", "status": "running"}, 0)
            self.machine.hear(event, 0.0)
        self.see(jobs=[Job(f"{number}", "running", "snapshot-save") for number in range(1000)])
        self.assertLessEqual(len(self.machine._jobs), 100)
        self.hear("STOP")
        self.assertLessEqual(max(map(len, self.under_way)), 110)

    def test_hardware_settles(self) -> None:
        self.hear_slot(source=1, status=0, now_s=10.0)
        self.note(11.9)
        self.assertEqual(self.said, ["begin slot:CPU:1"])
        self.note(12.1)
        self.assertEqual(self.said, ["begin slot:CPU:1", "end slot:CPU:1 done"])

    def test_hardware_that_is_refused(self) -> None:
        """At once, or after some time, however long that is."""
        self.hear_slot(source=3, status=130)
        self.assertEqual(self.said, [])
        self.hear_slot(source=3, status=132)
        self.note(1000.0)
        self.hear_slot(source=3, status=130, now_s=1000.0)
        self.assertEqual(self.said, ["begin slot:CPU:1", "end slot:CPU:1 failed"])

    def test_hardware_that_is_gone(self) -> None:
        """It is told of by its own name as well; that is no second change."""
        self.hear_slot(source=3, status=132)
        self.machine.hear(Event("DEVICE_DELETED", {"device": "cpu1", "path": "/machine/peripheral/cpu1"}, 0), 0.0)
        self.note(0.0)
        self.hear_slot(source=3, status=0)
        self.assertEqual(self.said, ["begin slot:CPU:1", "end slot:CPU:1 done"])

    def test_no_end_of_hardware(self) -> None:
        for number in range(1000):
            self.hear_slot(source=3, status=132, slot=f"{number}")
        self.assertEqual(len(self.under_way), 100)

    def test_other_slots_and_sizes(self) -> None:
        info = {"slot": "1", "slot-type": "PCI", "source": 1, "status": 0}
        self.machine.hear(Event("ACPI_DEVICE_OST", {"info": info}, 0), 0.0)
        self.note(0.0)
        self.assertEqual(self.said, [])
        size = {"id": "vmem0", "size": 1 << 20, "qom-path": "/machine/peripheral/vmem0"}
        self.machine.hear(Event("MEMORY_DEVICE_SIZE_CHANGE", size, 0), 0.0)
        self.note(0.0)
        self.assertEqual(self.said, ["begin size:vmem0"])

    def test_a_balloon_that_was_there_before(self) -> None:
        """What it changes counts from what it held."""
        self.see(balloon=Balloon(actual=600 << 20))
        self.machine.hear(Event("BALLOON_CHANGE", {"actual": 500 << 20}, 0), 0.0)
        self.see(balloon=Balloon(actual=450 << 20))
        self.machine.hear(Event("BALLOON_CHANGE", {"actual": 400 << 20}, 0), 0.0)
        (change,) = self.machine.changes(0.0).values()
        self.assertEqual(change.facts, {"memory_bytes": 400 << 20, "memory_delta_bytes": -(200 << 20)})
