"""Wrong versions of the protocol, by name: each must be found by the checks that it is meant for.

A version is a context manager: within it the protocol is wrong.  Random runs look for it on its
ground: options that lead to what the version does wrong within a few seconds of virtual time.  The
exhaustive search looks for it in its scope.  Where each was found stands in ``docs/planted.md``,
and ``TXVBCAST_REWRITE_DOCS=1`` writes that anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import attrs

from txvbcast.applications import Applications, Performed
from txvbcast.core import epochs, journal, ordering, reads, table
from txvbcast.core.absence import Absence
from txvbcast.core.effects import Effect, Prepare, ReadReady, ReplyAborted, Send
from txvbcast.core.flights import CoordinatorCore
from txvbcast.core.following import Following
from txvbcast.core.inputs import ReadRequested
from txvbcast.core.journal import Journal
from txvbcast.core.liveness import Liveness
from txvbcast.core.mastership import Mastership, MastershipCore
from txvbcast.core.ordering import Office
from txvbcast.core.proposals import Proposals
from txvbcast.core.replica import Replica
from txvbcast.core.roster import Roster
from txvbcast.core.standing import Peer
from txvbcast.core.submissions import Submissions
from txvbcast.core.succession import Succession
from txvbcast.core.table import Member, needed
from txvbcast.errors import LocalProtocolError
from txvbcast.sim.network import Conditions
from txvbcast.sim.options import Options
from txvbcast.store.memory import Disk, MemoryStore
from txvbcast.wire.messages import AbsenceOver, Claim, Entry, Mode, Standing, StandingEntry, Start

# --- where to look ----------------------------------------------------------------------------

#: A small and busy cluster on a good network, without any fault.
QUIET = Options(
    nodes=3,
    seconds=6.0,
    preset="test",
    conditions=Conditions(delay_max_s=0.002, reconnect_s=0.02),
    disk_s=(0.001, 0.03),
    faults=("cancelled",),
    fault_every_s=0.3,
    rate=30.0,
    keys=5,
    modes=tuple(Mode),
    refusal=0.0,
    vote_s=0.0,
    retries=0.3,
    reads=0.5,
    flights=8,
    flight_bytes=1 << 20,
    pending=10_000,
    planned_floor=1,
    last_man_standing=False,
    handback=True,
    inactive_s=0.0,
)

#: Faults that change the master.
STRIFE = ("clogged", "contested", "crashed", "crashed_sending", "deaf", "isolated", "moved", "one_way", "split")
#: Faults that change the table.
ABSENCES = ("announced", "forgotten", "hasty", "overlapping", "together")

#: Options by name: where a wrong version is looked for.
GROUNDS: Mapping[str, Options] = {
    "quiet": QUIET,
    "strife": attrs.evolve(QUIET, faults=STRIFE),
    "strife of five": attrs.evolve(QUIET, nodes=5, rate=20.0, faults=STRIFE),
    "absences": attrs.evolve(QUIET, faults=ABSENCES),
    "absences of five": attrs.evolve(QUIET, nodes=5, rate=20.0, faults=ABSENCES),
    "absences of two": attrs.evolve(QUIET, nodes=2, faults=ABSENCES),
    "absences and strife": attrs.evolve(QUIET, faults=(*ABSENCES, *STRIFE)),
    "absences and strife of four": attrs.evolve(QUIET, nodes=4, faults=(*ABSENCES, *STRIFE)),
    "crashes": attrs.evolve(QUIET, faults=("all_crashed", "crashed", "crashed_sending")),
    "pauses": attrs.evolve(QUIET, seconds=8.0, reads=1.0, faults=("clock_stopped", "frozen", "isolated")),
    "refusals": attrs.evolve(QUIET, refusal=0.2, vote_s=0.02, modes=(Mode.TWO_PHASE, Mode.THREE_PHASE)),
    "flapping": attrs.evolve(QUIET, vote_s=0.02, modes=(Mode.TWO_PHASE, Mode.THREE_PHASE), faults=("flapping",)),
    "confusion": attrs.evolve(
        QUIET,
        nodes=3,
        disk_s=(0.005, 0.08),
        faults=("clogged", "clock_stopped", "contested", "crashed", "one_way", "split"),
    ),
    "stale masters": attrs.evolve(
        QUIET, seconds=12.0, reads=3.0, faults=("clock_stopped", "isolated"), fault_every_s=0.2
    ),
    "slow members": attrs.evolve(QUIET, modes=(Mode.THREE_PHASE,), faults=("hasty", "isolated", "disk_slow")),
    "crowd": attrs.evolve(QUIET, rate=100.0, flights=1, pending=3),
    "told": attrs.evolve(QUIET, seconds=8.0, faults=("crashed", "in_turn", "noticed", "told")),
    "punctual": attrs.evolve(QUIET, nodes=4, seconds=8.0, faults=("punctual",), fault_every_s=0.5),
}


# --- the registry -----------------------------------------------------------------------------

Version = Callable[[], AbstractContextManager[None]]


@attrs.frozen
class Planted:
    """A wrong version; an invariant 0 is a core that stops by itself.

    :ivar trips: the invariants of which random runs must find one violated.
    :ivar ground: where random runs look for it; empty if they hardly find it.
    :ivar scope: where the exhaustive search looks for it; empty if it does not.
    :ivar broken: the invariant that the exhaustive search must find violated.
    """

    name: str
    version: Version
    trips: tuple[int, ...]
    ground: str
    scope: str
    broken: int

    @property
    def what(self) -> str:
        """What is wrong with it."""
        return (self.version.__doc__ or "").strip()


#: Every wrong version, by name.
PLANTED: dict[str, Planted] = {}


def planted(
    *trips: int, ground: str = "", scope: str = "", broken: int = 0
) -> Callable[[Callable[[], Iterator[None]]], Version]:
    """Register a wrong version."""

    def register(function: Callable[[], Iterator[None]]) -> Version:
        version = contextmanager(function)
        PLANTED[function.__name__] = Planted(function.__name__, version, trips, ground, scope, broken)
        return version

    return register


# --- the page ---------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "planted.md"
HEAD = "| wrong version | what is wrong | random runs | exhaustive search |\n| --- | --- | --- | --- |\n"


@attrs.frozen
class Line:
    """What the page tells of a wrong version: ``runs`` and ``search`` say how each found it, or nothing."""

    name: str
    what: str
    runs: str = ""
    search: str = ""


def listed() -> list[Line]:
    """The list as it stands on the page."""
    rows = PAGE.read_text("utf-8").split(HEAD)[1].splitlines()
    cells = (row.removeprefix("| ").removesuffix(" |").split(" | ") for row in rows)
    return [Line(name.strip("`"), *rest) for name, *rest in cells]


def relist(column: str, found: Mapping[str, str]) -> None:
    """If that is asked for, write in a column of the page's list how versions were found; the rest stays."""
    if os.environ.get("TXVBCAST_REWRITE_DOCS") != "1":
        return
    old = {line.name: line for line in listed()}
    rows = ""
    for name, wrong in PLANTED.items():
        kept = old.get(name, Line(name, wrong.what))
        line = Line(name, wrong.what, wrong.ground and kept.runs, wrong.scope and kept.search)
        if name in found:
            line = attrs.evolve(line, **{column: found[name]})
        rows += f"| `{name}` | {line.what} | {line.runs} | {line.search} |\n"
    PAGE.write_text(PAGE.read_text("utf-8").split(HEAD)[0] + HEAD + rows, "utf-8")


