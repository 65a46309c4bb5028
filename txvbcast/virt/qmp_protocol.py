"""QEMU's machine protocol: a JSON document a line; answers and events come over the same connection.

From QEMU's own description (``docs/interop/qmp-spec``), as far as an adapter needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final, Generic, TypeVar

import attrs
import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from txvbcast.units import format_duration
from txvbcast.virt.polling import Unreachable

#: A line that is longer is not from QEMU: what an adapter asks for is answered in a few kilobytes.
LINE_BYTES_MAX: Final = 1 << 20

#: So much of a line that nobody understands is shown to people.
_SHOWN_BYTES_MAX: Final = 60

Answer = TypeVar("Answer")


class CommandFailed(Exception):
    """QEMU refuses a command, or does not know it; the text says why."""


class _Time(msgspec.Struct, frozen=True):
    """By the host's wall clock; QEMU writes -1 when it cannot tell."""

    seconds: int = 0
    microseconds: int = 0


class _Error(msgspec.Struct, frozen=True):
    desc: str


class _Line(msgspec.Struct, frozen=True, rename={"greeting": "QMP", "answer": "return"}):
    """Any document that QEMU sends: which of the first four it has says what it is."""

    greeting: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    event: str | msgspec.UnsetType = msgspec.UNSET
    answer: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: _Error | msgspec.UnsetType = msgspec.UNSET
    id: int | None = None
    data: dict[str, Any] = {}
    timestamp: _Time = _Time()


@attrs.frozen
class Event:
    """What QEMU tells unasked.

    :ivar at_us: when, in microseconds, by the host's wall clock.
    """

    name: str
    data: Mapping[str, Any]
    at_us: int


@attrs.frozen
class _Asked(Generic[Answer]):
    command: str
    shape: type[Answer]
    answered: Deferred[Answer]
    timer: IDelayedCall


class QMP(LineOnlyReceiver):
    """One connection to a QEMU.

    Its end is final: whatever is wrong with it, it is dropped, and every question fails with
    :class:`txvbcast.virt.polling.Unreachable`, which says what was wrong.

    :param reactor: timers.
    :param timeout_s: for the greeting, and for each answer.
    :param on_event: told of each event while its line is read; raises ``Unreachable`` for one that makes no sense.
    :ivar greeted: fires when QEMU has greeted: then it takes ``qmp_capabilities``, and after that any other command.
    :ivar problem: why the connection is over, else empty.
    :ivar was_closed: it is over, and QEMU ended it.
    :ivar closed: fires when nothing of it is left.
    """

    delimiter = b"\n"
    MAX_LENGTH = LINE_BYTES_MAX
    transport: Any  # of TCP or a UNIX socket: what they share has no name

    def __init__(self, reactor: Any, timeout_s: float, on_event: Callable[[Event], None]) -> None:
        self.greeted: Deferred[None] = Deferred()
        self.closed: Deferred[None] = Deferred()
        self.problem = ""
        self.was_closed = False
        self._reactor = reactor
        self._timeout_s = timeout_s
        self._on_event = on_event
        self._numbers = count(1)
        self._asked: dict[int, _Asked[Any]] = {}

    def connectionMade(self) -> None:
        """Wait for the greeting."""
        self._greeting_timer = self._out_of_time_after("no greeting")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over."""
        self.was_closed = not self.problem
        self.give_up("QEMU has closed the connection")
        self.closed.callback(None)

    def execute(
        self, command: str, shape: type[Answer], arguments: Mapping[str, object] | None = None
    ) -> Deferred[Answer]:
        """Have QEMU perform a command.

        :param shape: what the answer must be.
        :returns: fires with the answer; fails with :class:`CommandFailed` or ``Unreachable``.
        """
        if self.problem:
            return fail(Unreachable(self.problem))
        number = next(self._numbers)
        timer = self._out_of_time_after(f"no answer to {command}")
        asked = self._asked[number] = _Asked(command, shape, Deferred(), timer)
        document = {"execute": command, "id": number, "arguments": arguments or {}}
        self.transport.write(msgspec.json.encode(document) + self.delimiter)
        return asked.answered

    def give_up(self, problem: str) -> None:
        """Drop the connection, once and for all."""
        if self.problem:
            return
        self.problem = problem
        self.transport.abortConnection()
        if self._greeting_timer.active():
            self._greeting_timer.cancel()
        if not self.greeted.called:
            self.greeted.errback(Unreachable(problem))
        while self._asked:
            _, asked = self._asked.popitem()
            if asked.timer.active():
                asked.timer.cancel()
            asked.answered.errback(Unreachable(problem))

    def lineLengthExceeded(self, line: bytes) -> None:
        """Not from QEMU."""
        self.give_up(f"it sends a line of more than {LINE_BYTES_MAX} bytes")

    def lineReceived(self, line: bytes) -> None:
        """Take one document."""
        if self.problem or not line.strip():
            return
        try:
            self._take(msgspec.json.decode(line, type=_Line))
        except (msgspec.MsgspecError, RecursionError):
            self.give_up(f"it sends what is not of QEMU's machine protocol: {line[:_SHOWN_BYTES_MAX]!r}")
        except Unreachable as error:
            self.give_up(str(error))

    def _take(self, line: _Line) -> None:
        if not self.greeted.called:
            self._on_greeting(line)
        elif line.event is not msgspec.UNSET:
            at_us = line.timestamp.seconds * 1_000_000 + line.timestamp.microseconds
            self._on_event(Event(line.event, line.data, at_us))
        else:
            self._on_answer(line)

    def _on_greeting(self, line: _Line) -> None:
        if line.greeting is msgspec.UNSET:
            raise Unreachable("it does not greet as QEMU's machine protocol does")
        self._greeting_timer.cancel()
        self.greeted.callback(None)

    def _on_answer(self, line: _Line) -> None:
        asked = self._asked.pop(line.id or 0, None)
        if asked is None:
            raise Unreachable("it answers what was not asked" if line.error is msgspec.UNSET else line.error.desc)
        asked.timer.cancel()
        if line.error is not msgspec.UNSET:
            asked.answered.errback(CommandFailed(f"{asked.command}: {line.error.desc}"))
            return
        try:
            if line.answer is msgspec.UNSET:
                raise msgspec.ValidationError("there is no answer in it")
            answer = msgspec.json.decode(line.answer, type=asked.shape)
        except msgspec.MsgspecError as error:
            problem = Unreachable(f"it answers {asked.command} with what makes no sense: {error}")
            asked.answered.errback(problem)
            raise problem from error
        asked.answered.callback(answer)

    def _out_of_time_after(self, what: str) -> IDelayedCall:
        problem = f"{what} within {format_duration(self._timeout_s)}"
        timer: IDelayedCall = self._reactor.callLater(self._timeout_s, self.give_up, problem)
        return timer
