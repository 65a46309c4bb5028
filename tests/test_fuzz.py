"""The fuzzer: a minute for each target, its corpus, and whether it finds what was planted.

What is fuzzed, and how, is in ``docs/fuzzing.md``.  A fuzzer ends its process: each runs in one of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from unittest import mock

from packaging.requirements import Requirement
from twisted.trial import unittest

from tests import fuzz
from tests.fuzz import CORPUS, TARGETS, client_frames, datagrams, frames, growing, runner, samples
from tests.fuzz.planted import DEFECTS, Defect
from tests.wire_samples import CLUSTER_ID
from txvbcast import yamlreader
from txvbcast.wire.client_messages import CLIENT_OPCODES
from txvbcast.wire.codec import CLIENTS, FrameDecoder
from txvbcast.wire.datagram import decode_datagram
from txvbcast.wire.messages import DATAGRAM_TYPES, OPCODES, Message

#: How long each target is fuzzed.
SECONDS = 60

#: After how many executions a planted defect must have been found, whatever time they take, up to a bound: in some
#: short attempts rather than in one long one, since the fuzzer now and then loses itself in one corner.
PLANTED_RUNS = 5_000
PLANTED_SEEDS = (1, 2, 3, 4)
PLANTED_SECONDS = 240

#: Fewer executions in that time than any machine manages mean that the fuzzer did not do its work.
RUNS_MIN = {"frames": 10_000, "client_frames": 5_000, "datagrams": 10_000, "config": 1_000}

CORPUS_BYTES_MAX = 1 << 20


class CorpusTests(unittest.TestCase):
    """What is shipped for the fuzzer to begin with; this needs no fuzzer."""

    def test_nothing_breaks(self) -> None:
        """Every input that was ever of interest keeps all properties."""
        for target in TARGETS:
            check = fuzz.check_of(target)
            for path in sorted((CORPUS / target).iterdir()):
                try:
                    check(path.read_bytes())
                except Exception as error:
                    raise AssertionError(f"{path} breaks a property") from error

    def test_links_in_every_state(self) -> None:
        """Every stream is tried with links on both sides, before and after Hello; the fuzzer does one of these."""
        for path in sorted((CORPUS / "frames").iterdir()):
            for size in (1, 7, 4096):
                frames.check_links(path.read_bytes(), size)
        for path in sorted((CORPUS / "client_frames").iterdir()):
            for size in (1, 7, 4096):
                client_frames.check_connections(path.read_bytes(), size)

    def test_every_message_type(self) -> None:
        """A new type of message is added by ``python -m tests.fuzz --write-samples``."""
        read: set[type[Message]] = set()
        for path in (CORPUS / "frames").glob(f"{samples.SAMPLE}*"):
            read |= {type(message) for message in FrameDecoder().feed(path.read_bytes())}
        self.assertEqual(read, set(OPCODES.values()))
        said: set[type] = set()
        for path in (CORPUS / "client_frames").glob(f"{samples.SAMPLE}*"):
            said |= {type(message) for message in FrameDecoder(family=CLIENTS).feed(path.read_bytes())}
        self.assertEqual(said, set(CLIENT_OPCODES.values()))
        sent = {
            type(decode_datagram(path.read_bytes(), CLUSTER_ID)[1])
            for path in (CORPUS / "datagrams").glob(f"{samples.SAMPLE}*")
        }
        self.assertEqual(sent, set(DATAGRAM_TYPES))

    def test_samples(self) -> None:
        """They are what ``python -m tests.fuzz --write-samples`` writes now."""
        for target in TARGETS:
            shipped = {path.name: path.read_bytes() for path in (CORPUS / target).iterdir()}
            written = {name: data for name, data in shipped.items() if not name.startswith("found-")}
            self.assertEqual(written, samples.files(target), target)

    def test_grows_by_new_ways_only(self) -> None:
        """Of inputs that were found, the shortest is kept that goes a way of its own; no other that goes the same."""
        check = fuzz.check_of("datagrams")
        good = (CORPUS / "datagrams" / f"{samples.SAMPLE}Heartbeat").read_bytes()
        self.assertEqual(growing.chosen(check, [good], [good, b"yy", b"x"]), [b"x"])

    def test_size(self) -> None:
        size_bytes = sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())
        self.assertLess(size_bytes, CORPUS_BYTES_MAX)


class MutationTests(unittest.TestCase):
    """What is made of an input gets where random bytes do not."""

    def test_past_the_checksum(self) -> None:
        """Of the other streams and datagrams, most are such that their bodies are looked into."""
        for target, enters in (
            ("frames", lambda data: bool(frames.divided(data).frames)),
            ("client_frames", lambda data: bool(frames.divided(data, CLIENTS).frames)),
            ("datagrams", lambda data: datagrams.wanted(data) is not None),
        ):
            good = [path.read_bytes() for path in sorted((CORPUS / target).glob(f"{samples.SAMPLE}*"))]
            made = [self.made(target, data, seed) for data in good for seed in range(1, 40)]
            self.assertGreater(sum(map(enters, made)), len(made) // 2, target)
            self.assertGreater(len(set(made)), len(made) // 2, target)

    def test_any_input(self) -> None:
        """Whatever is in the corpus, another input comes of it, the same for the same seed and never too long."""
        for target in TARGETS:
            for path in sorted((CORPUS / target).iterdir()):
                data = path.read_bytes()
                for seed in range(1, 20):
                    made = self.made(target, data, seed)
                    self.assertEqual(made, self.made(target, data, seed))
                    self.assertLessEqual(len(made), fuzz.INPUT_BYTES_MAX)

    def made(self, target: str, data: bytes, seed: int) -> bytes:
        """Another input of ``data``, with one byte changed where the fuzzer would change any."""
        chance = Random(seed)

        def blind(given: bytes, bytes_max: int) -> bytes:
            at = chance.randrange(len(given) + 1)
            return (given[:at] + chance.randbytes(1) + given[at + 1 :])[:bytes_max]

        other: bytes = fuzz.target(target).mutate(data, fuzz.INPUT_BYTES_MAX, seed, blind)
        return other


class FuzzCase(unittest.TestCase):
    """A test that needs the fuzzer."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        if reason := runner.absence():
            if os.environ.get("TXVBCAST_REFERENCE_MACHINE"):
                self.fail(f"this machine is to run everything, but {reason}")
            raise unittest.SkipTest(reason)


