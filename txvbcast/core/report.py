"""A replica's state for people and programs: the document behind ``GET /v1/status``."""

from __future__ import annotations

from typing import Any

from txvbcast.core import epochs
from txvbcast.core.replica import Replica
from txvbcast.core.table import is_quorum, needed
from txvbcast.wire.messages import Standing

OWN_STANDINGS = {
    "normal": "normal",
    "leaving": "normal",
    "inactive": "inactive",
    "returning": "catching_up",
    "catching_up": "catching_up",
}


def status(replica: Replica) -> dict[str, Any]:
    """Everything that ``status`` shows; times in milliseconds, sizes in bytes.

    ``stored``, ``applied`` and the queue of other members are known to the master only
    and null elsewhere.
    """
    journal, office = replica.journal, replica.office
    voters = journal.table.voters
    return {
        "node_id": replica.commons.me,
        "epoch": journal.log_epoch,
        "epoch_text": epochs.text(journal.log_epoch),
        "master": replica.master or None,
        "standing": OWN_STANDINGS[replica.own.state],
        "state": replica.own.state,
        "role": replica.mastership.core.role,
        "incarnation": replica.commons.stored.incarnation,
        "committed": journal.committed,
        "everywhere": office.everywhere if office is not None else replica.following.everywhere,
        "applied": journal.applied,
        "pending": replica.submissions.pending,
        "members": [_member(replica, member.id, member.name) for member in replica.commons.config.members],
        "quorum": {"voters": list(voters), "needed": needed(voters), "ok": _has_quorum(replica)},
    }


def _has_quorum(replica: Replica) -> bool:
    office = replica.office
    if office is None:
        return replica.master != 0
    heard = {replica.commons.me, *replica.commons.links}
    return office.opened and is_quorum(replica.journal.table.voters, heard)


def _member(replica: Replica, node_id: int, name: str) -> dict[str, object]:
    core = replica.peers[node_id].core
    member = replica.journal.table[node_id]
    timeout_s = replica.commons.config.heartbeat.timeout_s
    now_s = replica.commons.now_s
    away = core.standing is Standing.INACTIVE
    if core.deadline_s is not None:
        timeout_s = max(timeout_s, core.deadline_s - core.announced_s)
    remaining_ms = max(0, round(core.expected_ms - (now_s - core.announced_s) * 1000))
    response = replica.commons.config.response_timeout
    waited = core.standing is Standing.NORMAL and core.deadline_s is None
    return {
        "node_id": node_id,
        "name": name,
        "standing": core.standing.value,
        "voter": member.voter,
        "kind": core.kind if away else None,
        "source": core.source if away else None,
        "expected_ms": core.expected_ms if away else None,
        "remaining_ms": remaining_ms if away else None,
        "heartbeat_timeout_ms": round(timeout_s * 1000),
        "response_timeout_ms": round((response.normal_s if waited else response.inactive_s) * 1000),
        "linked": node_id == replica.commons.me or node_id in replica.commons.links,
        "vms": list(replica.vms.get(node_id, ())),
        **_queue(replica, node_id),
    }


def _queue(replica: Replica, node_id: int) -> dict[str, object]:
    journal, office = replica.journal, replica.office
    if node_id == replica.commons.me:
        return {"stored": max(0, journal.stored), "applied": journal.applied, "queue_entries": 0, "queue_bytes": 0}
    if office is None or node_id not in office.stored:
        return {"stored": None, "applied": None, "queue_entries": None, "queue_bytes": None}
    stored = office.stored[node_id]
    return {
        "stored": stored,
        "applied": replica.peers_applied.get(node_id),
        "queue_entries": journal.tail - stored,
        "queue_bytes": journal.bytes_above(stored),
    }
