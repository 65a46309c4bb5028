"""Clients of all nodes at once: they read and write keys by the HTTP interface and keep a record of what they heard."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

import attrs

from tests.http_connection import Connection
from txvbcast.cli.failures import TYPE_PREFIX
from txvbcast.sim.linearizability import NEVER
from txvbcast.sim.witness import AFTER_ALL, Answer, Asked, Done, Found, Get, Place, Request, Set
from txvbcast.wire.kv import decode_result, delete_payload, put_payload

#: How long a node may think about a request, and how long the client waits for its word.
TIMEOUT_S = 2.0
ANSWER_S = TIMEOUT_S + 2.0
CONNECT_S = 1.0
#: How often a client that insists hands its write in.
ATTEMPTS = 4
#: Keys that are written all the time, and those that get much attention for a while.
COLD_KEYS = 300
HOT_KEYS = 6

#: The part of all requests before which a client turns to another node: also one that stands still has to be asked.
_ROAMING = 0.03

#: Kinds of problem documents that say that nothing happened and nothing will.
_REFUSALS = frozenset({"aborted", "overloaded", "no-quorum"})


@attrs.frozen
class Heard:
    """What came of one request: an answer, a refusal, or neither.

    :ivar sent: whether a node can have got it.
    """

    sent: bool = True
    refused: bool = False
    answer: Answer | None = None
    place: Place | None = None


UNREACHABLE = Heard(sent=False)
UNKNOWN = Heard()
REFUSED = Heard(refused=True)


class Unexpected(Exception):
    """A node answered what no node may answer."""


class Clients:
    """Some clients in a thread of their own; each waits for its answer before it asks again.

    Use it as a context manager; when the block is left every request has its answer, or never will have.

    :param addresses: the HTTP interface of each node.
    :param pause_s: how long a client rests between two requests, on average.
    :ivar history: everything that was asked, in the order of the ends.
    :ivar era: the hot keys of each era are others.
    :ivar is_paused: nothing new is asked for now.
    """

    def __init__(self, addresses: Mapping[int, tuple[str, int]], count: int, seed: int, pause_s: float) -> None:
        self.addresses = dict(addresses)
        self.pause_s = pause_s
        self.history: list[Asked] = []
        self.era = 0
        self.is_paused = False
        self.is_over = False
        self._count = count
        self._seed = seed
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_over = True
        self._thread.join(ATTEMPTS * (CONNECT_S + ANSWER_S) + ANSWER_S)
        if self._thread.is_alive():
            raise TimeoutError("the clients did not end")
        if self._failure is not None and error is None:
            raise self._failure

    def answered(self) -> int:
        """How many requests have been answered so far.

        :raises Unexpected: a client met something that it may not meet, and all have stopped.
        """
        if self._failure is not None:
            raise self._failure
        return sum(asked.answer is not None for asked in self.history)

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:  # noqa: BLE001 - the session's thread raises it
            self._failure = error

    async def _work(self) -> None:
        clients = [Client(self, number, random.Random(f"{self._seed}/{number}")) for number in range(self._count)]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run())


class Client:
    """One client.  It stays with one node for as long as that one answers, and a little longer or shorter."""

    def __init__(self, clients: Clients, number: int, chance: random.Random) -> None:
        self._clients = clients
        self._name = f"client{number}"
        self._chance = chance
        self._asked = 0
        self._nodes = list(clients.addresses)
        self._node_id = self._nodes[number % len(self._nodes)]
        self._connections: dict[int, Connection] = {}

    async def run(self) -> None:
        """Ask until the clients' time is over."""
        while not self._clients.is_over:
            await asyncio.sleep(self._chance.uniform(0.0, 2.0 * self._clients.pause_s))
            if not self._clients.is_paused:
                await self._one()
        for connection in self._connections.values():
            connection.close()

    async def _one(self) -> None:
        if self._chance.random() < _ROAMING:
            self._move()
        key = self._key()
        action = self._chance.random()
        if action < 0.5:
            await self._read(key)
        elif action < 0.8:
            await self._write(lambda name: Set(key, name.encode()))
        elif action < 0.85:
            await self._write(lambda name: Set(key, None))
        else:
            found = await self._read(key)
            if found is not None:
                version = found.version
                await self._write(lambda name: Set(key, name.encode(), version))

    def _key(self) -> str:
        if self._chance.random() < 0.5:
            return f"cold/{self._chance.randrange(COLD_KEYS)}"
        return f"hot/{self._clients.era}/{self._chance.randrange(HOT_KEYS)}"

    def _new_name(self) -> str:
        self._asked += 1
        return f"{self._name}/{self._asked}"

    def _move(self) -> None:
        self._node_id = self._chance.choice([k for k in self._nodes if k != self._node_id] or self._nodes)

    def _record(self, name: str, request: Request, called: float, heard: Heard) -> None:
        answered = heard.answer is not None
        returned = time.monotonic() if answered else NEVER
        self._clients.history.append(
            Asked(name, request, called, returned, heard.answer, heard.place, refused=heard.refused)
        )

    async def _read(self, key: str) -> Found | None:
        """A linearizable read; what was found, None if there was no answer (then it says nothing)."""
        name, request, called = self._new_name(), Get(key), time.monotonic()
        heard = await self._hand_in(name, request)
        if heard.answer is None:
            self._move()
            return None
        self._record(name, request, called, heard)
        assert isinstance(heard.answer, Found)
        return heard.answer

    async def _write(self, make: Any) -> None:
        """A write, handed in again under its name where the outcome is unknown, if this client insists."""
        name = self._new_name()
        request: Set = make(name)
        attempts = self._chance.choice((1, ATTEMPTS))
        called = time.monotonic()
        may_have_happened = False
        heard = UNREACHABLE
        for _ in range(attempts):
            heard = await self._hand_in(name, request)
            if heard.answer is not None:
                break
            may_have_happened |= heard.sent and not heard.refused
            self._move()
            if not may_have_happened:
                break
        if heard.answer is None:
            heard = UNKNOWN if may_have_happened else REFUSED
        self._record(name, request, called, heard)

    async def _hand_in(self, name: str, request: Request) -> Heard:
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await self._connection()
        except OSError:  # TimeoutError is one
            return UNREACHABLE
        method, target, body = self._to_http(name, request)
        try:
            async with asyncio.timeout(ANSWER_S):
                status, headers, content = await connection.ask(method, target, body)
        except (OSError, EOFError):
            connection.close()
            return UNKNOWN
        self._connections[self._node_id] = connection
        return understand(request, method, status, headers, content)

    async def _connection(self) -> Connection:
        connection = self._connections.pop(self._node_id, None)
        if connection is not None and connection.usable:
            return connection
        return Connection(*await asyncio.open_connection(*self._clients.addresses[self._node_id]))

    def _to_http(self, name: str, request: Request) -> tuple[str, str, bytes]:
        timeout_ms = round(TIMEOUT_S * 1000)
        if isinstance(request, Get):
            return "GET", f"/v1/kv/{quote(request.key)}?timeout_ms={timeout_ms}", b""
        mode = self._chance.choice(("broadcast", "broadcast", "2pc", "3pc"))
        if request.value is not None and request.if_version is None and self._chance.random() < 0.5:
            query = urlencode({"request_id": name, "mode": mode, "timeout_ms": timeout_ms})
            return "PUT", f"/v1/kv/{quote(request.key)}?{query}", request.value
        # By this way the answer tells the place of what did nothing, too.
        document = {
            "rm": "kv",
            "payload_b64": base64.b64encode(payload_of(request)).decode(),
            "mode": mode,
            "timeout_ms": timeout_ms,
            "request_id": name,
        }
        return "POST", "/v1/tx", json.dumps(document).encode()


