"""The contracts between txvbcast and the applications on a node.

Names and duties; the patent's client software, registration and notification modules
meet the cluster here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from txvbcast.wire.messages import Mode


@attrs.frozen
class Tx:
    """A transaction as a resource manager sees it.

    :ivar flight: names the batch that it came in, as ``origin.incarnation.number``.
    :ivar index: its place among the items proposed in that flight.
    :ivar seq: its log entry; 0 while it is only being prepared.
    """

    rm: str
    payload: bytes
    mode: Mode
    flight: str
    index: int
    seq: int = 0
    request_id: str | None = None


@attrs.frozen
class Refused:
    """A resource manager's No, with a reason for the client."""

    reason: str


#: What ``prepare`` may answer.
PrepareAnswer = Union[bool, Refused]


class IResourceManager(Interface):
    """The application on each node: votes on transactions and performs them.

    ``commit`` must be deterministic: the same transactions in the same order give the
    same state and the same results on every node.  An exception from it stops the node,
    because its state would no longer be the others'.
    """

    name = Attribute("The name by which transactions address it.")
    applied_seq = Attribute(
        "The seq up to which the state of this manager holds the log; 0 for one that starts empty. "
        "At start the node performs every later entry again. A manager that keeps its state on disk "
        "writes this number in the same step."
    )

    def prepare(tx: Tx) -> PrepareAnswer | Deferred[PrepareAnswer]:
        """Vote on a transaction of mode ``2pc`` or ``3pc``.

        True: this node can perform it, and keeps what it needs for that until ``commit`` or
        ``abort`` of the same transaction.  False or :class:`Refused`: it cannot; nothing is
        kept, and neither ``commit`` nor ``abort`` follows.

        While a Deferred has not fired the others may go on without this vote: ``commit`` then comes
        first, and nothing follows the answer; or the transaction is given up, and ``abort`` follows a True.
        """

    def commit(tx: Tx) -> bytes:
        """Perform a transaction; the result goes to the client that asked this node.

        It may come without a ``prepare`` here: in mode ``broadcast``, and for what the
        others decided while this node was away.
        """

    def abort(tx: Tx) -> None:
        """Release what ``prepare`` kept: the transaction will not be performed."""

    def snapshot() -> bytes:
        """The whole state, for a node that was away too long."""

    def restore(state: bytes, seq: int) -> None:
        """Replace the state by a snapshot taken at ``seq``."""


class IResourceManagerFactory(Interface):
    """Makes resource managers from a configuration; found as a Twisted plugin."""

    plugin = Attribute("The name by which an item of ``resource_managers`` asks for it.")

    def make(name: str, options: Mapping[str, object]) -> IResourceManager:
        """A new manager that transactions address as ``name``.

        :raises ValueError: ``options`` cannot be used; the text names the one and what was expected.
        """


class IObserver(Interface):
    """Told of what happens in the cluster; may not block."""

    def observe(event: Mapping[str, object]) -> None:
        """One event: ``id`` (rising), ``kind``, ``node_id``, ``reason``, ``time_s`` and facts of that kind."""


class IChangeSink(Interface):
    """Where an adapter says what the virtualization layer does to this node."""

    def begin(kind: str, facts: Mapping[str, object], source_id: str, holdable: bool) -> None:
        """A change begins; ``source_id`` is the adapter's name for it."""

    def update(source_id: str, facts: Mapping[str, object]) -> None:
        """New facts about a change under way."""

    def end(source_id: str, outcome: str) -> None:
        """It is over: ``done``, ``cancelled`` or ``failed``."""


class IChangeAdapter(Interface):
    """Learns of configuration changes from a virtualization layer."""

    kinds = Attribute("The kinds of change that it can tell of.")

    def start(sink: object) -> None:
        """Register for the changes; tell ``sink`` (an :class:`IChangeSink`) of them from now on."""

    def stop() -> Deferred[None]:
        """Tell of no more."""
