"""What one node can do: local states, what happens to a node, and what comes of it.

A node's behaviour depends on nothing but its own state and what happens to it.  So the
production :class:`~txvbcast.core.replica.Replica` runs once for each (state, event) that
the search meets, and the outcome is remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Union

import attrs

from txvbcast.core import effects, inputs
from txvbcast.core.commons import TICK, TURN
from txvbcast.core.effects import Persist, ReadLog, Share
from txvbcast.core.inputs import Input, StoredState
from txvbcast.core.replica import Replica
from txvbcast.sim.explore.scopes import Scope
from txvbcast.sim.explore.snapshot import FAR_S, TICK_S, TIMEOUT_S, Mould, Shelf, renumber
from txvbcast.wire.items import Transaction, pack, unpack
from txvbcast.wire.messages import Entry, Flight, HeartbeatReply, Message, Refusal, Standing

#: A frozen node wakes this much later than its next tick was due: all links are opened anew.
FROZEN_S = 4 * TIMEOUT_S
#: A sign of life that says nothing else: a copy of an answer to a master of long ago.
STALE_REPLY = HeartbeatReply(
    epoch=1, beat=0, log_epoch=0, stored=0, applied=0, standing=Standing.NORMAL, incarnation=1, disk_id="stale"
)


@attrs.frozen
class Durable:
    """What a node's disk holds."""

    incarnation: int = 0
    promised_epoch: int = 0
    log_epoch: int = 0
    committed: int = 0
    entries: tuple[Entry, ...] = ()

    def after(self, write: Persist) -> Durable:
        """The disk with ``write`` on it."""
        kept = self.entries if write.truncate_from is None else self.entries[: write.truncate_from - 1]
        numbers = {
            name: value
            for name in ("promised_epoch", "log_epoch", "committed")
            if (value := getattr(write, name)) is not None
        }
        return attrs.evolve(self, entries=kept + write.entries, **numbers)


@attrs.frozen
class Facts:
    """What the invariants want to know of a running node, without looking into its state.

    :ivar office: the epoch of its office, 0 while it has none.
    :ivar opened: a majority holds the log of that office.
    :ivar log: all entries that it has, durable or not.
    """

    state: str
    role: str
    office: int
    opened: bool
    promised: int
    log_epoch: int
    committed: int
    applied: int
    voters: tuple[int, ...]
    open_standings: tuple[int, ...]
    log: tuple[Entry, ...]
    changes: tuple[int, ...]


@attrs.frozen
class Local:
    """A node at one moment; ``state`` and ``facts`` are None while it is down.

    :ivar pending: what its disk was asked for and has not answered.
    """

    node_id: int
    state: tuple[Any, ...] | None
    durable: Durable
    pending: tuple[Persist | ReadLog, ...] = ()
    facts: Facts | None = attrs.field(default=None, eq=False)


@attrs.frozen
class Packet:
    """A message on its way."""

    sender: int
    to: int
    message: Message


@attrs.frozen
class Applied:
    """The node has performed an entry."""

    entry: Entry
    dead: bool


@attrs.frozen
class Heard:
    """Clients have heard committed, or aborted (``seq`` None), of these payloads."""

    payloads: tuple[bytes, ...]
    seq: int | None


Note = Union[Applied, Heard]

#: What can happen to a node, besides a packet: (what, its details).
Event = tuple[Any, ...]


@attrs.frozen(eq=False)
class Outcome:
    """What comes of an event at a node.

    :ivar to: the number of the state afterwards.
    :ivar sends: numbers of packets; prompt: of those that arrive at once.
    :ivar notes: what the invariants have to hear of; notable: whether they have to look at all.
    :ivar resets: the node wants its links opened anew.
    :ivar error: what was raised, empty for nothing.
    """

    to: int
    sends: tuple[int, ...]
    notes: tuple[Note, ...]
    notable: bool
    prompt: tuple[int, ...] = ()
    resets: bool = False
    error: str = ""

    @property
    def complex(self) -> bool:
        """Whether more comes of it than a new state and packets under way."""
        return self.notable or self.resets or bool(self.prompt)


