"""VMware: asks the guest's tools whether the machine is about to be moved, and says when it may be.

The tools pass an RPC of the family ``vm-operation-notification`` to the host.  An application registers, is given a
token once, and asks for events with it; each ``start`` is to be acknowledged, or the host waits until its timeout.
Requests, replies and texts of errors are as VMware's documents and public scripts for it show them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred, DeferredList, TimeoutError
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from txvbcast.interfaces import IChangeAdapter, IChangeSink, Surroundings
from txvbcast.units import format_duration
from txvbcast.virt.child import Child
from txvbcast.virt.options import Options
from txvbcast.virt.polling import Poller, Unreachable, back_off_s

log = Logger()

#: A reply is a few hundred bytes.
REPLY_BYTES_MAX: Final = 64 * 1024

#: One event comes with each question: so many questions in a row, as long as there are events.
EVENTS_PER_POLL_MAX: Final = 10

#: How often an acknowledgement is tried.
ACKNOWLEDGEMENTS_MAX: Final = 5

TOKEN_BYTES_MAX: Final = 4096


class _Reply(msgspec.Struct, rename="camel"):
    """A reply to any of the requests; operation ids are beyond what a float can hold."""

    result: bool
    error_message: str = ""
    unique_token: str = ""
    guaranteed: bool | None = None
    event_type: str = ""
    op_type: str = ""
    op_status: str = ""
    operation_id: int | None = None
    event_gen_time_in_sec: float | None = None
    notification_timeout_in_sec: float = 0.0
    new_notification_timeout_in_sec: float = 0.0


class Refused(Unreachable):
    """The host has answered No."""


def make(options: Mapping[str, object], surroundings: Surroundings) -> IChangeAdapter:
    """The adapter.

    :raises ValueError: an option cannot be used.
    """
    read = Options(options)
    adapter = VmwareAdapter(
        surroundings,
        command=read.texts("command", ("vmtoolsd", "--cmd")),
        app_name=read.text("app_name", "txvbcast"),
        poll_s=read.duration_s("poll", "1s"),
        timeout_s=read.duration_s("timeout", "5s"),
        margin_s=read.duration_s("margin", "2s", least_s=0.0),
    )
    read.finish()
    return adapter


@implementer(IChangeAdapter)
class VmwareAdapter:
    """Polls the tools.

    :param command: what is run; the RPC's text follows as its last argument.
    :param app_name: what the host is told that asks.
    :param poll_s: between two questions.
    :param timeout_s: a question that takes longer is given up, and its program killed.
    :param margin_s: taken off the host's own timeout, for the acknowledgement to arrive.
    :raises ValueError: ``command`` names no program.
    """

    kinds = ("migrate_out", "custom")

    def __init__(
        self,
        surroundings: Surroundings,
        command: tuple[str, ...],
        app_name: str,
        poll_s: float,
        timeout_s: float,
        margin_s: float,
    ) -> None:
        if not command or any("\0" in word for word in command):
            raise ValueError("command: expected a program and its arguments")
        self._reactor = surroundings.reactor
        self._command = command
        self._app_name = app_name
        self._poll_s = poll_s
        self._timeout_s = timeout_s
        self._margin_s = margin_s
        self._token_path = surroundings.data_dir / "vmware.token"
        self._token = ""
        self._children: set[Child] = set()
        self._acknowledging: set[Deferred[None]] = set()
        self._poller: Poller | None = None

    def start(self, sink: IChangeSink) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.start`."""
        self._sink = sink
        # Each question has a timeout of its own, that says more: this one is for a defect only.
        poll_timeout_s = self._timeout_s * (EVENTS_PER_POLL_MAX + 2)
        self._poller = Poller(self._reactor, self._ask, self._poll_s, poll_timeout_s, sink.lost)
        self._poller.start()

    def stop(self) -> Deferred[None] | None:
        """Stay registered: the token is good for the next start."""
        if self._poller is not None:
            self._poller.stop()
            self._poller = None
        for acknowledging in tuple(self._acknowledging):
            acknowledging.cancel()
        return DeferredList([child.ended() for child in self._children]).addCallback(lambda _: None)

    # --- questions -----------------------------------------------------------------------

    async def _ask(self) -> None:
        self._token = self._token or _read_token(self._token_path) or await self._register()
        for _ in range(EVENTS_PER_POLL_MAX):
            if not await self._check_for_event():
                break
        self._sink.connected(f"the host of this machine, by {self._command[0]}, as {self._app_name!r}")

    async def _check_for_event(self) -> bool:
        try:
            reply = await self._call("check-for-event", {"uniqueToken": self._token})
        except Refused as error:
            if "token" not in str(error).lower():
                raise
            # Forgotten by the host.  The old token is kept until there is a new one: it may be remembered again.
            self._token = await self._register()
            return True
        if reply.event_type:
            self._on_event(reply)
        return bool(reply.event_type)

    async def _register(self) -> str:
        # The token is shown only once, and a machine has room for few applications: first see that it can be kept.
        await self._in_thread(_write, _draft(self._token_path), "")
        wanted = {"appName": self._app_name, "notificationTypes": ["sla-miss"]}
        reply = await self._call("register", wanted)
        if not reply.unique_token:
            raise Unreachable("the host has registered this node without a token")
        await self._in_thread(_keep_token, self._token_path, reply.unique_token)
        log.info(
            "registered with the host as {name!r}: it waits for up to {wait_s} s, guaranteed: {guaranteed}",
            name=self._app_name,
            wait_s=reply.notification_timeout_in_sec,
            guaranteed=reply.guaranteed,
        )
        return reply.unique_token

    async def _in_thread(self, write: Any, path: Path, text: str) -> None:
        """A disk may be slow, and the reactor must not wait for it."""
        try:
            await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), write, path, text)
        except OSError as error:
            raise Unreachable(f"the token cannot be kept in {path}: {error.strerror}") from error

    async def _call(self, rpc: str, parameters: Mapping[str, object]) -> _Reply:
        """Run the program once.

        :raises Unreachable: there is no usable answer in time.
        :raises Refused: the answer is No.
        """
        said = bytearray()
        child = Child(
            self._reactor, [*self._command, f"vm-operation-notification.{rpc} {json.dumps(parameters)}"],
            lambda data: said.extend(data) if len(said) <= REPLY_BYTES_MAX else child.kill(),
        )  # fmt: skip
        child.start()
        self._children.add(child)
        child.ended().addCallback(lambda _: self._children.discard(child))
        program = f"{self._command[0]!r}, asked to {rpc},"
        try:
            ended = await child.ended().addTimeout(self._timeout_s, self._reactor)
        except TimeoutError as error:
            raise Unreachable(f"{program} did not answer within {format_duration(self._timeout_s)}") from error
        if len(said) > REPLY_BYTES_MAX:
            raise Unreachable(f"{program} says more than {REPLY_BYTES_MAX} bytes")
        # What the host refuses comes with an exit code and on standard error, or without and on standard output.
        reply = _decode(bytes(said)) or _decode(ended.last_words.encode())
        if reply is None and not said and not ended.last_words:
            raise Unreachable(f"{program} said nothing; {ended}; is this machine a guest of VMware?")
        if reply is None:
            raise Unreachable(f"{program} gave no answer that is understood, {bytes(said[:80])!r}; {ended}")
        if not reply.result:
            raise Refused(f"{program} was refused: {reply.error_message or 'no reason is given'}")
        return reply

    # --- events --------------------------------------------------------------------------

    def _on_event(self, reply: _Reply) -> None:
        if reply.event_type == "timeout-change":
            log.info(
                "the host will wait for {wait_s} s from now on, no longer for {before_s} s",
                wait_s=reply.new_notification_timeout_in_sec,
                before_s=reply.notification_timeout_in_sec,
            )
        elif reply.event_type not in ("start", "end") or reply.operation_id is None:
            log.warn("an event of the host is not understood: {reply}", reply=reply)
        elif reply.event_type == "start":
            self._on_start(reply, reply.operation_id)
        else:
            # Without a sequence: the hosts' clocks differ, and this comes from the other one.
            self._sink.end(str(reply.operation_id), "done" if reply.op_status == "success" else "failed")

    def _on_start(self, reply: _Reply, operation_id: int) -> None:
        kind = "migrate_out" if reply.op_type == "host-migration" else "custom"
        hold_s = max(0.0, _left_s(reply) - self._margin_s)
        go = self._sink.begin(kind, {"operation": reply.op_type}, str(operation_id), hold_s > 0, hold_s=hold_s)
        go.addCallback(lambda _: self._begin_acknowledging(operation_id))

    def _begin_acknowledging(self, operation_id: int) -> None:
        if self._poller is None:  # the Go has come after the stop
            return
        acknowledging = Deferred.fromCoroutine(self._acknowledge(operation_id))
        self._acknowledging.add(acknowledging)
        acknowledging.addBoth(lambda _: self._acknowledging.discard(acknowledging))

    async def _acknowledge(self, operation_id: int) -> None:
        """Let the host go on; it goes on by itself when its time is over, so this is tried only a few times."""
        for attempt in range(ACKNOWLEDGEMENTS_MAX):
            try:
                await self._call("ack-event", {"operationId": operation_id, "uniqueToken": self._token})
                return
            except Unreachable as error:
                log.warn("operation {id} is not acknowledged: {error}", id=operation_id, error=error)
                if isinstance(error, Refused):
                    return
            await deferLater(self._reactor, back_off_s(attempt))


def _left_s(reply: _Reply) -> float:
    """How much longer the host waits, if its clock and this one agree well enough to tell; else its whole time."""
    if reply.event_gen_time_in_sec is None:
        return reply.notification_timeout_in_sec
    passed_s = time.time() - reply.event_gen_time_in_sec
    if not 0 <= passed_s <= reply.notification_timeout_in_sec:
        passed_s = 0.0
    return reply.notification_timeout_in_sec - passed_s


def _decode(text: bytes) -> _Reply | None:
    try:
        return msgspec.json.decode(text, type=_Reply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(TOKEN_BYTES_MAX).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Unreachable(f"the token cannot be read from {path}: {error.strerror}") from error


def _draft(path: Path) -> Path:
    return path.with_suffix(".new")


def _keep_token(path: Path, token: str) -> None:
    """Replace the token, so that after a crash there is the old one or the new one.

    :raises OSError: it cannot be.
    """
    draft = _draft(path)
    _write(draft, token)
    draft.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
