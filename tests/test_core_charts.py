"""The five state machines: every input in every state is decided once, and ``docs/states.md`` says how.

``TXVBCAST_REWRITE_DOCS=1`` writes the page anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

from automat import NoTransition
from twisted.trial import unittest

from txvbcast.core.charts import CHARTS, FORBIDDEN, Cell, Chart, Decision, page

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "states.md"

#: Automat looks through all transitions of a machine: beyond about this many it becomes slow.
TRANSITIONS_MAX = 30

if os.environ.get("TXVBCAST_REWRITE_DOCS") == "1":
    PAGE.write_text(page())


def of(chart: Chart, decision: Decision) -> list[Cell]:
    return [cell for cell in chart.cells if cell.decision is decision]


class Completeness(unittest.TestCase):
    """Nothing is left open, and nothing is said twice."""

    def test_every_pair_is_decided_once(self) -> None:
        """Handled, ignored or forbidden; a new state or input makes this fail until all its pairs are decided."""
        for chart in CHARTS:
            pairs = Counter(product(chart.states, chart.inputs))
            decided = Counter((cell.state, cell.input) for cell in chart.cells)
            self.assertEqual(sorted((pairs - decided).elements()), [], f"{chart.name}: not decided")
            self.assertEqual(sorted((decided - pairs).elements()), [], f"{chart.name}: decided twice, or unknown")

    def test_states_are_those_of_the_machine(self) -> None:
        """The order to read them in names every state, and the first is where the machine begins or its rest."""
        for chart in CHARTS:
            self.assertEqual(len(chart.states), len(set(chart.states)), chart.name)
            self.assertEqual(set(chart.states), chart.known_states, chart.name)
            self.assertIn(chart.first_state, chart.states)

    def test_every_machine_has_its_reasons(self) -> None:
        """The table of what is forbidden names the machines that there are, and gives a reason each time."""
        self.assertEqual([chart.name for chart in CHARTS], list(FORBIDDEN))
        for chart in CHARTS:
            for never in chart.never:
                self.assertTrue(never.why.endswith("."), never)
                self.assertTrue(never.states and never.inputs, never)

    def test_forbidden_inputs_raise(self) -> None:
        """They are in no table: Automat refuses them before any code of ours runs."""
        for chart in CHARTS:
            for cell in of(chart, Decision.FORBIDDEN):
                machine = chart.at(cell.state, core=None)
                with self.assertRaises(NoTransition):
                    getattr(machine, cell.input)()

    def test_ignored_inputs_do_nothing(self) -> None:
        """They need no core to work on, whatever they carry."""
        for chart in CHARTS:
            for cell in of(chart, Decision.IGNORED):
                machine = chart.at(cell.state, core=None)
                self.assertIsNone(getattr(machine, cell.input)(None, None))

    def test_machines_stay_small(self) -> None:
        """So that a step through one of them takes a few microseconds."""
        for chart in CHARTS:
            self.assertLessEqual(len(chart.transitions), TRANSITIONS_MAX, chart.name)

    def test_every_state_can_be_reached(self) -> None:
        """Along the transitions, from the first one."""
        for chart in CHARTS:
            reached = {chart.first_state}
            for _ in chart.states:
                reached |= {cell.to for cell in chart.transitions if cell.state in reached}
            self.assertEqual(reached, set(chart.states), chart.name)


class PageTests(unittest.TestCase):
    """``docs/states.md``."""

    def test_page(self) -> None:
        """It is what the machines give today."""
        self.assertEqual(PAGE.read_text(), page(), "TXVBCAST_REWRITE_DOCS=1 writes it anew")

    def test_same_under_any_hash_seed(self) -> None:
        """Automat keeps transitions in sets; the page may not show their order."""
        for seed in ("0", "1"):
            made = subprocess.run(
                [sys.executable, "-c", "from txvbcast.core.charts import page; print(page(), end='')"],
                env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
                cwd=ROOT,
                capture_output=True,
                timeout=60,
                check=True,
            )
            self.assertEqual(made.stdout.decode(), page(), f"PYTHONHASHSEED={seed}")

    def test_of_each_kind_one(self) -> None:
        """A transition, a loop with a behaviour, one without, and a reason why not, as they should read."""
        text = page()
        for words in (
            "| `change_began` | **→ leaving** `on_change` | ignored | ignored | **→ inactive** `on_change_while_away` ",
            "| `voted` | never (1) | `on_vote` | ignored | ignored | never (6) |",
            "\n6. A flight that is done is taken off",
            "\n    [*] --> returning\n",
            "\n    voting --> done : expired, died, _refused\n",
            "| `_refused` | Nothing is left of it. |",
        ):
            self.assertIn(words, text)
        self.assertNotIn("leaving --> leaving", text)

    def test_lines_are_short(self) -> None:
        """Everything but tables fits a narrow window."""
        long = [line for line in page().splitlines() if len(line) > 120 and not line.startswith("|")]
        self.assertEqual(long, [])
