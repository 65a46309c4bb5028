"""What a person sees of ``vbcast demo`` while it runs: every node's standing, and the commits, as they are now."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from txvbcast.cli.api import Api
from txvbcast.cli.demo_load import Load
from txvbcast.cli.failures import Failed
from txvbcast.cli.tables import table

#: How often each node is asked for its status.
ASK_EVERY_S = 0.15
#: How often the table on a terminal is drawn, and how often a line is written elsewhere.
DRAWS_PER_S = 5.0
LINE_EVERY_S = 1.0
#: A status that is older than this is not shown as what is.
FRESH_S = 1.0
#: Commits per second are counted over this long.
RATE_OVER_S = 1.0

#: Columns before what is written below a title.
_INDENT = 4

_HEADINGS = (">node", "process", "standing", "", ">follows", ">committed", ">commits/s", ">waiting")


@attrs.frozen
class Sighting:
    """What a node said of the cluster, and the monotonic time at which it was asked."""

    asked_s: float
    document: Mapping[str, Any]

    @property
    def is_fresh(self) -> bool:
        """Whether it may still be shown."""
        return time.monotonic() - self.asked_s < FRESH_S


class Watch:
    """Asks every node for its status, over and over; a node that does not answer delays nobody.

    :ivar sightings: the latest of each node.
    """

    def __init__(self, apis: Mapping[int, Api]) -> None:
        self.sightings = dict.fromkeys(apis, Sighting(-math.inf, {}))
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=pair, daemon=True) for pair in apis.items()]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._ended.set()

    def fresh(self, since_s: float = 0.0) -> dict[int, Mapping[str, Any]]:
        """What those nodes say that have answered lately, and were asked after ``since_s``."""
        return {k: seen.document for k, seen in self.sightings.items() if seen.is_fresh and seen.asked_s > since_s}

    def master(self) -> int | None:
        """Whom all those nodes take for master; None if nobody, or if they do not agree."""
        masters = {document["master"] for document in self.fresh().values()}
        return masters.pop() if len(masters) == 1 else None

    def _ask(self, node_id: int, api: Api) -> None:
        while not self._ended.wait(ASK_EVERY_S):
            asked_s = time.monotonic()
            try:
                document = api.get("/v1/status").document()
            except Failed:
                continue  # its last sighting gets old
            self.sightings[node_id] = Sighting(asked_s, document)


class View:
    """Draws what is known now, and writes what happens.

    :ivar processes: what was done to each node's process, in one word.
    """

    def __init__(self, console: Console, watch: Watch, load: Load, node_ids: Iterable[int]) -> None:
        self.console = console
        self.processes = dict.fromkeys(node_ids, "starting")
        self._watch = watch
        self._load = load
        self._began_s = time.monotonic()

    def title(self, text: str) -> None:
        """Write the first line of a step."""
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def say(self, text: str, style: str = "") -> None:
        """Write what happened, below the title."""
        self.console.print(Padding.indent(Text(text, style=style), _INDENT))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the state meanwhile: on a terminal a table that changes, elsewhere a line each second."""
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            live = Live(
                get_renderable=self._table,
                console=self.console,
                refresh_per_second=DRAWS_PER_S,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            with live:
                yield
            return
        ended = threading.Event()
        writer = threading.Thread(target=self._write_lines, args=(ended,), name="demo-lines", daemon=True)
        writer.start()
        try:
            yield
        finally:
            ended.set()
            writer.join()

    # --- inside ------------------------------------------------------------------------

    def _write_lines(self, ended: threading.Event) -> None:
        while not ended.wait(LINE_EVERY_S):
            nodes = "; ".join(_in_words(row) for row in self._rows())
            try:
                self.console.print(Text(f"{self._total()}; {nodes}"))
            except BrokenPipeError:
                return  # who writes what happens meets it too, and ends everything

    def _table(self) -> RenderableType:
        return Group(Text(), table(_HEADINGS, self._rows()), Text(self._total(), style="dim"), Text())

    def _total(self) -> str:
        now_s = time.monotonic()
        return f"{now_s - self._began_s:6.1f}s  {self._rate():3.0f} commits/s, {len(self._load.commits)} so far"

    def _rate(self, node_id: int | None = None) -> float:
        now_s = time.monotonic()
        latest = self._load.commits_of(now_s - RATE_OVER_S, now_s)
        return sum(node_id in (None, commit.by) for commit in latest) / RATE_OVER_S

    def _rows(self) -> list[list[object]]:
        fresh = self._watch.fresh()
        return [self._row(node_id, process, fresh) for node_id, process in self.processes.items()]

    def _row(self, node_id: int, process: str, fresh: Mapping[int, Mapping[str, Any]]) -> list[object]:
        member = _line_about(node_id, fresh)
        own = fresh.get(node_id, {})
        master = own.get("master")
        return [
            node_id,
            process,
            member.get("standing", ""),
            "master" if member.get("is_master") else _time_left(member),
            master if master else "",
            own.get("committed", ""),
            f"{self._rate(node_id):.0f}",
            self._load.waiting(node_id),
        ]


def _time_left(member: Mapping[str, Any]) -> str:
    """Of an announced absence."""
    remaining_ms = member.get("remaining_ms")
    return "" if remaining_ms is None else f"{remaining_ms / 1000:.1f}s left"


def _in_words(row: Sequence[object]) -> str:
    node_id, process, standing, more = row[:4]
    said = f"{standing} ({more})" if more else f"{standing}"
    return f"node {node_id} {process}{', ' if standing else ''}{said}"


def _line_about(node_id: int, fresh: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The line about a node in the status of the node that knows best: of the newest epoch, the master if it can be."""
    documents = sorted(
        fresh.values(), key=lambda document: (document["epoch"], document["master"] == document["node_id"])
    )
    for document in reversed(documents):
        for member in document["members"]:
            if member["node_id"] == node_id:
                return {**member, "is_master": document["master"] == node_id}
    return {}
