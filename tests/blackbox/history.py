"""What is left of a session, and whether it fits together: the clients' record, the logs, what nodes have performed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import msgspec

from tests.blackbox.diary import Line, read_diaries
from tests.blackbox.lab import Lab
from tests.cluster import live_transactions
from txvbcast.sim import linearizability, witness
from txvbcast.sim.linearizability import Finding, Verdict
from txvbcast.sim.witness import Asked, Get, Logged, Registers, Set
from txvbcast.wire.messages import Entry

#: What a node never writes unless it has a defect.
_DEFECTS = ("Traceback", "Unhandled error", "#error", "#critical")
#: Its last words on a disk that fails.
_DISK_FAILS = re.compile(r"node \d+ stops: .+: (disk I/O error|database or disk is full) ")


@attrs.frozen
class Evidence:
    """Everything that a session leaves behind.

    :ivar asked: what clients asked and heard.
    :ivar logs: the log on each node's disk.
    :ivar delivered: what each node has performed, in each of its lives: ``{1: {"life1": ...}}``.
    :ivar stores: the keys of each node, with values and versions, at the end.
    """

    asked: Sequence[Asked]
    logs: Mapping[int, Sequence[Entry]]
    delivered: Mapping[int, Mapping[str, Sequence[Line]]]
    stores: Mapping[int, Mapping[str, tuple[bytes, int]]]


@attrs.frozen
class Opinion:
    """What the checks say: no complaints, and a linearizable history."""

    complaints: tuple[str, ...]
    finding: Finding

    @property
    def is_good(self) -> bool:
        """Whether all is well."""
        return not self.complaints and self.finding.verdict is Verdict.LINEARIZABLE


def gather(lab: Lab, asked: Sequence[Asked]) -> Evidence:
    """The evidence of a lab at rest."""
    return Evidence(
        list(asked),
        lab.logs(),
        {k: read_diaries(node.diaries) for k, node in lab.nodes.items()},
        {k: _store(node.api.get("/v1/kv", {"consistency": "local"}).document()) for k, node in lab.nodes.items()},
    )


def _store(document: Mapping[str, list[Mapping[str, object]]]) -> dict[str, tuple[bytes, int]]:
    return {str(item["key"]): (str(item["value"]).encode(), int(str(item["version"]))) for item in document["items"]}


def judge(evidence: Evidence) -> Opinion:
    """Every check of what a session has left behind."""
    log = evidence.logs[min(evidence.logs)]
    performed = performed_lines(log)
    finding = linearizability.check(witness.operations(evidence.asked))
    return Opinion(
        (
            *_unequal_logs(evidence.logs),
            *witness.check(evidence.asked, writes_in(log)),
            *_wrong_deliveries(evidence.delivered, performed),
            *_wrong_stores(evidence.stores, writes_in(log)),
            *([] if finding.verdict is Verdict.LINEARIZABLE else [str(finding)]),
        ),
        finding,
    )


def writes_in(log: Sequence[Entry]) -> list[Logged]:
    """What takes effect of a log: a repeated request the first time only."""
    writes: dict[str, Logged] = {}
    for logged in live_transactions(log):
        name = logged.transaction.request_id
        assert name is not None
        if name not in writes:
            writes[name] = Logged(logged.place, name, request_in(logged.transaction.payload))
    return list(writes.values())


def request_in(payload: bytes) -> Set:
    """The request that a transaction of the key-value store stands for; read without the store's own code."""
    tag, key, *rest = msgspec.msgpack.decode(payload)
    return Set(key, rest[0], rest[1]) if tag == "put" else Set(key, None, rest[0])


def performed_lines(log: Sequence[Entry]) -> list[tuple[int, str]]:
    """Seq and request id of what a node that has this log must have performed, in order."""
    return [(write.place[0], write.name) for write in writes_in(log)]


def _unequal_logs(logs: Mapping[int, Sequence[Entry]]) -> list[str]:
    first, *others = sorted(logs)
    complaints = []
    if [entry.seq for entry in logs[first]] != list(range(1, len(logs[first]) + 1)):
        complaints.append(f"the log of node {first} has gaps or repeats")
    for other in others:
        pairs = zip(logs[first], logs[other], strict=False)
        complaints += [f"node {first} has {one}, node {other} has {two}" for one, two in pairs if one != two][:3]
        if len(logs[first]) != len(logs[other]):
            complaints.append(f"node {first} has {len(logs[first])} entries, node {other} has {len(logs[other])}")
    return complaints


def _wrong_deliveries(
    delivered: Mapping[int, Mapping[str, Sequence[Line]]], performed: Sequence[tuple[int, str]]
) -> list[str]:
    """Every life of every node performed a beginning of the log, and its last life all of it."""
    lists: dict[str, Sequence[object]] = {"the log": performed}
    complaints = []
    for k, lives in delivered.items():
        for life, lines in lives.items():
            lists[f"node {k} in {life}"] = [(seq, request_id) for seq, _, request_id in lines]
            if len(lines) > len(performed):
                complaints.append(f"node {k} in {life} has performed more than the log has")
        last = max(lives, key=lambda life: int(life.removeprefix("life")))
        if len(lives[last]) != len(performed):
            complaints.append(f"node {k} has performed {len(lives[last])} of {len(performed)} transactions in {last}")
    return complaints + witness.check_prefixes(lists)


def _wrong_stores(stores: Mapping[int, Mapping[str, tuple[bytes, int]]], writes: Sequence[Logged]) -> list[str]:
    model = Registers()
    for write in writes:
        model.perform(write.request, write.place[0])
    return [
        f"the keys of node {k} are not what its log leads to" for k, store in stores.items() if store != model.values
    ]


def defects(lab: Lab) -> list[str]:
    """What nodes have written to their logs that only a defect explains."""
    return [
        f"node {k}: {line}"
        for k, node in lab.nodes.items()
        for line in node.log.read_text(errors="replace").splitlines()
        if any(word in line for word in _DEFECTS) and not _DISK_FAILS.search(line)
    ]


def outcomes(asked: Sequence[Asked]) -> dict[str, int]:
    """How many reads and writes were answered, and what became of the other writes."""
    counts = Counter(_outcome(each) for each in asked)
    return dict(sorted(counts.items()))


def _outcome(asked: Asked) -> str:
    if asked.answer is not None:
        return "reads answered" if isinstance(asked.request, Get) else "writes answered"
    return "writes refused" if asked.refused else "writes unknown"


def save(asked: Sequence[Asked], path: Path) -> None:
    """Write the clients' record, a line for each request."""
    path.write_text("".join(json.dumps(attrs.asdict(each), default=_text) + "\n" for each in asked))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
