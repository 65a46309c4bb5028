"""Linearizable reads, and the proof that a master is still the master.

The master asks a majority whether it has promised anything higher; their answers name no
clock and need no lease.  All reads that wait share one round.
"""

from __future__ import annotations

import attrs

from txvbcast.core.commons import Commons
from txvbcast.core.effects import ReadFailed, ReadReady
from txvbcast.core.inputs import ReadRequested
from txvbcast.core.journal import Journal
from txvbcast.core.marks import Mark
from txvbcast.core.ordering import Office
from txvbcast.core.table import is_quorum
from txvbcast.wire.messages import QuorumCheck, QuorumCheckReply, Read, ReadAt


@attrs.define(eq=False)
class Round:
    """A quorum check under way; ``seq`` is what its reads must have applied."""

    nonce: int
    seq: int
    reads: list[tuple[int, int]]
    agreed: set[int]


@attrs.define(eq=False)
class QuorumChecks:
    """The master's side: rounds of QuorumCheck."""

    commons: Commons
    journal: Journal
    nonce: int = 0
    asked: list[tuple[int, int]] = attrs.field(factory=list)
    round: Round | None = None
    proving: bool = False

    def reset(self) -> None:
        """A new office begins, or this one is over: nodes ask the next master."""
        if self.asked or self.round is not None:
            self.commons.reach(Mark.READS_LOST_WITH_OFFICE)
        self.asked.clear()
        self.round = None
        self.proving = False

    def on_read(self, office: Office, peer: int, nonce: int) -> None:
        """A node asks for a seq; it joins the next round."""
        if self.round is not None:
            self.commons.reach(Mark.READ_JOINS_NEXT_ROUND)
        if not office.opened:
            self.commons.reach(Mark.READ_WAITS_FOR_OPENING)
        self.asked.append((peer, nonce))
        self.begin(office)

    def prove(self, office: Office) -> None:
        """After an own pause: nothing is ordered before a quorum has answered."""
        if self.round is not None:
            self.commons.reach(Mark.PROOF_REPLACES_ROUND)
            self.asked = self.round.reads + self.asked
        self.proving = True
        self.round = None
        self.begin(office)

    def begin(self, office: Office) -> None:
        """Start a round if one is needed and may be had."""
        if self.round is not None or not (self.proving or (self.asked and office.opened)):
            return
        self.nonce += 1
        reads = self.asked if office.opened else []
        if office.opened:
            self.asked = []
        self.round = Round(self.nonce, self.journal.committed, reads, {self.commons.me})
        self.commons.send_others(QuorumCheck(office.epoch, self.nonce))
        self._finish(office)

    def on_reply(self, office: Office, peer: int, reply: QuorumCheckReply) -> None:
        """A member has promised nothing higher."""
        if self.round is None or reply.nonce != self.round.nonce or reply.epoch != office.epoch:
            if self.round is not None:
                self.commons.reach(Mark.QUORUM_REPLY_OF_EARLIER_ROUND)
            return
        self.round.agreed.add(peer)
        self._finish(office)

    def _finish(self, office: Office) -> None:
        done = self.round
        if done is None or not is_quorum(self.journal.table.voters, done.agreed):
            return
        self.round = None
        self.proving = False
        for peer, nonce in done.reads:
            self.commons.send(peer, ReadAt(nonce, done.seq))
            office.hasten(peer)  # it answers when it has applied that much
        self.begin(office)

    def on_tick(self, office: Office) -> None:
        """Ask again: an answer may be lost."""
        if self.round is not None:
            self.commons.reach(Mark.QUORUM_ASKED_AGAIN)
            self.commons.send_others(QuorumCheck(office.epoch, self.round.nonce))


@attrs.define(eq=False)
class ReadBatch:
    """Reads of this node that share a question to the master; ``seq`` once it has answered."""

    tickets: dict[int, float]
    seq: int | None = None


@attrs.define(eq=False)
class Reads:
    """A node's side: its clients' linearizable reads."""

    commons: Commons
    journal: Journal
    master: int = 0
    nonce: int = 0
    gathering: dict[int, float] = attrs.field(factory=dict)
    batches: dict[int, ReadBatch] = attrs.field(factory=dict)

    @property
    def pending(self) -> int:
        """Reads that are not answered."""
        return len(self.gathering) + sum(len(batch.tickets) for batch in self.batches.values())

    def on_request(self, request: ReadRequested) -> None:
        """A client wants to read what is committed now."""
        limit = self.commons.config.limits.pending
        if self.pending >= limit:
            reason = f"{limit} reads are pending on this node (limits.pending)"
            self.commons.out.append(ReadFailed(request.ticket, reason))
            return
        self.gathering[request.ticket] = self.commons.now_s + request.timeout_s
        self.commons.need_turn()

    def ask(self) -> None:
        """Put the question for everything that has gathered."""
        if not self.gathering or not self.master:
            return
        self.nonce += 1
        self.batches[self.nonce] = ReadBatch(self.gathering)
        self.gathering = {}
        self.commons.send(self.master, Read(self.nonce))

    def on_master(self, master: int) -> None:
        """Another master (0: none) answers from now on: open questions are put to it."""
        self.master = master
        if master:
            self.on_link(master)
            self.ask()

    def on_link(self, peer: int) -> None:
        """A question over an earlier link may be lost."""
        if peer != self.master:
            return
        for nonce, batch in self.batches.items():
            if batch.seq is None:
                self.commons.reach(Mark.READ_ASKED_AGAIN)
                self.commons.send(peer, Read(nonce))

    def on_read_at(self, answer: ReadAt) -> None:
        """The master names the seq."""
        batch = self.batches.get(answer.nonce)
        if batch is not None and batch.seq is None:
            batch.seq = answer.seq
            if answer.seq > self.journal.applied:
                self.commons.reach(Mark.READ_WAITS_FOR_LOG)
            self.on_applied()
        else:
            self.commons.reach(Mark.READ_ANSWERED_TWICE)

    def on_applied(self) -> None:
        """Serve the reads whose seq this node has applied."""
        for nonce, batch in tuple(self.batches.items()):
            if batch.seq is not None and batch.seq <= self.journal.applied:
                del self.batches[nonce]
                self.commons.out.extend(ReadReady(ticket, self.journal.applied) for ticket in batch.tickets)

    def on_tick(self) -> None:
        """Give up on what has waited too long."""
        now_s = self.commons.now_s
        reason = "no master answered in time" if self.master else "this node knows of no master"
        for tickets in (self.gathering, *(batch.tickets for batch in self.batches.values())):
            for ticket in [ticket for ticket, until_s in tickets.items() if until_s <= now_s]:
                self.commons.reach(Mark.READ_EXPIRED)
                del tickets[ticket]
                self.commons.out.append(ReadFailed(ticket, reason))
        self.batches = {nonce: batch for nonce, batch in self.batches.items() if batch.tickets}
