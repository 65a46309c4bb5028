"""Adapter ``libvirt`` and the hook against libvirt's real QEMU driver: two daemons, and guests that move."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from tests import libvirt_daemons
from tests.cluster import ClusterCase
from tests.libvirt_daemons import DIMM, GUEST, GUEST_UUID, VBCAST, Daemon, guest_xml, libvirt, migrate, require
from tests.recording_sink import RecordingSink, surroundings

if libvirt:
    from txvbcast.virt import libvirt as adapter
    from txvbcast.virt.libvirt_events import Connection, Event, Lane, Mailbox, event_thread


class DaemonCase(unittest.TestCase):
    """Two daemons, and an adapter for each."""

    timeout = 180

    def setUp(self) -> Deferred[Any]:
        require(libvirt_daemons.missing())
        folder = libvirt_daemons.directory()
        root = folder.__enter__()
        self.addCleanup(folder.__exit__, None, None, None)
        self.source, self.destination = Daemon(root / "a"), Daemon(root / "b")
        for daemon in (self.source, self.destination):
            self.addCleanup(daemon.kill)
        return gatherResults([deferToThread(daemon.start) for daemon in (self.source, self.destination)])

    async def listen(self, daemon: Daemon, **options: object) -> RecordingSink:
        """What an adapter for a daemon says, from now on."""
        options = {"uri": daemon.uri, "interval": "100ms", **options}
        made = adapter.make(options, surroundings(reactor))
        sink = RecordingSink()
        made.start(sink)
        self.addCleanup(made.stop)
        await sink.until_said("connected")
        return sink

    async def create(self, daemon: Daemon, memory_mib: int = 64) -> None:
        """Have the guest run."""

        def create() -> None:
            with daemon.connection() as connection:
                connection.createXML(guest_xml(memory_mib))

        await deferToThread(create)

    async def do(self, daemon: Daemon, act: Callable[[Any], object]) -> None:
        """Call ``act`` with the guest, in a thread."""

        def run() -> None:
            with daemon.connection() as connection:
                act(connection.lookupByName(GUEST))

        await deferToThread(run)

    def of_guest(self, sink: RecordingSink) -> list[tuple[str, ...]]:
        """What was said of the guest: begin and end, kind and outcome."""
        said = []
        for call in sink.calls:
            if call[0] == "begin":
                self.assertEqual(call[3], f"{call[1]} {GUEST_UUID}")
                said.append(("begin", call[1]))
            elif call[0] == "end":
                said.append(("end", call[1].partition(" ")[0], call[2]))
        return said


class MigrationTests(DaemonCase):
    """Guests that move, or do not get far."""

    async def test_moves(self) -> None:
        source, destination = await self.listen(self.source), await self.listen(self.destination)
        await self.create(self.source)
        await deferToThread(migrate, self.source, self.destination)
        await gatherResults([source.until_said("end"), destination.until_said("end")])
        self.assertEqual(self.of_guest(source), [("begin", "migrate_out"), ("end", "migrate_out", "done")])
        self.assertEqual(self.of_guest(destination), [("begin", "migrate_in"), ("end", "migrate_in", "done")])

    async def test_facts(self) -> None:
        """A slow one: what is left to be copied is told, and gets less."""
        source = await self.listen(self.source)
        await self.create(self.source, memory_mib=1500)
        moving = deferToThread(migrate, self.source, self.destination, 1)
        await source.until(lambda: len([facts for _, facts in source.of("update") if "remaining_bytes" in facts]) >= 3)
        await moving
        await source.until_said("end")
        told = [facts for _, facts in source.of("update") if "bandwidth_bytes_per_s" in facts]
        remaining = [facts["remaining_bytes"] for facts in told]
        self.assertEqual(remaining, sorted(remaining, reverse=True))
        self.assertGreater(remaining[0], remaining[-1])
        for facts in told:
            self.assertGreater(facts["memory_bytes"], 1500 * 2**20)
            self.assertGreater(facts["bandwidth_bytes_per_s"], 0)

    async def test_cancelled(self) -> None:
        """The source has no event for it: a look finds that there is no job any more."""
        source, destination = await self.listen(self.source), await self.listen(self.destination)
        await self.create(self.source, memory_mib=3000)
        moving = deferToThread(migrate, self.source, self.destination, 1)
        await destination.until_said("begin")
        await self.do(self.source, lambda guest: guest.abortJob())
        await self.assertFailure(moving, libvirt.libvirtError)
        await gatherResults([source.until_said("end"), destination.until_said("end")])
        self.assertEqual(self.of_guest(source), [("begin", "migrate_out"), ("end", "migrate_out", "cancelled")])
        self.assertEqual(self.of_guest(destination), [("begin", "migrate_in"), ("end", "migrate_in", "failed")])

    async def test_destination_dies(self) -> None:
        source = await self.listen(self.source)
        destination = await self.listen(self.destination)
        await self.create(self.source, memory_mib=3000)
        moving = deferToThread(migrate, self.source, self.destination, 1)
        await gatherResults([source.until_said("update"), destination.until_said("begin")])
        self.destination.kill()
        await self.assertFailure(moving, libvirt.libvirtError)
        await gatherResults([source.until_said("end"), destination.until_said("lost")])
        self.assertEqual(self.of_guest(source), [("begin", "migrate_out"), ("end", "migrate_out", "cancelled")])
        self.assertEqual(self.of_guest(destination), [("begin", "migrate_in")])
        self.destination.start()
        await destination.until_said("end")
        self.assertEqual(self.of_guest(destination), [("begin", "migrate_in"), ("end", "migrate_in", "failed")])

    async def test_node_in_the_guest(self) -> None:
        """It hears of its own suspension when it runs again, over there: before the source says that it is done."""
        sink = await self.listen(self.source, members=[f"{GUEST}=node1"])
        host = await self.listen(self.source)
        await self.create(self.source)
        moving = deferToThread(migrate, self.source, self.destination)
        await sink.until_said("end")
        self.assertEqual(self.of_guest(sink), [("begin", "migrate_out"), ("end", "migrate_out", "done")])
        self.assertEqual(host.of("end"), [])
        await moving

    async def test_events(self) -> None:
        """libvirt's own order, which all the rest relies on."""
        order: list[tuple[str, str, tuple[Any, ...]]] = []
        for letter, daemon in (("S", self.source), ("D", self.destination)):
            self.record(letter, daemon, order)
        await self.create(self.source)
        await deferToThread(migrate, self.source, self.destination)
        while ("S", "JOB_COMPLETED") not in [(place, event) for place, event, _ in order]:
            await deferLater(reactor, 0.01)
        self.assertEqual(
            [(event, facts) for place, event, facts in order if place == "D"],
            [("LIFECYCLE", (2, 1)), ("LIFECYCLE", (4, 1))],
        )
        of_source = [(event, facts) for place, event, facts in order if place == "S"]
        lifecycle = [facts for event, facts in of_source if event == "LIFECYCLE"]
        self.assertEqual(sorted(lifecycle[:2]), [(2, 0), (4, 0)])  # its start, in one order or the other
        self.assertEqual(lifecycle[2:], [(3, 1), (5, 3)])
        names = [event for event, facts in of_source if (event, facts) != ("LIFECYCLE", (4, 0))]
        self.assertEqual(names[1], "MIGRATION_ITERATION")
        self.assertLess(of_source.index(("MIGRATION_ITERATION", (1,))), of_source.index(("LIFECYCLE", (3, 1))))
        gone, completed = order.index(("S", "LIFECYCLE", (5, 3))), len(order) - 1
        self.assertEqual((order[completed][1], order[completed][2][0]["operation"]), ("JOB_COMPLETED", 5))
        self.assertLess(order.index(("D", "LIFECYCLE", (4, 1))), gone)

    def record(self, letter: str, daemon: Daemon, order: list[tuple[str, str, tuple[Any, ...]]]) -> None:
        """Write a daemon's events down."""

        def on_mail(mail: Event) -> None:
            order.append((letter, mail.event, mail.facts))

        event_thread.acquire()
        self.addCleanup(event_thread.release)
        connection, lane = Connection(daemon.uri, 5.0, Mailbox(reactor, on_mail)), Lane(reactor)
        lane.call(connection.open)
        self.addCleanup(lambda: lane.finish(connection.close))


