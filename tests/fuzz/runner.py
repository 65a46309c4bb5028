"""Starts the fuzzer in a child process, with bounds, and tells what came of it."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from tests.fuzz import CORPUS, INPUT_BYTES_MAX

ROOT: Final = Path(__file__).parent.parent.parent

#: Where inputs that broke something are kept.
FOUND: Final = Path(__file__).parent / "found"

#: One input may take so long, on a machine that is busy with something else too; longer is taken for endless.
INPUT_TIMEOUT_S: Final = 30

#: How often an input is changed before another one is taken: after more changes it is hardly ever one that is read.
MUTATIONS_MAX: Final = 2

#: The child may need so much longer than it fuzzes: to start, to try the corpus, and to end.
MARGIN_S: Final = 120

#: The child may not hold more memory; it needs about 80 MB.
RSS_MB_MAX: Final = 512

#: Stands between this process and the child: whoever is started by a large process counts as having been as large.
_IN_BETWEEN: Final = ("sh", "-c", '"$@"; exit $?', "sh")

_STATUS: Final = re.compile(
    r"#(?P<runs>[0-9]+)\s+(?P<what>\w+)\s+cov: (?P<coverage>[0-9]+) .*corp: (?P<corpus>[0-9]+)/"
)
_WRITTEN: Final = re.compile(r"Test unit written to (?P<path>.*)")
_DONE: Final = re.compile(r"stat::number_of_executed_units:\s+(?P<runs>\d+)")
_CHATTER: Final = re.compile(r"INFO: |WARNING: Failed to find function|stat::|#+ |\"|Done |artifact_prefix=|MS: |\s*$")
_TOLD: Final = ("INITED", "pulse", "DONE")

#: How much of what the child printed is kept: a traceback, and more.
SAID_LINES_MAX: Final = 200


@attrs.frozen
class Progress:
    """So far: inputs tried; branches reached; inputs kept, each because it reached something new."""

    runs: int
    coverage: int
    corpus: int


@attrs.frozen
class Outcome:
    """What came of a run.

    :ivar found: the file with the input that broke a property; None: none did.
    :ivar said: the last of what the child printed; the exception, if there was one.
    """

    progress: Progress
    found: Path | None
    said: str
    status: int


def absence() -> str | None:
    """Why there is no fuzzer on this machine; None: there is, or should be."""
    machine = (platform.system(), platform.machine(), platform.python_implementation())
    if machine != ("Linux", "x86_64", "CPython") or sys.version_info >= (3, 14):
        return f"atheris 3.0.0 has no wheel for {' '.join(machine)} {platform.python_version()}"
    return None


def fuzz(
    target: str,
    seconds: int,
    seed: int = 0,
    runs: int = -1,
    defect: str = "",
    found: Path = FOUND,
    told: Callable[[Progress], None] = lambda progress: None,
    grown: Path | None = None,
) -> Outcome:
    """Try inputs for ``seconds``, beginning with the shipped corpus, until one breaks a property.

    :param seed: of the fuzzer's choices; 0: another one each time.
    :param runs: try no more inputs than this; -1: as many as there is time for.
    :param defect: a planted defect, by its name in :mod:`tests.fuzz.planted`.
    :param found: the folder for the input that did.
    :param told: hears from time to time how far it is.
    :param grown: a folder for inputs that reach something that the shipped corpus does not.
    """
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target}-") as folder:
        options = (
            f"-max_total_time={seconds}",
            f"-runs={runs}",
            f"-seed={seed}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-mutate_depth={MUTATIONS_MAX}",
            f"-timeout={INPUT_TIMEOUT_S}",
            f"-rss_limit_mb={RSS_MB_MAX}",
            f"-artifact_prefix={found}/{target}-",
            "-print_final_stats=1",
            str(grown or folder),
            str(CORPUS / target),
        )
        command = [*_IN_BETWEEN, sys.executable, "-m", "tests.fuzz.child", target, defect, *options]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        ) as child:
            return followed(child, seconds + MARGIN_S, told)


def followed(child: subprocess.Popen[str], timeout_s: float, told: Callable[[Progress], None]) -> Outcome:
    """Read what the child, a process group of its own, prints until it ends, or its time does."""
    assert child.stdout is not None
    progress, found = Progress(0, 0, 0), None
    said: deque[str] = deque(maxlen=SAID_LINES_MAX)
    watchdog = threading.Timer(timeout_s, os.killpg, (child.pid, signal.SIGKILL))
    watchdog.start()
    try:
        for line in child.stdout:
            if status := _STATUS.match(line):
                progress = Progress(*map(int, status.group("runs", "coverage", "corpus")))
                if status["what"] in _TOLD:
                    told(progress)
            elif done := _DONE.match(line):
                progress = attrs.evolve(progress, runs=int(done["runs"]))
            elif written := _WRITTEN.search(line):
                found = Path(written["path"])
            elif not _CHATTER.match(line):
                said.append(line)
        status_code = child.wait()
    finally:
        watchdog.cancel()
    return Outcome(progress, found, "".join(said), status_code)


def finding(target: str, outcome: Outcome) -> str:
    """What an input broke, and how to see it again."""
    assert outcome.found is not None
    data = outcome.found.read_bytes()
    return (
        f"an input broke a property of {target}\n{outcome.said}\n{len(data)} bytes: {data.hex()}\n"
        f"kept in {outcome.found}\n"
        f"to replay: python -m tests.fuzz --target {target} --replay {outcome.found}"
    )
