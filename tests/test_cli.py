"""The command line against a real HTTP server: what it prints, and its exit codes whatever happens."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import click
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial import unittest

from tests.fake_node import FakeAbsences, FakeNode
from txvbcast.absences import Notice
from txvbcast.cli import api, running
from txvbcast.cli import main as cli
from txvbcast.cli.api import Api
from txvbcast.cli.failures import Exit
from txvbcast.cli.session import Session
from txvbcast.control.contracts import HttpLimits
from txvbcast.control.http import HttpApi
from txvbcast.errors import Aborted, NoQuorum, OutcomeUnknown, Overloaded
from txvbcast.wire.messages import Mode

ROOT = Path(cli.__file__).parent.parent.parent


async def until(condition: Any) -> None:
    """Let the reactor turn until ``condition()`` holds; trial's own timeout ends a wait in vain."""
    while not condition():
        await deferLater(reactor, 0.005)


class Child(ProcessProtocol):
    """A ``vbcast`` process: what it wrote, and its exit code when it has ended."""

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.done: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.out += data

    def errReceived(self, data: bytes) -> None:
        self.err += data

    def processEnded(self, reason: Failure) -> None:
        value = reason.value
        assert isinstance(value, ProcessDone | ProcessTerminated)
        self.done.callback(-value.signal if value.signal else value.exitCode)


class Canned(Protocol):
    """A server that answers everything with the same bytes, if any, and then closes, if so told."""

    answer: bytes | None = None
    closes = True

    def dataReceived(self, data: bytes) -> None:
        if self.answer is not None:
            self.transport.write(self.answer)
        if self.closes:
            self.transport.loseConnection()


