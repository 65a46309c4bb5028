"""What the loads over plain connections have in common: a closed loop of some slots on each."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Sequence

from txvbcast.cli.bench.load import ANSWER_S, LoadFailed, LoadResult, LoadSpec, Tally, perform, spread

#: Connections that are being made at the same time: fewer than a listening node lets wait.
CONNECTING_MAX = 32


class Connection(asyncio.Protocol):
    """A connection that has a transaction under way in each of its slots while the load runs.

    A subclass calls :meth:`opened` when transactions can be sent, and :meth:`answered` with what was committed.

    :param slots: how many.
    :ivar ready: fires when the connection can be used; the text of its failure says why it cannot.
    """

    def __init__(self, slots: int) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slots = slots
        self._transport: asyncio.Transport | None = None
        self._tally: Tally | None = None
        self._sent_s: dict[int, float] = {}
        self._idle = asyncio.Event()

    # --- what the load asks for ---

    def begin(self, tally: Tally) -> None:
        """Put every slot to work."""
        self._tally = tally
        if self.is_open:
            self._send(range(self._slots))

    async def idle(self) -> None:
        """Wait until nothing is under way; too long, and what is has failed."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._idle.wait()
        except TimeoutError:
            self.give_up("no-answer", f"no answer within {ANSWER_S:.0f} s")

    @property
    def is_open(self) -> bool:
        """Whether it stands."""
        return self._transport is not None

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def give_up(self, kind: str, detail: str) -> None:
        """End the connection; what is under way has failed."""
        self._fail_all(kind, detail)
        if self._transport is not None:
            self._transport.abort()

    # --- what a subclass does, and calls ---

    def on_open(self) -> None:
        """The connection stands: say what has to be said before the first transaction."""

    def write_slots(self, slots: Iterable[int]) -> None:
        """Send the transactions of these slots."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self._transport is not None:
            self._transport.write(data)

    def opened(self) -> None:
        """Transactions can be sent from now on."""
        if not self.ready.done():
            self.ready.set_result(None)

    def answered(self, committed: Sequence[int], failed: Sequence[tuple[int, str, str]] = ()) -> None:
        """Slots whose transactions are committed, and those that are not, each with kind and detail."""
        tally, now_s = self._tally, time.monotonic()
        if tally is None:
            return
        for slot in committed:
            tally.committed(self._sent_s.pop(slot), now_s)
        for slot, kind, detail in failed:
            tally.failed(self._sent_s.pop(slot), kind, detail)
        if now_s < tally.window.end_s:
            self._send([*committed, *(slot for slot, _, _ in failed)])
        elif not self._sent_s:
            self._idle.set()

    def _send(self, slots: Iterable[int]) -> None:
        self._sent_s.update(dict.fromkeys(slots, time.monotonic()))
        self.write_slots(slots)

    def _fail_all(self, kind: str, detail: str) -> None:
        if self._tally is not None:
            for sent_s in self._sent_s.values():
                self._tally.failed(sent_s, kind, detail)
        self._sent_s.clear()
        self._idle.set()
        if not self.ready.done():
            self.ready.set_exception(LoadFailed(detail))

    # --- asyncio's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.on_open()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; it is not opened anew: its end shows among the failures."""
        self._transport = None
        self._fail_all("connection-lost", str(exc or "the other side closed the connection"))


class Connections:
    """A load over several connections.

    :param places: for each, ``host:port`` and what makes its protocol.
    """

    def __init__(self, places: Sequence[tuple[str, Callable[[], Connection]]]) -> None:
        self._places = places
        self._all: list[Connection] = []

    async def connect(self) -> None:
        """Make them, some at a time: what waits to be taken by a node is limited, and beyond that it takes seconds.

        :raises LoadFailed: one cannot be made.
        """
        places = iter(self._places)
        while batch := tuple(itertools.islice(places, CONNECTING_MAX)):
            await asyncio.gather(*(self._connect(target, make()) for target, make in batch))

    async def run(self, tally: Tally) -> None:
        """Keep every slot at work until the window ends, and wait for the last answers.

        :raises LoadFailed: connections were lost before the window began.
        """
        for connection in self._all:
            connection.begin(tally)
        await asyncio.sleep(tally.window.begin_s - time.monotonic())
        if lost := sum(not connection.is_open for connection in self._all):
            raise LoadFailed(f"{lost} of {len(self._all)} connections were lost before anything was measured")
        await asyncio.sleep(tally.window.end_s - time.monotonic())
        await asyncio.gather(*(connection.idle() for connection in self._all))

    async def close(self) -> None:
        """End them."""
        for connection in self._all:
            connection.close()

    async def _connect(self, target: str, connection: Connection) -> None:
        self._all.append(connection)
        host, _, port = target.rpartition(":")
        try:
            async with asyncio.timeout(ANSWER_S):
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: connection, host.strip("[]"), int(port))
                await connection.ready
        except OSError as error:  # TimeoutError is one
            raise LoadFailed(f"node at {target}: {str(error) or f'no answer within {ANSWER_S:.0f} s'}") from error
        except LoadFailed as error:
            raise LoadFailed(f"node at {target}: {error}") from error


def perform_over(
    spec: LoadSpec, connections_per_target: int, make: Callable[[str, str, int], Connection]
) -> LoadResult:
    """Do what ``spec`` says over so many connections to each target.

    :param make: makes a protocol for a target, a name that no other connection of the load has, and some slots.
    :raises LoadFailed: it could not be done.
    """

    async def performing() -> LoadResult:
        count = min(spec.outstanding, connections_per_target * len(spec.targets))
        places = []
        for place, slots in enumerate(spread(spec.outstanding, count)):
            target, name = spec.targets[place % len(spec.targets)], f"{spec.number}-{place}"
            places.append((target, functools.partial(make, target, name, slots)))
        return await perform(Connections(places), spec.is_traced)

    return asyncio.run(performing())
