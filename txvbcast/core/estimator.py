"""How long a configuration change will take.

Element 7 of the mission (the patent's timeout calculation module): a fixed time per
kind, or an estimate from what is known of the change.
"""

from __future__ import annotations

from collections.abc import Mapping

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

#: A fact that is larger (or negative) is not believed; an exabyte, and as much per second.
_FACT_MAX = 10**18


def expected_s(kind: str, facts: Mapping[str, object], configured_s: Mapping[str, float], max_s: float) -> float:
    """The expected duration of a change of ``kind``, in seconds, at most ``max_s``.

    A transfer's time is what remains over the bandwidth, and never less than the downtime
    that the hypervisor allows itself.  Facts used: ``remaining_bytes``,
    ``bandwidth_bytes_per_s``, ``downtime_s``; without them, or if they make no sense, the
    fixed time of the kind.
    """
    fixed_s = configured_s.get(kind, FIXED_S[kind])
    remaining = _number(facts.get("remaining_bytes"))
    bandwidth = _number(facts.get("bandwidth_bytes_per_s"))
    if remaining is None or not bandwidth:
        return min(fixed_s, max_s)
    return min(max(remaining / bandwidth, _number(facts.get("downtime_s")) or 0.0), max_s)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _FACT_MAX:
        return None  # what an adapter or operator says may be nonsense, and NaN is in no range
    return float(value)
