"""A counter from 0 to its node's LIMIT, by vote. On every node: counter.py node1.yaml LIMIT; type +3, or -5 3pc."""

import re
import sys

from twisted.internet import defer, reactor, stdio
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer

from txvbcast import IResourceManager, Refused, Service, Tx


def amount(tx: Tx) -> int:
    return int(tx.payload) if re.fullmatch(rb"[+-]?[0-9]{1,18}", tx.payload) else 0


@implementer(IResourceManager)
class CounterManager:
    def __init__(self, limit: int = 100) -> None:
        self.name, self.applied_seq, self.value = "counter", 0, 0
        self.limit, self.open = limit, dict[tuple[str, int], int]()

    def prepare(self, tx: Tx) -> bool | Refused:
        amounts = [amount(tx), *self.open.values()]  # of each nobody knows yet whether it will be performed
        lowest, highest = (self.value + sum(side(0, each) for each in amounts) for side in (min, max))
        if lowest < 0 or highest > self.limit:
            return Refused(f"the counter is {self.value} and must stay from 0 to {self.limit}")
        self.open[tx.flight, tx.index] = amount(tx)
        return True

    def commit(self, tx: Tx) -> bytes:  # the same on every node: what was agreed on is not judged again
        self.abort(tx)
        self.value += amount(tx)
        return b"%d" % self.value

    def abort(self, tx: Tx) -> None:
        self.open.pop((tx.flight, tx.index), None)

    def snapshot(self) -> bytes:
        return b"%d" % self.value

    def restore(self, state: bytes, seq: int) -> None:
        self.value, self.applied_seq = int(state), seq


class Console(LineReceiver):
    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        payload, _, mode = line.partition(b" ")
        answer = defer.maybeDeferred(service.submit, "counter", payload, mode.decode("latin-1") or "2pc")
        answer.addCallbacks(lambda done: b"%d: " % done.seq + done.result, lambda failed: str(failed.value).encode())
        answer.addCallback(self.sendLine)


service = Service.from_config(sys.argv[1], managers=[CounterManager(int(sys.argv[2]))])
service.startService()
service.listening.addCallback(lambda _: stdio.StandardIO(Console()))
reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
reactor.run()
