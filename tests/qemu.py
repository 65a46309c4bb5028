"""Real virtual machines for tests: QEMU processes that end with their test.

Everything is emulated (``-accel tcg``), so that it works wherever QEMU is installed.  In a test case that
inherits :class:`QemuCase`::

    source = await self.machine("source", fill_mib=16)
    destination = await self.machine("destination", incoming=True)
    await source.migrate_to(destination)

A guest that moves again and again, and is found at one address all the time, is a :class:`Wanderer`.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IReactorProcess, IReactorUNIX
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.python.failure import Failure
from twisted.trial import unittest

from tests.blackbox.machine import is_reference
from tests.qemu_guest import Guest, GuestMissing, guest
from txvbcast.virt.qmp_protocol import QMP, Event

reactor = cast(Any, _reactor)

PROGRAM: Final = "qemu-system-x86_64"

#: Whatever takes longer has gone wrong: a guest is ready within three seconds on one slow core.
PATIENCE_S: Final = 45.0

#: The machine of all tests: room to plug in memory and a CPU, a balloon, a disk and a network card.
_HARDWARE: Final = (
    "-accel", "tcg", "-machine", "pc", "-m", "256M,slots=4,maxmem=1G",
    "-smp", "1,maxcpus=2,sockets=2,cores=1,threads=1",
    "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot",
    "-device", "virtio-balloon-pci,id=balloon0",
    "-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,id=net0,romfile=",
    "-blockdev", "driver=null-co,node-name=disk,size=1048576", "-device", "virtio-blk-pci,drive=disk,id=disk0",
)  # fmt: skip

_READY: Final = "guest-is-ready"


def lack() -> str:
    """Why no QEMU can be started here; empty if it can."""
    missing = [program for program in (PROGRAM, "setpriv") if shutil.which(program) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


class _Waiting:
    """Those who wait for something to become true."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def until(self, condition: Callable[[], bool], what: str) -> Deferred[None]:
        """Fires when ``condition`` holds; fails with ``what`` in its text if that takes too long."""
        waiting: Deferred[None] = Deferred()
        if condition():
            waiting.callback(None)
            return waiting
        self._waiting.append((condition, waiting))
        return waiting.addTimeout(PATIENCE_S, reactor, lambda _, timeout_s: _fail(f"{what}: not within {timeout_s} s"))

    def look(self) -> None:
        """Something has changed."""
        ready = [each for each in self._waiting if each[0]()]
        self._waiting = [each for each in self._waiting if each not in ready]
        for _, waiting in ready:
            if not waiting.called:
                waiting.callback(None)


def _fail(why: str) -> None:
    raise AssertionError(why)


class _Process(ProcessProtocol):
    def __init__(self) -> None:
        self.said = b""
        self.ended: Deferred[None] = Deferred()

    def errReceived(self, data: bytes) -> None:
        self.said = (self.said + data)[-10_000:]

    def processEnded(self, reason: Failure) -> None:
        reason.trap(ProcessDone, ProcessTerminated)
        self.ended.callback(None)


class _Serial(Protocol):
    """The guest's serial line: a shell."""

    def __init__(self) -> None:
        self.text = ""
        self.waiting = _Waiting()

    def dataReceived(self, data: bytes) -> None:
        self.text += data.decode(errors="replace")
        self.waiting.look()


