"""Runs the command of ``vbcast inactive run`` and ends the change whatever becomes of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import click

from txvbcast.cli.failures import Exit, Failed, Interrupted
from txvbcast.cli.session import Session

#: What shells say of a command that is not there, or cannot be run.
NOT_FOUND = 127
NOT_RUNNABLE = 126
#: A command may leave the node away for a while: how long, and how often, its end is told until it is heard.
TELLING_S = 30.0
TELLING_PAUSE_S = 0.5


def end_change(session: Session, change_id: int, outcome: str) -> dict[str, Any]:
    """Tell the node that a change is over.

    :raises Failed: it cannot be reached, or knows of no such change under way.
    """
    return session.api.send("DELETE", f"/v1/inactive/{change_id}", {"outcome": outcome}).document()


def run_command(session: Session, change_id: int, command: Sequence[str]) -> int:
    """Run ``command``, end the change, and return the command's exit code (128 + N if signal N ended it).

    Its end is told even if Ctrl-C or SIGTERM comes meanwhile: the command gets it, this process waits.
    """
    code = _run(session, command)
    _tell(session, change_id, "done" if code == 0 else "failed")
    return code


def _run(session: Session, command: Sequence[str]) -> int:
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and child is not None:
            child.send_signal(number)  # Ctrl-C reaches the command from the terminal

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        child = subprocess.Popen(command, stdout=sys.stderr if session.json else None)
        code = child.wait()
    except OSError as error:
        click.echo(f"vbcast: cannot run {command[0]!r}: {error.strerror}", err=True)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUNNABLE
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _tell(session: Session, change_id: int, outcome: str) -> None:
    """Tell it until it is heard; the message that it was not is all that can be done then."""
    try:
        _tell_until_heard(session, change_id, outcome)
    except (Failed, KeyboardInterrupt) as error:
        why = error.message if isinstance(error, Failed) else "interrupted"
        hint = f"say it with: vbcast inactive end {change_id} --outcome {outcome}"
        click.echo(f"vbcast: the node does not know that the change is over: {why}; {hint}", err=True)


def _tell_until_heard(session: Session, change_id: int, outcome: str) -> None:
    give_up_at = time.monotonic() + TELLING_S
    while True:
        try:
            end_change(session, change_id, outcome)
            return
        except Interrupted:
            raise
        except Failed as failed:
            if failed.kind == "not-found":
                return  # its time limit, or the node's own word, was quicker
            if failed.code not in (Exit.UNREACHABLE, Exit.UNKNOWN) or time.monotonic() > give_up_at:
                raise
        time.sleep(TELLING_PAUSE_S)
