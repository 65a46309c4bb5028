"""Members, voters and quorum arithmetic: pure functions over frozen values.

Standing and voter flag are two things: who is *waited for* follows the standing, what is
*safe* follows the voter flag alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from functools import cached_property

import attrs

from txvbcast.wire.messages import Standing, StandingEntry


@attrs.frozen
class Member:
    """A line of the replicated table.

    :ivar since: seq of the last StandingEntry about this member, 0 before the first.
    """

    node_id: int
    standing: Standing = Standing.NORMAL
    voter: bool = True
    incarnation: int = 0
    change_id: int = 0
    kind: str = ""
    expected_ms: int = 0
    source: str = ""
    since: int = 0

    @property
    def absence(self) -> tuple[int, int]:
        """Names the last absence (or life) that the log has spoken of; rises."""
        return (self.incarnation, self.change_id)


@attrs.frozen
class Table:
    """The replicated membership table: every member, by rising node id."""

    members: tuple[Member, ...]

    # Asked for with every entry, and a table changes seldom.
    @cached_property
    def _by_id(self) -> dict[int, Member]:
        return {member.node_id: member for member in self.members}

    def get(self, node_id: int) -> Member | None:
        """The member of that id."""
        return self._by_id.get(node_id)

    def __getitem__(self, node_id: int) -> Member:
        return self._by_id[node_id]

    @cached_property
    def voters(self) -> tuple[int, ...]:
        """Ids of the members with the voter flag."""
        return tuple(member.node_id for member in self.members if member.voter)

    @cached_property
    def normal(self) -> frozenset[int]:
        """Ids of the normal members."""
        return frozenset(self.ids_of(Standing.NORMAL))

    @cached_property
    def digest(self) -> str:
        """A short fingerprint, equal on all nodes that applied the same entries."""
        text = repr([(m.node_id, m.standing.value, m.voter, m.absence, m.since) for m in self.members])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def voters_of(self, standing: Standing) -> tuple[int, ...]:
        """Ids of the voters of that standing."""
        return tuple(member.node_id for member in self.members if member.voter and member.standing is standing)

    def ids_of(self, *standings: Standing) -> tuple[int, ...]:
        """Ids of the members of these standings."""
        return tuple(member.node_id for member in self.members if member.standing in standings)


def initial(node_ids: Iterable[int]) -> Table:
    """The table before the first entry: everyone is a normal voter."""
    return Table(tuple(Member(node_id) for node_id in sorted(node_ids)))


def with_standing(table: Table, seq: int, entry: StandingEntry) -> Table:
    """The table after ``entry`` at ``seq``; an entry about a stranger changes nothing."""

    def change(member: Member) -> Member:
        if member.node_id != entry.node_id:
            return member
        return Member(
            node_id=member.node_id,
            standing=entry.standing,
            voter=entry.voter,
            incarnation=entry.incarnation,
            change_id=entry.change_id,
            kind=entry.kind,
            expected_ms=entry.expected_ms,
            source=entry.source,
            since=seq,
        )

    return Table(tuple(map(change, table.members)))


def needed(voters: Collection[int]) -> int:
    """How many of ``voters`` make a majority."""
    return len(voters) // 2 + 1


def is_quorum(voters: Collection[int], nodes: Iterable[int]) -> bool:
    """Whether ``nodes`` hold a majority of ``voters``."""
    return len(set(voters).intersection(nodes)) >= needed(voters)


def unsafe_now(table: Table) -> str:
    """Why those who are away now cost the quorum; empty when they do not."""
    staying = table.voters_of(Standing.NORMAL)
    if is_quorum(table.voters, staying):
        return ""
    return f"only {len(staying)} of {len(table.voters)} voters are normal while it is away"


def majority_watermark(voters: Collection[int], watermarks: dict[int, int]) -> int:
    """The highest number that a majority of ``voters`` has reached; 0 without voters."""
    reached = sorted((watermarks.get(voter, 0) for voter in voters), reverse=True)
    return reached[needed(voters) - 1] if reached else 0


def claim_rank(table: Table, node_id: int, without: int = 0) -> int:
    """How many voters should claim before ``node_id``: normal ones first, then by id.

    :param without: a node that is known to be leaving and is not counted.
    """
    turns = [
        (member.standing is not Standing.NORMAL, member.node_id)
        for member in table.members
        if member.voter and member.node_id != without
    ]
    own = table[node_id]
    return sum(turn < (own.standing is not Standing.NORMAL, node_id) for turn in turns)


@attrs.frozen
class LeaveStep:
    """The next entry that lets a member be absent.

    :ivar node_id: whom the entry is about; another absent member may have to lose its flag first.
    :ivar voter: the voter flag that the entry leaves.
    :ivar unsafe: empty, or why the absence costs the quorum.
    """

    node_id: int
    voter: bool
    unsafe: str = ""


def leave_step(table: Table, node_id: int, planned_floor: int) -> LeaveStep:
    """What to order next so that ``node_id`` may be absent and the rest still has a quorum.

    Voters shrink only as far as needed: members that are absent by announcement lose the
    flag, longest absent first and ``node_id`` last, and never below ``planned_floor`` voters.
    """
    member = table[node_id]
    staying = {
        other.node_id
        for other in table.members
        if other.voter and other.standing is Standing.NORMAL and other.node_id != node_id
    }
    absent = sorted(
        (other.since, other.node_id)
        for other in table.members
        if other.voter and other.standing is Standing.INACTIVE and other.node_id != node_id
    )
    removable = [other_id for _, other_id in absent] + ([node_id] if member.voter else [])
    left = set(table.voters)
    losing: list[int] = []
    for candidate in removable:
        if is_quorum(left, staying):
            break
        left.discard(candidate)
        losing.append(candidate)
    if not is_quorum(left, staying) or not staying:
        return LeaveStep(node_id, member.voter, _short_of(table, node_id, staying))
    if losing and len(left) < planned_floor:
        short = f"{len(left)} of {len(table.voters)} voters would be left, quorum.planned_floor is {planned_floor}"
        return LeaveStep(node_id, member.voter, short)
    if losing and losing[0] != node_id:
        return LeaveStep(losing[0], False)
    return LeaveStep(node_id, member.voter and node_id not in losing)


def _short_of(table: Table, node_id: int, staying: set[int]) -> str:
    missing = [
        f"node {m.node_id} is {m.standing.value}"
        for m in table.members
        if m.voter and m.node_id != node_id and m.standing is not Standing.NORMAL
    ]
    because = ", ".join(missing) or "there is no other voter"
    return f"without node {node_id} only {len(staying)} of {len(table.voters)} voters would be normal: {because}"
