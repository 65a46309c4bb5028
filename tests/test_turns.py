"""The end of a turn: once, in order, and whatever one of those who are called does."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial import unittest

from txvbcast.turns import Turn


class TurnTest(unittest.TestCase):
    """What was asked for in a turn, and what that leads to."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turn = Turn(self.clock)
        self.called: list[str] = []

    def ask(self, name: str) -> None:
        """Have a name written down."""
        self.turn.at_end(lambda: self.called.append(name))

    def test_order(self) -> None:
        """Nothing before the end; then all in one call of the loop, in order, once."""
        self.ask("a")
        self.ask("b")
        self.turn.at_end_first(lambda: self.called.append("first"))
        self.assertEqual((self.called, len(self.clock.getDelayedCalls())), ([], 1))
        self.clock.advance(0)
        self.assertEqual((self.called, self.clock.getDelayedCalls()), (["first", "a", "b"], []))

    def test_what_it_leads_to(self) -> None:
        """Belongs to the same end: what has precedence comes before what was asked earlier."""
        self.turn.at_end(lambda: self.turn.at_end_first(lambda: self.called.append("disk")))
        self.turn.at_end(lambda: self.ask("later"))
        self.ask("links")
        self.clock.advance(0)
        self.assertEqual(self.called, ["disk", "links", "later"])

    def test_failing(self) -> None:
        """It is told to the loop, and the others have their turn right after."""
        self.turn.at_end(lambda: [].pop())
        self.ask("b")
        with self.assertRaises(IndexError):
            self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual((self.called, self.clock.getDelayedCalls()), (["b"], []))
