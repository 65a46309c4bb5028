"""Connections to nodes: which there are, which one is in use, when one is taken for lost.

One link is in use and another, to another node, is kept ready.  A node that says Leaving is left at once;
its link stays until everything on it is answered.  A link on which nothing is heard for
``patience_s`` while something is unanswered is given up, but never before a Ping had half of that
time to be answered, and the time in which this program itself was stopped does not count.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

import attrs

from txvbcast.client.attempts import Attempt
from txvbcast.client.effects import AllRefused, Dial, Effect, HangUp, Send
from txvbcast.client.queries import Query
from txvbcast.client.targets import Target, Targets
from txvbcast.wire.client_messages import ClientHello, Leaving, Ping, Refused, Welcome
from txvbcast.wire.limits import VERSION

#: How long a connection and its Welcome may take.  The kernel of a frozen host accepts connections.
WELCOME_S: Final = 3.0
#: While there is no link, another address is tried after this long beside those that do not answer.
HEAD_START_S: Final = 0.1
#: Connections in the making at most.
DIALS_MAX: Final = 4
#: How often a link is tried on which nothing is unanswered.
IDLE_PING_S: Final = 5.0


class State(enum.Enum):
    """What a link is good for."""

    DIALLING = "dialling"
    GREETING = "greeting"  # ClientHello is sent, Welcome is due
    READY = "ready"
    LEAVING = "leaving"  # only what is under way there is still waited for


@attrs.define(eq=False)
class Link:
    """A connection to a node.

    :ivar since_s: when it was dialled; from the Welcome on, when something was last heard.
    :ivar busy_s: since when something is unanswered, None while nothing is.
    :ivar pinged_s: when the Ping was sent that is not answered, None if there is none.
    :ivar no_quorum_until_s: until then another node is the better one: this one has said that it sees no quorum.
    :ivar outstanding: transactions that the node has not answered.
    :ivar attempts, queries: what is under way, by the numbers that it was sent under.
    """

    number: int
    target: Target
    since_s: float
    state: State = State.DIALLING
    node_id: int = 0
    heard_s: float = 0.0
    busy_s: float | None = None
    pinged_s: float | None = None
    no_quorum_until_s: float = 0.0
    outstanding: int = 0
    outstanding_max: int = 0
    payload_bytes_max: int = 0
    attempts: dict[int, Attempt] = attrs.field(factory=dict)
    queries: dict[int, Query] = attrs.field(factory=dict)

    @property
    def leaving(self) -> bool:
        """Whether its node said that it leaves."""
        return self.state is State.LEAVING

    @property
    def idle(self) -> bool:
        """Whether the node owes no answer."""
        return not self.outstanding and not any(query.awaited for query in self.queries.values())

    def check_s(self, patience_s: float) -> float:
        """When something has to be done about its silence."""
        if self.state in (State.DIALLING, State.GREETING):
            return self.since_s + WELCOME_S
        if self.pinged_s is not None:
            return self.pinged_s + patience_s / 2
        if self.busy_s is None:
            return self.heard_s + IDLE_PING_S
        return max(self.heard_s, self.busy_s) + patience_s / 2


class Links:
    """All connections of a client.

    :param hello: the first message on each.
    :param out: where effects go.
    """

    def __init__(self, targets: Targets, hello: ClientHello, patience_s: float, out: list[Effect]) -> None:
        self.targets = targets
        self.in_use: Link | None = None
        self.cluster_id = hello.cluster_id
        self._hello = hello
        self._patience_s = patience_s
        self._out = out
        self._links: dict[int, Link] = {}
        self._newest = 0
        self._dialled_s = 0.0
        self._pings = 0
        self._told_refused = False

    def find(self, number: int) -> Link | None:
        """The link of that number; None when it was given up."""
        return self._links.get(number)

    def of_state(self, *states: State) -> list[Link]:
        """Links in these states, the oldest first."""
        return [link for link in self._links.values() if link.state in states]

    # --- the life of a link --------------------------------------------------------------

    def on_opened(self, link: Link) -> None:
        """The connection stands."""
        link.state = State.GREETING
        self._out.append(Send(link.number, self._hello))

    def on_heard(self, now_s: float, link: Link) -> None:
        """Something came from the node: it is there."""
        link.heard_s = now_s
        link.pinged_s = None

    def on_welcome(self, now_s: float, link: Link, welcome: Welcome) -> None:
        """The node takes this client, unless it is no use to us."""
        objection = self._objection(link, welcome)
        if objection:
            link.target.node_id = welcome.node_id
            link.target.failed(now_s, objection)
            self.hang_up(link, objection)
            return
        link.state = State.READY
        link.node_id = welcome.node_id
        link.outstanding_max = welcome.outstanding_max
        link.payload_bytes_max = welcome.payload_bytes_max
        self.cluster_id = welcome.cluster_id
        link.target.answered(welcome.node_id)
        self.targets.learn(welcome.nodes)

    def _objection(self, link: Link, welcome: Welcome) -> str:
        if welcome.version != VERSION:
            return f"node {welcome.node_id} speaks version {welcome.version}, this client speaks {VERSION}"
        if self.cluster_id and welcome.cluster_id != self.cluster_id:
            return f"node {welcome.node_id} is of cluster {welcome.cluster_id!r}, not {self.cluster_id!r}"
        if not welcome.serving:
            return f"node {welcome.node_id} takes no transactions now"
        if any(other.node_id == welcome.node_id for other in self.of_state(State.READY)):
            return f"there is a link to node {welcome.node_id} already"
        return ""

    def on_refused(self, now_s: float, link: Link, refused: Refused) -> None:
        """The node will not have this client."""
        link.target.said_no(now_s, refused.reason)
        self.hang_up(link, refused.reason)
        if self.targets.all_refused and not self._told_refused:
            self._told_refused = True
            self._out.append(AllRefused(self.targets.problems()))

    def on_leaving(self, now_s: float, link: Link, leaving: Leaving) -> None:
        """Its node will soon be away: nothing new goes there."""
        link.state = State.LEAVING
        link.target.leaves(now_s, leaving.reason)

    def on_no_quorum(self, now_s: float, link: Link) -> None:
        """The node sees no quorum; another one may."""
        link.no_quorum_until_s = now_s + self._patience_s

    def lose(self, now_s: float, link: Link, problem: str) -> None:
        """The connection is gone, or could not be made."""
        self._links.pop(link.number, None)
        if not link.leaving:
            link.target.failed(now_s, problem)

    def hang_up(self, link: Link, reason: str) -> None:
        """Give a link up."""
        if self._links.pop(link.number, None) is not None:
            self._out.append(HangUp(link.number, reason))

    # --- which links there should be ---------------------------------------------------------

    def choose(self, now_s: float) -> Link | None:
        """The link to use: the one in use if it is any good, else another one that is ready."""

        def worse(link: Link) -> tuple[bool, bool, int]:
            return now_s < link.no_quorum_until_s, link is not self.in_use, link.number

        self.in_use = min(self.of_state(State.READY), key=worse, default=None)
        return self.in_use

    def dial(self, now_s: float) -> None:
        """Begin the connections that are missing."""
        while self._may_dial(now_s):
            target = self.targets.best(now_s, *self._taken())
            if target is None:
                return
            self._newest += 1
            self._dialled_s = now_s
            self._links[self._newest] = Link(self._newest, target, now_s)
            self._out.append(Dial(self._newest, target.address))

    def _may_dial(self, now_s: float) -> bool:
        dials = len(self.of_state(State.DIALLING, State.GREETING))
        ready = len(self.of_state(State.READY))
        if ready:
            return ready == 1 and not dials
        return not dials or (dials < DIALS_MAX and now_s >= self._dialled_s + HEAD_START_S)

    def _taken(self) -> tuple[set[Target], set[int]]:
        ready = {link.node_id for link in self.of_state(State.READY)}
        return {link.target for link in self._links.values()}, ready

    # --- time ----------------------------------------------------------------------------------

    def silent(self, now_s: float) -> list[Link]:
        """Ping the links that need it; those that are to be taken for lost."""
        lost = []
        for link in self._links.values():
            if link.check_s(self._patience_s) > now_s:
                continue
            if link.state in (State.DIALLING, State.GREETING) or link.pinged_s is not None:
                lost.append(link)
            else:
                link.pinged_s = now_s
                self._pings += 1
                self._out.append(Send(link.number, Ping(self._pings)))
        return lost

    def was_stopped(self, now_s: float) -> None:
        """This program was stopped: no node is to blame for what was not heard, and all have their time again."""
        for link in self._links.values():
            link.since_s = link.heard_s = now_s
            link.busy_s = now_s if link.busy_s is not None else None
            link.pinged_s = now_s if link.pinged_s is not None else None

    def in_use_check_s(self) -> float | None:
        """When to look at the link in use; None without one."""
        return self.in_use.check_s(self._patience_s) if self.in_use is not None else None

    def next_s(self) -> float | None:
        """When to look again."""
        times = [link.check_s(self._patience_s) for link in self._links.values()]
        ready = len(self.of_state(State.READY))
        dials = len(self.of_state(State.DIALLING, State.GREETING))
        if ready == 0 and dials < DIALS_MAX or ready == 1 and not dials:
            next_s = self.targets.next_s(*self._taken())
            if next_s is not None:
                times.append(max(next_s, self._dialled_s + HEAD_START_S) if dials else next_s)
        return min(times, default=None)

    def retire(self, links: Iterable[Link]) -> None:
        """Hang up those of the links whose node leaves and owes no answer any more."""
        for link in tuple(links):
            if link.leaving and link.idle:
                self.hang_up(link, "its node leaves")
