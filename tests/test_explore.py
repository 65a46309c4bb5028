"""The exhaustive search: it finds what is wrong, what it finds replays, and the protocol survives it.

``TXVBCAST_REWRITE_DOCS=1`` writes anew what ``docs/planted.md`` tells of the exhaustive search.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from click.testing import CliRunner
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from tests.core_samples import config, stored
from tests.planted import PLANTED, Planted, candidate_keeps_own_log, relist
from txvbcast.core.replica import Replica
from txvbcast.sim.explore.__main__ import main
from txvbcast.sim.explore.replay import Replay, replay
from txvbcast.sim.explore.scopes import SCOPES
from txvbcast.sim.explore.search import Happening, Result, Search, State
from txvbcast.sim.explore.snapshot import FAR_S, OLD_S, TIMEOUT_S, Mould, Shelf, quantised
from txvbcast.sim.explore.trace import read, shown, text_of, written

#: Each wrong version is found within so many states of its scope.
STATES_TO_FIND = 400_000
#: How many states of each scope are searched on every change, in two processes.
SHARES: tuple[dict[str, int], ...] = (
    {"voted": 3_000_000, "two": 200_000, "standing": 100_000, "pair": 150_000, "handover-claim": 100_000},
    {
        "frozen": 3_000_000, "handover": 3_000_000, "three": 200_000, "crash": 300_000, "parted": 150_000,
        "four": 100_000, "voted-claim": 100_000,
    },
)  # fmt: skip
#: Scopes of which every state is seen.
EXHAUSTED = ("voted", "frozen", "handover")


def search(scope: str, states_max: int) -> Result:
    """What a search finds, however long it takes."""
    return Search(SCOPES[scope]).run(states_max, float("inf"))


class PlantedTest(TestCase):
    """What is wrong is found, by a short trace, and the trace replays with production drivers."""

    def _find(self, wrong: Planted) -> None:
        with wrong.version():
            result = search(wrong.scope, STATES_TO_FIND)
            found = result.counterexample
            self.assertIsNotNone(found, f"{wrong.name} is not found in scope {wrong.scope}")
            assert found is not None
            by = f"invariant {wrong.broken}" if wrong.broken else "a node stops"
            self.assertTrue(found.what.startswith(f"{by}: "), found.what)
            again = replay(read(written(found)))
        self.assertEqual(again, found.what)
        self.flushLoggedErrors()  # a driver whose core raises says so
        self.assertIn(found.what, shown(found))
        ways = f"{result.states:,} states, {len(found.steps)} step{'s' if len(found.steps) != 1 else ''}"
        relist("search", {wrong.name: f"`{wrong.scope}`: {by} after {ways}"})


def _add_planted_tests() -> None:
    for name, wrong in PLANTED.items():
        if not wrong.scope:
            continue

        def test(self: PlantedTest, wrong: Planted = wrong) -> None:
            self._find(wrong)

        test.__doc__ = wrong.what
        setattr(PlantedTest, f"test_{name}", test)


_add_planted_tests()


class FaithfulTest(TestCase):
    """The search's shortcuts change nothing: it does what drivers do that live on."""

    def test_random_walks_lead_drivers_to_the_same_place(self) -> None:
        """Every node's log, promise and role, and every message, are those of a driver to which the same happened."""
        for name in SCOPES:
            for seed in range(3):
                self._walk(name, Random(f"{name} {seed}"))

    def _walk(self, name: str, random: Random) -> None:
        walked, drivers = Search(SCOPES[name]), Replay(SCOPES[name])
        state, told = walked.tell(walked.settle)
        assert state is not None
        self._do(drivers, told)
        for _ in range(25):
            successors = list(walked.successors(state))
            if not successors:
                return
            action, after = random.choice(successors)
            _, told = walked.tell(partial(walked.perform, state, action))
            self._do(drivers, told)
            state = after
            self._compare(walked, state, drivers)

    def _do(self, drivers: Replay, told: tuple[Happening, ...]) -> None:
        for happening in told:
            drivers.do(read(f"scope {drivers.scope.name}\n{text_of(happening)}").lines[0])

    def _compare(self, walked: Search, state: State, drivers: Replay) -> None:
        expected = [(local.facts, local.durable) for local in walked.nodes(state)]
        self.assertEqual([(local.facts, local.durable) for local in drivers.locals()], expected)
        self.assertLessEqual(walked.under_way(state), set(drivers.packets))

    def test_hash_seeds_change_nothing(self) -> Deferred[None]:
        """Two processes with other hash seeds see the same states in the same number of steps."""
        return self._compare_seeds()

    @inlineCallbacks
    def _compare_seeds(self) -> Generator[Deferred[Any], Any, None]:
        runs = yield gatherResults([explored("two", 20_000, seed) for seed in ("1", "2")])
        one, two = (re.sub(r"[\d,]+ states a second, [\d.]+ s", "", text) for text in runs)
        self.assertEqual(one, two)


