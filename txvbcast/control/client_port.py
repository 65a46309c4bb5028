"""The TCP port of a node's clients: bytes to messages and back, and who may stay.

**Back-pressure.**  While a client does not read its answers, nothing more is read of its
requests; so what waits for it is bounded by what it may have asked.  One that lets too much
gather, or reads nothing for too long, is disconnected.

What is said in one turn of the reactor is written at its end, at once.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txvbcast.control.client_desk import Desk, Desks
from txvbcast.errors import RemoteProtocolError
from txvbcast.turns import Turn, send
from txvbcast.wire.client_messages import ClientMessage, ToClient
from txvbcast.wire.codec import CLIENTS, FrameDecoder, encode_frame
from txvbcast.wire.limits import FRAME_BYTES_MAX

log = Logger()

#: How long a new connection may take to say ClientHello.
HELLO_TIMEOUT_S: Final = 5.0

#: The longest ClientHello that is read: nobody has said yet who he is.
HELLO_BYTES_MAX: Final = 4096

#: Connections that have not said ClientHello yet; one more closes the oldest.
STRANGERS_MAX: Final = 64

#: What may wait for a client that does not read, and for how long.
UNREAD_BYTES_MAX: Final = 64 * 1024 * 1024
UNREAD_S: Final = 30.0

#: Answers of one turn are written together up to about so many bytes.
GATHERED_BYTES_MAX: Final = 1 << 16

#: How long a client may take to close its side after we closed ours.
CLOSE_TIMEOUT_S: Final = 1.0

_HTTP_STARTS: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"TRAC", b"CONN", b"PRI ")
_TLS_START: Final = b"\x16\x03"
_START_BYTES: Final = 4


class _State(enum.Enum):
    GREETING = "greeting"  # ClientHello is still due
    OPEN = "open"
    CLOSING = "closing"  # nothing is sent or believed any more


@implementer(IPushProducer)
class ClientConnection(TwistedProtocol):
    """One client's.  As the producer of its transport it is told when that is full."""

    def __init__(self, port: ClientPort) -> None:
        self._port = port
        self._state = _State.GREETING
        self._decoder: FrameDecoder[ClientMessage] = FrameDecoder(HELLO_BYTES_MAX, family=CLIENTS)
        self._start = b""  # the first bytes that came, to tell who speaks another protocol
        self._full = False
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._unread_bytes = 0
        self._deadline: IDelayedCall | None = None
        self._tcp: Any = None  # provides ITCPTransport, IConsumer and IHalfCloseableDescriptor
        self._desk: Desk

    # --- the connection ------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Twisted's: the connection stands."""
        self._tcp = self.transport
        self._tcp.setTcpNoDelay(True)
        self._tcp.setTcpKeepAlive(True)
        self._tcp.registerProducer(self, True)
        self._desk = self._port.desks.open(str(self._tcp.getHost().host), self._say, self._hang_up)
        self._set_deadline(self._port.hello_timeout_s, self._hello_is_late)
        self._port.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's: the connection is gone."""
        self._leave("")
        self._port.gone(self)

    def _closing(self) -> bool:
        return self._state is _State.CLOSING

    def close(self, reason: str) -> None:
        """Send what waits, then end our side, and give the client a moment to end its own.

        An outright close with unread input would reset the connection, and the client might never
        read the last words.
        """
        if self._closing():
            return
        self._send()
        self._leave(reason)
        self._tcp.unregisterProducer()
        self._tcp.resumeProducing()  # of input, which is thrown away
        self._tcp.loseWriteConnection()
        self._set_deadline(CLOSE_TIMEOUT_S, self._tcp.abortConnection)

    def abort(self, reason: str) -> None:
        """Drop the connection with all that waits in it."""
        if not self._closing():
            self._leave(reason)
            self._tcp.abortConnection()

    def _leave(self, reason: str) -> None:
        """The one place where a connection begins to end; ``reason`` is empty when nothing was wrong."""
        self._clear_deadline()
        if self._closing():
            return
        self._state = _State.CLOSING
        self._desk.gone()
        if reason:
            log.warn(
                "ending the connection of client {program!r} at {host}: {reason}",
                program=self._desk.program, host=self._tcp.getPeer().host, reason=reason,
            )  # fmt: skip

    def _set_deadline(self, delay_s: float, late: Callable[[], None]) -> None:
        self._clear_deadline()
        self._deadline = self._port.reactor.callLater(delay_s, late)

    def _clear_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _hello_is_late(self) -> None:
        self._desk.refuse(
            f"no ClientHello came within {self._port.hello_timeout_s:g} s: {CLIENTS.port} was dialled, "
            "where the client speaks first"
        )

    # --- what comes in -------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Twisted's: bytes, cut anyhow."""
        if self._state is _State.GREETING and len(self._start) < _START_BYTES:
            self._start += data[: _START_BYTES - len(self._start)]
        self._read(data)

    def _read(self, data: bytes) -> None:
        for message in self._messages(data):
            if isinstance(message, RemoteProtocolError):
                self._on_malformed(message)
                return
            self._desk.received(message)
            if self._state is _State.GREETING and self._desk.session:
                self._on_known()

    def _messages(self, data: bytes) -> Iterator[ClientMessage | RemoteProtocolError]:
        """The decoder's messages, and last its error, which so is told from one that the node raises.

        They end when the connection does.  While the client does not read its answers they wait.
        """
        if self._closing():
            return
        try:
            for message in self._decoder.feed(data):
                yield message
                if self._full or self._closing():
                    return
        except RemoteProtocolError as error:
            yield error

    def _on_known(self) -> None:
        """The client has said who it is, and may stay."""
        self._state = _State.OPEN
        self._decoder.frame_bytes_max = FRAME_BYTES_MAX
        self._clear_deadline()
        self._port.known(self)

    def _on_malformed(self, error: RemoteProtocolError) -> None:
        start = self._start
        if start in _HTTP_STARTS:
            send(self._tcp, _http_answer())
            self.close("it speaks HTTP")
        elif start.startswith(_TLS_START):
            self._desk.refuse(f"it speaks TLS; {CLIENTS.port} is without: connect in the clear")
        else:
            self._desk.refuse(error.reply)

    # --- what goes out -------------------------------------------------------------------

    def _say(self, message: ToClient) -> None:
        frame = encode_frame(message)
        if self._full:
            self._say_later(frame)
            return
        if not self._frames:
            self._port.turn.at_end_first(self._send)
        self._frames.append(frame)
        self._frames_bytes += len(frame)
        if self._frames_bytes > GATHERED_BYTES_MAX:
            self._send()  # whether the client reads is known only then

    def _say_later(self, frame: bytes) -> None:
        self._tcp.write(frame)
        self._unread_bytes += len(frame)
        if self._unread_bytes > self._port.unread_bytes_max:
            self.abort(f"it leaves more than {self._port.unread_bytes_max} bytes of answers unread")

    def _send(self) -> None:
        """Write what has gathered in this turn."""
        frames, self._frames, self._frames_bytes = self._frames, [], 0
        if frames:
            send(self._tcp, b"".join(frames))

    def _hang_up(self) -> None:
        self.close(f"refused: {self._desk.refusal}")

    def pauseProducing(self) -> None:
        """The transport's word that it is full: the client is slow to read."""
        self._full = True
        self._tcp.pauseProducing()
        self._desk.hold()
        if self._state is _State.OPEN:
            self._set_deadline(self._port.unread_s, self._is_stuck)

    def resumeProducing(self) -> None:
        """The transport's word that it has passed on everything."""
        self._full = False
        self._unread_bytes = 0
        if self._state is _State.OPEN:
            self._clear_deadline()
        self._desk.go_on()
        if not self._full:
            self._read(b"")  # what came before we stopped to read
        if not self._full:
            self._tcp.resumeProducing()

    def stopProducing(self) -> None:
        """The transport's word that the connection is lost; :meth:`connectionLost` says it again."""

    def _is_stuck(self) -> None:
        self.abort(f"it has read nothing, or too little, for {self._port.unread_s:g} s")


