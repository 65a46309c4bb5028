"""Who is here and who is away: a node's own life, and every member's as this node sees it.

Section 5 of the protocol.  The log is the authority on standings; an announcement is
believed at once, before the log says the same, and what the log says about an older
absence does not overrule it.
"""

from __future__ import annotations

from typing import Protocol

import attrs
from automat import TypeMachine, TypeMachineBuilder

from txvbcast.core.commons import Commons
from txvbcast.core.marks import Mark
from txvbcast.core.signals import OwnStandingChanged, PeerChanged
from txvbcast.wire.messages import SELF, AbsenceOver, Inactive, Standing, StandingEntry

# --- a member as others see it -----------------------------------------------------------


class PeerInputs(Protocol):
    """What a node can learn about a member."""

    def announced(self, message: Inactive, deadline_s: float) -> None:
        """Its first message, or a new estimate: away until ``deadline_s`` at the latest."""

    def ordered_inactive(self, entry: StandingEntry, deadline_s: float) -> None:
        """The log says inactive."""

    def ordered_catching_up(self, entry: StandingEntry) -> None:
        """The log says catching_up."""

    def ordered_normal(self, entry: StandingEntry) -> None:
        """The log says normal."""

    def ordered_failed(self, entry: StandingEntry) -> None:
        """The log says failed."""

    def returned(self) -> None:
        """Its third message: it serves again, so its timeouts are the default ones."""

    def taken_back(self) -> None:
        """A third party's word about it is past, and the log has never heard of that absence."""


@attrs.define(eq=False)
class PeerCore:
    """What is kept about a member.

    :ivar standing: as this node sees it.
    :ivar absence: (incarnation, change_id) of the latest absence heard or read of.
    :ivar revision: of the latest announcement of that absence; -1 when only the log has spoken of it.
    :ivar over: the latest absence that the log has as ended: an announcement of it was on its way for long.
    :ivar deadline_s: while an announcement lasts, when it is overdue.
    :ivar since_s: since when it is seen in this standing.
    """

    commons: Commons
    node_id: int
    standing: Standing = Standing.NORMAL
    absence: tuple[int, int] = (0, 0)
    revision: int = -1
    over: tuple[int, int] = (0, 0)
    kind: str = ""
    source: str = ""
    expected_ms: int = 0
    announced_s: float = 0.0
    deadline_s: float | None = None
    since_s: float = 0.0

    def enter(self, standing: Standing, entry: StandingEntry | None) -> None:
        """The one place where a member's standing changes."""
        changed = standing is not self.standing
        self.standing = standing
        if changed:
            self.since_s = self.commons.now_s
            self.commons.signal(PeerChanged(self.node_id, standing, entry))

    def remember(self, entry: StandingEntry) -> tuple[int, int]:
        """Take over what the log says of its absence; which one that is."""
        key = (entry.incarnation, entry.change_id)
        if key > self.absence:
            self.absence, self.revision = key, -1
        return key

    def remember_end(self, entry: StandingEntry) -> None:
        """The log says that it is back from that absence."""
        self.over = max(self.over, self.remember(entry))

    def end_announcement(self) -> None:
        """Timeouts return to their defaults."""
        self.deadline_s = None


