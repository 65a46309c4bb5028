"""``python -m txvbcast.sim``: random runs of a simulated cluster, one to look at or many; noisy ones; quiet ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TextIO

import attrs
import click
from twisted.logger import globalLogBeginner

from txvbcast.config import HeartbeatConfig
from txvbcast.sim import campaign
from txvbcast.sim.campaign import CampaignResult, Result
from txvbcast.sim.cost import SIZES, table
from txvbcast.sim.diagram import draw
from txvbcast.sim.noise import Noise, NoiseResult, NoisyCluster
from txvbcast.sim.options import Options
from txvbcast.sim.progress import Progress, rate_of
from txvbcast.sim.trace import Trace
from txvbcast.units import format_duration, parse_duration

#: So many events before a violation are told, unless ``--events`` says otherwise.
EVENTS_TOLD = 60
#: So many false alarms are told: the first ones.
ALARMS_TOLD = 20
#: A failing run is traced for so long before its end, in virtual seconds; events and diagram come from there.
TRACED_S = 20.0
#: How much of a run is drawn, unless ``--from`` and ``--to`` say otherwise, in virtual seconds.
DRAWN_S = 3.0
#: When faults begin: a run without a violation is drawn from here.
FAULTS_BEGIN_S = 1.5


class Seeds(click.ParamType[range]):
    """``A-B``: every seed from A to B."""

    name = "A-B"

    def convert(self, value: str | range, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """The seeds; both ends are meant."""
        if isinstance(value, range):
            return value
        found = re.fullmatch(r"(\d+)-(\d+)", value)
        if found is None or int(found[1]) > int(found[2]):
            self.fail(f"{value!r} is no range of seeds; write it like 1-1000, the lower one first", param, ctx)
        return range(int(found[1]), int(found[2]) + 1)


class Duration(click.ParamType[float]):
    """``800ms``, ``1h``: seconds."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds, more than none."""
        if isinstance(value, float):
            return value
        try:
            duration_s = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if duration_s == 0.0:
            self.fail(f"{value!r} is no time at all", param, ctx)
        return duration_s


@attrs.frozen
class Window:
    """What is to be drawn, in virtual seconds; None where the user has not said it."""

    from_s: float | None
    to_s: float | None

    def of(self, result: Result) -> tuple[float, float]:
        """From when to when a run is drawn."""
        if self.to_s is not None:
            to_s = self.to_s
        elif self.from_s is not None and not result.violation:
            to_s = self.from_s + DRAWN_S
        else:
            to_s = result.virtual_s if result.violation else FAULTS_BEGIN_S + DRAWN_S
        return max(0.0, to_s - DRAWN_S) if self.from_s is None else self.from_s, to_s


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Run one seed, and say what happened.")
@click.option("--seeds", type=Seeds(), help="Run every seed from A to B.")
@click.option("--soak", is_flag=True, help="Runs of about half an hour with rarer faults and a lower load.")
@click.option("--jobs", type=click.IntRange(1), metavar="J", help="So many processes; default: one per processor.")
@click.option(
    "--failures", type=click.IntRange(1), metavar="K", default=3, show_default=True,
    help="Begin no more seeds after K violations.",
)  # fmt: skip
@click.option("--keep-going", is_flag=True, help="Run all seeds, however many violations there are.")
@click.option("--marks", is_flag=True, help="Fail if a rare branch was reached by none of the seeds.")
@click.option(
    "--events", type=click.IntRange(0), metavar="N",
    help=f"Tell the last N events; default: {EVENTS_TOLD} before a violation, else none.",
)  # fmt: skip
@click.option("--svg", type=click.File("w", "utf-8", lazy=False), metavar="FILE", help="Draw the run of --seed.")
@click.option(
    "--from", "from_s", type=click.FloatRange(0.0), metavar="SECONDS",
    help=f"Draw from this virtual time; default: {DRAWN_S:g} s before --to.",
)  # fmt: skip
@click.option(
    "--to", "to_s", type=click.FloatRange(0.0), metavar="SECONDS",
    help="Draw up to this virtual time; default: the violation.",
)  # fmt: skip
@click.option("--heartbeats", is_flag=True, help="Draw heartbeats, too.")
@click.option(
    "--noise", "noise_s", type=Duration(), metavar="DURATION",
    help="Run a healthy cluster whose nodes are all scheduled badly, and look for false alarms.",
)  # fmt: skip
@click.option(
    "--nodes", type=click.IntRange(2, 101), metavar="N", default=3, show_default=True, help="Of the noisy cluster."
)
@click.option(
    "--timeout", "timeout_s", type=Duration(), metavar="DURATION", default="800ms", show_default=True,
    help="The noisy cluster's heartbeat timeout.",
)  # fmt: skip
@click.option(
    "--worst-stall", "stall_s", type=Duration(), metavar="DURATION", default="500ms", show_default=True,
    help="The longest time for which a noisy node does not run.",
)  # fmt: skip
@click.option("--cost", is_flag=True, help="Count what flights and heartbeats cost in clusters of 2 to 101 nodes.")
@click.pass_context
def main(
    context: click.Context,
    seed: int | None,
    seeds: range | None,
    soak: bool,
    jobs: int | None,
    failures: int,
    keep_going: bool,
    marks: bool,
    events: int | None,
    svg: TextIO | None,
    from_s: float | None,
    to_s: float | None,
    heartbeats: bool,
    noise_s: float | None,
    nodes: int,
    timeout_s: float,
    stall_s: float,
    cost: bool,
) -> None:
    """Run simulated clusters under faults that are drawn from seeds, and check that what must hold does.

    The exit status is 0 if it does, 1 if not, 2 for wrong usage, and 130 after Ctrl-C.
    """
    _check_usage(context)
    if cost:
        for line in table(SIZES):
            click.echo(line)
        return
    if noise_s is not None:
        heartbeat, noise = HeartbeatConfig(timeout_s=timeout_s), Noise(stall_worst_s=stall_s)
        cluster = NoisyCluster(1 if seed is None else seed, nodes, heartbeat, noise)
        context.exit(report_noise(cluster.run(noise_s), timeout_s))
    if seed is not None:
        drawing = Drawing(svg, Window(from_s, to_s), heartbeats) if svg is not None else None
        context.exit(replay(seed, soak, events, drawing))
    assert seeds is not None
    with Progress(len(seeds), campaign.jobs_for(seeds, jobs)) as progress:
        done = campaign.run(seeds, jobs, soak, progress.on_result, failures_max=None if keep_going else failures)
    context.exit(report(done, EVENTS_TOLD if events is None else events, marks))


