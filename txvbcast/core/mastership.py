"""Who is master: follower, probing, claiming, starting, master, handing over.

Section 6 of the protocol: an epoch change that is safe with any timing.  Everything here
about *when* to claim only serves progress.
"""

from __future__ import annotations

from typing import Protocol

import attrs
from automat import TypeMachine, TypeMachineBuilder

from txvbcast.core import epochs
from txvbcast.core.catchup import Transfer
from txvbcast.core.commons import Commons
from txvbcast.core.effects import Send
from txvbcast.core.journal import Journal
from txvbcast.core.marks import Mark
from txvbcast.core.ordering import Office
from txvbcast.core.signals import ClaimWon, HandedOver, OfficeLeft, OfficeOpened, OfficeTaken
from txvbcast.core.table import is_quorum
from txvbcast.wire.messages import Claim, ClaimWhy, Grant, Handoff, HandoverWhy, Probe


class MastershipInputs(Protocol):
    """What can happen to this node's claim to the office."""

    def suspect(self, reason: str) -> None:
        """The master is silent: ask the others whether they have lost it too."""

    def found(self) -> None:
        """Somebody hears a master after all, or nobody answers."""

    def claim(self, why: ClaimWhy, of_epoch: int, handoff: Handoff | None) -> None:
        """Claim an epoch: a quorum has lost the master, or the master itself says so."""

    def won(self) -> None:
        """The best log among the grants is this node's log, durably."""

    def opened(self) -> None:
        """A majority has adopted it."""

    def hand_over(self, to: int, why: HandoverWhy) -> None:
        """Give the office to ``to``."""

    def handed(self) -> None:
        """The promise to the successor is durable and HANDOFF is on its way."""

    def stand_down(self, reason: str) -> None:
        """Somebody else has a better claim, or this one leads nowhere."""


@attrs.define(eq=False)
class Probing:
    """A round of Probe under way."""

    nonce: int
    until_s: float
    lost: set[int] = attrs.field(factory=set)
    reason: str = ""


@attrs.define(eq=False)
class Candidacy:
    """A claim under way.

    :ivar transfer: the adoption of the best log, once a quorum has granted.
    """

    epoch: int
    until_s: float
    why: ClaimWhy
    of_epoch: int
    sticky: bool
    asked_others: bool = False
    grants: dict[int, Grant] = attrs.field(factory=dict)
    transfer: Transfer | None = None


@attrs.define(eq=False)
class MastershipCore:
    """:ivar role: for the other parts and for people.

    :ivar quiet_since_s: patience with a missing master is counted from here.
    :ivar highest_seen: the highest epoch heard of.
    :ivar no_voter_in: (log_epoch, stored) of the best log in which this node was found to be no voter.
    """

    commons: Commons
    journal: Journal
    role: str = "follower"
    quiet_since_s: float = 0.0
    highest_seen: int = 0
    no_voter_in: tuple[int, int] = (0, 0)
    nonce: int = 0
    probing: Probing | None = None
    candidacy: Candidacy | None = None
    office: Office | None = None

    def enter(self, role: str, reason: str) -> None:
        """The one place where the role changes."""
        before, self.role = self.role, role
        if role not in ("probing",):
            self.probing = None
        if role not in ("claiming",):
            self.candidacy = None
        if role in ("follower", "claiming"):
            self.quiet_since_s = self.commons.now_s
        facts = {"role": role, "before": before, "epoch": self.journal.promised}
        self.commons.notify("mastership", self.commons.me, reason, facts)

    def leave_office(self, reason: str) -> None:
        """Order nothing more."""
        self.office = None
        self.commons.signal(OfficeLeft(reason))

    def own_grant(self, epoch: int) -> Grant:
        """What this node's promise of ``epoch`` says of its log."""
        journal = self.journal
        _, runs = journal.runs()
        return Grant(
            epoch=epoch,
            log_epoch=journal.log_epoch,
            stored=journal.tail,
            committed=journal.committed,
            voters=journal.table.voters,
            runs=runs,
            disk_id=self.commons.stored.disk_id,
        )


