"""Programs that an adapter runs: what they say is bounded, and they are always ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txvbcast.virt.polling import Unreachable

log = Logger()

#: So much of the end of its standard error is kept, to say what a program said last.
ERRORS_BYTES_MAX: Final = 4096

#: A program that has ended may leave its pipes to others: they are closed after this time.  It is also how long a
#: program that is killed is waited for: one that cannot be killed must not hold up the node.
AFTER_S: Final = 2.0


@attrs.frozen
class Exit:
    """How a program ended.

    :ivar code: its exit code; None if it was ended by a signal, or could not be ended.
    :ivar how: the same for people.
    :ivar last_words: the last line of its standard error, empty if there was none.
    """

    code: int | None
    how: str
    last_words: str

    def __str__(self) -> str:
        return f"{self.how}: {self.last_words}" if self.last_words else self.how


class Child(ProcessProtocol):
    """A program that runs beside the node.

    :param reactor: processes and timers.
    :param argv: the program, sought in ``PATH``, and its arguments.
    :param on_output: told of what it prints, as it comes.
    :param on_full: told when it leaves much unread of what :meth:`write` was given.
    """

    def __init__(
        self,
        reactor: Any,
        argv: Sequence[str],
        on_output: Callable[[bytes], None],
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._argv = list(argv)
        self._on_output = on_output
        self._on_full = on_full
        self._errors = b""
        self._process: Any = None
        self._is_running = False
        self._is_paused = False
        self._is_closed = False
        self._exit: Exit | None = None
        self._waiting: list[Deferred[Exit]] = []
        self._timers: list[IDelayedCall] = []

    def start(self) -> None:
        """Run it.

        :raises Unreachable: it cannot be run.
        """
        try:
            self._reactor.spawnProcess(self, self._argv[0], self._argv, env=None)
        except OSError as error:
            raise Unreachable(f"{self._argv[0]!r} cannot be run: {error.strerror}") from error

    def ended(self) -> Deferred[Exit]:
        """Fires, and never fails, when it has ended and all that it printed was read; cancel it to kill the program."""
        if self._exit is not None:
            already: Deferred[Exit] = Deferred()
            already.callback(self._exit)
            return already
        waiting: Deferred[Exit] = Deferred(self._cancel)
        self._waiting.append(waiting)
        return waiting

    def _cancel(self, waiting: Deferred[Exit]) -> None:
        self._waiting.remove(waiting)
        self.kill()

    def stop(self, grace_s: float) -> Deferred[Exit]:
        """Ask it to end; kill it if it has not after ``grace_s``."""
        ended = self.ended()
        if self._exit is None:
            self._signal("TERM")
            self._timers.append(self._reactor.callLater(grace_s, self.kill))
        return ended

    def kill(self) -> None:
        """End it now; nothing more is read from it."""
        if self._exit is None:
            self._signal("KILL")
            self._close()
            self._timers.append(self._reactor.callLater(AFTER_S, self._on_end, None, "it could not be ended"))

    def write(self, line: bytes) -> None:
        """Put it on the program's standard input; lost if that is closed."""
        self._process.write(line)

    def pause(self) -> None:
        """Read nothing from it for now."""
        if not self._is_closed:
            self._process.pauseProducing()
            self._is_paused = True

    def resume(self) -> None:
        """Read again."""
        if not self._is_closed:
            self._is_paused = False
            self._process.resumeProducing()

    def _close(self) -> None:
        self._is_closed = True  # Twisted must not be told to read what it is about to close
        self._process.loseConnection()

    def _signal(self, name: str) -> None:
        if not self._is_running:
            return
        try:
            self._process.signalProcess(name)
        except PermissionError as error:  # it runs as somebody else, by sudo for example
            log.warn("{program} cannot be ended: {error}", program=self._argv[0], error=error)

    def connectionMade(self) -> None:
        """It runs."""
        self._process = self.transport
        self._process.registerProducer(_Full(self._on_full), streaming=True)
        self._is_running = True

    def outReceived(self, data: bytes) -> None:
        """It has printed something."""
        self._on_output(data)

    def errReceived(self, data: bytes) -> None:
        """It has printed something on its standard error."""
        self._errors = (self._errors + data)[-ERRORS_BYTES_MAX:]

    def processExited(self, reason: Failure) -> None:
        """It has ended; what it printed last may still be on its way, or others may hold its pipes."""
        self._is_running = False
        self._wait_for_rest()

    def _wait_for_rest(self) -> None:
        self._timers.append(self._reactor.callLater(AFTER_S, self._wait_for_rest if self._is_paused else self._close))

    def processEnded(self, reason: Failure) -> None:
        """It has ended, and everything was read."""
        if not isinstance(reason.value, ProcessTerminated):
            self._on_end(0, "it ended with exit code 0")
        elif reason.value.signal is not None:
            self._on_end(None, f"it was ended by signal {reason.value.signal}")
        else:
            self._on_end(reason.value.exitCode, f"it ended with exit code {reason.value.exitCode}")

    def _on_end(self, code: int | None, how: str) -> None:
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        if self._exit is not None:
            return  # it has ended after all, after it was given up
        lines = self._errors.decode("utf-8", "replace").split("\n")
        self._exit = Exit(code, how, next((line.strip() for line in reversed(lines) if line.strip()), ""))
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(self._exit)


@implementer(IPushProducer)
class _Full:
    """Twisted's way to tell that a pipe is full."""

    def __init__(self, on_full: Callable[[], None]) -> None:
        self.pauseProducing = on_full

    def resumeProducing(self) -> None:
        """There is room again."""

    def stopProducing(self) -> None:
        """It is closed."""
