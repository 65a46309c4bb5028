"""What happened on this node, numbered, with a bounded past."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.logger import Logger

log = Logger()

#: How many of the latest events are kept for those who ask later.
EVENTS_KEPT = 10_000

Event = dict[str, object]


class EventLog:
    """Events with rising ids; whoever subscribes hears the new ones."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._subscribers: list[Callable[[Event], None]] = []
        self.newest_id = 0

    @property
    def oldest_id(self) -> int:
        """The id of the first event that is still kept; one past the newest when none is."""
        return self.newest_id - len(self._events) + 1

    def add(self, kind: str, node_id: int, reason: str, time_s: float, facts: dict[str, object]) -> Event:
        """Number an event, keep it and pass it on.

        :param time_s: seconds of the wall clock since 1970.
        """
        self.newest_id += 1
        event: Event = {
            "id": self.newest_id,
            "kind": kind,
            "node_id": node_id,
            "reason": reason,
            "time_s": time_s,
            **facts,
        }
        self._events.append(event)
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except Exception:  # noqa: BLE001
                # Whoever looks on takes no part in the protocol: its defects are no reason to stop the node.
                log.failure("an observer failed on event {event_id} ({kind})", event_id=event["id"], kind=kind)
        return event

    def since(self, event_id: int) -> list[Event]:
        """The kept events with an id above ``event_id``."""
        skipped = max(0, event_id - self.oldest_id + 1)
        return list(self._events)[skipped:]

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Have ``callback`` hear every event from now on; the answer ends it."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe
