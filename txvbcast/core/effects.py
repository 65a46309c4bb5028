"""What a replica wants done: :meth:`Replica.step` returns these, in the order to do them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

import attrs

from txvbcast.wire.messages import Entry, Flight, FlightId, Message


@attrs.frozen
class Persist:
    """Write to disk as one step; answered by Persisted(token) once it is durable.

    :ivar truncate_from: drop every stored entry with this seq or a higher one first.
    :ivar entries: append these.
    :ivar promised_epoch, log_epoch: None leaves the stored value.
    :ivar committed: kept lazily; may ride along.
    """

    token: int
    truncate_from: int | None = None
    entries: tuple[Entry, ...] = ()
    promised_epoch: int | None = None
    log_epoch: int | None = None
    committed: int | None = None


@attrs.frozen
class Send:
    """Send over the link to ``to``; dropped when there is no link."""

    to: int
    message: Message


@attrs.frozen
class SendDatagram:
    """Send as a datagram to ``to``; may be lost."""

    to: int
    message: Message


@attrs.frozen
class SetTimer:
    """Fire TimerFired(key) after ``delay_s``; replaces an earlier timer of that key."""

    key: str
    delay_s: float


@attrs.frozen
class DropDatagrams:
    """Throw away the datagrams that wait in the socket: they are from before a pause."""


@attrs.frozen
class ResetLinks:
    """Close every link and open it anew: after a long pause the peers' retransmissions come slowly."""

    reason: str


@attrs.frozen
class ReadLog:
    """Read entries ``first`` to ``last`` from the store; answered by LogRead(token, ...)."""

    token: int
    first: int
    last: int
    bytes_max: int


@attrs.frozen
class Prepare:
    """Ask the resource managers for their votes; answered by Prepared."""

    flight: Flight


@attrs.frozen
class Release:
    """Tell the resource managers to abort what they prepared for this flight."""

    flight: FlightId
    reason: str


@attrs.frozen
class Apply:
    """Perform a committed entry; ``dead`` entries change nothing but take their place.

    An own flight's results are kept by the driver until ReplyCommitted or ForgetResults.
    """

    entry: Entry
    dead: bool = False


@attrs.frozen
class Share:
    """Transactions of one submission, side by side in it: ``count`` of them from ``place`` on.

    :ivar ticket: the driver's name for the submission.
    """

    ticket: int
    place: int
    count: int


@attrs.frozen
class ReplyCommitted:
    """The clients of an own flight hear committed.

    :ivar indices: where in the entry each of the shares begins.
    """

    shares: tuple[Share, ...]
    indices: tuple[int, ...]
    flight: FlightId
    seq: int


@attrs.frozen
class ReplyAborted:
    """These clients hear Aborted, or NoQuorum when ``no_quorum``."""

    shares: tuple[Share, ...]
    reason: str
    who: tuple[int, ...] = ()
    no_quorum: bool = False


@attrs.frozen
class ReplyUnknown:
    """These clients hear OutcomeUnknown."""

    shares: tuple[Share, ...]
    reason: str
    who: tuple[int, ...] = ()


@attrs.frozen
class ReplyOverloaded:
    """These clients hear Overloaded: a bound was reached before anything happened."""

    shares: tuple[Share, ...]
    reason: str


@attrs.frozen
class ForgetResults:
    """Nobody waits any more for the results of this own flight."""

    flight: FlightId


@attrs.frozen
class ReadReady:
    """A linearizable read may be served: this node has applied ``seq``."""

    ticket: int
    seq: int


@attrs.frozen
class ReadFailed:
    """A linearizable read cannot be served; the client hears NoQuorum."""

    ticket: int
    reason: str


@attrs.frozen
class ChangeOpened:
    """The answer to ChangeBegan and MemberAbsent: the name of the change, and how long it is expected to take.

    :ivar ticket: 0 when nobody on this node asked: a third party elsewhere spoke of this node.
    :ivar basis: what the estimate rests on.
    """

    ticket: int
    change_id: int
    member: int
    kind: str
    source: str
    expected_s: float
    basis: str


@attrs.frozen
class ChangeEstimated:
    """A change is expected to take ``expected_s`` from now on."""

    change_id: int
    expected_s: float
    basis: str


@attrs.frozen
class ChangeAnswered:
    """The cluster's word on an announced change: confirmed, or why it is unsafe."""

    change_id: int
    confirmed: bool
    unsafe: str = ""


@attrs.frozen
class ChangeClosed:
    """A change is over, by its source's word or by its time limit (``outcome`` ``overdue``)."""

    change_id: int
    outcome: str


@attrs.frozen
class MoveAnswered:
    """The answer to MasterMoveRequested.

    :ivar refused: why it is not done, empty when it is; no_quorum: because there is no master.
    """

    ticket: int
    refused: str = ""
    no_quorum: bool = False


@attrs.frozen
class StopAllowed:
    """The answer to StopRequested: nothing keeps the node any more."""


@attrs.frozen
class Notify:
    """Something that operators and applications are told, with its reason; also logged.

    :ivar kind: node_inactive, node_catching_up, node_normal, node_failed, master_changed,
        quorum_lost, quorum_regained, own_standing, mastership.
    :ivar node_id: whom it is about, 0 where it is about the cluster.
    """

    kind: str
    node_id: int
    reason: str
    facts: Mapping[str, object]


Effect = Union[
    Persist, Send, SendDatagram, SetTimer, DropDatagrams, ResetLinks, ReadLog, Prepare, Release, Apply, ReplyCommitted,
    ReplyAborted, ReplyUnknown, ReplyOverloaded, ForgetResults, ReadReady, ReadFailed, ChangeOpened,
    ChangeEstimated, ChangeAnswered, ChangeClosed, MoveAnswered, StopAllowed, Notify,
]  # fmt: skip
