"""The coordinator's desk: transactions become flights, flights become answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from itertools import accumulate, chain

import attrs

from txvbcast.core.admission import Admission
from txvbcast.core.commons import Commons
from txvbcast.core.effects import ForgetResults, ReplyAborted, ReplyOverloaded, Share
from txvbcast.core.flights import CoordinatedFlight, CoordinatorCore
from txvbcast.core.inputs import Submitted
from txvbcast.core.journal import Journal
from txvbcast.core.marks import Mark
from txvbcast.wire.messages import Flight, FlightId, Mode, Suspect, Vote, Withdraw

#: What an item costs in a flight besides its own bytes.
ITEM_OVERHEAD_BYTES = 16


@attrs.frozen
class Waiting:
    """Transactions that are in no flight yet.

    :ivar flight_bytes: what they take in a flight.
    """

    share: Share
    items: tuple[bytes, ...]
    deadline_s: float
    flight_bytes: int

    @classmethod
    def make(cls, share: Share, items: tuple[bytes, ...], deadline_s: float) -> Waiting:
        """One for each of ``items``."""
        return cls(share, items, deadline_s, sum(map(len, items)) + ITEM_OVERHEAD_BYTES * len(items))

    def split(self, room_bytes: int, least: int) -> tuple[Waiting | None, Waiting]:
        """The first ones, as many as fit in ``room_bytes`` and at least ``least`` of them, and the others."""
        count = 0
        while count < least or len(self.items[count]) + ITEM_OVERHEAD_BYTES <= room_bytes:
            room_bytes -= len(self.items[count]) + ITEM_OVERHEAD_BYTES
            count += 1
        ticket, place = self.share.ticket, self.share.place
        rest = Share(ticket, place + count, self.share.count - count)
        others = Waiting.make(rest, self.items[count:], self.deadline_s)
        if not count:
            return None, others
        return Waiting.make(Share(ticket, place, count), self.items[:count], self.deadline_s), others


@attrs.define(eq=False)
class Submissions:
    """Flights in the making and flights under way of this node.

    Transactions share a flight if they have the same mode and the same timeout, so that
    everything after this desk is per flight.

    :ivar absent_s: members that are not normal: since when they are away by announcement, None without one.
    :ivar refusing: why submissions are refused at the door, empty when they are not.
    :ivar master: who orders now, 0 when flights have to wait.
    :ivar gathered: the transactions in ``making``.
    """

    commons: Commons
    journal: Journal
    refusing: str = ""
    master: int = 0
    absent_s: dict[int, float | None] = attrs.field(factory=dict)
    making: dict[tuple[Mode, float], deque[Waiting]] = attrs.field(factory=dict)
    gathered: int = 0
    gathered_bytes: int = 0
    under_way: dict[int, CoordinatedFlight] = attrs.field(factory=dict)
    next_number: int = 1
    admission: Admission = attrs.field(
        default=attrs.Factory(lambda self: Admission(self.commons.config.limits.wait_s), takes_self=True)
    )

    @property
    def pending(self) -> int:
        """Transactions that are not answered."""
        return self.gathered + sum(flight.core.waiting_clients for flight in self.under_way.values())

    def submit(self, submitted: Submitted) -> None:
        """Take transactions, or refuse them at the door."""
        share = Share(submitted.ticket, 0, len(submitted.items))
        if self.refusing:
            self._abort((share,), self.refusing, no_quorum=True)
            return
        deadline_s = self.commons.now_s + submitted.timeout_s
        waiting = Waiting.make(share, submitted.items, deadline_s)
        full = self._full(waiting)
        if full:
            self.commons.out.append(ReplyOverloaded((share,), full))
            return
        if not self.under_way and not self.making:
            self.admission.on_first(self.commons.now_s)
        self._gather((submitted.mode, submitted.timeout_s), waiting)
        self.commons.need_turn()

    def _full(self, waiting: Waiting) -> str:
        """Why ``waiting`` cannot be taken, empty when it can."""
        limits = self.commons.config.limits
        pending = self.pending
        if pending + waiting.share.count > limits.pending:
            return f"{pending} transactions are pending on this node, {limits.pending} may be (limits.pending)"
        if self.gathered_bytes and self.gathered_bytes + waiting.flight_bytes > limits.pending_bytes:
            return (
                f"{self.gathered_bytes} bytes of transactions wait on this node, "
                f"{limits.pending_bytes} may (limits.pending_bytes)"
            )
        if self.master and self.admission.is_flooded(self.commons.now_s, pending, self._oldest_s()):
            return (
                f"more comes than the cluster can take: {pending} transactions are pending on this node, the oldest "
                f"for more than {limits.wait_s * 1000:g} ms (limits.wait); send fewer at a time, or try again later"
            )
        return ""

    def _oldest_s(self) -> float:
        """When the first transaction that is not answered was handed in; now, if there is none."""
        for flight in self.under_way.values():
            if flight.core.unanswered:
                return flight.core.deadline_s - flight.core.timeout_s
        heads = (queue[0].deadline_s - timeout_s for (_, timeout_s), queue in self.making.items())
        return min(heads, default=self.commons.now_s)

    def _gather(self, key: tuple[Mode, float], waiting: Waiting) -> None:
        self.making.setdefault(key, deque()).append(waiting)
        self._count(waiting, 1)

    def _count(self, waiting: Waiting, sign: int) -> None:
        self.gathered += sign * waiting.share.count
        self.gathered_bytes += sign * waiting.flight_bytes

    def dispatch(self) -> None:
        """Send what has gathered, as far as flights may be under way."""
        while self.master and self.making and len(self.under_way) < self.commons.config.limits.flights:
            key = next(iter(self.making))
            queue = self.making.pop(key)
            batch = self._take(queue)
            if queue:
                self.commons.reach(Mark.FLIGHT_IS_FULL)
                self.making[key] = queue  # to the end: the other modes have their turn
            self._propose(key, batch)

    def _take(self, queue: deque[Waiting]) -> list[Waiting]:
        batch: list[Waiting] = []
        room_bytes = self.commons.config.limits.flight_bytes
        while queue and room_bytes > 0:
            waiting = queue.popleft()
            self._count(waiting, -1)
            if waiting.flight_bytes > room_bytes and waiting.share.count + len(batch) > 1:
                head, rest = waiting.split(room_bytes, least=0 if batch else 1)
                queue.appendleft(rest)
                self._count(rest, 1)
                return batch if head is None else [*batch, head]
            batch.append(waiting)
            room_bytes -= waiting.flight_bytes
        return batch

    def _propose(self, key: tuple[Mode, float], batch: list[Waiting]) -> None:
        mode, timeout_s = key
        number = self.next_number
        self.next_number += 1
        flight = Flight(
            id=FlightId(self.commons.me, self.commons.stored.incarnation, number),
            mode=mode,
            born=self.journal.applied_table[self.commons.me].since,
            oldest=min(self.under_way, default=number),
            items=tuple(chain.from_iterable(waiting.items for waiting in batch)),
            seen=self.journal.applied,
        )
        shares = [waiting.share for waiting in batch]
        core = CoordinatorCore(
            self.commons,
            flight,
            unanswered=list(zip(accumulate((each.count for each in shares), initial=0), shares, strict=False)),
            timeout_s=timeout_s,
            deadline_s=min(waiting.deadline_s for waiting in batch),
            proposed_s=self.commons.now_s,
            master=self.master,
        )
        self.under_way[number] = CoordinatedFlight.make(core)
        self.under_way[number].machine.proposed(self._waited() if mode.voted else frozenset())
        self._sweep()

    # --- what happens to flights under way -----------------------------------------

    def _find(self, flight: FlightId) -> CoordinatedFlight | None:
        if (flight.origin, flight.incarnation) != (self.commons.me, self.commons.stored.incarnation):
            return None
        return self.under_way.get(flight.number)

    def on_vote(self, peer: int, vote: Vote) -> None:
        """A member's vote; one about a flight that is settled changes nothing."""
        flight = self._find(vote.flight)
        if flight is not None:
            flight.machine.voted(peer, vote.refused)
            self._sweep()
        else:
            self.commons.reach(Mark.VOTE_AFTER_THE_END)

    def _waited(self) -> frozenset[int]:
        """Whose votes a new flight needs: the failed ones' never, the inactive ones' only if patience is configured."""
        patient = self.commons.config.response_timeout.inactive_s > 0
        members = (member.id for member in self.commons.config.members)
        return frozenset(
            member
            for member in members
            if member not in self.absent_s or (patient and self.absent_s[member] is not None)
        )

    def on_peer_present(self, peer: int) -> None:
        """A member is normal: its votes are needed again."""
        self.absent_s.pop(peer, None)

    def on_peer_absent(self, peer: int, announced: bool) -> None:
        """Stop to wait for a member, in-flight flights included: at once, or after ``response_timeout.inactive``."""
        self.absent_s[peer] = self.commons.now_s if announced else None
        self._excuse_absent()
        self._sweep()

    def _excuse_absent(self) -> None:
        for flight in tuple(self.under_way.values()):
            for peer in sorted(flight.core.waiting & self.absent_s.keys()):
                since_s = self.absent_s[peer]
                patience_s = self.commons.config.response_timeout.inactive_s
                if since_s is None or self.commons.now_s >= max(since_s, flight.core.proposed_s) + patience_s:
                    flight.machine.excused(peer)
                else:
                    self.commons.reach(Mark.ABSENT_STILL_WAITED_FOR)

    def on_master(self, master: int) -> None:
        """Somebody orders now (0: nobody does); flights that are not in the log are sent again."""
        self.master = master
        if not master:
            return
        for flight in self._unordered():
            flight.core.master = master
            flight.machine.sent_again(master)
        if self.making:
            self.commons.need_turn()

    def on_link(self, peer: int) -> None:
        """What a peer was sent over its last link may be lost."""
        for flight in self._unordered():
            if flight.core.phase == "voting" or peer == self.master:
                flight.machine.sent_again(peer)

    def _unordered(self) -> list[CoordinatedFlight]:
        return [
            flight
            for flight in self.under_way.values()
            if flight.core.phase in ("voting", "decided") and self.journal.where(flight.core.flight.id) is None
        ]

    def on_applied(self, flight: FlightId, seq: int) -> None:
        """An own flight has taken effect on this node."""
        mine = self._find(flight)
        if mine is None:
            if flight.origin == self.commons.me:
                self.commons.out.append(ForgetResults(flight))
            return
        mine.machine.applied(seq)
        self._sweep()

    def on_everywhere(self, seq: int) -> None:
        """Every normal member holds the log up to ``seq``."""
        for flight in tuple(self.under_way.values()):
            if flight.core.phase == "applied" and flight.core.seq <= seq:
                flight.machine.everywhere()
        self._sweep()

    def on_own_standing(self, seq: int) -> None:
        """The log speaks of this node at ``seq``: its flights from before that are dead.

        Their transactions are proposed anew, under new numbers, while their clients wait.
        """
        for flight in tuple(self.under_way.values()):
            if flight.core.phase in ("voting", "decided") and flight.core.flight.born < seq:
                flight.machine.died()
        self._sweep()

    def on_ask(self, peer: int, flight: FlightId) -> None:
        """A participant wonders what became of a flight: the log up to here says it, and no later part will."""
        known = self._find(flight) is not None or self.journal.where(flight) is not None
        if not known and flight.incarnation == self.commons.stored.incarnation:
            self.commons.reach(Mark.ASKED_ABOUT_FLIGHT_GIVEN_UP)
            self.commons.send(peer, Withdraw(flight, self.journal.applied))

    def on_tick(self) -> None:
        """Look at every deadline."""
        now_s = self.commons.now_s
        self._excuse_absent()
        patience_s = self.commons.config.response_timeout.normal_s
        for flight in tuple(self.under_way.values()):
            core = flight.core
            if core.phase == "voting" and not core.reported and now_s >= core.proposed_s + patience_s:
                core.reported = True
                self.commons.reach(Mark.MISSING_VOTE_REPORTED)
                for peer in sorted(core.waiting):
                    self.commons.send(self.master or self.commons.me, Suspect(peer, core.flight.id))
            if now_s >= core.deadline_s and core.unanswered:
                flight.machine.expired(self._why_late())
        self._expire_making(now_s)
        self._sweep()

    def _why_late(self) -> str:
        if not self.master:
            return "no answer in time: this node knows of no master"
        return "no answer in time"

    def _expire_making(self, now_s: float) -> None:
        for key, queue in tuple(self.making.items()):
            late = [waiting for waiting in queue if waiting.deadline_s <= now_s]
            if late:
                reason = "the transaction was never sent: " + (
                    "too many flights are under way" if self.master else "there was no master, or this node was away"
                )
                self._give_up(late, reason, no_quorum=not self.master)
                self.making[key] = deque(waiting for waiting in queue if waiting.deadline_s > now_s)
            if not self.making[key]:
                del self.making[key]

    def refuse_all(self, reason: str) -> None:
        """The quorum is lost: what was never sent is refused, and so is what comes."""
        self.refusing = reason
        for queue in self.making.values():
            self._give_up(queue, reason, no_quorum=True)
        self.making.clear()

    def _give_up(self, late: Collection[Waiting], reason: str, no_quorum: bool) -> None:
        for waiting in late:
            self._count(waiting, -1)
        self._abort(tuple(waiting.share for waiting in late), reason, no_quorum)

    def _abort(self, shares: tuple[Share, ...], reason: str, no_quorum: bool) -> None:
        if shares:
            self.commons.out.append(ReplyAborted(shares, reason, no_quorum=no_quorum))

    @property
    def idle(self) -> bool:
        """Whether every flight of this node is decided and applied here."""
        return not any(flight.core.phase in ("voting", "decided") for flight in self.under_way.values())

    def _sweep(self) -> None:
        """Take finished flights off the desk; put the transactions of dead ones back."""
        for number, flight in tuple(self.under_way.items()):
            if not flight.core.done:
                continue
            del self.under_way[number]
            if flight.core.returned:
                self.commons.reach(Mark.FLIGHT_PROPOSED_ANEW if flight.core.unanswered else Mark.DEAD_FLIGHT_OF_NOBODY)
                self._put_back(flight.core)
            else:
                self.admission.on_answered(self.commons.now_s)
        if self.making:
            self.commons.need_turn()

    def _put_back(self, core: CoordinatorCore) -> None:
        if not core.unanswered:
            return
        queue = self.making.setdefault((core.flight.mode, core.timeout_s), deque())
        for first, share in reversed(core.unanswered):
            items = core.flight.items[first : first + share.count]
            queue.appendleft(Waiting.make(share, items, core.deadline_s))
            self._count(queue[0], 1)
