"""Any program that prints what happens to this node, a line of JSON an event.

``{"event": "begin", "id": "backup-7", "kind": "snapshot", "holdable": true, "hold": "10s"}`` and so on; on its standard
input the program is told ``{"event": "go", "id": "backup-7", "confirmed": true, "unsafe": ""}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Union

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from txvbcast.config import CHANGE_KINDS
from txvbcast.interfaces import Go, IChangeAdapter, IChangeSink, Surroundings
from txvbcast.units import parse_duration
from txvbcast.virt.child import Child, Exit
from txvbcast.virt.options import Options
from txvbcast.virt.polling import Unreachable, back_off_s

#: The longest line that is read.
LINE_BYTES_MAX: Final = 64 * 1024

#: A program that has run so long is taken to have started well, even if it has nothing to say.
STARTED_S: Final = 1.0

#: So many different complaints about lines are made; a program that finds more ways to go wrong is known by then.
COMPLAINTS_MAX: Final = 100

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Text = Annotated[str, msgspec.Meta(max_length=1000)]
_Fact = Union[bool, int, float, _Text, None]
_Facts = Annotated[dict[_Id, _Fact], msgspec.Meta(max_length=32)]


class _Begin(msgspec.Struct, frozen=True, tag_field="event", tag="begin", forbid_unknown_fields=True):
    id: _Id
    kind: str
    facts: _Facts = {}
    holdable: bool = False
    hold: str | None = None
    sequence: int | None = None
    member: str | None = None


class _Update(msgspec.Struct, frozen=True, tag_field="event", tag="update", forbid_unknown_fields=True):
    id: _Id
    facts: _Facts
    sequence: int | None = None


class _End(msgspec.Struct, frozen=True, tag_field="event", tag="end", forbid_unknown_fields=True):
    id: _Id
    outcome: Literal["done", "cancelled", "failed"] = "done"
    sequence: int | None = None


_events: msgspec.json.Decoder[_Begin | _Update | _End] = msgspec.json.Decoder(Union[_Begin, _Update, _End])


def make(options: Mapping[str, object], surroundings: Surroundings) -> IChangeAdapter:
    """The adapter.

    :raises ValueError: an option cannot be used.
    """
    read = Options(options)
    adapter = CommandAdapter(
        surroundings,
        argv=read.texts("argv"),
        events_per_s=read.number("events_per_s", 100, least=1, most=10_000),
        stop_s=read.duration_s("stop", "5s"),
    )
    read.finish()
    return adapter


@implementer(IChangeAdapter)
class CommandAdapter:
    """Runs the program, and runs it again when it ends.

    :param argv: the program and its arguments.
    :param events_per_s: what it prints beyond that is read later; a full pipe then holds the program up.
    :param stop_s: from SIGTERM to SIGKILL.
    :raises ValueError: ``argv`` names no program.
    """

    kinds = CHANGE_KINDS

    def __init__(self, surroundings: Surroundings, argv: tuple[str, ...], events_per_s: int, stop_s: float) -> None:
        if not argv or any("\0" in word for word in argv):
            raise ValueError("argv: it must be given: a list of a program and its arguments")
        self._reactor = surroundings.reactor
        self._members = surroundings.members
        self._argv = argv
        self._events_per_s = events_per_s
        self._stop_s = stop_s
        self._failures = 0
        self._is_heard = False
        self._complaints: set[str] = set()
        self._run: _Run | None = None
        self._next: IDelayedCall | None = None

    def start(self, sink: IChangeSink) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.start`."""
        self._sink = sink
        self._start_program()

    def stop(self) -> Deferred[None] | None:
        """End the program."""
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._run is None:
            return None
        return self._run.stop(self._stop_s)

    def _start_program(self) -> None:
        self._run = _Run(self._reactor, self._argv, self._events_per_s, self)
        try:
            self._run.start()
        except Unreachable as error:
            self.on_end(str(error))
            return
        # It may have been another run that began them: this one says which of them are over.
        self._run.tell({"event": "under_way", "ids": self._sink.under_way()})

    # --- what the run says ---------------------------------------------------------------

    def on_started(self) -> None:
        """The program runs, and is understood."""
        self._failures = 0
        if not self._is_heard:
            self._is_heard = True
            self._sink.connected(f"the program {self._argv[0]}")

    def on_line(self, line: bytes) -> None:
        """It has printed a line."""
        try:
            self._apply(_events.decode(line))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._complain(f"it has printed {line[:80]!r}: {error}", str(error))
        else:
            self.on_started()

    def on_end(self, problem: str) -> None:
        """It has ended, or was ended: run it again after a while."""
        self._run = None
        self._is_heard = False
        self._next = self._reactor.callLater(back_off_s(self._failures), self._start_program)
        self._failures += 1
        self._sink.lost(f"the program {self._argv[0]}: {problem}")

    def _apply(self, event: _Begin | _Update | _End) -> None:
        """Pass it on.

        :raises ValueError: it does not make sense.
        """
        if isinstance(event, _Begin):
            go = self._begin(event)
            go.addCallback(self._on_go, event.id)
        elif isinstance(event, _Update):
            self._sink.update(event.id, event.facts, event.sequence)
        else:
            self._sink.end(event.id, event.outcome, event.sequence)

    def _begin(self, event: _Begin) -> Deferred[Go]:
        if event.kind not in CHANGE_KINDS:
            raise ValueError(f"kind: expected one of {', '.join(CHANGE_KINDS)}, got {event.kind!r}")
        if event.member is not None and event.member not in self._members:
            raise ValueError(f"member: expected one of {', '.join(self._members)}, got {event.member!r}")
        if event.hold is not None and not event.holdable:
            raise ValueError("hold: only what is holdable can be held")
        hold_s = None if event.hold is None else parse_duration(event.hold)
        member = None if event.member is None else self._members[event.member]
        return self._sink.begin(event.kind, event.facts, event.id, event.holdable, event.sequence, hold_s, member)

    def _on_go(self, go: Go, source_id: str) -> None:
        if self._run is not None:
            self._run.tell({"event": "go", "id": source_id, "confirmed": go.confirmed, "unsafe": go.unsafe})

    def _complain(self, problem: str, rule: str) -> None:
        """Say what is wrong with a line, once for each rule that is broken."""
        if rule not in self._complaints and len(self._complaints) < COMPLAINTS_MAX:
            self._complaints.add(rule)
            self._is_heard = False
            self._sink.lost(f"the program {self._argv[0]}: {problem}")


