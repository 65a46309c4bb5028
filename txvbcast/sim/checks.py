"""What must hold in every run, whatever happens: checked from outside the nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs

from txvbcast.errors import Aborted, Committed, NoQuorum, Overloaded
from txvbcast.wire.messages import Entry


class Violation(AssertionError):
    """An invariant of section 9 of the protocol does not hold."""


@attrs.define(eq=False)
class Agreement:
    """Invariants 1, 2 and 5: every node applies the same entries in the same order, a flight once."""

    canonical: dict[int, tuple[Entry, bool]] = attrs.field(factory=dict)
    applied: dict[tuple[int, int], int] = attrs.field(factory=dict)
    flights: dict[object, int] = attrs.field(factory=dict)

    def on_apply(self, node_id: int, incarnation: int, entry: Entry, dead: bool) -> None:
        """A node applies an entry.

        :raises Violation: out of order, other than on another node, or a flight for the second time.
        """
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


def check_outcomes(outcomes: Sequence[tuple[bytes, object]], performed: Sequence[tuple[int, bytes]]) -> None:
    """Invariants 3 and 4: what clients heard is what happened.

    :param outcomes: payload (unique) and answer of each submission.
    :param performed: (seq, payload) as a node that is up to date has performed them.
    :raises Violation: something committed is missing or elsewhere, something aborted is there, or
        something is there twice.
    """
    places: dict[bytes, int] = {payload: seq for seq, payload in performed}
    twice = [payload for payload, count in Counter(payload for _, payload in performed).items() if count > 1]
    if twice:
        raise Violation(f"performed more than once: {twice[:3]}")
    for payload, answer in outcomes:
        if isinstance(answer, Committed) and places.get(payload) != answer.seq:
            raise Violation(f"{payload!r} was heard as committed at {answer.seq} and is at {places.get(payload)}")
        if isinstance(answer, (Aborted, NoQuorum, Overloaded)) and payload in places:
            raise Violation(f"{payload!r} was heard as {type(answer).__name__} and is at {places[payload]}")
