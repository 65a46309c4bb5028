"""The metadata services of three clouds on a loopback port, as their documentation and logs show them; and broken.

A :class:`MetadataServer` answers over real connections with the pages of one cloud. While ``fault`` is set it
does that instead. What was asked is kept, so that a test can wait for a question and look at it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from typing import Any, Protocol

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.protocols.policies import WrappingFactory
from twisted.trial import unittest
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests.recording_sink import RecordingSink, surroundings
from txvbcast.config import Address
from txvbcast.virt import polling

#: Far more than anybody reads.
HUGE_BYTES = 16 << 20

#: Does something to a request instead of answering it.
Fault = Callable[[Request], None]


@attrs.frozen
class Asked:
    """A question that came in."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Headers
    body: bytes

    def header(self, name: str) -> str:
        """A header, or nothing."""
        return (self.headers.getRawHeaders(name) or [""])[0]


class Pages(Protocol):
    """What one cloud answers."""

    def answer(self, asked: Asked, request: Request) -> None:
        """Answer, now or later."""


def reply(request: Request, body: object, status: int = 200, **headers: str) -> None:
    """Answer with JSON, or with a text as it is."""
    request.setResponseCode(status)
    for name, value in headers.items():
        request.setHeader(name.replace("_", "-"), value)
    request.write(body.encode() if isinstance(body, str) else json.dumps(body).encode())
    request.finish()


class MetadataServer(Resource):
    """One service on a port of its own.

    :ivar asked: every question, oldest first.
    :ivar fault: done to questions while it is set, to those whose path contains ``at``.
    """

    isLeaf = True

    def __init__(self, pages: Pages, host: str = "127.0.0.1") -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.fault: Fault | None = None
        self.at = ""
        self._pages = pages
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self._connections = WrappingFactory(_Site(self, timeout=None))
        self._port = reactor.listenTCP(0, self._connections, interface=host)
        self.endpoint = "http://" + str(Address(host, self._port.getHost().port))

    def break_down(self, fault: Fault, at: str = "") -> None:
        """From now on, until :meth:`mend`."""
        self.fault, self.at = fault, at

    def mend(self) -> None:
        """Answer again."""
        self.fault = None

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires as soon as ``condition`` holds after a question (or holds already)."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append((condition, waiting))
        self._look()
        return waiting

    def until_asked(self, times: int = 1, path: str = "") -> Deferred[None]:
        """Fires after so many more questions whose path contains ``path``."""
        before = self.count(path)
        return self.until(lambda: self.count(path) >= before + times)

    def count(self, path: str = "", method: str = "") -> int:
        """How many questions there were."""
        return sum(path in asked.path and asked.method.startswith(method) for asked in self.asked)

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._connections.protocols)

    def close(self) -> Deferred[None]:
        """Listen no more, and end every connection."""
        for connection in self._connections.protocols:
            connection.transport.abortConnection()
        return self._port.stopListening()

    def render(self, request: Request) -> int:
        """Called for every question."""
        query = {name.decode(): values[0].decode() for name, values in request.args.items()}
        asked = Asked(
            request.method.decode(), request.path.decode(), query, request.requestHeaders, request.content.read()
        )
        self.asked.append(asked)
        request.notifyFinish().addErrback(lambda _gone: None)
        if self.fault is not None and self.at in asked.path:
            self.fault(request)
        else:
            self._pages.answer(asked, request)
        self._look()
        return NOT_DONE_YET

    def _look(self) -> None:
        ready = [waiting for condition, waiting in self._waiting if condition()]
        self._waiting = [pair for pair in self._waiting if pair[1] not in ready]
        for waiting in ready:
            waiting.callback(None)


class _Site(Site):
    """Writes no log."""

    def log(self, request: Request) -> None:
        """Nothing."""


# --- faults ---------------------------------------------------------------------------------------


def hang(request: Request) -> None:
    """Say nothing, for ever."""


def hang_in_body(request: Request) -> None:
    """Begin an answer and say no more."""
    request.setHeader("Content-Length", "1000")
    request.write(b'{"DocumentIncarnation": 1, ')


def cut(request: Request) -> None:
    """End the connection without a word."""
    request.transport.loseConnection()


def cut_in_body(request: Request) -> None:
    """End the connection in the middle of a JSON."""
    hang_in_body(request)
    request.transport.loseConnection()


def half_json(request: Request) -> None:
    """A whole answer with half a JSON."""
    reply(request, '{"DocumentIncarnation": 1, "Events": [{"EventId": "A1')


def garbage(request: Request) -> None:
    """Bytes that are no HTTP."""
    request.transport.write(b"\x00\xff\xfe SSH-2.0-garbage\r\n\r\n" * 3)
    request.transport.loseConnection()


def bad_encoding(request: Request) -> None:
    """A body that is said to be compressed, and is not."""
    reply(request, "this is no gzip", Content_Encoding="gzip")


def binary(request: Request) -> None:
    """A body that is no text."""
    request.write(b"\xff\xfe\xfd")
    request.finish()


