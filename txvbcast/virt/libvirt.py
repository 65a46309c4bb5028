"""Adapter ``libvirt``: hears of migrations, saves, snapshots and hot-plug of guests from a libvirt daemon.

Two sources, and each corrects the other.  Events are quick, but some of what happens has none: the end of a
migration that was cancelled or failed, a number of virtual CPUs.  So the guests are also looked at every so often,
in a thread; a look sees a migration even before its first event, while the destination prepares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import libvirt
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from txvbcast.interfaces import IChangeAdapter, IChangeSink, Surroundings
from txvbcast.virt.libvirt_events import Connection, Event, Guest, Lane, Mailbox, event_thread
from txvbcast.virt.options import Options
from txvbcast.virt.polling import Poller, Unreachable

#: Guests whose state is asked for in one look; where there are more, it is their turn in one of the next.
LOOK_GUESTS_MAX = 16
#: Threads in which calls may hang before no more are made.
HUNG_MAX = 4
#: How long the end of the adapter waits for libvirt to take leave.
LEAVE_S = 1.0


@attrs.frozen
class Subject:
    """Whose change it is when something happens to a guest.

    :ivar is_host: the node hosts the guest; else a node runs in it.
    :ivar member: the node id of that node, None for this one.
    """

    is_host: bool
    member: int | None = None


@attrs.frozen
class Settings:
    """The options, read.

    :ivar hosted: names or UUIDs of guests that this node hosts, or ``*``.
    :ivar inhabited: the node that runs in a guest, by the guest's name or UUID.
    """

    uri: str
    hosted: frozenset[str]
    inhabited: Mapping[str, Subject]
    interval_s: float
    timeout_s: float
    settle_s: float
    keepalive_s: float
    hotplug: bool

    def subject(self, uuid: str, name: str) -> Subject | None:
        """Whose changes the guest's are; None for nobody's."""
        found = self.inhabited.get(name) or self.inhabited.get(uuid)
        if found is None and self.hosted & {"*", name, uuid}:
            return Subject(is_host=True)
        return found


def make(options: Mapping[str, object], surroundings: Surroundings) -> IChangeAdapter:
    """The adapter.

    :raises ValueError: an option is unknown or cannot be used.
    """
    return LibvirtAdapter(read_settings(options, surroundings), surroundings.reactor)


def read_settings(options: Mapping[str, object], surroundings: Surroundings) -> Settings:
    """The options.

    :raises ValueError: one is unknown or cannot be used.
    """
    given = Options(options)
    inhabited = dict(_inhabited(text, surroundings) for text in given.texts("members"))
    within = any(subject.member is None for subject in inhabited.values())
    settings = Settings(
        uri=given.text("uri", "qemu:///system"),
        hosted=frozenset(given.texts("domains", () if within else ("*",))),
        inhabited=inhabited,
        interval_s=given.duration_s("interval", "500ms", least_s=0.05),
        timeout_s=given.duration_s("timeout", "20s"),
        settle_s=given.duration_s("settle", "1s"),
        keepalive_s=given.duration_s("keepalive", "5s", least_s=1.0),
        hotplug=given.flag("hotplug", False),
    )
    given.finish()
    if not settings.hosted and not inhabited:
        raise ValueError("domains: with none of them, and no members, there is nothing to hear of")
    return settings


def _inhabited(text: str, surroundings: Surroundings) -> tuple[str, Subject]:
    guest, equals, member = text.partition("=")
    if not guest or not equals:
        raise ValueError(f"members: expected GUEST=MEMBER, got {text!r}")
    if member not in surroundings.members:
        known = ", ".join(surroundings.members)
        raise ValueError(f"members: {text!r}: there is no member {member!r}; expected one of: {known}")
    node_id = surroundings.members[member]
    return guest, Subject(is_host=False, member=None if node_id == surroundings.node_id else node_id)


# --- what libvirt says, in our words ----------------------------------------------------------


def job_kind(job: Mapping[str, Any], subject: Subject) -> str | None:
    """The kind of change that a job of a guest is; None for one that is none, or for no job at all."""
    operation = job.get("operation")
    if operation == libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE:
        return "snapshot" if subject.is_host else "suspend"
    if operation == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
        return "migrate_out"
    if operation in (
        libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT,
        libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT,
        libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP,
        libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP,
    ):
        return "snapshot"
    return None


def job_facts(job: Mapping[str, Any]) -> dict[str, object]:
    """Facts from job statistics, without those that libvirt does not know yet."""
    facts: dict[str, object] = {}
    if _number(job, "memory_total"):
        facts["memory_bytes"] = _number(job, "memory_total")
        facts["remaining_bytes"] = _number(job, "memory_remaining") + _number(job, "disk_remaining")
    if _number(job, "memory_bps"):
        facts["bandwidth_bytes_per_s"] = _number(job, "memory_bps") + _number(job, "disk_bps")
    if _number(job, "memory_dirty_rate"):
        facts["dirty_bytes_per_s"] = _number(job, "memory_dirty_rate") * _number(job, "memory_page_size")
    if _number(job, "memory_iteration") > 1:  # before that it only repeats the limit
        facts["downtime_s"] = _number(job, "downtime") / 1000
    if job.get("type") == libvirt.VIR_DOMAIN_JOB_BOUNDED and _number(job, "time_remaining"):
        facts["expected_s"] = _number(job, "time_remaining") / 1000
    return facts


def _number(job: Mapping[str, Any], name: str) -> int:
    value = job.get(name, 0)
    return value if isinstance(value, int) and value > 0 else 0


def device_kind(alias: str) -> str:
    """The kind of change that a device's coming or going is, from the alias that libvirt gave it."""
    for kind, prefixes in _DEVICES.items():
        if alias.startswith(prefixes):
            return kind
    return "device"


