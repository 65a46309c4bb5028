"""What must hold after every step: the invariants of section 9 of the protocol, over global states.

Some of them speak of the past ("what a client heard", "what was ever committed"), so a global
state carries a :class:`Past`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from txvbcast.core import epochs
from txvbcast.core.table import Table, initial, is_quorum, with_standing
from txvbcast.sim.checks import Violation
from txvbcast.sim.explore.nodes import Applied, Facts, Heard, Local, Note
from txvbcast.sim.explore.scopes import Scope
from txvbcast.wire.items import unpack
from txvbcast.wire.messages import Entry, Mode, Standing


@attrs.frozen
class Past:
    """What has happened for good.

    :ivar log: every entry that any node has performed, and whether it was dead.
    :ivar committed_in: for each of them, the epoch of the log of the first node that performed it.
    :ivar aborted: payloads whose clients heard that they will not happen.
    :ivar offices: epochs in which a node took office.
    """

    log: tuple[tuple[Entry, bool], ...] = ()
    committed_in: tuple[int, ...] = ()
    aborted: tuple[bytes, ...] = ()
    offices: tuple[int, ...] = ()


class Judge:
    """Looks at every step that changed something an invariant speaks of.

    Every method raises :class:`~txvbcast.sim.checks.Violation` when an invariant does not hold.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._matched: set[tuple[int, int]] = set()
        self._logs: dict[tuple[Entry, ...], int] = {}

    def alone(self, past: Past, was: Local, now: Local, notes: tuple[Note, ...]) -> Past:
        """What can be said of one node's step without looking at the other nodes.

        :returns: the past after it.
        """
        assert now.facts is not None
        self._check_rising(was, now, now.facts)
        return self._advance(past, was, now, notes)

    def together(self, past: Past, was: Local, now: Local, notes: tuple[Note, ...], nodes: Sequence[Local]) -> None:
        """The rest; ``nodes`` and ``past`` are those after the step."""
        assert now.facts is not None
        self._check_committed(was.facts, now.facts, nodes)
        if was.facts is None or was.facts.log != now.facts.log:
            self._check_matching(now, nodes)
        self._check_everywhere(past, notes, nodes)

    # --- one node ----------------------------------------------------------------------------

    def _check_rising(self, was: Local, now: Local, facts: Facts) -> None:
        for name in ("promised_epoch", "log_epoch"):
            if getattr(now.durable, name) < getattr(was.durable, name):
                raise Violation(f"invariant 7: the durable {name} of node {now.node_id} falls")
        if was.facts is None:
            return
        for name in ("promised", "log_epoch", "committed", "applied"):
            if getattr(facts, name) < getattr(was.facts, name):
                raise Violation(f"invariant 7: {name} of node {now.node_id} falls within a run")
        ordered = [entry for entry in facts.log[len(was.facts.log) :] if entry.epoch == facts.office and entry.standing]
        about = set(facts.open_standings)
        if ordered and len(about) > 1:
            raise Violation(
                f"invariant 14: master {now.node_id} orders entries about nodes {sorted(about)} "
                "before the first of them is committed"
            )

    # --- the past ----------------------------------------------------------------------------

    def _advance(self, past: Past, was: Local, now: Local, notes: tuple[Note, ...]) -> Past:
        applied = 0 if was.facts is None else was.facts.applied
        for note in notes:
            if isinstance(note, Applied):
                applied += 1
                past = self._on_applied(past, now, note, applied)
            else:
                past = self._on_heard(past, now.node_id, note)
        assert now.facts is not None
        if now.facts.office and (was.facts is None or was.facts.office != now.facts.office):
            past = self._on_office(past, now.node_id, now.facts)
        return past

    def _on_applied(self, past: Past, now: Local, note: Applied, expected: int) -> Past:
        node_id, entry = now.node_id, note.entry
        assert now.facts is not None
        if entry.seq != expected:
            raise Violation(f"invariant 2: node {node_id} performs {entry.seq} after {expected - 1}")
        if entry.seq <= len(past.log):
            if past.log[entry.seq - 1] != (entry, note.dead):
                known = past.log[entry.seq - 1]
                raise Violation(
                    f"invariant 1: node {node_id} performs {entry} (dead: {note.dead}) where another has performed "
                    f"{known[0]} (dead: {known[1]})"
                )
            return past
        if entry.flight is not None and not note.dead:
            self._check_new(past, node_id, entry)
        committed_in = (*past.committed_in, now.facts.log_epoch)
        return attrs.evolve(past, log=(*past.log, (entry, note.dead)), committed_in=committed_in)

    def _check_new(self, past: Past, node_id: int, entry: Entry) -> None:
        payloads = _payloads(entry)
        for earlier, dead in past.log:
            if not dead and set(payloads) & set(_payloads(earlier)):
                raise Violation(f"invariant 5: {payloads} takes effect at {earlier.seq} and at {entry.seq}")
        for payload in payloads:
            if payload in past.aborted:
                raise Violation(f"invariant 4: node {node_id} performs {payload!r}, whose client heard Aborted")

    def _on_heard(self, past: Past, node_id: int, note: Heard) -> Past:
        effective = {payload: entry.seq for entry, dead in past.log if not dead for payload in _payloads(entry)}
        for payload in note.payloads:
            if note.seq is not None and effective.get(payload) != note.seq:
                raise Violation(
                    f"invariant 3: a client of node {node_id} hears that {payload!r} is committed at {note.seq}; "
                    f"it is at {effective.get(payload)}"
                )
            if note.seq is None and payload in effective:
                raise Violation(f"invariant 4: a client of node {node_id} hears Aborted of {payload!r}, which happened")
        if note.seq is not None:
            return past
        return attrs.evolve(past, aborted=tuple(sorted({*past.aborted, *note.payloads})))

    def _on_office(self, past: Past, node_id: int, facts: Facts) -> Past:
        text = epochs.text(facts.office)
        if facts.office in past.offices:
            raise Violation(f"invariant 6: epoch {text} has a master for the second time")
        for (entry, _), committed_in in zip(past.log, past.committed_in, strict=True):
            if committed_in < facts.office and entry not in facts.log[entry.seq - 1 : entry.seq]:
                raise Violation(
                    f"invariant 3: node {node_id} becomes master of epoch {text} without entry {entry.seq}, "
                    f"which was committed in epoch {epochs.text(committed_in)}"
                )
        return attrs.evolve(past, offices=tuple(sorted((*past.offices, facts.office))))

    # --- several nodes -----------------------------------------------------------------------

    def _check_committed(self, was: Facts | None, now: Facts, nodes: Sequence[Local]) -> None:
        """What a master counts as committed is durable, in its epoch or a later one, on a majority of the voters."""
        if not now.office or was is None or was.committed == now.committed:
            return
        holders = {local.node_id for local in nodes if _has_stored(local, now.office, now.committed)}
        # The step that commits may have ordered entries that change the voters, before or after.
        if not any(is_quorum(voters, holders) for voters in self._voters_meanwhile(was, now)):
            raise Violation(
                f"invariant 9: entry {now.committed} is committed in epoch {epochs.text(now.office)} while only "
                f"{sorted(holders)} hold it durably in that epoch; the voters are {now.voters}"
            )

    def _voters_meanwhile(self, was: Facts, now: Facts) -> Iterator[tuple[int, ...]]:
        """The voters before a step, after it, and after each entry that it has ordered."""
        yield from (was.voters, now.voters)
        table = initial(self.scope.node_ids)
        for entry in now.log:
            if entry.standing is not None:
                table = with_standing(table, entry.seq, entry.standing)
            if entry.seq > len(was.log):
                yield table.voters

    def _check_matching(self, now: Local, nodes: Sequence[Local]) -> None:
        """Entries of the same seq and epoch are the same entry, on all nodes."""
        assert now.facts is not None
        mine = self._logs.setdefault(now.facts.log, len(self._logs))
        for other in nodes:
            log = other.durable.entries if other.facts is None else other.facts.log
            theirs = self._logs.setdefault(log, len(self._logs))
            pair = (min(mine, theirs), max(mine, theirs))
            if pair in self._matched:
                continue
            for one, two in zip(now.facts.log, log, strict=False):
                if one.epoch == two.epoch and one != two:
                    raise Violation(f"invariant 6: epoch {epochs.text(one.epoch)} has two entries {one.seq}")
            self._matched.add(pair)

    def _check_everywhere(self, past: Past, notes: tuple[Note, ...], nodes: Sequence[Local]) -> None:
        """Invariant 10: when a client hears of a 3pc transaction, every normal member holds it."""
        for note in notes:
            if not isinstance(note, Heard) or note.seq is None:
                continue
            entry, _ = past.log[note.seq - 1]
            if entry.flight is None or entry.flight.mode is not Mode.THREE_PHASE:
                continue
            normal = _table(self.scope, past).ids_of(Standing.NORMAL)
            without = [local.node_id for local in nodes if local.node_id in normal and not _holds(local, entry)]
            if without:
                raise Violation(f"invariant 10: {note.payloads} is heard of while normal nodes {without} lack it")


def _payloads(entry: Entry) -> tuple[bytes, ...]:
    return () if entry.flight is None else tuple(unpack(item).payload for item in entry.flight.items)


def _has_stored(local: Local, epoch: int, seq: int) -> bool:
    durable = local.durable
    return durable.log_epoch > epoch or (durable.log_epoch == epoch and len(durable.entries) >= seq)


def _holds(local: Local, entry: Entry) -> bool:
    entries = local.durable.entries
    return len(entries) >= entry.seq and entries[entry.seq - 1] == entry


def _table(scope: Scope, past: Past) -> Table:
    """The table after everything that was performed."""
    table = initial(scope.node_ids)
    for entry, _ in past.log:
        if entry.standing is not None:
            table = with_standing(table, entry.seq, entry.standing)
    return table
