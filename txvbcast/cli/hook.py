"""``vbcast hook``: what hypervisors run at certain moments, and wait for."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import syslog
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from xml.etree import ElementTree

import attrs
import click

from txvbcast.cli.failures import Exit, Failed
from txvbcast.cli.running import end_change
from txvbcast.cli.session import DURATION, Session, node_command, printable, to_ms
from txvbcast.units import format_duration

#: Where libvirt, from 6.5.0 on, looks for more than one script.
INSTALL_AT = "/etc/libvirt/hooks/qemu.d/vbcast"
#: The part of the bound that is kept for all but the node's own waiting.
_OVERHEAD = 0.2
#: How long the end of an announcement may take.
END_S = 2.0
#: So long the node's own adapter may take to hear of the guest, before the hook's announcement is left to its time.
HANDOVER_S = 30.0
HANDOVER_PAUSE_S = 0.2
#: A domain's description that is larger is not looked at.
XML_BYTES_MAX = 4 * 1024 * 1024
#: A note that is older is of a daemon, or a node, that has lost its way.
NOTE_S_MAX = 600.0
_BEGINS = ("migrate begin", "restore begin")
_ENDS = ("stopped end", "release end")

Result = TypeVar("Result")


@click.group()
def hook() -> None:
    """What hypervisors run at certain moments, and wait for."""


@hook.command()
@click.option(
    "--bound",
    type=DURATION,
    default="5s",
    show_default=True,
    envvar="VBCAST_HOOK_BOUND",
    help="How long a guest may be held; default $VBCAST_HOOK_BOUND.",
)
@click.option(
    "--expect", type=DURATION, metavar="DURATION", help="How long it will take; default: the node's estimate."
)
@click.option("--veto", is_flag=True, help="Refuse a guest if the cluster says that the absence is unsafe now.")
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="Where announcements are noted.")
@click.option("--install", is_flag=True, help="Write the hook script with these options, instead of being it.")
@click.option(
    "--path", type=click.Path(path_type=Path), default=INSTALL_AT, show_default=True, help="Where --install writes it."
)
@click.argument("words", nargs=-1, metavar="[GUEST OPERATION SUBOPERATION EXTRA]")
@node_command
def libvirt(
    session: Session,
    bound: float,
    expect: float | None,
    veto: bool,
    state: Path | None,
    install: bool,
    path: Path,
    words: tuple[str, ...],
) -> int:
    """Be libvirt's hook script for QEMU: hold an incoming guest until the cluster knows.

    \b
    libvirt runs it with its four words and the guest's description on stdin. At `migrate begin` (on
    the destination) and at `restore begin` it announces to the node that a guest moves in, and waits
    for the cluster's word, for --bound at most. It ends with 0 whatever happens, unless --veto says
    otherwise; what went wrong is said on stderr and to syslog. It never calls libvirt.

    --install writes the script; libvirt sees it after the next start of its daemon.
    """
    hook = Hook(session, bound, expect, veto, _state_directory() if state is None else state.absolute())
    if install:
        return _install(hook, path)
    if len(words) != 4:
        raise click.UsageError("expected the four words of libvirt's hooks: GUEST OPERATION SUBOPERATION EXTRA")
    guest, operation, suboperation, _ = words
    try:
        return hook.on_moment(guest, f"{operation} {suboperation}")
    except OSError as error:
        say(f"{guest}: what was announced cannot be noted: {error}")
        return Exit.DONE


@hook.command(name="hand-over", hidden=True)
@click.option("--state", type=click.Path(path_type=Path), required=True)
@click.argument("guest")
@node_command
def hand_over(session: Session, state: Path, guest: str) -> None:
    """Wait until the node's own adapter has announced the guest too, then end the hook's announcement."""
    Hook(session, END_S, None, False, state).hand_over(guest)


def say(text: str) -> None:
    """For people: libvirt forgets what a hook that succeeds writes to stderr."""
    click.echo(f"vbcast: {printable(text)}", err=True)
    syslog.syslog(syslog.LOG_WARNING, f"vbcast hook libvirt: {printable(text)}")


def _state_directory() -> Path:
    if os.geteuid() == 0:
        return Path("/run/vbcast-hook")
    return Path.home() / ".local" / "state" / "vbcast-hook"


@attrs.frozen
class Note:
    """What is kept between two calls of the hook: the change that was announced, and at which moment."""

    change_id: int
    moment: str


@attrs.frozen
class Hook:
    """One run of the hook.

    :ivar state: holds a note for each guest whose move is announced.
    """

    session: Session
    bound_s: float
    expect_s: float | None
    veto: bool
    state: Path

    def on_moment(self, guest: str, moment: str) -> int:
        """What libvirt says; the exit code.

        :raises OSError: the note cannot be kept.
        """
        if moment in _BEGINS:
            return self._begin(guest, moment)
        note = self._noted(guest)
        if note is not None and moment in _ENDS:
            self._end(guest, note, "failed")
        elif note is not None and moment == "started begin":
            self._on_started(guest, note)
        return Exit.DONE

    # --- begin ---

    def _begin(self, guest: str, moment: str) -> int:
        try:
            answer = within(self.bound_s, lambda: self.session.api.send("POST", "/v1/inactive", body=self._body(guest)))
            change_id, confirmed = answer.field("change_id", int), answer.field("confirmed", bool)
        except Failed as failed:
            say(f"{guest} moves in without the cluster's word: {failed.message}")
            return Exit.DONE
        unsafe = answer.document().get("unsafe")
        why = f"the cluster cannot afford it: {unsafe}" if unsafe else "the cluster did not confirm in time"
        if unsafe and self.veto:
            say(f"{guest} is refused: {why}")
            self._send_end(guest, change_id, "cancelled")
            return Exit.REFUSED
        if not confirmed:
            say(f"{guest} moves in all the same: {why}")
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path(guest).write_text(json.dumps(attrs.asdict(Note(change_id, moment))))
        return Exit.DONE

    def _body(self, guest: str) -> dict[str, Any]:
        wait_ms = max(to_ms(self.bound_s * (1 - _OVERHEAD)), 1)
        body = {"kind": "migrate_in", "source": "hook", "facts": _facts(guest), "wait_ms": wait_ms}
        return body if self.expect_s is None else {**body, "expected_ms": to_ms(self.expect_s)}

    # --- between ---

    def _path(self, guest: str) -> Path:
        return self.state / f"{guest}.json"

    def _noted(self, guest: str) -> Note | None:
        """What was announced for a guest."""
        try:
            with self._path(guest).open() as file:
                age_s = time.time() - os.fstat(file.fileno()).st_mtime
                note = Note(**json.load(file))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return note if abs(age_s) <= NOTE_S_MAX else None

    def _on_started(self, guest: str, note: Note) -> None:
        """The guest's process runs here.  A restored guest is complete; of one that migrates all is still to come."""
        if note.moment == "restore begin":
            self._end(guest, note, "done")
            return
        # No hook tells the end of a migration that ends well.  If the node listens to libvirt itself, its own
        # announcement takes over; a process that libvirt does not wait for waits for that.
        words = [_program(), "hook", "hand-over", "--node", self.session.api.url, "--state", str(self.state)]
        nothing = subprocess.DEVNULL
        subprocess.Popen([*words, "--", guest], stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)

    def hand_over(self, guest: str) -> None:
        """End the hook's announcement once the node has one of its own; without that it is left to its time.

        :raises OSError: the note cannot be read.
        """
        until_s = time.monotonic() + HANDOVER_S
        while (note := self._noted(guest)) is not None:
            if self._is_taken_over(note):
                self._end(guest, note, "done")
            elif time.monotonic() > until_s:
                self._path(guest).unlink(missing_ok=True)
            else:
                time.sleep(HANDOVER_PAUSE_S)

    def _is_taken_over(self, note: Note) -> bool:
        try:
            changes = self.session.api.get("/v1/inactive").field("changes", list)
        except Failed:
            return False
        return any(
            isinstance(change, dict)
            and change.get("kind") == "migrate_in"
            and str(change.get("source")).startswith("libvirt")
            and change.get("change_id", 0) > note.change_id
            for change in changes
        )

    # --- end ---

    def _end(self, guest: str, note: Note, outcome: str) -> None:
        self._path(guest).unlink(missing_ok=True)
        self._send_end(guest, note.change_id, outcome)

    def _send_end(self, guest: str, change_id: int, outcome: str) -> None:
        try:
            within(END_S, lambda: end_change(self.session, change_id, outcome))
        except Failed as failed:
            if failed.kind != "not-found":  # its time limit was quicker
                say(f"{guest}: the node does not know that change {change_id} is over: {failed.message}")


