"""Wrong versions of the protocol are found by random runs, and each check has one that trips it.

``TXVBCAST_REWRITE_DOCS=1`` writes the table of ``docs/planted.md`` anew, with what was found.
"""

from __future__ import annotations

import multiprocessing
import os
from functools import cache
from pathlib import Path

import attrs
from twisted.logger import globalLogBeginner
from twisted.trial import unittest

from tests.planted import GROUNDS, PLANTED
from txvbcast.sim.checks import Violation
from txvbcast.sim.swarm import Swarm

PAGE = Path(__file__).parent.parent / "docs" / "planted.md"
HEAD = "| wrong version | what is wrong | found by | where | after |\n| --- | --- | --- | --- | --- |\n"

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


def table(finds: dict[str, Find]) -> str:
    """What the page tells of all wrong versions."""
    return "".join(f"| `{name}` | {wrong.what} | {_found(name, finds)} |\n" for name, wrong in PLANTED.items())


def _found(name: str, finds: dict[str, Find]) -> str:
    if not PLANTED[name].ground:
        return f"exhaustive search | scope {PLANTED[name].scope} | "
    find = finds[name]
    seeds = 0 if find.seed is None else find.seed + 1
    by = f"invariant {find.invariant}" if find.invariant else "the core stops"
    return f"{by} | random runs: {PLANTED[name].ground} | {seeds} seed{'s' if seeds != 1 else ''}"


class PlantedTests(unittest.SynchronousTestCase):
    """Of each wrong version."""

    timeout = 900

    def setUp(self) -> None:
        """Hunt."""
        self.finds = hunt_all()
        if os.environ.get("TXVBCAST_REWRITE_DOCS") == "1":
            PAGE.write_text(PAGE.read_text().split(HEAD)[0] + HEAD + table(self.finds))

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
        """The page has every wrong version, with what is wrong, in this order."""
        listed = [tuple(line.split(" | ")[:2]) for line in PAGE.read_text().split(HEAD)[1].splitlines()]
        self.assertEqual(
            listed, [(f"| `{name}`", wrong.what) for name, wrong in PLANTED.items()], "TXVBCAST_REWRITE_DOCS=1"
        )

    def test_enough(self) -> None:
        """At least thirty, and each is to be found somewhere."""
        self.assertGreaterEqual(len(PLANTED), 30)
        for name, wrong in PLANTED.items():
            self.assertTrue(wrong.ground or wrong.scope, name)
            self.assertTrue(wrong.what.endswith("."), name)
