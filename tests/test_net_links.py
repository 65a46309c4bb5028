"""Links, over real sockets of this machine; and what only a transport made by hand can show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import attrs
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.portforward import ProxyFactory
from twisted.python.failure import Failure
from twisted.trial import unittest

from tests.net_samples import LOOPBACK, NetCase, Notes, config, hello, members, no_ipv6, reactor, stored
from txvbcast.config import Address, MemberConfig
from txvbcast.errors import ConfigError, LocalProtocolError
from txvbcast.net import dialler, link, links
from txvbcast.net.link import Link
from txvbcast.net.links import Links
from txvbcast.net.network import Network
from txvbcast.wire.codec import encode_frame
from txvbcast.wire.messages import Flight, FlightId, HelloRefused, Message, Mode, Propose, Read

Listed = tuple[MemberConfig, ...]
PAIR = tuple(MemberConfig(n, f"n{n}", Address(LOOPBACK, 1000 + n)) for n in (1, 2, 3))


def reads(first: int, count: int) -> list[Message]:
    """Small messages that can be told apart."""
    return [Read(nonce=nonce) for nonce in range(first, first + count)]


def propose(number: int, size: int) -> Message:
    """A message of at least ``size`` bytes."""
    flight = FlightId(origin=1, incarnation=1, number=number + 1)
    return Propose(flight=Flight(id=flight, mode=Mode.BROADCAST, born=0, oldest=1, items=(bytes(size),)))


class Together(NetCase):
    """Whole networks with each other."""

    async def test_everyone_is_linked_with_everyone_once(self) -> None:
        listed = members(3)
        nodes = {n: await self.network(config(n, listed), incarnation=10 + n) for n in (1, 2, 3)}
        await self.until(lambda: all(len(notes.said) == 2 for _, notes in nodes.values()))
        for n, (network, notes) in nodes.items():
            others = [m for m in (1, 2, 3) if m != n]
            self.assertEqual(sorted(notes.said), [("up", m, 10 + m, f"disk{m}") for m in others])
            self.assertEqual(network.links(), dict.fromkeys(others, True))
            self.assertEqual(len(network._links._open), 2)
        self.assertEqual([len(nodes[n][0]._links._diallers) for n in (1, 2, 3)], [0, 1, 2])

    async def test_where_clients_reach_the_others(self) -> None:
        """Each says so in its Hello; a wildcard is the host that was seen; it is known when the node is gone, too."""
        listed = members(3)
        clients = {1: Address("0.0.0.0", 8411), 2: Address("two.example", 8421), 3: Address("::", 8431)}
        networks = {}
        for n, client in clients.items():
            made = config(n, listed)
            made = attrs.evolve(made, listen=attrs.evolve(made.listen, client=client))
            networks[n], _ = await self.network(made)
        everyone = {1: "127.0.0.1:8411", 2: "two.example:8421", 3: "127.0.0.1:8431"}
        others = {n: {m: where for m, where in everyone.items() if m != n} for n in everyone}
        await self.until(lambda: {n: network.client_addresses() for n, network in networks.items()} == others)
        await networks[2].stop()
        await self.until(lambda: not networks[1].links()[2])
        self.assertEqual(networks[1].client_addresses(), others[1])

    async def test_messages_arrive_in_order_both_ways(self) -> None:
        listed = members(2)
        first, first_notes = await self.network(config(1, listed))
        second, second_notes = await self.network(config(2, listed))
        await self.until(lambda: bool(first_notes.said and second_notes.said))
        for message in reads(0, 1000):
            first.send(2, message)
            second.send(1, message)
        await self.until(lambda: len(first_notes.got) == len(second_notes.got) == 1000)
        self.assertEqual(second_notes.got, [(1, message) for message in reads(0, 1000)])
        self.assertEqual(first_notes.got, [(2, message) for message in reads(0, 1000)])

    async def test_many_megabytes_arrive_in_order(self) -> None:
        """Far more than a socket takes at once, so that the transport fills up and empties many times."""
        listed = members(2)
        first, first_notes = await self.network(config(1, listed))
        _, second_notes = await self.network(config(2, listed))
        await self.until(lambda: bool(first_notes.said and second_notes.said))
        long = [propose(n, 300_000) for n in range(60)]
        for message in long:
            first.send(2, message)
        await self.until(lambda: len(second_notes.got) == 60)
        self.assertEqual(second_notes.got, [(1, message) for message in long])
        self.assertEqual(first_notes.downs(2), [])

    async def test_what_was_sent_before_the_stop_arrives(self) -> None:
        """Although the peer keeps sending, which would reset a connection that is closed outright."""
        listed = members(2)
        first, first_notes = await self.network(config(1, listed))
        second, second_notes = await self.network(config(2, listed))
        await self.until(lambda: bool(first_notes.said and second_notes.said))
        for message in reads(0, 100):
            second.send(1, message)
            first.send(2, propose(0, 30_000))
        first.send(2, Read(nonce=7))
        await first.stop()
        await self.until(lambda: bool(second_notes.downs(1)))
        self.assertEqual(len(second_notes.got), 101)
        self.assertEqual(second_notes.got[-1], (1, Read(nonce=7)))
        self.assertEqual(second_notes.downs(1), ["it closed the connection"])
        self.assertEqual(first_notes.downs(2), ["this node stops"])
        first.send(2, Read(nonce=8))
        self.assertEqual(first.links(), {2: False})

    async def test_a_listening_node_that_restarts_is_linked_again(self) -> None:
        await self.restart(1)

    async def test_a_dialling_node_that_restarts_is_linked_again(self) -> None:
        await self.restart(2)

    async def restart(self, restarted: int) -> None:
        listed = members(2)
        nodes = {n: await self.network(config(n, listed)) for n in (1, 2)}
        notes = nodes[3 - restarted][1]
        await self.until(lambda: all(both.said for _, both in nodes.values()))
        await nodes[restarted][0].stop()
        await self.until(lambda: bool(notes.downs(restarted)))
        await self.network(config(restarted, listed), incarnation=2)
        await self.until(lambda: notes.ups(restarted) == 2)
        self.assertEqual([note[0] for note in notes.said], ["up", "down", "up"])
        self.assertEqual([note[2] for note in notes.said][::2], [1, 2])

    async def test_a_send_without_a_link_is_dropped(self) -> None:
        network, _ = await self.network(config(1, members(2)))
        network.send(2, Read(nonce=1))
        self.assertEqual(network.links(), {2: False})
        self.assertFalse(network._links._will_flush)

    async def test_ipv6(self) -> None:
        missing = no_ipv6()
        if missing is not None:
            raise unittest.SkipTest(missing)
        await self.pair_at("::1", "::1")

    async def test_host_names(self) -> None:
        await self.pair_at("localhost", LOOPBACK)

    async def test_a_name_that_listens_is_dialled_at_an_address(self) -> None:
        listed = members(2)
        nodes = [
            await self.network(config(n, listed, attrs.evolve(listed[n - 1].peer, host="localhost"))) for n in (1, 2)
        ]
        await self.until(lambda: all(notes.said for _, notes in nodes))

    async def pair_at(self, host: str, free_at: str) -> None:
        """Two nodes that listen at ``host`` and are dialled there."""
        listed = tuple(attrs.evolve(m, peer=Address(host, m.peer.port)) for m in members(2, free_at))
        nodes = [await self.network(config(n, listed)) for n in (1, 2)]
        await self.until(lambda: all(notes.said for _, notes in nodes))
        self.assertEqual([notes.said[0][:2] for _, notes in nodes], [("up", 2), ("up", 1)])

    async def test_another_cluster_is_refused_on_both_sides(self) -> None:
        listed = members(2)
        _, first = await self.network(config(1, listed))
        _, second = await self.network(config(2, listed, cluster_id="decaf"))
        await self.until(lambda: self.log_has("node 1", "cluster id differs") and self.log_has("a peer at", "decaf"))
        self.assertEqual(first.said + second.said, [])

    async def test_another_member_list_is_refused_on_both_sides_naming_the_entry(self) -> None:
        listed = members(3)
        others = (*listed[:2], attrs.evolve(listed[2], name="other"))
        _, first = await self.network(config(1, listed))
        _, second = await self.network(config(2, others))
        wanted = "member 3 is named"
        await self.until(lambda: self.log_has("link with node 1", wanted) and self.log_has("link with a peer", wanted))
        self.assertEqual(first.said + second.said, [])

    async def test_a_peer_address_that_leads_to_another_node_hurts_no_link(self) -> None:
        """Node 3 reaches node 2 where it dials node 1."""
        listed = members(3)
        proxy = reactor.listenTCP(listed[0].peer.port, ProxyFactory(LOOPBACK, listed[1].peer.port), interface=LOOPBACK)
        self.addCleanup(proxy.stopListening)
        _, second = await self.network(config(2, listed))
        _, third = await self.network(config(3, listed))
        await self.until(lambda: self.log_has("node 3 dialled", "of node 1 and reached node 2") and bool(second.of(3)))
        await self.until(lambda: self.log_has("a peer at", "refused the link: node 3 dialled"))
        self.assertEqual(second.of(3), [("up", 3, 1, "disk3")])
        self.assertEqual(third.said, [("up", 2, 1, "disk2")])

    async def test_a_port_in_use_is_named(self) -> None:
        listed = members(1)
        await self.network(config(1, listed))
        with self.assertRaises(ConfigError) as caught:
            await self.network(config(1, listed))
        self.assertIn(f"cannot listen at {listed[0].peer} (TCP): the port is in use; stop", str(caught.exception))

    async def test_a_udp_port_in_use_is_named_and_leaves_no_tcp_port_open(self) -> None:
        listed = members(1)
        port = reactor.listenUDP(listed[0].peer.port, DatagramProtocol(), interface=LOOPBACK)
        with self.assertRaises(ConfigError) as caught:
            await self.network(config(1, listed))
        self.assertIn(f"{listed[0].peer} (UDP): the port is in use", str(caught.exception))
        await port.stopListening()
        await self.network(config(1, listed))


class ByHandCase(NetCase):
    """One node, and peers made by hand."""

    async def node(self, count: int = 2, **more: Any) -> tuple[Network, Notes, Address, Listed]:
        """Node 1 of so many members, its notes, where it listens, and the members."""
        listed = members(count)
        network, notes = await self.network(config(1, listed), **more)
        return network, notes, listed[0].peer, listed

    async def assert_refused(
        self, said: Callable[[Listed], bytes], reason: str, whom: str = f"a peer at {LOOPBACK}"
    ) -> None:
        """A connection that says this hears why it is closed, and another peer's link does not suffer."""
        _, notes, address, listed = await self.node(3)
        good = await self.linked(address, hello(3, listed))
        bad = await self.dial(address)
        bad.tcp.write(said(listed))
        await self.until(lambda: len(bad.got) == 2)
        refusal = bad.got[1]
        assert isinstance(refusal, HelloRefused)
        self.assertIn(reason, refusal.reason)
        bad.tcp.loseConnection()
        await self.until(lambda: bad.lost)
        self.assertTrue(self.log_has(whom, reason), self.logged)
        good.say(Read(nonce=1))
        await self.until(lambda: notes.got == [(3, Read(nonce=1))])
        self.assertEqual(notes.of(3), [("up", 3, 1, "disk3")])
        self.assertEqual([note[0] for note in notes.of(2)], ["up", "down"] if whom == "node 2" else [])

    async def test_hello_of_both_sides_comes_first(self) -> None:
        _, notes, address, listed = await self.node()
        peer = await self.dial(address)
        await self.until(lambda: bool(peer.got))
        self.assertEqual(peer.got, [hello(1, listed)])
        self.assertEqual(notes.said, [])
        peer.say(hello(2, listed, incarnation=4), Read(nonce=1))
        await self.until(lambda: bool(notes.got))
        self.assertEqual(notes.said, [("up", 2, 4, "disk2")])
        self.assertEqual(notes.got, [(2, Read(nonce=1))])

    async def test_the_dialling_side_waits_for_the_other_hello(self) -> None:
        listed = members(2)
        accepted = self.accept(listed[0].peer)
        _, notes = await self.network(config(2, listed))
        await self.until(lambda: bool(accepted))
        accepted[0].say(hello(1, listed), Read(nonce=1))
        await self.until(lambda: bool(notes.got and accepted[0].got))
        self.assertEqual(accepted[0].got, [hello(2, listed)])
        self.assertEqual(notes.said, [("up", 1, 1, "disk1")])

    async def test_a_peer_without_hello_is_given_up(self) -> None:
        listed = members(3)
        accepted = self.accept(listed[0].peer)
        _, notes = await self.network(config(2, listed), hello_timeout_s=0.02)
        silent = await self.dial(listed[1].peer)
        await self.until(lambda: silent.lost and len(accepted) >= 2 and accepted[0].lost)
        wanted = "it did not say Hello within 0.02 s"
        await self.until(lambda: self.log_has("node 1", wanted) and self.log_has(f"a peer at {LOOPBACK}", wanted))
        self.assertEqual(notes.said, [])

    async def test_a_link_outlives_the_time_for_hello(self) -> None:
        _, notes, address, listed = await self.node(hello_timeout_s=0.2)
        peer = await self.linked(address, hello(2, listed))
        silent = await self.dial(address)
        await self.until(lambda: silent.lost)
        peer.say(Read(nonce=1))
        await self.until(lambda: bool(notes.got))
        self.assertEqual(notes.said, [("up", 2, 1, "disk2")])

    async def test_a_refusing_peer_is_heard_and_tried_again(self) -> None:
        listed = members(2)
        accepted = self.accept(listed[0].peer)
        _, notes = await self.network(config(2, listed))
        for attempt in range(3):
            await self.until(lambda wanted=attempt: len(accepted) > wanted)  # type: ignore[misc]
            accepted[attempt].say(HelloRefused(reason="not\ntoday"))
            accepted[attempt].tcp.loseConnection()
        wanted = "no link with node 1: it refused the link: not?today"
        await self.until(lambda: wanted in self.logged and len(accepted) == 4)
        self.assertEqual(self.logged.count(wanted), 1)
        self.assertEqual(notes.said, [])

    async def test_an_unreachable_peer_is_told_of_once_and_tried_again(self) -> None:
        listed = members(2)
        network, _ = await self.network(config(2, listed))
        await self.until(lambda: network._links._diallers[1]._failures >= 3)
        (line,) = self.logged
        self.assertIn(f"no link with node 1: it cannot be reached at {listed[0].peer}: ", line)
        accepted = self.accept(listed[0].peer)
        await self.until(lambda: bool(accepted))

    async def test_another_cluster_is_refused(self) -> None:
        await self.assert_refused(
            lambda listed: encode_frame(hello(2, listed, cluster_id="decaf")),
            "the cluster id differs: 'c0ffee' at node 1, 'decaf' at node 2",
        )

    async def test_another_member_list_is_refused(self) -> None:
        await self.assert_refused(
            lambda listed: encode_frame(hello(2, (*listed[:2], attrs.evolve(listed[2], name="x")))),
            "member 3 is named 'n3' at node 1 but 'x' at node 2",
        )

    async def test_a_node_with_the_same_id_is_refused(self) -> None:
        await self.assert_refused(lambda listed: encode_frame(hello(1, listed)), "both sides say that they are node 1")

    async def test_a_message_before_hello_is_refused(self) -> None:
        await self.assert_refused(lambda _: encode_frame(Read(nonce=1)), "Read came before Hello")

    async def test_garbage_before_hello_is_refused(self) -> None:
        await self.assert_refused(lambda _: b"GET / HTTP/1.1\r\n\r\n", "a frame has a body of")

    async def test_garbage_after_hello_is_refused(self) -> None:
        await self.assert_refused(
            lambda listed: encode_frame(hello(2, listed)) + b"GET / HTTP/1.1\r\n\r\n", "a frame has a body of", "node 2"
        )

    async def test_a_second_hello_is_refused(self) -> None:
        await self.assert_refused(lambda listed: 2 * encode_frame(hello(2, listed)), "a second Hello", "node 2")

    async def test_a_peer_that_ends_the_link_says_why(self) -> None:
        _, notes, address, listed = await self.node()
        peer = await self.linked(address, hello(2, listed), HelloRefused(reason="enough"))
        await self.until(lambda: bool(notes.downs(2)))
        self.assertEqual(notes.downs(2), ["it refused the link: enough"])
        peer.tcp.loseConnection()
        await self.until(lambda: peer.lost)
        self.assertEqual(len(notes.said), 2)

    async def test_half_a_frame_and_the_end(self) -> None:
        _, notes, address, listed = await self.node()
        peer = await self.linked(address, hello(2, listed), Read(nonce=1))
        peer.tcp.write(encode_frame(Read(nonce=2))[:-1])
        peer.tcp.loseConnection()
        await self.until(lambda: bool(notes.downs(2)))
        self.assertEqual(notes.got, [(2, Read(nonce=1))])
        self.assertEqual(notes.downs(2), ["it closed the connection"])

    async def test_a_reset_connection(self) -> None:
        _, notes, address, listed = await self.node()
        peer = await self.linked(address, hello(2, listed))
        await self.until(lambda: bool(notes.ups(2)))
        peer.tcp.abortConnection()
        await self.until(lambda: bool(notes.downs(2)))
        self.assertIn("lost", notes.downs(2)[0])

    async def test_a_newer_connection_takes_the_place_of_the_older(self) -> None:
        network, notes, address, listed = await self.node()
        older = await self.linked(address, hello(2, listed))
        await self.until(lambda: notes.ups(2) == 1)
        newer = await self.linked(address, hello(2, listed, incarnation=2))
        await self.until(lambda: older.lost and notes.ups(2) == 2)
        reason = "a newer connection of node 2 takes its place"
        self.assertEqual(notes.said, [("up", 2, 1, "disk2"), ("down", 2, reason), ("up", 2, 2, "disk2")])
        network.send(2, Read(nonce=1))
        await self.until(lambda: newer.got[1:] == [Read(nonce=1)])
        self.assertEqual(network.links(), {2: True})

    async def test_a_peer_that_does_not_read_is_dropped_at_the_bound(self) -> None:
        network, notes, address, listed = await self.node(link_bytes_max=2_000_000)
        peer = await self.linked(address, hello(2, listed))
        await self.until(lambda: notes.ups(2) == 1)
        peer.tcp.pauseProducing()
        sent = 0
        while not notes.downs(2):
            network.send(2, propose(sent, 100_000))
            sent += 1
            self.assertLess(sent, 1000, "far more was taken than the bound and what the kernel buffers")
            await self.turn()
        self.assertIn("bytes wait to be read by it, more than the 2000000 that may", notes.downs(2)[0])
        self.assertGreaterEqual(sent, 20)

    async def test_what_the_receiver_raises_ends_the_link(self) -> None:
        _, notes, address, listed = await self.node()
        peer = await self.linked(address, hello(2, listed))
        await self.until(lambda: notes.ups(2) == 1)
        with mock.patch.object(notes, "received", side_effect=ZeroDivisionError("the driver's")):
            peer.say(Read(nonce=1), Read(nonce=2))
            await self.until(lambda: bool(notes.downs(2)) and peer.lost)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(notes.downs(2), ["the driver's"])
        self.assertEqual(notes.got, [])


