"""systemd-logind: holds the machine back from sleep and shutdown until the cluster knows.

Logind gives a lock of mode ``delay`` as a file descriptor.  Before it puts the machine to sleep or shuts it down it
says so by a signal, and goes on when all such locks are closed, or after ``InhibitDelayMaxSec`` at the latest.
Described in systemd's pages "Inhibitor Locks" and org.freedesktop.login1(5).
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Final

from jeepney import DBusAddress
from jeepney.fds import FileDescriptor
from jeepney.low_level import Message
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txvbcast.interfaces import IChangeAdapter, IChangeSink, Surroundings
from txvbcast.units import format_duration
from txvbcast.virt.dbus import BUS, Bus, BusError, member, sender, socket_path
from txvbcast.virt.options import Options
from txvbcast.virt.polling import Unreachable, back_off_s

log = Logger()

NAME: Final = "org.freedesktop.login1"
MANAGER: Final = DBusAddress("/org/freedesktop/login1", NAME, f"{NAME}.Manager")
PROPERTIES: Final = MANAGER.with_interface("org.freedesktop.DBus.Properties")

#: What is told: the signal, the property that says the same, the kind of change, and how it ended when it is over.
#: A machine that was shut down hears no more of it: whoever hears that it is over is still there.
WHAT: Final = {
    "sleep": ("PrepareForSleep", "PreparingForSleep", "suspend", "done"),
    "shutdown": ("PrepareForShutdown", "PreparingForShutdown", "reboot", "cancelled"),
}

#: Logind may be configured to wait without end; a node then waits so long at most.
HOLD_S_MAX: Final = 3600.0

_RULES: Final = (
    f"type='signal',sender='{NAME}',interface='{NAME}.Manager'",
    f"type='signal',sender='{BUS.bus_name}',member='NameOwnerChanged',arg0='{NAME}'",
)


def make(options: Mapping[str, object], surroundings: Surroundings) -> IChangeAdapter:
    """The adapter.

    :raises ValueError: an option cannot be used.
    """
    read = Options(options)
    adapter = LogindAdapter(
        surroundings,
        bus=read.text("bus", "unix:path=/run/dbus/system_bus_socket"),
        timeout_s=read.duration_s("timeout", "5s"),
        margin_s=read.duration_s("margin", "500ms", least_s=0.0),
    )
    read.finish()
    return adapter


@implementer(IChangeAdapter)
class LogindAdapter:
    """Keeps a connection to the system bus, and a delay lock.

    :param bus: the D-Bus address of the system bus.
    :param timeout_s: until the connection stands and the lock is held.
    :param margin_s: taken off the time for which logind lets itself be held.
    :raises ValueError: ``bus`` is no address of a UNIX socket.
    """

    kinds = ("suspend", "reboot")

    def __init__(self, surroundings: Surroundings, bus: str, timeout_s: float, margin_s: float) -> None:
        try:
            self._path = socket_path(bus)
        except ValueError as error:
            raise ValueError(f"bus: {error}") from error
        self._reactor = surroundings.reactor
        self._why = f"node {surroundings.node_name} announces its absence"
        self._timeout_s = timeout_s
        self._margin_s = margin_s
        self._failures = 0
        self._next: IDelayedCall | None = None
        self._asking: Deferred[None] | None = None
        self._bus: Bus | None = None
        self._owner = ""
        self._hold_s = 0.0
        self._lock: FileDescriptor | None = None
        self._is_holding = False
        self._preparing: set[str] = set()
        self._gone: Deferred[None] | None = None

    def start(self, sink: IChangeSink) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.start`."""
        self._sink = sink
        self._connect()

    def stop(self) -> Deferred[None] | None:
        """Let the machine go, and the connection."""
        self._gone = Deferred()
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._asking is not None:
            self._asking.cancel()
        self._unlock()
        if self._bus is None:
            return None
        self._bus.close("this node stops")
        return self._gone

    # --- the connection ------------------------------------------------------------------

    def _connect(self) -> None:
        self._ask(self._open())

    def _ask(self, question: Coroutine[Deferred[Any], Any, None]) -> None:
        """Ask something of the bus; when it fails for any reason the connection is made anew."""
        self._asking = Deferred.fromCoroutine(question)
        self._asking.addTimeout(self._timeout_s, self._reactor)
        self._asking.addErrback(self._on_failure)

    def _on_failure(self, failure: Failure) -> None:
        if self._gone is not None:
            return
        problem = failure.getErrorMessage()
        if failure.check(TimeoutError):
            problem = f"no answer within {format_duration(self._timeout_s)}"
        elif not failure.check(Unreachable, ConnectError):
            # As for every adapter: its defect is said, and no reason to stop the node.
            log.failure("talking to logind failed", failure)
            problem = f"a defect of the adapter, see the log of this node: {problem}"
        self._lose(problem)

    def _lose(self, problem: str) -> None:
        if self._bus is not None:
            self._bus.close(problem)  # goes on in _on_lost
        else:
            self._on_lost(problem)

    def _on_lost(self, problem: str) -> None:
        self._bus, self._owner = None, ""
        if self._gone is not None:
            self._gone.callback(None)
            return
        if not self._is_holding:
            self._unlock()  # without the signals nobody would know when to let go of it
        self._next = self._reactor.callLater(back_off_s(self._failures), self._connect)
        self._failures += 1
        self._sink.lost(f"logind, by the bus at {self._path}: {problem}")

    async def _open(self) -> None:
        bus = Bus(self._on_signal, self._on_lost)
        await connectProtocol(UNIXClientEndpoint(self._reactor, self._path, self._timeout_s), bus)
        self._bus = bus
        await bus.ready
        for rule in _RULES:
            await bus.call(BUS, "AddMatch", "s", rule)
        reply = await bus.call(PROPERTIES, "GetAll", "s", MANAGER.interface)
        self._owner = sender(reply)  # what comes after it in the name of logind must come from there
        delay_s = _property(reply, "InhibitDelayMaxUSec", "t") / 1e6
        preparing = {what: _property(reply, name, "b") for what, (_, name, _, _) in WHAT.items()}
        self._hold_s = min(max(0.0, delay_s - self._margin_s), HOLD_S_MAX)
        for what, begins in preparing.items():
            self._on_prepare(what, begins)
        if not self._preparing:
            await self._take_lock()
        self._failures = 0
        self._sink.connected(f"logind, by the bus at {self._path}")

    # --- the lock ------------------------------------------------------------------------

    async def _take_lock(self) -> None:
        if self._bus is None:
            return
        wanted = (":".join(WHAT), "txvbcast", self._why, "delay")
        try:
            reply = await self._bus.call(MANAGER, "Inhibit", "ssss", *wanted)
        except BusError as error:
            if self._preparing:
                return  # too late for this time: logind gives no locks while it prepares
            raise Unreachable(
                f"it gives no delay lock, {error}: run the node as root, or have polkit allow it"
            ) from error
        if len(reply.body) != 1 or not isinstance(reply.body[0], FileDescriptor):
            raise Unreachable(f"it gives {reply.body!r} for a delay lock")
        self._unlock()
        self._lock = reply.body[0]

    def _unlock(self) -> None:
        self._is_holding = False
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # --- what logind says ----------------------------------------------------------------

    def _on_signal(self, message: Message) -> None:
        interface, name = member(message)
        if sender(message) == BUS.bus_name and name == "NameOwnerChanged":
            if self._owner:  # before that it has only come
                self._lose("logind has left the bus")
        elif sender(message) == self._owner and interface == MANAGER.interface:
            for what, (signal, _, _, _) in WHAT.items():
                if name == signal and message.body in ((True,), (False,)):
                    self._on_told(what, message.body[0])

    def _on_told(self, what: str, begins: bool) -> None:
        self._on_prepare(what, begins)
        if not self._preparing:
            self._ask(self._take_lock())

    def _on_prepare(self, what: str, begins: bool) -> None:
        _, _, kind, outcome = WHAT[what]
        if begins:
            self._preparing.add(what)
            self._begin(what, kind)
            return
        self._preparing.discard(what)
        if what in self._sink.under_way():
            self._sink.end(what, outcome)

    def _begin(self, what: str, kind: str) -> None:
        lock = self._lock
        if lock is None:  # it had begun before there was a lock
            self._sink.begin(kind, {}, what, holdable=False)
            return
        self._is_holding = True
        go = self._sink.begin(kind, {}, what, holdable=True, hold_s=self._hold_s)
        go.addCallback(lambda _: self._let_go(lock))

    def _let_go(self, lock: FileDescriptor) -> None:
        if lock is self._lock:
            self._unlock()


def _property(reply: Message, name: str, signature: str) -> Any:
    """One of logind's properties.

    :raises Unreachable: it is missing, or of another type.
    """
    properties = reply.body[0] if reply.body else None
    found = properties.get(name) if isinstance(properties, dict) else None
    if not isinstance(found, tuple) or found[0] != signature:
        raise Unreachable(f"it says {found!r} for its property {name}")
    return found[1]
