"""What a flight and a heartbeat cost, by the number of nodes: messages, bytes and steps, counted in quiet clusters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import attrs

from txvbcast.core.commons import TICK
from txvbcast.core.effects import Effect
from txvbcast.core.inputs import Input, Received, TimerFired
from txvbcast.sim.network import CLUSTER_ID, Conditions
from txvbcast.sim.node import SimNode
from txvbcast.sim.watch import Watcher
from txvbcast.sim.world import World
from txvbcast.wire.codec import encode_frame
from txvbcast.wire.datagram import encode_datagram
from txvbcast.wire.messages import Heartbeat, HeartbeatReply, Message, Mode

#: The sizes of cluster that the table in docs/cluster-size.md is made of.
SIZES = (2, 3, 5, 7, 15, 31, 51, 101)
#: So many flights of a kind are counted, one after the other, each of one transaction of so many bytes.
FLIGHTS, PAYLOAD_BYTES = 4, 128
#: So long, in virtual seconds, until a flight has come to rest; and for so long heartbeats are counted.
REST_S, BEATS_S = 0.5, 2.0
#: Every disk takes as long, and every way nearly: so the master's own disk is the first to have what it orders.
DISK_S, CONDITIONS = (0.001, 0.001), Conditions(delay_min_s=0.0002, delay_max_s=0.0004)
#: Who is master of a fresh cluster, and who coordinates flights elsewhere.
MASTER, OTHER = 1, 2

_BEATS = (Heartbeat, HeartbeatReply)


class Traffic(Watcher):
    """Counts messages, their bytes and the steps of replicas; those of heartbeats apart from all others.

    :ivar messages: by the name of their type; sent, steps: by node; sent_bytes: on the wire, with frames' headers.
    """

    def __init__(self, beats: bool) -> None:
        self.beats = beats
        self.reset()

    def reset(self) -> None:
        """Forget what was."""
        self.messages: Counter[str] = Counter()
        self.sent: Counter[int] = Counter()
        self.sent_bytes: Counter[int] = Counter()
        self.steps: Counter[int] = Counter()

    def on_delivery(self, sender: int, to: int, sent_s: float, message: Message, by_link: bool) -> None:
        """Nothing is lost here, so what comes in is what was sent."""
        if isinstance(message, _BEATS) is self.beats:
            data = encode_frame(message) if by_link else encode_datagram(sender, CLUSTER_ID, message)
            self.messages[type(message).__name__] += 1
            self.sent[sender] += 1
            self.sent_bytes[sender] += len(data)

    def on_step(self, node: SimNode, event: Input, effects: Sequence[Effect]) -> None:
        """A step belongs to heartbeats if they or the ticks that make them lead to it."""
        of_beats = isinstance(event.message, _BEATS) if isinstance(event, Received) else _is_tick(event)
        if of_beats is self.beats:
            self.steps[node.node_id] += 1


def _is_tick(event: Input) -> bool:
    return isinstance(event, TimerFired) and event.key == TICK


@attrs.frozen
class Cost:
    """Of one flight, or of one heartbeat of the master to all; on average.

    :ivar messages: by the name of their type, of all nodes together.
    :ivar sent, sent_bytes, steps: of all nodes together.
    :ivar busiest_sent, busiest_bytes, busiest_steps: of the node that has most of it.
    """

    messages: Mapping[str, float]
    sent: float
    sent_bytes: float
    steps: float
    busiest_sent: float
    busiest_bytes: float
    busiest_steps: float

    @classmethod
    def of(cls, traffic: Traffic, count: int) -> Cost:
        """The traffic of ``count`` flights or beats, for one."""
        counters = (traffic.sent, traffic.sent_bytes, traffic.steps)
        messages = {name: number / count for name, number in sorted(traffic.messages.items())}
        totals = [sum(counter.values()) / count for counter in counters]
        return cls(messages, *totals, *(max(counter.values()) / count for counter in counters))


class QuietCluster:
    """A cluster in which nothing happens but what is counted."""

    def __init__(self, nodes: int, seed: int = 1) -> None:
        self._flights, self._beats = Traffic(beats=False), Traffic(beats=True)
        self.world = World(seed, nodes, CONDITIONS, DISK_S, watchers=(self._flights, self._beats))
        self.world.run_until(self.world.quiet, 30.0, "settled", 0.05)
        self.world.run(self.world.config.heartbeat.interval_s / 5)  # counting begins and ends between two ticks

    def flight(self, mode: Mode, coordinator: int) -> Cost:
        """What a flight of one transaction costs."""
        self._flights.reset()
        for _ in range(FLIGHTS):
            outcome = self.world.submit(coordinator, b"x" * PAYLOAD_BYTES, mode)
            self.world.run(REST_S)
            assert outcome.kind == "committed", outcome
        return Cost.of(self._flights, FLIGHTS)

    def beat(self) -> Cost:
        """What one heartbeat of the master to all others costs, and the ticks of every node in that time."""
        self._beats.reset()
        self.world.run(BEATS_S)
        return Cost.of(self._beats, round(BEATS_S / self.world.config.heartbeat.interval_s))


# --- the formula --------------------------------------------------------------------------


def flight_messages(nodes: int, mode: Mode, coordinator: int) -> dict[str, int]:
    """How many messages of each type a lonely flight leads to, if nothing is lost and nobody is away.

    A node never sends to itself.  That an entry is committed, and that every normal member has it, is told at once
    to those who wait for it, and to all others in a while (:class:`txvbcast.core.ordering.Office`); of two nodes
    both have it when it is committed.
    """
    others = nodes - 1
    messages = {"Order": others, "Stored": others, "Committed": others}
    if mode.voted or coordinator != MASTER:
        messages["Propose"] = others
    if mode.voted:
        messages["Vote"] = others
        messages["Committed"] = others * min(2, others)
    if coordinator != MASTER:
        if mode.voted:
            messages["Decide"] = 1
        if mode is not Mode.TWO_PHASE and nodes > 2:
            messages["Committed"] += 1
    return messages


def beat_messages(nodes: int) -> dict[str, int]:
    """How many messages of each type a heartbeat leads to."""
    return {"Heartbeat": nodes - 1, "HeartbeatReply": nodes - 1}


# --- the table ----------------------------------------------------------------------------

_HEAD = (
    "nodes", "broadcast, via the master", "broadcast, via another", "3pc, via the master", "3pc, via another",
    "heartbeat",
)  # fmt: skip


def table(sizes: Sequence[int]) -> Iterator[str]:
    """A line a size, as a table of Markdown: messages / kilobytes / steps, of all nodes together."""
    yield f"| {' | '.join(_HEAD)} |"
    yield f"|{' --- |' * len(_HEAD)}"
    for nodes in sizes:
        cluster = QuietCluster(nodes)
        costs = [
            cluster.flight(mode, node_id) for mode in (Mode.BROADCAST, Mode.THREE_PHASE) for node_id in (MASTER, OTHER)
        ]
        costs.append(cluster.beat())
        cells = (f"{cost.sent:.0f} / {cost.sent_bytes / 1000:.1f} / {cost.steps:.0f}" for cost in costs)
        yield f"| {nodes} | {' | '.join(cells)} |"