class TargetTests(FuzzCase):
    """Nothing is found in a minute."""

    def test_targets(self) -> None:
        """All targets, two at a time."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.fuzzed, TARGETS))

    def fuzzed(self, target: str) -> None:
        """Fuzz one target."""
        outcome = runner.fuzz(target, SECONDS)
        if outcome.found is not None:
            self.fail(runner.finding(target, outcome))
        self.assertEqual(outcome.status, 0, outcome.said)
        self.assertGreater(outcome.progress.runs, RUNS_MIN[target], target)


class PlantedTests(FuzzCase):
    """What is wrong is found; a method for each of DEFECTS is added below."""

    def check(self, name: str, defect: Defect) -> None:
        for seed in PLANTED_SEEDS:
            outcome = runner.fuzz(defect.target, PLANTED_SECONDS, seed, PLANTED_RUNS, name, found=self.folder)
            if outcome.found is not None:
                break
        found = outcome.found
        assert found is not None, f"not found in {outcome.progress}: {outcome.said}"
        self.assertTrue(found.name.startswith(f"{defect.target}-crash-"), found)  # and not for want of memory or time
        if defect.hidden:
            self.assertGreater(outcome.progress.runs, len(list((CORPUS / defect.target).iterdir())))


def _add_planted() -> None:
    for name, defect in DEFECTS.items():

        def test(self: PlantedTests, name: str = name, defect: Defect = defect) -> None:
            self.check(name, defect)

        setattr(PlantedTests, f"test_{name.replace(' ', '_')}", test)


_add_planted()


class CommandTests(FuzzCase):
    """``python -m tests.fuzz``."""

    def run_command(self, *words: str) -> tuple[int, str]:
        """The exit status, and all that was printed."""
        command = [sys.executable, "-m", "tests.fuzz", *words]
        ran = subprocess.run(command, cwd=runner.ROOT, capture_output=True, text=True, timeout=300)
        return ran.returncode, ran.stdout + ran.stderr

    def test_short(self) -> None:
        """It tells executions, rate and coverage."""
        status, said = self.run_command("--target", "datagrams", "--seconds", "1", "--seed", "1")
        self.assertEqual(status, 0, said)
        self.assertRegex(said, r"\d s: \d+ executions, \d+/s, coverage \d+, corpus \d+")

    def test_replay(self) -> None:
        path = CORPUS / "frames" / f"{samples.SAMPLE}Read"
        status, said = self.run_command("--target", "frames", "--replay", str(path))
        self.assertEqual((status, said), (0, f"{path}: {path.stat().st_size} bytes break nothing\n"))

    def test_replay_of_what_was_found(self) -> None:
        """What the fuzzer kept shows the defect again, without the fuzzer."""
        outcome = runner.fuzz("config", PLANTED_SECONDS, PLANTED_SEEDS[0], defect="keys unquoted", found=self.folder)
        assert outcome.found is not None
        data = outcome.found.read_bytes()
        said = runner.finding("config", outcome)
        self.assertIn(data.hex(), said)
        self.assertIn(f"--target config --replay {outcome.found}", said)
        self.assertIn("AssertionError", said)
        with mock.patch.object(yamlreader, "_shown", lambda raw: raw):
            self.assertRaises(AssertionError, fuzz.check_of("config"), data)
        fuzz.check_of("config")(data)


class AbsenceTests(unittest.TestCase):
    """Machines without a fuzzer."""

    def test_pin(self) -> None:
        """The fuzzer is wanted just where requirements.txt installs it."""
        (line,) = re.findall("^atheris==.*$", (runner.ROOT / "requirements.txt").read_text(), re.MULTILINE)
        marker = Requirement(line).marker
        assert marker is not None
        self.assertEqual(marker.evaluate(), runner.absence() is None)

    def test_other_machine(self) -> None:
        with mock.patch("platform.machine", lambda: "riscv64"):
            self.assertIn("atheris 3.0.0 has no wheel for Linux riscv64", runner.absence() or "")

    def test_skip_is_a_failure_where_everything_is_to_run(self) -> None:
        with mock.patch.object(runner, "absence", lambda: "there is none"):
            self.patch(os, "environ", {})
            self.assertRaises(unittest.SkipTest, FuzzCase("setUp").setUp)
            self.patch(os, "environ", {"TXVBCAST_REFERENCE_MACHINE": "1"})
            self.assertRaises(self.failureException, FuzzCase("setUp").setUp)

    def test_an_endless_child_is_ended(self) -> None:
        """Were the fuzzer never to end, its time would."""
        command = [sys.executable, "-c", "import time; print('well', flush=True); time.sleep(1000)"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as child:
            outcome = runner.followed(child, 1.0, lambda progress: None)
        self.assertEqual((outcome.status, outcome.said), (-9, "well\n"))
