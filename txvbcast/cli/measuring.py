"""Measures one point after the other: the nodes, a load on them, and what they did meanwhile."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import msgspec

from txvbcast.cli import machine
from txvbcast.cli.api import DEFAULT_PORT, Api
from txvbcast.cli.failures import Failed
from txvbcast.cli.load import LoadResult, LoadSpec
from txvbcast.cli.local import LocalCluster, ended_like_interrupted
from txvbcast.cli.session import printable
from txvbcast.config import Address
from txvbcast.core import epochs

#: Before every window there is as much of the same load, so that what is measured is not its beginning.
WARM_UP_S = 1.0
#: Which nodes the client talks to: the master, the first that is not, or all.
VIAS = ("master", "other", "all")


@attrs.frozen
class Settings:
    """What all points of a run have in common.

    :ivar via: one of :data:`VIAS`.
    :ivar seconds: the length of a window.
    """

    via: str
    payload_bytes: int
    seconds: float


@attrs.frozen
class Point:
    """What differs from point to point.

    :ivar outstanding: transactions under way at any time.
    """

    mode: str
    outstanding: int


@attrs.frozen
class Measured:
    """A point and what came of it.

    :ivar master: the node id of the master, before.
    :ivar used: the ids of the nodes that had the client's connections.
    :ivar epochs: how many epochs began meanwhile; with more than none the figures are those of a change of master.
    :ivar fsyncs_per_s: of the nodes' disk, right before; None if it is not this machine's.
    """

    point: Point
    master: int
    used: tuple[int, ...]
    epochs: int
    fsyncs_per_s: float | None
    result: LoadResult

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        own = attrs.asdict(self)
        return {**own.pop("point"), **own.pop("result"), **own}


class Nodes:
    """The nodes that are measured.

    :param cluster: theirs, if it runs on this machine: then the processor time of each is known, and the disk.
    """

    def __init__(self, apis: Sequence[Api], cluster: LocalCluster | None = None) -> None:
        self._apis = apis
        self._cluster = cluster

    def measure(self, point: Point, settings: Settings) -> Measured:
        """Measure one point.

        :raises Failed: a node cannot be reached, they have no master, or ``settings.via`` names none of them.
        :raises TimeoutError: the nodes of this machine do not come to rest.
        :raises RuntimeError: one of them has ended.
        """
        self._wait_for_rest()
        fsyncs_per_s = None if self._cluster is None else machine.fsyncs_per_s(self._cluster.directory)
        apis, master, epoch = self._look()
        used = _used(settings.via, sorted(apis), master)[: point.outstanding]
        spec = LoadSpec(
            targets=tuple(_address(apis[node_id]) for node_id in used),
            outstanding=point.outstanding,
            mode=point.mode,
            payload_bytes=settings.payload_bytes,
            warm_up_s=WARM_UP_S,
            seconds=settings.seconds,
            processes=self._processes(),
        )
        result = _run_load(spec)
        self._wait_for_rest()
        _, _, epoch_after = self._look()
        new_epochs = epochs.number_of(epoch_after) - epochs.number_of(epoch)
        return Measured(point, master, used, new_epochs, fsyncs_per_s, result)

    def _wait_for_rest(self) -> None:
        """Let nodes of this machine get over what was before: all normal, and the preferred master in office."""
        cluster = self._cluster
        if cluster is not None:
            home = min(cluster.nodes)
            cluster.wait(
                f"all nodes are normal and node {home} is master",
                lambda: cluster.settled() and cluster.master() == home,
            )

    def _processes(self) -> dict[str, int]:
        nodes = {} if self._cluster is None else self._cluster.nodes
        return {f"node {node_id}": node.pid for node_id, node in nodes.items()}

    def _look(self) -> tuple[dict[int, Api], int, int]:
        """The nodes by id, the id of the master, and its epoch.

        :raises Failed: a node cannot be reached, or they do not agree on a master.
        """
        answers = [(api, api.get("/v1/status")) for api in self._apis]
        masters = {answer.document().get("master") for _, answer in answers}
        master = masters.pop()
        if masters or not isinstance(master, int):
            raise Failed("no-quorum", "the nodes do not agree on a master; look at the status of each")
        apis = {answer.field("node_id", int): api for api, answer in answers}
        return apis, master, max(answer.field("epoch", int) for _, answer in answers)


def _used(via: str, ids: Sequence[int], master: int) -> tuple[int, ...]:
    if via == "all":
        return tuple(ids)
    found = [node_id for node_id in ids if (node_id == master) is (via == "master")]
    if not found:
        wanted = f"node {master}, which is master" if via == "master" else "one that is not master"
        raise Failed("bad-request", f"--via {via}: give the URL of {wanted} with --node")
    return (found[0],)


def _address(api: Api) -> Address:
    parts = urlsplit(api.url)
    return Address(parts.hostname or "", DEFAULT_PORT if parts.port is None else parts.port)


def _run_load(spec: LoadSpec) -> LoadResult:
    """Have a process of its own do what ``spec`` says.

    :raises Failed: it could not.
    """
    command = [sys.executable, "-m", "txvbcast.cli.load"]
    done = subprocess.run(command, input=msgspec.json.encode(spec), capture_output=True)
    if done.returncode:
        raise Failed("unreachable", f"the client: {printable(done.stderr.decode(errors='replace').strip())}")
    return msgspec.json.decode(done.stdout, type=LoadResult)


@contextlib.contextmanager
def local_nodes(count: int) -> Iterator[Nodes]:
    """The nodes of a cluster that lives as long as the block; its files stay only if something goes wrong.

    SIGTERM and SIGHUP end the block as Ctrl-C does, and the cluster with it.

    :raises Failed: it does not start, or what is done with it fails.
    """
    try:
        with contextlib.ExitStack() as undo:
            directory = Path(tempfile.mkdtemp(prefix="vbcast-bench-"))
            undo.callback(shutil.rmtree, directory)
            cluster = LocalCluster(directory, count, name="bench")
            undo.pop_all()
    except OSError as error:
        raise Failed("unreachable", f"a cluster cannot be made on this machine: {error}") from error
    went_wrong = False
    with ended_like_interrupted():
        try:
            cluster.start()
            yield Nodes([node.api for node in cluster.nodes.values()], cluster)
        except (TimeoutError, RuntimeError, Failed) as error:
            went_wrong = True
            raise Failed("unreachable", f"{error}; the files of the nodes stay in {directory}") from error
        finally:
            cluster.stop()
            if not went_wrong:
                shutil.rmtree(directory)
