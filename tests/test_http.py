"""The HTTP interface over loopback, with a node that has no cluster: every path, every bad input."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial import unittest
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.test.requesthelper import DummyChannel

from tests.fake_node import FakeEvents, FakeNode
from tests.store_samples import absence
from txvbcast.control.contracts import HttpLimits
from txvbcast.control.events import EventStream
from txvbcast.control.http import HttpApi
from txvbcast.control.listing import PIECE_BYTES, pieces
from txvbcast.control.site import EXCESS_BYTES_MAX, ApiRequest
from txvbcast.errors import Aborted, Committed, NoQuorum, OutcomeUnknown, Overloaded
from txvbcast.wire.messages import Mode

LIMITS = HttpLimits(payload_bytes_max=4096)


async def until(condition: Any) -> None:
    """Let the reactor turn until ``condition()`` holds; trial's own timeout ends a wait in vain."""
    while not condition():
        await deferLater(reactor, 0.002)


class Raw(Protocol):
    """A client that sends bytes as they are and keeps what it gets."""

    def __init__(self) -> None:
        self.got = b""
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)


class HttpCase(unittest.TestCase):
    """A server on a free port and ways to talk to it."""

    timeout = 20
    limits = LIMITS

    def setUp(self) -> None:
        self.node = FakeNode()
        self.api = HttpApi(self.node, 1, reactor, self.node.kv, self.limits)
        self.port = reactor.listenTCP(0, self.api.site, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.addCleanup(self.api.close)
        self.address = f"127.0.0.1:{self.port.getHost().port}"
        self.client = treq.client.HTTPClient(Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False)))

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, body (JSON when it is) and headers; a dict is sent as JSON."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self.client.request(method, f"http://{self.address}{path}", data=data, headers=named)
        content = await response.content()
        kind = response.headers.getRawHeaders("content-type", [""])[0]
        if "json" in kind and content:
            content = json.loads(content)
        return response.code, content, response.headers

    async def refused(self, status: int, kind: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Ask, and check that the answer is a problem document of that kind; returns the document."""
        code, document, got = await self.ask(method, path, body, **headers)
        self.assertEqual((code, got.getRawHeaders("content-type")), (status, ["application/problem+json"]), document)
        self.assertEqual(document["type"], f"urn:txvbcast:error:{kind}")
        self.assertEqual(document["status"], status)
        self.assertTrue(document["title"] and document["detail"])
        return document

    async def raw(self, data: bytes = b"") -> Raw:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        client: Raw = await connectProtocol(endpoint, Raw())
        self.addCleanup(lambda: (client.transport.abortConnection(), client.lost)[1])
        client.transport.write(data)
        return client


class NodeTests(HttpCase):
    """status, healthz, readyz."""

    async def test_status(self) -> None:
        code, document, headers = await self.ask("GET", "/v1/status")
        self.assertEqual((code, document), (200, self.node.status()))
        self.assertEqual(headers.getRawHeaders("content-type"), ["application/json"])
        self.assertEqual(headers.getRawHeaders("server"), ["txvbcast"])
        self.assertEqual(headers.getRawHeaders("x-content-type-options"), ["nosniff"])

    async def test_head(self) -> None:
        for path in ["/v1/status", "/v1/kv", "/v1/events"]:
            code, content, _ = await self.ask("HEAD", path)
            self.assertEqual((code, content), (200, b""))

    async def test_health(self) -> None:
        self.node.master = None
        self.assertEqual((await self.ask("GET", "/healthz"))[:2], (200, {"alive": True}))

    async def test_ready(self) -> None:
        self.assertEqual((await self.ask("GET", "/readyz"))[:2], (200, {"ready": True, "reason": ""}))
        self.node.quorum = False
        code, document, _ = await self.ask("GET", "/readyz")
        self.assertEqual((code, document["ready"]), (503, False))
        self.assertIn("majority", document["reason"])
        self.node.master = None
        self.assertIn("no master", (await self.ask("GET", "/readyz"))[1]["reason"])

    async def test_paths_that_are_not_there(self) -> None:
        for path in ["/", "/v1", "/v1/status/", "/v1/nothing", "/v1/inactive/x", "//v1//status", "/v1/kv/", "/%00"]:
            document = await self.refused(404, "not-found", "GET", path)
            self.assertIn("serves nothing", document["detail"])

    async def test_methods_that_are_not_there(self) -> None:
        cases = [("POST", "/v1/status", "GET"), ("GET", "/v1/tx", "POST"), ("PATCH", "/v1/kv/k", "PUT")]
        for method, path, expected in cases:
            document = await self.refused(405, "method-not-allowed", method, path)
            self.assertIn(expected, document["detail"])
        headers = (await self.ask("BREW", "/v1/inactive"))[2]
        self.assertEqual(headers.getRawHeaders("allow"), ["GET, HEAD, POST"])

    async def test_unknown_queries(self) -> None:
        for method, path in [
            ("GET", "/v1/status"), ("GET", "/healthz"), ("GET", "/readyz"), ("POST", "/v1/tx"), ("GET", "/v1/tx/r"),
            ("GET", "/v1/kv"), ("GET", "/v1/kv/k"), ("PUT", "/v1/kv/k"), ("DELETE", "/v1/kv/k"),
            ("GET", "/v1/inactive"), ("POST", "/v1/inactive"), ("GET", "/v1/inactive/history"),
            ("PATCH", "/v1/inactive/1"), ("DELETE", "/v1/inactive/1"), ("POST", "/v1/master"), ("GET", "/v1/events"),
        ]:  # fmt: skip
            document = await self.refused(400, "bad-request", method, f"{path}?colour=red")
            self.assertEqual(document["field"], "colour")

    async def test_malformed_queries(self) -> None:
        for query in ["prefix", "prefix=a&prefix=b", "prefix=%ff", "=", "&", "a=1&" * 40, "prefix=a&&"]:
            await self.refused(400, "bad-request", "GET", f"/v1/kv?{query}")

    async def test_path_that_is_not_utf8(self) -> None:
        document = await self.refused(400, "bad-request", "GET", "/v1/kv/%ff")
        self.assertEqual(document["field"], "path")

    async def test_any_host_name(self) -> None:
        """The name by which a client reaches the node is no reason to fail."""
        for host in [b"a..b", b"\xff", b"[::1", b"x" * 300]:
            client = await self.raw(b"GET /healthz HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host)
            await client.lost
            self.assertTrue(client.got.startswith(b"HTTP/1.1 200"), (host, client.got))

    async def test_old_client(self) -> None:
        client = await self.raw(b"GET /healthz HTTP/1.0\r\n\r\n")
        await client.lost
        self.assertTrue(client.got.endswith(b'{"alive":true}\n'), client.got)

    async def test_not_http(self) -> None:
        client = await self.raw(b"\x16\x03\x01\x00\xa5 hello\r\n\r\n")
        await client.lost
        self.assertIn(b"400", client.got)
        self.assertEqual((await self.ask("GET", "/healthz"))[0], 200)

    async def test_defect(self) -> None:
        """A defect is told as such, logged with its traceback, and hurts nobody else."""
        self.node.status = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        document = await self.refused(500, "internal-error", "GET", "/v1/status")
        self.assertNotIn("division", json.dumps(document))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((await self.ask("GET", "/healthz"))[0], 200)


class OtherSites(HttpCase):
    """Pages of other sites cannot write through an operator's browser."""

    async def test_refused(self) -> None:
        for origin in ["http://evil.example", "null", f"http://{self.address}0", f"{self.address}", "http://", "\xff"]:
            document = await self.refused(403, "forbidden", "POST", "/v1/master", {"to": 2}, origin=origin)
            self.assertIn("not of this node", document["detail"])
            await self.refused(403, "forbidden", "PUT", "/v1/kv/k", b"v", origin=origin)
            await self.refused(403, "forbidden", "DELETE", "/v1/inactive/1", origin=origin)
        self.assertEqual(self.node.asked, [])

    async def test_own_pages_and_reads(self) -> None:
        code, _, _ = await self.ask("POST", "/v1/master", {"to": 2}, origin=f"HTTP://{self.address}")
        self.assertEqual(code, 200)
        self.assertEqual((await self.ask("GET", "/v1/status", origin="http://evil.example"))[0], 200)


class Transactions(HttpCase):
    """POST /v1/tx, GET /v1/tx/ID and the failures that a submission can have."""

    async def test_text(self) -> None:
        body = {"rm": "echo", "payload": "héllo", "mode": "2pc", "timeout_ms": 250, "request_id": "r/1 ü"}
        code, document, _ = await self.ask("POST", "/v1/tx", body)
        self.assertEqual((code, document), (200, {"seq": 1, "index": 0, "result": "héllo", "mode": "2pc"}))
        self.assertEqual(self.node.asked, [("echo", "héllo".encode(), Mode.TWO_PHASE, 0.25, "r/1 ü")])
        code, document, _ = await self.ask("GET", "/v1/tx/" + quote("r/1 ü", safe=""))
        expected = {"request_id": "r/1 ü", "outcome": "committed", "seq": 1, "index": 0, "result": "héllo"}
        self.assertEqual((code, document), (200, expected))

    async def test_bytes(self) -> None:
        data = b"\x00\xff"
        body = {"rm": "echo", "payload_b64": base64.b64encode(data).decode()}
        _, document, _ = await self.ask("POST", "/v1/tx", body)
        self.assertEqual(document, {"seq": 1, "index": 0, "result_b64": "AP8=", "mode": "broadcast"})
        self.assertEqual(self.node.asked, [("echo", data, Mode.BROADCAST, 5.0, None)])

    async def test_unknown_request_id(self) -> None:
        document = await self.refused(404, "not-found", "GET", "/v1/tx/never")
        self.assertIn("unknown is not never", document["detail"])

    async def test_failures(self) -> None:
        cases = [
            (Aborted("over the limit", (2, 3)), 409, "aborted", [2, 3]),
            (OutcomeUnknown("no answer within 5 s"), 504, "outcome-unknown", []),
            (Overloaded("10000 transactions wait"), 429, "overloaded", []),
            (NoQuorum("1 of 3 voters"), 503, "no-quorum", []),
        ]
        for failure, status, kind, who in cases:
            self.node.failure = failure
            document = await self.refused(
                status, kind, "POST", "/v1/tx", {"rm": "echo", "payload": "x", "request_id": "mine"}
            )
            self.assertEqual((document["who"], document["request_id"]), (who, "mine"))
            self.assertIn(failure.reason, document["detail"])

    async def test_retry_after(self) -> None:
        self.node.failure = Overloaded("full")
        _, _, headers = await self.ask("POST", "/v1/tx", {"rm": "echo", "payload": "x"})
        self.assertEqual(headers.getRawHeaders("retry-after"), ["1"])

    async def test_unknown_rm(self) -> None:
        document = await self.refused(400, "bad-request", "POST", "/v1/tx", {"rm": "nope", "payload": ""})
        self.assertIn("no resource manager 'nope'", document["detail"])

    async def test_bad_bodies(self) -> None:
        """Each is refused by the name of what is wrong, and nothing is submitted."""
        cases: list[tuple[bytes, str]] = [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b"[]", "Expected `object`"),
            (b'"x"', "Expected `object`"),
            (b'{"rm":"echo","payload":"x"} x', "not JSON"),
            (b"\xff\xfe", "not UTF-8"),
            (b'{"rm":"echo","payload":"\\ud800"}', "not UTF-8"),
            (b"[" * 50_000, "nested too deeply"),
            (b'{"rm":"echo","rm":"kv","payload":"x"}', "'rm' is given twice"),
            (b'{"rm":"echo","payload":"x","timeout_ms":NaN}', "NaN is no number"),
            (b'{"rm":"echo","payload":"x","timeout_ms":-Infinity}', "-Infinity is no number"),
            (b'{"rm":"echo","payload":"x","timeout_ms":1e999}', "too large a number"),
            (b'{"rm":"echo","payload":"x","timeout_ms":' + b"9" * 5000 + b"}", "digits"),
            (b'{"payload":"x"}', "missing required field `rm`"),
            (b'{"rm":"echo"}', "expected exactly one of payload"),
            (b'{"rm":"echo","payload":"x","payload_b64":"eA=="}', "expected exactly one of payload"),
            (b'{"rm":"echo","payload_b64":"e"}', "not base64"),
            (b'{"rm":"echo","payload_b64":"\xc3\xa9\xc3\xa9"}', "not base64"),
            (b'{"rm":"echo","payload_b64":"eA==\\n"}', "not base64"),
            (b'{"rm":1,"payload":"x"}', "Expected `str`, got `int` - at `$.rm`"),
            (b'{"rm":"echo","payload":["x"]}', "$.payload"),
            (b'{"rm":"echo","payload":"x","mode":"4pc"}', "expected one of broadcast, 2pc, 3pc"),
            (b'{"rm":"echo","payload":"x","mode":2}', "$.mode"),
            (b'{"rm":"echo","payload":"x","timeout_ms":0}', "$.timeout_ms"),
            (b'{"rm":"echo","payload":"x","timeout_ms":600001}', "$.timeout_ms"),
            (b'{"rm":"echo","payload":"x","timeout_ms":1.5}', "$.timeout_ms"),
            (b'{"rm":"echo","payload":"x","timeout_ms":true}', "$.timeout_ms"),
            (b'{"rm":"echo","payload":"x","request_id":""}', "$.request_id"),
            (b'{"rm":"echo","payload":"x","request_id":"' + b"x" * 129 + b'"}', "$.request_id"),
            (b'{"rm":"echo","payload":"x","tiemout_ms":1}', "unknown field `tiemout_ms` (known fields: rm, payload"),
        ]
        for body, expected in cases:
            document = await self.refused(400, "bad-request", "POST", "/v1/tx", body)
            self.assertIn(expected, document["detail"], body[:60])
        self.assertEqual(self.node.asked, [])

    async def test_field_is_named(self) -> None:
        for body, field in [(b'{"rm":1}', "rm"), (b'{"x":1,"rm":"a"}', "x"), (b"{}", "rm"), (b'{"a":1,"a":1}', "a")]:
            document = await self.refused(400, "bad-request", "POST", "/v1/tx", body)
            self.assertEqual(document["field"], field)

    async def test_forms_are_no_json(self) -> None:
        kinds = ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "multipart/form-data"]
        for kind in kinds:
            await self.refused(400, "bad-request", "POST", "/v1/tx", b"rm=echo&payload=x", content_type=kind)

    async def test_payload_limit(self) -> None:
        document = await self.refused(413, "too-large", "POST", "/v1/tx", {"rm": "echo", "payload": "x" * 4097})
        self.assertIn("4097 bytes, the limit is 4096", document["detail"])
        self.assertEqual((await self.ask("POST", "/v1/tx", {"rm": "echo", "payload": "x" * 4096}))[0], 200)


