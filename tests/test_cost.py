"""What a transaction costs the node that coordinates and orders it, as calls of Python functions.

Calls are counted and not timed, so the figure hardly depends on the machine and on what else it does: a regression is
a step that is made for each transaction where it was made for many at once.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

from tests.closed_loop import ClosedLoopCase
from txvbcast.cli.local import LocalNode

PROFILED = Path(__file__).parent / "profiled_node.py"
OUTSTANDING = 1024
COUNT = 50_000
#: What is called for every transaction, or more often than for every second one: so many calls of such functions.
STEPS_MAX = {"broadcast": 6, "2pc": 13}
#: All calls per transaction: some 1.5 times what was measured when the bound was set.
CALLS_MAX = {"broadcast": 10.5, "2pc": 22.0}
SHOWN = 25


class CallsTests(ClosedLoopCase):
    """Three nodes, 1024 puts of 128 bytes outstanding through the client port of the master."""

    def measure(self, mode: str) -> None:
        """Count the calls of the master, on the thread of its reactor."""
        self.make()
        found = self.cluster.directory / "calls.json"
        self.run_with(lambda node: self.words(node, found))
        self.run_cluster()
        client = self.client(1, OUTSTANDING, mode)
        client.run(f"count {4 * OUTSTANDING}")  # what is made once for a connection or a key is not counted
        self.cluster[1].signal(signal.SIGUSR1)
        self.assertEqual(client.run(f"count {COUNT}"), COUNT)
        self.cluster[1].signal(signal.SIGUSR2)
        self.wait_until("the calls are counted", found.exists)
        self.check(mode, Counter(json.loads(found.read_text())))

    def check(self, mode: str, calls: Counter[str]) -> None:
        """Compare with the bounds; whoever lowers the figures lowers the bounds."""
        self.assertGreaterEqual(sum(calls.values()), COUNT // OUTSTANDING, "nothing was counted")
        steps = {name: count / COUNT for name, count in calls.items() if count >= COUNT / 2}
        names = "".join(f"\n{count / COUNT:8.3f} {name}" for name, count in calls.most_common(SHOWN))
        self.assertLessEqual(round(sum(steps.values())), STEPS_MAX[mode], f"steps per transaction:{names}")
        self.assertLessEqual(sum(calls.values()) / COUNT, CALLS_MAX[mode], f"calls per transaction:{names}")

    def words(self, node: LocalNode, found: Path) -> tuple[str, ...]:
        """How a node is run: the first one is counted."""
        program = (str(PROFILED), str(found)) if node.node_id == 1 else ("-m", "twisted")
        return (*program, "--log-format=text", "vbcast", "--config", str(node.config))

    def test_broadcast(self) -> None:
        self.measure("broadcast")

    def test_two_phase(self) -> None:
        self.measure("2pc")
