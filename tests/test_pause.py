"""The adapter ``pause``: pages as a hypervisor writes them, processes that are stopped, uevents of the kernel."""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial import unittest

from tests.blackbox.machine import failure, is_reference, isolated
from tests.recording_sink import RecordingSink, surroundings
from txvbcast.virt import BUILT_IN, generation, pause, uevents, vmclock
from txvbcast.virt.pause import Clocks, Pause
from txvbcast.virt.polling import Unreachable

ROOT = Path(__file__).parent.parent
REVERTED = "this virtual machine was reverted to an earlier state, or cloned: "
#: How long a process is stopped, and what is told at the least.
STOPPED_S, SHORTEST = 0.6, "200ms"


class Hypervisor:
    """Writes a page as linux/vmclock-abi.h lays it out, in the order that it demands."""

    def __init__(self, path: Path | str, flags: int = vmclock.GENERATION_PRESENT) -> None:
        self.path = path = Path(path)
        # magic, size, version, counter, time type; sequence; marker; flags; then times, up to the generation
        constant = struct.pack("<IIHBB", 0x4B4C4356, 0x1000, 1, 0xFF, 1)
        head = constant + struct.pack("<IQQ", 0, 0, flags)
        if not path.exists():
            path.write_bytes(head.ljust(0x1000, b"\0"))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0x1000)

    def close(self) -> None:
        """The machine is gone."""
        self.memory.close()

    def put(self, form: str, at: int, value: int) -> None:
        """Write one number."""
        struct.pack_into(form, self.memory, at, value)

    def number(self, form: str, at: int) -> int:
        """Read one."""
        return int(struct.unpack_from(form, self.memory, at)[0])

    def count(self) -> None:
        """Raise the sequence count."""
        self.put("<I", 0x0C, (self.number("<I", 0x0C) + 1) & 0xFFFFFFFF)

    def update(self, disruption: int | None = None, generation: int | None = None) -> None:
        """As at the end of a migration, or when a snapshot was loaded."""
        self.count()
        if disruption is not None:
            self.put("<Q", 0x10, disruption)
        if generation is not None:
            self.put("<Q", 0x68, generation)
        self.count()