class _Run:
    """One run of the program: its lines, at the rate at which they may come."""

    def __init__(self, reactor: Any, argv: tuple[str, ...], events_per_s: int, adapter: CommandAdapter) -> None:
        self._reactor = reactor
        self._adapter = adapter
        self._child = Child(reactor, argv, self._on_output, self._on_full)
        self._events_per_s = events_per_s
        self._left = events_per_s
        self._buffer = b""
        self._problem = ""
        self._exit: Exit | None = None
        self._window: IDelayedCall | None = None
        self._started: IDelayedCall | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Run the program.

        :raises Unreachable: it cannot be run.
        """
        self._child.start()
        self._child.ended().addCallback(self._on_exit)
        self._started = self._reactor.callLater(STARTED_S, self._adapter.on_started)

    def stop(self, stop_s: float) -> Deferred[None]:
        """End it; nothing more is heard of it."""
        self._is_stopped = True
        self._cancel_timers()
        return self._child.stop(stop_s).addCallback(lambda _: None)

    def tell(self, document: Mapping[str, object]) -> None:
        """Put a line on its standard input."""
        self._child.write(msgspec.json.encode(document) + b"\n")

    def _on_full(self) -> None:
        self._fail("it does not read its standard input; it was ended")

    def _on_output(self, data: bytes) -> None:
        self._buffer += data
        self._take()

    def _take(self) -> None:
        while self._left and not self._problem and not self._is_stopped:
            line, newline, rest = self._buffer.partition(b"\n")
            if len(line) > LINE_BYTES_MAX:
                self._fail(f"it has printed a line of more than {LINE_BYTES_MAX} bytes; it was ended")
                return
            if not newline:
                break
            self._buffer = rest
            self._left -= 1
            self._open_window()
            self._adapter.on_line(line)
        if self._left:
            self._finish_if_over()
        else:
            self._child.pause()

    def _open_window(self) -> None:
        if self._window is None:
            self._window = self._reactor.callLater(1.0, self._on_window)

    def _on_window(self) -> None:
        self._window = None
        self._left = self._events_per_s
        self._child.resume()
        self._take()

    def _fail(self, problem: str) -> None:
        if not self._problem:
            self._problem = problem
            self._child.kill()

    def _on_exit(self, exit: Exit) -> None:
        self._exit = exit
        self._take()

    def _finish_if_over(self) -> None:
        """Once it has ended, and its last line was read."""
        if self._exit is not None and not self._is_stopped:
            self._cancel_timers()
            self._adapter.on_end(self._problem or str(self._exit))

    def _cancel_timers(self) -> None:
        for timer in (self._window, self._started):
            if timer is not None and timer.active():
                timer.cancel()
