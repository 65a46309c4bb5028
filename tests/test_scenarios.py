"""Every story in tests/scenarios leads to what stands in it.

TXVBCAST_REWRITE_SCENARIOS=1 writes down what it leads to now.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial import unittest

from txvbcast.sim.script import play

STORIES = Path(__file__).parent / "scenarios"


class ScenarioTests(unittest.SynchronousTestCase):
    """One test a story."""

    maxDiff = None

    def check(self, path: Path) -> None:
        """Play a story and compare."""
        text = path.read_text()
        now = play(text)
        if os.environ.get("TXVBCAST_REWRITE_SCENARIOS"):
            path.write_text(now)
        self.assertEqual(text, now)

    def test_unknown_command(self) -> None:
        """A misspelt story is not taken for a short one."""
        self.assertRaises(ValueError, play, "dance\n")


for story in sorted(STORIES.glob("*.txt")):

    def _test(self: ScenarioTests, path: Path = story) -> None:
        self.check(path)

    _test.__doc__ = story.read_text().splitlines()[0].lstrip("# ")
    setattr(ScenarioTests, f"test_{story.stem}", _test)
