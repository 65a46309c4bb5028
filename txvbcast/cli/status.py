"""``vbcast status``."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from txvbcast.cli.api import Answer
from txvbcast.cli.failures import Failed
from txvbcast.cli.session import DURATION, Session, node_command, printable
from txvbcast.cli.tables import console, short_duration, table

HEADINGS = (">id", "name", "standing", "what", ">timeouts", ">stored", ">applied", ">queue", "vms")


@click.command()
@click.option("--watch", is_flag=True, help="Go on showing it until Ctrl-C, also while the node is away.")
@click.option("--interval", type=DURATION, default="1s", show_default=True, help="How often --watch asks.")
@node_command
def status(session: Session, watch: bool, interval: float) -> None:
    """Show the cluster as one node sees it.

    The star marks the master. The timeouts are those for the member's heartbeats and for its answers, as they are
    now: longer, and nothing, while it is away. The queue is what is kept for it: entries and bytes.
    """
    if watch:
        _watch(session, max(interval, 0.05))
        return
    answer = fetch(session)
    if session.json:
        session.emit(answer.document(), "")
    else:
        console().print(view(answer.document()))


def fetch(session: Session) -> Answer:
    """The status of the node.

    :raises Failed: it cannot be had, or lacks what every status has.
    """
    answer = session.api.get("/v1/status")
    answer.field("node_id", int)
    answer.field("quorum", dict)
    for member in answer.field("members", list):
        if not isinstance(member, dict):
            raise answer.not_understood("a member is not a JSON object")
    return answer


def _watch(session: Session, interval_s: float) -> None:
    try:
        if session.json:
            while True:
                session.emit(_document(session), "")
                time.sleep(interval_s)
        out = console()
        with Live(console=out, auto_refresh=False) as live:
            while True:
                shown = view(_document(session))
                if out.is_terminal:
                    live.update(shown, refresh=True)
                else:
                    out.print(shown, "")
                time.sleep(interval_s)
    except KeyboardInterrupt:
        return


def _document(session: Session) -> dict[str, Any]:
    """The status, or the problem that there is none: someone who watches wants to see that too."""
    try:
        return fetch(session).document()
    except Failed as failed:
        return failed.document


def view(document: dict[str, Any]) -> RenderableType:
    """A status, or a problem document, for people."""
    if "members" not in document:
        return Text(f"{time.strftime('%H:%M:%S')} {printable(document['detail'])}", style="red")
    quorum = document["quorum"]
    master = document.get("master")
    voters = quorum.get("voters")
    voters = len(voters) if isinstance(voters, list) else voters
    head = (
        f"node {document['node_id']} ({document.get('name')}) is {document.get('standing')}; "
        f"{'no master' if master is None else f'master is node {master}'}, epoch {document.get('epoch_text')}; "
        f"{'quorum' if quorum.get('ok') else 'NO QUORUM'}: {quorum.get('needed')} of {voters} voters are needed"
    )
    marks = f"committed {document.get('committed')}, everywhere {document.get('everywhere')}"
    rows = [_row(member, master) for member in document["members"]]
    lines = (Text(printable(line)) for line in (head, f"{marks}, applied here {document.get('applied')}"))
    adapters = document.get("adapters")
    told = [_adapter(each) for each in adapters if isinstance(each, dict)] if isinstance(adapters, list) else []
    return Group(*lines, *told, Text(), table(HEADINGS, rows))


def _adapter(document: dict[str, Any]) -> Text:
    """Whether an adapter of the node hears its platform."""
    since = short_duration(document.get("since_ms"))
    if document.get("state") == "connected":
        return Text(printable(f"adapter {document.get('adapter')} hears {document.get('where')} since {since}"))
    problem = document.get("problem") or "it has not been heard yet"
    return Text(printable(f"adapter {document.get('adapter')}: NOTHING HEARD for {since}: {problem}"))


def _row(member: dict[str, Any], master: object) -> list[object]:
    star = "*" if member.get("node_id") == master else ""
    queue = ""
    if member.get("queue_entries"):
        queue = f"{member['queue_entries']} ({_size(member.get('queue_bytes'))})"
    return [
        f"{star}{member.get('node_id')}",
        member.get("name"),
        member.get("standing"),
        what(member),
        f"{short_duration(member.get('heartbeat_timeout_ms'))}/{short_duration(member.get('response_timeout_ms'))}",
        member.get("stored"),
        member.get("applied"),
        queue,
        ", ".join(map(str, member.get("vms") or ())),
    ]


def what(member: dict[str, Any]) -> str:
    """What a member that is away is doing, and for how long yet."""
    if not member.get("kind"):
        return ""
    expected, remaining = member.get("expected_ms"), member.get("remaining_ms")
    if not expected:
        return str(member["kind"])
    return f"{member['kind']}, {short_duration(remaining)} left of {short_duration(expected)}"


def _size(size_bytes: object) -> str:
    """A size to about two digits, in the unit that makes it short."""
    size = float(size_bytes) if isinstance(size_bytes, int | float) else 0.0
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f}".removesuffix(".0") + unit
        size /= 1024
    return f"{size:.1f}GiB"
