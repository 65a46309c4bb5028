"""``vbcast bench absence``: what it costs the clients that a node is away, and how fast it catches up."""

from __future__ import annotations

import bisect
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import attrs
import click

from txvbcast.cli import machine
from txvbcast.cli.bench import measuring
from txvbcast.cli.bench.clusters import Nodes, local_nodes
from txvbcast.cli.bench.load import LoadResult, LoadSpec, Window
from txvbcast.cli.bench.measuring import Load, sleep_until
from txvbcast.cli.bench.options import Several, failing_in_json, json_option, progress, wants_json
from txvbcast.cli.bench.report import number
from txvbcast.cli.failures import Exit, Failed
from txvbcast.cli.local import LOOK_S, LocalCluster, LocalNode
from txvbcast.cli.session import printable
from txvbcast.cli.tables import console, table
from txvbcast.control.client_desk import OUTSTANDING_MAX

#: The load goes on for so long before the absence, about as long as that and the return take: the longest gap of a
#: longer time is longer. And for so long after the return.
BEFORE_S = 7.0
AFTER_S = 5.0
#: The disk stood still when making a small write durable took so many times as long as it usually does; nodes at work,
#: and one that catches up, lead to up to 25 times.
STANDSTILL_TIMES = 40
#: The longest that the cluster may take to give its word on an announcement.
CONFIRM_S = 5.0
#: The longest that a return may take.
RETURN_S = 60.0
HOWS = ("announced", "unannounced")
WHOS = ("master", "follower")
HEADINGS = (
    "absence",
    "of",
    "load",
    ">commits/s before",
    ">while away",
    ">gap before, ms",
    ">gap leaving, ms",
    ">gap returning, ms",
    ">failed",
    ">entries missed",
    ">caught up, ms",
    ">commits/s",
    ">entries/s",
    ">MB/s",
    ">times the rate missed",
)


@attrs.frozen
class Plan:
    """One absence.

    :ivar how: one of :data:`HOWS`.
    :ivar who: one of :data:`WHOS`; the client talks to the master, and the follower is the last node.
    :ivar outstanding, rate_per_s: the load, as in :class:`~txvbcast.cli.bench.load.LoadSpec`.
    """

    how: str
    who: str
    freeze_s: float
    payload_bytes: int
    outstanding: int
    rate_per_s: float | None

    @property
    def load(self) -> str:
        """For people."""
        return f"{self.outstanding} outstanding" if self.rate_per_s is None else f"{self.rate_per_s:g}/s"


@attrs.frozen
class Moments:
    """When what happened, on the monotonic clock, and where the absent node's log stood.

    :ivar left_s: the announcement, or the freeze where there is none.
    :ivar normal_s: the absent node was normal again, in its own eyes.
    :ivar restored_s: all was as before; None if it did not come to that.
    """

    left_s: float
    frozen_s: float
    thawed_s: float
    normal_s: float
    restored_s: float | None
    applied_before: int
    applied_after: int
    committed_at_thaw: int


