"""The client for programs that run Twisted's reactor."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from txvbcast.client import answers, effects
from txvbcast.client.answers import KeyValue, Outcomes
from txvbcast.client.effects import Effect, Event
from txvbcast.client.failures import Failure, Unreachable
from txvbcast.client.followers import Waiting
from txvbcast.client.queries import Question
from txvbcast.client.session import PATIENCE_S, Session
from txvbcast.errors import Committed, NoQuorum, RemoteProtocolError, SubmissionError
from txvbcast.turns import send
from txvbcast.wire import client_messages as wire
from txvbcast.wire.codec import CLIENTS, FrameDecoder, encode_frame
from txvbcast.wire.kv import KvResult, decode_result, delete_payload, put_payload
from txvbcast.wire.messages import Mode

log = Logger()

#: How long ``connect`` tries.
CONNECT_S: Final = 10.0
_CLOSED: Final = "the client is closed"


def connect(
    *endpoints: str,
    reactor: Any = None,
    patience: float = PATIENCE_S,
    cluster_id: str = "",
    timeout: float = CONNECT_S,
    program: str = "",
) -> Deferred[Client]:
    """Connect to a cluster.

    :param endpoints: client endpoint strings of Twisted, of one node or more, the best one first; the nodes tell of
        the others.
    :param reactor: by default the one that is installed.
    :param patience: how long a node may be silent while something is unanswered, in seconds.
    :param cluster_id: refuse nodes of another cluster.
    :param timeout: for how long to try.
    :return: fails with :class:`~txvbcast.client.failures.Unreachable`.
    :raises ValueError: no endpoint, or one that cannot be understood.
    """
    if reactor is None:
        from twisted.internet import reactor as installed

        reactor = installed
    for endpoint in endpoints:
        clientFromString(reactor, endpoint)
    session = Session(endpoints, secrets.token_urlsafe(16), patience_s=patience, cluster_id=cluster_id, program=program)
    return Client(reactor, session).start(timeout)


class _Link(Protocol):
    """One connection to a node."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self._number = number
        self._decoder = FrameDecoder(family=CLIENTS)

    def connectionMade(self) -> None:
        """Twisted's: the connection stands."""
        tcp: Any = self.transport
        if hasattr(tcp, "setTcpNoDelay"):  # a unix socket has none
            tcp.setTcpNoDelay(True)
        self._client.on_opened(self._number, self)

    def dataReceived(self, data: bytes) -> None:
        """Twisted's: bytes, cut anyhow."""
        self._client.on_data(self._number, self._decoder, data)

    def connectionLost(self, reason: TwistedFailure = connectionDone) -> None:
        """Twisted's: the connection is gone."""
        self._client.on_lost(self._number, f"connection lost: {reason.getErrorMessage()}")

    def send(self, message: wire.ToNode) -> None:
        """Write a message, at once: what is submitted one by one has been gathered before."""
        send(self.transport, encode_frame(message))

    def hang_up(self) -> None:
        """Close the connection, when what was written has left."""
        tcp: Any = self.transport
        tcp.abortConnection()


@attrs.define(eq=False)
class _Gathered:
    """Transactions that were submitted one by one in one turn of the reactor.

    :ivar waiting: whom to tell, by place.
    """

    rm: str
    mode: Mode
    timeout_s: float
    payloads: list[bytes] = attrs.field(factory=list)
    request_ids: list[str] = attrs.field(factory=list)
    waiting: list[Deferred[Committed]] = attrs.field(factory=list)

    def on_committed(self, told: effects.TellCommitted) -> None:
        """Some are committed."""
        place, seq, index = told.place, told.seq, told.index
        for offset, result in enumerate(told.results):
            _answer(self.waiting[place + offset], Committed(seq, index + offset, result))

    def on_failed(self, told: effects.TellFailed) -> None:
        """Some failed."""
        names: Sequence[str | None] = told.request_ids or (None,) * len(told.places)
        for place, name in zip(told.places, names, strict=True):
            _answer(self.waiting[place], told.failure.error(name))


