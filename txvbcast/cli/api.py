"""A plain blocking client of a node's HTTP interface; every failure becomes a :class:`Failed` with its exit code."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import attrs

from txvbcast.cli.failures import CODES, TYPE_PREFIX, Exit, Failed, Interrupted

DEFAULT_NODE = "http://127.0.0.1:8412"
#: Waiting for a connection, and for an answer that needs no other node.
SHORT_S = 5.0
#: What an answer may be late beyond the time that the node was given for it.
GRACE_S = 5.0
#: A stream of events shows a sign of life every 15 s.
STREAM_SILENCE_S = 40.0
DEFAULT_PORT = 80

_CUT_SHORT = (http.client.RemoteDisconnected, http.client.IncompleteRead)

Value = TypeVar("Value")


@attrs.frozen
class Answer:
    """A successful answer: its headers (names in lower case) and its body."""

    url: str
    headers: Mapping[str, str]
    content: bytes
    changes: bool

    def document(self) -> dict[str, Any]:
        """The JSON object in the body.

        :raises Failed: there is none.
        """
        try:
            document = json.loads(self.content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise self.not_understood("it is not a JSON object")
        return document

    def field(self, name: str, kind: type[Value]) -> Value:
        """A member of the JSON object.

        :raises Failed: it is missing or of another type.
        """
        value = self.document().get(name)
        if not isinstance(value, kind):
            raise self.not_understood(f"its field {name!r} is missing or not of the type {kind.__name__}")
        return value

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A member of the JSON object that is a list of objects.

        :raises Failed: it is missing or something else.
        """
        values = self.field(name, list)
        if not all(isinstance(value, dict) for value in values):
            raise self.not_understood(f"its field {name!r} holds what is not a JSON object")
        return values

    def header_number(self, name: str) -> int:
        """The number in a header.

        :raises Failed: it is missing or no number.
        """
        text = self.headers.get(name.lower(), "")
        if not (text.isascii() and text.isdigit()):
            raise self.not_understood(f"its header {name} is missing or no number")
        return int(text)

    def not_understood(self, why: str) -> Failed:
        """The failure for an answer that is not what it should be."""
        return Failed(
            "not-understood",
            f"the answer of {self.url} is not understood: {why}; is it a node of this version of txvbcast?",
            code=Exit.UNKNOWN if self.changes else None,
        )


class Api:
    """One node's HTTP interface.

    :raises ValueError: ``url`` is not of the form http://HOST[:PORT].
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"{url!r}: {error}; expected http://HOST:PORT") from error
        extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
        if parts.scheme != "http" or not host or extra:
            raise ValueError(f"expected http://HOST:PORT, got {url!r}")
        self.url = f"http://{parts.netloc}"
        self._host = host
        self._port = DEFAULT_PORT if port is None else port

    def get(self, path: str, query: Mapping[str, Any] | None = None, wait_s: float = 0.0) -> Answer:
        """Read something; ``wait_s`` is how long the node may take over it.

        :raises Failed: the node cannot be reached, or says no.
        """
        return self._call("GET", path, query, None, wait_s, changes=False)

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
        wait_s: float = 0.0,
        changes: bool = True,
    ) -> Answer:
        """Have something done; once the request has left, a lost connection is an unknown outcome.

        :param changes: False if it only asks: then nothing can have happened.
        :raises Failed: the node cannot be reached, says no, or cannot say.
        """
        content = json.dumps(body).encode() if isinstance(body, Mapping) else body
        return self._call(method, path, query, content, wait_s, changes)

    def events(self, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of the node, until the node ends the stream.

        :raises Failed: the node cannot be reached or does not give a sign of life any more.
        """
        connection = self._connect()
        try:
            connection.request("GET", _target("/v1/events", query))
            _wait(connection, STREAM_SILENCE_S)
            response = connection.getresponse()
            if response.status != 200:
                raise self._problem(response.status, response.read(), changes=False)
            for line in response:
                if line.startswith(b"data: "):
                    yield Answer(self.url, {}, line[6:], changes=False).document()
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error, changes=False) from error
        finally:
            connection.close()

    def _call(
        self, method: str, path: str, query: Mapping[str, Any] | None, body: bytes | None, wait_s: float, changes: bool
    ) -> Answer:
        connection = self._connect()
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                # a node that will not have the body answers before it has read it
                connection.request(method, _target(path, query), body)
            _wait(connection, wait_s + GRACE_S)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error, changes) from error
        except KeyboardInterrupt:
            if not changes:
                raise
            raise Interrupted from None
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise self._problem(response.status, content, changes)
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(self.url, headers, content, changes)

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=SHORT_S)
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:
            connection.close()
            raise Failed(
                "unreachable",
                f"cannot reach {self.url}: {_reason(error)}; is the node running, and is this its HTTP address?",
            ) from error
        return connection

    def _lost(self, error: Exception, changes: bool) -> Failed:
        """The failure for a connection that was there and brought no answer."""
        if isinstance(error, http.client.HTTPException) and not isinstance(error, _CUT_SHORT):
            detail = f"what answers at {self.url} does not speak HTTP as a node does ({_reason(error)})"
            return Failed("not-understood", detail)
        if isinstance(error, TimeoutError):
            why = f"{self.url} took the request and did not answer in time; is the node frozen?"
        else:
            why = f"{self.url} took the request and closed the connection: {_reason(error)}"
        return Failed("outcome-unknown", f"{why}; it may have happened") if changes else Failed("unreachable", why)

    def _problem(self, status: int, content: bytes, changes: bool) -> Failed:
        """The failure that a problem document speaks of."""
        try:
            document = json.loads(content)
            kind = str(document["type"]).removeprefix(TYPE_PREFIX)
            detail = str(document["detail"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return Failed(
                "not-understood", f"{self.url} answered with HTTP status {status}, not as a node does; is it one?"
            )
        code = CODES.get(kind, _code_of(status, changes))
        facts = {name: value for name, value in document.items() if name != "detail"}
        return Failed(kind, detail, facts, code)


def _code_of(status: int, changes: bool) -> Exit:
    """The exit code for a kind of problem that this version does not know."""
    if status < 500:
        return Exit.REFUSED
    return Exit.UNKNOWN if changes else Exit.UNREACHABLE


def _target(path: str, query: Mapping[str, Any] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given, quote_via=quote)}" if given else path


def _wait(connection: http.client.HTTPConnection, timeout_s: float) -> None:
    if connection.sock is not None:
        connection.sock.settimeout(timeout_s)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
