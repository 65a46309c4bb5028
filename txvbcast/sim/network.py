"""A simulated network: links that keep order until they break, datagrams that may be lost."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, Protocol

import attrs

from txvbcast.sim.clock import SimClock
from txvbcast.wire.codec import FrameDecoder, encode_frame
from txvbcast.wire.datagram import decode_datagram, encode_datagram
from txvbcast.wire.messages import Message

CLUSTER_ID = "simulated"

_PLACE = struct.Struct("<dHH?")


@attrs.frozen
class Conditions:
    """How well the network works; delays in seconds, chances from 0 to 1.

    :ivar link_break: the chance that a connection breaks under a message.
    :ivar datagram_late, late_s: the chance that a datagram is overtaken by what is sent within ``late_s`` after it.
    :ivar reconnect_s: how long a broken link takes to be tried again.
    """

    delay_min_s: float = 0.0001
    delay_max_s: float = 0.001
    datagram_loss: float = 0.0
    datagram_copy: float = 0.0
    datagram_late: float = 0.0
    late_s: float = 0.5
    link_break: float = 0.0
    reconnect_s: float = 0.05


class Host(Protocol):
    """A node as the network sees it."""

    node_id: int
    incarnation: int
    disk_id: str
    running: bool
    frozen: bool

    def deliver(self, handle: Callable[..., None], *args: Any) -> None:
        """Something came in: handle it now, or when the process goes on."""

    def deliver_datagram(self, handle: Callable[..., None], *args: Any) -> None:
        """The same, but what waits in the socket when the process goes on may be thrown away."""

    def on_message(self, peer: int, message: Message) -> None:
        """A message of a peer."""

    def on_link(self, peer: int, incarnation: int, disk_id: str) -> None:
        """A link was opened."""

    def on_link_lost(self, peer: int, reason: str) -> None:
        """A link is gone."""


@attrs.define(eq=False)
class SimLink:
    """The one connection of a pair of nodes.

    :ivar number: tells an old connection from a new one.
    :ivar unaware: sides that have not heard yet that it broke; it is opened anew when both have.
    """

    number: int = 0
    up: bool = False
    unaware: int = 0
    last_arrival_s: dict[int, float] = attrs.field(factory=dict)
    decoders: dict[int, FrameDecoder[Message]] = attrs.field(factory=dict)


class SimNetwork:
    """Carries frames and datagrams between hosts, through the real codec.

    :ivar cut: directed pairs (from, to) over which nothing passes; a link breaks under what is sent there.
    :ivar clogged: directed pairs over which nothing arrives before that time; nothing is lost.
    :ivar slow_s: what directed pairs take longer.
    :ivar on_delivery: told of each message that comes in, and when it was sent.
    """

    def __init__(
        self,
        clock: SimClock,
        random: Random,
        conditions: Conditions,
        on_delivery: Sequence[Callable[[int, int, float, Message, bool], None]] = (),
    ) -> None:
        self.clock = clock
        self.random = random
        self.conditions = conditions
        self.cut: set[tuple[int, int]] = set()
        self.clogged: dict[tuple[int, int], float] = {}
        self.slow_s: dict[tuple[int, int], float] = {}
        self.hosts: dict[int, Host] = {}
        self._links: dict[tuple[int, int], SimLink] = {}
        self._on_delivery = on_delivery
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, host: Host) -> None:
        """A host (or its next life) joins."""
        self.hosts[host.node_id] = host
        for other in self.hosts:
            if other != host.node_id:
                self._links.setdefault(self._pair(host.node_id, other), SimLink())

    def start(self) -> None:
        """Begin to connect."""
        for pair in sorted(self._links):
            self.clock.post(self._delay(), self._try, pair)

    def digest(self) -> str:
        """A hash of every byte that was ever sent, from whom to whom and when, in hex: the name of a run."""
        return self._digest.hexdigest()

    # --- links ---------------------------------------------------------------------------

    @staticmethod
    def _pair(one: int, other: int) -> tuple[int, int]:
        return (one, other) if one < other else (other, one)

    def _delay(self) -> float:
        conditions = self.conditions
        return conditions.delay_min_s + self.random.random() * (conditions.delay_max_s - conditions.delay_min_s)

    def _try(self, pair: tuple[int, int]) -> None:
        link = self._links[pair]
        if link.up:
            return
        one, other = (self.hosts[node_id] for node_id in pair)
        able = all(host.running and not host.frozen for host in (one, other))
        if not able or link.unaware or self._is_cut(pair):
            self.clock.post(self.conditions.reconnect_s, self._try, pair)
            return
        link.number += 1
        link.up = True
        link.decoders = {node_id: FrameDecoder() for node_id in pair}
        link.last_arrival_s = {}
        for host, peer in ((one, other), (other, one)):
            self._arrive(link, peer.node_id, host, host.on_link, peer.node_id, peer.incarnation, peer.disk_id)

    def _is_cut(self, pair: tuple[int, int]) -> bool:
        return pair in self.cut or (pair[1], pair[0]) in self.cut

    def _way_s(self, sender: int, to: int) -> float:
        """How long what is sent now takes."""
        way_s = self._delay()
        if self.slow_s:
            way_s += self.slow_s.get((sender, to), 0.0)
        if self.clogged:
            way_s = max(way_s, self.clogged.get((sender, to), 0.0) - self.clock.seconds())
        return way_s

    def _arrive(self, link: SimLink, sender: int, host: Host, handle: Callable[..., None], *args: Any) -> None:
        """Order within a connection is kept; what a broken connection carried is lost."""
        now_s = self.clock.seconds()
        at_s = max(now_s + self._way_s(sender, host.node_id), link.last_arrival_s.get(host.node_id, 0.0))
        link.last_arrival_s[host.node_id] = at_s
        self.clock.post(at_s - now_s, self._deliver, link, link.number, host, handle, args)

    def _deliver(
        self, link: SimLink, number: int, host: Host, handle: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        if link.up and link.number == number and self.hosts[host.node_id] is host:
            host.deliver(handle, *args)

    def send(self, sender: int, to: int, message: Message) -> None:
        """Over the link; lost when there is none, or when it breaks on the way."""
        link = self._links[self._pair(sender, to)]
        if not link.up:
            return
        conditions = self.conditions
        if (sender, to) in self.cut or (conditions.link_break and self.random.random() < conditions.link_break):
            self.break_link(sender, to, "the connection was reset")
            return
        data = encode_frame(message)
        self.note(sender, to, True, data)
        self._arrive(link, sender, self.hosts[to], self._receive, sender, to, link, self.clock.seconds(), data)

    def _receive(self, sender: int, to: int, link: SimLink, sent_s: float, data: bytes) -> None:
        host = self.hosts[to]
        for message in link.decoders[to].feed(data):
            for hook in self._on_delivery:
                hook(sender, to, sent_s, message, True)
            host.on_message(sender, message)

    def break_link(self, one: int, other: int, reason: str) -> None:
        """The connection is gone; each side hears of it in its own time, while it runs."""
        pair = self._pair(one, other)
        link = self._links[pair]
        if not link.up:
            return
        link.up = False
        link.unaware = 2
        for node_id, peer in ((one, other), (other, one)):
            self.clock.post(self._delay(), self._tell_lost, link, self.hosts[node_id], peer, reason)
        self.clock.post(self.conditions.reconnect_s, self._try, pair)

    def _tell_lost(self, link: SimLink, host: Host, peer: int, reason: str) -> None:
        link.unaware -= 1
        if host.running:
            host.deliver(host.on_link_lost, peer, reason)

    # --- datagrams --------------------------------------------------------------------------

    def send_datagram(self, sender: int, to: int, message: Message) -> None:
        """At once; may be lost, copied or overtaken."""
        random, conditions = self.random, self.conditions
        if (sender, to) in self.cut or (conditions.datagram_loss and random.random() < conditions.datagram_loss):
            return
        data = encode_datagram(sender, CLUSTER_ID, message)
        self.note(sender, to, False, data)
        copies = 2 if conditions.datagram_copy and random.random() < conditions.datagram_copy else 1
        for _ in range(copies):
            late = conditions.datagram_late and random.random() < conditions.datagram_late
            late_s = random.random() * conditions.late_s if late else 0.0
            self.clock.post(self._way_s(sender, to) + late_s, self._datagram, self.clock.seconds(), to, data)

    def _datagram(self, sent_s: float, to: int, data: bytes) -> None:
        host = self.hosts[to]
        if host.running:
            host.deliver_datagram(self._read_datagram, sent_s, host, data)

    def _read_datagram(self, sent_s: float, host: Host, data: bytes) -> None:
        sender, message = decode_datagram(data, CLUSTER_ID)
        for hook in self._on_delivery:
            hook(sender, host.node_id, sent_s, message, False)
        host.on_message(sender, message)

    def note(self, sender: int, to: int, by_link: bool, data: bytes) -> None:
        """Something is sent: it becomes part of the name of the run."""
        self._digest.update(_PLACE.pack(self.clock.seconds(), sender, to, by_link))
        self._digest.update(data)

    # --- partitions ----------------------------------------------------------------------------

    def cut_off(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Nothing passes over these directed pairs any more."""
        for pair in pairs:
            self.cut.add(pair)

    def isolate(self, node_id: int) -> None:
        """Nothing passes to or from a node, and its connections break."""
        self.part({node_id}, set(self.hosts) - {node_id})

    def part(self, ones: Iterable[int], others: Iterable[int]) -> None:
        """Nothing passes between ``ones`` and ``others``, and their connections break."""
        others = sorted(others)
        for one in sorted(ones):
            for other in others:
                self.cut |= {(one, other), (other, one)}
                self.break_link(one, other, "cut off")

    def clog(self, one: int, other: int, until_s: float) -> None:
        """What is sent from now on between a pair arrives only after ``until_s``."""
        for pair in ((one, other), (other, one)):
            self.clogged[pair] = max(until_s, self.clogged.get(pair, 0.0))

    def heal(self) -> None:
        """Everything passes again, at its usual pace; what is clogged has to wait for its time."""
        self.cut.clear()
        self.slow_s.clear()
        self.clogged.clear()