def within(bound_s: float, ask: Callable[[], Result]) -> Result:
    """What ``ask`` returns or raises, if it does so in time: in a thread, because nothing else bounds it as a whole.

    :raises Failed: it does not.
    """
    answers: SimpleQueue[Callable[[], Result]] = SimpleQueue()

    def run() -> None:
        try:
            result = ask()
        except Failed as failed:
            failure = failed
            answers.put(lambda: _raise(failure))
        else:
            answers.put(lambda: result)

    threading.Thread(target=run, daemon=True).start()
    try:
        answer = answers.get(timeout=bound_s)
    except Empty:
        raise Failed("unreachable", f"the node did not answer within {format_duration(bound_s)}") from None
    return answer()


def _raise(failed: Failed) -> Any:
    raise failed


def _facts(guest: str) -> dict[str, object]:
    """What the guest's description on stdin tells."""
    facts: dict[str, object] = {"guest": printable(guest)}
    try:
        memory_kib = ElementTree.fromstring(sys.stdin.buffer.read(XML_BYTES_MAX)).findtext("memory[@unit='KiB']")
        facts["memory_bytes"] = int(memory_kib or "") * 1024
    except (ElementTree.ParseError, ValueError):
        return facts  # it would only make the estimate better
    return facts


# --- the script -------------------------------------------------------------------------------


