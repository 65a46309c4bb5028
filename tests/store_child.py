"""A process of its own that writes to a store, for the tests that kill it or starve its disk.

``python -m tests.store_child DATA_DIR WINDOW [--count N] [--file-bytes-max N]`` keeps WINDOW appends
under way and prints, one per line and unbuffered: ``open N`` (the last seq found), ``acked SEQ``,
``failed REASON``, ``closed``.
"""

from __future__ import annotations

import argparse
import os
import resource
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater, react

from tests.store_samples import CLUSTER, NODE, entry
from txvbcast.core.effects import Persist
from txvbcast.errors import StoreError
from txvbcast.store.sqlite import SqliteStore

#: How long after a failure the child goes on, for an answer that must not come.
AFTER_FAILURE_S = 0.2


def say(line: str) -> None:
    """One write, so that what the parent reads was said before the kill."""
    os.write(1, f"{line}\n".encode())


class Appender:
    """Appends entry after entry; the token of each write is the seq."""

    def __init__(self, reactor: Any, data_dir: Path, count: int | None) -> None:
        self._count = count
        self._failed: list[Exception] = []
        self.finished: Deferred[None] = Deferred()
        self.store, state = SqliteStore.open(data_dir, NODE, CLUSTER, reactor, self.failed)
        self._next = state.last_seq + 1
        say(f"open {state.last_seq}")

    def append(self) -> None:
        """Queue the next entry."""
        seq, self._next = self._next, self._next + 1
        self.store.persist(Persist(token=seq, entries=(entry(seq),), committed=seq - 1), self.acked)

    def acked(self, seq: int) -> None:
        """An entry is durable."""
        say(f"acked {seq}")
        if seq == self._count:
            self.finished.callback(None)
        else:
            self.append()

    def failed(self, error: Exception) -> None:
        """The disk failed; try to go on, which the store must not do."""
        say(f"failed {error}")
        self.append()
        if not self._failed:
            self.finished.callback(None)
        self._failed.append(error)


async def run(reactor: Any, arguments: argparse.Namespace) -> None:
    """Append until the count is reached or the disk fails, then close."""
    try:
        appender = Appender(reactor, arguments.data_dir, arguments.count)
    except StoreError as error:
        say(f"refused {error}")
        return
    if arguments.file_bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_bytes_max, arguments.file_bytes_max))
    for _ in range(arguments.window):
        appender.append()
    await appender.finished
    if arguments.count is None:
        await deferLater(reactor, AFTER_FAILURE_S)
    await appender.store.close()
    say("closed")


def main(reactor: Any, *argv: str) -> Deferred[None]:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("window", type=int)
    parser.add_argument("--count", type=int)
    parser.add_argument("--file-bytes-max", type=int)
    return ensureDeferred(run(reactor, parser.parse_args(argv)))


if __name__ == "__main__":
    import sys

    react(main, sys.argv[1:])