class Bodies(HttpCase):
    """Bodies that are too large."""

    def head(self, length: bytes) -> bytes:
        return b"POST /v1/tx HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n"

    async def test_a_little_too_large(self) -> None:
        """It is read to its end and answered, and the connection goes on."""
        size = LIMITS.body_bytes_max + 1
        client = await self.raw(self.head(b"Content-Length: %d" % size) + b"x" * size)
        await until(lambda: b"too-large" in client.got)
        client.got = b""
        client.transport.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: b"alive" in client.got)

    async def test_much_too_large(self) -> None:
        """It is answered from its length alone."""
        client = await self.raw(self.head(b"Content-Length: %d" % (LIMITS.body_bytes_max + EXCESS_BYTES_MAX + 1)))
        await client.lost
        self.assertTrue(client.got.startswith(b"HTTP/1.1 413"), client.got)
        self.assertIn(b"urn:txvbcast:error:too-large", client.got)

    async def test_chunks_without_end(self) -> None:
        client = await self.raw(self.head(b"Transfer-Encoding: chunked"))
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(EXCESS_BYTES_MAX // 0x10000 + 10):
            client.transport.write(chunk)
        await client.lost
        self.assertEqual((await self.ask("GET", "/healthz"))[0], 200)

    def test_all_at_once(self) -> None:
        """Whatever comes in the same read as what was one too many, there is one answer, and no next request."""
        excess = LIMITS.body_bytes_max + EXCESS_BYTES_MAX + 1
        for head, body in [
            (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n1\r\nx\r\n0\r\n\r\n" % (excess, b"x" * excess)),
            (b"Content-Length: %d" % excess, b"x" * excess),
        ]:
            protocol = self.api.site.buildProtocol(None)
            transport = StringTransport()
            protocol.makeConnection(transport)
            self.addCleanup(protocol.connectionLost, Failure(ConnectionDone()))
            protocol.dataReceived(self.head(head) + body + b"GET /healthz HTTP/1.1\r\n\r\n")
            self.assertEqual(transport.value().count(b"HTTP/1.1 "), 1)
            self.assertTrue(transport.value().startswith(b"HTTP/1.1 413 "))
            self.assertTrue(transport.disconnecting)

    async def test_chunks(self) -> None:
        body = b'{"rm":"echo","payload":"x"}'
        client = await self.raw(self.head(b"Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        await until(lambda: b'"seq":1' in client.got)


class Keys(HttpCase):
    """The key-value store."""

    async def test_round_trip(self) -> None:
        for key in ["k", "a/b/c", "/lead", "trail/", "a//b", "ü %?#", "..", ".", "line\nend", "k" * 512]:
            path = "/v1/kv/" + quote(key, safe="")
            code, document, headers = await self.ask("PUT", path, b"\x00\xffvalue")
            self.assertEqual((code, document["key"], document["found_version"]), (200, key, 0), document)
            version = document["version"]
            self.assertEqual(headers.getRawHeaders("vbcast-version"), [str(version)])
            code, value, headers = await self.ask("GET", path)
            self.assertEqual((code, value), (200, b"\x00\xffvalue"))
            self.assertEqual(headers.getRawHeaders("content-type"), ["application/octet-stream"])
            self.assertEqual(headers.getRawHeaders("vbcast-version"), [str(version)])
            self.assertEqual(headers.getRawHeaders("vbcast-applied"), [str(self.node.applied)])
            code, document, _ = await self.ask("DELETE", path)
            self.assertEqual((code, document["version"], document["found_version"]), (200, 0, version))
            await self.refused(404, "not-found", "GET", path)

    async def test_slashes_need_no_escape(self) -> None:
        await self.ask("PUT", "/v1/kv/a/b/c", b"1")
        self.assertEqual((await self.ask("GET", "/v1/kv/a%2fb/c"))[1], b"1")

    async def test_write_parameters(self) -> None:
        await self.ask("PUT", "/v1/kv/k?mode=3pc&timeout_ms=70&request_id=me&if_version=0", b"v")
        _, payload, mode, timeout_s, request_id = self.node.asked[0]
        self.assertEqual((mode, timeout_s, request_id), (Mode.THREE_PHASE, 0.07, "me"))
        self.assertEqual(payload, self.node.kv.put_payload("k", b"v", 0))

    async def test_if_version(self) -> None:
        _, first, _ = await self.ask("PUT", "/v1/kv/k?if_version=0", b"1")
        document = await self.refused(409, "aborted", "PUT", "/v1/kv/k?if_version=0", b"2")
        self.assertEqual((document["found_version"], document["seq"], document["key"]), (1, 2, "k"))
        await self.refused(409, "aborted", "DELETE", "/v1/kv/k?if_version=9")
        self.assertEqual((await self.ask("GET", "/v1/kv/k"))[1], b"1")
        self.assertEqual((await self.ask("DELETE", f"/v1/kv/k?if_version={first['version']}"))[0], 200)

    async def test_delete_of_nothing(self) -> None:
        document = await self.refused(404, "not-found", "DELETE", "/v1/kv/k")
        self.assertEqual(document["key"], "k")

    async def test_failures(self) -> None:
        for method, path in [("PUT", "/v1/kv/k"), ("DELETE", "/v1/kv/k"), ("GET", "/v1/kv/k"), ("GET", "/v1/kv")]:
            self.node.failure = NoQuorum("alone", (1,))
            document = await self.refused(503, "no-quorum", method, path)
            self.assertEqual(document["who"], [1])

    async def test_consistency(self) -> None:
        await self.ask("PUT", "/v1/kv/k", b"v")
        self.node.asked.clear()
        for path in ["/v1/kv/k", "/v1/kv"]:
            await self.ask("GET", f"{path}?consistency=local")
            self.assertEqual(self.node.asked, [])
            await self.ask("GET", f"{path}?timeout_ms=30")
            await self.ask("GET", f"{path}?consistency=linearizable&timeout_ms=30")
            self.assertEqual(self.node.asked, [("barrier", 0.03)] * 2)
            self.node.asked.clear()

    async def test_list(self) -> None:
        for key, value in [("b", b"2"), ("a/2", b"\xff"), ("a/1", "é\x00".encode()), ("é", b"")]:
            await self.ask("PUT", "/v1/kv/" + quote(key, safe=""), value)
        items = [
            {"key": "a/1", "value": "é\x00", "version": 3},
            {"key": "a/2", "value_b64": "/w==", "version": 2},
        ]
        code, document, headers = await self.ask("GET", "/v1/kv?prefix=a/")
        self.assertEqual((code, document), (200, {"items": items, "applied": 4}))
        self.assertEqual(headers.getRawHeaders("content-type"), ["application/json"])
        everything = (await self.ask("GET", "/v1/kv"))[1]
        self.assertEqual([item["key"] for item in everything["items"]], ["a/1", "a/2", "b", "é"])
        self.assertEqual((await self.ask("GET", "/v1/kv?prefix=zz"))[1], {"items": [], "applied": 4})

    def test_pieces(self) -> None:
        items = [(str(number), b"x" * 1000, number) for number in range(200)]
        parts = list(pieces(items, 9))
        self.assertGreater(len(parts), 2)
        self.assertLess(max(map(len, parts)), PIECE_BYTES + 2000)
        document = json.loads(b"".join(parts))
        self.assertEqual([item["version"] for item in document["items"]], list(range(200)))

    def fill(self, keys: int) -> None:
        for number in range(keys):
            self.node.submit("kv", self.node.kv.put_payload(f"{number:05}", b"x" * 4000))

    async def test_long_list(self) -> None:
        """It comes in many pieces, as it was when it was asked for."""
        self.fill(200)
        client = await self.raw(b"GET /v1/kv HTTP/1.1\r\nHost: x\r\n\r\n")
        client.transport.pauseProducing()
        await until(lambda: len(self.node.asked) == 201)
        self.node.submit("kv", self.node.kv.put_payload("late", b""))
        client.transport.resumeProducing()
        await until(lambda: client.got.endswith(b"0\r\n\r\n"))
        self.assertIn(b'"applied":200}', client.got)
        self.assertNotIn(b"late", client.got)
        self.assertEqual(len((await self.ask("GET", "/v1/kv"))[1]["items"]), 201)

    async def test_leaving_a_long_list(self) -> None:
        self.fill(2000)
        client = await self.raw(b"GET /v1/kv HTTP/1.1\r\nHost: x\r\n\r\n")
        client.transport.pauseProducing()
        await until(lambda: len(self.node.asked) == 2001)
        client.transport.abortConnection()
        await client.lost
        self.assertEqual((await self.ask("GET", "/healthz"))[0], 200)

    async def test_bad_input(self) -> None:
        cases = [
            ("PUT", "/v1/kv/k?mode=fast", "mode", "expected one of broadcast, 2pc, 3pc"),
            ("PUT", "/v1/kv/k?mode=", "mode", "expected one of"),
            ("PUT", "/v1/kv/k?if_version=-1", "if_version", "expected a whole number"),
            ("PUT", "/v1/kv/k?if_version=1.0", "if_version", "expected a whole number"),
            ("PUT", "/v1/kv/k?if_version=" + "9" * 30, "if_version", "expected a whole number"),
            ("DELETE", "/v1/kv/k?if_version=%D9%A1", "if_version", "expected a whole number"),
            ("PUT", "/v1/kv/k?timeout_ms=0", "timeout_ms", "from 1 to 600000"),
            ("PUT", "/v1/kv/k?request_id=", "request_id", "1 to 128"),
            ("PUT", "/v1/kv/k?request_id=" + "x" * 129, "request_id", "1 to 128"),
            ("PUT", "/v1/kv/k?consistency=local", "consistency", "not known"),
            ("PUT", "/v1/kv/" + "k" * 513, "key", "1 to 512"),
            ("GET", "/v1/kv/" + "k" * 513, "key", "1 to 512"),
            ("DELETE", "/v1/kv/" + "k" * 513, "key", "1 to 512"),
            ("GET", "/v1/kv/k?consistency=strong", "consistency", "expected one of linearizable, local"),
            ("GET", "/v1/kv/k?consistency=local&timeout_ms=x", "timeout_ms", "whole number"),
            ("GET", "/v1/kv?consistency=strong", "consistency", "expected one of"),
            ("GET", "/v1/kv?prefix=a&watch=1", "watch", "not known"),
        ]
        for method, path, field, expected in cases:
            document = await self.refused(400, "bad-request", method, path, b"v" if method == "PUT" else None)
            self.assertEqual(document["field"], field)
            self.assertIn(expected, document["detail"])
        self.assertEqual(self.node.asked, [])

    async def test_value_limit(self) -> None:
        await self.refused(413, "too-large", "PUT", "/v1/kv/k", b"x" * 4096)
        self.assertEqual((await self.ask("PUT", "/v1/kv/k", b"x" * 4000))[0], 200)

    async def test_request_id_of_something_else(self) -> None:
        self.node.outcomes["mine"] = Committed(1, 0, b"no result of a key")
        document = await self.refused(400, "bad-request", "PUT", "/v1/kv/k?request_id=mine", b"v")
        self.assertEqual(document["field"], "request_id")

    async def test_without_a_store(self) -> None:
        self.api._kv = None
        for method, path in [("GET", "/v1/kv"), ("GET", "/v1/kv/k"), ("PUT", "/v1/kv/k"), ("DELETE", "/v1/kv/k")]:
            document = await self.refused(404, "not-found", method, path)
            self.assertIn("no key-value store", document["detail"])

    async def test_client_leaves_while_waiting(self) -> None:
        """The submission goes on; its answer, whatever it is, finds nobody and disturbs nobody."""
        for outcome in [Committed(1, 0, b""), Aborted("late")]:
            self.node.holding = []
            client = await self.raw(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv")
            await until(lambda: self.node.holding)
            waiting = self.node.holding[0]
            client.transport.abortConnection()
            await until(lambda waiting=waiting: waiting.called)
            if isinstance(outcome, Committed):
                waiting.callback(outcome)
            else:
                waiting.errback(outcome)
        self.node.holding = None
        self.assertEqual((await self.ask("GET", "/healthz"))[0], 200)


class Absences(HttpCase):
    """begin, estimate, end, list, dry run."""

    async def test_life(self) -> None:
        body = {"kind": "freeze", "expected_ms": 4000, "facts": {"ram_mib": 512, "live": True, "to": None}}
        code, document, _ = await self.ask("POST", "/v1/inactive", body)
        self.assertEqual((code, document), (200, {"change_id": 1, "member": 1, "confirmed": True, "expected_ms": 4000}))
        facts = {"ram_mib": 512, "live": True, "to": None}
        self.assertEqual(self.node.asked, [("freeze", 4.0, facts, True, "operator", 5.0, None)])
        code, document, _ = await self.ask("PATCH", "/v1/inactive/1", {"expected_ms": 9000})
        self.assertEqual((code, document), (200, {"change_id": 1, "expected_ms": 9000}))
        _, document, _ = await self.ask("GET", "/v1/inactive")
        self.assertEqual(document, {"changes": self.node.absences.records})
        self.assertEqual(document["changes"][0]["expected_ms"], 9000)
        code, document, _ = await self.ask("DELETE", "/v1/inactive/1?outcome=cancelled")
        self.assertEqual((code, document), (200, {"change_id": 1, "outcome": "cancelled"}))
        await self.refused(404, "not-found", "DELETE", "/v1/inactive/1")
        await self.refused(404, "not-found", "PATCH", "/v1/inactive/1", {"expected_ms": 1})

    async def test_history(self) -> None:
        self.node.past = [absence(1), absence(2, "operator")]
        code, document, _ = await self.ask("GET", "/v1/inactive/history")
        self.assertEqual((code, document), (200, self.node.history()))
        self.assertEqual([each["source"] for each in document["predictions"]], ["operator", "qmp"])
        await self.refused(400, "bad-request", "GET", "/v1/inactive/history?last=3")
        await self.refused(405, "method-not-allowed", "DELETE", "/v1/inactive/history")

    async def test_estimated_by_the_node(self) -> None:
        _, document, _ = await self.ask(
            "POST", "/v1/inactive", {"kind": "memory", "member": 1, "wait_ms": 10, "source": "me"}
        )
        self.assertEqual(document["expected_ms"], 2000)
        self.assertEqual(self.node.asked, [("memory", None, {}, True, "me", 0.01, 1)])

    async def test_unsafe(self) -> None:
        self.node.answer = "2 of 3 voters would be left"
        _, document, _ = await self.ask("POST", "/v1/inactive", {"kind": "freeze"})
        self.assertEqual((document["confirmed"], document["unsafe"]), (False, self.node.answer))
        _, document, _ = await self.ask("POST", "/v1/inactive", {"kind": "freeze", "dry_run": True})
        expected = {"change_id": None, "confirmed": False, "dry_run": True, "safe": False, "unsafe": self.node.answer}
        self.assertEqual(document, expected)
        self.assertEqual(len(self.node.absences.records), 1)

    async def test_dry_run(self) -> None:
        _, document, _ = await self.ask("POST", "/v1/inactive", {"kind": "freeze", "dry_run": True})
        self.assertEqual(document, {"change_id": None, "confirmed": False, "dry_run": True, "safe": True})
        self.assertEqual(self.node.absences.records, [])

    async def test_bad_input(self) -> None:
        cases: list[tuple[dict[str, Any], str]] = [
            ({}, "missing required field `kind`"),
            ({"kind": "nap"}, "no kind of change 'nap'"),
            ({"kind": "freeze", "expected_ms": -1}, "$.expected_ms"),
            ({"kind": "freeze", "expected_ms": 1e3}, "$.expected_ms"),
            ({"kind": "freeze", "expected_ms": 10**15}, "$.expected_ms"),
            ({"kind": "freeze", "facts": []}, "$.facts"),
            ({"kind": "freeze", "facts": {"a": {"b": 1}}}, "$.facts"),
            ({"kind": "freeze", "member": 4}, "node 4 is no member; the members are: 1, 2, 3"),
            ({"kind": "freeze", "source": ""}, "$.source"),
            ({"kind": "freeze", "dry_run": 1}, "$.dry_run"),
            ({"kind": "freeze", "expected": 1}, "unknown field `expected`"),
        ]
        for body, expected in cases:
            document = await self.refused(400, "bad-request", "POST", "/v1/inactive", body)
            self.assertIn(expected, document["detail"])
        await self.refused(400, "bad-request", "PATCH", "/v1/inactive/1", {"expected_ms": "5s"})
        document = await self.refused(400, "bad-request", "DELETE", "/v1/inactive/1?outcome=good")
        self.assertIn("done, cancelled, failed", document["detail"])
        self.assertEqual(self.node.absences.records, [])


class Master(HttpCase):
    """POST /v1/master."""

    async def test_move(self) -> None:
        self.assertEqual((await self.ask("POST", "/v1/master", {"to": 2}))[:2], (200, {"master": 2}))
        document = await self.refused(409, "aborted", "POST", "/v1/master", {"to": 3})
        self.assertIn("node 3 is inactive", document["detail"])
        self.node.failure = NoQuorum("alone")
        await self.refused(503, "no-quorum", "POST", "/v1/master", {"to": 1})

    async def test_bad_input(self) -> None:
        for to in [0, 65536, -1, 9, "2", None, 2.0, True]:
            document = await self.refused(400, "bad-request", "POST", "/v1/master", {"to": to})
            self.assertIn("to", document["field"])


class Events(HttpCase):
    """The event stream."""

    limits = HttpLimits(event_streams_max=3, event_backlog_bytes_max=20_000)

    def setUp(self) -> None:
        super().setUp()
        for number in range(1, 4):
            self.node.events.add("node_inactive", number, "freeze announced")

    async def follow(self, query: str = "", header: str = "") -> Raw:
        request = f"GET /v1/events{query} HTTP/1.1\r\nHost: x\r\n{header}\r\n"
        before = len(self.node.events.callbacks)
        client = await self.raw(request.encode())
        await until(lambda: len(self.node.events.callbacks) > before)
        return client

    def ids(self, client: Raw) -> list[int]:
        return [int(line[4:]) for line in client.got.split(b"\n") if line.startswith(b"id: ")]

    async def test_stream(self) -> None:
        client = await self.follow("?from=2")
        self.node.events.add("master_changed", 2, "ünder way", epoch=7)
        await until(lambda: self.ids(client) == [2, 3, 4])
        self.assertIn(b"Content-Type: text/event-stream\r\n", client.got)
        last = client.got.split(b"\n\n")[-2].split(b"\n")
        self.assertEqual(last[-2], b"event: master_changed")
        self.assertEqual(json.loads(last[-1].removeprefix(b"data: ")), self.node.events.kept[-1])

    async def test_where_it_starts(self) -> None:
        cases = [("", "", []), ("", "Last-Event-ID: 1\r\n", [2, 3]), ("?from=0", "", [1, 2, 3])]
        for query, header, expected in [*cases, ("?from=3", "Last-Event-ID: 1\r\n", [3]), ("?from=4", "", [])]:
            client = await self.follow(query, header)
            await until(lambda client=client: b": events" in client.got)
            self.assertEqual(self.ids(client), expected)
            self.assertNotIn(b"gap", client.got)
            client.transport.abortConnection()
            await until(lambda: not self.node.events.callbacks)

    async def test_without_following(self) -> None:
        code, content, _ = await self.ask("GET", "/v1/events?from=0&follow=0")
        self.assertEqual((code, content.count(b"event: node_inactive\n")), (200, 3))

    async def test_gaps_are_named(self) -> None:
        self.node.events.kept = self.node.events.kept[-1:]
        content = (await self.ask("GET", "/v1/events?from=1&follow=0"))[1]
        self.assertIn(b'event: gap\ndata: {"kind":"gap","asked":1,"oldest":3}\n\nid: 3\n', content)
        content = (await self.ask("GET", "/v1/events?from=0&follow=0"))[1]
        self.assertNotIn(b"gap", content)

    async def test_numbers_of_an_earlier_life(self) -> None:
        """A client that knows more events than there are hears so, and gets all that there are."""
        content = (await self.ask("GET", "/v1/events?follow=0", last_event_id="9"))[1]
        self.assertIn(b'{"kind":"gap","asked":10,"oldest":1}', content)
        self.assertEqual(content.count(b"\nid: "), 3)

    async def test_bad_input(self) -> None:
        await self.refused(400, "bad-request", "GET", "/v1/events?from=x")
        await self.refused(400, "bad-request", "GET", "/v1/events?follow=yes")
        document = await self.refused(400, "bad-request", "GET", "/v1/events", last_event_id="abc")
        self.assertEqual(document["field"], "Last-Event-ID")

    async def test_clients_are_bounded(self) -> None:
        for _ in range(3):
            await self.follow()
        await self.refused(429, "overloaded", "GET", "/v1/events")

    async def test_leaving(self) -> None:
        client = await self.follow()
        client.transport.abortConnection()
        await until(lambda: not self.node.events.callbacks)
        self.node.events.add("node_normal")
        self.assertEqual(self.api._streams, set())

    async def test_close(self) -> None:
        client = await self.follow()
        self.api.close()
        await until(lambda: client.got.endswith(b"0\r\n\r\n"))
        self.assertEqual(self.node.events.callbacks, [])

    async def test_slow_reader_is_disconnected(self) -> None:
        slow = await self.follow()
        quick = await self.follow()
        slow.transport.pauseProducing()
        while len(self.node.events.callbacks) == 2:
            self.node.events.add("node_catching_up", 2, "x" * 10_000)
            await until(lambda: self.ids(quick))
            quick.got = b""
        slow.transport.resumeProducing()
        await slow.lost
        self.node.events.add("node_normal", 3)
        await until(lambda: b"node_normal" in quick.got)

    async def test_reader_that_catches_up(self) -> None:
        """A pause that stays within the bound loses nothing, and what was there before does not count."""
        self.node.events.keep = 100_000
        for _ in range(3000):
            self.node.events.add("node_catching_up", 2, "x" * 5000)
        client = await self.follow("?from=0")
        client.transport.pauseProducing()
        self.node.events.add("node_normal", 2)
        client.transport.resumeProducing()
        await until(lambda: client.got.endswith(b"\n\n\r\n") and self.ids(client)[-1] == 3004)
        self.assertEqual(self.ids(client), list(range(1, 3005)))


class Streams(unittest.TestCase):
    """One event stream by itself, with a clock and a connection that the test works."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.log = FakeEvents()
        self.channel = DummyChannel()
        self.request = ApiRequest(self.channel, parsePOSTFormSubmission=False)
        self.request.clientproto = b"HTTP/1.1"

    def stream(self, last_id: int = 0) -> EventStream:
        return EventStream(self.request, self.log, last_id, HttpLimits(keep_alive_s=15.0), self.clock)

    def written(self) -> bytes:
        text: bytes = self.channel.transport.written.getvalue()
        return text

    def test_keep_alive(self) -> None:
        stream = self.stream()
        stream.start(follow=True)
        self.clock.advance(14)
        self.assertNotIn(b"still here", self.written())
        self.clock.pump([1, 15])
        self.assertEqual(self.written().count(b": still here\n\n"), 2)
        stream.pauseProducing()
        self.clock.advance(15)
        self.assertEqual(self.written().count(b": still here\n\n"), 2)
        stream.stopProducing()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_paused_at_every_write(self) -> None:
        """A client that takes one piece at a time gets each once, and the gap is named once."""
        self.log.keep = 2
        for _ in range(5):
            self.log.add("node_normal")
        stream = self.stream(1)
        write = self.request.write

        def write_and_pause(data: bytes) -> None:
            write(data)
            stream.pauseProducing()

        self.patch(self.request, "write", write_and_pause)
        stream.start(follow=True)
        self.assertNotIn(b"event: ", self.written())
        self.log.keep = 100
        self.log.add("node_failed")
        while stream._paused:
            before = self.written()
            stream.resumeProducing()
            self.assertLess(self.written()[len(before) :].count(b"\n\n"), 2, "written while paused")
        stream.stopProducing()
        self.assertEqual(self.written().count(b"event: gap"), 1)
        ids = [line for line in self.written().split(b"\n") if line.startswith(b"id: ")]
        self.assertEqual(ids, [b"id: 4", b"id: 5", b"id: 6"])
