"""``vbcast bench``: what it counts, what it prints, and that nothing is left of it; never how fast anything is."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import os
import platform
import resource
import signal
import struct
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Callable
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
from txvbcast.cli import local, machine
from txvbcast.cli.bench import absence, clusters, connections, measuring, peers, through_http
from txvbcast.cli.bench.absence import STANDSTILL_TIMES, Moments, Plan, cost_of, measure_absence, show_costs
from txvbcast.cli.bench.clusters import Nodes, Peer
from txvbcast.cli.bench.connections import Connection, Connections
from txvbcast.cli.bench.copying import compare, copy_bytes_per_s
from txvbcast.cli.bench.floods import Floods, measure_floods
from txvbcast.cli.bench.load import LoadFailed, LoadFailure, LoadResult, LoadSpec, Tally, Window, merged, spread
from txvbcast.cli.bench.measuring import Measured, Point, measure
from txvbcast.cli.bench.plot import rates_picture
from txvbcast.cli.bench.report import WAY_TITLES, ratios
from txvbcast.cli.bench.targets import ATTEMPTS, Found, Target, measure_undisturbed, targets_of
from txvbcast.cli.bench.through_http import KEYS_PER_CONNECTION, HttpConnection, http_requests
from txvbcast.cli.bench.to_etcd import EtcdConnection, frame, put_message
from txvbcast.cli.bench.to_nats import NatsConnection
from txvbcast.cli.failures import Exit, Failed
from txvbcast.cli.local import LocalCluster
from txvbcast.control.http import HttpApi
from txvbcast.errors import Aborted
from txvbcast.wire.messages import Mode

SPEC = LoadSpec("HTTP", (), 0, 3, "broadcast", 10)
CONDITIONS = {"node_urls", "peers", "clients", "seconds", "warm_up_s"}
POINT = {field.name for kind in (Measured, Point) for field in attrs.fields(kind)} - {"point"}
SVG = "{http://www.w3.org/2000/svg}"


class TallyTests(unittest.TestCase):
    """What belongs to the window."""

    def setUp(self) -> None:
        self.tally = Tally(Window(10.0, 20.0), is_traced=True)
        self.tally.committed(1.0, 2.0)  # before the window
        self.tally.failed(1.0, "aborted", "early")

    def test_nothing(self) -> None:
        result = self.tally.result()
        self.assertEqual((result.total, result.answered, result.committed, result.failed), (1, 0, 0, 0))
        self.assertEqual((result.quantile_ms(0.5), result.failures), (None, {}))
        self.assertEqual(result.commits, ((2.0, 1),))

    def test_edges(self) -> None:
        """The rate counts answers that come in the window, all else the transactions begun in it."""
        for sent_s, now_s in ((9.0, 10.0), (10.0, 11.0), (19.0, 21.0), (20.0, 21.0)):
            self.tally.committed(sent_s, now_s, 3)
        result = self.tally.result()
        self.assertEqual((result.total, result.answered, result.committed), (13, 6, 6))
        self.assertEqual(result.quantile_ms(1.0), 2000.0)
        self.assertEqual(Tally(Window(10.0, 20.0)).result().commits, ())

    def test_quantiles(self) -> None:
        for number in range(200, 0, -1):
            self.tally.committed(10.0, 10.0 + number / 1000)
        result = self.tally.result()
        self.assertEqual([result.quantile_ms(share) for share in (0.5, 0.99, 1.0)], [100, 198, 200])

    def test_quantiles_of_batches(self) -> None:
        """Each transaction of a batch counts."""
        for number, count in ((1, 98), (2, 1), (3, 1)):
            self.tally.committed(10.0, 10.0 + number, count)
        result = self.tally.result()
        self.assertEqual([result.quantile_ms(share) for share in (0.98, 0.99, 1.0)], [1000, 2000, 3000])

    def test_failures(self) -> None:
        for detail in ("one", "two"):
            self.tally.failed(11.0, "aborted", detail)
        self.tally.failed(11.0, "no-quorum", "three", 5)
        self.tally.committed(11.0, 12.0)
        result = self.tally.result()
        self.assertEqual(result.failures, {"aborted": LoadFailure(2, "one"), "no-quorum": LoadFailure(5, "three")})
        self.assertEqual((result.failed, result.committed), (7, 1))

    def test_merged(self) -> None:
        one = LoadResult(4, 2, {1000: 1, 2000: 1}, {"aborted": LoadFailure(2, "one")}, ((1.0, 1), (3.0, 1)))
        other = LoadResult(5, 3, {2000: 3}, {"aborted": LoadFailure(1, "two")}, ((2.0, 3),))
        both = LoadResult(
            9, 5, {1000: 1, 2000: 4}, {"aborted": LoadFailure(3, "one")}, ((1.0, 1), (2.0, 3), (3.0, 1))
        )  # fmt: skip
        self.assertEqual(merged([one, other]), both)

    def test_spread(self) -> None:
        for total, parts, expected in ((7, 3, [3, 2, 2]), (2, 3, [1, 1, 0]), (6, 2, [3, 3])):
            self.assertEqual(spread(total, parts), expected)


class FedCase(unittest.TestCase):
    """One connection, fed by hand."""

    def feed(
        self, make: Callable[[], Connection], greeting: bytes, *pieces: bytes
    ) -> tuple[LoadResult, list[bytes], mock.Mock]:
        """What is counted when these pieces come, what was written, and the transport."""

        async def feeding() -> tuple[LoadResult, list[bytes], mock.Mock]:
            tally = Tally(Window(0.0, time.monotonic() + 3600))
            connection = make()
            transport = mock.Mock(spec=asyncio.Transport)
            connection.connection_made(transport)
            connection.data_received(greeting)
            self.assertTrue(connection.ready.done())
            connection.begin(tally)
            for piece in pieces:
                connection.data_received(piece)
            written = [call.args[0] for call in transport.write.call_args_list]
            return tally.result(), written, transport

        return asyncio.run(feeding())


class HttpTests(FedCase):
    """``PUT /v1/kv/KEY``."""

    answer = b"HTTP/1.1 200 OK\r\nvbcast-version:7\r\ncontent-length:2\r\n\r\n{}"

    def fed(self, *pieces: bytes) -> tuple[LoadResult, list[bytes], mock.Mock]:
        return self.feed(lambda: HttpConnection([b"request"]), self.answer, *pieces)

    def test_whole(self) -> None:
        result, written, _ = self.fed(self.answer)
        self.assertEqual((result.committed, result.failures), (1, {}))
        self.assertEqual(written, [b"request"] * 3)  # the first one, one that is answered, and the next

    def test_byte_by_byte(self) -> None:
        for length in range(len(self.answer)):
            result, _, _ = self.fed(*(bytes((byte,)) for byte in self.answer[:length]))
            self.assertEqual(result.committed + result.failed, 0, length)
        result, _, _ = self.fed(*(bytes((byte,)) for byte in self.answer))
        self.assertEqual((result.committed, result.failures), (1, {}))

    def test_not_understood(self) -> None:
        for wrong in (b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", b"x" * (through_http.HEAD_BYTES_MAX + 1)):
            result, _, transport = self.fed(wrong)
            self.assertEqual({kind: found.count for kind, found in result.failures.items()}, {"not-understood": 1})
            transport.abort.assert_called_once_with()

    def test_another_server(self) -> None:
        for status, body in ((404, b"welcome"), (404, b"[]"), (200, b"{}")):
            result, _, _ = self.fed(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
            self.assertEqual(result.failures, {f"status-{status}": LoadFailure(1, "not an answer of a node")})


class NatsTests(FedCase):
    """What a server of NATS says, by hand."""

    greeting = b'INFO {"server_id":"x"} \r\nPONG\r\n'

    def fed(self, *pieces: bytes) -> tuple[LoadResult, list[bytes], mock.Mock]:
        with mock.patch("secrets.token_hex", lambda _: "aa"):
            return self.feed(lambda: NatsConnection(2, "7", b"vvv"), self.greeting, *pieces)

    def answer(self, slot: int, document: bytes = b'{"stream":"bench","seq":1}') -> bytes:
        return b"MSG _INBOX.aa.%d 1 %d\r\n%s\r\n" % (slot, len(document), document)

    def test_answers(self) -> None:
        result, written, _ = self.fed(self.answer(1) + self.answer(0), b"PING\r\n", self.answer(1))
        self.assertEqual((result.committed, result.failures), (3, {}))
        zero, one = (b"PUB bench.7.%d _INBOX.aa.%d 3\r\nvvv\r\n" % (slot, slot) for slot in range(2))
        self.assertRegex(written[0], rb"^CONNECT {.*}\r\nSUB _INBOX\.aa\.\* 1\r\nPING\r\n$")
        self.assertEqual(written[1:], [zero + one, one + zero, b"PONG\r\n", one])

    def test_byte_by_byte(self) -> None:
        stream = self.answer(0) + b"PING\r\n" + self.answer(1)
        result, written, _ = self.fed(*(bytes((byte,)) for byte in stream))
        self.assertEqual((result.committed, written.count(b"PONG\r\n")), (2, 1))

    def test_refused(self) -> None:
        error = b'{"error":{"code":503,"description":"no space"},"stream":"bench","seq":0}'
        result, _, _ = self.fed(self.answer(0, error))
        self.assertEqual((result.committed, result.failures["refused"].count), (0, 1))
        self.assertIn("no space", result.failures["refused"].example)

    def test_error(self) -> None:
        result, _, transport = self.fed(b"-ERR 'Maximum Payload Violation'\r\n")
        self.assertEqual(result.failures, {"refused": LoadFailure(2, "'Maximum Payload Violation'")})
        transport.abort.assert_called_once_with()


class EtcdTests(FedCase):
    """Frames of HTTP/2, by hand."""

    settings = frame(4, 0, 0, b"")

    def fed(
        self, *pieces: bytes, slots: int = 1, value: bytes = b"vvv", settings: bytes = b""
    ) -> tuple[LoadResult, list[tuple[int, int, int, bytes]], mock.Mock]:
        """What is counted, the frames that were written, and the transport."""
        greeting = frame(4, 0, 0, settings)
        make = lambda: EtcdConnection(slots, "7", value, "host:1")  # noqa: E731
        result, written, transport = self.feed(make, greeting, *pieces)
        stream = b"".join(written)
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        self.assertTrue(stream.startswith(preface))
        return result, parted(stream[len(preface) :]), transport

    def answer(self, stream: int) -> bytes:
        return frame(1, 4, stream, b"head") + frame(0, 0, stream, b"message") + frame(1, 5, stream, b"trailer")

    def test_answers(self) -> None:
        result, frames, _ = self.fed(self.answer(3) + self.answer(1), self.answer(5), slots=2)
        self.assertEqual((result.committed, result.failures), (3, {}))
        calls = [(kind, flags, stream) for kind, flags, stream, _ in frames[3:]]
        self.assertEqual(
            calls, [(kind, flags, number) for number in (1, 3, 5, 7, 9) for kind, flags in ((1, 4), (0, 1))]
        )
        self.assertEqual(frames[4][3], put_message(b"bench/7/0/0", b"vvv"))
        self.assertEqual(frames[4][3], b"\0\0\0\0\x12\x0a\x0bbench/7/0/0\x12\x03vvv")

    def test_byte_by_byte(self) -> None:
        result, _, _ = self.fed(*(bytes((byte,)) for byte in self.answer(1) + self.answer(3)))
        self.assertEqual(result.committed, 2)

    def test_long_message(self) -> None:
        """The length of 300 bytes takes two bytes."""
        self.assertIn(b"\x12\xac\x02" + b"v" * 300, put_message(b"k", b"v" * 300))

    def test_refused(self) -> None:
        """A trailer alone is a No; so is a call that is broken off, of which nothing more is sent."""
        result, _, _ = self.fed(frame(1, 5, 1, b"trailer"))
        self.assertEqual(result.failures, {"refused": LoadFailure(1, "etcd answered with an error")})
        small = struct.pack(">HI", 4, 10)
        result, frames, _ = self.fed(frame(3, 0, 1, b"\0\0\0\7"), frame(8, 0, 1, b"\0\0\0\x63"), settings=small)
        self.assertEqual(result.failures, {"refused": LoadFailure(1, "etcd broke the call off")})
        self.assertEqual([len(body) for kind, _, stream, body in frames if (kind, stream) == (0, 1)], [10])

    def test_end(self) -> None:
        result, _, transport = self.fed(frame(7, 0, 0, b"\0" * 8 + b"too_many_pings"))
        self.assertIn("too_many_pings", result.failures["refused"].example)
        transport.abort.assert_called_once_with()

    def test_ping(self) -> None:
        _, frames, _ = self.fed(frame(6, 0, 0, b"12345678"), frame(6, 1, 0, b"87654321"), frame(4, 1, 0, b""))
        self.assertEqual([each for each in frames if each[0] == 6], [(6, 1, 0, b"12345678")])

    def test_windows(self) -> None:
        """No more is sent than the windows of connection and stream allow, in frames of the agreed length."""
        settings = struct.pack(">HIHI", 4, 70_000, 5, 16_500)
        sent = lambda frames: [(flags, len(body)) for kind, flags, _, body in frames if kind == 0]  # noqa: E731
        _, frames, _ = self.fed(value=b"v" * 80_000, settings=settings)
        self.assertEqual(sent(frames), [(0, 16_500)] * 3 + [(0, 65_535 - 3 * 16_500)])
        more, much = struct.pack(">I", 10_000), struct.pack(">I", 1 << 20)
        _, frames, _ = self.fed(frame(8, 0, 0, more), value=b"v" * 80_000, settings=settings)
        self.assertEqual(sum(length for _, length in sent(frames)), 70_000)
        pieces = frame(8, 0, 0, more), frame(8, 0, 0, much), frame(8, 0, 1, much)
        _, frames, _ = self.fed(*pieces, value=b"v" * 80_000, settings=settings)
        whole = put_message(b"bench/7/0/0", b"v" * 80_000)
        self.assertEqual(b"".join(body for kind, _, _, body in frames if kind == 0), whole)
        self.assertEqual([flags for flags, _ in sent(frames)][-2:], [0, 1])
        larger = frame(4, 0, 0, struct.pack(">HI", 4, 100_000))
        _, frames, _ = self.fed(frame(8, 0, 0, much), larger, value=b"v" * 80_000, settings=settings)
        self.assertEqual(b"".join(body for kind, _, _, body in frames if kind == 0), whole)


def parted(stream: bytes) -> list[tuple[int, int, int, bytes]]:
    """Type, flags, stream and body of every frame."""
    found = []
    while stream:
        high, low, kind, flags, number = struct.unpack_from(">HBBBI", stream)
        end = 9 + (high << 8 | low)
        found.append((kind, flags, number, stream[9:end]))
        stream = stream[end:]
    return found


def accepted(*ports: int) -> list[Any]:
    """The accepted connections, those of ``ports`` if any are given."""
    found = [reader for reader in reactor.getReaders() if isinstance(reader, Server)]
    return [each for each in found if not ports or each.getHost().port in ports]


class LoadTests(CliCase):
    """The load through HTTP, against an interface whose node commits everything at once."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(until, lambda: not accepted())
        http = HttpApi(self.node, 1, reactor, self.node.kv)
        self.addCleanup(http.close)
        self.port = self.listen(http.site)

    def run_load(self, *ports: int, seconds: float = 0.2, warm_up_s: float = 0.05, **changes: Any) -> Deferred[Any]:
        spec = attrs.evolve(SPEC, targets=tuple(f"127.0.0.1:{port}" for port in ports or (self.port,)), **changes)
        places = []
        for number in range(spec.outstanding):
            target = spec.targets[number % len(spec.targets)]
            make = lambda target=target, number=number: HttpConnection(http_requests(spec, target, str(number)))  # noqa: E731
            places.append((target, make))

        async def running() -> LoadResult:
            load = Connections(places)
            try:
                await load.connect()
                begin_s = time.monotonic() + warm_up_s
                tally = Tally(Window(begin_s, begin_s + seconds))
                await load.run(tally)
                return tally.result()
            finally:
                await load.close()

        return deferToThread(asyncio.run, running())

    async def test_commits(self) -> None:
        result = await self.run_load(outstanding=40)
        self.assertEqual(result.failures, {})
        self.assertGreater(result.committed, 0)
        self.assertEqual(result.total, len(self.node.asked) - 40)  # those of the beginning are not counted
        self.assertLess(result.committed, result.total)
        keys = {key for key, _, _ in self.node.kv.items()}
        self.assertEqual({key.rpartition("/")[0] for key in keys}, {f"bench/{number}" for number in range(40)})
        self.assertLessEqual(len(keys), 40 * KEYS_PER_CONNECTION)
        self.assertEqual({value for _, value, _ in self.node.kv.items()}, {b"v" * 10})

    async def test_mode(self) -> None:
        await self.run_load(mode="2pc", payload_bytes=0)
        self.assertEqual({mode for _, _, mode, _, _ in self.node.asked}, {Mode.TWO_PHASE})
        self.assertEqual({value for _, value, _ in self.node.kv.items()}, {b""})

    async def test_failures(self) -> None:
        submit = self.node.submit

        def failing(*arguments: Any, **options: Any) -> Any:
            self.node.failure = Aborted("a node refused", (3,)) if len(self.node.asked) % 2 else None
            return submit(*arguments, **options)

        self.patch(self.node, "submit", failing)
        result = await self.run_load(outstanding=1)
        self.assertLessEqual(abs(result.failures["aborted"].count - result.committed), 1)
        self.assertIn("a node refused", result.failures["aborted"].example)

    async def test_not_a_node(self) -> None:
        for answer, says in (
            (None, "the other side closed the connection"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "no Content-Length"),
            (b"x" * (through_http.HEAD_BYTES_MAX + 1), "no end of its head"),
        ):
            port = int(self.canned(answer).rpartition(":")[2])
            error = await self.assertFailure(self.run_load(port), LoadFailed)
            self.assertRegex(str(error), f"node at 127.0.0.1:{port}: .*{says}")

    async def test_unreachable(self) -> None:
        error = await self.assertFailure(self.run_load(1), LoadFailed)
        self.assertRegex(str(error), "node at 127.0.0.1:1: .*127.0.0.1")

    async def test_silent_node(self) -> None:
        self.patch(connections, "ANSWER_S", 0.1)
        port = int(self.canned(None, closes=False).rpartition(":")[2])
        error = await self.assertFailure(self.run_load(port), LoadFailed)
        self.assertRegex(str(error), f"node at 127.0.0.1:{port}: no answer within")

    async def test_falls_silent(self) -> None:
        """What is never answered is counted."""
        self.patch(connections, "ANSWER_S", 0.1)
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
        accepted(self.port)[0].abortConnection()
        await until(lambda: len(self.node.asked) > before + 20)
        result = await running
        self.assertEqual({kind: failure.count for kind, failure in result.failures.items()}, {"connection-lost": 1})

    async def test_breaks_off_early(self) -> None:
        """Before the window it is no measurement."""
        running = self.run_load(warm_up_s=1.0)
        await until(lambda: len(self.node.asked) > 20)
        accepted(self.port)[0].abortConnection()
        error = await self.assertFailure(running, LoadFailed)
        self.assertEqual(str(error), "1 of 3 connections were lost before anything was measured")

    async def test_several_processes(self) -> None:
        """They share the load, write keys of their own, and are counted together."""
        self.patch(measuring, "WARM_UP_S", 0.05)
        point = Point("txvbcast", "HTTP", None, "all", "broadcast", 5, 5)
        targets = {1: f"127.0.0.1:{self.port}"}
        measured = await deferToThread(measure, point, targets, {"me": os.getpid(), "nobody": 2**22 + 1}, 0.3, 2)
        self.assertEqual(measured.failures, {})
        self.assertEqual(measured.total, len(self.node.asked) - 5)
        self.assertEqual(list(measured.cores), ["me", "nobody", "client", "client 2"])
        self.assertEqual([name for name, used in measured.cores.items() if used is None], ["nobody"])
        self.assertGreater(min(measured.memory_bytes["me"]), 1 << 20)
        self.assertEqual((measured.memory_bytes["nobody"], measured.used), ((0, 0), (1,)))
        self.assertEqual(measured.node_memory_bytes, measured.memory_bytes["me"])
        self.assertGreaterEqual(len({key.split("/")[1] for key, _, _ in self.node.kv.items()}), 5)

    async def test_process_fails(self) -> None:
        """What the process of a load says is told."""
        for way, says in (
            ("HTTP", "node at 127.0.0.1:1: "),
            ("client", "node at 127.0.0.1:1: "),
            ("nats", "node at 127.0.0.1:1: "),
        ):
            point = Point("txvbcast", way, None, "all", "broadcast", 5, 1)
            error = await self.assertFailure(deferToThread(measure, point, {1: "127.0.0.1:1"}, {}, 0.1), Failed)
            self.assertIn(f"the client: {says}", error.message)


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

    def test_memory(self) -> None:
        self.assertGreater(machine.memory_bytes(os.getpid()) or 0, 1 << 20)
        self.assertIsNone(machine.memory_bytes(2**22 + 1))

    def test_fsyncs(self) -> None:
        with mock.patch.object(os, "fsync", wraps=os.fsync) as fsync:
            rate = machine.fsyncs_per_s(Path(self.mktemp()).parent)
        self.assertGreater(fsync.call_count, 0)
        self.assertLessEqual(rate * machine.FSYNC_S, fsync.call_count)

    def test_watch(self) -> None:
        """What was under way at some time, how long it took, and nothing else."""
        slow_s = 0.05

        def fdatasync(descriptor: int) -> None:
            syncs.append(time.monotonic())
            if len(syncs) == 3:
                time.sleep(slow_s)

        syncs: list[float] = []
        with mock.patch.object(os, "fdatasync", fdatasync), machine.DiskWatch(Path(self.mktemp()).parent) as watch:
            while len(syncs) < 6:
                time.sleep(0.001)
        self.assertEqual(len(watch.syncs_s(0.0, syncs[-1] + 1.0)), len(syncs))
        self.assertEqual(len(watch.syncs_s(0.0, syncs[1])), 2)
        self.assertGreaterEqual(watch.syncs_s(syncs[2] + slow_s / 2, syncs[3])[0], slow_s)
        self.assertEqual(watch.syncs_s(syncs[-1] + 10.0, syncs[-1] + 11.0), [])

    def test_watch_of_a_disk_that_fails(self) -> None:
        """It is heard of when the watch is over."""
        with machine.DiskWatch(Path(self.mktemp())) as watch:
            pass
        self.assertRaises(FileNotFoundError, watch.syncs_s, 0.0, 1.0)
        with self.assertRaisesRegex(Failed, "the disk of the nodes cannot be watched: .*No such file"):
            absence.watched(watch, 0.0, 1.0)

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


