"""QEMU itself, by its machine protocol: migrations, stops, suspension, snapshots, and hardware that comes and goes.

An adapter that needs nothing but a socket, for guests that no libvirt looks after.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, TypeVar, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from zope.interface import implementer

from txvbcast.addresses import parse_address
from txvbcast.interfaces import IChangeAdapter, IChangeSink, Surroundings
from txvbcast.units import DURATION_S_MAX
from txvbcast.virt.options import Options
from txvbcast.virt.polling import Poller, Unreachable
from txvbcast.virt.qmp_machine import (
    PAUSES,
    PLUGS,
    Balloon,
    Job,
    Look,
    Machine,
    MemorySize,
    Migration,
    RunState,
)
from txvbcast.virt.qmp_protocol import QMP, CommandFailed, Event

Answer = TypeVar("Answer")

#: How long after a QEMU has ended (or has let a guest go) it is looked for again.
_RECONNECT_S: Final = 1.0

#: Answers are of one moment if nothing happens meanwhile; so often they are asked for again when something does.
_LOOKS_MAX: Final = 10

#: Linux has room for no longer name of a socket.
_PATH_BYTES_MAX: Final = 107

_WANTED: Final = "unix:PATH or tcp:HOST:PORT, as QEMU's option -qmp has it"


@attrs.frozen
class Settings:
    """The options of an adapter.

    :ivar member: the node that the guest is, if it is not this one.
    """

    socket: str
    endpoint: IStreamClientEndpoint
    member: int | None
    poll_migrating_s: float
    poll_idle_s: float
    timeout_s: float
    settle_s: float
    hotplug: bool


def make(options: Mapping[str, object], surroundings: Surroundings) -> IChangeAdapter:
    """See :meth:`txvbcast.interfaces.IChangeAdapterFactory.make`."""
    given = Options(options)
    socket = given.text("socket")
    member = given.text("member", surroundings.node_name)
    poll_migrating_s = given.duration_s("poll_migrating", "100ms", least_s=0.01)
    poll_idle_s = given.duration_s("poll_idle", "5s", least_s=0.1)
    timeout_s = given.duration_s("timeout", "5s")
    settle_s = given.duration_s("settle", "2s")
    hotplug = given.flag("hotplug", False)
    given.finish()
    settings = Settings(
        socket=socket,
        endpoint=_endpoint(socket, timeout_s, surroundings.reactor),
        member=_member(member, surroundings),
        poll_migrating_s=poll_migrating_s,
        poll_idle_s=poll_idle_s,
        timeout_s=timeout_s,
        settle_s=settle_s,
        hotplug=hotplug,
    )
    return Adapter(settings, surroundings.reactor)


def _endpoint(socket: str, timeout_s: float, reactor: Any) -> IStreamClientEndpoint:
    scheme, _, rest = socket.partition(":")
    if scheme == "unix" and rest:
        if len(os.fsencode(rest)) > _PATH_BYTES_MAX or "\0" in rest:
            raise ValueError(f"socket: expected a path of at most {_PATH_BYTES_MAX} bytes, got {rest!r}")
        return UNIXClientEndpoint(reactor, rest, timeout=timeout_s)
    if scheme != "tcp":
        raise ValueError(f"socket: expected {_WANTED}, got {socket!r}")
    try:
        found = parse_address(rest)
    except ValueError as error:
        raise ValueError(f"socket: {error}") from error
    return HostnameEndpoint(reactor, found.host, found.port, timeout=timeout_s)


def _member(name: str, surroundings: Surroundings) -> int | None:
    if name == surroundings.node_name:
        return None
    if name not in surroundings.members:
        raise ValueError(f"member: expected one of {', '.join(surroundings.members)}, got {name!r}")
    return surroundings.members[name]


@implementer(IChangeAdapter)
class Adapter:
    """Watches one virtual machine.

    Events begin and end changes while their lines are read.  A look, that is, all questions about the present
    state, comes after each connection, after each event, and from time to time.

    :ivar has_looked: whether the state is known, on this connection.
    """

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self.kinds = PAUSES + PLUGS if settings.hotplug else PAUSES
        self._settings = settings
        self._reactor = reactor
        self._machine = Machine(settings.hotplug, settings.settle_s)
        self._told: dict[str, Mapping[str, object]] = {}
        self._sequence = 0
        self._heard = 0
        self.has_looked = False
        self._events_enabled = False
        self._qmp: QMP | None = None
        self._woken: Deferred[None] | None = None

    def start(self, sink: IChangeSink) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.start`."""
        self._sink = sink
        # A connection is one poll, however long it lasts.
        self._poller = Poller(self._reactor, self._watch, _RECONNECT_S, DURATION_S_MAX, self._lost)
        self._poller.start()

    def stop(self) -> Deferred[None] | None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.stop`."""
        self._poller.stop()
        if self._qmp is None:
            return None
        self._qmp.give_up("this node has dropped it")  # now, even if this is called while the sink is told something
        return self._qmp.closed

    def _lost(self, problem: str) -> None:
        self._sink.lost(f"{self._settings.socket}: {problem}")

    # --- one connection ------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Connect, and follow the machine until the connection is over."""
        qmp = self._qmp = await self._connect()
        qmp.closed.addCallback(lambda _: self._wake())
        self.has_looked = self._events_enabled = False
        try:
            await self._introduce(qmp)
            while True:
                await self._look(qmp)
                await self._rest()
        except Unreachable:
            if not (self.has_looked and qmp.was_closed):
                raise  # and try again later and later
            self._lost(qmp.problem)
        finally:
            qmp.give_up("this node has dropped it")

    async def _connect(self) -> QMP:
        factory = Factory.forProtocol(lambda: QMP(self._reactor, self._settings.timeout_s, self._on_event))
        factory.noisy = False
        try:
            return cast(QMP, await self._settings.endpoint.connect(factory))
        except (ConnectError, DNSLookupError) as error:
            hint = f"was QEMU started with -qmp {self._settings.socket},server=on,wait=off?"
            raise Unreachable(f"cannot connect ({error}); {hint}") from error

    async def _introduce(self, qmp: QMP) -> None:
        await qmp.greeted
        await self._ask(qmp, "qmp_capabilities", dict)
        self._sink.connected(self._settings.socket)
        under_way = self._sink.under_way()
        self._told = {name: facts for name, facts in self._told.items() if name in under_way}

    async def _rest(self) -> None:
        """Until the next look is due, or something happens."""
        settings, machine = self._settings, self._machine
        rest_s = settings.poll_migrating_s if machine.migrates else settings.poll_idle_s
        if machine.has_plugs:
            rest_s = min(rest_s, settings.settle_s)
        self._woken = Deferred()
        timer = self._reactor.callLater(rest_s, self._wake)
        try:
            await self._woken
        finally:
            self._woken = None
            if timer.active():
                timer.cancel()

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.callback(None)

    # --- looks -----------------------------------------------------------------------------------

    async def _look(self, qmp: QMP) -> None:
        """Ask for the present state, until it is of one moment."""
        for _ in range(_LOOKS_MAX):
            heard = self._heard
            look = await self._ask_everything(qmp)
            if heard == self._heard:
                self.has_looked = True
                self._machine.see(look)
                self._tell(at_us=0)
                return

    async def _ask_everything(self, qmp: QMP) -> Look:
        if not self._events_enabled:
            self._events_enabled = await self._enable_events(qmp)
        return Look(
            run_state=await self._ask(qmp, "query-status", RunState),
            migration=await self._ask(qmp, "query-migrate", Migration),
            jobs=await self._ask_if_known(qmp, "query-jobs", list[Job]),
            memory=await self._ask_if_known(qmp, "query-memory-size-summary", MemorySize),
            balloon=await self._ask_if_known(qmp, "query-balloon", Balloon) if self._settings.hotplug else None,
        )

    async def _enable_events(self, qmp: QMP) -> bool:
        """Without this QEMU says nothing of migrations; it refuses while there is one."""
        wanted = {"capabilities": [{"capability": "events", "state": True}]}
        try:
            await qmp.execute("migrate-set-capabilities", dict, wanted)
        except CommandFailed:
            return False
        return True

    async def _ask(self, qmp: QMP, command: str, shape: type[Answer]) -> Answer:
        try:
            return await qmp.execute(command, shape)
        except CommandFailed as error:
            raise Unreachable(str(error)) from error

    async def _ask_if_known(self, qmp: QMP, command: str, shape: type[Answer]) -> Answer | None:
        """None from a QEMU that is too old, or that has no such device."""
        try:
            return await qmp.execute(command, shape)
        except CommandFailed:
            return None

    # --- what the node is told -----------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        if not self.has_looked:
            self._heard += 1  # whatever it is, the look that is being taken is out of date
        elif self._machine.hear(event, self._reactor.seconds()):
            self._heard += 1
            self._tell(event.at_us)
            self._wake()

    def _tell(self, at_us: int) -> None:
        """Begin what is new before ending what is over: a change that follows on another leaves no gap."""
        changes = self._machine.changes(self._reactor.seconds())
        for name, change in changes.items():
            if name not in self._told:
                self._sink.begin(
                    change.kind,
                    change.facts,
                    name,
                    holdable=False,
                    sequence=self._next_sequence(at_us),
                    member=self._settings.member,
                )
            elif change.facts != self._told[name]:
                self._sink.update(name, change.facts, self._next_sequence(at_us))
        for name in [name for name in self._told if name not in changes]:
            self._sink.end(name, self._machine.outcome(name), self._next_sequence(at_us))
        self._told = {name: change.facts for name, change in changes.items()}

    def _next_sequence(self, at_us: int) -> int:
        """The time of the event, unless the clock stands still or goes back: QEMU tells everything once, in order."""
        self._sequence = max(self._sequence + 1, at_us)
        return self._sequence
