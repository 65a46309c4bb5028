"""Server-sent events: one client's view of the node's event log, gap-free or with the gap named."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.server import Request
from zope.interface import implementer

from txvbcast.control.contracts import Event, EventLog, HttpLimits
from txvbcast.control.site import cut_off

_log = Logger()


def frame(event: Event) -> bytes:
    """An event as its lines on the stream."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event["id"], event["kind"].encode(), msgspec.json.encode(event))


def gap(asked: int, oldest: int) -> bytes:
    """The lines that say: the events from ``asked`` to before ``oldest`` are not kept any more."""
    data = msgspec.json.encode({"kind": "gap", "asked": asked, "oldest": oldest})
    return b"event: gap\ndata: %s\n\n" % data


@implementer(IPushProducer)
class EventStream:
    """Writes the events after ``last_id`` to one request, until the client goes.

    Nothing is queued here: a client that reads slowly gets the events from the log when it is
    ready for more.  When the events that it has left unread since then are more than the limit
    it is disconnected.
    """

    def __init__(self, request: Request, log: EventLog, last_id: int, limits: HttpLimits, clock: IReactorTime) -> None:
        self._request = request
        self._events = log
        self._last_id = last_id
        self._limits = limits
        self._follow = True
        self._paused = False
        self._unread_bytes = 0
        self._unsubscribe: Callable[[], None] = lambda: None
        self._keep_alive = LoopingCall(self._show_life)
        self._keep_alive.clock = clock
        self.done: Deferred[None] = Deferred(lambda done: self._stop())

    def start(self, follow: bool) -> None:
        """Write what is in the log; with ``follow`` go on with what comes, else end there."""
        self._follow = follow
        self._request.setHeader(b"Content-Type", b"text/event-stream")
        self._request.registerProducer(self, True)
        self._request.write(b": events\n\n")
        if self._last_id > self._events.newest_id:  # numbers of an earlier life of this node
            self._request.write(gap(self._last_id + 1, self._events.oldest_id))
            self._last_id = 0
        self._pump()
        if follow and not self.done.called:
            self._unsubscribe = self._events.subscribe(self._on_event)
            self._keep_alive.start(self._limits.keep_alive_s, now=False)

    def close(self) -> None:
        """End the stream from this side."""
        if not self.done.called:
            self._stop()
            self._request.unregisterProducer()
            self.done.callback(None)

    # --- IPushProducer ---

    def pauseProducing(self) -> None:
        """The client does not read fast enough."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The client has read what was under way."""
        self._paused = False
        self._unread_bytes = 0
        self._pump()

    def stopProducing(self) -> None:
        """The client is gone."""
        self._stop()

    # --- inside ---

    def _on_event(self, event: Event) -> None:
        if self._may_write():
            self._pump()
            return
        self._unread_bytes += len(frame(event))
        if self._unread_bytes > self._limits.event_backlog_bytes_max:
            _log.info(
                "disconnecting {client} from the events: it has left more than {bytes_max} bytes unread",
                client=self._request.getClientAddress(),
                bytes_max=self._limits.event_backlog_bytes_max,
            )
            self._stop()
            cut_off(self._request)

    def _pump(self) -> None:
        """Write from the log until the client has enough or the log has no more."""
        if not self._may_write():
            return
        oldest = self._events.oldest_id
        if self._events.newest_id > self._last_id and self._last_id + 1 < oldest:
            self._request.write(gap(self._last_id + 1, oldest))
            self._last_id = oldest - 1
        for event in self._events.since(self._last_id):
            if not self._may_write():
                return
            self._last_id = event["id"]
            self._request.write(frame(event))
        if not self._follow:
            self.close()

    def _may_write(self) -> bool:
        """Every write may turn this into no."""
        return not self._paused

    def _show_life(self) -> None:
        if self._may_write():
            self._request.write(b": still here\n\n")

    def _stop(self) -> None:
        self._unsubscribe()
        self._unsubscribe = lambda: None
        if self._keep_alive.running:
            self._keep_alive.stop()
