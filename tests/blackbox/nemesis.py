"""Draws from a seed what is done to a cluster."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from tests.blackbox import machine
from tests.blackbox.clocks import StepClock
from tests.blackbox.disks import FailDisk, FillDisk, KillAtSync, SlowDisk
from tests.blackbox.disturbance import Disturbance
from tests.blackbox.partitions import Bridge, CutMaster, Deafen, Flap, Lose, Mute, Reset, Shatter, SlowLink, Split
from tests.blackbox.processes import Depose, Freeze, FreezeAnnounced, Kill, MoveMaster, Starve, Stop

KINDS: Final[tuple[type[Disturbance], ...]] = (
    Kill, Stop, Freeze, Depose, FreezeAnnounced, Starve, MoveMaster,
    Split, Shatter, CutMaster, Deafen, Mute, Bridge, Reset, Lose, Flap, SlowLink,
    StepClock, SlowDisk, KillAtSync, FailDisk, FillDisk,
)  # fmt: skip

#: How long a disturbance lasts: from one that may go unnoticed to several heartbeat timeouts.
_SHORTEST_S: Final = 0.3
_LONGEST_S: Final = 2.5
#: The parts of the episodes with two disturbances at a time, and of those after which there is no rest.
_DOUBLED: Final = 0.35
_RESTLESS: Final = 0.4
#: How often a second disturbance is drawn until it fits the first.
_TRIES: Final = 10


@attrs.frozen
class Episode:
    """One or two disturbances.

    :ivar hold_s: how long they last once the last has begun.
    :ivar rest: whether the cluster must have recovered before the next episode.
    """

    disturbances: tuple[Disturbance, ...]
    hold_s: float
    rest: bool

    def __str__(self) -> str:
        what = " + ".join(map(str, self.disturbances))
        return f"{what} for {self.hold_s:.1f} s{'' if self.rest else ', no rest'}"


def available() -> tuple[type[Disturbance], ...]:
    """The kinds of disturbance that this machine can do."""
    return tuple(kind for kind in KINDS if not any(machine.lack(need) for need in kind.needs))


def episodes(seed: int, node_ids: Sequence[int], kinds: Sequence[type[Disturbance]] = KINDS) -> Iterator[Episode]:
    """What ``seed`` does to a cluster, without an end.

    Every kind comes once before any comes for the second time as the first of its episode.
    """
    chance = random.Random(seed)
    while True:
        for kind in chance.sample(list(kinds), len(kinds)):
            disturbances = [kind.draw(chance, node_ids)]
            if chance.random() < _DOUBLED and (second := _beside(disturbances[0], chance, node_ids, kinds)):
                disturbances.append(second)
            yield Episode(
                tuple(disturbances), chance.uniform(_SHORTEST_S, _LONGEST_S), rest=chance.random() >= _RESTLESS
            )


def _beside(
    first: Disturbance, chance: random.Random, node_ids: Sequence[int], kinds: Sequence[type[Disturbance]]
) -> Disturbance | None:
    """Another disturbance, of other nodes, that may be under way at the same time; None if that is hard to find."""
    for _ in range(_TRIES):
        second = chance.choice(list(kinds)).draw(chance, node_ids)
        if not (first.alone or second.alone or set(first.nodes) & set(second.nodes)):
            return second
    return None
