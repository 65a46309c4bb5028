"""Connections of client programs to the real desks of simulated nodes, with delay, loss and silence."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

import attrs

from txvbcast.control.client_desk import OUTSTANDING_MAX, Desk, DeskFacts, Desks
from txvbcast.sim.network import CLUSTER_ID
from txvbcast.sim.node import SimNode
from txvbcast.sim.watch import Watcher
from txvbcast.wire.client_messages import ClientMessage, NodeLine
from txvbcast.wire.codec import CLIENTS, FrameDecoder, encode_frame

#: Clients are hosts of the network's record, too: so far above the nodes.
CLIENT_IDS = 1000
#: Where each node listens for clients; no such address is ever dialled.
ADDRESS = "192.0.2.{}:8411"


@attrs.frozen
class ClientConditions:
    """How well clients and nodes hear each other; times in seconds, chances from 0 to 1.

    :ivar link_break: the chance that a connection is reset under a message, and what is under way is lost.
    :ivar clog: the chance that from a message on a connection carries nothing for up to ``clog_s``.
    :ivar silent_death: the chance that a client does not hear of it when a node dies: its host died with it.
    """

    delay_min_s: float = 0.0002
    delay_max_s: float = 0.002
    link_break: float = 0.0
    clog: float = 0.0
    clog_s: float = 3.0
    silent_death: float = 0.3


class Caller(Protocol):
    """The program at the client's end."""

    number: int

    def opened(self, link: int) -> None:
        """The connection stands."""

    def closed(self, link: int, reason: str) -> None:
        """It is gone, or could not be made."""

    def received(self, link: int, message: ClientMessage) -> None:
        """A message of the node."""


@attrs.define(eq=False)
class Connection:
    """One program's connection to one life of a node.

    :ivar up: it carries what is sent from now on; lost: what is under way does not arrive either.
    :ivar heard: the program wants to hear of it.
    """

    caller: Caller
    link: int
    node: SimNode
    desk: Desk | None = None
    up: bool = True
    lost: bool = False
    heard: bool = True
    clogged_until_s: float = 0.0
    arrival_s: dict[bool, float] = attrs.field(factory=lambda: {True: 0.0, False: 0.0})
    to_node: FrameDecoder[ClientMessage] = attrs.field(factory=lambda: FrameDecoder(family=CLIENTS))
    to_client: FrameDecoder[ClientMessage] = attrs.field(factory=lambda: FrameDecoder(family=CLIENTS))


