"""``vbcast bench copy``: large values through the cluster, against a plain copy of the same bytes to files."""

from __future__ import annotations

import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import click

from txvbcast.cli import machine
from txvbcast.cli.bench.clusters import Nodes, local_nodes
from txvbcast.cli.bench.measuring import OURS, Measured, Point
from txvbcast.cli.bench.options import (
    Several,
    clients_option,
    failing_in_json,
    json_option,
    progress,
    seconds_option,
    wants_json,
)
from txvbcast.cli.bench.report import number
from txvbcast.cli.failures import Exit, Failed
from txvbcast.cli.tables import console, table
from txvbcast.control.client_desk import OUTSTANDING_MAX

#: Of a plain copy, at least and at most, to each of its files.
COPY_BYTES_MIN = 16 << 20
COPY_BYTES_MAX = 512 << 20
HEADINGS = (
    ">payload",
    ">outstanding",
    ">committed/s",
    ">cluster MB/s",
    ">plain copy MB/s",
    ">ratio",
    ">failed",
    ">cores",
)


@attrs.frozen
class Compared:
    """A cluster's rate, and that of a plain copy in the same run.

    :ivar plain_bytes_per_s: of the content; as many files as there are nodes were written.
    """

    measured: Measured
    plain_bytes_per_s: float

    @property
    def bytes_per_s(self) -> float:
        """What the cluster committed."""
        return self.measured.committed_per_s * self.measured.point.payload_bytes

    @property
    def ratio(self) -> float:
        """The cluster against the plain copy."""
        return self.bytes_per_s / self.plain_bytes_per_s

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        own = {"bytes_per_s": self.bytes_per_s, "plain_bytes_per_s": self.plain_bytes_per_s, "ratio": self.ratio}
        return {**self.measured.document(), **own}


@click.command(short_help="Measure large values against a plain copy to files.")
@click.option(
    "--outstanding",
    type=Several(click.IntRange(1, OUTSTANDING_MAX)),
    metavar="N[,N...]",
    default="1,64",
    show_default=True,
    help="Transactions that the clients have under way at any time, together.",
)
@click.option(
    "--payload",
    "payload_bytes",
    type=click.IntRange(1),
    metavar="BYTES",
    default=65536,
    show_default=True,
    help="The length of a value.",
)
@seconds_option(5.0)
@clients_option
@json_option
@click.pass_context
def copy(
    context: click.Context,
    outstanding: tuple[int, ...],
    payload_bytes: int,
    seconds: float,
    clients: int,
    as_json: bool,
) -> int:
    """Measure how many bytes a second a cluster of three commits, and how many a plain copy does.

    The plain copy writes as many bytes to three new files on the same disk, all at the same time, and calls fsync
    on each file whenever it has written as much as the cluster's clients have under way.
    """
    as_json = wants_json(context, as_json)
    conditions = {**machine.describe(), "nodes": 3}
    with failing_in_json(as_json), local_nodes(3) as nodes:
        found = [compare(nodes, count, payload_bytes, seconds, clients) for count in outstanding]
    if as_json:
        click.echo(json.dumps({"conditions": conditions, "points": [each.document() for each in found]}))
    else:
        console().print(table(HEADINGS, [_row(each) for each in found]))
    return Exit.DONE if all(each.measured.committed for each in found) else Exit.REFUSED


def compare(nodes: Nodes, outstanding: int, payload_bytes: int, seconds: float, clients: int) -> Compared:
    """Measure the cluster, then the plain copy of as many bytes, within bounds, on the same disk.

    :raises Failed: the cluster cannot be measured, or nothing be copied.
    """
    cluster = nodes.cluster
    assert cluster is not None
    point = Point(OURS, "client", len(cluster.nodes), "master", "broadcast", payload_bytes, outstanding)
    progress(f"measuring {point.title()}")
    measured = nodes.measure(point, seconds, clients)
    nodes.wait_for_rest()
    total_bytes = min(max(measured.total * payload_bytes, COPY_BYTES_MIN), COPY_BYTES_MAX)
    progress(f"copying {total_bytes >> 20} MiB to {len(cluster.nodes)} files")
    try:
        plain = copy_bytes_per_s(cluster.directory, len(cluster.nodes), total_bytes, outstanding * payload_bytes)
    except OSError as error:  # such as a full disk
        raise Failed("unreachable", f"the plain copy failed: {error}") from error
    return Compared(measured, plain)


def copy_bytes_per_s(directory: Path, files: int, total_bytes: int, synced_bytes: int) -> float:
    """How many bytes a second are written to each of some new files, all at once.

    :param total_bytes: to each of them.
    :param synced_bytes: so often is a file made durable.
    :raises OSError: a file cannot be written.
    """
    block = os.urandom(min(synced_bytes, total_bytes))
    count = -(-total_bytes // len(block))
    with tempfile.TemporaryDirectory(dir=directory) as folder, ThreadPoolExecutor(files) as threads:
        began_s = time.perf_counter()
        filling = [threads.submit(_fill, Path(folder, str(k)), block, count) for k in range(files)]
        for each in filling:
            each.result()
        return count * len(block) / (time.perf_counter() - began_s)


def _fill(path: Path, block: bytes, count: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            rest = memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())


def _row(compared: Compared) -> list[object]:
    measured = compared.measured
    return [
        measured.point.payload_bytes,
        measured.point.outstanding,
        number(measured.committed_per_s, 0),
        number(compared.bytes_per_s / 1e6, 1),
        number(compared.plain_bytes_per_s / 1e6, 1),
        number(compared.ratio, 2),
        measured.failed,
        number(measured.cores_used, 2),
    ]
