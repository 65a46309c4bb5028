"""What is kept of a run: a tally that costs next to nothing, and a trace for people to look at."""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence

import attrs

from txvbcast.core import epochs
from txvbcast.core.effects import Effect, Notify, Send, SendDatagram
from txvbcast.core.inputs import Input
from txvbcast.sim.node import SimNode
from txvbcast.sim.watch import Watcher
from txvbcast.sim.wording import entry_text, message_text
from txvbcast.sim.world import Outcome, Read
from txvbcast.wire.messages import Entry, Heartbeat, HeartbeatReply, Message

#: Events that tell of a member's standing.
STANDINGS = ("node_normal", "node_inactive", "node_catching_up", "node_failed")
#: So many messages, and so many other events, are kept: the latest.
KEPT_MAX = 100_000

_HEARTBEATS = (Heartbeat, HeartbeatReply)


class Tally(Watcher):
    """Counts what happened in a run.

    :ivar faults: how often each kind of fault began.
    """

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()

    def on_fault(self, what: str) -> None:
        """Count it by the word that it begins with."""
        self.faults[what.split()[0]] += 1

    @property
    def outcomes(self) -> Counter[str]:
        """Transactions by what their clients heard."""
        return Counter(outcome.kind for outcome in self.world.outcomes)

    @property
    def standings(self) -> Counter[str]:
        """How often some node saw another, or itself, enter a standing."""
        kinds = (event["kind"] for _, _, event in self.world.events)
        return Counter(str(kind) for kind in kinds if kind in STANDINGS)

    @property
    def epochs(self) -> int:
        """How many epochs had a master that somebody followed."""
        return len({event["epoch"] for _, _, event in self.world.events if event["kind"] == "master_changed"})


@attrs.define(eq=False)
class Passage:
    """A message on its way.

    :ivar received_s: None if it has not arrived; order: of its latest end among all that is kept.
    """

    order: int
    sender: int
    to: int
    sent_s: float
    message: Message
    by_link: bool
    received_s: float | None = None


@attrs.frozen
class Happening:
    """Something that happened at a node, or to the world (``node_id`` 0).

    :ivar kind: fault, cut, life, death, frozen, thawed, applied, submitted, answered, read, or the kind of a
        :class:`~txvbcast.core.effects.Notify`.
    :ivar about: whom a notice is about, 0 where it is about nobody.
    :ivar label: a word for it: the seq that is applied, what a client hears.
    """

    order: int
    at_s: float
    node_id: int
    kind: str
    text: str
    about: int = 0
    label: str = ""


@attrs.frozen
class Phase:
    """How a node is, from ``at_s`` on.

    :ivar life: its incarnation, 0 while it does not run; own, role: of its machines.
    :ivar epoch: that of the log that it follows.
    """

    at_s: float
    life: int
    frozen: bool
    own: str
    role: str
    epoch: int


