"""HTTP to metadata services, over loopback connections: whole answers, and everything else."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any
from unittest import mock

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial import unittest

from tests import metadata_server as broken
from tests.blackbox.machine import is_reference
from tests.metadata_server import AzurePages, MetadataServer
from txvbcast.virt import metadata
from txvbcast.virt.metadata import BODY_BYTES_MAX, Answer, Appointments, Metadata, parse_time
from txvbcast.virt.polling import Unreachable


class Form(msgspec.Struct):
    """What the tests expect."""

    events: list[str] = []


class Resetting(Protocol):
    """Takes some of a question, and ends the connection."""

    def dataReceived(self, data: bytes) -> None:
        """Some of it."""
        self.transport.abortConnection()


class MetadataTests(unittest.TestCase):
    """One question each."""

    timeout_s = 5.0

    def setUp(self) -> None:
        self.server = MetadataServer(AzurePages())
        self.addCleanup(self.server.close)
        self.metadata = Metadata(reactor, self.server.endpoint + "/", self.timeout_s, "Azure")

    async def ask(self, **how: Any) -> Answer:
        """The machine's page."""
        return await self.metadata.ask("GET", "/metadata/instance", {"Metadata": "true"}, {"api-version": "1"}, **how)

    async def problem(self, fault: broken.Fault, **how: Any) -> Unreachable:
        """What is said of a fault, which must leave no connection behind."""
        self.server.break_down(fault)
        try:
            answer = await self.ask(**how)
            answer.document(Form)
        except Unreachable as error:
            await self.no_connection()
            self.assertIn(f"GET {self.server.endpoint}/metadata/instance", str(error))
            return error
        raise AssertionError(f"{answer} is no problem")

    async def no_connection(self) -> None:
        """Wait until the server has none; a test that waits for ever fails by trial's time limit."""
        while self.server.connections:
            turn: Deferred[None] = Deferred()
            reactor.callLater(0.001, turn.callback, None)
            await turn

    async def test_answer(self) -> None:
        answer = await self.ask()
        self.assertEqual((answer.status, answer.header("content-type"), answer.header("X")), (200, "text/html", ""))
        self.assertIn('"name": "vm1"', answer.text())
        (asked,) = self.server.asked
        self.assertEqual((asked.method, asked.query, asked.body), ("GET", {"api-version": "1"}, b""))
        await self.no_connection()

    async def test_ipv6(self) -> None:
        """As on machines that have nothing else."""
        try:
            server = MetadataServer(AzurePages(), "::1")
        except CannotListenError as error:
            if is_reference():
                raise
            raise unittest.SkipTest(f"this machine has no IPv6: {error}") from error
        self.addCleanup(server.close)
        self.metadata = Metadata(reactor, server.endpoint, self.timeout_s, "Azure")
        self.assertEqual((await self.ask()).status, 200)
        self.assertEqual(server.asked[0].header("Host"), server.endpoint.removeprefix("http://"))

    async def test_query_is_encoded(self) -> None:
        query = {"api-version": "a&b=c d/\u20ac"}
        await self.metadata.ask("GET", "/metadata/instance", {"Metadata": "true"}, query)
        self.assertEqual(self.server.asked[0].query, query)

    async def test_document_sent(self) -> None:
        await self.metadata.ask("POST", "/x", {"Metadata": "true"}, document={"a": [1]}, also=(400,))
        (asked,) = self.server.asked
        self.assertEqual((asked.method, asked.body), ("POST", b'{"a":[1]}'))

    async def test_length_not_told(self) -> None:
        self.server.break_down(broken.until_closed)
        self.assertEqual((await self.ask()).document(Form), Form(["a"]))

    async def test_nobody_accepts(self) -> None:
        """A question that may take long is no reason to wait long for a connection."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as clients:
            port = full.getsockname()[1]
            for _ in range(4):
                client = clients.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
            self.metadata = Metadata(reactor, f"http://127.0.0.1:{port}", 0.05, "Azure")
            with self.assertRaises(Unreachable) as caught:
                await self.ask(timeout_s=60.0)
        self.assertIn("timeout", str(caught.exception))

    test_nobody_accepts.timeout = 20

    async def test_reset_while_asking(self) -> None:
        """The connection ends before the question is out."""
        reset = reactor.listenTCP(0, Factory.forProtocol(Resetting), interface="127.0.0.1")
        self.addCleanup(reset.stopListening)
        self.metadata = Metadata(reactor, f"http://127.0.0.1:{reset.getHost().port}", self.timeout_s, "Azure")
        with self.assertRaises(Unreachable) as caught:
            await self.metadata.ask("POST", "/x", {}, document="x" * (4 << 20))
        self.assertIn("may it reach its metadata service?", str(caught.exception))

    async def test_status_that_is_expected(self) -> None:
        self.server.break_down(broken.status(404))
        self.assertEqual((await self.ask(also=(404, 410))).status, 404)

    async def test_status_that_is_not(self) -> None:
        for code in (301, 400, 404, 410, 429, 500, 503):
            error = await self.problem(broken.status(code, Location=self.server.endpoint))
            self.assertIn(f"answered {code}: b'<html>error {code}</html>'", str(error))
            self.assertIsNone(error.retry_after_s)

    async def test_retry_after(self) -> None:
        for text, expected in (("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", None), ("-1", None), ("²", None)):
            error = await self.problem(broken.status(429, Retry_After=text))
            self.assertEqual(error.retry_after_s, expected)

    async def test_hung(self) -> None:
        for fault in (broken.hang, broken.hang_in_body):
            error = await self.problem(fault, timeout_s=0.05)
            self.assertIn("no answer within 50ms; is this a machine of Azure", str(error))

    async def test_nobody_listens(self) -> None:
        await self.server.close()
        error = await self.problem(broken.hang)
        self.assertIn("refused", str(error))

    async def test_no_such_host(self) -> None:
        self.metadata = Metadata(reactor, "http://no.such.host.invalid", self.timeout_s, "Azure")
        with self.assertRaises(Unreachable) as caught:
            await self.ask()
        self.assertIn("http://no.such.host.invalid/metadata/instance: ", str(caught.exception))

    async def test_connection_cut(self) -> None:
        for fault in (broken.cut, broken.cut_in_body, broken.garbage, broken.bad_encoding):
            error = await self.problem(fault)
            self.assertIn("is this a machine of Azure", str(error))

    async def test_not_understood(self) -> None:
        for fault, why in (
            (broken.half_json, "truncated"),
            (broken.binary, "malformed"),
            (broken.deep, "Expected `object`"),
            (broken.deep_inside, "recursion"),
            (broken.says([]), "Expected `object`, got `array`"),
            (broken.says({"events": [1, 2]}), "$.events[0]"),
            (broken.says(""), "truncated"),
        ):
            error = await self.problem(fault)
            self.assertIn("answered 200 and what nobody understands", str(error))
            self.assertIn(why, str(error))
            self.assertLess(len(str(error)), 400)

    async def test_no_text(self) -> None:
        self.server.break_down(broken.binary)
        answer = await self.ask()
        self.assertRaises(Unreachable, answer.text)

    async def test_too_long(self) -> None:
        error = await self.problem(broken.huge)
        self.assertIn("answered more than 1MiB", str(error))

    async def test_longest(self) -> None:
        """The bound itself is still read."""
        self.server.break_down(broken.says('"' + "x" * (BODY_BYTES_MAX - 2) + '"'))
        self.assertEqual(len((await self.ask()).body), BODY_BYTES_MAX)

    async def test_header_too_long(self) -> None:
        await self.problem(broken.huge_header)

    async def test_given_up(self) -> None:
        """Whoever asks no more leaves no connection."""
        for fault in (broken.hang, broken.hang_in_body):
            self.server.break_down(fault)
            asked = self.server.until_asked()
            asking = Deferred.fromCoroutine(self.ask())
            ended: list[object] = []
            asking.addErrback(ended.append)
            await asked
            asking.cancel()
            await self.no_connection()
            self.assertEqual(len(ended), 1)


class BodyTests(unittest.SynchronousTestCase):
    """A body that goes on after it was cut off, as a transport may have it."""

    def test_too_long(self) -> None:
        body = metadata._Body("GET /x")
        transport = StringTransport()
        body.makeConnection(transport)
        for _ in range(3):
            body.dataReceived(b"x" * BODY_BYTES_MAX)
        body.connectionLost()
        self.assertIn("GET /x answered more than 1MiB", str(self.failureResultOf(body.whole, Unreachable).value))
        self.assertTrue(transport.disconnecting)


class TimeTests(unittest.TestCase):
    """Times as clouds write them."""

    def test_forms(self) -> None:
        """Those without a zone are in UTC, wherever the machine is."""
        self.addCleanup(time.tzset)
        with mock.patch.dict(os.environ, {"TZ": "Pacific/Auckland"}):
            time.tzset()
        for text in ("Mon, 19 Sep 2016 18:29:47 GMT", "19 Sep 2016 18:29:47 GMT", "2016-09-19T18:29:47Z"):
            self.assertEqual(parse_time(text), 1474309787.0)
        self.assertEqual(parse_time("2016-09-19T18:29:47"), 1474309787.0)

    def test_garbage(self) -> None:
        for text in ("", "soon", "99 Sep 2016 18:29:47 GMT", "1 Jan 99999999999999999999 00:00:00 GMT", "1" * 5000):
            self.assertIsNone(parse_time(text), text[:40])


class AppointmentsTests(unittest.TestCase):
    """Calls by name."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.appointments = Appointments(self.clock)
        self.calls: list[str] = []

    def make(self, name: str, delay_s: float, what: str) -> None:
        """An appointment that is written down."""
        self.appointments.make(name, delay_s, lambda: self.calls.append(what))

    def test_kept(self) -> None:
        self.make("a", 2.0, "first")
        self.make("b", 1.0, "second")
        self.clock.advance(2.0)
        self.assertEqual(self.calls, ["second", "first"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_at_once(self) -> None:
        self.make("a", 2.0, "late")
        self.make("a", -1.0, "now")
        self.assertEqual(self.calls, ["now"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_moved(self) -> None:
        self.make("a", 1.0, "old")
        self.make("a", 3.0, "new")
        self.clock.advance(2.0)
        self.assertEqual(self.calls, [])
        self.clock.advance(1.0)
        self.assertEqual(self.calls, ["new"])

    def test_forgotten(self) -> None:
        self.make("a", 1.0, "a")
        self.make("b", 1.0, "b")
        self.appointments.drop("a")
        self.appointments.drop("none")
        self.appointments.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closed(self) -> None:
        self.appointments.close()
        self.make("a", 1.0, "late")
        self.make("b", 0.0, "now")
        self.assertEqual((self.calls, self.clock.getDelayedCalls()), ([], []))

    def test_made_anew_when_kept(self) -> None:
        self.appointments.make("a", 1.0, lambda: self.make("a", 1.0, "again"))
        self.clock.advance(1.0)
        self.clock.advance(1.0)
        self.assertEqual(self.calls, ["again"])
