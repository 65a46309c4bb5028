"""The exhaustive search: it finds what is wrong, what it finds replays, and the protocol survives it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import attrs
from click.testing import CliRunner
from twisted.internet.defer import gatherResults, inlineCallbacks
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from tests.core_samples import config, stored
from txvbcast.core import epochs, ordering
from txvbcast.core.effects import ReplyAborted, Send
from txvbcast.core.following import Following
from txvbcast.core.journal import Journal
from txvbcast.core.mastership import Mastership, MastershipCore
from txvbcast.core.ordering import Office
from txvbcast.core.replica import Replica
from txvbcast.core.roster import Roster
from txvbcast.core.submissions import Submissions
from txvbcast.core.succession import Succession
from txvbcast.core.table import needed
from txvbcast.errors import LocalProtocolError
from txvbcast.sim.explore.__main__ import main
from txvbcast.sim.explore.replay import Replay, replay
from txvbcast.sim.explore.scopes import SCOPES
from txvbcast.sim.explore.search import Result, Search
from txvbcast.sim.explore.snapshot import FAR_S, OLD_S, TIMEOUT_S, Mould, Shelf, quantised
from txvbcast.sim.explore.trace import TraceError, read, shown, text_of, written
from txvbcast.wire.messages import Claim, Entry, Start

# --- wrong versions of the protocol ----------------------------------------------------------


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner`` has another ``name`` for a while."""
    kept = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def order_below_promise_accepted() -> Iterator[None]:
    """A node takes ORDER and COMMITTED of an epoch below the one that it has promised."""

    def is_from_master(self: Replica, peer: int, epoch: int) -> bool:
        if peer != epochs.master_of(epoch) or epoch < self.following.epoch:
            return False
        self.following.follow(epoch)
        return True

    def on_start(self: Replica, peer: int, message: Start) -> None:
        if message.epoch >= self.journal.promised and self._is_from_master(peer, message.epoch):
            self.following.on_start(message)

    adopted = property(lambda self: self.epoch != 0 and self.epoch == self.journal.log_epoch)
    with (
        replaced(Replica, "_is_from_master", is_from_master),
        replaced(Replica, "_on_start", on_start),
        replaced(Following, "adopted", adopted),
    ):
        yield


@contextmanager
def start_below_promise_accepted() -> Iterator[None]:
    """A node adopts the log of an epoch below the one that it has promised."""

    def is_from_master(self: Replica, peer: int, epoch: int) -> bool:
        if peer != epochs.master_of(epoch):
            return False
        self.following.follow(epoch)
        return True

    with replaced(Replica, "_is_from_master", is_from_master):
        yield


@contextmanager
def promise_lost_at_restart() -> Iterator[None]:
    """A node that starts again knows of no promise above the epoch of its log."""
    init = Journal.__init__

    def forgetful(self: Journal, *args: Any) -> None:
        init(self, *args)
        self.promised = self.log_epoch

    with replaced(Journal, "__init__", forgetful):
        yield


@contextmanager
def grants_counted_by_own_table() -> Iterator[None]:
    """The candidate counts grants by the voters of its own log, not of the best one."""
    on_grant = Mastership.on_grant

    def counted(self: Mastership, peer: int, grant: Any) -> None:
        on_grant(self, peer, attrs.evolve(grant, voters=self.core.journal.table.voters))

    with replaced(Mastership, "on_grant", counted):
        yield


@contextmanager
def candidate_keeps_own_log() -> Iterator[None]:
    """The candidate starts with its own log, whatever the grants say."""

    def own(self: Mastership, grants: Any) -> Any:
        me = self.core.commons.me
        return me, grants[me]

    with replaced(Mastership, "_best", own):
        yield


@contextmanager
def ordering_after_handoff() -> Iterator[None]:
    """A master that has handed over keeps ordering."""
    order = Replica._order

    def on(self: Replica, fid: Any) -> None:
        if self.office is not None:
            paused, self.office.paused = self.office.paused, ""
            order(self, fid)
            if self.office is not None:
                self.office.paused = paused

    leave = MastershipCore.leave_office

    def stay(self: MastershipCore, reason: str) -> None:
        if reason != "handed over":
            leave(self, reason)

    with replaced(Replica, "_order", on), replaced(MastershipCore, "leave_office", stay):
        yield


@contextmanager
def stored_of_another_epoch_counted() -> Iterator[None]:
    """The master counts a STORED that speaks of another epoch's log."""

    def on_stored(self: Replica, peer: int, message: Any) -> None:
        if self.office is not None:
            self._count_stored(self.office, peer, message.seq)

    with replaced(Replica, "_on_stored", on_stored):
        yield


@contextmanager
def committed_believed_under_another_log() -> Iterator[None]:
    """A follower believes COMMITTED though its log is of another epoch."""

    def on_committed(self: Replica, peer: int, message: Any) -> None:
        if self._is_from_master(peer, message.epoch):
            self.following.heard(0, message.committed, message.everywhere)
            self.following.drain()
            if self.journal.commit(message.committed):
                self._apply()

    with replaced(Replica, "_on_committed", on_committed):
        yield


@contextmanager
def two_grants_in_one_epoch() -> Iterator[None]:
    """Epochs are compared by their number alone, so two candidates of the same number are both granted it."""
    on_claim = Succession.on_claim

    def granting(self: Succession, peer: int, claim: Claim) -> None:
        journal = self.journal
        same = epochs.number_of(claim.epoch) == epochs.number_of(journal.promised)
        if same and claim.epoch < journal.promised and journal.log_epoch < claim.epoch:
            journal.when_durable((Send(peer, self.mastership.core.own_grant(claim.epoch)),))
            return
        on_claim(self, peer, claim)

    def is_from_master(self: Replica, peer: int, epoch: int) -> bool:
        if peer != epochs.master_of(epoch) or epochs.number_of(epoch) < epochs.number_of(self.journal.promised):
            return False
        self.following.follow(epoch)
        return True

    with replaced(Succession, "on_claim", granting), replaced(Replica, "_is_from_master", is_from_master):
        yield


