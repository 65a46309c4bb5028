"""A whole simulated cluster: the production core and driver, virtual time, network and disks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from txvbcast.applications import Applications
from txvbcast.config import Address, MemberConfig, ProtocolConfig
from txvbcast.driver import Driver
from txvbcast.errors import Committed
from txvbcast.interfaces import IResourceManager, Refused, Tx
from txvbcast.sim.checks import Agreement, Violation, check_outcomes
from txvbcast.sim.clock import NodeClock, SimClock
from txvbcast.sim.network import Conditions, SimNetwork
from txvbcast.store.memory import Disk, MemoryStore
from txvbcast.wire.messages import Entry, Message, Mode

#: Pieces of the log that a restarting node reads at once, in bytes.
RESTORE_BYTES = 1 << 20


@implementer(IResourceManager)
class Recorder:
    """A resource manager that writes down what it is told, and refuses on demand.

    :ivar performed: (seq, payload) in order.
    :ivar prepared: what it has said Yes to and not heard of since; aborted: payloads released.
    :ivar refuse: why prepare says No; empty for Yes.
    :ivar held: answers that are kept back, while ``holding``.
    """

    name = "recorder"

    def __init__(self) -> None:
        self.applied_seq = 0
        self.performed: list[tuple[int, bytes]] = []
        self.prepared: dict[tuple[str, int], Tx] = {}
        self.aborted: list[bytes] = []
        self.refuse: Callable[[Tx], str] = lambda tx: ""
        self.holding = False
        self.held: list[tuple[Deferred[bool | Refused], Tx]] = []

    def prepare(self, tx: Tx) -> bool | Refused | Deferred[bool | Refused]:
        """Vote, now or when told."""
        if self.holding:
            deferred: Deferred[bool | Refused] = Deferred()
            self.held.append((deferred, tx))
            return deferred
        return self._vote(tx)

    def answer(self) -> None:
        """Give the answers that were kept back."""
        held, self.held = self.held, []
        for deferred, tx in held:
            deferred.callback(self._vote(tx))

    def _vote(self, tx: Tx) -> bool | Refused:
        reason = self.refuse(tx)
        if reason:
            return Refused(reason)
        assert (tx.flight, tx.index) not in self.prepared, "prepared twice"
        self.prepared[tx.flight, tx.index] = tx
        return True

    def commit(self, tx: Tx) -> bytes:
        """Perform."""
        self.prepared.pop((tx.flight, tx.index), None)
        self.performed.append((tx.seq, tx.payload))
        return b"done " + tx.payload

    def abort(self, tx: Tx) -> None:
        """Release."""
        del self.prepared[tx.flight, tx.index]
        self.aborted.append(tx.payload)

    def snapshot(self) -> bytes:
        """Not used: the log is whole."""
        return b""

    def restore(self, state: bytes, seq: int) -> None:
        """Not used: the log is whole."""


@attrs.define(eq=False)
class Outcome:
    """What a client heard of a submission; ``answer`` None while it waits."""

    payload: bytes
    node_id: int
    began_s: float
    answer: Committed | BaseException | None = None
    ended_s: float = 0.0

    @property
    def kind(self) -> str:
        """committed, or the name of the failure, or waiting."""
        if self.answer is None:
            return "waiting"
        return "committed" if isinstance(self.answer, Committed) else type(self.answer).__name__


class Watched(Applications):
    """Applications whose every step is checked against the other nodes'."""

    def __init__(self, managers: Sequence[IResourceManager], watch: Callable[[Entry, bool], None]) -> None:
        super().__init__(managers)
        self._watch = watch

    def apply(self, entry: Entry, dead: bool) -> list[Committed]:
        """Check, then perform."""
        self._watch(entry, dead)
        return super().apply(entry, dead)


class SimNode:
    """One node: the production driver in a simulated process."""

    def __init__(self, world: World, node_id: int, disk: Disk) -> None:
        self.world = world
        self.node_id = node_id
        self.disk = disk
        self.frozen = False
        self.running = True
        self._inbox: list[Callable[[], None]] = []
        self.clock = NodeClock(world.clock)
        self.store, stored = MemoryStore.open(disk, self.clock, world.disk_delay)
        self.incarnation = stored.incarnation
        self.disk_id = stored.disk_id
        self.recorder = Recorder()
        self.recorder.refuse = lambda tx: world.refuse(node_id, tx)
        config = attrs.evolve(world.config, node_id=node_id)
        applications = Watched([self.recorder], self._watch)
        wall_s = world.clock.seconds
        self.driver = Driver(config, stored, self.store, self, applications, self.clock, wall_s, self._halted)
        self._pieces = tuple(self.store.entries(RESTORE_BYTES))

    def start(self) -> None:
        """Begin to act."""
        self.driver.start(self._pieces)

    def _watch(self, entry: Entry, dead: bool) -> None:
        self.world.agreement.on_apply(self.node_id, self.incarnation, entry, dead)

    def _halted(self, error: BaseException) -> None:
        self.world.broken.append((self.node_id, error))
        raise error

    # --- as the driver's network ---------------------------------------------------

    def send(self, to: int, message: Message) -> None:
        """Over the link."""
        self.world.network.send(self.node_id, to, message)

    def send_datagram(self, to: int, message: Message) -> None:
        """At once."""
        self.world.network.send_datagram(self.node_id, to, message)

    def drop_datagrams(self) -> None:
        """What came in during a pause is not told apart here: it is all handled."""

    def reset_links(self, reason: str) -> None:
        """Close every link; the network opens them anew."""
        for other in self.world.nodes:
            if other != self.node_id:
                self.world.network.break_link(self.node_id, other, reason)

    # --- as a host of the network -----------------------------------------------------

    def deliver(self, action: Callable[[], None]) -> None:
        """Handle now, or when the process goes on."""
        if not self.running:
            return
        if self.frozen:
            self._inbox.append(action)
        else:
            action()

    def on_message(self, peer: int, message: Message) -> None:
        """A message of a peer."""
        self.driver.received(peer, message)

    def on_link(self, peer: int, incarnation: int, disk_id: str) -> None:
        """A link was opened."""
        self.driver.peer_up(peer, incarnation, disk_id)

    def on_link_lost(self, peer: int, reason: str) -> None:
        """A link is gone."""
        self.driver.peer_down(peer, reason)

    # --- faults -------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop the process as SIGSTOP does."""
        self.frozen = True
        self.clock.freeze()

    def thaw(self) -> None:
        """Let it go on: overdue timers first, then what came in."""
        self.frozen = False
        self.clock.thaw()
        inbox, self._inbox = self._inbox, []
        for action in inbox:
            self.deliver(action)

    def crash(self, keep_syncing: bool) -> None:
        """Stop at once; what the disk had not acknowledged may be lost."""
        self.running = False
        self.clock.kill()
        self.store.crash(keep_syncing)
        self.driver.halt()


