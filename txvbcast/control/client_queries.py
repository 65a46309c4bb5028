"""What a client asks besides transactions: keys, outcomes, the status, events.

An answer can be much larger than its question.  So while a client does not read, no query is
answered: the questions wait here, of which there is a bounded number, and are answered from
what is true when the client goes on reading.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, Final, Protocol

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from txvbcast import errors
from txvbcast.control import contracts
from txvbcast.control.reading import TIMEOUT_MS_MAX
from txvbcast.wire import client_messages as m
from txvbcast.wire.client_messages import FailureKind, ToClient

#: Queries that may be unanswered on one connection.
QUERIES_MAX: Final = 1024

#: Queries that may follow the events on one connection.
FOLLOWERS_MAX: Final = 16

#: Keys of one query.
KEYS_MAX: Final = 10_000

#: The values in one answer have about so many bytes at most.
ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024

#: How much of a client's own words goes into a text.
_QUOTED_CHARS_MAX: Final = 80

_KINDS: Final[dict[type[errors.SubmissionError], FailureKind]] = {
    errors.Aborted: FailureKind.ABORTED,
    errors.OutcomeUnknown: FailureKind.OUTCOME_UNKNOWN,
    errors.Overloaded: FailureKind.OVERLOADED,
    errors.NoQuorum: FailureKind.NO_QUORUM,
}


def kind_of(error: errors.SubmissionError) -> FailureKind:
    """The word on the wire for the class of ``error``."""
    return _KINDS[type(error)]


class QueryNode(Protocol):
    """The driver, as far as queries use it; see there for duties and errors."""

    @property
    def applied(self) -> int:
        """The last seq that this node has performed."""

    @property
    def events(self) -> contracts.EventLog:
        """What happened in the cluster, as this node saw it."""

    @property
    def absences(self) -> contracts.Absences:
        """The absences announced here."""

    def outcome(self, request_id: str) -> errors.Committed | None:
        """What became of a transaction with that ``request_id``, if it is known."""

    def read_barrier(self, timeout_s: float = 5.0) -> Deferred[int]:
        """Fires when a read here is linearizable."""

    def status(self) -> dict[str, Any]:
        """What ``GET /v1/status`` shows."""


class _BadRequest(Exception):
    """The query cannot be answered, whoever is asked; the text says why."""


class Queries:
    """Those of one connection.

    :param say: sends an answer; :meth:`hold` may be called in the middle of it.
    """

    def __init__(
        self, node: QueryNode, key_values: Mapping[str, contracts.KeyValues], say: Callable[[ToClient], None]
    ) -> None:
        self._node = node
        self._key_values = key_values
        self._say = say
        self._held = False
        self._barriers: dict[int, Deferred[int]] = {}
        self._due: deque[Any] = deque()  # those that could be answered, if the client read
        self._followers: dict[int, int] = {}  # query -> the last event that it was told of
        self._answers: dict[type, Callable[[Any], ToClient | None]] = {
            m.GetKeys: self._get_keys,
            m.ListKeys: self._list_keys,
            m.AskOutcome: self._ask_outcome,
            m.AskStatus: self._ask_status,
            m.Follow: self._follow,
            m.Unfollow: self._unfollow,
        }

    # --- what the desk tells ---------------------------------------------------------------

    def ask(self, query: Any) -> None:
        """Answer ``query``, now or later."""
        if len(self._barriers) + len(self._due) >= QUERIES_MAX:
            reason = f"{QUERIES_MAX} queries are unanswered on this connection, more may not be"
            self._say(m.QueryFailed(query.query, FailureKind.OVERLOADED, reason))
        elif isinstance(query, m.GetKeys | m.ListKeys) and query.timeout_ms > TIMEOUT_MS_MAX:
            reason = f"the timeout is {query.timeout_ms} ms, at most {TIMEOUT_MS_MAX} may be"
            self._say(m.QueryFailed(query.query, FailureKind.BAD_REQUEST, reason))
        elif isinstance(query, m.GetKeys | m.ListKeys) and query.linearizable:
            self._wait(query)
        else:
            self._ready(query)

    def hold(self) -> None:
        """Answer nothing for now."""
        self._held = True

    def go_on(self) -> None:
        """Answer what has become due, and whatever comes, until :meth:`hold`."""
        self._held = False
        while self._due and not self._held:
            self._answer(self._due.popleft())
        for query in tuple(self._followers):
            self._tell_events(query)

    def on_event(self, event: contracts.Event) -> None:
        """Something happened on the node."""
        for query in tuple(self._followers):
            self._tell_events(query, event)

    def close(self) -> None:
        """Nobody waits for an answer any more."""
        self._held = True
        self._followers.clear()
        self._due.clear()
        for barrier in tuple(self._barriers.values()):
            barrier.cancel()

    # --- when a query is answered ----------------------------------------------------------

    def _wait(self, query: Any) -> None:
        """First let the node apply what was committed before the question."""
        barrier = self._node.read_barrier(query.timeout_ms / 1000)
        self._barriers[query.query] = barrier
        barrier.addCallbacks(self._passed, self._not_passed, (query,), errbackArgs=(query,))

    def _passed(self, applied: int, query: Any) -> None:
        del self._barriers[query.query]
        self._ready(query)

    def _not_passed(self, failure: Failure, query: Any) -> None:
        del self._barriers[query.query]
        if failure.check(CancelledError):
            return
        error = failure.value
        assert isinstance(error, errors.SubmissionError)
        self._say(m.QueryFailed(query.query, kind_of(error), error.reason))

    def _ready(self, query: Any) -> None:
        if self._held:
            self._due.append(query)
        else:
            self._answer(query)

    def _answer(self, query: Any) -> None:
        try:
            answer = self._answers[type(query)](query)
        except _BadRequest as error:
            answer = m.QueryFailed(query.query, FailureKind.BAD_REQUEST, str(error))
        if answer is not None:
            self._say(answer)

    # --- keys and values -------------------------------------------------------------------

    def _store(self, name: str) -> contracts.KeyValues:
        store = self._key_values.get(name)
        if store is None:
            known = ", ".join(self._key_values) or "none"
            raise _BadRequest(
                f"no key-value store of this node is named {name[:_QUOTED_CHARS_MAX]!r}; there are: {known}"
            )
        return store

    def _get_keys(self, query: m.GetKeys) -> ToClient:
        if len(query.keys) > KEYS_MAX:
            raise _BadRequest(f"the query names {len(query.keys)} keys, at most {KEYS_MAX} may be: ask in parts")
        get = self._store(query.rm).get
        found = [get(key) or (b"", 0) for key in query.keys]
        total_bytes = sum(len(value) for value, _ in found)
        if total_bytes > ANSWER_BYTES_MAX and len(found) > 1:
            raise _BadRequest(
                f"the values have {total_bytes} bytes, an answer of more than one holds {ANSWER_BYTES_MAX}: "
                "ask for fewer keys at a time"
            )
        return m.Values(query.query, self._node.applied, tuple(m.Value(*each) for each in found))

    def _list_keys(self, query: m.ListKeys) -> ToClient:
        listed = self._store(query.rm).items(query.prefix)
        at = start = bisect_right(listed, query.after, key=itemgetter(0)) if query.after else 0
        end = min(len(listed), start + min(query.limit, KEYS_MAX))
        room_bytes = ANSWER_BYTES_MAX
        while at < end and (room_bytes > 0 or at == start):
            room_bytes -= len(listed[at][1])
            at += 1
        items = tuple(m.Item(*each) for each in listed[start:at])
        return m.Items(query.query, self._node.applied, items, more=at < len(listed))

    # --- outcomes and status ---------------------------------------------------------------

    def _ask_outcome(self, query: m.AskOutcome) -> ToClient:
        found = self._node.outcome(query.request_id)
        if found is None:
            return m.Outcome(query.query, 0, 0, b"")
        if len(found.result) > ANSWER_BYTES_MAX:
            raise _BadRequest(
                f"it is committed at seq {found.seq}, index {found.index}, but its result has {len(found.result)} "
                f"bytes, and no more than {ANSWER_BYTES_MAX} can be told"
            )
        return m.Outcome(query.query, found.seq, found.index, found.result)

    def _ask_status(self, query: m.AskStatus) -> ToClient:
        return m.Status(query.query, msgspec.json.encode(self._node.status()))

    # --- events ----------------------------------------------------------------------------

    def _follow(self, query: m.Follow) -> ToClient | None:
        if len(self._followers) >= FOLLOWERS_MAX:
            raise _BadRequest(f"{FOLLOWERS_MAX} queries follow the events on this connection: end one first")
        newest = self._node.events.newest_id
        self._followers[query.query] = newest if query.after is None else max(0, query.after)
        self._tell_events(query.query)
        return None

    def _unfollow(self, query: m.Unfollow) -> ToClient | None:
        self._followers.pop(query.query, None)
        return None

    def _tell_events(self, query: int, latest: contracts.Event | None = None) -> None:
        """Tell a follower what it has not heard yet; ``latest`` saves the look into the log."""
        if self._held:
            return
        log, told = self._node.events, self._followers[query]
        if latest is not None and latest["id"] == told + 1:
            self._tell(query, latest, 0)
            return
        if told > log.newest_id:  # the number is of an earlier life of this node
            told = 0
        missed = max(0, log.oldest_id - told - 1)
        for event in log.since(told):
            if self._held or query not in self._followers:
                return
            self._tell(query, event, missed)
            missed = 0

    def _tell(self, query: int, event: contracts.Event, missed: int) -> None:
        self._followers[query] = event["id"]
        self._say(m.Event(query, msgspec.json.encode(event), missed))
