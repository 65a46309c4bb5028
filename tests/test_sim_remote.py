"""Client programs over simulated connections: they move to another node, and all they asked takes effect once."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import attrs
from twisted.trial import unittest

from txvbcast.client.attempts import Batch, Transactions
from txvbcast.control.client_desk import Desk
from txvbcast.errors import Committed
from txvbcast.sim.checks import Violation
from txvbcast.sim.client_links import ClientConditions, ClientLinks
from txvbcast.sim.options import Options
from txvbcast.sim.remote import Program
from txvbcast.sim.swarm import Swarm
from txvbcast.sim.world import Outcome, World
from txvbcast.wire.messages import Mode

#: Seconds between two transactions of a steady load.
EVERY_S = 0.01
#: How long a client waits for an answer.
TIMEOUT_S = 4.0


class Stage:
    """Three nodes that have begun their work, node 1 master, and a client program that uses node ``at``.

    :ivar outcomes: of its load; ``used``: the nodes that it used, in order.
    """

    def __init__(self, at: int, conditions: ClientConditions | None = None, seed: int = 1) -> None:
        self.links = ClientLinks(Random(f"links {seed}"), conditions or ClientConditions(silent_death=0.0))
        self.world = World(seed, 3, watchers=(self.links,))
        self.world.run_until(self.world.quiet, 10.0, "settled")
        first, *others = self.links.addresses[at - 1 :] + self.links.addresses[: at - 1]
        self.program = Program(1, self.links, [first, *others])
        self.program.start()
        self.world.run_until(lambda: self.program.session.node_id == at, 1.0, "the client uses its node")
        self.outcomes: list[Outcome] = []
        self.used = [at]
        self._loaded = False

    def load(self, mode: Mode = Mode.BROADCAST) -> None:
        """Hand something in every :data:`EVERY_S` from now on."""
        self._loaded = True
        self._next(mode)

    def _next(self, mode: Mode) -> None:
        if self._loaded:
            payload = b"k=%d" % len(self.outcomes)
            self.outcomes += self.program.submit([payload], mode, TIMEOUT_S)
            if self.program.session.node_id not in (0, self.used[-1]):
                self.used.append(self.program.session.node_id)
            self.world.clock.post(EVERY_S, self._next, mode)

    def end(self) -> None:
        """End the load, wait for all answers, and check everything.

        :raises Violation: something does not hold.
        """
        self._loaded = False
        self.world.run_until(self.world.quiet, 60.0, "all is answered and settled", 0.05)
        self.world.check()

    @property
    def kinds(self) -> set[str]:
        """What the client heard."""
        return {outcome.kind for outcome in self.outcomes}

    def longest_gap_s(self) -> float:
        """The longest time between two answers that say committed, one after the other."""
        heard_s = sorted(outcome.ended_s for outcome in self.outcomes if outcome.kind == "committed")
        return max(later_s - sooner_s for sooner_s, later_s in zip(heard_s, heard_s[1:], strict=False))


class FailOverTests(unittest.SynchronousTestCase):
    """One thing happens to the cluster while a client hands in a steady load."""

    def play(self, at: int, act: Callable[[Stage], None], mode: Mode = Mode.BROADCAST, seconds: float = 3.0) -> Stage:
        """The load for half a second, then ``act``, and the load again; every answer is committed."""
        stage = Stage(at)
        stage.load(mode)
        stage.world.run(0.5)
        act(stage)
        stage.world.run(seconds)
        for node_id, node in stage.world.nodes.items():
            if node.running and node.frozen:
                stage.world.thaw(node_id)
            elif not node.running:
                stage.world.restart(node_id)
        stage.end()
        self.assertEqual(stage.kinds, {"committed"})
        self.assertGreater(len(stage.outcomes), 200)
        return stage

    def test_coordinator_killed(self) -> None:
        """The client's node, which is not master, dies in the middle of what it does; in every mode."""
        for mode in Mode:
            stage = self.play(3, lambda stage: stage.world.crash(3), mode)
            self.assertNotEqual(stage.used[-1], 3)

    def test_master_killed(self) -> None:
        """The client uses the master: it has to find another node, and that another master."""
        stage = self.play(1, lambda stage: stage.world.crash(1))
        self.assertEqual(stage.used[0], 1)
        self.assertGreater(len(stage.used), 1)

    def test_epoch_changed_under_another_node(self) -> None:
        """The master dies, and the client's own node lives: it stays there."""
        stage = self.play(3, lambda stage: stage.world.crash(1))
        self.assertEqual(stage.used, [3])

    def test_master_handed_over(self) -> None:
        """An operator moves the office to and fro: the client notices nothing, wherever it is."""
        for at in (1, 2, 3):
            moved: list[None] = []

            def act(stage: Stage, moved: list[None] = moved) -> None:
                stage.world.nodes[1].driver.move_master(2).addCallback(moved.append)

            stage = self.play(at, act)
            self.assertEqual(moved, [None])
            self.assertEqual(stage.used, [at])
            self.assertLess(stage.longest_gap_s(), 0.1)

    def test_announced_absence(self) -> None:
        """Leaving comes before the node is gone: the client is elsewhere by then, and there is no gap to speak of."""
        for at in (1, 3):

            def act(stage: Stage, at: int = at) -> None:
                stage.world.nodes[at].driver.absences.begin("freeze", 3.0, holdable=True, wait_s=1.0).addCallback(
                    lambda change: self.go(stage, at)
                )

            stage = self.play(at, act, seconds=2.0)
            self.assertNotEqual(stage.used[1], at)
            self.assertLess(stage.longest_gap_s(), 0.1)

    def go(self, stage: Stage, at: int) -> None:
        """The cluster has confirmed; the node stops at once."""
        self.assertNotEqual(stage.program.session.node_id, at)
        stage.world.freeze(at)

    def test_stopped_in_order(self) -> None:
        """A node that an operator stops says so to its clients first."""

        def act(stage: Stage) -> None:
            stage.world.stop(1).addCallback(lambda _: stage.world.crash(1))
            stage.world.run(0.005)
            self.assertNotEqual(stage.program.session.node_id, 1)

        self.assertLess(self.play(1, act).longest_gap_s(), 0.1)

    def test_silent_node(self) -> None:
        """A node that is stopped without a word is left after the client's patience."""
        stage = self.play(3, lambda stage: stage.world.freeze(3))
        self.assertNotEqual(stage.used[1], 3)
        self.assertGreater(stage.longest_gap_s(), 0.3)
        self.assertLess(stage.longest_gap_s(), 1.2)

    def test_host_dies_silently(self) -> None:
        """Nobody closes the connection: that is silence, too."""
        stage = Stage(3, ClientConditions(silent_death=1.0))
        stage.load()
        stage.world.run(0.2)
        stage.world.crash(3)
        stage.world.run(2.0)
        stage.world.restart(3)
        stage.end()
        self.assertEqual(stage.kinds, {"committed"})

    def test_connection_breaks_again_and_again(self) -> None:
        """A repeat of what was committed before gets the first answer."""
        stage = Stage(2, ClientConditions(link_break=0.02))
        stage.load()
        stage.world.run(5.0)
        stage.end()
        self.assertEqual(stage.kinds, {"committed"})
        self.assertGreater(len(stage.used), 5)
        repeats = [entry for entry in stage.world.logs()[1] if entry.flight is not None]
        self.assertGreater(len(repeats), len(stage.outcomes))  # some were in the log twice, and took effect once

    def test_stopped_program(self) -> None:
        """A client that was stopped itself blames no node for its silence."""
        stage = Stage(2)
        stage.load()
        stage.world.run(0.2)
        stage.program.pause(2.0)
        stage._loaded = False
        stage.world.run(3.0)
        stage.end()
        self.assertEqual((stage.kinds, stage.program.session.node_id), ({"committed"}, 2))


