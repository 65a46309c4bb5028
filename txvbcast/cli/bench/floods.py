"""``vbcast bench floods``: what becomes of latency and memory when more comes than a cluster can take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs
import click

from txvbcast.cli import machine
from txvbcast.cli.bench.clusters import Nodes, local_nodes
from txvbcast.cli.bench.measuring import OURS, Measured, Point
from txvbcast.cli.bench.options import (
    clients_option,
    failing_in_json,
    json_option,
    progress,
    seconds_option,
    wants_json,
)
from txvbcast.cli.bench.report import number, remarks
from txvbcast.cli.failures import Exit
from txvbcast.cli.tables import console, table

#: The rate of a closed loop with so many under way is what a cluster can take.
SUSTAINABLE_OUTSTANDING = 1024
#: Of that, what falls due in the open loops.
SHARES = (0.5, 2.0)
HEADINGS = (
    "load",
    ">due/s",
    ">committed/s",
    ">p50 ms",
    ">p99 ms",
    ">max ms",
    ">overloaded",
    ">otherwise failed",
    ">MB of a node, first half",
    ">second half",
    ">cores",
    ">of clients",
)


@attrs.frozen
class Floods:
    """What was measured.

    :ivar sustainable: the closed loop.
    :ivar half, twice: open loops at half and at twice its rate.
    """

    sustainable: Measured
    half: Measured
    twice: Measured

    @property
    def p99_ratio(self) -> float | None:
        """The 99th percentile of the latency at twice the sustainable load against that at half of it."""
        if not self.half.p99_ms or self.twice.p99_ms is None:
            return None
        return self.twice.p99_ms / self.half.p99_ms

    @property
    def memory_ratio(self) -> float:
        """What the largest node had in memory in the second half of the flood, against the first."""
        first, second = self.twice.node_memory_bytes
        return second / first if first else 0.0

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        points = {name: getattr(self, name).document() for name in ("sustainable", "half", "twice")}
        return {**points, "p99_ratio": self.p99_ratio, "memory_ratio": self.memory_ratio}


@click.command(short_help="Measure latency and memory under too much load.")
@seconds_option(5.0)
@click.option(
    "--payload",
    "payload_bytes",
    type=click.IntRange(0),
    metavar="BYTES",
    default=128,
    show_default=True,
    help="The length of a value.",
)
@clients_option
@json_option
@click.pass_context
def floods(context: click.Context, seconds: float, payload_bytes: int, clients: int, as_json: bool) -> int:
    """Measure what becomes of latency and memory when more comes than a cluster can take.

    First a closed loop finds the rate that three nodes sustain. Then transactions fall due at half of that rate, and at
    twice, whatever becomes of those before them; the latency of a transaction counts from the moment it fell due.
    """
    as_json = wants_json(context, as_json)
    conditions = {**machine.describe(), "nodes": 3, "seconds": seconds}
    with failing_in_json(as_json), local_nodes(3) as nodes:
        found = measure_floods(nodes, payload_bytes, seconds, clients)
    if as_json:
        click.echo(json.dumps({"conditions": conditions, **found.document()}))
    else:
        show_floods(found)
    return Exit.DONE if found.twice.committed else Exit.REFUSED


def measure_floods(nodes: Nodes, payload_bytes: int, seconds: float, clients: int) -> Floods:
    """Find the sustainable rate, then let half of it and twice as much fall due.

    :raises Failed: it cannot be measured.
    """
    assert nodes.cluster is not None
    count = len(nodes.cluster.nodes)
    closed = Point(OURS, "client", count, "master", "broadcast", payload_bytes, SUSTAINABLE_OUTSTANDING)
    progress(f"measuring {closed.title()}")
    sustainable = nodes.measure(closed, seconds, clients)
    found = []
    for share in SHARES:
        point = attrs.evolve(closed, rate_per_s=share * max(1.0, sustainable.committed_per_s))
        progress(f"measuring {point.title()}")
        found.append(nodes.measure(point, seconds, clients))
    half, twice = found
    return Floods(sustainable, half, twice)


def show_floods(found: Floods) -> None:
    """Print them for people."""
    rows = [
        _row(f"{SUSTAINABLE_OUTSTANDING} outstanding", found.sustainable),
        _row("half of that", found.half),
        _row("twice that", found.twice),
    ]
    console().print(table(HEADINGS, rows))
    click.echo(f"p99 at twice the sustainable rate: {number(found.p99_ratio, 1)} times that at half of it")
    _show_remarks((found.sustainable, found.half))


def _show_remarks(found: Sequence[Measured]) -> None:
    for line in remarks(found):
        click.echo(line)


def _row(load: str, measured: Measured) -> list[object]:
    overloaded = measured.failures.get("overloaded", {}).get("count", 0)
    first, second = measured.node_memory_bytes
    return [
        load,
        number(measured.point.rate_per_s, 0),
        number(measured.committed_per_s, 0),
        *(number(time_ms, 1) for time_ms in (measured.p50_ms, measured.p99_ms, measured.max_ms)),
        overloaded,
        measured.failed - overloaded,
        number(first / 1e6, 0),
        number(second / 1e6, 0),
        number(measured.cores_used, 2),
        number(sum(cores or 0.0 for name, cores in measured.cores.items() if name.startswith("client")), 2),
    ]
