"""The whole of ``vbcast demo``: starts a cluster and its writers, goes through the absences, and compares."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from txvbcast.cli.demo_check import Comparison, State, changed_logs, compare, shortened
from txvbcast.cli.demo_load import PREFIX, WRITES_PER_S, Load, Outcome, Write
from txvbcast.cli.demo_steps import CALM_S, Absence, How, Plan, Result
from txvbcast.cli.demo_view import View, Watch
from txvbcast.cli.failures import Failed
from txvbcast.cli.local import LocalCluster, LocalNode
from txvbcast.cli.tables import table
from txvbcast.errors import VbcastError
from txvbcast.wire.messages import Entry

#: So much of a log is shown of a node that does not start.
_LAST_LINES = 5
#: How long a node may take to say all it holds.
_LIST_S = 10.0

_HEADINGS = (
    "absence",
    ">commits\nduring",
    ">longest\ngap",
    ">failed",
    ">unknown",
    "master\nbefore,\nduring,\nafter",
    ">caught\nup in",
)


def plans(nodes: int) -> list[Plan]:
    """The absences, in order; the last node goes without a word, the second one says so."""
    return [
        Plan("a", 1, How.ANNOUNCED, is_master=True),
        Plan("b", 2, How.ANNOUNCED, is_master=False),
        Plan("c", nodes, How.FROZEN, is_master=False),
        Plan("d", 1, How.KILLED, is_master=True),
    ]


class Show:
    """One run with a cluster whose nodes do not run yet.

    :ivar load: the writers.
    :ivar of_absences: the writes that fell due during an absence; how many of them failed is in its result.
    :ivar results: of the absences so far.
    :ivar comparison: of everything, once it is made.
    :ivar broken: every promise that was not kept.
    """

    def __init__(self, cluster: LocalCluster, console: Console) -> None:
        self.results: list[Result] = []
        self.comparison: Comparison | None = None
        self.broken: list[str] = []
        self._cluster = cluster
        self._logs: dict[int, list[Entry]] = {}
        self._stopped = False
        self.of_absences: set[Write] = set()
        self.load = Load({k: _address(node) for k, node in cluster.nodes.items()})
        self._watch = Watch({k: node.api for k, node in cluster.nodes.items()})
        self._view = View(console, self._watch, self.load, cluster.nodes)
        self._began_s = time.monotonic()

    @property
    def ok(self) -> bool:
        """Whether all was shown and every promise kept."""
        return self.comparison is not None and not self.broken

    def run(self) -> None:
        """Show everything up to the comparison; the nodes run on after it."""
        self._watch.start()
        try:
            with self._view.shown():
                self._go_through()
        except (Failed, VbcastError, RuntimeError, TimeoutError) as error:
            self.broken.append(f"it could not be shown to the end: {error}")
        finally:
            self.load.stop()
            self._watch.end()

    def compare_stopped(self) -> None:
        """The nodes have ended: the logs on their disks must be what they were before."""
        if self.comparison is None:
            return
        try:
            self.broken += changed_logs(self._logs, self._cluster.logs())
            self._stopped = True
        except VbcastError as error:
            self.broken.append(f"a stopped node's log cannot be read: {error}")

    def tell_result(self) -> None:
        """Write the table, and the verdict."""
        console = self._view.console
        if self.results:
            console.print()
            console.print(_table(self.results))
        if self.comparison is not None:
            console.print()
            console.print(self._compared(self.comparison))
        for promise in self.broken:
            console.print(Text(f"BROKEN: {promise}", style="red"))
        if self.ok:
            console.print(Text("Every promise was kept.", style="green"))

    def strays(self) -> list[str]:
        """Writes that were not committed although every node was normal, in words."""
        bad = [write for write in self.load.writes if write.outcome is not Outcome.COMMITTED]
        return shortened(
            [
                f"with every node normal a client of node {write.home} heard of {write.key}: {write.reason}"
                for write in bad
                if write not in self.of_absences
            ]
        )

    def report(self) -> dict[str, Any]:
        """The result, ready for JSON."""
        comparison = None if self.comparison is None else attrs.asdict(self.comparison)
        steps = [{**attrs.asdict(result), "how": result.how.value} for result in self.results]
        took_ms = round((time.monotonic() - self._began_s) * 1000)
        return {"ok": self.ok, "broken": self.broken, "steps": steps, "comparison": comparison, "took_ms": took_ms}

    # --- inside ------------------------------------------------------------------------

    def _go_through(self) -> None:
        cluster = self._cluster
        self._start_nodes()
        self.load.start()
        rate = f"{WRITES_PER_S:.0f} writes per second go to the nodes"
        self._view.say(f"All are normal and node {self._watch.master()} is master. From now on {rate}.")
        for plan in plans(len(cluster.nodes)):
            time.sleep(CALM_S)
            absence = Absence(plan, cluster, self.load, self._watch, self._view)
            result = absence.run()
            self.of_absences.update(absence.writes)
            self.results.append(result)
            self.broken += result.broken
        time.sleep(CALM_S)
        self._compare()

    def _start_nodes(self) -> None:
        nodes = self._cluster.nodes
        self._view.title(f"{len(nodes)} nodes start on 127.0.0.1; their files are in {self._cluster.directory}")
        for node in nodes.values():
            node.start()
        self._cluster.wait("every node is normal and the lowest id is master", self._has_started)
        for node_id in nodes:
            self._view.processes[node_id] = "running"

    def _has_started(self) -> bool:
        for node in self._cluster.nodes.values():
            if node.process is not None and node.process.poll() is not None:
                last = "\n".join(node.log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
                raise RuntimeError(f"node {node.node_id} did not start; the end of {node.log}:\n{last}")
        return self._watch.master() == min(self._cluster.nodes) and self._cluster.settled()

    def _compare(self) -> None:
        self._view.title("(e) The writers stop. All logs, all keys, and what every client heard are compared.")
        self.load.stop()
        self.load.join()
        self._cluster.wait_settled()
        self._logs = self._cluster.logs()
        states = {k: _state(node) for k, node in self._cluster.nodes.items()}
        self.comparison = compare(self._logs, states, self.load.writes)
        self.broken += self.comparison.broken
        self.broken += self.strays()

    def _compared(self, comparison: Comparison) -> str:
        there = f" ({comparison.unknown_there} of them are there)" if comparison.unknown else ""
        found = (
            f"{comparison.committed} writes were heard as committed, {comparison.failed} as failed, "
            f"{comparison.unknown} stayed unknown{there}."
        )
        if self.broken:
            return found
        return (
            f"{found} Each committed one is there exactly once on every node, and none that failed.\n"
            f"All {len(self._cluster.nodes)} logs are equal, entry by entry ({comparison.entries} each"
            f"{', also after the nodes had ended' if self._stopped else ''}), and so are all keys."
        )


def _address(node: LocalNode) -> tuple[str, int]:
    parts = urlsplit(node.api.url)
    return str(parts.hostname), parts.port or 80


def _state(node: LocalNode) -> State:
    answer = node.api.get("/v1/kv", {"prefix": PREFIX, "consistency": "local"}, wait_s=_LIST_S)
    return {item["key"]: (item["value"], item["version"]) for item in answer.field("items", list)}


def _table(results: Sequence[Result]) -> Table:
    return table(_HEADINGS, [_row(result) for result in results])


def _row(result: Result) -> list[object]:
    return [
        f"({result.step}) {result.role}, {result.how.value}",
        result.commits,
        f"{result.longest_gap_ms}ms",
        result.failed,
        result.unknown,
        ", ".join("none" if node is None else str(node) for node in _masters(result)),
        "never" if result.catch_up_ms is None else f"{result.catch_up_ms}ms",
    ]


def _masters(result: Result) -> tuple[int | None, ...]:
    return result.master_before, result.master_during, result.master_after
