"""``vbcast members``."""

from __future__ import annotations

import click

from txvbcast.cli.session import Session, node_command
from txvbcast.cli.status import fetch, what
from txvbcast.cli.tables import console, table


@click.group()
def members() -> None:
    """The nodes of the cluster."""


@members.command(name="list")
@node_command
def list_members(session: Session) -> None:
    """List the nodes and their standing."""
    answer = fetch(session)
    found = answer.field("members", list)
    if session.json:
        session.emit({"members": found}, "")
        return
    rows = [
        (
            each.get("node_id"),
            each.get("name"),
            each.get("standing"),
            what(each),
            ", ".join(map(str, each["vms"] or ())),
        )
        for each in found
    ]
    console().print(table((">id", "name", "standing", "what", "vms"), rows))
