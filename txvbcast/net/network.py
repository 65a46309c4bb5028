"""The network of a node: links and datagrams at one address."""

from __future__ import annotations

import errno
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError

from txvbcast.config import Address, Config
from txvbcast.core.inputs import StoredState
from txvbcast.errors import ConfigError, LocalProtocolError
from txvbcast.net.datagrams import Datagrams
from txvbcast.net.link import HELLO_TIMEOUT_S, LINK_BYTES_MAX, Receiver
from txvbcast.net.links import Links
from txvbcast.net.names import is_ipv6, resolve
from txvbcast.turns import Turn
from txvbcast.wire.messages import Message

#: This machine has no such address, or no such family: of the addresses of one name, one may be missing so.
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})

_ADVICE: Final = {
    errno.EADDRINUSE: "the port is in use; stop the program that has it (is this node running already?), "
    "or give listen.peer and this node's line in members another port",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address; correct listen.peer",
    errno.EACCES: "this user may not use the port; give listen.peer one above 1023",
}


class Network:
    """What the driver sends by, and hears from.

    :ivar receiver: who hears what comes in; to be set before :meth:`start`.
    :param stored: this node's incarnation and disk id, as Hello tells them.
    :param reactor: provides IReactorTCP, IReactorUDP, IReactorTime and IReactorPluggableNameResolver.
    :param link_bytes_max: what may wait for one peer before its connection is aborted.
    :param hello_timeout_s: how long a new connection may take to say Hello.
    :param turn: the reactor's turns, which others may share.
    """

    def __init__(
        self,
        config: Config,
        stored: StoredState,
        reactor: Any,
        receiver: Receiver | None = None,
        link_bytes_max: int = LINK_BYTES_MAX,
        hello_timeout_s: float = HELLO_TIMEOUT_S,
        turn: Turn | None = None,
    ) -> None:
        self.receiver = receiver
        self._address = config.listen.peer
        self._reactor = reactor
        self._stopping = False
        self._datagrams = Datagrams(config, reactor)
        self._links = Links(config, stored, reactor, self._datagrams.linked, link_bytes_max, hello_timeout_s, turn=turn)

    # --- life --------------------------------------------------------------------------

    def start(self) -> Deferred[None]:
        """Listen, and dial the members with a lower id.

        :return: fires when this node listens.
        :raises ConfigError: through the Deferred: the address cannot be used.  Nothing is left open then.
        :raises LocalProtocolError: through the Deferred: nobody receives.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        if self.receiver is None:
            raise LocalProtocolError("a network was started without a receiver")
        hosts = await resolve(self._reactor, self._address.host, self._address.port)
        if self._stopping:
            return
        try:
            self._listen(hosts)
        except ConfigError:
            await self.stop()
            raise
        self._datagrams.start(self.receiver.received)
        self._links.start(self.receiver)

    def stop(self) -> Deferred[None]:
        """Write what waits for the peers, and close everything; may be called again."""
        self._stopping = True
        return DeferredList([self._links.stop(), self._datagrams.stop()]).addCallback(lambda _: None)

    def _listen(self, hosts: tuple[str, ...]) -> None:
        """Bind the first address of each family."""
        if not hosts:
            raise ConfigError(
                f"listen.peer: the host name {self._address.host!r} has no address; "
                "give an address of this machine, or a name that it can resolve"
            )
        chosen = {is_ipv6(host): host for host in reversed(hosts)}
        failures = [failure for host in chosen.values() if (failure := self._bind(host)) is not None]
        fatal = [failure for failure in failures if failure[1].socketError.errno not in _NOT_HERE]
        if len(failures) == len(chosen):
            fatal += failures
        if fatal:
            raise ConfigError(_cannot_listen(*fatal[0]))

    def _bind(self, host: str) -> tuple[str, CannotListenError] | None:
        """Bind one address for links and datagrams.  The reason why not, and for which of them."""
        for kind, listen in (("TCP", self._links.listen), ("UDP", self._datagrams.listen)):
            try:
                listen(host, self._address.port)
            except CannotListenError as error:
                return kind, error
        return None

    # --- use ---------------------------------------------------------------------------

    def send(self, to: int, message: Message) -> None:
        """Send over the link to ``to``; dropped when there is none.

        :raises LocalProtocolError: the message is too long for a frame.
        """
        self._links.send(to, message)

    def send_datagram(self, to: int, message: Message) -> None:
        """Send as a datagram to ``to``; it may be lost.

        :raises LocalProtocolError: the message may not travel so.
        """
        self._datagrams.send(to, message)

    def drop_datagrams(self) -> None:
        """Throw away the datagrams that wait in the sockets now."""
        self._datagrams.drop()

    def reset_links(self, reason: str) -> None:
        """Abort every link; those that this node dials, and its peers dial, are opened anew at once."""
        self._links.reset(reason)

    def links(self) -> dict[int, bool]:
        """Every other member's id, and whether there is a link to it."""
        return self._links.links()

    def client_addresses(self) -> dict[int, str]:
        """Where clients reach the other members, ``HOST:PORT``; empty for those who have not said it usably."""
        return self._links.client_addresses()


def _cannot_listen(kind: str, error: CannotListenError) -> str:
    address = Address(str(error.interface), int(error.port))
    why = _ADVICE.get(error.socketError.errno, f"{error.socketError}; correct listen.peer")
    return f"listen.peer: cannot listen at {address} ({kind}): {why}"
