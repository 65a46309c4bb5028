"""The examples of clients, as processes, against a cluster of processes."""

from __future__ import annotations

import subprocess
import sys

from tests.cluster import ROOT, ClusterCase
from txvbcast.configfile import load


class ExampleTests(ClusterCase):
    """What docs/client.md promises of examples/."""

    def check_cluster(self) -> None:
        """Nothing but what the examples print is looked at."""

    def run_example(self, name: str) -> list[str]:
        """The lines that it prints."""
        endpoints = []
        for node in self.cluster.nodes.values():
            address = load(node.config).listen.client
            endpoints.append(f"tcp:{address.host}:{address.port}")
        ran = subprocess.run(
            [sys.executable, ROOT / "examples" / name, *endpoints],
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return ran.stdout.splitlines()

    def test_both(self) -> None:
        cluster = self.start()
        said = self.run_example("client.py")
        self.assertTrue(said[0].startswith("node 1 of cluster "), said)
        stocked = "stocked: ['stock/apples', 'stock/pears', 'stock/plums']"
        self.assertEqual(said[1:3], ["apples: 5", stocked])
        self.assertIn("failed: no resource manager is named 'no such manager'", said[3])
        self.assertEqual(self.run_example("client.py")[1], "apples: 10")
        cluster[1].stop()
        said = self.run_example("client_twisted.py")
        told = [line for line in said if not line.startswith("event:")]
        self.assertRegex(told[0], "^committed at [0-9]+$")
        self.assertEqual(told[1], "1000 of 1000 committed; none failed")
        self.assertIn("keys: 1000 greeting: KeyValue(value=b'hello'", told[2])
        self.assertRegex(told[3], "^master: [23]$")
