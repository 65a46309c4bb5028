"""The participant's desk: flights that others (or this node) have proposed."""

from __future__ import annotations

import attrs

from txvbcast.config import FLIGHTS_MAX
from txvbcast.core.commons import Commons
from txvbcast.core.flights import HeldFlight
from txvbcast.core.journal import Journal
from txvbcast.core.marks import Mark
from txvbcast.core.ordering import fits
from txvbcast.wire.messages import AskFlight, Decide, Flight, FlightId, Refusal, Withdraw


@attrs.define(eq=False)
class Proposals:
    """Payloads that wait for their place in the log, and the votes on them.

    :ivar decisions: what coordinators have asked to be ordered, while this node is master.
    :ivar withdrawn: numbers given up by their origin, so that a late copy prepares nothing.
    """

    commons: Commons
    journal: Journal
    held: dict[FlightId, HeldFlight] = attrs.field(factory=dict)
    decisions: dict[FlightId, tuple[int, ...] | None] = attrs.field(factory=dict)
    withdrawn: dict[int, set[FlightId]] = attrs.field(factory=dict)

    def on_propose(self, flight: Flight, voting: bool) -> bool:
        """Keep a proposal, and ask the resource managers if it is voted on; False if it is not wanted.

        :param voting: this node is normal; otherwise the payload is only kept.
        """
        if self._is_past(flight):
            if self.journal.dead(flight, self.journal.applied_table):
                self.commons.reach(Mark.PROPOSAL_OF_DEAD_FLIGHT)
            return False
        held = self.held.get(flight.id)
        if held is None:
            if len(self.held) >= FLIGHTS_MAX and self._held_of(flight.id.origin) >= FLIGHTS_MAX:
                return False
            held = self.held[flight.id] = HeldFlight.make(self.commons, flight)
            self._forget_older(flight)
        if voting:
            self._ask(held)
        return True

    def _held_of(self, origin: int) -> int:
        return sum(fid.origin == origin for fid in self.held)

    def _ask(self, held: HeldFlight) -> None:
        # What the coordinator's clients have heard of is applied here first: it may hold
        # what this flight needs.
        if held.machine is None:
            return
        if held.core.phase == "preparing":
            self.commons.reach(Mark.ASKED_WHILE_PREPARING)
        if self.journal.applied >= held.core.flight.seen:
            held.machine.asked()
        else:
            self.commons.reach(Mark.VOTE_WAITS_FOR_LOG)

    def _is_past(self, flight: Flight) -> bool:
        journal = self.journal
        return (
            journal.where(flight.id) is not None
            or journal.finished(flight.id)
            or journal.dead(flight, journal.applied_table)
            or flight.id in self.withdrawn.get(flight.id.origin, ())
        )

    def _forget_older(self, flight: Flight) -> None:
        # What is below the origin's oldest flight under way is settled there.  What is
        # prepared here stays until the log, a Withdraw or a StandingEntry says how; and of
        # what the origin has applied this log may lack some, whose payload is wanted then.
        if self.journal.tail < flight.seen:
            self.commons.reach(Mark.PAYLOADS_KEPT_WHILE_LOG_LAGS)
            return
        origin = flight.id.origin
        oldest = (flight.id.incarnation, flight.oldest)
        for fid, held in tuple(self.held.items()):
            if fid.origin == origin and (fid.incarnation, fid.number) < oldest and held.core.phase == "held":
                self.commons.reach(Mark.SETTLED_PROPOSAL_FORGOTTEN)
                self._drop(fid)
        if origin in self.withdrawn:
            kept = {fid for fid in self.withdrawn.pop(origin) if (fid.incarnation, fid.number) >= oldest}
            if kept:
                self.withdrawn[origin] = kept

    def _drop(self, fid: FlightId) -> None:
        self.held.pop(fid, None)
        self.decisions.pop(fid, None)

    def go_on_voting(self) -> None:
        """This node is normal again, or has applied more: vote on what had to wait for that."""
        for held in tuple(self.held.values()):
            if held.core.phase == "held":
                self._ask(held)

    def on_prepared(self, fid: FlightId, refused: tuple[Refusal, ...]) -> None:
        """The resource managers have answered; too late if the flight is over."""
        held = self.held.get(fid)
        if held is not None and held.machine is not None and held.core.phase == "preparing":
            held.machine.prepared(refused)

    def on_decide(self, decide: Decide) -> None:
        """A coordinator asks for a flight's place in the log."""
        held = self.held.get(decide.flight)
        if held is not None and fits(held.core.flight, decide.accepted) and not self._is_past(held.core.flight):
            self.decisions[decide.flight] = decide.accepted
        else:
            self.commons.reach(Mark.DECISION_WITHOUT_USE)

    def on_withdraw(self, withdraw: Withdraw) -> None:
        """Its coordinator has given a flight up, or has long seen what the log says of it."""
        fid = withdraw.flight
        if withdraw.seq > self.journal.applied:
            self.commons.reach(Mark.WITHDRAWN_BEYOND_OWN_LOG)
            return
        if fid not in self.held:
            self.commons.reach(Mark.WITHDRAWN_UNSEEN)
        given_up = self.withdrawn.setdefault(fid.origin, set())
        if len(given_up) < FLIGHTS_MAX:
            given_up.add(fid)
        self._release(fid, "withdrawn by its coordinator")

    def on_applied(self, fid: FlightId) -> None:
        """The log has decided about a flight and it is performed (or was dead)."""
        held = self.held.get(fid)
        if held is not None:
            if held.machine is not None:
                held.machine.applied()
            self._drop(fid)

    def on_standing(self, origin: int, seq: int) -> None:
        """The log speaks of a coordinator at ``seq``: what it proposed before that is dead."""
        for fid, held in tuple(self.held.items()):
            if fid.origin == origin and held.core.flight.born < seq:
                self.commons.reach(Mark.PROPOSAL_DIES_WITH_ORIGIN)
                self._release(fid, f"its coordinator, node {origin}, was away")

    def _release(self, fid: FlightId, reason: str) -> None:
        held = self.held.get(fid)
        if held is not None:
            if held.machine is not None:
                held.machine.released(reason)
            self._drop(fid)

    def ready(self, fid: FlightId) -> tuple[Flight, tuple[int, ...] | None] | None:
        """A flight that a master may put in the log now, and which of its items; None if it may not."""
        held = self.held.get(fid)
        if held is None or (held.core.flight.mode.voted and fid not in self.decisions):
            return None
        flight, journal = held.core.flight, self.journal
        if journal.where(fid) is not None or journal.finished(fid) or journal.dead(flight, journal.table):
            dead = journal.dead(flight, journal.table)
            self.commons.reach(Mark.DEAD_FLIGHT_NOT_ORDERED if dead else Mark.FLIGHT_NOT_ORDERED_TWICE)
            return None
        return flight, self.decisions.get(fid)

    def on_tick(self) -> None:
        """Ask coordinators about flights that have been prepared for a long time."""
        patience_s = self.commons.config.response_timeout.normal_s
        for held in self.held.values():
            core = held.core
            if core.phase != "voted" or self.journal.where(core.flight.id) is not None:
                continue
            if self.commons.now_s - core.since_s > patience_s:
                core.since_s = self.commons.now_s
                self.commons.reach(Mark.COORDINATOR_ASKED_FOR_FLIGHT)
                self.commons.send(core.flight.id.origin, AskFlight(core.flight.id))
