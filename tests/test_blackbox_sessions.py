"""Clusters of real processes under attack, with every check of what they leave behind; ``docs/blackbox.md``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.trial import unittest

from tests.blackbox import machine, nemesis
from tests.blackbox.__main__ import REPORT
from tests.blackbox.calibration import LIES
from tests.blackbox.lab import ROOT

#: After this long a session hangs: several times what it needs on a machine that is busy with something else too.
HANGS_S = 900.0


def processes_about(*words: str) -> list[int]:
    """The ids of processes whose command line has all of ``words`` in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if all(word in line for word in words):
            found.append(int(path.parent.name))
    return found


class SessionCase(unittest.TestCase):
    """Tests that run a session in a process, and in namespaces, of its own."""

    def setUp(self) -> None:
        why = machine.lack("namespaces")
        if why and not machine.is_reference():
            raise unittest.SkipTest(f"namespaces: {why}")
        self.assertEqual(why, "", "namespaces are known to work here")

    def session(self, *arguments: str) -> dict[str, Any]:
        """The report of a session in which all was well."""
        directory = Path(self.mktemp()).absolute()
        command = [sys.executable, "-m", "tests.blackbox", *arguments, "--directory", str(directory)]
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=HANGS_S
        )
        self.assertEqual(done.returncode, 0, f"{' '.join(command[1:])}\n{done.stdout}")
        report: dict[str, Any] = json.loads((directory / REPORT).read_text())
        self.assertEqual(report["complaints"], [])
        self.assertEqual(set(report["lies"]), {"a stale read", *LIES}, "the lies that were planted to try the checks")
        return report


class ProcessTests(SessionCase):
    """The process of a session."""

    def test_killed(self) -> None:
        """Whatever it has started ends with it, also when it is killed."""
        directory = str(Path(self.mktemp()).absolute())
        command = [sys.executable, "-m", "tests.blackbox", "--episodes", "1000", "--directory", directory]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as session:
            assert session.stdout is not None
            session.stdout.readline()  # an episode is over, so there are nodes
            self.assertEqual(len(processes_about(directory, "vbcast")), 3)
            session.kill()
            session.stdout.read()  # ends with the first process of the namespaces; the kernel then ends the others
        until_s = time.monotonic() + HANGS_S
        while (left := processes_about(directory)) and time.monotonic() < until_s:
            time.sleep(0.02)
        self.assertEqual(left, [])

    def test_wrong_arguments(self) -> None:
        """There is no session without an end."""
        command = [sys.executable, "-m", "tests.blackbox", "--seed", "1"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S)
        self.assertEqual(done.returncode, 2)
        self.assertIn("say when it is enough: --minutes M or --episodes E", done.stderr)

    def test_not_possible(self) -> None:
        """On a machine without the programs it says what is missing."""
        command = [sys.executable, "-m", "tests.blackbox", "--minutes", "1"]
        environment = {**os.environ, "PATH": "/nowhere"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, env=environment)
        self.assertEqual((done.returncode, done.stdout), (2, "this machine cannot do it: unshare is not installed\n"))


class AttackTests(SessionCase):
    """What a seed does."""

    def attack(self, nodes: int, seed: int, episodes: int) -> None:
        """Every kind of disturbance that this machine can do is done, and clients are served all the while."""
        report = self.session("--nodes", str(nodes), "--seed", str(seed), "--episodes", str(episodes))
        self.assertEqual(len(report["episodes"]), episodes)
        self.assertEqual(set(report["kinds"]), {kind.__name__ for kind in nemesis.available()})
        for outcome in ("reads answered", "writes answered"):
            self.assertGreater(report["outcomes"][outcome], 10 * episodes, report["outcomes"])
        self.assertGreater(report["lives"], nodes)

    def test_three_nodes(self) -> None:
        self.attack(3, 1, 26)

    def test_five_nodes(self) -> None:
        self.attack(5, 2, 24)

    def test_masters(self) -> None:
        """One master after the other is frozen or cut off, asked all the while, and comes back."""
        if machine.lack("packet filter") and not machine.is_reference():
            raise unittest.SkipTest(f"packet filter: {machine.lack('packet filter')}")
        report = self.session("--only", "Depose", "--only", "CutMaster", "--seed", "5", "--episodes", "14")
        self.assertEqual(report["kinds"], {"Depose": 7, "CutMaster": 7})


class StoryTests(SessionCase):
    """Single questions."""

    def need(self, *capabilities: str) -> None:
        """Skip where this machine lacks one of them."""
        for capability in capabilities:
            why = machine.lack(capability)
            if why and not machine.is_reference():
                raise unittest.SkipTest(f"{capability}: {why}")
            self.assertEqual(why, "", f"{capability} is known to work here")

    def test_clocks(self) -> None:
        """Timers do not care for steps of the wall clock."""
        self.need("stepped clock")
        self.session("--story", "clocks")

    def test_last_disk(self) -> None:
        """Without a quorum of disks nothing is acknowledged."""
        self.need("packet filter", "tracing")
        self.session("--story", "last-disk")