def measured(way: str = "client", rate: float = 1000.0, **changes: Any) -> Measured:
    """A point that somebody might have measured."""
    system = way if way in peers.NAMES else "txvbcast"
    point = Point(system, way, 3, "master", "" if system == way else "broadcast", 128, 64)
    point = attrs.evolve(
        point, **{name: changes.pop(name) for name in ("mode", "via", "outstanding") if name in changes}
    )
    made = Measured(point, 1.0, 1000, 900, rate, 1.0, 2.0, 3.0, {}, 5000.0, {"node 1": 0.5}, {"node 1": (1, 2)}, (1,))
    return attrs.evolve(made, **changes)


class ReportTests(unittest.TestCase):
    """What is made of figures."""

    def test_ratios(self) -> None:
        """A peer has no modes and stands beside each of ours; what nobody measured is left out."""
        found = [measured(), measured(mode="2pc", rate=500.0), measured("HTTP", 100.0), measured("etcd", 250.0)]
        against = [(each["mode"], each["client_port_against"]) for each in ratios(found)]
        self.assertEqual(against, [("broadcast", {"HTTP": 10.0, "etcd": 4.0}), ("2pc", {"etcd": 2.0})])
        self.assertEqual(ratios([measured("etcd")]), [])
        self.assertEqual(ratios([measured(), measured("nats", 0.0)])[0]["client_port_against"], {"nats": None})

    def picture(self, *found: Measured) -> xml.etree.ElementTree.Element:
        versions = {"etcd": "etcd <3>"}
        return xml.etree.ElementTree.fromstring(rates_picture(found, {**machine.describe(), "peers": versions}))

    def test_picture(self) -> None:
        """A panel for each setting, a line for each way, a mark for each point, and names at the ends."""
        points = [
            measured(way, 10.0 * place, outstanding=n) for place, way in enumerate(WAY_TITLES, 1) for n in (1, 64)
        ]
        picture = self.picture(*points, measured(mode="2pc", outstanding=1))
        texts = [text.text for text in picture.iter(f"{SVG}text")]
        self.assertEqual(len(picture.findall(f"{SVG}g")), 2)
        self.assertEqual(len(list(picture.iter(f"{SVG}polyline"))), len(WAY_TITLES) + 3)  # the peers in both panels
        for title in (*WAY_TITLES.values(), "3 nodes, 2pc, 128 bytes, via master"):
            self.assertIn(title, texts)
        self.assertTrue(any("etcd <3>" in (text or "") for text in texts))

    def test_names_keep_apart(self) -> None:
        picture = self.picture(*(measured(way, 1000.0) for way in WAY_TITLES))
        heights = [float(text.attrib["y"]) for text in picture.iter(f"{SVG}text") if text.text in WAY_TITLES.values()]
        self.assertEqual(len(heights), len(WAY_TITLES))
        self.assertTrue(all(after - before >= 12 for before, after in itertools.pairwise(sorted(heights))))

    def test_picture_of_nothing(self) -> None:
        texts = [text.text for text in self.picture(measured(rate=0.0)).iter(f"{SVG}text")]
        self.assertIn("nothing was committed", texts)


