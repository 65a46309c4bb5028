"""A node whose resource manager ``notes`` votes as the transaction says, and writes down what it is told.

    notes_node.py NODE.yaml NOTES

The payload of a transaction is a JSON object; ``refuse`` and ``hold`` list node ids.  A node in ``refuse``
refuses.  A node in ``hold`` does not vote before there is a file NOTES.vote.  NOTES gets a line for each call, a JSON
object; it stays over several lives, each of which begins with a line of the call ``start``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner, textFileLogObserver
from zope.interface import implementer

from txvbcast import IResourceManager, Refused, Service, Tx
from txvbcast.configfile import load

REASON = "it is in the transaction's list"
LOOK_S = 0.02

reactor: Any = default_reactor


@implementer(IResourceManager)
class NotesManager:
    """Keeps nothing but its notes."""

    name = "notes"
    applied_seq = 0

    def __init__(self, node_id: int, path: Path) -> None:
        self._node_id = node_id
        self._path = path
        self._write({"call": "start"})

    def _write(self, line: dict[str, object]) -> None:
        with self._path.open("a") as file:
            file.write(f"{json.dumps(line)}\n")

    def _note(self, call: str, tx: Tx, **facts: object) -> None:
        self._write({"call": call, "request_id": tx.request_id, "tx": [tx.flight, tx.index], **facts})

    def prepare(self, tx: Tx) -> Deferred[bool | Refused]:
        """Vote, at once or when told to."""
        self._note("prepare", tx)
        answer: Deferred[bool | Refused] = Deferred()
        self._vote(tx, answer)
        return answer

    def _vote(self, tx: Tx, answer: Deferred[bool | Refused]) -> None:
        wanted = json.loads(tx.payload)
        if self._node_id in wanted.get("hold", ()) and not self._path.with_suffix(".vote").exists():
            reactor.callLater(LOOK_S, self._vote, tx, answer)
            return
        accepts = self._node_id not in wanted.get("refuse", ())
        self._note("vote", tx, accepts=accepts)
        answer.callback(True if accepts else Refused(REASON))

    def commit(self, tx: Tx) -> bytes:
        """Perform."""
        self._note("commit", tx, seq=tx.seq)
        return b"noted"

    def abort(self, tx: Tx) -> None:
        """Release."""
        self._note("abort", tx)

    def snapshot(self) -> bytes:
        """Nothing: the notes are no state of the cluster."""
        return b""

    def restore(self, state: bytes, seq: int) -> None:
        """Likewise."""


def main(config: str, notes: str) -> None:
    """Run until a signal comes."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
    loaded = load(Path(config))
    service = Service.from_config(loaded, managers=[NotesManager(loaded.node_id, Path(notes))])
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
