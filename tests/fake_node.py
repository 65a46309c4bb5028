"""A node without a cluster, for the tests of what people touch: the driver's API, answered at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed

from txvbcast.absences import Notice, past_document
from txvbcast.config import CHANGE_KINDS
from txvbcast.core.history import predictions
from txvbcast.core.inputs import PastAbsence
from txvbcast.driver import Sink
from txvbcast.errors import Committed, SubmissionError, Unsafe
from txvbcast.interfaces import Go, Tx
from txvbcast.managers.kv import KeyValueManager
from txvbcast.wire.items import Request
from txvbcast.wire.messages import Mode


@attrs.define(eq=False)
class FakeAbsences:
    """:ivar records: the absences that were announced, as people see them."""

    node: FakeNode
    records: list[dict[str, Any]] = attrs.field(factory=list)

    def known(self, member: int | None) -> int:
        if member is not None and not 1 <= member <= 3:
            raise ValueError(f"node {member} is no member; the members are: 1, 2, 3")
        return member or 1

    def _under_way(self, change_id: int) -> dict[str, Any]:
        for record in self.records:
            if record["change_id"] == change_id and record["outcome"] is None:
                return record
        raise KeyError(change_id)

    def hold(self, notice: Notice) -> FakeHeld:
        node = self.node
        asked = (notice.kind, notice.expected_s, dict(notice.facts), notice.holdable, notice.source)
        node.asked.append((*asked, notice.hold_s, notice.member))
        if notice.kind not in CHANGE_KINDS:
            raise ValueError(f"there is no kind of change {notice.kind!r}")
        who = self.known(notice.member)
        change_id = len(self.records) + 1
        expected_s = 2.0 if notice.expected_s is None else notice.expected_s
        confirmed = node.answer == "confirmed"
        unsafe = "" if node.answer in ("confirmed", "silent") else node.answer
        absence = {
            "change_id": change_id, "member": who, "kind": notice.kind, "source": notice.source, "basis": "told",
            "announced_ms": round(expected_s * 1000), "expected_ms": round(expected_s * 1000),
            "began": 1000.0, "elapsed_ms": 5, "confirmed": confirmed, "unsafe": unsafe, "outcome": None,
            "actual_ms": None,
        }  # fmt: skip
        self.records.append(absence)
        return FakeHeld(change_id, who, expected_s, succeed(Go(confirmed, unsafe)))

    def update(self, change_id: int, expected_s: float | None) -> None:
        assert expected_s is not None
        self._under_way(change_id)["expected_ms"] = round(expected_s * 1000)

    def end(self, change_id: int, outcome: str = "done") -> None:
        self._under_way(change_id).update(outcome=outcome, actual_ms=7)

    def documents(self) -> list[dict[str, Any]]:
        return self.records

    def refusal(self, member: int | None = None, expected_s: float | None = None) -> str:
        self.known(member)
        return "" if self.node.answer == "confirmed" else self.node.answer


@attrs.frozen
class FakeHeld:
    """The answer to ``hold``."""

    change_id: int
    member: int
    announced_s: float
    go: Deferred[Go]


class FakeEvents:
    """An event log that keeps the last ``keep`` events."""

    def __init__(self, keep: int = 1000) -> None:
        self.keep = keep
        self.kept: list[dict[str, Any]] = []
        self.newest_id = 0
        self.callbacks: list[Callable[[dict[str, Any]], None]] = []

    @property
    def oldest_id(self) -> int:
        return self.newest_id - len(self.kept) + 1

    def since(self, event_id: int) -> list[dict[str, Any]]:
        return [event for event in self.kept if event["id"] > event_id]

    def subscribe(self, callback: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def add(self, kind: str, node_id: int = 1, reason: str = "", **facts: Any) -> None:
        self.newest_id += 1
        event = {"id": self.newest_id, "kind": kind, "node_id": node_id, "reason": reason, "time_s": 1000.5, **facts}
        self.kept = [*self.kept, event][-self.keep :]
        for callback in tuple(self.callbacks):
            callback(event)


class FakeNode:
    """Performs every transaction itself; ``failure`` and ``holding`` make it misbehave.

    :ivar failure: what the next submission, barrier or handover fails with.
    :ivar holding: deferreds of submissions that wait for ever, while not None.
    :ivar held: sinks of submissions of many that wait for ever, by ticket, while not None.
    :ivar forgotten: tickets that nobody listens to.
    :ivar answer: how the next absences are answered: ``confirmed``, ``silent``, or a reason why not.
    :ivar asked: arguments of the calls, for tests to look at.
    """

    def __init__(self) -> None:
        self.kv = KeyValueManager()
        self.events = FakeEvents()
        self.applied = 0
        self.failure: Exception | None = None
        self.holding: list[Deferred[Any]] | None = None
        self.answer = "confirmed"
        self.master: int | None = 1
        self.quorum = True
        self.asked: list[Any] = []
        self.outcomes: dict[str, Committed] = {}
        self.absences = FakeAbsences(self)
        self.past: list[PastAbsence] = []
        self.margin = 1.5
        self.tickets = 0
        self.held: dict[int, Sink] | None = None
        self.forgotten: list[int] = []
        self.adapters: list[dict[str, Any]] = []

    def _failing(self) -> Deferred[Any] | None:
        failure, self.failure = self.failure, None
        if failure is not None:
            return fail(failure)
        if self.holding is not None:
            self.holding.append(Deferred())
            return self.holding[-1]
        return None

    def submit(
        self,
        rm: str,
        payload: bytes,
        mode: Mode = Mode.BROADCAST,
        timeout_s: float = 5.0,
        request_id: str | None = None,
    ) -> Deferred[Committed]:
        self.asked.append((rm, payload, mode, timeout_s, request_id))
        if rm not in ("kv", "echo"):
            raise ValueError(f"there is no resource manager {rm!r}; expected one of echo, kv")
        failing = self._failing()
        if failing is not None:
            return failing
        if request_id in self.outcomes:
            return succeed(self.outcomes[request_id])
        self.applied += 1
        tx = Tx(rm, payload, mode, "1.1.1", 0, self.applied, request_id)
        committed = Committed(self.applied, 0, self.kv.commit(tx) if rm == "kv" else payload)
        if request_id is not None:
            self.outcomes[request_id] = committed
        return succeed(committed)

    def submit_many(
        self,
        rm: str,
        payloads: Sequence[bytes],
        mode: Mode,
        timeout_s: float,
        requests: Sequence[Request] | None,
        sink: Sink,
    ) -> int:
        self.asked.append((rm, tuple(payloads), mode, timeout_s, requests))
        if rm not in ("kv", "echo"):
            raise ValueError(f"there is no resource manager {rm!r}; expected one of echo, kv")
        if not payloads:
            raise ValueError("there is no transaction: the list of payloads is empty")
        self.tickets += 1
        failure, self.failure = self.failure, None
        if isinstance(failure, SubmissionError):
            sink.failed(range(len(payloads)), failure)
        elif self.held is not None:
            self.held[self.tickets] = sink
        else:
            self.applied += 1
            txs = [Tx(rm, payload, mode, "1.1.1", at, self.applied) for at, payload in enumerate(payloads)]
            results = [self.kv.commit(tx) if rm == "kv" else tx.payload for tx in txs]
            for at, request in enumerate(requests or ()):
                self.outcomes[request.text] = Committed(self.applied, at, results[at])
            sink.committed(0, self.applied, 0, results)
        return self.tickets

    def forget(self, ticket: int) -> None:
        self.forgotten.append(ticket)

    def outcome(self, request_id: str) -> Committed | None:
        return self.outcomes.get(request_id)

    def read_barrier(self, timeout_s: float = 5.0) -> Deferred[int]:
        self.asked.append(("barrier", timeout_s))
        return self._failing() or succeed(self.applied)

    def history(self) -> dict[str, Any]:
        return {
            "absences": [past_document(past) for past in self.past],
            "predictions": [attrs.asdict(each) for each in predictions(self.past, self.margin)],
            "margin": self.margin,
        }

    def move_master(self, to: int) -> Deferred[None]:
        if to > 3:
            return fail(ValueError(f"there is no member {to}; expected one of 1, 2, 3"))
        if to == 3:
            return fail(Unsafe("node 3 is inactive"))
        failing = self._failing()
        if failing is None:
            self.master = to
        return failing or succeed(None)

    def status(self) -> dict[str, Any]:
        members = [self._member(1, "normal"), self._member(2, "inactive"), self._member(3, "normal")]
        return {
            "node_id": 1, "name": "one", "epoch": 65537, "epoch_text": "1.1", "master": self.master,
            "standing": "normal", "state": "normal", "committed": self.applied, "everywhere": self.applied,
            "applied": self.applied,
            "members": members, "quorum": {"voters": [1, 2, 3], "needed": 2, "ok": self.quorum},
            "adapters": self.adapters, "absences": [],
        }  # fmt: skip

    def _member(self, node_id: int, standing: str) -> dict[str, Any]:
        inactive = standing == "inactive"
        return {
            "node_id": node_id, "name": f"n{node_id}", "standing": standing, "kind": "freeze" if inactive else "",
            "expected_ms": 4000 if inactive else 0, "remaining_ms": 2500 if inactive else 0,
            "heartbeat_timeout_ms": 6800 if inactive else 800, "response_timeout_ms": 0 if inactive else 1000,
            "stored": 7, "applied": 7, "queue_entries": 12 if inactive else 0, "queue_bytes": 3456, "vms": ["web"],
        }  # fmt: skip
