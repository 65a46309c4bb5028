"""The adapter ``command``, with real programs."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from tests.recording_sink import RecordingSink, surroundings
from txvbcast.config import CHANGE_KINDS
from txvbcast.interfaces import Go, IChangeAdapter
from txvbcast.virt import command
from txvbcast.virt.child import Child

ROOT = Path(__file__).parent.parent

BEGIN = {"event": "begin", "id": "job-1", "kind": "snapshot"}

#: Writes each line that it is told to the file of its first argument.
NOTES_WHAT_IT_HEARS = """
with open(sys.argv[1], "a") as file:
    for line in sys.stdin:
        print(line, end="", file=file, flush=True)
        if "go" in line:
            print(json.dumps({"event": "end", "id": json.loads(line)["id"]}), flush=True)
"""


class Case(unittest.TestCase):
    """An adapter and the program that it runs."""

    timeout = 60

    def make(self, program: str, *arguments: str, **options: object) -> RecordingSink:
        """Run ``program``, in Python, with ``say`` to print a line of JSON."""
        path = Path(self.mktemp())
        path.write_text(
            "import json, os, sys, time, signal\n"
            "def say(**event): print(json.dumps(event), flush=True)\n" + program
        )  # fmt: skip
        return self.run_argv([sys.executable, "-S", str(path), *arguments], **options)

    def run_argv(self, argv: list[str], **options: object) -> RecordingSink:
        """Run a program."""
        self.adapter: Any = command.make({"argv": argv, **options}, surroundings(reactor))
        verifyObject(IChangeAdapter, self.adapter)
        self.sink = RecordingSink()
        self.adapter.start(self.sink)
        self.addCleanup(self.adapter.stop)
        return self.sink

    def wait_for_file(self, path: Path, text: str) -> Deferred[None]:
        """Fires when a file that another process writes has ``text``."""
        return self.until(lambda: path.exists() and text in path.read_text())

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires as soon as something holds."""
        return deferLater(reactor, 0.02).addCallback(lambda _: None if condition() else self.until(condition))

    def is_gone(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False


class EventTests(Case):
    """What the program may say."""

    @inlineCallbacks
    def test_every_field(self) -> Any:
        sink = self.make(
            """
say(event="begin", id="a", kind="migrate_out", facts={"remaining_bytes": 5, "host": "h2"}, holdable=True, hold="1500ms",
    sequence=2**60, member="node2")
say(event="update", id="a", facts={"remaining_bytes": 3}, sequence=2**60 + 1)
say(event="end", id="a", outcome="failed", sequence=2**60 + 2)
say(event="begin", id="b", kind="freeze")
say(event="end", id="b")
time.sleep(100)
"""
        )
        yield sink.until_said("end", 2)
        self.assertEqual(
            [call for call in sink.calls if call[0] not in ("connected", "lost")],
            [
                ("begin", "migrate_out", {"remaining_bytes": 5, "host": "h2"}, "a", True, {"hold_s": 1.5, "member": 2}),
                ("update", "a", {"remaining_bytes": 3}),
                ("end", "a", "failed"),
                ("begin", "freeze", {}, "b", False, {}),
                ("end", "b", "done"),
            ],
        )
        self.assertEqual(sink.of("connected"), [(f"the program {sys.executable}",)])
        self.assertEqual(sink.of("lost"), [])

    @inlineCallbacks
    def test_refused_lines_are_said_once(self) -> Any:
        """And the lines after them count."""
        refused: list[tuple[dict[str, object] | str, str]] = [
            ({**BEGIN, "colour": 1}, "unknown field `colour`"),
            ({**BEGIN, "kind": "dance"}, "kind: expected one of migrate_out"),
            ({**BEGIN, "member": "node9"}, "member: expected one of node1, node2, node3, got 'node9'"),
            ({**BEGIN, "holdable": True, "hold": "10"}, "'10' has no unit"),
            ({**BEGIN, "hold": "10s"}, "hold: only what is holdable"),
            ({**BEGIN, "id": ""}, "length >= 1 - at `$.id`"),
            ({**BEGIN, "id": "x" * 201}, "length <= 200 - at `$.id`"),
            ({**BEGIN, "facts": {"a": [1]}}, "got `array` - at `$.facts"),
            ({**BEGIN, "facts": {str(n): n for n in range(33)}}, "length <= 32 - at `$.facts`"),
            ({"event": "end", "id": "job-1", "outcome": "splendid"}, "splendid"),
            ({"event": "update", "id": "job-1"}, "missing required field `facts`"),
            ({"event": "dance", "id": "job-1"}, "'dance' - at `$.event`"),
            ({"id": "job-1"}, "missing required field `event`"),
            ("[]", "got `array`"),
            ("{", "truncated"),
            ("hello", "malformed"),
            ('{"x":' + "[" * 50_000, "recursion"),
            ('{"event": "end", "id": "\udcff"}', "can't decode byte 0xff"),
        ]
        lines = [line if isinstance(line, str) else json.dumps(line) for line, _ in refused for _ in range(2)]
        path = Path(self.mktemp())
        path.write_text("\n".join([*lines, json.dumps(BEGIN), ""]), errors="surrogateescape")
        sink = self.make("os.write(1, open(sys.argv[1], 'rb').read()); time.sleep(100)", str(path), events_per_s=1000)
        yield sink.until_said("begin")
        said = [problem for (problem,) in sink.of("lost")]
        self.assertEqual(len(said), len(refused), said)
        for (_, expected), problem in zip(refused, said, strict=True):
            self.assertIn(expected, problem)
            self.assertLess(len(problem), 1000)
        yield sink.until_said("connected")
        self.assertEqual(sink.names("lost"), ["begin", "connected"])

    @inlineCallbacks
    def test_ever_new_nonsense(self) -> Any:
        """Is said only so often."""
        sink = self.make(
            f"for n in range(200): say(event='begin', id='a', **{{f'field{{n}}': 1}})\n"
            f"say(**{BEGIN!r}); time.sleep(100)",
            events_per_s=1000,
        )  # fmt: skip
        yield sink.until_said("begin")
        self.assertEqual(len(sink.of("lost")), command.COMPLAINTS_MAX)

    @inlineCallbacks
    def test_told_to_let_go(self) -> Any:
        """The answer, once the cluster has agreed."""
        heard = Path(self.mktemp())
        sink = self.make(f"say(**{BEGIN!r}, holdable=True)\n" + NOTES_WHAT_IT_HEARS, str(heard))
        yield sink.until_said("begin")
        yield self.wait_for_file(heard, "under_way")
        self.assertEqual(
            [json.loads(line) for line in heard.read_text().splitlines()], [{"event": "under_way", "ids": []}]
        )
        sink.begun["job-1"].callback(Go(confirmed=False, unsafe="too few: node 2 is away"))
        yield sink.until_said("end")
        self.assertEqual(
            json.loads(heard.read_text().splitlines()[1]),
            {"event": "go", "id": "job-1", "confirmed": False, "unsafe": "too few: node 2 is away"},
        )


class ProgramTests(Case):
    """Programs that end, hang, flood and fail."""

    @inlineCallbacks
    def test_runs_again(self) -> Any:
        """How it ended is said, and the next run hears what is under way."""
        heard = Path(self.mktemp())
        sink = self.make(
            f"""
if not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w")
    say(**{BEGIN!r})
    sys.exit("one\\nthe disk is on fire")
{NOTES_WHAT_IT_HEARS}
""",
            str(heard),
        )
        yield sink.until_said("lost")
        self.assertEqual(sink.names(), ["begin", "connected", "lost"])
        self.assertEqual(
            sink.of("lost"),
            [(f"the program {sys.executable}: it ended with exit code 1: the disk is on fire",)],
        )
        yield self.wait_for_file(heard, "\n")
        self.assertEqual(json.loads(heard.read_text()), {"event": "under_way", "ids": ["job-1"]})
        yield sink.until_said("connected", 2)  # it says nothing, and runs

    @inlineCallbacks
    def test_killed(self) -> Any:
        sink = self.make("os.kill(os.getpid(), signal.SIGABRT)")
        yield sink.until_said("lost", 2)
        self.assertIn("it was ended by signal 6", sink.of("lost")[1][0])
        self.assertNotIn("connected", sink.names())

    @inlineCallbacks
    def test_no_such_program(self) -> Any:
        sink = self.run_argv(["/nonexistent/program"])
        yield sink.until_said("lost", 2)
        self.assertEqual(
            set(sink.of("lost")),
            {("the program /nonexistent/program: '/nonexistent/program' cannot be run: No such file or directory",)},
        )

    @inlineCallbacks
    def test_says_its_last_word_and_ends(self) -> Any:
        """More than fits the pipe, and than may come in some seconds; all is heard before its end is."""
        line = f"say(**{{**{BEGIN!r}, 'id': str(n), 'facts': {{str(fact): 'x' * 900 for fact in range(32)}}}})"
        sink = self.make(f"for n in range(6): {line}", events_per_s=1)
        yield sink.until_said("lost")
        self.assertEqual(sink.names("connected"), ["begin"] * 6 + ["lost"])
        self.assertIn("it ended with exit code 0", sink.of("lost")[0][0])

    @inlineCallbacks
    def test_flood(self) -> Any:
        """It is slowed down, and nothing is lost."""
        printed = Path(self.mktemp())
        sink = self.make(
            f"""
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
for n in range(10**6):
    say(**{{**{BEGIN!r}, "id": str(n)}})
    os.pwrite(file, b"%d" % n, 0)
""",
            str(printed),
            events_per_s=200,
        )
        began_s = reactor.seconds()
        yield sink.until_said("begin", 601)
        self.assertGreaterEqual(reactor.seconds() - began_s, 2.9)
        self.assertEqual([call[2] for call in sink.of("begin")], [str(n) for n in range(len(sink.of("begin")))])
        waiting_bytes = 50 * (int(printed.read_text()) - 601)
        self.assertLess(waiting_bytes, 4 * 65536)  # in the pipe, and in what was read of it at once

    @inlineCallbacks
    def test_endless_line(self) -> Any:
        sink = self.make("while True: sys.stdout.write('x' * 1000)")
        yield sink.until_said("lost")
        self.assertIn("a line of more than 65536 bytes", sink.of("lost")[0][0])

    @inlineCallbacks
    def test_long_line(self) -> Any:
        """One that ends is too long as well; what came before it counts."""
        sink = self.make(f"say(**{BEGIN!r}); print('x' * 70000, flush=True); time.sleep(100)")
        yield sink.until_said("lost")
        self.assertEqual(sink.names(), ["begin", "connected", "lost"])
        self.assertIn("a line of more than 65536 bytes", sink.of("lost")[0][0])

    @inlineCallbacks
    def test_does_not_listen(self) -> Any:
        """Answers are not piled up for it."""
        sink = self.make(
            f"for n in range(5000): say(**{{**{BEGIN!r}, 'id': str(n)}})\ntime.sleep(100)", events_per_s=10_000
        )
        yield sink.until_said("begin", 5000)
        for go in sink.begun.values():
            go.callback(Go(confirmed=False, unsafe="x" * 100))
        yield sink.until_said("lost")
        self.assertIn("it does not read its standard input", sink.of("lost")[0][0])

    @inlineCallbacks
    def test_does_not_want_to_listen(self) -> Any:
        """A closed input is its own affair."""
        sink = self.make(
            f"os.close(0); say(**{BEGIN!r}); time.sleep(0.2); say(event='end', id='job-1'); time.sleep(100)"
        )
        yield sink.until_said("begin")
        sink.begun["job-1"].callback(Go(confirmed=True))
        yield sink.until_said("end")
        self.assertEqual(sink.of("lost"), [])

    @inlineCallbacks
    def test_go_after_its_end(self) -> Any:
        """Nobody is there to be told."""
        sink = self.make(f"say(**{BEGIN!r})")
        yield sink.until_said("lost")
        sink.begun["job-1"].callback(Go(confirmed=True))
        self.assertEqual(sink.names(), ["begin", "connected", "lost"])

    @inlineCallbacks
    def test_others_hold_its_pipes(self) -> Any:
        """A program that has left a child behind has ended all the same."""
        sink = self.make(
            f"pid = os.fork()\nif not pid: time.sleep(100)\nsay(**{{**{BEGIN!r}, 'id': str(pid)}}); os._exit(3)"
        )
        yield sink.until_said("begin")
        self.addCleanup(os.kill, int(sink.of("begin")[0][2]), signal.SIGKILL)
        yield sink.until_said("lost")
        self.assertIn("it ended with exit code 3", sink.of("lost")[0][0])


class StopTests(Case):
    """Nothing is left running."""

    @inlineCallbacks
    def check(self, program: str, stop: str) -> Any:
        """The program is gone when ``stop`` is done; returns how long that took."""
        sink = self.make(program + f"\nsay(**{{**{BEGIN!r}, 'id': str(os.getpid())}}); time.sleep(100)", stop=stop)
        yield sink.until_said("begin")
        pid = int(sink.of("begin")[0][2])
        self.assertFalse(self.is_gone(pid))
        began_s = reactor.seconds()
        yield self.adapter.stop()
        self.assertTrue(self.is_gone(pid))
        self.assertEqual(sink.of("lost"), [])
        return reactor.seconds() - began_s

    @inlineCallbacks
    def test_asked(self) -> Any:
        path = Path(self.mktemp())
        end = f"signal.signal(signal.SIGTERM, lambda *_: (open({str(path)!r}, 'w'), sys.exit()))"
        yield self.check(end, "30s")
        self.assertTrue(path.exists())

    @inlineCallbacks
    def test_killed_if_it_does_not_want_to(self) -> Any:
        took_s = yield self.check("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "300ms")
        self.assertGreaterEqual(took_s, 0.29)

    @inlineCallbacks
    def test_one_that_cannot_be_killed(self) -> Any:
        """It belongs to somebody else, as one that was run by sudo does: it is left with closed pipes."""
        if os.geteuid() != 0:
            raise unittest.SkipTest("needs root, to run something that another user may not end")
        prints_on = f"\nwhile True: say(**{{**{BEGIN!r}, 'id': str(os.getpid())}}); time.sleep(0.5)"
        sink = self.make("signal.signal(signal.SIGTERM, signal.SIG_IGN)" + prints_on, stop="100ms")
        yield sink.until_said("begin")
        pid = int(sink.of("begin")[0][2])
        os.setresuid(65534, 65534, 0)
        try:
            yield self.adapter.stop()
        finally:
            os.setresuid(0, 0, 0)
        yield self.until(lambda: self.is_gone(pid))

    @inlineCallbacks
    def test_between_two_runs(self) -> Any:
        sink = self.make("sys.exit(1)")
        yield sink.until_said("lost")
        self.assertIsNone(self.adapter.stop())


class ChildTests(Case):
    """What the adapters rely on, in orders that they meet only by chance."""

    @inlineCallbacks
    def test_read_on_after_the_kill(self) -> Any:
        """What is about to be closed is not read, although its end is there to be read."""
        said: list[bytes] = []
        child = Child(reactor, [sys.executable, "-S", "-c", "print(1)"], said.append)
        child.start()
        child.pause()
        pid = child.transport.pid
        yield self.until(lambda: self.is_gone(pid))
        child.kill()
        child.resume()
        ended = yield child.ended()
        self.assertEqual((said, ended.code), ([], 0))
        self.assertEqual((yield child.ended()), ended)


class OptionTests(unittest.TestCase):
    """What cannot be used is refused by name."""

    def test_refused(self) -> None:
        for options, expected in (
            ({}, "argv: it must be given"),
            ({"argv": []}, "argv: it must be given"),
            ({"argv": "ls"}, "argv: expected a list of texts"),
            ({"argv": ["ls", "a\0b"]}, "argv: it must be given"),
            ({"argv": ["ls"], "events_per_s": 0}, "events_per_s: expected a whole number from 1 to 10000"),
            ({"argv": ["ls"], "stop": "5"}, "stop: '5' has no unit"),
            (
                {"argv": ["ls"], "shell": True},
                "shell: there is no such option; expected one of: argv, events_per_s, stop",
            ),
        ):
            with self.assertRaises(ValueError) as caught:
                command.make(options, surroundings(reactor))
            self.assertIn(expected, str(caught.exception))

    def test_kinds(self) -> None:
        self.assertEqual(command.make({"argv": ["ls"]}, surroundings(reactor)).kinds, CHANGE_KINDS)


class DocsTests(Case):
    """docs/adapters/command.md."""

    @inlineCallbacks
    def test_lines(self) -> Any:
        """Those that a program prints are understood; those that it is told have the fields that are sent."""
        page = (ROOT / "docs" / "adapters" / "command.md").read_text()
        printed, told = re.findall(r"^```json\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        path = Path(self.mktemp())
        path.write_text(printed)
        sink = self.make("print(open(sys.argv[1]).read(), end='', flush=True); time.sleep(100)", str(path))
        yield sink.until_said("end")
        self.assertEqual(sink.names("connected"), ["begin", "update", "end"])
        fields = [set(json.loads(line)) for line in told.splitlines()]
        self.assertEqual(fields, [{"event", "ids"}, {"event", "id", "confirmed", "unsafe"}])


class ExampleTests(Case):
    """The example program, as docs/adapters/command.md shows it."""

    path = ROOT / "examples" / "watch_balloon.py"

    @inlineCallbacks
    def test_balloon(self) -> Any:
        meminfo = Path(self.mktemp())
        self.set_memory(meminfo, 4_000_000)
        sink = self.run_argv([sys.executable, str(self.path), str(meminfo)])
        yield sink.until_said("connected")
        yield deferLater(reactor, 1.0)  # it looks twice a second, and says nothing while nothing changes
        self.set_memory(meminfo, 3_000_000)
        yield sink.until_said("begin")
        self.set_memory(meminfo, 2_500_000)
        yield sink.until_said("update")
        yield sink.until_said("end")
        facts = {"memory_bytes": 3_000_000 * 1024, "memory_delta_bytes": -1_000_000 * 1024}
        self.assertEqual(sink.of("begin"), [("memory", facts, "balloon-1", False, {})])
        facts = {"memory_bytes": 2_500_000 * 1024, "memory_delta_bytes": -500_000 * 1024}
        self.assertEqual(sink.of("update"), [("balloon-1", facts)])
        self.assertEqual(sink.of("end"), [("balloon-1", "done")])
        self.assertEqual(sink.of("lost"), [])

    def set_memory(self, path: Path, total_kib: int) -> None:
        """As the kernel writes it, at once."""
        new = path.with_suffix(".new")
        new.write_text(f"MemTotal:       {total_kib} kB\nMemFree:         100 kB\n")
        new.rename(path)

    def test_short(self) -> None:
        self.assertLess(len(self.path.read_text().splitlines()), 40)

    @inlineCallbacks
    def test_on_this_machine(self) -> Any:
        """It reads what the kernel writes here."""
        sink = self.run_argv([sys.executable, str(self.path)])
        yield sink.until_said("connected")
        self.assertEqual(sink.of("lost"), [])
