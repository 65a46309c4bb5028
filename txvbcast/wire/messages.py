"""Every message of the protocol as a frozen class, and the registry of their type numbers.

Units are last in the names; ``seq`` counts log entries from 1 and 0 means "none yet";
an ``epoch`` is the number made by :func:`txvbcast.core.epochs.pair`.  The meaning of
each message is told in ``docs/protocol.md``, its bytes in ``docs/wire.md``.
"""

from __future__ import annotations

import enum
from typing import Union

import attrs

NODE_ID_MAX = 65535
U64_MAX = 2**63 - 1
#: The ``source`` of an absence that the member itself has announced.
SELF = "self"


class Mode(enum.Enum):
    """How a flight is agreed upon."""

    BROADCAST = "broadcast"
    TWO_PHASE = "2pc"
    THREE_PHASE = "3pc"

    @property
    def voted(self) -> bool:
        """Whether the members are asked before the flight is ordered."""
        return self is not Mode.BROADCAST


class Standing(enum.Enum):
    """A member's state in the replicated table: who is waited for follows it."""

    NORMAL = "normal"
    INACTIVE = "inactive"
    CATCHING_UP = "catching_up"
    FAILED = "failed"


class ClaimWhy(enum.Enum):
    """Why a candidate claims an epoch."""

    SILENCE = "silence"
    HANDOVER = "handover"


class HandoverWhy(enum.Enum):
    """Why a master hands its office over."""

    ABSENCE = "absence"
    HANDBACK = "handback"
    OPERATOR = "operator"
    STOPPING = "stopping"


@attrs.frozen
class InRange:
    """A validator: an int field must be from ``low`` to ``high``, both included.

    :raises ValueError: it is not; the text names the field, the range and the value.
    """

    low: int
    high: int

    def __call__(self, instance: object, attribute: attrs.Attribute[int], value: int) -> None:
        if not self.low <= value <= self.high:  # said here too, since it is asked for every number of every message
            self.check(attribute.name, value)

    def check(self, name: str, value: int) -> None:
        """Refuse ``value`` unless it is in the range."""
        if not self.low <= value <= self.high:
            raise ValueError(f"{name} must be from {self.low} to {self.high}, got {value}")


@attrs.frozen
class EachInRange:
    """A validator: so must every element of a tuple of ints, unless None stands in its place.

    :raises ValueError: one of them is not.
    """

    element: InRange

    def __call__(
        self, instance: object, attribute: attrs.Attribute[tuple[int, ...] | None], value: tuple[int, ...] | None
    ) -> None:
        if not value or self.element.low <= min(value) <= max(value) <= self.element.high:
            return
        for place, number in enumerate(value):
            self.element.check(f"{attribute.name}[{place}]", number)


NODE_ID = InRange(1, NODE_ID_MAX)
COUNT = InRange(0, U64_MAX)
POSITIVE = InRange(1, U64_MAX)
COUNTS = EachInRange(COUNT)
NODE_IDS = EachInRange(NODE_ID)


# --- parts -----------------------------------------------------------------------------


@attrs.frozen(order=True)
class FlightId:
    """Names a flight for all time: who proposed it, in which life, and its number there."""

    origin: int = attrs.field(validator=NODE_ID)
    incarnation: int = attrs.field(validator=POSITIVE)
    number: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Flight:
    """A coordinator's batch of transactions that travels together.

    :ivar born: seq of the last StandingEntry about the origin that the origin had applied.
    :ivar oldest: the lowest flight number that was still under way at the origin.
    :ivar items: one encoded transaction each (:mod:`txvbcast.wire.items`); opaque to the protocol.
    :ivar indices: where some items were refused, the original places of those that are left.
    :ivar seen: the seq that the origin had applied: nobody votes on the flight before having applied that.
    """

    id: FlightId
    mode: Mode
    born: int = attrs.field(validator=COUNT)
    oldest: int = attrs.field(validator=POSITIVE)
    items: tuple[bytes, ...]
    indices: tuple[int, ...] | None = attrs.field(default=None, validator=COUNTS)
    seen: int = attrs.field(default=0, validator=COUNT)

    def __attrs_post_init__(self) -> None:
        if self.indices is not None and len(self.indices) != len(self.items):
            raise ValueError(f"indices must name a place for each item: {len(self.indices)} for {len(self.items)}")


