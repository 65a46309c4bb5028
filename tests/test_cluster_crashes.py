"""Nodes that die at the worst moment, and clusters that end as a whole: real processes."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

from tests.cluster import ClusterCase, Place, busy_disk, live_transactions
from tests.cluster_load import COMMITTED, UNKNOWN, Submission, put
from txvbcast.cli.local import LocalNode
from txvbcast.store.sqlite import dump, inspect

#: ``twistd`` as its console script starts it.
TWISTD = "from twisted.scripts.twistd import run; run()"


def last_seq(node: LocalNode) -> int:
    """The end of the log on a node's disk."""
    return int(inspect(node.data_dir)["last_seq"])


class Ordered(ClusterCase):
    """The master dies after ORDER and before COMMITTED."""

    def wait_applied(self) -> None:
        """Wait until every node has applied the same."""
        self.wait_until("every node has applied everything", self.cluster.settled)

    def committed(self, node_id: int) -> int:
        """What a node knows to be committed."""
        return self.cluster[node_id].api.get("/v1/status").field("committed", int)

    def kill_master(self, submission: Submission, before: int) -> None:
        """Kill node 1 once ``submission`` is in its log, above ``before`` that is committed."""
        master = self.cluster[1]
        self.wait_until("the master has ordered it", lambda: self.place_on_disk(submission) is not None)
        self.assertEqual(self.committed(1), before)
        master.kill()
        place = self.place_on_disk(submission)
        assert place is not None
        self.assertGreater(place[0], before)

    def place_on_disk(self, submission: Submission) -> Place | None:
        """Where node 1 has a transaction in its log."""
        for logged in live_transactions(list(dump(self.cluster[1].data_dir))):
            if logged.transaction.request_id == submission.request_id:
                return logged.place
        return None

    def outcomes(self, submission: Submission) -> list[Place | None]:
        """What each node says of it, once the cluster is whole again."""
        self.restart(1)
        self.wait_home()
        self.wait_applied()
        return [self.outcome(node_id, submission.request_id) for node_id in self.cluster.nodes]

    def test_a_survivor_has_it(self) -> None:
        """It was in one follower's hands: the next master finds it, and the client hears committed."""
        cluster = self.start()
        before = self.committed(1)
        submission = put(2)
        with ThreadPoolExecutor(1) as pool:
            cluster[3].freeze()
            with busy_disk(cluster[2]):
                client = pool.submit(self.submit, submission)
                self.kill_master(submission, before)
                self.assertEqual(last_seq(cluster[2]), before)
            cluster[3].thaw()
            self.assertEqual(client.result().kind, COMMITTED, str(submission))
        self.assertEqual(self.outcomes(submission), [submission.place] * 3)
        again = self.submit(Submission(submission.request_id, 3, "kv", submission.payload, "broadcast"))
        self.assertEqual((again.kind, again.place), (COMMITTED, submission.place))

    def test_nobody_else_has_it(self) -> None:
        """It was in the master's hands alone: it never happens, until the client hands it in again."""
        cluster = self.start()
        before = self.committed(1)
        submission = put(1)
        with ThreadPoolExecutor(1) as pool:
            cluster[2].kill()  # a frozen one would find it in its socket
            cluster[3].kill()
            client = pool.submit(self.submit, submission)
            self.kill_master(submission, before)
            self.assertEqual(client.result().kind, UNKNOWN, str(submission))
        self.restart(2)
        self.restart(3)
        self.wait_until("another node is master", lambda: (cluster[2].status() or {}).get("master") in (2, 3))
        self.assertEqual(self.outcomes(submission), [None] * 3)
        again = self.submit(Submission(submission.request_id, 2, "kv", submission.payload, "broadcast"))
        self.assertEqual(again.kind, COMMITTED, str(again))
        self.wait_applied()
        self.assertEqual([self.outcome(node_id, again.request_id) for node_id in cluster.nodes], [again.place] * 3)


class Everybody(ClusterCase):
    """All nodes end."""

    def test_killed(self) -> None:
        """All at once and under load, twice: what a client heard as committed is there afterwards."""
        cluster = self.start()
        for _ in range(2):
            with self.load(1, 2, 3) as load:
                load.wait_committed(200)
                for node in cluster.nodes.values():
                    node.signal(signal.SIGKILL)
                for node in cluster.nodes.values():
                    node.reap()
            self.assertGreaterEqual(len(load.committed()), 200)
            self.assertGreater(len(load.failed()), 0)
            self.run_cluster()
        with self.load(1, 2, 3) as load:
            load.wait_committed(100)
        self.assert_all_committed(load)

    def test_stopped(self) -> None:
        """By SIGTERM, the master first: it hands over, nobody fails, and all is there when they run again."""
        self.make(folder="a cluster")
        self.run_with(lambda node: ("-c", TWISTD, "-n", "vbcast", "--config", node.config.name))
        self.run_cluster()
        cluster = self.cluster
        with self.load(2, 3) as load:
            load.wait_committed(100)
            self.end(1)
            load.wait_committed(100)
        self.assert_all_committed(load)
        self.assertIn("mastership node 1: to node 2: stopping", cluster[1].log.read_text())
        for node_id in (2, 3):
            changes = self.events(node_id, "master_changed", "node_failed", "quorum_lost")
            self.assertEqual((changes[0]["kind"], changes[0]["master"]), ("master_changed", 2))
            self.assertEqual([event["kind"] for event in changes[1:]], ["node_failed"][: len(changes) - 1])
        self.end(2, 3)
        self.run_cluster()
        self.assertEqual(sorted(path.name for path in cluster.directory.glob("twistd*")), [])

    def end(self, *node_ids: int) -> None:
        """Ask nodes to end, all at once, and see them do it in good order."""
        processes = [self.cluster[node_id].process for node_id in node_ids]
        for node_id in node_ids:
            self.cluster[node_id].ask_to_stop()
        for node_id, process in zip(node_ids, processes, strict=True):
            self.cluster[node_id].reap()
            assert process is not None
            # When everything is closed twistd ends itself by the signal that asked it to.
            self.assertEqual(process.returncode, -signal.SIGTERM)
            self.assertIn(f"node {node_id} has stopped", self.cluster[node_id].log.read_text())
