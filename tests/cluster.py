"""Tests of clusters of real processes: how they are started, and what must hold after every one of them."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.trial import unittest

from tests.cluster_load import COMMITTED, UNKNOWN, UNREACHABLE, Load, Submission, put
from txvbcast.cli.failures import Failed
from txvbcast.cli.local import PATIENCE_S, LocalCluster, LocalNode
from txvbcast.store.database import DATABASE_NAME
from txvbcast.wire.items import Transaction, unpack
from txvbcast.wire.messages import Entry

ROOT = Path(__file__).parent.parent

#: A cluster that is under load is looked at more rarely, so that looking costs it nothing.
LOOK_S = 0.1
#: What a node never writes unless it has a defect.
_DEFECTS = ("Traceback", "#critical", "Unhandled error", "#error")

Place = tuple[int, int]


@attrs.frozen
class Logged:
    """A transaction in the log."""

    place: Place
    transaction: Transaction


def live_transactions(log: Sequence[Entry]) -> Iterator[Logged]:
    """What takes effect, in order: all but flights whose coordinator was away since it proposed them."""
    since: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for entry in log:
        if entry.standing is not None:
            since[entry.standing.node_id] = (entry.seq, entry.standing.incarnation)
        if entry.flight is None:
            continue
        spoken_at, incarnation = since[entry.flight.id.origin]
        if entry.flight.born < spoken_at or entry.flight.id.incarnation < incarnation:
            continue
        for index, item in enumerate(entry.flight.items):
            yield Logged((entry.seq, index), unpack(item))


@contextlib.contextmanager
def busy_disk(node: LocalNode) -> Iterator[None]:
    """Inside, nothing that ``node`` wants to write becomes durable: another program holds its database."""
    connection = sqlite3.connect(node.data_dir / DATABASE_NAME, isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("BEGIN IMMEDIATE")
        yield


@attrs.define(eq=False)
class ProgramNode(LocalNode):
    """A node that is run by another program.

    :ivar words: its command line, after the interpreter.
    """

    words: tuple[str, ...] = ()

    def start(self) -> None:
        """Start the process, in the folder of its configuration."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.words],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.config.parent,
                env=environment,
            )


def http_addresses(nodes: Iterable[LocalNode]) -> dict[int, tuple[str, int]]:
    """Host and port by which each node's HTTP interface is reached."""
    addresses = {}
    for node in nodes:
        parts = urlsplit(node.api.url)
        assert parts.hostname is not None and parts.port is not None
        addresses[node.node_id] = (parts.hostname, parts.port)
    return addresses


