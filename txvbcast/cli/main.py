"""``vbcast``: the command line of a cluster.

Each command is imported when it is asked for, so that one costs nothing to the others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from txvbcast.cli.failures import Exit, Failed, OutputClosed
from txvbcast.cli.session import root_options

#: Command: module and attribute, in the order of the help.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("txvbcast.cli.demo", "demo"),
    "init": ("txvbcast.cli.init", "init"),
    "status": ("txvbcast.cli.status", "status"),
    "kv": ("txvbcast.cli.kv", "kv"),
    "submit": ("txvbcast.cli.submit", "submit"),
    "inactive": ("txvbcast.cli.inactive", "inactive"),
    "hook": ("txvbcast.cli.hook", "hook"),
    "members": ("txvbcast.cli.members", "members"),
    "master": ("txvbcast.cli.master", "master"),
    "events": ("txvbcast.cli.events", "events"),
    "doctor": ("txvbcast.cli.doctor", "doctor"),
    "bench": ("txvbcast.cli.bench.command", "bench"),
}


class LazyGroup(click.Group):
    """A group whose commands are imported by name; one whose module is not installed is not there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command, None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            return None
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        :raises OutputClosed: the reader of the output is gone.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputClosed from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="txvbcast", prog_name="vbcast")
@root_options
def root() -> None:
    """Talk to a txvbcast cluster through any of its nodes.

    \b
    Exit codes: 0 done; 1 the cluster said no (aborted, not found); 2 usage;
    3 unreachable or no quorum; 4 outcome unknown; 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``vbcast`` with ``arguments`` (default: those of the process) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name is no failure
    try:
        code = root.main(arguments, prog_name="vbcast", standalone_mode=False)
    except Failed as failed:
        failed.show()
        return failed.code
    except click.ClickException as failure:
        failure.show()
        return failure.exit_code
    except click.Abort:
        return Exit.INTERRUPTED
    except OutputClosed:
        _forget_stdout()
        return Exit.OUTPUT_CLOSED
    except OSError as error:
        _forget_stdout()
        click.echo(f"vbcast: cannot write the output: {error.strerror}", err=True)
        return Exit.OUTPUT_FAILED
    return int(code or Exit.DONE)


def _forget_stdout() -> None:
    """Let the interpreter flush at its end into nothing what could not be written."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
