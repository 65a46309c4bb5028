"""How long a change will take: the platform's word, formulas, what was learned, fixed times."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial import unittest

from tests.core_samples import examples
from txvbcast.config import CHANGE_KINDS
from txvbcast.core.estimator import FIXED_S, LEAST_S, PASSES_MAX, PAST_MAX, PAST_MIN, Estimate, estimate
from txvbcast.interfaces import FACTS

#: 30 s for a pass.
MOVING: dict[str, Any] = {"remaining_bytes": 60_000_000, "bandwidth_bytes_per_s": 2_000_000}
PAST = (20.0, 22.0, 24.0, 26.0, 28.0)
NONSENSE: tuple[Any, ...] = ("6000000", True, None, -1, -0.5, math.nan, math.inf, -math.inf, 10**400, [6], b"6", {})

amounts = st.integers(0, 10**12)
lengths = st.lists(st.floats(0.001, 10**6), max_size=20)
#: What a program may say, sense or not.
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.none()),
)
all_facts = st.dictionaries(st.sampled_from([*FACTS, "remaining"]), anything)


class EstimatorCase(unittest.TestCase):
    """Estimates with the default of everything that a test does not name."""

    def estimate(
        self, kind: str = "migrate_out", past_s: Any = (), configured_s: Any = None, max_s: float = 3600.0, **facts: Any
    ) -> Estimate:
        """Without history or configuration."""
        return estimate(kind, facts, past_s, configured_s or {}, max_s)

    def expect(self, wanted_s: float, basis: str, /, *arguments: Any, **facts: Any) -> None:
        """So long, and on this basis."""
        self.assertEqual(self.estimate(*arguments, **facts), Estimate(wanted_s, basis))


class FixedTests(EstimatorCase):
    """A kind's own time."""

    def test_every_kind_has_its_time(self) -> None:
        """And no time is for a kind that there is not."""
        self.assertEqual(set(FIXED_S), set(CHANGE_KINDS))
        for kind in CHANGE_KINDS:
            self.expect(FIXED_S[kind], "fixed", kind)

    def test_configuration_comes_first(self) -> None:
        """Kind by kind, even below what a figure that was worked out may be."""
        self.expect(0.5, "configured", "reboot", configured_s={"reboot": 0.5})
        self.expect(FIXED_S["freeze"], "fixed", "freeze", configured_s={"reboot": 7.0})

    def test_longest(self) -> None:
        """Nothing is expected to take longer than ``inactivity.max``, whatever says so."""
        self.expect(2.0, "fixed", "redeploy", max_s=2.0)
        self.expect(2.0, "configured", "redeploy", configured_s={"redeploy": 3.0}, max_s=2.0)
        self.expect(2.0, "formula", max_s=2.0, **MOVING)
        self.expect(2.0, "learned", past_s=PAST, max_s=2.0)
        self.expect(2.0, "platform", max_s=2.0, expected_s=10**18)
        self.expect(0.1, "platform", max_s=0.1, expected_s=0.01)
        self.expect(3600.0, "formula", remaining_bytes=10**17, bandwidth_bytes_per_s=5e-324, dirty_bytes_per_s=0)


class PlatformTests(EstimatorCase):
    """The platform's own figure."""

    def test_first_of_all(self) -> None:
        """Before what could be worked out or is configured."""
        self.expect(9.0, "platform", expected_s=9, configured_s={"migrate_out": 60.0}, **MOVING)

    def test_worth_nothing(self) -> None:
        """Nothing, or less: that is how a platform says that it does not know."""
        for wrong in (0, 0.0, *NONSENSE):
            self.expect(FIXED_S["freeze"], "fixed", "freeze", expected_s=wrong)

    def test_too_short_so_far(self) -> None:
        """Once at least half of the earlier changes took longer it is not believed any more."""
        self.expect(28.0, "learned", past_s=PAST, expected_s=9)
        self.expect(28.0, "learned", past_s=PAST, expected_s=23.9)
        self.expect(24.0, "platform", past_s=PAST, expected_s=24)
        self.expect(500.0, "platform", past_s=PAST, expected_s=500)
        self.expect(9.0, "platform", past_s=PAST[1:], expected_s=9)

    def test_least(self) -> None:
        """A moment is too short to be announced."""
        self.expect(LEAST_S, "platform", expected_s=0.007)
        self.expect(LEAST_S, "learned", past_s=[0.02] * PAST_MIN)


