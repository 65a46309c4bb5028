"""Adapter ``libvirt``: options, what it makes of libvirt's words, connections that fail; libvirt's own test driver."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from tests.libvirt_daemons import libvirt, require
from tests.recording_sink import RecordingSink, surroundings
from tests.test_docs import DOCS, ROOT, blocks
from txvbcast.virt.polling import BACK_OFF_S_MAX

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
OTHER = "11111111-1111-4111-8111-111111111111"
MISSING = "" if libvirt else "the Python module libvirt is not installed"
LIFECYCLE = "LIFECYCLE"

if libvirt:
    from txvbcast.virt import libvirt as adapter
    from txvbcast.virt.libvirt import Subject, device_kind, job_facts, job_kind, read_settings
    from txvbcast.virt.libvirt_events import EVENTS_MAX, Event, EventThread, Guest, Lane, Mailbox

    HOST = Subject(is_host=True)
    MEMBER = Subject(is_host=False, member=2)
    WITHIN = Subject(is_host=False)


class LibvirtCase(unittest.TestCase):
    """Needs the module."""

    timeout = 60

    def setUp(self) -> None:
        require(MISSING)


class OptionsTests(LibvirtCase):
    """What may be configured."""

    def refused(self, **options: object) -> str:
        return str(self.assertRaises(ValueError, read_settings, options, surroundings(None)))

    def test_defaults(self) -> None:
        settings = read_settings({}, surroundings(None))
        self.assertEqual(settings.uri, "qemu:///system")
        self.assertEqual(settings.subject(UUID, "any"), HOST)
        self.assertEqual((settings.interval_s, settings.timeout_s, settings.settle_s), (0.5, 20.0, 1.0))

    def test_some_guests(self) -> None:
        settings = read_settings({"domains": ["web1", UUID]}, surroundings(None))
        self.assertEqual(settings.subject(OTHER, "web1"), HOST)
        self.assertEqual(settings.subject(UUID, "web2"), HOST)
        self.assertEqual(settings.subject(OTHER, "web2"), None)

    def test_guests_that_are_members(self) -> None:
        settings = read_settings({"members": ["web2=node2", f"{UUID}=node3"]}, surroundings(None))
        self.assertEqual(settings.subject(OTHER, "web2"), MEMBER)
        self.assertEqual(settings.subject(UUID, "web3"), Subject(is_host=False, member=3))
        self.assertEqual(settings.subject(OTHER, "web4"), HOST)

    def test_node_in_a_guest(self) -> None:
        """Then the other guests of the host are none of its business, unless it is told so."""
        settings = read_settings({"members": ["web1=node1"]}, surroundings(None))
        self.assertEqual(settings.subject(OTHER, "web1"), WITHIN)
        self.assertEqual(settings.subject(OTHER, "web2"), None)

    def test_refused(self) -> None:
        self.assertIn("url: there is no such option; expected one of: members, uri", self.refused(url="x"))
        self.assertIn("members: expected GUEST=MEMBER, got 'web1'", self.refused(members=["web1"]))
        self.assertIn("members: expected GUEST=MEMBER, got '=node1'", self.refused(members=["=node1"]))
        self.assertIn("there is no member 'node9'; expected one of: node1, node2", self.refused(members=["a=node9"]))
        self.assertIn("interval: expected at least 0.05s", self.refused(interval="1ms"))
        self.assertIn("domains: expected a list of texts", self.refused(domains="*"))
        self.assertIn("keepalive: ", self.refused(keepalive="5"))
        self.assertIn("domains: with none of them, and no members", self.refused(domains=[]))


class MissingTests(unittest.TestCase):
    """A machine without libvirt's Python module."""

    def test_says_what_is_missing(self) -> None:
        """And where to read how it is installed."""
        program = (
            "import sys; sys.modules['libvirt'] = None; from tests.recording_sink import surroundings\n"
            "from txvbcast.virt import BUILT_IN; BUILT_IN['libvirt'].make({}, surroundings(None))"
        )
        ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
        (said,) = ran.stderr.splitlines()[-1:]
        self.assertRegex(said, "^ValueError: it needs a library that is not installed: .*libvirt.*, see docs/adapters")
        self.assertIn('pip install "libvirt-python==', (DOCS / "adapters" / "libvirt.md").read_text())