def deep(request: Request) -> None:
    """JSON that no parser follows down."""
    reply(request, "[" * 100_000)


def deep_inside(request: Request) -> None:
    """The same, in a place that nobody looks at."""
    reply(request, '{"new": ' + "[" * 100_000)


def huge(request: Request) -> None:
    """A body of 16 MB on one line, in small pieces, of which several come at a time."""
    for _ in range(HUGE_BYTES >> 12):
        request.write(b" " * (1 << 12))
    request.finish()


def until_closed(request: Request) -> None:
    """A body whose length nobody tells: it lasts until the connection ends."""
    request.transport.write(b'HTTP/1.1 200 OK\r\n\r\n{"events": ["a"]}')
    request.transport.loseConnection()


def huge_header(request: Request) -> None:
    """A header of 16 MB."""
    request.transport.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * HUGE_BYTES + b"\r\n\r\n")


def status(code: int, **headers: str) -> Fault:
    """Only a status, and headers."""
    return lambda request: reply(request, f"<html>error {code}</html>", code, **headers)


def says(body: object, **headers: str) -> Fault:
    """Something else."""
    return lambda request: reply(request, body, **headers)


def after(delay_s: float, fault: Fault) -> Fault:
    """The same, but late."""

    def later(request: Request) -> None:
        call = reactor.callLater(delay_s, fault, request)
        request.notifyFinish().addErrback(lambda _gone: call.cancel())

    return later


class CloudTestCase(unittest.TestCase):
    """An adapter, its sink, and the service that it asks.

    :cvar adapter: the module; pages: what makes the service's pages; options: of every test.
    """

    adapter: Any
    pages_of: Callable[[], Any]
    options: Mapping[str, object] = {}

    def setUp(self) -> None:
        self.pages = type(self).pages_of()
        self.server = MetadataServer(self.pages)
        self.addCleanup(self.server.close)
        self.sink = RecordingSink()
        # What is tested is what happens, and not when.
        self.patch(polling, "back_off_s", lambda failures: 0.005 * (1 + failures))

    def make(self, **options: object) -> Any:
        """An adapter that is not started."""
        given = {"endpoint": self.server.endpoint, "timeout": "5s", **self.options, **options}
        return self.adapter.make(given, surroundings(reactor))

    def start(self, **options: object) -> Any:
        """One that is, until the test ends."""
        adapter = self.make(**options)
        adapter.start(self.sink)
        self.addCleanup(adapter.stop)
        return adapter

    async def polled(self, times: int = 2) -> None:
        """So many more polls have been answered: what a change of the pages leads to has happened."""
        await self.sink.until_said("connected", len(self.sink.of("connected")) + times)

    async def lost(self, fault: Fault, words: str, at: str = "") -> str:
        """The service breaks down, which is said in these words; then it is mended, and heard again."""
        before = len(self.sink.of("lost"))
        self.server.break_down(fault, at)
        await self.sink.until_said("lost", before + 2)
        problems = [call[0] for call in self.sink.of("lost")[before:]]
        for problem in problems:
            self.assertIn(words, problem)
            self.assertIn(self.server.endpoint + at, problem)
            self.assertLess(len(problem), 500)
        self.server.mend()
        await self.polled()
        return problems[0]

    async def survives(self, at: str = "", json: bool = True) -> None:
        """Whatever becomes of the page ``at``, it is said, and then all is well again."""
        faults = [
            (cut, "may it reach its metadata service?"),
            (cut_in_body, "may it reach its metadata service?"),
            (garbage, "may it reach its metadata service?"),
            (huge, "more than 1MiB"),
            (status(403), "answered 403: b'<html>error 403</html>'"),
            (status(429, Retry_After="0"), "answered 429"),
            (status(500), "answered 500"),
            (binary, "nobody understands"),
        ]
        if json:
            faults += [
                (half_json, "nobody understands"),
                (deep, "nobody understands"),
                (says("[]x"), "nobody understands"),
            ]
        for fault, words in faults:
            await self.lost(fault, words, at)

    def warnings(self) -> list[str]:
        """What is logged as a warning from now on, as people see it."""
        said: list[str] = []

        def observe(event: Mapping[str, Any]) -> None:
            if event.get("log_level") is LogLevel.warn:
                said.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return said


# --- Azure ----------------------------------------------------------------------------------------


def azure_event(
    event_id: str = "C7061BAC",
    event_type: str = "Freeze",
    status: str = "Scheduled",
    resources: Sequence[str] = ("vm1",),
    in_s: float = 900.0,
    duration_s: object = 9,
    **other: object,
) -> dict[str, object]:
    """An item of Azure's ``Events``; ``in_s``: NotBefore, from now."""
    return {
        "EventId": event_id,
        "EventStatus": status,
        "EventType": event_type,
        "ResourceType": "VirtualMachine",
        "Resources": list(resources),
        "NotBefore": formatdate(time.time() + in_s, usegmt=True) if status == "Scheduled" else "",
        "Description": "Host server is undergoing maintenance.",
        "EventSource": "Platform",
        "DurationInSeconds": duration_s,
        **other,
    }


