"""What the commands of ``vbcast bench`` share: types of options, and options."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from txvbcast.cli.failures import Failed

Command = TypeVar("Command", bound=Callable[..., Any])


class Several(click.ParamType):  # type: ignore[type-arg]
    """Values of one type, with commas between them."""

    def __init__(self, each: click.ParamType) -> None:  # type: ignore[type-arg]
        self.each = each
        self.name = each.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """The values that the text names."""
        return tuple(self.each.convert(part.strip(), param, ctx) for part in value.split(","))


def seconds_option(default_s: float) -> Callable[[Command], Command]:
    """``--seconds``."""
    return click.option(
        "--seconds",
        type=click.FloatRange(0.1, 3600),
        metavar="S",
        default=default_s,
        show_default=True,
        help="How long each point is measured.",
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
clients_option = click.option(
    "--clients",
    type=click.IntRange(1, 64),
    metavar="N",
    default=1,
    show_default=True,
    help="Processes that share the load.",
)
svg_option = click.option(
    "--svg",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the figures into FILE.",
)


def wants_json(context: click.Context, as_json: bool) -> bool:
    """Whether ``--json`` was given, here or to ``vbcast``."""
    return as_json or (context.find_object(tuple) or (None, False))[1]


@contextlib.contextmanager
def failing_in_json(as_json: bool) -> Iterator[None]:
    """Print a failure as a document too, if that is asked for."""
    try:
        yield
    except Failed as failed:
        if as_json:
            click.echo(json.dumps(failed.document))
        raise


def progress(text: str) -> None:
    """Tell people who wait what is being done."""
    click.echo(f"{text} ...", err=True)


def write_picture(path: Path, picture: str) -> None:
    """Write an SVG.

    :raises click.BadParameter: it cannot be written.
    """
    try:
        path.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--svg") from error
