"""What one part of a replica tells the others; routed by :class:`~txvbcast.core.replica.Replica`."""

from __future__ import annotations

from typing import Union

import attrs

from txvbcast.wire.messages import HandoverWhy, Standing, StandingEntry


@attrs.frozen
class ClaimWon:
    """The candidate's log is the best one and durable under ``epoch``: it may start."""

    epoch: int


@attrs.frozen
class OfficeTaken:
    """This node is the master of ``epoch`` and may order flights."""

    epoch: int


@attrs.frozen
class OfficeOpened:
    """A majority holds the log of ``epoch``: standings may be ordered, reads answered."""

    epoch: int


@attrs.frozen
class OfficeGoesOn:
    """Nothing keeps this master from ordering any longer."""


@attrs.frozen
class OfficeLeft:
    """This node is master no more."""

    reason: str


@attrs.frozen
class HandedOver:
    """The successor's promise is durable and HANDOFF is on its way."""

    to: int
    why: HandoverWhy


@attrs.frozen
class Advanced:
    """``committed`` or ``everywhere`` rose."""


@attrs.frozen
class OwnStandingChanged:
    """This node's own life went on to another state."""

    state: str


@attrs.frozen
class PeerChanged:
    """A member is seen in another standing than before; ``entry`` when the log said so."""

    node_id: int
    standing: Standing
    entry: StandingEntry | None


Signal = Union[
    ClaimWon, OfficeTaken, OfficeOpened, OfficeGoesOn, OfficeLeft, HandedOver, Advanced, OwnStandingChanged,
    PeerChanged,
]  # fmt: skip