class PauseCase(unittest.TestCase):
    """An adapter on a clock of its own; what the reactor must watch itself is tested with processes."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.data_dir = self.folder / "data"
        self.data_dir.mkdir()
        self.record = self.data_dir / "pause.json"
        self.clock = Clock()
        self.slept_s = 0.0
        self.sink = RecordingSink()
        self.logged: list[str] = []
        globalLogPublisher.addObserver(self._log)
        self.addCleanup(globalLogPublisher.removeObserver, self._log)

    def _log(self, event: Any) -> None:
        if event.get("log_namespace") == "txvbcast.virt.pause" and event["log_level"] == LogLevel.info:
            self.logged.append(event["log_format"].format(**event))

    def machine(self, **more: Any) -> Hypervisor:
        """A hypervisor's page at ``vmclock0``."""
        hypervisor = Hypervisor(self.folder / "vmclock0", **more)
        self.addCleanup(hypervisor.close)
        return hypervisor

    def make(self, **options: object) -> Pause:
        """An adapter with this test's clocks."""
        quiet = {"uevents": False, "proc_stat": str(self.folder / "stat"), "vmclock": str(self.folder / "vmclock0")}
        if not (self.folder / "vmclock0").exists() and "vmclock" not in options:
            del quiet["vmclock"]
            self.patch(pause, "VMCLOCK", str(self.folder / "vmclock0"))
        adapter = pause.make({**quiet, **options}, surroundings(self.clock, self.data_dir))
        adapter._clocks = Clocks(self.clock.seconds, lambda: self.clock.seconds() + 1000.0 + self.slept_s)
        self.addCleanup(adapter.stop)
        return adapter

    def begin(self, **options: object) -> Pause:
        """One that runs; the node stops before the next begins."""
        adapter = self.make(**options)
        adapter.start(self.sink)
        return adapter

    def again(self, **options: object) -> Pause:
        """The next run of the node."""
        self.sink = RecordingSink()
        return self.begin(**options)

    def go_on(self, seconds: float = 1.0) -> None:
        """Time goes by, and every timer is punctual."""
        for _ in range(round(seconds * 100)):
            self.clock.advance(0.01)

    def seen(self) -> dict[str, Any]:
        """The record."""
        content: dict[str, Any] = json.loads(self.record.read_text())
        return content

    def assert_reverted(self, sign: str) -> None:
        """The node was stopped, once, with this sign and what to do; nothing is said after it."""
        ((reason,),) = self.sink.of("stop_node")
        self.assertTrue(reason.startswith(f"{REVERTED}{sign}. "), reason)
        for part in (
            f"What {self.data_dir} holds may be older than what node 1 has promised the others",
            "If this is a clone, never let it be node 1",
            "read 'A data directory is lost' in docs/operating.md",
            f"remove {self.record} and start the node",
        ):
            self.assertIn(part, reason)
        said = len(self.sink.calls)
        self.go_on(5)
        self.assertEqual(len(self.sink.calls), said)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StandstillTests(PauseCase):
    """That this node stood still."""

    def test_all_is_well(self) -> None:
        """A machine that offers nothing has its clocks; nothing is written, and a minute brings no news."""
        self.begin()
        self.go_on(60)
        self.assertEqual({*self.sink.calls}, {("connected", "the clocks of this machine")})
        self.assertEqual((self.logged, os.listdir(self.data_dir)), ([], []))

    def test_late(self) -> None:
        """The core's ticks were late too, so it is only written down; once."""
        self.begin(shortest="500ms")
        self.go_on()
        self.clock.advance(0.49)
        self.assertEqual(self.logged, [])
        self.clock.advance(2.6)
        self.go_on()
        (text,) = self.logged  # up to the interval of 0.1 s of the 2.6 s is no delay
        self.assertRegex(text, r"^this node stood still for about 2\.[56] s: a timer came 2\.[56] s late$")
        self.assertEqual(self.sink.of("paused"), [])

    def test_slept(self) -> None:
        """CLOCK_MONOTONIC saw nothing of it."""
        self.begin()
        self.go_on()
        self.slept_s += 0.4
        self.go_on()
        self.assertEqual(self.sink.of("paused"), [])
        self.slept_s += 12.3
        self.go_on()
        evidence = "this machine slept: CLOCK_BOOTTIME went 12.3 s further than CLOCK_MONOTONIC"
        self.assertEqual([(round(pause_s, 1), why) for pause_s, why in self.sink.of("paused")], [(12.3, evidence)])

    def test_slept_and_late(self) -> None:
        """All evidence in one call, and the whole time."""
        self.begin()
        self.go_on()
        self.slept_s += 10
        self.clock.advance(2.1)
        self.go_on()
        ((pause_s, evidence),) = self.sink.of("paused")
        self.assertApproximates(pause_s, 12.05, 0.06)
        self.assertRegex(evidence, r"went 10\.0 s further than CLOCK_MONOTONIC; a timer came 2\.[01] s late$")
        self.assertEqual(self.logged, [])

    def test_interrupted_between_two_readings(self) -> None:
        """A process that is stopped right there has not slept."""
        readings = iter([10.0, 13.0, 13.0, 13.001, 13.001, 13.002])  # monotonic, boottime, monotonic, and again
        clocks = Clocks(lambda: next(readings), lambda: next(readings) + 100)
        self.assertAlmostEqual(clocks.ahead_s(), 100.0)

    def test_interrupted_always(self) -> None:
        """Then the last is as good as any."""
        readings = iter(range(100))
        clocks = Clocks(lambda: float(next(readings)), lambda: next(readings) + 100.0)
        self.assertEqual(clocks.ahead_s(), 101.0)
        self.assertEqual(next(readings), 3 * pause._AT_ONCE_TRIES)

    def test_clocks_of_this_machine(self) -> None:
        """The same difference every time."""
        clocks = Clocks()
        self.assertAlmostEqual(clocks.ahead_s(), clocks.ahead_s(), places=2)

    def steal(self, text: str) -> None:
        """What /proc/stat says."""
        (self.folder / "stat").write_text(text)

    def test_stolen(self) -> None:
        """Above its threshold it is evidence, and no pause by itself."""
        self.steal("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3\n")
        self.begin(steal_percent=20)
        self.go_on(1.005)
        self.steal("cpu  110 0 110 840 0 0 0 15 0 0\n")  # 15 of 75
        self.go_on(0.5)
        self.assertEqual((self.sink.of("paused"), self.logged), ([], []))
        self.slept_s += 5
        self.go_on(0.1)
        ((_, evidence),) = self.sink.of("paused")
        self.assertIn("; the host took 20 % of the CPU time that this machine wanted to have", evidence)

    def test_stolen_a_little(self) -> None:
        self.steal("cpu  100 0 100 800 0 0 0 0 0 0\n")
        self.begin(steal_percent=21)
        self.go_on(1.005)
        self.steal("cpu  110 0 110 840 0 0 0 15 0 0\n")
        self.slept_s += 5
        self.go_on(0.1)
        self.assertNotIn("the host took", self.sink.of("paused")[0][1])

    def test_steal_is_not_told(self) -> None:
        """By a system without it, a file with something else, or when no time went by."""
        steal = pause._Steal(str(self.folder / "stat"))
        for text in (
            None,
            "",
            "cpu",
            "cpu 1 2 3 4 5 6 7\n",
            "cpu a b c d e f g h\n",
            "cpu -1 0 0 0 0 0 0 0\n",
            "gpu" * 999,
        ):
            if text is not None:
                self.steal(text)
            steal.sample()
            self.assertIsNone(steal.percent(), text)
        self.steal("cpu 1 2 3 4 5 6 7 8\n")
        steal.sample()
        self.assertIsNone(steal.percent())
        self.steal("cpu 0 0 0 0 0 0 0 0\n")
        self.assertIsNone(steal.percent())

    def test_steal_of_this_machine(self) -> None:
        steal = pause._Steal("/proc/stat")
        steal.sample()
        until_s = time.monotonic() + 20
        while (percent := steal.percent()) is None and time.monotonic() < until_s:
            pass
        assert percent is not None
        self.assertTrue(0 <= percent <= 100, percent)

    def test_disrupted(self) -> None:
        """Migrated: the generation is the same. Its length is not known."""
        machine = self.machine()
        self.begin()
        self.go_on()
        machine.update(disruption=1)
        self.go_on()
        self.clock.advance(0.1)
        evidence = f"the disruption marker of {machine.path} changed: this machine was moved or loaded"
        self.assertEqual([(round(pause_s), why) for pause_s, why in self.sink.of("paused")], [(0, evidence)])
        machine.update(disruption=0)
        self.clock.advance(2.1)
        self.go_on()
        self.assertEqual(len(self.sink.of("paused")), 2)
        self.assertIn(f"{evidence}; a timer came 2.", self.sink.of("paused")[1][1])

    def test_disrupted_before_the_start(self) -> None:
        """The node was not there."""
        machine = self.machine()
        machine.update(disruption=17)
        self.begin()
        self.go_on()
        self.assertEqual(self.sink.of("paused"), [])

    def test_written_to_at_the_start(self) -> None:
        """The first that can be read is what later ones are compared with."""
        machine = self.machine()
        machine.count()
        self.begin()
        self.assertEqual(self.sink.names(), ["lost"])
        machine.put("<Q", 0x10, 8)
        machine.count()
        self.go_on(3)
        self.assertEqual({*self.sink.names()}, {"lost", "connected"})

    def test_a_write_that_takes_long(self) -> None:
        """What stands there meanwhile is not believed; that it goes on is said, and the rest is known afterwards."""
        machine = self.machine()
        self.begin()
        self.go_on(0.5)
        machine.count()
        machine.put("<Q", 0x10, 1)
        machine.put("<Q", 0x68, 99)
        self.go_on()
        self.assertEqual(self.sink.of("paused"), [])
        self.assertEqual(self.sink.names()[-1], "lost")
        self.assertEqual(self.sink.calls[-1][1], f"{machine.path} is being written to, and is not done")
        machine.put("<Q", 0x68, 0)
        machine.count()
        self.go_on(3)
        self.assertEqual(len(self.sink.of("paused")), 1)
        self.assertEqual(self.sink.names()[-1], "connected")


