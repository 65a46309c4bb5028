"""Questions that are not answered yet, and the events that are followed.

A question changes nothing, so it is simply asked again when the client changes over to another
node; the first answer counts.

**Events.**  Every node numbers what it sees by itself, and begins anew when it starts.  So whoever
follows events goes on, after a change, with everything that the other node keeps and that
happened later than the last one heard, by the clocks of the nodes' walls; events of the last
moment before may then be told twice, by two nodes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Union, cast

import attrs

from txvbcast.client import effects
from txvbcast.client.effects import Effect, Send, TellAnswer, TellEvent, TellQueryFailed
from txvbcast.client.failures import Failure
from txvbcast.errors import RemoteProtocolError
from txvbcast.wire import client_messages as wire
from txvbcast.wire.client_messages import FailureKind

if TYPE_CHECKING:
    from txvbcast.client.links import Link

#: Questions that may be unanswered.
QUERIES_MAX: Final = 1024
#: By how much the clocks of two nodes may differ without an event being lost when a client changes over.
CLOCKS_DIFFER_S: Final = 1.0

Question = Union[wire.GetKeys, wire.ListKeys, wire.AskOutcome, wire.AskStatus]


@attrs.define(eq=False)
class Query:
    """A question, or a wish to follow events.

    :ivar begun: it was sent to a node.
    :ivar asked: on how many links it waits for an answer.
    :ivar told_by: who told the last event, 0 while none was told.
    :ivar told_s: when that happened; until then, when the user began to follow.
    :ivar resuming: what comes may be older than that.
    """

    ticket: int
    message: Question | wire.Follow
    deadline_s: float | None
    begun: bool = False
    asked: int = 0
    told_by: int = 0
    told_s: float = 0.0
    resuming: bool = False

    @property
    def awaited(self) -> bool:
        """Whether the node owes an answer."""
        return self.deadline_s is not None


class Queries:
    """All questions of a client, and what it follows.

    :param out: where effects go.
    """

    def __init__(self, out: list[Effect]) -> None:
        self._out = out
        self._open: dict[int, Query] = {}
        self._number = 0

    def ask(self, now_s: float, ticket: int, message: Question, timeout_s: float, link: Link | None) -> None:
        """Ask, now or as soon as a node is there."""
        if len(self._open) >= QUERIES_MAX:
            reason = f"{len(self._open)} queries of this client are not answered yet"
            self._out.append(TellQueryFailed(ticket, Failure(FailureKind.OVERLOADED, reason)))
            return
        self._begin(now_s, Query(ticket, message, now_s + timeout_s), link)

    def follow(self, now_s: float, wall_s: float, ticket: int, after: int | None, link: Link | None) -> None:
        """Follow events until ``forget``."""
        told_s = wall_s if after is None else 0.0
        self._begin(now_s, Query(ticket, wire.Follow(1, after), None, told_s=told_s), link)

    def _begin(self, now_s: float, query: Query, link: Link | None) -> None:
        self._open[query.ticket] = query
        if link is not None:
            self._send(now_s, query, link)

    def _send(self, now_s: float, query: Query, link: Link) -> None:
        self._number += 1
        message: Any = attrs.evolve(query.message, query=self._number)
        if query.deadline_s is not None and hasattr(message, "timeout_ms"):
            message = attrs.evolve(message, timeout_ms=max(1, round(1000 * (query.deadline_s - now_s))))
        if query.awaited and link.idle:
            link.busy_s = now_s
        query.begun = True
        query.asked += 1
        link.queries[self._number] = query
        self._out.append(Send(link.number, message))

    def forget(self, ticket: int, link: Link | None) -> None:
        """Nobody listens any more."""
        query = self._open.pop(ticket, None)
        if query is not None and link is not None:
            self._unfollow(link, query)

    def _unfollow(self, link: Link, *unwanted: Query) -> None:
        """Let the node tell no more events to these."""
        for number, query in tuple(link.queries.items()):
            if query in unwanted and not query.awaited:
                del link.queries[number]
                self._out.append(Send(link.number, wire.Unfollow(number)))

    # --- links come and go -----------------------------------------------------------------------

    def use(self, now_s: float, link: Link) -> None:
        """This link is in use from now on."""
        for query in self._open.values():
            if isinstance(query.message, wire.Follow) and (query.begun or query.message.after is None):
                query.message = wire.Follow(1, 0)
                query.resuming = True
            self._send(now_s, query, link)

    def leave(self, link: Link) -> None:
        """This link is not in use any more: answers to questions still count, events will come from elsewhere."""
        self._unfollow(link, *link.queries.values())

    def on_lost(self, link: Link) -> None:
        """This link answers nothing any more."""
        for query in link.queries.values():
            query.asked -= 1
        link.queries.clear()

    # --- what nodes answer -----------------------------------------------------------------------

    def on_answer(self, link: Link, message: effects.Answer) -> None:
        """The answer to a question."""
        query = link.queries.pop(message.query, None)
        if query is not None and self._open.pop(query.ticket, None) is not None:
            self._out.append(TellAnswer(query.ticket, message))

    def on_failed(self, link: Link, message: wire.QueryFailed) -> None:
        """A question that this node does not answer; another one may."""
        query = link.queries.pop(message.query, None)
        if query is None:
            return
        query.asked -= 1
        if query.asked == 0 and self._open.pop(query.ticket, None) is not None:
            self._out.append(TellQueryFailed(query.ticket, Failure(message.kind, message.reason)))

    def on_event(self, link: Link, message: wire.Event) -> None:
        """Something happened.

        :raises RemoteProtocolError: it is not told in the way that was agreed on.
        """
        query = link.queries.get(message.query)
        if query is None:
            return
        event = _event(link, message)
        if query.resuming and not _is_new(event, query):
            return
        query.resuming = False
        query.told_by, query.told_s = event.told_by, event.time_s
        self._out.append(TellEvent(query.ticket, event))

    # --- time --------------------------------------------------------------------------------------

    def next_s(self) -> float | None:
        """When to look again."""
        return min((query.deadline_s for query in self._open.values() if query.deadline_s is not None), default=None)

    def on_time(self, now_s: float) -> None:
        """Give up what is late."""
        late = [query for query in self._open.values() if query.deadline_s is not None and now_s >= query.deadline_s]
        for query in late:
            self._fail(query, "no node has answered in time")

    def close(self, reason: str) -> None:
        """Tell everybody."""
        for query in tuple(self._open.values()):
            self._fail(query, reason)

    def _fail(self, query: Query, reason: str) -> None:
        del self._open[query.ticket]
        self._out.append(TellQueryFailed(query.ticket, Failure(FailureKind.NO_QUORUM, reason)))


def _event(link: Link, message: wire.Event) -> effects.Event:
    try:
        document = cast(dict[str, Any], json.loads(message.document))
        return effects.Event(
            link.node_id, document["id"], document["time_s"], document["kind"], document, message.missed
        )
    except (ValueError, TypeError, KeyError) as error:
        raise RemoteProtocolError(f"node {link.node_id} tells an event that is none: {error!r}") from error


def _is_new(event: effects.Event, query: Query) -> bool:
    """Whether it happened after the last event that was told."""
    overlap_s = 0.0 if event.told_by == query.told_by else CLOCKS_DIFFER_S
    return event.time_s > query.told_s - overlap_s
