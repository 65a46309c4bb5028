"""The links of a node: one connection to each other member, kept up for as long as the node runs.

Of two nodes the one with the higher id dials and the lower one listens.  A fixed rule gives
exactly one connection per pair without a negotiation, so messages between two nodes keep
their order and two crossing connections never have to be told apart; and a node that joins,
which usually has the highest id, reaches everyone else by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from txvbcast.addresses import reached_by
from txvbcast.config import Config, MemberConfig
from txvbcast.core.inputs import StoredState
from txvbcast.net.dialler import Dialler
from txvbcast.net.link import HELLO_TIMEOUT_S, LINK_BYTES_MAX, Link, Receiver
from txvbcast.turns import Turn
from txvbcast.wire.codec import encode_frame
from txvbcast.wire.hello import check_hello, members_digest
from txvbcast.wire.messages import Hello, MemberLine, Message

#: The protocol versions that this program speaks.
VERSION_MIN: Final = 1
VERSION_MAX: Final = 1

#: Accepted connections that have not said Hello yet; one more closes the oldest.
STRANGERS_MAX: Final = 64

#: Different troubles that are remembered in order not to warn of them again.
TROUBLES_MAX: Final = 256


def own_hello(config: Config, stored: StoredState) -> Hello:
    """What this node says of itself on every link."""
    lines = tuple(MemberLine(id=member.id, name=member.name, peer=str(member.peer)) for member in config.members)
    return Hello(
        cluster_id=config.cluster_id,
        cluster_name=config.cluster_name,
        node_id=config.node_id,
        incarnation=stored.incarnation,
        disk_id=stored.disk_id,
        version_min=VERSION_MIN,
        version_max=VERSION_MAX,
        members_digest=members_digest(lines),
        members=lines,
        vms=config.vms,
        client=str(config.listen.client),
    )


class _LinkFactory(Factory):
    """Makes links: of the member that is dialled, or of whoever dials this node."""

    noisy = False

    def __init__(self, links: Links, dialled: int | None) -> None:
        self._links = links
        self._dialled = dialled

    def buildProtocol(self, addr: IAddress | None) -> Link | None:
        return None if self._links.stopping else Link(self._links, self._dialled)


class Links:
    """The links of one node to all other members; the :class:`~txvbcast.net.link.Keeper` of each.

    :param reactor: provides IReactorTCP, IReactorTime and IReactorPluggableNameResolver.
    :param linked: told of each peer whose link comes up, and its address, before the receiver is.
    :param link_bytes_max: see :data:`~txvbcast.net.link.LINK_BYTES_MAX`.
    :param hello_timeout_s: see :data:`~txvbcast.net.link.HELLO_TIMEOUT_S`.
    :param turn: the reactor's turns, which others may share.
    :param chance: gives numbers from 0 to 1, for the jitter of the pauses between attempts to connect.
    """

    log = Logger()
    receiver: Receiver

    def __init__(
        self,
        config: Config,
        stored: StoredState,
        reactor: Any,
        linked: Callable[[int, str], None],
        link_bytes_max: int = LINK_BYTES_MAX,
        hello_timeout_s: float = HELLO_TIMEOUT_S,
        chance: Callable[[], float] = random.random,
        turn: Turn | None = None,
    ) -> None:
        self.reactor = reactor
        self.link_bytes_max = link_bytes_max
        self.hello_timeout_s = hello_timeout_s
        self.hello = own_hello(config, stored)
        self.hello_frame = encode_frame(self.hello)
        self.stopping = False
        self._linked = linked
        self._turn = turn or Turn(reactor)
        self._chance = chance
        self._others = tuple(member.id for member in config.members if member.id != config.node_id)
        self._diallers = {m.id: self._dialler(m) for m in config.members if m.id < config.node_id}
        self._ports: list[IListeningPort] = []
        self._open: dict[Link, None] = {}  # every connection that stands
        self._strangers: dict[Link, None] = {}  # those accepted and without Hello, oldest first
        self._up: dict[int, Link] = {}  # as the receiver knows them
        self._client_addresses: dict[int, str] = {}
        self._troubles: dict[tuple[str, str], None] = {}
        self._unflushed: dict[Link, None] = {}
        self._will_flush = False
        self._encoded: tuple[Message, bytes] | None = None
        self._all_gone: Deferred[None] = Deferred()

    def _dialler(self, member: MemberConfig) -> Dialler:
        def unreachable(reason: str) -> None:
            self._trouble(f"node {member.id}", reason)

        return Dialler(self.reactor, member.peer, _LinkFactory(self, member.id), self._chance, unreachable)

    # --- life --------------------------------------------------------------------------

    def listen(self, host: str, port: int) -> None:
        """Accept peers at a literal address.

        :raises twisted.internet.error.CannotListenError: it cannot be bound.
        """
        self._ports.append(self.reactor.listenTCP(port, _LinkFactory(self, None), interface=host))

    def start(self, receiver: Receiver) -> None:
        """Dial every member with a lower id, and tell ``receiver`` of everything."""
        self.receiver = receiver
        for dialler in self._diallers.values():
            dialler.start()

    def stop(self) -> Deferred[None]:
        """Write what waits and close everything; may be called again.

        :return: fires when that is done, at the latest after
            :data:`~txvbcast.net.link.CLOSE_TIMEOUT_S` or so.
        """
        self.stopping = True
        for dialler in self._diallers.values():
            dialler.stop()
        for link in list(self._open):
            link.close("this node stops")
        self._check_all_gone()
        ports, self._ports = self._ports, []
        closing: list[Deferred[Any]] = [maybeDeferred(port.stopListening) for port in ports]
        closing.append(self._all_gone)
        return DeferredList(closing).addCallback(lambda _: None)

    def _check_all_gone(self) -> None:
        if self.stopping and not self._open and not self._all_gone.called:
            self._all_gone.callback(None)

    # --- use ---------------------------------------------------------------------------

    def send(self, to: int, message: Message) -> None:
        """Send ``message`` over the link to ``to``; dropped when there is none.

        :raises LocalProtocolError: the message is too long for a frame.
        """
        link = self._up.get(to)
        if link is None:
            return
        link.send(self._frame_of(message))
        self._unflushed[link] = None
        if not self._will_flush and not self.stopping:
            self._will_flush = True
            self._turn.at_end(self._flush)

    def reset(self, reason: str) -> None:
        """Abort every link; the dialling sides open them anew."""
        for link in list(self._up.values()):
            link.abort(reason)

    def _frame_of(self, message: Message) -> bytes:
        """Its frame; a message that goes to several peers in a row is encoded once."""
        if self._encoded is None or self._encoded[0] is not message:
            self._encoded = (message, encode_frame(message))
        return self._encoded[1]

    def _flush(self) -> None:
        self._will_flush = False
        self._encoded = None
        links, self._unflushed = self._unflushed, {}
        for link in links:
            link.flush()

    def links(self) -> dict[int, bool]:
        """Every other member's id, and whether there is a link to it."""
        return {peer: peer in self._up for peer in self._others}

    def client_addresses(self) -> dict[int, str]:
        """Where clients reach the other members, ``HOST:PORT``, as each said when it was last linked; may be empty."""
        return dict(self._client_addresses)

    # --- what the links tell -----------------------------------------------------------

    def objection(self, theirs: Hello, dialled: int | None) -> str | None:
        """Why a peer with this Hello is refused; None: it is not.

        :param dialled: the id of the node that was dialled, None on an accepted connection.
        """
        ours = self.hello
        if dialled is not None and theirs.node_id != dialled and theirs.cluster_id == ours.cluster_id:
            return (
                f"node {ours.node_id} dialled the peer address of node {dialled} and reached node {theirs.node_id}: "
                f"check where the peer address of node {dialled} leads"
            )
        reason = check_hello(ours, theirs)
        if reason is None and dialled is None and theirs.node_id < ours.node_id:
            return f"node {theirs.node_id} dialled node {ours.node_id}: of two members the one with the higher id dials"
        return reason

    def opened(self, link: Link) -> None:
        """A connection stands; its Hello is due."""
        self._open[link] = None
        if link.dialled is not None:
            return
        self._strangers[link] = None
        if len(self._strangers) > STRANGERS_MAX:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abort(f"more than {STRANGERS_MAX} connections have not said Hello, and it is the oldest")

    def up(self, link: Link, hello: Hello) -> None:
        """Its Hello was accepted: the link takes the place of an older one of the same peer."""
        self._strangers.pop(link, None)
        older = self._up.get(link.peer)
        if older is not None:
            reason = f"a newer connection of node {link.peer} takes its place"
            older.abort(reason)
            self._down(older, reason)
        self._up[link.peer] = link
        self._troubles = {trouble: None for trouble in self._troubles if trouble[0] != link.whom}
        self.log.info("the link to node {peer} is up, at {host}", peer=link.peer, host=link.host)
        self._client_addresses[link.peer] = reached_by(hello.client, link.host)
        self._linked(link.peer, link.host)
        self.receiver.peer_up(link.peer, hello.incarnation, hello.disk_id, hello.vms)

    def refused(self, link: Link, reason: str) -> None:
        """One of the two sides will not go on; the connection is being closed."""
        self._strangers.pop(link, None)
        if link.up_since_s is None:
            self._trouble(link.whom, reason)
        self._down(link, reason)

    def gone(self, link: Link, reason: str) -> None:
        """The connection is no more."""
        del self._open[link]
        self._strangers.pop(link, None)
        self._unflushed.pop(link, None)
        if link.up_since_s is None and not self.stopping:
            self._trouble(link.whom, reason)
        try:
            self._down(link, reason)
        finally:  # the member is dialled again whatever the receiver raises
            self._after(link)

    def _after(self, link: Link) -> None:
        if link.dialled is not None:
            up_s = 0.0 if link.up_since_s is None else self.reactor.seconds() - link.up_since_s
            self._diallers[link.dialled].lost(up_s)
        self._check_all_gone()

    def _down(self, link: Link, reason: str) -> None:
        """Tell the receiver, if ``link`` is the one that it knows: so it hears it once."""
        if self._up.get(link.peer) is not link:
            return
        del self._up[link.peer]
        self.log.warn("the link to node {peer} is down: {reason}", peer=link.peer, reason=reason)
        self.receiver.peer_down(link.peer, reason)

    def _trouble(self, whom: str, reason: str) -> None:
        """Log why there is no link with ``whom``, as a warning unless it was told already."""
        if (whom, reason) in self._troubles:
            self.log.debug("no link with {whom}, still: {reason}", whom=whom, reason=reason)
            return
        if len(self._troubles) >= TROUBLES_MAX:
            self._troubles.clear()
        self._troubles[whom, reason] = None
        self.log.warn("no link with {whom}: {reason}", whom=whom, reason=reason)
