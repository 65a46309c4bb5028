"""What all checks go by: the logs of the nodes and of the cluster, put together from outside.

Nothing here asks a replica what it believes.  A node's log follows from what it has written,
the cluster's log from what was performed first, and what is durable is read from the disks.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs

from txvbcast.core.effects import Apply, Persist
from txvbcast.wire.messages import Entry, Standing, StandingEntry

if TYPE_CHECKING:
    from txvbcast.sim.node import SimNode
    from txvbcast.sim.world import World


@attrs.frozen
class Members:
    """Standings and voters as a log has them."""

    standings: Mapping[int, Standing]
    voters: frozenset[int]

    @classmethod
    def first(cls, node_ids: Collection[int]) -> Members:
        """Before the first entry: everyone is a normal voter."""
        return cls(dict.fromkeys(node_ids, Standing.NORMAL), frozenset(node_ids))

    def after(self, entry: StandingEntry) -> Members:
        """What they are once ``entry`` is in the log."""
        voters = self.voters - {entry.node_id}
        return Members(
            {**self.standings, entry.node_id: entry.standing}, voters | {entry.node_id} if entry.voter else voters
        )

    def normal(self, node_id: int) -> bool:
        """Whether that member is normal."""
        return self.standings[node_id] is Standing.NORMAL

    def has_quorum(self, nodes: Collection[int]) -> bool:
        """Whether ``nodes`` hold a majority of the voters."""
        return 2 * len(self.voters.intersection(nodes)) > len(self.voters)


@attrs.frozen
class Change:
    """A standing in a node's log: since which step it is there, and the members with it."""

    seq: int
    step: int
    node_id: int
    members: Members


@attrs.define
class LogView:
    """The log of one node, as far as it has asked its disk to write it.

    :ivar changes: the standings in the log; the first one stands for its beginning.
    """

    tail: int
    promised: int
    log_epoch: int
    changes: list[Change]

    @property
    def members(self) -> Members:
        """With everything that is in the log, committed or not."""
        return self.changes[-1].members

    def members_in(self, step: int) -> Iterator[Members]:
        """As they were when that step began, and as each change of that step has made them."""
        for change in reversed(self.changes):
            yield change.members
            if change.step < step:
                return

    def write(self, persist: Persist, step: int) -> None:
        """The node asks its disk for this."""
        if persist.truncate_from is not None:
            self.tail = min(self.tail, persist.truncate_from - 1)
            while self.changes[-1].seq > self.tail:
                self.changes.pop()
        if persist.promised_epoch is not None:
            self.promised = persist.promised_epoch
        if persist.log_epoch is not None:
            self.log_epoch = persist.log_epoch
        for entry in persist.entries:
            self.put(entry, step)

    def put(self, entry: Entry, step: int) -> None:
        """Another entry."""
        self.tail = entry.seq
        if entry.standing is not None:
            members = self.members.after(entry.standing)
            self.changes.append(Change(entry.seq, step, entry.standing.node_id, members))


@attrs.frozen
class Office:
    """A node was master in an epoch: of how many entries, and of which epochs, its log was when it began."""

    node_id: int
    incarnation: int
    epochs: array[int]


class Facts:
    """What has happened in a world so far.

    :ivar world: from the first life of a node on.
    :ivar step: counts the steps of all replicas.
    :ivar log: what was performed, by whoever was first; members: as it has them.
    :ivar committed_in: the log epoch of whoever performed each entry first.
    :ivar views: the log of each node; offices: by epoch.
    """

    world: World
    members: Members

    def __init__(self) -> None:
        self.step = 0
        self.log: list[Entry] = []
        self.committed_in = array("Q")
        self.views: dict[int, LogView] = {}
        self.offices: dict[int, Office] = {}
        self._disk_ids: dict[int, str] = {}

    def begin_life(self, node: SimNode) -> None:
        """A process of a node begins with what its disk holds."""
        if not self.views:
            self._begin(node.world)
        disk = node.disk
        view = LogView(0, disk.promised_epoch, disk.log_epoch, [Change(0, 0, 0, self._beginning)])
        for entry in disk.entries:
            view.put(entry, 0)
        self.views[node.node_id] = view

    def _begin(self, world: World) -> None:
        self.world = world
        self.members = self._beginning = Members.first(world.disks)
        self._disk_ids = {node_id: disk.disk_id for node_id, disk in world.disks.items()}

    def on_persist(self, node: SimNode, persist: Persist) -> None:
        """A node writes."""
        self.views[node.node_id].write(persist, self.step)

    def on_apply(self, node: SimNode, apply: Apply) -> None:
        """A node performs an entry."""
        entry = apply.entry
        if entry.seq == len(self.log) + 1:
            self.log.append(entry)
            self.committed_in.append(node.driver.replica.journal.log_epoch)
            if entry.standing is not None:
                self.members = self.members.after(entry.standing)

    def committed_before(self, epoch: int) -> list[Entry]:
        """The log up to the last entry that was committed in an epoch below ``epoch``."""
        count = len(self.log)
        while count and self.committed_in[count - 1] >= epoch:
            count -= 1
        return self.log[:count]

    def is_original(self, node_id: int) -> bool:
        """Whether a node still has the disk that it began with: with another one it is an amnesiac."""
        return self.world.disks[node_id].disk_id == self._disk_ids[node_id]

    def holds(self, node_id: int, entry: Entry, log_epoch: int = 0) -> bool:
        """Whether a node's disk holds an entry, as part of the log of ``log_epoch`` or a later one."""
        disk = self.world.disks[node_id]
        return (
            disk.log_epoch >= log_epoch
            and len(disk.entries) >= entry.seq
            and disk.entries[entry.seq - 1].epoch == entry.epoch
            and self.is_original(node_id)
        )
