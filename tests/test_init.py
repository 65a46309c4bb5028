"""``vbcast init``."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial import unittest

from txvbcast.cli.init import DEFAULT_PORT, NODES_MAX, init, write_cluster
from txvbcast.config import Address, Config
from txvbcast.configfile import load
from txvbcast.errors import ConfigError


class WriteTests(unittest.TestCase):
    """What is written, and what is refused."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "my cluster"

    def write(
        self,
        nodes: int = 3,
        hosts: tuple[str, ...] = ("127.0.0.1",),
        base_port: int = DEFAULT_PORT,
        name: str = "rack",
        insecure: bool = True,
    ) -> list[Config]:
        return [load(path) for path in write_cluster(self.directory, nodes, hosts, base_port, name, insecure)]

    def test_three_nodes(self) -> None:
        configs = self.write()
        names = sorted(path.name for path in self.directory.iterdir())
        self.assertEqual(names, ["node1", "node1.yaml", "node2", "node2.yaml", "node3", "node3.yaml"])
        for number, config in enumerate(configs, 1):
            port = 8400 + 10 * number
            self.assertEqual((config.node_id, config.node_name), (number, f"node{number}"))
            self.assertEqual(config.listen.peer, Address("127.0.0.1", port))
            self.assertEqual(config.listen.client, Address("127.0.0.1", port + 1))
            self.assertEqual(config.listen.http, Address("127.0.0.1", port + 2))
            self.assertEqual(config.data_dir, self.directory.absolute() / f"node{number}")
            self.assertTrue(config.data_dir.is_dir())
            self.assertEqual(config.members, configs[0].members)
            self.assertEqual((config.cluster_name, config.cluster_id), ("rack", configs[0].cluster_id))
        self.assertEqual([member.peer.port for member in configs[0].members], [8410, 8420, 8430])

    def test_each_cluster_has_its_own_id(self) -> None:
        one = self.write()[0]
        self.directory = Path(self.mktemp())
        self.assertNotEqual(one.cluster_id, self.write()[0].cluster_id)

    def test_a_host_for_each(self) -> None:
        configs = self.write(2, ("Alpha.example.org", "[::1]"), base_port=100)
        self.assertEqual(configs[1].listen.http, Address("::1", 122))
        self.assertEqual(
            [member.peer for member in configs[0].members], [Address("Alpha.example.org", 110), Address("::1", 120)]
        )

    def test_name_that_needs_quotes(self) -> None:
        self.assertEqual(self.write(1, name='a: "b" # é {x}')[0].cluster_name, 'a: "b" # é {x}')

    def test_most_nodes(self) -> None:
        self.assertEqual(len(write_cluster(self.directory, NODES_MAX, ["127.0.0.1"], 1, "rack", True)), NODES_MAX)

    def test_the_comments_show_the_defaults(self) -> None:
        config = self.write()[0]
        path = self.directory / "node1.yaml"
        keys = re.sub(r"(?m)^ *# [^ ].*\n", "", path.read_text())
        text, shown = re.subn(r"(?m)^( *)#", r"\1", keys)
        self.assertGreater(shown, 20)
        path.write_text(re.sub(r"estimates:\n(  .*\n)*", "", text))
        self.assertEqual(load(path), config)

    def test_shown_estimates_can_be_used(self) -> None:
        self.write()
        path = self.directory / "node1.yaml"
        path.write_text(path.read_text().replace("#estimates", "estimates").replace("#  migrate_out", "  migrate_out"))
        self.assertEqual(load(path).protocol.estimates_s, {"migrate_out": 5.0})

    def refused(self, said: str, **given: object) -> None:
        error = self.assertRaises(ConfigError, self.write, **given)
        self.assertIn(said, str(error))

    def test_secure(self) -> None:
        self.refused("certificates come in a later version; this one needs --insecure", insecure=False)

    def test_numbers_of_nodes(self) -> None:
        self.refused("the number of nodes must be from 1 to 1000, got 0", nodes=0)
        self.refused("the number of nodes must be from 1 to 1000, got 1001", nodes=1001)

    def test_numbers_of_hosts(self) -> None:
        self.refused("give one host for all nodes or one for each of the 3, got 2", hosts=("a", "b"))
        self.refused("give one host for all nodes or one for each of the 3, got 0", hosts=())

    def test_hosts(self) -> None:
        self.refused("the host '0.0.0.0' cannot be used: peers cannot connect to it", hosts=("0.0.0.0",))
        self.refused("the host '[::]' cannot be used: peers cannot connect to it", hosts=("[::]",))
        self.refused("the host 'a b' cannot be used: 'a b' is no valid host name", hosts=("a b",))
        self.refused("the host 'a:1' cannot be used: 'a:1' is no valid IP address", hosts=("a:1",))
        self.refused("the host '' cannot be used: the host is missing", hosts=("",))

    def test_ports(self) -> None:
        self.refused("3 nodes need the ports 65514 to 65536", base_port=65504)
        self.refused("3 nodes need the ports 0 to 22", base_port=-10)

    def test_name(self) -> None:
        self.refused("the cluster's name cannot be used: expected 1 to 64 printable characters", name="")

    def test_nothing_is_overwritten(self) -> None:
        self.write()
        before = (self.directory / "node1.yaml").read_text()
        self.refused("node2.yaml, ")
        self.assertEqual((self.directory / "node1.yaml").read_text(), before)
        self.assertFalse((self.directory / "node4.yaml").exists())

    def test_dangling_link(self) -> None:
        self.directory.mkdir(parents=True)
        (self.directory / "node2.yaml").symlink_to("nowhere")
        self.refused(f"{self.directory}/node2.yaml: there already; name another directory")

    def test_below_a_file(self) -> None:
        self.directory.parent.mkdir()
        self.directory.write_text("")
        self.refused(f"{self.directory}: cannot be written: File exists")


