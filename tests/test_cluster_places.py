"""Where a cluster of real processes may live: addresses, names and folders that need care."""

from __future__ import annotations

from pathlib import Path

import attrs

from tests.cluster import ClusterCase
from tests.net_samples import no_ipv6
from txvbcast.cli.local import LocalCluster


class Addresses(ClusterCase):
    """The loopback by its other names."""

    def check_absence(self, host: str) -> None:
        """A cluster works there, and links and datagrams find each node again after a restart."""
        cluster = self.start(host=host)
        self.assertIn(host, cluster[1].config.read_text())
        with self.load(1, 2) as load:
            load.wait_committed(50)
            cluster[3].kill()
            self.wait_until("node 3 is missed", lambda: len(self.events(1, "node_failed")) == 1)
            self.restart(3)
            self.wait_home()
            load.wait_committed(50)
        self.assert_all_committed(load)
        for node in cluster.nodes.values():
            # heartbeats travel as datagrams only
            self.assertNotIn("datagram", node.log.read_text())

    def test_ipv6(self) -> None:
        self.check_absence("::1")

    test_ipv6.skip = no_ipv6()  # type: ignore[attr-defined]

    def test_host_name(self) -> None:
        self.check_absence("localhost")


class Folders(ClusterCase):
    """Names of folders."""

    def test_space(self) -> None:
        """A data directory with a space in its name, in a folder with another one."""
        cluster = self.make(folder="a cluster")
        for node in cluster.nodes.values():
            moved = node.data_dir.with_name(f"my data {node.node_id}")
            text = node.config.read_text()
            node.config.write_text(text.replace(f"data_dir: {node.data_dir.name}", f"data_dir: {moved.name}"))
            node.data_dir.rmdir()
            node.data_dir = moved
        self.run_cluster()
        with self.load(1, 2, 3) as load:
            load.wait_committed(50)
        self.assert_all_committed(load)
        for node in cluster.nodes.values():
            node.stop()
        self.run_cluster()


class Ports(ClusterCase):
    """Several clusters on one machine."""

    def test_clusters_do_not_meet(self) -> None:
        """Each gets ports of its own before its processes take them, and takes no other's nodes for its own."""
        cluster = self.make(nodes=1)
        other = LocalCluster(Path(self.mktemp()), nodes=1)
        self.addCleanup(other.stop)
        self.assertNotEqual(other[1].api.url, cluster[1].api.url)
        self.run_cluster()
        self.assertIsNotNone(cluster[1].status())
        self.assertIsNone(attrs.evolve(cluster[1], process=None).status())
