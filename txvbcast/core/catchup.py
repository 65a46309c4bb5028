"""Serving and receiving a part of the log, in windows.

Used for three things: a candidate that adopts the best log among its grants, a node that
adopts the log of a Start, and a member that has missed entries of the log it follows.
"""

from __future__ import annotations

import attrs

from txvbcast.core.commons import Commons
from txvbcast.core.effects import ReadLog
from txvbcast.core.journal import Journal
from txvbcast.core.marks import Mark
from txvbcast.wire.messages import Entries, Entry, Fetch, FetchRefused

#: Payload bytes and entries of one Entries message, and of what a node that has much to make up writes at a time: few,
#: because all that is in it costs a moment, in which its server answers no client.
WINDOW_BYTES = 5 << 15
WINDOW_ENTRIES = 64


@attrs.define(eq=False)
class Transfer:
    """Entries on their way to this node, asked for window by window.

    :ivar source: who serves them.
    :ivar epoch: what the source must have promised; log_epoch: whose log is asked for.
    :ivar match: up to here this node's own log is the same.
    :ivar adopting: the epoch to adopt when all is there, 0 when entries are appended at once.
    :ivar asked_s: when the last window was asked for.
    """

    source: int
    epoch: int
    log_epoch: int
    match: int
    last: int
    adopting: int
    asked_s: float = 0.0
    got: list[Entry] = attrs.field(factory=list)

    @property
    def next_seq(self) -> int:
        """The first seq that is still missing."""
        return self.match + len(self.got) + 1

    @property
    def complete(self) -> bool:
        """Whether everything up to ``last`` is there."""
        return self.next_seq > self.last

    def fetch(self, now_s: float) -> Fetch:
        """The request for the next window."""
        self.asked_s = now_s
        return Fetch(self.epoch, self.log_epoch, self.next_seq, self.last)

    def take(self, answer: Entries) -> bool:
        """Take over what fits; False if the answer belongs to another request."""
        if (answer.epoch, answer.log_epoch) != (self.epoch, self.log_epoch):
            return False
        before = len(self.got)
        for entry in answer.entries:
            if entry.seq == self.next_seq and not self.complete:
                self.got.append(entry)
        return len(self.got) > before


@attrs.define(eq=False)
class Server:
    """Answers Fetch from the log on disk; the latest request of each peer counts."""

    commons: Commons
    journal: Journal
    _reads: dict[int, tuple[int, Fetch]] = attrs.field(factory=dict)
    _token: int = 0

    def on_fetch(self, peer: int, fetch: Fetch) -> None:
        """Start to read what was asked for, or say that this log is another one."""
        if self._refuse(peer, fetch):
            self.commons.reach(Mark.FETCH_REFUSED)
            return
        self._token += 1
        self._reads = {token: read for token, read in self._reads.items() if read[0] != peer}
        self._reads[self._token] = (peer, fetch)
        last = min(fetch.last, self.journal.tail, fetch.first + WINDOW_ENTRIES - 1)
        self.commons.out.append(ReadLog(self._token, fetch.first, last, WINDOW_BYTES))

    def on_read(self, token: int, entries: tuple[Entry, ...]) -> None:
        """The store has answered."""
        asked = self._reads.pop(token, None)
        if asked is None or self._refuse(*asked):
            self.commons.reach(Mark.LOG_READ_IN_VAIN)
            return
        peer, fetch = asked
        self.commons.send(peer, Entries(fetch.epoch, fetch.log_epoch, entries))

    def _refuse(self, peer: int, fetch: Fetch) -> bool:
        journal = self.journal
        if fetch.log_epoch == journal.log_epoch and fetch.epoch == journal.promised and fetch.first <= journal.tail:
            return False
        reason = f"this node has promised {journal.promised} and holds the log of {journal.log_epoch} to {journal.tail}"
        self.commons.send(peer, FetchRefused(fetch.epoch, fetch.log_epoch, reason))
        return True
