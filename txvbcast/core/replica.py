"""The one door of the protocol: :meth:`Replica.step`.

Pure: inputs and the time go in, an ordered list of effects comes out.  The replica routes
between the parts; each part keeps to its own subject.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from txvbcast.config import ProtocolConfig
from txvbcast.core import epochs, inputs, signals
from txvbcast.core.absence import Absence
from txvbcast.core.catchup import Server
from txvbcast.core.changes import Changes, patience_s
from txvbcast.core.commons import TICK, TURN, Commons, Link
from txvbcast.core.effects import (
    Apply,
    DropDatagrams,
    Effect,
    ResetLinks,
    SendDatagram,
    SetTimer,
)
from txvbcast.core.following import Following
from txvbcast.core.inputs import Input, StoredState
from txvbcast.core.journal import Journal
from txvbcast.core.liveness import TICKS_PER_HEARTBEAT, Liveness
from txvbcast.core.marks import Mark
from txvbcast.core.mastership import Mastership
from txvbcast.core.ordering import EVERYBODY, Office
from txvbcast.core.proposals import Proposals
from txvbcast.core.reads import QuorumChecks, Reads
from txvbcast.core.roster import Roster
from txvbcast.core.standing import OwnLife, Peer, PeerCore
from txvbcast.core.submissions import Submissions
from txvbcast.core.succession import Succession
from txvbcast.core.table import initial
from txvbcast.core.third_party import REVISION, ThirdParty
from txvbcast.core.wishes import Wishes
from txvbcast.errors import LocalProtocolError
from txvbcast.wire import messages
from txvbcast.wire.messages import (
    SELF,
    AbsenceOver,
    Entry,
    FlightId,
    Heartbeat,
    HeartbeatReply,
    Inactive,
    Message,
    Normal,
    QuorumCheckReply,
    Refuse,
    Resumed,
    Standing,
)

#: A node without a master for this many heartbeat timeouts refuses transactions at the door.
QUORUM_LOST_AFTER_TIMEOUTS = 3


class Replica:
    """One node's protocol state.

    :param config: the protocol's part of the configuration.
    :param stored: what the store knew when it was opened.
    """

    def __init__(self, config: ProtocolConfig, stored: StoredState) -> None:
        ids = tuple(sorted(member.id for member in config.members))
        commons = self.commons = Commons(config, stored)
        journal = self.journal = Journal(commons, initial(ids))
        self.liveness = Liveness(config.heartbeat)
        self.peers: Mapping[int, Peer] = {node_id: Peer.make(commons, node_id) for node_id in ids}
        self.own = OwnLife.make(commons)
        self.changes = Changes(commons)
        self.proposals = Proposals(commons, journal)
        self.submissions = Submissions(commons, journal)
        self.following = Following(commons, journal, self.proposals)
        self.mastership = Mastership.make(commons, journal)
        self.roster = Roster(commons, journal, self.liveness, self.peers, self.own)
        self.succession = Succession(
            commons, journal, self.liveness, self.peers, self.own, self.following, self.mastership
        )
        self.absence = Absence(
            commons,
            journal,
            self.peers,
            self.own,
            self.changes,
            self.submissions,
            self.proposals,
            self.following,
            self.roster,
            self.succession,
            self._reconcile,
        )
        self.third_party = ThirdParty(commons, journal, self.peers)
        self.wishes = Wishes(commons, self.submissions, self.succession)
        self.server = Server(commons, journal)
        self.checks = QuorumChecks(commons, journal)
        self.reads = Reads(commons, journal)
        self.peers_applied: dict[int, int] = {}
        self.vms: dict[int, tuple[str, ...]] = {}
        self._started = False
        self._beat = 0
        self._incarnations: dict[int, int] = {}
        self._beats_heard: dict[int, int] = {}
        self._ticks = 0
        self._masterless_since_s: float | None = 0.0
        self._told_master = 0
        self._term = (0, 0)
        self._on_input = self._input_handlers()
        self._on_message = self._message_handlers()
        self._on_signal = self._signal_handlers()

    def _input_handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            inputs.Restored: self._on_restored,
            inputs.Received: self._on_received,
            inputs.PeerUp: self._on_peer_up,
            inputs.PeerDown: self._on_peer_down,
            inputs.TimerFired: self._on_timer,
            inputs.Persisted: self._on_persisted,
            inputs.LogRead: lambda event: self.server.on_read(event.token, event.entries),
            inputs.Submitted: self.submissions.submit,
            inputs.Prepared: lambda event: self.proposals.on_prepared(event.flight, event.refused),
            inputs.ReadRequested: self.reads.on_request,
            inputs.ChangeBegan: self.absence.on_change_began,
            inputs.ChangeUpdated: self.absence.on_change_updated,
            inputs.ChangeEnded: self._on_change_ended,
            inputs.MemberAbsent: lambda event: self.third_party.begin(event, self.changes.next_id()),
            inputs.PauseSeen: lambda event: self._on_woke(event.pause_s, event.evidence),
            inputs.MasterMoveRequested: lambda event: self.wishes.on_move_requested(event, self.master),
            inputs.StopRequested: lambda event: self.wishes.on_stop_requested(),
        }

    def _message_handlers(self) -> dict[type, Callable[[int, Any], None]]:
        return {
            messages.Propose: self._on_propose,
            messages.Vote: self.submissions.on_vote,
            messages.Decide: self._on_decide,
            messages.Order: self._on_order,
            messages.Stored: self._on_stored,
            messages.Committed: self._on_committed,
            messages.Withdraw: lambda peer, message: self.proposals.on_withdraw(message),
            messages.AskFlight: lambda peer, message: self.submissions.on_ask(peer, message.flight),
            messages.Suspect: self._on_suspect,
            messages.Probe: self.succession.on_probe,
            messages.ProbeReply: self.succession.on_probe_reply,
            messages.Claim: self.succession.on_claim,
            messages.Grant: self.mastership.on_grant,
            messages.Refuse: lambda peer, message: self.succession.on_refuse(message),
            messages.Start: self._on_start,
            messages.WantStart: self._on_want_start,
            messages.Fetch: self.server.on_fetch,
            messages.Entries: self._on_entries,
            messages.FetchRefused: self._on_fetch_refused,
            messages.Handoff: self.succession.on_handoff,
            messages.MoveMaster: self.wishes.on_move_master,
            messages.MoveRefused: self.wishes.on_move_refused,
            messages.Inactive: self._on_inactive,
            messages.Confirmed: self.absence.on_answer,
            messages.Unsafe: self.absence.on_answer,
            messages.Resumed: self._on_resumed,
            messages.Normal: self._on_normal,
            messages.AbsenceOver: lambda peer, message: self._on_absence_over(message),
            messages.Heartbeat: self._on_heartbeat,
            messages.HeartbeatReply: self._on_heartbeat_reply,
            messages.QuorumCheck: self._on_quorum_check,
            messages.QuorumCheckReply: self._on_quorum_check_reply,
            messages.Read: self._on_read,
            messages.ReadAt: lambda peer, message: self.reads.on_read_at(message),
        }

    def _signal_handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            signals.ClaimWon: self._on_claim_won,
            signals.OfficeTaken: self._on_office_taken,
            signals.OfficeOpened: self._on_office_opened,
            signals.OfficeGoesOn: lambda signal: self._go_on_ordering(),
            signals.OfficeLeft: self._on_office_left,
            signals.HandedOver: self._on_handed_over,
            signals.Advanced: lambda signal: self._apply(),
            signals.OwnStandingChanged: self.absence.on_own_standing,
            signals.PeerChanged: self._on_peer_changed,
        }

    # --- the door ------------------------------------------------------------------

    def step(self, now_s: float, event: Input) -> list[Effect]:
        """Let something happen.

        :param now_s: the time on a monotonic clock; never falls.
        :returns: what is to be done about it, in order.
        """
        self.commons.now_s = now_s
        if now_s > self.liveness.stopped_after_s:  # what comes now may have lain here all the time
            self._on_woke(self.liveness.on_tick(now_s), "its ticks came late")
            self._settle()
        self._on_input[type(event)](event)
        self._settle()
        if self._started:
            self._update_master()
            if self.commons.signals or self.commons.loopback:
                self._settle()
        effects, self.commons.out = self.commons.out, []
        return effects

    def _settle(self) -> None:
        commons = self.commons
        while commons.signals or commons.loopback:
            if commons.signals:
                signal = commons.signals.popleft()
                self._on_signal[type(signal)](signal)
            else:
                self._receive(commons.me, commons.loopback.popleft())

    @property
    def office(self) -> Office | None:
        """The office, while this node is master."""
        return self.mastership.core.office

    @property
    def master(self) -> int:
        """The node id of the master whose log this node has adopted; 0 when none is known."""
        if self.mastership.core.office is not None:
            return self.commons.me if self.mastership.core.role in ("starting", "master") else 0
        if not self.following.adopted or not self.succession.hears_master():
            return 0
        return self.following.master

    # --- start ---------------------------------------------------------------------

    def _on_restored(self, event: inputs.Restored) -> None:
        self.journal.restore(event.entries)
        self._apply()
        if not event.last:
            return
        self._started = True
        now_s = self.commons.now_s
        self.liveness.begin(now_s, self.commons.others)
        self.liveness.on_tick(now_s)
        self.mastership.core.quiet_since_s = now_s
        self.mastership.core.highest_seen = self.journal.promised
        self._masterless_since_s = now_s
        self.commons.out.append(SetTimer(TICK, self.liveness.tick_s))

    # --- the store, the network, the clock -------------------------------------------

    def _on_persisted(self, event: inputs.Persisted) -> None:
        if not self.journal.on_persisted(event.token):
            return
        office = self.office
        if office is not None and office.epoch == self.journal.log_epoch:
            self._count_stored(office, self.commons.me, self.journal.stored)
            self.succession.go_on()
            return
        if self.following.ahead:
            self.following.drain()
        if self.journal.writing:
            self.commons.need_turn()  # the disk may have more to say: one STORED tells it all
        else:
            self.following.say_stored()

    def _on_received(self, event: inputs.Received) -> None:
        if not self._started or event.peer not in self.peers or event.peer == self.commons.me:
            return
        self.liveness.on_heard(event.peer, self.commons.now_s)
        self._receive(event.peer, event.message)

    def _receive(self, peer: int, message: Message) -> None:
        self._on_message[type(message)](peer, message)

    def _on_peer_up(self, event: inputs.PeerUp) -> None:
        if event.incarnation != self._incarnations.setdefault(event.peer, event.incarnation):
            self._incarnations[event.peer] = event.incarnation
            self.succession.on_master_gone(event.peer)  # an office does not outlive a start
        self.commons.links[event.peer] = Link(event.incarnation, event.disk_id)
        self.vms[event.peer] = event.vms
        self.liveness.on_heard(event.peer, self.commons.now_s)
        self.submissions.on_link(event.peer)
        self.reads.on_link(event.peer)
        self.following.on_link(event.peer)
        candidacy = self.mastership.core.candidacy
        if candidacy is not None and candidacy.asked_others:
            self.commons.reach(Mark.CLAIM_OVER_NEW_LINK)
            self.commons.send(event.peer, messages.Claim(candidacy.epoch, candidacy.why, candidacy.of_epoch))
        if self.office is not None:
            self.commons.send(event.peer, self.office.start_message())

    def _on_peer_down(self, event: inputs.PeerDown) -> None:
        self.commons.links.pop(event.peer, None)

    def _on_timer(self, event: inputs.TimerFired) -> None:
        if event.key == TICK:
            self._on_tick()
        elif event.key == TURN:
            self.commons.turn_armed = False
            self._on_turn()
        else:
            raise LocalProtocolError(f"no timer is called {event.key!r}")

    def _on_turn(self) -> None:
        """What has gathered in the turn of the event loop that is over goes out."""
        if self.own.state == "normal":
            self.submissions.dispatch()
        self.reads.ask()
        if self.office is not None:
            self.office.tell_whom_it_concerns()
        else:
            self.following.say_stored()

    def _on_tick(self) -> None:
        self.commons.out.append(SetTimer(TICK, self.liveness.tick_s))
        self.liveness.on_tick(self.commons.now_s)
        self._ticks += 1
        if self.office is not None:
            self.office.tell_everybody()
        self.absence.on_tick()
        self.third_party.on_tick()
        for node_id, peer in self.peers.items():
            peer.on_tick(self.journal.table[node_id].standing)
        self.roster.on_tick()
        self._reconcile()  # before the quorum is looked at: a last man standing lets the silent go first
        self.succession.on_tick()
        self.proposals.on_tick()
        self.submissions.on_tick()
        self.reads.on_tick()
        self.following.on_tick(self.liveness.timeout_s)
        self.wishes.on_tick()
        self._check_quorum_lost()
        if self._ticks % TICKS_PER_HEARTBEAT == 0:
            self._on_heartbeat_due()

    def _on_woke(self, late_s: float, evidence: str) -> None:
        """This node was stopped: what it knows may be old, so it asks before it acts."""
        self._reach_woke()
        self.commons.out.append(DropDatagrams())
        if late_s > self.commons.config.heartbeat.timeout_s:
            self.commons.out.append(ResetLinks("this node was stopped for a while"))
        self.mastership.core.quiet_since_s = self.commons.now_s
        self.succession.on_master_heard()  # nobody's silence meanwhile counts
        reason = f"this node was stopped for about {late_s:.1f} s: {evidence}"
        self.commons.notify("own_standing", self.commons.me, reason, {})
        self.own.machine.woke()
        if self.mastership.core.role in ("probing", "claiming"):
            self.mastership.machine.stand_down("this node was stopped meanwhile")
        office = self.office
        if office is not None and self.mastership.core.role in ("starting", "master"):
            self.succession.cancel_plan("this node was stopped meanwhile")
            office.paused = "this node was stopped and proves that it still has a quorum"
            self.checks.prove(office)
            self._after_check(office)

    def _reach_woke(self) -> None:
        role = self.mastership.core.role
        if role in ("probing", "claiming"):
            self.commons.reach(Mark.WOKE_AS_CANDIDATE)
        elif role in ("starting", "master"):
            self.commons.reach(Mark.WOKE_AS_MASTER)
        elif role == "handing_over":
            self.commons.reach(Mark.WOKE_WHILE_HANDING_OVER)
        if self.succession.plan is not None:
            self.commons.reach(Mark.WOKE_BEFORE_HANDOVER)
        if self.own.state == "leaving":
            self.commons.reach(Mark.WOKE_WHILE_LEAVING)

    # --- who is master ---------------------------------------------------------------

    def _update_master(self) -> None:
        """Tell the desks when another node orders, or nobody does."""
        master, office = self.master, self.office
        if office is not None and office.paused and master == self.commons.me:
            master = 0
        # The same node in its next office is another master: what it was told in the last one is forgotten.
        term = (master, self.journal.log_epoch if master else 0)
        if term == self._term:
            return
        self._term = term
        self.submissions.on_master(master)
        self.reads.on_master(master)
        if not master:
            self._masterless_since_s = self.commons.now_s
            return
        self._masterless_since_s = None
        if self.submissions.refusing and not self.wishes.stopping:
            self.commons.reach(Mark.QUORUM_REGAINED)
            self.submissions.refusing = ""
            self.commons.notify("quorum_regained", 0, f"node {master} is master", {})
        if master != self._told_master:
            facts = {"master": master, "before": self._told_master or None, "epoch": self.journal.log_epoch}
            self._told_master = master
            self.commons.notify("master_changed", master, f"epoch {epochs.text(self.journal.log_epoch)}", facts)
        self.wishes.on_master(master)

    def _check_quorum_lost(self) -> None:
        since_s = self._masterless_since_s
        limit_s = QUORUM_LOST_AFTER_TIMEOUTS * self.commons.config.heartbeat.timeout_s
        if since_s is not None and not self.submissions.refusing and self.commons.now_s - since_s > limit_s:
            reason = "no majority of the voters has a master"
            self.submissions.refuse_all(reason)
            self.commons.notify("quorum_lost", 0, reason, {})

    def _on_claim_won(self, signal: signals.ClaimWon) -> None:
        candidacy = self.mastership.core.candidacy
        if candidacy is not None and candidacy.epoch == signal.epoch == self.journal.promised:
            self.mastership.machine.won()
        else:
            self.commons.reach(Mark.BEST_LOG_ADOPTED_IN_VAIN)

    def _on_office_taken(self, signal: signals.OfficeTaken) -> None:
        office = self.office
        if office is None:
            return
        deposed = self.following.master
        self.following.follow(office.epoch)
        # Followers do not hear each other, so nobody's silence counts yet, but the deposed master's.
        deposed_heard_s = self.commons.now_s - self.liveness.silence_s(deposed, self.commons.now_s)
        self.liveness.begin(self.commons.now_s, self.commons.others)
        if deposed in self.peers and deposed != self.commons.me:
            self.liveness.on_heard(deposed, deposed_heard_s)
        self.roster.reset()
        self.checks.reset()
        self.peers_applied.clear()
        self._count_stored(office, self.commons.me, self.journal.stored)
        self._order_waiting()
        self._on_heartbeat_due()

    def _on_office_opened(self, signal: signals.OfficeOpened) -> None:
        self._reconcile()
        if self.office is not None:
            self.checks.begin(self.office)  # reads that came before this

    def _on_office_left(self, signal: signals.OfficeLeft) -> None:
        self.succession.plan = None
        self.roster.reset()
        self.checks.reset()
        self.proposals.decisions.clear()
        self.absence.go_on_leaving()

    def _on_handed_over(self, signal: signals.HandedOver) -> None:
        if self.mastership.core.role == "handing_over":
            self.mastership.machine.handed()
        else:
            self.commons.reach(Mark.HANDOFF_AFTER_DEPOSITION)

    # --- flights -----------------------------------------------------------------------

    @property
    def _votes(self) -> bool:
        return self.own.state in ("normal", "leaving")

    def _on_propose(self, peer: int, message: messages.Propose) -> None:
        flight = message.flight
        if flight.id.origin != peer:
            return
        if self.proposals.on_propose(flight, self._votes):
            self._order(flight.id)
        if self.office is not None and flight.mode.voted:
            self.office.hasten(EVERYBODY)  # who lacks what its coordinator has applied does not vote on it
        self.following.drain()

    def _on_decide(self, peer: int, message: messages.Decide) -> None:
        if self.office is not None and message.flight.origin == peer:
            self.proposals.on_decide(message)
            self._order(message.flight)

    def _order(self, fid: FlightId) -> None:
        office = self.office
        if office is None or office.paused:
            if office is not None:
                self.commons.reach(Mark.FLIGHT_WAITS_FOR_PAUSED_OFFICE)
            return
        ready = self.proposals.ready(fid)
        if ready is not None:
            office.order_flight(*ready)

    def _go_on_ordering(self) -> None:
        """What came while the office was paused has its turn."""
        self._order_waiting()
        self._reconcile()

    def _order_waiting(self) -> None:
        for fid in sorted(self.proposals.held):
            self._order(fid)

    def _on_suspect(self, peer: int, message: messages.Suspect) -> None:
        reason = f"it has not voted on a flight of node {peer} in time"
        self.commons.notify("mastership", message.member, reason, {"suspect": message.member})

    # --- the log ------------------------------------------------------------------------

    def _is_from_master(self, peer: int, epoch: int) -> bool:
        """Whether a master may speak in ``epoch``; a deposed one is told so."""
        if peer != epochs.master_of(epoch):
            return False
        self.succession.saw(epoch)
        if epoch < self.journal.promised:
            self.commons.send(peer, Refuse(epoch, self.journal.promised, "a higher epoch is promised"))
            return False
        if self.following.follow(epoch):
            self._beats_heard.clear()
        self.succession.on_master_heard()
        if self.mastership.core.role != "follower":
            if self.office is not None:
                self.commons.reach(Mark.MASTER_HEARS_HIGHER_MASTER)
            self.mastership.machine.stand_down(f"node {peer} is master of epoch {epochs.text(epoch)}")
        return True

    def _on_start(self, peer: int, message: messages.Start) -> None:
        if self._is_from_master(peer, message.epoch):
            self.following.on_start(message)
        else:
            self.commons.reach(Mark.START_BELOW_PROMISE)

    def _on_want_start(self, peer: int, message: messages.WantStart) -> None:
        if self.office is not None and self.office.epoch == message.epoch:
            self.commons.send(peer, self.office.start_message())

    def _on_order(self, peer: int, message: messages.Order) -> None:
        if not self._is_from_master(peer, message.epoch):
            self.commons.reach(Mark.ORDER_BELOW_PROMISE)
            return
        if message.proposal is not None and message.proposal.id.origin == peer:
            self.proposals.on_propose(message.proposal, self._votes)
        self.following.on_order(message)

    def _on_committed(self, peer: int, message: messages.Committed) -> None:
        if self._is_from_master(peer, message.epoch):
            self.following.heard(0, message.committed, message.everywhere)
            self.following.drain()

    def _on_entries(self, peer: int, message: messages.Entries) -> None:
        candidacy = self.mastership.core.candidacy
        if candidacy is not None and candidacy.transfer is not None and candidacy.transfer.source == peer:
            if candidacy.transfer.take(message):
                self.mastership.go_on()
        else:
            self.following.on_entries(message)

    def _on_fetch_refused(self, peer: int, message: messages.FetchRefused) -> None:
        self.succession.on_fetch_refused(message.epoch, message.log_epoch)
        self.following.on_fetch_refused(message)

    def _on_stored(self, peer: int, message: messages.Stored) -> None:
        office = self.office
        if office is not None and message.epoch == office.epoch:
            self._count_stored(office, peer, message.seq)
        elif office is not None:
            self.commons.reach(Mark.STORED_OF_ANOTHER_EPOCH)

    def _count_stored(self, office: Office, node_id: int, seq: int) -> None:
        office.on_stored(node_id, seq)
        if not office.opened and self.mastership.core.role == "starting" and office.has_majority():
            self.mastership.machine.opened()
        if self.succession.plan is not None:
            self.succession.go_on()
        if office.opened and self.journal.table[node_id].standing is Standing.CATCHING_UP:
            self._reconcile()

    def _apply(self) -> None:
        """Perform what is committed; whoever waits for it hears of it."""
        standings_changed = False
        for entry, dead in self.journal.take_applicable():
            self.commons.out.append(Apply(entry, dead))
            if entry.flight is not None:
                self.proposals.on_applied(entry.flight.id)
                if not dead:
                    self.submissions.on_applied(entry.flight.id, entry.seq)
            else:
                standings_changed = True
                self._on_standing_applied(entry)
        everywhere = self.office.everywhere if self.office is not None else self.following.everywhere
        self.submissions.on_everywhere(min(everywhere, self.journal.applied))
        self.reads.on_applied()
        if self._votes:
            self.proposals.go_on_voting()
        if self.office is not None and standings_changed:
            self.office.count()  # other members are counted now
            self._reconcile()

    def _on_standing_applied(self, entry: Entry) -> None:
        standing = entry.standing
        assert standing is not None
        deadline_s = self.commons.now_s + patience_s(self.commons.config, standing.expected_ms / 1000)
        self.peers[standing.node_id].on_entry(standing, deadline_s)
        self.proposals.on_standing(standing.node_id, entry.seq)
        if standing.node_id == self.commons.me:
            self.submissions.on_own_standing(entry.seq)
            self.absence.on_told(standing)
        self.third_party.on_applied(standing)
        # A leaving master is not told to go by itself: the next master answers it.
        leaves = standing.standing is Standing.INACTIVE and standing.node_id != self.commons.me
        if leaves and self.office is not None:
            self.roster.answer(standing.node_id, (standing.incarnation, standing.change_id))

    # --- absence: the others' -----------------------------------------------------------

    def _on_inactive(self, peer: int, message: Inactive) -> None:
        key = (message.incarnation, message.change_id)
        third_party = message.member != peer
        if third_party and (message.revision != REVISION or message.member not in self.peers):
            return
        if third_party and message.member == self.commons.me:
            self.absence.on_third_party(message.kind, message.expected_ms, message.source, key)
            return
        deadline_s = self.commons.now_s + patience_s(self.commons.config, message.expected_ms / 1000)
        self.peers[message.member].on_announcement(message, deadline_s)
        if self.office is not None:
            self._reconcile()
            if not third_party:
                self.roster.answer(peer, key)

    def _on_absence_over(self, message: AbsenceOver) -> None:
        if message.member == self.commons.me:
            self.absence.on_over(message)
        elif message.member in self.peers:
            self.peers[message.member].on_over(message)

    def _on_change_ended(self, event: inputs.ChangeEnded) -> None:
        if event.change_id in self.third_party.words:
            self.third_party.end(event.change_id, event.outcome)
        else:
            self.absence.end_change(event.change_id, event.outcome)

    def _on_peer_changed(self, signal: signals.PeerChanged) -> None:
        core = self.peers[signal.node_id].core
        facts: dict[str, object] = {"standing": signal.standing.value}
        reason = signal.entry.reason if signal.entry is not None else _why(core)
        if signal.standing is Standing.INACTIVE:
            facts.update(change_kind=core.kind, expected_ms=core.expected_ms, source=core.source)
        if self._started:
            self.commons.notify(f"node_{signal.standing.value}", signal.node_id, reason, facts)
        if signal.standing is Standing.NORMAL:
            self.submissions.on_peer_present(signal.node_id)
        else:
            self.submissions.on_peer_absent(signal.node_id, signal.standing is Standing.INACTIVE)

    def _on_resumed(self, peer: int, message: Resumed) -> None:
        if self.office is None:
            if peer == message.member and self.master:
                self.commons.send(self.master, message)
            return
        if message.member in self.peers and message.member != self.commons.me:
            self.roster.on_resumed(message)
            self._reconcile()
            self.commons.out.append(SendDatagram(message.member, self._heartbeat(self.office, message.member)))

    def _on_normal(self, peer: int, message: Normal) -> None:
        core = self.peers[peer].core
        if message.member == peer and (message.incarnation, message.change_id) >= core.absence:
            self.peers[peer].machine.returned()
        else:
            self.commons.reach(Mark.THIRD_MESSAGE_OF_EARLIER_ABSENCE)

    def _reconcile(self) -> None:
        office = self.office
        if office is None or not office.opened or office.paused:
            return
        self.roster.reconcile(office)
        self.absence.check_told_normal(self.journal.tail)

    # --- heartbeats --------------------------------------------------------------------

    def _on_heartbeat_due(self) -> None:
        office = self.office
        if office is not None:
            self._beat += 1
            for peer in self.commons.others:
                heartbeat = self._heartbeat(office, peer)
                self.commons.out.append(SendDatagram(peer, heartbeat))
                if self._is_strangely_silent(peer):
                    self.commons.send(peer, attrs.evolve(heartbeat, urgent=True))
            self.checks.on_tick(office)
        elif self.master:
            self.absence.ask_again(self.master)

    def _is_strangely_silent(self, peer: int) -> bool:
        """Whether datagrams may be lost for good (a firewall), so that the link is tried before a member is accused."""
        present = self.peers[peer].core.standing in (Standing.NORMAL, Standing.CATCHING_UP)
        return present and self.liveness.silence_s(peer, self.commons.now_s) > self.liveness.timeout_s / 2

    def _heartbeat(self, office: Office, peer: int) -> Heartbeat:
        member = self.journal.table[peer]
        return Heartbeat(
            epoch=office.epoch,
            beat=self._beat,
            committed=self.journal.committed,
            everywhere=office.everywhere,
            ordered=self.journal.tail,
            standing=member.standing,
            incarnation=member.incarnation,
            change_id=member.change_id,
            table_digest=self.journal.committed_table.digest,
        )

    def _on_heartbeat(self, peer: int, message: Heartbeat) -> None:
        if not self._is_from_master(peer, message.epoch):
            return
        if message.beat < self._beats_heard.get(peer, 0):
            self.commons.reach(Mark.HEARTBEAT_OVERTAKEN)
            return  # overtaken on the way
        self._beats_heard[peer] = message.beat
        self.following.want_start()
        if self.following.adopted:
            self.following.heard(message.ordered, message.committed, message.everywhere)
            self.following.drain()
            self._compare_tables(message)
        durable = self.journal.stored >= 0
        standing = {"normal": Standing.NORMAL, "leaving": Standing.NORMAL, "inactive": Standing.INACTIVE}
        reply = HeartbeatReply(
            epoch=message.epoch,
            beat=message.beat,
            log_epoch=self.journal.log_epoch if durable else 0,
            stored=max(0, self.journal.stored),
            applied=self.journal.applied,
            standing=standing.get(self.own.state, Standing.CATCHING_UP),
            incarnation=self.commons.stored.incarnation,
            disk_id=self.commons.stored.disk_id,
        )
        self.commons.out.append(SendDatagram(peer, reply))
        if message.urgent:
            self.commons.send(peer, reply)
        self.absence.on_heartbeat(message)

    def _compare_tables(self, message: Heartbeat) -> None:
        """Nodes that have committed the same log have the same table; anything else is a defect, and no small one."""
        journal = self.journal
        if journal.committed == message.committed and journal.committed_table.digest != message.table_digest:
            raise LocalProtocolError(f"the membership table at seq {journal.committed} is not the master's")

    def _on_heartbeat_reply(self, peer: int, message: HeartbeatReply) -> None:
        office = self.office
        if office is None or message.epoch != office.epoch:
            return
        self.peers_applied[peer] = message.applied
        if message.log_epoch == office.epoch:
            self._count_stored(office, peer, message.stored)
        if message.standing is Standing.NORMAL and self.peers[peer].core.deadline_s is not None:
            self.peers[peer].machine.returned()

    # --- quorum checks and reads -----------------------------------------------------------

    def _on_quorum_check(self, peer: int, message: messages.QuorumCheck) -> None:
        if self._is_from_master(peer, message.epoch):
            self.commons.send(peer, QuorumCheckReply(message.epoch, message.nonce))

    def _on_quorum_check_reply(self, peer: int, message: QuorumCheckReply) -> None:
        office = self.office
        if office is not None:
            self.checks.on_reply(office, peer, message)
            self._after_check(office)

    def _after_check(self, office: Office) -> None:
        """After an own pause: a quorum has answered, so this node is master still."""
        if self.checks.proving or not office.paused or self.succession.plan is not None:
            return
        if self.mastership.core.role not in ("starting", "master"):
            return
        self.commons.reach(Mark.OFFICE_PROVED)
        office.paused = ""
        self._go_on_ordering()

    def _on_read(self, peer: int, message: messages.Read) -> None:
        office = self.office
        if office is not None:
            self.checks.on_read(office, peer, message.nonce)
        else:
            self.commons.reach(Mark.READ_ASKED_OF_NO_MASTER)


def _why(core: PeerCore) -> str:
    """Why a member is seen in another standing without an entry."""
    if core.standing is Standing.NORMAL:
        return f"nothing has come of what {core.source} said of it"
    if core.source == SELF:
        return f"it announced its absence ({core.kind})"
    return f"{core.source} announced its absence ({core.kind})"
