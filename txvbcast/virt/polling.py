"""Asks a platform again and again: soon after an answer, later and later while there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from txvbcast.units import format_duration

log = Logger()

#: While a platform does not answer it is asked after about 1, 1.5, 2.2 ... seconds, and at least this often.
BACK_OFF_S_MAX = 30.0

#: How long to wait before the nth attempt after a failure (n from 0), with some chance in it.
back_off_s: Callable[[int], float] = backoffPolicy(initialDelay=1.0, maxDelay=BACK_OFF_S_MAX, factor=1.5)


class Unreachable(Exception):
    """The platform cannot be heard, or says what nobody understands; the text says what happened."""


class Poller:
    """Runs a poll again and again, one at a time.

    :param reactor: timers.
    :param poll: asks once and acts on the answer; raises :class:`Unreachable`.
    :param interval_s: between an answer and the next question; 0 for a poll that itself waits for news.
    :param timeout_s: a poll that takes longer is cancelled and counts as unreachable.
    :param lost: told of every failure.
    """

    def __init__(
        self,
        reactor: Any,
        poll: Callable[[], Awaitable[None]],
        interval_s: float,
        timeout_s: float,
        lost: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._poll = poll
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._lost = lost
        self._failures = 0
        self._running: Deferred[None] | None = None
        self._next: IDelayedCall | None = None
        self._stopped = False

    def start(self) -> None:
        """Ask for the first time, now."""
        self._ask()

    def stop(self) -> None:
        """Ask no more; a poll under way is cancelled."""
        self._stopped = True
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._running is not None:
            self._running.cancel()

    def _ask(self) -> None:
        running = self._running = Deferred.fromCoroutine(self._poll_once())
        running.addTimeout(self._timeout_s, self._reactor)
        running.addCallbacks(self._on_answer, self._on_failure)

    async def _poll_once(self) -> None:
        await self._poll()

    def _on_answer(self, _: None) -> None:
        self._failures = 0
        self._go_on(self._interval_s)

    def _on_failure(self, failure: Failure) -> None:
        if self._stopped and failure.check(CancelledError, TimeoutError):
            return
        if failure.check(Unreachable):
            problem = str(failure.value)
        elif failure.check(TimeoutError):
            problem = f"no answer within {format_duration(self._timeout_s)}"
        else:
            # A defect of an adapter is no reason to stop the node: it is said, and the platform is asked again.
            log.failure("asking the platform failed", failure)
            problem = f"a defect of the adapter, see the log of this node: {failure.getErrorMessage()}"
        self._lost(problem)
        self._go_on(back_off_s(self._failures))
        self._failures += 1

    def _go_on(self, delay_s: float) -> None:
        self._running = None
        if not self._stopped:
            self._next = self._reactor.callLater(delay_s, self._ask)
