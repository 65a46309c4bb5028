"""A trace, carried out again by production drivers.

Nothing of the search's shortcuts is used here: each node is a :class:`~txvbcast.driver.Driver`
that lives on, with a clock, a disk, a network and a resource manager that do what the trace
says and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from txvbcast.applications import Applications, Performed
from txvbcast.core.effects import Persist, ReadLog
from txvbcast.core.inputs import PastAbsence, StoredState
from txvbcast.driver import Driver
from txvbcast.errors import Aborted, Committed, NoQuorum, Overloaded, Unsafe
from txvbcast.interfaces import IResourceManager, Refused, Tx
from txvbcast.sim.checks import Violation
from txvbcast.sim.clock import NodeClock, SimClock
from txvbcast.sim.explore.judge import Judge, Past
from txvbcast.sim.explore.nodes import (
    FROZEN_S,
    STALE_REPLY,
    Applied,
    Durable,
    Heard,
    Local,
    Note,
    Packet,
    facts_of,
    quiet_time,
)
from txvbcast.sim.explore.scopes import Scope, Submission
from txvbcast.sim.explore.snapshot import FAR_S, TICK_S
from txvbcast.sim.explore.trace import Line, Trace, TraceError
from txvbcast.sim.wording import message_text
from txvbcast.wire.messages import Entry, Message


@implementer(IResourceManager)
class Manager:
    """A resource manager that refuses what the scope says, and else does everything."""

    name = "recorder"
    applied_seq = 0

    def __init__(self, refused: frozenset[bytes]) -> None:
        self._refused = refused

    def prepare(self, tx: Tx) -> bool | Refused:
        """Vote."""
        return Refused("no") if tx.payload in self._refused else True

    def commit(self, tx: Tx) -> bytes:
        """Perform."""
        return b"done"

    def abort(self, tx: Tx) -> None:
        """Release."""

    def snapshot(self) -> bytes:
        """Not used: the log is whole."""
        return b""

    def restore(self, state: bytes, seq: int) -> None:
        """Not used: the log is whole."""


class Watched(Applications):
    """Applications that tell what they are asked to perform."""

    def __init__(self, manager: IResourceManager, watch: Callable[[Note], None]) -> None:
        super().__init__([manager])
        self._watch = watch

    def apply(self, entry: Entry, dead: bool) -> Performed:
        """Tell, then perform."""
        self._watch(Applied(entry, dead))
        return super().apply(entry, dead)


class HeldDisk:
    """The store of a node in a replay: it answers when the trace says so, or at once.

    :ivar durable: what is on the disk; pending: what was asked for and is not answered.
    """

    def __init__(self, durable: Durable, lazy: bool) -> None:
        self.durable = durable
        self.pending: list[tuple[Persist | ReadLog, Callable[[], None]]] = []
        self._lazy = lazy

    def persist(self, write: Persist, done: Callable[[int], None]) -> None:
        """Write, later or now."""

        def perform() -> None:
            self.durable = self.durable.after(write)
            done(write.token)

        self._ask(write, perform)

    def read(self, first: int, last: int, bytes_max: int, done: Callable[[tuple[Entry, ...]], None]) -> None:
        """Read, later or now."""
        self._ask(ReadLog(0, first, last, bytes_max), lambda: done(self.durable.entries[first - 1 : last]))

    def remember(self, record: PastAbsence) -> None:
        """Records of absences take no part in the protocol."""

    def _ask(self, operation: Persist | ReadLog, perform: Callable[[], None]) -> None:
        self.pending.append((operation, perform))
        if not self._lazy:
            self.sync()

    def sync(self) -> None:
        """Answer everything that was asked for so far."""
        pending, self.pending = self.pending, []
        for _, perform in pending:
            perform()

    def crash(self, keeps: bool) -> Durable:
        """What is on the disk afterwards."""
        for operation, _ in self.pending if keeps else ():
            if isinstance(operation, Persist):
                self.durable = self.durable.after(operation)
        return self.durable


class ReplayNode:
    """One life of a node: a driver and its surroundings."""

    def __init__(self, scope: Scope, node_id: int, durable: Durable, packets: dict[Packet, None]) -> None:
        self.node_id = node_id
        self.notes: list[Note] = []
        self.error = ""
        self.disk = HeldDisk(attrs.evolve(durable, incarnation=durable.incarnation + 1), scope.lazy_disk)
        self._scope = scope
        self._packets = packets
        self._time = SimClock()
        self.clock = NodeClock(self._time)
        refused = frozenset(each.payload for each in scope.submissions if node_id in each.refused_by)
        self.driver = Driver(
            scope.config(node_id),
            self._stored(),
            self.disk,
            self,
            Watched(Manager(refused), self.notes.append),
            self.clock,
            self._time.seconds,
            self._halted,
        )

    def _stored(self) -> StoredState:
        durable = self.disk.durable
        return StoredState(
            incarnation=durable.incarnation,
            disk_id=f"disk-{self.node_id}",
            promised_epoch=durable.promised_epoch,
            log_epoch=durable.log_epoch,
            committed=durable.committed,
            last_seq=len(durable.entries),
        )

    def _halted(self, error: BaseException) -> None:
        self.error = f"{type(error).__name__}: {error}"

    # --- as the driver's network ---------------------------------------------------------

    def send(self, to: int, message: Message) -> None:
        """Under way from now on, for good."""
        self._packets[Packet(self.node_id, to, message)] = None

    def send_datagram(self, to: int, message: Message) -> None:
        """The same."""
        self.send(to, message)

    def drop_datagrams(self) -> None:
        """What is under way may always still be late."""

    def reset_links(self, reason: str) -> None:
        """The trace says what becomes of the links."""

    # --- what happens ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to act."""
        self.driver.start([self.disk.durable.entries])

    def finish_turn(self) -> None:
        """What was to be done at the end of the turn of the event loop."""
        self._time.run(self._time.seconds())

    def tick(self) -> None:
        """Time goes on to the next tick."""
        self._time.run(self._time.seconds() + TICK_S)

    def on_sync(self) -> None:
        """The disk answers."""
        self.disk.sync()

    def on_up(self, peer: int, incarnation: int) -> None:
        """A link was opened."""
        self.driver.peer_up(peer, incarnation, f"disk-{peer}")

    def on_down(self, peer: int) -> None:
        """A link is gone."""
        self.driver.peer_down(peer, "the connection ended")

    def on_silence(self, *silent: int) -> None:
        """Time passes in which some peers are not heard."""
        replica = self.driver.replica
        others = [peer for peer in replica.commons.others if peer not in silent]

        def tick() -> None:
            self.tick()
            for peer in others:
                self.driver.received(peer, STALE_REPLY)
                self.finish_turn()

        quiet_time(tick, lambda: replica.mastership.core.role, self._scope.nodes)

    def on_beat(self) -> None:
        """Time passes until the next heartbeat."""
        self.tick()
        if self.driver.replica._ticks % 2:
            self.tick()

    def on_wake(self) -> None:
        """The node was stopped and goes on."""
        self.clock.freeze()
        self._time.run(self._time.seconds() + TICK_S + FROZEN_S)
        self.clock.thaw()

    def on_submit(self, number: int) -> None:
        """A client hands in a transaction."""
        submission = self._scope.submissions[number - 1]
        heard = self.driver.submit("recorder", submission.payload, submission.mode, submission.timeout_s)
        heard.addBoth(self._on_answer, submission)

    def _on_answer(self, answer: Committed | Failure, submission: Submission) -> None:
        if isinstance(answer, Committed):
            self.notes.append(Heard((submission.payload,), answer.seq))
        elif answer.check(Aborted, NoQuorum, Overloaded):
            self.notes.append(Heard((submission.payload,), None))

    def on_leave(self, holdable: int) -> None:
        """A change begins on this node."""
        self.driver.absences.begin("freeze", FAR_S, holdable=bool(holdable))

    def on_end(self, change_id: int) -> None:
        """The change is over."""
        self.driver.absences.end(change_id)

    def on_move(self, to: int) -> None:
        """An operator wants another master."""
        moved: Deferred[None] = self.driver.move_master(to)
        moved.addErrback(lambda failure: failure.trap(Unsafe, NoQuorum))

    def local(self) -> Local:
        """The node as the invariants see it."""
        pending = tuple(operation for operation, _ in self.disk.pending)
        facts = facts_of(self.driver.replica, self.disk.durable, pending)
        return Local(self.node_id, (), self.disk.durable, pending, facts)


