"""What was measured, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from rich.table import Table

from txvbcast.cli.bench.measuring import OURS, Measured
from txvbcast.cli.session import printable
from txvbcast.cli.tables import table

#: How the columns of rates are headed.
WAY_TITLES = {"client": "client port", "HTTP": "HTTP", "etcd": "etcd", "nats": "NATS, synced"}


@attrs.frozen(order=True)
class Case:
    """What systems are compared under.

    :ivar nodes: how many; 0: somebody else's cluster.
    """

    nodes: int
    mode: str
    payload_bytes: int
    via: str
    outstanding: int


def cases(found: Sequence[Measured]) -> list[Case]:
    """Every case of ours, in the order in which they were measured."""
    ours = [measured for measured in found if measured.point.system == OURS]
    return list(dict.fromkeys(_case(measured, measured.point.mode) for measured in ours))


def by_way(found: Sequence[Measured], case: Case) -> dict[str, Measured]:
    """What was found for a case, by the way of the load; a peer has no modes, so it stands beside each of ours."""
    return {measured.point.way: measured for measured in found if _case(measured, case.mode) == case}


def _case(measured: Measured, peers_mode: str) -> Case:
    point = measured.point
    mode = point.mode if point.system == OURS else peers_mode
    return Case(point.nodes or 0, mode, point.payload_bytes, point.via, point.outstanding)


def ratios(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """For every case, what the client port commits against what each other way does; ready for JSON."""
    documents = []
    for case in cases(found):
        ways = by_way(found, case)
        ours = ways.pop("client", None)
        if ours is not None:
            against = {way: _ratio(ours, other) for way, other in ways.items()}
            documents.append({**attrs.asdict(case), "client_port_against": against})
    return documents


def _ratio(ours: Measured, other: Measured) -> float | None:
    return ours.committed_per_s / other.committed_per_s if other.committed_per_s else None


def conditions_lines(conditions: Mapping[str, Any]) -> list[str]:
    """What it ran on."""
    machine = (
        "Python {python}, Twisted {twisted}, txvbcast {txvbcast}; {kernel}, {cores} cores ({processor}), "
        "load average {load_average_1m} before".format(**conditions)
    )
    where = ", ".join(conditions["node_urls"]) or "all nodes and clients on this machine"
    lines = [machine, f"{where}; {conditions['seconds']:g} s per point after {conditions['warm_up_s']:g} s of warm-up"]
    if conditions["peers"]:
        lines.append(f"beside it: {', '.join(conditions['peers'].values())}")
    return [printable(line) for line in lines]


def rates_table(found: Sequence[Measured]) -> Table:
    """Committed transactions per second: a row for each case, a column for each way, and the client port against it."""
    ways = list(dict.fromkeys(measured.point.way for measured in found))
    headings = ["nodes", "mode", ">payload", "via", ">outstanding"]
    for way in ways:
        headings.append(f">{WAY_TITLES[way]}")
        if way != "client" and "client" in ways:
            headings.append(">ratio")
    rows = [_rates_row(case, by_way(found, case), ways) for case in cases(found)]
    return table(headings, rows)


def _rates_row(case: Case, measured: Mapping[str, Measured], ways: Sequence[str]) -> list[object]:
    row: list[object] = [case.nodes or "", case.mode, case.payload_bytes, case.via, case.outstanding]
    ours = measured.get("client")
    for way in ways:
        other = measured.get(way)
        row.append(None if other is None else f"{other.committed_per_s:.0f}")
        if way != "client" and "client" in ways:
            row.append("" if ours is None or other is None else number(_ratio(ours, other), 2))
    return row


DETAIL_HEADINGS = (
    "way",
    "nodes",
    "mode",
    ">payload",
    "via",
    ">outstanding",
    ">committed/s",
    ">MB/s",
    ">p50 ms",
    ">p99 ms",
    ">max ms",
    ">failed",
    ">per entry",
    ">fsync/s",
    ">cores",
    ">of clients",
    ">of the busiest node",
    ">MB of the largest node",
)


def detail_table(found: Sequence[Measured]) -> Table:
    """Everything else: latencies, failures, the disk and the processors."""
    return table(DETAIL_HEADINGS, [_detail_row(measured) for measured in found])


def _detail_row(measured: Measured) -> list[object]:
    point = measured.point
    clients = {name: cores for name, cores in measured.cores.items() if name.startswith("client")}
    nodes = [cores for name, cores in measured.cores.items() if name not in clients and cores is not None]
    return [
        WAY_TITLES[point.way],
        point.nodes,
        point.mode,
        point.payload_bytes,
        point.via,
        point.outstanding,
        f"{measured.committed_per_s:.0f}",
        number(measured.committed_per_s * point.payload_bytes / 1e6, 1),
        *(number(time_ms, 1) for time_ms in (measured.p50_ms, measured.p99_ms, measured.max_ms)),
        measured.failed,
        number(measured.per_entry, 1),
        number(measured.fsyncs_per_s, 0),
        number(measured.cores_used, 2),
        number(sum(cores for cores in clients.values() if cores is not None), 2),
        number(max(nodes, default=None), 2),
        number(max(measured.node_memory_bytes) / 1e6, 0),
    ]


def remarks(found: Sequence[Measured]) -> list[str]:
    """What should not have happened."""
    lines = []
    for measured in found:
        title = measured.point.title()
        for kind, failure in measured.failures.items():
            lines.append(f"{title}: {failure['count']} {kind}; the first: {failure['example']}")
        if measured.epochs:
            lines.append(f"{title}: the master changed meanwhile, {measured.epochs} new epochs")
    return [printable(line) for line in lines]


def number(value: float | None, places: int) -> str:
    """A figure; nothing if there is none."""
    return "" if value is None else f"{value:.{places}f}"
