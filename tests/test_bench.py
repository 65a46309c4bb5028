"""``vbcast bench``: what it counts, what it prints, and that nothing is left of it; never how fast anything is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import platform
import resource
import signal
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.tcp import Server
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from tests.fake_node import FakeNode
from tests.test_cli import CliCase, until
from txvbcast.cli import load, local, machine, measuring
from txvbcast.cli.api import Api
from txvbcast.cli.failures import Exit, Failed
from txvbcast.cli.load import (
    KEYS_PER_CONNECTION,
    HttpConnection,
    Load,
    LoadFailed,
    LoadFailure,
    LoadResult,
    LoadSpec,
    Tally,
)
from txvbcast.cli.local import LocalCluster
from txvbcast.config import Address
from txvbcast.control.http import HttpApi
from txvbcast.errors import Aborted
from txvbcast.wire.messages import Mode

SPEC = LoadSpec((), 3, "broadcast", 10, 0.05, 0.2, {})
CONDITIONS = {"nodes", "node_urls", "interface", "via", "payload_bytes", "warm_up_s"}
POINT = {field.name for field in attrs.fields(LoadResult)} | {
    "mode", "outstanding", "master", "used", "epochs", "fsyncs_per_s",
}  # fmt: skip


class TallyTests(unittest.TestCase):
    """What belongs to the window."""

    def setUp(self) -> None:
        self.tally = Tally()
        self.tally.committed(1.0, 2.0, 1)  # before the window
        self.tally.failed(1.0, "aborted", "early")
        self.tally.begin(10.0)

    def end(self) -> LoadResult:
        self.tally.end(20.0)
        return self.tally.result({"client": 0.5})

    def test_nothing(self) -> None:
        result = self.end()
        self.assertEqual((result.transactions, result.committed, result.committed_per_s, result.entries), (0, 0, 0, 0))
        self.assertEqual((result.p50_ms, result.p99_ms, result.max_ms, result.failures), (None, None, None, {}))
        self.assertEqual((result.seconds, result.cpu_s), (10.0, {"client": 0.5}))

    def test_edges(self) -> None:
        """The rate counts answers that come in the window, all else the transactions begun in it."""
        self.tally.committed(9.0, 10.0, 5)
        self.tally.committed(10.0, 11.0, 5)
        self.tally.end(20.0)
        self.tally.committed(19.0, 21.0, 6)
        self.tally.committed(20.0, 21.0, 6)
        result = self.tally.result({})
        self.assertEqual((result.committed_per_s, result.entries), (0.2, 1))
        self.assertEqual((result.transactions, result.committed, result.max_ms), (2, 2, 2000.0))

    def test_quantiles(self) -> None:
        for number in range(200, 0, -1):
            self.tally.committed(10.0, 10.0 + number / 1024, number)
        result = self.end()
        self.assertEqual([result.p50_ms, result.p99_ms, result.max_ms], [n * 1000 / 1024 for n in (100, 198, 200)])
        self.assertEqual(result.entries, 200)

    def test_quantiles_of_few(self) -> None:
        for number in (1, 2, 3):
            self.tally.committed(10.0, 10.0 + number, number)
        result = self.end()
        self.assertEqual([result.p50_ms, result.p99_ms, result.max_ms], [2000.0, 3000.0, 3000.0])

    def test_failures(self) -> None:
        for detail in ("one", "two"):
            self.tally.failed(11.0, "aborted", detail)
        self.tally.failed(11.0, "no-quorum", "three")
        self.tally.committed(11.0, 12.0, 7)
        result = self.end()
        self.assertEqual(result.failures, {"aborted": LoadFailure(2, "one"), "no-quorum": LoadFailure(1, "three")})
        self.assertEqual((result.transactions, result.committed), (4, 1))


class ConnectionTests(unittest.TestCase):
    """One connection, fed by hand."""

    answer = b"HTTP/1.1 200 OK\r\nvbcast-version:7\r\ncontent-length:2\r\n\r\n{}"

    def feed(self, *pieces: bytes) -> tuple[LoadResult, mock.Mock]:
        """What is counted when these pieces come, and the transport."""

        async def feeding() -> tuple[LoadResult, mock.Mock]:
            one = Load(SPEC)
            connection = HttpConnection(one, itertools.repeat(b"request"))
            transport = mock.Mock(spec=asyncio.Transport)
            connection.connection_made(transport)
            one.tally.begin(0.0)
            connection.send()
            for piece in pieces:
                connection.data_received(piece)
            one.tally.end(time.perf_counter())
            return one.tally.result({}), transport

        return asyncio.run(feeding())

    def test_whole(self) -> None:
        result, transport = self.feed(self.answer)
        self.assertEqual((result.committed, result.entries, result.failures), (1, 1, {}))
        transport.write.assert_called_once_with(b"request")

    def test_byte_by_byte(self) -> None:
        for length in range(len(self.answer)):
            result, _ = self.feed(*(bytes((byte,)) for byte in self.answer[:length]))
            self.assertEqual(result.transactions, 0, length)
        result, _ = self.feed(*(bytes((byte,)) for byte in self.answer))
        self.assertEqual((result.committed, result.failures), (1, {}))

    def test_not_understood(self) -> None:
        for wrong in (b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", b"x" * (load.HEAD_BYTES_MAX + 1)):
            result, transport = self.feed(wrong)
            self.assertEqual({kind: found.count for kind, found in result.failures.items()}, {"not-understood": 1})
            transport.abort.assert_called_once_with()

    def test_another_server(self) -> None:
        for status, body in ((404, b"welcome"), (404, b"[]"), (200, b"{}")):
            result, _ = self.feed(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
            self.assertEqual(result.failures, {f"status-{status}": LoadFailure(1, "not an answer of a node")})


def connections(*ports: int) -> list[Any]:
    """The accepted connections, those of ``ports`` if any are given."""
    accepted = [reader for reader in reactor.getReaders() if isinstance(reader, Server)]
    return [each for each in accepted if not ports or each.getHost().port in ports]


class LoadTests(CliCase):
    """The client, against an HTTP interface whose node commits everything at once."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(until, lambda: not connections())
        http = HttpApi(self.node, 1, reactor, self.node.kv)
        self.addCleanup(http.close)
        self.port = self.listen(http.site)

    def run_load(self, *ports: int, **changes: Any) -> Deferred[LoadResult]:
        targets = tuple(Address("127.0.0.1", port) for port in ports or (self.port,))
        spec = attrs.evolve(SPEC, targets=targets, **changes)
        return deferToThread(lambda: asyncio.run(Load(spec).run()))

    async def test_commits(self) -> None:
        result = await self.run_load(outstanding=40, processes={"me": os.getpid(), "nobody": 2**22 + 1})
        self.assertEqual((result.failures, result.transactions), ({}, result.committed))
        self.assertGreater(result.committed, 0)
        self.assertLessEqual(result.committed, len(self.node.asked) - 40)  # those of the beginning are not counted
        self.assertGreaterEqual(result.seconds, SPEC.seconds)
        self.assertEqual(result.entries, round(result.committed_per_s * result.seconds))
        self.assertEqual(sorted(result.cpu_s), ["client", "me", "nobody"])
        self.assertEqual([name for name, used in result.cpu_s.items() if used is None], ["nobody"])
        keys = {key for key, _, _ in self.node.kv.items()}
        self.assertEqual({key.rpartition("/")[0] for key in keys}, {f"bench/{number}" for number in range(40)})
        self.assertLessEqual(len(keys), 40 * KEYS_PER_CONNECTION)
        self.assertEqual({value for _, value, _ in self.node.kv.items()}, {b"v" * 10})

    async def test_mode(self) -> None:
        await self.run_load(mode="2pc", payload_bytes=0)
        self.assertEqual({mode for _, _, mode, _, _ in self.node.asked}, {Mode.TWO_PHASE})
        self.assertEqual({value for _, value, _ in self.node.kv.items()}, {b""})

    async def test_spread(self) -> None:
        """The connections are dealt to the nodes in turn."""
        other = FakeNode()
        http = HttpApi(other, 2, reactor, other.kv)
        self.addCleanup(http.close)
        await self.run_load(self.port, self.listen(http.site), outstanding=5)
        for node, numbers in ((self.node, "024"), (other, "13")):
            self.assertEqual({key.split("/")[1] for key, _, _ in node.kv.items()}, set(numbers))

    async def test_failures(self) -> None:
        submit = self.node.submit

        def failing(*arguments: Any, **options: Any) -> Any:
            self.node.failure = Aborted("a node refused", (3,)) if len(self.node.asked) % 2 else None
            return submit(*arguments, **options)

        self.patch(self.node, "submit", failing)
        result = await self.run_load(outstanding=1)
        failure = result.failures["aborted"]
        self.assertEqual(result.transactions, failure.count + result.committed)
        self.assertLessEqual(abs(failure.count - result.committed), 1)
        self.assertIn("a node refused", failure.example)

    async def test_not_a_node(self) -> None:
        for answer in (None, b"HTTP/1.1 200 OK\r\n\r\n", b"x" * (load.HEAD_BYTES_MAX + 1)):
            port = int(self.canned(answer).rpartition(":")[2])
            error = await self.assertFailure(self.run_load(port), LoadFailed)
            self.assertEqual(str(error), "3 of 3 connections were lost before anything was measured")

    async def test_unreachable(self) -> None:
        error = await self.assertFailure(self.run_load(1), LoadFailed)
        self.assertRegex(str(error), "node at 127.0.0.1:1: .*127.0.0.1")

    async def test_silent_node(self) -> None:
        self.patch(load, "ANSWER_S", 0.1)
        port = int(self.canned(None, closes=False).rpartition(":")[2])
        error = await self.assertFailure(self.run_load(port), LoadFailed)
        self.assertRegex(str(error), f"node at 127.0.0.1:{port}: no answer within")

    async def test_falls_silent(self) -> None:
        """What is never answered is counted."""
        self.patch(load, "ANSWER_S", 0.1)
        running = self.run_load(warm_up_s=0.0, seconds=1.0)
        await until(lambda: len(self.node.asked) > 20)
        self.node.holding = []
        result = await running
        self.assertEqual({kind: failure.count for kind, failure in result.failures.items()}, {"no-answer": 3})

    async def test_breaks_off(self) -> None:
        """A connection that is lost is counted, and the others go on."""
        running = self.run_load(warm_up_s=0.0, seconds=1.0)
        await until(lambda: len(self.node.asked) > 20)
        before = len(self.node.asked)
        connections(self.port)[0].abortConnection()
        await until(lambda: len(self.node.asked) > before + 20)
        result = await running
        self.assertEqual({kind: failure.count for kind, failure in result.failures.items()}, {"connection-lost": 1})