# --- the versions -----------------------------------------------------------------------------


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner`` has another ``name`` for a while."""
    kept = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@planted(6, 1, ground="strife", scope="three", broken=3)
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


@planted(6, 7, ground="strife", scope="three", broken=7)
def start_below_promise_accepted() -> Iterator[None]:
    """A node adopts the log of an epoch below the one that it has promised."""

    def is_from_master(self: Replica, peer: int, epoch: int) -> bool:
        if peer != epochs.master_of(epoch):
            return False
        self.following.follow(epoch)
        return True

    with replaced(Replica, "_is_from_master", is_from_master):
        yield


@planted(7, ground="crashes", scope="crash", broken=3)
def promise_lost_at_restart() -> Iterator[None]:
    """A node that starts again knows of no promise above the epoch of its log."""
    init = Journal.__init__

    def forgetful(self: Journal, *args: Any) -> None:
        init(self, *args)
        self.promised = self.log_epoch

    with replaced(Journal, "__init__", forgetful):
        yield


@planted(scope="standing", broken=3)
def grants_counted_by_own_table() -> Iterator[None]:
    """The candidate counts grants by the voters of its own log, not of the best one."""
    on_grant = Mastership.on_grant

    def counted(self: Mastership, peer: int, grant: Any) -> None:
        on_grant(self, peer, attrs.evolve(grant, voters=self.core.journal.table.voters))

    with replaced(Mastership, "on_grant", counted):
        yield


@planted(3, ground="strife", scope="three", broken=3)
def candidate_keeps_own_log() -> Iterator[None]:
    """The candidate starts with its own log, whatever the grants say."""

    def own(self: Mastership, grants: Any) -> Any:
        me = self.core.commons.me
        return me, grants[me]

    with replaced(Mastership, "_best", own):
        yield


@planted(9, 1, 0, ground="absences", scope="handover", broken=3)
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


@planted(scope="three", broken=9)
def stored_of_another_epoch_counted() -> Iterator[None]:
    """The master counts a STORED that speaks of another epoch's log."""

    def on_stored(self: Replica, peer: int, message: Any) -> None:
        if self.office is not None:
            self._count_stored(self.office, peer, message.seq)

    with replaced(Replica, "_on_stored", on_stored):
        yield


