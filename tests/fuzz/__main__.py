"""``python -m tests.fuzz``: fuzz, replay what was found, keep the corpus up to date."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click

from tests.fuzz import CORPUS, TARGETS, check_of, growing, runner, samples


@click.command()
@click.option("--target", type=click.Choice(TARGETS), default=TARGETS[0], show_default=True, help="What is fed.")
@click.option("--seconds", type=click.IntRange(1), default=60, show_default=True, help="For how long.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the fuzzer's choices; 0: others each time.")
@click.option("--replay", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Try the input in a file.")
@click.option("--grow", is_flag=True, help="Add what goes new ways to the corpus.")
@click.option("--write-samples", is_flag=True, help="Write the samples and bad inputs of the corpus anew.")
def main(target: str, seconds: int, seed: int, replay: Path | None, grow: bool, write_samples: bool) -> None:
    """Feed a part that reads bytes from outside, and look for an input that breaks one of its properties."""
    if write_samples:
        click.echo(f"{samples.write()} files in {CORPUS}")
    elif replay is not None:
        again(target, replay)
    elif reason := runner.absence():
        raise click.ClickException(reason)
    else:
        fuzz(target, seconds, seed, grow)


def again(target: str, path: Path) -> None:
    """Try the input in ``path``; what it breaks is raised."""
    data = path.read_bytes()
    check_of(target)(data)
    click.echo(f"{path}: {len(data)} bytes break nothing")


def fuzz(target: str, seconds: int, seed: int, grow: bool) -> None:
    """Run the fuzzer, and tell how it goes and how it ended."""
    began_s = time.monotonic()

    def told(progress: runner.Progress) -> None:
        took_s = time.monotonic() - began_s
        click.echo(
            f"{took_s:5.0f} s: {progress.runs} executions, {progress.runs / took_s:.0f}/s, "
            f"coverage {progress.coverage}, corpus {progress.corpus}"
        )

    with tempfile.TemporaryDirectory(prefix="fuzz-grown-") as folder:
        outcome = runner.fuzz(target, seconds, seed, told=told, grown=Path(folder))
        if grow:
            click.echo(f"{growing.keep(target, Path(folder))} new files in {CORPUS / target}")
    if outcome.found is not None:
        raise click.ClickException(runner.finding(target, outcome))
    if outcome.status != 0:
        raise click.ClickException(f"the fuzzer ended with status {outcome.status}:\n{outcome.said}")


if __name__ == "__main__":
    main(prog_name="python -m tests.fuzz")
