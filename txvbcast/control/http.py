"""The HTTP interface of a node: every path, what it reads and what it answers.

Handlers read strictly (:mod:`txvbcast.control.reading`), ask the node, and answer JSON; whatever
goes wrong is a :class:`~txvbcast.control.problems.Problem`.
"""

from __future__ import annotations

import re
from typing import Any

from klein import Klein
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import BaseConverter

from txvbcast.absences import Notice
from txvbcast.control import reading
from txvbcast.control.contracts import HttpLimits, KeyValues, KvResult, Node
from txvbcast.control.events import EventStream
from txvbcast.control.listing import Listing, pieces
from txvbcast.control.problems import Problem, bad_field, of_submission
from txvbcast.control.reading import bytes_field, read_body, read_query
from txvbcast.control.site import ApiSite, answer, answer_bytes, body_of, problem_body
from txvbcast.errors import Committed, SubmissionError, Unsafe
from txvbcast.wire.messages import NODE_ID_MAX, U64_MAX, Mode

_log = Logger()

CONSISTENCIES = ("linearizable", "local")
OUTCOMES = ("done", "cancelled", "failed")


class _Anything(BaseConverter):
    """The rest of the path, whatever it holds: slashes at any place, line ends."""

    part_isolating = False
    regex = "(?s:.+)"