class FormulaTests(EstimatorCase):
    """What follows from the facts."""

    def test_transfer(self) -> None:
        """What remains over the bandwidth, whatever the kind's own time is."""
        for kind in ("migrate_out", "migrate_in", "storage"):
            self.expect(30.0, "formula", kind, configured_s={"migrate_out": 60.0}, **MOVING)

    def test_dirty(self) -> None:
        """What the guest changes meanwhile is copied again, and what it changes during that."""
        self.expect(60.0, "formula", dirty_bytes_per_s=1_000_000, **MOVING)
        self.expect(120.0, "formula", dirty_bytes_per_s=1_500_000, **MOVING)

    def test_not_converging(self) -> None:
        """A guest that is as fast as the copy: the hypervisor makes an end some time, after some passes."""
        for dirty in (1_900_000, 2_000_000, 10**15):
            self.expect(30.0 * PASSES_MAX, "formula", dirty_bytes_per_s=dirty, **MOVING)

    def test_not_converging_before(self) -> None:
        """When the hypervisor makes an end of it is better learned than assumed; a pass it takes at least."""
        self.expect(80.0, "learned", past_s=[80.0] * PAST_MIN, dirty_bytes_per_s=2_000_000, **MOVING)
        self.expect(30.0, "formula", past_s=PAST, dirty_bytes_per_s=2_000_000, **MOVING)

    def test_whole_memory(self) -> None:
        """It is what remains before the copy begins, of a change that copies it."""
        facts = {"memory_bytes": 8_000_000, "bandwidth_bytes_per_s": 2_000_000}
        for kind in ("migrate_out", "migrate_in", "snapshot", "suspend"):
            self.expect(4.0, "formula", kind, **facts)
            self.expect(30.0, "formula", kind, **{**facts, **MOVING})
        for kind in ("memory", "freeze", "reboot", "storage"):
            self.expect(FIXED_S[kind], "fixed", kind, **facts)

    def test_memory_and_cpus(self) -> None:
        """The kind's own time, and more with what is added or taken."""
        self.expect(9.0, "formula", "memory", memory_delta_bytes=4 * 2**30)
        self.expect(11.0, "formula", "memory", memory_delta_bytes=-4 * 2**30, configured_s={"memory": 7.0})
        self.expect(4.0, "formula", "vcpu", vcpu_delta=-10)
        self.expect(30.0, "formula", "memory", memory_delta_bytes=4 * 2**30, **MOVING)

    def test_no_memory_or_cpus(self) -> None:
        """A change of nothing, of what is not this kind's, or nonsense."""
        self.expect(FIXED_S["vcpu"], "fixed", "vcpu", vcpu_delta=0)
        self.expect(FIXED_S["vcpu"], "fixed", "vcpu", memory_delta_bytes=2**30)
        self.expect(FIXED_S["freeze"], "fixed", "freeze", vcpu_delta=1, memory_delta_bytes=2**30)
        for wrong in ("4", True, None, math.nan, math.inf, -math.inf, 10**400, -(10**400)):
            self.expect(FIXED_S["memory"], "fixed", "memory", memory_delta_bytes=wrong)

    def test_downtime_is_the_least(self) -> None:
        """The hypervisor takes as long as it allows itself."""
        self.expect(40.0, "formula", **MOVING, downtime_s=40)
        self.expect(30.0, "formula", **MOVING, downtime_s=0.3)
        self.expect(6.0, "formula", downtime_s=6)
        self.expect(6.0, "formula", expected_s=3, downtime_s=6)
        self.expect(FIXED_S["migrate_out"], "fixed", downtime_s=0.3)

    def test_nothing_left_to_send(self) -> None:
        """The end itself takes a moment."""
        self.expect(LEAST_S, "formula", remaining_bytes=0, bandwidth_bytes_per_s=10, downtime_s=0.3)

    def test_too_short_so_far(self) -> None:
        """Once at least half of the earlier changes took longer it is not believed any more."""
        self.expect(80.0, "learned", past_s=[80.0] * PAST_MIN, **MOVING)
        self.expect(30.0, "formula", past_s=[20.0, 20.0, 30.0, 80.0, 80.0], **MOVING)

    def test_not_enough_is_known(self) -> None:
        """The kind's own time."""
        for name in (*MOVING, "dirty_bytes_per_s", "memory_bytes", "remaining"):
            self.expect(FIXED_S["migrate_out"], "fixed", **{name: 60})
        self.expect(FIXED_S["migrate_out"], "fixed", remaining_bytes=6, bandwidth_bytes_per_s=0)

    def test_nonsense_is_not_believed(self) -> None:
        """A word, a truth value, less than nothing, or no number at all."""
        for wrong in NONSENSE:
            for name in MOVING:
                self.expect(FIXED_S["migrate_out"], "fixed", **{**MOVING, name: wrong})
            for name in ("downtime_s", "dirty_bytes_per_s", "memory_bytes", "vcpu_delta", "expected_s"):
                self.expect(30.0, "formula", **MOVING, **{name: wrong})