class Replay:
    """A cluster of drivers to which a trace happens.

    :ivar packets: everything that was ever sent.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.packets: dict[Packet, None] = {}
        self.nodes: dict[int, ReplayNode | None] = dict.fromkeys(scope.node_ids)
        self.durable = {node_id: Durable() for node_id in scope.node_ids}
        self._judge = Judge(scope)
        self._past = Past()

    def locals(self) -> list[Local]:
        """Every node, as the invariants see it."""
        return [
            Local(node_id, None, self.durable[node_id]) if node is None else node.local()
            for node_id, node in self.nodes.items()
        ]

    def do(self, line: Line) -> None:
        """One line of a trace.

        :raises TraceError: it does not fit.
        :raises Violation: an invariant does not hold after it.
        """
        was = self.locals()[line.node_id - 1] if line.node_id in self.nodes else None
        if was is None:
            raise TraceError(f"line {line.number}: there is no node {line.node_id}")
        if line.event[0] == "restart":
            self._restart(line)
        elif line.event[0] == "crash":
            self._crash(line)
        else:
            self._happen(line)
        self._check(was, self.nodes[line.node_id])

    def _restart(self, line: Line) -> None:
        if self.nodes[line.node_id] is not None:
            raise TraceError(f"line {line.number}: node {line.node_id} runs already")
        node = ReplayNode(self.scope, line.node_id, self.durable[line.node_id], self.packets)
        self.nodes[line.node_id] = node
        node.start()
        node.finish_turn()

    def _running(self, line: Line) -> ReplayNode:
        node = self.nodes[line.node_id]
        if node is None:
            raise TraceError(f"line {line.number}: node {line.node_id} is down")
        return node

    def _crash(self, line: Line) -> None:
        node = self._running(line)
        self.durable[line.node_id] = node.disk.crash(keeps=bool(line.event[1]))
        node.driver.halt()
        node.clock.kill()
        self.nodes[line.node_id] = None

    def _happen(self, line: Line) -> None:
        node = self._running(line)
        if line.event[0] == "receives":
            node.driver.received(line.sender, self._message(line))
        else:
            happen: Callable[..., None] | None = getattr(node, f"on_{line.event[0]}", None)
            if happen is None:
                raise TraceError(f"line {line.number}: nothing is called {line.event[0]!r}")
            happen(*line.event[1:])
        node.finish_turn()

    def _message(self, line: Line) -> Message:
        found = [
            packet.message
            for packet in self.packets
            if (packet.sender, packet.to) == (line.sender, line.node_id) and message_text(packet.message) == line.text
        ]
        if not found:
            raise TraceError(f"line {line.number}: node {line.sender} has sent no such message to node {line.node_id}")
        return found[-1]

    def _check(self, was: Local, node: ReplayNode | None) -> None:
        if node is None:
            return
        if node.error:
            raise Violation(f"a node stops: {node.error}")
        notes, now = tuple(node.notes), node.local()
        node.notes.clear()
        self._past = self._judge.alone(self._past, was, now, notes)
        self._judge.together(self._past, was, now, notes, self.locals())


def replay(trace: Trace) -> str:
    """Carry out a trace; what is wrong at its end, empty for nothing.

    :raises TraceError: the trace does not fit what the nodes do.
    """
    world = Replay(trace.scope)
    try:
        for line in trace.lines:
            world.do(line)
    except Violation as violation:
        return str(violation)
    return ""