@planted(1, 6, ground="confusion", scope="three", broken=1)
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


@planted(1, 9, ground="strife", scope="three", broken=7)
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


@planted(6, 17, ground="confusion", scope="crash", broken=9)
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


@planted(14, ground="absences and strife", scope="parted", broken=3)
def standing_before_start_has_majority() -> Iterator[None]:
    """The master orders standings before a majority holds the log that it starts with."""

    def reconcile(self: Replica) -> None:
        office = self.office
        if office is not None and not office.paused:
            self.roster.reconcile(office)

    with replaced(Replica, "_reconcile", reconcile):
        yield


@planted(9, ground="absences of two", scope="pair", broken=9)
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


@planted(14, ground="absences of five", scope="standing", broken=14)
def second_standing_before_first_commits() -> Iterator[None]:
    """The master orders an entry about a member while one about another is not committed."""

    def reconcile(self: Roster, office: Office) -> None:
        for member in self.journal.table.members:
            wanted = self._wanted(member, office)
            if wanted is not None:
                office.order_standing(wanted)

    with replaced(Roster, "reconcile", reconcile):
        yield


@planted(6, ground="quiet", scope="crash", broken=9)
def acknowledged_before_sync() -> Iterator[None]:
    """A node says STORED of what its disk has not answered yet."""
    persist = Journal._persist

    def at_once(self: Journal, *args: Any, **more: Any) -> None:
        persist(self, *args, **more)
        self.stored = self.tail

    with replaced(Journal, "_persist", at_once):
        yield


@planted(4, ground="strife", scope="voted", broken=4)
def aborted_after_decide() -> Iterator[None]:
    """A coordinator tells its client Aborted although the master may have been told to order the flight."""
    on_tick = Submissions.on_tick

    def impatient(self: Submissions) -> None:
        for flight in self.under_way.values():
            core = flight.core
            if core.phase == "decided" and core.unanswered and self.commons.now_s >= core.deadline_s:
                self.commons.out.append(ReplyAborted(core.take_shares(), "too late"))
        on_tick(self)

    with replaced(Submissions, "on_tick", impatient):
        yield


@planted(5, ground="strife", scope="three", broken=5)
def flight_ordered_twice() -> Iterator[None]:
    """The log is not asked whether it holds a flight already."""
    with (
        replaced(Journal, "where", lambda self, flight: None),
        replaced(Journal, "finished", lambda self, flight: False),
    ):
        yield