class Machine:
    """A QEMU process, with a connection of the test's own to its machine protocol.

    :ivar address: where an adapter may watch it, as its option ``socket`` is written.
    :ivar events: all that QEMU has told so far, oldest first.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.socket = folder / f"{name}.watched"
        self.address = f"unix:{self.socket}"
        self.events: list[Event] = []
        self.ended = False
        self._waiting = _Waiting()
        self._control: QMP | None = None
        self._commands = 0
        self._process = _Process()
        self._serial = _Serial()
        self._listening: list[Any] = []

    async def start(
        self, *arguments: str, incoming: bool = False, guest: Guest | None = None, fill_mib: int = 0
    ) -> None:
        """Start the process and take it over; with a ``guest`` that is not ``incoming``, until its shell answers."""
        control, serial = self.folder / f"{self.name}.control", self.folder / f"{self.name}.serial"
        self._listen(control, self._new_control)
        self._listen(serial, lambda: self._serial)
        # So that the machine ends with the process of the test, even if that is killed.
        command = ["setpriv", "--pdeathsig", "KILL", PROGRAM, *_HARDWARE, "-name", self.name]
        command += ["-chardev", f"socket,id=serial,path={serial}", "-serial", "chardev:serial"]
        # This one first, so that it is there when the test's own connection comes.
        command += ["-qmp", f"unix:{self.socket},server=on,wait=off", "-qmp", f"unix:{control}"]
        command += guest.arguments(fill_mib) if guest else ()
        command += ["-incoming", "tcp:127.0.0.1:0"] if incoming else []
        cast(IReactorProcess, reactor).spawnProcess(self._process, command[0], [*command, *arguments], env=None)
        self._process.ended.addCallback(self._has_ended)
        await self.until(lambda: self._control is not None or self.ended, "QEMU starts")
        if self._control is None:
            raise AssertionError(f"QEMU ended: {self._process.said.decode()}")
        await self._control.greeted
        await self.execute("qmp_capabilities")
        if guest and not incoming:
            await self._serial.waiting.until(lambda: _READY in self._serial.text, "the guest is ready")

    def _listen(self, path: Path, new: Callable[[], Protocol]) -> None:
        class Connections(Factory):
            noisy = False

            def buildProtocol(self, addr: object) -> Protocol:
                return new()

        self._listening.append(cast(IReactorUNIX, reactor).listenUNIX(str(path), Connections()))

    def _new_control(self) -> QMP:
        self._control = QMP(reactor, PATIENCE_S, self._hear)
        reactor.callLater(0, self._waiting.look)
        return self._control

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self._waiting.look()

    def _has_ended(self, _: None) -> None:
        self.ended = True
        self._waiting.look()

    # --- what a test does with it --------------------------------------------------------------

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Perform a command of QEMU's machine protocol."""
        assert self._control is not None
        return await self._control.execute(command, cast(Any, Any), arguments)

    async def shell(self, command: str) -> str:
        """Perform a command in the guest's shell; what it says."""
        self._commands += 1
        end = f"end-of-{self._commands}:"
        start = len(self._serial.text)
        assert self._serial.transport is not None
        self._serial.transport.write(f"{command}; echo end-of-$(({self._commands})):\n".encode())
        await self._serial.waiting.until(lambda: end in self._serial.text[start:], f"the guest performs {command!r}")
        return self._serial.text[start:].split(end)[0].replace("\r", "").strip()

    def send_shell(self, command: str) -> None:
        """Have the guest's shell perform a command; nobody waits for it."""
        assert self._serial.transport is not None
        self._serial.transport.write(f"{command}\n".encode())

    def until(self, condition: Callable[[], bool], what: str) -> Deferred[None]:
        """Fires as soon as ``condition`` holds after an event (or holds already)."""
        return self._waiting.until(condition, f"{self.name}: {what}")

    def until_event(self, name: str, times: int = 1, **data: object) -> Deferred[None]:
        """Fires when an event with ``data`` among its own has come so often."""
        return self.until(lambda: len(self.of(name, **data)) >= times, f"{name} {data}")

    def of(self, name: str, **data: object) -> list[Event]:
        """The events of a name, with ``data`` among their own."""
        return [each for each in self.events if each.name == name and data.items() <= each.data.items()]

    async def enable(self, *capabilities: str) -> None:
        """Switch capabilities of migrations on."""
        wanted = [{"capability": name, "state": True} for name in capabilities]
        await self.execute("migrate-set-capabilities", {"capabilities": wanted})

    async def incoming_uri(self) -> str:
        """Where it takes a migration in."""
        (address,) = (await self.execute("query-migrate"))["socket-address"]
        return f"tcp:{address['host']}:{address['port']}"

    async def begin_migration_to(self, destination: Machine) -> None:
        """Start to migrate; returns at once."""
        await self.execute("migrate", {"uri": await destination.incoming_uri()})

    async def migrate_to(self, destination: Machine) -> None:
        """Migrate, until the destination runs.  The source's process goes on, and stands still."""
        await self.enable("events")
        await destination.enable("events")
        resumed = len(destination.of("RESUME"))
        await self.begin_migration_to(destination)
        await self.until_event("MIGRATION", status="completed")
        await destination.until_event("RESUME", times=resumed + 1)

    def signal(self, name: str) -> None:
        """Send the process a signal, such as ``STOP``."""
        if self._process.transport is not None and not self.ended:
            with contextlib.suppress(ProcessExitedAlready):
                self._process.transport.signalProcess(getattr(signal, f"SIG{name}"))

    async def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process.transport is not None:
            self.signal("KILL")
            await self.until(lambda: self.ended, "QEMU ends")
        for each in self._listening:
            await each.stopListening()
        self._listening = []
        if self._control is not None:
            self._control.give_up("the test is over")


class Wanderer:
    """A guest that moves, and is found at the same address before and after.

    :ivar address: of whichever machine it is on.
    :ivar machine: that machine.
    """

    def __init__(self, case: QemuCase, machine: Machine) -> None:
        self.machine = machine
        self._case = case
        self._moves = 0
        self._link = machine.folder / "wanderer"
        self.address = f"unix:{self._link}"
        self._point()

    def _point(self) -> None:
        """Atomically: whoever connects finds the old machine or the new one."""
        new = self._link.with_suffix(".new")
        new.symlink_to(self.machine.socket)
        new.rename(self._link)

    async def move(self) -> None:
        """Migrate to a new machine, and end the old one."""
        self._moves += 1
        source = self.machine
        destination = await self._case.machine(f"{self._link.name}{self._moves}", incoming=True)
        await source.migrate_to(destination)
        self.machine = destination
        self._point()
        await source.stop()


class QemuCase(unittest.TestCase):
    """Machines that end with the test; skipped with the reason where they cannot be had."""

    timeout = 60

    def setUp(self) -> None:
        """Is there a QEMU?"""
        self._skip_for(lack())
        # A socket's path may have 107 bytes, and trial's own folders are deep.
        self.folder = Path(tempfile.mkdtemp(prefix="qemu-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def _skip_for(self, why: str) -> None:
        if why and is_reference():
            raise AssertionError(f"{why}, and nothing may be missing on this machine")
        if why:
            raise unittest.SkipTest(why)

    def guest(self) -> Guest:
        """The guest's Linux."""
        try:
            return guest()
        except GuestMissing as error:
            self._skip_for(str(error))
            raise

    async def machine(self, name: str, *arguments: str, **wanted: Any) -> Machine:
        """A new machine; ``arguments`` are QEMU's own, ``wanted`` those of :meth:`Machine.start`."""
        machine = Machine(name, self.folder)
        self.addCleanup(lambda: Deferred.fromCoroutine(machine.stop()))
        await machine.start(*arguments, **wanted)
        return machine

    async def wanderer(self, **wanted: Any) -> Wanderer:
        """A guest that can move."""
        return Wanderer(self, await self.machine("wanderer0", **wanted))