def quiet_time(tick: Callable[[], None], role: Callable[[], str], nodes: int) -> int:
    """Ticks without input until the node does something about it, or every timeout has passed.

    :returns: how many.
    """
    before = role()
    ticks_max = int(TIMEOUT_S / TICK_S) + 2 * nodes + 2
    for ticks in range(1, ticks_max + 1):
        tick()
        if role() != before:
            return ticks
    return ticks_max


class Step:
    """One event at one node, carried out as the driver does: effects in order, then what gathered in the turn."""

    def __init__(self, scope: Scope, replica: Replica, durable: Durable, pending: tuple[Persist | ReadLog, ...]):
        self.scope = scope
        self.replica = replica
        self.durable = durable
        self.pending = list(pending)
        self.now_s = 0.0
        self.sends: list[tuple[int, Message]] = []
        self.notes: list[Note] = []
        self.resets = False
        self._inputs: deque[Input] = deque()
        self._turn = False
        self._payloads = {number: each.payload for number, each in enumerate(scope.submissions, 1)}
        self._carriers: dict[type, Callable[[Any], None]] = {
            effects.Persist: self._persist,
            effects.ReadLog: self._persist,
            effects.Send: lambda effect: self.sends.append((effect.to, effect.message)),
            effects.SendDatagram: lambda effect: self.sends.append((effect.to, effect.message)),
            effects.SetTimer: self._set_timer,
            effects.Prepare: self._prepare,
            effects.Apply: lambda effect: self.notes.append(Applied(effect.entry, effect.dead)),
            effects.ReplyCommitted: lambda effect: self._hear(effect.shares, effect.seq),
            effects.ReplyAborted: lambda effect: self._hear(effect.shares, None),
            effects.ReplyOverloaded: lambda effect: self._hear(effect.shares, None),
            effects.ResetLinks: self._reset_links,
        }

    def do(self, event: Input) -> None:
        """One input, and whatever it leads to."""
        self._inputs.append(event)
        self._run()

    def _run(self) -> None:
        while self._inputs or self._turn:
            if not self._inputs:
                self._turn = False
                self._inputs.append(inputs.TimerFired(TURN))
            for effect in self.replica.step(self.now_s, self._inputs.popleft()):
                carrier = self._carriers.get(type(effect))
                if carrier is not None:
                    carrier(effect)
            if not self.scope.lazy_disk:
                self._answer_all()

    def tick(self, late_s: float = 0.0) -> None:
        """The next tick comes."""
        self.now_s += TICK_S + late_s
        self.do(inputs.TimerFired(TICK))

    def sync(self) -> None:
        """The disk answers everything that it was asked for so far."""
        self._answer_all()
        self._run()

    def _answer_all(self) -> None:
        asked, self.pending = self.pending, []
        for operation in asked:
            if isinstance(operation, Persist):
                self.durable = self.durable.after(operation)
                self._inputs.append(inputs.Persisted(operation.token))
            else:
                found = self.durable.entries[operation.first - 1 : operation.last]
                self._inputs.append(inputs.LogRead(operation.token, found))

    def _persist(self, effect: Persist | ReadLog) -> None:
        self.pending.append(effect)

    def _set_timer(self, effect: effects.SetTimer) -> None:
        self._turn = self._turn or effect.key == TURN

    def _prepare(self, effect: effects.Prepare) -> None:
        self._inputs.append(inputs.Prepared(effect.flight.id, self._refusals(effect.flight)))

    def _refusals(self, flight: Flight) -> tuple[Refusal, ...]:
        me = self.replica.commons.me
        refused = {each.payload for each in self.scope.submissions if me in each.refused_by}
        return tuple(Refusal(place, "no") for place, item in enumerate(flight.items) if unpack(item).payload in refused)

    def _hear(self, shares: tuple[Share, ...], seq: int | None) -> None:
        payloads = tuple(self._payloads[share.ticket] for share in shares)
        if payloads:
            self.notes.append(Heard(payloads, seq))

    def _reset_links(self, effect: effects.ResetLinks) -> None:
        self.resets = True