@attrs.frozen
class Cost:
    """What an absence cost.

    :ivar gap_before_ms: the longest time without a commit before it, under the same load.
    :ivar gap_leaving_ms: from the announcement (or the freeze) to the thaw.
    :ivar gap_returning_ms: from the thaw until all was as before.
    :ivar missed_entries: of the log, while the node was frozen.
    :ivar missed_per_s: commits per second while it was frozen.
    :ivar catch_up_ms: from the thaw until it was normal.
    :ivar caught_up_per_s: commits that it had to hear of until then, by that time.
    :ivar restored: whether all became as before.
    :ivar sync_ms: how long it usually took meanwhile to make a small write durable, on the disk of the nodes but
        beside them; longest_sync_ms: and at most.
    """

    plan: Plan
    commits_before_per_s: float
    missed_per_s: float
    gap_before_ms: float
    gap_leaving_ms: float
    gap_returning_ms: float
    failed: int
    failures: dict[str, dict[str, Any]]
    missed_entries: int
    catch_up_ms: float
    caught_up_per_s: float
    caught_up_entries_per_s: float
    restored: bool
    sync_ms: float
    longest_sync_ms: float

    @property
    def is_disturbed(self) -> bool:
        """Whether the disk stood still, for whatever reason: if it is the absence, it does so each time."""
        return self.longest_sync_ms > STANDSTILL_TIMES * self.sync_ms

    @property
    def gap_ms(self) -> float:
        """The longest of the whole absence."""
        return max(self.gap_leaving_ms, self.gap_returning_ms)

    @property
    def gap_ratio(self) -> float | None:
        """How much longer that was than the longest before."""
        return self.gap_ms / self.gap_before_ms if self.gap_before_ms else None

    @property
    def catch_up_ratio(self) -> float | None:
        """How much faster it caught up than what it missed had come."""
        return self.caught_up_per_s / self.missed_per_s if self.missed_per_s else None

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        own = attrs.asdict(self)
        caught_up_mb_per_s = self.caught_up_per_s * self.plan.payload_bytes / 1e6
        more = {"catch_up_ratio": self.catch_up_ratio, "caught_up_mb_per_s": caught_up_mb_per_s}
        return {**own.pop("plan"), **own, **more}


@click.command(short_help="Measure what the absence of a node costs.")
@click.option(
    "--how",
    "hows",
    type=Several(click.Choice(HOWS)),
    metavar="HOW[,HOW...]",
    default=",".join(HOWS),
    show_default=True,
    help="Whether the node says so before it is frozen.",
)
@click.option(
    "--who",
    "whos",
    type=Several(click.Choice(WHOS)),
    metavar="WHO[,WHO...]",
    default=",".join(WHOS),
    show_default=True,
    help="Which node is frozen. The clients talk to the master.",
)
@click.option(
    "--freeze",
    "freeze_s",
    type=click.FloatRange(0.1, 60),
    metavar="S",
    default=5.0,
    show_default=True,
    help="How long.",
)
@click.option(
    "--rate",
    "rate_per_s",
    type=click.FloatRange(1, 1e5),
    metavar="N",
    default=200.0,
    show_default=True,
    help="Transactions a second of the open loop.",
)
@click.option(
    "--outstanding",
    type=click.IntRange(1, OUTSTANDING_MAX),
    metavar="N",
    default=64,
    show_default=True,
    help="Transactions under way of the closed loop.",
)
@click.option(
    "--payload", "payload_bytes", type=click.IntRange(0), metavar="BYTES", default=128, show_default=True,
    help="The length of a value.",
)  # fmt: skip
@json_option
@click.pass_context
def absence(
    context: click.Context,
    hows: tuple[str, ...],
    whos: tuple[str, ...],
    freeze_s: float,
    rate_per_s: float,
    outstanding: int,
    payload_bytes: int,
    as_json: bool,
) -> int:
    """Measure what the absence of a node costs the clients, and how fast it catches up.

    A node of three is stopped (SIGSTOP) for some seconds, under two loads: an open loop of some transactions a second,
    and a closed loop of some under way. The longest time between two commits is that which a client sees.
    """
    as_json = wants_json(context, as_json)
    loads: tuple[tuple[int, float | None], ...] = ((outstanding, rate_per_s), (outstanding, None))
    plans = [
        Plan(how, who, freeze_s, payload_bytes, count, rate)
        for (count, rate), how, who in itertools.product(loads, hows, whos)
    ]
    conditions = {**machine.describe(), "nodes": 3}
    with failing_in_json(as_json), local_nodes(3) as nodes:
        costs = [measure_absence(nodes, plan) for plan in plans]
    if as_json:
        click.echo(json.dumps({"conditions": conditions, "absences": [cost.document() for cost in costs]}))
    else:
        show_costs(costs)
    return Exit.DONE if all(cost.restored for cost in costs) else Exit.REFUSED


