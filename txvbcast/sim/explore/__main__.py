"""``python -m txvbcast.sim.explore``: search through everything that can happen to a small cluster."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from twisted.logger import globalLogBeginner

from txvbcast.sim.explore.replay import replay
from txvbcast.sim.explore.scopes import SCOPES
from txvbcast.sim.explore.search import Result, Search
from txvbcast.sim.explore.trace import TraceError, read, shown, written

#: Progress is told this often.
TELL_EVERY_S = 5.0


class Progress:
    """A line on stderr now and then."""

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._began_s = self._told_s = time.monotonic()

    def __call__(self, states: int, depth: int, waiting: int) -> None:
        """Tell how far the search is."""
        now_s = time.monotonic()
        if now_s - self._told_s < TELL_EVERY_S:
            return
        self._told_s = now_s
        rate = states / (now_s - self._began_s)
        click.echo(
            f"{self._scope}: {states:,} states, depth {depth}, {waiting:,} to expand, {rate:,.0f} a second", err=True
        )


def summary(result: Result) -> str:
    """What a search has found, in a line or two."""
    ended = "exhausted: every state of the scope was seen" if result.exhausted else f"bounded: {result.stopped}"
    return (
        f"{result.scope.name}: {result.states:,} states, {result.transitions:,} transitions, depth {result.depth}, "
        f"{result.states / max(result.seconds, 0.001):,.0f} states a second, {result.seconds:.1f} s; {ended}\n"
        f"  {result.local_states:,} states of single nodes, {result.packets:,} messages, "
        f"{result.runs:,} runs of a replica"
    )


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\n\n".join(f"{scope.name}: {scope.about}." for scope in SCOPES.values()),
)
@click.option(
    "--scope", "names", multiple=True, type=click.Choice(tuple(SCOPES)),
    help="Search this scope; may be given several times. Default: all.",
)  # fmt: skip
@click.option(
    "--states-max", type=click.IntRange(1), metavar="N", default=1_000_000, show_default=True,
    help="Stop a scope after N distinct states.",
)  # fmt: skip
@click.option(
    "--seconds-max", type=click.FloatRange(0, min_open=True), metavar="S", default=300.0, show_default=True,
    help="Stop a scope after S seconds.",
)  # fmt: skip
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write a counterexample to FILE; it replays with --replay.",
)  # fmt: skip
@click.option(
    "--replay", "replayed", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Do what FILE says with production drivers, and say what is wrong at its end.",
)  # fmt: skip
def main(names: tuple[str, ...], states_max: int, seconds_max: float, save: Path | None, replayed: Path | None) -> None:
    """Search, breadth first, through everything that can happen to a small cluster.

    Each node is the production core. The network delivers any message at any time, any number of times, or
    never. The first violation of an invariant ends the search, and the shortest way to it is shown. The exit
    status is 1 if there is one.

    Scopes, and what may happen in them, are listed below.
    """
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    if replayed is not None:
        _replay(replayed)
        return
    violations = 0
    for name in names or tuple(SCOPES):
        result = Search(SCOPES[name], Progress(name)).run(states_max, seconds_max)
        click.echo(summary(result))
        if result.counterexample is not None:
            violations += 1
            click.echo(shown(result.counterexample))
            if save is not None:
                save.write_text(written(result.counterexample), "utf-8")
                click.echo(f"written to {save}; --replay {save} does it again")
    sys.exit(1 if violations else 0)


def _replay(path: Path) -> None:
    try:
        trace = read(path.read_text("utf-8"))
        what = replay(trace)
    except TraceError as error:
        raise click.ClickException(f"{path}: {error}") from error
    click.echo(f"{len(trace.lines)} events replayed in scope {trace.scope.name}")
    click.echo(what or "every invariant holds at the end")
    if what != trace.what:
        raise click.ClickException(f"{path}: the trace was written down for another outcome: {trace.what or 'none'}")
    sys.exit(1 if what else 0)


if __name__ == "__main__":
    main(prog_name="python -m txvbcast.sim.explore")
