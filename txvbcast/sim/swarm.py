"""Random runs: a workload, faults drawn from a seed, then peace and a demand for progress."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import attrs

from txvbcast.errors import Committed
from txvbcast.interfaces import Tx
from txvbcast.sim.checks import Violation
from txvbcast.sim.client_links import ClientConditions
from txvbcast.sim.clients import Clients
from txvbcast.sim.faults import Disturber
from txvbcast.sim.options import Options
from txvbcast.sim.remote import Load, RemoteClients
from txvbcast.sim.watch import Watcher
from txvbcast.sim.world import World
from txvbcast.wire.messages import Mode

#: After the faults have ended everything must be settled within so many heartbeat timeouts.
SETTLE_TIMEOUTS = 75
#: How client programs hear the nodes while there are faults.
CLIENT_CONDITIONS = ClientConditions(link_break=0.002, clog=0.002)
#: How often it is looked whether everything is settled, in virtual seconds.
LOOK_EVERY_S = 0.05


class Swarm:
    """One random run.

    :param options: instead of those that the seed draws.
    :param watchers: whoever wants to see it, besides the checks.
    """

    def __init__(self, seed: int, options: Options | None = None, watchers: Sequence[Watcher] = ()) -> None:
        self.seed = seed
        options = self.options = options or Options.draw(seed)
        self._random = Random(f"applications {seed}")
        self._clients = Clients(options, Random(f"clients {seed}"))
        load = Load(options.programs, options.rate, options.keys, options.modes)
        self._remote = RemoteClients(load, Random(f"remote clients {seed}"), CLIENT_CONDITIONS)
        remote = (self._remote, self._remote.links) if options.programs else ()
        self.world = World(
            seed,
            options.nodes,
            options.conditions,
            options.disk_s,
            options.config(),
            watchers=(self._clients, *remote, *watchers),
            vote_delay=self._vote_delay if options.vote_s else None,
        )
        self.world.refuse = self._refuse
        self._disturber = Disturber(self.world, Random(f"faults {seed}"))
        self._peace = False

    def run(self) -> World:
        """The whole run.

        :raises Violation: an invariant does not hold, or nothing goes on after the faults.
        """
        world = self.world
        self._remote.begin()
        world.clock.post(1.5, self._disturb)
        world.run(self.options.seconds)
        self._peace = True
        self._clients.stop()
        self._remote.stop()
        self._disturber.make_peace()
        world.network.conditions = attrs.evolve(self.options.conditions, link_break=0.0)
        self._settle("everything is settled and every client has an answer")
        self._demand_progress()
        world.check()
        return world

    def _disturb(self) -> None:
        if not self._peace:
            self._disturber.disturb(self._disturber.random.choice(self.options.faults))
            delay_s = self._disturber.random.expovariate(1 / self.options.fault_every_s)
            self.world.clock.post(delay_s, self._disturb)

    def _refuse(self, node_id: int, tx: Tx) -> str:
        refused = not self._peace and self._random.random() < self.options.refusal
        return "by chance" if refused else ""

    def _vote_delay(self) -> float:
        return 0.0 if self._peace else self._random.random() * self.options.vote_s

    def _settle(self, what: str) -> None:
        within_s = SETTLE_TIMEOUTS * self.world.config.heartbeat.timeout_s
        try:
            self.world.run_until(self.world.quiet, within_s, what, LOOK_EVERY_S)
        except Violation:
            raise
        except AssertionError as error:
            raise Violation(f"invariant 15: {error}") from error

    def _demand_progress(self) -> None:
        """Every node can do its work again, in every mode."""
        world = self.world
        asked = [
            world.submit(node_id, b"%d %b" % (node_id, mode.value.encode()), mode)
            for node_id in world.nodes
            for mode in Mode
        ]
        reads = [world.read(node_id, b"k0") for node_id in world.nodes]
        self._settle("what is asked in peace is answered")
        for program in self._remote.programs:  # one after the other: a node may be used by all of them
            asked += program.demand()
            self._settle("what a client program asks in peace is answered")
        for outcome in asked:
            if not isinstance(outcome.answer, Committed):
                raise Violation(
                    f"invariant 15: in peace node {outcome.node_id} answered a {outcome.mode.value}: {outcome.answer!r}"
                )
        for read in reads:
            if read.failed:
                raise Violation(f"invariant 15: in peace a read on node {read.node_id} failed: {read.failed}")
