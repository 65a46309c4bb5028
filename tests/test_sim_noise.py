"""Noisy scheduling on virtual time: whoever is only starved is not taken for dead."""

from __future__ import annotations

from random import Random

from click.testing import CliRunner
from twisted.trial import unittest

from txvbcast.config import HeartbeatConfig
from txvbcast.sim import __main__ as command
from txvbcast.sim.noise import ALARMS, Noise, NoiseResult, NoisyCluster
from txvbcast.sim.world import World

#: Virtual seconds of noise; the hour is ``python -m txvbcast.sim --noise 1h``.
NOISE_S = 600.0


def noisy(seconds: float = NOISE_S, timeout_s: float = 0.8, seed: int = 1, nodes: int = 3) -> NoiseResult:
    """What a cluster makes of the noise, with the default settings but for its patience."""
    return NoisyCluster(seed, nodes, HeartbeatConfig(timeout_s=timeout_s)).run(seconds)


class NoiseTests(unittest.SynchronousTestCase):
    """The default patience is enough, and less would not be."""

    def test_no_false_alarm(self) -> None:
        """Nobody fails, nobody else becomes master, and every client hears that its transaction is committed."""
        result = noisy()
        self.assertEqual(result.alarms, ())
        self.assertEqual(set(result.outcomes), {"committed"})
        self.assertGreater(result.outcomes["committed"], NOISE_S)

    def test_noise_is_loud(self) -> None:
        """The run above is no quiet one: there are stalls of the worst length, and silences well above them."""
        noise, result = Noise(), noisy()
        self.assertGreaterEqual(result.stalls[round(noise.stall_worst_s * 1000)], 10)
        self.assertGreater(result.longest_silence_s, noise.stall_worst_s)
        self.assertGreater(result.nearest, 0.5)
        self.assertLess(result.nearest, 1.0)

    def test_impatience_raises_alarms(self) -> None:
        """With a heartbeat timeout of 150 ms the same noise makes members fail and masters change."""
        result = noisy(60.0, 0.15)
        for kind in ALARMS[:2]:
            self.assertTrue([text for _, text in result.alarms if kind in text], kind)
        self.assertGreater(result.nearest, 1.0)

    def test_more_nodes(self) -> None:
        """Each node more is one more that can be starved."""
        self.assertEqual(noisy(120.0, nodes=7).alarms, ())

    def test_same_seed_same_noise(self) -> None:
        """And another seed, another noise."""
        hashes = [noisy(20.0, seed=seed).trace_hash for seed in (1, 1, 2)]
        self.assertEqual(hashes[0], hashes[1])
        self.assertNotEqual(hashes[0], hashes[2])

    def test_length(self) -> None:
        """Lengths lie between the least and the worst; the chance of a long one falls as the tail says."""
        noise, random = Noise(least_s=0.01, tail=1.0), Random(5)
        lengths_s = [noise.length_s(random, 1.0) for _ in range(20_000)]
        self.assertGreaterEqual(min(lengths_s), 0.01)
        self.assertEqual(max(lengths_s), 1.0)
        above = sum(length_s > 0.1 for length_s in lengths_s)
        self.assertTrue(1600 < above < 2400, above)


class DeafTests(unittest.SynchronousTestCase):
    """A node whose timers run and that does not read."""

    def world(self) -> World:
        """A cluster that has begun its work."""
        world = World(1, 3)
        world.run_until(world.settled, 10.0, "settled")
        return world

    def test_what_comes_in_waits(self) -> None:
        """Nothing is lost, and nothing is read before it listens again; a thaw does not make it listen."""
        world = self.world()
        node = world.nodes[3]
        node.deafen()
        world.submit(1, b"said meanwhile")
        world.run(0.2)
        node.freeze()
        node.thaw()
        self.assertNotIn((1, b"said meanwhile"), node.recorder.performed)
        node.listen()
        world.run(0.2)
        self.assertEqual([payload for _, payload in node.recorder.performed], [b"said meanwhile"])

    def test_its_timers_run(self) -> None:
        """So it does not learn from its ticks that anything is wrong, and the others take it for dead."""
        world = self.world()
        world.nodes[3].deafen()
        world.run(2.0)
        failed = [event["node_id"] for _, _, event in world.events if event["kind"] == "node_failed"]
        self.assertIn(3, failed)
        self.assertEqual(world.nodes[3].driver.replica.liveness.stretch_s, 0.0)


class CommandTests(unittest.SynchronousTestCase):
    """``--noise``."""

    def call(self, *words: str) -> tuple[int, str]:
        """Exit status and output."""
        result = CliRunner().invoke(command.main, ["--noise", "20s", *words])
        return result.exit_code, result.output

    def test_clean(self) -> None:
        """What the noise was, and that all went well."""
        status, output = self.call("--nodes", "5", "--seed", "3")
        self.assertEqual(status, 0, output)
        self.assertRegex(output, r"\n  stalls +>= 10 ms \d+, ")
        self.assertRegex(output, r"\n  longest silence +\d+ ms, the timeout is 800ms\n")
        self.assertTrue(output.endswith("\nNo false alarm.\n"))

    def test_alarms(self) -> None:
        """The first ones are told, all are counted, and the exit status is 1."""
        status, output = self.call("--timeout", "150ms", "--worst-stall", "600ms")
        self.assertEqual(status, 1, output)
        self.assertRegex(output, r"\nfalse alarms\n +\d+\.\d{6}  node \d: (node_failed|master_changed) \d: ")
        self.assertRegex(output, r"\n\d+ false alarms\.\n$")
        self.assertLessEqual(output.count("  node "), command.ALARMS_TOLD)