class TargetTests(unittest.TestCase):
    """What has to hold."""

    def test_verdicts(self) -> None:
        for value, is_least, verdict in (
            (None, True, "not measured"), (2.0, True, "PASS"), (1.9, True, "FAIL"),
            (2.0, False, "PASS"), (2.1, False, "FAIL"),
        ):  # fmt: skip
            self.assertEqual(Target("x", value, 2.0, is_least=is_least).verdict, verdict)

    def test_rates(self) -> None:
        """The median of the rounds; against a peer, its better way."""
        found = Found([measured(rate=rate, outstanding=1024) for rate in (100.0, 900.0, 400.0)])
        found.rates += [measured("nats", 100.0, outstanding=1024), measured("nats", 200.0, via="all", outstanding=1024)]
        found.rates += [measured(mode="2pc", rate=100.0, outstanding=1024)]
        by_figure = {target.figure: target.measured for target in targets_of(found, ("rates",))}
        self.assertEqual(by_figure["broadcast at 1024 outstanding, times NATS synced"], 2.0)
        self.assertEqual(by_figure["2pc at 1024, times broadcast"], 0.25)
        self.assertIsNone(by_figure["broadcast at 1 outstanding, times etcd"])
        self.assertEqual(len(by_figure), 8)

    def test_absences(self) -> None:
        """Which figures count for which absence."""
        found = Found(costs=[cost(how=how, who=who) for how in absence.HOWS for who in absence.WHOS])
        wanted = targets_of(found, ("absence",))
        figures = [round(target.measured or 0.0, 2) for target in wanted]
        self.assertEqual(figures, [200, 2, 4, 2, 0.2, 0.2, 3.03, 3.03])
        self.assertEqual([target.verdict for target in wanted].count("FAIL"), 4)
        self.assertEqual(targets_of(Found(), ("copy", "floods")), [])

    def test_rounds_of_absences(self) -> None:
        """Of gaps and their ratios the worst round, of catching up the median, and every failure."""
        one = cost(who="follower")
        others = [attrs.evolve(one, gap_leaving_ms=gap_ms) for gap_ms in (100.0, 1000.0)]
        others[0] = attrs.evolve(others[0], gap_before_ms=250.0)
        found = Found(costs=[one, *others], disturbed=[attrs.evolve(one, gap_leaving_ms=5000.0)])
        by_figure = {target.figure: target.measured for target in targets_of(found, ("absence",))}
        follower = "announced freeze of the follower at 64 outstanding"
        self.assertAlmostEqual(by_figure[f"{follower}: longest gap, times the longest before"] or 0.0, 20.0)
        self.assertEqual(by_figure[f"{follower}: failed operations"], 8)
        masters = [attrs.evolve(each, plan=cost().plan) for each in (one, *others)]
        gap, *_ = targets_of(Found(costs=masters), ("absence",))
        self.assertEqual(gap.measured, 1000.0)
        nothing = attrs.evolve(one, gap_before_ms=0.0, missed_per_s=0.0)
        ratio, _, catch_up = targets_of(Found(costs=[nothing, nothing]), ("absence",))
        self.assertEqual((ratio.verdict, catch_up.verdict), ("not measured", "not measured"))
        _, _, catch_up = targets_of(Found(costs=[one, nothing]), ("absence",))
        self.assertEqual(catch_up.verdict, "not measured")

    def test_rounds_of_floods(self) -> None:
        """Of latency the median, of memory the worst."""

        def flood(p99_ms: float, memory_bytes: int) -> Floods:
            half = measured(p99_ms=10.0)
            twice = measured(p99_ms=p99_ms, memory_bytes={"node 1": (100, memory_bytes)})
            return Floods(measured(), half, twice)

        found = Found(floods=[flood(20.0, 110), flood(90.0, 100), flood(30.0, 120)])
        self.assertEqual([target.measured for target in targets_of(found, ("floods",))], [3.0, 1.2])

    def test_measured_again(self) -> None:
        """An absence during which the disk stood still, but not for ever."""
        calm = cost()
        stood_still = attrs.evolve(calm, sync_ms=1.0, longest_sync_ms=STANDSTILL_TIMES + 1.0)
        nearly = attrs.evolve(stood_still, longest_sync_ms=float(STANDSTILL_TIMES))
        for costs, measured in (
            ([calm, calm], 1), ([nearly, calm], 1), ([stood_still, calm], 2), ([stood_still] * 9, ATTEMPTS),
        ):  # fmt: skip
            with contextlib.redirect_stderr(io.StringIO()):  # what is being done, for people who wait
                found = measure_undisturbed(iter(costs).__next__)
            self.assertEqual(found, costs[:measured])


