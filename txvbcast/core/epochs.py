"""Epoch numbers: a rising number paired with the id of the one node that may be its master.

Two candidates' epochs never compare equal, because the node id is part of the number.
"""

from __future__ import annotations

_NODE_BITS = 16


def pair(number: int, node_id: int) -> int:
    """The epoch that ``node_id`` may claim as its ``number``-th."""
    return (number << _NODE_BITS) | node_id


def number_of(epoch: int) -> int:
    """The rising part of ``epoch``; 0 before the first."""
    return epoch >> _NODE_BITS


def master_of(epoch: int) -> int:
    """The node id of the master of ``epoch``; 0 before the first."""
    return epoch & ((1 << _NODE_BITS) - 1)


def text(epoch: int) -> str:
    """``number.node``, for people."""
    return f"{number_of(epoch)}.{master_of(epoch)}"
