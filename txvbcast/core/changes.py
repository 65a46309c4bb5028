"""The configuration changes under way on this node, and the one absence they add up to."""

from __future__ import annotations

import attrs

from txvbcast.config import ProtocolConfig
from txvbcast.core.commons import Commons
from txvbcast.core.effects import ChangeAnswered, ChangeClosed, ChangeOpened
from txvbcast.core.estimator import expected_s
from txvbcast.core.inputs import ChangeBegan


@attrs.define(eq=False)
class Change:
    """A change under way.

    :ivar ends_s: when it is expected to end; overdue_s: when it is taken for ended.
    """

    change_id: int
    kind: str
    source: str
    holdable: bool
    began_s: float
    ends_s: float
    overdue_s: float
    answered: bool = False


@attrs.define(eq=False)
class Changes:
    """All changes under way; the node stays inactive until the last of them ends.

    :ivar last_id: the latest change that began in this life of the node; 0 for none.
    :ivar revision: rises with everything that is announced anew.
    """

    commons: Commons
    under_way: dict[int, Change] = attrs.field(factory=dict)
    last_id: int = 0
    revision: int = 0

    @property
    def config(self) -> ProtocolConfig:
        """The node's configuration."""
        return self.commons.config

    def __bool__(self) -> bool:
        return bool(self.under_way)

    def begin(self, began: ChangeBegan) -> Change:
        """Take note of a change; the asker hears its name and how long it is expected to take."""
        max_s = self.config.inactivity.max_s
        estimate_s = expected_s(began.kind, began.facts, self.config.estimates_s, max_s)
        length_s = estimate_s if began.expected_s is None else min(began.expected_s, max_s)
        self.last_id += 1
        now_s = self.commons.now_s
        change = Change(
            self.last_id, began.kind, began.source, began.holdable, now_s, now_s + length_s, self._overdue_s(length_s)
        )
        self.under_way[change.change_id] = change
        self.revision += 1
        self.commons.out.append(ChangeOpened(began.ticket, change.change_id, length_s))
        return change

    def update(self, change_id: int, length_s: float) -> bool:
        """A new estimate: ``length_s`` from now on; False if there is no such change."""
        change = self.under_way.get(change_id)
        if change is None:
            return False
        length_s = min(length_s, self.config.inactivity.max_s)
        change.ends_s = self.commons.now_s + length_s
        change.overdue_s = self._overdue_s(length_s)
        self.revision += 1
        return True

    def end(self, change_id: int, outcome: str) -> bool:
        """A change is over; False if there is no such change."""
        change = self.under_way.pop(change_id, None)
        if change is None:
            return False
        self._answer(change, ChangeAnswered(change_id, confirmed=False))
        self.revision += 1
        self.commons.out.append(ChangeClosed(change_id, outcome))
        return True

    def overdue(self) -> tuple[int, ...]:
        """Changes whose source has not said that they ended, long after they should have."""
        return tuple(change.change_id for change in self.under_way.values() if change.overdue_s <= self.commons.now_s)

    def answer(self, upto_change_id: int, unsafe: str) -> None:
        """The master's word on the absence that ``upto_change_id`` began or prolonged."""
        for change in self.under_way.values():
            if change.change_id <= upto_change_id:
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
    def kind(self) -> str:
        """The kind of the change that is expected to end last."""
        latest = max(self.under_way.values(), key=lambda change: change.ends_s, default=None)
        return latest.kind if latest else ""


def patience_s(config: ProtocolConfig, expected_s: float) -> float:
    """How long an absence of ``expected_s`` is believed in before it is overdue."""
    return expected_s * config.inactivity.margin + config.heartbeat.timeout_s
