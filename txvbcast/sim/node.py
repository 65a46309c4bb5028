"""One simulated process: the production driver with a clock, a store and a network of the world's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from txvbcast.applications import Applications, Performed
from txvbcast.core.effects import Effect
from txvbcast.core.inputs import Input
from txvbcast.driver import Driver
from txvbcast.interfaces import IResourceManager
from txvbcast.sim.checks import Violation
from txvbcast.sim.clock import NodeClock
from txvbcast.sim.recorder import Recorder
from txvbcast.store.memory import Disk, MemoryStore
from txvbcast.turns import Turn
from txvbcast.wire.messages import Entry, Message

if TYPE_CHECKING:
    from txvbcast.sim.world import World

#: Pieces of the log that a restarting node reads at once, in bytes.
RESTORE_BYTES = 1 << 20


class WatchedApplications(Applications):
    """Applications whose every step somebody sees first."""

    def __init__(self, managers: Sequence[IResourceManager], watch: Callable[[Entry, bool], None]) -> None:
        super().__init__(managers)
        self._watch = watch

    def apply(self, entry: Entry, dead: bool) -> Performed:
        """Be seen, then perform."""
        self._watch(entry, dead)
        return super().apply(entry, dead)


class SimNode:
    """One life of a node.

    :ivar frozen: the process is stopped and will go on; running: it was not killed.
    :ivar deaf: its timers run, and what comes in waits.
    :ivar sends_left: the process dies before it has sent so many messages more; None for never.
    """

    def __init__(self, world: World, node_id: int, disk: Disk) -> None:
        self.world = world
        self.node_id = node_id
        self.disk = disk
        self.frozen = False
        self.deaf = False
        self.running = True
        self.sends_left: int | None = None
        self._inbox: list[tuple[bool, Callable[..., None], tuple[Any, ...]]] = []
        self.clock = NodeClock(world.clock)
        delay = world.disk_delay(node_id)
        turn = Turn(self.clock)
        self.store, stored = MemoryStore.open(disk, self.clock, delay, self._disk_failed, turn)
        self.incarnation = stored.incarnation
        self.disk_id = stored.disk_id
        self.recorder = Recorder()
        self.recorder.refuse = lambda tx: world.refuse(node_id, tx)
        self.recorder.wrong = self._wrong
        if world.vote_delay is not None:
            self.recorder.later = self._vote_later
        config = attrs.evolve(world.config, node_id=node_id)
        applications = WatchedApplications([self.recorder], self._watch_apply)
        self._step_hooks = world.watchers.of("on_step")
        self._apply_hooks = world.watchers.of("on_apply")
        on_step = self._watch_step if self._step_hooks else None
        self.driver = Driver(
            config, stored, self.store, self, applications, self.clock, world.clock.seconds, self._halted,
            on_step=on_step, turn=turn,
        )  # fmt: skip
        self._pieces = tuple(self.store.entries(RESTORE_BYTES))

    def start(self) -> None:
        """Begin to act."""
        self.driver.start(self._pieces)
        self._pieces = ()

    @property
    def able(self) -> bool:
        """Whether the process runs and is not stopped."""
        return self.running and not self.frozen

    def _watch_step(self, event: Input, wanted: Sequence[Effect]) -> None:
        for hook in self._step_hooks:
            hook(self, event, wanted)

    def _watch_apply(self, entry: Entry, dead: bool) -> None:
        for hook in self._apply_hooks:
            hook(self, entry, dead)

    def _halted(self, error: BaseException) -> None:
        if not isinstance(error, Violation):
            stopped = Violation(f"node {self.node_id} stopped: {error!r}")
            stopped.__cause__ = error
            error = stopped
        self.world.violated(error)

    def _wrong(self, what: str) -> None:
        self.world.violated(Violation(f"invariant 18: the resource manager of node {self.node_id} is told to {what}"))

    def _disk_failed(self, error: Exception) -> None:
        self.world.crash(self.node_id)

    def _vote_later(self, vote: Callable[[], None]) -> None:
        assert self.world.vote_delay is not None
        self.clock.callLater(self.world.vote_delay(), vote)

    # --- as the driver's network ---------------------------------------------------

    def send(self, to: int, message: Message) -> None:
        """Over the link."""
        if self._goes_on():
            self.world.network.send(self.node_id, to, message)

    def send_datagram(self, to: int, message: Message) -> None:
        """At once."""
        if self._goes_on():
            self.world.network.send_datagram(self.node_id, to, message)

    def _goes_on(self) -> bool:
        if self.sends_left is None:
            return True
        self.sends_left -= 1
        if self.sends_left < 0:
            self.world.crash(self.node_id)
            return False
        return True

    def drop_datagrams(self) -> None:
        """What came in during a pause is gone."""
        self._inbox = [waiting for waiting in self._inbox if not waiting[0]]

    def reset_links(self, reason: str) -> None:
        """Close every link; the network opens them anew."""
        for other in self.world.nodes:
            if other != self.node_id:
                self.world.network.break_link(self.node_id, other, reason)

    # --- as a host of the network -----------------------------------------------------

    def deliver(self, handle: Callable[..., None], *args: Any) -> None:
        """Handle now, or when the process goes on."""
        self._take(False, handle, args)

    def deliver_datagram(self, handle: Callable[..., None], *args: Any) -> None:
        """The same; the node may throw it away when it goes on."""
        self._take(True, handle, args)

    def _take(self, datagram: bool, handle: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self.running:
            return
        if self.frozen or self.deaf:
            self._inbox.append((datagram, handle, args))
        else:
            handle(*args)

    def on_message(self, peer: int, message: Message) -> None:
        """A message of a peer."""
        self.driver.received(peer, message)

    def on_link(self, peer: int, incarnation: int, disk_id: str) -> None:
        """A link was opened."""
        self.driver.peer_up(peer, incarnation, disk_id)

    def on_link_lost(self, peer: int, reason: str) -> None:
        """A link is gone."""
        self.driver.peer_down(peer, reason)

    # --- what happens to the process ---------------------------------------------------

    def freeze(self) -> None:
        """Stop the process as SIGSTOP does."""
        self.frozen = True
        self.clock.freeze()
        self.world.tell("on_freeze", self)

    def thaw(self, clock_stood: bool = False) -> None:
        """Let it go on: overdue timers first, then what came in."""
        self.frozen = False
        self.world.tell("on_thaw", self)
        self.clock.thaw(clock_stood)
        self._read()

    def deafen(self) -> None:
        """What comes in has to wait, as in a process whose timers leave it no time to read."""
        self.deaf = True

    def listen(self) -> None:
        """What has come in is read."""
        self.deaf = False
        self._read()

    def _read(self) -> None:
        if self.frozen or self.deaf:
            return
        inbox, self._inbox = self._inbox, []
        for _, handle, args in inbox:
            if self.running:
                handle(*args)

    def crash(self, keep: float) -> None:
        """Stop at once; of what the disk had under way a part is kept (:meth:`MemoryStore.crash`)."""
        self.running = False
        self.clock.kill()
        self.store.crash(keep)
        self.driver.halt()