class AzurePages:
    """Scheduled Events, and the machine's name.

    :ivar approved: ids of events that the machine has approved.
    :ivar starts: whether an approved event starts at once.
    """

    def __init__(self, name: str = "vm1") -> None:
        self.name = name
        self.incarnation = 1
        self.events: list[dict[str, object]] = []
        self.approved: list[str] = []
        self.starts = True

    def publish(self, *events: dict[str, object], incarnation: int | None = None) -> None:
        """A new document; its number rises unless it is given."""
        self.events = list(events)
        self.incarnation = self.incarnation + 1 if incarnation is None else incarnation

    def start(self) -> None:
        """All events start."""
        self.publish(*({**event, "EventStatus": "Started", "NotBefore": ""} for event in self.events))

    def answer(self, asked: Asked, request: Request) -> None:
        """As the documentation says."""
        if asked.header("Metadata") != "true" or not asked.query.get("api-version"):
            reply(request, {"error": "Bad request. Required metadata header not specified"}, 400)
        elif asked.path == "/metadata/instance":
            reply(request, {"compute": {"name": self.name, "vmId": "5c08b38e"}, "network": {}})
        elif asked.path != "/metadata/scheduledevents":
            reply(request, {"error": "Not found"}, 404)
        elif asked.method == "POST":
            self._approve(asked, request)
        else:
            reply(request, {"DocumentIncarnation": self.incarnation, "Events": self.events})

    def _approve(self, asked: Asked, request: Request) -> None:
        ids = [start["EventId"] for start in json.loads(asked.body)["StartRequests"]]
        if not set(ids) <= {event["EventId"] for event in self.events}:
            reply(request, {"error": "unknown event"}, 400)
            return
        self.approved += ids
        if self.starts:
            self.start()
        reply(request, "")


# --- Google ---------------------------------------------------------------------------------------


class GcePages:
    """``maintenance-event``, with its long polls."""

    def __init__(self, value: str = "NONE") -> None:
        self.value = value
        self.version = 1
        self._polls: dict[Request, IDelayedCall] = {}

    @property
    def etag(self) -> str:
        """Of the present value; sixteen hexadecimal digits, as on the real service."""
        return f"{self.version:016x}"

    def set(self, value: str) -> None:
        """A new value; whoever waits for a change hears it."""
        self.value = value
        self.version += 1
        self.wake()

    def wake(self) -> None:
        """The time of all long polls is over."""
        for request in list(self._polls):
            self._tell(request)

    def answer(self, asked: Asked, request: Request) -> None:
        """As the documentation says."""
        if asked.header("Metadata-Flavor") != "Google":
            reply(request, "Missing Metadata-Flavor:Google header.", 403)
        elif asked.path != "/computeMetadata/v1/instance/maintenance-event":
            reply(request, "not found", 404)
        elif asked.query.get("wait_for_change") == "true" and asked.query.get("last_etag") == self.etag:
            self._polls[request] = reactor.callLater(float(asked.query["timeout_sec"]), self._tell, request)
            request.notifyFinish().addErrback(lambda _gone: self._forget(request))
        else:
            self._tell(request)

    def _tell(self, request: Request) -> None:
        self._forget(request)
        reply(request, self.value, ETag=self.etag, Metadata_Flavor="Google", Content_Type="application/text")

    def _forget(self, request: Request) -> None:
        call = self._polls.pop(request, None)
        if call is not None and call.active():
            call.cancel()


# --- Amazon ---------------------------------------------------------------------------------------


class AwsPages:
    """IMDSv2: a token first, then events.

    :ivar events: items of ``events/maintenance/scheduled``.
    :ivar spot: ``spot/instance-action``, if there is one; rebalance likewise.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, object]] | None = []
        self.spot: dict[str, str] | None = None
        self.rebalance: dict[str, str] | None = None
        self._tokens = 0
        self._valid = ""

    def expire(self) -> None:
        """The token is good no more."""
        self._valid = ""

    def answer(self, asked: Asked, request: Request) -> None:
        """As the documentation says."""
        if asked.path == "/latest/api/token":
            self._give_token(asked, request)
        elif not self._valid or asked.header("X-aws-ec2-metadata-token") != self._valid:
            reply(request, "", 401)
        else:
            pages = {
                "/latest/meta-data/events/maintenance/scheduled": self.events,
                "/latest/meta-data/spot/instance-action": self.spot,
                "/latest/meta-data/events/recommendations/rebalance": self.rebalance,
            }
            page = pages.get(asked.path)
            reply(request, "" if page is None else page, 404 if page is None else 200)

    def _give_token(self, asked: Asked, request: Request) -> None:
        seconds = asked.header("X-aws-ec2-metadata-token-ttl-seconds")
        if asked.method != "PUT" or not seconds.isdecimal() or not 1 <= int(seconds) <= 21600:
            reply(request, "", 400)
            return
        self._tokens += 1
        self._valid = f"AQAEA{self._tokens}=="
        reply(request, self._valid, X_aws_ec2_metadata_token_ttl_seconds=seconds)
