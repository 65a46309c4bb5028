"""What flights and heartbeats cost, counted in simulated clusters, is what docs/cluster-size.md says.

``TXVBCAST_REWRITE_DOCS=1`` writes the table of the page anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from click.testing import CliRunner
from twisted.trial import unittest

from txvbcast.sim import __main__ as command
from txvbcast.sim.cost import MASTER, OTHER, SIZES, QuietCluster, beat_messages, flight_messages, table
from txvbcast.wire.messages import Mode

PAGE = Path(__file__).parent.parent / "docs" / "cluster-size.md"
TABLE = re.compile(r"(?<=\n)\| nodes \|.*\Z", re.DOTALL)

if os.environ.get("TXVBCAST_REWRITE_DOCS") == "1":
    PAGE.write_text(TABLE.sub("", PAGE.read_text()) + "".join(f"{line}\n" for line in table(SIZES)))


def messages_of(cell: str) -> int:
    """The first number of a cell of the table."""
    return int(cell.split(" / ")[0])


class FormulaTests(unittest.SynchronousTestCase):
    """The formula against what the simulator counts."""

    def test_messages(self) -> None:
        """Each type of message, in every mode, via the master and via another node."""
        for nodes in (2, 3, 4, 5, 8, 15):
            cluster = QuietCluster(nodes, seed=nodes)
            for mode in Mode:
                for coordinator in (MASTER, OTHER):
                    cost = cluster.flight(mode, coordinator)
                    self.assertEqual(cost.messages, flight_messages(nodes, mode, coordinator), (nodes, mode))
            self.assertEqual(cluster.beat().messages, beat_messages(nodes))

    def test_steps(self) -> None:
        """What the page says of steps, and that no node takes more than its share."""
        for nodes in (3, 6, 12):
            cluster = QuietCluster(nodes)
            for mode, via_master, via_other in (
                (Mode.BROADCAST, 4 * nodes - 1, 5 * nodes),
                (Mode.TWO_PHASE, 8 * nodes - 2, 8 * nodes - 1),
                (Mode.THREE_PHASE, 8 * nodes - 1, 8 * nodes + 1),
            ):
                cost = cluster.flight(mode, MASTER)
                self.assertEqual(cost.steps, via_master, mode)
                self.assertEqual(cluster.flight(mode, OTHER).steps, via_other, mode)
                self.assertLessEqual(cost.busiest_steps, 2 * nodes + 5)
            self.assertEqual(cluster.beat().steps, 4 * nodes - 2)

    def test_load_shares_messages(self) -> None:
        """Transactions that come together share all messages."""
        cluster = QuietCluster(5)
        lonely = cluster.flight(Mode.BROADCAST, OTHER)
        traffic = cluster._flights
        traffic.reset()
        outcomes = [cluster.world.submit(OTHER, b"%d" % number) for number in range(100)]
        cluster.world.run(0.5)
        self.assertEqual({outcome.kind for outcome in outcomes}, {"committed"})
        self.assertLessEqual(traffic.sent.total(), lonely.sent)


class PageTests(unittest.SynchronousTestCase):
    """docs/cluster-size.md."""

    def test_table(self) -> None:
        """Its table is what ``--cost`` says, and its messages are those of the formula up to 101 nodes."""
        found = TABLE.search(PAGE.read_text())
        assert found is not None
        result = CliRunner().invoke(command.main, ["--cost"])
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertEqual(found[0], result.output, "TXVBCAST_REWRITE_DOCS=1 writes it anew")
        rows = [line.strip("| ").split(" | ") for line in found[0].splitlines()[2:]]
        self.assertEqual([int(row[0]) for row in rows], list(SIZES))
        ways = [(mode, node_id) for mode in (Mode.BROADCAST, Mode.THREE_PHASE) for node_id in (MASTER, OTHER)]
        for size, *flights, beat in rows:
            nodes = int(size)
            expected = [sum(flight_messages(nodes, *way).values()) for way in ways]
            self.assertEqual([messages_of(cell) for cell in flights], expected)
            self.assertEqual(messages_of(beat), sum(beat_messages(nodes).values()))
