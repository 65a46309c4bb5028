"""The adapter ``logind``, on a real message bus, with a logind that the test plays, and with the real one."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import unittest as standard_unittest
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from jeepney import DBusAddress, new_error, new_method_call, new_signal
from jeepney.low_level import Message
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from tests.blackbox.machine import is_reference
from tests.private_bus import Pipe, PrivateBus, Service, reply
from tests.recording_sink import RecordingSink, surroundings
from txvbcast.interfaces import Go, IChangeAdapter
from txvbcast.virt import logind
from txvbcast.virt.dbus import Bus, member
from txvbcast.virt.logind import MANAGER, NAME
from txvbcast.virt.polling import Unreachable

DELAY_MAX_US = 5_000_000
LOGIND = Path("/lib/systemd/systemd-logind")


def needs(what: str, is_there: bool) -> None:
    """Skip a test, or fail where nothing may be missing."""
    if not is_there and is_reference():
        raise AssertionError(f"{what} is missing on the reference machine")
    if not is_there:
        raise standard_unittest.SkipTest(f"{what} is missing")


class FakeLogind(Service):
    """What the adapter needs of logind, as org.freedesktop.login1(5) describes it.

    :ivar locks: what was given.
    :ivar properties: what it says of itself.
    """

    def __init__(self, address: str) -> None:
        super().__init__(reactor, address, {"GetAll": self.get_all, "Inhibit": self.inhibit})
        self.locks: list[Pipe] = []
        self.properties: dict[str, tuple[str, object]] = {
            "InhibitDelayMaxUSec": ("t", DELAY_MAX_US),
            "PreparingForSleep": ("b", False),
            "PreparingForShutdown": ("b", False),
            "DockedAndOther": ("s", "things"),
        }
        self.own(NAME)

    def get_all(self, message: Message) -> Message | None:
        return reply(message, "a{sv}", self.properties)

    def inhibit(self, message: Message) -> Message | None:
        if any(self.properties[name][1] for name in ("PreparingForSleep", "PreparingForShutdown")):
            text = "The operation inhibition has been requested for is already running"
            return new_error(message, "org.freedesktop.login1.OperationInProgress", "s", (text,))
        pipe = Pipe(reactor)
        self.locks.append(pipe)
        reactor.callLater(0, os.close, pipe.taken)  # once the reply is sent
        return reply(message, "h", pipe.taken)

    def prepare(self, what: str, begins: bool, is_told: bool = True) -> None:
        """Begin to sleep or to shut down, or go on after it."""
        self.properties[f"PreparingFor{what}"] = ("b", begins)
        if is_told:
            self.emit(MANAGER, f"PrepareFor{what}", "b", begins)

    def close(self) -> None:
        for lock in self.locks:
            lock.close()
        super().close()


class Case(unittest.TestCase):
    """An adapter and its bus."""

    timeout = 60

    def setUp(self) -> None:
        needs("dbus-daemon", shutil.which("dbus-daemon") is not None)
        self.bus = PrivateBus()
        self.addCleanup(self.bus.remove)
        self.bus.start()
        self.sink = RecordingSink()

    def play(self) -> FakeLogind:
        """Have a logind on the bus."""
        played = FakeLogind(self.bus.address)
        self.addCleanup(played.close)
        return played

    def start(self, **options: object) -> None:
        """A new adapter."""
        self.adapter: Any = logind.make({"bus": self.bus.address, **options}, surroundings(reactor))
        verifyObject(IChangeAdapter, self.adapter)
        self.adapter.start(self.sink)
        self.addCleanup(self.adapter.stop)

    def said(self, name: str, times: int = 1) -> Deferred[None]:
        """Fires when the adapter has said something, and has left the reactor's turn in which it did."""
        return self.sink.until_said(name, times).addCallback(lambda _: deferLater(reactor, 0))

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires as soon as something holds."""
        return deferLater(reactor, 0.01).addCallback(lambda _: None if condition() else self.until(condition))

    def pass_by(self) -> Deferred[None]:
        """Long enough for anything that would happen now to have happened; for things that must not."""
        return deferLater(reactor, 0.3)


class LockTests(Case):
    """The machine is held until the cluster says Go."""

    @inlineCallbacks
    def check(self, what: str, kind: str, outcome: str) -> Any:
        played = self.play()
        self.start()
        yield self.said("connected")
        self.assertEqual(
            played.calls[-1], ("Inhibit", ("sleep:shutdown", "txvbcast", "node node1 announces its absence", "delay"))
        )
        for time in range(2):
            lock = played.locks[time]
            played.prepare(what, True)
            yield self.said("begin", time + 1)
            self.assertEqual(self.sink.of("begin")[time], (kind, {}, what.lower(), True, {"hold_s": 4.5}))
            yield self.pass_by()
            self.assertTrue(lock.is_held)
            self.assertEqual(len(played.locks), time + 1)
            self.sink.begun[what.lower()].callback(Go(confirmed=True))
            yield lock.released
            played.prepare(what, False)
            yield self.said("end", time + 1)
            yield self.until(lambda count=time + 2: len(played.locks) == count)
        self.assertEqual(self.sink.of("end"), [(what.lower(), outcome)] * 2)
        self.assertEqual(self.sink.names(), ["connected", "begin", "end", "begin", "end"])
        self.assertEqual([lock.is_held for lock in played.locks], [False, False, True])

    def test_sleep(self) -> Deferred[Any]:
        return self.check("Sleep", "suspend", "done")

    def test_shutdown(self) -> Deferred[Any]:
        """One that does not happen: otherwise there is nobody to hear of its end."""
        return self.check("Shutdown", "reboot", "cancelled")

    @inlineCallbacks
    def test_called_off(self) -> Any:
        """Before there was a Go: a new lock takes the place of the old one."""
        played = self.play()
        self.start()
        yield self.said("connected")
        played.prepare("Sleep", True)
        played.prepare("Sleep", False)
        yield self.said("end")
        yield played.locks[0].released
        yield self.until(lambda: len(played.locks) == 2)
        self.sink.begun["sleep"].callback(Go(confirmed=True))
        yield self.pass_by()
        self.assertTrue(played.locks[1].is_held)

    @inlineCallbacks
    def test_programs_do_not_inherit_it(self) -> Any:
        """One that the node runs meanwhile must not hold the machine."""
        played = self.play()
        self.start()
        yield self.said("connected")
        process = subprocess.Popen(["sleep", "1000"], close_fds=False)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        played.prepare("Sleep", True)
        yield self.said("begin")
        self.sink.begun["sleep"].callback(Go(confirmed=True))
        yield played.locks[0].released

    @inlineCallbacks
    def test_how_long(self) -> Any:
        for given, margin, expected in ((5_000_000, "1s", 4.0), (300_000, "500ms", 0.0), (2**64 - 1, "500ms", 3600.0)):
            played = self.play()
            played.properties["InhibitDelayMaxUSec"] = ("t", given)
            sink = self.sink = RecordingSink()
            self.start(margin=margin)
            yield self.said("connected")
            played.prepare("Sleep", True)
            yield self.said("begin")
            self.assertEqual(sink.of("begin")[0][4], {"hold_s": expected})
            yield self.adapter.stop()

    @inlineCallbacks
    def test_stop_lets_go(self) -> Any:
        """Also while the machine is held."""
        for is_holding in (False, True):
            played = self.play()
            self.start()
            yield self.said("connected", is_holding + 1)
            if is_holding:
                played.prepare("Sleep", True)
                yield self.said("begin")
            yield self.adapter.stop()
            yield played.locks[0].released
        self.assertEqual(self.sink.of("lost"), [])

    @inlineCallbacks
    def test_lock_refused(self) -> Any:
        played = self.play()
        played.methods["Inhibit"] = lambda message: new_error(
            message, "org.freedesktop.DBus.Error.AccessDenied", "s", ("Permission denied",)
        )
        self.start()
        yield self.said("lost")
        self.assertIn(
            "AccessDenied: Permission denied: run the node as root, or have polkit", self.sink.of("lost")[0][0]
        )
        played.methods["Inhibit"] = played.inhibit
        yield self.said("connected")

    @inlineCallbacks
    def test_no_lock_for_a_lock(self) -> Any:
        played = self.play()
        played.methods["Inhibit"] = lambda message: reply(message, "s", "have fun")
        self.start()
        yield self.said("lost")
        self.assertIn("it gives ('have fun',) for a delay lock", self.sink.of("lost")[0][0])
        played.methods["Inhibit"] = lambda message: reply(message)
        yield self.said("lost", 2)
        self.assertIn("it gives () for a delay lock", self.sink.of("lost")[1][0])

    @inlineCallbacks
    def test_begins_between_the_state_and_the_lock(self) -> Any:
        """Logind gives no lock then, and says so only to this call."""
        played = self.play()

        def begin_first(message: Message) -> Message | None:
            played.prepare("Sleep", True)
            return played.inhibit(message)

        played.methods["Inhibit"] = begin_first
        self.start()
        yield self.said("connected")
        self.assertEqual(self.sink.of("begin"), [("suspend", {}, "sleep", False, {})])
        played.methods["Inhibit"] = played.inhibit
        played.prepare("Sleep", False)
        yield self.until(lambda: len(played.locks) == 1)
        self.assertEqual(self.sink.of("end"), [("sleep", "done")])
        self.assertEqual(self.sink.of("lost"), [])


class ConnectionTests(Case):
    """A bus and a logind that come and go."""

    @inlineCallbacks
    def test_no_bus(self) -> Any:
        self.bus.stop()
        self.start()
        yield self.said("lost", 2)
        self.assertEqual(len(set(self.sink.of("lost"))), 1)
        self.assertIn(str(self.bus.path), self.sink.of("lost")[0][0])
        self.bus.start()
        self.play()
        yield self.said("connected")

    @inlineCallbacks
    def test_bus_ends(self) -> Any:
        """The idle lock is let go of, and all is taken up again with another bus."""
        played = self.play()
        self.start()
        yield self.said("connected")
        self.bus.stop()
        yield played.locks[0].released
        yield self.said("lost")
        self.bus.start()
        self.play()
        yield self.said("connected", 2)

    @inlineCallbacks
    def test_no_logind(self) -> Any:
        self.start()
        yield self.said("lost")
        self.assertIn("ServiceUnknown", self.sink.of("lost")[0][0])
        self.play()
        yield self.said("connected")

    @inlineCallbacks
    def test_logind_starts_anew(self) -> Any:
        """What has ended meanwhile is ended."""
        played = self.play()
        self.start()
        yield self.said("connected")
        played.prepare("Sleep", True)
        yield self.said("begin")
        played.release(NAME)
        yield self.said("lost")
        self.assertIn("logind has left the bus", self.sink.of("lost")[0][0])
        self.assertTrue(played.locks[0].is_held)  # the machine waits on for the cluster
        again = self.play()
        yield self.said("connected", 2)
        self.assertEqual(self.sink.of("end"), [("sleep", "done")])
        yield played.locks[0].released
        self.assertTrue(again.locks[0].is_held)

    @inlineCallbacks
    def test_still_held_after_a_new_connection(self) -> Any:
        """The lock of before holds the machine until the Go."""
        played = self.play()
        self.start()
        yield self.said("connected")
        played.prepare("Sleep", True)
        yield self.said("begin")
        played.release(NAME)
        yield self.said("lost")
        played.own(NAME)
        yield self.said("connected", 2)
        self.assertEqual(self.sink.of("begin"), [("suspend", {}, "sleep", True, {"hold_s": 4.5})] * 2)
        self.assertEqual([lock.is_held for lock in played.locks], [True])
        self.sink.begun["sleep"].callback(Go(confirmed=True))
        yield played.locks[0].released
        played.release(NAME)
        yield self.said("lost", 2)
        played.own(NAME)
        yield self.said("connected", 3)
        self.assertEqual(self.sink.of("begin")[2], ("suspend", {}, "sleep", False, {}))

    @inlineCallbacks
    def test_missed_signal(self) -> Any:
        """Begun before the adapter, or while it heard nothing: it cannot be held any more."""
        played = self.play()
        played.prepare("Shutdown", True, is_told=False)
        self.start()
        yield self.said("connected")
        self.assertEqual(self.sink.of("begin"), [("reboot", {}, "shutdown", False, {})])
        self.assertEqual(played.locks, [])
        played.prepare("Shutdown", False)
        yield self.until(lambda: len(played.locks) == 1)
        self.assertEqual(self.sink.of("end"), [("shutdown", "cancelled")])

    @inlineCallbacks
    def test_hangs(self) -> Any:
        for name in ("GetAll", "Inhibit"):
            played = self.play()
            before = played.methods[name]
            played.methods[name] = lambda message: None
            sink = self.sink = RecordingSink()
            self.start(timeout="300ms")
            yield self.said("lost")
            self.assertIn("no answer within 300ms", sink.of("lost")[0][0])
            played.methods[name] = before
            yield self.said("connected")
            yield self.adapter.stop()

    @inlineCallbacks
    def test_bus_hangs(self) -> Any:
        """It takes the connection, and nothing else."""
        self.play()
        self.bus.signal(signal.SIGSTOP)
        self.start(timeout="300ms")
        yield self.said("lost", 2)
        self.assertIn("no answer within 300ms", self.sink.of("lost")[1][0])
        self.bus.signal(signal.SIGCONT)
        yield self.said("connected")

    @inlineCallbacks
    def test_stop_at_any_time(self) -> Any:
        """Nothing is left of it, wherever it was."""
        self.play()
        for turns in range(12):
            self.start()
            for _ in range(turns):
                yield deferLater(reactor, 0.001)
            yield self.adapter.stop()
        self.assertEqual(self.sink.of("lost"), [])

    @inlineCallbacks
    def test_a_defect(self) -> Any:
        """Is said, and does not end the adapter."""
        self.play()
        once = iter([KeyError("a defect")])
        heard = self.sink.connected

        def connected(where: str) -> None:
            for error in once:
                raise error
            heard(where)

        self.sink.connected = connected  # type: ignore[method-assign]
        self.start()
        yield self.said("lost")
        self.assertIn("a defect of the adapter, see the log", self.sink.of("lost")[0][0])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        yield self.said("connected")


class GarbageTests(Case):
    """What does not make sense is said, or passed over."""

    @inlineCallbacks
    def check_properties(self, expected: str, **properties: tuple[str, object] | None) -> Any:
        played = self.play()
        good = dict(played.properties)
        for name, value in properties.items():
            del played.properties[name]
            if value is not None:
                played.properties[name] = value
        self.start()
        yield self.said("lost")
        self.assertIn(expected, self.sink.of("lost")[0][0])
        played.properties = good
        yield self.said("connected")

    def test_property_missing(self) -> Deferred[Any]:
        return self.check_properties("says None for its property PreparingForSleep", PreparingForSleep=None)

    def test_property_of_another_type(self) -> Deferred[Any]:
        return self.check_properties(
            "says ('s', 'yes') for its property PreparingForSleep", PreparingForSleep=("s", "yes")
        )

    @inlineCallbacks
    def test_no_properties(self) -> Any:
        played = self.play()
        for number, body in enumerate((("as", ["x"]), (None,))):
            played.methods["GetAll"] = lambda message, body=body: reply(message, *body)
            if not number:
                self.start()
            yield self.said("lost", number + 1)
            self.assertIn("says None for its property InhibitDelayMaxUSec", self.sink.of("lost")[number][0])

    @inlineCallbacks
    def test_signals_that_are_none(self) -> Any:
        """Of other shapes, names and interfaces."""
        played = self.play()
        self.start()
        yield self.said("connected")
        played.emit(MANAGER, "PrepareForSleep", "s", "soon")
        played.emit(MANAGER, "PrepareForSleep", "bb", True, True)
        played.emit(MANAGER, "SeatNew", "so", "seat0", "/org/freedesktop/login1/seat/seat0")
        for number in range(10):  # to the adapter as well, which has not asked for it
            played.emit(MANAGER.with_interface("org.example.Other"), "PrepareForSleep", "b", True, to=f":1.{number}")
        played.prepare("Shutdown", True)
        yield self.said("begin")
        self.assertEqual(self.sink.names(), ["connected", "begin"])
        self.assertEqual(self.sink.of("begin")[0][0], "reboot")

    @inlineCallbacks
    def test_somebody_else(self) -> Any:
        """Anyone may send a signal to a connection; only logind's counts."""
        played = self.play()
        self.start()
        yield self.said("connected")
        stranger = Service(reactor, self.bus.address, {})
        self.addCleanup(stranger.close)
        bus = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
        for number in range(10):
            stranger.emit(MANAGER, "PrepareForSleep", "b", True, to=f":1.{number}")
            stranger.emit(bus, "NameOwnerChanged", "sss", NAME, "x", "", to=f":1.{number}")
        yield self.pass_by()
        played.prepare("Shutdown", True)
        yield self.said("begin")
        self.assertEqual(self.sink.names(), ["connected", "begin"])
        self.assertEqual(self.sink.of("begin")[0][0], "reboot")

    @inlineCallbacks
    def test_calls_to_the_node(self) -> Any:
        """Are not answered."""
        played = self.play()
        self.start()
        yield self.said("connected")
        for number in range(10):
            address = DBusAddress("/", f":1.{number}", "org.freedesktop.DBus.Peer")
            played.connection.send(new_method_call(address, "Ping"))
        yield self.pass_by()
        self.assertEqual(self.sink.names(), ["connected"])