class GuestTests(DaemonCase):
    """What else happens to guests."""

    async def test_memory_and_cpus(self) -> None:
        sink = await self.listen(self.source, settle="100ms", hotplug=True)
        await self.create(self.source)
        await self.do(self.source, lambda guest: guest.attachDevice(DIMM))
        # The event comes first, with the next look the size: of the same change, if it has not settled meanwhile.
        await sink.until(lambda: self.deltas(sink, "memory_delta_bytes") == [128 * 2**20])
        await sink.until(lambda: sink.under_way() == ())
        # libvirt has no event for this one
        await self.do(self.source, lambda guest: guest.setVcpus(2))
        await sink.until(lambda: ("end", "vcpu", "done") in self.of_guest(sink))
        self.assertEqual(self.of_guest(sink)[0], ("begin", "memory"))
        self.assertEqual(set(self.of_guest(sink)), {(w, k, *o) for k in ("memory", "vcpu") for w, *o in PAIR})
        self.assertEqual(self.deltas(sink, "memory_delta_bytes"), [128 * 2**20])
        self.assertEqual(self.deltas(sink, "vcpu_delta"), [1])

    def deltas(self, sink: RecordingSink, fact: str) -> list[object]:
        """What was said of how much is added, as a change began or after that."""
        told = [call[2] for call in sink.calls if call[0] in ("begin", "update")]
        return [facts[fact] for facts in told if fact in facts]

    async def test_saved_and_restored(self) -> None:
        """Of a member in a guest, by the word of its host."""
        sink = await self.listen(self.source, members=[f"{GUEST_UUID}=node2"])
        await self.create(self.source)
        file = str(self.source.directory / "saved")
        await self.do(self.source, lambda guest: guest.save(file))
        self.assertEqual(self.of_guest(sink), [("begin", "suspend")])
        self.assertEqual(sink.of("begin")[0][-1], {"member": 2})

        def restore() -> None:
            with self.source.connection() as connection:
                connection.restore(file)

        await deferToThread(restore)
        await sink.until_said("end")
        self.assertEqual(self.of_guest(sink), [("begin", "suspend"), ("end", "suspend", "done")])

    async def test_missed_events(self) -> None:
        """What began before the adapter, and what ended while it could not hear."""
        await self.create(self.source)
        await self.do(self.source, lambda guest: guest.suspend())
        sink = await self.listen(self.source, members=[f"{GUEST}=node2"])
        await sink.until_said("begin")
        self.assertEqual(self.of_guest(sink), [("begin", "suspend")])

    async def test_frozen_daemon(self) -> None:
        """It is lost, and found again; the reactor goes on, and a stop is not held up."""
        await self.create(self.source)
        sink = await self.listen(self.source, members=[f"{GUEST}=node2"], timeout="300ms")
        self.source.freeze()
        await sink.until_said("lost")
        self.assertEqual(sink.of("lost")[0], ("no answer within 300ms",))
        self.source.thaw()
        await sink.until_said("connected", 2)
        await self.do(self.source, lambda guest: guest.suspend())
        await sink.until_said("begin")
        self.source.freeze()
        self.addCleanup(self.source.thaw)


