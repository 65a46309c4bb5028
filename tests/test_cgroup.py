"""The adapter ``cgroup``, against the kernel's own freezer."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial import unittest

from tests.blackbox.machine import is_reference
from tests.recording_sink import RecordingSink, surroundings
from txvbcast.virt import BUILT_IN, cgroup

#: Until a machine that is busy has done what was asked of it.
PATIENCE_S = 20.0


def hierarchy() -> Path | None:
    """Where control groups of version 2 are mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


class Group:
    """A control group of this test's own with one process in it."""

    def __init__(self, parent: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="txvbcast-test-", dir=parent))
        self.process = subprocess.Popen(("sleep", "600"))
        (self.path / "cgroup.procs").write_text(str(self.process.pid))

    def freeze(self, frozen: bool = True) -> None:
        """Freeze or thaw it."""
        (self.path / "cgroup.freeze").write_text(str(int(frozen)))

    async def remove(self) -> None:
        """End the process, and take the group and those in it away: it is empty a moment later."""
        if not self.path.exists():
            return
        self.freeze(False)
        self.process.kill()
        self.process.wait()
        until_s = reactor.seconds() + PATIENCE_S
        while "populated 1" in (self.path / "cgroup.events").read_text() and reactor.seconds() < until_s:
            await deferLater(reactor, 0.01)
        for inner in self.path.iterdir():
            if inner.is_dir():
                inner.rmdir()
        self.path.rmdir()


class FreezerTests(unittest.TestCase):
    """A group that is frozen and thawed."""

    timeout = 60

    def setUp(self) -> None:
        mount, why = hierarchy(), ""
        if mount is None:
            why = "no control groups of version 2 are mounted"
        else:
            try:
                self.group = Group(mount)
            except OSError as error:
                why = f"no control group can be made below {mount}: {error}"
        if why and is_reference():
            self.fail(why)
        if why:
            raise unittest.SkipTest(why)
        self.addCleanup(self.group.remove)
        self.sink = RecordingSink()

    def begin(self, **options: object) -> cgroup.Cgroup:
        """An adapter that runs until the test ends."""
        adapter = cgroup.make({"path": str(self.group.path), **options}, surroundings(reactor))
        self.addCleanup(adapter.stop)
        adapter.start(self.sink)
        return adapter

    async def test_frozen_and_thawed(self) -> None:
        """Told by the kernel, not found by the rounds: the next one would come in an hour."""
        self.begin(interval="1h")
        path = str(self.group.path)
        self.assertEqual(self.sink.calls, [("connected", f"{path}/cgroup.events")])
        for round_ in range(1, 4):
            self.group.freeze()
            await self.sink.until_said("begin", round_)
            self.assertEqual(self.sink.under_way(), (path,))
            self.group.freeze(False)
            await self.sink.until_said("end", round_)
        self.assertEqual(self.sink.of("begin"), [("freeze", {}, path, False, {})] * 3)
        self.assertEqual(self.sink.of("end"), [(path, "done")] * 3)
        self.assertEqual(self.sink.names(), ["connected", *["begin", "end"] * 3])

    async def test_parent_frozen(self) -> None:
        """A group below the frozen one is frozen as well."""
        child = self.group.path / "inner"
        child.mkdir()
        (child / "cgroup.procs").write_text(str(self.group.process.pid))
        self.begin(path=str(child), interval="1h")
        self.group.freeze()
        await self.sink.until_said("begin")
        self.group.freeze(False)
        await self.sink.until_said("end")

    async def test_frozen_before(self) -> None:
        """What was missed is begun, once, whatever else changes and however often it is looked."""
        self.group.freeze()
        self.begin(interval="100ms")
        await self.sink.until_said("connected", 3)
        (self.group.path / "more").mkdir()
        (self.group.path / "more").rmdir()
        await self.sink.until_said("connected", 6)
        self.assertEqual(len(self.sink.of("begin")), 1)

    async def test_other_member(self) -> None:
        """A third party's word."""
        self.begin(member="node3", interval="1h")
        self.group.freeze()
        await self.sink.until_said("begin")
        self.assertEqual(self.sink.of("begin")[0][-1], {"member": 3})

    async def test_removed_while_frozen(self) -> None:
        """Told by the kernel too; and a group of the same name is found when it comes."""
        empty = Path(tempfile.mkdtemp(prefix="txvbcast-test-", dir=self.group.path.parent))
        self.addCleanup(lambda: empty.exists() and empty.rmdir())
        adapter = self.begin(path=str(empty), interval="1h")
        (empty / "cgroup.freeze").write_text("1")
        await self.sink.until_said("begin")
        empty.rmdir()
        await self.sink.until_said("lost")
        self.assertEqual(self.sink.of("end"), [(str(empty), "failed")])
        self.assertIn("there is no such group now", self.sink.of("lost")[0][0])
        empty.mkdir()
        await adapter._look()
        self.assertEqual(self.sink.names()[-1], "connected")
        (empty / "cgroup.freeze").write_text("1")
        await self.sink.until_said("begin", 2)
        self.assertEqual(len(self.sink.of("end")), 1)

    async def test_not_there_yet(self) -> None:
        """Said, tried again with back-off, and heard as soon as it is there."""
        later = self.group.path / "later"
        self.begin(path=str(later), interval="100ms")
        self.assertIn(f"{later}/cgroup.events cannot be opened: there is no such group", self.sink.of("lost")[0][0])
        await self.sink.until_said("lost", 2)
        later.mkdir()
        await self.sink.until_said("connected")
        self.assertEqual(set(self.sink.of("lost")), {self.sink.of("lost")[0]})

    async def test_unreadable_for_a_while(self) -> None:
        """A file that cannot be opened says nothing of an end."""
        adapter = self.begin(interval="1h")
        self.group.freeze()
        await self.sink.until_said("begin")
        adapter._close()
        path, adapter._path = adapter._path, f"{'x' * 300}"
        with self.assertRaises(cgroup.Unreachable):
            await adapter._look()
        self.assertEqual(self.sink.of("end"), [])
        adapter._path = path
        self.group.freeze(False)
        await adapter._look()
        self.assertEqual(self.sink.of("end"), [(path, "done")])

    async def test_stopped(self) -> None:
        """It lets go of its files; a second time, and a reactor that stops, find nothing."""
        before = len(os.listdir("/proc/self/fd"))
        adapter = self.begin(interval="1h")
        events = adapter._events
        assert events is not None
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 2)
        adapter.stop()
        adapter.stop()
        events.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(events.fileno(), -1)
        self.assertEqual(events.logPrefix(), "cgroup")
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.group.freeze()
        await deferLater(reactor, 0.05)
        self.assertEqual(self.sink.names(), ["connected"])

    def test_node_in_it(self) -> None:
        """A node that is frozen sees nothing."""
        own = cgroup.own_cgroup(str(self.group.path))
        assert own is not None
        for path in (own, self.group.path.parent):
            with self.assertRaisesRegex(ValueError, "^path: this node itself is in "):
                cgroup.make({"path": str(path)}, surroundings(reactor))


