"""Events that wait for whoever follows them."""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from txvbcast.client.effects import Event
from txvbcast.errors import SubmissionError

#: How many may wait; then the oldest are dropped, and counted.
EVENTS_WAITING_MAX: Final = 10_000


class Waiting:
    """Events that were told and not asked for yet.

    :ivar error: why no more will come, None while more may.
    """

    def __init__(self) -> None:
        self.error: SubmissionError | None = None
        self._events: deque[Event] = deque()

    def add(self, event: Event) -> None:
        """One more."""
        self._events.append(event)
        if len(self._events) > EVENTS_WAITING_MAX:
            dropped, first = self._events.popleft(), self._events[0]
            self._events[0] = attrs.evolve(first, missed=dropped.missed + 1 + first.missed)

    def take(self) -> Event | None:
        """The next one, None if there is none now.

        :raises SubmissionError: there will be no more.
        """
        if self._events:
            return self._events.popleft()
        if self.error is not None:
            raise self.error
        return None
