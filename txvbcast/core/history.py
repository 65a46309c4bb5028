"""How well absences were foretold, and how many there were: for people, ``doctor`` and metrics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import attrs

from txvbcast.core.estimator import PAST_MAX, QUANTILE
from txvbcast.core.inputs import PastAbsence

#: So many pairs of kind and source are counted apart; absences of further sources are counted as by ``OTHERS``.
PAIRS_MAX = 200
OTHERS = "others"

#: A cancelled or failed change says nothing of how long one takes; an overdue one took longer than its record says.
_TELLING = ("done", "overdue")


@attrs.frozen
class Prediction:
    """How well the latest absences of one kind and source were foretold.

    :ivar count: how many there were that took their course, at most PAST_MAX; overdue: how many of them
        were taken for ended because nobody said so in time.
    :ivar ratio: the median of actual over first announced length.
    :ivar within_announced: the share that was over within the length that was announced first.
    :ivar within_believed: the share that was over before the others would have taken the member for failed: within
        its last estimate times ``inactivity.margin``.
    :ivar needed_ms: a length, needed_margin: an ``inactivity.margin``, that nine of ten would have kept to.
    :ivar basis: what the latest estimate rested on, see :mod:`txvbcast.core.estimator`.
    """

    kind: str
    source: str
    count: int
    overdue: int
    ratio: float
    within_announced: float
    within_believed: float
    needed_ms: int
    needed_margin: float
    basis: str


def predictions(records: Iterable[PastAbsence], margin: float) -> list[Prediction]:
    """One for each kind and source that occurs, in the order of the alphabet.

    :param records: oldest first.
    :param margin: ``inactivity.margin``.
    """
    pairs: dict[tuple[str, str], list[PastAbsence]] = {}
    for record in records:
        # They come from a disk: one without a length would be divided by.
        if record.outcome in _TELLING and record.announced_s > 0 and record.expected_s > 0:
            pairs.setdefault((record.kind, record.source), []).append(record)
    return [_prediction(pair, of_pair[-PAST_MAX:], margin) for pair, of_pair in sorted(pairs.items())]


def _prediction(pair: tuple[str, str], records: Sequence[PastAbsence], margin: float) -> Prediction:
    done = [record for record in records if record.outcome == "done"]
    return Prediction(
        kind=pair[0],
        source=pair[1],
        count=len(records),
        overdue=len(records) - len(done),
        ratio=round(statistics.median(record.actual_s / record.announced_s for record in records), 3),
        within_announced=round(sum(record.actual_s <= record.announced_s for record in done) / len(records), 3),
        within_believed=round(sum(record.actual_s <= margin * record.expected_s for record in done) / len(records), 3),
        needed_ms=round(_high(record.actual_s for record in records) * 1000),
        needed_margin=round(_high(record.actual_s / record.expected_s for record in records), 3),
        basis=records[-1].basis,
    )


def _high(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(QUANTILE * len(ordered)) - 1]


@attrs.define
class Counter:
    """Absences of one kind and source that ended in this life of the node; these numbers only rise.

    :ivar ended: all of them; confirmed: those that the cluster took note of; unsafe: those that it could not afford;
        overdue: those that nobody said the end of.
    :ivar announced_s_total, actual_s_total: the sums of the lengths that were announced first, and of the real ones.
    """

    kind: str
    source: str
    ended: int = 0
    confirmed: int = 0
    unsafe: int = 0
    overdue: int = 0
    announced_s_total: float = 0.0
    actual_s_total: float = 0.0

    def count(self, record: PastAbsence) -> None:
        """Another one has ended."""
        self.ended += 1
        self.confirmed += record.confirmed
        self.unsafe += bool(record.unsafe)
        self.overdue += record.outcome == "overdue"
        self.announced_s_total += record.announced_s
        self.actual_s_total += record.actual_s


@attrs.define
class Counters:
    """The absences that ended in this life of the node, by kind and source."""

    _pairs: dict[tuple[str, str], Counter] = attrs.field(factory=dict)

    def count(self, record: PastAbsence) -> None:
        """Another one has ended."""
        pair = (record.kind, record.source)
        if pair not in self._pairs and len(self._pairs) >= PAIRS_MAX:
            pair = (record.kind, OTHERS)
        self._pairs.setdefault(pair, Counter(*pair)).count(record)

    def documents(self) -> list[dict[str, object]]:
        """Ready for JSON and for metrics, in the order of the alphabet."""
        return [attrs.asdict(counter) for _, counter in sorted(self._pairs.items())]
