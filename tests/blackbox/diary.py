"""A key-value store that writes down what it performs: what a node has really delivered, in each of its lives."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from twisted.plugin import IPlugin
from zope.interface import implementer

from txvbcast.interfaces import IResourceManager, IResourceManagerFactory, Run, Tx
from txvbcast.managers.kv import KeyValueManager

#: A transaction as it was performed: its seq, its place in its flight, its request id.
Line = tuple[int, int, str | None]


class DiaryManager(KeyValueManager):
    """The key-value store, with a line in ``file`` for each transaction before it is performed."""

    def __init__(self, name: str, file: int) -> None:
        super().__init__(name)
        self._file = file

    def commit_many(self, run: Run) -> list[bytes]:
        """Write them down, each before it is performed."""
        return [self._commit_one(tx) for tx in run]

    def _commit_one(self, tx: Tx) -> bytes:
        line: Line = (tx.seq, tx.index, tx.request_id)
        os.write(self._file, json.dumps(line).encode() + b"\n")
        return self.commit(tx)


@implementer(IPlugin, IResourceManagerFactory)
class DiaryFactory:
    """Its option ``directory`` gets a file for each life of the node."""

    plugin = "diary-kv"

    def make(self, name: str, options: Mapping[str, object]) -> IResourceManager:
        """A new, empty store."""
        directory = Path(str(options["directory"]))
        path = directory / f"life{len(list(directory.iterdir())) + 1}"
        manager: IResourceManager = DiaryManager(name, os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return manager


def read_diaries(directory: Path) -> dict[str, list[Line]]:
    """What a node has performed, by life; a line that its death cut short is left out."""
    lives = {}
    for path in sorted(directory.iterdir()):
        whole, _, _ = path.read_text().rpartition("\n")
        lives[path.name] = [tuple(json.loads(line)) for line in whole.splitlines()]
    return lives
