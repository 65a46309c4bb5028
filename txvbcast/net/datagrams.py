"""Datagrams between the members: signs of life, and announcements that cannot wait for a link.

They use the address of the links, with UDP in place of TCP.  A datagram that cannot be sent, or
makes no sense, is dropped; it hurts nobody.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import MessageLengthError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from txvbcast.config import Address, Config
from txvbcast.errors import RemoteProtocolError
from txvbcast.net.names import is_ipv6, is_literal, resolve
from txvbcast.wire.datagram import decode_datagram, encode_datagram
from txvbcast.wire.messages import Message

#: Host names are resolved again this often.
RESOLVE_INTERVAL_S: Final = 30.0

#: What one read takes: a longer datagram would be cut, and a cut one could not be told from a damaged one.
READ_BYTES_MAX: Final = 65536

#: The most datagrams that are thrown away at once; more than a socket buffer of the usual size holds.
DROPPED_MAX: Final = 10_000

_MAPPED: Final = "::ffff:"


class Tally:
    """Counts what keeps going wrong, and logs the first case and then each that doubles the count."""

    log = Logger()

    def __init__(self, what: str) -> None:
        self.what = what
        self.count = 0

    def note(self, reason: str) -> None:
        """One more case."""
        self.count += 1
        if self.count & (self.count - 1) == 0:
            self.log.warn("{what} ({count} so far): {reason}", what=self.what, count=self.count, reason=reason)


class _Socket(DatagramProtocol):
    """One bound address."""

    noisy = False

    def __init__(self, received: Callable[[bytes, str], None], host: str) -> None:
        self.host = host
        self.port: Any = None  # provides IUDPTransport and ISystemHandle
        self._received = received

    def startProtocol(self) -> None:
        """Twisted's: the socket is bound."""
        self.port = self.transport

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Twisted's: a datagram came in."""
        self._received(datagram, addr[0])

    def target(self, host: str) -> str | None:
        """How this socket addresses ``host``, a literal; None: it cannot."""
        if is_ipv6(host) == is_ipv6(self.host):
            return host
        return f"{_MAPPED}{host}" if self.host == "::" else None


class Datagrams:
    """The datagrams of one node.

    :param reactor: provides IReactorUDP, IReactorTime and IReactorPluggableNameResolver.
    """

    log = Logger()

    def __init__(self, config: Config, reactor: Any) -> None:
        self.malformed = Tally("a datagram was dropped")
        self.unsent = Tally("a datagram could not be sent")
        self._reactor = reactor
        self._own_id = config.node_id
        self._cluster_id = config.cluster_id
        self._peers: dict[int, Address] = {m.id: m.peer for m in config.members if m.id != config.node_id}
        self._hosts: dict[int, tuple[str, ...]] = {}  # by peer; empty for a name without an address
        self._linked_hosts: dict[int, str] = {}
        self._resolving: set[int] = set()
        self._sockets: list[_Socket] = []
        self._received: Callable[[int, Message], None] | None = None
        self._again = LoopingCall(self._resolve_all)
        self._again.clock = reactor

    # --- life --------------------------------------------------------------------------

    def listen(self, host: str, port: int) -> None:
        """Bind a literal address.

        :raises twisted.internet.error.CannotListenError: it cannot be bound.
        """
        bound = _Socket(self._on_datagram, host)
        self._reactor.listenUDP(port, bound, interface=host, maxPacketSize=READ_BYTES_MAX)
        self._sockets.append(bound)

    def start(self, received: Callable[[int, Message], None]) -> None:
        """Hand what comes in to ``received``, and look up the peers' addresses from time to time."""
        self._received = received
        self._again.start(RESOLVE_INTERVAL_S)

    def stop(self) -> Deferred[None]:
        """Close the sockets."""
        if self._again.running:
            self._again.stop()
        sockets, self._sockets = self._sockets, []
        closing: list[Deferred[Any]] = [maybeDeferred(bound.port.stopListening) for bound in sockets]
        return DeferredList(closing).addCallback(lambda _: None)

    # --- addresses ---------------------------------------------------------------------

    def linked(self, peer: int, host: str) -> None:
        """A link to ``peer`` came up, at ``host``: of several addresses of its name this one works."""
        self._linked_hosts[peer] = host.removeprefix(_MAPPED)
        self._resolve(peer)

    def _resolve_all(self) -> None:
        for peer in self._peers:
            self._resolve(peer)

    def _resolve(self, peer: int) -> None:
        address = self._peers[peer]
        if peer in self._resolving or (peer in self._hosts and is_literal(address.host)):
            return
        self._resolving.add(peer)
        resolve(self._reactor, address.host, address.port).addCallback(self._resolved, peer)

    def _resolved(self, hosts: tuple[str, ...], peer: int) -> None:
        self._resolving.discard(peer)
        if hosts:
            self._hosts[peer] = hosts
        elif peer not in self._hosts:
            self._hosts[peer] = ()
            self.log.warn(
                "node {peer} gets no datagrams: its peer address {address} has no host of that name",
                peer=peer,
                address=str(self._peers[peer]),
            )

    def _route(self, peer: int) -> tuple[_Socket, str] | None:
        """The socket by which ``peer`` is reached, and its address for that socket."""
        hosts = self._hosts[peer]
        linked = self._linked_hosts.get(peer)
        if linked in hosts:
            hosts = (linked, *hosts)
        for host in hosts:
            for bound in self._sockets:
                target = bound.target(host)
                if target is not None:
                    return bound, target
        return None

    # --- use ---------------------------------------------------------------------------

    def send(self, to: int, message: Message) -> None:
        """Send ``message`` to ``to``, as well as can be; dropped before its address is known, and when stopped.

        :raises LocalProtocolError: the message may not travel so.
        """
        if to not in self._hosts or not self._sockets:
            return
        data = encode_datagram(self._own_id, self._cluster_id, message)
        route = self._route(to)
        if route is None:
            self.unsent.note(f"node {to} has no address that this node's sockets reach")
            return
        bound, target = route
        try:
            bound.port.write(data, (target, self._peers[to].port))
        except (OSError, MessageLengthError) as error:
            self.unsent.note(f"to node {to} at {target}: {error}")

    def drop(self) -> None:
        """Throw away what waits in the sockets."""
        for bound in self._sockets:
            _drain(bound.port.getHandle())

    def _on_datagram(self, data: bytes, host: str) -> None:
        try:
            sender, message = decode_datagram(data, self._cluster_id)
        except RemoteProtocolError as error:
            self.malformed.note(f"from {host}: {error}")
            return
        if sender not in self._peers:
            what = "this node itself" if sender == self._own_id else f"node {sender}, which is not a member"
            self.malformed.note(f"from {host}: it names {what} as its sender")
            return
        if self._received is not None:
            self._received(sender, message)


def _drain(handle: socket.socket) -> None:
    for _ in range(DROPPED_MAX):
        try:
            handle.recv(1)  # the rest of the datagram goes with it
        except BlockingIOError:
            return
        except OSError:  # the late echo of a failed send; what waits comes after it
            continue