class ClientPort(Factory):
    """Listen with this.

    :param reactor: provides IReactorTime.
    :param hello_timeout_s: see :data:`HELLO_TIMEOUT_S`; the others likewise.
    """

    noisy = False

    def __init__(
        self,
        desks: Desks,
        reactor: Any,
        hello_timeout_s: float = HELLO_TIMEOUT_S,
        unread_bytes_max: int = UNREAD_BYTES_MAX,
        unread_s: float = UNREAD_S,
        turn: Turn | None = None,
    ) -> None:
        self.desks = desks
        self.reactor = reactor
        self.turn = turn or Turn(reactor)
        self.hello_timeout_s = hello_timeout_s
        self.unread_bytes_max = unread_bytes_max
        self.unread_s = unread_s
        self._open: dict[ClientConnection, None] = {}
        self._strangers: dict[ClientConnection, None] = {}  # those without ClientHello, oldest first
        self._closed: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> ClientConnection | None:
        """Twisted's: someone has connected."""
        return None if self._closed is not None else ClientConnection(self)

    def close(self) -> Deferred[None]:
        """End every connection behind what waits in it; the listening port is the caller's to stop.

        :return: fires when all are gone, after :data:`CLOSE_TIMEOUT_S` at the latest.
        """
        self._closed = Deferred()
        for connection in tuple(self._open):
            connection.close("")
        self._check_all_gone()
        return self._closed

    # --- what the connections tell -----------------------------------------------------------

    def opened(self, connection: ClientConnection) -> None:
        """A connection stands."""
        self._open[connection] = None
        self._strangers[connection] = None
        if len(self._strangers) > STRANGERS_MAX:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abort(f"more than {STRANGERS_MAX} connections have not said ClientHello, and it is the oldest")

    def known(self, connection: ClientConnection) -> None:
        """Its client has said who it is."""
        self._strangers.pop(connection, None)

    def gone(self, connection: ClientConnection) -> None:
        """The connection is no more."""
        del self._open[connection]
        self._strangers.pop(connection, None)
        self._check_all_gone()

    def _check_all_gone(self) -> None:
        if self._closed is not None and not self._open and not self._closed.called:
            self._closed.callback(None)


def _http_answer() -> bytes:
    text = (
        f"This is not the HTTP port of this node but {CLIENTS.port}, for programs that use txvbcast.client.\n"
        "HTTP is served at the address under listen.http in the node's configuration, usually one port higher.\n"
    ).encode()
    return (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(text), text)
    )
