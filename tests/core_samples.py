"""What the tests of the core's parts are made of: a node's commons, flights, entries, epochs."""

from __future__ import annotations

from typing import Any, TypeVar

import attrs
from hypothesis import HealthCheck, settings

from txvbcast.config import Address, MemberConfig, ProtocolConfig
from txvbcast.core import epochs
from txvbcast.core.commons import Commons
from txvbcast.core.effects import Effect, Notify, Persist
from txvbcast.core.inputs import StoredState
from txvbcast.core.journal import Journal
from txvbcast.core.signals import Signal
from txvbcast.core.table import initial
from txvbcast.wire.messages import Entry, Flight, FlightId, Message, Mode, Standing, StandingEntry

Kind = TypeVar("Kind")

#: Epochs in the order of their numbers; the node id of their master is the second part of the name.
E1_1 = epochs.pair(1, 1)
E2_2 = epochs.pair(2, 2)
E3_3 = epochs.pair(3, 3)


def examples(count: int = 100, **more: Any) -> settings:
    """How many examples a property is tried on; a slow machine is no failure."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow], **more)


def config(node_id: int = 1, nodes: int = 3, **parts: Any) -> ProtocolConfig:
    """A configuration of nodes 1 to ``nodes`` with the default timing."""
    members = tuple(MemberConfig(k, f"node{k}", Address("127.0.0.1", 8400 + k)) for k in range(1, nodes + 1))
    return ProtocolConfig(node_id, members, **parts)


def stored(incarnation: int = 1, **known: Any) -> StoredState:
    """What a store knows; by default an empty one in its first life."""
    fresh = StoredState(incarnation, "disk", promised_epoch=0, log_epoch=0, committed=0, last_seq=0)
    return attrs.evolve(fresh, **known)


def commons(node_id: int = 1, nodes: int = 3, incarnation: int = 1, **parts: Any) -> Commons:
    """What the parts of a node share."""
    return Commons(config(node_id, nodes, **parts), stored(incarnation))


def journal(shared: Commons) -> Journal:
    """An empty log of all configured nodes."""
    return Journal(shared, initial(member.id for member in shared.config.members))


def effects(shared: Commons) -> list[Effect]:
    """What was asked for since the last call, in order."""
    out, shared.out = shared.out, []
    return out


def acts(shared: Commons) -> list[Effect]:
    """The same without what is only told to people."""
    return [effect for effect in effects(shared) if not isinstance(effect, Notify)]


def only(kind: type[Kind], things: list[Any]) -> list[Kind]:
    """Those of one class."""
    return [thing for thing in things if isinstance(thing, kind)]


def signals(shared: Commons) -> list[Signal]:
    """What the parts have told each other since the last call."""
    told = list(shared.signals)
    shared.signals.clear()
    return told


def to_self(shared: Commons) -> list[Message]:
    """The messages of the node to itself since the last call."""
    messages = list(shared.loopback)
    shared.loopback.clear()
    return messages


def last_token(shared: Commons) -> int:
    """Of the latest Persist that was asked for."""
    return only(Persist, shared.out)[-1].token


def flight(
    number: int = 1,
    origin: int = 1,
    items: tuple[bytes, ...] = (b"item",),
    mode: Mode = Mode.BROADCAST,
    incarnation: int = 1,
    born: int = 0,
    oldest: int | None = None,
) -> Flight:
    """A flight of ``origin``; no older one of it is under way."""
    return Flight(FlightId(origin, incarnation, number), mode, born, number if oldest is None else oldest, items)


def standing(
    node_id: int, to: Standing, voter: bool = True, incarnation: int = 1, change_id: int = 0, **more: Any
) -> StandingEntry:
    """What the log may say of a member."""
    return StandingEntry(node_id, to, voter, incarnation, change_id, **more)


def entry(seq: int, what: Flight | StandingEntry | None = None, epoch: int = E1_1) -> Entry:
    """An entry of the log; by default of a flight with its own seq for a number."""
    if isinstance(what, StandingEntry):
        return Entry(seq, epoch, standing=what)
    return Entry(seq, epoch, flight=what or flight(seq))