class ClusterCase(unittest.TestCase):
    """A test with one cluster, which it gets from :meth:`start`.

    When it is over every node must be running.  They are given time to settle, and then compared
    with each other and with what every client heard.

    :ivar submissions: every transaction of this test that went another way than through :meth:`load`.
    """

    timeout = 120
    cluster: LocalCluster

    def setUp(self) -> None:
        self.submissions: list[Submission] = []
        self._loads: list[Load] = []
        self._marks: dict[int, int] = {}

    def check_cluster(self) -> None:
        """What must hold after every test."""
        self._wait_everywhere()
        logs = self.cluster.logs()
        self._check_logs_equal(logs)
        self._check_answers(logs[min(logs)])
        self._check_keys(logs[min(logs)])
        self._check_for_defects()

    # --- a cluster ---

    def make(self, nodes: int = 3, host: str = "127.0.0.1", folder: str = "cluster") -> LocalCluster:
        """A cluster that does not run yet, and is ended with the test."""
        self.cluster = LocalCluster(Path(self.mktemp()).absolute() / folder, nodes, host=host)
        self.addCleanup(self.cluster.stop)
        self.addCleanup(self.check_cluster)  # the last that is added is the first that is done
        return self.cluster

    def run_with(self, words: Callable[[LocalNode], tuple[str, ...]]) -> None:
        """Have the nodes of the cluster run by another program: ``words`` is its command line for one of them."""
        for k, node in self.cluster.nodes.items():
            facts = {name: getattr(node, name) for name in ("node_id", "config", "data_dir", "log", "api")}
            self.cluster.nodes[k] = ProgramNode(**facts, words=words(node))

    def start(self, nodes: int = 3, host: str = "127.0.0.1", folder: str = "cluster") -> LocalCluster:
        """A cluster at rest, whose lowest node is master."""
        cluster = self.make(nodes, host, folder)
        self.run_cluster()
        return cluster

    def run_cluster(self) -> None:
        """Start the nodes of the cluster, wait until it is at rest, and let the events count from there."""
        for node in self.cluster.nodes.values():
            node.start()
        self.wait_home()
        self.mark_events()

    def wait_until(self, what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait until ``condition`` holds, looking rarely.

        :raises TimeoutError: it does not hold within ``patience_s``.
        :raises ChildProcessError: a node has ended that nobody has ended.
        """
        until_s = time.monotonic() + patience_s
        while not condition():
            for node in self.cluster.nodes.values():
                if node.process is not None and node.process.poll() is not None:
                    raise ChildProcessError(f"node {node.node_id} has ended by itself; its log is {node.log}")
            if time.monotonic() > until_s:
                seen = {k: node.status() for k, node in self.cluster.nodes.items()}
                where = self.cluster.directory
                raise TimeoutError(f"not within {patience_s:.0f} s: {what}; the logs are in {where}; status: {seen}")
            time.sleep(LOOK_S)

    def wait_home(self) -> None:
        """Wait until every node is normal in every node's eyes and the lowest one is everybody's master.

        Transactions may come in meanwhile.
        """
        home = min(self.cluster.nodes)
        self.wait_until(f"all nodes are normal and node {home} is master", lambda: self._is_home(home))

    def _is_home(self, home: int) -> bool:
        documents = [node.status() for node in self.cluster.nodes.values()]
        return all(
            document is not None
            and document["master"] == home
            and document["state"] == "normal"
            and all(member["standing"] == "normal" and member["linked"] for member in document["members"])
            for document in documents
        )

    # --- transactions ---

    def load(self, *node_ids: int, per_s: float = 200.0, make: Callable[[int], Submission] = put) -> Load:
        """A load on these nodes; what its clients hear is checked when the test is over."""
        addresses = http_addresses(self.cluster[node_id] for node_id in node_ids)
        load = Load(addresses, per_s, make)
        self._loads.append(load)
        return load

    def submit(self, submission: Submission) -> Submission:
        """Hand one transaction in and wait for its answer; checked likewise."""
        self.submissions.append(submission)
        submission.sent_s = time.monotonic()
        try:
            answer = self.cluster[submission.node_id].api.send(
                "POST", "/v1/tx", body=json.loads(submission.body()), wait_s=10.0
            )
            submission.kind, submission.facts = COMMITTED, answer.document()
        except Failed as failed:
            submission.kind, submission.facts = failed.kind, failed.document
        submission.answered_s = time.monotonic()
        return submission

    def outcome(self, node_id: int, request_id: str) -> Place | None:
        """What a node says became of a transaction: its place in the log, or that it knows of none."""
        try:
            answer = self.cluster[node_id].api.get(f"/v1/tx/{request_id}").document()
        except Failed as failed:
            self.assertEqual(failed.kind, "not-found")
            return None
        return answer["seq"], answer["index"]

    def assert_all_committed(self, load: Load) -> None:
        """Every client of ``load`` heard committed, and there were some."""
        self.assertEqual([str(each) for each in load.failed()], [])
        self.assertGreater(len(load.submissions), 0)

    # --- events ---

    def mark_events(self) -> None:
        """Let :meth:`events` show only what happens from now on."""
        self._marks = {k: max((event["id"] for event in self._all_events(k)), default=0) for k in self.cluster.nodes}

    def _all_events(self, node_id: int) -> list[dict[str, Any]]:
        return list(self.cluster[node_id].api.events({"from": 0, "follow": 0}))

    def events(self, node_id: int, *kinds: str) -> list[dict[str, Any]]:
        """The events of these kinds that a node has seen in this life and since :meth:`mark_events`."""
        mark = self._marks.get(node_id, 0)
        return [event for event in self._all_events(node_id) if event["kind"] in kinds and event["id"] > mark]

    def restart(self, node_id: int) -> None:
        """Start a node whose process has ended; all events of its new life count."""
        self._marks.pop(node_id, None)
        self.cluster[node_id].start()

    # --- what holds after every test ---

    def _wait_everywhere(self) -> None:
        """Wait until nothing is under way: every entry is on every disk, and applied."""

        def at_rest() -> bool:
            documents = [node.status() for node in self.cluster.nodes.values()]
            return self.cluster.settled() and all(
                document is not None and document["everywhere"] == document["applied"] for document in documents
            )

        self.wait_until("the cluster is at rest, with every entry on every disk", at_rest)

    def _check_logs_equal(self, logs: dict[int, list[Entry]]) -> None:
        first, *others = sorted(logs)
        self.assertEqual([entry.seq for entry in logs[first]], list(range(1, len(logs[first]) + 1)))
        for other in others:
            differing = [
                f"node {first} has {one}, node {other} has {two}"
                for one, two in zip(logs[first], logs[other], strict=False)
                if one != two
            ]
            self.assertEqual(differing[:3], [])
            self.assertEqual(len(logs[other]), len(logs[first]), f"entries of nodes {other} and {first}")

    def _check_answers(self, log: Sequence[Entry]) -> None:
        """What clients heard is what the log says."""
        places: dict[str | None, list[Place]] = defaultdict(list)
        for logged in live_transactions(log):
            places[logged.transaction.request_id].append(logged.place)
        asked: dict[str, list[Submission]] = defaultdict(list)
        for submission in [*self.submissions, *(each for load in self._loads for each in load.submissions)]:
            asked[submission.request_id].append(submission)
        wrong = [
            f"{submission}; the log has it at {places[request_id]}"
            for request_id, submissions in asked.items()
            for submission in submissions
            if not _is_true(submission, places[request_id], len(submissions))
        ]
        self.assertEqual(wrong[:5], [], f"{len(wrong)} clients heard what is not so")
        self.assertEqual([each for each in places if each not in asked], [], "what nobody has asked for")

    def _check_keys(self, log: Sequence[Entry]) -> None:
        """All key-value stores are the same, and hold every committed key with the version that its client heard."""
        query = {"prefix": "", "consistency": "local"}
        stores = {k: node.api.get("/v1/kv", query).document()["items"] for k, node in self.cluster.nodes.items()}
        first, *others = sorted(stores)
        for other in others:
            self.assertEqual(stores[other], stores[first], f"key-value stores of nodes {other} and {first}")
        firsts: dict[str, int] = {}
        for logged in live_transactions(log):
            if logged.transaction.rm == "kv" and logged.transaction.request_id is not None:
                firsts.setdefault(logged.transaction.request_id, logged.place[0])
        self.assertEqual({item["key"]: item["version"] for item in stores[first]}, firsts)

    def _check_for_defects(self) -> None:
        """No node has met a situation that its authors had not thought of."""
        lines = [
            f"node {k}: {line}"
            for k, node in self.cluster.nodes.items()
            for line in node.log.read_text(errors="replace").splitlines()
            if any(word in line for word in _DEFECTS)
        ]
        self.assertEqual(lines, [])


def _is_true(submission: Submission, places: list[Place], times_asked: int) -> bool:
    """Whether what a client heard agrees with the places at which the log has its transaction.

    A client that hands the same request id in again may have put it in the log again; it takes effect at the first
    place, which is what every client hears.
    """
    if len(places) > times_asked:
        return False
    if submission.kind == COMMITTED:
        return bool(places) and submission.place == places[0]
    if submission.kind == UNKNOWN:
        return True
    if submission.kind == UNREACHABLE or times_asked == 1:
        return not places
    return len(places) < times_asked