class HttpApi:
    """The HTTP interface of one node.

    :ivar site: listen with this.
    """

    app = Klein()
    app.url_map.converters["anything"] = _Anything

    def __init__(
        self,
        node: Node,
        node_id: int,
        clock: IReactorTime,
        kv: KeyValues | None = None,
        limits: HttpLimits | None = None,
    ) -> None:
        self._node = node
        self._node_id = node_id
        self._clock = clock
        self._kv = kv
        self._limits = limits or HttpLimits()
        self._streams: set[EventStream] = set()
        self.site = ApiSite(self.app.resource(), self._limits.body_bytes_max, clock)

    def close(self) -> None:
        """End every event stream; the listening port is the caller's to stop."""
        for stream in tuple(self._streams):
            stream.close()

    # --- the node ---

    @app.route("/v1/status", methods=["GET"])
    def get_status(self, request: Request) -> bytes:
        """The node's view of the cluster."""
        read_query(request.uri)
        return answer(request, self._node.status())

    @app.route("/healthz", methods=["GET"])
    def get_health(self, request: Request) -> bytes:
        """The process is alive."""
        read_query(request.uri)
        return answer(request, {"alive": True})

    @app.route("/readyz", methods=["GET"])
    def get_readiness(self, request: Request) -> bytes:
        """The node has a master and a quorum; 503 with the reason if not."""
        read_query(request.uri)
        status = self._node.status()
        if status["master"] is None:
            return answer(request, {"ready": False, "reason": "no master is known"}, 503)
        if not status["quorum"]["ok"]:
            return answer(request, {"ready": False, "reason": "no majority of the voters can be reached"}, 503)
        return answer(request, {"ready": True, "reason": ""})

    # --- transactions ---

    @app.route("/v1/tx", methods=["POST"])
    async def post_tx(self, request: Request) -> bytes:
        """Hand in a transaction and wait for its outcome."""
        read_query(request.uri)
        body = read_body(body_of(request), reading.SubmitBody)
        mode = reading.mode(body.mode)
        committed = await self._submit(
            body.rm, reading.payload(body), mode, body.timeout_ms / 1000, body.request_id, "payload"
        )
        return answer(request, {**_committed(committed), "mode": mode.value})

    @app.route("/v1/tx/<anything:request_id>", methods=["GET"])
    def get_tx(self, request: Request, request_id: str) -> bytes:
        """What became of the transaction with that ``request_id``."""
        read_query(request.uri)
        committed = self._node.outcome(request_id)
        if committed is None:
            raise Problem(
                "not-found",
                "this node knows of no committed transaction with that request_id; unknown is not never: "
                "it may be under way, or older than what the cluster remembers",
                {"request_id": request_id},
            )
        return answer(request, {"request_id": request_id, "outcome": "committed", **_committed(committed)})

    async def _submit(
        self, rm: str, payload: bytes, mode: Mode, timeout_s: float, request_id: str | None, field: str
    ) -> Committed:
        """Submit; ``field`` is what the client would have to make smaller."""
        bytes_max = self._limits.payload_bytes_max
        if len(payload) > bytes_max:
            raise Problem("too-large", f"{field}: the payload has {len(payload)} bytes, the limit is {bytes_max}")
        try:
            return await self._node.submit(rm, payload, mode, timeout_s, request_id)
        except SubmissionError as error:
            problem = of_submission(error)
            if request_id is not None:
                problem.facts["request_id"] = request_id
            raise problem from error
        except ValueError as error:
            raise Problem("bad-request", str(error)) from error

    # --- keys and values ---

    @app.route("/v1/kv", methods=["GET"])
    async def get_kv_items(self, request: Request) -> None:
        """Every key that starts with ``prefix``, with its value and version."""
        query = read_query(request.uri, "prefix", "consistency", "timeout_ms")
        kv = self._key_values()
        await self._barrier(query)
        listing = Listing(request, pieces(kv.items(query.get("prefix", "")), self._node.applied))
        await listing.done

    @app.route("/v1/kv/<anything:key>", methods=["GET"])
    async def get_kv(self, request: Request, key: str) -> bytes:
        """The value of ``key``."""
        query = read_query(request.uri, "consistency", "timeout_ms")
        kv = self._key_values()
        _check_key(kv, key)
        await self._barrier(query)
        found = kv.get(key)
        if found is None:
            raise _no_such_key(key, self._node.applied)
        value, version = found
        return answer_bytes(request, value, self._versions(version))

    @app.route("/v1/kv/<anything:key>", methods=["PUT"])
    async def put_kv(self, request: Request, key: str) -> bytes:
        """Set ``key`` to the body."""
        query = read_query(request.uri, "mode", "if_version", "timeout_ms", "request_id")
        kv = self._key_values()
        _check_key(kv, key)
        payload = kv.put_payload(key, body_of(request), _if_version(query))
        return await self._write(request, kv, key, payload, query)

    @app.route("/v1/kv/<anything:key>", methods=["DELETE"])
    async def delete_kv(self, request: Request, key: str) -> bytes:
        """Remove ``key``; not-found when it was not there."""
        query = read_query(request.uri, "mode", "if_version", "timeout_ms", "request_id")
        kv = self._key_values()
        _check_key(kv, key)
        return await self._write(request, kv, key, kv.delete_payload(key, _if_version(query)), query)

    def _key_values(self) -> KeyValues:
        if self._kv is None:
            raise Problem("not-found", "this node has no key-value store among its resource_managers")
        return self._kv

    async def _barrier(self, query: dict[str, str]) -> None:
        consistency = reading.choice("consistency", query.get("consistency", "linearizable"), CONSISTENCIES)
        timeout_s = reading.timeout_s(query)
        if consistency == "linearizable":
            await self._node.read_barrier(timeout_s)

    async def _write(self, request: Request, kv: KeyValues, key: str, payload: bytes, query: dict[str, str]) -> bytes:
        mode = reading.mode(query.get("mode", Mode.BROADCAST.value))
        request_id = reading.request_id(query)
        committed = await self._submit(kv.name, payload, mode, reading.timeout_s(query), request_id, "value")
        try:
            result = kv.decode_result(committed.result)
        except ValueError as error:
            raise bad_field("request_id", "it belongs to a transaction that is not about a key") from error
        if not result.ok:
            raise _refused(key, result, committed.seq)
        if request.method == b"DELETE" and not result.found_version:
            raise _no_such_key(key, committed.seq)
        document = {"key": key, "version": result.version, "found_version": result.found_version}
        document |= {"seq": committed.seq, "index": committed.index, "mode": mode.value}
        return answer(request, document, headers=self._versions(result.version))

    def _versions(self, version: int) -> dict[str, int]:
        return {"Vbcast-Version": version, "Vbcast-Applied": self._node.applied}

    # --- absences ---

    @app.route("/v1/inactive", methods=["GET"])
    def get_changes(self, request: Request) -> bytes:
        """This node's absences, newest last."""
        read_query(request.uri)
        return answer(request, {"changes": self._node.absences.documents()})

    @app.route("/v1/inactive", methods=["POST"])
    async def post_change(self, request: Request) -> bytes:
        """Announce an absence of this node and wait for the cluster's word; or ask whether it may be."""
        read_query(request.uri)
        body = read_body(body_of(request), reading.InactiveBody)
        expected_s = None if body.expected_ms is None else body.expected_ms / 1000
        try:
            if body.dry_run:
                return answer(request, _admission(self._node.absences.refusal(body.member, expected_s)))
            hold_s = body.wait_ms / 1000
            notice = Notice(body.kind, body.facts, body.source, True, hold_s, body.member, expected_s)
            held = self._node.absences.hold(notice)
        except ValueError as error:
            raise Problem("bad-request", str(error)) from error
        go = await held.go
        document = {
            "change_id": held.change_id,
            "member": held.member,
            "confirmed": go.confirmed,
            "expected_ms": round(held.announced_s * 1000),
        }
        return answer(request, {**document, **({"unsafe": go.unsafe} if go.unsafe else {})})

    @app.route("/v1/inactive/history", methods=["GET"])
    def get_history(self, request: Request) -> bytes:
        """The absences that are over, also those of earlier lives of the node, and how well they were foretold."""
        read_query(request.uri)
        return answer(request, self._node.history())

    @app.route("/v1/inactive/<int:change_id>", methods=["PATCH"])
    def patch_change(self, request: Request, change_id: int) -> bytes:
        """Estimate anew how long an absence takes, from now on."""
        read_query(request.uri)
        body = read_body(body_of(request), reading.EstimateBody)
        try:
            self._node.absences.update(change_id, body.expected_ms / 1000)
        except KeyError:
            raise _no_such_change(change_id) from None
        except ValueError as error:
            raise bad_field("expected_ms", str(error)) from error
        return answer(request, {"change_id": change_id, "expected_ms": body.expected_ms})

    @app.route("/v1/inactive/<int:change_id>", methods=["DELETE"])
    def delete_change(self, request: Request, change_id: int) -> bytes:
        """The absence is over."""
        query = read_query(request.uri, "outcome")
        outcome = reading.choice("outcome", query.get("outcome", "done"), OUTCOMES)
        try:
            self._node.absences.end(change_id, outcome)
        except KeyError:
            raise _no_such_change(change_id) from None
        return answer(request, {"change_id": change_id, "outcome": outcome})

    @app.route("/v1/master", methods=["POST"])
    async def post_master(self, request: Request) -> bytes:
        """Make another node master."""
        read_query(request.uri)
        to = read_body(body_of(request), reading.MasterBody).to
        if not 1 <= to <= NODE_ID_MAX:
            raise bad_field("to", f"expected a node id from 1 to {NODE_ID_MAX}, got {to}")
        try:
            await self._node.move_master(to)
        except Unsafe as error:
            raise Problem("aborted", str(error)) from error
        except ValueError as error:
            raise bad_field("to", str(error)) from error
        return answer(request, {"master": to})

    # --- events ---

    @app.route("/v1/events", methods=["GET"])
    async def get_events(self, request: Request) -> bytes | None:
        """The node's events as a stream; from number ``from``, else after Last-Event-ID, else those to come."""
        query = read_query(request.uri, "from", "follow")
        follow = reading.choice("follow", query.get("follow", "1"), ("0", "1")) == "1"
        last_id = self._last_id(request, query)
        if len(self._streams) >= self._limits.event_streams_max:
            raise Problem("overloaded", f"{len(self._streams)} clients follow the events already")
        if request.method == b"HEAD":
            request.setHeader(b"Content-Type", b"text/event-stream")
            return b""
        stream = EventStream(request, self._node.events, last_id, self._limits, self._clock)
        self._streams.add(stream)
        try:
            stream.start(follow)
            await stream.done
        finally:
            self._streams.discard(stream)
        return None

    def _last_id(self, request: Request, query: dict[str, str]) -> int:
        """The event after which the client wants to hear."""
        first = reading.number(query, "from", 0, U64_MAX)
        if first == 0:
            return max(self._node.events.oldest_id - 1, 0)
        if first is not None:
            return first - 1
        header = request.getHeader("last-event-id")
        if header is None:
            return self._node.events.newest_id
        if not re.fullmatch("[0-9]{1,19}", header):
            raise bad_field("Last-Event-ID", f"expected the number of an event, got {header[:40]!r}")
        return int(header)

    # --- what goes wrong ---

    @app.handle_errors(Problem)
    def on_problem(self, request: Any, failure: Failure) -> bytes:
        """Answer the problem that a handler found."""
        problem = failure.value
        assert isinstance(problem, Problem)
        return problem_body(request, problem)

    @app.handle_errors(SubmissionError)
    def on_submission_error(self, request: Any, failure: Failure) -> bytes:
        """The cluster could not do it."""
        error = failure.value
        assert isinstance(error, SubmissionError)
        return problem_body(request, of_submission(error))

    @app.handle_errors(HTTPException)
    def on_no_route(self, request: Any, failure: Failure) -> bytes:
        """No handler is for this path, or none for this method."""
        path = request.path.decode("latin-1")
        if isinstance(failure.value, MethodNotAllowed):
            allowed = ", ".join(sorted(failure.value.valid_methods or ()))
            request.setHeader("Allow", allowed)
            detail = f"{request.method.decode('latin-1')} is not for {path}; expected one of {allowed}"
            return problem_body(request, Problem("method-not-allowed", detail))
        return problem_body(request, Problem("not-found", f"this node serves nothing at {path}", {"field": "path"}))

    @app.handle_errors(Exception)
    def on_defect(self, request: Any, failure: Failure) -> bytes:
        """A defect of this node: logged with its traceback, told without."""
        _log.failure("answering {method} {path} failed", failure, method=request.method, path=request.path)
        return problem_body(request, Problem("internal-error", "see the log of this node"))


def _admission(refused: str) -> dict[str, Any]:
    document = {"change_id": None, "confirmed": False, "dry_run": True, "safe": not refused}
    return {**document, **({"unsafe": refused} if refused else {})}


def _committed(committed: Committed) -> dict[str, Any]:
    return {"seq": committed.seq, "index": committed.index, **bytes_field("result", committed.result)}


def _check_key(kv: KeyValues, key: str) -> None:
    """:raises Problem: ``key`` cannot be one; the rules are the store's own."""
    try:
        kv.delete_payload(key)
    except ValueError as error:
        raise bad_field("key", str(error)) from error


def _if_version(query: dict[str, str]) -> int | None:
    return reading.number(query, "if_version", 0, U64_MAX)


def _refused(key: str, result: KvResult, seq: int) -> Problem:
    facts = {"key": key, "found_version": result.found_version, "seq": seq}
    return Problem("aborted", result.reason, facts)


def _no_such_key(key: str, applied: int) -> Problem:
    return Problem("not-found", f"there is no key {key!r}", {"key": key, "applied": applied})


def _no_such_change(change_id: int) -> Problem:
    return Problem("not-found", f"no absence {change_id} of this node is under way", {"change_id": change_id})
