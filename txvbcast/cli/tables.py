"""Tables for people: aligned columns, in full when they do not go to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from txvbcast.cli.session import printable
from txvbcast.units import format_duration

#: Columns of what is not a terminal: nothing is cut.
_WIDTH_ELSEWHERE = 10_000

#: Colours on a terminal, for words that stand alone in a cell.
_STYLES = {
    "normal": "green",
    "PASS": "green",
    "FAIL": "red",
    "inactive": "yellow",
    "catching_up": "cyan",
    "failed": "red",
}


class _Plain(Console):
    """A console that leaves a closed pipe to ``main``, as everything else that prints does."""

    def on_broken_pipe(self) -> None:
        """Called in the handling of the error, which goes on."""
        raise


def console(on_stderr: bool = False) -> Console:
    """A console on the standard output, or standard error, as it is now."""
    stream = sys.stderr if on_stderr else sys.stdout
    is_terminal = stream is not None and stream.isatty()
    return _Plain(file=stream, highlight=False, markup=False, width=None if is_terminal else _WIDTH_ELSEWHERE)


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """``rows`` under ``headings``; a heading that starts with ``>`` is of a column of numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading.lstrip(">"), justify="right" if heading.startswith(">") else "left", overflow="fold")
    for row in rows:
        cells = [printable("" if cell is None else str(cell)) for cell in row]
        made.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    return made


def short_duration(duration_ms: object) -> str:
    """A duration to about two digits: what is counted down need not be exact."""
    if not isinstance(duration_ms, int | float):
        return ""
    duration_s = duration_ms / 1000
    if 1 < duration_s < 60:
        return f"{duration_s:.1f}".removesuffix(".0") + "s"
    return format_duration(duration_s if duration_s < 1 else round(duration_s))


def percent(share: object) -> str:
    """A share in whole per cent."""
    return f"{share:.0%}" if isinstance(share, int | float) else ""