def cost(how: str = "announced", who: str = "master") -> absence.Cost:
    """Of an absence from 10 to 15, with a commit of 5 each 50 ms; none from 10 to 10.2, and twice as many after 15."""
    plan = Plan(how, who, 5.0, 100, 64, None)
    moments = Moments(10.0, 10.0, 15.0, 17.5, 18.0, 500, 1500, 1400)
    times = [place / 20 for place in range(140, 400) if not 200 < place < 204]
    result = LoadResult(0, 0, {}, {"aborted": LoadFailure(2, "no")}, tuple((time_s, 5) for time_s in times))
    return cost_of(plan, moments, Window(7.0, 20.0), result, [0.001])


class CostTests(unittest.TestCase):
    """What an absence cost."""

    def test_cost(self) -> None:
        found = cost()
        gaps = (found.gap_before_ms, found.gap_leaving_ms, found.gap_returning_ms, found.gap_ms)
        self.assertEqual([round(gap) for gap in gaps], [50, 200, 50, 200])
        self.assertEqual((found.failed, found.missed_entries, found.catch_up_ms), (2, 900, 2500.0))
        self.assertEqual((found.commits_before_per_s, found.missed_per_s), (100.0, 97.0))
        self.assertEqual((found.caught_up_per_s, found.caught_up_entries_per_s), (735 / 2.5, 400.0))
        self.assertEqual(found.document()["caught_up_mb_per_s"], 735 / 2.5 * 100 / 1e6)
        self.assertTrue(found.restored)

    def test_never_restored(self) -> None:
        """Then the gaps count until the load ends, one that does not end with it too."""
        plan = Plan("unannounced", "master", 5.0, 100, 64, None)
        commits = ((8.0, 1), (9.0, 1), (16.0, 1), (19.0, 1))
        moments = Moments(10.0, 10.0, 15.0, 17.5, None, 500, 500, 500)
        found = cost_of(plan, moments, Window(7.0, 20.0), LoadResult(0, 0, {}, {}, commits), [0.001])
        self.assertEqual((found.gap_leaving_ms, found.gap_returning_ms, found.restored), (7000.0, 7000.0, False))
        self.assertIsNone(found.catch_up_ratio)

    def test_disk_that_stood_still(self) -> None:
        """It is said, for the gaps tell nothing then."""
        plan, window = cost().plan, Window(7.0, 20.0)
        moments = Moments(10.0, 10.0, 15.0, 17.5, 18.0, 500, 1500, 1400)
        found = cost_of(plan, moments, window, LoadResult(0, 0, {}, {}, ((8.0, 1), (9.0, 1))), [0.0002, 0.0001, 0.02])
        self.assertEqual((found.sync_ms, found.longest_sync_ms, found.is_disturbed), (0.2, 20.0, True))
        with contextlib.redirect_stdout(io.StringIO()) as out:
            show_costs([cost(), found])
        lines = [line for line in out.getvalue().splitlines() if "stood still" in line]
        what = "the disk stood still: 20.0 ms for a small write that usually takes 0.20 ms"
        self.assertEqual(lines, [f"row 2, announced, master, 64 outstanding: {what}"])


