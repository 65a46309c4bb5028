"""A load on etcd: ``Put`` of its gRPC interface, pipelined over HTTP/2.

It speaks just enough of HTTP/2 (RFC 9113) and gRPC: whatever a general library would spend on a
call, the servers on the same machine would lack.  The same header fields go with every call, and what comes back
is told apart by its frames: a call that etcd has performed is answered with a message before
the trailer, a refused one with a trailer alone.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable

from txvbcast.cli.bench.connections import Connection, perform_over
from txvbcast.cli.bench.load import LoadResult, LoadSpec, values_of

#: On each server that is used.
CONNECTIONS = 4
#: Each slot writes so many keys in turn.
KEYS_PER_SLOT = 4

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEADER_BYTES = 9
_INITIAL_WINDOW, _FRAME_MAX = 4, 5
_WINDOW_BYTES_MAX = (1 << 31) - 1
_SETTINGS_OF_OURS = struct.pack(">HIHIHI", 1, 0, 2, 0, _INITIAL_WINDOW, _WINDOW_BYTES_MAX)


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">HBBBI", len(body) >> 8, len(body) & 255, kind, flags, stream) + body


def _text(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()


def header_block(authority: str) -> bytes:
    """The header fields of a call, in HPACK (RFC 7541) without any state."""
    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _text("/etcdserverpb.KV/Put"),  # :path
            b"\x01" + _text(authority),  # :authority
            b"\x0f\x10" + _text("application/grpc"),  # content-type
            b"\x00" + _text("te") + _text("trailers"),
        )
    )


def put_message(key: bytes, value: bytes) -> bytes:
    """A ``PutRequest`` in Protocol Buffers, with gRPC's prefix."""
    message = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value
    return struct.pack(">BI", 0, len(message)) + message


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class EtcdConnection(Connection):
    """Calls; each has a stream of HTTP/2 of its own, which is known by its slot."""

    def __init__(self, slots: int, name: str, value: bytes, authority: str) -> None:
        super().__init__(slots)
        self._messages = [
            [put_message(f"bench/{name}/{slot}/{key}".encode(), value) for key in range(KEYS_PER_SLOT)]
            for slot in range(slots)
        ]
        self._headers = header_block(authority)
        self._received = b""
        self._stream = 1
        self._slot_of: dict[int, int] = {}
        self._performed: set[int] = set()
        # flow control: what may be sent on the connection, on a new stream, and on those that wait for more
        self._window_bytes = self._stream_window_bytes = 65_535
        self._frame_bytes_max = 16_384
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._windows_bytes: dict[int, int] = {}

    def on_open(self) -> None:
        """Speak HTTP/2; the server agrees by its settings."""
        grown = struct.pack(">I", _WINDOW_BYTES_MAX - 65_535)
        self.write(_PREFACE + frame(_SETTINGS, 0, 0, _SETTINGS_OF_OURS) + frame(_WINDOW_UPDATE, 0, 0, grown))

    # --- out ---

    def write_slots(self, slots: Iterable[int]) -> None:
        """Begin a call in each."""
        parts = []
        for slot in slots:
            stream, self._stream = self._stream, self._stream + 2
            self._slot_of[stream] = slot
            messages = self._messages[slot]
            message = messages[(stream >> 1) % len(messages)]
            parts.append(frame(_HEADERS, _END_HEADERS, stream, self._headers))
            whole = len(message) <= min(self._window_bytes, self._stream_window_bytes, self._frame_bytes_max)
            if whole and not self._waiting:
                self._window_bytes -= len(message)
                parts.append(frame(_DATA, _END_STREAM, stream, message))
            else:
                self._windows_bytes[stream] = self._stream_window_bytes
                self._waiting.append((stream, message))
        self.write(b"".join(parts))
        self._write_waiting()

    def _write_waiting(self) -> None:
        """Send as much of the messages that wait as the windows allow."""
        for _ in range(len(self._waiting)):
            stream, message = self._waiting.popleft()
            rest = self._write_part(stream, message)
            if rest:
                self._waiting.append((stream, rest))
            else:
                del self._windows_bytes[stream]

    def _write_part(self, stream: int, message: bytes) -> bytes:
        """Send of one message what the windows allow; the rest of it."""
        while message:
            length = min(len(message), self._frame_bytes_max, self._window_bytes, self._windows_bytes[stream])
            if length <= 0:
                return message
            self._window_bytes -= length
            self._windows_bytes[stream] -= length
            part, message = message[:length], message[length:]
            self.write(frame(_DATA, 0 if message else _END_STREAM, stream, part))
        return message

    # --- in ---

    def data_received(self, data: bytes) -> None:
        """Bytes, cut anyhow."""
        received, position = self._received + data, 0
        committed: list[int] = []
        failed: list[tuple[int, str, str]] = []
        while len(received) - position >= _HEADER_BYTES:
            high, low, kind, flags, stream = struct.unpack_from(">HBBBI", received, position)
            end = position + _HEADER_BYTES + (high << 8 | low)
            if len(received) < end:
                break
            if kind == _DATA:
                self._performed.add(stream)
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    self._on_end(stream, committed, failed)
            else:
                self._on_other(kind, flags, stream, received[position + _HEADER_BYTES : end], failed)
            position = end
        self._received = received[position:]
        if committed or failed:
            self.answered(committed, failed)

    def _on_end(self, stream: int, committed: list[int], failed: list[tuple[int, str, str]]) -> None:
        slot = self._slot_of.pop(stream)
        if stream in self._performed:
            self._performed.remove(stream)
            committed.append(slot)
        else:
            failed.append((slot, "refused", "etcd answered with an error"))

    def _on_other(self, kind: int, flags: int, stream: int, body: bytes, failed: list[tuple[int, str, str]]) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._on_settings(body)
        elif kind == _PING and not flags & _ACK:
            self.write(frame(_PING, _ACK, 0, body))
        elif kind == _WINDOW_UPDATE:
            self._on_window(stream, int.from_bytes(body, "big"))
        elif kind == _RST_STREAM and stream in self._slot_of:
            self._windows_bytes.pop(stream, None)
            self._waiting = deque(waiting for waiting in self._waiting if waiting[0] != stream)
            failed.append((self._slot_of.pop(stream), "refused", "etcd broke the call off"))
        elif kind == _GOAWAY:
            self.give_up("refused", f"etcd ends the connection: {body[8:].decode(errors='replace')}")

    def _on_settings(self, body: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", body):
            if name == _INITIAL_WINDOW:
                for waiting in self._windows_bytes:
                    self._windows_bytes[waiting] += value - self._stream_window_bytes
                self._stream_window_bytes = value
            elif name == _FRAME_MAX:
                self._frame_bytes_max = value
        self.write(frame(_SETTINGS, _ACK, 0, b""))
        self.opened()
        self._write_waiting()

    def _on_window(self, stream: int, more_bytes: int) -> None:
        if stream == 0:
            self._window_bytes += more_bytes
        elif stream in self._windows_bytes:
            self._windows_bytes[stream] += more_bytes
        self._write_waiting()


def perform_load(spec: LoadSpec) -> LoadResult:
    """Do what ``spec`` says.

    :raises LoadFailed: it could not be done.
    """
    value = values_of(spec)
    return perform_over(spec, CONNECTIONS, lambda target, name, slots: EtcdConnection(slots, name, value, target))
