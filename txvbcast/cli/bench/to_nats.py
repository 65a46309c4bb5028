"""A load on NATS JetStream: messages published to a stream, each acknowledged by the stream.

The protocol is text, see https://docs.nats.io/reference/reference-protocols/nats-protocol; a publication that
names a reply subject is answered there, once the stream has stored it, with a JSON document.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable

from txvbcast.cli.bench.connections import Connection, perform_over
from txvbcast.cli.bench.load import LoadResult, LoadSpec, values_of

STREAM = "bench"
#: On each server that is used.
CONNECTIONS = 4

_GREETING = {
    "verbose": False,
    "pedantic": False,
    "tls_required": False,
    "lang": "python",
    "version": "1",
    "protocol": 1,
}
_ANSWER = re.compile(rb"MSG _INBOX\.[0-9a-f]+\.([0-9]+) 1 ([0-9]+)\r\n([^\r]*)\r\n")
_OTHER = re.compile(rb"(INFO|PING|PONG|\+OK|-ERR)([^\r]*)\r\n")


class NatsConnection(Connection):
    """Publishes; a slot is the last token of the subject that the answer comes to."""

    def __init__(self, slots: int, name: str, value: bytes) -> None:
        super().__init__(slots)
        self._inbox = f"_INBOX.{secrets.token_hex(8)}"
        self._requests = [
            b"PUB %s.%s.%d %s.%d %d\r\n%s\r\n"
            % (STREAM.encode(), name.encode(), slot, self._inbox.encode(), slot, len(value), value)
            for slot in range(slots)
        ]
        self._received = b""

    def write_slots(self, slots: Iterable[int]) -> None:
        """Publish."""
        self.write(b"".join([self._requests[slot] for slot in slots]))

    def data_received(self, data: bytes) -> None:
        """Bytes, cut anyhow."""
        self._received += data
        committed: list[int] = []
        failed: list[tuple[int, str, str]] = []
        position = 0
        while found := _ANSWER.match(self._received, position):
            position = found.end()
            slot, answer = int(found[1]), found[3]
            if b'"error"' in answer:
                failed.append((slot, "refused", answer.decode(errors="replace")))
            else:
                committed.append(slot)
        self._received = self._received[position:]
        if committed or failed:
            self.answered(committed, failed)
        if other := _OTHER.match(self._received):
            self._received = self._received[other.end() :]
            self._on_other(other[1], other[2])
            self.data_received(b"")

    def _on_other(self, word: bytes, rest: bytes) -> None:
        if word == b"INFO" and not self.ready.done():
            self.write(f"CONNECT {json.dumps(_GREETING)}\r\nSUB {self._inbox}.* 1\r\nPING\r\n".encode())
        elif word == b"PONG":
            self.opened()
        elif word == b"PING":
            self.write(b"PONG\r\n")
        elif word == b"-ERR":
            self.give_up("refused", rest.decode(errors="replace").strip())


def perform_load(spec: LoadSpec) -> LoadResult:
    """Do what ``spec`` says.

    :raises LoadFailed: it could not be done.
    """
    value = values_of(spec)
    return perform_over(spec, CONNECTIONS, lambda _, name, slots: NatsConnection(slots, name, value))
