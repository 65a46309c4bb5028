"""Datagrams, over real sockets of this machine, and the look-up of names."""

from __future__ import annotations

import errno
import socket
from typing import Any
from unittest import mock

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial import unittest

from tests.net_samples import CLUSTER, LOOPBACK, NetCase, Notes, config, members, no_ipv6, stored
from txvbcast.config import Address, MemberConfig
from txvbcast.errors import ConfigError, LocalProtocolError
from txvbcast.net import datagrams
from txvbcast.net.datagrams import Datagrams, Tally
from txvbcast.net.names import resolve
from txvbcast.net.network import Network
from txvbcast.wire.datagram import encode_datagram
from txvbcast.wire.messages import Inactive, Message, Read

Listed = tuple[MemberConfig, ...]


def announcement(change_id: int, kind: str = "freeze") -> Message:
    """A message that may travel as a datagram."""
    return Inactive(
        member=2, incarnation=1, change_id=change_id, revision=0, kind=kind, expected_ms=4000, epoch=0, stored=0
    )


class Sending(NetCase):
    """Networks that send datagrams to each other, and strangers."""

    async def pair(self, host: str = LOOPBACK, free_at: str = LOOPBACK) -> tuple[list[Network], list[Notes], Listed]:
        """Nodes 1 and 2, and the member list."""
        listed = tuple(attrs.evolve(m, peer=Address(host, m.peer.port)) for m in members(2, free_at))
        nodes = [await self.network(config(n, listed)) for n in (1, 2)]
        return [network for network, _ in nodes], [notes for _, notes in nodes], listed

    async def assert_exchange(self, host: str, free_at: str) -> None:
        (first, second), notes, _ = await self.pair(host, free_at)
        await self.until(lambda: all(note.said for note in notes))
        while not (first._datagrams._hosts and second._datagrams._hosts):
            await self.turn()
        first.send_datagram(2, announcement(1))
        second.send_datagram(1, announcement(2))
        await self.until(lambda: all(note.got for note in notes))
        self.assertEqual([note.got for note in notes], [[(2, announcement(2))], [(1, announcement(1))]])

    async def test_ipv4(self) -> None:
        await self.assert_exchange(LOOPBACK, LOOPBACK)

    async def test_ipv6(self) -> None:
        missing = no_ipv6()
        if missing is not None:
            raise unittest.SkipTest(missing)
        await self.assert_exchange("::1", "::1")

    async def test_host_names(self) -> None:
        await self.assert_exchange("localhost", LOOPBACK)

    async def test_a_socket_of_every_address_reaches_ipv4(self) -> None:
        missing = no_ipv6()
        if missing is not None:
            raise unittest.SkipTest(missing)
        listed = members(2)
        first, first_notes = await self.network(config(1, listed, Address("::", listed[0].peer.port)))
        second, second_notes = await self.network(config(2, listed))
        first.send_datagram(2, announcement(1))
        second.send_datagram(1, announcement(2))
        await self.until(lambda: bool(first_notes.got and second_notes.got))

    async def test_they_need_no_link(self) -> None:
        listed = members(3)
        first, _ = await self.network(config(1, listed))
        _, notes = await self.network(config(2, listed, cluster_name="another, so that there is none"))
        first.send_datagram(2, announcement(1))
        await self.until(lambda: bool(notes.got))
        self.assertEqual(first.links(), {2: False, 3: False})

    async def test_long_ones_are_whole(self) -> None:
        (first, _), (_, notes), _ = await self.pair()
        long = announcement(1, "x" * 1200)
        first.send_datagram(2, long)
        await self.until(lambda: bool(notes.got))
        self.assertEqual(notes.got, [(1, long)])

    async def test_what_may_not_travel_so_is_the_senders_error(self) -> None:
        (first, _), _, _ = await self.pair()
        self.assertRaises(LocalProtocolError, first.send_datagram, 2, Read(nonce=1))
        self.assertRaises(LocalProtocolError, first.send_datagram, 2, announcement(1, "x" * 2000))

    async def test_dropped_are_all_that_wait_and_no_later_one(self) -> None:
        (first, second), (_, notes), _ = await self.pair()
        # All in one turn of the reactor, which therefore reads nothing in between.
        for number in range(1, 101):
            first.send_datagram(2, announcement(number))
        second.drop_datagrams()
        first.send_datagram(2, announcement(101))
        await self.until(lambda: bool(notes.got))
        self.assertEqual(notes.got, [(1, announcement(101))])

    async def test_strangers_are_dropped(self) -> None:
        (first, second), (notes, _), listed = await self.pair()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for data in (
                b"",
                b"hello",
                encode_datagram(2, CLUSTER, announcement(1))[:-1],
                encode_datagram(2, "decaf", announcement(1)),
                encode_datagram(3, CLUSTER, announcement(1)),
                encode_datagram(1, CLUSTER, announcement(1)),
                bytes(60_000),
            ):
                stranger.sendto(data, (listed[0].peer.host, listed[0].peer.port))
        second.send_datagram(1, announcement(9))
        await self.until(lambda: bool(notes.got))
        self.assertEqual(notes.got, [(2, announcement(9))])
        self.assertEqual(first._datagrams.malformed.count, 7)
        self.assertEqual(sum("a datagram was dropped" in line for line in self.logged), 3)  # the 1st, 2nd and 4th
        with mock.patch.object(first._datagrams.malformed, "note") as noted:
            first._datagrams._on_datagram(encode_datagram(3, CLUSTER, announcement(1)), "10.0.0.9")
            first._datagrams._on_datagram(encode_datagram(1, CLUSTER, announcement(1)), "10.0.0.9")
        self.assertEqual(
            [call.args[0] for call in noted.call_args_list],
            [
                "from 10.0.0.9: it names node 3, which is not a member as its sender",
                "from 10.0.0.9: it names this node itself as its sender",
            ],
        )

    async def test_no_failure_to_send_is_the_callers(self) -> None:
        (first, second), _, _ = await self.pair()
        port = first._datagrams._sockets[0].port
        for number in (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EAGAIN, errno.EMSGSIZE, errno.EPERM):
            with mock.patch.object(port, "socket", mock.Mock(sendto=mock.Mock(side_effect=OSError(number, "no")))):
                first.send_datagram(2, announcement(1))
        # Twisted itself passes over ECONNREFUSED.
        self.assertEqual(first._datagrams.unsent.count, 4)
        self.assertTrue(self.log_has("a datagram could not be sent", f"node 2 at {LOOPBACK}"))
        await second.stop()
        for number in range(10):
            first.send_datagram(2, announcement(number + 1))
            await self.turn()

    async def test_a_stopped_network_sends_nothing(self) -> None:
        (first, _), _, _ = await self.pair()
        await first.stop()
        first.send_datagram(2, announcement(1))
        first.drop_datagrams()
        self.assertEqual(first._datagrams.unsent.count, 0)

    async def test_what_the_receiver_raises_hurts_no_later_datagram(self) -> None:
        (first, second), (notes, _), _ = await self.pair()
        with mock.patch.object(first._datagrams, "_received", side_effect=ZeroDivisionError) as received:
            second.send_datagram(1, announcement(1))
            await self.until(lambda: bool(received.called))
        second.send_datagram(1, announcement(2))
        await self.until(lambda: bool(notes.got))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Counting(unittest.TestCase):
    """What is logged of troubles without end."""

    def test_each_doubling_is_logged(self) -> None:
        tally = Tally("a trouble")
        with mock.patch.object(Tally, "log") as log:
            for _ in range(1000):
                tally.note("why")
        self.assertEqual([call.kwargs["count"] for call in log.warn.call_args_list], [2**n for n in range(10)])

    def test_draining_ends(self) -> None:
        handle = mock.Mock()
        handle.recv.side_effect = [b"x", ConnectionRefusedError(), b"x", BlockingIOError()]
        datagrams._drain(handle)
        self.assertEqual(handle.recv.call_count, 4)
        handle = mock.Mock()
        handle.recv.return_value = b"x"
        datagrams._drain(handle)
        self.assertEqual(handle.recv.call_count, datagrams.DROPPED_MAX)


