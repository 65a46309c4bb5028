"""The configuration file of a node: what is accepted, and what is said about the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from txvbcast import validation
from txvbcast.addresses import parse_address, reached_by
from txvbcast.config import (
    DEFAULT_RESOURCE_MANAGERS,
    HEARTBEAT_PRESETS,
    Address,
    Config,
    HeartbeatConfig,
    InactivityConfig,
    LimitsConfig,
    MasterConfig,
    PluginConfig,
    QueueConfig,
    QuorumConfig,
    ResponseTimeoutConfig,
)
from txvbcast.configfile import FILE_BYTES_MAX, load, parse
from txvbcast.errors import ConfigError
from txvbcast.units import format_duration, format_size, parse_duration, parse_size
from txvbcast.wire.limits import FRAME_BYTES_MAX
from txvbcast.yamlreader import DEPTH_MAX, PROBLEMS_TOLD_MAX

LEAST = """\
cluster: {name: rack, id: 6f1e}
node: {id: 1}
listen:
  peer: 127.0.0.1:8410
  client: 127.0.0.1:8411
  http: 127.0.0.1:8412
members:
  - {id: 1, name: node1, peer: 127.0.0.1:8410}
  - {id: 2, name: node2, peer: 127.0.0.1:8420}
  - {id: 3, name: node3, peer: 127.0.0.1:8430}
data_dir: node1
insecure: true
"""

FULL = """\
cluster:
  name: "rack 7"
  id: 6f1e
node:
  id: 2
  name: second
  vms: [web, db]
listen:
  peer: "[::1]:8420"
  client: 0.0.0.0:8421
  http: localhost:8422
members:
  - id: 1
    name: first
    peer: first.example.org:8410
  - id: 2
    name: second
    peer: "[2001:db8::2]:8420"
data_dir: /var/lib/vbcast
insecure: true
heartbeat: {preset: wan, interval: 250ms}
response_timeout: {normal: 2s, inactive: 10ms}
inactivity: {margin: 2, max: 2h, at_once: 2}
quorum: {planned_floor: 2, last_man_standing: yes}
master: {handback: false, handback_delay: 0s}
queue: {max_bytes: 64MiB, max_age: 1.5h}
resource_managers:
  - name: orders
    plugin: ledger
    options: {path: x, depth: 3, ratio: 0.5, strict: true, none: null, list: [1, {a: b}]}