def _program() -> str:
    return str(Path(sys.executable).with_name("vbcast"))


def _install(hook: Hook, path: Path) -> int:
    options = ["--node", hook.session.api.url, "--bound", format_duration(hook.bound_s)]
    options += ["--state", str(hook.state)]
    if hook.expect_s is not None:
        options += ["--expect", format_duration(hook.expect_s)]
    if hook.veto:
        options.append("--veto")
    script = _SCRIPT.format(
        state=shlex.quote(str(hook.state)),
        command=shlex.join([_program(), "hook", "libvirt", *options]),
        last='[ "$?" -ne 1 ]' if hook.veto else "exit 0",
    )
    if path.exists() and _MARK not in path.read_text(errors="replace"):
        raise click.UsageError(f"--path: {str(path)!r} is there already and was not written by this command")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
    except OSError as error:
        raise click.UsageError(f"--path: cannot write {str(path)!r}: {error.strerror}") from error
    text = f"{path} is written; restart libvirt's daemon (virtqemud or libvirtd) if it knew of no hooks before"
    hook.session.emit({"path": str(path)}, text)
    return Exit.DONE


_MARK = "vbcast hook libvirt --install"

_SCRIPT = f"""\
#!/bin/sh
# Written by: {_MARK}
# libvirt runs this for every guest, and waits: GUEST OPERATION SUBOPERATION EXTRA, its description on stdin.
case "$2 $3" in
    "migrate begin" | "restore begin") ;;
    "started begin" | "stopped end" | "release end") [ -e {{state}}/"$1".json ] || exit 0 ;;
    *) exit 0 ;;
esac
{{command}} -- "$@" >/dev/null
{{last}}
"""