class Locals:
    """All local states and packets met so far, by number, and what leads from one to another."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.states: list[Local] = []
        self.packets: list[Packet] = []
        self.steps = 0
        self.settled = False
        self._numbers: dict[Local, int] = {}
        self._packet_numbers: dict[Packet, int] = {}
        self._outcomes: dict[tuple[int, Event | int], Outcome] = {}
        self._shelves = {node_id: Shelf() for node_id in scope.node_ids}
        self._moulds = {node_id: self._mould(node_id) for node_id in scope.node_ids}

    def _mould(self, node_id: int) -> Mould:
        return Mould(self._replica(node_id, Durable(incarnation=1)), self._shelves[node_id])

    def _replica(self, node_id: int, durable: Durable) -> Replica:
        stored = StoredState(
            incarnation=durable.incarnation,
            disk_id=f"disk-{node_id}",
            promised_epoch=durable.promised_epoch,
            log_epoch=durable.log_epoch,
            committed=durable.committed,
            last_seq=len(durable.entries),
        )
        return Replica(self.scope.config(node_id), stored)

    def down(self, node_id: int) -> int:
        """The number of a node that was never started."""
        return self._number(Local(node_id, None, Durable()))

    def _number(self, local: Local) -> int:
        number = self._numbers.get(local)
        if number is None:
            number = self._numbers[local] = len(self.states)
            self.states.append(local)
        return number

    def packet(self, packet: Packet) -> int:
        """The number of a packet."""
        number = self._packet_numbers.get(packet)
        if number is None:
            number = self._packet_numbers[packet] = len(self.packets)
            self.packets.append(packet)
        return number

    def begin(self, settled: bool) -> None:
        """Once the cluster is ``settled`` messages are lost, or prompt, as the scope says; before, none is."""
        self.settled = settled
        self._outcomes.clear()

    # --- what happens ----------------------------------------------------------------------

    def outcome(self, number: int, event: Event | int) -> Outcome:
        """What comes of an event (or of a packet, by its number) in the local state ``number``."""
        key = (number, event)
        outcome = self._outcomes.get(key)
        if outcome is None:
            outcome = self._outcomes[key] = self._happen(self.states[number], event)
        return outcome

    def _happen(self, local: Local, event: Event | int) -> Outcome:
        self.steps += 1
        if event == ("restart",):
            return self._restart(local)
        if isinstance(event, tuple) and event[0] == "crash":
            return self._crash(local, keeps=bool(event[1]))
        mould = self._moulds[local.node_id]
        assert local.state is not None
        mould.set(local.state)
        step = Step(self.scope, mould.replica, local.durable, local.pending)
        return self._carry_out(local, step, mould, lambda: self._do(step, event))

    def _crash(self, local: Local, keeps: bool) -> Outcome:
        durable = local.durable
        for operation in local.pending if keeps else ():
            if isinstance(operation, Persist):
                durable = durable.after(operation)
        return Outcome(self._number(Local(local.node_id, None, durable)), (), (), notable=False)

    def _restart(self, local: Local) -> Outcome:
        durable = attrs.evolve(local.durable, incarnation=local.durable.incarnation + 1)
        replica = self._replica(local.node_id, durable)
        step = Step(self.scope, replica, durable, ())

        def start() -> None:
            step.do(inputs.Restored(durable.entries, last=False))
            step.do(inputs.Restored((), last=True))

        return self._carry_out(local, step, Mould(replica, self._shelves[local.node_id]), start)

    def _carry_out(self, before: Local, step: Step, mould: Mould, what: Callable[[], None]) -> Outcome:
        try:
            what()
        except Exception as error:  # noqa: BLE001
            # As in the driver: whatever the core raises stops the node, and here the search.
            return Outcome(0, (), (), notable=True, error=f"{type(error).__name__}: {error}")
        pending = renumber(step.replica, tuple(step.pending))
        local = Local(
            before.node_id, mould.read(), step.durable, pending, facts_of(step.replica, step.durable, pending)
        )
        sends, prompt = self._sort(before.node_id, step.sends)
        notable = bool(step.notes) or _differ(before.facts, local.facts)
        return Outcome(self._number(local), sends, tuple(step.notes), notable, prompt, step.resets)

    def _sort(self, sender: int, sends: list[tuple[int, Message]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What will be under way, and what arrives at once; each packet once, the rest is lost."""
        kept: dict[int, None] = {}
        prompt: dict[int, None] = {}
        for to, message in sends:
            if self.settled and (type(message) in self.scope.lost or (sender, to) in self.scope.cut):
                continue
            arrives_at_once = self.settled and type(message) in self.scope.prompt
            (prompt if arrives_at_once else kept)[self.packet(Packet(sender, to, message))] = None
        return tuple(kept), tuple(prompt)

    def _do(self, step: Step, event: Event | int) -> None:
        if isinstance(event, int):
            packet = self.packets[event]
            step.do(inputs.Received(packet.sender, packet.message))
        else:
            _EVENTS[event[0]](step, *event[1:])


