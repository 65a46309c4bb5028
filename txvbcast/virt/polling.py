"""Asks a platform again and again: soon after an answer, later and later while there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from txvbcast.units import format_duration

log = Logger()

#: While a platform does not answer it is asked after about 1, 1.5, 2.2 ... seconds, and at least this often.
BACK_OFF_S_MAX = 30.0

#: A platform that names the time for the next question is obeyed within these bounds.
RETRY_AFTER_S_MIN, RETRY_AFTER_S_MAX = 0.1, 60.0

#: How long to wait before the nth attempt after a failure (n from 0), with up to a second of chance in it.
back_off_s: Callable[[int], float] = backoffPolicy(initialDelay=1.0, maxDelay=BACK_OFF_S_MAX - 1.0, factor=1.5)


class Unreachable(Exception):
    """The platform cannot be heard, or says what nobody understands; the text says what happened.

    :ivar retry_after_s: when the platform itself wants to be asked again; None if it did not say.
    """

    def __init__(self, problem: str, retry_after_s: float | None = None) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class Poller:
    """Runs a poll again and again, one at a time.

    :param reactor: timers.
    :param poll: asks once and acts on the answer; raises :class:`Unreachable`.
    :param interval_s: between an answer and the next question; small for a poll that itself waits for news.
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
        # Whatever a poll makes of being cancelled, it was too slow.
        running.addTimeout(self._timeout_s, self._reactor, onTimeoutCancel=self._too_slow)
        running.addCallbacks(self._on_answer, self._on_failure)

    async def _poll_once(self) -> None:
        await self._poll()

    def _too_slow(self, _result: object, timeout_s: float) -> Failure:
        return Failure(Unreachable(f"no answer within {format_duration(timeout_s)}"))

    def _on_answer(self, _: None) -> None:
        self._failures = 0
        self._go_on(self._interval_s)

    def _on_failure(self, failure: Failure) -> None:
        if self._stopped:
            return  # that is what became of the poll that was cancelled
        delay_s = back_off_s(self._failures)
        if isinstance(failure.value, Unreachable):
            problem = str(failure.value)
            if failure.value.retry_after_s is not None:
                delay_s = min(max(failure.value.retry_after_s, RETRY_AFTER_S_MIN), RETRY_AFTER_S_MAX)
        else:
            # A defect of an adapter is no reason to stop the node: it is said, and the platform is asked again.
            log.failure("asking the platform failed", failure)
            problem = f"a defect of the adapter, see the log of this node: {failure.getErrorMessage()}"
        self._failures += 1
        self._lost(problem)
        self._go_on(delay_s)

    def _go_on(self, delay_s: float) -> None:
        self._running = None
        if not self._stopped:
            self._next = self._reactor.callLater(delay_s, self._ask)
