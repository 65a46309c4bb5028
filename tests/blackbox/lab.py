"""A cluster whose nodes live in network namespaces of their own, joined by a bridge: what a session attacks.

All of it is made inside the namespaces of the session (:func:`tests.blackbox.machine.isolated`) and ends with them,
however the session ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import attrs

from tests.blackbox import machine
from txvbcast.cli.api import Api
from txvbcast.cli.init import write_cluster
from txvbcast.cli.local import LocalCluster, LocalNode
from txvbcast.config import Address

ROOT: Final = Path(__file__).parent.parent.parent
PLUGINS: Final = Path(__file__).parent / "plugins"

#: Node k has the address that ends with k, the clients have this one.
_NETWORK: Final = "10.77.0"
CLIENTS_HOST: Final = f"{_NETWORK}.254"
_BASE_PORT: Final = 8400
#: Between the monotonic clocks of two nodes, where the machine can do that.
_CLOCK_GAP_S: Final = 100_000
#: How long a cluster may take to find a master.
_MASTER_S: Final = 60.0
#: The disk of the node that has a small one.
SMALL_DISK_MIB: Final = 64

_RESOURCE_MANAGERS: Final = """
resource_managers:
  - name: kv
    plugin: diary-kv
    options:
      directory: {directory}
"""


def run(*command: str) -> None:
    """Have a command of the system done.

    :raises RuntimeError: it failed; the text says how.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=machine.TRIAL_S)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")


def address(node_id: int) -> str:
    """The address of a node."""
    return f"{_NETWORK}.{node_id}"


@attrs.define(eq=False)
class LabNode(LocalNode):
    """A node in its namespace.

    :ivar before: the words before the command of the process.
    :ivar environment: what its environment has besides the session's.
    :ivar offset_file: where the step of its wall clock stands; None: it has the machine's.
    :ivar diaries: the directory of what it has performed, a file for each life.
    """

    before: tuple[str, ...] = ()
    environment: dict[str, str] = attrs.field(factory=dict)
    offset_file: Path | None = None
    diaries: Path = Path()

    def inside(self, *command: str) -> tuple[str, ...]:
        """``command`` in the namespace of this node."""
        return ("nsenter", f"--net=/run/netns/node{self.node_id}", "--", *command)

    def start(self) -> None:
        """Start the process."""
        program = (sys.executable, "-m", "twisted", "--log-format=text", "vbcast", "--config", str(self.config))
        paths = os.pathsep.join((str(ROOT), str(PLUGINS)))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.inside(*self.before, *program),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths, **self.environment},
            )

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None


class Lab(LocalCluster):
    """The cluster of a session.

    The lowest and the highest node have wall clocks that can be stepped, and the highest a small disk, where
    the machine can do that; every node has a monotonic clock of its own.

    :param settings: YAML that is added to the configuration of every node.
    """

    nodes: dict[int, LabNode]  # type: ignore[assignment]

    def __init__(self, directory: Path, nodes: int, settings: str = "") -> None:
        self.directory = directory
        self._claim = None  # the ports are taken by nobody else: the network is ours alone
        _make_network(nodes)
        hosts = [address(k) for k in range(1, nodes + 1)]
        paths = write_cluster(directory, nodes, hosts, _BASE_PORT, "blackbox", insecure=True)
        self.nodes = {k: self._node(k, path) for k, path in enumerate(paths, 1)}
        for node in self.nodes.values():
            node.diaries.mkdir()
            with node.config.open("a") as file:
                file.write(_RESOURCE_MANAGERS.format(directory=node.diaries) + settings)
        for k in {min(self.nodes), max(self.nodes)}:
            self._give_clock(self.nodes[k])
        self.small_disk = None if machine.lack("small disk") else self.nodes[nodes].data_dir
        if self.small_disk is not None:
            run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MIB}m,mode=700", "tmpfs", str(self.small_disk))

    def __getitem__(self, node_id: int) -> LabNode:
        return self.nodes[node_id]

    def _node(self, k: int, config: Path) -> LabNode:
        ahead = str(_CLOCK_GAP_S * k)
        own_clock = ("unshare", "--time", "--monotonic", ahead, "--boottime", ahead)
        return LabNode(
            k,
            config,
            self.directory / f"node{k}",
            self.directory / f"node{k}.log",
            Api(f"http://{Address(address(k), _BASE_PORT + 10 * k + 2)}"),
            before=() if machine.lack("own monotonic clock") else own_clock,
            diaries=self.directory / f"node{k}.diaries",
        )

    def _give_clock(self, node: LabNode) -> None:
        library = machine.faketime_library()
        if machine.lack("stepped clock") or library is None:
            return
        node.offset_file = self.directory / f"node{node.node_id}.offset"
        node.offset_file.write_text("+0")
        node.environment |= machine.clock_environment(library, str(node.offset_file))

    def wait_serving(self, node_id: int) -> None:
        """Wait until a node answers at its HTTP interface."""
        self.wait(f"node {node_id} answers", lambda: self[node_id].status() is not None)

    def wait_master(self) -> int:
        """Wait until all nodes that answer agree on a master: its id."""
        found: list[int | None] = []

        def is_found() -> bool:
            found.append(self.master())
            return found[-1] is not None

        self.wait("there is a master", is_found, _MASTER_S)
        return found[-1] or 0

    def wait_other_master(self, deposed: int) -> None:
        """Wait until some other node has another master than ``deposed``."""
        others = [node for k, node in self.nodes.items() if k != deposed]

        def is_deposed() -> bool:
            return any((node.status() or {}).get("master") not in (None, deposed) for node in others)

        self.wait(f"another than node {deposed} is master", is_deposed, _MASTER_S)

    def recovered(self) -> bool:
        """Whether every node is normal and linked in every node's eyes, under one master; transactions may come in."""
        documents = [node.status() for node in self.nodes.values()]
        states = [document for document in documents if document is not None]
        return (
            len(states) == len(self.nodes)
            and len({state["master"] for state in states} | {None}) == 2
            and all(state["state"] == "normal" for state in states)
            and all(member["standing"] == "normal" for state in states for member in state["members"])
            and all(member["linked"] for state in states for member in state["members"])
        )

    def at_rest(self) -> bool:
        """Whether, besides, every entry is on every disk and performed; only without transactions that come in."""
        documents = [node.status() for node in self.nodes.values()]
        return self.settled() and all(
            document is not None and document["everywhere"] == document["applied"] for document in documents
        )

    def http_addresses(self) -> dict[int, tuple[str, int]]:
        """Host and port by which each node's HTTP interface is reached."""
        return {k: (address(k), _BASE_PORT + 10 * k + 2) for k in self.nodes}


def _make_network(nodes: int) -> None:
    """A bridge here, and a namespace with one link to it for each node."""
    run("mount", "-t", "tmpfs", "tmpfs", "/run")  # for the names of the namespaces; the machine's own stays as it is
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "switch", "type", "bridge")
    run("ip", "addr", "add", f"{CLIENTS_HOST}/24", "dev", "switch")
    run("ip", "link", "set", "switch", "up")
    for k in range(1, nodes + 1):
        name = f"node{k}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"port{k}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"port{k}", "master", "switch", "up")
        run("ip", "-n", name, "addr", "add", f"{address(k)}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "link", "set", "eth0", "up")
