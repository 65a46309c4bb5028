"""The client for programs without a reactor: the same names, as plain calls that wait.

There is no thread behind it: what a node says is read while a call waits.  Between calls nothing is
heard, which no node is blamed for; the next call first reads what has come.  A client may be
used by several threads, whose calls then wait for each other.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from txvbcast.client import answers, effects
from txvbcast.client.answers import KeyValue, Outcomes
from txvbcast.client.effects import Effect, Event
from txvbcast.client.failures import Unreachable
from txvbcast.client.followers import Waiting
from txvbcast.client.queries import Question
from txvbcast.client.session import PATIENCE_S, Session
from txvbcast.client.shell import CONNECT_S
from txvbcast.errors import Committed, NoQuorum, RemoteProtocolError, SubmissionError
from txvbcast.wire import client_messages as wire
from txvbcast.wire.codec import CLIENTS, FrameDecoder, encode_frame
from txvbcast.wire.kv import KvResult, decode_result, delete_payload, put_payload
from txvbcast.wire.messages import Mode

_READ_BYTES: Final = 256 * 1024
_CLOSED: Final = "the client is closed"


def connect(
    *endpoints: str,
    patience: float = PATIENCE_S,
    cluster_id: str = "",
    timeout: float = CONNECT_S,
    program: str = "",
) -> Client:
    """Connect to a cluster.

    :param endpoints: of one node or more, the best one first, each ``tcp:HOST:PORT`` (an IPv6 host in brackets or
        with its colons quoted); the nodes tell of the others.
    :param patience: how long a node may be silent while something is unanswered, in seconds.
    :param cluster_id: refuse nodes of another cluster.
    :param timeout: for how long to try, in seconds.
    :raises Unreachable: no node takes this client.
    :raises ValueError: no endpoint, or one of another kind.
    """
    for endpoint in endpoints:
        _host_and_port(endpoint)
    session = Session(endpoints, secrets.token_urlsafe(16), patience_s=patience, cluster_id=cluster_id, program=program)
    client = Client(session)
    client.start(timeout)
    return client


def _host_and_port(endpoint: str) -> tuple[str, int]:
    """What an endpoint string names.

    :raises ValueError: it is no ``tcp:HOST:PORT``.
    """
    kind, _, rest = endpoint.partition(":")
    host, _, port = rest.replace("\\:", "\0").rpartition(":")
    host = host.replace("\0", ":").removeprefix("[").removesuffix("]")
    if kind != "tcp" or not host or not port.isascii() or not port.isdecimal():
        raise ValueError(f"the blocking client connects to tcp:HOST:PORT, such as tcp:192.0.2.1:8411, got {endpoint!r}")
    return host, int(port)


@attrs.define(eq=False)
class _Link:
    """One connection to a node.

    :ivar addresses: those that are left to try while it is being dialled.
    :ivar waiting: bytes that the kernel has not taken yet.
    """

    number: int
    addresses: deque[tuple[Any, ...]] = attrs.field(factory=deque)
    decoder: FrameDecoder[wire.ClientMessage] = attrs.field(factory=lambda: FrameDecoder(family=CLIENTS))
    sock: socket.socket | None = None
    opened: bool = False
    waiting: bytearray = attrs.field(factory=bytearray)
    problem: str = ""

    @property
    def connected(self) -> socket.socket:
        """Its socket, which it has from the moment it is dialled until it is dropped."""
        assert self.sock is not None
        return self.sock


@attrs.define(eq=False)
class _Question:
    """A query that waits for its answer."""

    answer: effects.Answer | SubmissionError | None = None


class Client:
    """A client of a cluster; :func:`connect` makes it.

    Calls raise one of the :class:`~txvbcast.errors.SubmissionError`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._tickets = itertools.count(1)
        self._links: dict[int, _Link] = {}
        self._timer_s: float | None = None
        self._effects: deque[Effect] = deque()
        self._submissions: dict[int, Outcomes] = {}
        self._questions: dict[int, _Question] = {}
        self._followers: dict[int, Waiting] = {}
        self._refused = ""
        self._closed = False
        self._busy = False
        self._do: dict[type, Callable[[Any], None]] = {
            effects.Dial: self._dial,
            effects.HangUp: self._hang_up,
            effects.Send: self._send,
            effects.SetTimer: self._set_timer,
            effects.Using: lambda effect: None,
            effects.AllRefused: self._all_refused,
            effects.TellCommitted: self._tell_committed,
            effects.TellFailed: self._tell_failed,
            effects.TellAnswer: self._tell_answer,
            effects.TellQueryFailed: self._tell_query_failed,
            effects.TellEvent: self._tell_event,
        }

    def start(self, timeout_s: float) -> None:
        """Connect.

        :raises Unreachable: no node takes this client.
        """
        until_s = time.monotonic() + timeout_s
        with self._lock:
            self._carry_out(self._session.start(time.monotonic()))
            while not self._session.node_id and not self._refused and time.monotonic() < until_s:
                self._turn(until_s)
            if not self._session.node_id:
                problems = self._refused or self._session.problems()
                self.close()
                raise Unreachable(f"no node takes this client: {problems}")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._carry_out(self._session.close(time.monotonic(), _CLOSED))
            self._selector.close()

    # --- transactions ----------------------------------------------------------------------------

    def submit(
        self,
        rm: str,
        payload: bytes,
        mode: Mode | str = Mode.BROADCAST,
        timeout: float = 5.0,
        request_id: str | None = None,
    ) -> Committed:
        """Have every node perform a transaction, or none.

        :param timeout: in seconds.
        :param request_id: a name under which it takes effect once, whichever client submits it how often.
        :raises SubmissionError: Aborted, OutcomeUnknown (whose ``request_id`` names it), Overloaded, NoQuorum or
            BadRequest.
        :raises ValueError: no such mode, a timeout that is not positive, a payload above the limit.
        """
        (outcome,) = self.submit_many(rm, [payload], mode, timeout, None if request_id is None else [request_id])
        if isinstance(outcome, SubmissionError):
            raise outcome
        return outcome

    def submit_many(
        self,
        rm: str,
        payloads: Sequence[bytes],
        mode: Mode | str = Mode.BROADCAST,
        timeout: float = 5.0,
        request_ids: Sequence[str] | None = None,
    ) -> Outcomes:
        """The same for many, each on its own; returns once all are answered.

        :raises ValueError: nothing to submit, no such mode, a timeout that is not positive, a payload above the limit.
        """
        outcomes = Outcomes(len(payloads))
        with self._lock:
            self._check_open()
            ticket = next(self._tickets)
            self._submissions[ticket] = outcomes
            try:
                now_s = self._catch_up()
                many = self._session.submit(now_s, ticket, rm, payloads, answers.mode_of(mode), timeout, request_ids)
                self._carry_out(many)
                while not outcomes.complete:
                    self._turn()
            finally:
                del self._submissions[ticket]
        return outcomes

    def _tell_committed(self, effect: effects.TellCommitted) -> None:
        outcomes = self._submissions.get(effect.ticket)
        if outcomes is not None:  # else its call was interrupted
            outcomes.on_committed(effect)

    def _tell_failed(self, effect: effects.TellFailed) -> None:
        outcomes = self._submissions.get(effect.ticket)
        if outcomes is not None:
            outcomes.on_failed(effect)

    # --- keys and values -----------------------------------------------------------------------------

    def put(
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
        return decode_result(self.submit(rm, put_payload(key, value, if_version), mode, timeout).result)

    def delete(
        self,
        key: str,
        if_version: int | None = None,
        mode: Mode | str = Mode.BROADCAST,
        timeout: float = 5.0,
        rm: str = "kv",
    ) -> KvResult:
        """Remove a key, under the same condition."""
        return decode_result(self.submit(rm, delete_payload(key, if_version), mode, timeout).result)

    def get(self, key: str, consistency: str = "linearizable", timeout: float = 5.0, rm: str = "kv") -> KeyValue | None:
        """A key's value, None if there is no such key.

        :param consistency: ``linearizable``: it sees every write that was answered before; ``local``: what the node
            in use has performed.
        """
        return answers.key_value(self._ask(answers.get_keys(rm, key, consistency), timeout))

    def items(
        self, prefix: str = "", consistency: str = "linearizable", timeout: float = 5.0, rm: str = "kv"
    ) -> list[wire.Item]:
        """Keys, values and versions of all keys that start with ``prefix``, in order.

        A long listing comes in parts, each of its own moment.
        """
        found: list[wire.Item] = []
        after, more = "", True
        while more:
            part: wire.Items = self._ask(answers.list_keys(rm, prefix, after, consistency), timeout)
            found.extend(part.items)
            more = part.more
            after = found[-1].key if found else ""
        return found

    # --- questions -----------------------------------------------------------------------------------

    def outcome(self, request_id: str, timeout: float = 5.0) -> Committed | None:
        """What became of a transaction, as far as the node in use knows; None is not a No."""
        return answers.committed_or_none(self._ask(wire.AskOutcome(1, request_id), timeout))

    def status(self, timeout: float = 5.0) -> dict[str, Any]:
        """What the node in use says of itself and of the cluster, as ``GET /v1/status``."""
        return answers.status_document(self._ask(wire.AskStatus(1), timeout))

    def _ask(self, message: Question, timeout_s: float) -> Any:
        question = _Question()
        with self._lock:
            self._check_open()
            ticket = next(self._tickets)
            self._questions[ticket] = question
            try:
                self._carry_out(self._session.ask(self._catch_up(), ticket, message, timeout_s))
                while question.answer is None:
                    self._turn()
            finally:
                del self._questions[ticket]
        if isinstance(question.answer, SubmissionError):
            raise question.answer
        return question.answer

    def _tell_answer(self, effect: effects.TellAnswer) -> None:
        question = self._questions.get(effect.ticket)
        if question is not None:  # else its call was interrupted
            question.answer = effect.answer

    def _tell_query_failed(self, effect: effects.TellQueryFailed) -> None:
        follower = self._followers.get(effect.ticket)
        question = self._questions.get(effect.ticket)
        if follower is not None:
            follower.error = effect.failure.error()
        elif question is not None:
            question.answer = effect.failure.error()

    # --- events ------------------------------------------------------------------------------------------

    def events(self, after: int | None = None) -> Events:
        """What happens in the cluster, from now on; goes on by itself when the client changes over.

        :param after: begin with the first event that the node in use has numbered higher; 0: with all that it keeps.
        """
        with self._lock:
            self._check_open()
            ticket = next(self._tickets)
            waiting = self._followers[ticket] = Waiting()
            self._carry_out(self._session.follow(self._catch_up(), time.time(), ticket, after))
            self._poll(0.0)  # so that it leaves now
        return Events(self, ticket, waiting)

    def next_event(self, waiting: Waiting, timeout_s: float | None) -> Event | None:
        """Wait for the next one; None when the client was closed or the time is over.

        :raises SubmissionError: the node does not tell any more.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            while not self._closed:
                event = waiting.take()
                if event is not None:
                    return event
                if until_s is not None and time.monotonic() >= until_s:
                    return None
                self._turn(until_s)
        return None

    def unfollow(self, ticket: int) -> None:
        """Nobody follows any more."""
        with self._lock:
            if self._followers.pop(ticket, None) is not None and not self._closed:
                self._carry_out(self._session.forget(time.monotonic(), ticket))

    def _tell_event(self, effect: effects.TellEvent) -> None:
        self._followers[effect.ticket].add(effect.event)

    # --- what the session wants ------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise NoQuorum(_CLOSED)

    def _carry_out(self, wanted: list[Effect]) -> None:
        self._effects.extend(wanted)
        if self._busy:
            return  # a connection that failed while it was dialled or written to: in its turn
        self._busy = True
        try:
            while self._effects:
                effect = self._effects.popleft()
                self._do[type(effect)](effect)
        finally:
            self._busy = False

    def _set_timer(self, effect: effects.SetTimer) -> None:
        self._timer_s = effect.at_s

    def _all_refused(self, effect: effects.AllRefused) -> None:
        self._refused = effect.reason

    def _catch_up(self) -> float:
        """Hear what came between two calls; the time."""
        self._poll(0.0)
        return time.monotonic()

    def _turn(self, until_s: float | None = None) -> None:
        """Wait until something happens, and deal with it."""
        times = [time_s for time_s in (self._timer_s, until_s) if time_s is not None]
        self._poll(max(0.0, min(times) - time.monotonic()) if times else None)
        if self._timer_s is not None and time.monotonic() >= self._timer_s:
            self._timer_s = None
            self._carry_out(self._session.due(time.monotonic()))

    def _poll(self, timeout_s: float | None) -> None:
        for key, ready in self._selector.select(timeout_s):
            link: _Link = key.data
            if ready & selectors.EVENT_WRITE and link.number in self._links:
                self._on_writable(link)
            if ready & selectors.EVENT_READ and link.number in self._links:
                self._on_readable(link)

    # --- connections -----------------------------------------------------------------------------------

    def _dial(self, effect: effects.Dial) -> None:
        host, port = _host_and_port(effect.address)
        link = self._links[effect.link] = _Link(effect.link)
        try:
            link.addresses.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            link.problem = f"{host} is not known: {error.strerror}"
        self._dial_next(link)

    def _dial_next(self, link: _Link) -> None:
        """Try the next of the addresses that a host has."""
        while link.addresses:
            family, kind, protocol, _, address = link.addresses.popleft()
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            error = sock.connect_ex(address)
            if error in (0, errno.EINPROGRESS):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link.sock = sock
                self._selector.register(sock, selectors.EVENT_WRITE, link)
                return
            sock.close()
            link.problem = os.strerror(error)
        self._lost(link, link.problem)

    def _on_writable(self, link: _Link) -> None:
        sock = link.connected
        if link.opened:
            self._flush(link)
            return
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            link.problem = os.strerror(error)
            self._drop(link)
            self._dial_next(link)
            return
        link.opened = True
        self._selector.modify(sock, selectors.EVENT_READ, link)
        self._carry_out(self._session.opened(time.monotonic(), link.number))

    def _on_readable(self, link: _Link) -> None:
        try:
            data = link.connected.recv(_READ_BYTES)
        except OSError as error:
            self._lost(link, f"connection lost: {error.strerror}")
            return
        if not data:
            self._lost(link, "connection lost: the node closed it")
            return
        try:
            for message in link.decoder.feed(data):
                self._carry_out(self._session.received(time.monotonic(), link.number, message))
        except RemoteProtocolError as error:
            self._carry_out(self._session.broken(time.monotonic(), link.number, str(error)))

    def _send(self, effect: effects.Send) -> None:
        link = self._links[effect.link]
        if not link.waiting:
            self._selector.modify(link.connected, selectors.EVENT_READ | selectors.EVENT_WRITE, link)
        link.waiting += encode_frame(effect.message)

    def _flush(self, link: _Link) -> None:
        """Give the kernel, which has room, what it takes."""
        try:
            sent = link.connected.send(link.waiting)
        except OSError as error:
            self._lost(link, f"connection lost: {error.strerror}")
            return
        del link.waiting[:sent]
        if not link.waiting:
            self._selector.modify(link.connected, selectors.EVENT_READ, link)

    def _lost(self, link: _Link, reason: str) -> None:
        self._drop(link)
        self._links.pop(link.number, None)
        self._carry_out(self._session.closed(time.monotonic(), link.number, reason))

    def _hang_up(self, effect: effects.HangUp) -> None:
        link = self._links.pop(effect.link, None)
        if link is not None:
            self._drop(link)

    def _drop(self, link: _Link) -> None:
        if link.sock is not None:
            self._selector.unregister(link.sock)
            link.sock.close()
            link.sock = None


class Events:
    """Events as they come, for ``for``; :meth:`Client.events` makes it.

    Ends when the client is closed.
    """

    def __init__(self, client: Client, ticket: int, waiting: Waiting) -> None:
        self._client = client
        self._ticket = ticket
        self._waiting = waiting
        self._closed = False

    def close(self) -> None:
        """Follow no longer.  To leave the loop does not do it."""
        self._closed = True
        self._client.unfollow(self._ticket)

    def __iter__(self) -> Events:
        return self

    def __next__(self) -> Event:
        event = self.wait()
        if event is None:
            raise StopIteration
        return event

    def wait(self, timeout: float | None = None) -> Event | None:
        """The next event; None when ``timeout`` seconds are over, or there will be no more.

        :raises SubmissionError: the node does not tell any more.
        """
        return None if self._closed else self._client.next_event(self._waiting, timeout)
