"""Shows that the checks of a session can fail: a real cluster's history, with one lie planted in it.

A check that lets a lie pass is worth nothing, so every session does this with its own history.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from tests.blackbox.history import Evidence, Opinion, judge, writes_in
from tests.blackbox.lab import Lab
from tests.blackbox.partitions import Split
from txvbcast.cli.failures import Failed
from txvbcast.sim.linearizability import Verdict
from txvbcast.sim.witness import AFTER_ALL, Asked, Done, Found, Get, Set
from txvbcast.wire.messages import Entry

_KEY = "calibration"


def stale_read(lab: Lab) -> list[Asked]:
    """Three operations on a real cluster, the last a lie: a local read at a node that is cut off, as a linearizable."""
    cut_off, healthy = min(lab.nodes), max(lab.nodes)
    history = [_put(lab, healthy, "calibration/old")]
    lab.wait("the value is everywhere", lambda: _read_locally(lab, cut_off, "").answer == _found(history[0]))
    split = Split((cut_off,))
    split.begin(lab)
    try:
        lab.wait("the rest has a master", lambda: (lab[healthy].status() or {}).get("master") not in (None, cut_off))
        history.append(_put(lab, healthy, "calibration/new"))
        history.append(_read_locally(lab, cut_off, "calibration/lie"))
    finally:
        split.heal(lab)
    return history


def _found(written: Asked) -> Found:
    assert isinstance(written.request, Set) and isinstance(written.answer, Done)
    return Found(written.request.value, written.answer.version)


def _put(lab: Lab, node_id: int, name: str) -> Asked:
    called = time.monotonic()
    query = {"request_id": name, "timeout_ms": 20_000}
    answer = lab[node_id].api.send("PUT", f"/v1/kv/{_KEY}", query, name.encode(), wait_s=20.0)
    facts = answer.document()
    done = Done(True, facts["version"], facts["found_version"])
    place = (facts["seq"], facts["index"])
    return Asked(name, Set(_KEY, name.encode()), called, time.monotonic(), done, place)


def _read_locally(lab: Lab, node_id: int, name: str) -> Asked:
    called = time.monotonic()
    try:
        answer = lab[node_id].api.get(f"/v1/kv/{_KEY}", {"consistency": "local"})
    except Failed as failed:
        if failed.kind != "not-found":
            raise
        found, applied = Found(None, 0), int(failed.document["applied"])
    else:
        found, applied = (
            Found(answer.content, answer.header_number("Vbcast-Version")),
            answer.header_number("Vbcast-Applied"),
        )
    return Asked(name, Get(_KEY), called, time.monotonic(), found, (applied, AFTER_ALL))


# --- lies that are planted afterwards ---------------------------------------------------


def lost_write(evidence: Evidence, chance: random.Random) -> Evidence:
    """An answered write is in no log."""
    answered = {asked.name for asked in evidence.asked if isinstance(asked.request, Set) and asked.place is not None}
    lost = chance.choice([write for write in writes_in(evidence.logs[min(evidence.logs)]) if write.name in answered])

    def without(log: Sequence[Entry]) -> list[Entry]:
        return [_without(entry, lost.place[1]) if entry.seq == lost.place[0] else entry for entry in log]

    return attrs.evolve(evidence, logs={k: without(log) for k, log in evidence.logs.items()})


def _without(entry: Entry, index: int) -> Entry:
    assert entry.flight is not None
    items = list(entry.flight.items)
    del items[index]
    return attrs.evolve(entry, flight=attrs.evolve(entry.flight, items=tuple(items), indices=None))


def reordered_delivery(evidence: Evidence, chance: random.Random) -> Evidence:
    """One node has performed two neighbours the other way round."""
    k = chance.choice(list(evidence.delivered))
    lives = dict(evidence.delivered[k])
    life = max(lives, key=lambda name: len(lives[name]))
    lines = list(lives[life])
    place = chance.randrange(len(lines) - 1)
    lines[place : place + 2] = reversed(lines[place : place + 2])
    return attrs.evolve(evidence, delivered={**evidence.delivered, k: {**lives, life: lines}})


def old_answer(evidence: Evidence, chance: random.Random) -> Evidence:
    """One read was answered from a value that had been overwritten before the read began."""
    relied_on = {
        (asked.request.key, asked.request.if_version) for asked in evidence.asked if isinstance(asked.request, Set)
    }
    reads = [
        asked
        for asked in evidence.asked
        if isinstance(asked.answer, Found)
        and asked.answer.value is not None
        and (asked.request.key, asked.answer.version) not in relied_on
    ]
    chance.shuffle(reads)
    overwritten = _overwritten(evidence.asked)
    for read in reads:
        assert isinstance(read.request, Get)
        older = [found for found, until in overwritten.get(read.request.key, ()) if until < read.called]
        if older:
            lie = attrs.evolve(read, answer=older[-1])
            return attrs.evolve(evidence, asked=[lie if asked is read else asked for asked in evidence.asked])
    raise AssertionError("no value was overwritten before a read: the session was too short to be calibrated")


def _overwritten(asked: Sequence[Asked]) -> dict[str, list[tuple[Found, float]]]:
    """By key: values that were surely gone, and from when on: a later read had found another."""
    found: dict[str, list[tuple[Found, float]]] = {}
    last: dict[str, Found] = {}
    for each in sorted(asked, key=lambda one: one.returned):
        if isinstance(each.request, Get) and isinstance(each.answer, Found):
            before = last.get(each.request.key)
            if before is not None and before.value is not None and before != each.answer:
                found.setdefault(each.request.key, []).append((before, each.returned))
            last[each.request.key] = each.answer
    return found


LIES: Mapping[str, Callable[[Evidence, random.Random], Evidence]] = {
    "a lost write": lost_write,
    "a reordered delivery": reordered_delivery,
    "an old answer": old_answer,
}


def calibrate(evidence: Evidence, stale: Sequence[Asked], seed: int) -> dict[str, Opinion]:
    """The opinion on each lie.

    :param stale: what :func:`stale_read` has brought; the log has its writes.
    """
    told = attrs.evolve(evidence, asked=[*evidence.asked, *stale])
    chance = random.Random(seed)
    opinions = {name: judge(plant(evidence, chance)) for name, plant in LIES.items()}
    return {"a stale read": judge(told), **opinions}


def unnoticed(opinions: Mapping[str, Opinion]) -> list[str]:
    """The lies that a check has let pass which should have caught them."""
    by_search = ("a stale read", "an old answer")
    passed = [f"{name} was not noticed" for name, opinion in opinions.items() if opinion.is_good]
    return passed + [
        f"{name}: the search says: {opinions[name].finding}"
        for name in by_search
        if opinions[name].finding.verdict is not Verdict.NOT_LINEARIZABLE
    ]
