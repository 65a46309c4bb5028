"""How long a change will take: fixed times, and what is worked out from facts."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from tests.core_samples import examples
from txvbcast.config import CHANGE_KINDS
from txvbcast.core.estimator import FIXED_S, expected_s

MOVING: dict[str, Any] = {"remaining_bytes": 6_000_000, "bandwidth_bytes_per_s": 2_000_000}


class EstimatorTests(unittest.TestCase):
    """Element 7 of the mission."""

    def estimate(self, *, kind: str = "migrate_out", max_s: float = 3600.0, **facts: Any) -> float:
        """Without any configuration."""
        return expected_s(kind, facts, {}, max_s)

    def test_every_kind_has_its_time(self) -> None:
        """And no time is for a kind that there is not."""
        self.assertEqual(set(FIXED_S), set(CHANGE_KINDS))
        for kind in CHANGE_KINDS:
            self.assertGreater(self.estimate(kind=kind), 0)

    def test_configuration_comes_first(self) -> None:
        """Kind by kind."""
        self.assertEqual(expected_s("reboot", {}, {"reboot": 7.0}, 3600.0), 7.0)
        self.assertEqual(expected_s("freeze", {}, {"reboot": 7.0}, 3600.0), FIXED_S["freeze"])

    def test_transfer(self) -> None:
        """What remains over the bandwidth, whatever the kind's own time is."""
        self.assertEqual(self.estimate(**MOVING), 3.0)
        self.assertEqual(expected_s("migrate_out", MOVING, {"migrate_out": 60.0}, 3600.0), 3.0)

    def test_downtime_is_the_least(self) -> None:
        """The hypervisor takes as long as it allows itself."""
        self.assertEqual(self.estimate(**MOVING, downtime_s=4), 4.0)
        self.assertEqual(self.estimate(**MOVING, downtime_s=0.3), 3.0)

    def test_nothing_left_to_send(self) -> None:
        """Only the downtime is left."""
        self.assertEqual(self.estimate(remaining_bytes=0, bandwidth_bytes_per_s=10, downtime_s=0.3), 0.3)

    def test_not_enough_is_known(self) -> None:
        """The kind's own time."""
        for name in (*MOVING, "downtime_s", "remaining"):
            self.assertEqual(expected_s("migrate_out", {name: 6}, {}, 3600.0), FIXED_S["migrate_out"], name)

    def test_longest(self) -> None:
        """Nothing is expected to take longer than ``inactivity.max``."""
        self.assertEqual(self.estimate(**MOVING, max_s=2.0), 2.0)
        self.assertEqual(self.estimate(kind="redeploy", max_s=2.0), 2.0)
        self.assertEqual(self.estimate(remaining_bytes=10**17, bandwidth_bytes_per_s=5e-324), 3600.0)

    def test_nonsense_is_not_believed(self) -> None:
        """A word, a truth value, less than nothing, or no number at all."""
        nonsense: list[Any] = ["6000000", True, None, -1, -0.5, math.nan, math.inf, -math.inf, 10**400, [6]]
        for wrong in nonsense:
            for name in MOVING:
                self.assertEqual(self.estimate(**{**MOVING, name: wrong}), FIXED_S["migrate_out"], (name, wrong))
            self.assertEqual(self.estimate(**MOVING, downtime_s=wrong), 3.0, wrong)
        self.assertEqual(self.estimate(remaining_bytes=6, bandwidth_bytes_per_s=0), FIXED_S["migrate_out"])

    @examples()
    @given(st.dictionaries(st.sampled_from([*MOVING, "downtime_s"]), st.one_of(st.integers(), st.floats())))
    def test_always_a_time(self, facts: dict[str, Any]) -> None:
        """From nothing up to the longest."""
        self.assertTrue(0 <= self.estimate(**facts) <= 3600.0)
