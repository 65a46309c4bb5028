"""The brain of a client under a flood: how little it queues, and how what is refused is told."""

from __future__ import annotations

from tests.test_client_session import SessionCase
from txvbcast.client.answers import Outcomes
from txvbcast.client.attempts import BESIDE_MAX
from txvbcast.client.effects import TellFailed
from txvbcast.client.session import WAITING_MAX
from txvbcast.errors import Overloaded
from txvbcast.wire import client_messages as wire
from txvbcast.wire.client_messages import FailureKind


class FloodTests(SessionCase):
    """More is handed in than is answered."""

    def test_no_queue_beside_a_node(self) -> None:
        """One that has all that it takes on has few waiting beside it; the rest is refused at once."""
        self.connect()
        (failed,) = self.of(TellFailed, self.submit(1000 + BESIDE_MAX + 7))
        self.assertEqual(len(failed.places), 7)
        self.assertIn("wait for answers before you submit more", failed.failure.reason)

    def test_patience_without_a_node(self) -> None:
        """While none is in use many may wait; then nothing new is taken before most of that is answered."""
        self.begin()
        self.assertEqual(self.of(TellFailed, self.submit(WAITING_MAX)), [])
        self.assertEqual(len(self.of(TellFailed, self.submit(1, ticket=2))), 1)
        ((_, submit),) = self.sent(wire.Submit, self.welcome(1, 1, outstanding_max=WAITING_MAX - BESIDE_MAX))
        self.assertEqual(len(self.of(TellFailed, self.submit(1, ticket=3))), 1)
        self.hear(1, wire.Committed(submit.batch, 0, 1, 0, (b"",)))
        self.assertEqual(self.of(TellFailed, self.submit(1, ticket=4)), [])

    def test_failed_in_runs(self) -> None:
        """However the places of a failure lie, each is told once."""
        self.connect()
        ((_, submit),) = self.sent(wire.Submit, self.submit(12))
        for places, kind in (
            ((9, 0, 1, 5, 4, 1), FailureKind.OVERLOADED),
            ((2, 3, 6, 7, 8, 10, 11), FailureKind.ABORTED),
        ):
            wanted = self.hear(1, wire.Failed(submit.batch, places, kind, "no"))
            self.assertEqual([each.places for each in self.of(TellFailed, wanted)], [tuple(sorted(set(places)))])
        self.assertEqual(self.session.unanswered, 0)

    def test_one_exception_for_many(self) -> None:
        """What failed together has one exception, and is told by place."""
        self.connect()
        ((_, submit),) = self.sent(wire.Submit, self.submit(1000))
        (told,) = self.of(
            TellFailed, self.hear(1, wire.Failed(submit.batch, tuple(range(1000)), FailureKind.OVERLOADED, "full"))
        )
        outcomes = Outcomes(1000)
        outcomes.on_failed(told)
        self.assertEqual(list(outcomes.failures), list(range(1000)))
        (error,) = set(outcomes.failures.values())
        self.assertIsInstance(error, Overloaded)