def facts_of(replica: Replica, durable: Durable, pending: tuple[Persist | ReadLog, ...]) -> Facts:
    """What the invariants want to know of a running node."""
    journal, office = replica.journal, replica.office
    for operation in pending:
        if isinstance(operation, Persist):
            durable = durable.after(operation)
    return Facts(
        state=replica.own.state,
        role=replica.mastership.core.role,
        office=office.epoch if office is not None else 0,
        opened=office is not None and office.opened,
        promised=journal.promised,
        log_epoch=journal.log_epoch,
        committed=journal.committed,
        applied=journal.applied,
        voters=journal.table.voters,
        open_standings=tuple(entry.standing.node_id for entry in journal.open_standings if entry.standing),
        log=durable.entries,
        changes=tuple(replica.changes.under_way),
    )


def _differ(before: Facts | None, after: Facts | None) -> bool:
    """Whether anything changed that an invariant speaks of."""
    if before is None or after is None:
        return True
    return (
        before.office != after.office
        or before.promised != after.promised
        or before.log_epoch != after.log_epoch
        or before.committed != after.committed
        or before.log != after.log
    )


# --- events, by name ------------------------------------------------------------------------


def _sync(step: Step) -> None:
    step.sync()


def _up(step: Step, peer: int, incarnation: int) -> None:
    step.do(inputs.PeerUp(peer, incarnation, f"disk-{peer}"))


def _down(step: Step, peer: int) -> None:
    step.do(inputs.PeerDown(peer, "the connection ended"))


def _silence(step: Step, *silent: int) -> None:
    others = [peer for peer in step.replica.commons.others if peer not in silent]

    def tick() -> None:
        step.tick()
        for peer in others:
            step.do(inputs.Received(peer, STALE_REPLY))

    quiet_time(tick, lambda: step.replica.mastership.core.role, step.scope.nodes)


def _beat(step: Step) -> None:
    step.tick()
    if step.replica._ticks % 2:
        step.tick()


def _wake(step: Step) -> None:
    step.tick(late_s=FROZEN_S)


def _submit(step: Step, number: int) -> None:
    submission = step.scope.submissions[number - 1]
    item = pack(Transaction("recorder", submission.payload))
    step.do(inputs.Submitted(number, submission.mode, (item,), submission.timeout_s))


def _leave(step: Step, holdable: int) -> None:
    step.do(inputs.ChangeBegan(1, "freeze", FAR_S, {}, bool(holdable), "operator"))


def _end(step: Step, change_id: int) -> None:
    step.do(inputs.ChangeEnded(change_id, "done"))


def _move(step: Step, to: int) -> None:
    step.do(inputs.MasterMoveRequested(1, to))


_EVENTS: dict[str, Callable[..., None]] = {
    "sync": _sync,
    "up": _up,
    "down": _down,
    "silence": _silence,
    "beat": _beat,
    "wake": _wake,
    "submit": _submit,
    "leave": _leave,
    "end": _end,
    "move": _move,
}