class GenerationTests(PauseCase):
    """That this virtual machine is not the one that it was."""

    def test_same_machine(self) -> None:
        """Run after run."""
        machine = self.machine()
        machine.update(generation=5)
        for _ in range(3):
            adapter = self.again()
            self.go_on(2)
            self.assertEqual({*self.sink.calls}, {("connected", f"the clocks of this machine, {machine.path}")})
            adapter.stop()
        self.assertEqual(self.seen(), {"generations": {str(machine.path): "5"}, "changed": ""})
        self.assertEqual(os.listdir(self.data_dir), ["pause.json"])

    def test_reverted_while_it_runs(self) -> None:
        """At the next tick, and no pause is told besides."""
        machine = self.machine()
        self.begin(interval="10ms")
        self.go_on(0.5)
        machine.update(disruption=1, generation=1)
        self.clock.advance(0.01)
        self.assert_reverted(f"the generation counter of {machine.path} is 1 and was 0")
        self.assertEqual(self.sink.of("paused"), [])

    def test_started_again(self) -> None:
        """It stops each time, whatever the counter says, until somebody has looked and removed the record."""
        machine = self.machine()
        self.begin()
        self.go_on(0.5)
        machine.update(generation=1)
        self.go_on(0.5)
        for counter in (1, 0):
            machine.update(generation=counter)
            self.again()
            self.assertEqual(self.sink.names(), ["stop_node"])
            self.assert_reverted(f"the generation counter of {machine.path} is 1 and was 0")
        self.record.unlink()
        self.again()
        self.go_on()
        self.assertEqual({*self.sink.names()}, {"connected"})

    def test_reverted_between_two_runs(self) -> None:
        """Before anything else is said."""
        machine = self.machine()
        machine.update(generation=4)
        self.begin().stop()
        machine.update(generation=3)
        self.again()
        self.assertEqual(self.sink.names(), ["stop_node"])
        self.assert_reverted(f"the generation counter of {machine.path} is 3 and was 4")

    def test_switched_off_and_on(self) -> None:
        """A machine that was started, and not loaded, counts from 0 again."""
        machine = self.machine()
        machine.update(generation=4)
        self.begin().stop()
        machine.update(generation=0)
        self.again()
        self.go_on()
        self.assertEqual({*self.sink.names()}, {"connected"})
        self.assertEqual(self.seen()["generations"], {str(machine.path): "0"})
        machine.update(generation=1)
        self.go_on()
        self.assert_reverted(f"the generation counter of {machine.path} is 1 and was 0")

    def test_counter_0_in_the_middle(self) -> None:
        """No machine is switched on while a node runs."""
        machine = self.machine()
        machine.update(generation=4)
        self.begin()
        machine.update(generation=0)
        self.go_on()
        self.assert_reverted(f"the generation counter of {machine.path} is 0 and was 4")

    def test_no_counter(self) -> None:
        """What stands in its place is not looked at; nor is there a reason to forget the last one."""
        machine = self.machine(flags=~vmclock.GENERATION_PRESENT & 0xFFFF_FFFF_FFFF_FFFF)
        self.record.write_text(json.dumps({"generations": {str(machine.path): "9"}, "changed": ""}))
        self.begin()
        machine.update(generation=7)
        self.go_on()
        self.assertEqual({*self.sink.names()}, {"connected"})
        self.assertEqual(self.seen()["generations"], {str(machine.path): "9"})
        machine.put("<Q", 0x18, vmclock.GENERATION_PRESENT)
        self.go_on()
        self.assert_reverted(f"the generation counter of {machine.path} is 7 and was 9")

    def test_counter_that_comes_later(self) -> None:
        """It is kept."""
        machine = self.machine(flags=0)
        self.begin()
        machine.update(generation=7)
        machine.put("<Q", 0x18, vmclock.GENERATION_PRESENT)
        self.go_on(2)
        self.assertEqual(self.seen()["generations"], {str(machine.path): "7"})

    def test_files(self) -> None:
        """Another content, while the node runs or between two runs; only a fingerprint of it is kept."""
        first, second = self.folder / "product_uuid", self.folder / "instance-id"
        first.write_text("2f1c6cbe\n")
        second.write_bytes(b"\0\xff" * 100_000)
        files = {"generation_files": [str(first), str(second)]}
        adapter = self.begin(**files)
        self.go_on(2)
        self.assertEqual({*self.sink.calls}, {("connected", f"the clocks of this machine, {first}, {second}")})
        self.assertNotIn("2f1c", self.record.read_text())
        first.write_text("77c0ffee\n")
        self.go_on(2)
        self.assert_reverted(f"the content of {first} is another than before")
        adapter.stop()
        first.write_text("2f1c6cbe\n")
        self.record.unlink()
        self.again(**files).stop()
        first.write_text("77c0ffee\n")
        self.again(**files)
        self.assertEqual(self.sink.names(), ["stop_node"])
        self.assert_reverted(f"the content of {first} is another than before")

    def test_both_changed(self) -> None:
        """One stop is enough."""
        machine, file = self.machine(), self.folder / "id"
        file.write_text("a")
        self.begin(generation_files=[str(file)]).stop()
        machine.update(generation=1)
        file.write_text("b")
        self.again(generation_files=[str(file)])
        self.assertEqual(self.sink.names(), ["stop_node"])

    def test_two_files_changed(self) -> None:
        one, two = self.folder / "one", self.folder / "two"
        for content in ("a", "b"):
            one.write_text(content)
            two.write_text(content)
            self.again(generation_files=[str(one), str(two)]).stop()
        self.assertEqual(self.sink.names(), ["stop_node"])

    def test_file_not_there(self) -> None:
        """Said, and tried again; what can be looked at is."""
        machine, missing = self.machine(), self.folder / "missing"
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        self.begin(generation_files=[str(missing), str(pipe)])
        self.go_on(5)
        self.assertEqual(
            {*self.sink.calls},
            {("lost", f"generation_files: there is no {missing}; generation_files: {pipe} is not a file")},
        )
        missing.write_text("a")
        pipe.unlink()
        pipe.write_text("b")
        self.go_on(31)
        self.assertEqual(self.sink.names()[-1], "connected")
        self.assertEqual(set(self.seen()["generations"]), {str(machine.path), str(missing), str(pipe)})
        machine.update(generation=1)
        self.go_on(0.1)
        self.assert_reverted(f"the generation counter of {machine.path} is 1 and was 0")

    def test_record_damaged(self) -> None:
        """It was written whole, so something is wrong; that is for people to find out."""
        for content in (
            b"",
            b"{",
            b"[]",
            b'{"generations": 5}',
            b'{"generations": {"a": 1}}',
            b'{"changed": null}',
            b"\xff" * 9,
        ):
            self.record.write_bytes(content)
            self.again()
            ((reason,),) = self.sink.of("stop_node")
            self.assertTrue(reason.startswith(f"{self.record} holds something else than what was written: "), reason)
            self.assertIn("So it cannot be told whether this virtual machine was reverted or cloned. What ", reason)
            self.assertEqual((self.sink.names(), self.record.read_bytes()), (["stop_node"], content))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_record_not_readable(self) -> None:
        self.record.mkdir()
        self.begin()
        self.assertTrue(self.sink.of("stop_node")[0][0].startswith(f"{self.record} is not a file. So it cannot"))

    def test_record_not_opened(self) -> None:
        self.record.symlink_to(self.record)
        self.begin()
        self.assertIn(f"{self.record} cannot be opened: Too many levels", self.sink.of("stop_node")[0][0])

    def test_read_error(self) -> None:
        """The kernel opens this file and does not read it."""
        with self.assertRaisesRegex(Unreachable, "/proc/self/mem cannot be read: Input/output error"):
            generation.read_file("/proc/self/mem")

    def test_record_not_written(self) -> None:
        """Said, and tried again."""
        machine = self.machine()
        self.data_dir.rmdir()
        self.begin()
        self.assertEqual(self.sink.calls, [("lost", f"{self.record} cannot be written: No such file or directory")])
        self.data_dir.mkdir()
        self.go_on(5)
        self.assertEqual(self.sink.names()[-1], "connected")
        self.assertEqual(self.seen()["generations"], {str(machine.path): "0"})

    def test_change_not_written(self) -> None:
        """The node stops all the same."""
        machine = self.machine()
        self.begin()
        self.record.unlink()
        self.data_dir.rmdir()
        machine.update(generation=1)
        self.go_on(0.2)
        self.assert_reverted(f"the generation counter of {machine.path} is 1 and was 0")

    def test_on_the_disk(self) -> None:
        """The file before its name, and the name before anybody goes on."""
        self.machine()
        order: list[Any] = []
        fsync, replace = os.fsync, Path.replace

        def synced(file: int) -> None:
            order.append((os.readlink(f"/proc/self/fd/{file}"), os.fstat(file).st_size > 0))
            fsync(file)

        def replaced(source: Path, target: Path) -> Path:
            order.append("replace")
            return replace(source, target)

        self.patch(os, "fsync", synced)
        self.patch(Path, "replace", replaced)
        self.begin()
        self.go_on(5)
        (new, written), then, (folder, _) = order
        self.assertEqual((new, written, then, folder), (f"{self.record}.new", True, "replace", str(self.data_dir)))


