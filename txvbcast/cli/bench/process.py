"""A process that keeps a system at work and counts what comes of it: ``python -m txvbcast.cli.bench.process``.

It reads a :class:`~txvbcast.cli.bench.load.LoadSpec` (a line of JSON) from stdin, connects, says ``ready``, reads
the :class:`~txvbcast.cli.bench.load.Window`, and writes a :class:`~txvbcast.cli.bench.load.LoadResult`.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module

import click
import msgspec

from txvbcast.cli.bench.load import LoadFailed, LoadResult, LoadSpec

#: How a load reaches the system: the module with ``perform_load``, imported when it is needed.
WAYS = {
    "client": "txvbcast.cli.bench.through_client",
    "HTTP": "txvbcast.cli.bench.through_http",
    "etcd": "txvbcast.cli.bench.to_etcd",
    "nats": "txvbcast.cli.bench.to_nats",
}


def main() -> int:
    """Do what the :class:`LoadSpec` on stdin says; the exit code."""
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=LoadSpec)
    # A collection of the client's garbage lasts tens of milliseconds, and would be counted as a gap of the cluster.
    gc.disable()
    try:
        result: LoadResult = import_module(WAYS[spec.way]).perform_load(spec)
    except LoadFailed as failed:
        click.echo(str(failed), err=True)
        return 1
    click.echo(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
