"""Flights: as their coordinator sees them, and as a participant does.

Sections 3 and 7 of the protocol.  One machine per flight, never one per transaction.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Protocol

import attrs
from automat import TypeMachine, TypeMachineBuilder

from txvbcast.core.commons import Commons
from txvbcast.core.effects import ForgetResults, Prepare, Release, ReplyAborted, ReplyCommitted, ReplyUnknown, Share
from txvbcast.core.marks import Mark
from txvbcast.wire.messages import Decide, Flight, FlightId, Mode, Propose, Refusal, Vote, Withdraw

# --- coordinator -------------------------------------------------------------------------


class CoordinatorInputs(Protocol):
    """What can happen to a flight that this node proposed."""

    def proposed(self, waited: frozenset[int]) -> None:
        """Send it to every member; the votes of ``waited`` are needed."""

    def voted(self, peer: int, refused: tuple[Refusal, ...]) -> None:
        """A member has voted."""

    def excused(self, peer: int) -> None:
        """A member is not waited for any more: it is inactive or failed."""

    def expired(self, reason: str) -> None:
        """The clients want to hear something now."""

    def sent_again(self, to: int) -> None:
        """``to`` may have missed what was sent: a new link, or a new master."""

    def applied(self, seq: int) -> None:
        """This node has applied it."""

    def everywhere(self) -> None:
        """Every normal member holds it."""

    def died(self) -> None:
        """The log shows that it will never take effect."""

    def _settled(self) -> None:
        """Every vote that is waited for is there, and something was accepted."""

    def _refused(self) -> None:
        """Nothing is left of it."""


@attrs.define(eq=False)
class CoordinatorCore:
    """A flight that this node coordinates.

    :ivar unanswered: the shares of the clients that still wait, each with its first place in the flight, rising.
    :ivar timeout_s: what these clients asked for; deadline_s: when the first of them wants to hear something.
    :ivar proposed_s: when it was sent.
    :ivar told_all: it was sent to every member, and not only to this node to be ordered.
    :ivar waiting: members whose vote is needed and not there.
    :ivar master: where DECIDE goes; set by whoever sends the inputs.
    :ivar done: nothing more will happen.
    """

    commons: Commons
    flight: Flight
    unanswered: list[tuple[int, Share]]
    timeout_s: float
    deadline_s: float
    proposed_s: float
    master: int = 0
    waiting: set[int] = attrs.field(factory=set)
    refusals: dict[int, tuple[int, str]] = attrs.field(factory=dict)
    phase: str = "new"
    seq: int = 0
    told_all: bool = False
    reported: bool = False
    returned: bool = False

    @property
    def accepted(self) -> tuple[int, ...] | None:
        """The places that every member accepts; None when that is all of them."""
        if not self.refusals:
            return None
        return tuple(index for index in range(len(self.flight.items)) if index not in self.refusals)

    @property
    def done(self) -> bool:
        """Whether the flight needs no more attention."""
        return self.phase == "done"

    def propose(self) -> None:
        """Send it to every member; what nobody votes on, and this node orders itself, travels in the order."""
        if self.flight.mode.voted or self.master != self.commons.me:
            self.told_all = True
            self.commons.send_all(Propose(self.flight))
        else:
            self.commons.send(self.master, Propose(self.flight))

    def send_decision(self) -> None:
        """Ask the master to order it; in mode broadcast the proposal says so itself."""
        if self.flight.mode.voted and self.master:
            self.commons.send(self.master, Decide(self.flight.id, self.accepted))

    @property
    def waiting_clients(self) -> int:
        """How many transactions are not answered yet."""
        return sum(share.count for _, share in self.unanswered)

    def take_shares(self) -> tuple[Share, ...]:
        """All that is not answered; it counts as answered from now on."""
        shares = tuple(share for _, share in self.unanswered)
        self.unanswered = []
        return shares

    def take_place(self, place: int) -> Share | None:
        """The one transaction in that place of the flight, out of its share; None if it is answered already."""
        for number, (first, share) in enumerate(self.unanswered):
            before = place - first
            if 0 <= before < share.count:
                behind = share.count - before - 1
                parts = (
                    (first, Share(share.ticket, share.place, before)),
                    (place + 1, Share(share.ticket, share.place + before + 1, behind)),
                )
                self.unanswered[number : number + 1] = [part for part in parts if part[1].count]
                return Share(share.ticket, share.place + before, 1)
        return None

    def reply_committed(self) -> None:
        """The waiting clients hear the result."""
        if self.unanswered:
            # What was refused is neither in the entry nor among these shares.
            refused = sorted(self.refusals)
            indices = tuple(first - bisect_left(refused, first) for first, _ in self.unanswered)
            self.commons.out.append(ReplyCommitted(self.take_shares(), indices, self.flight.id, self.seq))
        else:
            self.commons.reach(Mark.COMMITTED_FOR_NOBODY)
            self.commons.out.append(ForgetResults(self.flight.id))


def _coordinator_machine() -> TypeMachine[CoordinatorInputs, CoordinatorCore]:
    builder = TypeMachineBuilder(CoordinatorInputs, CoordinatorCore)
    new = builder.state("new")
    voting = builder.state("voting")
    decided = builder.state("decided")
    applied = builder.state("applied")
    done = builder.state("done")

    decided.upon(CoordinatorInputs.voted).loop().returns(None)
    decided.upon(CoordinatorInputs.excused).loop().returns(None)
    decided.upon(CoordinatorInputs.everywhere).loop().returns(None)
    applied.upon(CoordinatorInputs.voted).loop().returns(None)
    applied.upon(CoordinatorInputs.excused).loop().returns(None)
    applied.upon(CoordinatorInputs.sent_again).loop().returns(None)
    voting.upon(CoordinatorInputs.everywhere).loop().returns(None)

    @new.upon(CoordinatorInputs.proposed).to(voting)
    def on_proposed(inputs: CoordinatorInputs, core: CoordinatorCore, waited: frozenset[int]) -> None:
        core.phase = "voting"
        core.propose()
        core.waiting = set(waited)
        if not core.waiting:
            inputs._settled()

    @voting.upon(CoordinatorInputs.voted).loop()
    def on_vote(inputs: CoordinatorInputs, core: CoordinatorCore, peer: int, refused: tuple[Refusal, ...]) -> None:
        if peer not in core.waiting:
            core.commons.reach(Mark.VOTE_NOT_WAITED_FOR)  # but a refusal that is in time is heeded
        core.waiting.discard(peer)
        for refusal in refused:
            if refusal.index < len(core.flight.items):
                core.refusals.setdefault(refusal.index, (peer, refusal.reason))
        _settle(inputs, core)

    @voting.upon(CoordinatorInputs.excused).loop()
    def on_excused(inputs: CoordinatorInputs, core: CoordinatorCore, peer: int) -> None:
        if peer in core.waiting:
            core.commons.reach(Mark.VOTE_EXCUSED)
            core.waiting.discard(peer)
            _settle(inputs, core)

    @voting.upon(CoordinatorInputs._settled).to(decided)
    def on_settled(inputs: CoordinatorInputs, core: CoordinatorCore) -> None:
        core.phase = "decided"
        if core.refusals:
            core.commons.reach(Mark.FLIGHT_REFUSED_IN_PART)
        _tell_refused(core)
        core.send_decision()

    @voting.upon(CoordinatorInputs._refused).to(done)
    def on_all_refused(inputs: CoordinatorInputs, core: CoordinatorCore) -> None:
        core.phase = "done"
        if core.waiting:
            core.commons.reach(Mark.FLIGHT_REFUSED_BEFORE_LAST_VOTE)
        _tell_refused(core)
        core.commons.send_all(Withdraw(core.flight.id, 0))

    @voting.upon(CoordinatorInputs.expired).to(done)
    def on_expired_while_voting(inputs: CoordinatorInputs, core: CoordinatorCore, reason: str) -> None:
        core.phase = "done"
        core.commons.reach(Mark.EXPIRED_WHILE_VOTING)
        core.commons.out.append(ReplyAborted(core.take_shares(), reason, tuple(sorted(core.waiting))))
        core.commons.send_all(Withdraw(core.flight.id, 0))

    @decided.upon(CoordinatorInputs.expired).loop()
    @applied.upon(CoordinatorInputs.expired).loop()
    def on_expired(inputs: CoordinatorInputs, core: CoordinatorCore, reason: str) -> None:
        if core.unanswered:
            decided = core.phase == "decided"
            core.commons.reach(Mark.EXPIRED_AFTER_DECISION if decided else Mark.EXPIRED_IN_THIRD_PHASE)
            core.commons.out.append(ReplyUnknown(core.take_shares(), reason))

    @voting.upon(CoordinatorInputs.sent_again).loop()
    @decided.upon(CoordinatorInputs.sent_again).loop()
    def on_sent_again(inputs: CoordinatorInputs, core: CoordinatorCore, to: int) -> None:
        if core.told_all:
            core.commons.send(to, Propose(core.flight))
        else:
            if core.master != core.commons.me:
                core.commons.reach(Mark.PROPOSED_INSTEAD_OF_ORDERED)
            core.propose()
        if core.phase == "voting":
            core.commons.reach(Mark.PROPOSED_AGAIN_WHILE_VOTING)
        if core.phase == "decided" and to == core.master:
            core.commons.reach(Mark.DECIDED_FLIGHT_SENT_AGAIN)
            core.send_decision()

    @decided.upon(CoordinatorInputs.applied).to(applied)
    def on_applied(inputs: CoordinatorInputs, core: CoordinatorCore, seq: int) -> None:
        core.phase, core.seq = "applied", seq
        if core.flight.mode is not Mode.THREE_PHASE:
            inputs.everywhere()

    @applied.upon(CoordinatorInputs.everywhere).to(done)
    def on_everywhere(inputs: CoordinatorInputs, core: CoordinatorCore) -> None:
        core.phase = "done"
        core.reply_committed()

    @voting.upon(CoordinatorInputs.died).to(done)
    @decided.upon(CoordinatorInputs.died).to(done)
    def on_died(inputs: CoordinatorInputs, core: CoordinatorCore) -> None:
        core.commons.reach(Mark.FLIGHT_DIES_UNDECIDED if core.phase == "voting" else Mark.FLIGHT_DIES_DECIDED)
        core.phase, core.returned = "done", True
        _tell_refused(core)

    return builder.build()


def _settle(inputs: CoordinatorInputs, core: CoordinatorCore) -> None:
    if len(core.refusals) == len(core.flight.items):
        inputs._refused()
    elif not core.waiting:
        inputs._settled()


def _tell_refused(core: CoordinatorCore) -> None:
    for index, (peer, reason) in sorted(core.refusals.items()):
        share = core.take_place(index)
        if share is not None:
            core.commons.out.append(ReplyAborted((share,), reason, (peer,)))


CoordinatorMachine = _coordinator_machine()


@attrs.define(eq=False)
class CoordinatedFlight:
    """A flight that this node proposed: the machine and what it keeps."""

    core: CoordinatorCore
    machine: CoordinatorInputs

    @classmethod
    def make(cls, core: CoordinatorCore) -> CoordinatedFlight:
        """A flight that is not sent yet."""
        return cls(core, CoordinatorMachine(core))


# --- participant -------------------------------------------------------------------------


class ParticipantInputs(Protocol):
    """What can happen to a flight of a voted mode on a node that is asked for its vote."""

    def asked(self) -> None:
        """The proposal is here, or here again."""

    def prepared(self, refused: tuple[Refusal, ...]) -> None:
        """The resource managers have answered."""

    def applied(self) -> None:
        """The log has decided: it is performed, and what was not accepted is released with it."""

    def released(self, reason: str) -> None:
        """It will never be performed: withdrawn, or its coordinator was away."""


@attrs.define(eq=False)
class ParticipantCore:
    """:ivar since_s: when the resource managers were asked; phase: for the other parts and for people."""

    commons: Commons
    flight: Flight
    since_s: float = 0.0
    phase: str = "held"
    refused: tuple[Refusal, ...] = ()


def _participant_machine() -> TypeMachine[ParticipantInputs, ParticipantCore]:
    builder = TypeMachineBuilder(ParticipantInputs, ParticipantCore)
    held = builder.state("held")
    preparing = builder.state("preparing")
    voted = builder.state("voted")
    over = builder.state("over")

    preparing.upon(ParticipantInputs.asked).loop().returns(None)
    over.upon(ParticipantInputs.prepared).loop().returns(None)

    @held.upon(ParticipantInputs.asked).to(preparing)
    def on_asked(inputs: ParticipantInputs, core: ParticipantCore) -> None:
        core.phase, core.since_s = "preparing", core.commons.now_s
        core.commons.out.append(Prepare(core.flight))

    @preparing.upon(ParticipantInputs.prepared).to(voted)
    def on_prepared(inputs: ParticipantInputs, core: ParticipantCore, refused: tuple[Refusal, ...]) -> None:
        core.phase, core.refused = "voted", refused
        core.commons.send(core.flight.id.origin, Vote(core.flight.id, refused))

    @voted.upon(ParticipantInputs.asked).loop()
    def on_asked_again(inputs: ParticipantInputs, core: ParticipantCore) -> None:
        core.commons.send(core.flight.id.origin, Vote(core.flight.id, core.refused))

    @held.upon(ParticipantInputs.applied).to(over)
    @preparing.upon(ParticipantInputs.applied).to(over)
    @voted.upon(ParticipantInputs.applied).to(over)
    def on_applied(inputs: ParticipantInputs, core: ParticipantCore) -> None:
        if core.phase == "preparing":
            core.commons.reach(Mark.APPLIED_WHILE_PREPARING)
        elif core.refused:
            core.commons.reach(Mark.APPLIED_AFTER_OWN_REFUSAL)
        core.phase = "over"

    @held.upon(ParticipantInputs.released).to(over)
    def on_released_unasked(inputs: ParticipantInputs, core: ParticipantCore, reason: str) -> None:
        core.phase = "over"

    @preparing.upon(ParticipantInputs.released).to(over)
    @voted.upon(ParticipantInputs.released).to(over)
    def on_released(inputs: ParticipantInputs, core: ParticipantCore, reason: str) -> None:
        if core.phase == "preparing":
            core.commons.reach(Mark.RELEASED_WHILE_PREPARING)
        core.phase = "over"
        core.commons.out.append(Release(core.flight.id, reason))

    return builder.build()


ParticipantMachine = _participant_machine()


@attrs.define(eq=False)
class HeldFlight:
    """A proposal that this node holds: the machine and what it keeps; on one of mode broadcast nobody votes."""

    core: ParticipantCore
    machine: ParticipantInputs | None

    @classmethod
    def make(cls, commons: Commons, flight: Flight) -> HeldFlight:
        """A proposal that has just come in."""
        core = ParticipantCore(commons, flight)
        return cls(core, ParticipantMachine(core) if flight.mode.voted else None)

    @property
    def id(self) -> FlightId:
        """Its name."""
        return self.core.flight.id
