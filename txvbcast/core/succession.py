"""When to claim, whom to grant, and planned handovers: what drives :mod:`~txvbcast.core.mastership`."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import attrs

from txvbcast.core import epochs
from txvbcast.core.commons import Commons
from txvbcast.core.effects import Send
from txvbcast.core.following import Following
from txvbcast.core.journal import Journal
from txvbcast.core.liveness import Liveness
from txvbcast.core.marks import Mark
from txvbcast.core.mastership import Mastership
from txvbcast.core.signals import OfficeGoesOn
from txvbcast.core.standing import OwnLife, Peer
from txvbcast.core.table import claim_rank, is_quorum
from txvbcast.wire.messages import (
    Claim,
    ClaimWhy,
    Handoff,
    HandoverWhy,
    Probe,
    ProbeReply,
    Refuse,
    Standing,
)


@attrs.define(eq=False)
class Plan:
    """A handover that waits until the successor holds the whole log."""

    to: int
    why: HandoverWhy
    until_s: float


@attrs.define(eq=False)
class Succession:
    """Claims, grants and handovers of one node.

    :ivar master_heard_s: when the master followed last spoke as one.
    """

    commons: Commons
    journal: Journal
    liveness: Liveness
    peers: Mapping[int, Peer]
    own: OwnLife
    following: Following
    mastership: Mastership
    master_heard_s: float = -inf
    plan: Plan | None = None
    all_back_since_s: float | None = None

    # --- is there a master? --------------------------------------------------------

    def hears_master(self) -> bool:
        """Whether this node has reason to believe in a living master that stays."""
        if self.mastership.office is not None:
            return True
        epoch, master = self.following.epoch, self.following.master
        if epoch == 0 or epoch < self.journal.promised or master == self.commons.me or self._is_leaving(master):
            return False  # of nobody, of a deposed one, of this node's own lost office, of a departed one
        return self.commons.now_s - self.master_heard_s <= self.liveness.timeout_s

    def on_master_heard(self) -> None:
        """A word that only a master says; others' frames prove life, but no office."""
        self.master_heard_s = self.commons.now_s

    def on_master_gone(self, node_id: int) -> None:
        """A node shows that it holds no office: whoever follows it need not wait for its silence."""
        if node_id == self.following.master:
            self.commons.reach(Mark.MASTER_SHOWS_IT_HOLDS_NO_OFFICE)
            self.master_heard_s = -inf

    def _is_leaving(self, node_id: int) -> bool:
        peer = self.peers[node_id].core
        return peer.standing is Standing.INACTIVE

    def on_tick(self) -> None:
        """Look at patience, claims and plans."""
        core = self.mastership.core
        if core.role == "follower":
            self._maybe_suspect()
        elif core.probing is not None:
            if self.commons.now_s >= core.probing.until_s:
                self.mastership.machine.found()
            else:
                self.commons.send_others(Probe(self.journal.promised, core.probing.nonce))
        elif core.candidacy is not None and self.commons.now_s >= core.candidacy.until_s:
            self.commons.reach(Mark.CLAIM_NOT_GRANTED_IN_TIME)
            self.mastership.machine.stand_down("no quorum has granted the claim in time")
        elif self.mastership.office is not None:
            self._on_office_tick()

    def _maybe_suspect(self) -> None:
        me, table, now_s = self.commons.me, self.journal.table, self.commons.now_s
        if not table[me].voter or self.own.state in ("leaving", "inactive") or self.hears_master():
            return
        master = self.following.master if self.following.master != me else 0
        core = self.mastership.core
        stagger_s = self.commons.config.heartbeat.interval_s * claim_rank(table, me, without=master)
        if (self.journal.log_epoch, self.journal.stored) < core.no_voter_in:
            # Its own log is behind one that has taken its vote: each of its claims would put the others' off.
            stagger_s += 2 * self.liveness.timeout_s
        if master and self._is_leaving(master) and self.following.epoch >= self.journal.promised:
            # Its HANDOFF may still be on its way: a heartbeat of patience.
            quiet_s = now_s - max(self.peers[master].core.since_s, core.quiet_since_s)
            if quiet_s > stagger_s + self.commons.config.heartbeat.interval_s:
                self.commons.reach(Mark.PROBED_FOR_MASTERS_INACTIVE)
                self._suspect(f"node {master}, the master, has announced its absence")
            return
        if now_s - max(self.master_heard_s, core.quiet_since_s) > self.liveness.timeout_s + stagger_s:
            self._suspect(self._why_suspect())

    def _suspect(self, reason: str) -> None:
        """Ask the others first: what this node believes may be old, and a claim deposes whoever is master."""
        self.mastership.machine.suspect(reason)
        self._check_probe()

    def _why_suspect(self) -> str:
        if self.following.epoch == 0:
            return "no master was ever heard"
        if self.following.master == self.commons.me:
            self.commons.reach(Mark.NO_MASTER_AFTER_OWN_OFFICE)
            return "this node has left its office and hears of no other master"
        return f"node {self.following.master} is silent"

    # --- others' claims ------------------------------------------------------------

    def on_probe(self, peer: int, probe: Probe) -> None:
        """A node asks whether this one has lost the master too."""
        self.saw(probe.epoch)
        self.on_master_gone(peer)  # a master does not probe
        self.commons.send(peer, ProbeReply(self.journal.promised, probe.nonce, lost=not self.hears_master()))

    def on_probe_reply(self, peer: int, reply: ProbeReply) -> None:
        """A node has, or has not, lost the master."""
        self.saw(reply.epoch)
        probing = self.mastership.core.probing
        if probing is not None and probing.nonce == reply.nonce and reply.lost:
            probing.lost.add(peer)
            self._check_probe()

    def _check_probe(self) -> None:
        probing = self.mastership.core.probing
        if probing is not None and is_quorum(self.journal.table.voters, probing.lost):
            self.mastership.machine.claim(ClaimWhy.SILENCE, self.following.epoch, None)

    def on_claim(self, peer: int, claim: Claim) -> None:
        """A candidate asks for a promise."""
        journal = self.journal
        self.saw(claim.epoch)
        if peer != epochs.master_of(claim.epoch):
            return
        if claim.epoch < journal.promised or journal.log_epoch >= claim.epoch:
            self.commons.reach(Mark.CLAIM_BELOW_PROMISE)
            self.commons.send(peer, Refuse(claim.epoch, journal.promised, "a higher epoch is promised"))
            return
        handover = claim.why is ClaimWhy.HANDOVER and claim.of_epoch >= self.following.epoch
        if claim.epoch > journal.promised:
            if self.hears_master() and not handover:
                self.commons.reach(Mark.CLAIM_REFUSED_FOR_LIVE_MASTER)
                reason = f"the master, node {self.following.master or self.commons.me}, is heard"
                self.commons.send(peer, Refuse(claim.epoch, journal.promised, reason))
                return
            if handover:
                self.commons.reach(Mark.GRANTED_FOR_HANDOVER)
            elif self._is_leaving(self.following.master or peer):
                self.commons.reach(Mark.GRANTED_FOR_MASTERS_INACTIVE)
            if self.mastership.office is not None:
                self.commons.reach(Mark.MASTER_GRANTS_CLAIM)
            if self.mastership.core.role == "claiming":
                self.commons.reach(Mark.CLAIM_LOST_TO_HIGHER)
            journal.promise(claim.epoch)
            self.mastership.machine.stand_down(f"node {peer} claims epoch {epochs.text(claim.epoch)}")
            self.mastership.core.quiet_since_s = self.commons.now_s
        else:
            self.commons.reach(Mark.GRANT_REPEATED)
        journal.when_durable((Send(peer, self.mastership.core.own_grant(claim.epoch)),))

    def on_refuse(self, refuse: Refuse) -> None:
        """Somebody has promised more than this node's office or claim is worth."""
        self.saw(refuse.promised)
        core = self.mastership.core
        epoch = core.office.epoch if core.office else core.candidacy.epoch if core.candidacy else 0
        if refuse.epoch == epoch and refuse.promised > epoch:
            self.commons.reach(Mark.OFFICE_BELOW_PROMISE if core.office else Mark.OWN_CLAIM_BELOW_PROMISE)
            self.mastership.machine.stand_down(f"epoch {epochs.text(refuse.promised)} is promised: {refuse.reason}")

    def on_fetch_refused(self, epoch: int, log_epoch: int) -> None:
        """A granter has moved on while this candidate fetched its log: claim anew."""
        candidacy = self.mastership.core.candidacy
        if candidacy is None or candidacy.transfer is None:
            return
        if (candidacy.transfer.epoch, candidacy.transfer.log_epoch) == (epoch, log_epoch):
            self.commons.reach(Mark.GRANTER_MOVED_ON)
            self.mastership.machine.claim(candidacy.why, candidacy.of_epoch, None)

    def on_handoff(self, peer: int, handoff: Handoff) -> None:
        """The leaving master names this node its successor."""
        self.saw(handoff.epoch)
        if epochs.master_of(handoff.epoch) != self.commons.me or epochs.master_of(handoff.grant.log_epoch) != peer:
            return
        if handoff.epoch == self.journal.promised:
            self.commons.reach(Mark.HANDOFF_MEETS_OWN_CLAIM)
            self.mastership.on_grant(peer, handoff.grant)  # this node claims the same epoch already
        elif handoff.epoch > self.journal.promised:
            if self.mastership.office is not None:
                self.mastership.machine.stand_down(f"node {peer}, master since, hands over")
            self.mastership.machine.claim(ClaimWhy.HANDOVER, handoff.grant.log_epoch, handoff)
        else:
            self.commons.reach(Mark.HANDOFF_BELOW_PROMISE)

    def saw(self, epoch: int) -> None:
        """An epoch was heard of: an own claim must be higher."""
        core = self.mastership.core
        core.highest_seen = max(core.highest_seen, epoch)

    # --- planned handovers ---------------------------------------------------------

    def successor(self) -> int:
        """Who takes over when this node leaves: the normal voter with the lowest id; 0 for nobody."""
        return min(filter(self.can_take_over, self.commons.others), default=0)

    def can_take_over(self, node_id: int) -> bool:
        """Whether the office may be given to that node now."""
        member = self.journal.table.get(node_id)
        return (
            member is not None
            and member.voter
            and member.standing is Standing.NORMAL
            and node_id in self.commons.links
            and self.peers[node_id].core.standing is Standing.NORMAL
        )

    def plan_handover(self, to: int, why: HandoverWhy) -> None:
        """Stop ordering, wait until ``to`` holds the whole log, then hand over to it."""
        office = self.mastership.office
        assert office is not None
        self.plan = Plan(to, why, self.commons.now_s + self.commons.config.heartbeat.timeout_s)
        office.paused = f"handing over to node {to}"
        self.go_on()

    def cancel_plan(self, reason: str) -> None:
        """Go on as master."""
        office = self.mastership.office
        if self.plan is not None and office is not None and self.mastership.core.role != "handing_over":
            self.commons.notify("mastership", self.commons.me, f"no handover to node {self.plan.to}: {reason}", {})
            office.paused = ""
            self.commons.signal(OfficeGoesOn())
        elif self.mastership.core.role == "handing_over":
            self.commons.reach(Mark.HANDOVER_CANCELLED_TOO_LATE)
        self.plan = None

    def go_on(self) -> None:
        """Hand over as soon as the successor (and the own disk) has the whole log."""
        office, plan = self.mastership.office, self.plan
        if office is None or plan is None or self.mastership.core.role not in ("starting", "master"):
            return
        held = min(office.stored.get(plan.to, -1), self.journal.stored)
        if held >= self.journal.tail:
            self.mastership.machine.hand_over(plan.to, plan.why)
            return
        if self.commons.now_s < plan.until_s and self.can_take_over(plan.to):
            return
        if plan.why is HandoverWhy.ABSENCE and plan.to in self.commons.links:
            self.commons.reach(Mark.HANDED_OVER_WITHOUT_WHOLE_LOG)
            self.mastership.machine.hand_over(plan.to, plan.why)  # it will fetch the rest, if it can
        else:
            self.commons.reach(Mark.SUCCESSOR_LACKS_LOG_IN_TIME)
            self.cancel_plan("it does not hold the whole log in time")

    def _on_office_tick(self) -> None:
        office = self.mastership.office
        assert office is not None
        if self.mastership.core.role == "handing_over":
            return
        heard = {self.commons.me} | {
            peer
            for peer in self.commons.others
            if self.liveness.silence_s(peer, self.commons.now_s) <= self.liveness.timeout_s
        }
        if not is_quorum(self.journal.table.voters, heard):
            self.commons.reach(Mark.MASTER_HEARS_NO_QUORUM)
            self.mastership.machine.stand_down("it has not heard a quorum for a heartbeat timeout")
            return
        self.go_on()
        self._maybe_hand_back()

    def _maybe_hand_back(self) -> None:
        office = self.mastership.office
        lower = self._returned_lower()
        if office is None or not office.opened or office.paused or self.plan is not None or not lower:
            if self.all_back_since_s is not None:
                self.commons.reach(Mark.HANDBACK_CALLED_OFF)
            self.all_back_since_s = None
            return
        if self.all_back_since_s is None:
            self.all_back_since_s = self.commons.now_s
        if self.commons.now_s - self.all_back_since_s >= self.commons.config.master.handback_delay_s:
            self.all_back_since_s = None
            self.plan_handover(lower, HandoverWhy.HANDBACK)

    def _returned_lower(self) -> int:
        """The lowest normal voter, if the office is to be handed back to it now; 0 if not."""
        office, table = self.mastership.office, self.journal.table
        if office is None or office.sticky or not self.commons.config.master.handback:
            return 0
        if self.own.state != "normal" or table.ids_of(Standing.INACTIVE, Standing.CATCHING_UP):
            if 0 < self.successor() < self.commons.me:
                self.commons.reach(Mark.HANDBACK_WAITS_FOR_ABSENT)
            return 0  # while anybody is away or catching up no office changes hands for comfort
        if any(peer.core.standing in (Standing.INACTIVE, Standing.CATCHING_UP) for peer in self.peers.values()):
            self.commons.reach(Mark.HANDBACK_WAITS_FOR_ANNOUNCED)
            return 0
        lowest = self.successor()
        return lowest if 0 < lowest < self.commons.me else 0
