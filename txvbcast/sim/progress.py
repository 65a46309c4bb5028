"""How far many runs are: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from txvbcast.sim.campaign import Result

#: Where there is no terminal, a line is written no more often than this, in seconds.
LINE_EVERY_S = 10.0


def rate_of(virtual_s: float, processor_s: float) -> float:
    """How many virtual hours pass in a minute of one processor."""
    return virtual_s / 60.0 / processor_s if processor_s else 0.0


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
            BarColumn(bar_width=8), TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            console=self._console, disable=not self._console.is_terminal, transient=True,
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
            self._console.print(self._text(), highlight=False, soft_wrap=True)

    def _text(self) -> str:
        rate = rate_of(self._virtual_s, (time.monotonic() - self._began_s) * self._jobs)
        hours = f"{self._virtual_s / 3600:.2f} virtual h ({rate:.2f} per minute and core)"
        return f"{self._done} of {self._seeds} seeds, {hours}, {self._violations} violations"
