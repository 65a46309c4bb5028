"""Clients of a cluster of real processes: transactions at a fixed pace, and a record of what each client heard."""

from __future__ import annotations

import asyncio
import base64
import gc
import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import attrs

from tests.http_connection import Connection
from txvbcast.cli.failures import TYPE_PREFIX
from txvbcast.wire.kv import put_payload

#: How long a node may think about one transaction before it has to say something.
TIMEOUT_S = 5.0
#: How long the client waits for that word before it takes it for lost.
ANSWER_S = TIMEOUT_S + 10.0

COMMITTED = "committed"
#: Nothing was handed in: there was no connection.
UNREACHABLE = "unreachable"
#: It may have happened: the node says so, or the connection ended after the transaction was handed in.
UNKNOWN = "outcome-unknown"
WAITING = ""

#: What tells one cluster's client from another's, and a test's transactions from each other.
_numbers = itertools.count(1)


@attrs.define(eq=False)
class Submission:
    """A transaction, and what its client heard; times of the monotonic clock.

    :ivar kind: ``committed``, the kind of the problem document, UNREACHABLE, UNKNOWN, or WAITING.
    :ivar facts: the members of the answer.
    """

    request_id: str
    node_id: int
    rm: str
    payload: bytes
    mode: str
    sent_s: float = 0.0
    answered_s: float = 0.0
    kind: str = WAITING
    facts: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def place(self) -> tuple[int, int]:
        """Where it is in the log, as its client was told: seq, and index in that entry."""
        return self.facts["seq"], self.facts["index"]

    def body(self) -> bytes:
        """The body of the request that hands it in."""
        document = {
            "rm": self.rm,
            "payload_b64": base64.b64encode(self.payload).decode(),
            "mode": self.mode,
            "timeout_ms": round(TIMEOUT_S * 1000),
            "request_id": self.request_id,
        }
        return json.dumps(document).encode()

    def __str__(self) -> str:
        heard = self.facts.get("detail") or self.facts
        took_ms = 1000 * (self.answered_s - self.sent_s)
        return f"{self.request_id} at node {self.node_id}: {self.kind or 'waiting'} after {took_ms:.0f} ms ({heard})"


def put(node_id: int, name: str = "put") -> Submission:
    """A transaction that nothing else equals: it sets a key of its own, called as its request id."""
    request_id = f"{name}-{next(_numbers)}"
    return Submission(request_id, node_id, "kv", put_payload(request_id, request_id.encode()), "broadcast")


class Load:
    """Hands transactions to nodes in turn, at a fixed pace, from a thread of its own.

    The pace does not follow the answers: a transaction that waits delays no other one.  Use it as
    a context manager; when the block is left every transaction has its answer.

    :param addresses: the HTTP address of each node that transactions are handed to.
    :param per_s: transactions a second, all nodes together.
    :param make: makes the next transaction for a node.
    :ivar submissions: all that were handed in, in that order.
    """

    def __init__(
        self,
        addresses: Mapping[int, tuple[str, int]],
        per_s: float,
        make: Callable[[int], Submission] = put,
    ) -> None:
        self.submissions: list[Submission] = []
        self._addresses = dict(addresses)
        self._per_s = per_s
        self._make = make
        self._idle: dict[int, list[Connection]] = {node_id: [] for node_id in addresses}
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Load:
        # What the tests before have left is looked through now, and not while answers are timed: with nothing but the
        # modules of all tests in memory that takes 20 to 50 ms already.
        gc.collect()
        gc.freeze()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._thread.join(ANSWER_S + TIMEOUT_S)
        gc.unfreeze()
        if self._thread.is_alive():
            raise TimeoutError("the load did not end")
        if self._failure is not None:
            raise self._failure

    # --- what came of it ---

    def committed(self) -> list[Submission]:
        """What was committed, in the order of the answers."""
        done = [submission for submission in list(self.submissions) if submission.kind == COMMITTED]
        return sorted(done, key=lambda submission: submission.answered_s)

    def failed(self) -> list[Submission]:
        """What was answered in another way."""
        return [each for each in list(self.submissions) if each.kind not in (COMMITTED, WAITING)]

    def longest_gap_s(self, since_s: float, until_s: float) -> float:
        """The longest time within ``since_s`` to ``until_s`` in which no client heard of a commit."""
        times = [each.answered_s for each in self.committed() if since_s <= each.answered_s <= until_s]
        marks = [since_s, *times, until_s]
        return max(later - earlier for earlier, later in itertools.pairwise(marks))

    def wait_committed(self, count: int, patience_s: float = 30.0) -> float:
        """Wait until ``count`` more are committed than now; the time at which they are.

        :raises TimeoutError: that does not happen within ``patience_s``.
        """
        wanted, until_s = len(self.committed()) + count, time.monotonic() + patience_s
        while len(self.committed()) < wanted:
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > until_s:
                raise TimeoutError(f"{count} more commits did not come within {patience_s:.0f} s: {self.failed()[:3]}")
            time.sleep(0.02)
        return time.monotonic()

    # --- the thread ---

    def _run(self) -> None:
        try:
            asyncio.run(self._hand_in())
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            self._failure = error

    async def _hand_in(self) -> None:
        began_s = time.monotonic()
        targets = itertools.cycle(self._addresses)
        under_way: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began_s + number / self._per_s - time.monotonic()))
            if self._stopping:
                break
            submission = self._make(next(targets))
            self.submissions.append(submission)
            task = asyncio.create_task(self._submit(submission))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        for connections in self._idle.values():
            for connection in connections:
                connection.close()

    async def _submit(self, submission: Submission) -> None:
        submission.sent_s = time.monotonic()
        kind, facts = await self._ask(submission)
        submission.answered_s = time.monotonic()
        submission.facts = facts
        submission.kind = kind

    async def _ask(self, submission: Submission) -> tuple[str, dict[str, Any]]:
        try:
            connection = await self._connection(submission.node_id)
        except OSError as error:
            return UNREACHABLE, {"detail": str(error)}
        try:
            asking = connection.ask("POST", "/v1/tx", submission.body())
            status, _, content = await asyncio.wait_for(asking, ANSWER_S)
        except (OSError, EOFError, TimeoutError) as error:
            connection.close()
            return UNKNOWN, {"detail": repr(error)}
        self._idle[submission.node_id].append(connection)
        document = json.loads(content)
        return (COMMITTED if status == 200 else str(document["type"]).removeprefix(TYPE_PREFIX)), document

    async def _connection(self, node_id: int) -> Connection:
        idle = self._idle[node_id]
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return Connection(*await asyncio.open_connection(*self._addresses[node_id]))
