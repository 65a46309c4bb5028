"""``vbcast bench``: how many transactions a cluster commits, and how long each takes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import click

from txvbcast.cli import machine
from txvbcast.cli.api import Api
from txvbcast.cli.failures import Exit, Failed
from txvbcast.cli.measuring import VIAS, WARM_UP_S, Measured, Nodes, Point, Settings, local_nodes
from txvbcast.cli.session import printable
from txvbcast.cli.submit import MODES
from txvbcast.cli.tables import console, table

#: Below the default of limits.pending: more would be refused at the door.
OUTSTANDING_MAX = 8192
#: What the client, or a node, has open besides the connections between them.
OTHER_FILES = 128
NODES = 3
HEADINGS = (
    "mode",
    ">outstanding",
    ">committed/s",
    ">p50 ms",
    ">p99 ms",
    ">max ms",
    ">failed",
    ">per entry",
    ">fsync/s",
)


class Several(click.ParamType):  # type: ignore[type-arg]
    """Values of one type, with commas between them."""

    def __init__(self, each: click.ParamType) -> None:  # type: ignore[type-arg]
        self.each = each
        self.name = each.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """The values that the text names."""
        return tuple(self.each.convert(part.strip(), param, ctx) for part in value.split(","))


@click.command(short_help="Measure how many transactions a cluster commits.")
@click.option(
    "--outstanding",
    type=Several(click.IntRange(1, OUTSTANDING_MAX)),
    metavar="N[,N...]",
    default="1,64,1024",
    show_default=True,
    help="Transactions that the client has under way at any time.",
)
@click.option(
    "--mode",
    "modes",
    type=Several(click.Choice(MODES)),
    metavar="MODE[,MODE...]",
    default="broadcast",
    show_default=True,
    help=f"Any of {', '.join(MODES)}.",
)
@click.option(
    "--payload", type=click.IntRange(0), metavar="BYTES", default=128, show_default=True, help="The length of a value."
)
@click.option(
    "--via",
    type=click.Choice(VIAS),
    default="all",
    show_default=True,
    help="Which nodes the client talks to: the master, one that is not, or all.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    metavar="S",
    default=5.0,
    show_default=True,
    help=f"How long each point is measured, after {WARM_UP_S:g} s of the same load.",
)
@click.option("--nodes", type=click.IntRange(2, 7), metavar="N", help=f"Nodes to start, 2 to 7.  [default: {NODES}]")
@click.option(
    "--node",
    "urls",
    metavar="URL",
    multiple=True,
    help="Measure a running cluster: the HTTP address of one of its nodes. May be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
@click.pass_context
def bench(
    context: click.Context,
    outstanding: tuple[int, ...],
    modes: tuple[str, ...],
    payload: int,
    via: str,
    seconds: float,
    nodes: int | None,
    urls: tuple[str, ...],
    as_json: bool,
) -> int:
    """Measure how many transactions a cluster commits, and how long each takes.

    Starts a cluster on this machine for that, in a temporary directory. A client process puts keys; each transaction
    that it has under way uses an HTTP connection of its own.

    A running cluster that is measured instead keeps the keys; they begin with bench/.
    """
    root_node, root_json = context.find_object(tuple) or (None, False)
    urls = urls or ((root_node,) if root_node else ())
    if urls and nodes:
        raise click.UsageError("--nodes says how many nodes to start; with --node none is started")
    try:
        machine.allow_open_files(max(outstanding) + OTHER_FILES)
    except ValueError as error:
        raise click.BadParameter(f"{max(outstanding)}: {error}", param_hint="--outstanding") from error
    count = nodes or NODES
    conditions = {
        **machine.describe(),
        "nodes": None if urls else count,
        "node_urls": list(urls),
        "interface": "HTTP PUT /v1/kv/KEY",
        "via": via,
        "payload_bytes": payload,
        "warm_up_s": WARM_UP_S,
    }
    points = [Point(mode, number) for mode in modes for number in outstanding]
    try:
        with contextlib.nullcontext(_running_nodes(urls)) if urls else local_nodes(count) as measured:
            found = _measure(measured, points, Settings(via, payload, seconds))
    except Failed as failed:
        if as_json or root_json:
            click.echo(json.dumps(failed.document))
        raise
    if as_json or root_json:
        click.echo(json.dumps({"conditions": conditions, "points": [each.document() for each in found]}))
    else:
        _show(conditions, found)
    return Exit.DONE if all(each.result.committed for each in found) else Exit.REFUSED


def _running_nodes(urls: Sequence[str]) -> Nodes:
    try:
        return Nodes([Api(url) for url in urls])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--node") from error


def _measure(nodes: Nodes, points: Sequence[Point], settings: Settings) -> list[Measured]:
    found = []
    for point in points:
        click.echo(f"measuring {_title(point)} ...", err=True)
        found.append(nodes.measure(point, settings))
    return found


def _title(point: Point) -> str:
    return f"{point.mode} with {point.outstanding} outstanding"


def _show(conditions: dict[str, Any], found: Sequence[Measured]) -> None:
    """Print what was found for people."""
    names = list(found[0].result.cpu_s)
    nodes = ", ".join(conditions["node_urls"]) or f"{conditions['nodes']} nodes on the client's machine"
    click.echo(
        "Python {python}, Twisted {twisted}, txvbcast {txvbcast}; {kernel}, {cores} cores ({processor}), "
        "load average {load_average_1m} before".format(**conditions)
    )
    click.echo(
        f"{nodes}; values of {conditions['payload_bytes']} bytes, "
        f"{conditions['interface']}, via {conditions['via']}; {found[0].result.seconds:.1f} s per point\n"
    )
    console().print(table((*HEADINGS, *(f">{name} CPU s" for name in names)), [_row(each, names) for each in found]))
    for each in found:
        for line in _remarks(each):
            click.echo(f"{_title(each.point)}: {printable(line)}")


def _row(measured: Measured, names: Sequence[str]) -> list[object]:
    result = measured.result
    times = (result.p50_ms, result.p99_ms, result.max_ms)
    return [
        measured.point.mode,
        measured.point.outstanding,
        f"{result.committed_per_s:.0f}",
        *(_number(time_ms, 1) for time_ms in times),
        result.transactions - result.committed,
        _number(result.committed_per_s * result.seconds / result.entries if result.entries else None, 1),
        _number(measured.fsyncs_per_s, 0),
        *(_number(result.cpu_s[name], 2) for name in names),
    ]


def _number(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _remarks(measured: Measured) -> list[str]:
    failures = sorted(measured.result.failures.items())
    lines = [f"{failure.count} {kind}; the first: {failure.example}" for kind, failure in failures]
    if measured.epochs:
        lines.append(f"the master changed meanwhile, {measured.epochs} new epochs")
    return lines
