"""What a benchmark ran on, for whoever compares its figures with others."""

from __future__ import annotations

import os
import platform
import resource
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

#: What one measurement of the disk writes at a time, and for how long.
FSYNC_BYTES = 512
FSYNC_S = 0.5
#: How long one that watches the disk rests between two writes.
WATCH_S = 0.002


def describe() -> dict[str, object]:
    """Programs, kernel, processor, and how busy the machine is, ready for JSON."""
    return {
        "txvbcast": version("txvbcast"),
        "python": platform.python_version(),
        "twisted": version("twisted"),
        "kernel": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average_1m": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def cpu_s(pid: int) -> float | None:
    """The processor time, user and system, that a process has had so far; None if the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the second when it ends just now
        return None
    fields = stat.rpartition(")")[2].split()  # from the third on; the second is a name that may hold anything
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int | None:
    """What a process has in memory (resident) now; None if the system does not say."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):  # the second when it ends just now
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def fsyncs_per_s(directory: Path) -> float:
    """How often a second 512 bytes more are written to a file in ``directory`` and made durable (pwrite, fsync)."""
    block = b"\xa5" * FSYNC_BYTES
    with tempfile.TemporaryFile(dir=directory) as file:
        count, began_s = 0, time.perf_counter()
        while time.perf_counter() - began_s < FSYNC_S:
            os.pwrite(file.fileno(), block, count * FSYNC_BYTES)
            os.fsync(file.fileno())
            count += 1
        return count / (time.perf_counter() - began_s)


class DiskWatch:
    """Writes the same 512 bytes again and again beside a load, and notes how long it takes until they are durable.

    Where this stands still as well it is the disk that does; who made it do so is another question.

    :param directory: on that disk.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._syncs: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> DiskWatch:
        self._watching = self._thread.submit(self._watch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.shutdown()

    def syncs_s(self, begin_s: float, end_s: float) -> list[float]:
        """How long each took that was under way between two times of the monotonic clock; once the watch is over.

        :raises OSError: the disk could not be written to.
        """
        self._watching.result()
        return [took_s for at_s, took_s in self._syncs if at_s < end_s and at_s + took_s > begin_s]

    def _watch(self) -> None:
        block = b"\xa5" * FSYNC_BYTES
        with tempfile.TemporaryFile(dir=self._directory) as file:
            while not self._over.wait(WATCH_S):
                begun_s = time.monotonic()
                os.pwrite(file.fileno(), block, 0)
                os.fdatasync(file.fileno())
                self._syncs.append((begun_s, time.monotonic() - begun_s))


def allow_open_files(needed: int) -> None:
    """Let this process, and those that it starts, have so many open files.

    :raises ValueError: the system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ValueError(f"{needed} open files are needed and {hard} allowed: raise the limit (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