def measure_absence(nodes: Nodes, plan: Plan) -> Cost:
    """Have a node be away under load.

    :raises Failed: the node cannot be told what it should hear, or the load cannot be brought about.
    """
    progress(f"{plan.how} absence of the {plan.who}, {plan.load}")
    nodes.wait_for_rest()
    cluster = nodes.cluster
    assert cluster is not None
    spec = LoadSpec(
        way="client",
        targets=tuple(nodes.targets("master", "client").values()),
        number=0,
        outstanding=plan.outstanding,
        mode="broadcast",
        payload_bytes=plan.payload_bytes,
        rate_per_s=plan.rate_per_s,
        is_traced=True,
    )
    watch = machine.DiskWatch(cluster.directory)
    with Load(spec) as load, watch:
        window = load.begin(BEFORE_S + plan.freeze_s + AFTER_S, measuring.WARM_UP_S)
        sleep_until(window.begin_s + BEFORE_S)
        moments = _go_through(cluster, plan)
        result = load.result()
    return cost_of(plan, moments, window, result, watched(watch, window.begin_s, moments.restored_s or window.end_s))


def watched(watch: machine.DiskWatch, begin_s: float, end_s: float) -> list[float]:
    """How long small writes took meanwhile.

    :raises Failed: the disk could not be written to.
    """
    try:
        return watch.syncs_s(begin_s, end_s)
    except OSError as error:  # such as a full disk
        raise Failed("unreachable", f"the disk of the nodes cannot be watched: {error}") from error


def _go_through(cluster: LocalCluster, plan: Plan) -> Moments:
    home = min(cluster.nodes)
    node = cluster[home if plan.who == "master" else max(cluster.nodes)]
    left_s = time.monotonic()
    change_id = _announce(node, plan) if plan.how == "announced" else None
    applied_before = _field(node, "applied")
    node.freeze()
    frozen_s = time.monotonic()
    sleep_until(frozen_s + plan.freeze_s)
    witness = cluster[next(k for k in cluster.nodes if k != node.node_id)]
    committed = _field(witness, "committed")
    thawed_s = time.monotonic()
    node.thaw()
    if change_id is not None:
        node.api.send("DELETE", f"/v1/inactive/{change_id}", {"outcome": "done"})
    applied_after, normal_s = _wait_until_normal(node, thawed_s)
    restored_s = _wait_until_restored(cluster, home)
    return Moments(left_s, frozen_s, thawed_s, normal_s, restored_s, applied_before, applied_after, committed)


def _announce(node: LocalNode, plan: Plan) -> int:
    """Announce the absence; the id of the change."""
    expected_ms = round(plan.freeze_s * 1000)
    body = {"kind": "freeze", "expected_ms": expected_ms, "wait_ms": round(CONFIRM_S * 1000)}
    answer = node.api.send("POST", "/v1/inactive", body=body, wait_s=CONFIRM_S)
    if not answer.field("confirmed", bool):
        why = answer.document().get("unsafe") or "no answer"
        raise Failed("unreachable", f"the cluster did not confirm an announcement: {why}")
    return answer.field("change_id", int)


def _field(node: LocalNode, name: str) -> int:
    return node.api.get("/v1/status").field(name, int)


def _wait_until_normal(node: LocalNode, since_s: float) -> tuple[int, float]:
    """What the node has applied when it is normal again, and when that is."""
    while time.monotonic() < since_s + RETURN_S:
        document = node.status() or {}
        if document.get("state") == "normal":
            return int(document["applied"]), time.monotonic()
        time.sleep(LOOK_S / 4)
    raise Failed("unreachable", f"node {node.node_id} was not normal within {RETURN_S:.0f} s of its return")


def _wait_until_restored(cluster: LocalCluster, home: int) -> float | None:
    """When every node was normal in every node's eyes, and the preferred master in office."""

    def is_restored() -> bool:
        states = [node.status() for node in cluster.nodes.values()]
        return all(
            state is not None
            and state["master"] == home
            and all(member["standing"] == "normal" for member in state["members"])
            for state in states
        )

    try:
        cluster.wait("all is as before", is_restored, RETURN_S)
    except TimeoutError:
        return None
    return time.monotonic()


