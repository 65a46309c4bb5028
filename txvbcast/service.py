"""A node as a Twisted service: everything put together, for twistd or for embedding."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from twisted.application import service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from txvbcast import errors
from txvbcast.absences import WAIT_S, HeldChange, Notice
from txvbcast.addresses import reached_by
from txvbcast.applications import Applications
from txvbcast.config import Address, Config
from txvbcast.configfile import load
from txvbcast.control.client_desk import OUTSTANDING_MAX, DeskFacts, Desks
from txvbcast.control.client_port import ClientPort
from txvbcast.control.contracts import HttpLimits
from txvbcast.control.http import HttpApi
from txvbcast.driver import Driver
from txvbcast.interfaces import IObserver, IResourceManager, Surroundings
from txvbcast.managers import plugins
from txvbcast.managers.kv import KeyValueManager
from txvbcast.monotonic import use_monotonic_time
from txvbcast.net.names import resolve
from txvbcast.net.network import Network
from txvbcast.store.sqlite import SqliteStore
from txvbcast.turns import Turn
from txvbcast.virt.adapters import Adapters
from txvbcast.wire.client_messages import NodeLine
from txvbcast.wire.messages import Mode

log = Logger()

#: Programs that may connect to a port in one go: one more would wait a second or longer for its kernel to try again.
LISTEN_BACKLOG = 1024
#: Pieces of the stored log that are read at once at start, in bytes.
RESTORE_BYTES = 4 << 20


class MonotonicClock:
    """The reactor's timers with the monotonic clock's time."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    #: CLOCK_MONOTONIC.
    seconds = staticmethod(time.monotonic)

    def callLater(self, delay: float, function: Callable[..., Any], *args: Any) -> IDelayedCall:
        """Call ``function`` after ``delay`` seconds."""
        call: IDelayedCall = self._reactor.callLater(delay, function, *args)
        return call


