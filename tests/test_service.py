"""Nodes embedded in a program: three of them in this process, over real sockets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial import unittest
from zope.interface import implementer

from tests.test_client_port import Client
from txvbcast import Aborted, IObserver, IResourceManager, Refused, Service, Tx, Unsafe
from txvbcast.cli.init import write_cluster
from txvbcast.cli.local import free_base_port
from txvbcast.config import Config
from txvbcast.configfile import load
from txvbcast.errors import ConfigError
from txvbcast.wire.client_messages import (
    ClientHello,
    Committed,
    Failed,
    GetKeys,
    Leaving,
    NodeLine,
    Submit,
    Values,
    Welcome,
)
from txvbcast.wire.kv import put_payload
from txvbcast.wire.messages import Mode

reactor: Any = default_reactor

LOOK_S = 0.02


@implementer(IResourceManager)
class Register:
    """Remembers the last payload; refuses ``no``."""

    name = "register"
    applied_seq = 0

    def __init__(self) -> None:
        self.held = b""

    def prepare(self, tx: Tx) -> bool | Refused:
        """Vote."""
        return Refused("it says no") if tx.payload == b"no" else True

    def commit(self, tx: Tx) -> bytes:
        """Perform; the result is what was there before."""
        before, self.held = self.held, tx.payload
        return before

    def abort(self, tx: Tx) -> None:
        """Nothing was kept."""

    def snapshot(self) -> bytes:
        """All there is."""
        return self.held

    def restore(self, state: bytes, seq: int) -> None:
        """All there is."""
        self.held = state


@implementer(IObserver)
class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, object]] = []

    def observe(self, event: Mapping[str, object]) -> None:
        """Take note."""
        self.heard.append((event["kind"], event["node_id"]))


class EmbeddedCase(unittest.TestCase):
    """A cluster of services."""

    timeout = 60

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        paths = write_cluster(directory, 3, ["127.0.0.1"], free_base_port(3), "embedded", insecure=True)
        self.configs = [attrs.evolve(load(path), vms=(f"vm{k}",)) for k, path in enumerate(paths, 1)]
        self.registers = [Register() for _ in self.configs]
        self.services: list[Service] = []

    async def start(self) -> None:
        """Start every node, and wait until all are normal."""
        for config, register in zip(self.configs, self.registers, strict=True):
            service = Service(config, [register], on_halt=self.fail)
            self.services.append(service)
            service.startService()
        await gatherResults([service.listening for service in self.services])
        await self.until(self.settled)

    async def tearDown(self) -> None:
        """Stop every node that runs."""
        await gatherResults([service.stopService() for service in self.services if service.running])

    async def until(self, condition: Any) -> None:
        """Wait for a condition; the test's own timeout bounds it."""
        while not condition():
            await deferLater(reactor, LOOK_S)

    def settled(self) -> bool:
        """Whether every node takes every node for normal, under one master."""
        documents: list[Any] = [service.status() for service in self.services]
        standings = [member["standing"] for document in documents for member in document["members"]]
        masters = {document["master"] for document in documents}
        own = {document["state"] for document in documents}
        return set(standings) == {"normal"} and own == {"normal"} and masters == {1}