class CopyTests(unittest.TestCase):
    """The plain copy."""

    def test_written(self) -> None:
        """As much as was asked for to each file, which is synced as often as was asked for; nothing is left."""
        folder = Path(self.mktemp())
        folder.mkdir()
        with mock.patch.object(os, "fsync", wraps=os.fsync) as fsync:
            rate = copy_bytes_per_s(folder, 3, 10_000, 1000)
        self.assertEqual((fsync.call_count, list(folder.iterdir())), (30, []))
        self.assertGreater(rate, 0)

    def test_nowhere(self) -> None:
        self.assertRaises(OSError, copy_bytes_per_s, Path(self.mktemp()), 3, 10, 10)


class CommandTests(CliCase):
    """``vbcast bench`` with a node that is there, in this process."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(measuring, "WARM_UP_S", 0.05)

    async def bench(self, *words: str, code: int = 0) -> tuple[str, str]:
        got, out, err = await self.run_here("bench", "--seconds", "0.1", "--way", "HTTP", *words)
        self.assertEqual(got, code, err)
        return out.decode(), err

    async def test_json(self) -> None:
        words = ("--mode", "broadcast,3pc", "--outstanding", "1, 4", "--payload", "9,10", "--via", "master")
        out, err = await self.bench("--json", "--node", self.url, *words)
        document = json.loads(out)
        self.assertEqual(document["conditions"].keys() - machine.describe().keys(), CONDITIONS)
        self.assertEqual((document["conditions"]["node_urls"], document["conditions"]["peers"]), ([self.url], {}))
        points = document["points"]
        asked = [(mode, size, n) for mode in ("broadcast", "3pc") for size in (9, 10) for n in (1, 4)]
        self.assertEqual([(each["mode"], each["payload_bytes"], each["outstanding"]) for each in points], asked)
        lines = [
            f"measuring txvbcast by HTTP, {m}, {size} bytes, {n} outstanding, via master ..." for m, size, n in asked
        ]
        self.assertEqual(err.splitlines(), lines)
        for point in points:
            self.assertEqual(point.keys(), POINT)
            self.assertEqual((point["used"], point["fsyncs_per_s"], point["epochs"]), ([1], None, 0))
            self.assertGreater(point["committed"], 0)
            self.assertLessEqual(point["p50_ms"], point["p99_ms"])
            self.assertLessEqual(point["p99_ms"], point["max_ms"])
        self.assertEqual({mode for _, _, mode, _, _ in self.node.asked}, {Mode.BROADCAST, Mode.THREE_PHASE})

    async def test_table(self) -> None:
        """Without a command it is "rate"; the root's --node counts."""
        picture = Path(self.mktemp())
        words = ("--seconds", "0.1", "--outstanding", "2", "--way", "HTTP", "--svg", str(picture))
        got, out, err = await self.run_here("--node", self.url, "bench", *words)
        self.assertEqual(got, 0, err)
        lines = out.decode().splitlines()
        self.assertIn("Python ", lines[0])
        self.assertIn(f"{self.url}; 0.1 s per point after 0.05 s of warm-up", lines[1])
        self.assertEqual(lines[3].split(), ["nodes", "mode", "payload", "via", "outstanding", "HTTP"])
        self.assertEqual(lines[4].split()[:4], ["broadcast", "128", "master", "2"])
        self.assertEqual(lines[7].split()[:5], ["HTTP", "broadcast", "128", "master", "2"])
        self.assertEqual(len(lines), 8)
        self.assertEqual(xml.etree.ElementTree.parse(picture).getroot().tag, f"{SVG}svg")

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
        lines = out.splitlines()[8:]
        title = "txvbcast by HTTP, broadcast, 128 bytes, 2 outstanding, via master"
        self.assertRegex(lines[0], rf"^{title}: [0-9]+ aborted; the first: a node refused \\x1b$")
        self.assertEqual(lines[1], f"{title}: the master changed meanwhile, 1 new epochs")

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
        out, _ = await self.bench("--json", "--node", self.url, "--node", url, "--via", "all", "--outstanding", "1,2")
        self.assertEqual([point["used"] for point in json.loads(out)["points"]], [[1], [1, 2]])
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
            (("--way", "mail"), "'mail' is not one of"),
            (("--nodes", "3,8"), "8 is not in the range"),
            (("--seconds", "0"), "0.0 is not in the range"),
            (("--node", "ftp://x"), "--node: expected http://HOST:PORT, got 'ftp://x'"),
            (("--node", self.url, "--nodes", "3"), "--nodes and --peers say what to start"),
            (("--node", self.url, "--via", "other"), "--via other: give the URL of one that is not master"),
            (("rats",), "No such command 'rats'"),
        ):
            await self.fails(Exit.USAGE, "bench", *words, says=says)
        self.node.master = 2
        await self.fails(Exit.USAGE, "bench", "--node", self.url, "--via", "master", says="the URL of node 2")
        self.patch(resource, "getrlimit", lambda _: (64, 64))
        await self.fails(Exit.USAGE, "bench", "--outstanding", "1,900", says="--outstanding: 900: 1028 open files")
        self.assertEqual(self.node.asked, [])

    async def test_not_installed(self) -> None:
        self.patch(peers, "_PROGRAMS", {"etcd": "no-such-program", "nats": "neither"})
        says = "--peers: not installed: etcd is in Debian's package etcd-server"
        await self.fails(Exit.USAGE, "bench", "--peers", "etcd", says=says)

    async def test_no_picture(self) -> None:
        words = ("--seconds", "0.1", "--outstanding", "1", "--way", "HTTP", "--svg", "/no/such/folder/x.svg")
        code, _, err = await self.run_here("--node", self.url, "bench", *words)
        self.assertEqual(code, Exit.USAGE)
        self.assertIn("--svg: /no/such/folder/x.svg: No such file", err)

    async def test_unreachable(self) -> None:
        code, out, err = await self.run_here("bench", "--json", "--node", "http://127.0.0.1:1")
        self.assertEqual((code, json.loads(out)["type"]), (3, "urn:txvbcast:error:unreachable"))
        self.assertIn("127.0.0.1:1", err)


