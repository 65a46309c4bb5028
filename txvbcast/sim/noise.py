"""Noisy scheduling: every process is kept from running now and then, datagrams get lost, and nothing is broken.

A failure detector must not take a starved host for a dead one.  A host with more guests
than processors stops a guest's event loop very often for a moment and now and then for a
good part of a second: the lengths have a heavy tail.  Here every node of a healthy cluster
lives like that, each by itself, for as long as wanted; whatever is told of a failed member
or a new master is a false alarm.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random

import attrs

from txvbcast.config import HeartbeatConfig, ProtocolConfig
from txvbcast.core.commons import TICK
from txvbcast.core.effects import Effect
from txvbcast.core.inputs import Input, TimerFired
from txvbcast.sim.network import Conditions
from txvbcast.sim.node import SimNode
from txvbcast.sim.watch import Watcher
from txvbcast.sim.world import World
from txvbcast.wire.messages import Mode

#: Events that tell of trouble; where there is none, each of them is a false alarm.
ALARMS = ("node_failed", "master_changed", "quorum_lost")
#: How long a cluster that has just been started may take until the noise begins, in seconds.
START_S = 10.0
#: How long everything may take to be settled when the noise has ended, in seconds.
SETTLE_S = 10.0


@attrs.frozen
class Noise:
    """How badly every node is scheduled; times in seconds.

    The length of a stall is Pareto's: at least ``least_s``, longer than x with the chance
    ``(least_s / x) ** tail``; those that would be longer than the worst are as long as the worst.

    :ivar stall_every_s: from one stall of a process to its next one, on average: neither its timers nor what comes
        in are heeded meanwhile.
    :ivar deaf_every_s: the same between times in which its timers run and only what comes in has to wait.
    :ivar datagram_loss: the chance that a datagram is lost.
    """

    stall_every_s: float = 0.1
    stall_worst_s: float = 0.5
    deaf_every_s: float = 1.0
    deaf_worst_s: float = 0.1
    least_s: float = 0.002
    tail: float = 1.2
    datagram_loss: float = 0.03

    def length_s(self, random: Random, worst_s: float) -> float:
        """How long the next one lasts."""
        return min(self.least_s * random.paretovariate(self.tail), worst_s)


@attrs.frozen
class NoiseResult:
    """What a cluster has made of the noise.

    :ivar alarms: (virtual time in seconds, what was told), and each answer that a client should not have heard.
    :ivar outcomes: transactions by what their clients heard.
    :ivar stalls: how many lasted so many milliseconds or longer; stalled: their share of all time.
    :ivar longest_silence_s: for which a node did not hear one that it would have accused, as a tick has seen it;
        nearest: the same as a share of the patience that it had at that tick.
    """

    virtual_s: float
    cpu_s: float
    alarms: tuple[tuple[float, str], ...]
    outcomes: Mapping[str, int]
    stalls: Mapping[int, int]
    stalled: float
    longest_silence_s: float
    nearest: float
    trace_hash: str


#: Stalls are counted by which of these lengths they reach, in milliseconds.
STEPS_MS = (10, 50, 100, 200, 300, 400, 500, 600, 700, 800)


class Silences(Watcher):
    """How near every node comes to accusing another one."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was."""
        self.longest_s = 0.0
        self.nearest = 0.0

    def on_step(self, node: SimNode, event: Input, effects: Sequence[Effect]) -> None:
        """Look at each tick: that is when accusations are made."""
        if not isinstance(event, TimerFired) or event.key != TICK:
            return
        replica = node.driver.replica
        liveness, now_s = replica.liveness, node.clock.seconds()
        heard = replica.commons.others if replica.office is not None else (replica.master,)
        for peer in heard:
            silence_s = liveness.silence_s(peer, now_s)
            self.longest_s = max(self.longest_s, silence_s)
            self.nearest = max(self.nearest, silence_s / liveness.timeout_s)


