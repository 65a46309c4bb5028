"""What can happen to a replica: the only way in, besides the time, of :meth:`Replica.step`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

import attrs

from txvbcast.wire.messages import Entry, FlightId, Message, Mode, Refusal


@attrs.frozen
class Restored:
    """A piece of the log as the store held it at start; ``last`` marks the final piece."""

    entries: tuple[Entry, ...]
    last: bool


@attrs.frozen
class Received:
    """A message from a peer, over its link or as a datagram."""

    peer: int
    message: Message


@attrs.frozen
class PeerUp:
    """A link to a peer was opened and both sides' Hello were accepted.

    :ivar vms: the virtual machines that it hosts, as it says.
    """

    peer: int
    incarnation: int
    disk_id: str
    vms: tuple[str, ...] = ()


@attrs.frozen
class PeerDown:
    """The link to a peer is gone; what was sent and not answered may be lost."""

    peer: int
    reason: str


@attrs.frozen
class TimerFired:
    """A timer that :class:`~txvbcast.core.effects.SetTimer` asked for is due."""

    key: str


@attrs.frozen
class Persisted:
    """Everything that Persist effects up to ``token`` asked for is on disk."""

    token: int


@attrs.frozen
class LogRead:
    """The answer to a ReadLog effect: entries from its ``first`` on, without a gap."""

    token: int
    entries: tuple[Entry, ...]


@attrs.frozen
class Submitted:
    """A client's transactions, each of which is answered on its own.

    :ivar ticket: the driver's name for the submission, unique in this run.
    :ivar items: one encoded transaction each.
    :ivar timeout_s: after this long the client wants to hear something.
    """

    ticket: int
    mode: Mode
    items: tuple[bytes, ...]
    timeout_s: float


@attrs.frozen
class Prepared:
    """The resource managers' answer to a Prepare effect."""

    flight: FlightId
    refused: tuple[Refusal, ...]


@attrs.frozen
class ReadRequested:
    """A client asks for a linearizable read."""

    ticket: int
    timeout_s: float


@attrs.frozen
class ChangeBegan:
    """An adapter or operator says that this node is about to be away.

    :ivar ticket: the driver's name for the asker.
    :ivar expected_s: None lets the estimator decide from ``kind`` and ``facts``.
    :ivar holdable: the change can be held back until the cluster has confirmed.
    """

    ticket: int
    kind: str
    expected_s: float | None
    facts: Mapping[str, object]
    holdable: bool
    source: str


@attrs.frozen
class MemberAbsent:
    """A third party says on this node that another member is about to be away.

    :ivar ticket: the driver's name for the asker.
    """

    ticket: int
    member: int
    kind: str
    expected_s: float | None
    facts: Mapping[str, object]
    source: str


@attrs.frozen
class ChangeUpdated:
    """A new estimate for a change under way: ``expected_s`` from now on.

    :ivar expected_s: None lets the estimator decide from all ``facts`` so far.
    """

    change_id: int
    expected_s: float | None
    facts: Mapping[str, object]


@attrs.frozen
class ChangeEnded:
    """A change is over: ``outcome`` is ``done``, ``cancelled`` or ``failed``."""

    change_id: int
    outcome: str


@attrs.frozen
class PauseSeen:
    """This node was stopped for about ``pause_s`` without a word, as ``evidence`` outside of its own ticks shows."""

    pause_s: float
    evidence: str


@attrs.frozen
class MasterMoveRequested:
    """An operator wants node ``to`` to be master."""

    ticket: int
    to: int


@attrs.frozen
class StopRequested:
    """The node is about to stop: a master hands over first."""


Input = Union[
    Restored, Received, PeerUp, PeerDown, TimerFired, Persisted, LogRead, Submitted, Prepared,
    ReadRequested, ChangeBegan, MemberAbsent, ChangeUpdated, ChangeEnded, PauseSeen, MasterMoveRequested,
    StopRequested,
]  # fmt: skip


@attrs.frozen
class PastAbsence:
    """The record of an absence that is over.

    :ivar member: whose it was; source: who said so.
    :ivar announced_s: the first estimate; expected_s: the last; actual_s: what it took.
    :ivar basis: what the last estimate rested on, see :mod:`txvbcast.core.estimator`.
    :ivar unsafe: why the cluster could not afford it, or empty.
    :ivar outcome: ``done``, ``cancelled``, ``failed`` or ``overdue``.
    """

    member: int
    kind: str
    source: str
    began_unix_s: float
    announced_s: float
    expected_s: float
    actual_s: float
    basis: str
    confirmed: bool
    unsafe: str
    outcome: str


@attrs.frozen
class StoredState:
    """What a store knows when it is opened, besides the log itself.

    :ivar incarnation: this life's number, already durable.
    :ivar last_seq: the last entry of the stored log, 0 for none.
    :ivar absences: the records that are kept, oldest first.
    """

    incarnation: int
    disk_id: str
    promised_epoch: int
    log_epoch: int
    committed: int
    last_seq: int
    absences: tuple[PastAbsence, ...] = ()