class MachineTests(unittest.TestCase):
    """What is said of the machine."""

    def test_describe(self) -> None:
        described = machine.describe()
        self.assertEqual(json.loads(json.dumps(described)), described)
        self.assertEqual(described["cores"], os.cpu_count())
        for name in ("python", "twisted", "txvbcast", "kernel", "processor"):
            self.assertTrue(described[name], name)

    def test_processor_that_is_not_told(self) -> None:
        with mock.patch.object(Path, "read_text", side_effect=FileNotFoundError):
            self.assertEqual(machine.describe()["processor"], platform.machine())

    def test_cpu(self) -> None:
        before_s, used_s = machine.cpu_s(os.getpid()), time.process_time()
        while time.process_time() < used_s + 0.1:
            sum(range(1000))
        after_s = machine.cpu_s(os.getpid())
        assert before_s is not None and after_s is not None
        self.assertGreaterEqual(after_s - before_s, 0.05)
        self.assertLessEqual(after_s, time.process_time() + 0.1)
        self.assertIsNone(machine.cpu_s(2**22 + 1))

    def test_fsyncs(self) -> None:
        with mock.patch.object(os, "fsync", wraps=os.fsync) as fsync:
            rate = machine.fsyncs_per_s(Path(self.mktemp()).parent)
        self.assertGreater(fsync.call_count, 0)
        self.assertLessEqual(rate * machine.FSYNC_S, fsync.call_count)

    def test_open_files(self) -> None:
        unlimited = resource.RLIM_INFINITY
        for limits, raised in (((64, 128), (128, 128)), ((128, 128), None), ((unlimited, unlimited), None)):
            with mock.patch.multiple(resource, getrlimit=lambda _: limits, setrlimit=mock.DEFAULT) as patched:  # noqa: B023
                machine.allow_open_files(128)
            calls = [] if raised is None else [mock.call(resource.RLIMIT_NOFILE, raised)]
            self.assertEqual(patched["setrlimit"].mock_calls, calls)
        with mock.patch.object(resource, "getrlimit", return_value=(64, 127)):
            self.assertRaisesRegex(
                ValueError, "128 open files are needed and 127 allowed", machine.allow_open_files, 128
            )


