"""This node's own absence, from the first message to the third.

Section 5 of the protocol, as the node that is away lives it: announce, drain, hand over,
go; come back, be told, catch up, serve again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from txvbcast.core.changes import Changes
from txvbcast.core.commons import Commons
from txvbcast.core.following import Following
from txvbcast.core.inputs import ChangeBegan, ChangeUpdated
from txvbcast.core.journal import Journal
from txvbcast.core.marks import Mark
from txvbcast.core.ordering import Office
from txvbcast.core.proposals import Proposals
from txvbcast.core.roster import Departure, Roster
from txvbcast.core.signals import OwnStandingChanged
from txvbcast.core.standing import OwnLife, Peer
from txvbcast.core.submissions import Submissions
from txvbcast.core.succession import Succession
from txvbcast.core.table import leave_step
from txvbcast.wire.messages import (
    AbsenceOver,
    Confirmed,
    HandoverWhy,
    Heartbeat,
    Inactive,
    Normal,
    Resumed,
    Standing,
    StandingEntry,
    Unsafe,
)

#: A leaving node waits at most this many heartbeat timeouts for its own flights, and again for its successor.
LEAVE_AFTER_TIMEOUTS = 1


@attrs.define(eq=False)
class Absence:
    """What a node does about its own configuration changes.

    :ivar reconcile: lets a master order what the table lacks.
    """

    commons: Commons
    journal: Journal
    peers: Mapping[int, Peer]
    own: OwnLife
    changes: Changes
    submissions: Submissions
    proposals: Proposals
    following: Following
    roster: Roster
    succession: Succession
    reconcile: Callable[[], None]
    _leave_by_s: float = 0.0
    _answered: tuple[int, int] = (0, 0)

    @property
    def _office(self) -> Office | None:
        return self.succession.mastership.office

    @property
    def _key(self) -> tuple[int, int]:
        return (self.commons.stored.incarnation, self.own.core.announced_number)

    # --- changes ---------------------------------------------------------------------

    def on_change_began(self, event: ChangeBegan, third_party_number: int | None = None) -> None:
        """A configuration change begins on this node.

        :param third_party_number: the number under which another node has spoken of it.
        """
        self.changes.begin(event, third_party_number)
        away = self.own.state in ("leaving", "inactive")
        self._leave_by_s = self.commons.now_s + LEAVE_AFTER_TIMEOUTS * self.commons.config.heartbeat.timeout_s
        if away:
            self.commons.reach(Mark.CHANGES_OVERLAP)
        self.own.machine.change_began()
        if not self.changes.holdable or (away and self.own.core.announced):
            self._announce()
        self.go_on_leaving()

    def on_change_updated(self, event: ChangeUpdated) -> None:
        """New facts, or a new estimate."""
        if self.changes.update(event) and self.own.core.announced:
            self.commons.reach(Mark.ESTIMATE_ANNOUNCED_ANEW)
            self._announce()

    # --- what a third party says of this node -----------------------------------------------

    def on_third_party(self, kind: str, expected_ms: int, source: str, key: tuple[int, int]) -> bool:
        """Another node speaks of an absence of this one: it becomes a change of its own, if it is news.

        While this node returns from an absence it is none: the word is about what is past.

        :returns: whether it has become one.
        """
        incarnation, number = key
        if incarnation != self.commons.stored.incarnation or number <= self.changes.last_number:
            self.commons.reach(Mark.THIRD_PARTY_TOO_LATE)
            return False
        if self.own.state in ("returning", "catching_up"):
            self.commons.reach(Mark.THIRD_PARTY_WHILE_RETURNING)
            self._skip_to(key)
            return False
        self.commons.reach(Mark.THIRD_PARTY_TAKEN_UP)
        began = ChangeBegan(0, kind, max(expected_ms, 1) / 1000, {}, holdable=False, source=source)
        self.on_change_began(began, number)
        return True

    def on_over(self, message: AbsenceOver) -> None:
        """The third party says that it is over."""
        key = (message.incarnation, message.change_id)
        change = self.changes.by_third_party(message.change_id)
        if message.incarnation == self.commons.stored.incarnation and change is not None:
            self.end_change(change.change_id, "done")
        else:
            self.commons.reach(Mark.THIRD_PARTY_OVER_BEFORE_HEARD)
            self._skip_to(key)

    def _skip_to(self, key: tuple[int, int]) -> None:
        """Others know of an absence by that number: this node's own word must not be below it."""
        if key[0] == self.commons.stored.incarnation:
            self.changes.skip_to(key[1])
            self.own.core.announced_number = max(self.own.core.announced_number, key[1])

    def end_change(self, change_id: int, outcome: str) -> None:
        """A change is over; with the last of them the absence is."""
        if not self.changes.end(change_id, outcome):
            return
        if self.changes:
            self.commons.reach(Mark.ONE_OF_SEVERAL_CHANGES_OVER)
            if self.own.core.announced:
                self._announce()
            return
        if self.roster.departing is not None:
            self.commons.reach(Mark.DEPARTURE_CALLED_OFF)
            self.roster.departing = None
            if self.succession.plan is not None and self.succession.plan.why is HandoverWhy.ABSENCE:
                self.commons.reach(Mark.HANDOVER_CALLED_OFF)
                self.succession.cancel_plan("the change is over")
        self.own.machine.changes_over()

    def on_tick(self) -> None:
        """Look at the time limits."""
        for change_id in self.changes.overdue():
            self.commons.reach(Mark.CHANGE_OVERDUE)
            self.end_change(change_id, "overdue")
        self.go_on_leaving()

    # --- leaving ----------------------------------------------------------------------

    def _announce(self) -> None:
        """The first message: to everybody, over the links and at once as datagrams."""
        self._mark_announced()
        message = self._announcement()
        self.commons.send_datagrams(message)
        self.commons.send_all(message)

    def _mark_announced(self) -> None:
        self.own.core.announced = True
        self.own.core.announced_number = self.changes.last_number

    def _announcement(self) -> Inactive:
        return Inactive(
            member=self.commons.me,
            incarnation=self.commons.stored.incarnation,
            change_id=self.own.core.announced_number,
            revision=self.changes.revision,
            kind=self.changes.kind,
            expected_ms=self.changes.remaining_ms,
            epoch=self.journal.log_epoch,
            stored=max(0, self.journal.stored),
            source=self.changes.source,
        )

    def ask_again(self, master: int) -> None:
        """The master's answer is still missing: it, or the announcement, may be lost."""
        if self.changes.unanswered and self.own.core.announced:
            self.commons.send(master, self._announcement())

    def go_on_leaving(self) -> None:
        """Leave as soon as own flights are decided and the office is in other hands."""
        if self.own.state != "leaving":
            return
        late = self.commons.now_s >= self._leave_by_s
        if self.changes.holdable and not self.submissions.idle and not late:
            return
        if self._office is not None and self._is_handing_over():
            return
        if not self.submissions.idle:
            self.commons.reach(Mark.LEAVES_WITH_FLIGHTS_UNDECIDED)
        self.own.machine.cleared()

    def _is_handing_over(self) -> bool:
        """Whether a leaving master still has something to wait for."""
        successor = self.succession.successor()
        give_up_s = self._leave_by_s + LEAVE_AFTER_TIMEOUTS * self.commons.config.heartbeat.timeout_s
        if not successor or self.commons.now_s >= give_up_s:
            self.commons.reach(Mark.LEAVES_IN_OFFICE if successor else Mark.LEAVES_WITHOUT_SUCCESSOR)
            return False
        if self.succession.plan is not None:
            return True
        if self.roster.departing is None:
            self._mark_announced()
            self.roster.departing = Departure(self.changes.kind, self.changes.remaining_ms, self.changes.source)
            self.reconcile()
        if self.roster.has_departed:
            self.succession.plan_handover(successor, HandoverWhy.ABSENCE)
        return True

    def on_answer(self, peer: int, message: Confirmed | Unsafe) -> None:
        """The master's word on this absence."""
        if message.incarnation == self.commons.stored.incarnation:
            self.changes.answer(message.change_id, message.reason if isinstance(message, Unsafe) else "")

    # --- its own standing ---------------------------------------------------------------

    def on_own_standing(self, signal: OwnStandingChanged) -> None:
        """This node's life has gone on: say so."""
        if signal.state == "leaving":
            self.go_on_leaving()
        elif signal.state == "inactive":
            self._on_gone()
        elif signal.state == "returning":
            # The second message, for the master; whoever gets it passes it on.
            self.commons.send_others(self._resumed())
            self.reconcile()
        elif signal.state == "normal":
            self._on_back()

    def _on_gone(self) -> None:
        self._announce()
        if self._office is not None:
            # Nobody can take the office over: the cluster stands still while this node is away.
            step = leave_step(self.journal.table, self.commons.me, self.commons.config.quorum.planned_floor)
            self.changes.answer(self.own.core.announced_number, step.unsafe or "no normal voter can be master instead")

    def _on_back(self) -> None:
        """The third message: to everybody; and the votes that were asked for meanwhile."""
        self.commons.send_others(Normal(self.commons.me, *self._key))
        self.peers[self.commons.me].machine.returned()
        self.proposals.go_on_voting()
        self.commons.need_turn()

    def _resumed(self) -> Resumed:
        return Resumed(
            member=self.commons.me,
            incarnation=self.commons.stored.incarnation,
            change_id=self.own.core.announced_number,
            log_epoch=self.journal.log_epoch,
            stored=max(0, self.journal.stored),
            committed=self.journal.committed,
        )

    # --- being told -----------------------------------------------------------------------

    def on_told(self, entry: StandingEntry) -> None:
        """The log has spoken of this node; what it says of an earlier life or absence is past."""
        standing, key = entry.standing, (entry.incarnation, entry.change_id)
        if key < self._key:
            return
        is_news = key > self._key and standing is Standing.INACTIVE
        if is_news and self.on_third_party(entry.kind, entry.expected_ms, entry.source, key):
            return
        self._skip_to(key)
        if standing is Standing.NORMAL:
            self.own.machine.told_normal()
        elif standing is Standing.CATCHING_UP:
            self.own.machine.told_catching_up()
        else:
            self.own.machine.told_absent()

    def on_heartbeat(self, heartbeat: Heartbeat) -> None:
        """The master's table is where this node learns that it is taken for absent."""
        if self.own.state in ("leaving", "inactive"):
            return
        key = (heartbeat.incarnation, heartbeat.change_id)
        if key > self._key:
            if heartbeat.standing is Standing.INACTIVE and self.own.state == "normal":
                return  # a third party's word, which is still on its way here
            self._skip_to(key)
        if key < self._key or heartbeat.standing in (Standing.FAILED, Standing.INACTIVE):
            self.own.machine.told_absent()
            self._answer(heartbeat)
        elif heartbeat.standing is Standing.CATCHING_UP and self.own.state == "returning":
            self.own.machine.told_catching_up()
        elif heartbeat.standing is Standing.NORMAL:
            self.check_told_normal(heartbeat.ordered)

    def _answer(self, heartbeat: Heartbeat) -> None:
        """Once a beat: the master answers RESUMED with a heartbeat, and the two would go round without end."""
        if (heartbeat.epoch, heartbeat.beat) != self._answered:
            self._answered = (heartbeat.epoch, heartbeat.beat)
            self.commons.send(self.following.master, self._resumed())

    def check_told_normal(self, ordered: int) -> None:
        """Normal again without an entry: the log never said otherwise, or what did was dropped with its epoch.

        :param ordered: how far the master's log goes, by which this node is normal.
        """
        journal = self.journal
        member = journal.applied_table[self.commons.me]
        if self.own.state not in ("returning", "catching_up"):
            return
        known = self.following.adopted and journal.tail >= ordered
        if not known or journal.table[self.commons.me] != member:
            return  # what is still to be fetched or applied may speak of this node
        if member.standing is Standing.NORMAL and member.absence >= self._key:
            self.commons.reach(Mark.NORMAL_AGAIN_WITHOUT_ENTRY)
            self.own.machine.told_normal()