adapters: [{plugin: qmp, kinds: [freeze], options: {socket: 'unix:/run/qmp'}}]
estimates: {migrate_out: 5s, freeze: 250ms}
limits: {pending: 5, pending_bytes: 1MiB, wait: 40ms, payload: 64KiB, flight_bytes: 65536, flights: 2, clients: 9}
"""

HTTP = "http: 127.0.0.1:8412"
PEER3 = "peer: 127.0.0.1:8430"


def added(line: str) -> str:
    """LEAST with one more line, its 13th."""
    return f"{LEAST}{line}\n"


def changed(old: str, new: str) -> str:
    """LEAST with one line replaced."""
    if old not in LEAST:
        raise ValueError(f"{old!r} is not there to be replaced")
    return LEAST.replace(old, new, 1)


class AcceptedTests(unittest.TestCase):
    """What a good file means."""

    def test_least(self) -> None:
        config = parse(LEAST, "conf/node.yaml")
        self.assertEqual((config.node_id, config.node_name, config.cluster_name), (1, "node1", "rack"))
        self.assertEqual([member.id for member in config.members], [1, 2, 3])
        self.assertEqual(config.listen.http, Address("127.0.0.1", 8412))
        self.assertEqual(config.data_dir, Path("conf/node1").absolute())
        self.assertEqual(config.resource_managers, DEFAULT_RESOURCE_MANAGERS)
        self.assertEqual(config.protocol.heartbeat, HeartbeatConfig(interval_s=0.1, timeout_s=0.8))
        self.assertEqual((config.queue, config.adapters, config.vms), (QueueConfig(), (), ()))
        self.assertTrue(config.insecure)

    def test_full(self) -> None:
        config = parse(FULL, "/etc/vbcast/node.yaml")
        protocol = config.protocol
        self.assertEqual((config.node_id, config.node_name, config.vms), (2, "second", ("web", "db")))
        self.assertEqual((config.cluster_id, config.cluster_name), ("6f1e", "rack 7"))
        self.assertEqual(config.listen.peer, Address("::1", 8420))
        self.assertEqual(config.members[1].peer, Address("2001:db8::2", 8420))
        self.assertEqual(config.data_dir, Path("/var/lib/vbcast"))
        self.assertEqual(protocol.heartbeat, HeartbeatConfig(interval_s=0.25, timeout_s=5.0))
        self.assertEqual(protocol.response_timeout, ResponseTimeoutConfig(normal_s=2.0, inactive_s=0.01))
        self.assertEqual(protocol.inactivity, InactivityConfig(margin=2.0, max_s=7200.0, at_once=2))
        self.assertEqual(protocol.quorum, QuorumConfig(planned_floor=2, last_man_standing=True))
        self.assertEqual(protocol.master, MasterConfig(handback=False, handback_delay_s=0.0))
        limits = LimitsConfig(
            pending=5,
            pending_bytes=1 << 20,
            wait_s=0.04,
            payload=65536,
            flight_bytes=65536,
            flights=2,
            clients=9,
        )
        self.assertEqual(protocol.limits, limits)
        self.assertEqual(protocol.estimates_s, {"migrate_out": 5.0, "freeze": 0.25})
        self.assertEqual(config.queue, QueueConfig(max_bytes=64 << 20, max_age_s=5400.0))
        options = {"path": "x", "depth": 3, "ratio": 0.5, "none": None, "list": [1, {"a": "b"}]}
        self.assertEqual(config.resource_managers[0].name, "orders")
        self.assertEqual(config.resource_managers[0].plugin, "ledger")
        self.assertEqual(config.adapters, (PluginConfig("qmp", "qmp", {"socket": "unix:/run/qmp"}, ("freeze",)),))
        self.assertEqual({**options, "strict": True}, {**config.resource_managers[0].options})

    def test_presets(self) -> None:
        for preset, expected in HEARTBEAT_PRESETS.items():
            config = parse(f"{LEAST}heartbeat: {{preset: {preset}}}\n", "node.yaml")
            self.assertEqual(config.protocol.heartbeat, expected)

    def test_timeout_of_just_three_intervals(self) -> None:
        config = parse(f"{LEAST}heartbeat: {{interval: 100ms, timeout: 300ms}}\n", "node.yaml")
        self.assertEqual(config.protocol.heartbeat.timeout_s, 0.3)

    def test_no_resource_managers(self) -> None:
        self.assertEqual(parse(f"{LEAST}resource_managers: []\n", "node.yaml").resource_managers, ())

    def test_file_as_windows_writes_it(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(b"\xef\xbb\xbf" + LEAST.replace("\n", "\r\n").encode())
        self.assertEqual(load(path), parse(LEAST, str(path)))

    def test_file_in_a_folder_with_a_space(self) -> None:
        folder = Path(self.mktemp()) / "my cluster"
        folder.mkdir(parents=True)
        (folder / "node.yaml").write_text(LEAST)
        self.assertEqual(load(folder / "node.yaml").data_dir, folder.absolute() / "node1")


# Each wrong file, the line that is to be named (None: none is), and what is to be said.
REFUSED: dict[str, tuple[str, int | None, str]] = {
    # keys
    "unknown key": (added("heartbeats: {}"), 13, "heartbeats: unknown key, did you mean 'heartbeat'?"),
    "unknown key, unlike any": (added("zzz: {}"), 13, "zzz: unknown key: expected one of cluster, node, listen"),
    "unknown inner key": (changed("{id: 1}", "{id: 1, vm: []}"), 2, "node.vm: unknown key, did you mean 'vms'?"),
    "unknown member key": (changed("id: 2", "id: 2, names: a"), 9, "members[1].names: unknown key, did you mean"),
    "missing key": (changed("data_dir: node1\n", ""), 1, "the key 'data_dir' is missing: expected the path of a"),
    "missing inner key": (changed("  http: 127.0.0.1:8412\n", ""), 3, "listen: the key 'http' is missing: expected"),
    "missing member key": (changed("name: node3, ", ""), 10, "members[2]: the key 'name' is missing: expected a text"),
    "duplicate key": (added("insecure: true"), 13, "insecure: is given twice, first on line 12"),
    "duplicate inner key": (changed("  http:", "  peer: a:1\n  http:"), 6, "listen.peer: is given twice, first on"),
    "key that is a number": (added("7: x"), 13, "a key must be a text, got the number '7'"),
    "key that is a list": (added("[a]: x"), 13, "a key must be a text, got a list"),
    "merge key": (added("<<: {a: b}"), 13, "a key must be a text, got a value of the type merge"),
    # types
    "text for a number": (changed("{id: 1}", "{id: one}"), 2, "node.id: expected a whole number, got the text 'one'"),
    "quoted number": (changed("{id: 1}", '{id: "1"}'), 2, "node.id: expected a whole number, got the text '1'"),
    "fraction": (changed("{id: 1}", "{id: 1.5}"), 2, "node.id: expected a whole number, got the number '1.5'"),
    "octal": (changed("{id: 1}", "{id: 010}"), 2, "node.id: expected a whole number in plain digits, got '010'"),
    "endless number": (changed("{id: 1}", "{id: " + "9" * 5000 + "}"), 2, "expected a whole number in plain digits"),
    "number for a text": (changed("name: rack", "name: 7"), 1, "cluster.name: expected a text, got the number '7':"),
    "truth for a text": (changed("name: rack", "name: no"), 1, 'got the truth value \'no\': put it into quotes, as in'),
    "date for a text": (changed("name: rack", "name: 2026-01-01"), 1, "expected a text, got the date '2026-01-01'"),
    "nothing for a text": (changed("name: rack", "name: "), 1, "cluster.name: expected a text, got nothing"),
    "list for a text": (changed("name: rack", "name: [a]"), 1, "cluster.name: expected a text, got a list"),
    "number tag on a mapping": (changed("name: rack", "name: !!int {a: b}"), 1, "expected a text, got a mapping"),
    "unknown tag": (changed("name: rack", "name: !python/x y"), 1, "got a value of the type !python/x, 'y'"),
    "NUL in a text": (changed("name: rack", 'name: "a\\0b"'), 1, "cluster.name: expected a text, got one with an"),
    "surrogate in a text": (changed("name: rack", 'name: "\\uD800"'), 1, "cluster.name: expected a text, got one with"),
    "text for a truth value": (changed("insecure: true", 'insecure: "true"'), 12, "expected true or false, got the"),
    "wrong truth value": (changed("insecure: true", "insecure: !!bool maybe"), 12, "expected true or false, got"),
    "text for a mapping": (added("heartbeat: 5s"), 13, "heartbeat: expected a mapping with the keys preset, interval"),
    "nothing for a mapping": (added("heartbeat:"), 13, "heartbeat: expected a mapping with the keys preset"),
    "mapping for a list": (added("adapters: {}"), 13, "adapters: expected a list, each item a mapping with the keys"),
    "text for a member": (changed("- {id: 2, name: node2, peer: 127.0.0.1:8420}", "- node2"), 9, "members[1]:"),
    "number for a factor": (added("inactivity: {margin: .inf}"), 13, "inactivity.margin: expected a number such as"),
    # durations and sizes
    "duration without a unit": (added("heartbeat: {timeout: 5}"), 13, "heartbeat.timeout: '5' has no unit: write 5s"),
    "duration in base 60": (added("heartbeat: {timeout: 1:30}"), 13, "heartbeat.timeout: expected a duration with its"),
    "negative duration": (added("heartbeat: {timeout: -5s}"), 13, "heartbeat.timeout: '-5s' is negative"),
    "duration in days": (added("queue: {max_age: 2d}"), 13, "queue.max_age: '2d' has the unknown unit 'd': expected"),
    "endless duration": (added("queue: {max_age: 9999h}"), 13, "queue.max_age: '9999h' is longer than a year"),
    "list for a duration": (added("queue: {max_age: []}"), 13, "queue.max_age: expected a duration with its unit,"),
    "decimal size": (added("queue: {max_bytes: 5MB}"), 13, "queue.max_bytes: '5MB' has the unknown unit 'MB': write"),
    "unknown size": (added("queue: {max_bytes: 5x}"), 13, "'5x' has the unknown unit 'x': expected a size, such as"),
    "half a byte": (added("queue: {max_bytes: 1.5}"), 13, "queue.max_bytes: '1.5' is not a whole number of bytes"),
    "negative size": (added("queue: {max_bytes: -1}"), 13, "queue.max_bytes: '-1' is negative"),
    "endless size": (added("queue: {max_bytes: 5000TiB}"), 13, "queue.max_bytes: '5000TiB' is more than 1024TiB"),
    # addresses
    "no port": (changed(HTTP, "http: localhost"), 6, "listen.http: expected HOST:PORT, such as 192.0.2.1"),
    "only a port": (changed(HTTP, "http: 8412"), 6, "listen.http: expected HOST:PORT, such as 192.0.2.1"),
    "empty host": (changed(HTTP, 'http: ":8412"'), 6, "listen.http: the host is missing before the port"),
    "port 0": (changed(HTTP, "http: a:0"), 6, "listen.http: expected a port from 1 to 65535, got 0"),
    "port too high": (changed(HTTP, "http: a:65536"), 6, "listen.http: expected a port from 1 to 65535"),
    "port in words": (changed(HTTP, "http: a:b"), 6, "listen.http: the port in 'a:b' is no number"),
    "bare IPv6": (changed(HTTP, 'http: "::1:8412"'), 6, "listen.http: an IPv6 address must stand in br"),
    "bracketed name": (changed(HTTP, 'http: "[a]:8412"'), 6, "brackets around 'a', which is no IPv6 add"),
    "bad IPv4": (changed(HTTP, "http: 127.0.0.256:1"), 6, "'127.0.0.256' is no valid IP address"),
    "bad IPv6": (changed(HTTP, 'http: "[::g]:1"'), 6, "listen.http: '::g' is no valid IP address"),
    "bad name": (changed(HTTP, "http: a b:1"), 6, "listen.http: 'a b' is no valid host name"),
    "multicast": (changed(PEER3, "peer: 224.0.0.1:1"), 10, "members[2].peer: 224.0.0.1 is a multicast add"),
    "multicast to listen": (changed(HTTP, 'http: "[ff02::1]:1"'), 6, "ff02::1 is a multicast address"),
    "broadcast": (changed(HTTP, "http: 255.255.255.255:1"), 6, "255.255.255.255 is the broadcast addr"),
    "wildcard member": (changed(PEER3, "peer: 0.0.0.0:1"), 10, "members[2].peer: 0.0.0.0 is no address that"),
    "wildcard IPv6 member": (changed(PEER3, 'peer: "[::]:1"'), 10, "members[2].peer: :: is no address that"),
    "clash": (changed("127.0.0.1:8412", "127.0.0.1:8411"), 6, "listen.http: 127.0.0.1:8411 clashes with listen.client"),
    "clash with peer": (changed("127.0.0.1:8411", "127.0.0.1:8410"), 5, "listen.client: 127.0.0.1:8410 clashes with"),
    "clash by a wildcard": (changed("127.0.0.1:8412", "0.0.0.0:8411"), 6, "listen.http: 0.0.0.0:8411 clashes with"),
    # members
    "id 0": (changed("id: 2", "id: 0"), 9, "members[1].id: expected a number from 1 to 65535, got 0"),
    "id too high": (changed("id: 2", "id: 65536"), 9, "members[1].id: expected a number from 1 to 65535, got 65536"),
    "repeated id": (changed("id: 3", "id: 2"), 10, "members[2].id: 2 is taken already by members[1].id"),
    "repeated name": (changed("node3", "node2"), 10, "members[2].name: 'node2' is taken already by members[1].name"),
    "repeated address": (changed("8430", "8420"), 10, "members[2].peer: the address is taken already by"),
    "not a member": (changed("{id: 1}", "{id: 4}"), 2, "node.id: 4 is not among the ids of members (1, 2, 3)"),
    "no members": (re.sub(r"members:\n(  -.*\n)+", "members: []\n", LEAST), 2, "node.id: 1 is not among the ids of"),
    "other own name": (changed("{id: 1}", "{id: 1, name: a}"), 2, "node.name: 'a', but members calls node 1 'node1'"),
    "empty name": (changed("node3", '""'), 10, "members[2].name: expected 1 to 64 printable characters, without"),
    "long name": (changed("rack", "r" * 65), 1, "cluster.name: expected 1 to 64 printable characters"),
    "unprintable name": (changed("rack", '"a\\tb"'), 1, "cluster.name: expected 1 to 64 printable characters"),
    "padded name": (changed("{id: 1}", '{id: 1, vms: ["a "]}'), 2, "node.vms[0]: expected 1 to 64 printable"),
    "repeated machine": (changed("{id: 1}", "{id: 1, vms: [a, a]}"), 2, "node.vms[1]: 'a' is taken already by"),
    # the rest
    "home folder": (changed("data_dir: node1", "data_dir: ~/x"), 11, "data_dir: expected the path of a folder,"),
    "empty folder": (changed("data_dir: node1", 'data_dir: ""'), 11, "data_dir: expected the path of a folder,"),
    "security": (added("security: {ca: x}"), 13, "security: TLS comes in a later version: remove this"),
    "not said insecure": (changed("insecure: true\n", ""), 1, "insecure: this version can only run without TLS"),
    "insecure false": (changed("insecure: true", "insecure: false"), 12, "insecure: this version can only run without"),
    "timeout too short": (LEAST + "heartbeat:\n  interval: 100ms\n  timeout: 299ms\n", 15, "heartbeat.timeout: 299ms"),
    "interval too long": (LEAST + "heartbeat:\n  interval: 400ms\n", 13, "heartbeat.timeout: 800ms is less than 3 x"),
    "interval 0": (added("heartbeat: {interval: 0s}"), 13, "heartbeat.interval: expected at least 1ms, got 0s"),
    "unknown preset": (added("heartbeat: {preset: moon}"), 13, "heartbeat.preset: expected one of lan, wan, test, got"),
    "margin below 1": (added("inactivity: {margin: 0.9}"), 13, "inactivity.margin: expected a factor from 1 to 100,"),
    "floor 0": (added("quorum: {planned_floor: 0}"), 13, "quorum.planned_floor: expected from 1 to the number of mem"),
    "floor too high": (added("quorum: {planned_floor: 4}"), 13, "to the number of members, 3, got 4"),
    "no pending": (added("limits: {pending: 0}"), 13, "limits.pending: expected at least 1, got 0"),
    "large flight": (added("limits: {flight_bytes: 17MiB}"), 13, "limits.flight_bytes: expected at most 16MiB, got"),
    "no time to wait": (added("limits: {wait: 0s}"), 13, "limits.wait: expected at least 1ms, got 0s"),
    "no clients": (added("limits: {clients: 0}"), 13, "limits.clients: expected at least 1, got 0"),
    "many flights": (added("limits: {flights: 257}"), 13, "limits.flights: expected at most 256, got 257"),
    "large payload": (added("limits: {payload: 2MiB}"), 13, "limits.payload: 2MiB does not fit a flight: expected at"),
    "unknown kind": (added("estimates: {migrate: 5s}"), 13, "estimates.migrate: unknown kind of change, did you mean"),
    "estimate too long": (added("estimates: {freeze: 2h}"), 13, "estimates.freeze: expected more than 0s and at most"),
    "repeated manager": (
        LEAST + "resource_managers:\n  - {name: a, plugin: kv}\n  - {name: a, plugin: kv}\n",
        15,
        "resource_managers[1].name: 'a' is taken already by resource_managers[0].name",
    ),
    "odd option": (
        LEAST + "resource_managers:\n  - name: a\n    plugin: kv\n    options:\n      since: 2026-01-01\n",
        17,
        "resource_managers[0].options.since: expected a text, got the date '2026-01-01'",
    ),
    "options that are a list": (
        LEAST + "resource_managers: [{name: a, plugin: kv, options: []}]\n",
        13,
        "resource_managers[0].options: expected a mapping of the plugin's own options, got a list",
    ),
    "nobody at once": (added("inactivity: {at_once: 0}"), 13, "inactivity.at_once: expected at least 1, got 0"),
    "kind of an adapter": (added("adapters: [{plugin: a, kinds: [x]}]"), 13, "adapters[0].kinds[0]: expected one of"),
    # the file itself
    "empty": ("", None, "node.yaml: is empty; 'vbcast init' writes a configuration"),
    "only comments": ("# nothing\n", None, "node.yaml: is empty"),
    "a list": ("- a\n", 1, "expected a mapping with the keys cluster, node, listen"),
    "a word": ("\nhello\n", 2, "expected a mapping with the keys cluster, node, listen"),
    "tab": (LEAST + "heartbeat:\n\tinterval: 1s\n", 14, "is not valid YAML: while scanning for the next token"),
    "tab, the hint": (LEAST + "heartbeat:\n\tinterval: 1s\n", 14, "indented by spaces, and this line has a tab"),
    "unclosed": (LEAST + "heartbeat: {interval: 1s\n", 14, "is not valid YAML: while parsing a flow mapping"),
    "unquoted IPv6": (changed("127.0.0.1:8412", "[::1]:8412"), 6, 'put an IPv6 address into quotes, as in'),
    "two documents": (LEAST + "---\na: b\n", 13, "one file holds one node's configuration, so remove the '---'"),
    "alias": (LEAST + "queue: &q {}\nlimits: *q\n", 14, "an alias (*name) is not supported, write it out"),
    "deep": (LEAST + "queue: " + "[" * 5000 + "\n", 13, f"nested deeper than {DEPTH_MAX} levels"),
    "escape beyond Unicode": (changed("rack", '"\\U00110000"'), 1, "is not valid YAML: an escape is beyond U+10FFFF"),
    "escape beyond any": (changed("rack", '"\\UFFFFFFFF"'), 1, "is not valid YAML: an escape is beyond U+10FFFF"),
    "endless version": (f"%YAML {'9' * 5000}.1\n---\n{LEAST}", 1, "or a version number is endless"),
    "line break in a key": (added('"a\\nb": 1'), 13, r"'a\nb': unknown key: expected one of cluster, node"),
    "endless key": (added("? " + "k" * 5000 + "\n: 1"), 13, "k...': unknown key: expected one of cluster, node"),
    "line break in a tag": (changed("rack", "!a%0Ab x"), 1, r"got a value of the type '!a\nb', 'x'"),
    "endless anchor": (added(f"x: [&{'a' * 5000} 1, &{'a' * 5000} 2]"), 13, "found duplicate anchor 'aaaa"),
    "endless port": (changed(HTTP, "http: a:" + "9" * 5000), 6, "listen.http: expected HOST:PORT, such as 192.0.2.1"),
    "interface with a space": (changed(HTTP, 'http: "[fe80::1%a b]:1"'), 6, "has no name of a network interface after"),
    "surrogate in a path": (changed("data_dir: node1", r'data_dir: "\ud800"'), 11, "got one with an escape that is no"),
    "NUL in a path": (changed("data_dir: node1", r'data_dir: "\0"'), 11, "got one with an escape that is no character"),
    "control character": (LEAST + "# \x07\n", 13, "the character 0x7 is not allowed in YAML"),
}  # fmt: skip


class RefusedTests(unittest.TestCase):
    """What is said about a file that cannot be used; a method for each row of REFUSED is added below."""

    def check(self, text: str, line: int | None, said: str) -> None:
        error = self.assertRaises(ConfigError, parse, text, "conf/node.yaml")
        lines = str(error).splitlines()
        self.assertEqual(len(lines), 1, str(error))
        self.assertIn(said, lines[0])
        place = "conf/node.yaml: " if line is None else f"conf/node.yaml:{line}: "
        self.assertTrue(lines[0].startswith(place), f"{lines[0]!r} should start with {place!r}")

    def test_all_at_once(self) -> None:
        text = changed("{id: 1}", "{id: x}").replace("insecure: true", "insecure: maybe") + "color: red\n"
        error = self.assertRaises(ConfigError, parse, text, "n.yaml")
        self.assertEqual(
            [line.split(": ")[:2] for line in str(error).splitlines()],
            [["n.yaml:2", "node.id"], ["n.yaml:12", "insecure"], ["n.yaml:13", "color"]],
        )

    def test_all_that_does_not_fit_at_once(self) -> None:
        text = changed("{id: 1}", "{id: 9}").replace("127.0.0.1:8412", "127.0.0.1:8411").replace("node3", "node2")
        error = self.assertRaises(ConfigError, parse, text, "n.yaml")
        self.assertEqual([line.split(":")[1] for line in str(error).splitlines()], ["2", "6", "10"])

    def test_many(self) -> None:
        text = LEAST + "".join(f"unknown{number}: 1\n" for number in range(100))
        lines = str(self.assertRaises(ConfigError, parse, text, "n.yaml")).splitlines()
        self.assertEqual(len(lines), PROBLEMS_TOLD_MAX + 1)
        self.assertEqual(lines[-1], "n.yaml: and 80 more problems")

    def test_nothing_is_endless(self) -> None:
        """However long a value is, what is said about it fits a screen, and names one line a problem."""
        long = "x" * 5000
        crowd = "".join(f"  - {{id: {n}, name: n{n}, peer: a{n}:1}}\n" for n in range(10, 999))
        for text in (
            changed("{id: 1}", f"{{id: 1, name: {long}}}"),
            changed("{id: 1}", f"{{id: 1, vms: [{long}, {long}]}}"),
            added(f"adapters: [{{plugin: a, kinds: [{long}]}}]"),
            changed("{id: 1}", "{id: 9}").replace("data_dir", f"{crowd}data_dir"),
            *(row[0] for row in REFUSED.values()),
        ):
            error = self.assertRaises(ConfigError, parse, text, "n.yaml")
            for line in str(error).split("\n"):
                self.assertLess(len(line), 1000)
                self.assertRegex(line, r"^n\.yaml(:\d+)?: ")
                self.assertTrue(line.isprintable(), line)

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_damaged(self, data: st.DataObject) -> None:
        """Whatever is cut out of a good file or put into it, it is accepted or refused, and nothing else."""
        start = data.draw(st.integers(0, len(FULL)))
        end = data.draw(st.integers(start, min(len(FULL), start + 20)))
        text = FULL[:start] + data.draw(st.text(max_size=5) | st.sampled_from("{}[]:-&*!|>'\"%@\t,?#\n")) + FULL[end:]
        try:
            self.assertIsInstance(parse(text, "n.yaml"), Config)
        except ConfigError as error:
            self.assertTrue(str(error).startswith("n.yaml:"))


def _add_refused() -> None:
    for name, row in REFUSED.items():

        def test(self: RefusedTests, row: tuple[str, int | None, str] = row) -> None:
            self.check(*row)

        setattr(RefusedTests, f"test_{re.sub(r'[^a-zA-Z0-9]+', '_', name)}", test)


_add_refused()


class UnreadableTests(unittest.TestCase):
    """Files that cannot even be parsed."""

    def check(self, path: Path, said: str) -> None:
        self.assertIn(said, str(self.assertRaises(ConfigError, load, path)))

    def test_missing(self) -> None:
        self.check(Path("nowhere/node.yaml"), "nowhere/node.yaml: cannot be read: No such file or directory")

    def test_folder(self) -> None:
        path = Path(self.mktemp())
        path.mkdir()
        self.check(path, f"{path}: is a directory: name the YAML file of one node, such as {path}/node1.yaml")

    def test_below_a_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text(LEAST)
        self.check(path / "node.yaml", "cannot be read: Not a directory")

    def test_not_utf8(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(LEAST.encode() + "# Köln\n".encode("latin-1"))
        self.check(path, f"{path}:13: is not UTF-8, which has no place for the byte 0xf6 here")

    def test_utf16(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(LEAST.encode("utf-16"))
        self.check(path, f"{path}:1: is not UTF-8")

    def test_too_long(self) -> None:
        path = Path(self.mktemp())
        path.write_text(LEAST + "#" * FILE_BYTES_MAX)
        self.check(path, f"is longer than {FILE_BYTES_MAX} bytes")


class ValidateTests(unittest.TestCase):
    """A tree made in Python meets the same rules."""

    def setUp(self) -> None:
        self.config = parse(LEAST, "node.yaml")

    def check(self, said: str, **fields: Any) -> None:
        error = self.assertRaises(ConfigError, validation.validate, attrs.evolve(self.config, **fields))
        self.assertIn(said, str(error).splitlines())

    def test_good(self) -> None:
        validation.validate(self.config)

    def test_address(self) -> None:
        listen = attrs.evolve(self.config.listen, http=Address("a", 0))
        self.check("listen.http: expected a port from 1 to 65535, got 0", listen=listen)

    def test_endless(self) -> None:
        self.check("queue.max_age: expected at least 1s, got infms", queue=QueueConfig(max_age_s=float("inf")))

    def test_estimate(self) -> None:
        protocol = attrs.evolve(self.config.protocol, estimates_s={"nap": 1.0})
        error = self.assertRaises(ConfigError, validation.validate, attrs.evolve(self.config, protocol=protocol))
        self.assertIn("estimates.nap: unknown kind of change 'nap': expected one of migrate_out", str(error))

    def test_adapter(self) -> None:
        adapter = PluginConfig(name="a", plugin="a", kinds=("nap",))
        error = self.assertRaises(ConfigError, validation.validate, attrs.evolve(self.config, adapters=(adapter,)))
        self.assertIn("adapters[0].kinds[0]: unknown kind of change 'nap'", str(error))

    def test_flights_fit_frames(self) -> None:
        self.assertLessEqual(2 * validation.FLIGHT_BYTES_MAX, FRAME_BYTES_MAX)


class AddressTests(unittest.TestCase):
    """HOST:PORT."""

    def test_good(self) -> None:
        for text in ("a:1", "a-b.c_d.example:65535", "127.0.0.1:80", "[::1]:80", "[fe80::1%eth0]:80", "example.org.:1"):
            self.assertEqual(str(parse_address(text)), text)

    def test_reached_by(self) -> None:
        """Where a wildcard was told, the host under which the machine is known; what is no address is none."""
        for told, host, reached in (
            ("10.0.0.1:8411", "192.0.2.7", "10.0.0.1:8411"),
            ("0.0.0.0:8411", "192.0.2.7", "192.0.2.7:8411"),
            ("[::]:8411", "::ffff:192.0.2.7", "192.0.2.7:8411"),
            ("[::]:8411", "2001:db8::7", "[2001:db8::7]:8411"),
            ("", "192.0.2.7", ""),
            ("0.0.0.0:0", "192.0.2.7", ""),
            ("\x1b[2J:1", "192.0.2.7", ""),
        ):
            self.assertEqual(reached_by(told, host), reached)

    def test_same_place(self) -> None:
        text = changed("127.0.0.1:8420", "Example.ORG:1").replace("127.0.0.1:8430", "example.org.:1")
        error = self.assertRaises(ConfigError, parse, text, "n.yaml")
        self.assertIn("members[2].peer: the address is taken already by members[1].peer", str(error))


class UnitsTests(unittest.TestCase):
    """Durations and sizes."""

    def test_durations(self) -> None:
        for text, duration_s in (
            ("250ms", 0.25),
            ("5s", 5.0),
            ("2m", 120.0),
            ("1h", 3600.0),
            ("0s", 0.0),
            ("+1.5 s", 1.5),
        ):
            self.assertEqual(parse_duration(text), duration_s)

    def test_sizes(self) -> None:
        for text, size_bytes in (("64KiB", 65536), ("1MiB", 1 << 20), ("0.5GiB", 1 << 29), ("17", 17), ("17B", 17)):
            self.assertEqual(parse_size(text), size_bytes)

    def test_wrong(self) -> None:
        for text in ("", " ", "s", "5 5s", "5sec", "1e3s", "5s ", "١s", "5S", "5", "0"):
            self.assertRaises(ValueError, parse_duration, text)
        for text in ("", "KiB", "1 KiB B", "1kib", "1_000", "0x10", "1e3"):
            self.assertRaises(ValueError, parse_size, text)

    @settings(deadline=None)
    @given(st.integers(0, 365 * 86400 * 1000))
    def test_durations_come_back(self, duration_ms: int) -> None:
        self.assertEqual(parse_duration(format_duration(duration_ms / 1000)), duration_ms / 1000)

    @settings(deadline=None)
    @given(st.integers(0, 1 << 50))
    def test_sizes_come_back(self, size_bytes: int) -> None:
        self.assertEqual(parse_size(format_size(size_bytes)), size_bytes)