class ClientLinks(Watcher):
    """The client port of every node of a world, and the network before it."""

    def __init__(self, random: Random, conditions: ClientConditions) -> None:
        self.random = random
        self.conditions = conditions
        self.desks: dict[int, Desks] = {}
        self._connections: dict[tuple[int, int], Connection] = {}

    @property
    def addresses(self) -> list[str]:
        """Of all nodes, as endpoint strings."""
        return [f"tcp:{ADDRESS.format(node_id)}" for node_id in self.world.nodes]

    def on_life(self, node: SimNode) -> None:
        """Its port is opened."""
        config = node.driver.config
        lines = tuple(NodeLine(member.id, member.name, ADDRESS.format(member.id)) for member in config.members)
        facts = DeskFacts(
            cluster_id=CLUSTER_ID,
            cluster_name="simulated",
            node_id=node.node_id,
            payload_bytes_max=config.limits.payload,
            outstanding_max=min(config.limits.pending, OUTSTANDING_MAX),
            clients_max=config.limits.clients,
            nodes=lambda host: lines,
        )
        self.desks[node.node_id] = Desks(node.driver, (), facts)

    def on_stop(self, node: SimNode) -> None:
        """An operator stops it: clients hear of it first."""
        self.desks[node.node_id].leave(f"node {node.node_id} stops")

    def on_death(self, node: SimNode) -> None:
        """Its kernel closes what it had open, unless that is gone, too."""
        for connection in [each for each in self._connections.values() if each.node is node]:
            connection.lost = self.random.random() < 0.5
            if self.random.random() >= self.conditions.silent_death:
                self._end(connection, "the node has died")
            connection.up = False

    # --- the program's end -------------------------------------------------------------------

    def dial(self, caller: Caller, link: int, address: str) -> None:
        """Connect; the kernel of a stopped process accepts, too."""
        node_id = 1 + self.addresses.index(address)
        self.world.clock.post(self._way_s(), self._accept, caller, link, node_id)

    def _accept(self, caller: Caller, link: int, node_id: int) -> None:
        node = self.world.nodes[node_id]
        connection = Connection(caller, link, node)
        self._connections[caller.number, link] = connection
        if not node.running:
            self._end(connection, "nobody listens there")
            return
        node.deliver(self._open, connection)
        self._carry(connection, False, self._opened, connection)

    def _open(self, connection: Connection) -> None:
        def say(message: ClientMessage) -> None:
            self._say(connection, message)

        desks = self.desks[connection.node.node_id]
        connection.desk = desks.open("192.0.2.1", say, lambda: self._end(connection, "the node hung up"))

    def _opened(self, connection: Connection) -> None:
        if connection.heard:
            connection.caller.opened(connection.link)

    def send(self, caller: Caller, link: int, message: ClientMessage) -> None:
        """A message to the node; one over a connection that is gone is lost, as its end is not heard of yet."""
        connection = self._connections.get((caller.number, link))
        if connection is not None and self._bears(connection):
            data = self._note(connection, True, message)
            self._carry(connection, True, self._to_node, connection, data)

    def hang_up(self, caller: Caller, link: int) -> None:
        """The program's end is closed; the node hears of it behind what was sent."""
        connection = self._connections.pop((caller.number, link), None)
        if connection is not None:
            connection.heard = False
            self._carry(connection, True, self._gone, connection)

    # --- the node's end --------------------------------------------------------------------------

    def _say(self, connection: Connection, message: ClientMessage) -> None:
        if connection.node.running and self._bears(connection):
            data = self._note(connection, False, message)
            self._carry(connection, False, self._to_client, connection, data)

    def _to_node(self, connection: Connection, data: bytes) -> None:
        connection.node.deliver(self._read, connection, data)

    def _read(self, connection: Connection, data: bytes) -> None:
        assert connection.desk is not None
        for message in connection.to_node.feed(data):
            connection.desk.received(message)

    def _to_client(self, connection: Connection, data: bytes) -> None:
        for message in connection.to_client.feed(data):
            if connection.heard:
                connection.caller.received(connection.link, message)

    def _gone(self, connection: Connection) -> None:
        if connection.node.running:
            connection.node.deliver(self._close_desk, connection)

    def _close_desk(self, connection: Connection) -> None:
        if connection.desk is not None:
            connection.desk.gone()

    # --- what lies between ------------------------------------------------------------------------

    def _bears(self, connection: Connection) -> bool:
        """Whether a connection carries a message; this is also where it may break or be clogged."""
        if not connection.up:
            return False
        chance, conditions = self.random.random(), self.conditions
        if chance < conditions.link_break:
            connection.lost = True
            self._end(connection, "the connection was reset")
            self._gone(connection)
            return False
        if chance < conditions.link_break + conditions.clog:
            connection.clogged_until_s = self.world.clock.seconds() + self.random.random() * conditions.clog_s
        return True

    def _end(self, connection: Connection, reason: str) -> None:
        """Nothing is carried any more; the program hears of it behind what is under way."""
        connection.up = False
        self._post(connection, False, self._ended, connection, reason)

    def _ended(self, connection: Connection, reason: str) -> None:
        if connection.heard:
            connection.heard = False
            del self._connections[connection.caller.number, connection.link]
            connection.caller.closed(connection.link, reason)

    def _carry(self, connection: Connection, to_node: bool, handle: Callable[..., None], *args: Any) -> None:
        self._post(connection, to_node, self._arrive, connection, handle, args)

    def _arrive(self, connection: Connection, handle: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not connection.lost:
            handle(*args)

    def _post(self, connection: Connection, to_node: bool, handle: Callable[..., None], *args: Any) -> None:
        """In order, each way."""
        now_s = self.world.clock.seconds()
        at_s = max(now_s + self._way_s(), connection.arrival_s[to_node], connection.clogged_until_s)
        connection.arrival_s[to_node] = at_s
        self.world.clock.post(at_s - now_s, handle, *args)

    def _way_s(self) -> float:
        return self.random.uniform(self.conditions.delay_min_s, self.conditions.delay_max_s)

    def _note(self, connection: Connection, to_node: bool, message: ClientMessage) -> bytes:
        data = encode_frame(message)
        client, node_id = CLIENT_IDS + connection.caller.number, connection.node.node_id
        sender, to = (client, node_id) if to_node else (node_id, client)
        self.world.network.note(sender, to, True, data)
        return data
