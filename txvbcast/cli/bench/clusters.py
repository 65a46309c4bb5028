"""What is measured: a cluster of our own nodes, or one of a peer."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import attrs

from txvbcast.cli.api import DEFAULT_PORT, Api
from txvbcast.cli.bench.measuring import OURS, Measured, Point, measure
from txvbcast.cli.bench.peers import PeerCluster
from txvbcast.cli.failures import Failed
from txvbcast.cli.local import LocalCluster, ended_like_interrupted
from txvbcast.config import Address
from txvbcast.configfile import load as load_config
from txvbcast.core import epochs

#: Which nodes a load uses: the master, the first that is not, or all.
VIAS = ("master", "other", "all")


class System(Protocol):
    """A running cluster."""

    @property
    def name(self) -> str:
        """Whose it is: ``txvbcast``, or a peer's name."""

    def measure(self, point: Point, seconds: float, clients: int) -> Measured:
        """Measure one point.

        :raises Failed: it cannot be.
        """


class Nodes:
    """Nodes of ours.

    :param addresses: of the client port of each, in the order of ``apis``.
    :param cluster: theirs, if it runs on this machine: then the processor time of each is known, and the disk.
    """

    name = OURS

    def __init__(self, apis: Sequence[Api], addresses: Sequence[str], cluster: LocalCluster | None = None) -> None:
        self._places = list(zip(apis, addresses, strict=True))
        self.cluster = cluster

    def measure(self, point: Point, seconds: float, clients: int) -> Measured:
        """Measure one point.

        :raises Failed: a node cannot be reached, they have no master, or ``point.via`` names none of them.
        :raises TimeoutError: the nodes of this machine do not come to rest.
        :raises RuntimeError: one of them has ended.
        """
        self.wait_for_rest()
        before = self.look()
        used = before.used(point.via)[: point.outstanding]
        directory = None if self.cluster is None else self.cluster.directory
        targets = {node_id: self._address(before.places[node_id], point.way) for node_id in used}
        measured = measure(point, targets, self.processes(), seconds, clients, directory)
        self.wait_for_rest()
        after = self.look()
        entries = after.committed - before.committed
        return attrs.evolve(
            measured,
            per_entry=measured.total / entries if entries else None,
            epochs=epochs.number_of(after.epoch) - epochs.number_of(before.epoch),
        )

    def targets(self, via: str, way: str) -> dict[Any, str]:
        """The addresses of the nodes that are used, by their ids."""
        seen = self.look()
        return {node_id: self._address(seen.places[node_id], way) for node_id in seen.used(via)}

    def wait_for_rest(self) -> None:
        """Let nodes of this machine get over what was before: all normal, and the preferred master in office."""
        cluster = self.cluster
        if cluster is not None:
            home = min(cluster.nodes)
            cluster.wait(
                f"all nodes are normal and node {home} is master",
                lambda: cluster.settled() and cluster.master() == home,
            )

    def processes(self) -> dict[str, int]:
        """Those of this machine."""
        nodes = {} if self.cluster is None else self.cluster.nodes
        return {f"node {node_id}": node.pid for node_id, node in nodes.items()}

    def look(self) -> Seen:
        """The nodes by id, their master and its epoch.

        :raises Failed: a node cannot be reached, or they do not agree on a master.
        """
        answers = [(place, place[0].get("/v1/status")) for place in self._places]
        masters = {answer.document().get("master") for _, answer in answers}
        master = masters.pop()
        if masters or not isinstance(master, int):
            raise Failed("no-quorum", "the nodes do not agree on a master; look at the status of each")
        places = {answer.field("node_id", int): place for place, answer in answers}
        epoch, committed = (max(answer.field(name, int) for _, answer in answers) for name in ("epoch", "committed"))
        return Seen(places, master, epoch, committed)

    def _address(self, place: tuple[Api, str], way: str) -> str:
        api, address = place
        if way == "client":
            return address
        parts = urlsplit(api.url)
        return str(Address(parts.hostname or "", DEFAULT_PORT if parts.port is None else parts.port))


@attrs.frozen
class Seen:
    """What the nodes said of themselves: by id, where they are; the master; and the latest epoch and entry."""

    places: dict[int, tuple[Api, str]]
    master: int
    epoch: int
    committed: int

    def used(self, via: str) -> tuple[int, ...]:
        """The ids of the nodes that a load uses.

        :raises Failed: there is none of that kind.
        """
        ids = sorted(self.places)
        if via == "all":
            return tuple(ids)
        found = [node_id for node_id in ids if (node_id == self.master) is (via == "master")]
        if not found:
            wanted = f"node {self.master}, which is master" if via == "master" else "one that is not master"
            raise Failed("bad-request", f"--via {via}: give the URL of {wanted} with --node")
        return (found[0],)


class Peer:
    """A cluster of another system."""

    def __init__(self, running: PeerCluster) -> None:
        self._running = running
        self.name = running.name
        self.version = running.version

    @property
    def addresses(self) -> list[str]:
        """Of its servers."""
        return [server.address for server in self._running.servers]

    def measure(self, point: Point, seconds: float, clients: int) -> Measured:
        """Measure one point.

        :raises Failed: it cannot be.
        """
        running = self._running
        leader = running.leader()
        if leader is None:
            raise Failed("unreachable", f"{running.name} has no leader any more")
        wanted: dict[str, Callable[[str], bool]] = {
            "master": leader.__eq__,
            "other": leader.__ne__,
            "all": lambda _: True,
        }
        used = [server for server in running.servers if wanted[point.via](server.address)]
        used = used[: 1 if point.via != "all" else point.outstanding]
        return measure(
            point,
            {server.name: server.address for server in used},
            {server.name: server.process.pid for server in running.servers},
            seconds,
            clients,
            running.directory,
        )


def nodes_of(cluster: LocalCluster) -> Nodes:
    """The nodes of a cluster on this machine, with their client ports."""
    nodes = cluster.nodes.values()
    addresses = [str(load_config(node.config).listen.client) for node in nodes]
    return Nodes([node.api for node in nodes], addresses, cluster)


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
            yield nodes_of(cluster)
        except (TimeoutError, RuntimeError, Failed) as error:
            went_wrong = True
            raise Failed("unreachable", f"{error}; the files of the nodes stay in {directory}") from error
        finally:
            cluster.stop()
            if not went_wrong:
                shutil.rmtree(directory)
