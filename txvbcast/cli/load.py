"""The load of ``vbcast bench``: a process that keeps transactions under way and counts what comes of them.

It is a process of its own, and a cheap one: on a machine that it shares with the nodes, they lack
what it takes.  ``python -m txvbcast.cli.load`` reads a :class:`LoadSpec` as JSON from stdin and
writes a :class:`LoadResult` as JSON to stdout.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import sys
import time
from array import array
from collections.abc import Iterator, Sequence

import attrs
import click
import msgspec

from txvbcast.cli.failures import TYPE_PREFIX
from txvbcast.cli.machine import cpu_s
from txvbcast.config import Address

#: A node answers within the 5 s that a transaction has if it does not say otherwise, and a grace.
ANSWER_S = 10.0
#: Connections that are being made at the same time: fewer than a listening node lets wait.
CONNECTING_MAX = 32
#: Far longer than the head of any answer to what is asked here.
HEAD_BYTES_MAX = 1 << 16
#: Each connection writes so many keys in turn: in the voted modes a node holds a key until it has applied the
#: transaction, which may be after its client has heard of it.
KEYS_PER_CONNECTION = 16

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})\r\n", re.IGNORECASE)
_VERSION = re.compile(rb"\r\nvbcast-version: *([0-9]{1,20})\r\n", re.IGNORECASE)


@attrs.frozen
class LoadSpec:
    """What to do.

    :ivar targets: the nodes that are used; the connections are spread over them evenly.
    :ivar outstanding: transactions under way at any time.
    :ivar warm_up_s: how long there is the same load before the window.
    :ivar seconds: the length of the window.
    :ivar processes: name and process id of whatever has its processor time measured.
    """

    targets: tuple[Address, ...]
    outstanding: int
    mode: str
    payload_bytes: int
    warm_up_s: float
    seconds: float
    processes: dict[str, int]


@attrs.frozen
class LoadFailure:
    """How many transactions came to the same bad end, and what the first of them was told."""

    count: int
    example: str


@attrs.frozen
class LoadResult:
    """What came of it.

    :ivar seconds: the length of the window as it was.
    :ivar transactions: those begun in the window; latencies and failures are about all of these and no others.
    :ivar committed: how many of them were committed.
    :ivar committed_per_s: how many answers "committed" came in the window, by its length.
    :ivar entries: entries of the log that held what these answers were about.
    :ivar failures: by kind: that of the problem document, or what became of the connection.
    :ivar cpu_s: processor time in the window of each of the ``processes`` (None: unknown) and of the ``client``.
    """

    seconds: float
    transactions: int
    committed: int
    committed_per_s: float
    entries: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    failures: dict[str, LoadFailure]
    cpu_s: dict[str, float | None]


class LoadFailed(Exception):
    """The load could not be brought about; the text says why."""


class Tally:
    """Counts what belongs to the window, and nothing else."""

    def __init__(self) -> None:
        self._latencies_s = array("d")
        self._failures: dict[str, LoadFailure] = {}
        self._committed_in_window = 0
        self._seqs: set[int] = set()
        self._begun_s = math.inf
        self._ended_s = math.inf

    def begin(self, now_s: float) -> None:
        """The window begins."""
        self._begun_s = now_s

    def end(self, now_s: float) -> None:
        """The window ends; transactions that were begun in it may still be under way."""
        self._ended_s = now_s

    @property
    def is_over(self) -> bool:
        """Whether the window has ended."""
        return self._ended_s < math.inf

    def committed(self, sent_s: float, now_s: float, seq: int) -> None:
        """A transaction that was sent at ``sent_s`` is committed, in the entry ``seq``."""
        if self._begun_s <= now_s < self._ended_s:
            self._committed_in_window += 1
            self._seqs.add(seq)
        if self._begun_s <= sent_s < self._ended_s:
            self._latencies_s.append(now_s - sent_s)

    def failed(self, sent_s: float, kind: str, detail: str) -> None:
        """A transaction that was sent at ``sent_s`` is not committed, or nobody knows."""
        if self._begun_s <= sent_s < self._ended_s:
            known = self._failures.get(kind, LoadFailure(0, detail))
            self._failures[kind] = LoadFailure(known.count + 1, known.example)

    def result(self, cpu: dict[str, float | None]) -> LoadResult:
        """What was counted, once the window has ended."""
        ordered = sorted(self._latencies_s)
        seconds = self._ended_s - self._begun_s
        return LoadResult(
            seconds=seconds,
            transactions=len(ordered) + sum(failure.count for failure in self._failures.values()),
            committed=len(ordered),
            committed_per_s=self._committed_in_window / seconds,
            entries=len(self._seqs),
            p50_ms=_quantile_ms(ordered, 0.5),
            p99_ms=_quantile_ms(ordered, 0.99),
            max_ms=_quantile_ms(ordered, 1.0),
            failures=self._failures,
            cpu_s=cpu,
        )


def _quantile_ms(ordered_s: Sequence[float], share: float) -> float | None:
    """The smallest of some times that at least ``share`` of them do not exceed, in ms; None without any."""
    if not ordered_s:
        return None
    return ordered_s[math.ceil(share * len(ordered_s)) - 1] * 1000


class Load:
    """Opens the connections, and keeps them at work."""

    def __init__(self, spec: LoadSpec) -> None:
        self.tally = Tally()
        self._spec = spec
        self._running = False
        self._open: set[HttpConnection] = set()
        self._all_gone = asyncio.Event()

    async def run(self) -> LoadResult:
        """Warm up, measure, and wait for the last answers.

        :raises LoadFailed: a node cannot be reached, or does not answer.
        """
        try:
            return await self._run()
        finally:
            for connection in tuple(self._open):
                connection.close()

    async def _run(self) -> LoadResult:
        await self._connect()
        self._running = True
        for connection in tuple(self._open):
            connection.send()
        await asyncio.sleep(self._spec.warm_up_s)
        if len(self._open) < self._spec.outstanding:
            lost = self._spec.outstanding - len(self._open)
            raise LoadFailed(f"{lost} of {self._spec.outstanding} connections were lost before anything was measured")
        before = self._cpu()
        self.tally.begin(time.perf_counter())
        await asyncio.sleep(self._spec.seconds)
        self.tally.end(time.perf_counter())
        after = self._cpu()
        self._running = False
        await self._wait_for_the_last()
        return self.tally.result({name: _used(before[name], after[name]) for name in after})

    async def _connect(self) -> None:
        # Each transacts once before the next ones are made, so that a node has taken it: what waits to be
        # taken is limited, and beyond that it takes seconds.
        targets = itertools.cycle(self._spec.targets)
        numbers = iter(range(self._spec.outstanding))
        while batch := tuple(itertools.islice(numbers, CONNECTING_MAX)):
            await asyncio.gather(*(self._connect_one(number, next(targets)) for number in batch))

    async def _connect_one(self, number: int, target: Address) -> None:
        requests = itertools.cycle(http_requests(self._spec, target, number))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_S):
                made = loop.create_connection(lambda: HttpConnection(self, requests), target.host, target.port)
                _, connection = await made
                connection.send()
                await connection.first_answer
        except OSError as error:  # TimeoutError is one
            raise LoadFailed(f"node at {target}: {str(error) or f'no answer within {ANSWER_S:.0f} s'}") from error

    async def _wait_for_the_last(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._all_gone.wait()
        except TimeoutError:
            for connection in tuple(self._open):
                connection.give_up("no-answer", f"no answer within {ANSWER_S:.0f} s")

    def _cpu(self) -> dict[str, float | None]:
        return {**{name: cpu_s(pid) for name, pid in self._spec.processes.items()}, "client": time.process_time()}

    # --- what the connections tell ---

    def opened(self, connection: HttpConnection) -> None:
        """A connection stands."""
        self._open.add(connection)

    def answered(self, connection: HttpConnection) -> None:
        """A connection has nothing under way."""
        if self._running:
            connection.send()
        elif self.tally.is_over:
            connection.close()

    def gone(self, connection: HttpConnection) -> None:
        """A connection is closed; it is not opened anew: its end shows among the failures."""
        self._open.discard(connection)
        if not self._open:
            self._all_gone.set()


def _used(before_s: float | None, after_s: float | None) -> float | None:
    return None if before_s is None or after_s is None else after_s - before_s


class HttpConnection(asyncio.Protocol):
    """A connection to a node, with one transaction under way at a time.

    A node takes the requests of a connection one after the other, so each that is to be under way needs its own.

    :param requests: what to send, without an end.
    :ivar first_answer: fires when there was one, or the connection is no more.
    """

    def __init__(self, load: Load, requests: Iterator[bytes]) -> None:
        self.first_answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load = load
        self._requests = requests
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._sent_s = 0.0
        self._waits = False

    # --- what the load asks for ---

    def send(self) -> None:
        """Hand in a transaction."""
        assert self._transport is not None
        self._waits, self._sent_s = True, time.perf_counter()
        self._transport.write(next(self._requests))

    def close(self) -> None:
        """End the connection."""
        assert self._transport is not None
        self._transport.close()

    def give_up(self, kind: str, detail: str) -> None:
        """End the connection; the transaction under way counts as failed."""
        assert self._transport is not None
        self._waits = False
        self._load.tally.failed(self._sent_s, kind, detail)
        self._transport.abort()

    # --- asyncio's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._load.opened(self)

    def data_received(self, data: bytes) -> None:
        """Bytes, cut anyhow."""
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            if len(self._received) > HEAD_BYTES_MAX:
                self.give_up("not-understood", "an answer has no end of its head")
            return
        length = _LENGTH.search(self._received, 0, head_end + 2)
        if length is None:
            self.give_up("not-understood", "an answer has no Content-Length")
            return
        end = head_end + 4 + int(length[1])
        if len(self._received) < end:
            return
        answer, self._received = self._received[:end], self._received[end:]
        self._on_answer(answer, head_end)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._waits:
            self._load.tally.failed(self._sent_s, "connection-lost", str(exc or "the node closed the connection"))
        self._mark_answered()
        self._load.gone(self)

    def _on_answer(self, answer: bytes, head_end: int) -> None:
        self._waits = False
        version = _VERSION.search(answer, 0, head_end + 2)
        if answer[9:12] == b"200" and version is not None:
            self._load.tally.committed(self._sent_s, time.perf_counter(), int(version[1]))
        else:
            self._load.tally.failed(self._sent_s, *_problem(answer[9:12], answer[head_end + 4 :]))
        self._mark_answered()
        self._load.answered(self)

    def _mark_answered(self) -> None:
        if not self.first_answer.done():
            self.first_answer.set_result(None)


def http_requests(spec: LoadSpec, target: Address, number: int) -> list[bytes]:
    """The requests of connection ``number``: each sets one of its keys.

    A node spends as much on one as on the same transaction by POST /v1/tx; this one needs no base64.
    """
    query = "" if spec.mode == "broadcast" else f"?mode={spec.mode}"
    head = f"{query} HTTP/1.1\r\nHost: {target}\r\nContent-Length: {spec.payload_bytes}\r\n\r\n"
    value = b"v" * spec.payload_bytes
    return [f"PUT /v1/kv/bench/{number}/{key}{head}".encode() + value for key in range(KEYS_PER_CONNECTION)]


def _problem(status: bytes, body: bytes) -> tuple[str, str]:
    """The kind and the text of an answer that is not "committed"."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict) or "type" not in document:
        return f"status-{status.decode('latin-1')}", "not an answer of a node"
    return str(document["type"]).removeprefix(TYPE_PREFIX), str(document.get("detail"))


def main() -> int:
    """Do what the :class:`LoadSpec` on stdin says; the exit code."""
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadSpec)
    try:
        result = asyncio.run(Load(spec).run())
    except LoadFailed as failed:
        click.echo(str(failed), err=True)
        return 1
    click.echo(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