@planted(10, ground="strife", scope="voted", broken=10)
def everywhere_is_committed() -> Iterator[None]:
    """The master takes for everywhere what is merely committed."""
    with replaced(Office, "_held_everywhere", lambda self: self.journal.committed):
        yield


@planted(2, 0, ground="quiet", scope="three", broken=2)
def entry_skipped() -> Iterator[None]:
    """A node that learns of several commits at once performs only the last of them."""
    take = Journal.take_applicable

    def hasty(self: Journal) -> Iterator[tuple[Entry, bool]]:
        yield from list(take(self))[-1:]

    with replaced(Journal, "take_applicable", hasty):
        yield


@planted(0, ground="quiet", scope="three")
def core_raises() -> Iterator[None]:
    """The core does not know what to do with a GRANT."""

    def on_grant(self: Mastership, peer: int, grant: Any) -> None:
        raise LocalProtocolError("planted")

    with replaced(Mastership, "on_grant", on_grant):
        yield


# --- counting ---------------------------------------------------------------------------------


@planted(9, ground="quiet")
def one_is_enough() -> Iterator[None]:
    """What one member has stored counts as committed."""

    def highest(voters: Any, watermarks: dict[int, int]) -> int:
        return max(watermarks.values(), default=0)

    with replaced(ordering, "majority_watermark", highest):
        yield


