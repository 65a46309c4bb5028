"""Invariants 3, 4 and 5 as clients see them: what they heard is what happened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from txvbcast.errors import Aborted, Committed, NoQuorum, Overloaded
from txvbcast.sim.checks.violation import Violation

if TYPE_CHECKING:
    from txvbcast.sim.world import Outcome


def check_outcomes(outcomes: Sequence[Outcome], performed: Sequence[tuple[int, bytes]]) -> None:
    """What clients heard, against what was performed.

    :param performed: (seq, payload) as a node that is up to date has performed them.
    :raises Violation: something committed is missing or elsewhere, something aborted is there, or
        something (a payload, or a request by any of its attempts) is there twice.
    """
    places: dict[bytes, int] = {payload: seq for seq, payload in performed}
    twice = [payload for payload, count in Counter(payload for _, payload in performed).items() if count > 1]
    if twice:
        raise Violation(f"invariant 5: performed more than once: {twice[:3]}")
    attempts: dict[object, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        attempts[outcome.request_id or outcome.payload].append(outcome)
        if isinstance(outcome.answer, (Aborted, NoQuorum, Overloaded)) and outcome.payload in places:
            raise Violation(
                f"invariant 4: {outcome.payload!r} was heard as {outcome.kind} and is at {places[outcome.payload]}"
            )
    for request, tries in attempts.items():
        _check_request(request, tries, places)


def _check_request(request: object, attempts: Sequence[Outcome], places: dict[bytes, int]) -> None:
    """A request takes effect at most once, by whichever attempt, and every attempt hears of that place."""
    there = [places[attempt.payload] for attempt in attempts if attempt.payload in places]
    if len(there) > 1:
        raise Violation(f"invariant 5: request {request!r} is performed {len(there)} times: at {there}")
    for attempt in attempts:
        if isinstance(attempt.answer, Committed) and [attempt.answer.seq] != there:
            raise Violation(
                f"invariant 3: {attempt.payload!r} was heard as committed at {attempt.answer.seq} and is at {there}"
            )