class PageTests(PauseCase):
    """Pages that are none, and one that is written while it is read."""

    def problem(self) -> str:
        """What is lost."""
        self.sink.calls.clear()
        self.begin(vmclock=str(self.folder / "vmclock0")).stop()
        ((problem,),) = self.sink.of("lost")
        return str(problem)

    def test_not_there(self) -> None:
        """One that was asked for is missed."""
        self.assertEqual(self.problem(), f"{self.folder}/vmclock0 cannot be opened: No such file or directory")

    def test_comes_later(self) -> None:
        """One that was not asked for is used when it comes, as with a driver that is loaded."""
        self.begin()
        self.go_on(2)
        machine = self.machine()
        self.go_on(2)
        self.assertEqual(self.sink.calls[-1], ("connected", f"the clocks of this machine, {machine.path}"))

    def test_something_else(self) -> None:
        path = self.folder / "vmclock0"
        path.mkdir()
        self.assertEqual(self.problem(), f"{path} is neither a device nor a file")
        path.rmdir()
        os.mkfifo(path)
        self.assertEqual(self.problem(), f"{path} is neither a device nor a file")
        path.unlink()
        for content in (b"", b"VCLK", bytes(4095)):
            path.write_bytes(content)
            self.assertIn(f"{path} cannot be mapped into memory: ", self.problem())
        path.unlink()
        path.symlink_to("/dev/null")
        self.assertIn(f"{path} cannot be mapped into memory: ", self.problem())

    def test_no_vmclock(self) -> None:
        machine = self.machine()
        for form, at, value, text in (
            ("<I", 0, 0, "magic 0x0, version 1, size 4096"),
            ("<H", 8, 2, "magic 0x4b4c4356, version 2, size 4096"),
            ("<I", 4, 0x1F, "magic 0x4b4c4356, version 1, size 31"),
        ):
            before = machine.number(form, at)
            machine.put(form, at, value)
            self.assertEqual(self.problem(), f"{machine.path} is no vmclock of version 1: it begins with {text}")
            machine.put(form, at, before)

    def test_too_small_for_a_generation(self) -> None:
        """A page of before there was one, whatever its flags say."""
        machine = self.machine()
        machine.update(disruption=3, generation=4)
        for size_bytes, expected in ((0x20, None), (0x6F, None), (0x70, 4), (0x1000, 4)):
            machine.put("<I", 4, size_bytes)
            page = vmclock.Page(str(machine.path))
            self.addCleanup(page.close)
            self.assertEqual(page.read(), vmclock.Reading(3, expected))

    def test_read_while_it_is_written(self) -> None:
        """Two numbers that are always written together are never seen apart; the count passes its end meanwhile."""
        machine = self.machine()
        machine.put("<I", 0x0C, 0xFFFF_FF00)
        page = vmclock.Page(str(machine.path))
        self.addCleanup(page.close)
        script = (
            "import sys; from tests.test_pause import Hypervisor; machine = Hypervisor(sys.argv[1])\n"
            "for value in range(1, 1 << 60): machine.update(value, value)"
        )
        writer = subprocess.Popen((sys.executable, "-c", script, str(machine.path)), cwd=ROOT)
        self.addCleanup(writer.wait)
        self.addCleanup(writer.kill)
        read: set[vmclock.Reading] = set()
        until_s = time.monotonic() + 40
        while len(read) < 5000 and time.monotonic() < until_s:
            try:
                read.add(page.read())
            except Unreachable:
                continue  # the writer was put aside in the middle
        self.assertGreaterEqual(len(read), 5000)
        self.assertEqual([reading for reading in read if reading.disruption != reading.generation], [])

    def test_nothing_is_kept_open(self) -> None:
        self.machine()
        before = len(os.listdir("/proc/self/fd"))
        adapter = self.begin()
        adapter.stop()
        adapter.stop()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class OptionsTests(PauseCase):
    """What can be configured."""

    def test_defaults(self) -> None:
        adapter = BUILT_IN["pause"].make({}, surroundings(Clock()))
        self.assertEqual(
            adapter._settings,
            pause.Settings(0.1, 1.0, 0.5, 10, "/proc/stat", True, "/dev/vmclock0", False, ()),
        )
        self.assertEqual(adapter.kinds, ())
        self.assertIsNone(adapter.stop())

    def test_refused(self) -> None:
        for options, text in (
            ({"interval": "1ms"}, "interval: expected at least 0.01s"),
            ({"read_interval": 5}, "read_interval: expected a duration"),
            ({"shortest": "soon"}, "shortest: "),
            ({"steal_percent": 0}, "steal_percent: expected a whole number from 1 to 100"),
            ({"proc_stat": ""}, "proc_stat: expected a text that is not empty"),
            ({"uevents": "no"}, "uevents: expected true or false"),
            ({"vmclock": False}, "vmclock: expected a text"),
            ({"generation_files": "/x"}, "generation_files: expected a list of texts"),
            ({"vmgenid": True}, "vmgenid: there is no such option; expected one of: interval, "),
        ):
            with self.assertRaises(ValueError) as caught:
                pause.make(options, surroundings(Clock()))
            self.assertIn(text, str(caught.exception))

    def test_another_system(self) -> None:
        self.patch(pause, "time", object())
        with self.assertRaisesRegex(ValueError, "^it needs the clocks of Linux$"):
            pause.make({}, surroundings(Clock()))

    def test_uevents_not_allowed(self) -> None:
        """As in a sandbox without netlink: the rest goes on."""
        self.patch(uevents, "NETLINK_KOBJECT_UEVENT", 31)
        self.begin(uevents=True)
        ((problem,),) = self.sink.of("lost")
        self.assertIn(
            "the system lets this process hear no uevents (Protocol not supported); 'uevents: false'", problem
        )


