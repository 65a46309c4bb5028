"""The brain of a client: no Twisted, sockets, clocks or threads.

Its surroundings call a method for whatever happens, with the time, and carry out the effects that it
returns, in their order.  The Twisted client, the blocking one and the simulator have it in common.

A client uses one node and keeps a link to a second one ready.  It changes over when the node says that
it leaves, when the link is lost and when the node is silent; what is unanswered is then sent again, and
takes effect once, because every transaction has a name: the session's and a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from txvbcast.client.attempts import Transactions
from txvbcast.client.effects import Effect, SetTimer, Using
from txvbcast.client.links import Link, Links, State
from txvbcast.client.queries import Queries, Question
from txvbcast.client.targets import Targets
from txvbcast.errors import RemoteProtocolError
from txvbcast.wire import client_messages as wire
from txvbcast.wire.limits import VERSION
from txvbcast.wire.messages import Mode

#: How long a node may be silent while something is unanswered, in seconds.
PATIENCE_S: Final = 0.8
#: Transactions that may wait while no node is in use, and the bytes of all payloads.
WAITING_MAX: Final = 10_000
WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
#: A timer that comes later than this after its time shows that this program was stopped.
LATE_S: Final = 0.1


class Session:
    """A client of a cluster.

    :param addresses: where its nodes may be found, the best one first.
    :param session: its name for all its transactions; nobody else's, and never used again.
    :param patience_s: how long a node may be silent while something is unanswered.
    :param cluster_id: the cluster that is wanted, empty for any.
    :param program: what it says of itself in the nodes' logs.
    :param waiting_max: transactions that may wait while no node is in use.
    :param waiting_bytes_max: bytes of payloads that may be unanswered.
    :raises ValueError: there is no address, or patience is not positive.
    """

    def __init__(
        self,
        addresses: Iterable[str],
        session: str,
        *,
        patience_s: float = PATIENCE_S,
        cluster_id: str = "",
        program: str = "",
        waiting_max: int = WAITING_MAX,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
    ) -> None:
        _check_positive("patience", patience_s)
        self.name = session
        self._out: list[Effect] = []
        hello = wire.ClientHello(VERSION, VERSION, session, program, cluster_id)
        self._links = Links(Targets(addresses, session), hello, patience_s, self._out)
        self._transactions = Transactions(session, patience_s, waiting_max, waiting_bytes_max, self._out)
        self._queries = Queries(self._out)
        self._timer_s: float | None = None
        self._closed = ""

    # --- what it says of itself ----------------------------------------------------------------

    @property
    def node_id(self) -> int:
        """The node in use; 0: none."""
        return self._links.in_use.node_id if self._links.in_use is not None else 0

    @property
    def cluster_id(self) -> str:
        """The cluster's id; before a node has told it, the one that is wanted."""
        return self._links.cluster_id

    @property
    def unanswered(self) -> int:
        """Transactions that the user has no answer to."""
        return self._transactions.unanswered

    @property
    def done(self) -> int:
        """The number up to which all transactions are answered, and will not be asked for."""
        return self._transactions.done()

    def problems(self) -> str:
        """Why no node could be reached, for people."""
        return self._links.targets.problems()

    # --- what the user wants ---------------------------------------------------------------------

    def start(self, now_s: float) -> list[Effect]:
        """Begin to connect."""
        return self._settle(now_s)

    def submit(
        self,
        now_s: float,
        ticket: int,
        rm: str,
        payloads: Sequence[bytes],
        mode: Mode = Mode.BROADCAST,
        timeout_s: float = 5.0,
        request_ids: Sequence[str] | None = None,
    ) -> list[Effect]:
        """Hand transactions in; each is answered once, by a TellCommitted or TellFailed of that ticket.

        :param request_ids: names for them, one each; without, they are named by session and number.
        :raises ValueError: nothing to submit, a payload above the node's limit, a timeout that is not positive, or
            not as many request ids as payloads.
        """
        _check_positive("the timeout", timeout_s)
        many = tuple(payloads)
        names = tuple(request_ids) if request_ids is not None else None
        self._check(many, names)
        self._transactions.submit(now_s, ticket, rm, mode, timeout_s, many, names)
        self._transactions.send(now_s)
        return self._look_by(now_s, self._links.in_use_check_s(), self._transactions.next_s())

    def _check(self, payloads: tuple[bytes, ...], names: tuple[str, ...] | None) -> None:
        if not payloads:
            raise ValueError("there is nothing to submit")
        if names is not None and len(names) != len(payloads):
            raise ValueError(f"{len(payloads)} payloads have {len(names)} request ids")
        link = self._links.in_use
        if link is not None and (longest := max(map(len, payloads))) > link.payload_bytes_max:
            raise ValueError(f"a payload of {longest} bytes is above limits.payload, {link.payload_bytes_max} bytes")

    def ask(self, now_s: float, ticket: int, message: Question, timeout_s: float = 5.0) -> list[Effect]:
        """Ask a node; a TellAnswer or a TellQueryFailed comes back.

        :param message: its ``query`` and ``timeout_ms`` are filled in here.
        :raises ValueError: the timeout is not positive.
        """
        _check_positive("the timeout", timeout_s)
        self._queries.ask(now_s, ticket, message, timeout_s, self._links.in_use)
        return self._effects(now_s)

    def follow(self, now_s: float, wall_s: float, ticket: int, after: int | None = None) -> list[Effect]:
        """Have the events told, from now on, or those that the node in use has numbered above ``after``.

        :param wall_s: by the clock on the wall, seconds since 1970; events are dated by those of the nodes.
        """
        self._queries.follow(now_s, wall_s, ticket, after, self._links.in_use)
        return self._effects(now_s)

    def forget(self, now_s: float, ticket: int) -> list[Effect]:
        """Nobody listens to that query any more."""
        self._queries.forget(ticket, self._links.in_use)
        return self._effects(now_s)

    def close(self, now_s: float, reason: str = "the client was closed") -> list[Effect]:
        """Tell everybody who waits, and hang up."""
        self._closed = reason
        self._transactions.close(reason)
        self._queries.close(reason)
        for link in self._links.of_state(*State):
            self._links.hang_up(link, reason)
        self._links.in_use = None
        return self._take()

    # --- what happens ----------------------------------------------------------------------------

    def opened(self, now_s: float, number: int) -> list[Effect]:
        """The connection that was dialled stands."""
        link = self._links.find(number)
        if link is not None:
            self._links.on_opened(link)
        return self._effects(now_s)

    def closed(self, now_s: float, number: int, reason: str) -> list[Effect]:
        """A connection could not be made, or is gone."""
        link = self._links.find(number)
        if link is not None:
            self._lose(now_s, link, reason)
        return self._settle(now_s)

    def received(self, now_s: float, number: int, message: wire.ClientMessage) -> list[Effect]:
        """A message from a node."""
        link = self._links.find(number)
        if link is None:
            return []
        self._links.on_heard(now_s, link)
        try:
            return self._received(now_s, link, message)
        except RemoteProtocolError as error:
            return self._break(now_s, link, str(error))

    def _received(self, now_s: float, link: Link, message: wire.ClientMessage) -> list[Effect]:
        greeted = link.state is not State.GREETING
        if greeted == isinstance(message, wire.Welcome) and not isinstance(message, wire.Refused):
            raise RemoteProtocolError(f"{type(message).__name__} came {'after' if greeted else 'before'} Welcome")
        match message:
            case wire.Committed():
                self._transactions.on_committed(link, message)
            case wire.Failed():
                self._transactions.on_failed(now_s, link, message)
                if message.kind is wire.FailureKind.NO_QUORUM:
                    self._links.on_no_quorum(now_s, link)
                    return self._settle(now_s)
            case wire.Values() | wire.Items() | wire.Outcome() | wire.Status():
                self._queries.on_answer(link, message)
            case wire.QueryFailed():
                self._queries.on_failed(link, message)
            case wire.Event():
                self._queries.on_event(link, message)
            case wire.Pong():
                pass
            case wire.Welcome():
                self._links.on_welcome(now_s, link, message)
                return self._settle(now_s)
            case wire.Refused():
                self._links.on_refused(now_s, link, message)
                self._forget(link)
                return self._settle(now_s)
            case wire.Leaving():
                self._links.on_leaving(now_s, link, message)
                return self._settle(now_s)
            case _:
                raise RemoteProtocolError(f"a node sent {type(message).__name__}, which only clients send")
        return self._answered(now_s, link)

    def _answered(self, now_s: float, link: Link) -> list[Effect]:
        """Something of what ``link`` owed may have come: there is room for more."""
        if link.idle:
            link.busy_s = None
            if link.leaving:
                return self._settle(now_s)
        if self._transactions.send(now_s) or self._transactions.holds_back:
            return self._effects(now_s)
        return self._take()  # nothing has to be looked at earlier than before

    def broken(self, now_s: float, number: int, reason: str) -> list[Effect]:
        """What comes over a connection makes no sense: hang up."""
        link = self._links.find(number)
        return self._break(now_s, link, reason) if link is not None else []

    def _break(self, now_s: float, link: Link, reason: str) -> list[Effect]:
        self._links.hang_up(link, reason)
        self._lose(now_s, link, reason)
        return self._settle(now_s)

    def due(self, now_s: float) -> list[Effect]:
        """The time of the timer has come."""
        late_s = now_s - self._timer_s if self._timer_s is not None else 0.0
        self._timer_s = None
        if late_s > LATE_S:
            self._links.was_stopped(now_s)
        for link in self._links.silent(now_s):
            reason = f"node {link.node_id} is silent" if link.node_id else "no answer"
            self._links.hang_up(link, reason)
            self._lose(now_s, link, reason)
        self._transactions.on_time(now_s)
        self._queries.on_time(now_s)
        return self._settle(now_s)

    # --- inside ------------------------------------------------------------------------------------

    def _lose(self, now_s: float, link: Link, reason: str) -> None:
        self._links.lose(now_s, link, reason)
        self._forget(link)

    def _forget(self, link: Link) -> None:
        """Nothing will come over that link any more."""
        self._transactions.on_lost(link)
        self._queries.on_lost(link)

    def _settle(self, now_s: float) -> list[Effect]:
        """The links may have changed: use the right one, and see to it that there are enough."""
        if self._closed:
            return self._take()
        before, link = self._links.in_use, self._links.choose(now_s)
        if link is not before:
            self._out.append(Using(link.node_id if link is not None else 0))
            self._transactions.use(link)
            if before is not None and self._links.find(before.number) is before:
                self._queries.leave(before)
            if link is not None:
                self._queries.use(now_s, link)
        self._transactions.send(now_s)
        self._links.retire(self._links.of_state(State.LEAVING))
        self._links.dial(now_s)
        return self._effects(now_s)

    def _effects(self, now_s: float) -> list[Effect]:
        """What has gathered, and the timer, if it has to come earlier than it would."""
        return self._look_by(now_s, self._links.next_s(), self._transactions.next_s(), self._queries.next_s())

    def _look_by(self, now_s: float, *times: float | None) -> list[Effect]:
        wanted_s = min([time_s for time_s in times if time_s is not None], default=None)
        if wanted_s is not None and (self._timer_s is None or wanted_s < self._timer_s):
            self._timer_s = max(wanted_s, now_s)
            self._out.append(SetTimer(self._timer_s))
        return self._take()

    def _take(self) -> list[Effect]:
        taken = self._out[:]
        self._out.clear()
        return taken


def _check_positive(what: str, value_s: float) -> None:
    if not value_s > 0:
        raise ValueError(f"{what} must be positive, got {value_s}")
