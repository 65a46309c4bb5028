"""What every command that talks to a node shares: ``--node``, ``--json``, and how it prints."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from txvbcast.cli.api import DEFAULT_NODE, Api
from txvbcast.cli.failures import Failed
from txvbcast.units import parse_duration

NODE_VARIABLE = "VBCAST_NODE"

Command = TypeVar("Command", bound=Callable[..., Any])


class Session:
    """One run of a command against one node.

    :ivar json: print JSON, and nothing else, on stdout.
    """

    def __init__(self, api: Api, as_json: bool) -> None:
        self.api = api
        self.json = as_json

    def emit(self, document: object, text: str) -> None:
        """Print ``document`` with ``--json``, else ``text``."""
        click.echo(json.dumps(document) if self.json else text)


def _shared(command: Command) -> Command:
    """Add ``--node`` and ``--json``."""
    node = click.option(
        "--node",
        "node",
        metavar="URL",
        help=f"HTTP address of a node; default ${NODE_VARIABLE}, else {DEFAULT_NODE}.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
    return node(as_json(command))


def root_options(command: Command) -> Command:
    """The shared options for the root command, which keeps them for the others."""

    @functools.wraps(command)
    @click.pass_context
    def keeping(context: click.Context, /, *args: Any, node: str | None, as_json: bool, **kwargs: Any) -> Any:
        context.obj = (node, as_json)
        return command(*args, **kwargs)

    return _shared(keeping)  # type: ignore[return-value]


def node_command(command: Command) -> Command:
    """Add the shared options to a command and give it a :class:`Session` as its first argument."""

    @functools.wraps(command)
    @click.pass_context
    def with_session(context: click.Context, /, *args: Any, node: str | None, as_json: bool, **kwargs: Any) -> Any:
        root_node, root_json = context.find_object(tuple) or (None, False)
        url = node or root_node or os.environ.get(NODE_VARIABLE) or DEFAULT_NODE
        try:
            session = Session(Api(url), as_json or root_json)
        except ValueError as error:
            source = "--node" if node or root_node else f"${NODE_VARIABLE}"
            raise click.BadParameter(str(error), param_hint=source) from error
        try:
            return command(session, *args, **kwargs)
        except Failed as failed:
            if session.json:
                click.echo(json.dumps(failed.document))
            raise

    return _shared(with_session)  # type: ignore[return-value]


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A duration such as ``30s``; its value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds that ``value`` says."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()


def to_ms(duration_s: float) -> int:
    """Whole milliseconds, at least one unless there is nothing at all."""
    return max(round(duration_s * 1000), 1) if duration_s else 0


def read_input(argument: str | None, file: str | None, what: str) -> bytes:
    """The bytes that a command is given: as its argument, in a file, or on stdin (``-``).

    :raises click.UsageError: not exactly one of them is given, or the file cannot be read.
    """
    if (argument is None) == (file is None):
        raise click.UsageError(f"give the {what} either as an argument (- for stdin) or with --file")
    if argument == "-" or file == "-":
        if sys.stdin is None:
            raise click.UsageError(f"the {what} is to come from stdin, which is closed")
        return sys.stdin.buffer.read()
    if file is None:
        return os.fsencode(argument or "")
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise click.UsageError(f"--file: cannot read {file!r}: {error.strerror}") from error


def text_argument(argument: str, what: str) -> str:
    """A command line argument as text, also where the locale knows only ASCII.

    :raises click.UsageError: it is not UTF-8.
    """
    try:
        return os.fsencode(argument).decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the {what} is not UTF-8: {argument!r}") from error


def printable(text: str) -> str:
    """``text`` on one line, with what would move a terminal's cursor or change its colours written out."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