def _peer_machine() -> TypeMachine[PeerInputs, PeerCore]:
    builder = TypeMachineBuilder(PeerInputs, PeerCore)
    normal = builder.state("normal")
    inactive = builder.state("inactive")
    catching_up = builder.state("catching_up")
    failed = builder.state("failed")
    states = (normal, inactive, catching_up, failed)

    normal.upon(PeerInputs.taken_back).loop().returns(None)
    catching_up.upon(PeerInputs.taken_back).loop().returns(None)
    failed.upon(PeerInputs.taken_back).loop().returns(None)
    normal.upon(PeerInputs.returned).loop().returns(None)
    inactive.upon(PeerInputs.returned).loop().returns(None)
    failed.upon(PeerInputs.returned).loop().returns(None)

    @normal.upon(PeerInputs.announced).to(inactive)
    @inactive.upon(PeerInputs.announced).loop()
    @catching_up.upon(PeerInputs.announced).to(inactive)
    @failed.upon(PeerInputs.announced).to(inactive)
    def on_announced(inputs: PeerInputs, core: PeerCore, message: Inactive, deadline_s: float) -> None:
        if core.standing is Standing.CATCHING_UP:
            core.commons.reach(Mark.ANNOUNCED_WHILE_CATCHING_UP)
        elif core.standing is Standing.FAILED:
            core.commons.reach(Mark.ANNOUNCED_WHILE_FAILED)
        elif core.standing is Standing.INACTIVE:
            core.commons.reach(Mark.ANNOUNCED_ANEW)
        core.absence = (message.incarnation, message.change_id)
        core.revision = message.revision
        core.kind, core.source, core.expected_ms = message.kind, message.source, message.expected_ms
        core.announced_s = core.commons.now_s
        core.deadline_s = deadline_s
        core.enter(Standing.INACTIVE, None)

    @normal.upon(PeerInputs.ordered_inactive).to(inactive)
    @inactive.upon(PeerInputs.ordered_inactive).loop()
    @catching_up.upon(PeerInputs.ordered_inactive).to(inactive)
    @failed.upon(PeerInputs.ordered_inactive).to(inactive)
    def on_ordered_inactive(inputs: PeerInputs, core: PeerCore, entry: StandingEntry, deadline_s: float) -> None:
        before = core.absence
        core.kind, core.source = entry.kind, entry.source
        if core.remember(entry) > before or core.deadline_s is None:  # the announcement did not reach this node
            core.commons.reach(Mark.ABSENCE_KNOWN_FROM_LOG_ALONE)
            core.expected_ms = entry.expected_ms
            core.announced_s = core.commons.now_s
            core.deadline_s = deadline_s
        core.enter(Standing.INACTIVE, entry)

    @normal.upon(PeerInputs.ordered_catching_up).to(catching_up)
    @inactive.upon(PeerInputs.ordered_catching_up).to(catching_up)
    @catching_up.upon(PeerInputs.ordered_catching_up).loop()
    @failed.upon(PeerInputs.ordered_catching_up).to(catching_up)
    def on_ordered_catching_up(inputs: PeerInputs, core: PeerCore, entry: StandingEntry) -> None:
        if core.standing is Standing.CATCHING_UP:
            core.commons.reach(Mark.CATCHES_UP_ANEW)
        core.remember_end(entry)
        core.enter(Standing.CATCHING_UP, entry)

    @normal.upon(PeerInputs.ordered_failed).to(failed)
    @inactive.upon(PeerInputs.ordered_failed).to(failed)
    @catching_up.upon(PeerInputs.ordered_failed).to(failed)
    @failed.upon(PeerInputs.ordered_failed).loop()
    def on_ordered_failed(inputs: PeerInputs, core: PeerCore, entry: StandingEntry) -> None:
        if core.standing is Standing.CATCHING_UP:
            core.commons.reach(Mark.FAILED_WHILE_CATCHING_UP)
        core.remember(entry)
        core.end_announcement()
        core.enter(Standing.FAILED, entry)

    for state in states:
        state.upon(PeerInputs.ordered_normal).to(normal)(_on_ordered_normal)

    @catching_up.upon(PeerInputs.returned).loop()
    def on_returned(inputs: PeerInputs, core: PeerCore) -> None:
        core.commons.reach(Mark.THIRD_MESSAGE_BEFORE_LOG)
        core.end_announcement()  # its own word came before the log did

    @inactive.upon(PeerInputs.taken_back).to(normal)
    def on_taken_back(inputs: PeerInputs, core: PeerCore) -> None:
        core.commons.reach(Mark.WORD_WITHOUT_EFFECT)
        core.end_announcement()
        core.enter(Standing.NORMAL, None)

    return builder.build()


def _on_ordered_normal(inputs: PeerInputs, core: PeerCore, entry: StandingEntry) -> None:
    core.remember_end(entry)
    core.end_announcement()
    core.enter(Standing.NORMAL, entry)


PeerMachine = _peer_machine()


