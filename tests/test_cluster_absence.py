"""A master that is away, announced or not, while the others have work to do: real processes."""

from __future__ import annotations

import itertools
import time

import attrs
from twisted.logger import Logger

from tests.cluster import ClusterCase
from tests.cluster_load import Load

log = Logger()

#: The goals that this cluster is built for: no other test measures times.
GAP_OF_ANNOUNCED_S = 0.1
GAP_OF_UNANNOUNCED_S = 2.0

FREEZE_S = 4.0
#: Commits that make a quiet time: two seconds of the load.
QUIET_COMMITS = 400
#: How often an absence is measured at most, on a machine that shows long gaps without an absence too.
ATTEMPTS = 3


@attrs.frozen
class Gaps:
    """The longest times without a commit: from the announcement until all is as before, and in a quiet time around."""

    absence_s: float
    quiet_s: float

    def __str__(self) -> str:
        absence_ms, quiet_ms = 1000 * self.absence_s, 1000 * self.quiet_s
        return f"longest gap between commits: {absence_ms:.0f} ms, without an absence {quiet_ms:.0f} ms"


class Announced(ClusterCase):
    """The master says that it will be away, is stopped, and comes back."""

    def freeze_master(self) -> None:
        """The whole absence of node 1, from its announcement until it is master again."""
        master = self.cluster[1]
        answer = master.api.send("POST", "/v1/inactive", body={"kind": "freeze", "expected_ms": round(FREEZE_S * 1000)})
        self.assertTrue(answer.field("confirmed", bool), answer.document())
        self.assertNotIn("unsafe", answer.document())
        master.freeze()
        time.sleep(FREEZE_S)
        master.thaw()
        master.api.send("DELETE", f"/v1/inactive/{answer.field('change_id', int)}")
        self.wait_until("node 1 is master again", lambda: len(self.events(2, "master_changed")) > 1)
        self.wait_home()

    def measure(self, load: Load) -> Gaps:
        """One absence and two quiet times under a load."""
        self.mark_events()
        times = [time.monotonic(), load.wait_committed(QUIET_COMMITS)]
        self.freeze_master()
        times += [load.wait_committed(1), load.wait_committed(QUIET_COMMITS)]
        self.check_events()
        before, absence, after = (load.longest_gap_s(*span) for span in itertools.pairwise(times))
        gaps = Gaps(absence, max(before, after))
        log.info("{gaps}", gaps=gaps)
        return gaps

    def check_events(self) -> None:
        """The office went to another node and back, and nobody was missed."""
        stand_in = self.events(1, "master_changed")[0]["master"]
        for node_id in self.cluster.nodes:
            changes = [(event["before"], event["master"]) for event in self.events(node_id, "master_changed")]
            self.assertEqual(changes, [(1, stand_in), (stand_in, 1)], f"changes of master as node {node_id} saw them")
            self.assertEqual(self.events(node_id, "node_failed", "quorum_lost"), [])
            gone = {event["node_id"] for event in self.events(node_id, "node_inactive")}
            self.assertEqual(gone, {1}, f"absences as node {node_id} saw them")

    def check_absence(self, nodes: int) -> None:
        """Announced and frozen for 4 s, under 200 transactions/s: nobody notices."""
        self.start(nodes)
        with self.load(*range(2, nodes + 1)) as load:
            load.wait_committed(QUIET_COMMITS // 4)
            measured = [self.measure(load)]
            while measured[-1].absence_s > GAP_OF_ANNOUNCED_S and len(measured) < ATTEMPTS:
                # Only a machine that was busy with something else all the while gets another chance.
                self.assertGreater(measured[-1].quiet_s, GAP_OF_ANNOUNCED_S / 2, measured[-1])
                measured.append(self.measure(load))
        self.assert_all_committed(load)
        self.assertLessEqual(measured[-1].absence_s, GAP_OF_ANNOUNCED_S, "; ".join(map(str, measured)))

    def test_three_nodes(self) -> None:
        self.check_absence(3)

    def test_two_nodes(self) -> None:
        self.check_absence(2)


class Unannounced(ClusterCase):
    """The master is gone from one moment to the next."""

    def check_gap(self, load: Load, since_s: float) -> None:
        """Writes went on in time, and none was lost."""
        until_s = time.monotonic()
        gap_s = load.longest_gap_s(since_s, until_s)
        said = f"longest gap between commits: {1000 * gap_s:.0f} ms"
        log.info(said)
        self.assertLessEqual(gap_s, GAP_OF_UNANNOUNCED_S, said)

    def check_changes(self, nodes: tuple[int, ...]) -> None:
        """Another node became master, and later node 1 again; nobody but node 1 was ever taken for gone."""
        stand_in = self.events(2, "master_changed")[0]["master"]
        for node_id in nodes:
            masters = [event["master"] for event in self.events(node_id, "master_changed")]
            self.assertEqual(masters, [stand_in, 1], f"masters as node {node_id} saw them")
            self.assertEqual([event["node_id"] for event in self.events(node_id, "node_failed")], [1])

    def test_killed(self) -> None:
        cluster = self.start()
        with self.load(2, 3) as load:
            load.wait_committed(QUIET_COMMITS // 4)
            killed_s = time.monotonic()
            cluster[1].kill()
            load.wait_committed(QUIET_COMMITS)
            self.check_gap(load, killed_s)
            missed = cluster[2].api.get("/v1/status").field("committed", int)
            self.restart(1)
            self.wait_home()
            load.wait_committed(QUIET_COMMITS // 4)
        self.assert_all_committed(load)
        self.check_changes((2, 3))
        self.assertGreater(cluster[1].api.get("/v1/status").field("applied", int), missed)

    def test_frozen(self) -> None:
        cluster = self.start()
        with self.load(2, 3) as load:
            load.wait_committed(QUIET_COMMITS // 4)
            frozen_s = time.monotonic()
            cluster[1].freeze()
            load.wait_committed(QUIET_COMMITS)
            self.check_gap(load, frozen_s)
            cluster[1].thaw()
            self.wait_until("node 1 is master again", lambda: len(self.events(2, "master_changed")) > 1)
            self.wait_home()
            load.wait_committed(QUIET_COMMITS // 4)
        self.assert_all_committed(load)
        self.check_changes((2, 3))
