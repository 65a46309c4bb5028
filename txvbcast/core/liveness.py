"""Who was heard when, per-member patience, and a node's own lateness.

A node whose tick comes late was stopped itself, or starved: it then starts to listen anew before
it accuses anybody, and while its ticks are often late it is more patient with others.  No safety
rests on anything here.
"""

from __future__ import annotations

from math import inf

import attrs

from txvbcast.config import HeartbeatConfig

#: Ticks per heartbeat interval: all deadlines are looked at this often.
TICKS_PER_HEARTBEAT = 2
#: A tick that is late by more than this many heartbeats means that the node was stopped.
STOPPED_AFTER_HEARTBEATS = 2
#: How much of the remembered lateness is left after each punctual tick.
LATENESS_DECAY = 0.95


@attrs.define(eq=False)
class Liveness:
    """Signs of life and lateness of one node.

    :ivar heard_s: per peer, when it was last heard.
    :ivar stretch_s: what own poor scheduling adds to every timeout for others.
    :ivar stopped_after_s: without a tick until then this node was stopped.
    """

    heartbeat: HeartbeatConfig
    heard_s: dict[int, float] = attrs.field(factory=dict)
    stretch_s: float = 0.0
    stopped_after_s: float = inf
    _expected_s: float = inf

    @property
    def tick_s(self) -> float:
        """The time between two ticks."""
        return self.heartbeat.interval_s / TICKS_PER_HEARTBEAT

    def begin(self, now_s: float, peers: tuple[int, ...]) -> None:
        """Start (again) to listen: nobody's silence so far counts."""
        self.heard_s = dict.fromkeys(peers, now_s)

    def on_tick(self, now_s: float) -> float:
        """Take note of a tick; how late it came, in seconds, if that means "stopped", else 0."""
        late_s, was_stopped = max(0.0, now_s - self._expected_s), now_s > self.stopped_after_s
        self._expected_s = now_s + self.tick_s
        self.stopped_after_s = self._expected_s + STOPPED_AFTER_HEARTBEATS * self.heartbeat.interval_s
        if was_stopped:
            self.begin(now_s, tuple(self.heard_s))
            return late_s
        self.stretch_s = max(late_s, self.stretch_s * LATENESS_DECAY)
        return 0.0

    def on_heard(self, peer: int, now_s: float) -> None:
        """Any frame or datagram of a peer counts as life."""
        self.heard_s[peer] = now_s

    def silence_s(self, peer: int, now_s: float) -> float:
        """For how long a peer has not been heard."""
        return now_s - self.heard_s.get(peer, now_s)

    @property
    def timeout_s(self) -> float:
        """Silence that makes a member without an announcement failed."""
        return self.heartbeat.timeout_s + self.stretch_s
