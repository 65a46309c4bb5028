"""``python -m txvbcast.sim``: one run, many runs, and what becomes of those that go wrong."""

from __future__ import annotations

import multiprocessing
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import attrs
import click
from click.testing import CliRunner, Result
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial import unittest

from txvbcast.sim import __main__ as command
from txvbcast.sim import campaign
from txvbcast.sim.checks import Violation
from txvbcast.sim.node import SimNode
from txvbcast.sim.options import Options
from txvbcast.sim.trace import Tally
from txvbcast.wire.messages import Entry

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "simulation.md"
#: Whose runs are short.
SEEDS = (2, 5, 6)


def start(*words: str, **options: object) -> subprocess.Popen[str]:
    """The real command, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "txvbcast.sim", *words],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, **{"stderr": subprocess.PIPE, **options},
    )  # type: ignore[call-overload, no-any-return]  # fmt: skip


def said(output: str, name: str) -> str:
    """What stands behind a name, in a column of its own."""
    found = re.search(rf"^  {name} +(.*)$", output, re.MULTILINE)
    assert found is not None, output
    return found[1]


class Tripping(Tally):
    """Finds fault with the fifth entry of every log."""

    def on_apply(self, node: SimNode, entry: Entry, dead: bool) -> None:
        if entry.seq == 5:
            raise Violation("planted: the fifth entry <is> wrong")


class Failing(Tally):
    """Is itself defective."""

    def on_fault(self, what: str) -> None:
        raise ValueError("planted: no violation")


class Complaining(Tally):
    """Meets an error, and only logs it."""

    def on_fault(self, what: str) -> None:
        if what == "peace":
            Logger().failure("planted: {what}", Failure(ValueError("swallowed")), what=what)


class CommandCase(unittest.SynchronousTestCase):
    """Calls the command in this process."""

    def call(self, *words: str, status: int = 0) -> Result:
        """What it says, once it has ended as it should."""
        result = CliRunner().invoke(command.main, words)
        self.assertEqual(result.exit_code, status, result.output)
        return result


class OneRunTests(CommandCase):
    """``--seed``."""

    def test_same_seed_same_run(self) -> None:
        """In two processes that hash strings differently, and in this one."""
        for seed in SEEDS:
            hashes = {campaign.run_seed(seed).trace_hash}
            for hash_seed in ("1", "2"):
                process = start("--seed", str(seed), env={**os.environ, "PYTHONHASHSEED": hash_seed})
                stdout, stderr = process.communicate(timeout=300)
                self.assertEqual((process.returncode, stderr), (0, ""))
                hashes.add(said(stdout, "trace hash"))
            self.assertEqual(len(hashes), 1, f"seed {seed}")

    def test_other_seed_other_run(self) -> None:
        """The hash tells runs apart, and a soak from a short run."""
        self.assertEqual(len({campaign.run_seed(seed).trace_hash for seed in SEEDS}), len(SEEDS))
        self.assertNotEqual(Options.draw(2, soak=True), Options.draw(2))

    def test_good_run(self) -> None:
        """Its options, each in a line, and what happened."""
        output = self.call("--seed", "6").output
        options = Options.draw(6)
        self.assertEqual(said(output, "nodes"), str(options.nodes))
        self.assertEqual(said(output, "faults").split(", "), list(options.faults))
        for field in (*attrs.fields(Options), *attrs.fields(type(options.conditions))):
            if field.name != "conditions":
                said(output, field.name)
        result = campaign.run_seed(6)
        self.assertIn(f"{result.virtual_s:.3f} s in {result.steps} steps", said(output, "virtual time"))
        self.assertIn(f"committed {result.outcomes['committed']}", said(output, "transactions"))
        self.assertIn("Everything that must hold did", output)
        self.assertNotIn("the last", output)

    def test_events_of_a_good_run(self) -> None:
        """If they are asked for."""
        output = self.call("--seed", "6", "--events", "7").output
        _, _, rest = output.partition("the last 7 events\n")
        lines = rest.partition("\n\n")[0].splitlines()
        self.assertEqual(len(lines), 7)
        for line in lines:
            self.assertRegex(line, r"^ +\d+\.\d{6}  [-0-9]  \S")

    def test_violation(self) -> None:
        """What does not hold, the options, what happened before, and how to see it again."""
        self.patch(campaign, "Tally", Tripping)
        output = self.call("--seed", "6", status=1).output
        self.flushLoggedErrors(Violation)
        self.assertIn("\nVIOLATION\n  planted: the fifth entry <is> wrong\n", output)
        self.assertEqual(said(output, "nodes"), str(Options.draw(6).nodes))
        self.assertIn("the last 60 events", output)
        events = re.findall(r"^ +(\d+\.\d{6})  [-0-9]  (.*)$", output, re.MULTILINE)
        self.assertEqual(len(events), 60)
        self.assertEqual(f"{float(events[-1][0]):.3f} s", said(output, "virtual time").partition(" in")[0])
        self.assertTrue(any(text.startswith("applies 4 = ") for _, text in events))
        self.assertFalse(any("Heartbeat" in text for _, text in events))
        self.assertTrue(output.endswith("this repeats it\n  python -m txvbcast.sim --seed 6\n"))

    def test_defect_of_a_watcher(self) -> None:
        """Whatever ends a run is reported, with its traceback."""
        self.patch(campaign, "Tally", Failing)
        output = self.call("--seed", "6", status=1).output
        self.assertIn("VIOLATION\n  the run failed:\n", output)
        self.assertIn("ValueError: planted: no violation", output)

    def test_logged_failure(self) -> None:
        """What was only logged is a violation too."""
        self.patch(campaign, "Tally", Complaining)
        output = self.call("--seed", "6", status=1).output
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)  # the run, and the same with a trace
        self.assertIn("VIOLATION\n  planted: peace", output)
        self.assertIn("swallowed", output)

    def test_run_that_differs(self) -> None:
        """If the same seed gives another run the simulation itself is at fault, and says so."""
        lives = iter(["once", "twice"])
        run_seed = campaign.run_seed
        self.patch(campaign, "run_seed", lambda *words: attrs.evolve(run_seed(*words), trace_hash=next(lives)))
        output = self.call("--seed", "6", "--events", "1").output
        self.assertIn("The second run of seed 6 was another one (twice, not once)", output)

    def test_drawing(self) -> None:
        """``--svg`` writes a picture of the part that is asked for."""
        path = self.mktemp()
        output = self.call("--seed", "6", "--svg", path, "--from", "2", "--to", "4").output
        self.assertIn(f"{path} shows the run from 2.000 s to 4.000 s", output)
        self.assertIn("python -m txvbcast.sim --seed 6", Path(path).read_text())

    def test_drawing_of_a_violation(self) -> None:
        """What is not said is chosen: up to the violation."""
        self.patch(campaign, "Tally", Tripping)
        path = self.mktemp()
        self.call("--seed", "6", "--svg", path, status=1)
        self.flushLoggedErrors(Violation)
        self.assertIn("planted: the fifth entry &lt;is&gt; wrong", Path(path).read_text())

    def test_window(self) -> None:
        """From the beginning of the faults, or up to the violation, unless something else is said."""
        good = campaign.Result(1, virtual_s=20.0)
        bad = campaign.Result(1, violation="wrong", virtual_s=20.0)
        self.assertEqual(command.Window(None, None).of(good), (1.5, 4.5))
        self.assertEqual(command.Window(5.0, None).of(good), (5.0, 8.0))
        self.assertEqual(command.Window(None, 2.0).of(good), (0.0, 2.0))
        self.assertEqual(command.Window(5.0, 6.0).of(bad), (5.0, 6.0))
        self.assertEqual(command.Window(None, None).of(bad), (17.0, 20.0))
        self.assertEqual(command.Window(5.0, None).of(bad), (5.0, 20.0))


class UsageTests(CommandCase):
    """What cannot be meant is refused before anything runs."""

    def test_help(self) -> None:
        """Every option has a word about it."""
        output = self.call("--help").output
        for option in command.main.params:
            assert isinstance(option, click.Option)
            self.assertIn(option.opts[0], output)
            self.assertTrue(option.help, option.name)

    def test_refused(self) -> None:
        """The error names what is wrong."""
        for words, text in (
            ((), "Say which runs"),
            (("--seed", "1", "--seeds", "1-2"), "Say which runs"),
            (("--seeds", "7"), "'7' is no range of seeds; write it like 1-1000"),
            (("--seeds", "9-3"), "the lower one first"),
            (("--seed", "-1"), "-1 is not in the range"),
            (("--seed", "1", "--jobs", "2"), "--jobs goes with --seeds only"),
            (("--seed", "1", "--keep-going"), "--keep-going goes with --seeds only"),
            (("--seeds", "1-2", "--svg", self.mktemp()), "--svg goes with --seed only"),
            (("--seeds", "1-2", "--from", "3"), "--from goes with --seed only"),
            (("--seed", "1", "--to", "3"), "say what --svg FILE draws"),
            (("--seed", "1", "--timeout", "1s"), "--timeout goes with --noise only"),
            (("--seeds", "1-2", "--noise", "1h"), "Say which runs"),
            (("--noise", "1h", "--seed", "1", "--svg", self.mktemp()), "--svg goes with --seed only"),
            (("--noise", "1h", "--soak"), "--soak and --events go with --seed or --seeds"),
            (("--cost", "--events", "3"), "--soak and --events go with --seed or --seeds only"),
            (("--cost", "--seed", "3"), "Say which runs"),
            (("--noise", "60"), "'60' has no unit: write 60s or 60ms"),
            (("--noise", "0s"), "'0s' is no time at all"),
            (("--noise", "1h", "--nodes", "1"), "1 is not in the range 2<=x<=101"),
            (("--seed", "1", "--svg", self.mktemp(), "--from", "3", "--to", "3"), "--from 3 must be before --to 3"),
            (("--seed", "1", "--svg", "/nonexistent/a.svg"), "/nonexistent/a.svg"),
        ):
            self.assertIn(text, self.call(*words, status=2).output)

    def test_commands_of_the_page(self) -> None:
        """What docs/simulation.md tells to type can be typed."""
        lines = re.findall(r"python -m txvbcast\.sim (.*)$", PAGE.read_text(), re.MULTILINE)
        self.assertGreater(len(lines), 4)
        for line in lines:
            words = [self.mktemp() if word.endswith(".svg") else word for word in line.split()]
            with command.main.make_context("sim", words) as context:
                command._check_usage(context)

    def test_watcher_of_the_page(self) -> None:
        """The program in docs/simulation.md runs as it stands there, and finds what it looks for."""
        (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
        ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
        lines = ran.stdout.splitlines()
        self.assertEqual([line.split()[0] for line in lines], [str(seed) for seed in range(10)], ran.stderr)
        self.assertRegex(ran.stdout, r"node \d performs \d+ in a hurry")


# --- many runs ---------------------------------------------------------------------------------


def die_at_three(seed: int, soak: bool) -> campaign.Result:
    """A worker that is gone, at the third seed."""
    if seed == 3:
        os._exit(7)
    return campaign.Result(seed, soak, trace_hash=str(seed))


def hang(seed: int, soak: bool) -> campaign.Result:
    """A worker that never has a result."""
    threading.Event().wait()
    raise AssertionError("nobody has woken it")


def violate(seed: int, soak: bool) -> campaign.Result:
    """Finds every seed wrong."""
    return campaign.Result(seed, soak, "wrong", "hash")


class CampaignTests(CommandCase):
    """Many seeds in several processes."""

    def test_like_one_by_one(self) -> None:
        """Two workers find what one process finds."""
        heard: list[int] = []
        done = campaign.run(SEEDS, 2, on_result=lambda result: heard.append(result.seed))
        alone = [attrs.evolve(campaign.run_seed(seed), cpu_s=0.0) for seed in SEEDS]
        self.assertEqual([attrs.evolve(result, cpu_s=0.0) for result in done.results], alone)
        self.assertEqual(sorted(heard), list(SEEDS))
        self.assertEqual((done.failing, done.asked, done.interrupted), ((), len(SEEDS), False))
        self.assertEqual(done.virtual_s, sum(result.virtual_s for result in alone))
        self.assertEqual(done.reached.runs, len(SEEDS))

    def test_dead_worker(self) -> None:
        """Its seed is named, and the others are done."""
        done = campaign.run(range(1, 8), 2, task=die_at_three)
        self.assertEqual([result.seed for result in done.results], list(range(1, 8)))
        (failing,) = done.failing
        self.assertEqual((failing.seed, failing.lost), (3, True))
        self.assertEqual(failing.violation, "its worker died with exit status 7")
        self.assertEqual(multiprocessing.active_children(), [])

    def test_hung_worker(self) -> None:
        """It is stopped, and its seed named."""
        done = campaign.run([1], 1, task=hang, patience_s=1.0)
        (failing,) = done.failing
        self.assertEqual(failing.violation, "its worker had no result after 1 s and was stopped")
        self.assertTrue(failing.lost)
        self.assertEqual(multiprocessing.active_children(), [])

    def test_enough_failures(self) -> None:
        """No seed is begun after so many; what is under way is still heard of."""
        done = campaign.run(range(50), 2, failures_max=3, task=violate)
        self.assertIn(len(done.results), (3, 4))
        self.assertEqual(done.asked, 50)
        self.assertEqual(len(campaign.run(range(5), 2, task=violate).results), 5)

    def test_interrupted(self) -> None:
        """The results so far are kept."""

        def on_result(result: campaign.Result) -> None:
            if result.seed == 2:
                raise KeyboardInterrupt

        done = campaign.run([1, 2, 4, 5], 1, on_result=on_result, task=die_at_three)
        self.assertTrue(done.interrupted)
        self.assertEqual([result.seed for result in done.results], [1, 2])
        self.assertEqual(multiprocessing.active_children(), [])

    def test_summary(self) -> None:
        """Totals, and the branches that were not reached."""
        output = self.call("--seeds", "5-6", "--jobs", "1").output
        results = [campaign.run_seed(seed) for seed in (5, 6)]
        self.assertEqual(said(output, "seeds"), "2 of 2, 0 with a violation")
        committed = sum(result.outcomes["committed"] for result in results)
        self.assertIn(f"committed {committed}", said(output, "transactions"))
        self.assertIn("rare situations were reached in 2 runs", output)
        self.assertIn("never reached: ", output)

    def test_marks(self) -> None:
        """Two seeds do not reach everything: with ``--marks`` that is a failure."""
        output = self.call("--seeds", "5-6", "--jobs", "1", "--marks", status=1).output
        self.assertRegex(output, r"\n\d+ rare branches were never reached\.\n$")

    def test_failing_seed(self) -> None:
        """Its options and last events are told, and those of one whose worker died as far as there are any."""
        self.patch(campaign, "Tally", Tripping)
        failing = campaign.run_seed(6)
        lost = campaign.Result(2, True, "its worker died")
        done = campaign.CampaignResult((lost, failing), 2, 1, 1.0)
        self.patch(campaign, "run", lambda *words, **named: done)
        output = self.call("--seeds", "5-6", "--events", "9", status=1).output
        self.flushLoggedErrors(Violation)
        _, of_lost, of_failing = re.split(r"\nVIOLATION\n", output)
        self.assertIn("  its worker died\n\nthis repeats it\n  python -m txvbcast.sim --seed 2 --soak\n", of_lost)
        self.assertIn("  planted: the fifth entry <is> wrong\n\nthe last 9 events\n", of_failing)
        self.assertIn("this repeats it\n  python -m txvbcast.sim --seed 6\n", of_failing)
        self.assertTrue(output.endswith("seeds with a violation\n  2, 6\n"))

    def test_terminal(self) -> None:
        """A bar, where somebody looks."""
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        process = start("--seeds", "5-6", "--jobs", "1", stderr=theirs, env={**os.environ, "TERM": "xterm"})
        os.close(theirs)
        drawn = b""
        while chunk := self.read(ours):
            drawn += chunk
        stdout, _ = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0)
        self.assertIn(b"2 of 2 seeds, ", drawn)
        self.assertIn(b"per minute and core), 0 violations", drawn)
        self.assertNotIn("\x1b", stdout)

    def read(self, terminal: int) -> bytes:
        """What comes next; nothing when the other side is closed."""
        try:
            return os.read(terminal, 65536)
        except OSError:  # Linux says EIO where others say end of file
            return b""

    def test_ctrl_c(self) -> None:
        """A terminal's Ctrl-C, which goes to the workers too: a summary, and no word about anything else."""
        process = start("--seeds", "0-100000", "--jobs", "1", start_new_session=True)
        assert process.stderr is not None
        first = process.stderr.readline()
        self.assertRegex(first, r"^\d+ of 100001 seeds, .* per minute and core\), \d+ violations\n$")
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=300)
        violations = int(said(stdout, "seeds").removesuffix(" with a violation").rpartition(" ")[2])
        self.assertEqual(process.returncode, 1 if violations else 130, stderr)
        self.assertTrue(stdout.endswith("\nInterrupted.\n"))
        self.assertEqual([line for line in stderr.splitlines() if " of 100001 seeds" not in line], [])