@attrs.define(eq=False)
class Peer:
    """A member in this node's eyes: the machine and what it keeps."""

    core: PeerCore
    machine: PeerInputs

    @classmethod
    def make(cls, commons: Commons, node_id: int) -> Peer:
        """A member of whom nothing is known yet: normal, as in a fresh table."""
        core = PeerCore(commons, node_id)
        return cls(core, PeerMachine(core))

    def on_announcement(self, message: Inactive, deadline_s: float) -> bool:
        """Believe a first message unless it is late or repeated; True if it said something new."""
        core, key = self.core, (message.incarnation, message.change_id)
        if key <= core.over or (*key, message.revision) <= (*core.absence, core.revision):
            if key <= core.over:
                core.commons.reach(Mark.ANNOUNCEMENT_AFTER_THE_END)
            return False
        self.machine.announced(message, deadline_s)
        return True

    def on_over(self, message: AbsenceOver) -> None:
        """A third party takes its word back; if the member itself has spoken since, that counts."""
        if self._by_third_party and self.core.absence == (message.incarnation, message.change_id):
            self.core.commons.reach(Mark.THIRD_PARTY_OVER)
            self.core.end_announcement()

    def on_tick(self, logged: Standing) -> None:
        """A third party's word of which nothing has come, by the log, holds no longer than its time."""
        core = self.core
        past = core.deadline_s is None or core.deadline_s <= core.commons.now_s
        if core.standing is Standing.INACTIVE and logged is Standing.NORMAL and self._by_third_party and past:
            self.machine.taken_back()

    @property
    def _by_third_party(self) -> bool:
        """Whether somebody else has spoken of its latest absence, and it has not."""
        return self.core.revision <= 0 and self.core.source != SELF

    def on_entry(self, entry: StandingEntry, deadline_s: float) -> None:
        """Follow the log, except where it speaks of an absence that is older than the one announced."""
        if (entry.incarnation, entry.change_id) < self.core.absence and self.core.deadline_s is not None:
            self.core.commons.reach(Mark.LOG_BEHIND_ANNOUNCEMENT)
            return
        if entry.standing is Standing.INACTIVE:
            self.machine.ordered_inactive(entry, deadline_s)
        elif entry.standing is Standing.CATCHING_UP:
            self.machine.ordered_catching_up(entry)
        elif entry.standing is Standing.NORMAL:
            self.machine.ordered_normal(entry)
        else:
            self.machine.ordered_failed(entry)


# --- a node's own life -------------------------------------------------------------------


class OwnInputs(Protocol):
    """What can happen to a node itself."""

    def change_began(self) -> None:
        """A configuration change begins on this node."""

    def changes_over(self) -> None:
        """The last change under way has ended."""

    def cleared(self) -> None:
        """Flights are drained and the office is handed over: nothing keeps the node."""

    def woke(self) -> None:
        """The node was stopped without knowing."""

    def told_normal(self) -> None:
        """The log, as this node has applied it, has it as normal."""

    def told_catching_up(self) -> None:
        """The log or the master has it as catching up."""

    def told_absent(self) -> None:
        """The log or the master has it as inactive or failed, or as in an earlier life."""

    def _was_announced(self) -> None:
        """The changes are over after the others were told."""

    def _was_silent(self) -> None:
        """The changes are over before anybody was told."""


@attrs.define(eq=False)
class OwnCore:
    """:ivar state: for the other parts and for people.

    :ivar announced: the others were told of the absence under way.
    :ivar announced_number: the latest change that they were told of.
    """

    commons: Commons
    state: str = "returning"
    announced: bool = False
    announced_number: int = 0

    def enter(self, state: str, reason: str) -> None:
        """The one place where a node's own state changes."""
        self.commons.notify("own_standing", self.commons.me, reason, {"state": state, "before": self.state})
        self.state = state
        self.commons.signal(OwnStandingChanged(state))


