"""How long a configuration change will take.

Element 7 of the mission (the patent's timeout calculation module): what the platform itself
says, what follows from the facts of the change, what earlier changes took, or a fixed time per kind.
``docs/estimates.md`` is written for people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs

#: Seconds; a configuration's ``estimates`` override them kind by kind.
FIXED_S: Mapping[str, float] = {
    "migrate_out": 5.0,
    "migrate_in": 5.0,
    "vcpu": 2.0,
    "memory": 5.0,
    "device": 2.0,
    "network": 2.0,
    "storage": 5.0,
    "vswitch": 2.0,
    "freeze": 10.0,
    "snapshot": 10.0,
    "suspend": 60.0,
    "reboot": 120.0,
    "redeploy": 300.0,
    "custom": 10.0,
}

#: A figure that was worked out is never below this: between two polls of an adapter nothing can be told apart.
LEAST_S = 1.0

#: So many earlier changes are enough to learn from, and no more than the latest so many are looked at.
PAST_MIN = 5
PAST_MAX = 100
#: The share of earlier changes that what was learned from them would have been long enough for.
QUANTILE = 0.9

#: A copy that its guest keeps changing is taken to send its bytes so many times at most: then the
#: hypervisor slows the guest down, moves it first and copies afterwards, or gives up.
PASSES_MAX = 10.0

#: Kinds that copy the guest's whole memory.
_COPYING = frozenset(("migrate_out", "migrate_in", "snapshot", "suspend"))

#: The fact that says how much is added or taken, and the seconds that a unit of it takes besides the fixed time.
_GROWING: Mapping[str, tuple[str, float]] = {
    "memory": ("memory_delta_bytes", 1.0 / 2**30),
    "vcpu": ("vcpu_delta", 0.2),
}

#: A number that is larger (or smaller than its negative) is not believed; an exabyte, and as much per second.
_NUMBER_MAX = 10**18


@attrs.frozen
class Estimate:
    """How long a change is expected to take from now on.

    :ivar basis: ``platform`` (the platform's own figure), ``formula`` (worked out from facts), ``learned``
        (earlier changes), ``configured`` or ``fixed`` (the kind's own time).  One that somebody gave,
        which is not for this module, is ``told``.
    """

    expected_s: float
    basis: str


def estimate(
    kind: str,
    facts: Mapping[str, object],
    past_s: Sequence[float],
    configured_s: Mapping[str, float],
    max_s: float,
) -> Estimate:
    """How long a change of ``kind`` will take from now on, at most ``max_s``.

    In this order: the platform's own figure; one worked out from ``facts``; what was learned; the
    configured time; the fixed time.  A figure of the first two is passed over if at least half of the earlier
    changes took longer: an announced time that is too short costs a membership, one that is too
    long only a later notice of a crash.  Whatever it rests on, it is not below the downtime that is known.

    :param facts: see :data:`txvbcast.interfaces.FACTS`; nonsense among them is not believed, nothing raises.
    :param past_s: what earlier changes of the kind and source took that ended ``done``, oldest first; for a change
        that is under way, what those that took longer than it has already still took from there on.
    """
    past = sorted(length_s for length_s in map(_number, tuple(past_s)[-PAST_MAX:]) if length_s)
    learned_s = _quantile(past, QUANTILE) if len(past) >= PAST_MIN else None
    least_s = _quantile(past, 0.5) if learned_s is not None else 0.0
    fixed = Estimate(configured_s[kind], "configured") if kind in configured_s else Estimate(FIXED_S[kind], "fixed")
    told_s = _number(facts.get("expected_s"))
    worked_out_s = _formula_s(kind, facts, learned_s, fixed.expected_s)
    if told_s and told_s >= least_s:
        best = Estimate(max(told_s, LEAST_S), "platform")
    elif worked_out_s is not None and worked_out_s >= least_s:
        best = Estimate(max(worked_out_s, LEAST_S), "formula")
    elif learned_s is not None:
        best = Estimate(max(learned_s, LEAST_S), "learned")
    else:
        best = fixed
    downtime_s = _number(facts.get("downtime_s")) or 0.0
    if downtime_s > best.expected_s:
        best = Estimate(downtime_s, "formula")
    return Estimate(min(best.expected_s, max_s), best.basis)


def _formula_s(kind: str, facts: Mapping[str, object], learned_s: float | None, fixed_s: float) -> float | None:
    transfer_s = _transfer_s(kind, facts, learned_s)
    if transfer_s is not None or kind not in _GROWING:
        return transfer_s
    fact, unit_s = _GROWING[kind]
    delta = _number(facts.get(fact), least=-_NUMBER_MAX)
    return fixed_s + abs(delta) * unit_s if delta else None


def _transfer_s(kind: str, facts: Mapping[str, object], learned_s: float | None) -> float | None:
    """What is to be copied over the bandwidth, and again what the guest changes meanwhile.

    The passes are a geometric series of ratio dirty rate over bandwidth.  One that does not converge has no
    end of its own.  When the platform makes one is learned, and None here, but not before the end of a pass.
    """
    remaining = _number(facts.get("remaining_bytes"))
    if remaining is None and kind in _COPYING:
        remaining = _number(facts.get("memory_bytes"))
    bandwidth = _number(facts.get("bandwidth_bytes_per_s"))
    if remaining is None or not bandwidth:
        return None
    pass_s = remaining / bandwidth
    spare = bandwidth - (_number(facts.get("dirty_bytes_per_s")) or 0.0)
    passes = bandwidth / spare if spare > 0 else math.inf
    if passes < PASSES_MAX:
        return pass_s * passes
    if learned_s is None:
        return pass_s * PASSES_MAX
    return pass_s if pass_s > learned_s else None


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


def _number(value: object, least: float = 0.0) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= _NUMBER_MAX:
        return None  # what an adapter or operator says may be nonsense, and NaN is in no range
    return float(value)