class Child(ProcessProtocol):
    """A process with the adapter; its lines, as they come."""

    def __init__(self) -> None:
        self.lines: list[list[Any]] = []
        self.errors = b""
        self.ended: Deferred[None] = Deferred()
        self._rest = b""
        self._waiting: list[tuple[str, Deferred[list[Any]]]] = []

    def said(self, name: str) -> Deferred[list[Any]]:
        """The next line of this name, from now on."""
        waiting: Deferred[list[Any]] = Deferred()
        self._waiting.append((name, waiting))
        return waiting

    def outReceived(self, data: bytes) -> None:
        """Whole lines."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in map(json.loads, lines):
            self.lines.append(line)
            ready = [waiting for name, waiting in self._waiting if name == line[0]]
            self._waiting = [pair for pair in self._waiting if pair[0] != line[0]]
            for waiting in ready:
                waiting.callback(line)

    def errReceived(self, data: bytes) -> None:
        """Shown when a test fails."""
        self.errors += data

    def processEnded(self, reason: Any) -> None:
        """Nobody waits in vain."""
        waiting, self._waiting = self._waiting, []
        for name, each in waiting:
            each.errback(AssertionError(f"it ended before it said {name}: {self.lines} {self.errors.decode()}"))
        self.ended.callback(None)


class ProcessCase(unittest.TestCase):
    """The adapter in a process of its own."""

    timeout = 120

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.machine = Hypervisor(self.folder / "vmclock0")
        self.addCleanup(self.machine.close)

    def run_child(self, *before: str, **options: object) -> Child:
        """Start it; it ends with the test, by the end of its input."""
        child = Child()
        words = {"interval": "20ms", "read_interval": "100ms", "shortest": SHORTEST, **options}
        command = (*before, sys.executable, "-m", "tests.pause_child", str(self.folder), json.dumps(words))
        process = reactor.spawnProcess(child, command[0], command, env=dict(os.environ), path=str(ROOT))

        def end() -> Deferred[None]:
            process.loseConnection()
            return child.ended

        self.addCleanup(end)
        self.child, self.process = child, process
        return child


class SignalTests(ProcessCase):
    """Stopped by SIGSTOP."""

    async def stop_for_a_while(self) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.process.signalProcess(signal.SIGSTOP)
        waiting: Deferred[None] = Deferred()
        reactor.callLater(STOPPED_S, waiting.callback, None)
        await waiting

    async def test_stopped(self) -> None:
        """What the core sees itself is written down, and not told to it."""
        child = self.run_child(uevents=False)
        await child.said("connected")
        await self.stop_for_a_while()
        logged = child.said("log")
        self.process.signalProcess(signal.SIGCONT)
        _, text = await logged
        self.assertRegex(text, r"^this node stood still for about 0\.[5-9] s: a timer came 0\.[5-9] s late")
        self.assertNotIn("paused", [line[0] for line in child.lines])

    async def test_stopped_and_moved(self) -> None:
        """As when a machine is migrated: the page has changed when it goes on."""
        child = self.run_child(uevents=False, vmclock=str(self.machine.path))
        await child.said("connected")
        await self.stop_for_a_while()
        self.machine.update(disruption=1)
        paused = child.said("paused")
        self.process.signalProcess(signal.SIGCONT)
        _, pause_s, evidence = await paused
        self.assertGreater(pause_s, STOPPED_S - 0.1)
        self.assertRegex(evidence, "^the disruption marker of .* changed: .*; a timer came 0.[5-9] s late")
        self.assertNotIn("log", [line[0] for line in child.lines])

    async def test_stopped_and_reverted(self) -> None:
        """It says nothing else first, nor when it is started again."""
        for round_ in range(2):
            child = self.run_child(uevents=False, vmclock=str(self.machine.path))
            stopped = child.said("stop_node")
            if round_ == 0:
                await child.said("connected")
                await self.stop_for_a_while()
                self.machine.update(disruption=1, generation=1)
                self.process.signalProcess(signal.SIGCONT)
            _, reason = await stopped
            self.assertTrue(
                reason.startswith(f"{REVERTED}the generation counter of {self.machine.path} is 1 and was 0")
            )
            self.assertEqual(
                {line[0] for line in child.lines}, {"connected", "stop_node"} if round_ == 0 else {"stop_node"}
            )


class UeventTests(ProcessCase):
    """Uevents that the kernel sends in a network namespace of the process's own."""

    GENERATION = (
        "change@/devices/platform/VMGENCTR:00|ACTION=change|DEVPATH=/devices/platform/VMGENCTR:00|"
        "SUBSYSTEM=platform|NEW_VMGENID=1"
    )
    OTHER = "change@/devices/virtual/net/lo|ACTION=change|DEVPATH=/devices/virtual/net/lo|XNEW_VMGENID=1|NEW_VMGENID=10"

    def setUp(self) -> None:
        super().setUp()
        why = failure(isolated("true"))
        if why and is_reference():
            self.fail(why)
        if why:
            raise unittest.SkipTest(why)

    def send(self, line: str) -> None:
        """A command of the child."""
        self.process.write(f"{line}\n".encode())

    async def test_new_generation(self) -> None:
        """It stops the node, now and at the next start; other news, and what programs send, do not."""
        child = self.run_child(*isolated())
        await child.said("connected")
        self.assertEqual(child.lines, [["connected", "the clocks of this machine, uevents"]])
        for line in (f"program {self.GENERATION}", f"kernel {self.OTHER}"):
            self.send(line)
            await child.said("connected")
            await child.said("connected")
        self.assertEqual({line[0] for line in child.lines}, {"connected"})
        stopped = child.said("stop_node")
        self.send(f"kernel {self.GENERATION}")
        _, reason = await stopped
        self.assertTrue(reason.startswith(f"{REVERTED}the kernel has a new VM generation id. What "), reason)
        child = self.run_child(uevents=False)
        _, reason = await child.said("stop_node")
        self.assertTrue(reason.startswith(f"{REVERTED}the kernel has a new VM generation id. What "), reason)
        self.assertEqual(len(child.lines), 1)

    async def test_more_than_the_kernel_keeps(self) -> None:
        """One may have been lost: said, and it goes on listening."""
        child = self.run_child(*isolated())
        await child.said("connected")
        lost = child.said("lost")
        self.send(f"flood 20000 {self.OTHER}")
        _, problem = await lost
        self.assertIn(
            "the kernel had more uevents than it keeps; one of a new VM generation may have been lost", problem
        )
        await child.said("connected")
        stopped = child.said("stop_node")
        self.send(f"kernel {self.GENERATION}")
        await stopped
