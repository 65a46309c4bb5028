"""Transactions that every node is asked about, in clusters of real processes."""

from __future__ import annotations

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from tests import notes_node
from tests.cluster import ROOT, ClusterCase
from tests.cluster_load import COMMITTED, UNKNOWN, Submission, put

COUNTER = ROOT / "examples" / "counter.py"
#: Up to where each node lets the example's counter go.
LIMITS = {1: 100, 2: 100, 3: 10}


class Counter(ClusterCase):
    """The example program, as a user would run it."""

    def count(self, node_id: int, amount: str, mode: str) -> Submission:
        """Add to the counter, by way of a node."""
        submission = put(node_id, "count")
        submission.rm, submission.payload, submission.mode = "counter", amount.encode(), mode
        return self.submit(submission)

    def values(self, mode: str) -> list[str]:
        """The counter as each node has it."""
        answers = [self.count(node_id, "+0", mode) for node_id in self.cluster.nodes]
        return [answer.facts["result"] for answer in answers]

    def check_refusal(self, mode: str) -> None:
        """What node 3 refuses happens nowhere, and the client hears who it was and why."""
        self.make()
        self.run_with(lambda node: (str(COUNTER), node.config.name, str(LIMITS[node.node_id])))
        self.run_cluster()
        self.assertEqual(self.count(2, "+4", mode).facts["result"], "4")
        before = self.cluster.logs()[1]
        for node_id in (1, 2, 3, 1, 2, 3):  # more than fits the other counters, had they kept what they prepared
            refused = self.count(node_id, "+30", mode)
            self.assertEqual((refused.kind, refused.facts["who"]), ("aborted", [3]), str(refused))
            self.assertIn("the counter is 4 and must stay from 0 to 10 (node 3)", refused.facts["detail"])
        self.assertEqual(self.cluster.logs()[1], before)
        self.assertEqual(self.values(mode), ["4", "4", "4"])
        self.assertEqual(self.count(3, "+6", mode).facts["result"], "10")
        self.assertEqual(self.values(mode), ["10", "10", "10"])

    def test_refused_by_2pc(self) -> None:
        self.check_refusal("2pc")

    def test_refused_by_3pc(self) -> None:
        self.check_refusal("3pc")


@attrs.frozen
class Lives:
    """What one node's resource manager was told, life by life."""

    lives: tuple[tuple[dict[str, Any], ...], ...]

    @classmethod
    def read(cls, path: Path) -> Lives:
        """From its notes."""
        lives: list[list[dict[str, Any]]] = []
        for line in path.read_text().splitlines():
            note = json.loads(line)
            if note["call"] == "start":
                lives.append([])
            else:
                lives[-1].append(note)
        return cls(tuple(map(tuple, lives)))

    def calls(self, request_id: str) -> list[str]:
        """The calls about one transaction, in the latest life."""
        return [note["call"] for note in self.lives[-1] if note["request_id"] == request_id]

    def unbalanced(self) -> list[str]:
        """Where an accepted transaction was not ended by exactly one commit or abort, or a refused one was ended."""
        wrong = []
        for number, life in enumerate(self.lives, start=1):
            calls: dict[tuple[str, int], list[str]] = defaultdict(list)
            for note in life:
                calls[tuple(note["tx"])].append(note["call"] if note["call"] != "vote" else str(note["accepts"]))
            cut_short = number < len(self.lives)
            wrong += [f"{tx}: {made}" for tx, made in calls.items() if not _is_balanced(made, cut_short)]
        return wrong


def _is_balanced(calls: list[str], cut_short: bool) -> bool:
    whole = (
        ["prepare", "True", "commit"],
        ["prepare", "True", "abort"],
        ["prepare", "False"],
        ["commit"],  # what the others decided while this node was away
    )
    return calls in whole or (cut_short and any(calls == each[: len(calls)] for each in whole))


