"""A whole simulated cluster: the production core and driver, virtual time, network and disks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txvbcast.config import Address, MemberConfig, ProtocolConfig
from txvbcast.errors import Committed
from txvbcast.interfaces import Tx
from txvbcast.sim.checks import Violation, all_checks, check_outcomes
from txvbcast.sim.clock import SimClock
from txvbcast.sim.network import Conditions, SimNetwork
from txvbcast.sim.node import SimNode
from txvbcast.sim.watch import Watcher, Watchers
from txvbcast.store.memory import Disk
from txvbcast.wire.messages import Entry, Mode


@attrs.define(eq=False)
class Outcome:
    """What a client heard of a submission; ``answer`` None while it waits.

    :ivar payload: unique to this attempt; request_id: shared by the attempts at one request.
    """

    payload: bytes
    node_id: int
    began_s: float
    mode: Mode = Mode.BROADCAST
    request_id: str | None = None
    answer: Committed | BaseException | None = None
    ended_s: float = 0.0

    @property
    def kind(self) -> str:
        """committed, or the name of the failure, or waiting."""
        if self.answer is None:
            return "waiting"
        return "committed" if isinstance(self.answer, Committed) else type(self.answer).__name__


@attrs.define(eq=False)
class Read:
    """A client's linearizable read of one register.

    :ivar seq: what its node had applied when it was answered; None while it waits, or if it failed.
    :ivar failed: why it failed, empty if it did not.
    """

    key: bytes
    node_id: int
    began_s: float
    seq: int | None = None
    value: bytes | None = None
    failed: str = ""
    ended_s: float = 0.0


class World:
    """A cluster of ``nodes`` nodes and everything around it, from one seed.

    :param disk_s: the shortest and longest time that a transaction of a store takes.
    :param watchers: whoever wants to see all that happens, besides the checks.
    :param vote_delay: how long a resource manager takes to vote; None for no time at all.
    :ivar refuse: why a node's resource manager refuses a transaction, empty to accept.
    :ivar disk_factor: per node, how many times slower its disk is now.
    """

    def __init__(
        self,
        seed: int = 0,
        nodes: int = 3,
        conditions: Conditions | None = None,
        disk_s: tuple[float, float] = (0.0002, 0.002),
        config: ProtocolConfig | None = None,
        watchers: Sequence[Watcher] = (),
        vote_delay: Callable[[], float] | None = None,
    ) -> None:
        self.clock = SimClock()
        self.watchers = Watchers()
        for watcher in (*all_checks(), *watchers):
            self.watchers.add(watcher)
            watcher.on_world(self)
        self.network = SimNetwork(
            self.clock, Random(f"network {seed}"), conditions or Conditions(), self.watchers.of("on_delivery")
        )
        self.vote_delay = vote_delay
        self._disk_random = Random(f"disk {seed}")
        self._disk_s = disk_s
        members = tuple(MemberConfig(k, f"node{k}", Address("127.0.0.1", 8400 + k)) for k in range(1, nodes + 1))
        self.config = attrs.evolve(config, members=members) if config else ProtocolConfig(1, members)
        self.refuse: Callable[[int, Tx], str] = lambda node_id, tx: ""
        self.outcomes: list[Outcome] = []
        self.reads: list[Read] = []
        self.events: list[tuple[float, int, dict[str, object]]] = []
        self.disks = {member.id: Disk(f"disk-{member.id}") for member in members}
        self.disk_factor = dict.fromkeys(self.disks, 1.0)
        self.nodes: dict[int, SimNode] = {}
        for node_id in self.disks:
            self._create(node_id)
        for node in self.nodes.values():
            node.start()
        self.network.start()

    def _create(self, node_id: int) -> SimNode:
        node = self.nodes[node_id] = SimNode(self, node_id, self.disks[node_id])
        node.driver.events.subscribe(lambda event: self.events.append((self.clock.seconds(), node_id, event)))
        self.network.add(node)
        self.tell("on_life", node)
        return node

    def disk_delay(self, node_id: int) -> Callable[[], float]:
        """Says how long the next transaction of a node's store takes."""
        shortest_s, longest_s = self._disk_s
        return lambda: self._disk_random.uniform(shortest_s, longest_s) * self.disk_factor[node_id]

    def tell(self, what: str, subject: object) -> None:
        """Tell the watchers by one of their methods."""
        for hook in self.watchers.of(what):
            hook(subject)

    def violated(self, violation: Violation) -> None:
        """Let it come out of the clock: there may be a Deferred between here and whoever runs the world."""
        self.clock.post(0.0, _raise, violation)

    def note(self, fault: str) -> None:
        """Something is done to the world: let the watchers know, in a line for people."""
        self.tell("on_fault", fault)

    # --- time ---------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.run(self.clock.seconds() + seconds)

    def run_until(self, condition: Callable[[], bool], within_s: float, what: str, every_s: float = 0.001) -> float:
        """Let time pass until ``condition`` holds, looked at ``every_s``; how long it took.

        :raises AssertionError: it does not hold within ``within_s``.
        """
        began_s = self.clock.seconds()
        until_s = began_s + within_s
        while not condition():
            now_s = self.clock.seconds()
            assert now_s < until_s, f"not within {within_s} s: {what}; {self.describe()}"
            self.clock.run(min(now_s + every_s, until_s))
        return self.clock.seconds() - began_s

    # --- acts -----------------------------------------------------------------------------

    def submit(
        self,
        node_id: int,
        payload: bytes,
        mode: Mode = Mode.BROADCAST,
        timeout_s: float = 5.0,
        request_id: str | None = None,
    ) -> Outcome:
        """A client of ``node_id`` hands in a transaction."""
        outcome = Outcome(payload, node_id, self.clock.seconds(), mode, request_id)
        self.outcomes.append(outcome)
        self.tell("on_submitted", outcome)

        def heard(answer: Committed | Failure) -> None:
            outcome.answer = answer.value if isinstance(answer, Failure) else answer
            outcome.ended_s = self.clock.seconds()
            self.clock.post(0.0, self.tell, "on_answer", outcome)  # a violation must come out of the clock

        deferred: Deferred[Committed] = self.nodes[node_id].driver.submit(
            "recorder", payload, mode, timeout_s, request_id
        )
        deferred.addBoth(heard)
        return outcome

    def read(self, node_id: int, key: bytes, timeout_s: float = 5.0) -> Read:
        """A client of ``node_id`` reads a register, linearizably."""
        node = self.nodes[node_id]
        read = Read(key, node_id, self.clock.seconds())
        self.reads.append(read)

        def answered(seq: int) -> None:
            read.seq, read.value = seq, node.recorder.registers.get(key)

        def failed(failure: Failure) -> None:
            read.failed = failure.getErrorMessage()

        def ended(_: None) -> None:
            read.ended_s = self.clock.seconds()
            self.clock.post(0.0, self.tell, "on_read", read)

        node.driver.read_barrier(timeout_s).addCallbacks(answered, failed).addCallback(ended)
        return read

    def freeze(self, node_id: int) -> None:
        """Stop a process as SIGSTOP does."""
        self.nodes[node_id].freeze()

    def thaw(self, node_id: int, clock_stood: bool = False) -> None:
        """Let it go on; ``clock_stood``: as after a hypervisor's stop, its clock did not run meanwhile."""
        self.nodes[node_id].thaw(clock_stood)

    def crash(self, node_id: int, keep: float = 0.0) -> None:
        """Kill a process; ``keep``: how much of what its disk had under way is kept."""
        node = self.nodes[node_id]
        node.crash(keep)
        for other in self.nodes:
            if other != node_id:
                self.network.break_link(node_id, other, "the peer is gone")
        self.tell("on_death", node)

    def stop(self, node_id: int) -> Deferred[None]:
        """An operator stops a node in order; fires when nothing keeps it, and the process may end."""
        node = self.nodes[node_id]
        self.tell("on_stop", node)
        return node.driver.stop()

    def restart(self, node_id: int) -> None:
        """Start a killed process again on its disk."""
        self._create(node_id).start()

    # --- looking -----------------------------------------------------------------------

    @property
    def alive(self) -> Sequence[SimNode]:
        """Nodes whose process runs, stopped or not."""
        return [node for node in self.nodes.values() if node.running]

    def master(self) -> int:
        """The one node that all running nodes take for master; 0 if they do not agree."""
        masters = {node.driver.replica.master for node in self.alive if not node.frozen}
        return masters.pop() if len(masters) == 1 else 0

    def settled(self) -> bool:
        """Whether every node is normal, follows one master and has applied the same log."""
        return not any(self._unsettled())

    def _unsettled(self) -> Sequence[str]:
        """What keeps the cluster from being settled, in words."""
        replicas = {node.node_id: node.driver.replica for node in self.alive}
        found = [f"node {node_id} does not run" for node_id in self.nodes if node_id not in replicas]
        if not self.master():
            found.append("the nodes do not agree on a master")
        applied = {replica.journal.applied for replica in replicas.values()}
        if len(applied) > 1:
            found.append(f"the nodes have applied different lengths of the log: {sorted(applied)}")
        for node_id, replica in replicas.items():
            journal = replica.journal
            if replica.own.state != "normal":
                found.append(f"node {node_id} is {replica.own.state}")
            if not journal.applied == journal.tail == journal.stored:
                found.append(f"node {node_id} has entries that are not stored, committed and applied")
            for peer, seen in replica.peers.items():
                if seen.core.standing.value != "normal":
                    found.append(f"node {node_id} sees node {peer} as {seen.core.standing.value}")
        return found

    def waiting_for(self) -> Sequence[str]:
        """Why the world is not quiet yet, in words; empty if it is."""
        found = list(self._unsettled())
        waiting = [outcome.payload for outcome in self.outcomes if outcome.answer is None]
        if waiting:
            found.append(f"{len(waiting)} clients wait for an answer, {waiting[0]!r} first")
        reading = sum(read.seq is None and not read.failed for read in self.reads)
        if reading:
            found.append(f"{reading} reads wait for an answer")
        for node in self.alive:
            if node.recorder.prepared:
                found.append(f"node {node.node_id} still holds {next(iter(node.recorder.prepared))}")
            pending = node.driver.replica.submissions.pending
            if pending:  # also what its client has long had answered by another node
                found.append(f"{pending} transactions are pending on node {node.node_id}")
        return found

    def quiet(self) -> bool:
        """Whether everything is settled, every client has an answer and nothing is left prepared or pending."""
        return not self.waiting_for()

    def check(self) -> None:
        """What must hold once everything is settled.

        :raises Violation: it does not.
        """
        logs = self.logs()
        reference = logs[min(logs)]
        for node_id, log in logs.items():
            if log != reference:
                raise Violation(f"invariant 15: the log of node {node_id}, {len(log)} entries, is not the others'")
        for node in self.nodes.values():
            if node.recorder.prepared:
                raise Violation(f"invariant 18: node {node.node_id} still holds {list(node.recorder.prepared)[:3]}")
            check_outcomes(self.outcomes, node.recorder.performed)
        for hook in self.watchers.of("on_end"):
            hook()

    def logs(self) -> dict[int, list[Entry]]:
        """What each node's disk holds."""
        return {node_id: list(disk.entries) for node_id, disk in self.disks.items()}

    def describe(self) -> str:
        """What is waited for, and a line a node: for a failed test."""
        lines = [f"it waits for: {'; '.join(self.waiting_for()) or 'nothing'}"]
        for node in self.nodes.values():
            replica = node.driver.replica
            journal = replica.journal
            lines.append(
                f"node {node.node_id}{'' if node.running else ' dead'}{' frozen' if node.frozen else ''}: "
                f"{replica.own.state}/{replica.mastership.core.role} master {replica.master} epoch "
                f"{journal.log_epoch}/{journal.promised} tail {journal.tail} stored {journal.stored} "
                f"committed {journal.committed} applied {journal.applied} "
                f"sees {[(k, p.core.standing.value) for k, p in replica.peers.items()]}"
            )
        return "\n".join(lines)


def _raise(violation: Violation) -> None:
    raise violation
