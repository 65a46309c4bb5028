"""Every message between a client and a node, as frozen classes, and the registry of their type numbers.

A client names its **batches** (of transactions) and its **queries** (everything else that is answered) by
numbers that rise with each and are never used twice on one connection.  Transactions are named
for all connections and nodes by (session, number), see :class:`txvbcast.wire.items.Request`.
"""

from __future__ import annotations

import enum
from typing import Final, Union

import attrs

from txvbcast.wire.messages import COUNT, COUNTS, NODE_ID, POSITIVE, U64_MAX, Mode


class FailureKind(enum.Enum):
    """Why a transaction or a query was not answered as hoped; the classes of :mod:`txvbcast.errors`."""

    ABORTED = "aborted"
    OUTCOME_UNKNOWN = "outcome-unknown"
    OVERLOADED = "overloaded"
    NO_QUORUM = "no-quorum"
    BAD_REQUEST = "bad-request"


# --- a connection ------------------------------------------------------------------------


@attrs.frozen
class NodeLine:
    """A node that clients may turn to.

    :ivar client: where it listens for clients, ``host:port``; empty when that is not known.
    """

    node_id: int = attrs.field(validator=NODE_ID)
    name: str
    client: str


@attrs.frozen
class ClientHello:
    """The client's first message.

    :ivar version_min, version_max: the versions of this format that it speaks.
    :ivar session: names the client for all its connections; unguessable, and made anew with each client.
    :ivar program: what it says of itself, for logs.
    :ivar cluster_id: the cluster that it wants, empty for any.
    """

    version_min: int = attrs.field(validator=POSITIVE)
    version_max: int = attrs.field(validator=POSITIVE)
    session: str
    program: str = ""
    cluster_id: str = ""


@attrs.frozen
class Welcome:
    """The node's answer.

    :ivar version: of the format, from now on.
    :ivar serving: it takes transactions now; else another node is the better one.
    :ivar payload_bytes_max: of one transaction.
    :ivar outstanding_max: transactions that may be unanswered on this connection; one more is Overloaded.
    :ivar nodes: all nodes of the cluster, this one too.
    """

    version: int = attrs.field(validator=POSITIVE)
    cluster_id: str
    cluster_name: str
    node_id: int = attrs.field(validator=NODE_ID)
    serving: bool
    payload_bytes_max: int = attrs.field(validator=POSITIVE)
    outstanding_max: int = attrs.field(validator=POSITIVE)
    nodes: tuple[NodeLine, ...]


@attrs.frozen
class Refused:
    """Why the node closes the connection; its last message."""

    reason: str


@attrs.frozen
class Leaving:
    """The node is about to be away, or to stop: a client should go to another one now.

    :ivar expected_ms: how long it expects to be away, 0 when that is not known.
    """

    reason: str
    expected_ms: int = attrs.field(default=0, validator=COUNT)


@attrs.frozen
class Ping:
    """Is the node there?"""

    number: int = attrs.field(validator=COUNT)


@attrs.frozen
class Pong:
    """It is."""

    number: int = attrs.field(validator=COUNT)


# --- transactions ------------------------------------------------------------------------


@attrs.frozen
class Submit:
    """Transactions of one resource manager, one mode and one time limit.

    :ivar first: the request number of the first one; those of the others follow without a gap.
    :ivar done: the client has heard the outcome of every number up to this one.
    :ivar request_ids: names that the client's user gave instead, one each; then ``first`` and ``done`` mean nothing.
    """

    batch: int = attrs.field(validator=POSITIVE)
    rm: str
    mode: Mode
    timeout_ms: int = attrs.field(validator=POSITIVE)
    first: int = attrs.field(validator=COUNT)
    done: int = attrs.field(validator=COUNT)
    payloads: tuple[bytes, ...]
    request_ids: tuple[str, ...] | None = None

    def __attrs_post_init__(self) -> None:
        if self.request_ids is not None:
            if len(self.request_ids) != len(self.payloads):
                raise ValueError(
                    f"request_ids must name each payload: {len(self.request_ids)} for {len(self.payloads)}"
                )
        elif not self.done < self.first <= U64_MAX - len(self.payloads):
            raise ValueError(
                f"first must be above done and at most 2^63-1 less the {len(self.payloads)} payloads, "
                f"got first {self.first}, done {self.done}"
            )


@attrs.frozen
class Committed:
    """Transactions of a batch that are committed, side by side in one entry of the log.

    :ivar place: of the first one in its batch, from 0.
    :ivar seq, index: its place in the log.
    :ivar results: one for each of them.
    """

    batch: int = attrs.field(validator=POSITIVE)
    place: int = attrs.field(validator=COUNT)
    seq: int = attrs.field(validator=POSITIVE)
    index: int = attrs.field(validator=COUNT)
    results: tuple[bytes, ...]