def rows(page: str, first: str) -> list[list[str]]:
    """The cells of the table whose head begins with ``first``, without its head."""
    _, _, rest = page.partition(f"| {first} |")
    lines = itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines()[2:])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


class PageTests(LibvirtCase):
    """``docs/adapters/libvirt.md``."""

    def setUp(self) -> None:
        super().setUp()
        self.page = (DOCS / "adapters" / "libvirt.md").read_text()

    def test_examples(self) -> None:
        examples = blocks(self.page, "yaml")
        self.assertEqual(len(examples), 3)
        for example in examples:
            for wanted in yaml.safe_load(example)["adapters"]:
                read_settings(wanted["options"], surroundings(None))
                made = adapter.make(wanted["options"], surroundings(Clock()))
                self.assertLessEqual(set(wanted.get("kinds", ())), set(made.kinds))

    def test_options(self) -> None:
        """All of them, with their defaults."""
        table = rows(self.page, "option")
        refused = self.assertRaises(ValueError, read_settings, {"x": 1}, surroundings(None))
        known = str(refused).rpartition(": ")[2].split(", ")
        self.assertEqual(sorted(row[0] for row in table), sorted(known))
        told = {row[0]: yaml.safe_load(row[2].split(";")[0].strip("`")) for row in table}
        self.assertEqual(read_settings(told, surroundings(None)), read_settings({}, surroundings(None)))

    def test_kinds(self) -> None:
        told = [kind for row in rows(self.page, "kind") for kind in re.findall(r"`(\w+)`", row[0])]
        made = adapter.make({"hotplug": True}, surroundings(Clock()))
        self.assertEqual(sorted(told), sorted(made.kinds))


class WordsTests(LibvirtCase):
    """Statistics and names."""

    def test_jobs(self) -> None:
        kinds = {number: job_kind({"operation": number}, HOST) for number in range(11)}
        snapshots = dict.fromkeys((2, 6, 7, 8, 9), "snapshot")
        self.assertEqual(kinds, {**dict.fromkeys(range(11)), **snapshots, 5: "migrate_out"})
        self.assertEqual(job_kind({"operation": 2}, MEMBER), "suspend")
        self.assertEqual(job_kind({}, HOST), None)

    def test_facts(self) -> None:
        """As a daemon has told them of a migration in its second pass."""
        job = {
            "type": 2, "operation": 5, "memory_total": 403185664, "memory_remaining": 272044032,
            "memory_bps": 1048770, "memory_dirty_rate": 100, "memory_page_size": 4096, "memory_iteration": 2,
            "downtime": 20,
        }  # fmt: skip
        self.assertEqual(
            job_facts(job),
            {
                "memory_bytes": 403185664,
                "remaining_bytes": 272044032,
                "bandwidth_bytes_per_s": 1048770,
                "dirty_bytes_per_s": 409600,
                "downtime_s": 0.02,
            },
        )

    def test_facts_that_are_none(self) -> None:
        """Before the first pass all is 0, and the downtime is only the limit."""
        job = {"type": 2, "operation": 5, "memory_total": 0, "memory_remaining": 0, "downtime": 300}
        self.assertEqual(job_facts(job), {})
        self.assertEqual(job_facts({"memory_total": "much", "memory_bps": -1, "downtime": None}), {})

    def test_time_of_bounded_jobs(self) -> None:
        self.assertEqual(job_facts({"type": 1, "time_remaining": 2500}), {"expected_s": 2.5})
        self.assertEqual(job_facts({"type": 2, "time_remaining": 2500}), {})

    def test_devices(self) -> None:
        for alias, kind in (
            ("dimm0", "memory"), ("memdimm0", "memory"), ("net0", "network"), ("virtio-disk1", "storage"),
            ("scsi0-0-0-0", "storage"), ("hostdev0", "device"), ("ua-mine", "device"), ("", "device"),
        ):  # fmt: skip
            self.assertEqual(device_kind(alias), kind, alias)