@attrs.define(eq=False)
class _Many:
    """Transactions that were submitted together."""

    outcomes: Outcomes
    deferred: Deferred[Outcomes]

    def on_committed(self, told: effects.TellCommitted) -> None:
        """Some are committed."""
        self.outcomes.on_committed(told)
        self._look()

    def on_failed(self, told: effects.TellFailed) -> None:
        """Some failed."""
        self.outcomes.on_failed(told)
        self._look()

    def _look(self) -> None:
        if self.outcomes.complete and not self.deferred.called:
            self.deferred.callback(self.outcomes)


def _answer(deferred: Deferred[Any], answer: object) -> None:
    """Fire it, unless its user has cancelled it."""
    if deferred.called:
        return
    if isinstance(answer, Exception):
        deferred.errback(answer)
    else:
        deferred.callback(answer)


class Events:
    """Events as they come, for ``async for``; :meth:`Client.events` makes it.

    Ends when the client is closed.
    """

    def __init__(self, on_close: Callable[[], None]) -> None:
        self._on_close = on_close
        self._waiting = Waiting()
        self._next: Deferred[None] | None = None

    def close(self) -> None:
        """Follow no longer.  To leave the loop does not do it."""
        self._on_close()
        self.end(NoQuorum(_CLOSED))

    def add(self, event: Event) -> None:
        """The client's: one more."""
        self._waiting.add(event)
        self._wake()

    def end(self, error: SubmissionError) -> None:
        """The client's: there will be no more."""
        self._waiting.error = self._waiting.error or error
        self._wake()

    def _wake(self) -> None:
        waking, self._next = self._next, None
        if waking is not None:
            _answer(waking, None)

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        while True:
            try:
                event = self._waiting.take()
            except SubmissionError as error:
                if error.reason == _CLOSED:
                    raise StopAsyncIteration from None
                raise
            if event is not None:
                return event
            self._next = Deferred()
            await self._next