#: Options that mean something with only one of ``--seed`` and ``--seeds``.
_BELONGS = {
    "seed": ("svg", "from_s", "to_s", "heartbeats"),
    "seeds": ("jobs", "failures", "keep_going", "marks"),
    "noise_s": ("nodes", "timeout_s", "stall_s"),
    "cost": (),
}


def _check_usage(context: click.Context) -> None:
    option_of = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    given = {
        name for name in context.params if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    ways = given & set(_BELONGS)
    if "noise_s" in ways:
        ways -= {"seed"}  # the seed of the noise
    if len(ways) != 1:
        raise click.UsageError(
            "Say which runs: --seed N for one, --seeds A-B for many, --noise 1h for a noisy one, --cost for quiet ones."
        )
    for way, names in _BELONGS.items():
        wrong = [name for name in names if name in given and way not in ways]
        if wrong:
            raise click.UsageError(f"{option_of[wrong[0]]} goes with {option_of[way]} only.")
    if ways & {"noise_s", "cost"} and given & {"soak", "events"}:
        raise click.UsageError("--soak and --events go with --seed or --seeds only.")
    if "svg" not in given and given & {"from_s", "to_s", "heartbeats"}:
        raise click.UsageError("--from, --to and --heartbeats say what --svg FILE draws.")
    from_s, to_s = context.params["from_s"], context.params["to_s"]
    if from_s is not None and to_s is not None and from_s >= to_s:
        raise click.UsageError(f"--from {from_s:g} must be before --to {to_s:g}.")


# --- one run --------------------------------------------------------------------------------


@attrs.frozen
class Drawing:
    """Where to draw what."""

    file: TextIO
    window: Window
    heartbeats: bool


def replay(seed: int, soak: bool, events: int | None, drawing: Drawing | None) -> int:
    """Run a seed and tell of it; the exit status.

    It is run without a trace first: only then is it known which part is worth keeping.
    """
    _say(f"seed {seed}{' --soak' if soak else ''}", options_lines(Options.draw(seed, soak)))
    result = campaign.run_seed(seed, soak)
    _say("what happened", happened_lines(result))
    told = events if events is not None else EVENTS_TOLD if result.violation else 0
    if result.violation:
        click.echo(f"\nVIOLATION\n{_indented(result.violation)}")
    if told:
        _say(f"the last {told} events", last_events(result, told))
    if drawing is not None:
        _draw(result, drawing)
    if result.violation:
        _say("this repeats it", [command(result)])
        return 1
    click.echo("\nEverything that must hold did, and all was settled in the end.")
    return 0


def command(result: Result) -> str:
    """What repeats a run."""
    return f"python -m txvbcast.sim --seed {result.seed}{' --soak' if result.soak else ''}"


def last_events(result: Result, count: int) -> list[str]:
    """The last events of a run that has been done before; it is done again, with a trace."""
    return _traced(result, Trace(max(0.0, result.virtual_s - TRACED_S))).lines(count)


def _traced(result: Result, trace: Trace) -> Trace:
    again = campaign.run_seed(result.seed, result.soak, (trace,))
    if again.trace_hash != result.trace_hash:
        click.echo(
            f"The second run of seed {result.seed} was another one ({again.trace_hash}, not {result.trace_hash}): "
            "something in it does not follow from the seed."
        )
    return trace


def _draw(result: Result, drawing: Drawing) -> None:
    from_s, to_s = drawing.window.of(result)
    trace = _traced(result, Trace(from_s, to_s, drawing.heartbeats))
    options = Options.draw(result.seed, result.soak)
    notes = [
        f"{options.nodes} nodes, heartbeats {options.preset}, faults: {', '.join(options.faults)}",
        command(result),
    ]
    picture = draw(trace, f"Simulated run, seed {result.seed}", notes, result.violation)
    drawing.file.write(picture)
    click.echo(f"\n{drawing.file.name} shows the run from {from_s:.3f} s to {to_s:.3f} s.")


# --- many runs ------------------------------------------------------------------------------


def report(done: CampaignResult, events: int, marks: bool) -> int:
    """Tell of many runs, and of each one with a violation; the exit status."""
    _say("what was run", summary_lines(done))
    _say("rare branches", done.reached.report())
    for result in done.failing:
        report_failing(result, events)
    failed = bool(done.failing or (marks and done.reached.missing))
    if done.failing:
        _say("seeds with a violation", [", ".join(str(result.seed) for result in done.failing)])
    elif failed:
        click.echo(f"\n{len(done.reached.missing)} rare branches were never reached.")
    if done.interrupted:
        click.echo("\nInterrupted.")
    return 1 if failed else 130 if done.interrupted else 0


def report_failing(result: Result, events: int) -> None:
    """Tell of a run with a violation, as far as there is anything to tell."""
    _say(f"seed {result.seed}", options_lines(Options.draw(result.seed, result.soak)))
    click.echo(f"\nVIOLATION\n{_indented(result.violation)}")
    if events and not result.lost:
        _say(f"the last {events} events", last_events(result, events))
    _say("this repeats it", [command(result)])


def summary_lines(done: CampaignResult) -> Iterator[str]:
    """Totals of many runs."""
    yield from _columns(
        {
            "seeds": f"{len(done.results)} of {done.asked}, {len(done.failing)} with a violation",
            "virtual time": f"{done.virtual_s / 3600:.3f} h",
            "rate": f"{rate_of(done.virtual_s, done.wall_s * done.jobs):.2f} virtual h per minute and core, "
            f"{done.wall_s:.1f} s on {done.jobs} cores",
            "CPU time": f"{done.cpu_s:.1f} s, {rate_of(done.virtual_s, done.cpu_s):.2f} virtual h per minute of it",
            "transactions": _counts(done.total(lambda result: result.outcomes)),
            "faults": _counts(done.total(lambda result: result.faults)),
            "standings": _counts(done.total(lambda result: result.standings)),
            "epochs": str(sum(result.epochs for result in done.results)),
        }
    )


# --- a noisy run ----------------------------------------------------------------------------


def report_noise(result: NoiseResult, timeout_s: float) -> int:
    """Tell of a noisy run; the exit status."""
    _say("what happened", noise_lines(result, timeout_s))
    if not result.alarms:
        click.echo("\nNo false alarm.")
        return 0
    _say("false alarms", [f"{at_s:12.6f}  {text}" for at_s, text in result.alarms[:ALARMS_TOLD]])
    click.echo(f"\n{len(result.alarms)} false alarms.")
    return 1


def noise_lines(result: NoiseResult, timeout_s: float) -> Iterator[str]:
    """What a noisy run came to."""
    stalls = ", ".join(f">= {step_ms} ms {count}" for step_ms, count in result.stalls.items())
    yield from _columns(
        {
            "virtual time": f"{format_duration(result.virtual_s)}, {result.cpu_s:.1f} s of CPU time",
            "transactions": _counts(result.outcomes),
            "stalls": f"{stalls}; {result.stalled:.1%} of the time",
            "longest silence": f"{result.longest_silence_s * 1000:.0f} ms, the timeout is {format_duration(timeout_s)}",
            "nearest to an alarm": f"{result.nearest:.0%} of the patience at that moment",
            "trace hash": result.trace_hash,
        }
    )


# --- lines ----------------------------------------------------------------------------------


def options_lines(options: Options) -> Iterator[str]:
    """The options of a run, one a line."""
    values: dict[str, str] = {}
    for field in attrs.fields(Options):
        value = getattr(options, field.name)
        if attrs.has(type(value)):
            values.update({name: _text(inner) for name, inner in attrs.asdict(value).items()})
        else:
            values[field.name] = _text(value)
    yield from _columns(values)


def happened_lines(result: Result) -> Iterator[str]:
    """What a run came to."""
    yield from _columns(
        {
            "virtual time": f"{result.virtual_s:.3f} s in {result.steps} steps, {result.cpu_s:.2f} s of CPU time",
            "transactions": _counts(result.outcomes),
            "faults": _counts(result.faults),
            "epochs": str(result.epochs),
            "standings": _counts(result.standings),
            "rare branches": str(len(result.marks)),
            "trace hash": result.trace_hash,
        }
    )


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, Enum):
        return str(value.value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _counts(counts: Mapping[str, int]) -> str:
    """The most frequent first."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered) or "none"


def _columns(values: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, values))
    return (f"{name:{width}}  {value}".rstrip() for name, value in values.items())


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _say(title: str, lines: Iterator[str] | list[str]) -> None:
    click.echo(f"\n{title}")
    for line in lines:
        click.echo(f"  {line}")


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)  # nodes tell much
    main(prog_name="python -m txvbcast.sim")