#: How a change that is done is told.
PAIR = (("begin",), ("end", "done"))


class HookTests(DaemonCase, ClusterCase):
    """A real cluster, whose node 2 is told by the hook of the destination's daemon."""

    def setUp(self) -> Deferred[Any]:
        ClusterCase.setUp(self)
        return DaemonCase.setUp(self)

    async def test_holds_a_migration(self) -> None:
        cluster = await deferToThread(self.start)
        await self.install("5s", cluster[2].api.url)
        await self.create(self.source)
        await deferToThread(migrate, self.source, self.destination)
        changes = cluster[2].api.get("/v1/inactive").field("changes", list)
        self.assertEqual([(each["kind"], each["confirmed"]) for each in changes], [("migrate_in", True)])
        # no hook tells the end of a migration that ended well, and this node does not listen to libvirt
        self.assertEqual(changes[0]["outcome"], None)
        (note,) = (self.destination.directory / "state").iterdir()
        self.assertEqual(json.loads(note.read_text())["change_id"], changes[0]["change_id"])
        await self.do(self.destination, lambda guest: guest.destroy())
        await deferToThread(self.wait_until, "the change is over", lambda: self.outcomes() == ["failed"])

    async def test_hands_over(self) -> None:
        """A node that listens to libvirt itself tells the true end; the hook's word is not needed any more then."""
        cluster = self.make()
        text = f"adapters:\n  - plugin: libvirt\n    options: {{uri: '{self.destination.uri}', interval: 100ms}}\n"
        with cluster[2].config.open("a") as config:
            config.write(text)
        await self.install("5s", cluster[2].api.url)
        await deferToThread(self.run_cluster)
        await self.create(self.source, memory_mib=1500)
        await deferToThread(migrate, self.source, self.destination, 1)
        await deferToThread(self.wait_until, "both have ended", lambda: self.outcomes() == ["done", "done"])
        by_hook, by_adapter = cluster[2].api.get("/v1/inactive").field("changes", list)
        self.assertEqual((by_hook["kind"], by_hook["source"], by_hook["confirmed"]), ("migrate_in", "hook", True))
        self.assertEqual((by_adapter["kind"], by_adapter["source"]), ("migrate_in", "libvirt"))
        ended = {each["began"] + each["actual_ms"] / 1000: each["source"] for each in (by_hook, by_adapter)}
        self.assertEqual([ended[end_s] for end_s in sorted(ended)], ["hook", "libvirt"])

    async def test_holds_until_confirmed(self) -> None:
        """While nobody confirms, nothing of the guest is at the destination."""
        cluster = await deferToThread(self.start)
        await self.install("30s", cluster[2].api.url)
        source = await self.listen(self.source)
        await self.create(self.source)
        for other in (1, 3):
            cluster[other].freeze()
        moving = deferToThread(migrate, self.source, self.destination)
        await source.until_said("begin")  # libvirt has begun, and waits for the hook
        await deferToThread(self.wait_until, "the hook has asked", lambda: self.daemon_runs_hook())
        self.assertEqual(await deferToThread(self.guests_at_destination), [])
        self.assertFalse(moving.called)
        for other in (1, 3):
            cluster[other].thaw()
        await moving
        self.assertEqual(await deferToThread(self.guests_at_destination), [GUEST])
        (change,) = cluster[2].api.get("/v1/inactive").field("changes", list)
        self.assertEqual((change["kind"], change["confirmed"]), ("migrate_in", True))
        await self.do(self.destination, lambda guest: guest.destroy())

    async def test_node_that_hangs(self) -> None:
        """It holds nothing longer than the bound."""
        cluster = await deferToThread(self.start)
        await self.install("500ms", cluster[2].api.url)
        await self.create(self.source)
        cluster[2].freeze()
        await deferToThread(migrate, self.source, self.destination)
        self.assertEqual(await deferToThread(self.guests_at_destination), [GUEST])
        self.assertFalse((self.destination.directory / "state").exists())
        cluster[2].thaw()

    def guests_at_destination(self) -> list[str]:
        """Names of those that run there."""
        with self.destination.connection() as connection:
            return [domain.name() for domain in connection.listAllDomains()]

    def daemon_runs_hook(self) -> bool:
        """Whether a child of the destination's daemon is its hook."""
        pid = self.destination.pid
        children = Path(f"/proc/{pid}/task").glob("*/children")
        return any(b"hooks/qemu.d" in _command(child) for path in children for child in path.read_text().split())

    async def install(self, bound: str, url: str) -> None:
        """Give the destination's daemon its hook."""
        await deferToThread(self.destination.kill)
        state = self.destination.directory / "state"
        words = [VBCAST, "hook", "libvirt", "--install", "--path", str(self.destination.hook)]
        words += ["--node", url, "--bound", bound, "--state", str(state)]
        subprocess.run(words, check=True, capture_output=True, timeout=60)
        await deferToThread(self.destination.start)

    def outcomes(self) -> list[str | None]:
        """Of the changes of node 2."""
        return [each["outcome"] for each in self.cluster[2].api.get("/v1/inactive").field("changes", list)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""  # it has ended