class Client:
    """A client of a cluster; :func:`connect` makes it.

    Everything that waits for a node is a Deferred, which fails with one of the
    :class:`~txvbcast.errors.SubmissionError`; to cancel it is to stop listening, not to undo.
    """

    def __init__(self, reactor: Any, session: Session) -> None:
        self._reactor = reactor
        self._session = session
        self._tickets = itertools.count(1)
        self._dials: dict[int, Deferred[Any]] = {}
        self._links: dict[int, _Link] = {}
        self._timer: IDelayedCall | None = None
        self._turn: IDelayedCall | None = None
        self._gathering: dict[tuple[str, Mode, float, bool], _Gathered] = {}
        self._submissions: dict[int, _Gathered | _Many] = {}
        self._unanswered: dict[int, int] = {}
        self._queries: dict[int, Deferred[Any]] = {}
        self._followers: dict[int, Events] = {}
        self._connecting: Deferred[Client] | None = None
        self._closed = False
        self._effects: deque[Effect] = deque()
        self._busy = False
        self._do: dict[type, Callable[[Any], None]] = {
            effects.Dial: self._dial,
            effects.HangUp: self._hang_up,
            effects.Send: lambda effect: self._links[effect.link].send(effect.message),
            effects.SetTimer: self._set_timer,
            effects.Using: self._using,
            effects.AllRefused: lambda effect: self._cannot_connect(effect.reason),
            effects.TellCommitted: self._tell_committed,
            effects.TellFailed: self._tell_failed,
            effects.TellAnswer: lambda effect: self._tell(effect.ticket, effect.answer),
            effects.TellQueryFailed: self._tell_query_failed,
            effects.TellEvent: self._tell_event,
        }

    def start(self, timeout_s: float) -> Deferred[Client]:
        """Begin to connect; fires when a node has taken this client."""
        deferred: Deferred[Client] = Deferred(lambda _: self._hang_up_all())
        self._connecting = deferred
        late = self._reactor.callLater(timeout_s, lambda: self._cannot_connect(self._session.problems()))
        deferred.addBoth(_passing(lambda: late.cancel() if late.active() else None))
        self._carry_out(self._session.start(self._reactor.seconds()))
        return deferred

    @property
    def node_id(self) -> int:
        """The node in use, 0 when there is none now."""
        return self._session.node_id

    @property
    def cluster_id(self) -> str:
        """The cluster's id."""
        return self._session.cluster_id

    @property
    def session(self) -> str:
        """This client's name in request ids, which are ``session#number``, with numbers from 1."""
        return self._session.name

    def close(self) -> Deferred[None]:
        """Hang up; whoever waits hears that the outcome is unknown.  Fires when that is done."""
        self._hang_up_all()
        done: Deferred[None] = Deferred()
        self._reactor.callLater(0, done.callback, None)
        return done

    def _hang_up_all(self) -> None:
        if self._closed:
            return
        self._flush()
        self._closed = True
        self._carry_out(self._session.close(self._reactor.seconds(), _CLOSED))
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # --- transactions ----------------------------------------------------------------------------

    def submit(
        self,
        rm: str,
        payload: bytes,
        mode: Mode | str = Mode.BROADCAST,
        timeout: float = 5.0,
        request_id: str | None = None,
    ) -> Deferred[Committed]:
        """Have every node perform a transaction, or none.

        What is submitted within one turn of the reactor leaves in one message.

        :param timeout: in seconds.
        :param request_id: a name under which it takes effect once, whichever client submits it how often.
        :return: fails with Aborted, OutcomeUnknown (whose ``request_id`` names it), Overloaded, NoQuorum or BadRequest.
        :raises ValueError: no such mode, a timeout that is not positive.
        """
        if not timeout > 0:
            raise ValueError(f"the timeout must be positive, got {timeout}")
        if self._closed:
            return fail(NoQuorum(_CLOSED))
        key = (rm, answers.mode_of(mode), timeout, request_id is not None)
        gathered = self._gathering.get(key)
        if gathered is None:
            gathered = self._gathering[key] = _Gathered(rm, key[1], timeout)
            if self._turn is None:
                self._turn = self._reactor.callLater(0, self._flush)
        deferred: Deferred[Committed] = Deferred()
        gathered.payloads.append(payload)
        gathered.waiting.append(deferred)
        if request_id is not None:
            gathered.request_ids.append(request_id)
        return deferred

    def _flush(self) -> None:
        """The turn is over, or something follows that must not come first: hand in what has gathered."""
        turn, self._turn = self._turn, None
        if turn is not None and turn.active():
            turn.cancel()
        gathering, self._gathering = self._gathering, {}
        for gathered in gathering.values():
            names = gathered.request_ids or None
            try:
                self._submit(gathered, gathered.rm, gathered.payloads, gathered.mode, gathered.timeout_s, names)
            except ValueError as error:
                refused = Failure(wire.FailureKind.BAD_REQUEST, str(error))
                gathered.on_failed(effects.TellFailed(0, tuple(range(len(gathered.payloads))), refused))

    def submit_many(
        self,
        rm: str,
        payloads: Sequence[bytes],
        mode: Mode | str = Mode.BROADCAST,
        timeout: float = 5.0,
        request_ids: Sequence[str] | None = None,
    ) -> Deferred[Outcomes]:
        """The same for many, each on its own; fires once all are answered, and fails only if the client is closed.

        :raises ValueError: nothing to submit, no such mode, a timeout that is not positive, a payload above the limit.
        """
        self._flush()
        if self._closed:
            return fail(NoQuorum(_CLOSED))
        deferred: Deferred[Outcomes] = Deferred()
        many = _Many(Outcomes(len(payloads)), deferred)
        self._submit(many, rm, payloads, answers.mode_of(mode), timeout, request_ids)
        return deferred

    def _submit(
        self,
        whom: _Gathered | _Many,
        rm: str,
        payloads: Sequence[bytes],
        mode: Mode,
        timeout_s: float,
        request_ids: Sequence[str] | None,
    ) -> None:
        ticket = next(self._tickets)
        wanted = self._session.submit(self._reactor.seconds(), ticket, rm, payloads, mode, timeout_s, request_ids)
        self._submissions[ticket] = whom
        self._unanswered[ticket] = len(payloads)
        self._carry_out(wanted)

    def _tell_committed(self, effect: effects.TellCommitted) -> None:
        whom = self._submissions[effect.ticket]
        self._count(effect.ticket, len(effect.results))
        whom.on_committed(effect)

    def _tell_failed(self, effect: effects.TellFailed) -> None:
        whom = self._submissions[effect.ticket]
        self._count(effect.ticket, len(effect.places))
        whom.on_failed(effect)

    def _count(self, ticket: int, answered: int) -> None:
        self._unanswered[ticket] -= answered
        if not self._unanswered[ticket]:
            del self._unanswered[ticket], self._submissions[ticket]

    # --- keys and values -----------------------------------------------------------------------------

    async def put(
        self,
        key: str,
        value: bytes,
        if_version: int | None = None,
        mode: Mode | str = Mode.BROADCAST,
        timeout: float = 5.0,
        rm: str = "kv",
    ) -> KvResult:
        """Set a key; with ``if_version`` only if the key has that version, 0 for "is not there".

        :return: whose ``ok`` is False when the version was another one.
        """
        committed = await self.submit(rm, put_payload(key, value, if_version), mode, timeout)
        return decode_result(committed.result)

    async def delete(
        self,
        key: str,
        if_version: int | None = None,
        mode: Mode | str = Mode.BROADCAST,
        timeout: float = 5.0,
        rm: str = "kv",
    ) -> KvResult:
        """Remove a key, under the same condition."""
        committed = await self.submit(rm, delete_payload(key, if_version), mode, timeout)
        return decode_result(committed.result)

    async def get(
        self, key: str, consistency: str = "linearizable", timeout: float = 5.0, rm: str = "kv"
    ) -> KeyValue | None:
        """A key's value, None if there is no such key.

        :param consistency: ``linearizable``: it sees every write that was answered before; ``local``: what the node
            in use has performed.
        """
        return answers.key_value(await self._ask(answers.get_keys(rm, key, consistency), timeout))

    async def items(
        self, prefix: str = "", consistency: str = "linearizable", timeout: float = 5.0, rm: str = "kv"
    ) -> list[wire.Item]:
        """Keys, values and versions of all keys that start with ``prefix``, in order.

        A long listing comes in parts, each of its own moment.
        """
        found: list[wire.Item] = []
        after, more = "", True
        while more:
            part: wire.Items = await self._ask(answers.list_keys(rm, prefix, after, consistency), timeout)
            found.extend(part.items)
            more = part.more
            after = found[-1].key if found else ""
        return found

    # --- questions -----------------------------------------------------------------------------------

    async def outcome(self, request_id: str, timeout: float = 5.0) -> Committed | None:
        """What became of a transaction, as far as the node in use knows; None is not a No."""
        return answers.committed_or_none(await self._ask(wire.AskOutcome(1, request_id), timeout))

    async def status(self, timeout: float = 5.0) -> dict[str, Any]:
        """What the node in use says of itself and of the cluster, as ``GET /v1/status``."""
        return answers.status_document(await self._ask(wire.AskStatus(1), timeout))

    def _ask(self, message: Question, timeout_s: float) -> Deferred[Any]:
        if self._closed:
            return fail(NoQuorum(_CLOSED))
        ticket = next(self._tickets)
        deferred: Deferred[Any] = Deferred(lambda _: self._forget(ticket))
        self._queries[ticket] = deferred
        self._carry_out(self._session.ask(self._reactor.seconds(), ticket, message, timeout_s))
        return deferred

    def _forget(self, ticket: int) -> None:
        self._queries.pop(ticket, None)
        self._carry_out(self._session.forget(self._reactor.seconds(), ticket))

    def _tell(self, ticket: int, answer: object) -> None:
        deferred = self._queries.pop(ticket, None)
        if deferred is not None:
            _answer(deferred, answer)

    def _tell_query_failed(self, effect: effects.TellQueryFailed) -> None:
        follower = self._followers.pop(effect.ticket, None)
        if follower is not None:
            follower.end(effect.failure.error())
        else:
            self._tell(effect.ticket, effect.failure.error())

    # --- events ------------------------------------------------------------------------------------------

    def events(self, after: int | None = None) -> Events:
        """What happens in the cluster, from now on; goes on by itself when the client changes over.

        :param after: begin with the first event that the node in use has numbered higher; 0: with all that it keeps.
        """
        ticket = next(self._tickets)
        events = self._followers[ticket] = Events(lambda: self._unfollow(ticket))
        if self._closed:
            events.end(NoQuorum(_CLOSED))
        else:
            self._carry_out(self._session.follow(self._reactor.seconds(), time.time(), ticket, after))
        return events

    def _tell_event(self, effect: effects.TellEvent) -> None:
        follower = self._followers.get(effect.ticket)
        if follower is not None:  # else it was closed by whoever was told something just before
            follower.add(effect.event)

    def _unfollow(self, ticket: int) -> None:
        if self._followers.pop(ticket, None) is not None:
            self._carry_out(self._session.forget(self._reactor.seconds(), ticket))

    # --- what the session wants ------------------------------------------------------------------------

    def _carry_out(self, wanted: list[Effect]) -> None:
        self._effects.extend(wanted)
        if self._busy:
            return  # somebody who was just told something wants something: in its turn
        self._busy = True
        try:
            while self._effects:
                effect = self._effects.popleft()
                self._do[type(effect)](effect)
        finally:
            self._busy = False

    def _set_timer(self, effect: effects.SetTimer) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        delay_s = max(0.0, effect.at_s - self._reactor.seconds())
        self._timer = self._reactor.callLater(delay_s, self._due)

    def _due(self) -> None:
        self._carry_out(self._session.due(self._reactor.seconds()))

    def _using(self, effect: effects.Using) -> None:
        log.info("node in use: {node_id}", node_id=effect.node_id or "none")
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.callback(self)

    def _cannot_connect(self, reason: str) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            self._hang_up_all()
            connecting.errback(Unreachable(f"no node takes this client: {reason}"))

    # --- connections -----------------------------------------------------------------------------------

    def _dial(self, effect: effects.Dial) -> None:
        factory: Factory = Factory.forProtocol(lambda: _Link(self, effect.link))
        factory.noisy = False
        dial = clientFromString(self._reactor, effect.address).connect(factory)
        self._dials[effect.link] = dial
        dial.addErrback(self._on_dial_failed, effect.link)

    def _on_dial_failed(self, failure: TwistedFailure, link: int) -> None:
        self._dials.pop(link, None)  # hung up before, if it was cancelled
        self.on_lost(link, failure.getErrorMessage())

    def _hang_up(self, effect: effects.HangUp) -> None:
        dial = self._dials.pop(effect.link, None)
        if dial is not None:
            dial.cancel()
        link = self._links.pop(effect.link, None)
        if link is not None:
            link.hang_up()

    def on_opened(self, number: int, link: _Link) -> None:
        """A connection stands."""
        del self._dials[number]
        self._links[number] = link
        self._carry_out(self._session.opened(self._reactor.seconds(), number))

    def on_data(self, number: int, decoder: FrameDecoder[wire.ClientMessage], data: bytes) -> None:
        """A node has sent something."""
        try:
            for message in decoder.feed(data):
                self._carry_out(self._session.received(self._reactor.seconds(), number, message))
        except RemoteProtocolError as error:
            self._carry_out(self._session.broken(self._reactor.seconds(), number, str(error)))

    def on_lost(self, number: int, reason: str) -> None:
        """A connection is gone, or could not be made."""
        self._links.pop(number, None)
        self._carry_out(self._session.closed(self._reactor.seconds(), number, reason))


def _passing(function: Callable[[], object]) -> Callable[[Any], Any]:
    """A callback that calls ``function`` and hands on what it got."""

    def call(result: Any) -> Any:
        function()
        return result

    return call
