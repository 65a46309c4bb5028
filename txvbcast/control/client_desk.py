"""One client's dealings with a node: what it asks, and what it is told.

No sockets and no clock: the port of a real node and the simulator put messages in and take
messages out.  Transactions go to the driver batch by batch and are answered by it batch by
batch (:class:`Batch` is its sink); everything else is :mod:`txvbcast.control.client_queries`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import attrs

from txvbcast.control.client_queries import Queries, QueryNode, kind_of
from txvbcast.control.contracts import Event, EventLog, KeyValues
from txvbcast.control.reading import REQUEST_ID_CHARS_MAX, TIMEOUT_MS_MAX
from txvbcast.errors import SubmissionError
from txvbcast.wire.client_messages import (
    ClientHello,
    ClientMessage,
    Committed,
    Failed,
    FailureKind,
    Leaving,
    NodeLine,
    Ping,
    Pong,
    Query,
    Refused,
    Submit,
    ToClient,
    Unfollow,
    Welcome,
)
from txvbcast.wire.items import Request
from txvbcast.wire.limits import VERSION
from txvbcast.wire.messages import Mode

#: Transactions that may be unanswered on one connection, however many the node may keep pending: twice what keeps a
#: node busy.  More would only wait between client and node, where nobody counts how long.
OUTSTANDING_MAX: Final = 2048

#: The results in one message have about so many bytes at most; the rest follow in the next one.
RESULTS_BYTES_MAX: Final = 4 * 1024 * 1024

#: One result of more bytes is not told.
RESULT_BYTES_MAX: Final = 16 * 1024 * 1024

#: Characters of a client's name for itself.
SESSION_CHARS_MAX: Final = 64

#: How much of a client's own words goes into a text.
_QUOTED_CHARS_MAX: Final = 80

#: How much is said about a request that was wrong: it may quote the request.
_REASON_CHARS_MAX: Final = 400


class ClientNode(QueryNode, Protocol):
    """The driver, as far as clients use it; see there for duties and errors."""

    @property
    def events(self) -> EventLog:
        """What happened in the cluster, as this node saw it."""

    def submit_many(
        self,
        rm: str,
        payloads: Sequence[bytes],
        mode: Mode,
        timeout_s: float,
        requests: Sequence[Request] | None,
        sink: Batch,
    ) -> int:
        """Hand in transactions; each is answered once."""

    def forget(self, ticket: int) -> None:
        """Nobody listens to the answers any more."""


@attrs.frozen
class DeskFacts:
    """What a node says of itself and its cluster, and its bounds.

    :ivar outstanding_max: transactions that may be unanswered on one connection.
    :ivar clients_max: that may be connected.
    :ivar nodes: all nodes of the cluster, given the host by which a client reached this one.
    """

    cluster_id: str
    cluster_name: str
    node_id: int
    payload_bytes_max: int
    outstanding_max: int
    clients_max: int
    nodes: Callable[[str], tuple[NodeLine, ...]]


class Desks:
    """All clients of one node.

    :param key_values: the stores that clients may read.
    """

    def __init__(self, node: ClientNode, key_values: Iterable[KeyValues], facts: DeskFacts) -> None:
        self.node = node
        self.key_values = {each.name: each for each in key_values}
        self.facts = facts
        self.leaving: str = ""  # why the node stops, once it does
        self._open: dict[Desk, None] = {}
        self._unsubscribe = node.events.subscribe(self._on_event)

    def open(self, host: str, say: Callable[[ToClient], None], hang_up: Callable[[], None]) -> Desk:
        """A desk for a client that has come.

        :param host: the address of this node by which it came.
        :param say: sends it a message; may be called in the middle of a call of the desk.
        :param hang_up: ends the connection behind the last message.
        """
        return Desk(self, host, say, hang_up)

    def leave(self, reason: str) -> None:
        """The node stops: tell every client, and let no other one in."""
        self.leaving = reason
        self._unsubscribe()
        self._tell_leaving(reason, 0)

    def enter(self, desk: Desk) -> str:
        """A client has said who it is.  Why it may not stay, empty: it may."""
        if self.leaving:
            return f"{self.leaving}: connect to another one"
        if len(self._open) >= self.facts.clients_max:
            return (
                f"{len(self._open)} clients are connected to this node, and limits.clients allows no more: "
                "connect to another node, or raise it"
            )
        self._open[desk] = None
        return ""

    def gone(self, desk: Desk) -> None:
        """A client has left."""
        self._open.pop(desk, None)

    def serving(self) -> bool:
        """Whether this node takes transactions now."""
        status = self.node.status()
        return bool(status["state"] == "normal" and status["master"] is not None and status["quorum"]["ok"])

    def _on_event(self, event: Event) -> None:
        """First of all clients hear that the node leaves, then those who follow its events."""
        if event["kind"] == "own_standing" and event.get("before") == "normal":
            self._tell_leaving(event["reason"], self._expected_ms())
        for desk in tuple(self._open):
            desk.queries.on_event(event)

    def _expected_ms(self) -> int:
        """How long this node expects to be away, by the absences that are announced."""
        under_way = (
            each["expected_ms"]
            for each in self.node.absences.documents()
            if each["outcome"] is None and each["member"] == self.facts.node_id
        )
        return max(under_way, default=0)

    def _tell_leaving(self, reason: str, expected_ms: int) -> None:
        message = Leaving(reason, expected_ms)
        for desk in tuple(self._open):
            desk.say(message)


class Batch:
    """The answers to one Submit, as the driver gives them: a :class:`txvbcast.driver.Sink`.

    :ivar left: transactions that are not answered yet.
    :ivar ticket: the driver's, 0 until it has given one.
    """

    __slots__ = ("_desk", "_number", "left", "ticket")

    def __init__(self, desk: Desk, number: int, count: int) -> None:
        self._desk = desk
        self._number = number
        self.left = count
        self.ticket = 0

    def committed(self, place: int, seq: int, index: int, results: Sequence[bytes]) -> None:
        """The driver's word: transactions from ``place`` on stand at (seq, index) and behind."""
        if len(results) > 1 and sum(map(len, results)) > RESULTS_BYTES_MAX:
            half = len(results) // 2
            self.committed(place, seq, index, results[:half])
            self.committed(place + half, seq, index + half, results[half:])
            return
        if len(results[0]) > RESULT_BYTES_MAX:
            reason = (
                f"it is committed at seq {seq}, index {index}, but its result has {len(results[0])} bytes, "
                f"and no more than {RESULT_BYTES_MAX} can be told"
            )
            self._desk.say(Failed(self._number, (place,), FailureKind.OUTCOME_UNKNOWN, reason))
        else:
            self._desk.say(Committed(self._number, place, seq, index, tuple(results)))
        self._answered(len(results))

    def failed(self, places: Sequence[int], error: SubmissionError) -> None:
        """The driver's word: these are not committed, or nobody knows."""
        self._desk.say(Failed(self._number, tuple(places), kind_of(error), error.reason, error.who))
        self._answered(len(places))

    def _answered(self, count: int) -> None:
        self.left -= count
        self._desk.answered(self, count)


