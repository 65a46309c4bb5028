"""Reach marks: where they stand, how a campaign counts them, and that nothing depends on them.

``TXVBCAST_REWRITE_DOCS=1`` writes ``docs/reach.md`` anew.
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from twisted.trial import unittest

from txvbcast.core.commons import Commons
from txvbcast.core.journal import RUNS_MAX
from txvbcast.core.marks import Mark
from txvbcast.sim.reach import KINDS, Reached, ReachWatcher, page
from txvbcast.sim.swarm import Swarm
from txvbcast.sim.world import World

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reach.md"

#: So many situations of the protocol at least have a mark.
MARKS_MIN = 80

if os.environ.get("TXVBCAST_REWRITE_DOCS") == "1":
    PAGE.write_text(page())


def attributes(folder: str) -> Iterator[tuple[Path, ast.Attribute]]:
    """Every ``something.name`` in the code of a folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                yield path, node


class Fruit(Enum):
    """Marks of these tests."""

    APPLE = "An apple falls."
    PEAR = "A pear falls."


class Stone(Enum):
    """More of them."""

    PEBBLE = "A pebble rolls."


class RegistryTests(unittest.TestCase):
    """The marks themselves."""

    def test_each_in_one_place(self) -> None:
        """A mark that nothing says cannot be reached, and one that two branches say does not tell which."""
        for kind in KINDS.values():
            said = Counter(
                node.attr
                for _, node in attributes("txvbcast")
                if isinstance(node.value, ast.Name) and node.value.id == kind.__name__
            )
            self.assertEqual(said, Counter(mark.name for mark in kind))

    def test_sentences(self) -> None:
        """Each says something else, in one sentence, that fits a table."""
        sentences = [mark.value for kind in KINDS.values() for mark in kind]
        self.assertEqual([each for each, times in Counter(sentences).items() if times > 1], [])
        for sentence in sentences:
            self.assertRegex(sentence, r"^[A-Z][^|]*[^.|]\.$")

    def test_enough(self) -> None:
        """As many as were asked for."""
        self.assertGreaterEqual(len(Mark), MARKS_MIN)

    def test_nobody_reads_them(self) -> None:
        """The protocol cannot depend on what was reached: outside the simulator only ``reach`` touches the set."""
        readers = {
            path.name for path, node in attributes("txvbcast") if node.attr == "reached" and "sim" not in path.parts
        }
        self.assertEqual(readers, {"commons.py"})


class ReachedTests(unittest.TestCase):
    """Counting over the runs of a campaign."""

    def test_missing(self) -> None:
        """What no run has reached, in the order of its enum, whatever was reached twice in one run."""
        reached = Reached((Fruit, Stone))
        self.assertEqual(reached.missing, (Fruit.APPLE, Fruit.PEAR, Stone.PEBBLE))
        reached.add([Fruit.PEAR, Fruit.PEAR])
        reached.add([])
        self.assertEqual((reached.runs, reached.counts[Fruit.PEAR]), (2, 1))
        self.assertEqual(reached.missing, (Fruit.APPLE, Stone.PEBBLE))
        reached.add([Fruit.APPLE, Stone.PEBBLE])
        self.assertEqual(reached.missing, ())

    def test_report(self) -> None:
        """It counts, names the rarest first, and says what each missing mark means."""
        reached = Reached((Fruit, Stone))
        reached.add([Fruit.APPLE, Stone.PEBBLE])
        reached.add([Fruit.APPLE])
        self.assertEqual(
            reached.report(),
            [
                "2 of 3 rare situations were reached in 2 runs",
                "reached by the fewest runs: PEBBLE (1), APPLE (2)",
                "never reached: PEAR: A pear falls.",
            ],
        )

    def test_report_of_nothing(self) -> None:
        """A campaign that reached nothing says so."""
        reached = Reached((Stone,))
        self.assertEqual(
            reached.report(),
            ["0 of 1 rare situations were reached in 0 runs", "never reached: PEBBLE: A pebble rolls."],
        )


class RunTests(unittest.SynchronousTestCase):
    """Marks of simulated clusters."""

    def test_every_life_counts(self) -> None:
        """What a replica reached before its process was killed is not forgotten."""
        watcher = ReachWatcher()
        world = World(nodes=3, watchers=(watcher,))
        world.run_until(world.settled, 10.0, "the cluster has begun")
        world.freeze(3)
        world.run(0.5)
        world.thaw(3)
        world.run_until(world.settled, 10.0, "node 3 has woken")
        world.crash(3)
        world.restart(3)
        world.run_until(world.settled, 10.0, "node 3 is back")
        living = {mark for node in world.nodes.values() for mark in node.driver.replica.commons.reached}
        self.assertNotIn(Mark.WOKE_WHILE_NORMAL, living)
        self.assertIn(Mark.WOKE_WHILE_NORMAL, watcher.reached)
        self.assertLess(living, watcher.reached)

    def test_more_epochs_than_a_start_names(self) -> None:
        """No random run is likely to change its master so often while a node is away, but it can be done."""
        watcher = ReachWatcher()
        world = World(nodes=3, watchers=(watcher,))
        world.run_until(world.settled, 10.0, "the cluster has begun")
        world.crash(3)
        for number in range(RUNS_MAX + 1):
            master = 2 - number % 2
            driver = world.nodes[master].driver
            driver.move_master(master)
            world.run_until(lambda driver=driver: driver.replica.mastership.core.role == "master", 10.0, "it moves")
            world.submit(master, b"%d" % number)
            world.run(0.05)
        world.restart(3)
        world.run_until(world.settled, 10.0, "node 3 is back")
        self.assertIn(Mark.EARLIER_RUNS_LACKING, watcher.reached)

    def test_nothing_depends_on_them(self) -> None:
        """A seed is the same run, message by message, without them."""
        seed = 3
        marked = ReachWatcher()
        with_marks = Swarm(seed, watchers=(marked,)).run().network.digest()
        self.assertNotEqual(marked.reached, frozenset())
        self.patch(Commons, "reach", lambda commons, mark: None)
        unmarked = ReachWatcher()
        without = Swarm(seed, watchers=(unmarked,)).run().network.digest()
        self.assertEqual(unmarked.reached, frozenset())
        self.assertEqual(with_marks, without)


class PageTests(unittest.TestCase):
    """``docs/reach.md``."""

    def test_page(self) -> None:
        """It lists the marks that there are today."""
        self.assertEqual(PAGE.read_text(), page(), "TXVBCAST_REWRITE_DOCS=1 writes it anew")

    def test_lines_are_short(self) -> None:
        """Everything but tables fits a narrow window."""
        long = [line for line in page().splitlines() if len(line) > 120 and not line.startswith("|")]
        self.assertEqual(long, [])
