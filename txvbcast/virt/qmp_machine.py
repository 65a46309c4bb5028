"""What QEMU has said last of its virtual machine, and which changes are under way by that.

Events and looks (answers to questions) both lead here; the changes follow from the state alone, so that a
missed event costs time and nothing else.  No connection, no clock.

Facts about QEMU were found with version 7.2; its ``qapi/migration.json`` and ``qapi/run-state.json`` have the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs
import msgspec

from txvbcast.virt.qmp_protocol import Event

#: The kinds of change that stop a guest.
PAUSES: Final = ("migrate_out", "migrate_in", "freeze", "suspend", "snapshot")

#: The kinds that do not: a guest whose hardware changes runs on.
PLUGS: Final = ("memory", "vcpu", "device")

#: So many jobs, and pieces of hardware that come or go, are remembered, and so much of their names.
_JOBS_MAX: Final = 100
_PLUGS_MAX: Final = 100
_NAME_CHARS_MAX: Final = 100

#: A migration in one of these states is over, or there was none; in any other it is under way.
_OUTCOMES: Final = {"completed": "done", "cancelled": "cancelled", "failed": "failed"}
_OVER: Final = ("none", *_OUTCOMES)

#: The guest runs at the destination already, and stands still again: its memory has not all arrived.
_BROKEN_POSTCOPY: Final = ("postcopy-paused", "postcopy-recover-setup", "postcopy-recover")

#: States of a machine that stands still and is meant to go on.
_FROZEN: Final = ("paused", "io-error", "watchdog", "debug", "save-vm", "restore-vm")
_DEAD: Final = ("guest-panicked", "internal-error", "shutdown")

_SNAPSHOTS: Final = ("snapshot-save", "snapshot-load")
_JOB_ACTIVE: Final = ("created", "running", "paused", "aborting")

#: ACPI's words for what a guest does with hardware: it is to take it out, and it has not finished.
#: 0 is success, any other status a refusal.
_TAKEN_OUT: Final = (3, 0x103)
_IN_PROGRESS: Final = (0x80, 0x84)
_SLOTS: Final = {"DIMM": "memory", "CPU": "vcpu"}


class RunState(msgspec.Struct, frozen=True):
    """An answer to ``query-status``."""

    status: str


class Ram(msgspec.Struct, frozen=True, rename="kebab"):
    """How far the guest's memory has been copied; rates are averages over QEMU's last tenth of a second."""

    total: int
    remaining: int
    page_size: int = 4096
    pages_per_second: float = 0
    dirty_pages_rate: float = 0
    dirty_sync_count: int = 0


class Migration(msgspec.Struct, frozen=True, rename="kebab"):
    """An answer to ``query-migrate``."""

    status: str = "none"
    expected_downtime: float | None = None
    ram: Ram | None = None

    def facts(self) -> dict[str, object]:
        """How far it is, as :data:`txvbcast.interfaces.FACTS`.

        Pages count here whether or not they are empty, as they do in ``remaining``: what went over the wire
        (``mbps``) says less of how long the rest will take.  The rate at which the guest changes pages, and the
        downtime that follows from it, are measured from the second pass on; before that QEMU gives what it was
        configured with.
        """
        if self.ram is None:
            return {}
        ram = self.ram
        facts: dict[str, object] = {"memory_bytes": ram.total, "remaining_bytes": ram.remaining}
        if ram.pages_per_second > 0:
            facts["bandwidth_bytes_per_s"] = round(ram.pages_per_second * ram.page_size)
        if ram.dirty_sync_count >= 2:
            facts["dirty_bytes_per_s"] = round(ram.dirty_pages_rate * ram.page_size)
            if self.expected_downtime is not None:
                facts["downtime_s"] = self.expected_downtime / 1000
        return facts


class Job(msgspec.Struct, frozen=True):
    """One of the answers to ``query-jobs``; without a type while only an event has told of it."""

    id: str
    status: str
    type: str = ""
    error: str = ""

    @property
    def may_stop_the_guest(self) -> bool:
        """Only a snapshot does, and what is not known may be one: QEMU answers no question while it makes it."""
        return self.status in _JOB_ACTIVE and (not self.type or self.type in _SNAPSHOTS)

    @property
    def has_failed(self) -> bool:
        """A job that cannot be done says so before it is concluded."""
        return self.status == "aborting" or bool(self.error)


class MemorySize(msgspec.Struct, frozen=True, rename="kebab"):
    """An answer to ``query-memory-size-summary``."""

    base_memory: int
    plugged_memory: int = 0


class Balloon(msgspec.Struct, frozen=True):
    """An answer to ``query-balloon``, and what ``BALLOON_CHANGE`` says."""

    actual: int


@attrs.frozen
class Look:
    """Everything that was asked at one time; None for what this QEMU cannot tell."""

    run_state: RunState
    migration: Migration
    jobs: list[Job] | None = None
    memory: MemorySize | None = None
    balloon: Balloon | None = None


@attrs.frozen
class Change:
    """A change that is under way."""

    kind: str
    facts: Mapping[str, object]


class _Status(msgspec.Struct, frozen=True):
    status: str


class _JobStatus(msgspec.Struct, frozen=True):
    id: str
    status: str


class _Sized(msgspec.Struct, frozen=True, rename="kebab"):
    qom_path: str
    id: str = ""


class _Deleted(msgspec.Struct, frozen=True):
    device: str = ""


class _Slot(msgspec.Struct, frozen=True, rename="kebab"):
    slot: str
    slot_type: str
    source: int
    status: int
    device: str = ""


class _SlotStatus(msgspec.Struct, frozen=True):
    info: _Slot


@attrs.frozen
class _Plug:
    """Hardware that comes or goes.

    :ivar until_s: when it counts as settled unless more is heard of it; infinity if its end will be told.
    """

    change: Change
    device: str
    until_s: float


class Machine:
    """The virtual machine.

    :param settle_s: hardware that came or went counts as settled when so long nothing more was heard of it.
    :param plugs: whether hardware counts at all.
    """

    def __init__(self, plugs: bool, settle_s: float) -> None:
        self._settle_s = settle_s
        self._run_state = "running"
        self._migration = Migration()
        self._incoming = False
        self._jobs: dict[str, Job] = {}
        self._saving = ""  # the job that stopped the guest; to save it, QEMU migrates it into a file, and says so
        self._memory_bytes = 0
        self._balloon_bytes = 0
        self._plugs: dict[str, _Plug] = {}
        self._plug_outcomes: dict[str, str] = {}
        self._on: dict[str, Callable[[Mapping[str, object], float], None]] = {
            "MIGRATION": self._on_migration,
            "STOP": self._on_stop,
            "RESUME": self._on_resume,
            "SUSPEND": self._on_suspend,
            "SUSPEND_DISK": self._on_suspend,
            "WAKEUP": self._on_resume,
            "JOB_STATUS_CHANGE": self._on_job,
        }
        if plugs:
            self._on |= {
                "BALLOON_CHANGE": self._on_balloon,
                "MEMORY_DEVICE_SIZE_CHANGE": self._on_memory_device,
                "ACPI_DEVICE_OST": self._on_slot,
                "DEVICE_DELETED": self._on_deleted,
            }

    # --- what is under way ---------------------------------------------------------------------

    @property
    def migrates(self) -> bool:
        """Whether a migration is under way, in or out."""
        # A destination is in setup while it waits for a source, and nobody knows for how long.
        return self._migration.status not in _OVER and not (self._incoming and self._migration.status == "setup")

    @property
    def has_plugs(self) -> bool:
        """Whether hardware comes or goes."""
        return bool(self._plugs)

    def changes(self, now_s: float) -> dict[str, Change]:
        """What is under way, by its name for the sink."""
        self._plugs = {name: plug for name, plug in self._plugs.items() if now_s < plug.until_s}
        kinds = [kind for kind, is_so in self._pauses().items() if is_so]
        changes = {kind: Change(kind, self._facts(kind)) for kind in kinds}
        if self._saves():
            changes[f"job:{self._saving}"] = Change("snapshot", self._facts("snapshot"))
        return changes | {name: plug.change for name, plug in self._plugs.items()}

    def _pauses(self) -> dict[str, bool]:
        status = self._migration.status
        waits = self._run_state == "inmigrate" or status in _BROKEN_POSTCOPY
        gives_up = self._run_state == "finish-migrate" and status in ("failed", "cancelled")
        return {
            "migrate_in": self._incoming and self.migrates and waits,
            "migrate_out": not self._incoming and not self._saving and (self.migrates or gives_up),
            "freeze": self._run_state in _FROZEN and not self._saves(),
            "suspend": self._run_state == "suspended",
        }

    def _saves(self) -> bool:
        job = self._jobs.get(self._saving)
        return self._run_state in _FROZEN and job is not None and job.may_stop_the_guest

    def _facts(self, kind: str) -> dict[str, object]:
        known: dict[str, object] = {"memory_bytes": self._memory_bytes} if self._memory_bytes else {}
        return known | self._migration.facts() if kind == "migrate_out" else known

    def outcome(self, name: str) -> str:
        """How a change that is no longer among :meth:`changes` has ended."""
        if name in ("migrate_out", "migrate_in"):
            has_moved = name == "migrate_in" and self._run_state == "running"
            return "done" if has_moved else _OUTCOMES.get(self._migration.status, "failed")
        if name.startswith("job:"):
            job = self._jobs.get(name.removeprefix("job:"))
            return "failed" if job is not None and job.has_failed else "done"
        if name in ("freeze", "suspend"):
            return "failed" if self._run_state in _DEAD else "done"
        return self._plug_outcomes.pop(name, "done")

    # --- looks -----------------------------------------------------------------------------------

    def see(self, look: Look) -> None:
        """What QEMU answers holds, whatever was heard before."""
        self._run_state = look.run_state.status
        if self._run_state not in _FROZEN:
            self._saving = ""
        self._incoming = self._run_state == "inmigrate" or (self._incoming and look.migration.status not in _OVER)
        self._migration = look.migration
        self._jobs = {_short(job.id): job for job in (look.jobs or [])[:_JOBS_MAX]}
        self._see_memory(look)

    def _see_memory(self, look: Look) -> None:
        if look.balloon is not None and "balloon" not in self._plugs:
            self._balloon_bytes = look.balloon.actual
        if look.memory is None:
            return
        memory_bytes = look.memory.base_memory + look.memory.plugged_memory
        slots = [name for name, plug in self._plugs.items() if plug.change.kind == "memory" and name != "balloon"]
        for name in slots:
            facts = {"memory_bytes": memory_bytes, "memory_delta_bytes": memory_bytes - self._memory_bytes}
            self._plugs[name] = attrs.evolve(self._plugs[name], change=Change("memory", facts))
        if not slots:
            self._memory_bytes = memory_bytes

    # --- events ------------------------------------------------------------------------------------

    def hear(self, event: Event, now_s: float) -> bool:
        """Take an event; False for one that means nothing here.

        :raises msgspec.ValidationError: it is not as QEMU's events of that name are.
        """
        on_event = self._on.get(event.name)
        if on_event is None:
            return False
        on_event(event.data, now_s)
        return True

    def _on_migration(self, data: Mapping[str, object], _: float) -> None:
        status = msgspec.convert(data, _Status).status
        # What the last migration had copied says nothing of a new one.
        self._migration = (
            Migration(status) if status == "setup" else msgspec.structs.replace(self._migration, status=status)
        )
        if status == "completed" and not self._incoming and not self._saving and self._run_state != "running":
            self._run_state = "postmigrate"
        self._incoming = self._incoming and status not in _OVER

    def _on_stop(self, _: Mapping[str, object], __: float) -> None:
        saving = [name for name, job in self._jobs.items() if job.may_stop_the_guest]
        if not self._incoming and self.migrates:
            self._run_state = "finish-migrate"
        elif saving:
            self._run_state, self._saving = "save-vm", saving[-1]
        else:
            self._run_state = "paused"

    def _on_resume(self, _: Mapping[str, object], __: float) -> None:
        self._run_state, self._saving = "running", ""

    def _on_suspend(self, _: Mapping[str, object], __: float) -> None:
        self._run_state = "suspended"

    def _on_job(self, data: Mapping[str, object], _: float) -> None:
        said = msgspec.convert(data, _JobStatus)
        name = _short(said.id)
        known = self._jobs.pop(name, None)
        if said.status == "null":
            return
        if len(self._jobs) >= _JOBS_MAX:
            del self._jobs[next(iter(self._jobs))]
        if known is not None and known.has_failed:
            self._jobs[name] = Job(name, said.status, known.type, known.error or "it was aborted")
        else:
            self._jobs[name] = Job(name, said.status, known.type if known is not None else "")

    # --- hardware ------------------------------------------------------------------------------------

    def _on_balloon(self, data: Mapping[str, object], now_s: float) -> None:
        actual = msgspec.convert(data, Balloon).actual
        facts = {"memory_bytes": actual, "memory_delta_bytes": actual - (self._balloon_bytes or self._memory_bytes)}
        self._plug("balloon", "memory", facts, now_s + self._settle_s)

    def _on_memory_device(self, data: Mapping[str, object], now_s: float) -> None:
        name = msgspec.convert(data, _Sized)
        self._plug(f"size:{_short(name.id or name.qom_path)}", "memory", {}, now_s + self._settle_s)

    def _on_slot(self, data: Mapping[str, object], now_s: float) -> None:
        slot = msgspec.convert(data, _SlotStatus).info
        kind = _SLOTS.get(slot.slot_type)
        if kind is None:
            return
        name = f"slot:{slot.slot_type}:{_short(slot.slot)}"
        taken_out = slot.source in _TAKEN_OUT
        facts: dict[str, object] = {"vcpu_delta": -1 if taken_out else 1} if kind == "vcpu" else {}
        if slot.status in _IN_PROGRESS:
            self._plug(name, kind, facts, float("inf"), slot.device)
        elif slot.status == 0 and not taken_out:
            self._plug(name, kind, facts, now_s + self._settle_s, slot.device)
        else:
            self._unplug(name, "failed" if slot.status else "done")

    def _on_deleted(self, data: Mapping[str, object], now_s: float) -> None:
        device = _short(msgspec.convert(data, _Deleted).device)
        if not device:
            return  # a part of a device; the device itself is told of as well
        for name in [name for name, plug in self._plugs.items() if plug.device == device]:
            self._unplug(name, "done")
            return
        self._plug(f"device:{device}", "device", {}, now_s + self._settle_s)

    def _plug(self, name: str, kind: str, facts: Mapping[str, object], until_s: float, device: str = "") -> None:
        if name not in self._plugs and len(self._plugs) >= _PLUGS_MAX:
            del self._plugs[next(iter(self._plugs))]
        self._plugs[name] = _Plug(Change(kind, facts), _short(device), until_s)

    def _unplug(self, name: str, outcome: str) -> None:
        if self._plugs.pop(name, None) is not None:
            self._plug_outcomes[name] = outcome


def _short(name: str) -> str:
    return name[:_NAME_CHARS_MAX]