class World:
    """A cluster of ``nodes`` nodes and everything around it, from one seed."""

    def __init__(
        self,
        seed: int = 0,
        nodes: int = 3,
        conditions: Conditions | None = None,
        disk_s: tuple[float, float] = (0.0002, 0.002),
        config: ProtocolConfig | None = None,
    ) -> None:
        self.random = Random(f"world {seed}")
        self.clock = SimClock()
        self.network = SimNetwork(self.clock, Random(f"network {seed}"), conditions or Conditions())
        self._disk_random = Random(f"disk {seed}")
        self._disk_s = disk_s
        members = tuple(MemberConfig(k, f"node{k}", Address("127.0.0.1", 8400 + k)) for k in range(1, nodes + 1))
        self.config = attrs.evolve(config, members=members) if config else ProtocolConfig(1, members)
        self.refuse: Callable[[int, Tx], str] = lambda node_id, tx: ""
        self.broken: list[tuple[int, BaseException]] = []
        self.outcomes: list[Outcome] = []
        self.agreement = Agreement()
        self.events: list[tuple[float, int, dict[str, object]]] = []
        self.disks = {member.id: Disk(f"disk-{member.id}") for member in members}
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
        return node

    def disk_delay(self) -> float:
        """How long the next transaction of a store takes."""
        return self._disk_random.uniform(*self._disk_s)

    # --- time ---------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until_s = self.clock.seconds() + seconds
        while self.clock.step(until_s):
            pass

    def run_until(self, condition: Callable[[], bool], within_s: float, what: str) -> float:
        """Let time pass until ``condition`` holds; how long it took.

        :raises AssertionError: it does not hold within ``within_s``.
        """
        began_s = self.clock.seconds()
        until_s = began_s + within_s
        while not condition():
            if not self.clock.step(until_s):
                assert condition(), f"not within {within_s} s: {what}; {self.describe()}"
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
        outcome = Outcome(payload, node_id, self.clock.seconds())
        self.outcomes.append(outcome)

        def heard(answer: Committed | Failure) -> None:
            outcome.answer = answer.value if isinstance(answer, Failure) else answer
            outcome.ended_s = self.clock.seconds()

        deferred: Deferred[Committed] = self.nodes[node_id].driver.submit(
            "recorder", payload, mode, timeout_s, request_id
        )
        deferred.addBoth(heard)
        return outcome

    def freeze(self, node_id: int) -> None:
        """Stop a process as SIGSTOP does."""
        self.nodes[node_id].freeze()

    def thaw(self, node_id: int) -> None:
        """Let it go on."""
        self.nodes[node_id].thaw()

    def crash(self, node_id: int, keep_syncing: bool = False) -> None:
        """Kill a process."""
        node = self.nodes[node_id]
        node.crash(keep_syncing)
        for other in self.nodes:
            if other != node_id:
                self.network.break_link(node_id, other, "the peer is gone")

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
        replicas = [node.driver.replica for node in self.alive]
        return (
            len(replicas) == len(self.nodes)
            and self.master() != 0
            and all(replica.own.state == "normal" for replica in replicas)
            and all(peer.core.standing.value == "normal" for replica in replicas for peer in replica.peers.values())
            and len({replica.journal.applied for replica in replicas}) == 1
            and all(replica.journal.applied == replica.journal.tail == replica.journal.stored for replica in replicas)
        )

    def quiet(self) -> bool:
        """Whether everything is settled, every client has an answer and nothing is left prepared."""
        waiting = any(outcome.answer is None for outcome in self.outcomes)
        return not waiting and self.settled() and not any(node.recorder.prepared for node in self.nodes.values())

    def check(self) -> None:
        """What must hold once everything is settled.

        :raises Violation: it does not.
        """
        if self.broken:
            raise Violation(f"node {self.broken[0][0]} stopped: {self.broken[0][1]!r}")
        logs = self.logs()
        reference = logs[min(logs)]
        for node_id, log in logs.items():
            if log != reference:
                raise Violation(f"the log of node {node_id} ({len(log)} entries) is not that of the others")
        for node in self.nodes.values():
            if node.recorder.prepared:
                raise Violation(f"node {node.node_id} still holds {list(node.recorder.prepared)[:3]}")
            answers = [(outcome.payload, outcome.answer) for outcome in self.outcomes]
            check_outcomes(answers, node.recorder.performed)

    def logs(self) -> dict[int, list[Entry]]:
        """What each node's disk holds."""
        return {node_id: list(disk.entries) for node_id, disk in self.disks.items()}

    def describe(self) -> str:
        """A line a node, for a failed test."""
        lines = []
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
