"""The example of an adapter of one's own."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from tests.recording_sink import RecordingSink, surroundings
from txvbcast.interfaces import Go, IChangeAdapter, IChangeAdapterFactory

EXAMPLE = Path(__file__).parent.parent / "examples" / "adapter.py"

#: Has a node's own code find the plugin, as a configuration that names it would.
FIND = """
from tests.recording_sink import surroundings
from txvbcast.config import PluginConfig
from txvbcast.virt.adapters import load
print(load(0, PluginConfig(name="markers", plugin="markers", kinds=("custom",)), surroundings(None)).folder)
"""


class ExampleTests(unittest.SynchronousTestCase):
    """It begins, lets go and ends."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.clock = Clock()
        factory = runpy.run_path(str(EXAMPLE))["Markers"]
        verifyObject(IChangeAdapterFactory, factory)
        self.adapter: Any = factory.make({"folder": str(self.folder)}, surroundings(self.clock))
        verifyObject(IChangeAdapter, self.adapter)
        self.sink = RecordingSink()
        self.adapter.start(self.sink)

    def said(self) -> list[tuple[Any, ...]]:
        """All but that the folder can be read."""
        return [call for call in self.sink.calls if call[0] != "connected"]

    def mark(self) -> Path:
        """Make a marker; returns where the answer will be."""
        (self.folder / "disks.maintenance").touch()
        self.clock.advance(1.0)
        return self.folder / "disks.go"

    def test_short(self) -> None:
        self.assertLess(len(EXAMPLE.read_text().splitlines()), 50)

    def test_maintenance(self) -> None:
        (self.folder / "else.txt").touch()
        answer = self.mark()
        begin = ("begin", "custom", {"expected_s": 60.0}, "disks.maintenance", True, {})
        self.assertEqual(self.said(), [begin])
        self.assertFalse(answer.exists())
        self.sink.begun["disks.maintenance"].callback(Go(confirmed=True))
        self.assertEqual(answer.read_text(), "confirmed\n")
        self.clock.advance(1.0)
        self.assertEqual(self.said(), [begin])
        (self.folder / "disks.maintenance").unlink()
        self.clock.advance(1.0)
        self.assertEqual(self.said(), [begin, ("end", "disks.maintenance", "done")])
        self.assertEqual([path.name for path in self.folder.iterdir()], ["else.txt"])

    def test_not_confirmed(self) -> None:
        answer = self.mark()
        self.sink.begun["disks.maintenance"].callback(Go(confirmed=False, unsafe="node 2 is away"))
        self.assertEqual(answer.read_text(), "not confirmed: node 2 is away\n")

    def test_go_after_the_end(self) -> None:
        """Leaves nothing behind for the next time."""
        answer = self.mark()
        (self.folder / "disks.maintenance").unlink()
        self.clock.advance(1.0)
        self.sink.begun["disks.maintenance"].callback(Go(confirmed=False))
        self.assertFalse(answer.exists())

    def test_folder_comes_and_goes(self) -> None:
        self.folder.rmdir()
        self.clock.advance(1.0)
        self.assertEqual(self.said(), [("lost", f"{self.folder} cannot be read: No such file or directory")])
        self.folder.mkdir()
        self.mark()
        self.assertEqual(self.sink.calls[-2:][0][0], "connected")

    def test_stop(self) -> None:
        self.adapter.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PluginTests(unittest.SynchronousTestCase):
    """Twisted finds it."""

    def test_found(self) -> None:
        folder = Path(self.mktemp()).absolute()
        (folder / "twisted" / "plugins").mkdir(parents=True)
        shutil.copy(EXAMPLE, folder / "twisted" / "plugins" / "markers_plugin.py")
        code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(EXAMPLE.parent.parent)!r}]\n" + FIND
        ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
        self.assertEqual((ran.stdout, ran.returncode), ("/run/maintenance\n", 0), ran.stderr)
