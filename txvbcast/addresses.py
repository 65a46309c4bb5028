"""Addresses as people write them, ``HOST:PORT``, and which of them a node can use."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from txvbcast.config import Address

_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_BRACKETED: Final = re.compile(r"\[(?P<host>[^\[\]]*)\]:(?P<port>.*)", re.ASCII)
_INTERFACE: Final = re.compile(r"[A-Za-z0-9._-]{1,15}", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


def parse_address(text: str) -> Address:
    """The address in ``HOST:PORT``, where an IPv6 host stands in brackets: ``[::1]:8410``.

    :raises ValueError: what is wrong with it.
    """
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed:
        host, port = bracketed["host"], bracketed["port"]
        if ":" not in host:
            raise ValueError(f"{text!r} has brackets around {host!r}, which is no IPv6 address")
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            raise ValueError(f"expected HOST:PORT, such as 192.0.2.1:8410, got {text!r}")
        if ":" in host:
            raise ValueError(f"an IPv6 address must stand in brackets, as in [2001:db8::1]:8410, got {text!r}")
    if not _PORT.fullmatch(port):
        raise ValueError(f"the port in {text!r} is no number")
    address = Address(host, int(port))
    check_address(address)
    return address


def check_address(address: Address) -> None:
    """Whether a node could listen there or be reached there.

    :raises ValueError: what is wrong with it.
    """
    check_host(address.host)
    if not 1 <= address.port <= 65535:
        raise ValueError(f"expected a port from 1 to 65535, got {address.port}")


def check_host(host: str) -> None:
    """Whether ``host`` is a host name or an IPv4 or IPv6 address (without brackets) of one machine, or a wildcard.

    :raises ValueError: what is wrong with it.
    """
    ip = _ip_address(host)
    if ip is None:
        _check_host_name(host)
    elif "%" in host and not _INTERFACE.fullmatch(host.partition("%")[2]):
        raise ValueError(f"{host!r} has no name of a network interface after the %")
    elif ip.is_multicast:
        raise ValueError(f"{host} is a multicast address; nodes talk to each other one by one")
    elif host == "255.255.255.255":
        raise ValueError(f"{host} is the broadcast address; nodes talk to each other one by one")


def is_wildcard(host: str) -> bool:
    """Whether ``host`` means every address of a machine: ``0.0.0.0`` or ``::``."""
    ip = _ip_address(host)
    return ip is not None and ip.is_unspecified


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _check_host_name(host: str) -> None:
    if not host:
        raise ValueError("the host is missing before the port; 0.0.0.0 listens on all addresses")
    labels = host.removesuffix(".").split(".")
    if ":" in host or labels[-1].isdecimal():
        raise ValueError(f"{host!r} is no valid IP address")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{host!r} is no valid host name")


def reached_by(told: str, host: str) -> str:
    """``HOST:PORT`` as another machine uses it: where a wildcard was told, ``host``, under which that machine is known.

    :param told: another program's word, which may be anything.
    :return: empty when ``told`` is no address.
    """
    try:
        address = parse_address(told)
    except ValueError:
        return ""
    return str(Address(_unmapped(host), address.port) if is_wildcard(address.host) else address)


def _unmapped(host: str) -> str:
    """An IPv4 address as IPv4 writes it: a socket for both families names it in the form of IPv6."""
    ip = _ip_address(host)
    return str(ip.ipv4_mapped) if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped else host


def same_place(address: Address) -> tuple[str, int]:
    """Equal for two spellings of one address."""
    ip = _ip_address(address.host)
    return (str(ip) if ip else address.host.removesuffix(".").lower(), address.port)