class NoisyCluster:
    """A healthy cluster of ``nodes`` nodes under noise and a light load, from one seed.

    :param heartbeat: whose patience is on trial.
    :param rate: transactions a second in all, of every mode in turn.
    """

    def __init__(
        self,
        seed: int = 1,
        nodes: int = 3,
        heartbeat: HeartbeatConfig | None = None,
        noise: Noise | None = None,
        rate: float = 2.0,
    ) -> None:
        self.noise = noise or Noise()
        self.rate = rate
        self._random = Random(f"noise {seed}")
        self._stalls: Counter[int] = Counter()
        self._stalled_s = 0.0
        self._number = 0
        self._ended = False
        self._silences = Silences()
        config = ProtocolConfig(1, (), heartbeat=heartbeat or HeartbeatConfig())
        self.world = World(seed, nodes, config=config, watchers=(self._silences,))

    def run(self, seconds: float) -> NoiseResult:
        """So much noise, then a look at what came of it.

        :raises Violation: an invariant does not hold.
        :raises AssertionError: the cluster was not settled in the end.
        """
        world, began_s = self.world, time.process_time()
        world.run_until(world.settled, START_S, "settled at the beginning", 0.05)
        world.events.clear()
        self._silences.reset()
        world.network.conditions = Conditions(datagram_loss=self.noise.datagram_loss)
        for node in world.nodes.values():
            self._later(self.noise.stall_every_s, self._stall, node)
            self._later(self.noise.deaf_every_s, self._deafen, node)
        self._later(1 / self.rate, self._load)
        world.run(seconds)
        self._ended = True
        world.network.conditions = Conditions()
        world.run_until(world.quiet, SETTLE_S, "settled after the noise", 0.05)
        world.check()
        return self._result(seconds, time.process_time() - began_s)

    def _later(self, mean_s: float, function: Callable[..., None], *args: object) -> None:
        self.world.clock.post(self._random.expovariate(1 / mean_s), function, *args)

    # --- the noise ------------------------------------------------------------------------

    def _stall(self, node: SimNode) -> None:
        if self._ended:
            return
        length_s = self.noise.length_s(self._random, self.noise.stall_worst_s)
        self._stalled_s += length_s
        self._stalls.update(step_ms for step_ms in STEPS_MS if length_s * 1000 >= step_ms)
        node.freeze()
        self.world.clock.post(length_s, self._go_on, node)

    def _go_on(self, node: SimNode) -> None:
        node.thaw()
        self._later(self.noise.stall_every_s, self._stall, node)

    def _deafen(self, node: SimNode) -> None:
        if self._ended:
            return
        node.deafen()
        self.world.clock.post(self.noise.length_s(self._random, self.noise.deaf_worst_s), self._listen, node)

    def _listen(self, node: SimNode) -> None:
        node.listen()
        self._later(self.noise.deaf_every_s, self._deafen, node)

    # --- the load -------------------------------------------------------------------------

    def _load(self) -> None:
        if self._ended:
            return
        self._number += 1
        node = self._random.choice(list(self.world.nodes.values()))
        mode = tuple(Mode)[self._number % len(Mode)]
        node.deliver(self._submit, node, b"%d" % self._number, mode)  # a client's words wait like all that comes in
        self._later(1 / self.rate, self._load)

    def _submit(self, node: SimNode, payload: bytes, mode: Mode) -> None:
        self.world.submit(node.node_id, payload, mode)

    # --- what came of it --------------------------------------------------------------------

    def _result(self, seconds: float, cpu_s: float) -> NoiseResult:
        world = self.world
        told = [
            (at_s, f"node {node_id}: {event['kind']} {event['node_id']}: {event['reason']}")
            for at_s, node_id, event in world.events
            if event["kind"] in ALARMS
        ]
        heard = [
            (outcome.ended_s, f"a client of node {outcome.node_id}: {outcome.kind}: {outcome.answer}")
            for outcome in world.outcomes
            if outcome.kind != "committed"
        ]
        return NoiseResult(
            seconds,
            cpu_s,
            tuple(sorted(told + heard)),
            Counter(outcome.kind for outcome in world.outcomes),
            dict(sorted(self._stalls.items())),
            self._stalled_s / (seconds * len(world.nodes)),
            self._silences.longest_s,
            self._silences.nearest,
            world.network.digest(),
        )