class Resolver:
    """A resolver that answers when told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._receivers: list[Any] = []

    def resolveHostName(self, receiver: Any, host: str, port: int = 0) -> None:
        self.asked.append(host)
        self._receivers.append(receiver)
        receiver.resolutionBegan(self)

    def answer(self, *hosts: str) -> None:
        """Answer the oldest question."""
        receiver = self._receivers.pop(0)
        for host in hosts:
            kind = IPv6Address if ":" in host else IPv4Address
            receiver.addressResolved(kind("TCP", host, 0))
        receiver.resolutionComplete()


class FakeReactor(MemoryReactorClock):
    """Keeps what listens, for UDP too.

    :ivar bound: ``TCP`` or ``UDP``, the interface and the port of each.
    :ivar errors: the errno with which binding an interface fails.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.resolver = Resolver()
        self.nameResolver: Any = self.resolver
        self.bound: list[tuple[str, str, int]] = []
        self.errors: dict[str, int] = {}

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        return self._bind("TCP", interface, port)

    def listenUDP(self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192) -> Any:
        protocol.makeConnection(self._bind("UDP", interface, port))
        return protocol.transport

    def _bind(self, kind: str, interface: str, port: int) -> Any:
        if interface in self.errors:
            raise CannotListenError(interface, port, OSError(self.errors[interface], "the system's words"))
        self.bound.append((kind, interface, port))
        return mock.Mock(stopListening=lambda: self.bound.remove((kind, interface, port)))


