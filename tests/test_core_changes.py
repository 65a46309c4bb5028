"""The changes under way on a node, and the one absence they add up to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.trial import unittest

from tests.core_samples import commons, effects
from txvbcast.config import HeartbeatConfig, InactivityConfig
from txvbcast.core.changes import Change, Changes, patience_s
from txvbcast.core.effects import ChangeAnswered, ChangeClosed, ChangeOpened
from txvbcast.core.inputs import ChangeBegan, ChangeUpdated


class ChangesTests(unittest.TestCase):
    """At second 1000, with a margin of 1.5 and no absence longer than 100 s."""

    def setUp(self) -> None:
        self.commons = commons(
            inactivity=InactivityConfig(margin=1.5, max_s=100.0),
            heartbeat=HeartbeatConfig(interval_s=0.5, timeout_s=4.0),
            estimates_s={"reboot": 40.0},
        )
        self.commons.now_s = 1000.0
        self.changes = Changes(self.commons)

    def begin(
        self,
        expected_s: float | None = 10.0,
        kind: str = "freeze",
        holdable: bool = True,
        facts: Mapping[str, object] | None = None,
        ticket: int = 7,
    ) -> Change:
        """A change begins now."""
        return self.changes.begin(ChangeBegan(ticket, kind, expected_s, facts or {}, holdable, "operator"))

    def heard(self) -> list[Any]:
        """What the askers heard since the last look."""
        return list(effects(self.commons))

    def test_begin(self) -> None:
        """Changes are numbered from 1; whoever asked hears the number and how long it will take."""
        self.assertEqual((bool(self.changes), self.changes.last_id, self.changes.revision), (False, 0, 0))
        change = self.begin(ticket=3)
        self.assertEqual(self.heard(), [ChangeOpened(3, 1, 1, "freeze", "operator", 10.0, "told")])
        self.assertEqual((change.kind, change.source, change.began_s, change.ends_s), ("freeze", "operator", 1e3, 1010))
        self.begin(ticket=4)
        self.assertEqual(self.heard(), [ChangeOpened(4, 2, 1, "freeze", "operator", 10.0, "told")])
        self.assertEqual((bool(self.changes), self.changes.last_id, self.changes.revision), (True, 2, 2))

    def test_estimate(self) -> None:
        """Without an expected time it is worked out; nothing is expected to take longer than the longest."""
        self.assertEqual(self.begin(None, "reboot").ends_s, 1040.0)
        facts = {"remaining_bytes": 60, "bandwidth_bytes_per_s": 2}
        self.assertEqual(self.begin(None, "migrate_out", facts=facts).ends_s, 1030.0)
        self.assertEqual(self.begin(500.0).ends_s, 1100.0)
        self.assertEqual(self.begin(None, "redeploy").ends_s, 1100.0)
        self.assertEqual([opened.expected_s for opened in self.heard()], [40.0, 30.0, 100.0, 100.0])

    def test_remaining(self) -> None:
        """Until the latest expected end; what is late is due at once."""
        self.assertEqual((self.changes.remaining_ms, self.changes.kind), (0, ""))
        self.begin(10.0, "freeze")
        self.begin(4.0, "vcpu")
        self.commons.now_s = 1003.5
        self.assertEqual((self.changes.remaining_ms, self.changes.kind), (6500, "freeze"))
        self.commons.now_s = 1011.0
        self.assertEqual(self.changes.remaining_ms, 0)

    def test_kind_is_that_of_the_last_to_end(self) -> None:
        """It is what the others are told."""
        self.begin(4.0, "vcpu")
        self.begin(10.0, "freeze")
        self.assertEqual(self.changes.kind, "freeze")
        self.changes.update(ChangeUpdated(1, 20.0, {}))
        self.assertEqual(self.changes.kind, "vcpu")
        self.changes.end(1, "done")
        self.assertEqual(self.changes.kind, "freeze")

    def test_holdable(self) -> None:
        """Only if every one of them can be held back."""
        self.begin()
        self.assertTrue(self.changes.holdable)
        sudden = self.begin(holdable=False)
        self.assertFalse(self.changes.holdable)
        self.changes.end(sudden.change_id, "done")
        self.assertTrue(self.changes.holdable)

    def test_update(self) -> None:
        """A new estimate counts from now on, is bounded like the first, and is announced anew."""
        self.begin(10.0)
        self.commons.now_s = 1008.0
        self.assertTrue(self.changes.update(ChangeUpdated(1, 30.0, {})))
        self.assertEqual((self.changes.remaining_ms, self.changes.revision), (30_000, 2))
        self.assertTrue(self.changes.update(ChangeUpdated(1, 2.0, {})))
        self.assertEqual(self.changes.remaining_ms, 2000)
        self.changes.update(ChangeUpdated(1, 500.0, {}))
        self.assertEqual(self.changes.remaining_ms, 100_000)

    def test_overdue(self) -> None:
        """Past the margin, and not before; a new estimate puts it off."""
        self.begin(10.0)
        self.begin(20.0)
        self.commons.now_s = 1014.9
        self.assertEqual(self.changes.overdue(), ())
        self.commons.now_s = 1015.0
        self.assertEqual(self.changes.overdue(), (1,))
        self.changes.update(ChangeUpdated(1, 1.0, {}))
        self.assertEqual(self.changes.overdue(), ())
        self.commons.now_s = 1030.0
        self.assertEqual(self.changes.overdue(), (1, 2))

    def test_overdue_before_the_others_give_up(self) -> None:
        """They hear that it is over while they still believe in it."""
        change = self.begin(10.0)
        believed_until_s = self.commons.now_s + patience_s(self.commons.config, 10.0)
        self.assertEqual(believed_until_s, 1019.0)
        self.assertLess(change.overdue_s, believed_until_s)

    def test_end(self) -> None:
        """Once; the absence is over with the last of them."""
        self.begin()
        self.begin()
        self.changes.answer(2, "")
        self.heard()
        self.assertTrue(self.changes.end(1, "done"))
        self.assertEqual(self.heard(), [ChangeClosed(1, "done")])
        self.assertEqual((bool(self.changes), self.changes.revision), (True, 3))
        self.assertFalse(self.changes.end(1, "done"))
        self.assertTrue(self.changes.end(2, "failed"))
        self.assertEqual(self.heard(), [ChangeClosed(2, "failed")])
        self.assertFalse(self.changes)

    def test_strangers(self) -> None:
        """There is nothing to update or to end, and nothing is said."""
        self.assertFalse(self.changes.update(ChangeUpdated(1, 5.0, {})))
        self.assertFalse(self.changes.end(1, "done"))
        self.assertEqual((self.heard(), self.changes.revision), ([], 0))

    def test_numbers_are_not_used_again(self) -> None:
        """The others tell one absence from the next by them."""
        self.begin()
        self.changes.end(1, "done")
        self.assertEqual(self.begin().change_id, 2)

    def test_answer(self) -> None:
        """The master's word is about every change up to the one it names, and each asker hears it once."""
        for _ in range(3):
            self.begin()
        self.heard()
        self.assertTrue(self.changes.unanswered)
        self.changes.answer(2, "")
        self.assertEqual(self.heard(), [ChangeAnswered(1, True), ChangeAnswered(2, True)])
        self.assertTrue(self.changes.unanswered)
        self.changes.answer(3, "too few")
        self.assertEqual(self.heard(), [ChangeAnswered(3, False, "too few")])
        self.assertFalse(self.changes.unanswered)
        self.changes.answer(3, "")
        self.assertEqual(self.heard(), [])

    def test_end_before_the_answer(self) -> None:
        """Whoever waits for the answer hears that there is none, and not that the absence is unsafe."""
        self.begin()
        self.heard()
        self.changes.end(1, "cancelled")
        self.assertEqual(self.heard(), [ChangeAnswered(1, False), ChangeClosed(1, "cancelled")])
        self.assertFalse(self.changes.unanswered)
