"""Whether anything was lost in ``vbcast demo``: logs, keys, and what clients heard, held against each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import attrs

from txvbcast.cli.demo_load import Outcome, Write
from txvbcast.wire.items import unpack
from txvbcast.wire.messages import Entry

#: Of one kind of finding so many are told one by one.
_TOLD_MAX = 5

#: Key: value and version.
State = Mapping[str, tuple[str, int]]


@attrs.frozen
class Comparison:
    """What was compared, and what was found.

    :ivar entries: of each log.
    :ivar committed, failed, unknown: writes, by what their clients heard.
    :ivar unknown_there: how many of the unknown ones took effect.
    :ivar broken: what was lost, or is there and should not be; empty when nothing.
    """

    entries: int
    committed: int
    failed: int
    unknown: int
    unknown_there: int
    broken: tuple[str, ...]


def compare(logs: Mapping[int, Sequence[Entry]], states: Mapping[int, State], writes: Sequence[Write]) -> Comparison:
    """Hold every node's log and keys, by node id, against each other and against what clients heard."""
    by_outcome = {outcome: [write for write in writes if write.outcome is outcome] for outcome in Outcome}
    first = min(logs)
    broken = [*different_logs(logs), *_different_states(states)]
    broken += _lost(by_outcome[Outcome.COMMITTED], _places(logs[first]), states)
    broken += _uncalled(by_outcome, states)
    return Comparison(
        entries=len(logs[first]),
        committed=len(by_outcome[Outcome.COMMITTED]),
        failed=len(by_outcome[Outcome.FAILED]),
        unknown=len(by_outcome[Outcome.UNKNOWN]),
        unknown_there=sum(write.key in states[min(states)] for write in by_outcome[Outcome.UNKNOWN]),
        broken=tuple(broken),
    )


def different_logs(logs: Mapping[int, Sequence[Entry]]) -> list[str]:
    """In which place the log of a node differs from that of the first, entry by entry."""
    first, *others = sorted(logs)
    found = []
    for other in others:
        seq = _first_difference(logs[first], logs[other])
        if seq:
            found.append(f"the logs of nodes {first} and {other} differ at seq {seq}")
    return found


def changed_logs(before: Mapping[int, Sequence[Entry]], after: Mapping[int, Sequence[Entry]]) -> list[str]:
    """Where the log of a stopped node is not the one that it had before; it may have grown by standings."""
    found = []
    for node_id, entries in before.items():
        seq = _first_difference(entries, after[node_id][: len(entries)])
        if seq:
            found.append(f"the log of node {node_id} is another one at seq {seq} since the node was stopped")
        for entry in after[node_id][len(entries) :]:
            if entry.flight is not None:
                found.append(f"node {node_id} has a flight at seq {entry.seq} that nobody had handed in")
    return shortened(found)


def _first_difference(one: Sequence[Entry], other: Sequence[Entry]) -> int:
    """The first seq at which they differ, also by one having ended; 0 when they are equal."""
    for seq, (left, right) in enumerate(zip(one, other, strict=False), 1):
        if left != right or left.seq != seq:
            return seq
    return 0 if len(one) == len(other) else min(len(one), len(other)) + 1


def _different_states(states: Mapping[int, State]) -> list[str]:
    first, *others = sorted(states)
    found = []
    for other in others:
        pairs = set(states[first].items()) ^ set(states[other].items())
        if pairs:
            key = min(pairs)[0]
            found.append(f"nodes {first} and {other} differ in {len({pair[0] for pair in pairs})} keys, first {key}")
    return found


def _places(log: Iterable[Entry]) -> Mapping[str, list[int]]:
    """Request id: where in the log it is; a repeat is there more than once, and performed once."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for entry in log:
        for item in entry.flight.items if entry.flight is not None else ():
            places[unpack(item).request_id or ""].append(entry.seq)
    return places


def _lost(committed: Iterable[Write], places: Mapping[str, list[int]], states: Mapping[int, State]) -> list[str]:
    """Committed writes that are not where their clients were told, on any node, or took effect again later."""
    found = []
    for write in committed:
        seqs = places.get(write.request_id, [])
        if write.seq not in seqs:
            found.append(f"a client heard that {write.key} is at seq {write.seq} of the log: it is not there")
        if write.found_version:
            found.append(f"{write.key} took effect twice: at seq {write.seq} it had the version {write.found_version}")
        for node_id, state in sorted(states.items()):
            got = state.get(write.key)
            if got != (write.value, write.seq):
                wanted = f"{write.value!r} of version {write.seq}"
                has = f"{got[0]!r} of version {got[1]}" if got else "no such key"
                found.append(f"a client heard that {write.key} is {wanted}: node {node_id} has {has}")
    return shortened(found)


def _uncalled(by_outcome: Mapping[Outcome, Iterable[Write]], states: Mapping[int, State]) -> list[str]:
    """Keys that no client wrote, or that one wrote and heard that it did not happen."""
    failed = {write.key for write in by_outcome[Outcome.FAILED]}
    known = failed.union(*({write.key for write in writes} for writes in by_outcome.values()))
    found = []
    for node_id, state in sorted(states.items()):
        found += [
            f"a client heard that {key} did not happen: node {node_id} has it" for key in sorted(failed & set(state))
        ]
        found += [f"node {node_id} has {key}, which no client wrote" for key in sorted(set(state) - known)]
    return shortened(found)


def shortened(found: Sequence[str]) -> list[str]:
    """The first few findings of one kind, and how many more there are."""
    more = len(found) - _TOLD_MAX
    return list(found) if more <= 0 else [*found[:_TOLD_MAX], f"and {more} more like these"]
