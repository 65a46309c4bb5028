"""Processes that should not be there: strangers at a cluster's ports, and second processes of a node."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.cluster import ROOT, ClusterCase
from tests.net_samples import free_port, stored
from txvbcast.cli.local import LocalNode
from txvbcast.config import Address, Config
from txvbcast.configfile import load
from txvbcast.core import epochs
from txvbcast.net.link import HELLO_TIMEOUT_S
from txvbcast.net.links import STRANGERS_MAX, own_hello
from txvbcast.wire.codec import encode_frame
from txvbcast.wire.datagram import encode_datagram
from txvbcast.wire.hello import members_digest
from txvbcast.wire.limits import DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX
from txvbcast.wire.messages import Claim, ClaimWhy, Heartbeat, Hello, HelloRefused, Standing

ROUNDS = 3
EPOCH = epochs.pair(1000, 3)
CLAIM = Claim(EPOCH, ClaimWhy.SILENCE, of_epoch=0)


def wrong_hellos(config: Config) -> dict[str, Hello]:
    """What a node must refuse, by the reason."""
    other = 3 if config.node_id != 3 else 2
    members = own_hello(config, stored(config.node_id)).members
    moved = (attrs.evolve(members[0], peer="127.0.0.1:1"), *members[1:])
    right = attrs.evolve(own_hello(config, stored(config.node_id)), node_id=other, disk_id="stranger")
    return {
        "the cluster id differs": attrs.evolve(right, cluster_id="another"),
        "the cluster name differs": attrs.evolve(right, cluster_name="another"),
        "is not in the member list": attrs.evolve(right, node_id=9),
        "both sides say that they are": attrs.evolve(right, node_id=config.node_id),
        "no common protocol version": attrs.evolve(right, version_min=98, version_max=99),
        "does not have the digest": attrs.evolve(right, members_digest="0" * 64),
        "the member lists differ": attrs.evolve(right, members=moved, members_digest=members_digest(moved)),
    }


def garbage(config: Config, chance: random.Random) -> Iterator[bytes]:
    """What no node says at the beginning of a link."""
    hello = encode_frame(own_hello(config, stored(config.node_id)))
    for size in (1 << 4, 1 << 10, 1 << 16):
        yield b"\xff" + chance.randbytes(size)
    yield b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"
    for length in (0, FRAME_BYTES_MAX + 1, 0xFFFFFFFF):
        yield struct.pack("!I", length) + hello[4:]
    for place in range(4, len(hello), 97):
        yield hello[:place] + bytes((hello[place] ^ 0x80,)) + hello[place + 1 :]
    for message in (CLAIM, heartbeat(Standing.FAILED), HelloRefused("go away")):
        yield encode_frame(message)


def heartbeat(standing: Standing) -> Heartbeat:
    """A heartbeat that would do harm if it were believed."""
    return Heartbeat(
        epoch=EPOCH,
        beat=1,
        committed=0,
        everywhere=0,
        ordered=1_000_000,
        standing=standing,
        incarnation=1000,
        change_id=1000,
        table_digest="",
    )


def wrong_datagrams(config: Config, chance: random.Random) -> Iterator[bytes]:
    """What a node must drop."""
    other = 3 if config.node_id != 3 else 2
    right = encode_datagram(other, config.cluster_id, heartbeat(Standing.FAILED))
    yield b""
    for size in (1, 20, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MAX + 1, 60_000):
        yield chance.randbytes(size)
    for place in range(len(right)):
        yield right[:place]
        yield right[:place] + bytes((right[place] ^ 0x01,)) + right[place + 1 :]
    yield right + b"\x00"
    yield encode_datagram(other, "another", heartbeat(Standing.FAILED))
    yield encode_datagram(9, config.cluster_id, heartbeat(Standing.FAILED))
    yield encode_datagram(config.node_id, config.cluster_id, heartbeat(Standing.FAILED))
    yield encode_frame(CLAIM)


class StrangersCase(ClusterCase):
    """A cluster that must not notice."""

    def start_watched(self) -> None:
        """A cluster at rest, whose logs count from here."""
        self.start()
        self._written = {k: node.log.stat().st_size for k, node in self.cluster.nodes.items()}

    def new_lines(self, node: LocalNode) -> list[str]:
        """What a node has logged meanwhile."""
        with node.log.open("rb") as log:
            log.seek(self._written[node.node_id])
            return log.read().decode().splitlines()

    def check_unnoticed(self) -> None:
        """No link between members was lost, and no standing or master has changed."""
        for node in self.cluster.nodes.values():
            self.assertEqual([line for line in self.new_lines(node) if "is down" in line or "is up" in line], [])
            kinds = ("node_inactive", "node_catching_up", "node_normal", "node_failed", "master_changed", "quorum_lost")
            self.assertEqual(self.events(node.node_id, *kinds), [])


class Strangers(StrangersCase):
    """Whoever reaches the peer ports and is no member."""

    def peer(self, node: LocalNode) -> Address:
        """Where a node's peers reach it."""
        return load(node.config).listen.peer

    def say(self, node: LocalNode, data: bytes) -> bytes:
        """Say something over a new connection; all that is heard until the node ends it."""
        peer = self.peer(node)
        heard = b""
        with (
            socket.create_connection((peer.host, peer.port), timeout=HELLO_TIMEOUT_S - 1.0) as connection,
            contextlib.suppress(ConnectionError),  # it may end the connection while we speak
        ):
            connection.sendall(data)
            while piece := connection.recv(65536):
                heard += piece
        return heard

    def test_wrong_hellos(self) -> None:
        """Both sides hear why."""
        self.start_watched()
        with self.load(1, 2, 3, per_s=100) as clients:
            for node in self.cluster.nodes.values():
                for reason, hello in wrong_hellos(load(node.config)).items():
                    heard = self.say(node, encode_frame(hello))
                    self.assertIn(reason.encode(), heard)
                    self.assertTrue(
                        any("no link with a peer" in line and reason in line for line in self.new_lines(node))
                    )
            heard = self.say(
                self.cluster[2], encode_frame(attrs.evolve(own_hello(load(self.cluster[1].config), stored(1))))
            )
            self.assertIn(b"of two members the one with the higher id dials", heard)
            clients.wait_committed(50)
        self.assert_all_committed(clients)
        self.check_unnoticed()

    def test_garbage(self) -> None:
        """Bytes that make no sense, at both kinds of port, and connections that say nothing or stop half-way."""
        self.start_watched()
        chance = random.Random(1)
        with contextlib.ExitStack() as held, self.load(1, 2, 3, per_s=100) as clients:
            for node in list(self.cluster.nodes.values()) * ROUNDS:
                config = load(node.config)
                peer = config.listen.peer
                hello = encode_frame(own_hello(config, stored(config.node_id)))
                for place in range(STRANGERS_MAX // 2):
                    mute = held.enter_context(socket.create_connection((peer.host, peer.port)))
                    mute.sendall(hello[: place * 11])
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                    for datagram in wrong_datagrams(config, chance):
                        udp.sendto(datagram, (peer.host, peer.port))
                for data in garbage(config, chance):
                    self.say(node, data)
            clients.wait_committed(50)
        self.assert_all_committed(clients)
        self.check_unnoticed()
        for node in self.cluster.nodes.values():
            said = "\n".join(self.new_lines(node))
            for reason in (
                "a frame has a body of 4294967295 bytes where",
                "its CRC-32 does not match",
                "Claim came before Hello",
                "have not said Hello, and it is the oldest",
                "a datagram was dropped",
            ):
                self.assertIn(reason, said)


class SecondProcess(StrangersCase):
    """A node that is started where one runs already."""

    def run_second(self, config: Path) -> list[str]:
        """Start a node of this configuration in both ways; what it prints, once for each."""
        twistd = ["-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
        answers = []
        for words in (["-m", "twisted"], twistd):
            ended = subprocess.run(
                [sys.executable, *words, "vbcast", "--config", str(config)],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            self.assertEqual(ended.returncode, 1, ended.stdout + ended.stderr)
            answers.append(ended.stdout + ended.stderr)
            self.assertNotIn("Traceback", answers[-1])
        return answers

    def test_data_directory_in_use(self) -> None:
        self.start_watched()
        node = self.cluster[2]
        with self.load(2, 3, per_s=100) as clients:
            clients.wait_committed(20)
            for said in self.run_second(node.config):
                self.assertIn(
                    f"vbcast: data_dir {node.data_dir} is in use by process {node.pid}; stop that process", said
                )
            clients.wait_committed(20)
        self.assert_all_committed(clients)
        self.check_unnoticed()

    def test_port_in_use(self) -> None:
        self.start_watched()
        node = self.cluster[2]
        listen = load(node.config).listen
        text = node.config.read_text().replace(f"data_dir: {node.data_dir.name}", "data_dir: another")
        second = node.config.with_name("second.yaml")
        with self.load(2, 3, per_s=100) as clients:
            clients.wait_committed(20)
            second.write_text(text)
            for said in self.run_second(second):
                self.assertIn(f"listen.peer: cannot listen at {listen.peer} (TCP): the port is in use; stop", said)
            text = text.replace(str(listen.peer), f"127.0.0.1:{free_port()}")
            second.write_text(text)
            for said in self.run_second(second):
                self.assertIn(f"listen.client: cannot listen at {listen.client}: ", said)
                self.assertIn("stop the program that has the port", said)
            second.write_text(text.replace(str(listen.client), f"127.0.0.1:{free_port()}"))
            for said in self.run_second(second):
                self.assertIn(f"listen.http: cannot listen at {listen.http}: ", said)
                self.assertIn("stop the program that has the port", said)
            clients.wait_committed(20)
        self.assert_all_committed(clients)
        self.check_unnoticed()
