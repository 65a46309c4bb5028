"""What this machine lets a session do to its nodes: each thing is tried in small before it is relied on."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

#: Set where everything is known to work: there, what is missing is a failure and no reason to skip.
REFERENCE_MACHINE: Final = "TXVBCAST_REFERENCE_MACHINE"

#: A trial that takes longer than this does not work either.
TRIAL_S: Final = 20.0

#: Where Debian and its relatives have it, below the library directories.
_FAKETIME: Final = "faketime/libfaketime.so.1"
_LIBRARIES: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib")


def is_reference() -> bool:
    """Whether nothing may be missing here."""
    return any(os.environ.get(name) for name in (REFERENCE_MACHINE, "CI"))


def isolated(*command: str) -> tuple[str, ...]:
    """``command`` in namespaces of its own: network, mounts, processes; all in them ends with it."""
    as_root = () if os.geteuid() == 0 else ("--map-root-user",)
    apart = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    return ("unshare", *as_root, *apart, "--", *command)


@functools.cache
def faketime_library() -> str | None:
    """The path of libfaketime, None if it is not installed."""
    found = [path for folder in _LIBRARIES for path in Path(folder).glob(f"**/{_FAKETIME}")]
    return str(found[0]) if found else None


def failure(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Why ``command`` does not work here; empty if it does."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TRIAL_S, env={**os.environ, **(environment or {})}
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {TRIAL_S:.0f} s"
    if done.returncode == 0:
        return ""
    said = (done.stderr or done.stdout).strip().splitlines()
    return f"{command[0]} ended with {done.returncode}: {said[-1] if said else 'it said nothing'}"


def _in_isolation(script: str) -> str:
    return failure(isolated("sh", "-ec", script))


def _namespaces() -> str:
    return _in_isolation(
        "mount -t tmpfs tmpfs /run; ip netns add a; ip link add sw type bridge;"
        "ip link add v type veth peer name eth0 netns a; ip link set v master sw up"
    )


def _packet_filter() -> str:
    if shutil.which("nft") is None:
        return "nft is not installed"
    return _in_isolation(
        "nft add table inet txp; nft add chain inet txp in '{ type filter hook input priority 0; }';"
        "nft add rule inet txp in ip saddr 127.0.0.2 drop; nft add rule inet txp in numgen random mod 100 '<' 5 drop;"
        "nft add rule inet txp in meta l4proto tcp reject with tcp reset"
    )


def _slow_links() -> str:
    return _in_isolation("ip link set lo up; tc qdisc add dev lo root tbf rate 1mbit burst 4k latency 100ms")


def _small_disk() -> str:
    return _in_isolation("mount -t tmpfs -o size=64k tmpfs /run; ! head -c 100000 /dev/zero > /run/filled")


def _tracing() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed"
    # Attached to a process that runs: under `strace COMMAND` the tracer would be the node's parent.
    with tempfile.TemporaryDirectory() as folder:
        script = (
            "import os, subprocess, sys, time\n"
            f"file = os.open({folder + '/synced'!r}, os.O_CREAT | os.O_RDWR)\n"
            "inject = '-einject=fdatasync:error=EIO'\n"
            "command = ['strace', '-qq', '-o', os.devnull, '-etrace=fdatasync', inject, '-p', str(os.getpid())]\n"
            "subprocess.Popen(command)\n"
            f"until = time.monotonic() + {TRIAL_S / 2}\n"
            "while time.monotonic() < until:\n"
            "    try:\n"
            "        os.fdatasync(file)\n"
            "    except OSError:\n"
            "        sys.exit(0)\n"
            "sys.exit('strace attached to a process does not let its fdatasync fail')\n"
        )
        return failure(isolated(sys.executable, "-c", script))


def _stepped_clock() -> str:
    library = faketime_library()
    if library is None:
        return "libfaketime is not installed"
    with tempfile.NamedTemporaryFile("w", suffix=".offset") as file:
        file.write("+1000000")
        file.flush()
        script = f"import time; raise SystemExit(None if time.time() > {time.time()} + 900000 else 'it has no effect')"
        return failure((sys.executable, "-c", script), clock_environment(library, file.name))


def clock_environment(library: str, offset_file: str) -> dict[str, str]:
    """The environment of a process whose wall clock is stepped by what stands in ``offset_file``, within a second.

    Everything else is left alone.  Reading the file more often, or mending waits on the monotonic clock that are not
    broken, makes a node several times slower.
    """
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": offset_file,
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "NO_FAKE_STAT": "1",
    }


def _own_monotonic_clock() -> str:
    return _in_isolation("unshare --time --monotonic 100000 --boottime 100000 true")


#: What a session may need, and the trial of it.
_TRIALS: Final[dict[str, Callable[[], str]]] = {
    "namespaces": _namespaces,
    "packet filter": _packet_filter,
    "slow links": _slow_links,
    "small disk": _small_disk,
    "tracing": _tracing,
    "stepped clock": _stepped_clock,
    "own monotonic clock": _own_monotonic_clock,
}

CAPABILITIES: Final = tuple(_TRIALS)


@functools.cache
def lack(capability: str) -> str:
    """Why this machine does not have one of :data:`CAPABILITIES`; empty if it does."""
    return _TRIALS[capability]()