class LocalNodesTests(unittest.TestCase):
    """A cluster of its own, that does not come to be."""

    def setUp(self) -> None:
        self.temporary = Path(self.mktemp())
        self.temporary.mkdir(parents=True)
        self.patch(tempfile, "tempdir", str(self.temporary))

    def failure_of_starting(self) -> str:
        with self.assertRaises(Failed) as caught:
            clusters.local_nodes(2).__enter__()
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


class PeerTests(unittest.TestCase):
    """Other systems, where they are installed."""

    timeout = 120

    async def counted(self, name: str, count: Callable[[Peer], int]) -> None:
        """Every answer that the load counts is a write of the peer's: no more, and no fewer."""
        programs = peers.found((name,))
        if not programs:
            raise unittest.SkipTest(f"{name} is not installed: {peers.WHERE[name]}")
        self.patch(measuring, "WARM_UP_S", 0.1)

        def measuring_all() -> list[tuple[Measured, int]]:
            found = []
            with peers.running(name, programs[name], 3) as running:
                peer = Peer(running)
                for via, payload_bytes, outstanding in (("master", 128, 1), ("all", 128, 64), ("other", 70_000, 16)):
                    before = count(peer)
                    point = Point(name, name, 3, via, "", payload_bytes, outstanding)
                    found.append((peer.measure(point, 0.3, 1), count(peer) - before))
            return found

        found = await deferToThread(measuring_all)
        for each, written in found:
            self.assertEqual((each.failures, each.total), ({}, written), each.point)
            self.assertGreater(each.committed, 0)
            self.assertEqual(len(each.cores), 4)
            self.assertEqual(len(each.used), 3 if each.point.via == "all" else 1)
        leaders, others = found[0][0].used, found[2][0].used
        self.assertEqual(len({*leaders, *others}), 2)

    async def test_etcd(self) -> None:
        await self.counted("etcd", lambda peer: peers.etcd_revision(peer.addresses[0]))

    async def test_nats(self) -> None:
        await self.counted("nats", lambda peer: peers.nats_messages(peer.addresses[0]))

    async def test_does_not_start(self) -> None:
        """What a program said is told."""
        error = await self.assertFailure(deferToThread(peers.running("nats", "false", 3).__enter__), Failed)
        self.assertRegex(error.message, "nats does not start: nats 1.* ended")


