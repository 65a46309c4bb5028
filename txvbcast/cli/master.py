"""``vbcast master``."""

from __future__ import annotations

import click

from txvbcast.cli.failures import Exit
from txvbcast.cli.session import Session, node_command
from txvbcast.cli.status import fetch

#: A handover waits for what is under way; the node gives up by itself before this.
HANDOVER_S = 30.0


@click.group()
def master() -> None:
    """The node that orders the log."""


@master.command()
@node_command
def show(session: Session) -> int:
    """Show which node is master; exit code 3 if there is none."""
    document = fetch(session).document()
    found = document.get("master")
    shown = {"master": found, "epoch": document.get("epoch"), "epoch_text": document.get("epoch_text")}
    session.emit(shown, "no master is known" if found is None else f"node {found}, epoch {document.get('epoch_text')}")
    return Exit.UNREACHABLE if found is None else Exit.DONE


@master.command()
@click.option("--to", type=click.IntRange(1), required=True, metavar="N", help="The node that is to be master.")
@node_command
def move(session: Session, to: int) -> None:
    """Hand the office over to another node, without a pause for clients."""
    answer = session.api.send("POST", "/v1/master", body={"to": to}, wait_s=HANDOVER_S)
    session.emit(answer.document(), f"node {answer.field('master', int)} is master")
