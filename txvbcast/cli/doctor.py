"""``vbcast doctor``: what is wrong with a node and its surroundings, and what to do about it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click
import msgspec

from txvbcast.cli.failures import Exit, Failed
from txvbcast.cli.session import Session, node_command, printable
from txvbcast.cli.status import fetch, what
from txvbcast.cli.tables import percent, short_duration
from txvbcast.core.estimator import PAST_MIN
from txvbcast.core.history import Prediction
from txvbcast.units import format_duration
from txvbcast.validation import MARGIN_MAX
from txvbcast.virt.pause import Clocks

OK, WARNING, PROBLEM = "ok", "warning", "problem"

#: A larger share of absences that outlast what is believed is a problem, a smaller one a warning.
FAILED_SHARE_MAX = 0.1
#: Below this median of actual over announced length a crash during an absence is noticed needlessly late.
RATIO_MIN = 0.1
#: What the hypervisor may take of the processors before it is worth a word.
STEAL_PERCENT_MAX = 1.0
#: A machine that slept for less since it was started has not slept.
SLEPT_S_MIN = 1.0

PROC_STAT = Path("/proc/stat")
#: On these grounds the length of an absence is the kind's own, which the configuration can set.
_OWN_TIMES = ("fixed", "configured")


@attrs.frozen
class Finding:
    """One thing that was looked at.

    :ivar state: ``ok``, ``warning`` or ``problem``.
    :ivar about: what was looked at; detail: how it is; advice: what to do, empty when it is ok.
    """

    state: str
    about: str
    detail: str
    advice: str = ""


@click.command()
@node_command
def doctor(session: Session) -> int:
    """Look for what is wrong with a node and its surroundings, and say what to do.

    \b
    Asks the node how it stands, what its adapters hear, and how well absences were foretold; and looks at
    the clock and the processors of the machine that the command runs on. Exits with 1 if there is
    a problem, with 3 if the node cannot be reached.
    """
    findings, reached = _of_node(session)
    findings += [_clock(Clocks()), _steal(PROC_STAT)]
    states = [finding.state for finding in findings]
    problems, warnings = states.count(PROBLEM), states.count(WARNING)
    document = {
        "node": session.api.url,
        "problems": problems,
        "warnings": warnings,
        "findings": [attrs.asdict(finding) for finding in findings],
    }
    lines = [line for finding in findings for line in _lines(finding)]
    session.emit(document, "\n".join([*lines, "", f"problems: {problems}, warnings: {warnings}"]))
    if not reached:
        return Exit.UNREACHABLE
    return Exit.REFUSED if problems else Exit.DONE


def _lines(finding: Finding) -> Iterator[str]:
    yield printable(f"{finding.state:8} {finding.about}: {finding.detail}")
    if finding.advice:
        yield printable(f"{'':8} -> {finding.advice}")


def _of_node(session: Session) -> tuple[list[Finding], bool]:
    """What the node says, and whether it says anything."""
    try:
        status = fetch(session).document()
    except Failed as failed:
        advice = "start the node, or give the address of its HTTP interface with --node"
        return [Finding(PROBLEM, "node", failed.message, advice)], False
    who = f"node {status['node_id']} ({status.get('name')})"
    findings = [Finding(OK, "node", f"{session.api.url} is {who}")]
    findings += [_master(status), _quorum(status["quorum"]), _own(status)]
    findings += [_member(member) for member in status["members"] if member.get("node_id") != status["node_id"]]
    findings += _adapters(status.get("adapters"))
    findings += _history(session)
    return findings, True


# --- the cluster ------------------------------------------------------------------------------


def _master(status: dict[str, Any]) -> Finding:
    master = status.get("master")
    if master is None:
        advice = "see that a majority of the voters runs and can reach this node; the events tell what happened"
        return Finding(PROBLEM, "master", "this node knows of none, so nothing can be decided here", advice)
    return Finding(OK, "master", f"node {master}, epoch {status.get('epoch_text')}")


def _quorum(quorum: dict[str, Any]) -> Finding:
    voters, needed = quorum.get("voters"), quorum.get("needed")
    count = len(voters) if isinstance(voters, list) else 0
    said = f"{needed} of {count} voters are needed"
    if not quorum.get("ok"):
        return Finding(PROBLEM, "quorum", f"there is none: {said}", "bring voters back: start them, or their network")
    if count == needed:
        advice = "bring back whoever is away; a cluster of three or more stands the loss of one"
        return Finding(WARNING, "quorum", f"{said}: it stands no further loss", advice)
    return Finding(OK, "quorum", said)


def _own(status: dict[str, Any]) -> Finding:
    state = status.get("state") or status.get("standing")
    if state == "normal":
        return Finding(OK, "standing", "this node is normal")
    advice = "if that goes on: vbcast inactive list shows which change it is, vbcast inactive end ends it"
    return Finding(WARNING, "standing", f"this node is {state}", advice)


def _member(member: dict[str, Any]) -> Finding:
    about = f"node {member.get('node_id')}"
    standing, doing = member.get("standing"), what(member)
    detail = f"{member.get('name')} is {standing}{f': {doing}' if doing else ''}"
    if standing == "failed":
        return Finding(WARNING, about, detail, "start it, or look after its machine and its network")
    if member.get("linked") is False and standing != "inactive":
        return Finding(
            WARNING, about, f"{detail}, and there is no link to it", "look after the network between the two"
        )
    return Finding(OK, about, detail)


# --- what tells of changes ---------------------------------------------------------------------


def _adapters(documents: object) -> list[Finding]:
    if not isinstance(documents, list) or not documents:
        advice = "configure one under adapters, or have scripts call vbcast inactive run"
        return [Finding(WARNING, "adapters", "none, so no platform tells this node of changes", advice)]
    return [_adapter(document) for document in documents if isinstance(document, dict)]


def _adapter(document: dict[str, Any]) -> Finding:
    about = f"adapter {document.get('adapter')}"
    state, where = document.get("state"), document.get("where")
    since = short_duration(document.get("since_ms"))
    if state == "connected":
        under_way = document.get("under_way") or ()
        doing = f", changes under way: {len(under_way)}" if under_way else ""
        return Finding(OK, about, f"hears {where or 'its platform'} since {since}{doing}")
    if state == "lost":
        advice = "it tries again by itself; until then changes come without a word. See its page in docs/adapters"
        return Finding(PROBLEM, about, f"has heard nothing for {since}: {document.get('problem')}", advice)
    return Finding(WARNING, about, f"{state} for {since}", "if that goes on, see the log of the node")


# --- how well absences are foretold ----------------------------------------------------------------


def _history(session: Session) -> list[Finding]:
    try:
        answer = session.api.get("/v1/inactive/history")
        margin, absences = answer.field("margin", float), answer.objects("absences")
        try:
            predictions = msgspec.convert(answer.field("predictions", list), list[Prediction])
        except msgspec.ValidationError as error:
            raise answer.not_understood(str(error)) from error
        return [_unsafe(absences), *(_prediction(each, margin) for each in predictions)]
    except Failed as failed:
        advice = "use a vbcast of the node's own version"
        return [Finding(WARNING, "history", failed.message, advice)]


def _unsafe(absences: list[dict[str, Any]]) -> Finding:
    """Absences that went ahead although the cluster could not afford them."""
    done = [absence for absence in absences if absence.get("outcome") == "done"]
    unsafe = [absence for absence in done if absence.get("unsafe")]
    detail = f"absences remembered: {len(absences)}"
    if not unsafe:
        return Finding(OK, "history", detail)
    advice = "let platforms that can wait be told to (longer holds), have more voters, or plan changes one by one"
    latest = unsafe[-1].get("unsafe")
    return Finding(
        WARNING, "history", f"{detail}; went ahead though unsafe: {len(unsafe)}, the latest: {latest}", advice
    )


def _prediction(prediction: Prediction, margin: float) -> Finding:
    count, outlasting = prediction.count, 1 - prediction.within_believed
    about = f"{prediction.kind} by {prediction.source}"
    said = (
        f"absences: {count}; in the median they took {percent(prediction.ratio)} of the announced time, "
        f"{percent(prediction.within_announced)} were over in time"
    )
    if outlasting > 0:
        grave = count >= PAST_MIN and outlasting > FAILED_SHARE_MAX
        detail = (
            f"announced times are too short: absences: {count}; {percent(outlasting)} took longer than is believed "
            f"({margin:g} times what was announced), and then the member is taken for failed"
        )
        return Finding(PROBLEM if grave else WARNING, about, detail, _longer(prediction))
    if prediction.ratio > 1:
        return Finding(WARNING, about, f"{said}: short, though within what is believed", _longer(prediction))
    if prediction.ratio < RATIO_MIN and count >= PAST_MIN and prediction.basis in (*_OWN_TIMES, "told"):
        detail = f"{said}: announced times are far too long, so a crash meanwhile is noticed late"
        return Finding(WARNING, about, detail, f"{_setting(prediction)} {_enough(prediction)} would do for nine of ten")
    return Finding(OK, about, said)


def _longer(prediction: Prediction) -> str:
    """What to do about announced times that are too short."""
    if prediction.basis in (*_OWN_TIMES, "told"):
        return f"{_setting(prediction)} {_enough(prediction)}, or more"
    margin = min(math.ceil(10 * prediction.needed_margin) / 10, MARGIN_MAX)
    return (
        f"these times are worked out ({prediction.basis}) and get better as the node learns; "
        f"until then set inactivity.margin to {margin:g} or more on every node"
    )


def _setting(prediction: Prediction) -> str:
    if prediction.basis == "told":
        return "whoever announces it gives the time: --expect"
    return f"set in this node's configuration: estimates: {prediction.kind}:"


def _enough(prediction: Prediction) -> str:
    return format_duration(max(1, math.ceil(prediction.needed_ms / 1000)))


# --- this machine ------------------------------------------------------------------------------


def _clock(clocks: Clocks) -> Finding:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        advice = "run nodes on Linux: elsewhere a machine's sleep is noticed by late ticks alone"
        return Finding(WARNING, "clock", "this system has no CLOCK_BOOTTIME", advice)
    slept_s = clocks.ahead_s()
    if slept_s < SLEPT_S_MIN:
        return Finding(OK, "clock", "this machine has not slept since it was started")
    advice = "configure the adapter logind, which announces sleep, or pause, which notices it"
    return Finding(WARNING, "clock", f"this machine slept for {short_duration(slept_s * 1000)} since its start", advice)


def _steal(proc_stat: Path) -> Finding:
    """What the hypervisor took of the processors since the start: on average, so that pauses hide in it."""
    try:
        words = proc_stat.read_text().partition("\n")[0].split()
        # user nice system idle iowait irq softirq steal; what follows is part of the first two
        ticks = [int(word) for word in words[1:9]]
        stolen = 100 * ticks[7] / sum(ticks)
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        advice = "ask the host what the virtual machine waits for its processors"
        return Finding(WARNING, "processors", f"{proc_stat} does not tell what the hypervisor takes of them", advice)
    detail = f"the hypervisor took {stolen:.1f} % of them since this machine was started"
    if stolen <= STEAL_PERCENT_MAX:
        return Finding(OK, "processors", detail)
    advice = "give the virtual machine processors of its own, or raise heartbeat.timeout above its pauses"
    return Finding(WARNING, "processors", detail, advice)