class OurNodesTests(unittest.TestCase):
    """Nodes of ours, as processes, measured from here."""

    timeout = 180

    def setUp(self) -> None:
        self.patch(measuring, "WARM_UP_S", 0.1)
        self.patch(sys, "stderr", io.StringIO())  # what is being done, for people who wait
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)

    async def nodes(self) -> Nodes:
        cluster = LocalCluster(self.directory, 3, name="bench")
        self.addCleanup(deferToThread, cluster.stop)
        await deferToThread(cluster.start)
        return clusters.nodes_of(cluster)

    async def test_absences(self) -> None:
        """Announced, no operation fails; unannounced, there is a gap as long as it takes to notice."""
        for module, name, value in (
            (absence, "BEFORE_S", 0.5),
            (absence, "AFTER_S", 1.0),
            (measuring, "WARM_UP_S", 0.2),
        ):
            self.patch(module, name, value)
        nodes = await self.nodes()
        for how, who, rate_per_s in (("announced", "master", None), ("unannounced", "master", 100.0)):
            plan = Plan(how, who, 1.5, 128, 16, rate_per_s)
            found = await deferToThread(measure_absence, nodes, plan)
            self.assertEqual((found.failures, found.restored), ({}, True), plan)
            self.assertGreater(found.missed_entries, 0)
            self.assertGreater(found.caught_up_entries_per_s, 0)
        timeout_ms = 800
        self.assertGreater(found.gap_leaving_ms, timeout_ms / 2)

    async def test_floods_and_copies(self) -> None:
        nodes = await self.nodes()
        found = await deferToThread(measure_floods, nodes, 128, 0.5, 1)
        self.assertEqual((found.sustainable.failures, found.half.failures), ({}, {}))
        self.assertLessEqual(set(found.twice.failures), {"overloaded"})
        due = found.half.point.rate_per_s
        assert due is not None
        self.assertLessEqual(found.half.committed, due * 0.5 + 1)
        self.assertEqual(
            json.loads(json.dumps(found.document())).keys() - {"p99_ratio", "memory_ratio"},
            {"sustainable", "half", "twice"},
        )
        compared = await deferToThread(compare, nodes, 4, 65536, 0.3, 1)
        self.assertEqual(compared.measured.failures, {})
        self.assertGreater(compared.document()["ratio"], 0)
        with mock.patch("txvbcast.cli.bench.copying.copy_bytes_per_s", side_effect=OSError("no space")):
            failing = deferToThread(compare, nodes, 1, 10, 0.1, 1)
            error = await self.assertFailure(failing, Failed)
        self.assertIn("the plain copy failed: no space", error.message)

    async def test_client_port(self) -> None:
        """Each mode through each kind of node; what the client library says of a failure is counted."""
        nodes = await self.nodes()
        for via, mode, used in (("master", "broadcast", (1,)), ("other", "2pc", (2,)), ("all", "3pc", (1, 2, 3))):
            point = Point("txvbcast", "client", 3, via, mode, 128, 24)
            found = await deferToThread(nodes.measure, point, 0.3, 2)
            self.assertEqual((found.failures, found.used, found.epochs), ({}, used, 0), point)
            self.assertGreater(found.per_entry or 0, 1)
            self.assertGreater(found.total, found.committed)
        too_long = Point("txvbcast", "client", 3, "master", "broadcast", 2 << 20, 2)
        error = await self.assertFailure(deferToThread(nodes.measure, too_long, 0.1, 1), Failed)
        self.assertRegex(error.message, "^the client: .*2097[0-9]{3}")


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
        words = ("--nodes", "2", "--outstanding", "1,8", "--mode", "2pc", "--via", "all", "--seconds", "0.3", "--json")
        child = self.start("bench", "rate", *words, "--peers", "none", TMPDIR=str(self.temporary))
        self.assertEqual(await child.done, 0, child.err)
        document = json.loads(child.out)
        self.assertEqual(document["conditions"]["node_urls"], [])
        expected = [(way, n, used) for way in ("client", "HTTP") for n, used in ((1, [1]), (8, [1, 2]))]
        found = [(point["way"], point["outstanding"], point["used"]) for point in document["points"]]
        self.assertEqual(found, expected)
        for point in document["points"]:
            self.assertGreater(point["committed"], 0)
            self.assertEqual((point["nodes"], point["failures"]), (2, {}))
            self.assertGreater(point["fsyncs_per_s"], 0)
            self.assertEqual(list(point["cores"]), ["node 1", "node 2", "client"])
            self.assertGreater(point["cores"]["node 1"] + point["cores"]["node 2"], 0)
        self.assertEqual([list(each["client_port_against"]) for each in document["ratios"]], [["HTTP"]] * 2)
        self.assertEqual((list(self.temporary.iterdir()), self.running()), ([], []))

    async def test_told_to_end(self) -> None:
        """SIGTERM ends the nodes and the load too, and leaves nothing behind."""
        child = self.start("bench", "--nodes", "2", "--seconds", "600", TMPDIR=str(self.temporary))
        await until(lambda: b"measuring" in child.err or child.done.called)
        self.assertEqual(len(self.running()), 2, child.err)
        assert child.transport is not None
        child.transport.signalProcess("TERM")
        self.assertEqual(await child.done, Exit.INTERRUPTED)
        self.assertEqual((list(self.temporary.iterdir()), self.running()), ([], []))

    async def test_other_commands(self) -> None:
        """Each prints one JSON document with what it measured."""
        words = {
            "copy": ("--seconds", "0.2", "--outstanding", "2"),
            "floods": ("--seconds", "0.3"),
            "targets": ("--seconds", "0.2", "--only", "copy"),
        }
        for name, options in words.items():
            child = self.start("bench", name, *options, "--json", TMPDIR=str(self.temporary))
            code = await child.done
            self.assertIn(code, (Exit.DONE, Exit.REFUSED) if name == "targets" else (Exit.DONE,), child.err)
            document = json.loads(child.out)
            self.assertEqual(document["conditions"]["cores"], os.cpu_count())
            self.assertTrue(document.keys() & {"points", "sustainable", "targets"}, name)
        (target,) = document["targets"]
        self.assertEqual(target["verdict"], "FAIL" if code else "PASS")
        self.assertEqual((list(self.temporary.iterdir()), self.running()), ([], []))