class CommandTests(CliCase):
    """``vbcast bench`` with a node that is there, in this process."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(measuring, "WARM_UP_S", 0.05)

    async def bench(self, *words: str, code: int = 0) -> tuple[str, str]:
        got, out, err = await self.run_here("bench", "--seconds", "0.1", *words)
        self.assertEqual(got, code, err)
        return out.decode(), err

    async def test_json(self) -> None:
        words = ("--mode", "broadcast,3pc", "--outstanding", "1, 4", "--payload", "9", "--via", "master")
        out, err = await self.bench("--json", "--node", self.url, *words)
        document = json.loads(out)
        self.assertEqual(document["conditions"].keys() - machine.describe().keys(), CONDITIONS)
        self.assertEqual(document["conditions"]["node_urls"], [self.url])
        points = document["points"]
        asked = [("broadcast", 1), ("broadcast", 4), ("3pc", 1), ("3pc", 4)]
        self.assertEqual([(point["mode"], point["outstanding"]) for point in points], asked)
        self.assertEqual(err.splitlines(), [f"measuring {mode} with {count} outstanding ..." for mode, count in asked])
        for point in points:
            self.assertEqual(point.keys(), POINT)
            self.assertEqual(
                (point["master"], point["used"], point["fsyncs_per_s"], point["epochs"]), (1, [1], None, 0)
            )
            self.assertGreater(point["committed"], 0)
            self.assertLessEqual(point["p50_ms"], point["p99_ms"])
            self.assertLessEqual(point["p99_ms"], point["max_ms"])
        self.assertEqual({value for _, value, _ in self.node.kv.items()}, {b"v" * 9})
        self.assertEqual({mode for _, _, mode, _, _ in self.node.asked}, {Mode.BROADCAST, Mode.THREE_PHASE})

    async def test_table(self) -> None:
        got, out, err = await self.run_here("--node", self.url, "bench", "--seconds", "0.1", "--outstanding", "2")
        self.assertEqual(got, 0, err)
        lines = out.decode().splitlines()
        self.assertIn("Python ", lines[0])
        self.assertIn(f"{self.url}; values of 128 bytes, HTTP PUT /v1/kv/KEY, via all; 0.1 s per point", lines[1])
        self.assertEqual(lines[3].split()[:3], ["mode", "outstanding", "committed/s"])
        self.assertEqual(lines[4].split()[:2], ["broadcast", "2"])
        self.assertEqual(len(lines), 5)

    async def test_remarks(self) -> None:
        """Failures are told with an example; nothing committed is exit code 1; so is a change of master."""
        submit, epochs = self.node.submit, itertools.count(2)
        status = self.node.status

        def failing(*arguments: Any, **options: Any) -> Any:
            self.node.failure = Aborted("a node refused \x1b")
            return submit(*arguments, **options)

        self.patch(self.node, "submit", failing)
        self.patch(self.node, "status", lambda: {**status(), "epoch": (next(epochs) << 16) + 1})
        out, _ = await self.bench("--node", self.url, "--outstanding", "2", code=Exit.REFUSED)
        lines = out.splitlines()[5:]
        self.assertRegex(lines[0], r"^broadcast with 2 outstanding: [0-9]+ aborted; the first: a node refused \\x1b$")
        self.assertEqual(lines[1], "broadcast with 2 outstanding: the master changed meanwhile, 1 new epochs")

    async def test_two_urls(self) -> None:
        """They need not be those of the same node to be asked for, but have to agree."""
        other = FakeNode()
        http = HttpApi(other, 2, reactor, other.kv)
        self.addCleanup(http.close)
        status = other.status
        self.patch(other, "status", lambda: {**status(), "node_id": 2})
        url = f"http://127.0.0.1:{self.listen(http.site)}"
        out, _ = await self.bench("--json", "--node", self.url, "--node", url, "--via", "other", "--outstanding", "2")
        self.assertEqual(json.loads(out)["points"][0]["used"], [2])
        self.assertEqual((bool(other.asked), bool(self.node.asked)), (True, False))
        out, _ = await self.bench("--json", "--node", self.url, "--node", url, "--outstanding", "2")
        self.assertEqual(json.loads(out)["points"][0]["used"], [1, 2])
        self.assertTrue(self.node.asked)
        for master in (2, None):
            other.master = master
            words = ("bench", "--node", self.url, "--node", url, "--outstanding", "1")
            code, out_bytes, err = await self.run_here(*words, "--json")
            self.assertEqual((code, json.loads(out_bytes)["type"]), (3, "urn:txvbcast:error:no-quorum"))
            self.assertIn("the nodes do not agree on a master", err)

    async def test_refused(self) -> None:
        for words, says in (
            (("--outstanding", "1,x"), "'x' is not a valid integer"),
            (("--outstanding", "0"), "0 is not in the range"),
            (("--outstanding", ""), "'' is not a valid integer"),
            (("--mode", "broadcast,4pc"), "'4pc' is not one of"),
            (("--payload", "-1"), "-1 is not in the range"),
            (("--via", "nobody"), "'nobody' is not one of"),
            (("--nodes", "8"), "8 is not in the range"),
            (("--seconds", "0"), "0.0 is not in the range"),
            (("--node", "ftp://x"), "--node: expected http://HOST:PORT, got 'ftp://x'"),
            (("--node", self.url, "--nodes", "3"), "--nodes says how many nodes to start"),
            (("--node", self.url, "--via", "other"), "--via other: give the URL of one that is not master"),
        ):
            await self.fails(Exit.USAGE, "bench", *words, says=says)
        self.node.master = 2
        await self.fails(Exit.USAGE, "bench", "--node", self.url, "--via", "master", says="the URL of node 2")
        self.patch(resource, "getrlimit", lambda _: (64, 64))
        await self.fails(Exit.USAGE, "bench", "--outstanding", "1,900", says="--outstanding: 900: 1028 open files")
        self.assertEqual(self.node.asked, [])

    async def test_unreachable(self) -> None:
        code, out, err = await self.run_here("bench", "--json", "--node", "http://127.0.0.1:1")
        self.assertEqual((code, json.loads(out)["type"]), (3, "urn:txvbcast:error:unreachable"))
        self.assertIn("127.0.0.1:1", err)

    async def test_client_fails(self) -> None:
        url = self.canned(None)
        with mock.patch.object(measuring.Nodes, "_look", lambda _: ({1: Api(url)}, 1, 65537)):
            code, _, err = await self.run_here("bench", "--node", url, "--outstanding", "2")
        self.assertEqual(code, 3)
        self.assertIn("the client: 2 of 2 connections were lost before anything was measured", err)


class LocalNodesTests(unittest.TestCase):
    """A cluster of its own, that does not come to be."""

    def setUp(self) -> None:
        self.temporary = Path(self.mktemp())
        self.temporary.mkdir(parents=True)
        self.patch(tempfile, "tempdir", str(self.temporary))

    def failure_of_starting(self) -> str:
        with self.assertRaises(Failed) as caught:
            measuring.local_nodes(2).__enter__()
        error: Failed = caught.exception
        return error.message

    def test_no_ports(self) -> None:
        self.patch(local, "_is_free", lambda *_: False)
        error = self.failure_of_starting()
        self.assertIn("a cluster cannot be made on this machine: no free ports", error)
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_does_not_start(self) -> None:
        """The files stay, for whoever wants to know why."""

        def start(cluster: LocalCluster) -> None:
            raise TimeoutError(f"not within 30 s: in {cluster.directory}")

        self.patch(LocalCluster, "start", start)
        error = self.failure_of_starting()
        self.assertRegex(error, "^not within 30 s: .*; the files of the nodes stay in ")
        directory = Path(error.rpartition(" ")[2])
        self.assertTrue((directory / "node2.yaml").exists())


class RealTests(CliCase):
    """The whole of it, as a process with nodes of its own."""

    timeout = 120

    def setUp(self) -> None:
        super().setUp()
        self.temporary = Path(self.mktemp()).absolute()
        self.temporary.mkdir(parents=True)

        self.addCleanup(self.end_all)

    def end_all(self) -> None:
        for pid in self.running():
            os.kill(pid, signal.SIGKILL)

    def running(self) -> list[int]:
        """The processes that name our temporary directory."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if str(self.temporary) in path.read_text(errors="replace"):
                    found.append(int(path.parent.name))
        return found

    async def test_counts(self) -> None:
        words = ("--nodes", "2", "--outstanding", "1,8", "--mode", "2pc", "--seconds", "0.3", "--json")
        child = self.start("bench", *words, TMPDIR=str(self.temporary))
        self.assertEqual(await child.done, 0, child.err)
        document = json.loads(child.out)
        self.assertEqual((document["conditions"]["nodes"], document["conditions"]["node_urls"]), (2, []))
        for point, outstanding, used in zip(document["points"], (1, 8), ([1], [1, 2]), strict=True):
            self.assertEqual((point["outstanding"], point["used"], point["master"]), (outstanding, used, 1))
            self.assertGreater(point["committed"], 0)
            self.assertEqual((point["failures"], point["transactions"]), ({}, point["committed"]))
            self.assertGreater(point["fsyncs_per_s"], 0)
            self.assertEqual(list(point["cpu_s"]), ["node 1", "node 2", "client"])
            self.assertGreater(point["cpu_s"]["node 1"] + point["cpu_s"]["node 2"], 0)
        self.assertEqual((list(self.temporary.iterdir()), self.running()), ([], []))

    async def test_told_to_end(self) -> None:
        """SIGTERM ends the nodes too, and leaves nothing behind."""
        child = self.start("bench", "--nodes", "2", "--seconds", "600", TMPDIR=str(self.temporary))
        await until(lambda: b"measuring" in child.err or child.done.called)
        self.assertEqual(len(self.running()), 2, child.err)
        assert child.transport is not None
        child.transport.signalProcess("TERM")
        self.assertEqual(await child.done, Exit.INTERRUPTED)
        self.assertEqual((list(self.temporary.iterdir()), self.running()), ([], []))
