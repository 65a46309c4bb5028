"""The configuration changes under way on this node, and the one absence they add up to."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from txvbcast.config import ProtocolConfig
from txvbcast.core.commons import Commons
from txvbcast.core.effects import ChangeAnswered, ChangeClosed, ChangeEstimated, ChangeOpened
from txvbcast.core.estimator import Estimate, estimate
from txvbcast.core.inputs import ChangeBegan, ChangeUpdated
from txvbcast.wire.messages import SELF

#: Estimates on these grounds look at what is still to be done; the others know no more than at the beginning.
FROM_NOW_ON = ("platform", "formula", "learned")
#: A new estimate is told the others if the end moves by this part of the time that remains, or more.
REFINE_RATIO = 0.2


@attrs.define(eq=False)
class Change:
    """A change under way.

    :ivar change_id: the driver's name for it; number: the others' (``change_id`` in messages and the log).
    :ivar facts: all that its source has said.
    :ivar told: by an operator or another node how long it takes, so that facts do not count.
    :ivar third_party: another node has spoken of it, and marks the announcement with its source.
    :ivar ends_s: when it is expected to end; overdue_s: when it is taken for ended.
    """

    change_id: int
    number: int
    kind: str
    source: str
    holdable: bool
    facts: dict[str, object]
    told: bool
    third_party: bool
    began_s: float
    ends_s: float = 0.0
    overdue_s: float = 0.0
    answered: bool = False


@attrs.define(eq=False)
class Changes:
    """All changes under way; the node stays inactive until the last of them ends.

    :ivar last_id: the latest that the driver knows of in this life of the node; 0 for none.
    :ivar last_number: the latest that others know of, or may come to know of.
    :ivar revision: rises with everything that is announced anew.
    """

    commons: Commons
    under_way: dict[int, Change] = attrs.field(factory=dict)
    last_id: int = 0
    last_number: int = 0
    revision: int = 0

    @property
    def config(self) -> ProtocolConfig:
        """The node's configuration."""
        return self.commons.config

    def __bool__(self) -> bool:
        return bool(self.under_way)

    def next_id(self) -> int:
        """A name for the driver."""
        self.last_id += 1
        return self.last_id

    def begin(self, began: ChangeBegan, third_party_number: int | None = None) -> Change:
        """Take note of a change; the asker hears its name and how long it is expected to take.

        :param third_party_number: the number under which another node has spoken of it.
        """
        self.last_number = self.last_number + 1 if third_party_number is None else third_party_number
        change = Change(
            self.next_id(),
            self.last_number,
            began.kind,
            began.source,
            began.holdable,
            dict(began.facts),
            told=began.expected_s is not None,
            third_party=third_party_number is not None,
            began_s=self.commons.now_s,
        )
        found = self._estimate(change, began.expected_s)
        self._expect(change, found.expected_s)
        self.under_way[change.change_id] = change
        self.revision += 1
        self.commons.out.append(
            ChangeOpened(
                began.ticket,
                change.change_id,
                self.commons.me,
                change.kind,
                change.source,
                found.expected_s,
                found.basis,
            )
        )
        return change

    def skip_to(self, number: int) -> None:
        """Others know of an absence of this node under that number: its next one has a higher."""
        self.last_number = max(self.last_number, number)

    def by_third_party(self, number: int) -> Change | None:
        """The change of which another node has spoken under that number."""
        spoken = (change for change in self.under_way.values() if change.third_party and change.number == number)
        return next(spoken, None)

    def update(self, updated: ChangeUpdated) -> bool:
        """New facts, or a new estimate; whether the others should hear of it."""
        change = self.under_way.get(updated.change_id)
        if change is None:
            return False
        change.facts.update(updated.facts)
        if updated.expected_s is None and change.told:
            return False
        change.told = updated.expected_s is not None
        now_s, before_s = self.commons.now_s, change.ends_s
        found = self._estimate(change, updated.expected_s)
        if not change.told and found.basis not in FROM_NOW_ON:
            return False  # nothing is known of how far it has got
        moved_s = abs(now_s + found.expected_s - before_s)
        if not change.told and moved_s < REFINE_RATIO * max(before_s - now_s, self.config.heartbeat.interval_s):
            return False
        self._expect(change, found.expected_s)
        self.revision += 1
        self.commons.out.append(ChangeEstimated(change.change_id, found.expected_s, found.basis))
        return True

    def _estimate(self, change: Change, told_s: float | None) -> Estimate:
        elapsed_s = self.commons.now_s - change.began_s
        return estimate_of(self.commons, change.kind, change.source, change.facts, told_s, elapsed_s)

    def _expect(self, change: Change, length_s: float) -> None:
        change.ends_s = self.commons.now_s + length_s
        change.overdue_s = self._overdue_s(length_s)

    def end(self, change_id: int, outcome: str) -> bool:
        """A change is over; False if there is no such change."""
        change = self.under_way.pop(change_id, None)
        if change is None:
            return False
        self._answer(change, ChangeAnswered(change_id, confirmed=False))
        self.revision += 1
        self.commons.out.append(ChangeClosed(change_id, outcome))
        self.commons.learn(change.kind, change.source, self.commons.now_s - change.began_s, outcome)
        return True

    def overdue(self) -> tuple[int, ...]:
        """Changes whose source has not said that they ended, long after they should have."""
        return tuple(change.change_id for change in self.under_way.values() if change.overdue_s <= self.commons.now_s)

    def answer(self, upto_number: int, unsafe: str) -> None:
        """The master's word on the absence that the change of that number began or prolonged."""
        for change in self.under_way.values():
            if change.number <= upto_number:
                self._answer(change, ChangeAnswered(change.change_id, not unsafe, unsafe))

    def _answer(self, change: Change, answer: ChangeAnswered) -> None:
        if not change.answered:
            change.answered = True
            self.commons.out.append(answer)

    def _overdue_s(self, length_s: float) -> float:
        # A heartbeat timeout sooner than for the others, so that they hear of the end before they give up.
        return self.commons.now_s + length_s * self.config.inactivity.margin

    @property
    def unanswered(self) -> bool:
        """Whether an asker still waits for the master's word."""
        return any(not change.answered for change in self.under_way.values())

    @property
    def holdable(self) -> bool:
        """Whether all changes under way can be held back."""
        return all(change.holdable for change in self.under_way.values())

    @property
    def remaining_ms(self) -> int:
        """Until the latest expected end, from now."""
        ends_s = max((change.ends_s for change in self.under_way.values()), default=self.commons.now_s)
        return max(0, round((ends_s - self.commons.now_s) * 1000))

    @property
    def _latest(self) -> Change | None:
        return max(self.under_way.values(), key=lambda change: change.ends_s, default=None)

    @property
    def kind(self) -> str:
        """The kind of the change that is expected to end last."""
        latest = self._latest
        return latest.kind if latest else ""

    @property
    def source(self) -> str:
        """Who has spoken of it: ``self``, or a third party."""
        latest = self._latest
        return latest.source if latest and latest.third_party else SELF


def estimate_of(
    commons: Commons,
    kind: str,
    source: str,
    facts: Mapping[str, object],
    told_s: float | None,
    elapsed_s: float = 0.0,
) -> Estimate:
    """How long a change takes from now on: as somebody has said, or as the estimator finds.

    :param elapsed_s: how long it has taken already: of earlier ones only those count that took longer.
    """
    config = commons.config
    if told_s is not None:
        return Estimate(min(told_s, config.inactivity.max_s), "told")
    past_s = [past_s - elapsed_s for past_s in commons.past_s.get((kind, source), ()) if past_s > elapsed_s]
    return estimate(kind, facts, past_s, config.estimates_s, config.inactivity.max_s)


def patience_s(config: ProtocolConfig, expected_s: float) -> float:
    """How long an absence of ``expected_s`` is believed in before it is overdue."""
    return expected_s * config.inactivity.margin + config.heartbeat.timeout_s
