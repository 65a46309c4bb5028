"""Random runs in simulation; that their checks can fail is in test_planted and test_sim_checks."""

from __future__ import annotations

import sys

from twisted.trial import unittest

from txvbcast.core.marks import Mark
from txvbcast.sim.campaign import CampaignResult, Result, run
from txvbcast.sim.faults import FAULTS
from txvbcast.sim.options import Options
from txvbcast.sim.reach import Reached

#: Seeds that every run of the tests goes through, and how many of the long kind.
SEEDS, SOAKS = 1100, 30
#: How much time must pass in these runs together, in virtual hours.
HOURS = 20


class SwarmTests(unittest.SynchronousTestCase):
    """Whatever the faults: what clients heard is what happened, and afterwards all goes on."""

    def test_campaign(self) -> None:
        """Many seeds in all: nothing is violated, and every rare situation was met by some of them."""
        done = [self.campaign(range(SOAKS), soak=True), self.campaign(range(SEEDS), soak=False)]
        reached = Reached((Mark,))
        for result in done[0].results + done[1].results:
            reached.add(result.marks)
        hours = sum(campaign.virtual_s for campaign in done) / 3600
        cores = sum(campaign.cpu_s for campaign in done)
        say(f"{hours:.1f} virtual hours, {hours * 60 * 60 / cores:.0f} times as fast as life on one core")
        for line in reached.report():
            say(line)
        self.assertEqual([describe(result) for campaign in done for result in campaign.failing], [])
        self.assertGreaterEqual(hours, HOURS)
        self.assertEqual([mark.name for mark in reached.missing], [])

    def campaign(self, seeds: range, soak: bool) -> CampaignResult:
        """Run these seeds on all cores, and say how far it is."""
        count = 0

        def on_result(result: Result) -> None:
            nonlocal count
            count += 1
            if count % 100 == 0 or result.violation:
                say(f"{count} of {len(seeds)} {'soaks' if soak else 'seeds'}")

        return run(seeds, soak=soak, on_result=on_result)

    def test_every_fault_is_drawn(self) -> None:
        """The seeds above have among them every kind of fault and every number of nodes."""
        options = [Options.draw(seed) for seed in range(SEEDS)]
        self.assertEqual({kind for option in options for kind in option.faults}, set(FAULTS))
        self.assertEqual({option.nodes for option in options}, {2, 3, 4, 5, 6, 7, 8, 9})


def say(text: str) -> None:
    """Tell whoever watches the tests how far this is: it takes minutes."""
    sys.stdout.write(f"\n{text}")
    sys.stdout.flush()


def describe(result: Result) -> str:
    """What failed, and what repeats it."""
    return f"python -m txvbcast.sim --seed {result.seed}{' --soak' if result.soak else ''}: {result.violation}"