@attrs.frozen
class StandingEntry:
    """A log entry that changes a member's standing, its voter flag, or both.

    :ivar change_id: the change of that incarnation of the member that this entry speaks about.
    :ivar kind: kind of configuration change, empty when there is none.
    :ivar source: who said so: ``self``, ``master``, or the name of a third party.
    :ivar reason: for people and logs.
    """

    node_id: int = attrs.field(validator=NODE_ID)
    standing: Standing
    voter: bool
    incarnation: int = attrs.field(validator=COUNT)
    change_id: int = attrs.field(validator=COUNT)
    kind: str = ""
    expected_ms: int = attrs.field(default=0, validator=COUNT)
    source: str = ""
    reason: str = ""


@attrs.frozen
class Entry:
    """One place of the log: exactly one of ``flight`` and ``standing`` is there."""

    seq: int = attrs.field(validator=POSITIVE)
    epoch: int = attrs.field(validator=POSITIVE)
    flight: Flight | None = None
    standing: StandingEntry | None = None

    def __attrs_post_init__(self) -> None:
        if (self.flight is None) == (self.standing is None):
            raise ValueError("an entry holds either a flight or a standing")


@attrs.frozen
class Run:
    """From ``first`` on (until the next run) the log's entries were ordered in ``epoch``."""

    first: int = attrs.field(validator=POSITIVE)
    epoch: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Refusal:
    """One item that a node will not accept."""

    index: int = attrs.field(validator=COUNT)
    reason: str


@attrs.frozen
class MemberLine:
    """A line of the configured member list, as compared in :class:`Hello`.

    :ivar peer: where the others reach it, ``host:port``; an IPv6 address stands in brackets.
    """

    id: int = attrs.field(validator=NODE_ID)
    name: str
    peer: str


# --- links -----------------------------------------------------------------------------


@attrs.frozen
class Hello:
    """First message of both sides of a link.

    :ivar incarnation: rises by one at each start of the sender.
    :ivar disk_id: made with the sender's store, so that a new store is not taken for the old one.
    :ivar version_min, version_max: the wire versions that the sender speaks.
    :ivar members_digest: of ``members``.
    :ivar members: every node of the cluster as the sender is configured.
    :ivar vms: the virtual machines that the sender hosts, as it is configured.
    :ivar client: where it listens for clients, ``host:port`` as it is configured; the host may be a wildcard.
    """

    cluster_id: str
    cluster_name: str
    node_id: int = attrs.field(validator=NODE_ID)
    incarnation: int = attrs.field(validator=POSITIVE)
    disk_id: str
    version_min: int = attrs.field(validator=POSITIVE)
    version_max: int = attrs.field(validator=POSITIVE)
    members_digest: str
    members: tuple[MemberLine, ...]
    vms: tuple[str, ...] = ()
    client: str = ""


@attrs.frozen
class HelloRefused:
    """Why this side closes the link."""

    reason: str


# --- flights ---------------------------------------------------------------------------


@attrs.frozen
class Propose:
    """First phase: the query, which carries the payload to every member."""

    flight: Flight


@attrs.frozen
class Vote:
    """The items of a flight that the sender refuses; none refused is a Yes to all."""

    flight: FlightId
    refused: tuple[Refusal, ...] = ()


@attrs.frozen
class Decide:
    """What the coordinator asks the master to order; ``accepted`` None means every item."""

    flight: FlightId
    accepted: tuple[int, ...] | None = attrs.field(default=None, validator=COUNTS)