class CommandTests(unittest.TestCase):
    """The command line."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "my cluster"

    def run_init(self, *words: str) -> Result:
        return CliRunner().invoke(init, [str(self.directory), *words], prog_name="vbcast init")

    def test_done(self) -> None:
        result = self.run_init("--nodes", "2", "--insecure")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn(f"  twistd -n vbcast --config '{self.directory}/node2.yaml'\n", result.stdout)
        self.assertEqual(load(self.directory / "node2.yaml").cluster_name, "vbcast")

    def test_json(self) -> None:
        result = self.run_init("--nodes", "2", "--insecure", "--json")
        self.assertEqual(
            json.loads(result.stdout), {"files": [f"{self.directory}/node1.yaml", f"{self.directory}/node2.yaml"]}
        )

    def test_hosts(self) -> None:
        self.run_init("--nodes", "2", "--insecure", "--host", "a", "--host", "b", "--base-port", "9000", "--name", "n")
        config = load(self.directory / "node2.yaml")
        self.assertEqual((config.listen.http, config.cluster_name), (Address("b", 9022), "n"))

    def test_not_said_insecure(self) -> None:
        result = self.run_init("--nodes", "2", "--host", "a", "--host", "b", "--base-port", "9000", "--name", "n n")
        self.assertEqual(result.exit_code, 2)
        self.assertIn("Certificates come in a later version", result.stderr)
        words = "--nodes 2 --host a --host b --base-port 9000 --name 'n n' --insecure"
        self.assertIn(f"vbcast init '{self.directory}' {words}\n", result.stderr)
        self.assertFalse(self.directory.exists())

    def test_refused(self) -> None:
        self.run_init("--nodes", "1", "--insecure")
        result = self.run_init("--nodes", "1", "--insecure")
        self.assertEqual((result.exit_code, result.stdout), (2, ""))
        self.assertIn("Error: ", result.stderr)
        self.assertIn("node1.yaml, ", result.stderr)

    def test_usage(self) -> None:
        for words in (
            ("--insecure",),
            ("--insecure", "--nodes", "x"),
            ("--insecure", "--nodes", "1", "--base-port", "x"),
        ):
            self.assertEqual(self.run_init(*words).exit_code, 2, words)