@contextmanager
def tail_dropped_before_adoption() -> Iterator[None]:
    """A node drops all that it does not know to be committed when it hears START, not when it adopts."""
    on_start = Following.on_start

    def dropping(self: Following, start: Any) -> None:
        journal = self.journal
        if journal.log_epoch != start.epoch and journal.tail > journal.committed:
            journal._truncate(journal.committed + 1)
            journal._persist(truncate_from=journal.committed + 1)
        on_start(self, start)

    with replaced(Following, "on_start", dropping):
        yield


@contextmanager
def standing_before_start_has_majority() -> Iterator[None]:
    """The master orders standings before a majority holds the log that it starts with."""

    def reconcile(self: Replica) -> None:
        office = self.office
        if office is not None and not office.paused:
            self.roster.reconcile(office)

    with replaced(Replica, "_reconcile", reconcile):
        yield


@contextmanager
def master_without_vote_counts_itself() -> Iterator[None]:
    """A master without the voter flag counts its own disk."""

    count = Office.count

    def counted(self: Office) -> None:
        def watermark(voters: Any, watermarks: Any) -> int:
            holders = {*voters, self.commons.me}
            return sorted((watermarks.get(holder, 0) for holder in holders), reverse=True)[needed(voters) - 1]

        with replaced(ordering, "majority_watermark", watermark):
            count(self)

    with replaced(Office, "count", counted):
        yield


@contextmanager
def second_standing_before_first_commits() -> Iterator[None]:
    """The master orders an entry about a member while one about another is not committed."""

    def reconcile(self: Roster, office: Office) -> None:
        for member in self.journal.table.members:
            wanted = self._wanted(member, office)
            if wanted is not None:
                office.order_standing(wanted)

    with replaced(Roster, "reconcile", reconcile):
        yield


@contextmanager
def acknowledged_before_sync() -> Iterator[None]:
    """A node says STORED of what its disk has not answered yet."""
    persist = Journal._persist

    def at_once(self: Journal, *args: Any, **more: Any) -> None:
        persist(self, *args, **more)
        self.stored = self.tail

    with replaced(Journal, "_persist", at_once):
        yield


@contextmanager
def aborted_after_decide() -> Iterator[None]:
    """A coordinator tells its client Aborted although the master may have been told to order the flight."""
    on_tick = Submissions.on_tick

    def impatient(self: Submissions) -> None:
        for flight in self.under_way.values():
            core = flight.core
            if core.phase == "decided" and core.tickets and self.commons.now_s >= core.deadline_s:
                self.commons.out.append(ReplyAborted(tuple(core.tickets.values()), "too late"))
                core.tickets = {}
        on_tick(self)

    with replaced(Submissions, "on_tick", impatient):
        yield


@contextmanager
def flight_ordered_twice() -> Iterator[None]:
    """The log is not asked whether it holds a flight already."""
    with (
        replaced(Journal, "where", lambda self, flight: None),
        replaced(Journal, "finished", lambda self, flight: False),
    ):
        yield


@contextmanager
def everywhere_is_committed() -> Iterator[None]:
    """The master takes for everywhere what is merely committed."""
    with replaced(Office, "_held_everywhere", lambda self: self.journal.committed):
        yield


@contextmanager
def entry_skipped() -> Iterator[None]:
    """A node that learns of several commits at once performs only the last of them."""
    take = Journal.take_applicable

    def hasty(self: Journal) -> Iterator[tuple[Entry, bool]]:
        yield from list(take(self))[-1:]

    with replaced(Journal, "take_applicable", hasty):
        yield


@contextmanager
def core_raises() -> Iterator[None]:
    """The core does not know what to do with a GRANT."""

    def on_grant(self: Mastership, peer: int, grant: Any) -> None:
        raise LocalProtocolError("planted")

    with replaced(Mastership, "on_grant", on_grant):
        yield


#: (wrong version, the scope that finds it, what it is found by, states within which it must be found).
PLANTED: tuple[tuple[Callable[[], AbstractContextManager[None]], str, str, int], ...] = (
    (order_below_promise_accepted, "three", "invariant", 400_000),
    (start_below_promise_accepted, "three", "", 400_000),
    (promise_lost_at_restart, "crash", "invariant 3", 400_000),
    (grants_counted_by_own_table, "standing", "invariant", 900_000),
    (candidate_keeps_own_log, "three", "invariant 3", 400_000),
    (ordering_after_handoff, "handover", "invariant 3", 400_000),
    (stored_of_another_epoch_counted, "three", "invariant 9", 400_000),
    (committed_believed_under_another_log, "three", "invariant 1", 400_000),
    (two_grants_in_one_epoch, "three", "", 400_000),
    (tail_dropped_before_adoption, "crash", "invariant", 600_000),
    (standing_before_start_has_majority, "four", "invariant", 900_000),
    (master_without_vote_counts_itself, "pair", "invariant 9", 400_000),
    (second_standing_before_first_commits, "standing", "invariant 14", 400_000),
    (acknowledged_before_sync, "crash", "invariant", 400_000),
    (aborted_after_decide, "voted", "invariant 4", 400_000),
    (flight_ordered_twice, "three", "invariant 5", 400_000),
    (everywhere_is_committed, "voted", "invariant 10", 400_000),
    (entry_skipped, "three", "invariant 2", 400_000),
    (core_raises, "three", "a node stops", 400_000),
)
