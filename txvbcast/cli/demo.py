"""``vbcast demo``: a cluster on this machine that goes through announced and unannounced absences under load."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console

from txvbcast.cli.demo_show import Show
from txvbcast.cli.failures import Exit
from txvbcast.cli.local import ENDS, LocalCluster, LocalNode, ended_like_interrupted
from txvbcast.cli.session import NODE_VARIABLE
from txvbcast.cli.tables import console
from txvbcast.errors import ConfigError

#: A single node has nobody to be absent from; many only cost time.
NODES_MIN, NODES_MAX = 2, 9
#: How long nodes may take to end when they are asked to.
END_S = 10.0
#: Besides Ctrl-C: the polite kill, and the end of the terminal.


@click.command(short_help="Show a cluster on this machine going through absences.")
@click.option("--keep", is_flag=True, help="Leave the cluster running, and say how to talk to it and how to stop it.")
@click.option(
    "--nodes",
    metavar="N",
    type=click.IntRange(NODES_MIN, NODES_MAX),
    default=3,
    help=f"How many, {NODES_MIN} to {NODES_MAX}; default 3. With 2 every unannounced absence stops the writes.",
)
@click.option(
    "--directory",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the nodes' files go, and stay; default: a temporary directory, removed if all went well.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout; the rest goes to stderr.")
@click.pass_context
def demo(context: click.Context, keep: bool, nodes: int, directory: Path | None, as_json: bool) -> int:
    """Show a cluster on this machine going through announced and unannounced absences, under load.

    \b
    Starts real nodes on 127.0.0.1, with writers on each, and then
      (a) freezes the master for 4 s, announced;
      (b) freezes a follower for 4 s, announced;
      (c) freezes a follower for 4 s without a word;
      (d) kills the master and starts it again;
      (e) compares all logs, all keys, and what every client heard.

    Takes less than a minute. Exits with 0 if the announced absences cost nobody anything and nothing was lost
    anywhere, else with 1 and the promise that was broken. Ctrl-C ends it, and every node.
    """
    _, root_json = context.find_object(tuple) or (None, False)
    as_json = as_json or root_json
    out = console(on_stderr=as_json)
    with ended_like_interrupted():
        try:
            report = _run(Stage(nodes, directory, keep, out))
        except KeyboardInterrupt:
            out.print("Interrupted; every node has ended.")
            raise
    if as_json:
        click.echo(json.dumps(report))
    return Exit.DONE if report["ok"] else Exit.REFUSED


@attrs.frozen
class Stage:
    """What the show is given."""

    nodes: int
    directory: Path | None
    keep: bool
    console: Console


def _run(stage: Stage) -> dict[str, Any]:
    """Make the cluster, show everything, and leave nothing behind that was not asked for.

    :raises click.UsageError: the directory cannot be used.
    """
    with ExitStack() as files:
        directory = stage.directory
        if directory is None:
            directory = Path(tempfile.mkdtemp(prefix="vbcast-demo-"))
            files.callback(shutil.rmtree, directory)
        cluster = _cluster(directory.absolute(), stage.nodes)
        show = Show(cluster, stage.console)
        with ExitStack() as processes:
            processes.callback(end_nodes, cluster.nodes.values(), END_S)
            show.run()
            if stage.keep:
                processes.pop_all()
        if not stage.keep:
            show.compare_stopped()
        show.tell_result()
        report = show.report()
        if stage.keep or not show.ok:
            files.pop_all()
    if stage.keep:
        stage.console.print(how_to_talk(cluster), soft_wrap=True)
        return {**report, "cluster": _running(cluster)}
    if directory.exists():
        stage.console.print(f"The nodes' files and logs are in {cluster.directory}", soft_wrap=True)
    return report


def _cluster(directory: Path, nodes: int) -> LocalCluster:
    try:
        cluster = LocalCluster(directory, nodes)
    except ConfigError as error:
        raise click.UsageError(f"--directory: {error}") from error
    for node in cluster.nodes.values():
        node.detached = True  # Ctrl-C is for this process, which ends them; with --keep they outlive the terminal
    return cluster


def end_nodes(nodes: Iterable[LocalNode], patience_s: float) -> None:
    """End every process that runs, thawed if need be; by force if it does not end within ``patience_s``.

    A second Ctrl-C does not keep it from doing so.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *ENDS)}
    try:
        for node in nodes:
            node.ask_to_stop()
        give_up_at_s = time.monotonic() + patience_s
        for node in nodes:
            if node.process is not None:
                _reap(node.process, max(0.0, give_up_at_s - time.monotonic()))
                node.process = None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reap(process: subprocess.Popen[bytes], patience_s: float) -> None:
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- what is kept ----------------------------------------------------------------------


def how_to_talk(cluster: LocalCluster) -> str:
    """What a person can do with a cluster that runs on, and how to end it."""
    vbcast = own_command()
    first = cluster[1]
    freeze = f"sh -c 'kill -STOP {first.pid}; sleep 4; kill -CONT {first.pid}'"
    nodes = "\n".join(f"  node {k}  {node.api.url}  pid {node.pid}  {node.log}" for k, node in cluster.nodes.items())
    pids = " ".join(str(node.pid) for node in cluster.nodes.values())
    return f"""
The cluster goes on running, with its files in {cluster.directory}:
{nodes}
Talk to it, for example:
  export {NODE_VARIABLE}={first.api.url}
  {vbcast} status --watch
  {vbcast} kv put greeting hello
  {vbcast} events --follow
  {vbcast} inactive run --kind freeze --expect 4s -- {freeze}
Stop it:
  kill {pids}"""


def _running(cluster: LocalCluster) -> dict[str, Any]:
    nodes = [
        {"node_id": k, "url": node.api.url, "pid": node.pid, "config": str(node.config), "log": str(node.log)}
        for k, node in cluster.nodes.items()
    ]
    return {"directory": str(cluster.directory), "nodes": nodes}


def own_command() -> str:
    """How to call this command from a shell."""
    beside = Path(sys.executable).with_name("vbcast")
    if shutil.which("vbcast"):
        return "vbcast"
    return shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m txvbcast.cli.main"
