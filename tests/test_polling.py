"""Polling: one question at a time, soon after an answer, later and later without one."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial import unittest

from txvbcast.virt import polling
from txvbcast.virt.polling import BACK_OFF_S_MAX, RETRY_AFTER_S_MAX, Poller, Unreachable


class PollerTests(unittest.TestCase):
    """A poller against a clock and polls that end when the test says so."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.polls: list[Deferred[None]] = []
        self.problems: list[str] = []
        self.poller = Poller(self.clock, self.poll, 2.0, 10.0, self.problems.append)
        # The chance in the back-off is not what is tested here.
        self.patch(polling, "back_off_s", lambda failures: min(2.0**failures, BACK_OFF_S_MAX))
        self.poller.start()

    async def poll(self) -> None:
        """Take as long as the test likes."""
        self.polls.append(Deferred())
        await self.polls[-1]

    def fail(self, error: Exception) -> None:
        """The poll under way fails."""
        self.polls[-1].errback(error)

    def waited_s(self) -> float:
        """How long it is until the next poll."""
        before, start_s = len(self.polls), self.clock.seconds()
        for _ in range(10_000):
            if len(self.polls) > before:
                return self.clock.seconds() - start_s
            self.clock.advance(1 / 32)
        raise AssertionError("there is no other poll")

    def test_at_once(self) -> None:
        self.assertEqual(len(self.polls), 1)

    def test_interval(self) -> None:
        self.polls[-1].callback(None)
        self.assertEqual(self.waited_s(), 2.0)
        self.assertEqual(self.problems, [])

    def test_one_at_a_time(self) -> None:
        self.clock.advance(9.0)
        self.assertEqual(len(self.polls), 1)

    def test_back_off(self) -> None:
        """It grows up to its bound, and begins anew after an answer."""
        waits = []
        for _ in range(7):
            self.fail(Unreachable("no"))
            waits.append(self.waited_s())
        self.assertEqual(waits, [1.0, 2.0, 4.0, 8.0, 16.0, BACK_OFF_S_MAX, BACK_OFF_S_MAX])
        self.assertEqual(self.problems, ["no"] * 7)
        self.polls[-1].callback(None)
        self.waited_s()
        self.fail(Unreachable("no"))
        self.assertEqual(self.waited_s(), 1.0)

    def test_when_the_platform_says(self) -> None:
        for wish_s, expected_s in (
            (7.0, 7.0),
            (0.0, 0.125),
            (1e9, RETRY_AFTER_S_MAX),
            (float("inf"), RETRY_AFTER_S_MAX),
        ):
            self.fail(Unreachable("later", wish_s))
            self.assertEqual(self.waited_s(), expected_s)

    def test_too_slow(self) -> None:
        self.clock.advance(10.0)
        self.assertEqual(self.problems, ["no answer within 10s"])
        self.assertEqual(self.waited_s(), 1.0)

    def test_too_slow_whatever_it_makes_of_it(self) -> None:
        """A poll that turns its cancellation into something else, or into nothing, was too slow all the same."""

        async def stubborn() -> None:
            try:
                await Deferred()
            except CancelledError:
                if self.problems:
                    raise OSError("cut") from None

        poller = Poller(self.clock, stubborn, 2.0, 5.0, self.problems.append)
        poller.start()
        self.clock.advance(5.0)
        self.assertEqual(self.problems, ["no answer within 5s"])
        self.clock.advance(1.0)
        self.clock.advance(5.0)
        self.assertEqual(self.problems.count("no answer within 5s"), 2)
        poller.stop()

    def test_defect(self) -> None:
        """It is logged, said, and tried again."""
        self.fail(ZeroDivisionError("oops"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.problems, ["a defect of the adapter, see the log of this node: oops"])
        self.assertEqual(self.waited_s(), 1.0)

    def test_stopped_between(self) -> None:
        self.polls[-1].callback(None)
        self.poller.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_within(self) -> None:
        self.poller.stop()
        self.assertEqual((self.problems, self.clock.getDelayedCalls()), ([], []))

    def test_stopped_within_a_later_one(self) -> None:
        self.polls[-1].callback(None)
        self.waited_s()
        self.poller.stop()
        self.assertEqual((self.problems, self.clock.getDelayedCalls()), ([], []))

    def test_stopped_by_its_own_word(self) -> None:
        """Whoever is told of a problem may stop it."""
        poller = Poller(self.clock, self.poll, 2.0, 5.0, lambda _problem: poller.stop())
        poller.start()
        self.fail(Unreachable("no"))
        self.poller.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_twice(self) -> None:
        self.poller.stop()
        self.poller.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class BackOffTests(unittest.TestCase):
    """The pauses themselves."""

    def test_growth(self) -> None:
        pauses_s = [polling.back_off_s(failures) for failures in range(20)]
        self.assertTrue(1.0 <= pauses_s[0] <= 2.0, pauses_s)
        self.assertLessEqual(max(pauses_s), BACK_OFF_S_MAX)
        self.assertGreaterEqual(pauses_s[-1], BACK_OFF_S_MAX - 1.0)