def payload_of(request: Set) -> bytes:
    """The transaction of the key-value store."""
    if request.value is None:
        return delete_payload(request.key, request.if_version)
    return put_payload(request.key, request.value, request.if_version)


def understand(request: Request, method: str, status: int, headers: Mapping[str, str], content: bytes) -> Heard:
    """What an answer says.

    :raises Unexpected: no node may answer this.
    """
    if method == "GET" and status == 200:
        found = Found(content, int(headers["vbcast-version"]))
        return Heard(answer=found, place=(int(headers["vbcast-applied"]), AFTER_ALL))
    document: dict[str, Any] = json.loads(content)
    if method == "GET" and status == 404:
        return Heard(answer=Found(None, 0), place=(document["applied"], AFTER_ALL))
    if status == 200:
        return Heard(answer=_done(document), place=(document["seq"], document["index"]))
    kind = str(document["type"]).removeprefix(TYPE_PREFIX)
    if kind in _REFUSALS:
        return REFUSED
    if kind == "outcome-unknown":
        return UNKNOWN
    raise Unexpected(f"{request} was answered with {status}: {document}")


def _done(document: Mapping[str, Any]) -> Done:
    if "version" in document:
        return Done(True, document["version"], document["found_version"])
    text = document.get("result")
    result = decode_result(text.encode() if text is not None else base64.b64decode(document["result_b64"]))
    return Done(result.ok, result.version, result.found_version)
