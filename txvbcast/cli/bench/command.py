"""``vbcast bench``: measures clusters on this machine, or one that runs elsewhere."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "rate": ("txvbcast.cli.bench.rate", "rate"),
    "absence": ("txvbcast.cli.bench.absence", "absence"),
    "copy": ("txvbcast.cli.bench.copying", "copy"),
    "floods": ("txvbcast.cli.bench.floods", "floods"),
    "targets": ("txvbcast.cli.bench.targets", "targets"),
}
DEFAULT = "rate"
_FOR_THE_GROUP = ("-h", "--help")


class BenchGroup(click.Group):
    """A group whose first word may be left out: options alone are those of ``rate``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put in the word that was left out."""
        if not args or (args[0].startswith("-") and args[0] not in _FOR_THE_GROUP):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command, None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(cls=BenchGroup, short_help="Measure how fast a cluster is, and what absences cost it.")
def bench() -> None:
    """Measure how fast a cluster is, and what absences cost it.

    Each command starts clusters on this machine, in temporary directories, and puts a load on them from processes of
    their own. Without a command: rate.
    """