class Votes(ClusterCase):
    """Resource managers that refuse, or take their time."""

    def notes_of(self, node_id: int) -> Path:
        """Where a node's resource manager keeps its notes."""
        return self.cluster.directory / f"notes{node_id}.txt"

    def calls(self, node_id: int, submission: Submission) -> list[str]:
        """What a node's resource manager was told of a transaction in its latest life."""
        return Lives.read(self.notes_of(node_id)).calls(submission.request_id)

    def setUp(self) -> None:
        super().setUp()
        self.make()
        self.run_with(lambda node: (notes_node.__file__, node.config.name, str(self.notes_of(node.node_id))))
        self.run_cluster()

    def check_cluster(self) -> None:
        """Besides, every prepare was followed by exactly one commit or abort."""
        super().check_cluster()
        for node_id in self.cluster.nodes:
            self.assertEqual(Lives.read(self.notes_of(node_id)).unbalanced(), [], f"at node {node_id}")

    def asked(self, node_id: int, mode: str, **lists: list[int]) -> Submission:
        """A transaction about which the nodes are asked."""
        submission = put(node_id, "asked")
        submission.rm, submission.payload, submission.mode = "notes", json.dumps(lists).encode(), mode
        return submission

    def test_some_of_many_refused(self) -> None:
        """Transactions that share a flight are accepted and refused one by one."""
        for mode in ("2pc", "3pc"):

            def make(node_id: int, mode: str = mode) -> Submission:
                submission = self.asked(node_id, mode)
                if int(submission.request_id.split("-")[1]) % 4 == 0:
                    submission.payload = b'{"refuse": [3]}'
                return submission

            with self.load(1, 2, 3, per_s=400, make=make) as load:
                load.wait_committed(300)
            refused = [each for each in load.submissions if b"refuse" in each.payload]
            self.assertGreater(len(refused), 50)
            self.assertEqual(sorted(map(str, load.failed())), sorted(map(str, refused)))
            self.assertEqual({(each.kind, *each.facts["who"]) for each in refused}, {("aborted", 3)})
            for each in refused:
                self.assertIn(notes_node.REASON, each.facts["detail"])
                self.assertEqual(self.outcome(each.node_id, each.request_id), None)

    def check_coordinator_killed(self, coordinator: int) -> None:
        """Killed when some have voted and some have not: what they prepared is released, and never takes effect."""
        submission = self.asked(coordinator, "3pc", hold=[3])
        voted = next(k for k in (1, 2) if k != coordinator)
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(self.submit, submission)
            self.wait_until(
                f"node {voted} has voted and node 3 is asked",
                lambda: self.calls(voted, submission) == ["prepare", "vote"] and bool(self.calls(3, submission)),
            )
            self.cluster[coordinator].kill()
            self.assertEqual(client.result().kind, UNKNOWN)
        self.assertEqual(self.calls(voted, submission), ["prepare", "vote"])
        for node_id in (voted, 3):
            self.wait_failed(node_id, coordinator)
        released = ["prepare", "vote", "abort"]
        self.wait_until("what was voted on is released", lambda: self.calls(voted, submission) == released)
        self.assertEqual(self.calls(3, submission), ["prepare"])
        self.notes_of(3).with_suffix(".vote").touch()
        self.wait_until("what was voted on too late is released", lambda: self.calls(3, submission) == released)
        self.check_never(submission, coordinator, released)

    def wait_failed(self, node_id: int, member: int) -> None:
        """Wait until a node takes ``member``, and nobody else, for failed."""
        self.wait_until(
            f"node {node_id} takes node {member} for failed",
            lambda: [event["node_id"] for event in self.events(node_id, "node_failed")] == [member],
        )

    def wait_performed(self, node_id: int, submission: Submission) -> None:
        """Wait until a node has performed a transaction."""
        self.wait_until(
            f"node {node_id} has performed {submission.request_id}",
            lambda: self.calls(node_id, submission) == ["prepare", "vote", "commit"],
        )

    def check_never(self, submission: Submission, coordinator: int, released: list[str]) -> None:
        """A transaction is dead, and its coordinator, which is started again, works."""
        self.restart(coordinator)
        self.wait_home()
        later = self.submit(self.asked(coordinator, "3pc"))
        self.assertEqual(later.kind, COMMITTED, str(later))
        for node_id in self.cluster.nodes:
            self.wait_performed(node_id, later)
            self.assertEqual(self.outcome(node_id, submission.request_id), None)
            self.assertEqual(self.calls(node_id, submission), [] if node_id == coordinator else released)

    def test_coordinator_killed(self) -> None:
        self.check_coordinator_killed(2)

    def test_coordinator_killed_that_was_master(self) -> None:
        self.check_coordinator_killed(1)
