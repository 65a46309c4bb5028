"""``vbcast bench rate``: how many transactions a cluster commits, and how long each takes."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from txvbcast.cli import machine
from txvbcast.cli.api import DEFAULT_PORT, Api
from txvbcast.cli.bench import measuring, peers
from txvbcast.cli.bench.clusters import VIAS, Nodes, Peer, System, local_nodes
from txvbcast.cli.bench.measuring import OURS, Measured, Point
from txvbcast.cli.bench.options import (
    Several,
    clients_option,
    failing_in_json,
    json_option,
    progress,
    seconds_option,
    svg_option,
    wants_json,
    write_picture,
)
from txvbcast.cli.bench.plot import rates_picture
from txvbcast.cli.bench.report import conditions_lines, detail_table, rates_table, ratios, remarks
from txvbcast.cli.failures import Exit
from txvbcast.cli.submit import MODES
from txvbcast.cli.tables import console
from txvbcast.control.client_desk import OUTSTANDING_MAX

#: What a process of the load, or a node, has open besides the connections between them.
OTHER_FILES = 128
OUR_WAYS = ("client", "HTTP")


@click.command(short_help="Measure how many transactions a cluster commits.")
@click.option(
    "--outstanding",
    type=Several(click.IntRange(1, OUTSTANDING_MAX)),
    metavar="N[,N...]",
    default="1,64,1024",
    show_default=True,
    help="Transactions that the clients have under way at any time, together.",
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
    "--payload",
    "payloads_bytes",
    type=Several(click.IntRange(0)),
    metavar="BYTES[,BYTES...]",
    default="128",
    show_default=True,
    help="The length of a value.",
)
@click.option(
    "--via",
    "vias",
    type=Several(click.Choice(VIAS)),
    metavar="VIA[,VIA...]",
    default="master",
    show_default=True,
    help="Which nodes the clients talk to: the master, one other that is not, or all.",
)
@click.option(
    "--way",
    "ways",
    type=Several(click.Choice(OUR_WAYS)),
    metavar="WAY[,WAY...]",
    default=",".join(OUR_WAYS),
    show_default=True,
    help="How the clients talk to the nodes: through the client port, or HTTP.",
)
@seconds_option(5.0)
@click.option(
    "--nodes",
    "counts",
    type=Several(click.IntRange(2, 7)),
    metavar="N[,N...]",
    help="Nodes to start, 2 to 7.  [default: 3]",
)
@click.option(
    "--peers",
    "peer_names",
    type=Several(click.Choice((*peers.NAMES, "none"))),
    metavar="NAME[,NAME...]",
    help="Other systems to measure beside: etcd, nats, or none.  [default: those that are installed]",
)
@clients_option
@click.option(
    "--node",
    "urls",
    metavar="URL",
    multiple=True,
    help="Measure a running cluster: the HTTP address of one of its nodes, whose client port is one below. May be "
    "given several times.",
)
@svg_option
@json_option
@click.pass_context
def rate(
    context: click.Context,
    outstanding: tuple[int, ...],
    modes: tuple[str, ...],
    payloads_bytes: tuple[int, ...],
    vias: tuple[str, ...],
    ways: tuple[str, ...],
    seconds: float,
    counts: tuple[int, ...] | None,
    peer_names: tuple[str, ...] | None,
    clients: int,
    urls: tuple[str, ...],
    svg: Path | None,
    as_json: bool,
) -> int:
    """Measure how many transactions a cluster commits, and how long each takes.

    Client processes put keys; through HTTP each transaction that they have under way uses a connection of its own.
    Beside it, in the same run, the same for etcd (its program etcd) and NATS JetStream (nats-server, which syncs every
    write to the disk before its answer), where they are installed.

    A running cluster that is measured instead keeps the keys; they begin with bench/.
    """
    as_json = wants_json(context, as_json)
    root_node, _ = context.find_object(tuple) or (None, False)
    urls = urls or ((root_node,) if root_node else ())
    if urls and (counts or peer_names):
        raise click.UsageError("--nodes and --peers say what to start; with --node nothing is started")
    _allow_open_files(max(outstanding))
    programs = {} if urls else _programs(peer_names)
    node_counts: tuple[int | None, ...] = (None,) if urls else (counts or (3,))
    found: list[Measured] = []
    conditions: dict[str, Any] = {
        **machine.describe(),
        "node_urls": list(urls),
        "peers": {},
        "clients": clients,
        "seconds": seconds,
        "warm_up_s": measuring.WARM_UP_S,
    }
    with failing_in_json(as_json):
        for count in node_counts:
            for entered in _systems(count, urls, programs):
                with entered as system:
                    if isinstance(system, Peer):
                        conditions["peers"][system.name] = system.version
                    for point in _points(system, count, vias, modes, payloads_bytes, outstanding, ways):
                        progress(f"measuring {point.title()}")
                        found.append(system.measure(point, seconds, clients))
    if svg is not None:
        write_picture(svg, rates_picture(found, conditions))
    if as_json:
        documents = [measured.document() for measured in found]
        click.echo(json.dumps({"conditions": conditions, "points": documents, "ratios": ratios(found)}))
    else:
        _show(conditions, found)
    return Exit.DONE if all(measured.committed for measured in found) else Exit.REFUSED


def _allow_open_files(connections: int) -> None:
    try:
        machine.allow_open_files(connections + OTHER_FILES)
    except ValueError as error:
        raise click.BadParameter(f"{connections}: {error}", param_hint="--outstanding") from error


def _programs(names: Sequence[str] | None) -> dict[str, str]:
    """The peers to measure, and their programs.

    :raises click.BadParameter: one that was asked for is not installed.
    """
    wanted = [name for name in names or peers.NAMES if name != "none"]
    programs = {} if names is not None and "none" in names else peers.found(wanted)
    missing = [name for name in wanted if names is not None and name not in programs]
    if missing and "none" not in (names or ()):
        where = ", ".join(f"{name} is in {peers.WHERE[name]}" for name in missing)
        raise click.BadParameter(f"not installed: {where}", param_hint="--peers")
    return programs


def _systems(
    count: int | None, urls: Sequence[str], programs: dict[str, str]
) -> Iterator[contextlib.AbstractContextManager[System]]:
    """One after the other, so that none lacks what another takes."""
    if count is None:
        yield contextlib.nullcontext(_running_nodes(urls))
        return
    yield local_nodes(count)
    for name, program in programs.items():
        yield _peer(name, program, count)


@contextlib.contextmanager
def _peer(name: str, program: str, count: int) -> Iterator[Peer]:
    with peers.running(name, program, count) as running:
        yield Peer(running)


def _running_nodes(urls: Sequence[str]) -> Nodes:
    try:
        return Nodes([Api(url) for url in urls], [_client_address(url) for url in urls])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--node") from error


def _client_address(url: str) -> str:
    """Where a node serves clients, as ``vbcast init`` has it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{(parts.port or DEFAULT_PORT) - 1}"


def _points(
    system: System,
    count: int | None,
    vias: Sequence[str],
    modes: Sequence[str],
    payloads_bytes: Sequence[int],
    outstanding: Sequence[int],
    ways: Sequence[str],
) -> list[Point]:
    """What is measured of a system: all combinations; a peer has one way and one mode, and no --node."""
    ways = ways if system.name == OURS else (system.name,)
    modes = modes if system.name == OURS else modes[:1]
    return [
        Point(system.name, way, count, via, mode if system.name == OURS else "", payload_bytes, number)
        for way, via, mode, payload_bytes, number in itertools.product(ways, vias, modes, payloads_bytes, outstanding)
    ]


def _show(conditions: dict[str, Any], found: Sequence[Measured]) -> None:
    """Print what was found for people."""
    for line in conditions_lines(conditions):
        click.echo(line)
    for each in (rates_table(found), detail_table(found)):
        click.echo()
        console().print(each)
    for line in remarks(found):
        click.echo(line)
