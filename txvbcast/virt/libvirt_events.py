"""libvirt and Twisted: libvirt's events, and its calls that may hang, in threads that the reactor never waits for.

libvirt wants an event loop of its own in the process.  It could be the reactor, but libvirt's callbacks take locks
that a call in another thread may hold; so its own loop runs in one thread of the process, and each connection has
its calls made in another.  Both are daemon threads: what hangs in them neither stops nor outlives the node.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import attrs
import libvirt
from twisted.internet.defer import Deferred, execute

#: Events that wait for the reactor's turn.  More are dropped: the next look at the guests finds what they told.
EVENTS_MAX = 1000

#: Events of guests that are listened to, where this libvirt and the daemon know them.
EVENTS = (
    "LIFECYCLE", "MIGRATION_ITERATION", "JOB_COMPLETED", "BALLOON_CHANGE", "DEVICE_ADDED", "DEVICE_REMOVED",
    "TUNABLE", "MEMORY_DEVICE_SIZE_CHANGE", "VCPU_REMOVED",
)  # fmt: skip

#: After so many signs of life that were not answered a connection is given up.
KEEPALIVE_COUNT = 3

Result = TypeVar("Result")


class EventThread:
    """Runs libvirt's event loop while anybody uses it."""

    def __init__(self) -> None:
        self._users = 0
        self._registered = False
        self._stopping = threading.Event()
        self.thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Have it run; before the first connection is opened."""
        if not self._registered:
            libvirt.virEventRegisterDefaultImpl()
            libvirt.registerErrorHandler(_say_nothing, None)  # libvirt would write each error to stderr as well
            self._registered = True
        self._users += 1
        if self._users == 1:
            self._stopping = threading.Event()
            self.thread = threading.Thread(target=_run, args=(self._stopping,), name="libvirt-events", daemon=True)
            self.thread.start()

    def release(self) -> None:
        """The last one ends it, without waiting."""
        self._users -= 1
        if self._users == 0:
            self._stopping.set()
            libvirt.virEventAddTimeout(0, _wake, None)


def _run(stopping: threading.Event) -> None:
    while not stopping.is_set():
        libvirt.virEventRunDefaultImpl()


def _wake(timer: int, _: None) -> None:
    libvirt.virEventRemoveTimeout(timer)


def _say_nothing(_: None, error: object) -> None:
    """Every error is raised too, and said from there."""


#: The one of this process: libvirt can have no more.
event_thread = EventThread()


class Lane:
    """Calls that may hang, one after the other in a thread of their own.

    :param reactor: where results arrive.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="libvirt-calls", daemon=True)
        self.thread.start()

    def call(self, function: Callable[[], Result]) -> Deferred[Result]:
        """The result of ``function``, run in the thread.  Cancelled, it fires at once, whatever the thread does."""
        answer: Deferred[Result] = Deferred()

        def call() -> None:
            outcome = execute(function)
            self._reactor.callFromThread(outcome.chainDeferred, answer)

        self._calls.put(call)
        return answer

    def finish(self, function: Callable[[], None]) -> Deferred[None]:
        """Have the thread run ``function`` last of all, and end."""
        finished = self.call(function)
        self._calls.put(None)
        return finished

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


@attrs.frozen
class Event:
    """What libvirt told of a guest.

    :ivar event: one of :data:`EVENTS`.
    :ivar facts: as libvirt's callback of that event gets them.
    """

    event: str
    uuid: str
    name: str
    facts: tuple[Any, ...]


class Mailbox:
    """Brings events from libvirt's thread to the reactor's, in order.

    :param deliver: called in the reactor's thread.
    """

    def __init__(self, reactor: Any, deliver: Callable[[Any], None]) -> None:
        self._reactor = reactor
        self._deliver = deliver
        self._lock = threading.Lock()
        self._events: list[Any] = []
        self._closed = False

    def put(self, event: object) -> None:
        """From any thread."""
        with self._lock:
            if len(self._events) >= EVENTS_MAX:
                return
            self._events.append(event)
            if len(self._events) > 1:
                return  # they are to be delivered already
        self._reactor.callFromThread(self._empty)

    def close(self) -> None:
        """Deliver no more; from the reactor's thread."""
        self._closed = True

    def _empty(self) -> None:
        with self._lock:
            events, self._events = self._events, []
        for event in events:
            if not self._closed:
                self._deliver(event)


