"""``vbcast inactive``: absences that are announced by hand or by a script."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click

from txvbcast.cli.failures import Exit, Failed
from txvbcast.cli.running import end_change, run_command
from txvbcast.cli.session import DURATION, Session, node_command, to_ms
from txvbcast.cli.tables import console, percent, short_duration, table
from txvbcast.config import CHANGE_KINDS
from txvbcast.units import format_duration

PAST_HEADINGS = ("began", ">node", "kind", "source", ">announced", ">took", "basis", "word", "outcome")
PREDICTION_HEADINGS = ("kind", "source", ">absences", ">overdue", ">median", ">in time", ">believed", ">needed")
OUTCOMES = ("done", "cancelled", "failed")

kind_option = click.option(
    "--kind", required=True, help=f"What is done to the node: {', '.join(CHANGE_KINDS)}.", metavar="KIND"
)
expect_option = click.option(
    "--expect", type=DURATION, metavar="DURATION", help="How long it will take, as 30s; default: the node's estimate."
)
fact_option = click.option(
    "--fact", "facts", multiple=True, metavar="NAME=VALUE", help="Something that the estimate may use; repeatable."
)
wait_option = click.option(
    "--wait", type=DURATION, default="5s", show_default=True, help="How long to wait for the cluster's word."
)


@click.group()
def inactive() -> None:
    """Absences: announce, estimate anew, end; what they took."""


@inactive.command()
@kind_option
@expect_option
@fact_option
@wait_option
@click.option("--member", type=click.IntRange(1), help="Speak for another member: a third party's word.")
@click.option("--force", is_flag=True, help="Stay announced although it is unsafe or not confirmed.")
@click.option("--dry-run", is_flag=True, help="Only ask whether the cluster could afford it now.")
@node_command
def begin(
    session: Session,
    kind: str,
    expect: float | None,
    facts: tuple[str, ...],
    wait: float,
    member: int | None,
    force: bool,
    dry_run: bool,
) -> None:
    """Announce that the node is about to be away, and wait for the cluster's word.

    It is announced in its turn: while others are away it waits, as long as --wait says.
    Unless it is confirmed the announcement is taken back: exit code 1 if it is unsafe, 3 if nobody answered.
    """
    if dry_run:
        _ask(session, kind, expect, member)
        return
    change = announce(session, kind, expect, facts, wait, force, member)
    expected = format_duration(change["expected_ms"] / 1000)
    word = "confirmed" if change["confirmed"] else "NOT confirmed"
    who = "" if member is None else f" of node {member}"
    session.emit(change, f"change {change['change_id']}{who} is announced and {word}, expected to take {expected}")


@inactive.command()
@click.argument("change_id", type=click.IntRange(1))
@click.option("--outcome", type=click.Choice(OUTCOMES), default="done", show_default=True, help="How it ended.")
@node_command
def end(session: Session, change_id: int, outcome: str) -> None:
    """The change is over; the node catches up and takes part again."""
    session.emit(end_change(session, change_id, outcome), f"change {change_id} is over: {outcome}")


@inactive.command()
@click.argument("change_id", type=click.IntRange(1))
@click.option("--expect", type=DURATION, metavar="DURATION", required=True, help="How long yet, from now on.")
@node_command
def update(session: Session, change_id: int, expect: float) -> None:
    """Estimate anew how long the change will take."""
    answer = session.api.send("PATCH", f"/v1/inactive/{change_id}", body={"expected_ms": to_ms(expect)})
    expected = format_duration(answer.field("expected_ms", int) / 1000)
    session.emit(answer.document(), f"change {change_id} is expected to take {expected} more")


@inactive.command(name="list")
@node_command
def list_changes(session: Session) -> None:
    """List the absences announced on the node, its own and those of others, newest last."""
    answer = session.api.get("/v1/inactive")
    changes = answer.field("changes", list)
    if session.json:
        session.emit(answer.document(), "")
        return
    headings = (">id", ">node", "kind", "source", "began", ">expected", ">took", "word", "outcome")
    console().print(table(headings, [_row(change) for change in changes if isinstance(change, dict)]))


@inactive.command()
@click.option(
    "--last", type=click.IntRange(0), default=20, show_default=True, help="How many of the absences to list; 0: all."
)
@node_command
def history(session: Session, last: int) -> None:
    """Compare what was announced with what it took, for absences that are over.

    \b
    First the absences, newest last; then, for each kind and source:
      median    of what it took, in parts of what was announced first
      in time   the share that was over within the announced time
      believed  the share that was over before the others would have taken the node for failed
      needed    what would have been long enough for nine of ten
    """
    answer = session.api.get("/v1/inactive/history")
    absences, predictions = answer.objects("absences"), answer.objects("predictions")
    if session.json:
        session.emit(answer.document(), "")
        return
    console().print(table(PAST_HEADINGS, [_past_row(absence) for absence in absences[-last:]]))
    if predictions:
        console().print("", table(PREDICTION_HEADINGS, [_prediction_row(each) for each in predictions]), sep="\n")


@inactive.command(context_settings={"allow_interspersed_args": False})
@kind_option
@expect_option
@fact_option
@wait_option
@click.option("--force", is_flag=True, help="Run the command although it is unsafe or not confirmed.")
@click.argument("command", nargs=-1, required=True, metavar="-- CMD...")
@node_command
def run(
    session: Session,
    kind: str,
    expect: float | None,
    facts: tuple[str, ...],
    wait: float,
    force: bool,
    command: tuple[str, ...],
) -> int:
    """Announce, wait for the cluster's confirmation, run CMD, and say that the change is over.

    \b
    Exits with CMD's own code if it ran. CMD is not run if the cluster says that the absence is
    unsafe (exit code 1) or does not answer (3), unless --force. With --json CMD's output goes to stderr.
    """
    change = announce(session, kind, expect, facts, wait, force)
    code = run_command(session, change["change_id"], command)
    if session.json:
        session.emit({**change, "command": list(command), "exit_code": code}, "")
    return code


def announce(
    session: Session,
    kind: str,
    expect_s: float | None,
    facts: Iterable[str],
    wait_s: float,
    force: bool,
    member: int | None = None,
) -> dict[str, Any]:
    """Announce a change; what the cluster does not confirm is taken back, unless ``force``.

    :returns: the answer of the node, complete: ``change_id``, ``confirmed``, ``expected_ms``, perhaps ``unsafe``.
    :raises Failed: it is unsafe, or not confirmed within ``wait_s``.
    """
    body: dict[str, Any] = {"kind": kind, "facts": dict(map(_fact, facts)), "wait_ms": max(to_ms(wait_s), 1)}
    body |= _whose(expect_s, member)
    try:
        answer = session.api.send("POST", "/v1/inactive", body=body, wait_s=wait_s)
    except Failed as failed:
        if failed.code is not Exit.UNKNOWN:
            raise
        raise Failed(failed.kind, f"{failed.message}; see: vbcast inactive list", code=failed.code) from failed
    change_id, confirmed = answer.field("change_id", int), answer.field("confirmed", bool)
    change = {**answer.document(), "expected_ms": answer.field("expected_ms", int)}
    if confirmed or force:
        return change
    _take_back(session, change_id)
    unsafe = change.get("unsafe")
    if unsafe:
        detail = f"the cluster cannot afford this absence: {unsafe}; nothing was done (--force overrides)"
        raise Failed("unsafe", detail, {"change_id": change_id}, Exit.REFUSED)
    detail = f"the cluster did not confirm within {format_duration(wait_s)}; nothing was done (--force overrides)"
    raise Failed("no-quorum", detail, {"change_id": change_id})


def _take_back(session: Session, change_id: int) -> None:
    """End what was not confirmed, unless its own time limit was quicker."""
    try:
        end_change(session, change_id, "cancelled")
    except Failed as failed:
        if failed.kind != "not-found":
            raise


def _whose(expect_s: float | None, member: int | None) -> dict[str, Any]:
    expected = {} if expect_s is None else {"expected_ms": to_ms(expect_s)}
    return expected if member is None else {**expected, "member": member}


def _ask(session: Session, kind: str, expect_s: float | None, member: int | None) -> None:
    body = {"kind": kind, "dry_run": True, **_whose(expect_s, member)}
    answer = session.api.send("POST", "/v1/inactive", body=body, changes=False)
    if not answer.field("safe", bool):
        raise Failed("unsafe", str(answer.document().get("unsafe")), answer.document(), Exit.REFUSED)
    session.emit(answer.document(), "the cluster can afford it")


def _fact(text: str) -> tuple[str, object]:
    """``NAME=VALUE``; a value that is a number, true or false is taken as one."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"expected NAME=VALUE, got {text!r}", param_hint="--fact")
    if value in ("true", "false"):
        return name, value == "true"
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        if math.isfinite(number):
            return name, number
    return name, value


