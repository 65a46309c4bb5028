"""What a seed does to a cluster."""

from __future__ import annotations

import itertools
import random

from twisted.trial import unittest

from tests.blackbox import nemesis
from tests.blackbox.nemesis import KINDS, Episode, episodes


def first(seed: int, count: int, node_ids: tuple[int, ...] = (1, 2, 3)) -> list[Episode]:
    """The beginning of what a seed does."""
    return list(itertools.islice(episodes(seed, node_ids), count))


class NemesisTests(unittest.TestCase):
    """Nothing of this runs a cluster."""

    def test_follows_from_the_seed(self) -> None:
        self.assertEqual([str(each) for each in first(7, 60)], [str(each) for each in first(7, 60)])
        self.assertNotEqual([str(each) for each in first(7, 60)], [str(each) for each in first(8, 60)])

    def test_every_kind(self) -> None:
        """All come once before one comes again."""
        kinds = [type(each.disturbances[0]) for each in first(1, 2 * len(KINDS))]
        self.assertEqual(set(kinds[: len(KINDS)]), set(KINDS))
        self.assertEqual(set(kinds[len(KINDS) :]), set(KINDS))

    def test_pairs(self) -> None:
        """Two at a time are on different nodes, and none of them has to be alone."""
        pairs = [each.disturbances for each in first(1, 300, (1, 2, 3, 4, 5)) if len(each.disturbances) == 2]
        self.assertGreater(len(pairs), 20)
        for one, other in pairs:
            self.assertFalse(set(one.nodes) & set(other.nodes), f"{one} + {other}")
            self.assertFalse(one.alone or other.alone, f"{one} + {other}")

    def test_nodes_are_of_the_cluster(self) -> None:
        for kind in KINDS:
            for seed in range(50):
                drawn = kind.draw(random.Random(seed), (1, 2, 3))
                self.assertTrue(set(drawn.nodes) <= {1, 2, 3}, str(drawn))
                self.assertNotEqual(drawn.nodes, ())

    def test_says_everything(self) -> None:
        """What is printed is enough to do it by hand."""
        episode = Episode((nemesis.Kill((1, 3)), nemesis.StepClock((2,), -30)), 1.25, rest=False)
        self.assertEqual(str(episode), "Kill(nodes=(1, 3)) + StepClock(nodes=(2,), ahead_s=-30) for 1.2 s, no rest")
