"""Measures one point after the other: a load on a system, and what its processes spent meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import msgspec

from txvbcast.cli import machine
from txvbcast.cli.bench.load import READY, LoadResult, LoadSpec, Window, merged, spread
from txvbcast.cli.failures import Failed
from txvbcast.cli.session import printable

#: Before every window there is as much of the same load, so that what is measured is not its beginning.
WARM_UP_S = 1.0
#: How often the memory of processes is looked at.
LOOK_S = 0.1
#: What is measured here, beside which there are peers.
OURS = "txvbcast"


@attrs.frozen
class Point:
    """What is measured.

    :ivar system: ``txvbcast``, or the name of a peer.
    :ivar way: how the load reaches it, see :data:`txvbcast.cli.bench.process.WAYS`.
    :ivar nodes: how many there are; None: it is somebody else's cluster.
    :ivar via: which of them the load uses: ``master``, ``other`` or ``all``.
    :ivar mode: of the transactions; a peer has but one.
    :ivar outstanding: transactions under way at any time, if there is no rate.
    :ivar rate_per_s: transactions that fall due each second, whatever becomes of those before.
    """

    system: str
    way: str
    nodes: int | None
    via: str
    mode: str
    payload_bytes: int
    outstanding: int
    rate_per_s: float | None = None

    def title(self) -> str:
        """For people who wait."""
        what = f"{self.system} by {self.way}, {self.mode}" if self.system == OURS else self.system
        load = f"{self.outstanding} outstanding" if self.rate_per_s is None else f"{self.rate_per_s:.0f}/s"
        return f"{what}, {self.payload_bytes} bytes, {load}, via {self.via}"


@attrs.frozen
class Measured:
    """A point and what came of it.

    :ivar total: how many transactions were committed, those of the warm-up too.
    :ivar committed: how many of those that were begun in the window are committed.
    :ivar committed_per_s: answers "committed" that came in the window, by its length.
    :ivar per_entry: transactions of an entry of the log, on average; None where that is not known.
    :ivar failures: of the transactions begun in the window: how many by kind, and an example.
    :ivar fsyncs_per_s: of the disk, right before; None if it is not this machine's.
    :ivar cores: used in the window, by process (None: unknown); ``client`` is the load itself.
    :ivar memory_bytes: the most that each process had resident in the first and in the second half of the window.
    :ivar used: the ids or names of the nodes that had the load's connections.
    :ivar epochs: how many epochs began meanwhile; with more than none the figures are those of a change of master.
    """

    point: Point
    seconds: float
    total: int
    committed: int
    committed_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    failures: dict[str, dict[str, Any]]
    fsyncs_per_s: float | None
    cores: dict[str, float | None]
    memory_bytes: dict[str, tuple[int, int]]
    used: tuple[Any, ...]
    per_entry: float | None = None
    epochs: int | None = None

    @property
    def failed(self) -> int:
        """How many transactions of the window are not committed, or nobody knows."""
        return sum(failure["count"] for failure in self.failures.values())

    @property
    def node_memory_bytes(self) -> tuple[int, int]:
        """Of the node that had most, in the first and in the second half of the window."""
        of_nodes = [memory for name, memory in self.memory_bytes.items() if not name.startswith("client")]
        return max(of_nodes, key=max, default=(0, 0))

    @property
    def cores_used(self) -> float:
        """By all processes that are known."""
        return sum(cores for cores in self.cores.values() if cores is not None)

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        own = attrs.asdict(self)
        return {**own.pop("point"), **own}


class Load:
    """The processes that make a load, between being connected and having counted.

    :param spec: of all of them together.
    :param clients: how many they are.
    """

    def __init__(self, spec: LoadSpec, clients: int = 1) -> None:
        self._parts = _parts(spec, clients)
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> dict[str, int]:
        """Of the processes, by name."""
        names = ["client", *(f"client {number}" for number in range(2, len(self._processes) + 1))]
        return {name: process.pid for name, process in zip(names, self._processes, strict=True)}

    def __enter__(self) -> Load:
        command = [sys.executable, "-m", "txvbcast.cli.bench.process"]
        try:
            for part in self._parts:
                # what they write to stderr is short: it fits into the pipe
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
                self._processes.append(process)
                self._tell(process, part)
            for process in self._processes:
                self._wait_until_ready(process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def begin(self, seconds: float, warm_up_s: float) -> Window:
        """Let the load begin now; what is counted begins ``warm_up_s`` later, and takes ``seconds``."""
        begin_s = time.monotonic() + warm_up_s
        window = Window(begin_s, begin_s + seconds)
        for process in self._processes:
            self._tell(process, window)
        return window

    def result(self) -> LoadResult:
        """What came of it; waits until every process has ended.

        :raises Failed: one could not do it.
        """
        found = []
        for process in self._processes:
            out, err = process.communicate()
            if process.returncode:
                raise _failed(err)
            found.append(msgspec.json.decode(out, type=LoadResult))
        return merged(found)

    def _tell(self, process: subprocess.Popen[bytes], what: LoadSpec | Window) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; what it said is read later
            process.stdin.write(msgspec.json.encode(what) + b"\n")
            process.stdin.flush()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        if process.stdout.readline().strip().decode(errors="replace") != READY:
            _, err = process.communicate()
            raise _failed(err)

    def _end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()


def _parts(spec: LoadSpec, clients: int) -> list[LoadSpec]:
    """What each of the processes has to do."""
    rate_per_s = None if spec.rate_per_s is None else spec.rate_per_s / clients
    shares = [share for share in spread(spec.outstanding, clients) if share]
    return [
        attrs.evolve(spec, number=number, outstanding=share, rate_per_s=rate_per_s)
        for number, share in enumerate(shares)
    ]


def _failed(err: bytes) -> Failed:
    return Failed("unreachable", f"the client: {printable(err.decode(errors='replace').strip())}")


def sleep_until(time_s: float) -> None:
    """Wait for a time of the monotonic clock."""
    time.sleep(max(0.0, time_s - time.monotonic()))


def measure(
    point: Point,
    targets: Mapping[Any, str],
    processes: Mapping[str, int],
    seconds: float,
    clients: int = 1,
    directory: Path | None = None,
) -> Measured:
    """Have ``clients`` processes put the load of ``point`` on some nodes.

    :param targets: their addresses, by what they are called.
    :param processes: whose processor time counts: name and process id.
    :param directory: where the nodes keep their files, if on this machine.
    :raises Failed: the load cannot be brought about.
    """
    fsyncs_per_s = None if directory is None else machine.fsyncs_per_s(directory)
    spec = LoadSpec(
        way=point.way,
        targets=tuple(targets.values()),
        number=0,
        outstanding=point.outstanding,
        mode=point.mode,
        payload_bytes=point.payload_bytes,
        rate_per_s=point.rate_per_s,
    )
    with Load(spec, clients) as load:
        pids = {**processes, **load.pids}
        window = load.begin(seconds, WARM_UP_S)
        sleep_until(window.begin_s)
        before = _cpu_s(pids)
        middle_s = (window.begin_s + window.end_s) / 2
        halves = [_memory_bytes(pids, end_s) for end_s in (middle_s, window.end_s)]
        after = _cpu_s(pids)
        result = load.result()
    return Measured(
        point=point,
        seconds=seconds,
        total=result.total,
        committed=result.committed,
        committed_per_s=result.answered / seconds,
        p50_ms=result.quantile_ms(0.5),
        p99_ms=result.quantile_ms(0.99),
        max_ms=result.quantile_ms(1.0),
        failures={kind: attrs.asdict(failure) for kind, failure in sorted(result.failures.items())},
        fsyncs_per_s=fsyncs_per_s,
        cores={name: _cores(before[name], after[name], seconds) for name in pids},
        memory_bytes={name: (halves[0][name], halves[1][name]) for name in pids},
        used=tuple(targets),
    )


def _memory_bytes(pids: Mapping[str, int], end_s: float) -> dict[str, int]:
    """The most that each process has resident until ``end_s``, as far as it is looked at."""
    most = dict.fromkeys(pids, 0)
    while True:
        for name, pid in pids.items():
            most[name] = max(most[name], machine.memory_bytes(pid) or 0)
        if time.monotonic() >= end_s:
            return most
        sleep_until(min(end_s, time.monotonic() + LOOK_S))


def _cpu_s(pids: Mapping[str, int]) -> dict[str, float | None]:
    return {name: machine.cpu_s(pid) for name, pid in pids.items()}


def _cores(before_s: float | None, after_s: float | None, seconds: float) -> float | None:
    return None if before_s is None or after_s is None else (after_s - before_s) / seconds
