"""A follower's log: START, ORDER, COMMITTED, and what is missing."""

from __future__ import annotations

import attrs

from txvbcast.core import epochs
from txvbcast.core.catchup import WINDOW_BYTES, WINDOW_ENTRIES, Transfer
from txvbcast.core.commons import Commons
from txvbcast.core.effects import Send
from txvbcast.core.journal import Journal, payload_bytes
from txvbcast.core.marks import Mark
from txvbcast.core.ordering import accepted_part, fits
from txvbcast.core.proposals import Proposals
from txvbcast.core.signals import Advanced
from txvbcast.wire.messages import Entries, Entry, FetchRefused, Order, Start, Stored, WantStart

#: Orders kept while something before them is missing; the rest is fetched later.
AHEAD_MAX = 10_000


@attrs.define(eq=False)
class Following:
    """What a node does with the log of the master it follows.

    :ivar epoch: of the master heard last; its log may not be adopted yet. 0 for none.
    :ivar master: the node whose epoch this is.
    :ivar ordered, committed, everywhere: what that master has said of its log.
    :ivar risen: ``everywhere`` is higher than what was told last.
    :ivar said: the epoch and seq of the last STORED.
    :ivar ahead: its orders, by seq, that cannot be appended yet.
    """

    commons: Commons
    journal: Journal
    proposals: Proposals
    epoch: int = 0
    master: int = 0
    ordered: int = 0
    committed: int = 0
    everywhere: int = 0
    risen: bool = False
    ahead: dict[int, Order] = attrs.field(factory=dict)
    transfer: Transfer | None = None
    tail_at_tick: int = -1
    said: tuple[int, int] = (0, 0)

    @property
    def adopted(self) -> bool:
        """Whether this node's log is that of the epoch it follows, and it has promised nothing higher."""
        return self.epoch != 0 and self.epoch == self.journal.log_epoch == self.journal.promised

    def follow(self, epoch: int) -> bool:
        """A master of ``epoch`` was heard; True if it is a new one."""
        if epoch == self.epoch:
            return False
        if self.ahead:
            self.commons.reach(Mark.ORDERS_FORGOTTEN_WITH_EPOCH)
        if self.transfer is not None:
            self.commons.reach(Mark.TRANSFER_DROPPED_FOR_NEW_MASTER)
        self.epoch, self.master = epoch, epochs.master_of(epoch)
        self.ordered = self.committed = self.everywhere = 0
        self.risen = False
        self.ahead.clear()
        self.transfer = None
        return True

    # --- adopting a log ------------------------------------------------------------

    def on_start(self, start: Start) -> None:
        """The log that this epoch starts with."""
        journal = self.journal
        if journal.log_epoch == start.epoch:
            self.said = (0, 0)  # over an earlier link it may be lost
            self.say_stored()
            return
        if self.transfer is not None and self.transfer.adopting == start.epoch:
            self.commons.reach(Mark.START_REPEATED_DURING_ADOPTION)
            return
        journal.promised = start.epoch  # durable in the same step as the adoption
        # What was ordered in this epoch is no part of that step, which may take a whole absence at once otherwise.
        is_growing = bool(start.runs) and start.runs[-1].epoch == start.epoch
        last = start.runs[-1].first - 1 if is_growing else start.last
        match = journal.matching(start.base, start.runs, last)
        self.ordered = max(self.ordered, start.last)
        self.transfer = Transfer(self.master, start.epoch, start.epoch, match, last, start.epoch)
        self._go_on()

    def on_entries(self, entries: Entries) -> None:
        """A window of what was asked for; a higher promise made meanwhile ends that."""
        if self.transfer is not None and self.transfer.epoch < self.journal.promised:
            self.commons.reach(Mark.TRANSFER_DROPPED_FOR_PROMISE)
            self.transfer = None
        if self.transfer is not None and self.transfer.take(entries):
            if not self.transfer.complete:
                self.commons.reach(Mark.SEVERAL_WINDOWS_FETCHED)
            self._go_on()

    def on_fetch_refused(self, refused: FetchRefused) -> None:
        """The master has another log by now: what is wanted is its Start."""
        transfer = self.transfer
        if transfer is not None and (transfer.epoch, transfer.log_epoch) == (refused.epoch, refused.log_epoch):
            self.commons.reach(Mark.FETCH_REFUSED_BY_MASTER)
            self.transfer = None
            self.want_start()

    def want_start(self) -> None:
        """Ask for the Start of the epoch followed, unless its log is here or on its way."""
        if self.epoch != self.journal.log_epoch and self.transfer is None:
            self.commons.send(self.master, WantStart(self.epoch))

    def _go_on(self) -> None:
        transfer = self.transfer
        assert transfer is not None
        if not transfer.adopting and transfer.got:
            # Orders may have been appended meanwhile.
            if transfer.got[0].seq <= self.journal.tail:
                self.commons.reach(Mark.ORDERED_WHILE_FETCHED)
            self.journal.append([entry for entry in transfer.got if entry.seq > self.journal.tail])
            transfer.match, transfer.got = self.journal.tail, []
        if not transfer.complete:
            # Not before: to read one window while the last is being written would take more from the others.
            fetch = transfer.fetch(self.commons.now_s)
            self.journal.when_durable((Send(transfer.source, fetch),))
            return
        self.transfer = None
        if transfer.adopting:
            if transfer.match < self.journal.tail:
                self.commons.reach(Mark.TAIL_DROPPED_FOR_START)
            self.journal.adopt(transfer.match, transfer.got, transfer.adopting)
        self._forget_appended()
        self.drain()
        if transfer.adopting and self.ordered > self.journal.tail and self.transfer is None and not self.ahead:
            self._fetch_missing()

    def _forget_appended(self) -> None:
        self.ahead = {seq: order for seq, order in self.ahead.items() if seq > self.journal.tail}

    def on_link(self, peer: int) -> None:
        """A request over an earlier link may be lost."""
        if self.transfer is not None and self.transfer.source == peer:
            self.commons.reach(Mark.FETCHED_AGAIN_OVER_NEW_LINK)
            self.commons.send(peer, self.transfer.fetch(self.commons.now_s))

    # --- growing with it -----------------------------------------------------------

    def on_order(self, order: Order) -> None:
        """A place of the log, from the master followed."""
        self.heard(order.seq, order.committed, order.everywhere)
        if order.seq > self.journal.tail and len(self.ahead) < AHEAD_MAX:
            self.ahead[order.seq] = order
        self.drain()
        if order.proposal is not None and order.seq in self.ahead:  # its payload is held, or too much is
            self.ahead[order.seq] = attrs.evolve(order, flight=order.flight_id, proposal=None)

    def heard(self, ordered: int, committed: int, everywhere: int) -> None:
        """The master's watermarks."""
        self.ordered = max(self.ordered, ordered)
        self.committed = max(self.committed, committed)
        if everywhere > self.everywhere:
            self.everywhere, self.risen = everywhere, True

    def drain(self) -> None:
        """Append what can be appended, and believe what is committed of it.

        Of much that has gathered it takes one window, and the next one when that is on disk: all of it at once would
        hold up this node, and whoever shares its disk.
        """
        if not self.adopted or (self.transfer is not None and self.transfer.adopting):
            if self.ahead:
                self.commons.reach(Mark.ORDERED_BEFORE_ADOPTION)
            if self.committed > self.journal.committed:
                self.commons.reach(Mark.COMMITTED_NOT_BELIEVED)
            return
        self.journal.append(self._take_window())
        if self.journal.commit(self.committed) or self.risen:
            self.risen = False
            self.commons.signal(Advanced())
        if self.ahead and self.journal.tail + 1 not in self.ahead and self.transfer is None:
            # A master orders over one link, so what lies before these orders was sent before that link, or before
            # the fetch that is over now: none will bring it, and a voter that waits here holds up the commits.
            self.commons.reach(Mark.GAP_BEFORE_ORDERS)
            self._fetch_missing()

    def _take_window(self) -> list[Entry]:
        """The entries that come next, as far as their orders and payloads are here, but no more than a window."""
        entries: list[Entry] = []
        space = WINDOW_BYTES
        seq = self.journal.tail + 1
        while seq in self.ahead and space > 0 and len(entries) < WINDOW_ENTRIES:
            entry = self._entry(self.ahead[seq])
            if entry is None:
                break
            del self.ahead[seq]
            entries.append(entry)
            seq += 1
            if seq in self.ahead:  # mostly there is but one, whose bytes need not be counted
                space -= payload_bytes(entry)
        return entries

    def _entry(self, order: Order) -> Entry | None:
        if order.standing is not None:
            return Entry(order.seq, order.epoch, standing=order.standing)
        fid = order.flight_id
        held = self.proposals.held.get(fid) if fid is not None else None
        if held is None or not fits(held.core.flight, order.accepted):
            self.commons.reach(Mark.ORDERED_WITHOUT_PAYLOAD)
            return None  # the payload is still on its way, or will be fetched
        return Entry(order.seq, order.epoch, flight=accepted_part(held.core.flight, order.accepted))

    def say_stored(self) -> None:
        """Tell the master what is on disk."""
        if not self.adopted or self.journal.stored < 0 or self.master == self.commons.me:
            return
        if self.said != (self.epoch, self.journal.stored):
            self.said = (self.epoch, self.journal.stored)
            self.commons.send(self.master, Stored(self.epoch, self.journal.stored, self.commons.stored.disk_id))

    def on_tick(self, patience_s: float) -> None:
        """Fetch what is missing since the last tick; ask again for what does not come."""
        stuck, self.tail_at_tick = self.tail_at_tick == self.journal.tail, self.journal.tail
        if self.transfer is not None:
            if self.commons.now_s - self.transfer.asked_s > patience_s:
                self.commons.reach(Mark.FETCHED_AGAIN_AFTER_PATIENCE)
                self.commons.send(self.transfer.source, self.transfer.fetch(self.commons.now_s))
            return
        if self.adopted and self.master != self.commons.me and self.ordered > self.journal.tail and stuck:
            self.commons.reach(Mark.STUCK_LOG_FETCHED)
            self._forget_appended()
            self._fetch_missing()

    def _fetch_missing(self) -> None:
        self.transfer = Transfer(self.master, self.epoch, self.epoch, self.journal.tail, self.ordered, 0)
        self._go_on()