def explored(scope: str, states_max: int, hash_seed: str = "0") -> Deferred[str]:
    """What the command prints; fails unless no invariant is broken."""
    heard = getProcessOutputAndValue(
        sys.executable,
        ["-m", "txvbcast.sim.explore", "--scope", scope, "--states-max", str(states_max), "--seconds-max", "100000"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )

    def check(answer: tuple[bytes, bytes, int]) -> str:
        out, err, status = answer
        assert status == 0, f"{out.decode()}\n{err.decode()}"
        return out.decode()

    return heard.addCallback(check)


class MillionTest(TestCase):
    """The protocol survives all of its small scopes, and the beginning of the larger ones."""

    timeout = 3600  # trial's own is two minutes; how fast this machine is decides nothing

    def test_million_states(self) -> Deferred[None]:
        """At least a million distinct global states, in two processes, and no violation among them."""
        return self._search_all()

    @inlineCallbacks
    def _search_all(self) -> Generator[Deferred[Any], Any, None]:
        self.assertEqual({name for share in SHARES for name in share}, set(SCOPES))
        counts = yield gatherResults([self._search_each(share) for share in SHARES])
        self.assertGreaterEqual(sum(counts), 1_000_000)

    @inlineCallbacks
    def _search_each(self, share: dict[str, int]) -> Generator[Deferred[Any], Any, int]:
        states = 0
        for name, states_max in share.items():
            text = yield explored(name, states_max)
            self.assertEqual("exhausted" in text, name in EXHAUSTED, text)
            found = re.match(r"[\w-]+: ([\d,]+) states", text)
            states += int(found[1].replace(",", "")) if found else 0
        return states


class SnapshotTest(TestCase):
    """A replica's state as a value."""

    def test_quantised(self) -> None:
        """Times are told apart as far as a timeout does."""
        pairs = (
            (-2 * TIMEOUT_S, OLD_S), (-TIMEOUT_S, OLD_S), (-TIMEOUT_S / 4, 0.0), (0.0, 0.0), (0.5, 0.5),
            (TIMEOUT_S - 2, TIMEOUT_S), (3 * TIMEOUT_S, FAR_S), (float("-inf"), OLD_S),
        )  # fmt: skip
        for relative_s, expected in pairs:
            self.assertEqual(quantised(relative_s), expected)
        self.assertEqual(quantised(-TIMEOUT_S / 4, exact=True), -TIMEOUT_S / 4)
        self.assertEqual(quantised(-4 * TIMEOUT_S, exact=True), OLD_S)

    def test_unknown_part(self) -> None:
        """Something new in a replica is refused rather than forgotten."""
        replica = Replica(config(), stored())
        mould = Mould(replica, Shelf())
        replica.vms = object()  # type: ignore[assignment]
        self.assertRaises(TypeError, mould.read)

    def test_marks_are_no_state(self) -> None:
        """What only tests read does not make two states of one."""
        replica = Replica(config(), stored())
        mould = Mould(replica, Shelf())
        before = mould.read()
        replica.commons.reached.add("mark")
        self.assertEqual(mould.read(), before)


class CommandTest(TestCase):
    """``python -m txvbcast.sim.explore``."""

    def _call(self, *words: str) -> Any:
        return CliRunner().invoke(main, words)

    def test_counterexample_is_saved_and_replayed(self) -> None:
        """A violation ends with status 1; its file replays; without the defect the file fits no more."""
        path = self.mktemp()
        with candidate_keeps_own_log():
            found = self._call("--scope", "three", "--save", path)
            self.assertEqual(found.exit_code, 1, found.output)
            self.assertIn("invariant 3", found.output)
            again = self._call("--replay", path)
        self.assertEqual(again.exit_code, 1, again.output)
        self.assertIn("invariant 3", again.output)
        mended = self._call("--replay", path)
        self.assertEqual(mended.exit_code, 1)
        self.assertIn(path, mended.output)

    def test_bounds_are_told(self) -> None:
        """A search that ends early says so."""
        self.assertIn("bounded: 3000 states", self._call("--scope", "three", "--states-max", "3000").output)
        self.assertIn("bounded: the time", self._call("--scope", "three", "--seconds-max", "0.01").output)

    def test_bad_traces(self) -> None:
        """What is wrong with a trace file, and in which line."""
        cases = {
            "": "the first line of a trace must be",
            "scope nine": "no scope is called 'nine'",
            "scope two\n1 restart\n1 jumps": "line 3: nothing is called 'jumps'",
            "scope two\nhello": "line 2: 'hello' says nothing",
            "scope two\n7 restart": "line 2: there is no node 7",
            "scope two\n1 sync": "line 2: node 1 is down",
            "scope two\n1 restart\n1 restart": "line 3: node 1 runs already",
            "scope two\n1 restart\n1 receives 2 Order": "line 3: node 2 has sent no such message to node 1",
            "scope two\n1 restart\nviolation of nothing": "written down for another outcome",
        }
        for text, expected in cases.items():
            path = Path(self.mktemp())
            path.write_text(text, "utf-8")
            answer = self._call("--replay", str(path))
            self.assertEqual(answer.exit_code, 1, text)
            self.assertIn(expected, answer.output)