def _own_machine() -> TypeMachine[OwnInputs, OwnCore]:
    builder = TypeMachineBuilder(OwnInputs, OwnCore)
    returning = builder.state("returning")
    catching_up = builder.state("catching_up")
    normal = builder.state("normal")
    leaving = builder.state("leaving")
    inactive = builder.state("inactive")

    returning.upon(OwnInputs.woke).loop().returns(None)
    returning.upon(OwnInputs.told_absent).loop().returns(None)
    catching_up.upon(OwnInputs.told_catching_up).loop().returns(None)
    normal.upon(OwnInputs.told_normal).loop().returns(None)
    leaving.upon(OwnInputs.change_began).loop().returns(None)
    leaving.upon(OwnInputs.woke).loop().returns(None)
    leaving.upon(OwnInputs.told_normal).loop().returns(None)
    leaving.upon(OwnInputs.told_catching_up).loop().returns(None)
    leaving.upon(OwnInputs.told_absent).loop().returns(None)
    inactive.upon(OwnInputs.change_began).loop().returns(None)
    inactive.upon(OwnInputs.woke).loop().returns(None)
    inactive.upon(OwnInputs.told_normal).loop().returns(None)
    inactive.upon(OwnInputs.told_catching_up).loop().returns(None)
    inactive.upon(OwnInputs.told_absent).loop().returns(None)

    @normal.upon(OwnInputs.change_began).to(leaving)
    def on_change(inputs: OwnInputs, core: OwnCore) -> None:
        core.enter("leaving", "a configuration change begins")

    @returning.upon(OwnInputs.change_began).to(inactive)
    @catching_up.upon(OwnInputs.change_began).to(inactive)
    def on_change_while_away(inputs: OwnInputs, core: OwnCore) -> None:
        returning = core.state == "returning"
        core.commons.reach(Mark.CHANGE_WHILE_RETURNING if returning else Mark.CHANGE_WHILE_CATCHING_UP)
        core.enter("inactive", "a configuration change begins before the return from the last absence")

    @leaving.upon(OwnInputs.cleared).to(inactive)
    def on_cleared(inputs: OwnInputs, core: OwnCore) -> None:
        core.enter("inactive", "own flights are drained and the office, if any, is handed over")

    @leaving.upon(OwnInputs.changes_over).loop()
    def on_over_while_leaving(inputs: OwnInputs, core: OwnCore) -> None:
        if core.announced:
            core.commons.reach(Mark.CHANGE_OVER_WHILE_LEAVING)
            inputs._was_announced()
        else:
            core.commons.reach(Mark.CHANGE_OVER_BEFORE_ANNOUNCED)
            inputs._was_silent()

    @leaving.upon(OwnInputs._was_silent).to(normal)
    def on_over_silently(inputs: OwnInputs, core: OwnCore) -> None:
        core.enter("normal", "the change ended before it was announced")

    @leaving.upon(OwnInputs._was_announced).to(returning)
    @inactive.upon(OwnInputs.changes_over).to(returning)
    def on_over(inputs: OwnInputs, core: OwnCore) -> None:
        core.announced = False
        core.enter("returning", "the configuration change is over")

    @normal.upon(OwnInputs.woke).to(returning)
    @catching_up.upon(OwnInputs.woke).to(returning)
    def on_woke(inputs: OwnInputs, core: OwnCore) -> None:
        normal = core.state == "normal"
        core.commons.reach(Mark.WOKE_WHILE_NORMAL if normal else Mark.WOKE_WHILE_CATCHING_UP)
        core.enter("returning", "this node was stopped for a while and asks the master before it acts")

    @normal.upon(OwnInputs.told_absent).to(returning)
    @catching_up.upon(OwnInputs.told_absent).to(returning)
    def on_told_absent(inputs: OwnInputs, core: OwnCore) -> None:
        normal = core.state == "normal"
        core.commons.reach(Mark.TOLD_ABSENT_WHILE_NORMAL if normal else Mark.TOLD_ABSENT_WHILE_CATCHING_UP)
        core.enter("returning", "the cluster has this node as absent")

    @returning.upon(OwnInputs.told_catching_up).to(catching_up)
    @normal.upon(OwnInputs.told_catching_up).to(catching_up)
    def on_told_catching_up(inputs: OwnInputs, core: OwnCore) -> None:
        core.enter("catching_up", "the master sends what this node has missed")

    @returning.upon(OwnInputs.told_normal).to(normal)
    @catching_up.upon(OwnInputs.told_normal).to(normal)
    def on_told_normal(inputs: OwnInputs, core: OwnCore) -> None:
        core.enter("normal", "this node has applied all it missed")

    return builder.build()


OwnMachine = _own_machine()


@attrs.define(eq=False)
class OwnLife:
    """This node's own standing: the machine and what it keeps."""

    core: OwnCore
    machine: OwnInputs

    @classmethod
    def make(cls, commons: Commons) -> OwnLife:
        """A node that has just started takes itself for absent until told otherwise."""
        core = OwnCore(commons)
        return cls(core, OwnMachine(core))

    @property
    def state(self) -> str:
        """normal, leaving, inactive, returning or catching_up."""
        return self.core.state