@attrs.frozen
class Order:
    """Second phase: the place of a flight or of a standing in the log.

    :ivar flight: the name of a flight that its coordinator has proposed to every member.
    :ivar accepted: which of its items; None when that is all of them.
    :ivar proposal: instead of a name, all of a flight that the sender coordinates itself and nobody votes on: its
        PROPOSE and its ORDER are this one message.
    """

    epoch: int = attrs.field(validator=POSITIVE)
    seq: int = attrs.field(validator=POSITIVE)
    committed: int = attrs.field(validator=COUNT)
    everywhere: int = attrs.field(validator=COUNT)
    flight: FlightId | None = None
    accepted: tuple[int, ...] | None = attrs.field(default=None, validator=COUNTS)
    standing: StandingEntry | None = None
    proposal: Flight | None = None

    def __attrs_post_init__(self) -> None:
        if (self.flight is not None) + (self.standing is not None) + (self.proposal is not None) != 1:
            raise ValueError("an order is of one thing: a flight that was proposed, a proposal or a standing")
        if self.proposal is not None and self.proposal.mode.voted:
            raise ValueError(f"a flight of mode {self.proposal.mode.value} is proposed before it is ordered")

    @property
    def flight_id(self) -> FlightId | None:
        """The flight that it orders; None for a standing."""
        return self.flight if self.proposal is None else self.proposal.id


@attrs.frozen
class Stored:
    """The sender has every entry of this epoch's log up to ``seq`` on disk."""

    epoch: int = attrs.field(validator=POSITIVE)
    seq: int = attrs.field(validator=COUNT)
    disk_id: str


@attrs.frozen
class Committed:
    """Third phase: every entry up to ``committed`` is decided."""

    epoch: int = attrs.field(validator=POSITIVE)
    committed: int = attrs.field(validator=COUNT)
    everywhere: int = attrs.field(validator=COUNT)


@attrs.frozen
class Withdraw:
    """The flight will not be ordered any more: release what was prepared for it.

    :ivar seq: it may have been, up to there: whoever has not applied that much waits for the log.
    """

    flight: FlightId
    seq: int = attrs.field(validator=COUNT)


@attrs.frozen
class AskFlight:
    """A participant asks what became of a flight that it prepared long ago."""

    flight: FlightId


@attrs.frozen
class Suspect:
    """A normal member did not vote in time; told to the master."""

    member: int = attrs.field(validator=NODE_ID)
    flight: FlightId


# --- change of master ------------------------------------------------------------------


@attrs.frozen
class Probe:
    """Before a claim: has the receiver lost the master of ``epoch`` too?"""

    epoch: int = attrs.field(validator=COUNT)
    nonce: int = attrs.field(validator=COUNT)


@attrs.frozen
class ProbeReply:
    """``lost``: the sender hears no master either; ``epoch`` is the highest it promised."""

    epoch: int = attrs.field(validator=COUNT)
    nonce: int = attrs.field(validator=COUNT)
    lost: bool


@attrs.frozen
class Claim:
    """A candidate asks for ``epoch``; ``of_epoch`` is the epoch whose master is gone."""

    epoch: int = attrs.field(validator=POSITIVE)
    why: ClaimWhy
    of_epoch: int = attrs.field(validator=COUNT)


@attrs.frozen
class Grant:
    """A durable promise to the candidate of ``epoch``, with what the granter's log holds.

    :ivar voters: the voters as listed in the granter's log.
    :ivar runs: the epochs of its entries, the latest ones up to ``stored``.
    """

    epoch: int = attrs.field(validator=POSITIVE)
    log_epoch: int = attrs.field(validator=COUNT)
    stored: int = attrs.field(validator=COUNT)
    committed: int = attrs.field(validator=COUNT)
    voters: tuple[int, ...] = attrs.field(validator=NODE_IDS)
    runs: tuple[Run, ...]
    disk_id: str


@attrs.frozen
class Refuse:
    """No grant for ``epoch``; ``promised`` is the highest epoch the sender has promised."""

    epoch: int = attrs.field(validator=POSITIVE)
    promised: int = attrs.field(validator=COUNT)
    reason: str