class Service(service.Service):
    """One node of a cluster.

    :param config: its configuration.
    :param managers: resource managers besides those of the configuration.
    :param reactor: the one to use; by default Twisted's.
    :param on_halt: called when the node had to stop because of a defect; by default the reactor stops.
    """

    def __init__(
        self,
        config: Config,
        managers: Iterable[IResourceManager] = (),
        reactor: Any = None,
        on_halt: Callable[[BaseException], None] | None = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor as default  # not at the top: twistd chooses the reactor first

            reactor = default
        self.config = config
        self._reactor = reactor
        self._on_halt = on_halt or self._stop_reactor
        self._managers = [*managers, *(plugins.load(wanted) for wanted in config.resource_managers)]
        names = [manager.name for manager in self._managers]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise errors.ConfigError(f"resource_managers: {', '.join(sorted(twice))}: the name is taken already")
        members = {member.name: member.id for member in config.members}
        surroundings = Surroundings(reactor, config.node_id, config.node_name, members, config.data_dir)
        self._adapters = Adapters(config.adapters, surroundings)
        self._turn = Turn(reactor)
        self._driver: Driver | None = None
        self._store: SqliteStore | None = None
        self._network: Network | None = None
        self._desks: Desks | None = None
        self._clients: ClientPort | None = None
        self._http: HttpApi | None = None
        self._ports: list[IListeningPort] = []
        self.listening: Deferred[None] = Deferred()

    @classmethod
    def from_config(
        cls,
        path_or_config: Path | str | Config,
        managers: Iterable[IResourceManager] = (),
        reactor: Any = None,
        on_halt: Callable[[BaseException], None] | None = None,
    ) -> Service:
        """The node that a YAML file (or a :class:`~txvbcast.config.Config`) describes.

        :raises ConfigError: the configuration cannot be used.
        """
        config = path_or_config if isinstance(path_or_config, Config) else load(Path(path_or_config))
        return cls(config, managers, reactor, on_halt)

    # --- life ----------------------------------------------------------------------------

    def startService(self) -> None:
        """Open the store and begin to listen; :attr:`listening` fires when that is done.

        Timers are measured by the monotonic clock from now on, if none is waiting yet.

        :raises StoreError: the data directory cannot be used.
        """
        self._use_monotonic_time()
        config = self.config
        self._store, stored = SqliteStore.open(
            config.data_dir, config.node_id, config.cluster_id, self._reactor, self._halted, self._turn
        )
        super().startService()  # type: ignore[no-untyped-call]
        self._network = Network(config, stored, self._reactor, turn=self._turn)
        self._driver = Driver(
            config.protocol,
            stored,
            self._store,
            self._network,
            Applications(self._managers),
            MonotonicClock(self._reactor),
            time.time,
            self._halted,
            self._facts,
            turn=self._turn,
        )
        self._network.receiver = self._driver
        self._driver.start(self._store.entries(RESTORE_BYTES))
        log.info(
            "node {node_id} ({name}) of cluster {cluster} starts: incarnation {incarnation}, log to {last_seq}",
            node_id=config.node_id,
            name=config.node_name,
            cluster=config.cluster_name,
            incarnation=stored.incarnation,
            last_seq=stored.last_seq,
        )
        self._adapters.start(self._driver, time.monotonic)
        if not self._driver.halted:  # an adapter may find that this is not the machine that it was
            Deferred.fromCoroutine(self._listen()).addErrback(self._cannot_listen)

    def _facts(self) -> dict[str, object]:
        """What ``status`` adds about this node."""
        config = self.config
        return {
            "name": config.node_name,
            "cluster": config.cluster_name,
            "vms": list(config.vms),
            "adapters": self._adapters.documents(),
        }

    def _use_monotonic_time(self) -> None:
        try:
            use_monotonic_time(self._reactor)
        except RuntimeError:
            log.warn(
                "timers were set before this node was started, so all timers follow steps of the wall clock; "
                "call txvbcast.monotonic.use_monotonic_time(reactor) first"
            )

    async def _listen(self) -> None:
        network, driver = self._network, self._driver
        assert network is not None and driver is not None
        await network.start()
        listen, limits = self.config.listen, self.config.protocol.limits
        stores = [manager for manager in self._managers if isinstance(manager, KeyValueManager)]
        self._desks = Desks(driver, stores, self._desk_facts(network))
        self._clients = ClientPort(self._desks, self._reactor, turn=self._turn)
        http_limits = HttpLimits(payload_bytes_max=limits.payload)
        self._http = HttpApi(driver, self.config.node_id, self._reactor, stores[0] if stores else None, http_limits)
        await self._listen_at("client", listen.client, self._clients)
        await self._listen_at("http", listen.http, self._http.site)
        if not self.running:
            return
        log.info(
            "peers at {peer}, clients at {client}, HTTP at {http}",
            peer=str(listen.peer), client=str(listen.client), http=str(listen.http),
        )  # fmt: skip
        self.listening.callback(None)

    async def _listen_at(self, key: str, address: Address, factory: IProtocolFactory) -> None:
        hosts = await resolve(self._reactor, address.host, address.port)
        if not self.running:
            return
        try:
            port = self._reactor.listenTCP(
                address.port, factory, LISTEN_BACKLOG, interface=(hosts or (address.host,))[0]
            )
        except CannotListenError as error:
            raise errors.ConfigError(
                f"listen.{key}: cannot listen at {address}: {error.socketError}; "
                "stop the program that has the port (is this node running already?), or choose another"
            ) from error
        self._ports.append(port)

    def _desk_facts(self, network: Network) -> DeskFacts:
        """What clients are told of this node."""
        config, limits = self.config, self.config.protocol.limits

        def nodes(host: str) -> tuple[NodeLine, ...]:
            known = network.client_addresses()
            known[config.node_id] = reached_by(str(config.listen.client), host)
            return tuple(NodeLine(member.id, member.name, known.get(member.id, "")) for member in config.members)

        return DeskFacts(
            cluster_id=config.cluster_id,
            cluster_name=config.cluster_name,
            node_id=config.node_id,
            payload_bytes_max=limits.payload,
            outstanding_max=min(limits.pending, OUTSTANDING_MAX),
            clients_max=limits.clients,
            nodes=nodes,
        )

    def _cannot_listen(self, failure: Failure) -> None:
        error = failure.value
        assert error is not None
        self._halted(error)

    def stopService(self) -> Deferred[None]:
        """Hand the office over if this node is master, then close everything."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._desks is not None:
            self._desks.leave(f"node {self.config.node_id} stops")
        await self._adapters.stop()
        if self._driver is not None:
            await self._driver.stop()
            self._driver.halt()
        if self._http is not None:
            self._http.close()
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        if self._clients is not None:
            await self._clients.close()
        if self._network is not None:
            await self._network.stop()
        if self._store is not None:
            await self._store.close()
        log.info("node {node_id} has stopped", node_id=self.config.node_id)

    def _halted(self, error: BaseException) -> None:
        log.critical("node {node_id} stops: {error}", node_id=self.config.node_id, error=error)
        if self._driver is not None:
            self._driver.halt()
        self._on_halt(error)

    def _stop_reactor(self, error: BaseException) -> None:
        self._reactor.callWhenRunning(self._reactor.stop)

    @property
    def driver(self) -> Driver:
        """The node at work.

        :raises RuntimeError: the service is not started.
        """
        if self._driver is None:
            raise RuntimeError("the service is not started")
        return self._driver

    # --- for programs that embed a node ------------------------------------------------------

    def submit(
        self,
        rm: str,
        payload: bytes,
        mode: Mode | str = Mode.BROADCAST,
        timeout: float = 5.0,
        request_id: str | None = None,
    ) -> Deferred[errors.Committed]:
        """Have every member perform a transaction, or none.

        :param mode: ``broadcast``, ``2pc`` or ``3pc``.
        :param timeout: seconds after which an answer is given in any case.
        :return: fires with :class:`~txvbcast.errors.Committed`, or fails with Aborted,
            OutcomeUnknown, Overloaded or NoQuorum.
        :raises ValueError: an unknown resource manager or mode, or too large a payload.
        """
        return self.driver.submit(rm, payload, Mode(mode), timeout, request_id)

    def begin_change(
        self,
        kind: str,
        expected: float | None = None,
        facts: Mapping[str, object] | None = None,
        holdable: bool = True,
        source: str = "application",
        wait: float = WAIT_S,
    ) -> Deferred[HeldChange]:
        """Announce that a configuration change makes this node inactive for about ``expected`` seconds.

        :param holdable: it waits its turn, for ``wait`` seconds at most.
        :return: fires when the change may go on; its ``confirmed`` and ``unsafe`` say what the cluster said.
        :raises ValueError: an unknown kind, or a time that is not positive.
        """
        notice = Notice(kind, facts or {}, source, holdable, wait, expected_s=expected)
        held = self.driver.absences.hold(notice)
        return held.go.addCallback(lambda go: held)

    def end_change(self, change_id: int, outcome: str = "done") -> None:
        """The change is over: ``done``, ``cancelled`` or ``failed``.

        :raises KeyError: there is no such change under way.
        """
        self.driver.absences.end(change_id, outcome)

    @asynccontextmanager
    async def inactive(
        self,
        kind: str,
        expected: float | None = None,
        facts: Mapping[str, object] | None = None,
        wait: float = WAIT_S,
    ) -> AsyncIterator[HeldChange]:
        """Announce an absence in its turn, wait for the cluster's word, and end it when the block is left.

        :raises Unsafe: the cluster cannot afford it, nor could within ``wait`` seconds; the block is not entered.
        """
        change = await self.begin_change(kind, expected, facts, wait=wait)
        if change.unsafe:
            change.end("cancelled")
            raise errors.Unsafe(change.unsafe)
        outcome = "failed"
        try:
            yield change
            outcome = "done"
        finally:
            change.end(outcome)

    def observe(self, observer: IObserver) -> Callable[[], None]:
        """Have ``observer`` hear every event from now on; the answer ends it."""
        return self.driver.events.subscribe(observer.observe)

    def status(self) -> dict[str, object]:
        """The document behind ``GET /v1/status``."""
        return self.driver.status()
