"""The writers of ``vbcast demo``: a steady stream of writes through every node, and what its clients heard.

Every node has clients of its own.  When one falls due a write waits for the next free client of its
node, so a client that waits for a slow answer does not stop the others.
"""

from __future__ import annotations

import enum
import http.client
import json
import queue
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from operator import attrgetter
from urllib.parse import quote

import attrs

from txvbcast.cli.failures import TYPE_PREFIX

#: What every key begins with.
PREFIX = "demo/"
#: Writes that fall due, over all nodes.
WRITES_PER_S = 200.0
#: Clients of each node, with a connection each.
CLIENTS_PER_NODE = 16
#: Writes that wait for a client of one node; while there are more its writers pause.
WAITING_MAX = 4000
#: How long a node may take over a write: a frozen one answers when it is back.
NODE_PATIENCE_S = 12.0
#: How long a client waits for an answer, and how long it goes on asking when it knows nothing.
CLIENT_PATIENCE_S = 15.0
#: Between two rounds of asking.
RETRY_PAUSE_S = 0.1

#: Kinds of answer that leave open whether the write happened; every other kind but "committed" says that it did not.
_OPEN = ("outcome-unknown", "internal-error")


class Outcome(enum.Enum):
    """What a client heard in the end."""

    COMMITTED = "committed"
    FAILED = "failed"
    UNKNOWN = "unknown"


@attrs.define(eq=False)
class Write:
    """One write, of a key of its own.

    :ivar home: the node whose client it is.
    :ivar created_s: monotonic time at which it fell due.
    :ivar outcome: None until its client has heard.
    :ivar seq: its place in the log, as its client heard.
    :ivar found_version: that its key had before, as its client heard: 0 unless it took effect twice.
    :ivar repeats: how often it was sent again because nobody knew.
    :ivar reason: why it failed, or is or was unknown.
    """

    number: int
    home: int
    created_s: float
    outcome: Outcome | None = None
    seq: int = 0
    found_version: int = 0
    repeats: int = 0
    reason: str = ""

    @property
    def key(self) -> str:
        """The key that it sets."""
        return f"{PREFIX}{self.home}/{self.number:06}"

    @property
    def value(self) -> str:
        """What it sets the key to."""
        return f"value {self.number}"

    @property
    def request_id(self) -> str:
        """By which the cluster knows a repeat."""
        return f"demo-{self.number}"


@attrs.frozen
class Commit:
    """A client heard "committed" from node ``by``, at a monotonic time."""

    heard_s: float
    by: int


@attrs.frozen
class Answer:
    """What came of one request: ``committed``, ``unreachable`` (it never left), or the kind of a problem document."""

    kind: str
    seq: int = 0
    found_version: int = 0
    reason: str = ""


class Client:
    """Sends one write at a time; keeps a connection to every node that it has had to do with."""

    def __init__(self, addresses: Mapping[int, tuple[str, int]], patience_s: float = CLIENT_PATIENCE_S) -> None:
        self._addresses = addresses
        self._patience_s = patience_s
        self._connections: dict[int, http.client.HTTPConnection] = {}

    def put(self, node_id: int, write: Write) -> Answer:
        """Send ``write`` to a node and wait for its answer."""
        try:
            connection = self._connected(node_id)
        except OSError as error:
            return Answer("unreachable", reason=f"node {node_id}: {error}")
        query = f"request_id={write.request_id}&timeout_ms={NODE_PATIENCE_S * 1000:.0f}"
        try:
            connection.request("PUT", f"/v1/kv/{quote(write.key)}?{query}", write.value.encode())
            response = connection.getresponse()
            return _answer(response.status, json.loads(response.read()))
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            self._connections.pop(node_id).close()
            return Answer("outcome-unknown", reason=f"node {node_id}: {error or type(error).__name__}")

    def _connected(self, node_id: int) -> http.client.HTTPConnection:
        connection = self._connections.get(node_id)
        if connection is None or connection.sock is None:
            connection = http.client.HTTPConnection(*self._addresses[node_id], timeout=self._patience_s)
            connection.connect()
            self._connections[node_id] = connection
        return connection


def _answer(status: int, document: dict[str, object]) -> Answer:
    if status == 200:
        return Answer("committed", int(str(document["seq"])), int(str(document["found_version"])))
    return Answer(str(document["type"]).removeprefix(TYPE_PREFIX), reason=str(document["detail"]))


