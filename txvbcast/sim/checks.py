"""What must hold in every run, whatever happens: checked from outside the nodes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from txvbcast.errors import Aborted, Committed, NoQuorum, Overloaded
from txvbcast.sim.watch import Watcher
from txvbcast.wire.messages import Entry, FlightId

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode
    from txvbcast.sim.world import Outcome


class Violation(AssertionError):
    """An invariant of section 9 of the protocol does not hold."""


class Agreement(Watcher):
    """Invariants 1, 2 and 5: every node applies the same entries in the same order, a flight once."""

    def __init__(self) -> None:
        self.canonical: dict[int, tuple[Entry, bool]] = {}
        self.applied: dict[tuple[int, int], int] = {}
        self.flights: dict[FlightId, int] = {}

    def on_apply(self, node: SimNode, entry: Entry, dead: bool) -> None:
        """A node applies an entry.

        :raises Violation: out of order, other than on another node, or a flight for the second time.
        """
        self.note(node.node_id, node.incarnation, entry, dead)

    def note(self, node_id: int, incarnation: int, entry: Entry, dead: bool) -> None:
        """The same, for who has no whole node."""
        before = self.applied.get((node_id, incarnation), 0)
        if entry.seq != before + 1:
            raise Violation(f"node {node_id} applies {entry.seq} after {before}")
        self.applied[node_id, incarnation] = entry.seq
        known = self.canonical.setdefault(entry.seq, (entry, dead))
        if known != (entry, dead):
            raise Violation(f"node {node_id} applies {entry} (dead: {dead}) at {entry.seq}, others {known}")
        if entry.flight is not None and not dead:
            at = self.flights.setdefault(entry.flight.id, entry.seq)
            if at != entry.seq:
                raise Violation(f"flight {entry.flight.id} takes effect at {at} and at {entry.seq}")


def check_outcomes(outcomes: Sequence[Outcome], performed: Sequence[tuple[int, bytes]]) -> None:
    """Invariants 3, 4 and 5: what clients heard is what happened.

    :param performed: (seq, payload) as a node that is up to date has performed them.
    :raises Violation: something committed is missing or elsewhere, something aborted is there, or
        something (a payload, or a request by any of its attempts) is there twice.
    """
    places: dict[bytes, int] = {payload: seq for seq, payload in performed}
    twice = [payload for payload, count in Counter(payload for _, payload in performed).items() if count > 1]
    if twice:
        raise Violation(f"performed more than once: {twice[:3]}")
    attempts: dict[object, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        attempts[outcome.request_id or outcome.payload].append(outcome)
        if isinstance(outcome.answer, (Aborted, NoQuorum, Overloaded)) and outcome.payload in places:
            raise Violation(f"{outcome.payload!r} was heard as {outcome.kind} and is at {places[outcome.payload]}")
    for request, tries in attempts.items():
        _check_request(request, tries, places)


def _check_request(request: object, attempts: Sequence[Outcome], places: dict[bytes, int]) -> None:
    """A request takes effect at most once, by whichever attempt, and every attempt hears of that place."""
    there = [places[attempt.payload] for attempt in attempts if attempt.payload in places]
    if len(there) > 1:
        raise Violation(f"request {request!r} is performed {len(there)} times: at {there}")
    for attempt in attempts:
        if isinstance(attempt.answer, Committed) and [attempt.answer.seq] != there:
            raise Violation(f"{attempt.payload!r} was heard as committed at {attempt.answer.seq} and is at {there}")