class LearnedTests(EstimatorCase):
    """What earlier changes of the kind and source took."""

    def test_quantile(self) -> None:
        """Long enough for nine of ten, whatever their order and what is configured."""
        tens = [float(10 * number) for number in range(10, 0, -1)]
        self.expect(90.0, "learned", past_s=tens, configured_s={"migrate_out": 7.0})
        self.expect(28.0, "learned", past_s=PAST)

    def test_too_few(self) -> None:
        """One or two would be chance."""
        self.expect(FIXED_S["migrate_out"], "fixed", past_s=PAST[1:])
        self.expect(7.0, "configured", past_s=PAST[1:], configured_s={"migrate_out": 7.0})

    def test_latest(self) -> None:
        """What was long ago is forgotten."""
        self.expect(3.0, "learned", past_s=[1000.0] * 50 + [3.0] * PAST_MAX)
        self.expect(1000.0, "learned", past_s=[3.0] * 50 + [1000.0] * 50)
        self.expect(3.0, "learned", past_s=deque([1000.0] * 50 + [3.0] * PAST_MAX))

    def test_nonsense_is_not_counted(self) -> None:
        """Lengths come from a disk."""
        self.expect(FIXED_S["migrate_out"], "fixed", past_s=[*PAST[1:], *NONSENSE, 0.0])
        self.expect(28.0, "learned", past_s=[*PAST, *NONSENSE, 0.0])


class EstimatorProperties(EstimatorCase):
    """For all facts, pasts and configurations."""

    @examples(400)
    @given(
        st.sampled_from(CHANGE_KINDS),
        all_facts,
        st.lists(anything, max_size=20),
        st.dictionaries(st.sampled_from(CHANGE_KINDS), st.floats(0.001, 3600)),
        st.floats(0.001, 10**6),
    )
    def test_always_a_time(self, kind: str, facts: Any, past_s: Any, configured_s: Any, max_s: float) -> None:
        """More than nothing, up to the longest, whatever is said."""
        found = estimate(kind, facts, past_s, configured_s, max_s)
        self.assertTrue(0 < found.expected_s <= max_s, found)
        self.assertIn(found.basis, ("platform", "formula", "learned", "configured", "fixed"))

    @examples()
    @given(all_facts, st.lists(st.floats(1, 1000), min_size=PAST_MIN, max_size=20), st.floats(1, 1000))
    def test_long_enough_for_half(self, facts: Any, past_s: list[float], max_s: float) -> None:
        """Where there is a past, half of it at least would have ended within the time."""
        found = self.estimate(past_s=past_s, max_s=max_s, **facts)
        enough = sum(length_s <= found.expected_s for length_s in past_s)
        self.assertTrue(2 * enough >= len(past_s) or found.expected_s == max_s, found)

    @examples()
    @given(st.dictionaries(st.sampled_from(list(MOVING)), amounts), lengths, amounts)
    def test_never_below_the_downtime(self, facts: Any, past_s: list[float], downtime_s: int) -> None:
        """Unless that is above the longest."""
        found = self.estimate(past_s=past_s, downtime_s=downtime_s, **facts)
        self.assertGreaterEqual(found.expected_s, min(downtime_s, 3600))

    @examples()
    @given(amounts, amounts, amounts, amounts, st.sampled_from(["remaining_bytes", "dirty_bytes_per_s", "downtime_s"]))
    def test_more_takes_longer(self, remaining: int, bandwidth: int, dirty: int, more: int, name: str) -> None:
        """More to copy, more that is changed, a longer stop: never a shorter time."""
        assume(bandwidth > 0)
        facts = {"remaining_bytes": remaining, "bandwidth_bytes_per_s": bandwidth, "dirty_bytes_per_s": dirty}
        less = self.estimate(max_s=1e12, **facts)
        longer = self.estimate(max_s=1e12, **{**facts, name: facts.get(name, 0) + more})
        self.assertGreaterEqual(longer.expected_s, less.expected_s)

    @examples()
    @given(amounts, amounts, amounts, amounts)
    def test_faster_takes_shorter(self, remaining: int, bandwidth: int, dirty: int, more: int) -> None:
        """A higher bandwidth is never a longer time, but for the last digit of a quotient."""
        assume(bandwidth > 0)
        slow, fast = (
            self.estimate(
                max_s=1e12, remaining_bytes=remaining, bandwidth_bytes_per_s=speed, dirty_bytes_per_s=dirty
            ).expected_s
            for speed in (bandwidth, bandwidth + more)
        )
        self.assertLessEqual(fast, slow * (1 + 1e-12))

    @examples()
    @given(st.lists(st.floats(1, 1000), min_size=PAST_MIN, max_size=20), st.integers(0), st.floats(0, 1000))
    def test_a_longer_past_takes_longer(self, past_s: list[float], place: int, more_s: float) -> None:
        """If one of the earlier changes had taken longer, the estimate is not shorter."""
        place %= len(past_s)
        longer_s = [*past_s[:place], past_s[place] + more_s, *past_s[place + 1 :]]
        self.assertGreaterEqual(self.estimate(past_s=longer_s).expected_s, self.estimate(past_s=past_s).expected_s)
