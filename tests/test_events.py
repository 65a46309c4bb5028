"""Events of a node: numbered, kept for a while, told to whoever subscribed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from tests.core_samples import examples
from txvbcast import events as events_module
from txvbcast.events import Event, EventLog


class EventLogTests(unittest.TestCase):
    """A log that keeps three events."""

    def setUp(self) -> None:
        self.patch(events_module, "EVENTS_KEPT", 3)
        self.log = EventLog()

    def add(self, count: int = 1) -> None:
        """Something happens."""
        for _ in range(count):
            self.log.add("node_normal", 2, "it has caught up", 1e9, {})

    def ids(self, since: int) -> list[object]:
        """The events after one."""
        return [event["id"] for event in self.log.since(since)]

    def test_event(self) -> None:
        """What, about whom, why, when, and facts of its kind."""
        event = self.log.add("node_failed", 3, "it is silent", 1.5e9, {"standing": "failed"})
        expected = {
            "id": 1,
            "kind": "node_failed",
            "node_id": 3,
            "reason": "it is silent",
            "time_s": 1.5e9,
            "standing": "failed",
        }
        self.assertEqual((event, self.log.since(0)), (expected, [expected]))

    def test_empty(self) -> None:
        """The oldest one is the next one."""
        self.assertEqual((self.log.oldest_id, self.log.newest_id, self.log.since(0)), (1, 0, []))

    def test_since(self) -> None:
        """What comes after the one named; all that is kept when that is older, nothing when it is newer."""
        self.add(5)
        self.assertEqual((self.log.oldest_id, self.log.newest_id), (3, 5))
        self.assertEqual(
            [self.ids(since) for since in (-1, 0, 2, 3, 4, 5, 6, 99)],
            [[3, 4, 5]] * 3 + [[4, 5], [5], [], [], []],
        )

    @examples()
    @given(st.integers(0, 12), st.integers(-2, 14))
    def test_since_in_general(self, count: int, since: int) -> None:
        """Against the obvious way."""
        self.setUp()
        self.add(count)
        self.assertEqual(self.ids(since), [k for k in range(1, count + 1) if k > max(since, count - 3)])

    def test_kept_by_default(self) -> None:
        """Enough for a client that was away for a while, and no more."""
        self.patch(events_module, "EVENTS_KEPT", 10_000)
        log = EventLog()
        for _ in range(10_001):
            log.add("mastership", 1, "", 0.0, {})
        self.assertEqual((log.oldest_id, log.newest_id), (2, 10_001))

    def test_subscribe(self) -> None:
        """From now on, until the answer is called; once is enough."""
        heard: list[Event] = []
        self.add()
        unsubscribe = self.log.subscribe(heard.append)
        self.assertEqual(heard, [])
        self.add(2)
        self.assertEqual([event["id"] for event in heard], [2, 3])
        unsubscribe()
        unsubscribe()
        self.add()
        self.assertEqual(len(heard), 2)

    def test_several_subscribers(self) -> None:
        """Each hears everything, in the order in which they came; one may leave while it hears."""
        heard: list[str] = []

        def once(event: Event) -> None:
            heard.append("first")
            leave()

        leave = self.log.subscribe(once)
        self.log.subscribe(lambda event: heard.append("second"))
        self.add(2)
        self.assertEqual(heard, ["first", "second", "second"])

    def test_failing_subscriber(self) -> None:
        """Its error is logged; the others hear the event, and it hears the next one."""
        heard: list[object] = []

        def broken(event: Event) -> None:
            heard.append("broken")
            raise ZeroDivisionError

        self.log.subscribe(broken)
        self.log.subscribe(lambda event: heard.append(event["id"]))
        self.add(2)
        self.assertEqual(heard, ["broken", 1, "broken", 2])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