def _machine() -> TypeMachine[MastershipInputs, MastershipCore]:
    builder = TypeMachineBuilder(MastershipInputs, MastershipCore)
    follower = builder.state("follower")
    probing = builder.state("probing")
    claiming = builder.state("claiming")
    starting = builder.state("starting")
    master = builder.state("master")
    handing_over = builder.state("handing_over")

    follower.upon(MastershipInputs.stand_down).loop().returns(None)

    @follower.upon(MastershipInputs.suspect).to(probing)
    def on_suspect(inputs: MastershipInputs, core: MastershipCore, reason: str) -> None:
        core.enter("probing", reason)
        core.nonce += 1
        until_s = core.commons.now_s + core.commons.config.heartbeat.timeout_s
        core.probing = Probing(core.nonce, until_s, {core.commons.me}, reason)
        core.commons.send_others(Probe(core.journal.promised, core.nonce))

    @probing.upon(MastershipInputs.found).to(follower)
    def on_found(inputs: MastershipInputs, core: MastershipCore) -> None:
        core.commons.reach(Mark.PROBE_COMES_TO_NOTHING)
        core.enter("follower", "no quorum has lost the master")

    @probing.upon(MastershipInputs.stand_down).to(follower)
    def on_stand_down_probing(inputs: MastershipInputs, core: MastershipCore, reason: str) -> None:
        core.enter("follower", reason)

    @follower.upon(MastershipInputs.claim).to(claiming)
    @probing.upon(MastershipInputs.claim).to(claiming)
    @claiming.upon(MastershipInputs.claim).loop()
    def on_claim(
        inputs: MastershipInputs, core: MastershipCore, why: ClaimWhy, of_epoch: int, handoff: Handoff | None
    ) -> None:
        reason = core.probing.reason if core.probing else f"the master leaves ({why.value})"
        if handoff is not None:
            epoch = handoff.epoch
        else:
            highest = max(core.journal.promised, core.highest_seen)
            epoch = epochs.pair(epochs.number_of(highest) + 1, core.commons.me)
        core.enter("claiming", reason)
        until_s = core.commons.now_s + core.commons.config.heartbeat.timeout_s
        core.candidacy = Candidacy(epoch, until_s, why, of_epoch, handoff is not None and handoff.sticky)
        core.journal.promise(epoch)
        core.journal.when_durable((Send(core.commons.me, core.own_grant(epoch)),))
        voters = {core.commons.me}
        if handoff is not None:
            core.candidacy.grants[epochs.master_of(of_epoch)] = handoff.grant
            voters.add(epochs.master_of(of_epoch))
            if is_quorum(handoff.grant.voters, voters):
                core.commons.reach(Mark.HANDOFF_IS_QUORUM)
                return  # the leaving master's grant is enough: nobody else has to be asked
            core.commons.reach(Mark.HANDOFF_IS_NO_QUORUM)
        core.candidacy.asked_others = True
        core.commons.send_others(Claim(epoch, why, of_epoch))

    @claiming.upon(MastershipInputs.won).to(starting)
    def on_won(inputs: MastershipInputs, core: MastershipCore) -> None:
        candidacy = core.candidacy
        assert candidacy is not None
        if candidacy.sticky:
            core.commons.reach(Mark.STICKY_OFFICE_TAKEN)
        core.enter("starting", f"a quorum granted epoch {epochs.text(candidacy.epoch)}")
        core.office = Office(core.commons, core.journal, candidacy.epoch, core.journal.tail, candidacy.sticky)
        core.commons.send_others(core.office.start_message())
        core.commons.signal(OfficeTaken(candidacy.epoch))

    @starting.upon(MastershipInputs.opened).to(master)
    def on_opened(inputs: MastershipInputs, core: MastershipCore) -> None:
        office = core.office
        assert office is not None
        office.open()
        core.enter("master", f"a majority holds the log of epoch {epochs.text(office.epoch)}")
        core.commons.signal(OfficeOpened(office.epoch))

    @starting.upon(MastershipInputs.hand_over).to(handing_over)
    @master.upon(MastershipInputs.hand_over).to(handing_over)
    def on_hand_over(inputs: MastershipInputs, core: MastershipCore, to: int, why: HandoverWhy) -> None:
        office = core.office
        assert office is not None
        office.paused = f"handing over to node {to}"
        core.enter("handing_over", f"to node {to}: {why.value}")
        epoch = epochs.pair(epochs.number_of(core.journal.promised) + 1, to)
        core.journal.promise(epoch)
        handoff = Handoff(epoch, core.own_grant(epoch), sticky=why is HandoverWhy.OPERATOR)
        core.journal.when_durable((Send(to, handoff),), (HandedOver(to, why),))

    @handing_over.upon(MastershipInputs.handed).to(follower)
    def on_handed(inputs: MastershipInputs, core: MastershipCore) -> None:
        core.enter("follower", "the office is handed over")
        core.leave_office("handed over")

    @claiming.upon(MastershipInputs.stand_down).to(follower)
    def on_stand_down_claiming(inputs: MastershipInputs, core: MastershipCore, reason: str) -> None:
        core.enter("follower", reason)

    @starting.upon(MastershipInputs.stand_down).to(follower)
    @master.upon(MastershipInputs.stand_down).to(follower)
    @handing_over.upon(MastershipInputs.stand_down).to(follower)
    def on_stand_down(inputs: MastershipInputs, core: MastershipCore, reason: str) -> None:
        if core.role == "starting":
            core.commons.reach(Mark.START_COMES_TO_NOTHING)
        elif core.role == "handing_over":
            core.commons.reach(Mark.DEPOSED_WHILE_HANDING_OVER)
        core.enter("follower", reason)
        core.leave_office(reason)

    return builder.build()