class Pretender(Protocol):
    """Listens where a bus should, and says what it was told to: in the greeting, and after it."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers

    def dataReceived(self, data: bytes) -> None:
        if self.answers:
            self.transport.write(self.answers.pop(0))


class PretenderTests(unittest.TestCase):
    """Something that is no bus."""

    timeout = 60

    def setUp(self) -> None:
        self.bus = PrivateBus()
        self.addCleanup(self.bus.remove)
        self.sink = RecordingSink()

    @inlineCallbacks
    def check(self, answers: list[bytes], expected: str) -> Any:
        factory = Factory.forProtocol(lambda: Pretender(list(answers)))  # type: ignore[arg-type]
        port = yield UNIXServerEndpoint(reactor, str(self.bus.path)).listen(factory)
        self.addCleanup(port.stopListening)
        adapter: Any = logind.make({"bus": self.bus.address}, surroundings(reactor))
        self.addCleanup(adapter.stop)
        adapter.start(self.sink)
        yield self.sink.until_said("lost", 2).addCallback(lambda _: deferLater(reactor, 0))
        self.assertEqual(set(self.sink.names()), {"lost"})
        self.assertEqual(len(set(self.sink.of("lost"))), 1)
        self.assertIn(expected, self.sink.of("lost")[0][0])
        yield adapter.stop()

    def check_message(self, message: bytes, expected: str) -> Deferred[Any]:
        return self.check([b"OK 1234\r\n", b"AGREE_UNIX_FD\r\n", message], expected)

    def test_not_let_in(self) -> Deferred[Any]:
        return self.check([b"REJECTED ANONYMOUS\r\n"], "does not let this node in: Authentication failed")

    def test_no_descriptors(self) -> Deferred[Any]:
        return self.check([b"OK 1234\r\n", b"ERROR\r\n"], "File descriptor support not available")

    def test_endless_greeting(self) -> Deferred[Any]:
        return self.check([b"x" * 10_000], "Too much data received without line ending")

    def test_no_messages(self) -> Deferred[Any]:
        return self.check_message(b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not speak D-Bus: KeyError")

    def test_message_too_large(self) -> Deferred[Any]:
        start = struct.pack("<cBBBIII", b"l", 2, 0, 1, 2**27, 1, 8)
        return self.check_message(start, "it sends a message of 134217752 bytes; 1048576 are accepted")


class ParserTests(unittest.TestCase):
    """A connection without a bus: every broken message ends it, and nothing else does."""

    def connection(self) -> tuple[Bus, StringTransport, list[str], list[str]]:
        """Greeted; and what it says of signals and of its end."""
        signals: list[str] = []
        problems: list[str] = []
        bus = Bus(lambda message: signals.append(member(message)[1]), problems.append)
        bus.ready.addErrback(lambda failure: failure.trap(Unreachable))
        transport = StringTransport()
        bus.makeConnection(transport)
        for line in (b"OK 1234\r\n", b"AGREE_UNIX_FD\r\n"):
            bus.dataReceived(line)
        return bus, transport, signals, problems

    def end(self, bus: Bus, problems: list[str]) -> str:
        bus.connectionLost(Failure(ConnectionDone()))
        (problem,) = problems
        return problem

    def signal(self) -> bytes:
        body = ({"a": ("t", 5), "b": ("as", ["x", "y"])}, (1, True), ("(vas)", (("u", 3), ["k"])))
        data: bytes = new_signal(MANAGER, "Test", "a{sv}(ib)v", body).serialise(serial=7)
        return data

    def test_whole_and_byte_by_byte(self) -> None:
        data = self.signal() * 2
        for size in (len(data), 1, 7):
            bus, transport, signals, problems = self.connection()
            for start in range(0, len(data), size):
                bus.dataReceived(data[start : start + size])
            self.assertEqual((signals, transport.disconnected), (["Test"] * 2, False))
            self.assertIn("the connection has ended", self.end(bus, problems))

    def test_broken(self) -> None:
        """However it is broken; the parser has many ways to say so."""
        random = Random(1)
        data = self.signal()
        seen = set()
        for _ in range(3000):
            broken = bytearray(data)
            for _ in range(random.randint(1, 4)):
                broken[random.randrange(len(broken))] = random.randrange(256)
            bus, transport, _, problems = self.connection()
            bus.dataReceived(bytes(broken))
            bus.dataReceived(data)
            problem = self.end(bus, problems)
            self.assertEqual(transport.disconnected, not problem.startswith("the connection has ended"))
            seen.add(problem.partition("(")[0])
        kinds = ("UnicodeDecodeError", "AssertionError", "KeyError", "ValueError", "IndexError", "error", "TypeError")
        self.assertLessEqual({f"it does not speak D-Bus: {kind}" for kind in kinds}, seen)

    def test_too_deep(self) -> None:
        depth = 5000
        signature = b"\x01v\x00" * depth + b"\x01y\x00" + b"\x00"
        header = new_signal(MANAGER, "Test", "v", (("y", 0),)).serialise(serial=1)[:-4]
        broken = header[:4] + struct.pack("<I", len(signature)) + header[8:] + signature
        bus, transport, _, problems = self.connection()
        bus.dataReceived(broken)
        self.assertTrue(transport.disconnected)
        self.assertIn("it does not speak D-Bus: RecursionError", self.end(bus, problems))

    def test_nothing_after_the_end(self) -> None:
        """What came with the message after which it was closed does not count."""
        bus, _, signals, _ = self.connection()
        bus.dataReceived(self.signal() + b"?" * 16 + self.signal())
        self.assertEqual(signals, ["Test"])
        heard: list[Message] = []
        bus = Bus(lambda message: (heard.append(message), bus.close("enough"))[0], lambda problem: None)
        bus.ready.addErrback(lambda failure: failure.trap(Unreachable))
        bus.makeConnection(StringTransport())
        for data in (b"OK 1234\r\n", b"AGREE_UNIX_FD\r\n", self.signal() * 2):
            bus.dataReceived(data)
        self.assertEqual(len(heard), 1)


class RealTests(Case):
    """systemd-logind itself, with a bus, a /run and a service manager of the test's own."""

    def setUp(self) -> None:
        super().setUp()
        needs(f"{LOGIND}", LOGIND.exists())
        needs("the right to mount (root)", os.geteuid() == 0)
        self.started: list[str] = []
        manager = "org.freedesktop.systemd1"
        self.systemd = DBusAddress("/org/freedesktop/systemd1", manager, f"{manager}.Manager")
        methods: dict[str, Callable[[Message], Message | None]] = {
            "Subscribe": reply,
            "Get": lambda message: reply(message, "v", ("s", "loaded")),
            "StartUnit": self.start_unit,
        }
        self.service = Service(reactor, self.bus.address, methods)
        self.addCleanup(self.service.close)
        self.service.own(manager)

    def start_unit(self, message: Message) -> Message:
        """Where the machine would sleep or go down."""
        self.started.append(message.body[0])
        return reply(message, "o", "/org/freedesktop/systemd1/job/7")

    def run_logind(self) -> None:
        """Run it so that it can reach nothing of this machine's own service manager."""
        state = self.bus.folder / "state"
        state.write_text("mem\n")
        script = """
            mount -t tmpfs tmpfs /run
            mkdir -p /run/systemd/logind.conf.d /run/systemd/inhibit
            printf '[Login]\nNAutoVTs=0\nReserveVT=0\nInhibitDelayMaxSec=2\n' >/run/systemd/logind.conf.d/test.conf
            if [ -e /sys/power/state ]; then mount --bind "$1" /sys/power/state; fi
            exec "$2"
        """
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", str(state), str(LOGIND)]
        environment = {"DBUS_SYSTEM_BUS_ADDRESS": self.bus.address, "PATH": os.environ["PATH"]}
        with (self.bus.folder / "logind.log").open("w") as log:
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.locks = Path(f"/proc/{process.pid}/root/run/systemd/inhibit")

    def is_locked(self) -> bool:
        """Whether logind has a lock of anyone's."""
        return any(self.locks.iterdir())

    @inlineCallbacks
    def check(self, method: str, kind: str, source_id: str, outcome: str, says_go: bool) -> Any:
        self.start()
        yield self.said("lost")
        self.run_logind()
        yield self.said("connected")
        for time in range(2):
            began_s = reactor.seconds()
            self.service.connection.send(new_method_call(MANAGER, method, "b", (False,)))
            yield self.said("begin", time + 1)
            self.assertEqual(self.sink.of("begin")[time], (kind, {}, source_id, True, {"hold_s": 1.5}))
            if says_go:
                yield self.pass_by()
                self.assertEqual(len(self.started), time)
                self.sink.begun[source_id].callback(Go(confirmed=True))
            yield self.until(lambda count=time + 1: len(self.started) == count)
            if not says_go:
                self.assertGreaterEqual(reactor.seconds() - began_s, 1.9)
            job = (7, "/org/freedesktop/systemd1/job/7", self.started[-1], "done")
            self.service.emit(self.systemd, "JobRemoved", "uoss", *job)
            yield self.said("end", time + 1)
            yield self.until(self.is_locked)
        self.assertEqual(self.sink.of("end"), [(source_id, outcome)] * 2)
        self.assertEqual(len(self.sink.of("connected")), 1)

    @inlineCallbacks
    def test_reboot(self) -> Any:
        yield self.check("Reboot", "reboot", "shutdown", "cancelled", says_go=True)
        self.assertEqual(self.started, ["reboot.target"] * 2)

    @inlineCallbacks
    def test_suspend(self) -> Any:
        needs("/sys/power/state", Path("/sys/power/state").exists())
        yield self.check("Suspend", "suspend", "sleep", "done", says_go=True)
        self.assertEqual(self.started, ["suspend.target"] * 2)

    def test_goes_on_by_itself(self) -> Deferred[Any]:
        """When nobody says Go in time."""
        return self.check("PowerOff", "reboot", "shutdown", "cancelled", says_go=False)


class OptionTests(unittest.TestCase):
    """What cannot be used is refused by name."""

    def test_refused(self) -> None:
        for options, expected in (
            ({"bus": "/run/dbus/system_bus_socket"}, "bus: expected a D-Bus address such as unix:path=/run"),
            ({"bus": "tcp:host=localhost,port=1"}, "bus: expected a D-Bus address"),
            ({"bus": f"unix:path=/{'x' * 107}"}, "bus: expected a path of at most 107 bytes"),
            ({"bus": ""}, "bus: expected a text that is not empty"),
            ({"timeout": 5}, "timeout: expected a duration"),
            ({"margin": "-1s"}, "margin: "),
            ({"mode": "block"}, "mode: there is no such option; expected one of: bus, timeout, margin"),
        ):
            with self.assertRaises(ValueError) as caught:
                logind.make(options, surroundings(reactor))
            self.assertIn(expected, str(caught.exception))

    def test_defaults(self) -> None:
        adapter = logind.make({}, surroundings(reactor))
        self.assertEqual(tuple(adapter.kinds), ("suspend", "reboot"))
        self.assertIsNone(self.successResultOf(adapter.stop()) if adapter.stop() is not None else None)
