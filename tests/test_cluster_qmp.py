"""A cluster of real nodes, one of which watches a real guest that migrates again and again."""

from __future__ import annotations

import statistics
from typing import Any

import yaml
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tests.cluster import ClusterCase
from tests.cluster_load import Load
from tests.qemu import QemuCase, Wanderer, reactor

log = Logger()

MIGRATIONS = 20
#: From QEMU's first word of a migration until another node has heard that the node will be away.
TOLD_S = 0.005
#: The share of the migrations for which that must hold: the machine of a test has other things to do, too.
IN_TIME = 0.75


class Migrations(ClusterCase, QemuCase):
    """The whole way: QEMU, adapter, node, cluster."""

    timeout = 300

    def setUp(self) -> None:
        """Both kinds of surroundings."""
        ClusterCase.setUp(self)
        QemuCase.setUp(self)

    def adapter(self) -> dict[str, Any]:
        """The state of node 3's adapter."""
        status = self.cluster[3].status()
        assert status is not None
        return dict(status["adapters"][0])

    async def wait_ready(self) -> None:
        """Until all is as before, and the adapter watches the guest where it is now."""
        while not (self.adapter()["state"] == "connected" and self._is_home(1)):
            await deferLater(reactor, 0.05)

    async def move(self, wanderer: Wanderer) -> float:
        """One migration; how long after QEMU's first word of it the master knew, in seconds."""
        self.mark_events()
        source = wanderer.machine
        known = len(source.events)
        await wanderer.move()
        first = next(event for event in source.events[known:] if event.name == "MIGRATION")
        await self.wait_ready()
        (gone,) = self.events(1, "node_inactive")
        self.assertEqual((gone["node_id"], gone["change_kind"]), (3, "migrate_out"))
        self.assertEqual(self.events(1, "node_failed", "quorum_lost"), [])
        return float(gone["time_s"]) - first.at_us / 1e6

    async def migrate(self, wanderer: Wanderer, load: Load) -> list[float]:
        """All of them, under load."""
        delays_s = []
        for _ in range(MIGRATIONS):
            delays_s.append(await self.move(wanderer))
            load.wait_committed(20)
        return delays_s

    async def test_twenty_migrations(self) -> None:
        """Each is told to the others at once, no transaction fails, nobody is missed, and the history has them all."""
        wanderer = await self.wanderer(guest=self.guest(), fill_mib=16)
        cluster = self.make()
        document = yaml.safe_load(cluster[3].config.read_text())
        document["adapters"] = [{"plugin": "qmp", "options": {"socket": wanderer.address}}]
        cluster[3].config.write_text(yaml.safe_dump(document))
        self.run_cluster()
        await self.wait_ready()
        with self.load(1, 2, 3) as load:
            delays_s = await self.migrate(wanderer, load)
        self.assert_all_committed(load)
        self.check_delays(delays_s)
        self.check_history()

    def check_delays(self, delays_s: list[float]) -> None:
        """The announcement went out at once."""
        told = ", ".join(f"{1000 * delay_s:.1f}" for delay_s in sorted(delays_s))
        log.info("the master knew after {told} ms", told=told)
        self.assertLessEqual(statistics.median(delays_s), TOLD_S, told)
        in_time = sum(delay_s <= TOLD_S for delay_s in delays_s)
        self.assertGreaterEqual(in_time, IN_TIME * MIGRATIONS, told)

    def check_history(self) -> None:
        """What was announced, and what it took."""
        past = self.cluster[3].api.get("/v1/inactive/history").field("absences", list)
        self.assertEqual(len(past), MIGRATIONS)
        for record in past:
            self.assertEqual((record["source"], record["kind"], record["outcome"]), ("qmp", "migrate_out", "done"))
            self.assertGreater(record["announced_ms"], 0)
            self.assertGreater(record["actual_ms"], 0)
