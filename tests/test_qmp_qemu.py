"""The qmp adapter against real QEMU: what QEMU tells in which order, and what the node is told.

An order that changes with a new QEMU is worth knowing of: the lists here are what QEMU 7.2 does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from tests.qemu import Machine, QemuCase, reactor
from tests.recording_sink import RecordingSink, surroundings
from txvbcast.virt import qmp

#: Events by name, and the word of theirs that tells them apart.
_MIGRATION = {"MIGRATION": "status", "STOP": "", "RESUME": ""}
_JOB = {"JOB_STATUS_CHANGE": "status", "STOP": "", "RESUME": ""}

_A_CPU = {"driver": "qemu64-x86_64-cpu", "id": "cpu1", "socket-id": 1, "core-id": 0, "thread-id": 0}
_SLOWLY = {"max-bandwidth": 100_000}
_MIB = 1 << 20


def told(machine: Machine, names: dict[str, str]) -> list[str]:
    """The events of these names, in the order in which QEMU told them."""
    events = [event for event in machine.events if event.name in names]
    return [f"{event.name} {event.data.get(names[event.name], '')}".strip() for event in events]


def story(sink: RecordingSink) -> list[str]:
    """What an adapter said, without figures."""
    lines: list[str] = []
    for name, *rest in sink.calls:
        if name == "begin":
            lines.append(f"begin {rest[0]}" if rest[0] == rest[2] else f"begin {rest[0]} {rest[2]}")
        elif name == "end":
            lines.append(f"end {rest[0]}: {rest[1]}")
        elif name != "update":
            lines.append(name)
    return lines


class Watched(QemuCase):
    """Machines with an adapter each."""

    async def watch(self, address: str, **options: Any) -> RecordingSink:
        """What an adapter says that knows the state of the machine at ``address``."""
        adapter = qmp.make({"socket": address, **options}, surroundings(reactor))
        assert isinstance(adapter, qmp.Adapter)
        sink = RecordingSink()
        self.addCleanup(lambda: maybeDeferred(adapter.stop))
        adapter.start(sink)
        await self.until(lambda: adapter.has_looked)
        return sink

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what nobody tells of."""
        while not condition():
            await deferLater(reactor, 0.005)

    async def pair(self, **source: Any) -> tuple[Machine, Machine, RecordingSink, RecordingSink]:
        """A source and a destination, and what their adapters say."""
        first = await self.machine("source", **source)
        second = await self.machine("destination", incoming=True)
        return first, second, await self.watch(first.address), await self.watch(second.address)


