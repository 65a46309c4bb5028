"""A load through the HTTP interface of the nodes: ``PUT /v1/kv/KEY``."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable

from txvbcast.cli.bench.connections import Connection, perform_over
from txvbcast.cli.bench.load import LoadResult, LoadSpec, values_of
from txvbcast.cli.failures import TYPE_PREFIX

#: Far longer than the head of any answer to what is asked here.
HEAD_BYTES_MAX = 1 << 16
#: Each connection writes so many keys in turn: in the voted modes a node holds a key until it has applied the
#: transaction, which may be after its client has heard of it.
KEYS_PER_CONNECTION = 16

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})\r\n", re.IGNORECASE)
_VERSION = re.compile(rb"\r\nvbcast-version: *([0-9]{1,20})\r\n", re.IGNORECASE)


class HttpConnection(Connection):
    """A connection to a node, with one transaction under way at a time.

    A node takes the requests of a connection one after the other, so each that is to be under way needs its own.

    :param requests: what to send, in turn.
    """

    def __init__(self, requests: Iterable[bytes]) -> None:
        super().__init__(1)
        self._requests = itertools.cycle(requests)
        self._received = b""
        self._is_tried = False

    def on_open(self) -> None:
        """Transact once, so that the node has taken the connection before the next ones are made."""
        self.write(next(self._requests))

    def write_slots(self, slots: Iterable[int]) -> None:
        """Send the next request, if the one and only slot is there."""
        for _ in slots:
            self.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        """Bytes, cut anyhow."""
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            if len(self._received) > HEAD_BYTES_MAX:
                self.give_up("not-understood", "an answer has no end of its head")
            return
        length = _LENGTH.search(self._received, 0, head_end + 2)
        if length is None:
            self.give_up("not-understood", "an answer has no Content-Length")
            return
        end = head_end + 4 + int(length[1])
        if len(self._received) < end:
            return
        answer, self._received = self._received[:end], self._received[end:]
        self._on_answer(answer, head_end)

    def _on_answer(self, answer: bytes, head_end: int) -> None:
        if not self._is_tried:
            self._is_tried = True
            self.opened()
        elif answer[9:12] == b"200" and _VERSION.search(answer, 0, head_end + 2):
            self.answered((0,))
        else:
            self.answered((), ((0, *_problem(answer[9:12], answer[head_end + 4 :])),))


def http_requests(spec: LoadSpec, target: str, name: str) -> list[bytes]:
    """The requests of connection ``name``: each sets one of its keys.

    A node spends as much on one as on the same transaction by POST /v1/tx; this one needs no base64.
    """
    query = "" if spec.mode == "broadcast" else f"?mode={spec.mode}"
    head = f"{query} HTTP/1.1\r\nHost: {target}\r\nContent-Length: {spec.payload_bytes}\r\n\r\n"
    value = values_of(spec)
    return [f"PUT /v1/kv/bench/{name}/{key}{head}".encode() + value for key in range(KEYS_PER_CONNECTION)]


def _problem(status: bytes, body: bytes) -> tuple[str, str]:
    """The kind and the text of an answer that is not "committed"."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict) or "type" not in document:
        return f"status-{status.decode('latin-1')}", "not an answer of a node"
    return str(document["type"]).removeprefix(TYPE_PREFIX), str(document.get("detail"))


def perform_load(spec: LoadSpec) -> LoadResult:
    """Do what ``spec`` says.

    :raises LoadFailed: it could not be done.
    """
    return perform_over(
        spec, spec.outstanding, lambda target, name, _: HttpConnection(http_requests(spec, target, name))
    )
