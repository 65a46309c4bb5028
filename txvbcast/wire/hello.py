"""What two nodes compare before they believe each other: the first message of a link.

Both sides call :func:`check_hello`; each that finds a reason tells it and closes.
"""

from __future__ import annotations

import hashlib
from itertools import zip_longest
from typing import Final

import msgspec

from txvbcast.wire.messages import Hello, MemberLine

_QUOTED_CHARS_MAX: Final = 80


def members_digest(lines: tuple[MemberLine, ...]) -> str:
    """SHA-256 of a member list, 64 lower-case hex digits; the order of the lines does not count."""
    rows = [_order(line) for line in _sorted(lines)]
    return hashlib.sha256(msgspec.msgpack.encode(rows)).hexdigest()


def difference(
    ours: tuple[MemberLine, ...], theirs: tuple[MemberLine, ...], here: str = "here", there: str = "there"
) -> str | None:
    """The first entry, by node id, in which two member lists differ; None when they say the same.

    :param here: names in the text the side that ``ours`` is from, as ``there`` does for ``theirs``.
    """
    for one, other in zip_longest(_sorted(ours), _sorted(theirs)):
        if one == other:
            continue
        if one is not None and other is not None and one.id == other.id:
            return _changed(one, other, here, there)
        first = min((line for line in (one, other) if line is not None), key=_order)
        return _lone(first, here, there) if first is one else _lone(first, there, here)
    return None


def check_hello(ours: Hello, theirs: Hello) -> str | None:
    """Why the link must be refused, as a sentence that both sides' operators understand; None: it need not."""
    if theirs.version_max < ours.version_min or ours.version_max < theirs.version_min:
        return (
            f"no common protocol version: node {ours.node_id} speaks {ours.version_min} to {ours.version_max}, "
            f"node {theirs.node_id} speaks {theirs.version_min} to {theirs.version_max}"
        )
    return _check_cluster(ours, theirs) or _check_node(ours, theirs) or _check_members(ours, theirs)


def _check_cluster(ours: Hello, theirs: Hello) -> str | None:
    for what, one, other in (
        ("id", ours.cluster_id, theirs.cluster_id),
        ("name", ours.cluster_name, theirs.cluster_name),
    ):
        if one != other:
            return (
                f"the cluster {what} differs: {_quoted(one)} at node {ours.node_id}, "
                f"{_quoted(other)} at node {theirs.node_id}"
            )
    return None


def _check_node(ours: Hello, theirs: Hello) -> str | None:
    if theirs.node_id == ours.node_id:
        return f"both sides say that they are node {ours.node_id}: give each node its own id"
    if theirs.node_id not in (line.id for line in ours.members):
        return f"node {theirs.node_id} is not in the member list of node {ours.node_id}"
    return None


def _check_members(ours: Hello, theirs: Hello) -> str | None:
    if theirs.members_digest != members_digest(theirs.members):
        return f"the member list of node {theirs.node_id} does not have the digest that came with it"
    found = difference(ours.members, theirs.members, f"at node {ours.node_id}", f"at node {theirs.node_id}")
    return None if found is None else f"the member lists differ: {found}"


def _changed(one: MemberLine, other: MemberLine, here: str, there: str) -> str:
    if one.name != other.name:
        return f"member {one.id} is named {_quoted(one.name)} {here} but {_quoted(other.name)} {there}"
    return f"member {one.id} has the peer address {_quoted(one.peer)} {here} but {_quoted(other.peer)} {there}"


def _lone(line: MemberLine, where: str, not_where: str) -> str:
    return f"member {line.id} ({_quoted(line.name)}, {_quoted(line.peer)}) is listed {where} but not {not_where}"


def _sorted(lines: tuple[MemberLine, ...]) -> list[MemberLine]:
    return sorted(lines, key=_order)


def _order(line: MemberLine) -> tuple[int, str, str]:
    return (line.id, line.name, line.peer)


def _quoted(text: str) -> str:
    """As a literal, so that no control character of a peer's reaches a log, and cut to a bound."""
    return repr(text if len(text) <= _QUOTED_CHARS_MAX else f"{text[:_QUOTED_CHARS_MAX]}...")