class AdapterCase(LibvirtCase):
    """An adapter without a connection: what libvirt says is handed to it."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.sink = RecordingSink()

    def make(self, **options: object) -> adapter.LibvirtAdapter:
        made = adapter.make({"hotplug": True, **options}, surroundings(self.clock))
        assert isinstance(made, adapter.LibvirtAdapter)
        made._sink = self.sink
        return made

    def said(self) -> list[tuple[Any, ...]]:
        """What was said, and forget it."""
        said = []
        for name, *words in self.sink.calls:
            kind, _, uuid = words[2 if name == "begin" else 0].partition(" ")
            self.assertEqual(uuid, UUID)
            said.append((name, kind, *(words[1:] if name != "begin" else (words[1], *words[4:]))))
        self.sink.calls.clear()
        return said

    def mail(self, made: adapter.LibvirtAdapter, event: str, *facts: object) -> None:
        made._on_mail(Event(event, UUID, "web1", facts))


class EventTests(AdapterCase):
    """Events of guests."""

    def test_incoming(self) -> None:
        made = self.make()
        self.mail(made, LIFECYCLE, 2, 1)
        self.assertEqual(self.said(), [("begin", "migrate_in", {}, {})])
        self.mail(made, LIFECYCLE, 4, 1)
        self.assertEqual(self.said(), [("end", "migrate_in", "done")])

    def test_incoming_that_fails(self) -> None:
        made = self.make()
        self.mail(made, LIFECYCLE, 2, 1)
        self.mail(made, LIFECYCLE, 5, 5)
        self.assertEqual(self.said()[1:], [("end", "migrate_in", "failed")])

    def test_incoming_post_copy(self) -> None:
        """It runs, but half of it is not there yet."""
        made = self.make()
        self.mail(made, LIFECYCLE, 2, 1)
        self.mail(made, LIFECYCLE, 4, 3)
        self.assertEqual(len(self.said()), 1)
        self.mail(made, LIFECYCLE, 4, 1)
        self.assertEqual(self.said(), [("end", "migrate_in", "done")])

    def test_outgoing(self) -> None:
        """Two events may tell the end."""
        made = self.make()
        for event, *facts in (
            ("MIGRATION_ITERATION", 1), (LIFECYCLE, 3, 1), ("MIGRATION_ITERATION", 2), (LIFECYCLE, 5, 3),
            ("JOB_COMPLETED", {"operation": 5}),
        ):  # fmt: skip
            self.mail(made, event, *facts)
        self.assertEqual(self.said(), [("begin", "migrate_out", {}, {}), ("end", "migrate_out", "done")])

    def test_job_that_fails(self) -> None:
        made = self.make()
        self.mail(made, "MIGRATION_ITERATION", 1)
        self.mail(made, "JOB_COMPLETED", {"operation": 5, "success": False, "errmsg": "no"})
        self.assertEqual(self.said()[1:], [("end", "migrate_out", "failed")])

    def test_guest_that_dies_meanwhile(self) -> None:
        made = self.make()
        self.mail(made, "MIGRATION_ITERATION", 1)
        self.mail(made, LIFECYCLE, 5, 2)
        self.assertEqual(self.said()[1:], [("end", "migrate_out", "failed")])

    def test_snapshot_looks_like_a_migration(self) -> None:
        """Memory is copied to a file: its end tells what it was."""
        made = self.make()
        self.mail(made, "MIGRATION_ITERATION", 1)
        self.mail(made, "JOB_COMPLETED", {"operation": 6})
        self.assertEqual(self.said()[1:], [("end", "migrate_out", "cancelled")])

    def test_copy_of_a_paused_guest(self) -> None:
        """It is being saved, more likely than moved: that is for a look to say."""
        made = self.make()
        made._reconcile([Guest(UUID, "web1", vcpus=1, job={})], [Guest(UUID, "web1", vcpus=1, job={})])
        self.mail(made, LIFECYCLE, 3, 0)
        self.mail(made, "MIGRATION_ITERATION", 1)
        self.assertEqual(self.said(), [])

    def test_suspended(self) -> None:
        """A guest that stands still is nothing to its host; to a member in it, it is everything."""
        host, member = self.make(), self.make(members=["web1=node2"])
        for detail in (0, 2, 5, 6):
            self.mail(host, LIFECYCLE, 3, detail)
            self.mail(host, LIFECYCLE, 4, 0)
            self.assertEqual(self.said(), [])
            self.mail(member, LIFECYCLE, 3, detail)
            self.mail(member, LIFECYCLE, 4, 0)
            self.assertEqual(self.said(), [("begin", "suspend", {}, {"member": 2}), ("end", "suspend", "done")])

    def test_sleeps(self) -> None:
        made = self.make(members=["web1=node2"])
        self.mail(made, LIFECYCLE, 7, 0)
        self.mail(made, LIFECYCLE, 2, 4)
        self.assertEqual(self.said(), [("begin", "suspend", {}, {"member": 2}), ("end", "suspend", "done")])

    def test_suspended_and_killed(self) -> None:
        made = self.make(members=["web1=node2"])
        self.mail(made, LIFECYCLE, 3, 0)
        self.mail(made, LIFECYCLE, 5, 1)
        self.assertEqual(self.said()[1:], [("end", "suspend", "failed")])

    def test_hotplug_is_not_told_unless_wanted(self) -> None:
        made = self.make(hotplug=False)
        self.mail(made, "BALLOON_CHANGE", 1024)
        self.mail(made, "DEVICE_ADDED", "net0")
        self.assertEqual((self.said(), "memory" in made.kinds), ([], False))

    def test_balloon(self) -> None:
        """One change, until there has been no word for a while."""
        made = self.make(settle="2s")
        made._reconcile([], [Guest(UUID, "web1", vcpus=1, memory_bytes=300 * 1024, job={})])
        self.mail(made, "BALLOON_CHANGE", 200)
        self.clock.advance(1.5)
        self.mail(made, "BALLOON_CHANGE", 100)
        self.clock.advance(1.5)
        size = {"memory_delta_bytes": -102400}
        self.assertEqual(
            self.said(),
            [
                ("begin", "memory", {"memory_bytes": 204800, **size}, {}),
                ("update", "memory", {"memory_bytes": 102400, **size}),
            ],
        )
        self.clock.advance(0.5)
        self.assertEqual(self.said(), [("end", "memory", "done")])

    def test_hot_plug(self) -> None:
        made = self.make()
        for event, facts, kind in (
            ("DEVICE_ADDED", "net0", "network"), ("DEVICE_REMOVED", "virtio-disk0", "storage"),
            ("MEMORY_DEVICE_SIZE_CHANGE", "virtiomem0", "memory"), ("VCPU_REMOVED", 1, "vcpu"),
            ("TUNABLE", {"cputune.vcpupin0": "0"}, "vcpu"), ("TUNABLE", {"blkdeviotune.disk": "vda"}, "storage"),
            ("DEVICE_ADDED", "rng0", "device"),
        ):  # fmt: skip
            self.mail(made, event, facts)
            self.clock.advance(1)
            self.assertEqual(self.said(), [("begin", kind, {}, {}), ("end", kind, "done")])

    def test_passed_over(self) -> None:
        """Guests of no interest, and events of none, from this version of libvirt or another."""
        made = self.make(domains=["web2"])
        self.mail(made, LIFECYCLE, 2, 1)
        other = self.make()
        self.mail(other, "NIC_MAC_CHANGE", "net0")
        self.mail(other, LIFECYCLE, 99, 99)
        self.mail(other, LIFECYCLE, 2, 0)
        self.mail(other, "TUNABLE", {"iothread.x": 1})
        self.assertEqual(self.said(), [])


class LookTests(AdapterCase):
    """What a look finds, against what events have said."""

    def guest(self, **facts: Any) -> Guest:
        return Guest(**{"uuid": UUID, "name": "web1", "vcpus": 1, "job": {}, **facts})

    def look(self, made: adapter.LibvirtAdapter, *guests: Guest) -> list[tuple[Any, ...]]:
        made._told.clear()
        made._reconcile(guests, guests)
        return self.said()

    def test_migration_without_events(self) -> None:
        """It is seen while the destination prepares, and when it is gone without a word."""
        made, job = self.make(), {"type": 2, "operation": 5}
        self.assertEqual(self.look(made, self.guest(job=job)), [("begin", "migrate_out", {}, {})])
        self.assertEqual(self.look(made, self.guest(job=job)), [])
        more = {**job, "memory_bps": 5}
        facts = {"bandwidth_bytes_per_s": 5}
        self.assertEqual(self.look(made, self.guest(job=more)), [("update", "migrate_out", facts)])
        self.assertEqual(self.look(made, self.guest(job=more)), [])
        self.assertEqual(self.look(made, self.guest()), [("end", "migrate_out", "cancelled")])
        self.assertEqual(self.look(made, self.guest()), [])

    def test_guest_is_gone(self) -> None:
        made = self.make()
        self.look(made, self.guest(job={"operation": 5}))
        self.assertEqual(self.look(made), [("end", "migrate_out", "done")])
        self.look(made, self.guest(job=None, incoming=True, paused=True))
        self.assertEqual(self.look(made), [("end", "migrate_in", "failed")])

    def test_incoming(self) -> None:
        made = self.make()
        coming = self.guest(job=None, incoming=True, paused=True, memory_bytes=7)
        self.assertEqual(self.look(made, coming), [("begin", "migrate_in", {"memory_bytes": 7}, {})])
        self.assertEqual(self.look(made, self.guest(memory_bytes=9)), [("end", "migrate_in", "done")])

    def test_what_cannot_be_had(self) -> None:
        """A guest that does not answer now is in what it was in."""
        made = self.make()
        self.look(made, self.guest(job={"operation": 5}))
        self.assertEqual(self.look(made, self.guest(job=None)), [])

    def test_save(self) -> None:
        """Work for the host; for a member, the beginning of an absence that may be long."""
        host, job = self.make(), {"operation": 2}
        self.assertEqual(self.look(host, self.guest(paused=True, job=job)), [("begin", "snapshot", {}, {})])
        self.mail(host, "JOB_COMPLETED", {"operation": 2})
        self.assertEqual(self.said(), [("end", "snapshot", "done")])
        member = self.make(members=["web1=node2"])
        begun = [("begin", "suspend", {}, {"member": 2})]
        self.assertEqual(self.look(member, self.guest(paused=True, job=job)), begun)
        self.mail(member, "JOB_COMPLETED", {"operation": 2})
        self.mail(member, LIFECYCLE, 5, 4)
        self.assertEqual(self.look(member), [])
        self.mail(member, LIFECYCLE, 2, 2)
        self.assertEqual(self.said(), [("end", "suspend", "done")])

    def test_snapshot_taken_for_a_migration(self) -> None:
        made = self.make()
        self.mail(made, "MIGRATION_ITERATION", 1)
        self.said()
        seen = self.look(made, self.guest(job={"operation": 6}))
        self.assertEqual(seen, [("end", "migrate_out", "cancelled"), ("begin", "snapshot", {}, {})])
        self.mail(made, "MIGRATION_ITERATION", 2)
        self.assertEqual(self.said(), [])

    def test_events_know_better(self) -> None:
        """A look that began before an event cannot undo it."""
        made = self.make()
        made._told.clear()
        self.mail(made, LIFECYCLE, 2, 1)
        made._reconcile([], [])
        self.assertEqual(self.said(), [("begin", "migrate_in", {}, {})])
        made._told.clear()
        self.mail(made, LIFECYCLE, 4, 1)
        coming = self.guest(job=None, incoming=True, paused=True)
        made._reconcile([coming], [coming])
        self.assertEqual(self.said(), [("end", "migrate_in", "done")])

    def test_sizes(self) -> None:
        made = self.make()
        self.look(made, self.guest(vcpus=2, memory_bytes=100))
        found = self.look(made, self.guest(vcpus=1, memory_bytes=300))
        size = {"memory_bytes": 300, "memory_delta_bytes": 200}
        self.assertEqual(found, [("begin", "vcpu", {"vcpu_delta": -1}, {}), ("begin", "memory", size, {})])
        self.clock.advance(1)
        self.assertEqual(self.said(), [("end", "vcpu", "done"), ("end", "memory", "done")])

    def test_many_guests(self) -> None:
        """A look asks for the state of so many at most, and of all in turn; of those in a change always."""
        made = self.make()
        guests = [Guest(f"{number}", f"g{number}") for number in range(40)]
        self.sink.begin("migrate_out", {}, "migrate_out 39", holdable=False)
        asked = [{guest.uuid for guest in made._choose(guests)} for _ in range(3)]
        self.assertTrue(all(len(each) <= adapter.LOOK_GUESTS_MAX + 1 and "39" in each for each in asked))
        self.assertEqual(set.union(*asked), {guest.uuid for guest in guests})


class HybridReactor(Clock):
    """Time as the test has it; threads as they are."""

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        reactor.callFromThread(function, *arguments)


class ConnectionTests(LibvirtCase):
    """Daemons that are not there, say nothing, or nothing that makes sense."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor = HybridReactor()
        self.sink = RecordingSink()

    def listen(self, uri: str, **options: object) -> adapter.LibvirtAdapter:
        """An adapter that is stopped with the test."""
        made = adapter.make({"uri": uri, **options}, surroundings(self.reactor))
        assert isinstance(made, adapter.LibvirtAdapter)
        made.start(self.sink)
        self.addCleanup(self.stop, made)
        return made

    def stop(self, made: adapter.LibvirtAdapter) -> Deferred[None]:
        stopped = made.stop()
        self.reactor.advance(adapter.LEAVE_S)
        return stopped

    def serve(self, protocol: type[Protocol]) -> str:
        """The URI of a server on a socket of the test's own."""
        path = f"/tmp/lv{threading.get_native_id()}-{id(self)}"
        port = reactor.listenUNIX(path, Factory.forProtocol(protocol))
        self.addCleanup(port.stopListening)
        return f"qemu+unix:///session?socket={path}"

    async def problems(self, count: int) -> list[str]:
        """The first so many, each after the longest back-off."""
        for number in range(1, count + 1):
            await self.back_off(number)
        return [problem for (problem,) in self.sink.of("lost")][:count]

    async def back_off(self, number: int) -> None:
        """Wait for a problem, and then until it is tried again."""
        await self.sink.until_said("lost", number)
        await deferLater(reactor, 0)  # it goes on when everybody has heard
        self.reactor.advance(BACK_OFF_S_MAX)

    async def test_nobody_there(self) -> None:
        uri = f"qemu+unix:///session?socket={quote(str(Path(self.mktemp()).absolute()))}"
        self.listen(uri)
        problems = await self.problems(3)
        self.assertEqual(len(set(problems)), 1)
        self.assertIn(f"{uri}: Failed to connect socket", problems[0])
        self.assertIn("does libvirt run there, and may this user use it?", problems[0])

    async def test_no_such_driver(self) -> None:
        self.listen("nonsense:///x")
        (problem,) = await self.problems(1)
        self.assertIn("nonsense:///x: ", problem)

    async def test_garbage(self) -> None:
        class Garbage(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)

        self.listen(self.serve(Garbage))
        problems = await self.problems(2)
        self.assertIn("packet", problems[0])

    async def test_closes(self) -> None:
        class Closes(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.loseConnection()

        self.listen(self.serve(Closes))
        self.assertEqual(len(await self.problems(2)), 2)

    async def test_says_nothing(self) -> None:
        """Calls that hang are given up, and after so many of them no more are made; a stop does not wait for them."""
        connections: list[Protocol] = []

        class Silent(Protocol):
            def connectionMade(self) -> None:
                connections.append(self)

        self.listen(self.serve(Silent), timeout="5s")
        for number in range(1, adapter.HUNG_MAX + 1):
            while len(connections) < number:
                await deferLater(reactor, 0.005)
            self.reactor.advance(5)
            await self.back_off(number)
        await self.sink.until_said("lost", adapter.HUNG_MAX + 1)
        problems = [problem for (problem,) in self.sink.of("lost")]
        self.assertEqual(problems[:-1], ["no answer within 5s"] * adapter.HUNG_MAX)
        self.assertIn("4 calls hang; no more are made", problems[-1])
        self.assertEqual(len(connections), adapter.HUNG_MAX)
        for connection in connections:
            connection.transport.loseConnection()

    async def test_comes_and_goes(self) -> None:
        """What the daemon's end makes of it: said at once, not at the next look."""
        made = self.listen("test:///default")
        await self.sink.until_said("connected")
        self.assertIn("test:///default on ", self.sink.of("connected")[0][0])
        made._on_mail("the daemon has closed the connection")
        self.assertIn("the daemon has closed the connection", self.sink.of("lost")[0][0])
        await deferLater(reactor, 0)
        self.reactor.advance(1)
        await self.sink.until_said("connected", 2)


class TestDriverTests(LibvirtCase):
    """libvirt's test driver, with a guest called ``test`` that does what it is told."""

    def setUp(self) -> None:
        super().setUp()
        connection = libvirt.open("test:///default")  # its world lasts as long as anybody is connected
        self.addCleanup(connection.close)

    async def listen(self, **options: object) -> RecordingSink:
        made = adapter.make({"uri": "test:///default", "interval": "50ms", **options}, surroundings(reactor))
        sink = RecordingSink()
        made.start(sink)
        self.addCleanup(made.stop)
        await sink.until_said("connected")
        return sink

    async def do(self, act: Callable[[Any], object]) -> None:
        def run() -> None:
            connection = libvirt.open("test:///default")
            act(connection.lookupByName("test"))
            connection.close()

        await deferToThread(run)

    async def test_order(self) -> None:
        sink = await self.listen(members=["test=node2"])
        for _ in range(3):
            await self.do(lambda guest: guest.suspend())
            await self.do(lambda guest: guest.resume())
        await sink.until_said("end", 3)
        self.assertEqual(sink.names("connected"), ["begin", "end"] * 3)
        self.assertEqual({call[0] for call in sink.of("begin")}, {"suspend"})

    async def test_found_by_a_look(self) -> None:
        """A change that began before the adapter, and virtual CPUs, of which there is no event."""
        await self.do(lambda guest: guest.suspend())
        sink = await self.listen(members=["test=node2"], settle="50ms", hotplug=True)
        await sink.until_said("begin")
        await self.do(lambda guest: guest.resume())
        await sink.until_said("end")
        self.assertEqual([call[0] for call in sink.of("begin")], ["suspend"])

    async def test_leaves_nothing(self) -> None:
        """Neither threads nor anything in the reactor."""
        sink = RecordingSink()
        made = adapter.make({"uri": "test:///default"}, surroundings(reactor))
        made.start(sink)
        await sink.until_said("connected")
        names = {thread.name for thread in threading.enumerate()}
        self.assertLessEqual({"libvirt-events", "libvirt-calls"}, names)
        await made.stop()
        while {"libvirt-events", "libvirt-calls"} & {thread.name for thread in threading.enumerate()}:
            await deferLater(reactor, 0.005)


class ThreadTests(LibvirtCase):
    """The ways between threads."""

    def test_mailbox_is_bounded(self) -> None:
        """What does not fit is left to the next look; nothing comes after it is closed."""
        calls: list[Callable[[], None]] = []
        heard: list[int] = []

        class Turns:
            def callFromThread(self, function: Callable[[], None]) -> None:
                calls.append(function)

        mailbox = Mailbox(Turns(), heard.append)
        for number in range(EVENTS_MAX + 10):
            mailbox.put(number)
        self.assertEqual(len(calls), 1)
        calls[0]()
        self.assertEqual(heard, list(range(EVENTS_MAX)))
        mailbox.put(-1)
        mailbox.close()
        calls[1]()
        self.assertEqual(len(heard), EVENTS_MAX)

    async def test_lane(self) -> None:
        """Calls in order, failures too; a call that was cancelled disturbs nobody when it returns."""
        lane, release = Lane(reactor), threading.Event()
        hanging = lane.call(release.wait)
        hanging.cancel()
        await self.assert_cancelled(hanging)
        waiting = lane.call(lambda: 1 // 0)
        self.assertFalse(waiting.called)
        release.set()
        await self.assertFailure(waiting, ZeroDivisionError)
        await lane.finish(lambda: None)

    async def assert_cancelled(self, deferred: Deferred[Any]) -> None:
        await self.assertFailure(deferred, CancelledError)

    async def test_event_thread(self) -> None:
        """It runs as long as anybody needs it, and again after that."""
        events = EventThread()
        for _ in range(2):
            events.acquire()
            events.acquire()
            thread = events.thread
            assert thread is not None
            events.release()
            self.assertTrue(thread.is_alive())
            events.release()
            while thread.is_alive():
                await deferLater(reactor, 0.005)
