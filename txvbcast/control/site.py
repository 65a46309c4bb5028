"""The HTTP server below the routes: bounded bodies, no cross-site writes, answers as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from txvbcast.control.problems import RETRY_AFTER_S, Problem

#: A body that is too large is still read to its end, so that the client reads the answer, up to this
#: many bytes more; past that it is answered at once and cut off.
EXCESS_BYTES_MAX = 4 << 20

_SAFE_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_HEADERS = {
    b"Server": b"txvbcast",
    b"Cache-Control": b"no-store",
    b"X-Content-Type-Options": b"nosniff",
}


def encode(document: object) -> bytes:
    """``document`` as JSON with a line end."""
    return msgspec.json.encode(document) + b"\n"


class ApiRequest(Request):
    """A request whose body is bounded by its site and which cannot come from a page of another site."""

    _received_bytes = 0
    _cut_off = False

    # --- the body, as it comes in ---

    def gotLength(self, length: int | None) -> None:
        """Called when the headers are read; ``length`` is None for a chunked body."""
        self.content = BytesIO()
        if length is not None and length > self._bytes_max + EXCESS_BYTES_MAX:
            self._cut_off_client()

    def handleContentChunk(self, data: bytes) -> None:
        """Keep what fits, count the rest."""
        self._received_bytes += len(data)
        if self._received_bytes <= self._bytes_max:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]
        elif self._received_bytes > self._bytes_max + EXCESS_BYTES_MAX:
            self._cut_off_client()

    @property
    def _bytes_max(self) -> int:
        channel: Any = self.channel
        return int(channel.site.body_bytes_max)

    def _cut_off_client(self) -> None:
        if self._cut_off:
            return
        self._cut_off = True
        body = encode(self._too_large().document())
        self.channel.write(
            b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.channel.loseConnection()

    def _too_large(self) -> Problem:
        return Problem("too-large", f"the body is larger than {self._bytes_max} bytes")

    # --- the request, once it is there ---

    def process(self) -> None:
        """Refuse what no route should see, then route."""
        if self._cut_off:
            return
        try:
            self._screen()
        except Problem as problem:
            answer_problem(self, problem)
            self.finish()  # type: ignore[no-untyped-call]
        else:
            super().process()  # type: ignore[no-untyped-call]

    def _screen(self) -> None:
        if self._received_bytes > self._bytes_max:
            raise self._too_large()
        try:
            unquote_to_bytes(self.path).decode()
        except UnicodeDecodeError:
            raise Problem("bad-request", "the path is not UTF-8", {"field": "path"}) from None
        origin = self.getHeader(b"origin")
        if origin is not None and self.method not in _SAFE_METHODS:
            self._screen_origin(origin)

    def _screen_origin(self, origin: bytes) -> None:
        """Browsers name the site of the page that writes; only this node's own pages may."""
        host = (self.getHeader(b"host") or b"").lower()
        own = re.fullmatch(rb"https?://(.+)", origin.lower())
        if own is None or own[1] != host:
            raise Problem("forbidden", f"the request comes from a page of {origin.decode('latin-1')}, not of this node")

    def getRequestHostname(self) -> bytes:
        """The same for every request: no route depends on the name by which the client knows this node."""
        return b"node"

    def write(self, data: bytes) -> None:
        """Write a piece of the answer; the first takes the headers along."""
        if not self.startedWriting:
            for name, value in _HEADERS.items():
                self.setHeader(name, value)  # type: ignore[no-untyped-call]
        super().write(data)  # type: ignore[no-untyped-call]


class ApiSite(Site):
    """Serves ``resource``; bodies up to ``body_bytes_max``; keeps no access log, the log of the node has reasons."""

    requestFactory = ApiRequest

    def __init__(self, resource: IResource, body_bytes_max: int, reactor: IReactorTime) -> None:
        super().__init__(resource, parsePOSTFormSubmission=False, reactor=reactor)  # type: ignore[no-untyped-call]
        self.body_bytes_max = body_bytes_max

    def log(self, request: object) -> None:
        """Nothing: hundreds of transactions a second would bury what operators look for."""


def body_of(request: Request) -> bytes:
    """The whole body of a request."""
    content: Any = request.content
    return bytes(content.read())


def cut_off(request: Request) -> None:
    """End the connection of ``request`` without sending what waits."""
    channel: Any = request.channel
    channel.transport.abortConnection()


def answer(request: Request, document: object, status: int = 200, headers: Mapping[str, int] | None = None) -> bytes:
    """Set status and headers for the JSON ``document``.

    :returns: the body, for the route to return.
    """
    return _answer(request, encode(document), b"application/json", status, headers or {})


def answer_bytes(request: Request, body: bytes, headers: Mapping[str, int]) -> bytes:
    """Set status and headers for ``body``, which is a client's own and may be anything.

    :returns: the body, for the route to return.
    """
    return _answer(request, body, b"application/octet-stream", 200, headers)


def _answer(request: Request, body: bytes, kind: bytes, status: int, headers: Mapping[str, Any]) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", kind)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    for name, value in headers.items():
        request.setHeader(name.encode(), str(value).encode())
    return body


def problem_body(request: Request, problem: Problem) -> bytes:
    """Set status and headers for a problem document.

    :returns: the body, for the route to return.
    """
    retry_s = RETRY_AFTER_S.get(problem.kind)
    headers = {} if retry_s is None else {"Retry-After": retry_s}
    return _answer(request, encode(problem.document()), b"application/problem+json", problem.status, headers)


def answer_problem(request: Request, problem: Problem) -> None:
    """Write a problem document without the help of a route; the caller finishes the request."""
    request.write(problem_body(request, problem))
