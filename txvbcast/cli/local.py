"""A cluster of real ``twistd`` processes on this machine's loopback, for the demo, the tests and the benchmark."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from txvbcast.cli.api import Api
from txvbcast.cli.failures import Failed
from txvbcast.cli.init import DEFAULT_HOST, write_cluster
from txvbcast.config import Address
from txvbcast.store.sqlite import dump
from txvbcast.wire.messages import Entry

#: Signals that end a program besides Ctrl-C.
ENDS = (signal.SIGTERM, signal.SIGHUP)
#: How long anything of a local cluster may take before it is given up.
PATIENCE_S = 30.0
#: How often a condition is looked at.
LOOK_S = 0.02
#: Where base ports are looked for: below the range that the kernel gives to outgoing connections.
_BASE_PORTS = range(20_000, 30_000, 100)


def free_base_port(nodes: int, host: str = DEFAULT_HOST) -> int:
    """A base port of which no port that ``nodes`` nodes would use is taken now at ``host``.

    :raises OSError: there is none.
    """
    base, claim = claim_base_port(nodes, host)
    claim.close()
    return base


def claim_base_port(nodes: int, host: str = DEFAULT_HOST) -> tuple[int, socket.socket]:
    """The same, and a socket: while that is open, no other process is given this base port here.

    :raises OSError: there is none.
    """
    start = os.getpid() * 7 % len(_BASE_PORTS)
    for step in range(len(_BASE_PORTS)):
        base = _BASE_PORTS[(start + step) % len(_BASE_PORTS)]
        claim = socket.socket()
        try:
            claim.bind((DEFAULT_HOST, base))  # no node uses the base port itself
        except OSError:
            claim.close()
            continue
        if all(_is_free(host, base + 10 * k + offset) for k in range(1, nodes + 1) for offset in range(3)):
            return base, claim
        claim.close()
    raise OSError(f"no free ports were found on {host}")


def _is_free(host: str, port: int) -> bool:
    """Whether both kinds of port can be bound, at every address of ``host``."""
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port):
        if kind not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            continue
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                return False
    return True


@contextlib.contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Take SIGTERM and the end of the terminal for Ctrl-C: whatever ends a block with nodes must end the nodes too."""
    heeded = [number for number in ENDS if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup has it
    before = {number: signal.signal(number, signal.default_int_handler) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@attrs.define(eq=False)
class LocalNode:
    """One node: its files and, while it runs, its process.

    :ivar detached: the process gets a session of its own: neither Ctrl-C nor the end of the terminal reaches it.
    """

    node_id: int
    config: Path
    data_dir: Path
    log: Path
    api: Api
    detached: bool = False
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of its process.

        :raises RuntimeError: it does not run.
        """
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"node {self.node_id} does not run; see {self.log}")
        return self.process.pid

    def start(self) -> None:
        """Start the process; :meth:`LocalCluster.wait_ready` waits until it serves."""
        command = [sys.executable, "-m", "twisted", "--log-format=text", "vbcast", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=self.detached
            )

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stop the process where it is; returns when the kernel has stopped it."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once."""
        self.signal(signal.SIGKILL)
        self.reap()

    def stop(self) -> None:
        """Ask the process to end, as an operator would, and wait for it."""
        self.ask_to_stop()
        self.reap()

    def ask_to_stop(self) -> None:
        """Ask the process to end, thawed if need be."""
        if self.process is not None and self.process.poll() is None:
            self.thaw()
            self.signal(signal.SIGTERM)

    def reap(self) -> None:
        """Wait until the process has ended."""
        if self.process is not None:
            self.process.wait(PATIENCE_S)
            self.process = None

    def status(self) -> dict[str, Any] | None:
        """What it says of itself; None while it cannot be reached, and when it has no process."""
        if self.process is None or self.process.poll() is not None:
            return None  # whoever answers there is another
        try:
            return self.api.get("/v1/status").document()
        except Failed:
            return None


class LocalCluster:
    """Real nodes in ``directory``, on loopback.

    :param base_port: None looks for free ports.
    :param host: how the nodes name this machine: an address or name of the loopback.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        base_port: int | None = None,
        name: str = "demo",
        host: str = DEFAULT_HOST,
    ) -> None:
        self.directory = directory
        self._claim: socket.socket | None = None
        if base_port is None:
            base, self._claim = claim_base_port(nodes, host)
        else:
            base = base_port
        paths = write_cluster(directory, nodes, [host], base, name, insecure=True)
        self.nodes = {
            k: LocalNode(
                k,
                path,
                directory / f"node{k}",
                directory / f"node{k}.log",
                Api(f"http://{Address(host, base + 10 * k + 2)}"),
            )
            for k, path in enumerate(paths, start=1)
        }

    def __getitem__(self, node_id: int) -> LocalNode:
        return self.nodes[node_id]

    def start(self) -> None:
        """Start every node, and wait until all are normal."""
        for node in self.nodes.values():
            node.start()
        self.wait_settled()

    def stop(self) -> None:
        """End every node; frozen ones are thawed first."""
        for node in self.nodes.values():
            node.ask_to_stop()
        for node in self.nodes.values():
            node.reap()
        if self._claim is not None:
            self._claim.close()

    def wait(self, what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
        """Wait until ``condition`` holds; how long that took, in seconds.

        :raises TimeoutError: it does not hold within ``patience_s``.
        """
        began_s = time.monotonic()
        while not condition():
            if time.monotonic() - began_s > patience_s:
                raise TimeoutError(f"not within {patience_s:.0f} s: {what}; the logs are in {self.directory}")
            time.sleep(LOOK_S)
        return time.monotonic() - began_s

    def wait_settled(self, patience_s: float = PATIENCE_S) -> float:
        """Wait until every node is normal in every node's eyes, under one master, with one log applied."""
        return self.wait("every node is normal and has applied the same", self.settled, patience_s)

    def settled(self) -> bool:
        """Whether every node is normal in every node's eyes, under one master, with one log applied."""
        documents = [node.status() for node in self.nodes.values()]
        states = [document for document in documents if document is not None]
        return (
            len(states) == len(self.nodes)
            and len({(state["master"], state["applied"], state["committed"]) for state in states}) == 1
            and states[0]["master"] is not None
            and all(state["state"] == "normal" for state in states)
            and all(member["standing"] == "normal" for state in states for member in state["members"])
        )

    def master(self) -> int | None:
        """The node id on which all nodes that answer agree; None if they do not."""
        documents = [node.status() for node in self.nodes.values()]
        masters = {document["master"] for document in documents if document is not None}
        return masters.pop() if len(masters) == 1 else None

    def logs(self) -> dict[int, list[Entry]]:
        """Every node's log, read from its disk."""
        return {k: list(dump(node.data_dir)) for k, node in self.nodes.items()}