class FakeTransport(StringTransport):
    """Keeps every write by itself, and never fills up unless the test says so."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.writes: list[bytes] = []
        self.options: list[tuple[str, bool]] = []
        self.ended = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.options.append(("nodelay", enabled))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.options.append(("keepalive", enabled))

    def loseWriteConnection(self) -> None:
        self.ended = True


class InMemory(unittest.TestCase):
    """Node 1 of three on a transport and a clock made by hand."""

    def setUp(self) -> None:
        self.clock: Any = MemoryReactorClock()
        self.notes = Notes(lambda: None)
        self.linked: list[tuple[int, str]] = []
        self.links = Links(
            config(1, PAIR), stored(1), self.clock, lambda *up: self.linked.append(up), link_bytes_max=3_000_000
        )
        self.links.listen(LOOPBACK, 1001)
        self.links.start(self.notes)

    def connect(self) -> tuple[Link, FakeTransport]:
        """An accepted connection."""
        accepted = self.clock.tcpServers[0][1].buildProtocol(None)
        transport = FakeTransport()
        accepted.makeConnection(transport)
        return accepted, transport

    def up(self, peer: int) -> tuple[Link, FakeTransport]:
        """A link, with nothing written on it yet but Hello."""
        accepted, transport = self.connect()
        accepted.dataReceived(encode_frame(hello(peer, PAIR)))
        transport.writes.clear()
        return accepted, transport

    def lose(self, lost: Link, error: Exception | None = None) -> None:
        """Its connection is gone."""
        lost.connectionLost(Failure(error or ConnectionDone()))

    def test_options_and_who_is_told(self) -> None:
        _, transport = self.up(2)
        self.assertEqual(transport.options, [("nodelay", True), ("keepalive", True)])
        self.assertEqual(self.linked, [(2, "192.168.1.1")])

    def test_byte_by_byte(self) -> None:
        accepted, _ = self.connect()
        for byte in encode_frame(hello(2, PAIR)) + b"".join(map(encode_frame, reads(0, 3))):
            accepted.dataReceived(bytes((byte,)))
        self.assertEqual(self.notes.said, [("up", 2, 1, "disk2")])
        self.assertEqual(self.notes.got, [(2, message) for message in reads(0, 3)])

    def test_one_write_per_peer_and_turn(self) -> None:
        transports = {peer: self.up(peer)[1] for peer in (2, 3)}
        for turn in range(3):
            messages = reads(turn, 10)
            for message in messages:
                self.links.send(2, message)
                self.links.send(3, message)
            self.assertEqual([len(transports[peer].writes) for peer in (2, 3)], [turn, turn])
            self.clock.advance(0)
            for peer in (2, 3):
                self.assertEqual(transports[peer].writes[turn:], [b"".join(map(encode_frame, messages))])
        self.clock.advance(60)
        self.assertEqual(len(transports[2].writes), 3)

    def test_a_message_to_several_peers_is_encoded_once(self) -> None:
        transports = [self.up(peer)[1] for peer in (2, 3)]
        with mock.patch.object(links, "encode_frame", wraps=encode_frame) as encoding:
            for message in reads(0, 2):
                for peer in (2, 3):
                    self.links.send(peer, message)
        self.assertEqual(encoding.call_count, 2)
        self.clock.advance(0)
        self.assertEqual(transports[0].writes, transports[1].writes)

    def test_too_long_a_message_is_the_senders_error(self) -> None:
        self.up(2)
        with self.assertRaises(LocalProtocolError):
            self.links.send(2, propose(0, 33 * 1024 * 1024))

    def test_a_full_transport_gets_the_rest_when_it_is_empty(self) -> None:
        link_, transport = self.up(2)
        frames = [encode_frame(propose(number, 400_000)) for number in range(6)]
        with mock.patch.object(transport, "write", side_effect=self.filling(link_, transport)):
            for number in range(6):
                self.links.send(2, propose(number, 400_000))
            self.clock.advance(0)
            self.assertEqual([len(data) for data in transport.writes], [len(frames[0] + frames[1])])
            self.links.send(2, Read(nonce=1))
            self.clock.advance(0)
            self.assertEqual(len(transport.writes), 1)
            link_.resumeProducing()
            link_.resumeProducing()
        batches = [frames[:2], frames[2:4], [*frames[4:], encode_frame(Read(nonce=1))]]
        self.assertTrue(transport.writes == [b"".join(batch) for batch in batches])
        link_.resumeProducing()
        self.assertEqual(len(transport.writes), 3)

    def filling(self, link_: Link, transport: FakeTransport) -> Callable[[bytes], None]:
        """A write that fills the transport."""

        def write(data: bytes) -> None:
            transport.writes.append(data)
            link_.pauseProducing()

        return write

    def test_the_bound_counts_what_waits_and_not_what_has_left(self) -> None:
        link_, transport = self.up(2)
        with mock.patch.object(transport, "write", side_effect=self.filling(link_, transport)):
            for number in range(50):
                self.links.send(2, propose(number, 900_000))
                self.clock.advance(0)
                link_.resumeProducing()
            self.assertEqual(self.notes.downs(2), [])
            for number in range(4):
                self.assertFalse(transport.disconnecting, number)
                self.links.send(2, propose(number, 900_000))
                self.clock.advance(0)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.notes.downs(2), [], "the driver is told in a later turn, it may be in the middle of one")
        self.links.send(2, Read(nonce=1))
        self.lose(link_)
        self.clock.advance(0)
        self.assertEqual(len(self.notes.downs(2)), 1)
        self.assertEqual(len(transport.writes), 51)

    def test_the_bound_holds_within_one_turn(self) -> None:
        _, transport = self.up(2)
        for number in range(4):
            self.assertFalse(transport.disconnecting, number)
            self.links.send(2, propose(number, 900_000))
        self.assertTrue(transport.disconnecting)

    def test_nothing_is_believed_after_a_refusal(self) -> None:
        link_, transport = self.up(2)
        link_.dataReceived(b"\xff" * 100 + encode_frame(Read(nonce=1)))
        link_.dataReceived(encode_frame(Read(nonce=2)))
        self.assertEqual(self.notes.got, [])
        self.assertTrue(transport.ended)
        self.links.send(2, Read(nonce=1))
        self.clock.advance(0)
        self.assertEqual(len(transport.writes), 1)

    def test_messages_before_a_malformed_frame_are_delivered(self) -> None:
        link_, _ = self.up(2)
        link_.dataReceived(encode_frame(Read(nonce=1)) + b"\xff" * 100)
        self.assertEqual(self.notes.got, [(2, Read(nonce=1))])
        self.assertEqual(len(self.notes.downs(2)), 1)

    def test_a_link_that_ends_among_its_messages_delivers_no_more(self) -> None:
        link_, _ = self.up(2)
        frames = b"".join(map(encode_frame, reads(0, 3)))
        with mock.patch.object(self.notes, "received", side_effect=lambda *_: link_.abort("enough")) as received:
            link_.dataReceived(frames)
        self.assertEqual(received.call_count, 1)

    def test_a_peer_that_keeps_its_side_open_is_aborted(self) -> None:
        link_, transport = self.up(2)
        link_.close("a reason")
        self.clock.advance(link.CLOSE_TIMEOUT_S - 0.01)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(0.01)
        self.assertTrue(transport.disconnecting)

    def test_down_comes_once(self) -> None:
        link_, _ = self.up(2)
        link_.dataReceived(b"\xff" * 100)
        self.lose(link_)
        self.assertEqual([note[0] for note in self.notes.said], ["up", "down"])

    def test_a_lower_id_may_not_dial(self) -> None:
        self.assertEqual(
            Links(config(2, PAIR), stored(2), self.clock, lambda *_: None).objection(hello(1, PAIR), None),
            "node 1 dialled node 2: of two members the one with the higher id dials",
        )

    def test_too_many_connections_without_hello(self) -> None:
        self.patch(links, "STRANGERS_MAX", 2)
        self.up(2)
        strangers = [self.connect()[1] for _ in range(4)]
        self.assertEqual([transport.disconnecting for transport in strangers], [True, True, False, False])

    def test_strangers_that_left_do_not_count(self) -> None:
        self.patch(links, "STRANGERS_MAX", 2)
        for _ in range(4):
            self.lose(self.connect()[0])
        (first, _), (_, transport) = self.connect(), self.connect()
        first.dataReceived(b"\xff" * 100)
        self.connect()
        self.assertFalse(transport.disconnecting)

    def test_the_memory_of_troubles_is_bounded(self) -> None:
        for number in range(3 * links.TROUBLES_MAX):
            self.links._trouble("node 2", f"reason {number}")
        self.assertLessEqual(len(self.links._troubles), links.TROUBLES_MAX)

    def test_a_trouble_is_news_again_after_the_link_was_up(self) -> None:
        self.links._trouble("node 2", "a reason")
        self.links._trouble("node 3", "a reason")
        self.up(2)
        self.assertEqual(list(self.links._troubles), [("node 3", "a reason")])

    def test_stop_may_be_called_again_and_accepts_nobody(self) -> None:
        link_, _ = self.up(2)
        done = [self.links.stop(), self.links.stop()]
        self.assertIsNone(self.clock.tcpServers[0][1].buildProtocol(None))
        self.assertNoResult(done[0])
        self.lose(link_)
        for stopped in done:
            self.successResultOf(stopped)
        self.assertEqual(self.notes.downs(2), ["this node stops"])

    def test_nothing_is_believed_after_the_stop(self) -> None:
        link_, _ = self.up(2)
        self.links.stop()
        link_.dataReceived(encode_frame(Read(nonce=1)))
        self.assertEqual(self.notes.got, [])

    def test_stop_writes_what_waits(self) -> None:
        _, transport = self.up(2)
        self.links.send(2, Read(nonce=1))
        self.links.stop()
        self.assertEqual(transport.writes, [encode_frame(Read(nonce=1))])
        self.clock.advance(0)
        self.assertEqual(len(transport.writes), 1)


class Dialling(unittest.TestCase):
    """Node 2, whose attempts to reach node 1 are answered by hand."""

    def setUp(self) -> None:
        self.clock: Any = MemoryReactorClock()
        self.notes = Notes(lambda: None)
        self.links = Links(config(2, PAIR), stored(2), self.clock, lambda *_: None, chance=lambda: 0.0)
        self.links.start(self.notes)

    def refuse(self) -> None:
        """The attempt that is under way does not succeed."""
        self.clock.tcpClients[-1][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def connect(self) -> Any:
        """It does; the side of Twisted."""
        connection = self.clock.tcpClients[-1][2].buildProtocol(None)
        connection.makeConnection(FakeTransport())
        return connection

    def pause_s(self) -> float:
        """How long it takes until the next attempt, which then begins."""
        (pause,) = self.clock.getDelayedCalls()
        pause_s = float(pause.getTime() - self.clock.seconds())
        attempts = len(self.clock.tcpClients)
        self.clock.advance(pause_s + 1e-6)
        self.assertEqual(len(self.clock.tcpClients), attempts + 1)
        return round(pause_s, 3)

    def test_delays(self) -> None:
        self.assertEqual([dialler.retry_delay_s(n, 0.0) for n in (0, 1, 2, 10)], [0.05, 0.1, 0.2, 1.0])
        self.assertAlmostEqual(dialler.retry_delay_s(0, 1.0), 0.035)
        self.assertAlmostEqual(dialler.retry_delay_s(10**9, 1.0), 0.7)

    def test_where_it_dials(self) -> None:
        self.assertEqual(self.clock.tcpClients[0][:2], (LOOPBACK, 1001))
        self.assertEqual(self.clock.tcpClients[0][3], dialler.CONNECT_TIMEOUT_S)

    def test_failures_make_the_pauses_longer(self) -> None:
        pauses_s = []
        for _ in range(7):
            self.refuse()
            pauses_s.append(self.pause_s())
        self.assertEqual(pauses_s, [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])

    def test_the_time_of_an_attempt_counts(self) -> None:
        for _ in range(6):
            self.refuse()
            self.pause_s()
        self.clock.advance(0.75)
        self.refuse()
        self.assertEqual(self.pause_s(), 0.25)
        self.clock.advance(20)
        self.refuse()
        self.assertEqual(self.pause_s(), 0.0)

    def test_refused_links_are_tried_ever_more_rarely(self) -> None:
        pauses_s = []
        for _ in range(4):
            connection = self.connect()
            connection.dataReceived(encode_frame(HelloRefused(reason="no")))
            connection.connectionLost(Failure(ConnectionDone()))
            pauses_s.append(self.pause_s())
        self.assertEqual(pauses_s, [0.05, 0.1, 0.2, 0.4])

    def test_a_link_that_was_up_begins_anew(self) -> None:
        for up_s, pause_s in ((0.5, 0.3), (1.0, 0.05), (100.0, 0.05)):
            for _ in range(4):
                self.refuse()
                self.pause_s()
            connection = self.connect()
            connection.dataReceived(encode_frame(hello(1, PAIR)))
            self.clock.advance(up_s)
            connection.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(self.pause_s(), pause_s)
        self.assertEqual(self.notes.ups(1), 3)

    def test_the_member_is_dialled_again_whatever_the_receiver_raises(self) -> None:
        connection = self.connect()
        connection.dataReceived(encode_frame(hello(1, PAIR)))
        with mock.patch.object(self.notes, "peer_down", side_effect=ZeroDivisionError):
            self.assertRaises(ZeroDivisionError, connection.connectionLost, Failure(ConnectionDone()))
        self.assertEqual(self.pause_s(), 0.05)

    def test_another_node_is_refused_naming_both(self) -> None:
        connection = self.connect()
        connection.dataReceived(encode_frame(hello(3, PAIR)))
        self.assertEqual(self.notes.said, [])
        reason = self.links.objection(hello(3, PAIR), 1)
        self.assertEqual(connection.transport.writes, [encode_frame(HelloRefused(reason=str(reason)))])
        self.assertIn("node 2 dialled the peer address of node 1 and reached node 3", str(reason))

    def test_stop_in_a_pause(self) -> None:
        self.refuse()
        self.successResultOf(self.links.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_in_an_attempt(self) -> None:
        self.successResultOf(self.links.stop())
        self.assertTrue(self.clock.connectors[0].stoppedConnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_of_a_link(self) -> None:
        connection = self.connect()
        stopped = self.links.stop()
        connection.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(stopped)
        self.clock.advance(60)
        self.assertEqual(len(self.clock.tcpClients), 1)
