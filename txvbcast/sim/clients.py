"""The clients of a random run: they hand in, ask again by request id, and read."""

from __future__ import annotations

from random import Random

from txvbcast.errors import Committed
from txvbcast.sim.options import Options
from txvbcast.sim.watch import Watcher
from txvbcast.sim.world import Outcome, World

#: The longest that a client waits, in seconds.
TIMEOUT_S = 4.0
#: How often a client tries in all.
ATTEMPTS_MAX = 4


class Clients(Watcher):
    """Many clients with a common rate; :meth:`stop` ends it.

    A request's attempts have payloads of their own, so that the log shows which one took effect.
    """

    def __init__(self, options: Options, random: Random) -> None:
        self.options = options
        self.random = random
        self._number = 0
        self._stopped = False
        self._attempts: dict[str, int] = {}

    def on_world(self, world: World) -> None:
        """Begin after a moment."""
        self.world = world
        world.clock.post(0.5, self._load)

    def stop(self) -> None:
        """Hand in nothing new."""
        self._stopped = True

    def _load(self) -> None:
        if self._stopped:
            return
        node = self.random.choice(list(self.world.nodes.values()))
        if node.able:
            for _ in range(self.random.choice([1, 1, 1, 5])):
                self._submit(node.node_id)
            if self.random.random() < self.options.reads:
                self.world.read(node.node_id, self._key(), self._timeout_s())
        self.world.clock.post(self.random.expovariate(self.options.rate / 2.0), self._load)

    def _key(self) -> bytes:
        return b"k%d" % self.random.randrange(self.options.keys)

    def _timeout_s(self) -> float:
        return self.random.choice([0.3, 1.0, TIMEOUT_S])

    def _submit(self, node_id: int) -> None:
        self._number += 1
        request_id = f"r{self._number}" if self.random.random() < self.options.retries else None
        self._attempt(node_id, self._key(), self._number, request_id)

    def _attempt(self, node_id: int, key: bytes, number: int, request_id: str | None) -> None:
        attempt = 1
        if request_id is not None:
            attempt = self._attempts[request_id] = self._attempts.get(request_id, 0) + 1
        payload = b"%b=%d.%d" % (key, number, attempt)
        mode = self.random.choice(self.options.modes)
        self.world.submit(node_id, payload, mode, self._timeout_s(), request_id)

    def on_answer(self, outcome: Outcome) -> None:
        """Whoever has no answer asks again, at any node; some ask again although they have one."""
        request_id = outcome.request_id
        if request_id is None or self._stopped or self._attempts.get(request_id, ATTEMPTS_MAX) >= ATTEMPTS_MAX:
            return
        if not isinstance(outcome.answer, Committed) or self.random.random() < 0.1:
            self.world.clock.post(self.random.uniform(0.0, 1.0), self._again, outcome)

    def _again(self, outcome: Outcome) -> None:
        node = self.random.choice(list(self.world.nodes.values()))
        if node.able and not self._stopped:
            key, _, value = outcome.payload.partition(b"=")
            self._attempt(node.node_id, key, int(value.partition(b".")[0]), outcome.request_id)