class Embedded(EmbeddedCase):
    """What a program can do with a node of its own."""

    async def test_submit(self) -> None:
        """Every node performs it; the one that was asked gives the result of its own."""
        await self.start()
        first = await self.services[1].submit("register", b"one")
        self.assertEqual((first.index, first.result), (0, b""))
        second = await self.services[2].submit("register", b"two", mode="3pc")
        self.assertEqual(second.result, b"one")
        self.assertGreater(second.seq, first.seq)
        await self.until(lambda: {register.held for register in self.registers} == {b"two"})
        with self.assertRaises(Aborted) as caught:
            await self.services[0].submit("register", b"no", mode="2pc")
        self.assertEqual(caught.exception.reason, "it says no")
        self.assertRaises(ValueError, self.services[0].submit, "no such manager", b"")
        self.assertRaises(ValueError, self.services[0].submit, "register", b"", mode="4pc")

    async def test_inactive(self) -> None:
        """An absence lasts as long as its block; every node's observers hear of it."""
        await self.start()
        listeners = [Listener() for _ in self.services]
        ends = [service.observe(listener) for service, listener in zip(self.services, listeners, strict=True)]
        async with self.services[2].inactive("snapshot", expected=5.0) as change:
            self.assertTrue(change.confirmed)
            self.assertEqual(self.seen(self.services[0], 3)["kind"], "snapshot")
            await self.services[0].submit("register", b"meanwhile", mode="3pc")
        await self.until(self.settled)
        await self.until(lambda: self.registers[2].held == b"meanwhile")
        for listener in listeners:
            kinds = [kind for kind, node_id in listener.heard if node_id == 3 and str(kind).startswith("node_")]
            self.assertEqual(kinds, ["node_inactive", "node_catching_up", "node_normal"])
        for end in ends:
            end()
        before = [len(listener.heard) for listener in listeners]
        self.services[0].end_change((await self.services[0].begin_change("freeze", 1.0)).change_id)
        await self.until(
            lambda: self.settled() and self.services[0].driver.absences.documents()[-1]["outcome"] == "done"
        )
        self.assertEqual([len(listener.heard) for listener in listeners], before)

    async def test_unsafe(self) -> None:
        """What the cluster cannot afford does not begin."""
        floor = attrs.evolve(self.configs[0].protocol.quorum, planned_floor=3)
        self.configs = [
            attrs.evolve(config, protocol=attrs.evolve(config.protocol, quorum=floor)) for config in self.configs
        ]
        await self.start()
        async with self.services[2].inactive("reboot", expected=30.0):
            with self.assertRaises(Unsafe) as caught:
                async with self.services[1].inactive("reboot", expected=30.0, wait=0.5):
                    self.fail("the block was entered")
        self.assertIn("1 of 3 voters would be left, quorum.planned_floor is 3", str(caught.exception))
        await self.until(self.settled)

    async def test_virtual_machines(self) -> None:
        """Every node shows which virtual machines each node hosts."""
        await self.start()
        for service in self.services:
            self.assertEqual([self.seen(service, k)["vms"] for k in (1, 2, 3)], [["vm1"], ["vm2"], ["vm3"]])

    async def test_stop(self) -> None:
        """A master that stops in order hands over first: nobody has to find out that it is gone."""
        await self.start()
        waiting: Deferred[Any] = self.services[1].submit("register", b"on the way")
        await self.services[0].stopService()
        await waiting
        self.services.pop(0)
        await self.until(lambda: {service.status()["master"] for service in self.services} == {2})
        reasons = [
            event["reason"] for event in self.services[0].driver.events.since(0) if event["kind"] == "mastership"
        ]
        self.assertIn("the master leaves (handover)", reasons)

    async def client(self, node: int) -> Client:
        """A client of that node, greeted."""
        address = self.configs[node - 1].listen.client
        endpoint = TCP4ClientEndpoint(reactor, address.host, address.port)
        client = await endpoint.connect(Factory.forProtocol(lambda: Client(lambda: None)))
        assert isinstance(client, Client)
        self.addCleanup(self.hang_up, client)
        client.say(ClientHello(version_min=1, version_max=1, session="s"))
        await self.until(lambda: bool(client.got))
        return client

    def hang_up(self, client: Client) -> Deferred[None]:
        """End a connection; fires when it is gone."""
        client.tcp.abortConnection()
        return Deferred.fromCoroutine(self.until(lambda: client.lost))

    async def test_clients(self) -> None:
        """They are told where all nodes are, and read on one what they wrote by way of another."""
        await self.start()
        first, second = await self.client(1), await self.client(2)
        everyone = tuple(
            NodeLine(config.node_id, config.node_name, str(config.listen.client)) for config in self.configs
        )
        for client in (first, second):
            (welcome,) = client.of(Welcome)
            self.assertEqual((welcome.nodes, welcome.serving, welcome.outstanding_max), (everyone, True, 2048))
        payloads = tuple(put_payload(f"k{n}", b"%d" % n) for n in range(1000))
        second.say(Submit(1, "kv", Mode.BROADCAST, 5000, 1, 0, payloads))
        await self.until(lambda: sum(len(each.results) for each in second.of(Committed)) == 1000)
        first.say(GetKeys(1, "kv", ("k0", "k999"), True, 5000))
        await self.until(lambda: bool(first.of(Values)))
        self.assertEqual([each.value for each in first.of(Values)[0].values], [b"0", b"999"])

    async def test_stop_with_clients(self) -> None:
        """They hear it first; what they asked before is answered; what they ask then is not."""
        await self.start()
        client = await self.client(1)
        payload = put_payload("k", b"v")
        client.say(Submit(1, "kv", Mode.BROADCAST, 5000, 1, 0, (payload,)))
        await self.until(lambda: self.services[0].status()["pending"] > 0 or bool(client.of(Committed)))
        await self.services[0].stopService()
        self.services.pop(0)
        await self.until(lambda: client.lost)
        self.assertEqual(client.of(Leaving), [Leaving("node 1 stops")])
        answers = [*client.of(Committed), *client.of(Failed)]
        self.assertEqual(len(answers), 1)

    def seen(self, service: Service, node_id: int) -> dict[str, Any]:
        """A member as ``service`` shows it."""
        document: Any = service.status()
        return next(member for member in document["members"] if member["node_id"] == node_id)


class Making(EmbeddedCase):
    """Services that cannot be made."""

    def test_name_taken(self) -> None:
        """Two managers of one name are one too many."""
        other = Register()
        other.name = "kv"
        self.assertRaises(ConfigError, Service, self.configs[0], [other])

    def test_not_started(self) -> None:
        """Before it is started there is no node to ask."""
        service = Service.from_config(self.configs[0])
        self.assertIsInstance(service.config, Config)
        self.assertRaises(RuntimeError, service.status)
