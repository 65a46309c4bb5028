"""Clients of real processes whose node dies, freezes, hands its office over or says that it will be away.

Whatever happens, each transaction takes effect exactly once and every client hears what is so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from tests.cluster import ROOT, ClusterCase, Place, live_transactions
from txvbcast.cli.local import PATIENCE_S
from txvbcast.configfile import load
from txvbcast.store.sqlite import inspect

CHILD = Path(__file__).parent / "client_child.py"
#: How long the node in use is stopped without a word: longer than its cluster waits for it.
FREEZE_S = 3.0
COMMITTED = "committed"


@attrs.frozen
class Report:
    """What one transaction led to, as its client heard it; times of the monotonic clock.

    :ivar node_id: the node that the client used when it handed it in.
    """

    request_id: str
    node_id: int
    sent_s: float
    answered_s: float
    kind: str
    place: Place = (0, 0)
    detail: str = ""


class Child:
    """A client process.

    :ivar name: for messages.
    """

    def __init__(self, name: str, output: Path, words: list[str]) -> None:
        self.name = name
        self._output = output
        with output.open("wb") as out, output.with_suffix(".err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(CHILD), *words],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            )

    def reports(self) -> list[Report]:
        """All that it has heard so far."""
        found = []
        for line in self._output.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                facts: dict[str, Any] = json.loads(line)
                place = (facts.pop("seq", 0), facts.pop("index", 0))
                found.append(Report(place=place, **facts))
        return found

    def committed(self) -> list[Report]:
        """What it heard as committed."""
        return [report for report in self.reports() if report.kind == COMMITTED]

    def end(self) -> None:
        """Let it have its last answers, and end."""
        try:
            self.process.communicate(b"\n", PATIENCE_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        assert self.process.returncode == 0, self._output.with_suffix(".err").read_text()[-2000:]


class ClientsCase(ClusterCase):
    """A cluster, and clients of it as processes."""

    def setUp(self) -> None:
        super().setUp()
        self.children: list[Child] = []

    def check_cluster(self) -> None:
        """Each transaction took effect exactly once if it was committed, and not at all if it was not."""
        self._wait_everywhere()
        logs = self.cluster.logs()
        self._check_logs_equal(logs)
        self._check_effects(self._places(logs[min(logs)]))
        self._check_for_defects()

    def _places(self, log: Any) -> dict[str, list[Place]]:
        places: dict[str, list[Place]] = defaultdict(list)
        for logged in live_transactions(log):
            assert logged.transaction.request is not None
            places[logged.transaction.request.text].append(logged.place)
        return places

    def _check_effects(self, places: dict[str, list[Place]]) -> None:
        """Compare what clients heard with the log, and with the version that each key has on every node."""
        query = {"prefix": "", "consistency": "local"}
        reports = {report.request_id: report for child in self.children for report in child.reports()}
        for node_id, node in self.cluster.nodes.items():
            items = node.api.get("/v1/kv", query).document()["items"]
            versions = {item["key"]: item["version"] for item in items}
            self.assertEqual(set(versions) - set(reports), set(), "what nobody has asked for")
            wrong = [
                f"{report}; node {node_id} has version {versions.get(name)}, the log {places[name]}"
                for name, report in reports.items()
                if not _is_so(report, versions.get(name), places[name])
            ]
            self.assertEqual(wrong[:5], [], f"{len(wrong)} clients heard what is not so")

    # --- clients ---

    @contextmanager
    def clients(
        self, *node_ids: int, per_s: float = 200.0, timeout_s: float = 20.0, mode: str = "broadcast"
    ) -> Iterator[None]:
        """One client with a reactor and one without; they try these nodes first."""
        for kind in ("twisted", "blocking"):
            words = [kind, str(per_s), str(timeout_s), mode, *map(self.endpoint, node_ids)]
            self.children.append(Child(kind, Path(self.mktemp()).absolute(), words))
        try:
            self.wait_committed(50)
            self.assertEqual({child.reports()[-1].node_id for child in self.children}, {node_ids[0]})
            yield
        finally:
            for child in self.children:
                child.end()

    def endpoint(self, node_id: int) -> str:
        """Where a node listens for clients."""
        address = load(self.cluster[node_id].config).listen.client
        return f"tcp:{address.host}:{address.port}"

    def wait_committed(self, count: int) -> None:
        """Wait until each client has heard of so many more commits of what it hands in from now on."""
        now_s = time.monotonic()
        for child in self.children:
            self.wait_until(
                f"the {child.name} client has {count} more commits",
                lambda child=child: self._since(child, now_s) >= count,
            )

    def _since(self, child: Child, since_s: float) -> int:
        if child.process.poll() is not None:
            child.end()
        return sum(report.sent_s >= since_s for report in child.committed())

    def assert_none_failed(self) -> None:
        """Every client heard committed, every time."""
        for child in self.children:
            self.assertEqual([report for report in child.reports() if report.kind != COMMITTED], [], child.name)

    def nodes_used(self) -> list[set[int]]:
        """Which nodes each client has used."""
        return [{report.node_id for report in child.reports()} - {0} for child in self.children]


def _is_so(report: Report, version: int | None, places: list[Place]) -> bool:
    """Whether what a client heard is what a node did."""
    if report.kind == COMMITTED:
        return bool(places) and report.place == places[0] and report.place[0] == version
    if report.kind == "OutcomeUnknown":
        return version is None or version == places[0][0]
    return version is None


class Gone(ClientsCase):
    """The node in use is gone without a word."""

    def check_killed(self, node_id: int, mode: str) -> None:
        """It is killed under load, and comes back."""
        self.start()
        with self.clients(node_id, mode=mode):
            self.cluster[node_id].kill()
            self.wait_committed(100)
            self.restart(node_id)
            self.wait_home()
            self.wait_committed(50)
        self.assert_none_failed()
        for used in self.nodes_used():
            self.assertGreater(len(used), 1)

    def test_coordinator_killed(self) -> None:
        self.check_killed(2, "broadcast")

    def test_coordinator_killed_in_two_phases(self) -> None:
        self.check_killed(2, "2pc")

    def test_master_killed(self) -> None:
        self.check_killed(1, "broadcast")

    def test_master_frozen(self) -> None:
        """The epoch changes while it is stopped; back again, it has much to answer that nobody waits for any more."""
        cluster = self.start()
        epoch = inspect(cluster[2].data_dir)["log_epoch"]
        with self.clients(1):
            cluster[1].freeze()
            self.wait_until("another node is master", lambda: (cluster[2].status() or {}).get("master") in (2, 3))
            time.sleep(FREEZE_S)
            self.wait_committed(50)
            cluster[1].thaw()
            self.wait_home()
            self.wait_committed(50)
        self.assert_none_failed()
        self.assertGreater(inspect(cluster[2].data_dir)["log_epoch"], epoch)


class Announced(ClientsCase):
    """What happens is said before."""

    def check_absent(self, node_id: int) -> None:
        """The node in use says that it will be away, and is then stopped."""
        cluster = self.start()
        node = cluster[node_id]
        with self.clients(node_id):
            answer = node.api.send("POST", "/v1/inactive", body={"kind": "freeze", "expected_ms": 5000})
            self.assertTrue(answer.field("confirmed", bool))
            self.wait_until(
                "both clients use another node",
                lambda: all(child.reports()[-1].node_id not in (0, node_id) for child in self.children),
            )
            moved_s = time.monotonic()
            node.freeze()
            time.sleep(FREEZE_S)
            self.wait_committed(50)
            node.thaw()
            node.api.send("DELETE", f"/v1/inactive/{answer.field('change_id', int)}")
            self.wait_home()
            self.wait_committed(50)
        self.assert_none_failed()
        late = [each for child in self.children for each in child.reports() if each.sent_s > moved_s]
        self.assertNotIn(node_id, {report.node_id for report in late})

    def test_absent_follower(self) -> None:
        self.check_absent(2)

    def test_absent_master(self) -> None:
        self.check_absent(1)

    def test_master_handed_over(self) -> None:
        """The clients stay: the office is the nodes' own affair."""
        cluster = self.start()
        with self.clients(1, mode="3pc"):
            cluster[1].api.send("POST", "/v1/master", body={"to": 2})
            self.wait_until("node 2 is master", lambda: cluster.master() == 2)
            self.wait_committed(50)
            cluster[2].api.send("POST", "/v1/master", body={"to": 1})
            self.wait_home()
            self.wait_committed(50)
        self.assert_none_failed()
        self.assertEqual(self.nodes_used(), [{1}, {1}])

    def test_stopped(self) -> None:
        """By SIGTERM, as an operator would."""
        cluster = self.start()
        with self.clients(1):
            cluster[1].stop()
            self.wait_committed(100)
            self.restart(1)
            self.wait_home()
            self.wait_committed(50)
        self.assert_none_failed()
