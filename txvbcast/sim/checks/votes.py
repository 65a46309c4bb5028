"""Invariants 8 and 10: what the log has of voted modes was accepted, and a client of 3pc hears last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from txvbcast.core import epochs
from txvbcast.core.effects import Apply, Notify, Persist, ReplyCommitted, Send
from txvbcast.core.inputs import Prepared, Received
from txvbcast.sim.checks.facts import Facts
from txvbcast.sim.checks.steps import Check, Look
from txvbcast.sim.checks.violation import Violation
from txvbcast.wire.messages import Entry, Flight, FlightId, Mode, Propose, Refusal, Standing, Vote

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode

_ABSENT = frozenset({"node_inactive", "node_catching_up", "node_failed"})


@attrs.define
class Ballot:
    """A flight of a voted mode.

    :ivar needed: members that its coordinator has taken for normal ever since it has proposed the flight.
    :ivar refused: by member who has voted in time, the places that it refuses.
    """

    needed: set[int]
    refused: dict[int, frozenset[int]] = attrs.field(factory=dict)


class Votes(Check):
    """Counts the votes that reach a coordinator once more."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._ballots: dict[FlightId, Ballot] = {}

    def looks_at_inputs(self) -> Mapping[type, Look]:
        """Votes as they reach the coordinator; its own are no messages."""
        return {Vote: self._on_vote, Prepared: self._on_prepared}

    def looks_at_effects(self) -> Mapping[type, Look]:
        """Proposals, absences, and what a master puts in the log."""
        return {
            Propose: self._on_propose,
            Notify: self._on_notify,
            Persist: self._on_persist,
            Apply: self._on_apply,
        }

    def _on_propose(self, node: SimNode, effect: Send) -> None:
        assert isinstance(effect.message, Propose)
        flight = effect.message.flight
        if flight.mode.voted and flight.id not in self._ballots:
            peers = node.driver.replica.peers
            normal = {peer for peer, seen in peers.items() if seen.core.standing is Standing.NORMAL}
            self._ballots[flight.id] = Ballot(normal)

    def _on_vote(self, node: SimNode, event: Received) -> None:
        assert isinstance(event.message, Vote)
        self._voted(node, event.message.flight, event.peer, event.message.refused)

    def _on_prepared(self, node: SimNode, event: Prepared) -> None:
        if event.flight.origin == node.node_id:
            self._voted(node, event.flight, node.node_id, event.refused)

    def _voted(self, node: SimNode, flight: FlightId, peer: int, refused: tuple[Refusal, ...]) -> None:
        ballot = self._ballots.get(flight)
        if ballot is None:
            return
        # Whoever is not waited for may come too late: what is still voted on after this vote shows that it did not.
        known = node.driver.replica.submissions.under_way.get(flight.number)
        voting = known is not None and known.core.flight.id == flight and known.core.phase == "voting"
        if voting or (peer in ballot.needed and peer not in ballot.refused):
            ballot.refused[peer] = frozenset(refusal.index for refusal in refused)

    def _on_notify(self, node: SimNode, notify: Notify) -> None:
        """A coordinator need not wait for the absent any longer."""
        if notify.kind in _ABSENT:
            for flight, ballot in self._ballots.items():
                if flight.origin == node.node_id:
                    ballot.needed.discard(notify.node_id)

    def _on_persist(self, node: SimNode, persist: Persist) -> None:
        if persist.log_epoch is None and epochs.master_of(self.facts.views[node.node_id].log_epoch) == node.node_id:
            for entry in persist.entries:
                if entry.flight is not None and entry.flight.mode.voted:
                    self._check_accepted(entry, entry.flight)

    def _on_apply(self, node: SimNode, apply: Apply) -> None:
        if apply.entry.flight is not None:
            self._ballots.pop(apply.entry.flight.id, None)

    def _check_accepted(self, entry: Entry, flight: Flight) -> None:
        ballot = self._ballots.get(flight.id)
        if ballot is None:
            return  # performed already: this master does not know yet that it is one no longer
        silent = ballot.needed - ballot.refused.keys()
        if silent:
            raise Violation(f"invariant 8: {flight.id} is in the log at {entry.seq} without a vote of {sorted(silent)}")
        places = set(range(len(flight.items)) if flight.indices is None else flight.indices)
        for member in sorted(ballot.refused):
            if places & ballot.refused[member]:
                raise Violation(f"invariant 8: {flight.id} is in the log at {entry.seq}, node {member} has refused it")


class Everywhere(Check):
    """Whoever serves as normal holds what a client of 3pc hears of."""

    def looks_at_effects(self) -> Mapping[type, Look]:
        """Answers to clients."""
        return {ReplyCommitted: self._on_reply}

    def _on_reply(self, node: SimNode, reply: ReplyCommitted) -> None:
        entry = self.facts.log[reply.seq - 1]
        if entry.flight is None or entry.flight.mode is not Mode.THREE_PHASE:
            return
        for other in self.facts.world.alive:
            serves = other.driver.replica.own.state in ("normal", "leaving")
            if serves and self.facts.members.normal(other.node_id) and not self.facts.holds(other.node_id, entry):
                raise Violation(
                    f"invariant 10: a client of node {node.node_id} hears of {entry}, "
                    f"which node {other.node_id} does not hold"
                )