@attrs.frozen
class Failed:
    """Transactions of a batch that are not committed, or nobody knows.

    :ivar who: the node ids that the reason speaks of.
    """

    batch: int = attrs.field(validator=POSITIVE)
    places: tuple[int, ...] = attrs.field(validator=COUNTS)
    kind: FailureKind
    reason: str
    who: tuple[int, ...] = ()


# --- queries -----------------------------------------------------------------------------


@attrs.frozen
class GetKeys:
    """The values of some keys of a key-value store; answered by :class:`Values`.

    :ivar linearizable: as of a moment after the question; otherwise what this node has applied.
    """

    query: int = attrs.field(validator=POSITIVE)
    rm: str
    keys: tuple[str, ...]
    linearizable: bool
    timeout_ms: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Value:
    """A key's value; ``version`` is the seq that wrote it, 0 (and no bytes) when it is not there."""

    value: bytes
    version: int = attrs.field(validator=COUNT)


@attrs.frozen
class Values:
    """One for each key that was asked for; ``applied`` is the seq of the state that they are from."""

    query: int = attrs.field(validator=POSITIVE)
    applied: int = attrs.field(validator=COUNT)
    values: tuple[Value, ...]


@attrs.frozen
class ListKeys:
    """The keys that start with ``prefix``, in order, from the first one behind ``after``; answered by :class:`Items`.

    :ivar limit: so many at most.
    """

    query: int = attrs.field(validator=POSITIVE)
    rm: str
    prefix: str
    after: str
    limit: int = attrs.field(validator=POSITIVE)
    linearizable: bool
    timeout_ms: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Item:
    """A key with its value and version."""

    key: str
    value: bytes
    version: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Items:
    """A part of a listing; ``more``: there are further keys behind the last one."""

    query: int = attrs.field(validator=POSITIVE)
    applied: int = attrs.field(validator=COUNT)
    items: tuple[Item, ...]
    more: bool


@attrs.frozen
class AskOutcome:
    """What became of the transaction of that request id, as far as this node has applied the log."""

    query: int = attrs.field(validator=POSITIVE)
    request_id: str


@attrs.frozen
class Outcome:
    """The answer; ``seq`` 0: this node knows of no committed one, which is not a No."""

    query: int = attrs.field(validator=POSITIVE)
    seq: int = attrs.field(validator=COUNT)
    index: int = attrs.field(validator=COUNT)
    result: bytes


@attrs.frozen
class AskStatus:
    """The document behind ``GET /v1/status``; answered by :class:`Status`."""

    query: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Status:
    """JSON."""

    query: int = attrs.field(validator=POSITIVE)
    document: bytes


@attrs.frozen
class Follow:
    """The node's events from now on, or from the first one behind ``after`` that is still kept.

    The ids are the node's own, and begin anew when it is started.
    """

    query: int = attrs.field(validator=POSITIVE)
    after: int | None = None


@attrs.frozen
class Unfollow:
    """No more events for that query."""

    query: int = attrs.field(validator=POSITIVE)


@attrs.frozen
class Event:
    """An event of the node, as JSON; ``missed``: how many right before it are not kept any more."""

    query: int = attrs.field(validator=POSITIVE)
    document: bytes
    missed: int = attrs.field(default=0, validator=COUNT)


@attrs.frozen
class QueryFailed:
    """A query that is not answered, and why."""

    query: int = attrs.field(validator=POSITIVE)
    kind: FailureKind
    reason: str


Query = GetKeys | ListKeys | AskOutcome | AskStatus | Follow
ToNode = Union[ClientHello, Submit, Query, Unfollow, Ping]
ToClient = Union[
    Welcome, Refused, Leaving, Pong, Committed, Failed, Values, Items, Outcome, Status, Event, QueryFailed
]  # fmt: skip
ClientMessage = Union[ToNode, ToClient]

#: The type number of every message of this family; never used again for another one, and none is a peer's.
CLIENT_OPCODES: Final[dict[int, type[ClientMessage]]] = {
    128: ClientHello, 129: Welcome, 130: Refused, 131: Leaving, 132: Ping, 133: Pong,
    140: Submit, 141: Committed, 142: Failed,
    150: GetKeys, 151: Values, 152: ListKeys, 153: Items, 154: AskOutcome, 155: Outcome, 156: AskStatus, 157: Status,
    158: Follow, 159: Unfollow, 160: Event, 161: QueryFailed,
}  # fmt: skip