class Migrations(Watched):
    """Live migrations over loopback."""

    async def test_done(self) -> None:
        source, destination, out, into = await self.pair(guest=self.guest(), fill_mib=16)
        await source.begin_migration_to(destination)
        await into.until_said("end")
        await out.until_said("end")
        expected = ["MIGRATION setup", "MIGRATION active", "STOP", "MIGRATION completed"]
        self.assertEqual(told(source, _MIGRATION), expected)
        await destination.until_event("MIGRATION", status="completed")
        self.assertEqual(told(destination, _MIGRATION), ["MIGRATION active", "RESUME", "MIGRATION completed"])
        self.assertEqual(story(out), ["connected", "begin migrate_out", "end migrate_out: done"])
        self.assertEqual(story(into), ["connected", "begin migrate_in", "end migrate_in: done"])
        self.assertEqual(await destination.shell("echo it runs"), "it runs")

    async def test_it_is_told_of_before_the_guest_stops(self) -> None:
        source, destination, out, _ = await self.pair()
        await source.execute("migrate-set-parameters", _SLOWLY)
        await source.begin_migration_to(destination)
        await out.until_said("begin")
        self.assertEqual(source.of("STOP"), [])
        begun = ("begin", "migrate_out", {"memory_bytes": 256 * _MIB}, "migrate_out", False, {})
        self.assertEqual(out.calls[1], begun)
        await source.execute("migrate-set-parameters", {"max-bandwidth": 1 << 30})
        await out.until_said("end")
        self.assertEqual(out.of("end"), [("migrate_out", "done")])

    async def test_facts_come_while_it_goes_on(self) -> None:
        """What follows from dirty memory comes with the second pass."""
        source, destination, out, _ = await self.pair(guest=self.guest(), fill_mib=16)
        # A guest that always writes more than can be sent in a millisecond cannot be moved.
        await source.execute("migrate-set-parameters", {"max-bandwidth": 20 * _MIB, "downtime-limit": 1})
        source.send_shell(
            "while :; do dd if=/dev/urandom of=/tmp/filled bs=64k count=64 conv=notrunc; done 2>/dev/null"
        )
        await source.begin_migration_to(destination)
        await out.until(lambda: any("dirty_bytes_per_s" in facts for _, facts in out.of("update")))
        updates = [facts for _, facts in out.of("update")]
        self.assertLessEqual({"memory_bytes", "remaining_bytes"}, updates[0].keys())
        self.assertNotIn("dirty_bytes_per_s", updates[0])
        self.assertNotIn("downtime_s", updates[0])
        self.assertIn("bandwidth_bytes_per_s", updates[-1])
        self.assertIn("downtime_s", updates[-1])
        self.assertTrue(all(0 <= facts["remaining_bytes"] <= facts["memory_bytes"] for facts in updates))
        second_pass = [facts["remaining_bytes"] for facts in updates if "dirty_bytes_per_s" in facts]
        self.assertLess(second_pass[0], updates[0]["remaining_bytes"])
        await source.execute("migrate_cancel")
        await out.until_said("end")

    async def test_cancelled(self) -> None:
        source, destination, out, into = await self.pair()
        await source.execute("migrate-set-parameters", _SLOWLY)
        await source.begin_migration_to(destination)
        await source.until_event("MIGRATION", status="active")
        await into.until_said("begin")
        await source.execute("migrate_cancel")
        await out.until_said("end")
        await into.until_said("lost")
        expected = ["MIGRATION setup", "MIGRATION active", "MIGRATION cancelling", "MIGRATION cancelled"]
        self.assertEqual(told(source, _MIGRATION), expected)
        self.assertEqual(told(destination, _MIGRATION), ["MIGRATION active", "MIGRATION failed"])
        self.assertEqual(story(out), ["connected", "begin migrate_out", "end migrate_out: cancelled"])
        self.assertEqual(story(into), ["connected", "begin migrate_in", "end migrate_in: failed", "lost"])
        self.assertEqual(into.of("lost"), [(f"{destination.address}: QEMU has closed the connection",)])

    async def test_failed(self) -> None:
        source, destination, out, _ = await self.pair()
        await source.execute("migrate-set-parameters", _SLOWLY)
        await source.begin_migration_to(destination)
        await source.until_event("MIGRATION", status="active")
        destination.signal("KILL")
        await out.until_said("end")
        self.assertEqual(told(source, _MIGRATION), ["MIGRATION setup", "MIGRATION active", "MIGRATION failed"])
        self.assertEqual(story(out), ["connected", "begin migrate_out", "end migrate_out: failed"])

    async def held_before_switchover(self) -> tuple[Machine, Machine, RecordingSink, RecordingSink]:
        """A pair whose guest stands still, and goes over as soon as it is allowed to."""
        source, destination, out, into = await self.pair()
        for machine in (source, destination):
            await machine.enable("pause-before-switchover")
        await source.begin_migration_to(destination)
        await source.until_event("MIGRATION", status="pre-switchover")
        return source, destination, out, into

    async def test_held_before_switchover(self) -> None:
        source, destination, out, into = await self.held_before_switchover()
        await source.execute("migrate-continue", {"state": "pre-switchover"})
        await out.until_said("end")
        await into.until_said("end")
        before = ["MIGRATION setup", "MIGRATION active", "STOP", "MIGRATION pre-switchover"]
        self.assertEqual(told(source, _MIGRATION), [*before, "MIGRATION device", "MIGRATION completed"])
        self.assertEqual(story(out), ["connected", "begin migrate_out", "end migrate_out: done"])
        self.assertEqual(story(into), ["connected", "begin migrate_in", "end migrate_in: done"])

    async def test_cancelled_before_switchover(self) -> None:
        source, _, out, _ = await self.held_before_switchover()
        await source.execute("migrate_cancel")
        await out.until_said("end")
        await source.until_event("MIGRATION", status="cancelled")
        after = ["MIGRATION cancelling", "RESUME", "MIGRATION cancelled"]
        self.assertEqual(told(source, _MIGRATION)[-3:], after)
        self.assertEqual(story(out), ["connected", "begin migrate_out", "end migrate_out: cancelled"])

    async def test_failed_after_switchover(self) -> None:
        """The guest stands still a moment longer than the migration: no time for another change."""
        source, destination, out, _ = await self.held_before_switchover()
        destination.signal("KILL")
        await destination.until(lambda: destination.ended, "ends")
        await source.execute("migrate-continue", {"state": "pre-switchover"})
        await out.until_said("end")
        await source.until_event("RESUME")
        self.assertEqual(told(source, _MIGRATION)[-3:], ["MIGRATION device", "MIGRATION failed", "RESUME"])
        self.assertEqual(story(out), ["connected", "begin migrate_out", "end migrate_out: failed"])

    async def test_a_guest_that_stands_still_is_migrated(self) -> None:
        source, destination, out, into = await self.pair()
        await source.execute("stop")
        await source.begin_migration_to(destination)
        await out.until_said("end", 2)
        await into.until_said("begin", 2)
        self.assertEqual(told(destination, _MIGRATION), ["MIGRATION active", "MIGRATION completed"])
        begun = ["connected", "begin freeze", "begin migrate_out"]
        self.assertEqual(story(out), [*begun, "end migrate_out: done", "end freeze: done"])
        self.assertEqual(story(into), ["connected", "begin migrate_in", "end migrate_in: done", "begin freeze"])
        await destination.execute("cont")
        await into.until_said("end", 2)
        self.assertEqual(story(into)[-1], "end freeze: done")

    async def test_post_copy(self) -> None:
        """The destination runs long before the source has sent everything."""
        source, destination, out, into = await self.pair(guest=self.guest(), fill_mib=16)
        await self.begin_post_copy(source, destination)
        await into.until_said("end")
        self.assertEqual(out.of("end"), [])
        await out.until_said("end")
        await destination.until_event("MIGRATION", status="completed")
        before = ["MIGRATION setup", "MIGRATION active", "MIGRATION postcopy-active"]
        self.assertEqual(told(source, _MIGRATION), [*before, "STOP", "MIGRATION completed"])
        expected = ["MIGRATION active", "MIGRATION postcopy-active", "RESUME", "MIGRATION completed"]
        self.assertEqual(told(destination, _MIGRATION), expected)
        self.assertEqual(story(out), ["connected", "begin migrate_out", "end migrate_out: done"])
        self.assertEqual(story(into), ["connected", "begin migrate_in", "end migrate_in: done"])

    async def test_post_copy_that_is_interrupted(self) -> None:
        """The guest runs at the destination, and then waits there for the rest of its memory."""
        source, destination, out, into = await self.pair(guest=self.guest(), fill_mib=16)
        await self.begin_post_copy(source, destination)
        await into.until_said("end")
        await source.execute("migrate-pause")
        await into.until_said("begin", 2)
        await source.until_event("MIGRATION", status="postcopy-paused")
        begun = ["connected", "begin migrate_in", "end migrate_in: done", "begin migrate_in"]
        self.assertEqual(story(into), begun)
        self.assertEqual(story(out), ["connected", "begin migrate_out"])

    async def begin_post_copy(self, source: Machine, destination: Machine) -> None:
        """Let the guest run at the destination before its memory is there, which takes some seconds."""
        for machine in (source, destination):
            await machine.enable("postcopy-ram")
        bandwidth = {"max-bandwidth": 10 * _MIB, "max-postcopy-bandwidth": 10 * _MIB}
        await source.execute("migrate-set-parameters", bandwidth)
        await source.begin_migration_to(destination)
        await source.until_event("MIGRATION", status="active")
        await source.execute("migrate-start-postcopy")

    async def test_a_destination_that_waits_is_no_change(self) -> None:
        """It may wait for ever: its migration begins when the source has connected."""
        source = await self.machine("source")
        destination = await self.machine("destination", "-incoming", "defer")
        into = await self.watch(destination.address)
        await destination.execute("migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
        await destination.until_event("MIGRATION", status="setup")
        self.assertEqual(story(into), ["connected"])
        await source.begin_migration_to(destination)
        await into.until_said("end")
        self.assertEqual(told(destination, _MIGRATION)[:2], ["MIGRATION setup", "MIGRATION active"])
        self.assertEqual(story(into), ["connected", "begin migrate_in", "end migrate_in: done"])

    async def test_the_source_goes_on_and_migrates_again(self) -> None:
        """That a migration is completed does not prove that its source is gone."""
        source, first, out, _ = await self.pair()
        second = await self.machine("second", incoming=True)
        await source.begin_migration_to(first)
        await out.until_said("end")
        await source.until_event("MIGRATION", status="completed")
        await self.until_run_state(source, "postmigrate")
        await source.execute("cont")
        await source.begin_migration_to(second)
        await out.until_said("end", 2)
        said = ["begin migrate_out", "end migrate_out: done"]
        self.assertEqual(story(out), ["connected", *said, *said])

    async def test_one_that_began_before_the_adapter(self) -> None:
        """QEMU does not let its events be switched on then, so that looks alone find its end."""
        source, destination = await self.machine("source"), await self.machine("destination", incoming=True)
        await source.execute("migrate-set-parameters", _SLOWLY)
        await source.begin_migration_to(destination)
        out = await self.watch(source.address)
        await out.until_said("begin")
        await source.execute("migrate_cancel")
        await out.until_said("end")
        self.assertEqual(source.of("MIGRATION"), [])
        self.assertEqual(story(out), ["connected", "begin migrate_out", "end migrate_out: cancelled"])

    async def until_run_state(self, machine: Machine, status: str) -> None:
        """Wait for a state that no event tells of."""
        while (await machine.execute("query-status"))["status"] != status:
            await deferLater(reactor, 0.005)


class Stops(Watched):
    """What stops a guest where it is."""

    async def test_stopped_and_continued(self) -> None:
        machine = await self.machine("machine")
        sink = await self.watch(machine.address, member="node3")
        await machine.execute("stop")
        await machine.execute("cont")
        await sink.until_said("end")
        self.assertEqual(story(sink), ["connected", "begin freeze", "end freeze: done"])
        self.assertEqual(sink.of("begin"), [("freeze", {"memory_bytes": 256 * _MIB}, "freeze", False, {"member": 3})])

    async def test_stopped_before_the_adapter_came(self) -> None:
        machine = await self.machine("machine")
        await machine.execute("stop")
        sink = await self.watch(machine.address)
        self.assertEqual(story(sink), ["connected", "begin freeze"])

    async def test_suspended_by_the_guest(self) -> None:
        machine = await self.machine("machine", guest=self.guest())
        sink = await self.watch(machine.address)
        machine.send_shell("echo mem > /sys/power/state")
        await sink.until_said("begin")
        await machine.execute("system_wakeup")
        await sink.until_said("end")
        self.assertEqual(story(sink), ["connected", "begin suspend", "end suspend: done"])
        self.assertEqual([event.name for event in machine.events], ["SUSPEND", "WAKEUP"])

    async def disk(self, machine: Machine) -> str:
        """A new disk that takes snapshots."""
        path = str(self.folder / "disk.qcow2")
        await self.job(machine, "blockdev-create", options={"driver": "file", "filename": path, "size": 0})
        await machine.execute("blockdev-add", {"driver": "file", "node-name": "file", "filename": path})
        options = {"driver": "qcow2", "file": "file", "size": 64 * _MIB}
        await self.job(machine, "blockdev-create", options=options)
        await machine.execute("blockdev-add", {"driver": "qcow2", "node-name": "qcow2", "file": "file"})
        return "qcow2"

    async def job(self, machine: Machine, command: str, **arguments: object) -> list[str]:
        """Have a job done; the events that it gave."""
        machine.events.clear()
        await machine.execute(command, {"job-id": "job0", **arguments})
        await machine.until_event("JOB_STATUS_CHANGE", status="concluded")
        await machine.execute("job-dismiss", {"id": "job0"})
        await machine.until_event("JOB_STATUS_CHANGE", status="null")
        return told(machine, _JOB)

    async def test_snapshots(self) -> None:
        machine = await self.machine("machine")
        sink = await self.watch(machine.address)
        disk = await self.disk(machine)
        self.assertEqual(story(sink), ["connected"])  # a job that is none
        snapshot = {"tag": "one", "vmstate": disk, "devices": [disk]}
        begun = [f"JOB_STATUS_CHANGE {status}" for status in ("created", "running")]
        ended = [f"JOB_STATUS_CHANGE {status}" for status in ("waiting", "pending", "concluded", "null")]
        events = await self.job(machine, "snapshot-save", **snapshot)
        self.assertEqual(events, [*begun, "STOP", "RESUME", *ended])
        events = await self.job(machine, "snapshot-load", **snapshot)
        self.assertEqual(events, [*begun, "STOP", "RESUME", *ended])
        await self.job(machine, "snapshot-delete", tag="one", devices=[disk])
        said = ["begin snapshot job:job0", "end job:job0: done"]
        self.assertEqual(story(sink), ["connected", *said, *said])

    async def test_a_snapshot_that_is_no_job(self) -> None:
        """To QEMU it is a migration of a guest that was stopped before."""
        machine = await self.machine("machine", guest=self.guest())
        sink = await self.watch(machine.address)
        disk = await self.disk(machine)
        await machine.execute("device_add", {"driver": "virtio-blk-pci", "drive": disk, "id": "disk1"})
        machine.events.clear()
        await machine.execute("device_del", {"id": "disk0"})
        await machine.until_event("DEVICE_DELETED", device="disk0")
        await machine.execute("blockdev-del", {"node-name": "disk"})
        said = await machine.execute("human-monitor-command", {"command-line": "savevm one"})
        self.assertEqual(said, "")
        await sink.until_said("end", 2)
        events = ["STOP", "MIGRATION setup", "MIGRATION completed", "RESUME"]
        self.assertEqual(told(machine, _MIGRATION), events)
        begun = ["connected", "begin freeze", "begin migrate_out"]
        self.assertEqual(story(sink), [*begun, "end migrate_out: done", "end freeze: done"])

    async def test_a_snapshot_that_cannot_be_loaded(self) -> None:
        """QEMU leaves the guest stopped."""
        machine = await self.machine("machine")
        sink = await self.watch(machine.address)
        disk = await self.disk(machine)
        events = await self.job(machine, "snapshot-load", tag="none", vmstate=disk, devices=[disk])
        self.assertEqual(events[2:4], ["STOP", "JOB_STATUS_CHANGE aborting"])
        await machine.execute("cont")
        await sink.until_said("end", 2)
        begun = ["connected", "begin snapshot job:job0", "begin freeze"]
        self.assertEqual(story(sink), [*begun, "end job:job0: failed", "end freeze: done"])

    async def test_stopped_while_some_other_job_runs(self) -> None:
        machine = await self.machine("machine")
        disk = await self.disk(machine)
        spare = {"driver": "null-co", "node-name": "spare", "size": 64 * _MIB}
        await machine.execute("blockdev-add", spare)
        mirror = {"device": disk, "target": "spare", "sync": "none", "job-id": "mirror"}
        await machine.execute("blockdev-mirror", mirror)
        sink = await self.watch(machine.address)
        await machine.execute("stop")
        await sink.until_said("begin")
        self.assertEqual(story(sink), ["connected", "begin freeze"])


class Hardware(Watched):
    """What comes and goes while the guest runs."""

    async def plugged(self, **options: Any) -> tuple[Machine, RecordingSink]:
        """A machine with a guest, and an adapter that tells of its hardware."""
        machine = await self.machine("machine", guest=self.guest())
        return machine, await self.watch(machine.address, **{"hotplug": True, "settle": "3s", **options})

    async def test_a_balloon(self) -> None:
        """QEMU tells of it once a second at most while the guest takes its time."""
        machine, sink = await self.plugged()
        await machine.execute("balloon", {"value": 200 * _MIB})
        await sink.until_said("end")
        self.assertEqual(machine.of("BALLOON_CHANGE")[-1].data, {"actual": 200 * _MIB})
        self.assertEqual(story(sink), ["connected", "begin memory balloon", "end balloon: done"])
        final = {"memory_bytes": 200 * _MIB, "memory_delta_bytes": -56 * _MIB}
        self.assertEqual(sink.of("update")[-1:], [("balloon", final)])

    async def test_a_cpu_comes_and_goes(self) -> None:
        machine, sink = await self.plugged(settle="100ms")
        await machine.execute("device_add", _A_CPU)
        await sink.until_said("end")
        await machine.shell("echo 1 > /sys/devices/system/cpu/cpu1/online")
        await machine.execute("device_del", {"id": "cpu1"})
        await sink.until_said("end", 2)
        await machine.until_event("ACPI_DEVICE_OST", times=3)
        slots = [event.data["info"] for event in machine.of("ACPI_DEVICE_OST")]
        self.assertEqual([(slot["source"], slot["status"]) for slot in slots], [(1, 0), (3, 132), (3, 0)])
        said = ["begin vcpu slot:CPU:1", "end slot:CPU:1: done"]
        self.assertEqual(story(sink), ["connected", *said, *said])
        self.assertEqual([facts for _, facts, *_ in sink.of("begin")], [{"vcpu_delta": 1}, {"vcpu_delta": -1}])

    async def test_memory_comes_and_goes(self) -> None:
        """Whether the guest can let it go again depends on what it has put there meanwhile."""
        machine, sink = await self.plugged(settle="100ms")
        backend = {"qom-type": "memory-backend-ram", "id": "more", "size": 128 * _MIB}
        await machine.execute("object-add", backend)
        await machine.execute("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "more"})
        await sink.until_said("end")
        plugged = {"memory_bytes": 384 * _MIB, "memory_delta_bytes": 128 * _MIB}
        self.assertEqual(sink.of("update"), [("slot:DIMM:0", plugged)])
        await machine.execute("device_del", {"id": "dimm1"})
        await sink.until_said("end", 2)
        await machine.until_event("ACPI_DEVICE_OST", times=3)
        slots = [event.data["info"] for event in machine.of("ACPI_DEVICE_OST")]
        self.assertEqual([(slot["source"], slot["status"]) for slot in slots[:2]], [(1, 0), (3, 132)])
        begun, outcome = "begin memory slot:DIMM:0", "failed" if slots[2]["status"] else "done"
        self.assertEqual(
            story(sink), ["connected", begun, "end slot:DIMM:0: done", begun, f"end slot:DIMM:0: {outcome}"]
        )

    async def test_a_network_card_goes(self) -> None:
        machine, sink = await self.plugged(settle="100ms")
        await machine.execute("device_del", {"id": "net0"})
        await sink.until_said("end")
        self.assertEqual(story(sink), ["connected", "begin device device:net0", "end device:net0: done"])
        self.assertEqual([event.data.get("device") for event in machine.events], [None, "net0"])

    async def test_none_of_it_is_told_unless_wanted(self) -> None:
        machine, sink = await self.plugged(hotplug=False)
        await machine.execute("device_add", _A_CPU)
        await machine.until_event("ACPI_DEVICE_OST")
        await machine.execute("stop")
        await sink.until_said("begin")
        self.assertEqual(story(sink), ["connected", "begin freeze"])


class Reconnecting(Watched):
    """QEMUs that come, go and hang."""

    async def test_a_guest_that_wanders(self) -> None:
        wanderer = await self.wanderer()
        sink = await self.watch(wanderer.address)
        await wanderer.move()
        await sink.until_said("connected", 2)
        await wanderer.move()
        await sink.until_said("connected", 3)
        once = ["begin migrate_out", "end migrate_out: done", "lost", "connected"]
        self.assertEqual(story(sink), ["connected", *once, *once])

    async def test_a_change_that_ended_while_nobody_listened(self) -> None:
        """What vanished with its QEMU has ended; what the next one does is begun."""
        first = await self.machine("first")
        sink = await self.watch(first.address)
        destination = await self.machine("destination", incoming=True)
        await first.execute("migrate-set-parameters", _SLOWLY)
        await first.begin_migration_to(destination)
        await sink.until_said("begin")
        await first.stop()
        second = await self.machine("second", "-S")
        first.socket.unlink(missing_ok=True)
        first.socket.symlink_to(second.socket)
        await second.execute("cont")
        await second.execute("stop")
        await sink.until_said("end")
        told = ["connected", "begin migrate_out", "lost"]
        self.assertEqual(
            [line for line in story(sink) if line != "lost"],
            ["connected", "begin migrate_out", "connected", "begin freeze", "end migrate_out: failed"],
        )
        self.assertEqual(story(sink)[:3], told)

    async def test_a_qemu_that_hangs(self) -> None:
        machine = await self.machine("machine")
        sink = await self.watch(machine.address, timeout="200ms", poll_idle="100ms")
        machine.signal("STOP")
        await sink.until_said("lost", 2)
        machine.signal("CONT")
        await sink.until_said("connected", 2)
        problems = [problem.partition(": ")[2] for (problem,) in sink.of("lost")]
        self.assertIn("no answer to query-", problems[0])
        self.assertIn("no greeting within 200ms", problems[1])

    async def test_a_socket_that_is_taken(self) -> None:
        """QEMU serves one client at a time."""
        machine = await self.machine("machine")
        other = await UNIXClientEndpoint(reactor, str(machine.socket)).connect(Factory.forProtocol(Protocol))
        adapter = qmp.make({"socket": machine.address, "timeout": "200ms"}, surroundings(reactor))
        sink = RecordingSink()
        self.addCleanup(lambda: maybeDeferred(adapter.stop))
        adapter.start(sink)
        await sink.until_said("lost")
        other.transport.loseConnection()
        await sink.until_said("connected")
        self.assertIn("no greeting within 200ms", sink.of("lost")[0][0])