class Load:
    """The writers of all nodes.

    :ivar writes: in the order in which they fell due.
    :ivar commits: in the order in which clients heard of them.
    """

    def __init__(self, addresses: Mapping[int, tuple[str, int]], patience_s: float = CLIENT_PATIENCE_S) -> None:
        self.writes: list[Write] = []
        self.commits: list[Commit] = []
        self._addresses = dict(addresses)
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._open = dict.fromkeys(addresses, 0)
        self._stopping = threading.Event()
        self._waiting: dict[int, queue.SimpleQueue[Write | None]] = {k: queue.SimpleQueue() for k in addresses}
        self._threads = [threading.Thread(target=self._pace, name="demo-pace", daemon=True)]
        for home in addresses:
            for _ in range(CLIENTS_PER_NODE):
                self._threads.append(
                    threading.Thread(target=self._serve, args=(home,), name="demo-client", daemon=True)
                )

    # --- life --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Create no more writes; the clients end when all that wait are answered."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until every write is answered, or given up as unknown."""
        for thread in self._threads:
            thread.join()

    # --- what came of it ---------------------------------------------------------------

    def created(self, begin_s: float, end_s: float) -> list[Write]:
        """The writes that fell due from ``begin_s`` to before ``end_s``."""
        first, last = (bisect_left(self.writes, time_s, key=attrgetter("created_s")) for time_s in (begin_s, end_s))
        return self.writes[first:last]

    def commits_of(self, begin_s: float, end_s: float) -> list[Commit]:
        """What clients heard from ``begin_s`` to before ``end_s``."""
        first, last = (bisect_left(self.commits, time_s, key=attrgetter("heard_s")) for time_s in (begin_s, end_s))
        return self.commits[first:last]

    def longest_gap_s(self, begin_s: float, end_s: float, absent: int = 0) -> float:
        """The longest time between successive commits that lies in, or reaches into, the time given.

        :param absent: what this node said does not count.
        """
        times_s = [commit.heard_s for commit in tuple(self.commits) if commit.by != absent]
        first = max(bisect_right(times_s, begin_s) - 1, 0)
        within = [*times_s[first : bisect_left(times_s, end_s) + 1]]
        if not within or within[-1] < end_s:
            within.append(end_s)
        if within[0] > begin_s:
            within.insert(0, begin_s)
        return max(later - earlier for earlier, later in zip(within, within[1:], strict=False))

    def waiting(self, node_id: int) -> int:
        """How many writes of that node's clients wait for an answer, or for a client."""
        return self._open[node_id]

    # --- threads -----------------------------------------------------------------------

    def _pace(self) -> None:
        """Create writes, each when it falls due, for one node after another."""
        homes: Sequence[int] = sorted(self._waiting)
        began_s = time.monotonic()
        number = 0
        while not self._stopping.wait(max(0.0, began_s + number / WRITES_PER_S - time.monotonic())):
            number += 1
            home = homes[number % len(homes)]
            if self._waiting[home].qsize() < WAITING_MAX:
                self._create(Write(number, home, time.monotonic()))
        for waiting in self._waiting.values():
            for _ in range(CLIENTS_PER_NODE):
                waiting.put(None)

    def _serve(self, home: int) -> None:
        """One client of node ``home``."""
        client = Client(self._addresses, self._patience_s)
        while (write := self._waiting[home].get()) is not None:
            self._carry_out(client, write)

    def _carry_out(self, client: Client, write: Write) -> None:
        """Ask until somebody knows: first at home, then at the other nodes."""
        others = sorted(set(self._addresses) - {write.home})
        give_up_at_s = time.monotonic() + self._patience_s
        is_open = False
        while True:
            for node_id in (write.home, *others):
                answer = client.put(node_id, write)
                if answer.kind == "committed":
                    self._commit(write, answer, node_id)
                    return
                if answer.kind in _OPEN:
                    is_open = True
                    write.repeats += 1
                    write.reason = f"{answer.kind}: {answer.reason}"
                if answer.kind not in (*_OPEN, "unreachable") and not is_open:
                    # once a request is in doubt, no later one's failure can tell what became of it
                    self._give_up(write, Outcome.FAILED, f"{answer.kind}: {answer.reason}")
                    return
            if time.monotonic() > give_up_at_s:
                self._give_up(write, Outcome.UNKNOWN if is_open else Outcome.FAILED, f"{answer.kind}: {answer.reason}")
                return
            time.sleep(RETRY_PAUSE_S)

    def _create(self, write: Write) -> None:
        with self._lock:
            self._open[write.home] += 1
        self.writes.append(write)
        self._waiting[write.home].put(write)

    def _commit(self, write: Write, answer: Answer, by: int) -> None:
        write.seq, write.found_version = answer.seq, answer.found_version
        with self._lock:
            self.commits.append(Commit(time.monotonic(), by))
            self._open[write.home] -= 1
        write.outcome = Outcome.COMMITTED

    def _give_up(self, write: Write, outcome: Outcome, reason: str) -> None:
        write.reason = reason
        with self._lock:
            self._open[write.home] -= 1
        write.outcome = outcome
