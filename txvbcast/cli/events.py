"""``vbcast events``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from txvbcast.cli.failures import Failed
from txvbcast.cli.session import Session, node_command, printable

_NAMED = ("id", "kind", "node_id", "reason", "time_s")


@click.command()
@click.option("--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option("--from", "first", type=click.IntRange(0), metavar="N", help="Begin with event N; 0: the oldest kept.")
@node_command
def events(session: Session, follow: bool, first: int | None) -> None:
    """Show what happened in the cluster, as one node saw it.

    Without --follow: what the node remembers. With --json each event is one line.
    """
    if follow:
        query: dict[str, Any] = {"from": first}
    else:
        query = {"from": first or 0, "follow": 0}
    try:
        for event in session.api.events(query):
            session.emit(event, line(event))
    except KeyboardInterrupt:
        return
    if follow:
        raise Failed("unreachable", f"{session.api.url} ended the stream of events: it is stopping")


def line(event: dict[str, Any]) -> str:
    """An event for people, on one line."""
    if event.get("kind") == "gap":
        return f"(events {event.get('asked')} to {event.get('oldest')}, that one excluded, are not kept any more)"
    time_s = event.get("time_s")
    when = datetime.fromtimestamp(time_s).isoformat(" ", "milliseconds") if isinstance(time_s, int | float) else ""
    node = f"node {event['node_id']}" if event.get("node_id") else "cluster"
    facts = " ".join(f"{name}={value}" for name, value in event.items() if name not in _NAMED)
    said = f"{event.get('id', ''):>5}  {when}  {event.get('kind', ''):16} {node:8} {event.get('reason', '')}  {facts}"
    return printable(said.rstrip())
