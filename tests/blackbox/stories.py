"""What is done to a cluster to ask one question; the checks of every session follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from tests.blackbox.clients import Clients
from tests.blackbox.clocks import STEPS_S, set_clock
from tests.blackbox.disks import FailDisk
from tests.blackbox.disturbance import Violation
from tests.blackbox.lab import Lab
from tests.blackbox.partitions import Split
from txvbcast.cli.failures import Failed

#: How many answers show that a cluster goes on.
_ANSWERS: Final = 40
#: How many requests without an answer show that it does not.
_UNANSWERED: Final = 30
#: After so much silence a member is missed in the story of the clocks, and so long nobody asks for anything in it.
_TIMEOUT_S: Final = 2
_QUIET_S: Final = 2.5
#: How long anything of this may take.
_PATIENCE_S: Final = 60.0


@attrs.frozen
class Story:
    """One question.

    :ivar settings: YAML that is added to the configuration of every node.
    :ivar tell: does it; raises :class:`~tests.blackbox.disturbance.Violation` if the answer is the wrong one.
    """

    settings: str
    tell: Callable[[Lab, Clients], None]


def step_clocks(lab: Lab, clients: Clients) -> None:
    """Wall clocks leap ahead and back, of the master too: nobody is missed, no absence ends, no request fails."""
    lowest, highest = min(lab.nodes), max(lab.nodes)
    absent = lowest + 1
    lab.wait(f"node {lowest} is master", lambda: lab.master() == lowest, _PATIENCE_S)
    marks = {k: max(event["id"] for event in _events(lab, k, 0)) for k in lab.nodes}
    body = {"kind": "snapshot", "expected_ms": 60_000}
    change = lab[absent].api.send("POST", "/v1/inactive", body=body, wait_s=5.0).field("change_id", int)
    heard = len(clients.history)
    for ahead_s in (*STEPS_S, 0):
        set_clock(lab, lowest, ahead_s)
        set_clock(lab, highest, -ahead_s)
        _await_answers(lab, clients)
        clients.is_paused = True  # what clients have nodes send each other counts as signs of life, too
        time.sleep(_QUIET_S)
        clients.is_paused = False
    _end_absence(lab, absent, change)
    lab.wait("every node is normal", lab.recovered, _PATIENCE_S)
    changes = {
        k: [(event["kind"], event["node_id"]) for event in _events(lab, k, mark + 1) if event["kind"] != "mastership"]
        for k, mark in marks.items()
    }
    expected = [("node_inactive", absent), ("node_catching_up", absent), ("node_normal", absent)]
    for k, seen in changes.items():
        if [pair for pair in seen if pair[0] != "own_standing"] != expected:
            raise Violation(f"the clocks were stepped, and node {k} saw {seen}, and not just {expected}")
    failed = [asked for asked in clients.history[heard:] if asked.answer is None and not asked.refused]
    if failed:
        raise Violation(f"the clocks were stepped, and {len(failed)} requests had no answer: {failed[:3]}")


def _end_absence(lab: Lab, node_id: int, change_id: int) -> None:
    try:
        lab[node_id].api.send("DELETE", f"/v1/inactive/{change_id}")
    except Failed as failed:
        changes = lab[node_id].api.get("/v1/inactive").document()
        raise Violation(f"the absence of node {node_id} has ended by itself ({failed}): {changes}") from failed


def _events(lab: Lab, node_id: int, first: int) -> list[Mapping[str, Any]]:
    return list(lab[node_id].api.events({"from": first, "follow": 0}))


def _await_answers(lab: Lab, clients: Clients) -> None:
    wanted = clients.answered() + _ANSWERS
    lab.wait(f"{_ANSWERS} requests are answered", lambda: clients.answered() >= wanted, _PATIENCE_S)


def lose_last_disk(lab: Lab, clients: Clients) -> None:
    """The quorum hangs on a disk that fails: from then on nothing is answered, and all is well when it is mended."""
    cut_off, failing, *_ = reversed(list(lab.nodes))
    if len(lab.nodes) != 3:
        raise ValueError("this story needs three nodes")
    split, disk = Split((cut_off,)), FailDisk((failing,))
    split.begin(lab)
    _await_answers(lab, clients)
    disk.begin(lab)
    before = len(clients.history)
    since = max(asked.called for asked in clients.history[:before])
    lab.wait("clients get no answers", lambda: len(clients.history) >= before + _UNANSWERED, _PATIENCE_S)
    wrong = [asked for asked in clients.history[before:] if asked.answer is not None and asked.called > since]
    disk.heal(lab)
    split.heal(lab)
    if wrong:
        raise Violation(f"{len(wrong)} requests were answered without a quorum of disks: {wrong[:3]}")


STORIES: Final[Mapping[str, Story]] = {
    "clocks": Story(f"heartbeat:\n  interval: 200ms\n  timeout: {_TIMEOUT_S}s\n", step_clocks),
    "last-disk": Story("", lose_last_disk),
}
