"""``vbcast bench targets``: whether everything holds that was set as a target, all of it in one run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import click

from txvbcast.cli import machine
from txvbcast.cli.bench import measuring, peers
from txvbcast.cli.bench.absence import Cost, Plan, measure_absence, show_costs
from txvbcast.cli.bench.clusters import Peer, System, local_nodes
from txvbcast.cli.bench.copying import Compared, compare
from txvbcast.cli.bench.floods import Floods, measure_floods, show_floods
from txvbcast.cli.bench.measuring import OURS, Measured, Point
from txvbcast.cli.bench.options import Several, failing_in_json, json_option, progress, seconds_option, wants_json
from txvbcast.cli.bench.report import conditions_lines, detail_table, number, remarks
from txvbcast.cli.failures import Exit
from txvbcast.cli.tables import console, table

NODES = 3
PAYLOAD_BYTES = 128
LARGE_PAYLOAD_BYTES = 65536
OUTSTANDING = (1, 64, 1024)
MOST = max(OUTSTANDING)
FREEZE_S = 5.0
RATE_PER_S = 200.0
LOADS: tuple[float | None, ...] = (None, RATE_PER_S)
ABSENCES = (("announced", "master"), ("announced", "follower"), ("unannounced", "master"))
GROUPS = ("rates", "copy", "absence", "floods")
#: How often an absence is measured if the disk stands still meanwhile; then it counts as it is.
ATTEMPTS = 4
HEADINGS = ("figure", ">measured", ">must hold", ">aim", "verdict")


@attrs.frozen
class Target:
    """A figure, and what it has to be.

    :ivar measured: None: it could not be measured here.
    :ivar bound: what must hold.
    :ivar aim: what would be better; None if nothing is said of that.
    :ivar is_least: the bound is the least that is enough; otherwise the most that may be.
    """

    figure: str
    measured: float | None
    bound: float
    aim: float | None = None
    is_least: bool = True
    unit: str = ""

    @property
    def verdict(self) -> str:
        """``PASS``, ``FAIL``, or why there is none."""
        if self.measured is None:
            return "not measured"
        holds = self.measured >= self.bound if self.is_least else self.measured <= self.bound
        return "PASS" if holds else "FAIL"

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**attrs.asdict(self), "verdict": self.verdict}


@attrs.define
class Found:
    """Everything that was measured.

    :ivar disturbed: absences during which the disk stood still, and that were measured again; their failures count.
    """

    rates: list[Measured] = attrs.field(factory=list)
    copies: list[Compared] = attrs.field(factory=list)
    costs: list[Cost] = attrs.field(factory=list)
    disturbed: list[Cost] = attrs.field(factory=list)
    floods: list[Floods] = attrs.field(factory=list)

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "rates": [measured.document() for measured in self.rates],
            "copies": [compared.document() for compared in self.copies],
            "absences": [cost.document() for cost in self.costs],
            "disturbed_absences": [cost.document() for cost in self.disturbed],
            "floods": [floods.document() for floods in self.floods],
        }


@click.command(short_help="Say which of the targets are met.")
@click.option(
    "--only",
    "groups",
    type=Several(click.Choice(GROUPS)),
    metavar="GROUP[,GROUP...]",
    default=",".join(GROUPS),
    show_default=True,
    help="Which figures to measure.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 99),
    metavar="N",
    default=3,
    show_default=True,
    help="How often the rates of all systems, the absences and the floods are measured. The median counts, but of "
    "gaps and their ratios, memory and failures the worst; an absence during which the disk stood still is measured "
    "again.",
)
@seconds_option(3.0)
@json_option
@click.pass_context
def targets(context: click.Context, groups: tuple[str, ...], rounds: int, seconds: float, as_json: bool) -> int:
    """Measure every figure that has a target, and say which are met.

    Three nodes, durable, the key-value store, through the client port. What is a ratio is one of figures of this run;
    against the other systems the better of talking to their leader and talking to all of their nodes counts.

    The exit code is 1 if a target is not met.
    """
    as_json = wants_json(context, as_json)
    programs = peers.found(peers.NAMES)
    conditions: dict[str, Any] = {
        **machine.describe(),
        "node_urls": [],
        "peers": {},
        "seconds": seconds,
        "warm_up_s": measuring.WARM_UP_S,
        "rounds": rounds,
    }
    found = Found()
    with failing_in_json(as_json):
        if "rates" in groups:
            for each in range(1, rounds + 1):
                progress(f"rates, round {each} of {rounds}")
                found.rates += _measure_rates(programs, seconds, conditions["peers"])
        if set(groups) & {"copy", "absence", "floods"}:
            _measure_others(found, groups, seconds, rounds)
    wanted = list(targets_of(found, groups))
    if as_json:
        documents = {"targets": [target.document() for target in wanted], **found.document()}
        click.echo(json.dumps({"conditions": conditions, **documents}))
    else:
        _show(conditions, found, wanted)
    return Exit.REFUSED if any(target.verdict == "FAIL" for target in wanted) else Exit.DONE


# --- measuring ---------------------------------------------------------------------------


def _measure_rates(programs: Mapping[str, str], seconds: float, versions: dict[str, str]) -> list[Measured]:
    """One round of all systems, one after the other."""
    ours = [("master", "broadcast", count) for count in OUTSTANDING]
    ours += [("other", "broadcast", MOST), ("master", "2pc", MOST), ("master", "3pc", MOST)]
    points = [Point(OURS, "client", NODES, via, mode, PAYLOAD_BYTES, count) for via, mode, count in ours]
    with local_nodes(NODES) as nodes:
        found = _measure_all(nodes, points, seconds)
    for name, program in programs.items():
        points = [Point(name, name, NODES, via, "", PAYLOAD_BYTES, n) for via in ("master", "all") for n in OUTSTANDING]
        with peers.running(name, program, NODES) as running:
            versions[name] = running.version
            found += _measure_all(Peer(running), points, seconds)
    return found


def measure_undisturbed(measure: Callable[[], Cost]) -> list[Cost]:
    """What ``measure`` finds, again and again until the disk did not stand still meanwhile; the last one counts."""
    found = [measure()]
    while found[-1].is_disturbed and len(found) < ATTEMPTS:
        progress("the disk stood still meanwhile, so once more")
        found.append(measure())
    return found


def _measure_all(system: System, points: Iterable[Point], seconds: float) -> list[Measured]:
    found = []
    for point in points:
        progress(f"measuring {point.title()}")
        found.append(system.measure(point, seconds, clients=1))
    return found


def _measure_others(found: Found, groups: Sequence[str], seconds: float, rounds: int) -> None:
    """What is measured of our own nodes alone: each in a cluster of its own."""
    if "copy" in groups:
        with local_nodes(NODES) as nodes:
            found.copies.append(compare(nodes, 64, LARGE_PAYLOAD_BYTES, seconds, clients=1))
    if "absence" in groups:
        plans = [Plan(how, who, FREEZE_S, PAYLOAD_BYTES, 64, load) for load in LOADS for how, who in ABSENCES]
        for each in range(1, rounds + 1):
            progress(f"absences, round {each} of {rounds}")
            with local_nodes(NODES) as nodes:
                for plan in plans:
                    *disturbed, cost = measure_undisturbed(partial(measure_absence, nodes, plan))
                    found.costs.append(cost)
                    found.disturbed += disturbed
    if "floods" in groups:
        for each in range(1, rounds + 1):
            progress(f"floods, round {each} of {rounds}")
            with local_nodes(NODES) as nodes:
                found.floods.append(measure_floods(nodes, PAYLOAD_BYTES, seconds, clients=1))


# --- what has to hold --------------------------------------------------------------------


def targets_of(found: Found, groups: Sequence[str]) -> list[Target]:
    """The targets of these groups."""
    made: dict[str, Callable[[Found], list[Target]]] = {
        "rates": _rate_targets,
        "copy": _copy_targets,
        "absence": _absence_targets,
        "floods": _flood_targets,
    }
    return [target for group in GROUPS if group in groups for target in made[group](found)]


def _rate_targets(found: Found) -> list[Target]:
    rates = found.rates

    def against(name: str, outstanding: int) -> float | None:
        ours = _rate(rates, OURS, "master", "broadcast", outstanding)
        theirs = [_rate(rates, name, via, "", outstanding) for via in ("master", "all")]
        return _ratio(ours, max((rate for rate in theirs if rate is not None), default=None))

    most = {
        (via, mode): _rate(rates, OURS, via, mode, MOST)
        for via, mode in (("master", "broadcast"), ("other", "broadcast"), ("master", "2pc"), ("master", "3pc"))
    }
    broadcast = most["master", "broadcast"]
    return [
        Target("broadcast at 1024 outstanding, times NATS synced", against("nats", 1024), 2, 4),
        Target("broadcast at 1024 outstanding, times etcd", against("etcd", 1024), 6, 12),
        Target("broadcast at 64 outstanding, times NATS synced", against("nats", 64), 1.5, 3),
        Target("broadcast at 64 outstanding, times etcd", against("etcd", 64), 3, 6),
        Target("broadcast at 1 outstanding, times etcd", against("etcd", 1), 0.7, 1),
        Target("2pc at 1024, times broadcast", _ratio(most["master", "2pc"], broadcast), 0.5),
        Target("3pc at 1024, times 2pc", _ratio(most["master", "3pc"], most["master", "2pc"]), 0.8),
        Target("via another node at 1024, times via the master", _ratio(most["other", "broadcast"], broadcast), 0.7),
    ]


def _rate(rates: Sequence[Measured], system: str, via: str, mode: str, outstanding: int) -> float | None:
    """The median over the rounds; None if it was not measured."""
    wanted = (system, via, mode, outstanding)
    found = [
        measured.committed_per_s
        for measured in rates
        if (measured.point.system, measured.point.via, measured.point.mode, measured.point.outstanding) == wanted
    ]
    return statistics.median(found) if found else None


def _ratio(ours: float | None, other: float | None) -> float | None:
    return None if ours is None or not other else ours / other


def _copy_targets(found: Found) -> list[Target]:
    figure = "64 KiB values, bytes/s, times a plain copy to three fsynced files"
    return [Target(figure, compared.ratio, 0.3) for compared in found.copies]


def _absence_targets(found: Found) -> list[Target]:
    wanted = []
    rounds_of: dict[Plan, list[Cost]] = {}
    for cost in found.costs:
        rounds_of.setdefault(cost.plan, []).append(cost)
    for plan, costs in rounds_of.items():
        absence = f"{plan.how} freeze of the {plan.who} at {plan.load}"
        gap, longest_ms = f"{absence}: longest gap", max(cost.gap_ms for cost in costs)
        if plan.how == "unannounced":
            wanted.append(Target(gap, longest_ms / 1000, 1.0, 0.5, is_least=False, unit=" s"))
            continue
        if plan.who == "master":
            wanted.append(Target(gap, longest_ms, 25, 10, is_least=False, unit=" ms"))
        else:
            ratio = _of_rounds(max, [cost.gap_ratio for cost in costs])
            wanted.append(Target(f"{gap}, times the longest before", ratio, 1.5, is_least=False))
        failed = sum(cost.failed for cost in (*costs, *found.disturbed) if cost.plan == plan)
        wanted.append(Target(f"{absence}: failed operations", failed, 0, is_least=False))
    for plan, costs in rounds_of.items():
        if plan.how == "announced" and plan.rate_per_s is None:
            figure = f"catch-up of the {plan.who} at {plan.load}, times the commit rate that it missed"
            wanted.append(Target(figure, _of_rounds(statistics.median, [cost.catch_up_ratio for cost in costs]), 3))
    return wanted


def _of_rounds(choose: Callable[[Sequence[float]], float], ratios: Sequence[float | None]) -> float | None:
    """The one that counts; None if one round has no such ratio."""
    known = [ratio for ratio in ratios if ratio is not None]
    return choose(known) if len(known) == len(ratios) else None


def _flood_targets(found: Found) -> list[Target]:
    if not found.floods:
        return []
    figure = "p99 at twice the sustainable rate, times that at half of it"
    memory = "memory of the largest node in the second half of a flood, times the first"
    return [
        Target(figure, _of_rounds(statistics.median, [floods.p99_ratio for floods in found.floods]), 4, is_least=False),
        Target(memory, max(floods.memory_ratio for floods in found.floods), 1.25, is_least=False),
    ]


# --- for people --------------------------------------------------------------------------


def _show(conditions: Mapping[str, Any], found: Found, wanted: Sequence[Target]) -> None:
    for line in conditions_lines(conditions):
        click.echo(line)
    if found.rates:
        click.echo()
        console().print(detail_table(found.rates))
    if found.costs:
        click.echo()
        show_costs([*found.costs, *found.disturbed])
    for floods in found.floods:
        click.echo()
        show_floods(floods)
    for line in remarks(found.rates):
        click.echo(line)
    click.echo()
    console().print(table(HEADINGS, [_row(target) for target in wanted]))


def _row(target: Target) -> list[object]:
    sign = ">=" if target.is_least else "<="
    return [
        target.figure,
        "" if target.measured is None else number(target.measured, 2) + target.unit,
        f"{sign} {target.bound:g}{target.unit}",
        "" if target.aim is None else f"{target.aim:g}{target.unit}",
        target.verdict,
    ]