class Names(unittest.TestCase):
    """Node 1, whose peers 2 and 3 have a name and an address; sockets made by hand."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.resolver = self.reactor.resolver
        peers = (Address("10.0.0.1", 1001), Address("two.example", 1002), Address("10.0.0.3", 1003))
        self.listed = tuple(MemberConfig(n, f"n{n}", peer) for n, peer in enumerate(peers, 1))
        self.datagrams = Datagrams(config(1, self.listed), self.reactor)
        self.written: list[tuple[str, str, int]] = []

    def start(self, *hosts: str) -> None:
        """Bind these and start."""
        for host in hosts:
            self.datagrams.listen(host, 1001)
            self.datagrams._sockets[-1].port.write = lambda _, addr, host=host: self.written.append((host, *addr))
        self.datagrams.start(lambda peer, message: None)
        self.addCleanup(self.datagrams.stop)

    def send(self, to: int) -> list[tuple[str, str, int]]:
        """What sending to a peer writes: the socket's address, and the peer's."""
        self.written.clear()
        self.datagrams.send(to, announcement(1))
        return self.written

    def test_addresses_are_known_at_once_and_names_when_resolved(self) -> None:
        self.start("10.0.0.1")
        self.assertEqual(self.send(3), [("10.0.0.1", "10.0.0.3", 1003)])
        self.assertEqual(self.send(2), [])
        self.assertEqual(self.datagrams.unsent.count, 0)
        self.resolver.answer("10.0.0.2")
        self.assertEqual(self.send(2), [("10.0.0.1", "10.0.0.2", 1002)])

    def test_names_are_resolved_again_from_time_to_time_and_with_a_link(self) -> None:
        self.start("10.0.0.1")
        self.reactor.advance(datagrams.RESOLVE_INTERVAL_S)
        self.assertEqual(len(self.resolver.asked), 1, "the first question is still open")
        self.resolver.answer("10.0.0.2")
        self.reactor.advance(datagrams.RESOLVE_INTERVAL_S)
        self.assertEqual(len(self.resolver.asked), 2)
        self.resolver.answer("10.0.0.22")
        self.assertEqual(self.send(2), [("10.0.0.1", "10.0.0.22", 1002)])
        self.datagrams.linked(2, "10.0.0.2")
        self.datagrams.linked(3, "10.0.0.3")
        self.assertEqual(self.resolver.asked, ["two.example"] * 3)
        self.resolver.answer()
        self.assertEqual(self.send(2), [("10.0.0.1", "10.0.0.22", 1002)], "an old answer is better than none")

    def test_the_address_of_the_link_is_preferred(self) -> None:
        self.start("10.0.0.1")
        self.resolver.answer("10.0.0.2", "10.0.0.22", "10.0.0.2")
        self.assertEqual(self.send(2)[0][1], "10.0.0.2")
        self.datagrams.linked(2, "::ffff:10.0.0.22")
        self.assertEqual(self.send(2)[0][1], "10.0.0.22")
        self.datagrams.linked(2, "10.9.9.9")
        self.assertEqual(self.send(2)[0][1], "10.0.0.2", "where it dialled from need not be where it listens")

    def test_a_socket_of_the_right_family_is_taken(self) -> None:
        self.start("fd00::1", "10.0.0.1")
        self.resolver.answer("fd00::2", "10.0.0.2")
        self.assertEqual(self.send(2), [("fd00::1", "fd00::2", 1002)])
        self.datagrams.linked(2, "10.0.0.2")
        self.assertEqual(self.send(2), [("10.0.0.1", "10.0.0.2", 1002)])

    def test_the_socket_of_all_addresses_reaches_both_families(self) -> None:
        self.start("::")
        self.assertEqual(self.send(3), [("::", "::ffff:10.0.0.3", 1003)])
        self.resolver.answer("fd00::2")
        self.assertEqual(self.send(2), [("::", "fd00::2", 1002)])

    def test_no_socket_of_the_right_family(self) -> None:
        self.start("10.0.0.1")
        self.resolver.answer("fd00::2")
        with mock.patch.object(Tally, "log") as log:
            self.assertEqual(self.send(2), [])
        self.assertEqual(log.warn.call_args.kwargs["reason"], "node 2 has no address that this node's sockets reach")

    def test_a_name_without_an_address_is_told_of_once(self) -> None:
        with mock.patch.object(Datagrams, "log") as log:
            self.start("10.0.0.1")
            self.resolver.answer()
            self.reactor.advance(datagrams.RESOLVE_INTERVAL_S)
            self.resolver.answer()
        self.assertEqual(log.warn.call_count, 1)
        self.assertEqual(log.warn.call_args.kwargs["address"], "two.example:1002")

    def test_an_impossible_name_is_not_looked_up(self) -> None:
        for name in (f"{'a' * 64}.example", "a..example"):
            self.assertEqual(self.successResultOf(resolve(self.reactor, name, 1)), ())
        self.assertEqual(self.resolver.asked, [])

    def test_repeats_are_left_out_and_the_order_is_kept(self) -> None:
        found = resolve(self.reactor, "two.example", 1)
        self.resolver.answer("10.0.0.9", "fd00::2", "10.0.0.9", "10.0.0.1")
        self.assertEqual(self.successResultOf(found), ("10.0.0.9", "fd00::2", "10.0.0.1"))


class Listening(unittest.TestCase):
    """Where a network listens, and what is said when it cannot."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.resolver = self.reactor.resolver
        self.errors = self.reactor.errors

    def start(self, host: str) -> tuple[Network, Deferred[None]]:
        """Start a network at this host."""
        listed = (MemberConfig(1, "n1", Address("10.0.0.1", 8410)),)
        network = Network(config(1, listed, Address(host, 8410)), stored(1), self.reactor, Notes(lambda: None))
        self.addCleanup(network.stop)
        return network, network.start()

    def refused(self, started: Deferred[None]) -> str:
        return str(self.failureResultOf(started, ConfigError).value)

    def test_the_first_address_of_each_family(self) -> None:
        _, started = self.start("one.example")
        self.assertNoResult(started)
        self.resolver.answer("fd00::1", "10.0.0.1", "10.0.0.7")
        self.successResultOf(started)
        wanted = [(kind, host, 8410) for kind in ("TCP", "UDP") for host in ("10.0.0.1", "fd00::1")]
        self.assertEqual(sorted(self.reactor.bound), wanted)

    def test_a_family_that_this_machine_lacks_may_be_missing(self) -> None:
        for number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            self.errors["fd00::1"] = number
            network, started = self.start("one.example")
            self.resolver.answer("fd00::1", "10.0.0.1")
            self.successResultOf(started)
            self.assertEqual(self.reactor.bound, [("TCP", "10.0.0.1", 8410), ("UDP", "10.0.0.1", 8410)])
            network.stop()

    def test_both_missing(self) -> None:
        self.errors |= {"fd00::1": errno.EADDRNOTAVAIL, "10.0.0.1": errno.EADDRNOTAVAIL}
        _, started = self.start("one.example")
        self.resolver.answer("fd00::1", "10.0.0.1")
        self.assertIn("no interface of this machine has that address", self.refused(started))

    def test_a_port_in_use_at_one_of_two(self) -> None:
        self.errors["fd00::1"] = errno.EADDRINUSE
        _, started = self.start("one.example")
        self.resolver.answer("fd00::1", "10.0.0.1")
        self.assertIn("cannot listen at [fd00::1]:8410 (TCP): the port is in use; stop", self.refused(started))
        self.assertEqual(self.reactor.bound, [])

    def test_other_errors(self) -> None:
        self.errors["10.0.0.1"] = errno.EACCES
        self.assertIn("this user may not use the port", self.refused(self.start("10.0.0.1")[1]))
        self.errors["10.0.0.1"] = errno.ENOBUFS
        self.assertIn("the system's words; correct listen.peer", self.refused(self.start("10.0.0.1")[1]))

    def test_a_name_without_an_address(self) -> None:
        _, started = self.start("one.example")
        self.resolver.answer()
        self.assertIn("listen.peer: the host name 'one.example' has no address", self.refused(started))

    def test_stop_while_the_name_is_looked_up(self) -> None:
        network, started = self.start("one.example")
        self.successResultOf(network.stop())
        self.resolver.answer("10.0.0.1")
        self.successResultOf(started)
        self.assertEqual(self.reactor.bound, [])

    def test_a_receiver_is_needed(self) -> None:
        network, _ = self.start("10.0.0.1")
        network.receiver = None
        self.failureResultOf(network.start(), LocalProtocolError)