class Desk:
    """One client's.  Made by :meth:`Desks.open`.

    :ivar session: the client's name for itself, empty until it has said it.
    :ivar program: what it says that it is.
    :ivar closed: nothing is heard or said any more.
    """

    def __init__(self, desks: Desks, host: str, say: Callable[[ToClient], None], hang_up: Callable[[], None]) -> None:
        self.session = ""
        self.program = ""
        self.closed = False
        self.refusal = ""
        self.queries = Queries(desks.node, desks.key_values, self.say)
        self._desks = desks
        self._host = host
        self._say = say
        self._hang_up = hang_up
        self._batches: dict[int, Batch] = {}
        self._outstanding = 0
        self._last_number = {"batch": 0, "query": 0}

    # --- what the connection tells -----------------------------------------------------

    def received(self, message: ClientMessage) -> None:
        """A message has come in."""
        if self.closed:
            return
        kind = type(message)
        if isinstance(message, ClientHello):
            self._on_hello(message)
        elif not self.session:
            self.refuse(f"{kind.__name__} came before ClientHello")
        elif isinstance(message, Submit):
            self._on_submit(message)
        elif isinstance(message, Ping):
            self.say(Pong(message.number))
        elif isinstance(message, Query):
            self._on_query(message)
        elif isinstance(message, Unfollow):
            self.queries.ask(message)
        else:
            self.refuse(f"{kind.__name__} is what a node says to its clients, not the reverse")

    def refuse(self, reason: str) -> None:
        """Say why the connection cannot go on, and end it."""
        if not self.closed:
            self.refusal = reason
            self.say(Refused(reason))
            self.gone()
            self._hang_up()

    def hold(self) -> None:
        """The client does not read as fast as it asks: what would be much to read waits."""
        self.queries.hold()

    def go_on(self) -> None:
        """It has read everything."""
        self.queries.go_on()

    def gone(self) -> None:
        """The connection is no more, or as good as that."""
        if self.closed:
            return
        self.closed = True
        self._desks.gone(self)
        self.queries.close()
        for ticket in self._batches:
            self._desks.node.forget(ticket)
        self._batches.clear()

    # --- inside --------------------------------------------------------------------------

    def say(self, message: ToClient) -> None:
        """Send a message, unless nobody hears it any more."""
        if not self.closed:
            self._say(message)

    def _on_hello(self, hello: ClientHello) -> None:
        reason = "a second ClientHello came on one connection" if self.session else self._objection(hello)
        reason = reason or self._desks.enter(self)
        if reason:
            self.refuse(reason)
            return
        self.session, self.program = hello.session, hello.program[:_QUOTED_CHARS_MAX]
        facts = self._desks.facts
        self.say(
            Welcome(
                version=VERSION,
                cluster_id=facts.cluster_id,
                cluster_name=facts.cluster_name,
                node_id=facts.node_id,
                serving=self._desks.serving(),
                payload_bytes_max=facts.payload_bytes_max,
                outstanding_max=facts.outstanding_max,
                nodes=facts.nodes(self._host),
            )
        )

    def _objection(self, hello: ClientHello) -> str:
        if not hello.version_min <= VERSION <= hello.version_max:
            return (
                f"no common version of the clients' protocol: this node speaks {VERSION}, the client "
                f"{hello.version_min} to {hello.version_max}; use a client library of this node's release"
            )
        facts = self._desks.facts
        if hello.cluster_id not in ("", facts.cluster_id):
            return (
                f"this node belongs to cluster {facts.cluster_id!r} (name {facts.cluster_name!r}), the client wants "
                f"{hello.cluster_id[:_QUOTED_CHARS_MAX]!r}: correct the address, or the cluster_id that it is given"
            )
        if not 1 <= len(hello.session) <= SESSION_CHARS_MAX:
            return f"the session in ClientHello has {len(hello.session)} characters, 1 to {SESSION_CHARS_MAX} may be"
        return ""

    def _is_new(self, what: str, number: int) -> bool:
        """Whether a batch or query has a number of its own; an end is made of the connection if not."""
        last = self._last_number[what]
        if number <= last:
            self.refuse(f"{what} {number} came after {what} {last}: each has a higher number than the one before")
            return False
        self._last_number[what] = number
        return True

    def _on_query(self, query: Query) -> None:
        if self._is_new("query", query.query):
            self.queries.ask(query)

    def _on_submit(self, wanted: Submit) -> None:
        if not self._is_new("batch", wanted.batch):
            return
        count = len(wanted.payloads)
        outstanding_max = self._desks.facts.outstanding_max
        if self._outstanding + count > outstanding_max:
            self._fail(
                wanted,
                FailureKind.OVERLOADED,
                f"{self._outstanding} transactions are unanswered on this connection, and with these {count} it "
                f"would be more than the {outstanding_max} that may",
            )
            return
        batch = Batch(self, wanted.batch, count)
        self._outstanding += count
        try:
            batch.ticket = self._submit(wanted, batch)
        except ValueError as error:
            self._outstanding -= count
            self._fail(wanted, FailureKind.BAD_REQUEST, str(error)[:_REASON_CHARS_MAX])
            return
        if not batch.left:
            return
        if self.closed:
            self._desks.node.forget(batch.ticket)
        else:
            self._batches[batch.ticket] = batch

    def _submit(self, wanted: Submit, batch: Batch) -> int:
        if wanted.timeout_ms > TIMEOUT_MS_MAX:
            raise ValueError(f"the timeout is {wanted.timeout_ms} ms, at most {TIMEOUT_MS_MAX} may be")
        return self._desks.node.submit_many(
            wanted.rm, wanted.payloads, wanted.mode, wanted.timeout_ms / 1000, self._requests(wanted), batch
        )

    def _requests(self, wanted: Submit) -> list[Request]:
        names = wanted.request_ids
        if names is None:
            session, first, done = self.session, wanted.first, wanted.done
            return [Request(session, number, done) for number in range(first, first + len(wanted.payloads))]
        lengths = tuple(map(len, names))
        if lengths and not 1 <= min(lengths) <= max(lengths) <= REQUEST_ID_CHARS_MAX:
            raise ValueError(f"a request id has 1 to {REQUEST_ID_CHARS_MAX} characters; here is one that has not")
        return list(map(Request.parse, names))

    def _fail(self, wanted: Submit, kind: FailureKind, reason: str) -> None:
        self.say(Failed(wanted.batch, tuple(range(len(wanted.payloads))), kind, reason))

    def answered(self, batch: Batch, count: int) -> None:
        """So many transactions of a batch have their answer."""
        self._outstanding -= count
        if not batch.left:
            self._batches.pop(batch.ticket, None)
