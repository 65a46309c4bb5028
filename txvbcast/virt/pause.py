"""Notices by itself that this node stood still, and that its virtual machine is not the one that it was.

The node's core sees that its own ticks come late, and asks before it acts.  This adapter sees what no
clock of the core can show: that the machine slept (CLOCK_BOOTTIME), that it was moved or loaded from a
snapshot (vmclock), and that it is of another generation: reverted or cloned.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from txvbcast.interfaces import IChangeAdapter, IChangeSink, Surroundings
from txvbcast.virt.generation import Damaged, Record, read_file
from txvbcast.virt.options import Options
from txvbcast.virt.polling import Poller, Unreachable
from txvbcast.virt.uevents import Uevents
from txvbcast.virt.vmclock import Page

log = Logger()

VMCLOCK: Final = "/dev/vmclock0"
#: In data_dir: the generation that was seen last.
RECORD: Final = "pause.json"
#: A round of looking is a few reads; the poller wants a bound.
_ROUND_S_MAX: Final = 10.0
#: Two readings of one clock with another between them that are further apart were interrupted.
_AT_ONCE_S: Final = 0.005
_AT_ONCE_TRIES: Final = 5


@attrs.frozen
class Clocks:
    """The clocks of this machine, in seconds.

    :ivar monotonic_s: stands still while the machine sleeps.
    :ivar boottime_s: goes on.
    """

    monotonic_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_MONOTONIC)
    boottime_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)

    def ahead_s(self) -> float:
        """By how much the second is ahead of the first; the same until the machine sleeps."""
        ahead_s = 0.0
        for _ in range(_AT_ONCE_TRIES):
            before_s = self.monotonic_s()
            boottime_s = self.boottime_s()
            ahead_s = boottime_s - before_s
            if self.monotonic_s() - before_s < _AT_ONCE_S:
                break  # else this process was interrupted between the two
        return ahead_s


@attrs.frozen
class Settings:
    """The options; see ``docs/adapters/pause.md``."""

    interval_s: float
    read_interval_s: float
    shortest_s: float
    steal_percent: int
    proc_stat: str
    uevents: bool
    vmclock: str
    vmclock_wanted: bool
    generation_files: tuple[str, ...]


def make(options: Mapping[str, object], surroundings: Surroundings) -> Pause:
    """The adapter with these options.

    :raises ValueError: an option, or a system without the clocks.
    """
    given = Options(options)
    settings = Settings(
        interval_s=given.duration_s("interval", "100ms", least_s=0.01),
        read_interval_s=given.duration_s("read_interval", "1s", least_s=0.01),
        shortest_s=given.duration_s("shortest", "500ms"),
        steal_percent=given.number("steal_percent", 10, 1, 100),
        proc_stat=given.text("proc_stat", "/proc/stat"),
        uevents=given.flag("uevents", True),
        vmclock=given.text("vmclock", VMCLOCK),
        vmclock_wanted="vmclock" in options,
        generation_files=given.texts("generation_files"),
    )
    given.finish()
    if not hasattr(time, "CLOCK_BOOTTIME"):
        raise ValueError("it needs the clocks of Linux")
    return Pause(settings, surroundings, Clocks())


@implementer(IChangeAdapter)
class Pause:
    """See the module.  A generation that has changed is told once; then nothing more is."""

    kinds: tuple[str, ...] = ()

    def __init__(self, settings: Settings, surroundings: Surroundings, clocks: Clocks) -> None:
        self._settings = settings
        self._surroundings = surroundings
        self._reactor: Any = surroundings.reactor
        self._clocks = clocks
        self._steal = _Steal(settings.proc_stat)
        self._record = Record(surroundings.data_dir / RECORD)
        self._compared: set[str] = set()
        self._page: Page | None = None
        self._disruption: int | None = None
        self._uevents: Uevents | None = None
        self._poller: Poller | None = None
        self._next: IDelayedCall | None = None
        self._expected_s = 0.0
        self._ahead_s = 0.0
        self._stopped = False

    def start(self, sink: IChangeSink) -> None:
        """Compare the generation with that of the last run, before anything else; then go on watching."""
        self._sink = sink
        try:
            self._record.load()
        except Damaged as error:
            self._stop_node(f"{error}. So it cannot be told whether this virtual machine was reverted or cloned")
            return
        if self._record.seen.changed:
            self._stop_node(self._record.seen.changed)
            return
        settings = self._settings
        self._poller = Poller(self._reactor, self._look, settings.read_interval_s, _ROUND_S_MAX, sink.lost)
        self._ahead_s = self._clocks.ahead_s()
        self._expect()
        self._poller.start()  # looks at once

    def stop(self) -> None:
        """Watch no more."""
        self._stopped = True
        if self._poller is not None:
            self._poller.stop()
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._uevents is not None:
            self._uevents.close()
            self._uevents = None
        if self._page is not None:
            self._page.close()
            self._page = None

    # --- standing still --------------------------------------------------------------------

    def _expect(self) -> None:
        self._expected_s = self._clocks.monotonic_s() + self._settings.interval_s
        self._next = self._reactor.callLater(self._settings.interval_s, self._tick)

    def _tick(self) -> None:
        late_s = max(0.0, self._clocks.monotonic_s() - self._expected_s)
        before_s, self._ahead_s = self._ahead_s, self._clocks.ahead_s()
        slept_s = self._ahead_s - before_s
        signs = []
        if slept_s >= self._settings.shortest_s:
            signs.append(f"this machine slept: CLOCK_BOOTTIME went {slept_s:.1f} s further than CLOCK_MONOTONIC")
        else:
            slept_s = 0.0
        if self._is_disrupted():
            signs.append(f"the disruption marker of {self._settings.vmclock} changed: this machine was moved or loaded")
        if self._stopped:
            return  # it was loaded from a snapshot
        self._tell(late_s, slept_s, signs)
        self._expect()

    def _tell(self, late_s: float, slept_s: float, signs: list[str]) -> None:
        late = late_s >= self._settings.shortest_s
        if not (signs or late):
            return
        stolen = self._steal.percent()
        evidence = list(signs)
        if late:
            evidence.append(f"a timer came {late_s:.1f} s late")
        if stolen is not None and stolen >= self._settings.steal_percent:
            evidence.append(f"the host took {stolen:.0f} % of the CPU time that this machine wanted to have")
        if signs:
            self._sink.paused(late_s + slept_s, "; ".join(evidence))
        else:
            # The core's own ticks were as late, so the node has asked already; this is for people.
            log.info("this node stood still for about {late_s:.1f} s: {why}", late_s=late_s, why="; ".join(evidence))

    def _is_disrupted(self) -> bool:
        """Whether the vmclock tells of another host or image than before; of another generation it says so itself."""
        if self._page is None:
            return False
        try:
            reading = self._page.read()
        except Unreachable:
            return False  # the next round of looking says so, if that goes on
        before, self._disruption = self._disruption, reading.disruption
        if reading.generation is not None:
            self._compare(self._settings.vmclock, str(reading.generation))
        return before not in (None, reading.disruption)

    # --- the generation --------------------------------------------------------------------

    async def _look(self) -> None:
        """One round: whatever cannot be read is said, and the rest is looked at all the same."""
        problems = []
        for look in (self._look_at_vmclock, self._look_at_files, self._look_at_uevents, self._look_at_record):
            if self._stopped:
                return
            try:
                look()
            except Unreachable as error:
                problems.append(str(error))
        self._steal.sample()
        if problems:
            raise Unreachable("; ".join(problems))
        self._sink.connected(self._where())

    def _look_at_vmclock(self) -> None:
        path = self._settings.vmclock
        if self._page is None:
            if not self._settings.vmclock_wanted and not os.path.exists(path):
                return
            self._page = Page(path)
        reading = self._page.read()
        if self._disruption is None:
            self._disruption = reading.disruption
        if reading.generation is not None:
            self._compare(path, str(reading.generation))

    def _look_at_files(self) -> None:
        problems = []
        for path in self._settings.generation_files:
            try:
                self._compare(path, hashlib.sha256(read_file(path)).hexdigest())
            except FileNotFoundError:
                problems.append(f"generation_files: there is no {path}")
            except Unreachable as error:
                problems.append(f"generation_files: {error}")
        if problems:
            raise Unreachable("; ".join(problems))

    def _look_at_uevents(self) -> None:
        if not self._settings.uevents:
            return
        if self._uevents is None:
            self._uevents = Uevents(self._reactor, lambda: self._change("the kernel has a new VM generation id"))
        self._uevents.check()

    def _look_at_record(self) -> None:
        if not self._record.saved:
            self._record.save()

    def _compare(self, path: str, generation: str) -> None:
        """Compare what a path says with what it said before, in this run or an earlier one."""
        before = self._record.seen.generations.get(path)
        first = path not in self._compared
        self._compared.add(path)
        if before == generation or self._stopped:
            return
        # The hypervisors that have a vmclock count from 0, which none says after loading a snapshot.
        switched_on = first and path == self._settings.vmclock and generation == "0"
        if before is None or switched_on:
            self._record.seen = attrs.evolve(
                self._record.seen, generations={**self._record.seen.generations, path: generation}
            )
            self._record.saved = False  # the end of this round, or the next one, writes it
        elif path == self._settings.vmclock:
            self._change(f"the generation counter of {path} is {generation} and was {before}")
        else:
            self._change(f"the content of {path} is another than before")

    def _change(self, sign: str) -> None:
        """This node must not go on, and must not be started again either until somebody has looked."""
        what = f"this virtual machine was reverted to an earlier state, or cloned: {sign}"
        self._record.seen = attrs.evolve(self._record.seen, changed=what)
        try:
            self._record.save()
        except Unreachable as error:
            log.error("it is not kept that the VM generation has changed: {error}", error=error)
        self._stop_node(what)

    def _stop_node(self, what: str) -> None:
        self.stop()
        node, data_dir = self._surroundings.node_id, self._surroundings.data_dir
        self._sink.stop_node(
            f"{what}. What {data_dir} holds may be older than what node {node} has promised the others, or another "
            f"machine may be node {node} now; so this node stops, and does not start again. If this is a clone, "
            f"never let it be node {node}: give it an id, a name and a data_dir of its own. If it was reverted, its "
            f"data_dir is lost: move it away, and read 'A data directory is lost' in docs/operating.md. Only if you "
            f"know that this is the one machine that is node {node}, and that {data_dir} is as it was last written, "
            f"remove {self._record.path} and start the node"
        )

    def _where(self) -> str:
        heard = ["the clocks of this machine"]
        heard += [self._settings.vmclock] if self._page is not None else []
        heard += self._settings.generation_files
        heard += ["uevents"] if self._uevents is not None else []
        return ", ".join(heard)


class _Steal:
    """CPU time that the host gave to others while this machine wanted it, from ``/proc/stat``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._last: tuple[int, int] | None = None

    def sample(self) -> None:
        """From now on."""
        self._last = self._ticks()

    def percent(self) -> float | None:
        """Its part of all CPU time since the last sample; None if that cannot be told."""
        now = self._ticks()
        if now is None or self._last is None or now[1] <= self._last[1]:
            return None
        return 100.0 * (now[0] - self._last[0]) / (now[1] - self._last[1])

    def _ticks(self) -> tuple[int, int] | None:
        """Stolen, and all, of all CPUs since the start; None where the system does not say."""
        try:
            words = read_file(self._path).partition(b"\n")[0].split()
        except (FileNotFoundError, Unreachable):
            return None
        # user nice system idle iowait irq softirq steal; what follows is part of the first two.
        numbers = words[1:9]
        if words[:1] != [b"cpu"] or len(numbers) < 8 or not all(number.isdigit() for number in numbers):
            return None
        ticks = [int(number) for number in numbers]
        return ticks[7], sum(ticks)