class StrangeTests(unittest.TestCase):
    """Directories that are no groups, and options."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.sink = RecordingSink()

    def problem(self) -> str:
        """What is lost."""
        adapter = cgroup.make({"path": str(self.folder)}, surroundings(reactor))
        adapter.start(self.sink)
        adapter.stop()
        self.assertEqual(self.sink.names(), ["lost"])
        return str(self.sink.of("lost")[0][0])

    def test_no_group(self) -> None:
        (self.folder / "cgroup.events").write_text("populated 1\nfrozen 1\n")
        self.assertEqual(self.problem(), f"{self.folder}/cgroup.events is no file of a control group")

    def test_version_1(self) -> None:
        (self.folder / "freezer.state").write_text("THAWED\n")
        self.assertIn("is a control group of version 1, which tells nobody", self.problem())

    def test_garbage(self) -> None:
        """A pipe can be watched as a group's file can, and says what one likes; it is no file, so it has no place 0."""
        os.mkfifo(self.folder / "cgroup.events")
        self.assertIn("cgroup.events cannot be read: Illegal seek", self.problem())

    def test_nothing_of_frozen(self) -> None:
        """As Linux before 5.2; and whatever else is no answer."""
        adapter: Any = cgroup.make({"path": str(self.folder)}, surroundings(reactor))
        for content in (b"", b"populated 1\n", b"frozen", b"frozen 2\n", b"frozen -1\n", b"\x00\xff" * 2000):
            (self.folder / "content").write_bytes(content)
            events = object.__new__(cgroup._Events)
            events._path, events._file = adapter._path, os.open(self.folder / "content", os.O_RDONLY)
            try:
                with self.assertRaisesRegex(cgroup.Unreachable, "says nothing of 'frozen'"):
                    events.frozen()
            finally:
                os.close(events._file)

    def test_options(self) -> None:
        for options, text in (
            ({}, "path: it must be given"),
            ({"path": 5}, "path: expected a text"),
            (
                {"path": "guest"},
                "path: expected an absolute path, such as /sys/fs/cgroup/machine.slice/guest, got guest",
            ),
            ({"path": "/x", "member": "node9"}, "member: there is no 'node9'; expected one of: node1, node2, node3"),
            ({"path": "/x", "interval": "10ms"}, "interval: expected at least 0.1s"),
            (
                {"path": "/x", "freezer": "1"},
                "freezer: there is no such option; expected one of: path, member, interval",
            ),
        ):
            with self.assertRaises(ValueError) as caught:
                cgroup.make(options, surroundings(reactor))
            self.assertIn(text, str(caught.exception))

    def test_no_cgroups_in_the_system(self) -> None:
        """Then nobody is in one."""
        self.patch(cgroup, "Path", lambda path: Path(str(path).replace("/proc/self/cgroup", "/nowhere")))
        self.assertIsNone(cgroup.own_cgroup(str(self.folder)))

    def test_built_in(self) -> None:
        adapter = BUILT_IN["cgroup"].make({"path": "/x"}, surroundings(reactor))
        self.assertEqual(adapter.kinds, ("freeze",))
        self.assertIsNone(adapter.stop())
