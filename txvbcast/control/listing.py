"""A listing of the key-value store, written in pieces, so that a large one neither stalls the node nor fills it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.web.server import Request
from zope.interface import implementer

from txvbcast.control.reading import bytes_field

#: A piece is written when it has this many bytes or more.
PIECE_BYTES = 1 << 16


def pieces(items: list[tuple[str, bytes, int]], applied: int) -> Iterator[bytes]:
    """The JSON document ``{"items": [...], "applied": N}`` in pieces."""
    piece = bytearray(b'{"items":[')
    for number, (key, value, version) in enumerate(items):
        piece += b",\n" if number else b"\n"
        piece += msgspec.json.encode({"key": key, **bytes_field("value", value), "version": version})
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    piece += b'\n],"applied":%d}\n' % applied
    yield bytes(piece)


@implementer(IPullProducer)
class Listing:
    """Writes ``pieces`` to ``request`` as fast as the client reads; ``done`` fires at the end."""

    def __init__(self, request: Request, pieces: Iterator[bytes]) -> None:
        self._request = request
        self._pieces = pieces
        self.done: Deferred[None] = Deferred()
        request.setHeader(b"Content-Type", b"application/json")
        request.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Write the next piece."""
        piece = next(self._pieces, None)
        if piece is not None:
            self._request.write(piece)
            return
        self._request.unregisterProducer()
        self.done.callback(None)

    def stopProducing(self) -> None:
        """The client is gone."""
        self._pieces = iter(())