@attrs.frozen
class Start:
    """The new master's log: entries above ``base`` were ordered as ``runs`` say, up to ``last``."""

    epoch: int = attrs.field(validator=POSITIVE)
    base: int = attrs.field(validator=COUNT)
    runs: tuple[Run, ...]
    last: int = attrs.field(validator=COUNT)


@attrs.frozen
class WantStart:
    """The sender hears the master of ``epoch`` and has not seen its Start."""

    epoch: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Fetch:
    """Asks for entries ``first`` to ``last`` of the log of ``log_epoch``.

    :ivar epoch: what the server must have promised, so that a granter that moved on refuses.
    """

    epoch: int = attrs.field(validator=POSITIVE)
    log_epoch: int = attrs.field(validator=COUNT)
    first: int = attrs.field(validator=POSITIVE)
    last: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Entries:
    """The answer to a :class:`Fetch`, possibly a beginning of what was asked for."""

    epoch: int = attrs.field(validator=POSITIVE)
    log_epoch: int = attrs.field(validator=COUNT)
    entries: tuple[Entry, ...]


@attrs.frozen
class FetchRefused:
    """The server of a :class:`Fetch` has another log by now."""

    epoch: int = attrs.field(validator=POSITIVE)
    log_epoch: int = attrs.field(validator=COUNT)
    reason: str


@attrs.frozen
class Handoff:
    """The leaving master's last word: its successor may start ``epoch`` with this grant.

    :ivar sticky: an operator asked for it, so the office is not handed back by itself.
    """

    epoch: int = attrs.field(validator=POSITIVE)
    grant: Grant
    sticky: bool = False


@attrs.frozen
class MoveMaster:
    """An operator's wish, passed on to the master: hand the office to node ``to``."""

    to: int = attrs.field(validator=NODE_ID)


@attrs.frozen
class MoveRefused:
    """Why a :class:`MoveMaster` was not carried out."""

    to: int = attrs.field(validator=NODE_ID)
    reason: str


# --- absence ---------------------------------------------------------------------------


@attrs.frozen
class Inactive:
    """The first message: ``member`` is about to be away for about ``expected_ms``.

    :ivar change_id: which absence of that incarnation; rises.
    :ivar revision: rises with each new estimate for it.
    :ivar epoch: the log epoch of the sender; stored: what it has on disk.
    :ivar source: ``self``, or the name of the third party that says so; then ``revision`` is 0, below all of the
        member's own.
    """

    member: int = attrs.field(validator=NODE_ID)
    incarnation: int = attrs.field(validator=POSITIVE)
    change_id: int = attrs.field(validator=POSITIVE)
    revision: int = attrs.field(validator=COUNT)
    kind: str
    expected_ms: int = attrs.field(validator=COUNT)
    epoch: int = attrs.field(validator=COUNT)
    stored: int = attrs.field(validator=COUNT)
    source: str = SELF


@attrs.frozen
class Confirmed:
    """The master's answer to Inactive: the cluster has taken note, the change may begin."""

    incarnation: int = attrs.field(validator=POSITIVE)
    change_id: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Unsafe:
    """The master's answer to Inactive: this absence costs the quorum."""

    incarnation: int = attrs.field(validator=POSITIVE)
    change_id: int = attrs.field(validator=POSITIVE)
    reason: str


@attrs.frozen
class Resumed:
    """The second message, to the master: ``member`` is back (any node forwards it)."""

    member: int = attrs.field(validator=NODE_ID)
    incarnation: int = attrs.field(validator=POSITIVE)
    change_id: int = attrs.field(validator=COUNT)
    log_epoch: int = attrs.field(validator=COUNT)
    stored: int = attrs.field(validator=COUNT)
    committed: int = attrs.field(validator=COUNT)


@attrs.frozen
class AbsenceOver:
    """A third party's word that the absence of ``member`` is over which it announced under that number."""

    member: int = attrs.field(validator=NODE_ID)
    incarnation: int = attrs.field(validator=POSITIVE)
    change_id: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Normal:
    """The third message: ``member`` serves again; timeouts return to their defaults."""

    member: int = attrs.field(validator=NODE_ID)
    incarnation: int = attrs.field(validator=POSITIVE)
    change_id: int = attrs.field(validator=COUNT)