_DEVICES = {
    "memory": ("dimm", "memdimm", "memnvdimm", "virtiomem", "virtiopmem"),
    "network": ("net", "hostdev-net"),
    "storage": ("virtio-disk", "scsi", "ide", "sata", "usb-disk", "nvme"),
    "vcpu": ("vcpu",),
}

_TUNABLES = {"cputune.": "vcpu", "blkdeviotune.": "storage"}

#: Kinds that last as long as a job of libvirt does.
_OF_JOBS = ("migrate_out", "snapshot")
#: Kinds that stop a guest, or keep its host busy.
PAUSES = ("migrate_out", "migrate_in", "snapshot", "suspend")
#: Kinds of which libvirt tells only that they have happened: they end when it has been quiet about them.
_SETTLING = ("memory", "vcpu", "device", "network", "storage")


# --- the adapter ------------------------------------------------------------------------------


@implementer(IChangeAdapter)
class LibvirtAdapter:
    """Changes of the guests of one libvirt daemon.

    A change is named by its kind and the guest's UUID: a guest has one of a kind at a time.
    """

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self.kinds = PAUSES + _SETTLING if settings.hotplug else PAUSES
        self._settings = settings
        self._reactor = reactor
        self._poller = Poller(reactor, self._poll, settings.interval_s, settings.timeout_s, self._lost)
        self._sink: IChangeSink = None  # type: ignore[assignment]  # until it is started
        self._line: _Line | None = None
        self._left: list[_Line] = []
        self._guests: dict[str, Guest] = {}
        self._turn: list[str] = []
        self._settling: dict[str, IDelayedCall] = {}
        self._facts: dict[str, Mapping[str, object]] = {}
        #: What events have said since the look that is under way began: they know better.
        self._told: set[str] = set()

    def start(self, sink: IChangeSink) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.start`."""
        self._sink = sink
        event_thread.acquire()
        self._poller.start()

    def stop(self) -> Deferred[None]:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.stop`; it takes :data:`LEAVE_S` at most."""
        self._poller.stop()
        self._leave()
        for timer in self._settling.values():
            timer.cancel()
        self._settling.clear()
        leaving = DeferredList([line.left for line in self._left], consumeErrors=True)
        return leaving.addTimeout(LEAVE_S, self._reactor).addBoth(lambda _: event_thread.release())

    # --- the connection ---

    async def _poll(self) -> None:
        line = self._line
        try:
            if line is None:
                line = self._line = self._new_line()
                line.host = await line.lane.call(line.connection.open)
            self._told.clear()
            guests = await line.lane.call(line.connection.list_guests)
            chosen = self._choose(guests)
            seen = await line.lane.call(lambda: line.connection.look(chosen))
        except libvirt.libvirtError as error:
            self._leave()
            raise Unreachable(
                f"{self._settings.uri}: {error.get_error_message()}; does libvirt run there, and may this user use it?"
            ) from error
        except CancelledError:
            self._leave()
            raise
        if line is not self._line:
            return  # it was closed meanwhile
        if not line.heard:
            line.heard = True
            self._sink.connected(f"{self._settings.uri} on {line.host}")
        self._reconcile(guests, seen)

    def _new_line(self) -> _Line:
        self._left = [line for line in self._left if line.lane.thread.is_alive()]
        if len(self._left) >= HUNG_MAX:
            raise Unreachable(f"{self._settings.uri}: {len(self._left)} calls hang; no more are made until one returns")
        mailbox = Mailbox(self._reactor, self._on_mail)
        connection = Connection(self._settings.uri, self._settings.keepalive_s, mailbox)
        return _Line(Lane(self._reactor), connection, mailbox)

    def _leave(self) -> None:
        """Have the connection closed, now or when the call that hangs in it has returned."""
        line, self._line = self._line, None
        if line is not None:
            line.leave()
            self._left.append(line)

    def _lost(self, problem: str) -> None:
        self._sink.lost(problem)

    def _on_mail(self, mail: Event | str) -> None:
        if isinstance(mail, str):
            self._leave()
            self._lost(f"{self._settings.uri}: {mail}; it is tried again")
            return
        subject = self._settings.subject(mail.uuid, mail.name)
        handle = _HANDLERS.get(mail.event)
        if subject is not None and handle is not None:
            handle(self, mail, subject)

    # --- looking ---

    def _choose(self, guests: Sequence[Guest]) -> list[Guest]:
        """Whom to ask for their state: all that something happens to, of the others as many as may be, in turn."""
        mine = {guest.uuid: guest for guest in guests if self._settings.subject(guest.uuid, guest.name) is not None}
        turn = [uuid for uuid in self._turn if uuid in mine]
        turn += [uuid for uuid in mine if uuid not in turn]
        self._turn = turn[LOOK_GUESTS_MAX:] + turn[:LOOK_GUESTS_MAX]
        busy = {source_id.partition(" ")[2] for source_id in self._sink.under_way()}
        return [mine[uuid] for uuid in mine if uuid in turn[:LOOK_GUESTS_MAX] or uuid in busy]

    def _reconcile(self, guests: Sequence[Guest], seen: Sequence[Guest]) -> None:
        """Begin what was missed, end what is over.

        :param guests: all that run.
        :param seen: those whose state was asked for.
        """
        running = {guest.uuid: guest for guest in guests}
        for source_id in self._sink.under_way():
            kind, _, uuid = source_id.partition(" ")
            if uuid not in running and kind not in _SETTLING and source_id not in self._told:
                self._end_gone(kind, uuid)
        before = self._guests
        self._guests = {uuid: before.get(uuid, guest) for uuid, guest in running.items()}
        for guest in seen:
            subject = self._settings.subject(guest.uuid, guest.name)
            if subject is not None and (guest.job is not None or guest.incoming):
                self._reconcile_guest(guest, subject)
                self._guests[guest.uuid] = guest

    def _end_gone(self, kind: str, uuid: str) -> None:
        """End a change of a guest that does not run here any more."""
        if kind != "suspend":  # it may have been saved, and go on later
            self._end(kind, uuid, "done" if kind == "migrate_out" else "failed")

    def _reconcile_guest(self, guest: Guest, subject: Subject) -> None:
        now = self._changes_of(guest, subject)
        for kind in PAUSES:
            if f"{kind} {guest.uuid}" in self._told:
                continue
            if kind in now:
                self._begin(kind, guest.uuid, subject, now[kind])
            else:
                # libvirt does not tell why a migration has ended of which it does not say that it is completed
                self._end(kind, guest.uuid, "cancelled" if kind == "migrate_out" else "done")
        self._compare_sizes(guest, subject)

    def _changes_of(self, guest: Guest, subject: Subject) -> dict[str, dict[str, object]]:
        """The facts of each change that a guest is in, as far as a look can see."""
        job = guest.job or {}
        changes: dict[str, dict[str, object]] = {}
        kind = job_kind(job, subject)
        if kind is not None:
            changes[kind] = job_facts(job)
        if guest.incoming:
            changes["migrate_in"] = {"memory_bytes": guest.memory_bytes}
        elif guest.paused and subject.member is not None and kind != "migrate_out":
            changes.setdefault("suspend", {})
        return changes

    def _compare_sizes(self, guest: Guest, subject: Subject) -> None:
        before = self._guests.get(guest.uuid)
        if before is None or not before.vcpus or before.incoming or guest.incoming:
            return
        if guest.vcpus != before.vcpus:
            self._settle("vcpu", guest.uuid, subject, {"vcpu_delta": guest.vcpus - before.vcpus})
        if guest.memory_bytes != before.memory_bytes:
            self._resized(guest.uuid, subject, guest.memory_bytes)

    # --- events ---

    def on_lifecycle(self, event: Event, subject: Subject) -> None:
        """A guest starts, stops, is suspended or goes on."""
        what, detail = event.facts
        handle = {
            libvirt.VIR_DOMAIN_EVENT_STARTED: self._on_started,
            libvirt.VIR_DOMAIN_EVENT_RESUMED: self._on_resumed,
            libvirt.VIR_DOMAIN_EVENT_SUSPENDED: self._on_suspended,
            libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: self._on_pm_suspended,
            libvirt.VIR_DOMAIN_EVENT_STOPPED: self._on_stopped,
        }.get(what)
        if handle is not None:
            handle(event.uuid, subject, detail)

    def _on_started(self, uuid: str, subject: Subject, detail: int) -> None:
        if detail == libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED:
            self._begin("migrate_in", uuid, subject)
        else:
            self._end("suspend", uuid, "done")

    def _on_resumed(self, uuid: str, subject: Subject, detail: int) -> None:
        self._note_paused(uuid, False)
        self._end("suspend", uuid, "done")
        if detail != libvirt.VIR_DOMAIN_EVENT_RESUMED_POSTCOPY:  # it runs, but its memory is still on the way
            self._end("migrate_in", uuid, "done")

    def _on_suspended(self, uuid: str, subject: Subject, detail: int) -> None:
        self._note_paused(uuid, True)
        moving = (libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY)
        if detail not in moving:
            self._on_pm_suspended(uuid, subject, detail)
        elif not subject.is_host and subject.member is None:
            # The node that hears this runs in the guest: so it runs again, over there. The source's STOPPED
            # comes more than a second later.
            self._end("migrate_out", uuid, "done")

    def _on_pm_suspended(self, uuid: str, subject: Subject, detail: int) -> None:
        if subject.member is not None:  # a host goes on; a node in the guest hears of it when it is over
            self._begin("suspend", uuid, subject)

    def _on_stopped(self, uuid: str, subject: Subject, detail: int) -> None:
        self._end("migrate_out", uuid, "done" if detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED else "failed")
        self._end("migrate_in", uuid, "failed")
        if detail != libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED:
            self._end("suspend", uuid, "failed")
            self._end("snapshot", uuid, "failed")

    def on_migration_iteration(self, event: Event, subject: Subject) -> None:
        """Memory is being copied: to another host, or, of a paused guest, perhaps to a file; then a look tells."""
        guest = self._guests.get(event.uuid)
        job_is_known = any(f"{kind} {event.uuid}" in self._sink.under_way() for kind in ("snapshot", "suspend"))
        if not job_is_known and not (guest is not None and guest.paused):
            self._begin("migrate_out", event.uuid, subject)

    def on_job_completed(self, event: Event, subject: Subject) -> None:
        """A job has ended well, or with an error that its statistics tell."""
        (job,) = event.facts
        completed = job_kind(job, subject)
        outcome = "done" if job.get("success", True) else "failed"
        for kind in _OF_JOBS:
            self._end(kind, event.uuid, outcome if kind == completed else "cancelled")

    def on_balloon_change(self, event: Event, subject: Subject) -> None:
        """The guest's memory has another size, in KiB."""
        self._resized(event.uuid, subject, event.facts[0] * 1024)

    def on_device(self, event: Event, subject: Subject) -> None:
        """A device has come or is gone."""
        self._settle(device_kind(event.facts[0]), event.uuid, subject, {})

    def on_tunable(self, event: Event, subject: Subject) -> None:
        """Limits of the guest have been changed."""
        for prefix, kind in _TUNABLES.items():
            if any(name.startswith(prefix) for name in event.facts[0]):
                self._settle(kind, event.uuid, subject, {})

    def on_memory_device(self, event: Event, subject: Subject) -> None:
        """A memory device has another size."""
        self._settle("memory", event.uuid, subject, {})

    def on_vcpu_removed(self, event: Event, subject: Subject) -> None:
        """A virtual CPU is gone."""
        self._settle("vcpu", event.uuid, subject, {})

    # --- changes ---

    def _begin(self, kind: str, uuid: str, subject: Subject, facts: Mapping[str, object] | None = None) -> None:
        """Begin a change, or bring it up to date."""
        source_id, known = f"{kind} {uuid}", dict(facts or {})
        self._told.add(source_id)
        if source_id not in self._sink.under_way():
            self._sink.begin(kind, known, source_id, holdable=False, member=subject.member)
        elif known and known != self._facts.get(source_id):
            self._sink.update(source_id, known)
        self._facts[source_id] = known

    def _end(self, kind: str, uuid: str, outcome: str) -> None:
        source_id = f"{kind} {uuid}"
        self._told.add(source_id)
        self._facts.pop(source_id, None)
        if source_id in self._sink.under_way():
            self._sink.end(source_id, outcome)

    def _settle(self, kind: str, uuid: str, subject: Subject, facts: Mapping[str, object]) -> None:
        """Begin a change, or go on with it; it ends when there has been no word of it for a while."""
        if not self._settings.hotplug:
            return
        self._begin(kind, uuid, subject, facts)
        timer = self._settling.pop(f"{kind} {uuid}", None)
        if timer is not None:
            timer.cancel()
        self._settling[f"{kind} {uuid}"] = self._reactor.callLater(self._settings.settle_s, self._settled, kind, uuid)

    def _settled(self, kind: str, uuid: str) -> None:
        del self._settling[f"{kind} {uuid}"]
        self._end(kind, uuid, "done")

    def _resized(self, uuid: str, subject: Subject, memory_bytes: int) -> None:
        facts = {"memory_bytes": memory_bytes}
        guest = self._guests.get(uuid)
        if guest is not None and guest.vcpus:
            facts["memory_delta_bytes"] = memory_bytes - guest.memory_bytes
            self._guests[uuid] = attrs.evolve(guest, memory_bytes=memory_bytes)
        self._settle("memory", uuid, subject, facts)

    def _note_paused(self, uuid: str, paused: bool) -> None:
        if uuid in self._guests:
            self._guests[uuid] = attrs.evolve(self._guests[uuid], paused=paused)


@attrs.define(eq=False)
class _Line:
    """A connection with the thread that makes its calls."""

    lane: Lane
    connection: Connection
    mailbox: Mailbox
    host: str = ""
    heard: bool = False
    left: Deferred[None] = attrs.field(init=False)

    def leave(self) -> None:
        self.mailbox.close()
        self.left = self.lane.finish(self.connection.close)


_HANDLERS: dict[str, Callable[[LibvirtAdapter, Event, Subject], None]] = {
    "LIFECYCLE": LibvirtAdapter.on_lifecycle,
    "MIGRATION_ITERATION": LibvirtAdapter.on_migration_iteration,
    "JOB_COMPLETED": LibvirtAdapter.on_job_completed,
    "BALLOON_CHANGE": LibvirtAdapter.on_balloon_change,
    "DEVICE_ADDED": LibvirtAdapter.on_device,
    "DEVICE_REMOVED": LibvirtAdapter.on_device,
    "TUNABLE": LibvirtAdapter.on_tunable,
    "MEMORY_DEVICE_SIZE_CHANGE": LibvirtAdapter.on_memory_device,
    "VCPU_REMOVED": LibvirtAdapter.on_vcpu_removed,
}
