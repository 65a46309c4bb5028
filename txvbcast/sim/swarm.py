"""Random runs: a workload, faults drawn from a seed, then peace and a demand for progress."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import attrs
from twisted.internet.defer import Deferred

from txvbcast.driver import Change
from txvbcast.errors import NoQuorum, Unsafe
from txvbcast.sim.checks import Violation
from txvbcast.sim.network import Conditions
from txvbcast.sim.world import World
from txvbcast.wire.messages import Mode

#: After the faults have ended everything must be settled within this time.
SETTLE_S = 60.0
#: The longest that a client of a run waits.
TIMEOUT_S = 4.0


@attrs.frozen
class Options:
    """What a run is made of; drawn from its seed.

    :ivar faults: kinds of fault that happen; fault_every_s: how often, on average.
    :ivar rate: transactions a second in all; refusal: the chance that a node refuses one.
    """

    nodes: int
    seconds: float
    conditions: Conditions
    disk_s: tuple[float, float]
    faults: tuple[str, ...]
    fault_every_s: float
    rate: float
    modes: tuple[Mode, ...]
    refusal: float

    @classmethod
    def draw(cls, seed: int) -> Options:
        """The options of a seed."""
        random = Random(f"options {seed}")
        kinds = sorted(FAULTS)
        return cls(
            nodes=random.choice([2, 3, 3, 3, 4, 5]),
            seconds=random.uniform(10.0, 40.0),
            conditions=Conditions(
                delay_min_s=0.0001,
                delay_max_s=random.choice([0.001, 0.005, 0.05]),
                datagram_loss=random.choice([0.0, 0.02, 0.2]),
                datagram_copy=random.choice([0.0, 0.05]),
                link_break=random.choice([0.0, 0.0, 0.002, 0.02]),
                reconnect_s=random.choice([0.02, 0.1]),
            ),
            disk_s=random.choice([(0.0002, 0.002), (0.001, 0.03)]),
            faults=tuple(random.sample(kinds, random.randint(1, len(kinds)))),
            fault_every_s=random.choice([0.5, 1.5, 4.0]),
            rate=random.choice([5.0, 30.0, 100.0]),
            modes=random.choice([(Mode.BROADCAST,), (Mode.TWO_PHASE,), (Mode.THREE_PHASE,), tuple(Mode)]),
            refusal=random.choice([0.0, 0.1]),
        )


class Swarm:
    """One random run."""

    def __init__(self, seed: int, options: Options | None = None) -> None:
        self.options = options or Options.draw(seed)
        self.random = Random(f"swarm {seed}")
        self.world = World(seed, self.options.nodes, self.options.conditions, self.options.disk_s)
        self._refusals = Random(f"refusals {seed}")
        self.world.refuse = lambda node_id, tx: "by chance" if self._refusals.random() < self.options.refusal else ""
        self._number = 0
        self._until_s = 0.0

    def run(self) -> World:
        """The whole run.

        :raises Violation: an invariant does not hold, or nothing goes on after the faults.
        """
        world = self.world
        self._until_s = self.options.seconds
        world.clock.callLater(0.5, self._load)
        world.clock.callLater(1.5, self._fault)
        world.run(self.options.seconds)
        self._make_peace()
        try:
            world.run_until(world.quiet, SETTLE_S, "everything is settled and every client has an answer")
        except AssertionError as error:
            raise Violation(str(error)) from error
        world.check()
        return world

    # --- workload -------------------------------------------------------------------------

    def _load(self) -> None:
        if self.world.clock.seconds() > self._until_s:
            return
        node = self.random.choice(list(self.world.nodes.values()))
        if node.running and not node.frozen:
            for _ in range(self.random.choice([1, 1, 1, 5])):
                self._number += 1
                mode = self.random.choice(self.options.modes)
                self.world.submit(node.node_id, b"%d" % self._number, mode, self.random.choice([1.0, TIMEOUT_S]))
        self.world.clock.callLater(self.random.expovariate(self.options.rate), self._load)

    # --- faults -----------------------------------------------------------------------------

    def _fault(self) -> None:
        if self.world.clock.seconds() > self._until_s:
            return
        kind = self.random.choice(self.options.faults)
        FAULTS[kind](self, self.random.choice(list(self.world.nodes)))
        self.world.clock.callLater(self.random.expovariate(1 / self.options.fault_every_s), self._fault)

    def _able(self, node_id: int) -> bool:
        node = self.world.nodes[node_id]
        return node.running and not node.frozen

    def _announce(self, node_id: int, expected_s: float, holdable: bool) -> Deferred[Change]:
        driver = self.world.nodes[node_id].driver
        return driver.begin_change("migrate_out", expected_s, holdable=holdable, wait_s=1.0)

    def _freeze_for(self, node_id: int, seconds: float, then: Callable[[], None] | None = None) -> None:
        node = self.world.nodes[node_id]
        if not self._able(node_id):
            return
        node.freeze()

        def thaw() -> None:
            if self.world.nodes[node_id] is node and node.running and node.frozen:
                node.thaw()
                if then is not None:
                    then()

        self.world.clock.callLater(seconds, thaw)

    def _end(self, node_id: int, change: Change) -> None:
        if not self._able(node_id):
            return
        driver = self.world.nodes[node_id].driver
        if any(record["change_id"] == change.change_id and not record["outcome"] for record in driver.changes()):
            driver.end_change(change.change_id)

    def announced(self, node_id: int) -> None:
        """Announce, wait for the answer, be away about as long as announced."""
        if not self._able(node_id):
            return
        expected_s = self.random.uniform(0.3, 4.0)
        actual_s = expected_s * self.random.choice([0.2, 0.9, 1.2, 3.0])
        node = self.world.nodes[node_id]

        def go(change: Change) -> None:
            if self.world.nodes[node_id] is node:
                self._freeze_for(node_id, actual_s, lambda: self._end(node_id, change))

        self._announce(node_id, expected_s, holdable=True).addCallback(go)

    def hasty(self, node_id: int) -> None:
        """Announce and be gone within milliseconds."""
        if not self._able(node_id):
            return
        expected_s = self.random.uniform(0.3, 3.0)
        opened: list[Change] = []
        self._announce(node_id, expected_s, holdable=False).addCallback(opened.append)

        def end() -> None:
            for change in opened:
                self._end(node_id, change)

        self.world.clock.callLater(
            self.random.uniform(0.0, 0.02), self._freeze_for, node_id, expected_s * self.random.uniform(0.5, 2.0), end
        )

    def cancelled(self, node_id: int) -> None:
        """Announce an absence that never comes."""
        if self._able(node_id):
            self._announce(node_id, 2.0, self.random.random() < 0.5).addCallback(lambda c: self._end(node_id, c))

    def frozen(self, node_id: int) -> None:
        """Stop without a word."""
        self._freeze_for(node_id, self.random.choice([0.1, 0.3, 1.0, 3.0]))

    def crashed(self, node_id: int) -> None:
        """Kill, and start again later."""
        node = self.world.nodes[node_id]
        if not node.running:
            return
        self.world.crash(node_id, keep_syncing=self.random.random() < 0.5)

        def restart() -> None:
            if not self.world.nodes[node_id].running:
                self.world.restart(node_id)

        self.world.clock.callLater(self.random.choice([0.05, 0.5, 3.0]), restart)

    def isolated(self, node_id: int) -> None:
        """Cut a node off."""
        self.world.network.isolate(node_id)
        self.world.clock.callLater(self.random.choice([0.3, 1.0, 3.0]), self.world.network.heal)

    def one_way(self, node_id: int) -> None:
        """Cut one direction of one pair."""
        other = self.random.choice([peer for peer in self.world.nodes if peer != node_id])
        self.world.network.cut.add((node_id, other))
        self.world.clock.callLater(self.random.choice([0.3, 1.0, 3.0]), self.world.network.heal)

    def moved(self, node_id: int) -> None:
        """An operator wants that node to be master."""
        asked = self.random.choice(list(self.world.nodes))
        if self._able(asked):
            moving = self.world.nodes[asked].driver.move_master(node_id)
            moving.addErrback(lambda failure: failure.trap(Unsafe, NoQuorum))

    def all_crashed(self, node_id: int) -> None:
        """The power fails everywhere."""
        for each in list(self.world.nodes):
            self.crashed(each)

    def _make_peace(self) -> None:
        """Heal, thaw, restart; every change is over."""
        world = self.world
        world.network.heal()
        world.network.conditions = attrs.evolve(self.options.conditions, link_break=0.0)
        for node_id, node in list(world.nodes.items()):
            if node.running and node.frozen:
                node.thaw()
            if not node.running:
                world.restart(node_id)
            for record in world.nodes[node_id].driver.changes():
                if not record["outcome"]:
                    world.nodes[node_id].driver.end_change(int(str(record["change_id"])))


FAULTS: dict[str, Callable[[Swarm, int], None]] = {
    "announced": Swarm.announced,
    "hasty": Swarm.hasty,
    "cancelled": Swarm.cancelled,
    "frozen": Swarm.frozen,
    "crashed": Swarm.crashed,
    "isolated": Swarm.isolated,
    "one_way": Swarm.one_way,
    "moved": Swarm.moved,
    "all_crashed": Swarm.all_crashed,
}