# --- liveness and reads ----------------------------------------------------------------


@attrs.frozen
class Heartbeat:
    """The master's sign of life.

    :ivar ordered: the last seq of the master's log.
    :ivar standing: the receiver's standing in the master's table.
    :ivar incarnation, change_id: the receiver's last absence as the master's table has it.
    :ivar table_digest: of the master's committed table.
    :ivar urgent: the receiver's datagrams do not come: it answers over the link too.
    """

    epoch: int = attrs.field(validator=POSITIVE)
    beat: int = attrs.field(validator=COUNT)
    committed: int = attrs.field(validator=COUNT)
    everywhere: int = attrs.field(validator=COUNT)
    ordered: int = attrs.field(validator=COUNT)
    standing: Standing
    incarnation: int = attrs.field(validator=COUNT)
    change_id: int = attrs.field(validator=COUNT)
    table_digest: str
    urgent: bool = False


@attrs.frozen
class HeartbeatReply:
    """A member's sign of life, with its watermarks."""

    epoch: int = attrs.field(validator=POSITIVE)
    beat: int = attrs.field(validator=COUNT)
    log_epoch: int = attrs.field(validator=COUNT)
    stored: int = attrs.field(validator=COUNT)
    applied: int = attrs.field(validator=COUNT)
    standing: Standing
    incarnation: int = attrs.field(validator=POSITIVE)
    disk_id: str


@attrs.frozen
class QuorumCheck:
    """The master asks whether it is still the master of ``epoch``."""

    epoch: int = attrs.field(validator=POSITIVE)
    nonce: int = attrs.field(validator=COUNT)


@attrs.frozen
class QuorumCheckReply:
    """The sender has promised nothing above ``epoch``."""

    epoch: int = attrs.field(validator=POSITIVE)
    nonce: int = attrs.field(validator=COUNT)


@attrs.frozen
class Read:
    """A node asks the master for a seq that a linearizable read must have applied."""

    nonce: int = attrs.field(validator=COUNT)


@attrs.frozen
class ReadAt:
    """The answer to :class:`Read`."""

    nonce: int = attrs.field(validator=COUNT)
    seq: int = attrs.field(validator=COUNT)


Message = Union[
    Hello, HelloRefused, Propose, Vote, Decide, Order, Stored, Committed, Withdraw, AskFlight, Suspect,
    Probe, ProbeReply, Claim, Grant, Refuse, Start, WantStart, Fetch, Entries, FetchRefused, Handoff,
    MoveMaster, MoveRefused, Inactive, Confirmed, Unsafe, Resumed, Normal, AbsenceOver, Heartbeat, HeartbeatReply,
    QuorumCheck, QuorumCheckReply, Read, ReadAt,
]  # fmt: skip

#: Type numbers on the wire: never reused, never renumbered.
OPCODES: dict[int, type[Message]] = {
    1: Hello, 2: HelloRefused,
    10: Propose, 11: Vote, 12: Decide, 13: Order, 14: Stored, 15: Committed,
    16: Withdraw, 17: AskFlight, 18: Suspect,
    30: Probe, 31: ProbeReply, 32: Claim, 33: Grant, 34: Refuse, 35: Start, 36: WantStart,
    37: Fetch, 38: Entries, 39: FetchRefused, 40: Handoff, 41: MoveMaster, 42: MoveRefused,
    50: Inactive, 51: Confirmed, 52: Unsafe, 53: Resumed, 54: Normal, 55: AbsenceOver,
    60: Heartbeat, 61: HeartbeatReply, 62: QuorumCheck, 63: QuorumCheckReply, 64: Read, 65: ReadAt,
}  # fmt: skip

#: What may travel as a datagram; everything may travel over a link.
DATAGRAM_TYPES: frozenset[type[Message]] = frozenset({Heartbeat, HeartbeatReply, Inactive})
