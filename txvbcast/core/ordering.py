"""A master's office: ORDER, STORED, ``committed`` and ``everywhere``.

An office lasts one epoch; nothing in it is carried over to the next.
"""

from __future__ import annotations

from collections import deque

import attrs

from txvbcast.core.commons import Commons
from txvbcast.core.journal import Journal
from txvbcast.core.signals import Advanced
from txvbcast.core.table import is_quorum, majority_watermark
from txvbcast.wire import messages
from txvbcast.wire.messages import Entry, Flight, Mode, Order, StandingEntry, Start

#: Stands for the id of every member.
EVERYBODY = 0


@attrs.define(eq=False)
class Office:
    """What the master of ``epoch`` knows and does.

    :ivar start_last: the last seq of the log that the epoch started with.
    :ivar stored: per member the seq up to which it has the log of this epoch on disk.
    :ivar opened: a majority of the voters has the log that the epoch started with.
    :ivar paused: why flights are not ordered at the moment, empty when they are.
    :ivar sticky: an operator chose this master, so it does not hand back by itself.
    :ivar at_commit, at_everywhere: who waits to hear that this seq is committed, or held everywhere: a member, or
        EVERYBODY. The others hear it with the next order, or in a while.
    :ivar hastened: who is to hear what there is at the end of this turn.
    """

    commons: Commons
    journal: Journal
    epoch: int
    start_last: int
    sticky: bool = False
    opened: bool = False
    paused: str = ""
    everywhere: int = 0
    stored: dict[int, int] = attrs.field(factory=dict)
    told_committed: int = 0
    told_everywhere: int = 0
    at_commit: deque[tuple[int, int]] = attrs.field(factory=deque)
    at_everywhere: deque[tuple[int, int]] = attrs.field(factory=deque)
    hastened: set[int] = attrs.field(factory=set)

    def start_message(self) -> Start:
        """The log that the others must adopt."""
        base, runs = self.journal.runs()
        return Start(self.epoch, base, runs, self.journal.tail)

    def open(self) -> None:
        """A majority has the log that the epoch started with: whoever waits for something in it hears of it."""
        self.opened = True
        self.at_everywhere.appendleft((self.start_last, EVERYBODY))
        self.hasten(EVERYBODY)

    # --- ordering ------------------------------------------------------------------

    def order_flight(self, flight: Flight, accepted: tuple[int, ...] | None) -> None:
        """Give the flight the next place of the log and tell everybody."""
        entry = Entry(self.journal.tail + 1, self.epoch, flight=accepted_part(flight, accepted))
        # Nobody votes on what comes before having applied it; in broadcast only the coordinator's clients wait.
        if flight.mode.voted:
            self.at_commit.append((entry.seq, EVERYBODY))
        elif flight.id.origin != self.commons.me:
            self.at_commit.append((entry.seq, flight.id.origin))
        if flight.mode is Mode.THREE_PHASE:
            self.at_everywhere.append((entry.seq, flight.id.origin))
        watermarks = self._watermarks()
        if flight.id.origin == self.commons.me and not flight.mode.voted:
            order = Order(self.epoch, entry.seq, *watermarks, proposal=flight)
        else:
            order = Order(self.epoch, entry.seq, *watermarks, flight=flight.id, accepted=accepted)
        self._order(entry, order)

    def order_standing(self, standing: StandingEntry) -> None:
        """Put a change of a member's standing in the log and tell everybody."""
        entry = Entry(self.journal.tail + 1, self.epoch, standing=standing)
        self.at_commit.append((entry.seq, EVERYBODY))
        self._order(entry, Order(self.epoch, entry.seq, *self._watermarks(), standing=standing))

    def _order(self, entry: Entry, order: Order) -> None:
        self.journal.append((entry,))
        self.commons.send_others(order)

    def _watermarks(self) -> tuple[int, int]:
        self.told_committed, self.told_everywhere = self.journal.committed, self.everywhere
        return self.told_committed, self.told_everywhere

    # --- counting ------------------------------------------------------------------

    def on_stored(self, node_id: int, seq: int) -> None:
        """A member (or this node's own disk) has the log of this epoch up to ``seq``."""
        if seq > self.journal.tail or seq <= self.stored.get(node_id, -1):
            return
        self.stored[node_id] = seq
        self.count()

    def count(self) -> None:
        """Work out ``committed`` and ``everywhere`` anew."""
        reached = majority_watermark(self.journal.table.voters, self.stored)
        # Before a majority has all of the log that the epoch started with, a prefix of it
        # held by a majority may still be overtaken: nothing below start_last counts.
        rose = reached >= self.start_last and self.journal.commit(reached)
        everywhere = self._held_everywhere()
        if everywhere > self.everywhere:
            self.everywhere = everywhere
            rose = True
        if rose:
            self.commons.signal(Advanced())
            if self._is_awaited():
                self.commons.need_turn()

    def _is_awaited(self) -> bool:
        """Whether somebody who is not told yet waits for what is committed, or held everywhere, by now."""
        return any(waiting and waiting[0][0] <= reached for waiting, reached in self._awaited())

    def _awaited(self) -> tuple[tuple[deque[tuple[int, int]], int], ...]:
        return (self.at_commit, self.journal.committed), (self.at_everywhere, self.everywhere)

    def has_majority(self) -> bool:
        """Whether a majority of the voters has the log that the epoch started with."""
        holders = (node_id for node_id, seq in self.stored.items() if seq >= self.start_last)
        return is_quorum(self.journal.table.voters, holders)

    def _held_everywhere(self) -> int:
        # A member leaves the count when its STANDING commits and enters it with its
        # STANDING(normal) in the log: so it counts while either table has it normal.
        table, committed_table = self.journal.table, self.journal.committed_table
        normal = table.normal if table is committed_table else table.normal | committed_table.normal
        lowest = min((self.stored.get(node_id, 0) for node_id in normal), default=0)
        return min(lowest, self.journal.committed)

    # --- telling -------------------------------------------------------------------

    def hasten(self, node_id: int) -> None:
        """Let a member, or EVERYBODY, hear at the end of the turn what is committed by then."""
        self.hastened.add(node_id)
        self.commons.need_turn()

    def tell_whom_it_concerns(self) -> None:
        """Send COMMITTED to those who wait for it."""
        whom, self.hastened = self.hastened, set()
        for waiting, reached in self._awaited():
            while waiting and waiting[0][0] <= reached:
                whom.add(waiting.popleft()[1])
        if EVERYBODY in whom or whom.issuperset(self.commons.others):
            self.tell_everybody()
        elif self._has_news():
            for node_id in sorted(whom - {self.commons.me}):
                self.commons.send(node_id, self._committed())

    def tell_everybody(self) -> None:
        """Send COMMITTED unless an ORDER has carried the same news already."""
        if self._has_news():
            self.commons.send_others(self._committed())
            self._watermarks()

    def _has_news(self) -> bool:
        return (self.journal.committed, self.everywhere) != (self.told_committed, self.told_everywhere)

    def _committed(self) -> messages.Committed:
        return messages.Committed(self.epoch, self.journal.committed, self.everywhere)


def accepted_part(flight: Flight, accepted: tuple[int, ...] | None) -> Flight:
    """The flight as it stands in the log: only what was accepted."""
    if accepted is None:
        return flight
    return attrs.evolve(flight, items=tuple(flight.items[index] for index in accepted), indices=accepted)


def fits(flight: Flight, accepted: tuple[int, ...] | None) -> bool:
    """Whether ``accepted`` names some items of ``flight``, each once and in order."""
    if accepted is None:
        return True
    rising = all(one < other for one, other in zip(accepted, accepted[1:], strict=False))
    return bool(accepted) and rising and accepted[0] >= 0 and accepted[-1] < len(flight.items)
