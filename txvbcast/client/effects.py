"""What a session wants done, in order; its surroundings (Twisted, sockets, the simulator) do it.

``ticket`` is the number under which the surroundings have handed a submission or a query in, ``link`` the
number that the session gave to a connection.
"""

from __future__ import annotations

from typing import Any, Union

import attrs

from txvbcast.client.failures import Failure
from txvbcast.wire.client_messages import Items, Outcome, Status, ToNode, Values


@attrs.frozen
class Dial:
    """Connect to ``address``; then call ``opened``, or ``closed`` if that fails."""

    link: int
    address: str


@attrs.frozen
class HangUp:
    """Close the connection, or stop to dial; the session hears no more of it."""

    link: int
    reason: str


@attrs.frozen
class Send:
    """Write a message; nothing waits for room, because the session bounds what is unanswered."""

    link: int
    message: ToNode


@attrs.frozen
class SetTimer:
    """Call ``due`` at that time; takes the place of the timer before."""

    at_s: float


@attrs.frozen
class Using:
    """Transactions and queries go to this node from now on; 0: to none, they wait."""

    node_id: int


@attrs.frozen
class AllRefused:
    """Every address that is known was tried and refused this client, so trying again is of little use."""

    reason: str


@attrs.frozen
class TellCommitted:
    """Transactions ``place``, ``place + 1``, ... of a submission stand at (seq, index), (seq, index + 1), ..."""

    ticket: int
    place: int
    seq: int
    index: int
    results: tuple[bytes, ...]


@attrs.frozen
class TellFailed:
    """Transactions of a submission that failed alike.

    :ivar request_ids: one for each place if the outcome is unknown, else empty.
    """

    ticket: int
    places: tuple[int, ...]
    failure: Failure
    request_ids: tuple[str, ...] = ()


@attrs.frozen
class TellAnswer:
    """The answer to a query."""

    ticket: int
    answer: Answer


@attrs.frozen
class TellQueryFailed:
    """A query has no answer."""

    ticket: int
    failure: Failure


@attrs.frozen
class Event:
    """Something that happened in the cluster, as one node tells it.

    :ivar told_by: the id of that node; :ivar id: the event's number in that life of it.
    :ivar time_s: by that node's wall clock, seconds since 1970.
    :ivar kind, document: as in ``GET /v1/events``.
    :ivar missed: how many, at most, were lost right before it.
    """

    told_by: int
    id: int
    time_s: float
    kind: str
    document: dict[str, Any]
    missed: int = 0


@attrs.frozen
class TellEvent:
    """An event for whoever follows."""

    ticket: int
    event: Event


Answer = Union[Values, Items, Outcome, Status]
Effect = Union[
    Dial, HangUp, Send, SetTimer, Using, AllRefused, TellCommitted, TellFailed, TellAnswer, TellQueryFailed, TellEvent
]  # fmt: skip
