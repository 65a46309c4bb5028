"""What the tests of real clusters need of the machine, each thing tried in small."""

from __future__ import annotations

from unittest import mock

from twisted.trial import unittest

from tests.blackbox import machine, nemesis
from tests.blackbox.machine import lack


class MachineTests(unittest.TestCase):
    """What is missing is skipped with its reason; on the reference machine nothing is."""

    def check(self, capability: str) -> None:
        """It works, or there is a reason, and this may be a machine where it does not."""
        why = lack(capability)
        if why and not machine.is_reference():
            raise unittest.SkipTest(f"{capability}: {why}")
        self.assertEqual(why, "", f"{capability} is known to work here")

    def test_namespaces(self) -> None:
        self.check("namespaces")

    def test_packet_filter(self) -> None:
        self.check("packet filter")

    def test_slow_links(self) -> None:
        self.check("slow links")

    def test_small_disk(self) -> None:
        self.check("small disk")

    def test_tracing(self) -> None:
        self.check("tracing")

    def test_stepped_clock(self) -> None:
        self.check("stepped clock")

    def test_own_monotonic_clock(self) -> None:
        self.check("own monotonic clock")

    def test_all_are_here(self) -> None:
        """No capability without a test, and none that a disturbance needs without a trial."""
        tests = {name.removeprefix("test_").replace("_", " ") for name in dir(self) if name.startswith("test_")}
        self.assertEqual(set(machine.CAPABILITIES) - tests, set())
        self.assertEqual({need for kind in nemesis.KINDS for need in kind.needs} - set(machine.CAPABILITIES), set())


class LackTests(unittest.TestCase):
    """A machine that lacks something."""

    def setUp(self) -> None:
        self.addCleanup(lack.cache_clear)
        self.addCleanup(machine.faketime_library.cache_clear)
        lack.cache_clear()
        machine.faketime_library.cache_clear()

    def test_program_missing(self) -> None:
        with mock.patch.dict("os.environ", {"PATH": "/nowhere"}):
            self.assertEqual(lack("namespaces"), "unshare is not installed")
            self.assertEqual(lack("packet filter"), "nft is not installed")
            self.assertEqual(lack("tracing"), "strace is not installed")

    def test_library_missing(self) -> None:
        with mock.patch.object(machine, "_LIBRARIES", ("/nowhere",)):
            self.assertEqual(lack("stepped clock"), "libfaketime is not installed")

    def test_it_fails(self) -> None:
        """What the program said last is the reason."""
        self.assertEqual(machine.failure(("sh", "-c", "echo first; echo no >&2; exit 3")), "sh ended with 3: no")
        self.assertEqual(machine.failure(("sh", "-c", "exit 3")), "sh ended with 3: it said nothing")

    def test_it_hangs(self) -> None:
        with mock.patch.object(machine, "TRIAL_S", 0.1):
            self.assertEqual(machine.failure(("sleep", "60")), "sleep did not end within 0 s")

    def test_disturbances_are_left_out(self) -> None:
        """Without the packet filter there are no cuts; killing is always possible."""
        with mock.patch.object(machine, "lack", lambda need: "no" if need == "packet filter" else ""):
            names = {kind.__name__ for kind in nemesis.available()}
        self.assertIn("Kill", names)
        self.assertNotIn("Split", names)

    def test_reference_machine(self) -> None:
        for variables, expected in (({}, False), ({"CI": "1"}, True), ({machine.REFERENCE_MACHINE: "1"}, True)):
            with mock.patch.dict("os.environ", variables, clear=True):
                self.assertIs(machine.is_reference(), expected)
