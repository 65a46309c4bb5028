"""HTTP as the clients in the tests of real clusters speak it: one connection that is kept, one request at a time."""

from __future__ import annotations

import asyncio


class Connection:
    """One kept-alive HTTP connection to a node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def usable(self) -> bool:
        """Whether the node has not closed it."""
        return not self._reader.at_eof()

    def close(self) -> None:
        """End it."""
        self._writer.close()

    async def ask(self, method: str, target: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer.

        :raises OSError: the connection ended.
        :raises EOFError: likewise, before the answer was whole.
        """
        head = f"{method} {target} HTTP/1.1\r\nHost: node\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        content = await self._reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, content
