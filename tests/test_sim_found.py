"""What random runs have found, each in the smallest cluster that shows it."""

from __future__ import annotations

from twisted.trial import unittest

from txvbcast.sim.world import World


def settled(seed: int, nodes: int) -> World:
    """A cluster that has begun its work."""
    world = World(seed, nodes)
    world.run_until(world.quiet, 30.0, "everything is settled")
    return world


class FoundTests(unittest.SynchronousTestCase):
    """A defect that was found is not found again."""

    def test_mute_member_fills_the_log(self) -> None:
        """A member whose words reach the master only through others is not back, and not failed anew for each copy."""
        world = settled(7, 5)
        before = len(world.logs()[1])
        world.network.cut.add((5, 1))
        world.network.break_link(1, 5, "cut off")
        world.run(3.0)
        self.assertEqual(len(world.logs()[1]), before + 1)
        world.network.heal()
        world.run_until(world.quiet, 30.0, "everything is settled")
        world.check()
