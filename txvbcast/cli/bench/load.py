"""What a load is told, what it counts, and how it goes on.

The load is made by processes of their own, and cheap ones: on a machine that they share with the
nodes, these lack what the load takes.  See :mod:`txvbcast.cli.bench.process`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Protocol

import attrs
import click
import msgspec

#: A system answers within the 5 s that a transaction has if it does not say otherwise, and a grace.
ANSWER_S = 10.0
READY = "ready"


@attrs.frozen
class LoadSpec:
    """What to do.

    :ivar way: a key of :data:`txvbcast.cli.bench.process.WAYS`.
    :ivar targets: ``host:port`` of the nodes that are used; the load is spread over them evenly.
    :ivar number: of this process among those that share the load.
    :ivar outstanding: transactions under way at any time, if there is no rate.
    :ivar rate_per_s: transactions that fall due, whatever becomes of those before; None: as fast as they are answered.
    :ivar is_traced: note when each answer came.
    """

    way: str
    targets: tuple[str, ...]
    number: int
    outstanding: int
    mode: str
    payload_bytes: int
    rate_per_s: float | None = None
    is_traced: bool = False


@attrs.frozen
class Window:
    """What is measured, in seconds of the system's monotonic clock; the load begins when this is told."""

    begin_s: float
    end_s: float


@attrs.frozen
class LoadFailure:
    """How many transactions came to the same bad end, and what the first of them was told."""

    count: int
    example: str


@attrs.frozen
class LoadResult:
    """What came of it.

    :ivar total: how many answers "committed" came at all.
    :ivar answered: how many of them in the window.
    :ivar latencies_us: how often each latency occurred, of the transactions that were begun in the window and
        are committed, in microseconds.
    :ivar failures: of those begun in the window, by kind: that of the error, or what became of the connection.
    :ivar commits: if traced, all moments at which answers "committed" came, and how many.
    """

    total: int
    answered: int
    latencies_us: dict[int, int]
    failures: dict[str, LoadFailure]
    commits: tuple[tuple[float, int], ...] = ()

    @property
    def committed(self) -> int:
        """How many of the transactions that were begun in the window are committed."""
        return sum(self.latencies_us.values())

    @property
    def failed(self) -> int:
        """How many of them are not, or nobody knows."""
        return sum(failure.count for failure in self.failures.values())

    def quantile_ms(self, share: float) -> float | None:
        """The smallest latency that at least ``share`` of them do not exceed, in ms; None without any."""
        wanted, seen = math.ceil(share * self.committed), 0
        for latency_us, count in sorted(self.latencies_us.items()):
            seen += count
            if seen >= wanted:
                return latency_us / 1000
        return None


def merged(results: Iterable[LoadResult]) -> LoadResult:
    """What several processes found together."""
    total, answered, latencies_us, commits = 0, 0, dict[int, int](), list[tuple[float, int]]()
    failures: dict[str, LoadFailure] = {}
    for result in results:
        total += result.total
        answered += result.answered
        commits += result.commits
        for latency_us, count in result.latencies_us.items():
            latencies_us[latency_us] = latencies_us.get(latency_us, 0) + count
        for kind, failure in result.failures.items():
            _add_failure(failures, kind, failure.count, failure.example)
    return LoadResult(total, answered, latencies_us, failures, tuple(sorted(commits)))


def _add_failure(failures: dict[str, LoadFailure], kind: str, count: int, example: str) -> None:
    known = failures.get(kind, LoadFailure(0, example))
    failures[kind] = LoadFailure(known.count + count, known.example)


class LoadFailed(Exception):
    """The load could not be brought about; the text says why."""


class Tally:
    """Counts what belongs to the window, and nothing else."""

    def __init__(self, window: Window, is_traced: bool = False) -> None:
        self.window = window
        self._is_traced = is_traced
        self._total = self._answered = 0
        self._latencies_us: dict[int, int] = {}
        self._failures: dict[str, LoadFailure] = {}
        self._commits: list[tuple[float, int]] = []

    def committed(self, sent_s: float, now_s: float, count: int = 1) -> None:
        """Transactions that were sent at ``sent_s`` are committed."""
        window = self.window
        self._total += count
        if window.begin_s <= now_s < window.end_s:
            self._answered += count
        if window.begin_s <= sent_s < window.end_s:
            latency_us = round((now_s - sent_s) * 1e6)
            self._latencies_us[latency_us] = self._latencies_us.get(latency_us, 0) + count
        if self._is_traced:
            self._commits.append((now_s, count))

    def failed(self, sent_s: float, kind: str, detail: str, count: int = 1) -> None:
        """Transactions that were sent at ``sent_s`` are not committed, or nobody knows."""
        if self.window.begin_s <= sent_s < self.window.end_s:
            _add_failure(self._failures, kind, count, detail)

    def result(self) -> LoadResult:
        """What was counted."""
        return LoadResult(self._total, self._answered, self._latencies_us, self._failures, tuple(self._commits))


class Generator(Protocol):
    """A load of one kind."""

    async def connect(self) -> None:
        """Make the connections.

        :raises LoadFailed: a node cannot be reached, or does not answer.
        """

    async def run(self, tally: Tally) -> None:
        """Keep the system at work until the window ends, and wait for the last answers.

        :raises LoadFailed: connections were lost before the window began.
        """

    async def close(self) -> None:
        """End the connections."""


async def perform(generator: Generator, is_traced: bool) -> LoadResult:
    """Connect, say so, wait for the window to be told, and do the work.

    :raises LoadFailed: it could not be done.
    """
    try:
        await generator.connect()
        click.echo(READY)
        sys.stdout.flush()
        tally = Tally(msgspec.json.decode(sys.stdin.buffer.readline(), type=Window), is_traced)
        await generator.run(tally)
        return tally.result()
    finally:
        await generator.close()


def spread(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` whole parts that differ by one at most, the larger ones first."""
    return [total // parts + (place < total % parts) for place in range(parts)]


def values_of(spec: LoadSpec) -> bytes:
    """The value that every transaction writes."""
    return b"v" * spec.payload_bytes
