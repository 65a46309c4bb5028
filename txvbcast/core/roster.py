"""The master keeps the table in step with what it hears of the members.

Section 5: announcements, silence, returns and catching up become entries of the log, one
uncommitted at a time (more may follow about the same member).  The roster holds no plan:
at each look it compares what it hears with what the log says, and orders the next entry.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from txvbcast.core.commons import Commons
from txvbcast.core.journal import Journal
from txvbcast.core.liveness import Liveness
from txvbcast.core.marks import Mark
from txvbcast.core.ordering import Office
from txvbcast.core.standing import OwnLife, Peer
from txvbcast.core.table import Member, leave_step, unsafe_now
from txvbcast.wire.messages import Confirmed, Resumed, Standing, StandingEntry, Unsafe


@attrs.frozen
class Departure:
    """This node's own absence, which it wants in the log before it hands its office over."""

    kind: str
    expected_ms: int
    source: str


@attrs.define(eq=False)
class Roster:
    """What a master knows beside the log; empty at the beginning of each office.

    :ivar resumed: the latest RESUMED of each member, until it led to an entry.
    :ivar departing: the master's own absence, once it is about to leave.
    :ivar tail_before: the end of the log a tick ago: who holds that has caught up.
    """

    commons: Commons
    journal: Journal
    liveness: Liveness
    peers: Mapping[int, Peer]
    own: OwnLife
    resumed: dict[int, Resumed] = attrs.field(factory=dict)
    departing: Departure | None = None
    tail_before: int = 0
    tail_now: int = 0

    def reset(self) -> None:
        """A new office begins, or this one is over."""
        self.resumed.clear()
        self.departing = None
        self.tail_before = self.tail_now = self.journal.tail

    def on_tick(self) -> None:
        """Time has passed."""
        self.tail_before, self.tail_now = self.tail_now, self.journal.tail

    def on_resumed(self, message: Resumed) -> None:
        """A member is back."""
        known = self.resumed.get(message.member)
        if known is None or (known.incarnation, known.change_id) <= (message.incarnation, message.change_id):
            self.resumed[message.member] = message
        else:
            self.commons.reach(Mark.RESUMED_OF_EARLIER_ABSENCE)

    def reconcile(self, office: Office) -> None:
        """Order what the table lacks, as far as the rules allow it now."""
        for node_id in sorted(self.peers):
            member = self.journal.table[node_id]  # as the entries of this very round have left it
            about = {entry.standing.node_id for entry in self.journal.open_standings if entry.standing}
            wanted = self._wanted(member, office)
            if wanted is None or about - {wanted.node_id}:
                if wanted is not None:
                    self.commons.reach(Mark.STANDING_HELD_BACK)
                continue
            if about:
                self.commons.reach(Mark.MORE_STANDINGS_OF_ONE_MEMBER)
            office.order_standing(wanted)
            if wanted.standing is not Standing.INACTIVE:
                self.resumed.pop(wanted.node_id, None)

    # --- what the table should say -------------------------------------------------

    def _wanted(self, member: Member, office: Office) -> StandingEntry | None:
        if member.node_id == self.commons.me:
            return self._wanted_self(member)
        absent = self._wanted_absent(member)
        if absent is not None:
            return absent
        if self._is_back(member):
            return self._entry(member, Standing.CATCHING_UP, "it has resumed", self._back_key(member))
        caught_up = office.stored.get(member.node_id, -1) >= self.tail_before
        if member.standing is Standing.CATCHING_UP and caught_up and not self._is_silent(member):
            if not member.voter:
                self.commons.reach(Mark.VOTE_RESTORED)
            return self._entry(member, Standing.NORMAL, "it has caught up", voter=True)
        return self._wanted_failed(member)

    def _wanted_self(self, member: Member) -> StandingEntry | None:
        state = self.own.state
        key = (self.commons.stored.incarnation, self.own.core.announced_number)
        if self.departing is not None and not self.has_departed:
            return self._leave(member, key, self.departing)
        settled = member.standing is Standing.NORMAL and member.absence >= key
        if state in ("returning", "catching_up") and not settled:
            # The master has adopted the best log, so it lacks nothing.
            key = max(key, member.absence)
            return self._entry(member, Standing.NORMAL, "it is the master", key, voter=True)
        return None

    @property
    def has_departed(self) -> bool:
        """Whether this node's own absence is in the log."""
        member = self.journal.table[self.commons.me]
        key = (self.commons.stored.incarnation, self.own.core.announced_number)
        return member.standing is Standing.INACTIVE and member.absence >= key

    def _wanted_absent(self, member: Member) -> StandingEntry | None:
        peer = self.peers[member.node_id].core
        if peer.standing is not Standing.INACTIVE or peer.deadline_s is None or self.commons.now_s >= peer.deadline_s:
            return None
        back = self.resumed.get(member.node_id)
        if back is not None and (back.incarnation, back.change_id) >= peer.absence:
            self.commons.reach(Mark.BACK_WHILE_STILL_ANNOUNCED)
            return None
        if member.absence >= peer.absence:
            return None  # the log has spoken of this absence already
        return self._leave(member, peer.absence, Departure(peer.kind, peer.expected_ms, peer.source))

    def _leave(self, member: Member, key: tuple[int, int], departure: Departure) -> StandingEntry:
        step = leave_step(self.journal.table, member.node_id, self.commons.config.quorum.planned_floor)
        if step.node_id != member.node_id:
            self.commons.reach(Mark.VOTE_TAKEN_FROM_LONGER_ABSENT)
            other = self.journal.table[step.node_id]
            reason = f"its vote is not needed while it is away, and node {member.node_id} leaves too"
            return self._entry(other, other.standing, reason, voter=step.voter)
        if step.unsafe:
            at_floor = len(self.journal.table.voters) <= self.commons.config.quorum.planned_floor
            self.commons.reach(Mark.UNSAFE_AT_PLANNED_FLOOR if at_floor else Mark.UNSAFE_FOR_QUORUM)
        elif member.voter and not step.voter:
            self.commons.reach(Mark.VOTE_TAKEN)
        reason = step.unsafe or f"it announced its absence ({departure.kind})"
        entry = self._entry(member, Standing.INACTIVE, reason, key, voter=step.voter)
        return attrs.evolve(entry, kind=departure.kind, expected_ms=departure.expected_ms, source=departure.source)

    def _is_back(self, member: Member) -> bool:
        back = self.resumed.get(member.node_id)
        # Another node may have passed it on: a member that cannot be heard here would be failed again at once.
        if back is None or self._is_silent(member):
            return False
        key = (back.incarnation, back.change_id)
        if member.standing is Standing.FAILED:
            return True
        if member.standing is Standing.INACTIVE:
            return key >= member.absence
        return key > member.absence

    def _back_key(self, member: Member) -> tuple[int, int]:
        back = self.resumed[member.node_id]
        return max((back.incarnation, back.change_id), member.absence)

    def _wanted_failed(self, member: Member) -> StandingEntry | None:
        if member.standing is Standing.FAILED or not self._is_silent(member):
            return None
        overdue = member.standing is Standing.INACTIVE and self.peers[member.node_id].core.deadline_s is not None
        reason = "its announced absence is overdue" if overdue else "it is silent"
        if overdue:
            self.commons.reach(Mark.ABSENCE_OVERDUE)
        last_man = self.commons.config.quorum.last_man_standing and member.voter
        if last_man:
            self.commons.reach(Mark.VOTE_TAKEN_FOR_LAST_MAN)
        return self._entry(member, Standing.FAILED, reason, voter=member.voter and not last_man)

    def _is_silent(self, member: Member) -> bool:
        peer = self.peers[member.node_id].core
        if peer.deadline_s is not None and self.commons.now_s < peer.deadline_s:
            return False
        return self.liveness.silence_s(member.node_id, self.commons.now_s) > self.liveness.timeout_s

    def _entry(
        self,
        member: Member,
        standing: Standing,
        reason: str,
        key: tuple[int, int] | None = None,
        voter: bool | None = None,
    ) -> StandingEntry:
        incarnation, change_id = key or member.absence
        return StandingEntry(
            node_id=member.node_id,
            standing=standing,
            voter=member.voter if voter is None else voter,
            incarnation=incarnation,
            change_id=change_id,
            kind=member.kind if standing is member.standing else "",
            expected_ms=member.expected_ms if standing is member.standing else 0,
            source="master",
            reason=reason,
        )

    # --- the answer to an announcement ---------------------------------------------

    def answer(self, node_id: int, key: tuple[int, int]) -> None:
        """Tell an absent member whether the rest goes on without it, once that is committed."""
        table = self.journal.committed_table
        member = table.get(node_id)
        if member is None or member.standing is not Standing.INACTIVE or member.absence < key:
            return
        unsafe = unsafe_now(table)
        if not unsafe:
            self.commons.send(node_id, Confirmed(*member.absence))
            return
        self.commons.reach(Mark.ANSWERED_UNSAFE)
        self.commons.send(node_id, Unsafe(*member.absence, unsafe))
