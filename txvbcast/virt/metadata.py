"""What the adapters of clouds share: HTTP to a metadata service, times as clouds write them, appointments.

A cloud's machines reach its metadata service at an address of the link, by plain HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

import attrs
import msgspec
from hyperlink import URL
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, RequestTransmissionFailed, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from txvbcast.units import format_duration, format_size
from txvbcast.virt.polling import Unreachable

#: An answer that is longer is cut off: no such service has that much to say.
BODY_BYTES_MAX = 1 << 20

#: So much of what cannot be understood is shown to people.
_SHOWN_BYTES = 80

#: No time is written in more.
_TIME_CHARS_MAX = 64

Document = TypeVar("Document")


@attrs.frozen
class Answer:
    """What a metadata service answered.

    :ivar question: method and URL, for people.
    """

    question: str
    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str:
        """A header's last value, or nothing."""
        values = self.headers.getRawHeaders(name.encode(), [])
        return values[-1].decode("latin-1").strip() if values else ""

    def document(self, form: type[Document]) -> Document:
        """The body as JSON of a form.

        :raises Unreachable: it is none; the text says where it is not.
        """
        try:
            return msgspec.json.decode(self.body, type=form, strict=False)
        except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
            raise self.misunderstood(str(error)) from error

    def text(self) -> str:
        """The body as text, without the white space around it.

        :raises Unreachable: it is no text.
        """
        try:
            return self.body.decode().strip()
        except UnicodeDecodeError as error:
            raise self.misunderstood(str(error)) from error

    def misunderstood(self, why: str) -> Unreachable:
        """For an answer that makes no sense."""
        return Unreachable(f"{self.question} answered {self.status} and what nobody understands ({why}): {self._shown}")

    def refused(self) -> Unreachable:
        """For a status that nobody expects; the next question is asked when the service says so."""
        retry_after = self.header("Retry-After")
        seconds = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else None
        return Unreachable(f"{self.question} answered {self.status}: {self._shown}", seconds)

    @property
    def _shown(self) -> str:
        rest = " ..." if len(self.body) > _SHOWN_BYTES else ""
        return f"{self.body[:_SHOWN_BYTES]!r}{rest}"


class Metadata:
    """One metadata service.  No proxy is asked, and no redirection followed.

    :param endpoint: scheme, host and port, as ``http://169.254.169.254``.
    :param timeout_s: for an answer as a whole.
    :param cloud: whose it is, for people.
    """

    def __init__(self, reactor: Any, endpoint: str, timeout_s: float, cloud: str) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._reactor = reactor
        self._timeout_s = timeout_s
        self._cloud = cloud
        # A connection that was kept would be dead after the very absence that this is about.
        pool = HTTPConnectionPool(reactor, persistent=False)
        self._agent = Agent(reactor, connectTimeout=timeout_s, pool=pool)

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
        document: object = None,
        timeout_s: float | None = None,
        also: Collection[int] = (),
    ) -> Answer:
        """Ask once.

        :param document: sent as JSON, if it is not None.
        :param timeout_s: instead of the usual one, for a question that the service takes its time for.
        :param also: statuses besides 200 that the caller knows what to make of.
        :raises Unreachable: no answer in time, none that is whole, one that is too long, or another status.
        """
        question = f"{method} {self.endpoint}{path}"
        address = self.endpoint + path + (f"?{urlencode(query)}" if query else "")
        within_s = self._timeout_s if timeout_s is None else timeout_s

        def too_slow(_result: object, _timeout_s: float) -> Failure:
            return Failure(Unreachable(f"{question}: no answer within {format_duration(within_s)}; {self._advice}"))

        sent: dict[str, Any] = {"json": document} if document is not None else {}  # None would be sent as null
        exchange = Deferred.fromCoroutine(self._exchange(question, method, address, headers, sent))
        exchange.addTimeout(within_s, self._reactor, onTimeoutCancel=too_slow)
        try:
            answer = await exchange
        except (ConnectError, DNSLookupError, ResponseFailed, RequestTransmissionFailed) as error:
            raise Unreachable(f"{question}: {_why(error)}; {self._advice}") from error
        if answer.status != 200 and answer.status not in also:
            raise answer.refused()
        return answer

    async def _exchange(
        self, question: str, method: str, address: str, headers: Mapping[str, str], sent: dict[str, Any]
    ) -> Answer:
        response = await HTTPClient(self._agent).request(  # a new one each time, for it would collect cookies
            method,
            _Address.from_text(address),
            headers=Headers({name: [value] for name, value in headers.items()}),
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
            **sent,
        )
        body = _Body(question)
        response.deliverBody(body)
        return Answer(question, response.code, response.headers, await body.whole)

    @property
    def _advice(self) -> str:
        return f"is this a machine of {self._cloud}, and may it reach its metadata service?"


def _why(error: Exception) -> str:
    """An error of the connection, in words."""
    while isinstance(error, (ResponseFailed, RequestTransmissionFailed)) and error.reasons:
        error = error.reasons[0].value
    return str(error) or type(error).__name__


class _Address(URL):
    """A URL in which everything is encoded already.

    Encoded once more by hyperlink, the colons of an IPv6 address would be refused, as letters of a name.
    """

    def to_uri(self) -> _Address:
        """Itself."""
        return self


class _Body(Protocol):
    """Gathers a body up to a bound.

    Unlike with :func:`treq.collect`, whoever gives up waiting closes the connection, even one on which nothing
    comes any more.
    """

    def __init__(self, question: str) -> None:
        self.whole: Deferred[bytes] = Deferred(self._cut)
        self._question = question
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def dataReceived(self, data: bytes) -> None:
        """A part."""
        self._parts.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > BODY_BYTES_MAX and not self.whole.called:
            self._parts.clear()
            more = Unreachable(f"{self._question} answered more than {format_size(BODY_BYTES_MAX)}")
            self._cut(self.whole)
            self.whole.errback(more)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, or what came instead of it."""
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(reason)

    def _cut(self, _whole: Deferred[bytes]) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def parse_time(text: str) -> float | None:
    """A time as clouds write it, in seconds since 1970; None for what is none.

    ``Mon, 19 Sep 2016 18:29:47 GMT``, the same without the day of the week, or ``2016-09-19T18:29:47Z``.
    """
    if len(text) > _TIME_CHARS_MAX:
        return None
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = parse(text)
        except (ValueError, OverflowError):
            continue
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None


class Appointments:
    """Calls that are due at some time, each by its name."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calls: dict[str, IDelayedCall] = {}
        self._closed = False

    def make(self, name: str, delay_s: float, call: Callable[[], None]) -> None:
        """Call after ``delay_s``, instead of what was to be called under this name; at once if it is not positive."""
        self.drop(name)
        if self._closed:
            return
        if delay_s > 0:
            self._calls[name] = self._reactor.callLater(delay_s, self._keep, name, call)
        else:
            call()

    def drop(self, name: str) -> None:
        """Forget it, if there is such an appointment."""
        call = self._calls.pop(name, None)
        if call is not None:
            call.cancel()

    def close(self) -> None:
        """Forget all, and take no more."""
        self._closed = True
        for name in list(self._calls):
            self.drop(name)

    def _keep(self, name: str, call: Callable[[], None]) -> None:
        del self._calls[name]
        call()