class UnknownTests(unittest.SynchronousTestCase):
    """Nobody knows, until somebody asks again."""

    def test_asked_again_by_name(self) -> None:
        """The name that comes with OutcomeUnknown leads to the first effect, or to one now; never to two."""
        for committed_before in (True, False):
            stage = Stage(3)
            (outcome,) = stage.program.submit([b"k=first"], timeout_s=0.3)
            if committed_before:
                performed = stage.world.nodes[1].recorder.performed
                stage.world.run_until(lambda there=performed: bool(there), 1.0, "the master performs it", 0.0001)
            for node_id in (1, 2, 3):
                stage.world.freeze(node_id)
            stage.world.run(2.0)
            self.assertEqual(outcome.kind, "OutcomeUnknown")
            assert outcome.request_id is not None
            for node_id in (1, 2, 3):
                stage.world.thaw(node_id)
            stage.world.run_until(lambda stage=stage: stage.program.session.node_id != 0, 10.0, "connected again")
            (again,) = stage.program.submit([b"k=again"], timeout_s=10.0, request_ids=[outcome.request_id])
            stage.end()
            self.assertIsInstance(again.answer, Committed)
            assert isinstance(again.answer, Committed)
            performed = [payload for _, payload in stage.world.nodes[1].recorder.performed]
            self.assertEqual(len(performed), 1)
            self.assertEqual(again.answer.result, b"done " + performed[0])


