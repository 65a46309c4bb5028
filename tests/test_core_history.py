"""How well absences were foretold, and how many there were."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from tests.core_samples import examples
from tests.store_samples import absence
from txvbcast.core.estimator import PAST_MAX
from txvbcast.core.history import OTHERS, PAIRS_MAX, Counters, Prediction, predictions
from txvbcast.core.inputs import PastAbsence

MARGIN = 1.5

seconds = st.floats(0, 10**6)
records = st.builds(
    absence,
    st.just(1),
    st.sampled_from(("qmp", "azure")),
    kind=st.sampled_from(("freeze", "memory")),
    announced_s=seconds,
    expected_s=seconds,
    actual_s=seconds,
    outcome=st.sampled_from(("done", "overdue", "cancelled", "failed")),
)


def took(actual_s: float, **other: Any) -> PastAbsence:
    """An absence that was announced, and last expected, to take 4 s."""
    return absence(1, **{"announced_s": 4.0, "expected_s": 4.0, "actual_s": actual_s, **other})


class PredictionTests(unittest.TestCase):
    """Announced against actual."""

    def only(self, *past: PastAbsence) -> Prediction:
        """The one prediction about these."""
        (prediction,) = predictions(past, MARGIN)
        return prediction

    def test_as_announced(self) -> None:
        """All over in time."""
        self.assertEqual(
            self.only(took(4.0), took(3.0), took(2.0)),
            Prediction(
                kind="migrate_out",
                source="qmp",
                count=3,
                overdue=0,
                ratio=0.75,
                within_announced=1.0,
                within_believed=1.0,
                needed_ms=4000,
                needed_margin=1.0,
                basis="formula",
            ),
        )

    def test_too_short(self) -> None:
        """Some of them kept to the margin, some to nothing."""
        found = self.only(took(3.0), took(6.0), took(6.1), took(8.0))
        self.assertEqual((found.within_announced, found.within_believed), (0.25, 0.5))
        self.assertEqual((found.needed_ms, found.needed_margin), (8000, 2.0))

    def test_announced_anew(self) -> None:
        """The others believe in the last estimate; how good the first one was is another question."""
        found = self.only(took(8.0, expected_s=8.0, basis="told"))
        self.assertEqual((found.within_announced, found.within_believed, found.ratio), (0.0, 1.0, 2.0))
        self.assertEqual((found.needed_margin, found.basis), (1.0, "told"))

    def test_overdue(self) -> None:
        """Nobody knows how long it took; longer than is believed, in any case."""
        found = self.only(took(6.0, outcome="overdue"), took(4.0))
        self.assertEqual((found.count, found.overdue, found.within_announced, found.within_believed), (2, 1, 0.5, 0.5))

    def test_nothing_is_told_by(self) -> None:
        """A change that did not happen, or a record that is damaged."""
        past = [took(1.0, outcome="cancelled"), took(1.0, outcome="failed"), took(1.0, outcome="")]
        past += [took(1.0, announced_s=0.0), took(1.0, expected_s=-1.0)]
        self.assertEqual(predictions(past, MARGIN), [])

    def test_nine_of_ten(self) -> None:
        """One that took exceptionally long does not count."""
        self.assertEqual(self.only(*(took(1.0) for _ in range(9)), took(100.0)).needed_ms, 1000)

    def test_latest(self) -> None:
        """What was long ago is forgotten."""
        found = self.only(*(took(100.0) for _ in range(50)), *(took(1.0, basis="learned") for _ in range(PAST_MAX)))
        self.assertEqual((found.count, found.needed_ms, found.basis), (PAST_MAX, 1000, "learned"))

    def test_each_kind_and_source(self) -> None:
        """By themselves, in the order of the alphabet."""
        past = [took(1.0, source="qmp"), took(2.0, source="azure"), took(3.0, source="azure", kind="freeze")]
        found = [(each.kind, each.source, each.needed_ms) for each in predictions(past, MARGIN)]
        wanted = [("freeze", "azure", 3000), ("migrate_out", "azure", 2000), ("migrate_out", "qmp", 1000)]
        self.assertEqual(found, wanted)

    @examples()
    @given(st.lists(records, max_size=20))
    def test_shares(self, past: list[PastAbsence]) -> None:
        """Whatever the records hold."""
        for each in predictions(past, MARGIN):
            for share in (each.within_announced, each.within_believed):
                self.assertTrue(0 <= share <= 1, each)
            self.assertTrue(0 <= each.overdue <= each.count)
            self.assertGreaterEqual(min(each.ratio, each.needed_ms, each.needed_margin), 0)


class CounterTests(unittest.TestCase):
    """Numbers that only rise."""

    def test_count(self) -> None:
        """Each absence that has ended, by kind and source."""
        counters = Counters()
        self.assertEqual(counters.documents(), [])
        for past in (
            took(3.0),
            took(5.0, outcome="overdue"),
            took(1.0, outcome="cancelled", confirmed=False, unsafe="too few"),
            took(2.0, source="azure"),
        ):
            counters.count(past)
        qmp = {
            "kind": "migrate_out",
            "source": "qmp",
            "ended": 3,
            "confirmed": 2,
            "unsafe": 1,
            "overdue": 1,
            "announced_s_total": 12.0,
            "actual_s_total": 9.0,
        }
        azure = {**qmp, "source": "azure", "ended": 1, "confirmed": 1, "unsafe": 0, "overdue": 0}
        azure |= {"announced_s_total": 4.0, "actual_s_total": 2.0}
        self.assertEqual(counters.documents(), [azure, qmp])

    def test_bounded(self) -> None:
        """Sources without end are counted together."""
        counters = Counters()
        for number in range(PAIRS_MAX + 5):
            counters.count(took(1.0, source=f"program {number}"))
        counters.count(took(1.0, source="program 0"))
        documents = {document["source"]: document["ended"] for document in counters.documents()}
        self.assertEqual((len(documents), documents[OTHERS], documents["program 0"]), (PAIRS_MAX + 1, 5, 2))

    @examples()
    @given(st.lists(records, max_size=20))
    def test_rising(self, past: list[PastAbsence]) -> None:
        """Whatever comes, no number falls."""
        counters = Counters()
        before: list[tuple[Any, ...]] = []
        for record in past:
            counters.count(record)
            after = [attrs.astuple(counter)[2:] for _, counter in sorted(counters._pairs.items())]
            self.assertGreaterEqual(sum(map(sum, after)), sum(map(sum, before)))
            before = after