@planted(14, 9, ground="absences and strife of four")
def half_is_a_majority() -> Iterator[None]:
    """Two of four voters are enough."""
    with replaced(table, "needed", lambda voters: (len(voters) + 1) // 2):
        yield


@planted(14, 9, ground="strife")
def heartbeat_replies_counted_whatever_their_log() -> Iterator[None]:
    """The watermark of a heartbeat's reply counts, of whichever epoch's log it speaks."""
    on_reply = Replica._on_heartbeat_reply

    def counted(self: Replica, peer: int, message: Any) -> None:
        on_reply(self, peer, attrs.evolve(message, log_epoch=message.epoch))

    with replaced(Replica, "_on_heartbeat_reply", counted):
        yield


@planted(6, ground="quiet")
def ordered_is_committed() -> Iterator[None]:
    """A follower performs an entry as soon as the master has ordered it."""
    heard = Following.heard

    def believed(self: Following, ordered: int, committed: int, everywhere: int) -> None:
        heard(self, ordered, max(ordered, committed), everywhere)

    with replaced(Following, "heard", believed):
        yield


@planted(7, 15, ground="strife")
def committed_falls() -> Iterator[None]:
    """The latest word on what is committed is taken, also if it is an old one."""

    def commit(self: Journal, upto: int) -> bool:
        rose = upto > self.committed
        self.committed = min(upto, self.tail)
        return rose

    with replaced(Journal, "commit", commit):
        yield


@planted(1, 0, 9, 15, ground="absences and strife of four")
def dropped_tail_keeps_its_table() -> Iterator[None]:
    """A standing that goes with a dropped tail goes on to count."""
    truncate = Journal._truncate

    def keeping(self: Journal, first: int) -> None:
        tables = self._tables
        truncate(self, first)
        self._tables = tables

    with replaced(Journal, "_truncate", keeping):
        yield


@planted(9, ground="absences of two")
def returning_member_counts_early() -> Iterator[None]:
    """What a member without a vote has stored counts while it catches up."""

    count = Office.count

    def early(self: Office) -> None:
        def watermark(voters: Any, watermarks: dict[int, int]) -> int:
            holders = {*voters, *self.journal.table.ids_of(Standing.CATCHING_UP)}
            return sorted((watermarks.get(holder, 0) for holder in holders), reverse=True)[needed(voters) - 1]

        with replaced(ordering, "majority_watermark", watermark):
            count(self)

    with replaced(Office, "count", early):
        yield


@planted(1, 3, 0, ground="strife of five")
def own_entries_kept_below_start() -> Iterator[None]:
    """What START does not speak of is taken for the same: it names the last epoch only."""
    matching = Journal.matching

    def kept(self: Journal, base: int, runs: Any, last: int) -> int:
        if self.committed >= base:
            return matching(self, base, runs, last)
        committed, self.committed = self.committed, min(base, self.tail)
        try:
            return matching(self, base, runs, last)
        finally:
            self.committed = committed

    with replaced(journal, "RUNS_MAX", 1), replaced(Journal, "matching", kept):
        yield


# --- promises and disks -----------------------------------------------------------------------


@planted(6, ground="strife")
def granted_before_sync() -> Iterator[None]:
    """A promise leaves before it is on the disk."""

    def at_once(self: Journal, effects: tuple[Effect, ...] = (), signals: Any = ()) -> None:
        self._release(effects, signals)

    with replaced(Journal, "when_durable", at_once):
        yield


@planted(7, ground="crashes")
def incarnation_not_raised() -> Iterator[None]:
    """Every life of a node has the same number."""
    open_store = MemoryStore.open.__func__  # type: ignore[attr-defined]

    def again(cls: type[MemoryStore], disk: Disk, *args: Any) -> Any:
        disk.incarnation = 0
        return open_store(cls, disk, *args)

    with replaced(MemoryStore, "open", classmethod(again)):
        yield


@planted(17, 9, 7, ground="crashes")
def lost_disk_goes_on_as_the_same() -> Iterator[None]:
    """A store that finds nothing begins anew under the name of the old one."""
    crash = MemoryStore.crash

    def losing(self: MemoryStore, keep: float = 0.0) -> None:
        crash(self, keep)
        disk = self._disk
        disk.entries.clear()
        disk.promised_epoch = disk.log_epoch = disk.committed = 0

    with replaced(MemoryStore, "crash", losing):
        yield


@planted(13, 1, 15, ground="absences of five")
def payloads_forgotten_once_applied() -> Iterator[None]:
    """Only the first node keeps the payloads of what is committed, for those who are away."""
    write = Disk.write

    def forgetting(self: Disk, persist: Any) -> None:
        write(self, persist)
        if self.disk_id != "disk-1":
            for place, entry in enumerate(self.entries[: self.committed]):
                if entry.flight is not None and entry.flight.items:
                    self.entries[place] = attrs.evolve(entry, flight=attrs.evolve(entry.flight, items=(), indices=()))

    with replaced(Disk, "write", forgetting):
        yield


# --- flights ----------------------------------------------------------------------------------


@planted(5, ground="absences and strife of four")
def dead_flights_take_effect() -> Iterator[None]:
    """What a coordinator proposed before it was away is performed, and proposed anew too."""
    with replaced(Journal, "dead", lambda self, flight, members: False):
        yield


@planted(5, ground="strife")
def dedup_forgotten_over_epoch_change() -> Iterator[None]:
    """A new master does not look for a flight in the tail that it has adopted."""
    adopt = Journal.adopt

    def forgetting(self: Journal, match: int, entries: Sequence[Entry], epoch: int) -> None:
        adopt(self, match, entries, epoch)
        self._flights.clear()

    with replaced(Journal, "adopt", forgetting):
        yield


@planted(8, ground="refusals")
def refusals_ignored() -> Iterator[None]:
    """A coordinator has everything ordered that somebody accepts."""
    with replaced(CoordinatorCore, "accepted", property(lambda self: None)):
        yield


@planted(8, ground="refusals")
def first_vote_is_enough() -> Iterator[None]:
    """A coordinator waits for its own vote alone."""
    with replaced(Submissions, "_waited", lambda self: frozenset({self.commons.me})):
        yield


@planted(8, ground="absences")
def one_absence_excuses_all() -> Iterator[None]:
    """When one member goes away no vote is waited for any more."""
    on_peer_absent = Submissions.on_peer_absent

    def excusing(self: Submissions, peer: int, announced: bool) -> None:
        on_peer_absent(self, peer, announced)
        for flight in tuple(self.under_way.values()):
            for waited in sorted(flight.core.waiting):
                flight.machine.excused(waited)
        self._sweep()

    with replaced(Submissions, "on_peer_absent", excusing):
        yield


@planted(10, ground="slow members")
def everywhere_forgets_members_at_once() -> Iterator[None]:
    """The third phase does not wait for a member any more as soon as its absence is ordered, not committed."""

    def forgetful(self: Office) -> int:
        normal = self.journal.table.ids_of(Standing.NORMAL)
        return min(min((self.stored.get(node_id, 0) for node_id in normal), default=0), self.journal.committed)

    with replaced(Office, "_held_everywhere", forgetful):
        yield


@planted(10, ground="quiet")
def third_phase_left_out() -> Iterator[None]:
    """A client of 3pc hears as soon as its coordinator has performed the flight."""
    on_everywhere = Submissions.on_everywhere

    def early(self: Submissions, seq: int) -> None:
        on_everywhere(self, self.journal.applied)

    with replaced(Submissions, "on_everywhere", early):
        yield


@planted(18, ground="flapping")
def prepared_again() -> Iterator[None]:
    """A proposal that comes a second time is prepared a second time."""
    ask = Proposals._ask

    def asking(self: Proposals, held: Any) -> None:
        if held.core.phase == "voted":
            self.commons.out.append(Prepare(held.core.flight))
        ask(self, held)

    with replaced(Proposals, "_ask", asking):
        yield


@planted(15, ground="refusals")
def withdrawal_ignored() -> Iterator[None]:
    """What a coordinator gives up stays prepared with the others."""
    with replaced(Proposals, "on_withdraw", lambda self, flight: None):
        yield


@planted(15, ground="strife")
def flights_not_sent_to_the_next_master() -> Iterator[None]:
    """A flight that went down with its master is not sent to the next one."""

    def on_master(self: Submissions, master: int) -> None:
        self.master = master

    with replaced(Submissions, "on_master", on_master), replaced(Submissions, "on_link", lambda self, peer: None):
        yield


@planted(15, ground="flapping")
def gaps_not_fetched() -> Iterator[None]:
    """A node waits for an order that was lost with a connection."""
    with (
        replaced(Following, "_fetch_missing", lambda self: None),
        replaced(Following, "want_start", lambda self: None),
    ):
        yield


@planted(19, ground="crowd")
def pending_not_counted() -> Iterator[None]:
    """A node takes as many transactions as come."""
    with replaced(Submissions, "pending", property(lambda self: 0)):
        yield


@planted(21, ground="quiet")
def items_performed_in_any_order() -> Iterator[None]:
    """A node that has voted on a flight performs its items from the last to the first."""
    perform = Applications.apply

    def turned(self: Applications, entry: Entry, dead: bool) -> Performed:
        flight = entry.flight
        if flight is None or flight.id not in self._ballots:
            return perform(self, entry, dead)
        places = flight.indices if flight.indices is not None else tuple(range(len(flight.items)))
        flight = attrs.evolve(flight, items=flight.items[::-1], indices=places[::-1])
        done = perform(self, attrs.evolve(entry, flight=flight), dead)
        last = len(done.results) - 1
        return Performed(done.results[::-1], {last - place: answer for place, answer in done.repeats.items()})

    with replaced(Applications, "apply", turned):
        yield


# --- reads --------------------------------------------------------------------------------------


@planted(16, ground="stale masters")
def reads_without_a_quorum() -> Iterator[None]:
    """A master answers reads without asking anybody whether it still is one."""
    with replaced(reads, "is_quorum", lambda voters, nodes: True):
        yield


@planted(16, ground="quiet")
def reads_of_what_is_applied_here() -> Iterator[None]:
    """A linearizable read is answered with what its node has applied."""

    def at_once(self: reads.Reads, request: ReadRequested) -> None:
        self.commons.out.append(ReadReady(request.ticket, self.journal.applied))

    with replaced(reads.Reads, "on_request", at_once):
        yield


# --- standings, absences, masters ---------------------------------------------------------------


@planted(17, ground="absences of two")
def vote_restored_before_catch_up() -> Iterator[None]:
    """A member has its voter flag back as soon as it says that it is back."""
    entry = Roster._entry

    def hasty(self: Roster, member: Member, standing: Standing, *args: Any, **more: Any) -> StandingEntry:
        made = entry(self, member, standing, *args, **more)
        return attrs.evolve(made, voter=True) if standing is Standing.CATCHING_UP else made

    with replaced(Roster, "_entry", hasty):
        yield


@planted(12, ground="absences of five")
def handback_while_others_are_away() -> Iterator[None]:
    """The office goes back to the lowest member, whoever is inactive or catching up."""

    def returned(self: Succession) -> int:
        lowest = self.successor()
        return lowest if 0 < lowest < self.commons.me else 0

    with replaced(Succession, "_returned_lower", returned):
        yield


@planted(11, ground="pauses")
def own_lateness_held_against_others() -> Iterator[None]:
    """A node that was stopped counts the silence meanwhile."""

    def on_tick(self: Liveness, now_s: float) -> float:
        return 0.0

    with replaced(Liveness, "on_tick", on_tick):
        yield


@planted(11, ground="absences")
def announcement_does_not_extend_timeout() -> Iterator[None]:
    """A member that has announced its absence is failed for its silence like any other."""

    def is_silent(self: Roster, member: Member) -> bool:
        return self.liveness.silence_s(member.node_id, self.commons.now_s) > self.liveness.timeout_s

    def wanted_failed(self: Roster, member: Member) -> StandingEntry | None:
        if member.standing is Standing.FAILED or not self._is_silent(member):
            return None
        return self._entry(member, Standing.FAILED, "it is silent", voter=member.voter)

    with replaced(Roster, "_is_silent", is_silent), replaced(Roster, "_wanted_failed", wanted_failed):
        yield


@planted(11, ground="punctual")
def half_a_heartbeat_is_failure() -> Iterator[None]:
    """A member is failed if it is silent for half of the time between two heartbeats."""
    with replaced(Liveness, "timeout_s", property(lambda self: self.heartbeat.interval_s / 2)):
        yield


@planted(20, ground="punctual")
def any_absence_is_the_masters() -> Iterator[None]:
    """A node takes the absence of any member for that of its master."""
    hears = Succession.hears_master

    def doubting(self: Succession) -> bool:
        away = any(peer.core.standing is Standing.INACTIVE for peer in self.peers.values())
        if away and self.mastership.office is None:
            self.master_heard_s = min(self.master_heard_s, self.commons.now_s - 1.0)
            return False
        return hears(self)

    with replaced(Succession, "hears_master", doubting):
        yield


@planted(3, 9, 6, ground="strife")
def grants_say_nothing_of_the_log() -> Iterator[None]:
    """A promise to a candidate says that the log is empty."""
    own_grant = MastershipCore.own_grant

    def empty(self: MastershipCore, epoch: int) -> Any:
        return attrs.evolve(own_grant(self, epoch), log_epoch=0, stored=0, runs=())

    with replaced(MastershipCore, "own_grant", empty):
        yield


@planted(15, ground="told")
def third_partys_number_not_heeded() -> Iterator[None]:
    """A member says that it is back under a lower number than the one by which a third party sent it away."""

    def keep(self: Absence, key: tuple[int, int]) -> None:
        return None

    with replaced(Absence, "_skip_to", keep):
        yield


@planted(15, ground="told")
def third_partys_word_holds_for_ever() -> Iterator[None]:
    """A third party's word of which nothing has come is believed when its time is over, too."""

    def on_tick(self: Peer, logged: Standing) -> None:
        return None

    with replaced(Peer, "on_tick", on_tick):
        yield


@planted(11, ground="told")
def third_party_ends_the_members_own_word() -> Iterator[None]:
    """A third party that takes its word back ends what the member itself has announced since."""

    def on_over(self: Peer, message: AbsenceOver) -> None:
        if self.core.absence == (message.incarnation, message.change_id):
            self.core.end_announcement()

    with replaced(Peer, "on_over", on_over):
        yield