#: Programs under the faults that make them move; small, so that many seeds can be looked at.
GROUND = attrs.evolve(
    Options.draw(2),
    nodes=3, seconds=8.0, preset="test", faults=("crashed", "frozen", "announced", "isolated"), fault_every_s=0.8,
    rate=20.0, modes=tuple(Mode), refusal=0.0, vote_s=0.0, retries=0.0, reads=0.0, programs=3, pending=10_000,
    flights=8, flight_bytes=1 << 20, planned_floor=1, last_man_standing=False, inactive_s=0.0,
)  # fmt: skip


class CheckTests(unittest.SynchronousTestCase):
    """The checks of a random run find clients and nodes that do it wrong."""

    def violation(self, seeds: int = 25) -> str:
        """The first that is found on the ground; empty if none is."""
        for seed in range(seeds):
            try:
                Swarm(seed, GROUND).run()
            except Violation as violation:
                return str(violation)
        return ""

    def test_right(self) -> None:
        """Nothing is found where nothing is wrong."""
        self.assertEqual(self.violation(10), "")

    def test_nameless(self) -> None:
        """A node that forgets the names of transactions performs repeats again."""
        self.patch(Desk, "_requests", lambda desk, wanted: None)
        self.assertRegex(self.violation(), "^invariant 5: performed more than once")

    def test_rash(self) -> None:
        """A client that tells a failure while an earlier attempt may yet be committed."""
        self.patch(Batch, "may_commit", lambda batch, place: False)
        self.assertRegex(self.violation(), "^invariant 4: .* was heard as ")

    def test_mute(self) -> None:
        """A client that never says that nobody knows leaves somebody without an answer."""
        self.patch(Transactions, "_doubt", lambda transactions, batch, reason: None)
        self.assertRegex(self.violation(), "^invariant 15: .*clients wait for an answer")

    def test_other_results(self) -> None:
        """A client that gives a user somebody else's results."""
        told = Transactions._tell_committed

        def swap(
            self: Transactions, batch: Batch, place: int, seq: int, index: int, results: tuple[bytes, ...]
        ) -> None:
            told(self, batch, place, seq, index, tuple(b"done k=other" for _ in results))

        self.patch(Transactions, "_tell_committed", swap)
        self.assertRegex(self.violation(), "^invariant 3: .* was heard as committed with ")

    def test_told_twice(self) -> None:
        """A client whose user hears of a transaction twice."""
        self.patch(Transactions, "_told", lambda transactions, batch, place, count: None)
        self.assertRegex(self.violation(), "a client is told of .* twice")