class Trace(Watcher):
    """Keeps what happened from ``from_s`` to ``to_s``, the latest of it if that is too much.

    :param heartbeats: keep those, too.
    :ivar passages, happenings: in the order in which they began; phases: per node.
    :ivar cuts: since when which directed pairs are cut.
    """

    def __init__(self, from_s: float = 0.0, to_s: float = math.inf, heartbeats: bool = False) -> None:
        self.from_s = from_s
        self.to_s = to_s
        self.heartbeats = heartbeats
        self.passages: deque[Passage] = deque()
        self.happenings: deque[Happening] = deque(maxlen=KEPT_MAX)
        self.phases: dict[int, deque[Phase]] = {}
        self.cuts: deque[tuple[float, frozenset[tuple[int, int]]]] = deque([(0.0, frozenset())], maxlen=KEPT_MAX)
        self._under_way: dict[tuple[int, int, float, bool, Message], list[Passage]] = {}
        self._order = itertools.count()

    def lines(self, count: int) -> list[str]:
        """The last ``count`` events: time, node, what; without heartbeats."""
        passages = (each for each in self.passages if not isinstance(each.message, _HEARTBEATS))
        events: list[Happening | Passage] = [*self.happenings, *passages]
        events.sort(key=lambda event: event.order)
        return [self._line(event) for event in events[max(0, len(events) - count) :]]

    def _line(self, event: Happening | Passage) -> str:
        if isinstance(event, Happening):
            at_s, node_id, text = event.at_s, event.node_id, event.text
        elif event.received_s is not None:
            at_s, node_id, text = event.received_s, event.to, f"<- {event.sender} {message_text(event.message)}"
        else:
            fate = "lost" if self.lost(event) else "has not arrived"
            text = f"-> {event.to} ({fate}) {message_text(event.message)}"
            at_s, node_id = event.sent_s, event.sender
        return f"{at_s:12.6f}  {node_id or '-'}  {text}"

    # --- hooks --------------------------------------------------------------------------

    def on_life(self, node: SimNode) -> None:
        """A process begins."""
        self._happen(node.node_id, "life", f"begins its life {node.incarnation}")

    def on_freeze(self, node: SimNode) -> None:
        """A process is stopped."""
        self._happen(node.node_id, "frozen", "is stopped")
        self._look_at(node)

    def on_thaw(self, node: SimNode) -> None:
        """A process goes on."""
        self._happen(node.node_id, "thawed", "goes on")
        self._look_at(node)

    def on_death(self, node: SimNode) -> None:
        """A process was killed."""
        self._happen(node.node_id, "death", "is killed")
        self._look_at(node)

    def on_step(self, node: SimNode, event: Input, effects: Sequence[Effect]) -> None:
        """Keep what it sends and what it tells."""
        self._look_at(node)
        self._look_at_network()
        for effect in effects:
            if isinstance(effect, (Send, SendDatagram)):
                self._send(node.node_id, effect.to, effect.message, isinstance(effect, Send))
            elif isinstance(effect, Notify):
                self._tell(node.node_id, effect)

    def on_delivery(self, sender: int, to: int, sent_s: float, message: Message, by_link: bool) -> None:
        """A message has arrived, for the first time or as a copy."""
        if not self._wanted(message):
            return
        waiting = self._under_way.get((sender, to, sent_s, by_link, message))
        if waiting:
            passage = waiting.pop(0)  # also if the window has ended meanwhile
        elif self._open:
            passage = self._keep(sender, to, sent_s, message, by_link)
        else:
            return
        passage.received_s = self.world.clock.seconds()
        passage.order = next(self._order)

    def on_apply(self, node: SimNode, entry: Entry, dead: bool) -> None:
        """A committed entry takes effect."""
        text = f"applies {entry_text(entry)}{', which is dead' if dead else ''}"
        self._happen(node.node_id, "applied", text, label=str(entry.seq))

    def on_submitted(self, outcome: Outcome) -> None:
        """A client hands something in."""
        text = f"a client hands in {outcome.payload.decode(errors='replace')} ({outcome.mode.value})"
        self._happen(outcome.node_id, "submitted", text)

    def on_answer(self, outcome: Outcome) -> None:
        """A client hears what became of it."""
        text = f"the client of {outcome.payload.decode(errors='replace')} hears {outcome.kind}"
        self._happen(outcome.node_id, "answered", text, label=outcome.kind)

    def on_read(self, read: Read) -> None:
        """A client's read is over."""
        found = "fails" if read.failed else f"finds {read.value!r} at {read.seq}"
        self._happen(
            read.node_id, "read", f"a read of {read.key!r} {found}", label="failed" if read.failed else "served"
        )

    def on_fault(self, what: str) -> None:
        """Something is done to the world."""
        self._happen(0, "fault", what)

    def lost(self, passage: Passage) -> bool:
        """Whether a message can never arrive, as far as is known when the run has ended."""
        if passage.received_s is not None:
            return False
        network, way = self.world.network, (passage.sender, passage.to)
        cut = next((cut for since_s, cut in reversed(self.cuts) if since_s <= passage.sent_s), frozenset())
        latest_s = passage.sent_s + network.conditions.delay_max_s + network.slow_s.get(way, 0.0)
        if not passage.by_link:
            latest_s += network.conditions.late_s
        due = max(latest_s, network.clogged.get(way, 0.0)) < self.world.clock.seconds()
        return way in cut or (due and self.world.nodes[passage.to].able)

    # --- keeping ---------------------------------------------------------------------------

    @property
    def _open(self) -> bool:
        return self.from_s <= self.world.clock.seconds() <= self.to_s

    def _wanted(self, message: Message) -> bool:
        return self.heartbeats or not isinstance(message, _HEARTBEATS)

    def _happen(self, node_id: int, kind: str, text: str, about: int = 0, label: str = "") -> None:
        if self._open:
            now_s = self.world.clock.seconds()
            self.happenings.append(Happening(next(self._order), now_s, node_id, kind, text, about, label))

    def _tell(self, node_id: int, notice: Notify) -> None:
        facts, reason = notice.facts, notice.reason
        about = notice.node_id
        if notice.kind in STANDINGS:
            subject = "itself" if about == node_id else f"node {about}"
            text = f"sees {subject} {notice.kind.removeprefix('node_')}: {reason}"
        elif notice.kind == "master_changed":
            text = f"follows node {about}, {reason}"
        elif "role" in facts:
            text = f"is {facts['role']}, promised {epochs.text(int(str(facts['epoch'])))}: {reason}"
        elif "suspect" in facts:
            text = f"suspects node {about}: {reason}"
        elif "state" in facts:
            text = f"becomes {facts['state']}: {reason}"
        else:
            text = f"{notice.kind.replace('_', ' ')}: {reason}"
        self._happen(node_id, notice.kind, text, about)

    def _send(self, sender: int, to: int, message: Message, by_link: bool) -> None:
        if self._open and self._wanted(message):
            passage = self._keep(sender, to, self.world.clock.seconds(), message, by_link)
            self._under_way.setdefault(self._key(passage), []).append(passage)

    def _keep(self, sender: int, to: int, sent_s: float, message: Message, by_link: bool) -> Passage:
        passage = Passage(next(self._order), sender, to, sent_s, message, by_link)
        self.passages.append(passage)
        if len(self.passages) > KEPT_MAX:
            self._under_way.pop(self._key(self.passages.popleft()), None)
        return passage

    @staticmethod
    def _key(passage: Passage) -> tuple[int, int, float, bool, Message]:
        return passage.sender, passage.to, passage.sent_s, passage.by_link, passage.message

    def _look_at(self, node: SimNode) -> None:
        """Note how a node is, if that has changed."""
        now_s = self.world.clock.seconds()
        if now_s > self.to_s:
            return
        replica = node.driver.replica
        life = node.incarnation if node.running else 0
        role = replica.mastership.core.role
        phase = Phase(now_s, life, node.frozen, replica.own.state, role, replica.journal.log_epoch)
        phases = self.phases.setdefault(node.node_id, deque(maxlen=KEPT_MAX))
        if phases and attrs.evolve(phases[-1], at_s=now_s) == phase:
            return
        if now_s < self.from_s:
            phases.clear()
        phases.append(phase)

    def _look_at_network(self) -> None:
        now_s, cut = self.world.clock.seconds(), self.world.network.cut
        if now_s <= self.to_s and self.cuts[-1][1] != cut:
            if now_s < self.from_s:
                self.cuts.clear()
            self.cuts.append((now_s, frozenset(cut)))
            self._happen(0, "cut", cut_text(cut, list(self.world.nodes)))


def cut_text(cut: set[tuple[int, int]], nodes: Sequence[int]) -> str:
    """Which nodes do not hear each other, in words."""
    if not cut:
        return "every node can reach every other"
    sides = list(_sides(cut, nodes))
    across = {(one, other) for one in nodes for other in nodes if not any({one, other} <= side for side in sides)}
    if len(sides) > 1 and across == cut:
        return "parted: " + " | ".join(", ".join(map(str, sorted(side))) for side in sides)
    senders = sorted({sender for sender, _ in cut})
    return "cut: " + "; ".join(
        f"{sender} to {', '.join(str(to) for from_, to in sorted(cut) if from_ == sender)}" for sender in senders
    )


def _sides(cut: set[tuple[int, int]], nodes: Sequence[int]) -> Iterator[set[int]]:
    """The sets of nodes that reach each other, over others if need be, in both directions."""
    left = set(nodes)
    while left:
        side, new = set[int](), {min(left)}
        while new:
            side |= new
            new = {other for other in left - side if any(not {(one, other), (other, one)} & cut for one in side)}
        left -= side
        yield side
