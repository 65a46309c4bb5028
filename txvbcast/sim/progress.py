"""How far many runs are: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from txvbcast.sim.campaign import Result

#: Where there is no terminal, a line is written no more often than this, in seconds.
LINE_EVERY_S = 10.0


def rate_text(virtual_s: float, processor_s: float) -> str:
    """How much virtual time passes in a minute of one processor."""
    return f"{virtual_s / 60.0 / processor_s if processor_s else 0.0:.2f} virtual h per minute and core"


class Progress:
    """Shows on stderr how far a campaign is, while it is entered."""

    def __init__(self, seeds: int, jobs: int) -> None:
        self._seeds = seeds
        self._jobs = jobs
        self._done = 0
        self._violations = 0
        self._virtual_s = 0.0
        self._began_s = self._told_s = time.monotonic()
        self._console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
            TimeElapsedColumn(), console=self._console, disable=not self._console.is_terminal, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task(self._text(), total=seeds)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_result(self, result: Result) -> None:
        """One seed more."""
        self._done += 1
        self._violations += bool(result.violation)
        self._virtual_s += result.virtual_s
        self._bar.update(self._task, advance=1, description=self._text())
        now_s = time.monotonic()
        if not self._console.is_terminal and now_s - self._told_s >= LINE_EVERY_S:
            self._told_s = now_s
            self._console.print(f"{self._done} of {self._seeds} seeds, {self._text()}", highlight=False)

    def _text(self) -> str:
        rate = rate_text(self._virtual_s, (time.monotonic() - self._began_s) * self._jobs)
        return f"{self._virtual_s / 3600:.2f} virtual h, {rate}, {self._violations} violations"