class CliCase(unittest.TestCase):
    """A node to talk to, and ways to run ``vbcast``: here in a thread, or as a process."""

    timeout = 30

    def setUp(self) -> None:
        self.node = FakeNode()
        http = HttpApi(self.node, 1, reactor, self.node.kv, HttpLimits(payload_bytes_max=4096))
        self.url = f"http://127.0.0.1:{self.listen(http.site)}"
        self.addCleanup(http.close)

    def listen(self, factory: Any) -> int:
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def canned(self, answer: bytes | None, closes: bool = True) -> str:
        kind = type("Canned", (Canned,), {"answer": answer, "closes": closes})
        return f"http://127.0.0.1:{self.listen(Factory.forProtocol(kind))}"

    def answering(self, document: str, status: str = "200 OK") -> str:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(document)}\r\n\r\n"
        return self.canned((head + document).encode())

    async def run_here(self, *words: str, stdin: bytes = b"", node: str | None = None) -> tuple[int, bytes, str]:
        """Exit code, stdout and stderr of ``vbcast words...``."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        environment = {"VBCAST_NODE": node or self.url}
        with (
            mock.patch.multiple(sys, stdout=out, stderr=err, stdin=io.TextIOWrapper(io.BytesIO(stdin))),
            mock.patch.dict(os.environ, environment),
        ):
            code = await deferToThread(cli.main, words)
            out.flush()
            err.flush()
        return code, out.buffer.getvalue(), err.buffer.getvalue().decode()

    async def text(self, *words: str, **options: Any) -> str:
        """The output of a command that has to be done."""
        code, out, err = await self.run_here(*words, **options)
        self.assertEqual((code, err), (0, ""), words)
        return out.decode()

    async def document(self, *words: str, code: int = 0, **options: Any) -> Any:
        """What ``--json`` prints: one document, and nothing else."""
        got, out, err = await self.run_here("--json", *words, **options)
        self.assertEqual((got, bool(err)), (code, code != 0), (words, out, err))
        self.assertEqual(out.count(b"\n"), 1)
        document = json.loads(out)
        self.assertIsInstance(document, dict)
        return document

    async def fails(self, code: int, *words: str, says: str = "", **options: Any) -> str:
        """Check that a command ends with ``code`` and a message, in text and in JSON; returns the message."""
        got, out, err = await self.run_here(*words, **options)
        self.assertEqual((got, out), (code, b""), (words, err))
        self.assertIn(says, err)
        self.assertNotIn("Traceback", err)
        if code != Exit.USAGE:
            document = await self.document(*words, code=code, **options)
            self.assertIn(says, document["detail"])
            self.assertTrue(document["type"].startswith("urn:txvbcast:error:"))
        return err

    def start(self, *words: str, **environment: str) -> Child:
        """Start ``vbcast words...`` as a process with no other environment than given."""
        child = Child()
        known = {"VBCAST_NODE": self.url, "PYTHONPATH": str(ROOT), **environment}
        command = [sys.executable, "-m", "txvbcast.cli.main", *words]
        process = reactor.spawnProcess(child, sys.executable, command, known, str(ROOT))

        def stop() -> None:
            if not child.done.called:
                process.signalProcess("KILL")

        self.addCleanup(stop)
        return child


class Reading(CliCase):
    """status, members, master show, events."""

    async def test_status(self) -> None:
        out = await self.text("status")
        lines = out.splitlines()
        self.assertIn("node 1 (one) is normal; master is node 1, epoch 1.1; quorum: 2 of 3 voters are needed", lines)
        row = next(line.split() for line in lines if " n2 " in line)
        self.assertEqual(row[:3], ["2", "n2", "inactive"])
        self.assertIn("freeze, 2.5s left of 4s", out)
        self.assertEqual(row[-7:], ["4s", "6.8s/0s", "7", "7", "12", "(3.4KiB)", "web"])
        self.assertIn("*1 ", out)
        self.assertEqual(await self.document("status"), self.node.status())
        self.assertLess(max(map(len, lines)), 90)

    async def test_status_in_trouble(self) -> None:
        self.node.master, self.node.quorum = None, False
        out = await self.text("status")
        self.assertIn("no master", out)
        self.assertIn("NO QUORUM", out)

    async def test_status_of_adapters(self) -> None:
        """What each hears, or why it does not."""
        self.node.adapters = [
            {"adapter": "qmp", "state": "connected", "where": "unix:q", "problem": "", "since_ms": 61_000},
            {"adapter": "azure", "state": "lost", "where": "", "problem": "HTTP status 404", "since_ms": 2500},
            {"adapter": "gce", "state": "starting", "where": "", "problem": "", "since_ms": 500},
        ]
        out = await self.text("status")
        self.assertIn("adapter qmp hears unix:q since 61s\n", out)
        self.assertIn("adapter azure: NOTHING HEARD for 2.5s: HTTP status 404\n", out)
        self.assertIn("adapter gce: NOTHING HEARD for 500ms: it has not been heard yet\n", out)

    async def test_members(self) -> None:
        out = await self.text("members", "list")
        self.assertEqual([line.split()[:2] for line in out.splitlines()[1:]], [["1", "n1"], ["2", "n2"], ["3", "n3"]])
        self.assertEqual(await self.document("members", "list"), {"members": self.node.status()["members"]})

    async def test_master_show(self) -> None:
        self.assertEqual(await self.text("master", "show"), "node 1, epoch 1.1\n")
        self.assertEqual((await self.document("master", "show"))["master"], 1)
        self.node.master = None
        code, out, _ = await self.run_here("master", "show")
        self.assertEqual((code, out), (3, b"no master is known\n"))
        code, out, _ = await self.run_here("master", "show", "--json")
        self.assertEqual((code, json.loads(out)["master"]), (3, None))

    async def test_events(self) -> None:
        for node_id in (1, 0):
            self.node.events.add("node_inactive", node_id, "freeze\x1b[31m announced", expected_ms=4000)
        lines = (await self.text("events")).splitlines()
        self.assertEqual(len(lines), 2)
        self.assertIn("node 1   freeze\\x1b[31m announced  expected_ms=4000", lines[0])
        self.assertIn("cluster", lines[1])
        _, out, _ = await self.run_here("events", "--json", "--from", "2")
        self.assertEqual([json.loads(line) for line in out.splitlines()], self.node.events.kept[1:])
        self.node.events.kept.pop(0)
        self.assertIn("(events 1 to 2, that one excluded, are not kept", await self.text("events", "--from", "1"))

    async def test_followed_node_stops(self) -> None:
        url = self.canned(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: events\n\n")
        await self.fails(3, "events", "--follow", says="ended the stream", node=url)


class Writing(CliCase):
    """kv, submit, master move."""

    async def test_keys(self) -> None:
        self.assertEqual(await self.text("kv", "put", "/a b/ü%", "hello"), "/a b/ü%: version 1\n")
        self.assertEqual(await self.text("kv", "get", "/a b/ü%"), "hello")
        expected = {"key": "/a b/ü%", "value": "hello", "version": 1, "applied": 1}
        self.assertEqual(await self.document("kv", "get", "/a b/ü%"), expected)
        out = await self.text("kv", "list", "--prefix", "/a")
        self.assertEqual(out.split(), ["version", "key", "value", "1", "/a", "b/ü%", "hello"])
        items = [{"key": "/a b/ü%", "value": "hello", "version": 1}]
        self.assertEqual(await self.document("kv", "list"), {"items": items, "applied": 1})
        self.assertEqual(await self.text("kv", "delete", "/a b/ü%"), "/a b/ü%: deleted, it had version 1\n")
        await self.fails(1, "kv", "get", "/a b/ü%", says="there is no key")
        await self.fails(1, "kv", "delete", "/a b/ü%", says="there is no key")

    async def test_values_from_elsewhere(self) -> None:
        path = self.mktemp()
        data = b"\x00\xff\r\n\n"
        Path(path).write_bytes(data)
        for words, stdin in [(["-"], data), (["--file", path], b""), (["--file", "-"], data)]:
            self.assertIn("version", (await self.document("kv", "put", "k", *words, stdin=stdin)))
            self.assertEqual((await self.run_here("kv", "get", "k"))[1], data)
        self.assertEqual((await self.document("kv", "get", "k"))["value_b64"], "AP8NCgo=")
        await self.text("kv", "put", "k", "")
        self.assertEqual(await self.text("kv", "get", "k"), "")
        await self.text("kv", "put", "k", "--", "--file")
        self.assertEqual(await self.text("kv", "get", "k"), "--file")

    async def test_if_version(self) -> None:
        await self.text("kv", "put", "k", "1", "--if-version", "0")
        await self.fails(1, "kv", "put", "k", "2", "--if-version", "0", says="has version 1")
        await self.fails(1, "kv", "delete", "k", "--if-version", "9", says="has version 1")
        await self.text("kv", "put", "k", "2", "--if-version", "1", "--mode", "3pc", "--timeout", "250ms")
        rm, _, mode, timeout_s, request_id = self.node.asked[-1]
        self.assertEqual((rm, mode.value, timeout_s), ("kv", "3pc", 0.25))
        self.assertEqual(len(request_id), 32)

    async def test_consistency(self) -> None:
        for words in (["get", "k"], ["list"]):
            await self.run_here("kv", *words, "--consistency", "local")
            self.assertEqual(self.node.asked, [])
            await self.run_here("kv", *words, "--timeout", "2s")
            self.assertEqual(self.node.asked.pop(), ("barrier", 2.0))

    async def test_submit(self) -> None:
        out = await self.text("submit", "echo", "héllo\x1b", "--mode", "2pc", "--request-id", "mine")
        self.assertEqual(out, "committed as entry 1, place 0\nresult: héllo\\x1b\n")
        self.assertEqual(self.node.asked[-1], ("echo", "héllo\x1b".encode(), Mode.TWO_PHASE, 5.0, "mine"))
        document = await self.document("submit", "echo", "--file", "-", stdin=b"\xff")
        self.assertEqual((document["seq"], document["result_b64"]), (2, "/w=="))
        self.assertTrue(document["request_id"])
        self.assertIn("result (base64): /w==", await self.text("submit", "echo", "-", stdin=b"\xff"))
        self.assertEqual(await self.text("submit", "echo", ""), "committed as entry 4, place 0\n")

    async def test_master_move(self) -> None:
        self.assertEqual(await self.text("master", "move", "--to", "2"), "node 2 is master\n")
        self.assertEqual(await self.document("master", "move", "--to", "1"), {"master": 1})
        await self.fails(1, "master", "move", "--to", "3", says="node 3 is inactive")
        await self.fails(2, "master", "move", "--to", "9", says="there is no member 9")

    async def test_no(self) -> None:
        cases = [
            (Aborted("over the limit", (2,)), 1), (OutcomeUnknown("no answer"), 4), (Overloaded("full"), 1),
            (NoQuorum("alone"), 3),
        ]  # fmt: skip
        for failure, code in cases:
            for words in (["submit", "echo", "x"], ["kv", "put", "k", "v"], ["kv", "delete", "k"]):
                self.node.failure = failure
                document = await self.document(*words, code=code)
                self.assertIn(failure.reason, document["detail"])
                self.assertEqual(document["who"], list(failure.who))
                self.assertEqual("--request-id" in document["detail"], code == 4)
        self.node.failure = NoQuorum("alone")
        self.assertEqual((await self.run_here("kv", "get", "k"))[0], 3)


class Usage(CliCase):
    """What is refused before anything is asked, and what the node does not understand: exit code 2."""

    async def test_bad_arguments(self) -> None:
        cases = [
            ((), "Usage"),
            (("nothing",), "No such command"),
            (("status", "--colour"), "No such option"),
            (("status", "--interval", "5"), "no unit"),
            (("kv", "put", "k"), "give the value"),
            (("kv", "put", "k", "v", "--file", "x"), "give the value"),
            (("kv", "put", "k", "--file", "/no/such/file"), "/no/such/file"),
            (("kv", "put", "", "v"), "the key is empty"),
            (("kv", "put", "k" * 513, "v"), "1 to 512"),
            (("kv", "put", "k\udcff", "v"), "not UTF-8"),
            (("kv", "put", "k", "v", "--mode", "4pc"), "4pc"),
            (("kv", "put", "k", "v", "--if-version", "-1"), "-1"),
            (("kv", "put", "k", "x" * 5000), "the limit is 4096"),
            (("kv", "put", "k", "x" * 200_000), "larger than"),
            (("kv", "put", "k", "v", "--timeout", "1h"), "timeout_ms"),
            (("kv", "get", "k", "--consistency", "strong"), "strong"),
            (("submit", "nope", "x"), "no resource manager 'nope'"),
            (("submit", "echo"), "give the payload"),
            (("submit", "echo", "-5"), "No such option"),
            (("submit", "echo", "x", "--request-id", "y" * 200), "request_id"),
            (("submit", "echo", "x", "--timeout", "-1s"), "negative"),
            (("inactive", "begin"), "--kind"),
            (("inactive", "begin", "--kind", "nap"), "no kind of change 'nap'"),
            (("inactive", "begin", "--kind", "freeze", "--expect", "soon"), "soon"),
            (("inactive", "begin", "--kind", "freeze", "--fact", "ram"), "NAME=VALUE"),
            (("inactive", "run", "--kind", "freeze"), "CMD"),
            (("inactive", "end", "x"), "x"),
            (("inactive", "end", "1", "--outcome", "good"), "good"),
            (("master", "move"), "--to"),
            (("events", "--from", "x"), "x"),
        ]
        for words, expected in cases:
            await self.fails(2, *words, says=expected)
        self.assertEqual(self.node.absences.records, [])

    async def test_bad_address(self) -> None:
        for url in [
            "ftp://x",
            "127.0.0.1:8412",
            "http://",
            "http://x:y",
            "http://x:99999",
            "http://u:p@x",
            "http://x/p",
        ]:
            message = await self.fails(2, "status", "--node", url, says="expected http://HOST:PORT")
            self.assertIn("--node", message)
            self.assertIn("$VBCAST_NODE", await self.fails(2, "status", node=url))

    async def test_address_in_front_or_behind(self) -> None:
        self.assertEqual((await self.run_here("--node", self.url, "status", node="http://127.0.0.1:1"))[0], 0)
        self.assertEqual((await self.run_here("status", "--node", self.url, node="http://127.0.0.1:1"))[0], 0)

    async def test_help_and_json_everywhere(self) -> None:
        """Every command tells what it does, and takes --json."""

        def leaves(command: click.Command, *path: str) -> Any:
            if not isinstance(command, click.Group):
                return [(path, command)]
            context = click.Context(command)
            found = ((name, command.get_command(context, name)) for name in command.list_commands(context))
            return [leaf for name, each in found if each is not None for leaf in leaves(each, *path, name)]

        commands = leaves(cli.root)
        self.assertGreater(len(commands), 14)
        for path, command in commands:
            self.assertIn("--json", [word for each in command.params for word in each.opts], path)
            shown = " ".join((await self.text(*path, "--help")).split())
            self.assertIn(command.help.splitlines()[0], shown)

    async def test_missing_command_breaks_no_other(self) -> None:
        missing = {**cli.COMMANDS, "demo": ("txvbcast.cli.no_such_module", "demo")}
        with mock.patch.object(cli, "COMMANDS", missing):
            out = await self.text("--help")
            self.assertIn("status", out)
            self.assertNotIn("demo", out)
            await self.fails(2, "demo", says="No such command")
            await self.text("status")


class Unreachable(CliCase):
    """Nobody there, somebody else there, somebody who does not answer: exit codes 3 and 4."""

    reads = [("status",), ("members", "list"), ("master", "show"), ("kv", "get", "k"), ("kv", "list"), ("events",)]
    writes = [
        ("submit", "echo", "x"), ("kv", "put", "k", "v"), ("kv", "delete", "k"), ("master", "move", "--to", "2"),
        ("inactive", "begin", "--kind", "freeze"), ("inactive", "end", "1"),
        ("inactive", "update", "1", "--expect", "1s"), ("inactive", "run", "--kind", "freeze", "--", "false"),
    ]  # fmt: skip

    async def test_nobody(self) -> None:
        port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        url = f"http://127.0.0.1:{port.getHost().port}"
        await port.stopListening()
        for words in [*self.reads, *self.writes]:
            message = await self.fails(3, *words, says="cannot reach", node=url)
            self.assertIn(url, message)
        await self.fails(3, "status", says="cannot reach", node="http://no-such-host.invalid:1")

    async def test_connection_lost(self) -> None:
        url = self.canned(None)
        for words in self.reads:
            await self.fails(3, *words, says="closed the connection", node=url)
        for words in self.writes:
            message = await self.fails(4, *words, says="it may have happened", node=url)
            self.assertEqual("--request-id" in message, words[0] in ("submit", "kv"))

    async def test_frozen_node(self) -> None:
        self.patch(api, "GRACE_S", 0.05)
        self.patch(api, "STREAM_SILENCE_S", 0.05)
        url = self.canned(None, closes=False)
        for words in [("status",), ("events",), ("kv", "get", "k", "--timeout", "10ms")]:
            await self.fails(3, *words, says="did not answer in time", node=url)
        for words in [("kv", "put", "k", "v", "--timeout", "10ms"), ("inactive", "end", "1")]:
            await self.fails(4, *words, says="did not answer in time", node=url)

    async def test_answer_cut_short(self) -> None:
        url = self.canned(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await self.fails(3, "status", says="closed the connection", node=url)
        await self.fails(4, "kv", "put", "k", "v", says="closed the connection", node=url)

    async def test_not_http(self) -> None:
        url = self.canned(b"SSH-2.0-OpenSSH_9.2\r\n")
        for words in [*self.reads, *self.writes]:
            await self.fails(3, *words, says="does not speak HTTP", node=url)

    async def test_not_a_node(self) -> None:
        for status in ["404 Not Found", "500 Oops", "302 Found"]:
            url = self.answering("<html>hello</html>", status)
            for words in [("status",), ("events",), ("kv", "put", "k", "v")]:
                await self.fails(3, *words, says="is it one?", node=url)

    async def test_answers_of_another_version(self) -> None:
        for document in [
            "hello",
            "[]",
            "{}",
            '{"members": 1}',
            '{"node_id": 1, "quorum": {}, "members": [7]}',
            "[" * 99999,
        ]:
            url = self.answering(document)
            for words in self.reads[:4]:
                await self.fails(3, *words, says="is not understood", node=url)
            for words in self.writes[:2]:
                await self.fails(4, *words, says="is not understood", node=url)

    async def test_problems_of_another_version(self) -> None:
        for status, read, write in [("418 Teapot", 1, 1), ("599 Odd", 3, 4)]:
            url = self.answering('{"type": "urn:txvbcast:error:brand-new", "detail": "so new"}', status)
            await self.fails(read, "kv", "get", "k", says="so new", node=url)
            await self.fails(write, "kv", "put", "k", "v", says="so new", node=url)


class Absences(CliCase):
    """inactive begin, update, end, list."""

    async def test_life(self) -> None:
        words = (
            "inactive",
            "begin",
            "--kind",
            "memory",
            "--expect",
            "1.5s",
            "--fact",
            "ram_mib=512",
            "--fact",
            "live=true",
        )
        out = await self.text(*words, "--fact", "to=host 2", "--fact", "rate=0.5", "--fact", "odd=nan", "--wait", "2s")
        self.assertEqual(out, "change 1 is announced and confirmed, expected to take 1500ms\n")
        facts = {"ram_mib": 512, "live": True, "to": "host 2", "rate": 0.5, "odd": "nan"}
        self.assertEqual(self.node.asked, [("memory", 1.5, facts, True, "operator", 2.0, None)])
        out = await self.text("inactive", "update", "1", "--expect", "1m")
        self.assertEqual(out, "change 1 is expected to take 1m more\n")
        shown = (await self.text("inactive", "list")).splitlines()
        self.assertEqual(shown[0].split()[:3], ["id", "node", "kind"])
        self.assertEqual(shown[1].split()[:3], ["1", "1", "memory"])
        self.assertIn("under way", shown[1])
        self.assertEqual(await self.document("inactive", "list"), {"changes": self.node.absences.records})
        expected = {"change_id": 1, "outcome": "cancelled"}
        self.assertEqual(await self.document("inactive", "end", "1", "--outcome", "cancelled"), expected)
        self.assertIn("cancelled", await self.text("inactive", "list"))
        await self.fails(1, "inactive", "end", "1", says="no absence 1")

    async def test_unsafe(self) -> None:
        self.node.answer = "only one voter would be left"
        await self.fails(1, "inactive", "begin", "--kind", "freeze", says="only one voter would be left")
        self.assertEqual([each["outcome"] for each in self.node.absences.records], ["cancelled", "cancelled"])
        document = await self.document("inactive", "begin", "--kind", "freeze", "--force")
        self.assertEqual((document["confirmed"], document["unsafe"]), (False, self.node.answer))
        self.assertIsNone(self.node.absences.records[-1]["outcome"])

    async def test_not_confirmed(self) -> None:
        self.node.answer = "silent"
        words = ("inactive", "begin", "--kind", "freeze", "--wait", "300ms")
        await self.fails(3, *words, says="did not confirm within 300ms")
        self.assertEqual([each["outcome"] for each in self.node.absences.records], ["cancelled", "cancelled"])
        self.assertIn("NOT confirmed", await self.text(*words, "--force"))

    async def test_over_before_it_is_answered(self) -> None:
        def gone(absences: FakeAbsences, change_id: int, outcome: str = "done") -> None:
            raise KeyError(change_id)

        self.node.answer = "silent"
        self.patch(FakeAbsences, "end", gone)
        words = ("inactive", "begin", "--kind", "freeze", "--wait", "300ms")
        await self.fails(3, *words, says="did not confirm within 300ms")

    async def test_dry_run(self) -> None:
        self.assertEqual(
            await self.text("inactive", "begin", "--kind", "freeze", "--dry-run"), "the cluster can afford it\n"
        )
        self.node.answer = "node 2 is away"
        await self.fails(1, "inactive", "begin", "--kind", "freeze", "--dry-run", says="node 2 is away")
        self.assertEqual(self.node.absences.records, [])


class Running(CliCase):
    """inactive run, as a process."""

    async def test_done(self) -> None:
        """The command runs after the announcement and before its end, and its exit code is the one that counts."""
        script = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode()); sys.exit(7)"
        command = (sys.executable, "-c", script, f"{self.url}/v1/inactive")
        child = self.start("inactive", "run", "--kind", "freeze", "--expect", "2s", *command)
        self.assertEqual((await child.done, child.err), (7, b""))
        [during] = json.loads(child.out)["changes"]
        self.assertEqual((during["kind"], during["confirmed"], during["outcome"]), ("freeze", True, None))
        self.assertEqual([each["outcome"] for each in self.node.absences.records], ["failed"])

    async def test_json(self) -> None:
        child = self.start("inactive", "run", "--json", "--kind", "freeze", "--", "/bin/sh", "-c", "echo --json")
        self.assertEqual((await child.done, child.err), (0, b"--json\n"))
        document = json.loads(child.out)
        self.assertEqual((document["change_id"], document["exit_code"]), (1, 0))
        self.assertEqual([each["outcome"] for each in self.node.absences.records], ["done"])

    async def test_unsafe(self) -> None:
        self.node.answer = "not now"
        path = Path(self.mktemp()).absolute()
        words = ("inactive", "run", "--kind", "freeze", "--", "/bin/sh", "-c", 'echo ran >"$0"', str(path))
        child = self.start(*words)
        self.assertEqual((await child.done, child.out), (1, b""))
        self.assertIn(b"not now", child.err)
        self.assertFalse(path.exists())
        child = self.start(*words[:2], "--force", *words[2:])
        self.assertEqual(await child.done, 0)
        self.assertTrue(path.exists())
        self.assertEqual([each["outcome"] for each in self.node.absences.records], ["cancelled", "done"])

    async def test_no_such_command(self) -> None:
        child = self.start("inactive", "run", "--kind", "freeze", "--", "/no/such/command")
        self.assertEqual(await child.done, 127)
        self.assertIn(b"cannot run '/no/such/command': No such file", child.err)
        child = self.start("inactive", "run", "--kind", "freeze", "--", str(ROOT))
        self.assertEqual(await child.done, 126)
        self.assertEqual([each["outcome"] for each in self.node.absences.records], ["failed", "failed"])

    async def test_signals(self) -> None:
        """SIGTERM ends the command, Ctrl-C is the command's to answer; both times the end is told."""
        script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"
        child = self.start("inactive", "run", "--kind", "freeze", "--", "/bin/sh", "-c", script)
        await until(lambda: child.out == b"ready\n")
        child.transport.signalProcess("INT")
        child.transport.signalProcess("TERM")
        self.assertEqual(await child.done, 5)
        child = self.start("inactive", "run", "--kind", "freeze", "--", "/bin/sh", "-c", "kill -9 $$")
        self.assertEqual(await child.done, 128 + 9)
        self.assertEqual([each["outcome"] for each in self.node.absences.records], ["failed", "failed"])

    async def tell(self, url: str) -> str:
        err = io.StringIO()
        with mock.patch.object(sys, "stderr", err):
            await deferToThread(running._tell, Session(Api(url), False), 1, "done")
        return err.getvalue()

    async def test_end_that_is_not_heard(self) -> None:
        self.patch(running, "TELLING_S", 0.05)
        self.patch(running, "TELLING_PAUSE_S", 0.01)
        self.assertIn("vbcast inactive end 1 --outcome done", await self.tell(self.canned(None)))
        self.assertEqual(await self.tell(self.url), "", "a change that is over already is no failure")

    async def test_end_that_is_refused(self) -> None:
        """What the node refuses it would refuse again: it is told once."""
        asked = []

        def refusing(absences: FakeAbsences, change_id: int, outcome: str) -> None:
            asked.append(change_id)
            raise Aborted("not by you")

        self.patch(FakeAbsences, "end", refusing)
        self.assertIn("not by you", await self.tell(self.url))
        self.assertEqual(asked, [1])

    async def test_end_that_is_heard_late(self) -> None:
        """The node is away when the command ends, as it would be: its end is told until it is heard."""
        self.patch(running, "TELLING_PAUSE_S", 0.01)
        self.node.absences.hold(Notice("freeze", {}, "operator", True))
        calls: list[int] = []
        ended = FakeAbsences.end

        def late(absences: FakeAbsences, change_id: int, outcome: str) -> None:
            calls.append(change_id)
            if len(calls) < 3:
                raise NoQuorum("still asleep")
            ended(absences, change_id, outcome)

        self.patch(FakeAbsences, "end", late)
        self.assertEqual((await self.tell(self.url), len(calls)), ("", 3))
        self.assertEqual(self.node.absences.records[0]["outcome"], "done")