def cost_of(plan: Plan, moments: Moments, window: Window, result: LoadResult, syncs_s: Sequence[float]) -> Cost:
    """What the clients saw, and how fast the node caught up.

    :param syncs_s: how long small writes took beside the nodes.
    """
    commits = result.commits
    away_s, catch_up_s = moments.thawed_s - moments.frozen_s, moments.normal_s - moments.thawed_s
    missed = _count(commits, moments.frozen_s, moments.thawed_s)
    to_hear = missed + _count(commits, moments.thawed_s, moments.normal_s)
    return Cost(
        plan=plan,
        commits_before_per_s=_count(commits, window.begin_s, moments.left_s) / (moments.left_s - window.begin_s),
        missed_per_s=missed / away_s,
        gap_before_ms=_longest_gap_ms([each for each in commits if window.begin_s <= each[0] < moments.left_s]),
        gap_leaving_ms=_longest_gap_ms(_around(commits, moments.left_s, moments.thawed_s)),
        gap_returning_ms=_longest_gap_ms(_around(commits, moments.thawed_s, moments.restored_s or window.end_s)),
        failed=result.failed,
        failures={kind: attrs.asdict(failure) for kind, failure in sorted(result.failures.items())},
        missed_entries=moments.committed_at_thaw - moments.applied_before,
        catch_up_ms=catch_up_s * 1000,
        caught_up_per_s=to_hear / catch_up_s,
        caught_up_entries_per_s=(moments.applied_after - moments.applied_before) / catch_up_s,
        restored=moments.restored_s is not None,
        sync_ms=statistics.median(syncs_s) * 1000,
        longest_sync_ms=max(syncs_s) * 1000,
    )


def _count(commits: Sequence[tuple[float, int]], begin_s: float, end_s: float) -> int:
    return sum(count for time_s, count in commits if begin_s <= time_s < end_s)


def _around(commits: Sequence[tuple[float, int]], begin_s: float, end_s: float) -> Sequence[tuple[float, int]]:
    """Those from the last one before ``begin_s`` to the first one after ``end_s``."""
    first = bisect.bisect_left(commits, (begin_s, 0))
    last = bisect.bisect_left(commits, (end_s, 0))
    return commits[max(0, first - 1) : last + 1]


def _longest_gap_ms(commits: Sequence[tuple[float, int]]) -> float:
    return max((after_s - before_s for (before_s, _), (after_s, _) in itertools.pairwise(commits)), default=0.0) * 1000


def show_costs(costs: Sequence[Cost]) -> None:
    """Print them for people."""
    console().print(table(HEADINGS, [_row(cost) for cost in costs]))
    for row, cost in enumerate(costs, 1):
        title = f"row {row}, {cost.plan.how}, {cost.plan.who}, {cost.plan.load}"
        for kind, failure in cost.failures.items():
            click.echo(f"{title}: {failure['count']} {kind}; the first: {printable(failure['example'])}")
        if cost.is_disturbed:
            longest, usual = number(cost.longest_sync_ms, 1), number(cost.sync_ms, 2)
            click.echo(f"{title}: the disk stood still: {longest} ms for a small write that usually takes {usual} ms")


def _row(cost: Cost) -> list[object]:
    return [
        cost.plan.how,
        cost.plan.who,
        cost.plan.load,
        number(cost.commits_before_per_s, 0),
        number(cost.missed_per_s, 0),
        number(cost.gap_before_ms, 1),
        number(cost.gap_leaving_ms, 1),
        number(cost.gap_returning_ms if cost.restored else None, 1),
        cost.failed,
        cost.missed_entries,
        number(cost.catch_up_ms, 0),
        number(cost.caught_up_per_s, 0),
        number(cost.caught_up_entries_per_s, 0),
        number(cost.caught_up_per_s * cost.plan.payload_bytes / 1e6, 2),
        number(cost.catch_up_ratio, 1),
    ]
