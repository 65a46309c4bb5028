"""``twistd vbcast``: how a node that cannot start tells its operator."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python import usage
from twisted.trial import unittest

from txvbcast.cli.init import write_cluster
from txvbcast.monotonic import use_monotonic_time
from txvbcast.tap import Options

TWISTD = "from twisted.scripts.twistd import run; run()"
ROOT = Path(__file__).parent.parent


def free_base_port() -> int:
    """A base port for ``init`` whose first node's ports are free now."""
    while True:
        with socket.socket() as peer, socket.socket() as http:
            peer.bind(("127.0.0.1", 0))
            port = peer.getsockname()[1]
            try:
                http.bind(("127.0.0.1", port + 2))
            except (OSError, OverflowError):
                continue
            return int(port) - 10


class TwistdTests(unittest.TestCase):
    """Real processes, each of which ends by itself."""

    timeout = 60

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "my cluster"
        (self.config,) = write_cluster(self.directory, 1, ["127.0.0.1"], free_base_port(), "test", insecure=True)

    async def twistd(self, *words: str) -> tuple[str, str, int]:
        """Run twistd in the cluster's folder; its stdout, stderr and exit status."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        stdout, stderr, status = await getProcessOutputAndValue(
            sys.executable, ["-c", TWISTD, *words], environment, str(self.directory)
        )
        return stdout.decode(), stderr.decode(), status

    async def test_no_config(self) -> None:
        stdout, _, status = await self.twistd("-n", "vbcast")
        self.assertIn("--config is missing: name the YAML file of this node", stdout.splitlines()[-1])
        self.assertEqual(status, 1)

    async def test_wrong_config(self) -> None:
        self.config.write_text(self.config.read_text().replace("insecure: true", "insecure: 5"))
        stdout, stderr, status = await self.twistd("-n", "vbcast", "--config", "node1.yaml")
        (line,) = stderr.splitlines()
        self.assertRegex(line, r"^vbcast: node1\.yaml:\d+: insecure: expected true or false, got the number '5'$")
        self.assertEqual((stdout, status), ("", 1))

    async def test_data_dir_of_another_kind(self) -> None:
        (self.directory / "node1").rmdir()
        (self.directory / "node1").write_text("")
        stdout, _, status = await self.twistd("-n", "--pidfile", "x.pid", "vbcast", "--config", "node1.yaml")
        self.assertIn("vbcast: data_dir", stdout.splitlines()[-1])
        self.assertNotIn("Traceback", stdout)
        self.assertEqual(status, 1)
        self.assertFalse((self.directory / "x.pid").exists())

    async def test_port_in_use(self) -> None:
        taken: Any = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        self.addCleanup(taken.stopListening)
        address = f"127.0.0.1:{taken.getHost().port}"
        text = self.config.read_text()
        for key in ("client", "http"):
            line = next(line for line in text.splitlines() if f"{key}: " in line)
            self.config.write_text(text.replace(line, f"  {key}: {address}"))
            stdout, _, status = await self.twistd("-n", "vbcast", "--config", "node1.yaml")
            self.assertIn(f"listen.{key}: cannot listen at {address}", stdout)
            self.assertIn("stop the program that has the port (is this node running already?), or choose", stdout)
            self.assertNotIn("Traceback", stdout)
            self.assertEqual(status, 1)

    async def test_short_collections(self) -> None:
        """What was made before the node runs is not looked at by garbage collections any more."""
        program = (
            "import atexit, gc, sys; from twisted.internet import reactor; reactor.callWhenRunning(reactor.stop); "
            "say = lambda: print('looked at:', len(gc.get_objects()), 'set aside:', gc.get_freeze_count(), "
            f"file=sys.__stdout__); atexit.register(say); {TWISTD}"
        )
        words = ["-c", program, "-n", "vbcast", "--config", "node1.yaml"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        stdout, stderr, _ = await getProcessOutputAndValue(sys.executable, words, environment, str(self.directory))
        found = re.search(rb"looked at: (\d+) set aside: (\d+)", stdout)
        assert found is not None, stdout + stderr
        self.assertGreater(int(found[2]), 10 * int(found[1]))

    async def test_daemon_that_cannot_start(self) -> None:
        (self.directory / "node1").rmdir()
        (self.directory / "node1").write_text("")
        _, stderr, status = await self.twistd("vbcast", "--config", "node1.yaml")
        self.assertIn("StoreError", stderr)
        self.assertEqual(status, 1)
        names = sorted(path.name for path in self.directory.iterdir())
        self.assertEqual(names, ["node1", "node1.log", "node1.yaml"])


class OptionsTests(unittest.TestCase):
    """What becomes of twistd's own options."""

    def parsed(self, **twistd: Any) -> dict[str, Any]:
        options = Options()
        options.parent = {
            "nodaemon": 0,
            "debug": False,
            "pidfile": "twistd.pid",
            "logfile": None,
            "syslog": 0,
            **twistd,
        }
        options.parseOptions(["--config", "/etc/node1.yaml"])
        return {name: options.parent[name] for name in ("pidfile", "logfile")}

    def test_daemon(self) -> None:
        self.assertEqual(self.parsed(), {"pidfile": "/etc/node1.pid", "logfile": "/etc/node1.log"})

    def test_foreground(self) -> None:
        self.assertEqual(self.parsed(nodaemon=1), {"pidfile": "", "logfile": None})
        self.assertEqual(self.parsed(debug=True), {"pidfile": "", "logfile": None})

    def test_given(self) -> None:
        self.assertEqual(self.parsed(pidfile="a", logfile="b"), {"pidfile": "a", "logfile": "b"})
        self.assertEqual(self.parsed(syslog=1)["logfile"], None)

    def test_twist(self) -> None:
        options = Options()
        options.parent = {"reactor": None}
        options.parseOptions(["-c", "node1.yaml"])
        self.assertEqual(options.parent, {"reactor": None})

    def test_no_config(self) -> None:
        error = self.assertRaises(usage.UsageError, Options().parseOptions, [])
        self.assertIn("--config is missing", str(error))


class MonotonicTests(unittest.TestCase):
    """The clock of the reactor."""

    def test_used(self) -> None:
        clock = Clock()
        use_monotonic_time(clock)
        self.assertIs(clock.seconds, time.monotonic)
        before = time.monotonic()
        call = clock.callLater(5.0, Deferred)
        self.assertGreaterEqual(call.getTime(), before + 5.0)
        self.assertLessEqual(call.getTime(), time.monotonic() + 5.0)

    def test_twice(self) -> None:
        clock = Clock()
        use_monotonic_time(clock)
        clock.callLater(5.0, Deferred)
        use_monotonic_time(clock)
        self.assertIs(clock.seconds, time.monotonic)

    def test_too_late(self) -> None:
        clock = Clock()
        clock.callLater(5.0, Deferred)
        self.assertRaises(RuntimeError, use_monotonic_time, clock)
        self.assertEqual(clock.seconds(), 0.0)