def _row(change: dict[str, Any]) -> list[object]:
    took_ms = change.get("actual_ms") if change.get("outcome") else change.get("elapsed_ms")
    return [
        change.get("change_id"),
        change.get("member"),
        change.get("kind"),
        change.get("source"),
        _when(change.get("began")),
        format_duration((change.get("expected_ms") or 0) / 1000),
        format_duration((took_ms or 0) / 1000),
        _word(change, "none yet"),
        change.get("outcome") or "under way",
    ]


def _past_row(absence: dict[str, Any]) -> list[object]:
    return [
        _when(absence.get("began")),
        absence.get("member"),
        absence.get("kind"),
        absence.get("source"),
        short_duration(absence.get("announced_ms")),
        short_duration(absence.get("actual_ms")),
        absence.get("basis"),
        _word(absence, "none"),
        absence.get("outcome"),
    ]


def _prediction_row(prediction: dict[str, Any]) -> list[object]:
    return [
        prediction.get("kind"),
        prediction.get("source"),
        prediction.get("count"),
        prediction.get("overdue"),
        percent(prediction.get("ratio")),
        percent(prediction.get("within_announced")),
        percent(prediction.get("within_believed")),
        short_duration(prediction.get("needed_ms")),
    ]


def _when(unix_s: object) -> str:
    return datetime.fromtimestamp(unix_s).isoformat(" ", "seconds") if isinstance(unix_s, int | float) else ""


def _word(change: dict[str, Any], nothing: str) -> str:
    return "confirmed" if change.get("confirmed") else "unsafe" if change.get("unsafe") else nothing
