"""The absences of ``vbcast demo``: what is done to a node, what it cost, and what was promised about it."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from txvbcast.cli.demo_check import shortened
from txvbcast.cli.demo_load import Load, Outcome, Write
from txvbcast.cli.demo_view import View, Watch
from txvbcast.cli.local import LOOK_S, LocalCluster

#: How long a node is frozen, and how long a killed one stays away.
FREEZE_S = 4.0
DEAD_S = 2.0
#: How long everything is let be before the first step, and between steps.
CALM_S = 0.7
#: The longest that the cluster may take to give its word on an announcement.
CONFIRM_S = 5.0
#: The longest that anything else may take.
PATIENCE_S = 20.0


class How(enum.Enum):
    """What is done to a node."""

    ANNOUNCED = "announced"
    FROZEN = "unannounced"
    KILLED = "killed"


@attrs.frozen
class Plan:
    """One absence to be shown."""

    letter: str
    node_id: int
    how: How
    is_master: bool

    @property
    def role(self) -> str:
        """Of the node, before it goes."""
        return "master" if self.is_master else "follower"

    @property
    def title(self) -> str:
        """What is about to happen, for people."""
        who = f"({self.letter}) Node {self.node_id}, {'the master' if self.is_master else 'a follower'},"
        if self.how is How.KILLED:
            return f"{who} is killed with SIGKILL, and started again {DEAD_S:.0f} s later."
        if self.how is How.FROZEN:
            return f"{who} is frozen for {FREEZE_S:.0f} s without a word, as if by a fault."
        return f"{who} announces that it will be frozen for {FREEZE_S:.0f} s, and is."


@attrs.frozen
class Result:
    """What one absence cost; times in milliseconds.

    :ivar absent_ms: from the freeze or kill to the thaw or restart.
    :ivar commits: that clients of the other nodes heard of meanwhile.
    :ivar longest_gap_ms: between commits, from the announcement (or the freeze or kill) until all was as before.
    :ivar failed, unknown: writes of that time that ended so.
    :ivar repeated: writes of that time that were sent again because their outcome was unknown at first.
    :ivar changes: every new master, in order, as the other nodes saw it.
    :ivar catch_up_ms: from the thaw or restart until every other node had it for normal; None if that did not come.
    :ivar broken: the promises that were not kept.
    """

    step: str
    node_id: int
    role: str
    how: How
    absent_ms: int
    commits: int
    longest_gap_ms: int
    failed: int
    unknown: int
    repeated: int
    master_before: int | None
    master_during: int | None
    master_after: int | None
    changes: tuple[int, ...]
    catch_up_ms: int | None
    broken: tuple[str, ...]


class Absence:
    """Carries out one :class:`Plan` with a running cluster under load.

    :ivar writes: those that fell due meanwhile; known when it has run.
    """

    def __init__(self, plan: Plan, cluster: LocalCluster, load: Load, watch: Watch, view: View) -> None:
        self._plan = plan
        self._cluster = cluster
        self._node = cluster[plan.node_id]
        self._load = load
        self._watch = watch
        self._view = view
        self.writes: list[Write] = []
        self._broken: list[str] = []
        self._change_id: int | None = None
        self._is_over = False
        self._others = [k for k in cluster.nodes if k != plan.node_id]
        self._marks: dict[int, int] = {}

    def run(self) -> Result:
        """Have it happen, and wait until all is as before, or is given up.

        :raises Failed: the node cannot be told what it should hear.
        :raises RuntimeError: its process has ended.
        """
        self._marks = {k: _newest(self._events_of(k, 0)) for k in self._cluster.nodes}
        self._view.title(self._plan.title)
        began_s, before = time.monotonic(), self._watch.master()
        self._take_away()
        gone_s = time.monotonic()
        time.sleep(DEAD_S if self._plan.how is How.KILLED else FREEZE_S)
        during = self._watch.master()
        back_s, back_unix_s = time.monotonic(), time.time()
        self._bring_back()
        self._wait_until_as_before(back_s)
        ended_s = time.monotonic()
        self.writes = self._answered(began_s, ended_s)
        events = self._events()
        if self._plan.how is How.ANNOUNCED:
            for promise in broken_promises(self._plan, self.writes, events):
                self._break(promise)
        result = Result(
            step=self._plan.letter,
            node_id=self._plan.node_id,
            role=self._plan.role,
            how=self._plan.how,
            absent_ms=_ms(back_s - gone_s),
            commits=sum(commit.by != self._plan.node_id for commit in self._load.commits_of(gone_s, back_s)),
            longest_gap_ms=_ms(self._load.longest_gap_s(began_s, ended_s, self._plan.node_id)),
            failed=_count(self.writes, Outcome.FAILED),
            unknown=_count(self.writes, Outcome.UNKNOWN),
            repeated=sum(write.repeats > 0 for write in self.writes),
            master_before=before,
            master_during=during,
            master_after=self._watch.master(),
            changes=_masters(events[self._others[0]]),
            catch_up_ms=self._catch_up_ms(events, ended_s - back_s, back_unix_s),
            broken=tuple(self._broken),
        )
        self._tell(result)
        return result

    # --- there and back ----------------------------------------------------------------

    def _take_away(self) -> None:
        plan, node = self._plan, self._node
        if plan.how is How.KILLED:
            node.kill()
            self._is_now("killed")
            return
        if plan.how is How.ANNOUNCED:
            self._announce()
        node.freeze()
        self._is_now("frozen")

    def _announce(self) -> None:
        asked_s = time.monotonic()
        body = {"kind": "freeze", "expected_ms": _ms(FREEZE_S), "wait_ms": _ms(CONFIRM_S)}
        answer = self._node.api.send("POST", "/v1/inactive", body=body, wait_s=CONFIRM_S)
        self._change_id = answer.field("change_id", int)
        took_ms = _ms(time.monotonic() - asked_s)
        if answer.field("confirmed", bool):
            self._view.say(f"The cluster has confirmed it after {took_ms} ms.")
        else:
            self._break(
                f"the cluster did not confirm the announcement: {answer.document().get('unsafe') or 'no answer'}"
            )

    def _bring_back(self) -> None:
        if self._plan.how is How.KILLED:
            self._node.start()
            self._is_now("running")
            return
        self._node.thaw()
        self._is_now("running")
        if self._change_id is not None:
            self._node.api.send("DELETE", f"/v1/inactive/{self._change_id}", {"outcome": "done"})

    def _is_now(self, word: str) -> None:
        self._view.processes[self._plan.node_id] = word
        returned = "is started again" if self._plan.how is How.KILLED else "goes on (SIGCONT)"
        done = {"frozen": "is frozen now (SIGSTOP)", "killed": "is dead now", "running": returned}[word]
        self._view.say(f"Node {self._plan.node_id} {done}.")

    def _wait_until_as_before(self, since_s: float) -> None:
        """Every node normal in every node's eyes, and the lowest id master, as it was when the show began."""
        master = min(self._cluster.nodes)

        def is_as_before() -> bool:
            seen = self._watch.fresh(since_s)
            return len(seen) == len(self._cluster.nodes) and all(
                document["master"] == master
                and document["state"] == "normal"
                and all(member["standing"] == "normal" for member in document["members"])
                for document in seen.values()
            )

        what = f"every node is normal again and node {master} is master"
        try:
            self._cluster.wait(what, is_as_before, PATIENCE_S)
            self._is_over = True
        except TimeoutError as error:
            self._break(str(error))

    def _answered(self, began_s: float, ended_s: float) -> list[Write]:
        """The writes of that time, once all have an answer; a client gives up before long."""
        writes = self._load.created(began_s, ended_s)
        while any(write.outcome is None for write in writes):
            time.sleep(LOOK_S)
        return writes

    # --- what came of it ---------------------------------------------------------------

    def _events(self) -> dict[int, list[dict[str, Any]]]:
        """What every node but a killed one has noted since the step began."""
        heard = self._others if self._plan.how is How.KILLED else list(self._cluster.nodes)
        return {node_id: self._events_of(node_id, self._marks[node_id] + 1) for node_id in heard}

    def _events_of(self, node_id: int, first: int) -> list[dict[str, Any]]:
        return list(self._cluster[node_id].api.events({"from": first, "follow": 0}))

    def _break(self, promise: str) -> None:
        self._broken.append(f"({self._plan.letter}) {promise}")

    def _catch_up_ms(self, events: dict[int, list[dict[str, Any]]], took_s: float, back_unix_s: float) -> int | None:
        """From the return until the last of the others had the node for normal; at most ``took_s``."""
        if not self._is_over:
            return None
        seen_s = [_normal_at_s(events[node_id], self._plan.node_id, back_unix_s) for node_id in self._others]
        # a node that was never ordered out, for want of a quorum, is not ordered in again either
        return _ms(max(took_s if time_s is None else time_s - back_unix_s for time_s in seen_s))

    def _tell(self, result: Result) -> None:
        failed, unknown = (count or "none" for count in (result.failed, result.unknown))
        again = f"; {result.repeated} got no answer and were sent to another node" if result.repeated else ""
        self._view.say(f"Meanwhile the others committed {result.commits} writes. {_return(result)}")
        self._view.say(
            f"Longest gap between commits {result.longest_gap_ms} ms; {failed} failed, {unknown} unknown{again}."
        )
        if result.changes:
            self._view.say(f"Node {result.master_before} was master, {_joined(result.changes)}.")
        for promise in result.broken:
            self._view.say(f"BROKEN: {promise}", "red")