@attrs.frozen
class Guest:
    """A guest that runs, as it was found.

    :ivar vcpus: 0 if its state was not asked for, or cannot be had now; then the rest says nothing.
    :ivar job: its job statistics, empty without a job; None if they cannot be had.
    :ivar incoming: it is being migrated to this host.
    """

    uuid: str
    name: str
    paused: bool = False
    vcpus: int = 0
    memory_bytes: int = 0
    job: dict[str, Any] | None = None
    incoming: bool = False


class Connection:
    """A connection to libvirt.  Everything here blocks, and is for a :class:`Lane`.

    :param events: gets every :class:`Event`, and the reason (a text) when the connection is lost.
    """

    def __init__(self, uri: str, keepalive_s: float, events: Mailbox) -> None:
        self.uri = uri
        self._keepalive_s = max(round(keepalive_s), 1)
        self._events = events
        self._connection: libvirt.virConnect | None = None
        self._domains: dict[str, libvirt.virDomain] = {}
        self._callbacks: list[int] = []

    def open(self) -> str:
        """Connect and register; the name of the host.

        :raises libvirt.libvirtError: it cannot be done.
        """
        connection = self._connection = libvirt.open(self.uri)
        try:
            connection.setKeepAlive(self._keepalive_s, KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # there is no daemon to keep alive
                raise
        connection.registerCloseCallback(self._on_close, None)
        for name in EVENTS:
            number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}", None)
            if number is not None:
                self._callbacks.append(connection.domainEventRegisterAny(None, number, self._on_event, name))
        host: str = connection.getHostname()
        return host

    def list_guests(self) -> list[Guest]:
        """Every guest that runs, without its state.

        :raises libvirt.libvirtError: the connection is gone.
        """
        assert self._connection is not None
        self._domains = {domain.UUIDString(): domain for domain in self._connection.listAllDomains(_ACTIVE)}
        return [Guest(uuid, domain.name()) for uuid, domain in self._domains.items()]

    def look(self, guests: list[Guest]) -> list[Guest]:
        """Guests of the last list, with their state.

        :raises libvirt.libvirtError: the connection is gone.
        """
        assert self._connection is not None
        seen = [_look_at(guest, self._domains[guest.uuid]) for guest in guests]
        self._connection.getLibVersion()  # what a guest refused may have been the connection's end: then this fails
        return seen

    def close(self) -> None:
        """Let go; quiet, whatever has become of the connection."""
        connection, self._connection = self._connection, None
        self._domains.clear()
        if connection is None:
            return
        for number in self._callbacks:
            _quietly(connection.domainEventDeregisterAny, number)
        _quietly(connection.unregisterCloseCallback)
        _quietly(connection.close)

    def _on_event(self, _: libvirt.virConnect, domain: libvirt.virDomain, *facts: Any) -> None:
        self._events.put(Event(facts[-1], domain.UUIDString(), domain.name(), facts[:-1]))

    def _on_close(self, _: libvirt.virConnect, reason: int, __: None) -> None:
        self._events.put(_CLOSED.get(reason, f"the connection was closed for reason {reason}"))


_ACTIVE = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
_CLOSED = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "the connection failed",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "the daemon has closed the connection",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "the daemon shows no sign of life",
}


def _look_at(guest: Guest, domain: libvirt.virDomain) -> Guest:
    """What can be had of one guest; it may end at any time."""
    try:
        state, _, memory_kib, vcpus, _ = domain.info()
        paused = state != libvirt.VIR_DOMAIN_RUNNING
        guest = attrs.evolve(guest, paused=paused, vcpus=vcpus, memory_bytes=memory_kib * 1024)
        job = domain.jobStats(0)
    except libvirt.libvirtError as error:
        code = error.get_error_code()
        if code == libvirt.VIR_ERR_NO_SUPPORT:  # a hypervisor without jobs
            return attrs.evolve(guest, job={})
        # the statistics of an incoming migration "are available only on the source host"
        return attrs.evolve(guest, incoming=guest.paused and code == libvirt.VIR_ERR_OPERATION_UNSUPPORTED)
    return attrs.evolve(guest, job=job if job.get("type") else {})


def _quietly(function: Callable[..., object], *arguments: object) -> None:
    try:
        function(*arguments)
    except libvirt.libvirtError:
        return  # the connection is gone: so are its callbacks