MastershipMachine = _machine()


@attrs.define(eq=False)
class Mastership:
    """This node's part in choosing a master: the machine and what it keeps."""

    core: MastershipCore
    machine: MastershipInputs

    @classmethod
    def make(cls, commons: Commons, journal: Journal) -> Mastership:
        """A follower of nobody yet."""
        core = MastershipCore(commons, journal)
        return cls(core, MastershipMachine(core))

    @property
    def office(self) -> Office | None:
        """The office, while this node holds one."""
        return self.core.office

    # --- a claim -------------------------------------------------------------------

    def on_grant(self, peer: int, grant: Grant) -> None:
        """A promise to this candidate; with a quorum of them the best log is adopted."""
        candidacy = self.core.candidacy
        if candidacy is None or grant.epoch != candidacy.epoch or candidacy.transfer is not None:
            return
        candidacy.grants[peer] = grant
        if self.core.commons.me not in candidacy.grants:
            self.core.commons.reach(Mark.GRANTED_BEFORE_OWN_PROMISE)
            return  # this node's own promise is not durable yet
        holder, best = self._best(candidacy.grants)
        if self.core.commons.me not in best.voters:
            self.core.commons.reach(Mark.CANDIDATE_IS_NO_VOTER)
            self.core.no_voter_in = (best.log_epoch, best.stored)
            self.machine.stand_down("this node is no voter in the best log")
            return
        if not is_quorum(best.voters, candidacy.grants):
            if not candidacy.asked_others:
                candidacy.asked_others = True
                self.core.commons.send_others(Claim(candidacy.epoch, candidacy.why, candidacy.of_epoch))
            return
        self._adopt(candidacy, holder, best)

    def _best(self, grants: dict[int, Grant]) -> tuple[int, Grant]:
        me = self.core.commons.me
        return max(grants.items(), key=lambda item: (item[1].log_epoch, item[1].stored, item[0] == me))

    def _adopt(self, candidacy: Candidacy, holder: int, best: Grant) -> None:
        journal = self.core.journal
        if holder == self.core.commons.me:
            match = journal.tail
        else:
            self.core.commons.reach(Mark.BEST_LOG_IS_ANOTHERS)
            base = best.runs[0].first - 1 if best.runs else best.stored
            match = journal.matching(base, best.runs, best.stored)
        candidacy.transfer = Transfer(holder, candidacy.epoch, best.log_epoch, match, best.stored, candidacy.epoch)
        self.go_on()

    def go_on(self) -> None:
        """Adopt if everything is there, else ask for the next window."""
        candidacy = self.core.candidacy
        if candidacy is None or candidacy.transfer is None:
            return
        transfer = candidacy.transfer
        if not transfer.complete:
            self.core.commons.reach(Mark.BEST_LOG_FETCHED)
            candidacy.until_s = self.core.commons.now_s + self.core.commons.config.heartbeat.timeout_s
            self.core.commons.send(transfer.source, transfer.fetch(self.core.commons.now_s))
            return
        journal = self.core.journal
        if journal.log_epoch != candidacy.epoch:
            if transfer.match < journal.tail:
                self.core.commons.reach(Mark.TAIL_DROPPED_FOR_BEST_LOG)
            journal.adopt(transfer.match, transfer.got, candidacy.epoch)
            journal.when_durable(signals=(ClaimWon(candidacy.epoch),))
