"""A simulated network: links that keep order until they break, datagrams that may be lost."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

import attrs

from txvbcast.sim.clock import SimClock
from txvbcast.wire.codec import FrameDecoder, encode_frame
from txvbcast.wire.datagram import decode_datagram, encode_datagram
from txvbcast.wire.messages import Message

CLUSTER_ID = "simulated"


@attrs.define
class Conditions:
    """How well the network works; delays in seconds, chances from 0 to 1."""

    delay_min_s: float = 0.0001
    delay_max_s: float = 0.001
    datagram_loss: float = 0.0
    datagram_copy: float = 0.0
    link_break: float = 0.0
    reconnect_s: float = 0.05


class Host(Protocol):
    """A node as the network sees it."""

    node_id: int
    incarnation: int
    disk_id: str
    running: bool
    frozen: bool

    def deliver(self, action: Callable[[], None]) -> None:
        """Something came in: handle it now, or when the process goes on."""

    def on_message(self, peer: int, message: Message) -> None:
        """A message of a peer."""

    def on_link(self, peer: int, incarnation: int, disk_id: str) -> None:
        """A link was opened."""

    def on_link_lost(self, peer: int, reason: str) -> None:
        """A link is gone."""


@attrs.define(eq=False)
class SimLink:
    """The one connection of a pair of nodes; ``number`` tells an old one from a new one."""

    number: int = 0
    up: bool = False
    last_arrival_s: dict[int, float] = attrs.field(factory=dict)
    decoders: dict[int, FrameDecoder] = attrs.field(factory=dict)


class SimNetwork:
    """Carries frames and datagrams between hosts, through the real codec.

    :ivar cut: directed pairs (from, to) over which nothing passes.
    """

    def __init__(self, clock: SimClock, random: Random, conditions: Conditions) -> None:
        self.clock = clock
        self.random = random
        self.conditions = conditions
        self.cut: set[tuple[int, int]] = set()
        self.hosts: dict[int, Host] = {}
        self._links: dict[tuple[int, int], SimLink] = {}

    def add(self, host: Host) -> None:
        """A host (or its next life) joins."""
        self.hosts[host.node_id] = host
        for other in self.hosts:
            if other != host.node_id:
                self._links.setdefault(self._pair(host.node_id, other), SimLink())

    def start(self) -> None:
        """Begin to connect."""
        for pair in sorted(self._links):
            self.clock.callLater(self._delay(), self._try, pair)

    @staticmethod
    def _pair(one: int, other: int) -> tuple[int, int]:
        return (min(one, other), max(one, other))

    def _delay(self) -> float:
        return self.random.uniform(self.conditions.delay_min_s, self.conditions.delay_max_s)

    def _try(self, pair: tuple[int, int]) -> None:
        link = self._links[pair]
        one, other = (self.hosts[node_id] for node_id in pair)
        able = all(host.running and not host.frozen for host in (one, other))
        if not link.up and able and not self._is_cut(pair):
            link.number += 1
            link.up = True
            link.decoders = {node_id: FrameDecoder() for node_id in pair}
            link.last_arrival_s = {}
            self._arrive(link, one.node_id, lambda: one.on_link(other.node_id, other.incarnation, other.disk_id))
            self._arrive(link, other.node_id, lambda: other.on_link(one.node_id, one.incarnation, one.disk_id))
        self.clock.callLater(self.conditions.reconnect_s, self._try, pair)

    def _is_cut(self, pair: tuple[int, int]) -> bool:
        return pair in self.cut or (pair[1], pair[0]) in self.cut

    def _arrive(self, link: SimLink, to: int, action: Callable[[], None]) -> None:
        """Order within a connection is kept; what a broken connection carried is lost."""
        at_s = max(self.clock.seconds() + self._delay(), link.last_arrival_s.get(to, 0.0))
        link.last_arrival_s[to] = at_s
        number, host = link.number, self.hosts[to]

        def arrive() -> None:
            if link.up and link.number == number and self.hosts[to] is host:
                host.deliver(action)

        self.clock.callLater(at_s - self.clock.seconds(), arrive)

    def send(self, sender: int, to: int, message: Message) -> None:
        """Over the link; lost when there is none, or when it breaks on the way."""
        link = self._links[self._pair(sender, to)]
        if not link.up:
            return
        if (sender, to) in self.cut or self.random.random() < self.conditions.link_break:
            self.break_link(sender, to, "the connection was reset")
            return
        data = encode_frame(message)
        host, decoder = self.hosts[to], link.decoders[to]

        def receive() -> None:
            for received in decoder.feed(data):
                host.on_message(sender, received)

        self._arrive(link, to, receive)

    def send_datagram(self, sender: int, to: int, message: Message) -> None:
        """At once; may be lost, copied or overtaken."""
        if (sender, to) in self.cut or self.random.random() < self.conditions.datagram_loss:
            return
        data = encode_datagram(sender, CLUSTER_ID, message)
        copies = 2 if self.random.random() < self.conditions.datagram_copy else 1
        for _ in range(copies):
            self.clock.callLater(self._delay(), self._datagram, to, data)

    def _datagram(self, to: int, data: bytes) -> None:
        host = self.hosts[to]
        if host.running:
            sender, message = decode_datagram(data, CLUSTER_ID)
            host.deliver(lambda: host.on_message(sender, message))

    def break_link(self, one: int, other: int, reason: str) -> None:
        """The connection is gone; both sides hear of it when they run."""
        link = self._links[self._pair(one, other)]
        if not link.up:
            return
        link.up = False
        for node_id, peer in ((one, other), (other, one)):
            host = self.hosts[node_id]
            if host.running:
                self.clock.callLater(0.0, host.deliver, lambda host=host, peer=peer: host.on_link_lost(peer, reason))

    def isolate(self, node_id: int) -> None:
        """Nothing passes to or from a node."""
        for other in self.hosts:
            if other != node_id:
                self.cut |= {(node_id, other), (other, node_id)}
                self.break_link(node_id, other, "cut off")

    def heal(self) -> None:
        """Everything passes again."""
        self.cut.clear()
