"""Keeps dialling one member for as long as there is no link to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure

from txvbcast.config import Address
from txvbcast.net.names import is_ipv4, is_ipv6

#: How long a connection may take to be made.  Short, because the kernel repeats its own attempts ever more rarely,
#: and a member that comes back is to be linked within about a second.
CONNECT_TIMEOUT_S: Final = 1.0

#: How long one address of a name is tried before the next is tried beside it.
NEXT_ADDRESS_S: Final = 0.1

#: The first pause before an attempt, and the longest; counted from the beginning of the attempt before.
RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 1.0

#: The part of a pause that is left to chance.
RETRY_JITTER: Final = 0.3

_DOUBLINGS_MAX: Final = 16


def retry_delay_s(failures: int, chance: float) -> float:
    """The pause before the next attempt, when ``failures`` failed before the last one.

    :param chance: from 0 to 1; shortens the pause by at most :data:`RETRY_JITTER` of it.
    """
    doubled_s = RETRY_FIRST_S * 2.0 ** min(failures, _DOUBLINGS_MAX)
    return min(RETRY_MAX_S, doubled_s) * (1.0 - RETRY_JITTER * chance)


class Dialler:
    """Dials one member, again and again until there is a link, and again when it is lost.

    Twisted's ClientService takes a connection for a success as soon as it stands.  Here it
    is one only when the link was up for a while, so that refused links, too, are tried ever
    more rarely.

    :param reactor: provides IReactorTCP, IReactorTime and IReactorPluggableNameResolver.
    :param factory: makes the protocol; whose end must be told to :meth:`lost`.
    :param chance: gives numbers from 0 to 1, for the jitter of the pauses.
    :param unreachable: told why an attempt failed.
    """

    def __init__(
        self,
        reactor: Any,
        address: Address,
        factory: IProtocolFactory,
        chance: Callable[[], float],
        unreachable: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._factory = factory
        self._chance = chance
        self._unreachable = unreachable
        self._endpoint = _endpoint(reactor, address)
        self._failures = 0
        self._began_s = 0.0
        self._stopped = False
        self._attempt: Deferred[Any] | None = None
        self._pause: IDelayedCall | None = None

    def start(self) -> None:
        """Dial now; a host name is resolved anew each time."""
        self._pause = None
        self._began_s = self._reactor.seconds()
        self._attempt = self._endpoint.connect(self._factory)
        self._attempt.addCallbacks(self._connected, self._failed)

    def stop(self) -> None:
        """Dial no more; an attempt under way is given up.  A connection that stands is left alone."""
        self._stopped = True
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._attempt is not None:
            self._attempt.cancel()

    def lost(self, up_s: float) -> None:
        """The connection is gone, after its link was up for ``up_s`` seconds, 0 for never."""
        if self._stopped:
            return
        if up_s >= RETRY_MAX_S:
            self._failures = 0
            self._began_s = self._reactor.seconds()
        self._dial_later()

    def _connected(self, protocol: object) -> None:
        self._attempt = None

    def _failed(self, failure: Failure) -> None:
        self._attempt = None
        if self._stopped:
            return
        why = str(failure.getErrorMessage()).rstrip(".")
        self._unreachable(f"it cannot be reached at {self._address}: {why}")
        self._dial_later()

    def _dial_later(self) -> None:
        delay_s = retry_delay_s(self._failures, self._chance())
        self._failures += 1
        spent_s = self._reactor.seconds() - self._began_s
        self._pause = self._reactor.callLater(max(0.0, delay_s - spent_s), self.start)


def _endpoint(reactor: Any, address: Address) -> IStreamClientEndpoint:
    if is_ipv4(address.host):
        return TCP4ClientEndpoint(reactor, address.host, address.port, timeout=CONNECT_TIMEOUT_S)
    if is_ipv6(address.host):
        return TCP6ClientEndpoint(reactor, address.host, address.port, timeout=CONNECT_TIMEOUT_S)
    return HostnameEndpoint(reactor, address.host, address.port, timeout=CONNECT_TIMEOUT_S, attemptDelay=NEXT_ADDRESS_S)
