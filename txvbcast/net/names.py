"""Host names to addresses, in the background."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from zope.interface import implementer


def is_ipv4(host: str) -> bool:
    """Whether ``host`` is an IPv4 literal."""
    return isIPAddress(host)


def is_ipv6(host: str) -> bool:
    """Whether ``host`` is an IPv6 literal, with or without a scope."""
    return isIPv6Address(host)


def is_literal(host: str) -> bool:
    """Whether ``host`` is an address, not a name."""
    return is_ipv4(host) or is_ipv6(host)


def resolve(reactor: Any, host: str, port: int) -> Deferred[tuple[str, ...]]:
    """The addresses of ``host``, without repeats and in the resolver's order.

    :param reactor: provides IReactorPluggableNameResolver.
    :param port: only a hint for the resolver.
    :return: fires with none for a name that has no address; never fails.
    """
    if is_literal(host):
        return succeed((host,))
    try:
        host.encode("idna")
    except UnicodeError:  # no such name can exist, and a resolver would never answer
        return succeed(())
    collector = _Collector()
    reactor.nameResolver.resolveHostName(collector, host, port)
    return collector.done


@implementer(IResolutionReceiver)
class _Collector:
    """Gathers what the resolver finds."""

    def __init__(self) -> None:
        self.done: Deferred[tuple[str, ...]] = Deferred()
        self._hosts: dict[str, None] = {}

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Nothing to keep: a lookup is left to its end, its late answer does no harm."""

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, (IPv4Address, IPv6Address)):
            self._hosts[address.host] = None

    def resolutionComplete(self) -> None:
        self.done.callback(tuple(self._hosts))
