"""One connection between two nodes: Hello, then messages until it ends.

**Hello.**  The first message of both sides is Hello.  The listening side speaks first; the
dialling side answers with its own only when it has accepted what it read.  A dialler that
reached the wrong node can therefore leave before that node takes its connection for a newer
one of the pair and closes a link that works.  When the answer arrives, both sides have
accepted.

**Writing.**  What is sent to a peer within one turn of the reactor leaves as one write.  While
the transport is full the frames wait here, counted; a peer that lets more than
``link_bytes_max`` gather has its connection aborted, and fetches what it missed when it
is linked again.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from txvbcast.errors import RemoteProtocolError
from txvbcast.turns import send
from txvbcast.wire.codec import FrameDecoder, encode_frame
from txvbcast.wire.messages import Hello, HelloRefused, Message

#: What may wait for one peer before its connection is aborted.
LINK_BYTES_MAX: Final = 64 * 1024 * 1024

#: About the most that is handed to a transport while more waits behind it.
WRITE_BYTES_MAX: Final = 1024 * 1024

#: How long a new connection may take to say Hello.  The kernel of a frozen peer accepts connections.
HELLO_TIMEOUT_S: Final = 5.0

#: How long a peer may take to close its side after we closed ours.
CLOSE_TIMEOUT_S: Final = 1.0

#: How much of a peer's own words goes into a log line.
QUOTED_CHARS_MAX: Final = 300


class Receiver(Protocol):
    """Who hears what the network learns: the driver."""

    def received(self, peer: int, message: Message) -> None:
        """A message of a peer, in the order sent as far as links carry it."""

    def peer_up(self, peer: int, incarnation: int, disk_id: str, vms: tuple[str, ...]) -> None:
        """A link to a peer was opened and both Hello were accepted."""

    def peer_down(self, peer: int, reason: str) -> None:
        """The link is gone: exactly once after each ``peer_up``."""


class Keeper(Protocol):
    """Who keeps the links: what a link needs to know, and whom it tells.

    :ivar reactor: provides IReactorTime.
    """

    reactor: Any
    receiver: Receiver
    hello_frame: bytes
    hello_timeout_s: float
    link_bytes_max: int

    def objection(self, theirs: Hello, dialled: int | None) -> str | None:
        """Why a peer with this Hello is refused; None: it is not."""

    def opened(self, link: Link) -> None:
        """The connection stands; Hello is due."""

    def up(self, link: Link, hello: Hello) -> None:
        """Its Hello was accepted."""

    def refused(self, link: Link, reason: str) -> None:
        """One of the two sides will not go on; the connection is being closed."""

    def gone(self, link: Link, reason: str) -> None:
        """The connection is no more; the last that is heard of it."""


class _State(enum.Enum):
    GREETING = "greeting"  # Hello is still due
    UP = "up"
    CLOSING = "closing"  # nothing is sent or believed any more


@implementer(IPushProducer)
class Link(TwistedProtocol):
    """One connection to a peer, accepted or dialled.

    As the producer of its transport it is told when that is full.

    :ivar dialled: the id of the node that was dialled; None on an accepted connection.
    :ivar peer: the id of the node at the other end, 0 until its Hello is accepted.
    :ivar up_since_s: the reactor's time when it was, None before.
    """

    def __init__(self, keeper: Keeper, dialled: int | None) -> None:
        self.dialled = dialled
        self.peer = 0
        self.up_since_s: float | None = None
        self._keeper = keeper
        self._state = _State.GREETING
        self._reason = ""
        self._decoder = FrameDecoder()
        self._frames: deque[bytes] = deque()
        self._frames_bytes = 0
        self._full = False
        self._in_transport_bytes = 0
        self._tcp: Any = None  # provides ITCPTransport, IConsumer and IHalfCloseableDescriptor
        self._deadline: IDelayedCall | None = None

    @property
    def host(self) -> str:
        """The address at the other end, without the port."""
        return str(self._tcp.getPeer().host)

    @property
    def whom(self) -> str:
        """The other end, for people."""
        known = self.peer or self.dialled
        return f"node {known}" if known else f"a peer at {self.host}"

    def _closing(self) -> bool:
        return self._state is _State.CLOSING

    # --- the connection ----------------------------------------------------------------

    def connectionMade(self) -> None:
        """Twisted's: the connection stands."""
        self._tcp = self.transport
        self._tcp.setTcpNoDelay(True)
        self._tcp.setTcpKeepAlive(True)
        self._tcp.registerProducer(self, True)
        self._deadline = self._keeper.reactor.callLater(self._keeper.hello_timeout_s, self._hello_is_late)
        if self.dialled is None:
            self._tcp.write(self._keeper.hello_frame)
        self._keeper.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's: the connection is gone."""
        self._leave(self._reason or _why_lost(reason))
        self._keeper.gone(self, self._reason)

    def abort(self, reason: str) -> None:
        """Drop the connection with all that waits in it; the keeper hears of it in a later turn."""
        if self._closing():
            return
        self._leave(reason)
        self._tcp.abortConnection()

    def close(self, reason: str) -> None:
        """Send what waits, then end our side, and give the peer a moment to end its own.

        An outright close with unread input would reset the connection, and the peer might never
        read the last words.
        """
        if self._closing():
            return
        self._tcp.unregisterProducer()
        self._tcp.write(b"".join(self._frames))
        self._leave(reason)
        self._tcp.loseWriteConnection()
        self._deadline = self._keeper.reactor.callLater(CLOSE_TIMEOUT_S, self._tcp.abortConnection)

    def _refuse(self, reason: str) -> None:
        """Tell the peer why, and close."""
        self._frames.append(encode_frame(HelloRefused(reason=reason)))
        self.close(reason)
        self._keeper.refused(self, reason)

    def _hello_is_late(self) -> None:
        self.abort(f"it did not say Hello within {self._keeper.hello_timeout_s:g} s")

    def _leave(self, reason: str) -> None:
        self._state = _State.CLOSING
        self._reason = reason
        self._frames.clear()
        self._frames_bytes = 0
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    # --- what comes in -----------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Twisted's: bytes, cut anyhow.

        What the receiver raises goes through: Twisted logs it and closes the connection.
        """
        for message in self._messages(data):
            if isinstance(message, RemoteProtocolError):
                self._refuse(message.reply)
            else:
                self._on_message(message)

    def _messages(self, data: bytes) -> Iterator[Message | RemoteProtocolError]:
        """The decoder's messages, and last its error, which so is told from one that the receiver raises.

        They end as soon as the link does: what follows is not believed.
        """
        if self._closing():
            return
        try:
            for message in self._decoder.feed(data):
                yield message
                if self._closing():
                    return
        except RemoteProtocolError as error:
            yield error

    def _on_message(self, message: Message) -> None:
        if isinstance(message, HelloRefused):
            self._on_refused(message)
        elif self._state is _State.GREETING:
            self._on_greeting(message)
        elif isinstance(message, Hello):
            self._refuse("a second Hello came on one link")
        else:
            self._keeper.receiver.received(self.peer, message)

    def _on_greeting(self, hello: Message) -> None:
        if not isinstance(hello, Hello):
            self._refuse(f"{type(hello).__name__} came before Hello")
            return
        reason = self._keeper.objection(hello, self.dialled)
        if reason is not None:
            self._refuse(reason)
            return
        if self._deadline is not None:
            self._deadline.cancel()
        if self.dialled is not None:
            self._tcp.write(self._keeper.hello_frame)
        self.peer = hello.node_id
        self.up_since_s = self._keeper.reactor.seconds()
        self._state = _State.UP
        self._keeper.up(self, hello)

    def _on_refused(self, message: HelloRefused) -> None:
        reason = f"it refused the link: {_printable(message.reason)}"
        self.close(reason)
        self._keeper.refused(self, reason)

    # --- what goes out -----------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Add a frame to what the next :meth:`flush` writes."""
        if self._state is not _State.UP:
            return
        self._frames.append(frame)
        self._frames_bytes += len(frame)
        waiting_bytes = self._frames_bytes + self._in_transport_bytes
        if waiting_bytes > self._keeper.link_bytes_max:
            self.abort(
                f"{waiting_bytes} bytes wait to be read by it, more than the {self._keeper.link_bytes_max} "
                "that may; it gets the rest when it is linked again"
            )

    def flush(self) -> None:
        """Write what waits, unless the transport is full."""
        while self._frames and not self._full:
            batch = self._next_batch()
            send(self._tcp, batch)
            self._in_transport_bytes = len(batch) if self._full else 0

    def _next_batch(self) -> bytes:
        """Frames to write at once; bounded, because what has left a full transport is only known when all has."""
        batch = [self._frames.popleft()]
        batch_bytes = len(batch[0])
        while self._frames and batch_bytes + len(self._frames[0]) <= WRITE_BYTES_MAX:
            batch.append(self._frames.popleft())
            batch_bytes += len(batch[-1])
        self._frames_bytes -= batch_bytes
        return b"".join(batch)

    def pauseProducing(self) -> None:
        """The transport's word that it is full."""
        self._full = True

    def resumeProducing(self) -> None:
        """The transport's word that it has passed on everything."""
        self._full = False
        self._in_transport_bytes = 0
        self.flush()

    def stopProducing(self) -> None:
        """The transport's word that the connection is lost; :meth:`connectionLost` says it with the reason."""


def _why_lost(failure: Failure) -> str:
    return "it closed the connection" if failure.check(ConnectionDone) else str(failure.getErrorMessage()).rstrip(".")


def _printable(text: str) -> str:
    """A peer's words for a log: without control characters, and not endless."""
    return "".join(char if char.isprintable() else "?" for char in text[:QUOTED_CHARS_MAX])
