"""Wrong versions of the protocol are found by random runs, and each check has one that trips it.

``TXVBCAST_REWRITE_DOCS=1`` writes anew what ``docs/planted.md`` tells of random runs.
"""

from __future__ import annotations

import multiprocessing
from functools import cache

import attrs
from twisted.logger import globalLogBeginner
from twisted.trial import unittest

from tests.planted import GROUNDS, PLANTED, listed, relist
from txvbcast.sim.checks import Violation
from txvbcast.sim.swarm import Swarm

#: Each wrong version is found within so many seeds of its ground.
SEEDS_TO_FIND = 150
#: Every number has a check: 1 to 18 of section 9 of the protocol, and those that the simulator adds.
INVARIANTS = frozenset(range(1, 22))
#: How many hunts go on at a time.
WORKERS = 2


@attrs.frozen
class Find:
    """What became of a hunt.

    :ivar seed: the one that found it, None if none did; invariant: 0 for a core that stopped by itself.
    :ivar clean: what the same seed says of the protocol as it is; empty if all is well.
    """

    name: str
    seed: int | None = None
    invariant: int = 0
    text: str = ""
    clean: str = ""


def hunt(name: str) -> Find:
    """Run seeds until one finds a wrong version; then the same seed without it."""
    wrong = PLANTED[name]
    options = GROUNDS[wrong.ground]
    for seed in range(SEEDS_TO_FIND):
        try:
            with wrong.version():
                Swarm(seed, options).run()
        except Violation as violation:
            return Find(name, seed, violation.invariant, str(violation), _complaint(seed, wrong.ground))
    return Find(name)


def _complaint(seed: int, ground: str) -> str:
    try:
        Swarm(seed, GROUNDS[ground]).run()
    except Violation as violation:
        return str(violation)
    return ""


def _be_quiet() -> None:
    """A worker's nodes stop by the dozen, and would say so each time."""
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)


@cache
def hunt_all() -> dict[str, Find]:
    """All hunts of random runs, by name: once for all tests."""
    names = [name for name, wrong in PLANTED.items() if wrong.ground]
    with multiprocessing.get_context("spawn").Pool(WORKERS, _be_quiet) as pool:
        return {find.name: find for find in pool.imap(hunt, names)}


def _told(find: Find) -> str:
    seeds = 0 if find.seed is None else find.seed + 1
    by = f"invariant {find.invariant}" if find.invariant else "the core stops"
    return f"{PLANTED[find.name].ground}: {by} after {seeds} seed{'s' if seeds != 1 else ''}"


class PlantedTests(unittest.SynchronousTestCase):
    """Of each wrong version."""

    timeout = 900

    def setUp(self) -> None:
        """Hunt."""
        self.finds = hunt_all()
        relist("runs", {find.name: _told(find) for find in self.finds.values()})

    def test_all_are_found(self) -> None:
        """None survives the seeds of its ground."""
        self.assertEqual([find.name for find in self.finds.values() if find.seed is None], [])

    def test_found_by_the_check_meant_for_it(self) -> None:
        """A wrong version trips the check of what it breaks, not just anything."""
        for find in self.finds.values():
            self.assertIn(find.invariant, PLANTED[find.name].trips, f"{find.name}, seed {find.seed}: {find.text}")

    def test_nothing_is_found_without_it(self) -> None:
        """The seeds that found something are clean in the protocol as it is."""
        self.assertEqual({find.name: find.clean for find in self.finds.values() if find.clean}, {})

    def test_each_check_can_fail(self) -> None:
        """Every invariant has a wrong version that trips its check."""
        self.assertEqual(INVARIANTS - {find.invariant for find in self.finds.values()}, set())

    def test_page(self) -> None:
        """The page has every wrong version, with what is wrong, in this order, and where it is found."""
        again = "TXVBCAST_REWRITE_DOCS=1 with tests.test_explore and tests.test_planted"
        lines = listed()
        self.assertEqual(
            [(line.name, line.what) for line in lines], [(name, wrong.what) for name, wrong in PLANTED.items()], again
        )
        for line, wrong in zip(lines, PLANTED.values(), strict=True):
            self.assertEqual(line.runs.partition(":")[0], wrong.ground, f"{line.name}: {again}")
            self.assertEqual(line.search.partition(":")[0].strip("`"), wrong.scope, f"{line.name}: {again}")

    def test_enough(self) -> None:
        """At least thirty, and each is to be found somewhere."""
        self.assertGreaterEqual(len(PLANTED), 30)
        for name, wrong in PLANTED.items():
            self.assertTrue(wrong.ground or wrong.scope, name)
            self.assertTrue(wrong.what.endswith("."), name)
