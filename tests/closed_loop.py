"""Clusters of real processes with one busy client: a base for tests of what a load costs and what slows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cluster import ROOT, ClusterCase
from txvbcast.cli.local import PATIENCE_S, LocalNode
from txvbcast.configfile import load

CHILD = Path(__file__).parent / "closed_loop_child.py"


class BusyClient:
    """A process that keeps transactions under way at one node.

    :param outstanding: so many, when it has something to do.
    """

    def __init__(self, node: LocalNode, outstanding: int, mode: str) -> None:
        address = load(node.config).listen.client
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD), str(outstanding), mode, f"tcp:{address.host}:{address.port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def begin(self, command: str) -> None:
        """Have it hand in as ``command`` says: ``count N`` or ``seconds S``."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def result(self) -> tuple[int, int]:
        """Wait until all is answered; how many were committed, and how many were not."""
        assert self.process.stdout is not None
        committed, failed = self.process.stdout.readline().split()
        return int(committed), int(failed)

    def run(self, command: str) -> int:
        """Do as ``command`` says; how many were committed: all of them."""
        self.begin(command)
        committed, failed = self.result()
        assert not failed, f"{failed} of {committed + failed} transactions failed"
        return committed

    def end(self) -> None:
        """End the process."""
        try:
            self.process.communicate(timeout=PATIENCE_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


class ClosedLoopCase(ClusterCase):
    """A cluster whose transactions only closed loops have handed in."""

    def check_cluster(self) -> None:
        """The logs are the same on all nodes, and no node has met a situation that its authors had not thought of."""
        self._wait_everywhere()
        self._check_logs_equal(self.cluster.logs())
        self._check_for_defects()

    def client(self, node_id: int, outstanding: int, mode: str = "broadcast") -> BusyClient:
        """A client of that node; ended with the test."""
        client = BusyClient(self.cluster[node_id], outstanding, mode)
        self.addCleanup(client.end)
        return client
