"""A load through the client port of the nodes, with :mod:`txvbcast.client`: many transactions at a time."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from txvbcast.cli.bench.load import LoadFailed, LoadResult, LoadSpec, Tally, perform, spread, values_of
from txvbcast.client import Client, Outcomes, connect
from txvbcast.errors import Aborted, NoQuorum, OutcomeUnknown, Overloaded, VbcastError
from txvbcast.wire.kv import put_payload

RM = "kv"
TIMEOUT_S = 5.0
#: What the nodes are told.
PROGRAM = "vbcast bench"
#: Each slot writes so many keys in turn: in the voted modes a node holds a key until it has applied the
#: transaction, which may be after its client has heard of it.
KEYS_PER_SLOT = 16
#: Of transactions that are made beforehand; of large ones there are fewer.
READY_BYTES_MAX = 64 << 20
#: In so many batches the slots are put to work at first: what is answered at once is replaced at once.
BATCHES = 8
#: How often an open loop looks what has fallen due.
TICK_S = 0.001
#: Transactions that an open loop has in mind when it makes its payloads.
OPEN_SLOTS = 1024

_KINDS = {Aborted: "aborted", OutcomeUnknown: "outcome-unknown", Overloaded: "overloaded", NoQuorum: "no-quorum"}


class Submitter:
    """The transactions of one client.

    :param ready: payloads, each with a key of its own, that are handed in in turn.
    """

    def __init__(self, client: Client, mode: str, ready: Sequence[bytes], tally: Tally, clock: IReactorTime) -> None:
        self._client = client
        self._mode = mode
        self._ready = itertools.cycle(ready)
        self._tally = tally
        self._clock = clock
        self._under_way = 0
        self._free = 0
        self._idle: Deferred[None] | None = None

    def keep(self, slots: int) -> None:
        """Have so many under way from now on; each that is answered is replaced while the window lasts."""
        for size in spread(slots, min(slots, BATCHES)):
            self._replace(time.monotonic(), size)

    def submit(self, sent_s: float, count: int) -> None:
        """Hand in so many more, which fell due at ``sent_s``; they are not replaced."""
        self._hand_in(count).addCallback(self._count, sent_s)

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        if self._under_way:
            self._idle = Deferred()
            await self._idle

    def _replace(self, sent_s: float, count: int) -> None:
        self._hand_in(count).addCallback(self._count_and_replace, sent_s)

    def _hand_in(self, count: int) -> Deferred[Outcomes]:
        self._under_way += count
        payloads = list(itertools.islice(self._ready, count))
        return self._client.submit_many(RM, payloads, mode=self._mode, timeout=TIMEOUT_S)

    def _count(self, outcomes: Outcomes, sent_s: float) -> int:
        """Count what is answered; how many they were."""
        now_s = time.monotonic()
        if outcomes.committed:
            self._tally.committed(sent_s, now_s, outcomes.committed)
        if outcomes.committed < len(outcomes):
            for error, count in Counter(outcomes.failures.values()).items():
                self._tally.failed(sent_s, _KINDS.get(type(error), "refused"), str(error), count)
        self._under_way -= len(outcomes)
        if not self._under_way and self._idle is not None:
            self._idle.callback(None)
        return len(outcomes)

    def _count_and_replace(self, outcomes: Outcomes, sent_s: float) -> None:
        """Replace what was answered, together with what else is answered in this turn."""
        count = self._count(outcomes, sent_s)
        self._free += count
        if not self._under_way:
            self._fill()  # there is nothing else
        elif self._free == count:
            self._clock.callLater(0, self._fill)

    def _fill(self) -> None:
        now_s = time.monotonic()
        count, self._free = self._free, 0
        if count and now_s < self._tally.window.end_s:
            self._replace(now_s, count)


class ClientLoad:
    """A client for each target, and what it has under way."""

    def __init__(self, spec: LoadSpec, clock: IReactorTime) -> None:
        self._spec = spec
        self._clock = clock
        self._clients: list[Client] = []

    async def connect(self) -> None:
        """Make the connections.

        :raises LoadFailed: a node cannot be reached, or refuses.
        """
        for target in self._spec.targets:
            host, _, port = target.rpartition(":")
            host = host.strip("[]").replace(":", "\\:")
            try:
                self._clients.append(await connect(f"tcp:{host}:{port}", reactor=self._clock, program=PROGRAM))
            except VbcastError as error:
                raise LoadFailed(f"node at {target}: {error}") from error

    async def run(self, tally: Tally) -> None:
        """Keep the nodes at work until the window ends, and wait for the last answers.

        :raises LoadFailed: the nodes take no such transactions.
        """
        try:
            await self._run(tally)
        except ValueError as error:  # such as a value that is too long; before anything is submitted
            raise LoadFailed(str(error)) from error

    async def _run(self, tally: Tally) -> None:
        spec = self._spec
        slots = spread(spec.outstanding if spec.rate_per_s is None else OPEN_SLOTS, len(self._clients))
        submitters = [
            Submitter(client, spec.mode, payloads(spec, place, share), tally, self._clock)
            for place, (client, share) in enumerate(zip(self._clients, slots, strict=True))
        ]
        if spec.rate_per_s is None:
            for submitter, share in zip(submitters, slots, strict=True):
                submitter.keep(share)
            await deferLater(self._clock, max(0.0, tally.window.end_s - time.monotonic()))
        else:
            await self._submit_at(spec.rate_per_s, submitters, tally.window.end_s)
        for submitter in submitters:
            await submitter.idle()

    async def close(self) -> None:
        """End the connections."""
        for client in self._clients:
            await client.close()

    async def _submit_at(self, rate_per_s: float, submitters: Sequence[Submitter], end_s: float) -> None:
        """Hand in what falls due, to the clients in turn, whatever becomes of what was handed in before."""
        begun_s, submitted = time.monotonic(), 0
        turns = itertools.cycle(submitters)
        while (now_s := time.monotonic()) < end_s:
            due = int((now_s - begun_s) * rate_per_s) - submitted
            if due:
                next(turns).submit(begun_s + submitted / rate_per_s, due)
                submitted += due
            await deferLater(self._clock, TICK_S)


def payloads(spec: LoadSpec, place: int, slots: int) -> list[bytes]:
    """The transactions of one client: values of keys that no other client writes."""
    count = max(2 * slots, min(KEYS_PER_SLOT * slots, READY_BYTES_MAX // max(1, spec.payload_bytes)))
    value = values_of(spec)
    return [put_payload(f"bench/{spec.number}/{place}/{key}", value) for key in range(count)]


def perform_load(spec: LoadSpec) -> LoadResult:
    """Do what ``spec`` says.

    :raises LoadFailed: it could not be done.
    """
    from twisted.internet import reactor

    clock: Any = reactor
    found: list[LoadResult | Failure] = []

    def begin() -> None:
        performing = Deferred.fromCoroutine(perform(ClientLoad(spec, clock), spec.is_traced))
        performing.addBoth(found.append)
        performing.addBoth(lambda _: clock.stop())

    clock.callWhenRunning(begin)
    clock.run()
    result = found[0]
    if isinstance(result, Failure):
        result.raiseException()
    return result