def broken_promises(
    plan: Plan, writes: Iterable[Write], events: Mapping[int, Sequence[Mapping[str, Any]]]
) -> list[str]:
    """What an announced absence cost that it should not have.

    :param writes: those that fell due from the announcement until all was as before.
    :param events: what each node has noted in that time.
    """
    bad = [write for write in writes if write.outcome is not Outcome.COMMITTED or write.repeats]
    found = shortened([f"a client of node {write.home} heard of {write.key}: {write.reason}" for write in bad])
    for node_id, noted in events.items():
        failed = [event for event in noted if event["kind"] == "node_failed"]
        found += [f"node {node_id} took node {event['node_id']} for failed: {event['reason']}" for event in failed]
    expected = "one change of master there and one back" if plan.is_master else "no change of master"
    for node_id, noted in events.items():
        masters = _masters(noted)
        there_and_back = len(masters) == 2 and masters[-1] == plan.node_id
        if node_id != plan.node_id and not (there_and_back if plan.is_master else not masters):
            found.append(f"there was to be {expected}: node {node_id} saw {list(masters) or 'none'}")
    return found


def _return(result: Result) -> str:
    if result.catch_up_ms is None:
        return f"Node {result.node_id} is not normal yet."
    returned = "its start" if result.how is How.KILLED else "it went on"
    return f"Node {result.node_id} was normal {result.catch_up_ms} ms after {returned}."


def _joined(masters: Iterable[int]) -> str:
    return ", ".join(f"then node {master}" for master in masters)


def _normal_at_s(events: Iterable[Mapping[str, Any]], node_id: int, since_s: float) -> float | None:
    """When, by the wall clock, the node whose events these are first had another one for normal again."""
    for event in events:
        if event["kind"] == "node_normal" and event["node_id"] == node_id and event["time_s"] > since_s:
            return float(event["time_s"])
    return None


def _newest(events: Iterable[Mapping[str, Any]]) -> int:
    return max((event["id"] for event in events), default=0)


def _masters(events: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(event["master"] for event in events if event["kind"] == "master_changed")


def _count(writes: Iterable[Write], outcome: Outcome) -> int:
    return sum(write.outcome is outcome for write in writes)


def _ms(time_s: float) -> int:
    return round(time_s * 1000)
