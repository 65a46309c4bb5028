"""What must hold of a configuration, wherever it came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import attrs

from txvbcast.addresses import check_address, is_wildcard, same_place
from txvbcast.config import CHANGE_KINDS, FLIGHTS_MAX, Address, Config
from txvbcast.errors import ConfigError
from txvbcast.units import DURATION_S_MAX, format_duration, format_size

#: The longest name of a cluster, node, virtual machine or resource manager.
NAME_CHARS_MAX: Final = 64

#: The most payload in one flight: half of what fits a frame, since the encoding adds to it.
FLIGHT_BYTES_MAX: Final = 16 << 20

#: How many ids of members one problem names.
IDS_TOLD_MAX: Final = 100

#: A member is not failed before so many heartbeats are missing.
HEARTBEATS_MISSED_MIN: Final = 3

#: The largest ``inactivity.margin``.
MARGIN_MAX: Final = 100

#: Why a configuration without ``insecure: true`` is refused.
INSECURE_WANTED: Final = (
    "this version can only run without TLS and without any authentication, and that must be said: "
    "write 'insecure: true', on a network where only trusted machines are"
)

Checked = TypeVar("Checked")


@attrs.frozen
class Problem:
    """One thing that is wrong: ``path`` is the key as in YAML, like ``members[2].peer``."""

    path: str
    text: str


def validate(config: Config) -> None:
    """Refuse a configuration that no node could run with.

    :raises ConfigError: naming every key that is wrong, and what was expected.
    """
    found = problems(config)
    if found:
        raise ConfigError("\n".join(f"{problem.path}: {problem.text}" for problem in found))


def check_name(name: str) -> None:
    """Whether a cluster, node, virtual machine or resource manager may be called ``name``.

    :raises ValueError: what is wrong with it.
    """
    if not 1 <= len(name) <= NAME_CHARS_MAX or not name.isprintable() or name != name.strip():
        expected = f"expected 1 to {NAME_CHARS_MAX} printable characters, without spaces at the ends"
        raise ValueError(f"{expected}, got {_shortened(name)}")


def problems(config: Config) -> list[Problem]:
    """Everything that is wrong with the values of ``config`` and how they go together."""
    checks: tuple[Callable[[Config], Iterator[Problem]], ...] = (
        _names, _own_place, _members, _listening, _timing, _quorum, _bounds, _estimates, _plugins, _security,
    )  # fmt: skip
    return [problem for check in checks for problem in check(config)]


def _names(config: Config) -> Iterator[Problem]:
    named = [
        ("cluster.name", config.cluster_name),
        ("cluster.id", config.cluster_id),
        ("node.name", config.node_name),
        *((f"node.vms[{place}]", name) for place, name in enumerate(config.vms)),
        *((f"members[{place}].name", member.name) for place, member in enumerate(config.members)),
        *((f"resource_managers[{place}].name", plugin.name) for place, plugin in enumerate(config.resource_managers)),
    ]
    for path, name in named:
        yield from _said_by(check_name, name, path)
    yield from _repeats("node.vms[{}]", config.vms)


def _own_place(config: Config) -> Iterator[Problem]:
    own = next((member for member in config.members if member.id == config.node_id), None)
    if own is None:
        ids = ", ".join(str(member.id) for member in config.members[:IDS_TOLD_MAX]) or "none"
        if len(config.members) > IDS_TOLD_MAX:
            ids += ", ..."
        yield Problem("node.id", f"{config.node_id} is not among the ids of members ({ids})")
    elif own.name != config.node_name:
        text = f"{_shortened(config.node_name)}, but members calls node {own.id} {_shortened(own.name)}"
        yield Problem("node.name", text)


def _members(config: Config) -> Iterator[Problem]:
    for place, member in enumerate(config.members):
        if not 1 <= member.id <= 65535:
            yield Problem(f"members[{place}].id", f"expected a number from 1 to 65535, got {member.id}")
        yield from _said_by(check_address, member.peer, f"members[{place}].peer")
        if is_wildcard(member.peer.host):
            text = f"{member.peer.host} is no address that peers can connect to; name the one of this member"
            yield Problem(f"members[{place}].peer", text)
    yield from _repeats("members[{}].id", (member.id for member in config.members))
    yield from _repeats("members[{}].name", (member.name for member in config.members))
    yield from _repeats("members[{}].peer", (same_place(member.peer) for member in config.members), "address")


def _listening(config: Config) -> Iterator[Problem]:
    listen = config.listen
    seen: dict[str, Address] = {}
    for name, address in (("peer", listen.peer), ("client", listen.client), ("http", listen.http)):
        yield from _said_by(check_address, address, f"listen.{name}")
        for other, taken in seen.items():
            if _clash(address, taken):
                yield Problem(f"listen.{name}", f"{address} clashes with listen.{other} ({taken}); use another port")
        seen[name] = address


def _timing(config: Config) -> Iterator[Problem]:
    protocol = config.protocol
    heartbeat = protocol.heartbeat
    for path, duration_s, least_s in (
        ("heartbeat.interval", heartbeat.interval_s, 0.001),
        ("heartbeat.timeout", heartbeat.timeout_s, 0.003),
        ("response_timeout.normal", protocol.response_timeout.normal_s, 0.001),
        ("response_timeout.inactive", protocol.response_timeout.inactive_s, 0.0),
        ("inactivity.max", protocol.inactivity.max_s, 0.001),
        ("master.handback_delay", protocol.master.handback_delay_s, 0.0),
        ("queue.max_age", config.queue.max_age_s, 1.0),
        ("limits.wait", protocol.limits.wait_s, 0.001),
    ):
        if not least_s <= duration_s <= DURATION_S_MAX:
            yield Problem(path, f"expected at least {format_duration(least_s)}, got {format_duration(duration_s)}")
    least_s = HEARTBEATS_MISSED_MIN * heartbeat.interval_s
    # Nearly equal is equal: 300ms is three times 100ms, whatever binary fractions make of it.
    if heartbeat.timeout_s < least_s and not math.isclose(heartbeat.timeout_s, least_s):
        yield Problem(
            "heartbeat.timeout",
            f"{format_duration(heartbeat.timeout_s)} is less than {HEARTBEATS_MISSED_MIN} x heartbeat.interval "
            f"({format_duration(heartbeat.interval_s)}): expected at least {format_duration(least_s)}",
        )
    margin = protocol.inactivity.margin
    if not 1 <= margin <= MARGIN_MAX:
        yield Problem("inactivity.margin", f"expected a factor from 1 to {MARGIN_MAX}, got {margin:g}")
    if protocol.inactivity.at_once < 1:
        yield Problem("inactivity.at_once", f"expected at least 1, got {protocol.inactivity.at_once}")


def _quorum(config: Config) -> Iterator[Problem]:
    floor, members = config.protocol.quorum.planned_floor, len(config.members)
    if not 1 <= floor <= max(members, 1):
        yield Problem("quorum.planned_floor", f"expected from 1 to the number of members, {members}, got {floor}")


def _bounds(config: Config) -> Iterator[Problem]:
    limits = config.protocol.limits
    for path, bound in (
        ("limits.pending", limits.pending),
        ("limits.pending_bytes", limits.pending_bytes),
        ("limits.payload", limits.payload),
        ("limits.flight_bytes", limits.flight_bytes),
        ("limits.flights", limits.flights),
        ("limits.clients", limits.clients),
        ("queue.max_bytes", config.queue.max_bytes),
    ):
        if bound < 1:
            yield Problem(path, f"expected at least 1, got {bound}")
    if limits.flight_bytes > FLIGHT_BYTES_MAX:
        text = f"expected at most {format_size(FLIGHT_BYTES_MAX)}, got {format_size(limits.flight_bytes)}"
        yield Problem("limits.flight_bytes", text)
    if limits.flights > FLIGHTS_MAX:
        yield Problem("limits.flights", f"expected at most {FLIGHTS_MAX}, got {limits.flights}")
    if limits.payload > limits.flight_bytes:
        yield Problem(
            "limits.payload",
            f"{format_size(limits.payload)} does not fit a flight: expected at most limits.flight_bytes "
            f"({format_size(limits.flight_bytes)})",
        )


def _estimates(config: Config) -> Iterator[Problem]:
    max_s = config.protocol.inactivity.max_s
    for kind, estimate_s in config.protocol.estimates_s.items():
        if kind not in CHANGE_KINDS:
            yield Problem(f"estimates.{kind}", _unknown_kind(kind))
        if not 0 < estimate_s <= max_s:
            yield Problem(
                f"estimates.{kind}",
                f"expected more than 0s and at most inactivity.max ({format_duration(max_s)}), "
                f"got {format_duration(estimate_s)}",
            )


def _plugins(config: Config) -> Iterator[Problem]:
    yield from _repeats("resource_managers[{}].name", (plugin.name for plugin in config.resource_managers))
    for place, adapter in enumerate(config.adapters):
        for index, kind in enumerate(adapter.kinds):
            if kind not in CHANGE_KINDS:
                yield Problem(f"adapters[{place}].kinds[{index}]", _unknown_kind(kind))


def _security(config: Config) -> Iterator[Problem]:
    if not config.insecure:
        yield Problem("insecure", INSECURE_WANTED)


def _said_by(check: Callable[[Checked], None], value: Checked, path: str) -> Iterator[Problem]:
    try:
        check(value)
    except ValueError as error:
        yield Problem(path, str(error))


def _clash(one: Address, other: Address) -> bool:
    if one.port != other.port:
        return False
    return is_wildcard(one.host) or is_wildcard(other.host) or same_place(one) == same_place(other)


def _repeats(path: str, values: Iterable[object], what: str = "") -> Iterator[Problem]:
    """A problem for each value that came before; ``path`` has a place for its index."""
    first: dict[object, int] = {}
    for place, value in enumerate(values):
        if value in first:
            named = f"the {what}" if what else _shortened(value)
            yield Problem(path.format(place), f"{named} is taken already by {path.format(first[value])}")
        first.setdefault(value, place)


def _unknown_kind(kind: str) -> str:
    return f"unknown kind of change {_shortened(kind)}: expected one of {', '.join(CHANGE_KINDS)}"


def _shortened(value: object) -> str:
    """As a literal; a long text is cut."""
    if isinstance(value, str) and len(value) > NAME_CHARS_MAX:
        return repr(f"{value[:NAME_CHARS_MAX]}...")
    return repr(value)