class Processes(CliCase):
    """What only a process shows: signals, closed pipes, a bare environment."""

    async def test_bare_environment(self) -> None:
        """No HOME, no PATH, no terminal, an ASCII locale."""
        for locale in ({"LANG": "C"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}):
            child = self.start("kv", "put", "clé/ü", "wért", **locale)
            self.assertEqual((await child.done, child.err), (0, b""))
            value = self.node.kv.get("clé/ü")
            assert value is not None
            self.assertEqual(value[0], "wért".encode())
            child = self.start("kv", "list", **locale)
            self.assertEqual((await child.done, child.err), (0, b""))
            self.assertIn(b"cl", child.out)

    async def test_closed_output(self) -> None:
        for number in range(200):
            self.node.events.add("node_inactive", 1, f"number {number}")
        child = self.start("events", "--follow", "--from", "0")
        await until(lambda: child.out)
        child.transport.closeStdout()
        self.node.events.add("node_normal")
        self.assertEqual((await child.done, child.err), (Exit.OUTPUT_CLOSED, b""))
        for words in (["status"], ["status", "--json"], ["kv", "list"]):
            child = self.start(*words)
            child.transport.closeStdout()
            self.assertEqual((await child.done, child.err), (Exit.OUTPUT_CLOSED, b""), words)

    async def test_full_disk(self) -> None:
        command = f'"{sys.executable}" -m txvbcast.cli.main status >/dev/full'
        child = Child()
        known = {"VBCAST_NODE": self.url, "PYTHONPATH": str(ROOT)}
        reactor.spawnProcess(child, "/bin/sh", ["/bin/sh", "-c", command], known, str(ROOT))
        self.assertEqual(await child.done, Exit.OUTPUT_FAILED)
        self.assertEqual(child.err, b"vbcast: cannot write the output: No space left on device\n")

    async def test_interrupted_watch(self) -> None:
        child = self.start("status", "--watch", "--interval", "50ms")
        await until(lambda: child.out.count(b"master is node 1") == 2)
        self.node.master = 2
        await until(lambda: b"master is node 2" in child.out)
        child.transport.signalProcess("INT")
        self.assertEqual((await child.done, child.err), (0, b""))

    async def test_watching_a_node_that_is_away(self) -> None:
        child = self.start("status", "--watch", "--json", "--interval", "50ms", VBCAST_NODE="http://127.0.0.1:1")
        await until(lambda: child.out.count(b"\n") > 1)
        child.transport.signalProcess("INT")
        self.assertEqual((await child.done, child.err), (0, b""))
        documents = [json.loads(line) for line in child.out.splitlines()]
        self.assertEqual({each["type"] for each in documents}, {"urn:txvbcast:error:unreachable"})

    async def test_interrupted_follow(self) -> None:
        self.node.events.add("before")
        child = self.start("events", "--follow", "--json")
        await until(lambda: self.node.events.callbacks)
        for number in range(3):
            self.node.events.add("node_normal", number)
        await until(lambda: child.out.count(b"\n") == 3)
        child.transport.signalProcess("INT")
        self.assertEqual((await child.done, child.err), (0, b""))
        self.assertEqual([json.loads(line) for line in child.out.splitlines()], self.node.events.kept[1:])

    async def test_interrupted_submission(self) -> None:
        """It has left: nobody knows; the message says how to learn it."""
        self.node.holding = []
        child = self.start("submit", "echo", "x")
        await until(lambda: self.node.holding)
        child.transport.signalProcess("INT")
        self.assertEqual((await child.done, child.out), (4, b""))
        self.assertIn(f"--request-id {self.node.asked[0][4]}".encode(), child.err)

    async def test_interrupted_read(self) -> None:
        self.node.holding = []
        child = self.start("kv", "get", "k")
        await until(lambda: self.node.holding)
        child.transport.signalProcess("INT")
        self.assertEqual((await child.done, child.out.strip(), child.err.strip()), (130, b"", b""))
