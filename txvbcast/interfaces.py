"""The contracts between txvbcast and the applications on a node.

Names and duties; the patent's client software, registration and notification modules
meet the cluster here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from txvbcast.wire.items import Request
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


@attrs.frozen
class Run:
    """Transactions of one resource manager that came in one flight.

    :ivar flight: as in :class:`Tx`; indices: the place of each among the items proposed in that flight.
    :ivar seq: their log entry; 0 while they are only being prepared.
    :ivar requests: the request id of each, or None.
    """

    rm: str
    mode: Mode
    flight: str
    seq: int
    indices: Sequence[int]
    payloads: Sequence[bytes]
    requests: Sequence[Request | None]

    def __len__(self) -> int:
        return len(self.payloads)

    def __iter__(self) -> Iterator[Tx]:
        for index, payload, request in zip(self.indices, self.payloads, self.requests, strict=True):
            request_id = request.text if request is not None else None
            yield Tx(self.rm, payload, self.mode, self.flight, index, self.seq, request_id)


class IBatchResourceManager(IResourceManager):
    """One that votes on many transactions in one call, and performs many: what the call itself costs is paid once."""

    def prepare_many(run: Run) -> Sequence[PrepareAnswer]:
        """Vote on the transactions of ``run``, in their order; the answer to each, now.

        It comes in the stead of ``prepare``. If it raises, none of the transactions is prepared.
        """

    def commit_many(run: Run) -> list[bytes]:
        """Perform the transactions of ``run`` in their order; the result of each.

        It has the effect of one ``commit`` after the other, and comes in their stead.
        """


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


#: Facts about a change that the estimator understands; an adapter may give others too, which are kept for people.
#: Bytes, bytes per second and seconds, as the names say.
FACTS: Mapping[str, str] = {
    "expected_s": "how long the platform itself says that the change will take, from now on",
    "remaining_bytes": "what is still to be copied",
    "bandwidth_bytes_per_s": "how fast it is copied",
    "dirty_bytes_per_s": "how fast the guest changes what was copied already",
    "downtime_s": "how long the guest stands still at the end, as measured or expected",
    "memory_bytes": "the guest's memory as a whole",
    "memory_delta_bytes": "how much memory is added, or taken when negative",
    "vcpu_delta": "how many CPUs are added, or taken when negative",
}


@attrs.frozen
class Go:
    """The cluster's word to an adapter: the platform may be let go now.

    :ivar confirmed: the others know of the absence and go on without this node.
    :ivar unsafe: why the cluster cannot afford it; empty when it can, or did not say in time.
    """

    confirmed: bool
    unsafe: str = ""


class IChangeSink(Interface):
    """Where an adapter says what the virtualization layer does to this node.

    A change is named by ``source_id``, the platform's own name for it (an event id, a job).  ``sequence``
    is any number that rises with the platform's events about it (a time stamp in microseconds, a
    document's number): what is not above the last one applied is a repeat and changes nothing.

    None of these raises for what a platform says, whatever it is, and none blocks.
    """

    def begin(
        kind: str,
        facts: Mapping[str, object],
        source_id: str,
        holdable: bool,
        sequence: int | None = None,
        hold_s: float | None = None,
        member: int | None = None,
    ) -> Deferred[Go]:
        """A change begins.  One that is under way already is brought up to date instead.

        :param kind: one of :data:`txvbcast.config.CHANGE_KINDS`; one that was not configured is passed over.
        :param facts: see :data:`FACTS`.
        :param holdable: the platform waits until the adapter lets it go; the node then waits its turn,
            decides its own flights first, and announces.
        :param hold_s: so long at most: the bound, with what the adapter itself still needs taken off.
        :param member: the node id of another member that it happens to: a third party's word.
        :returns: fires, and never fails, when the platform may be let go: confirmed, or the bound is over,
            or the change has ended; at once when it is not to be announced.
        """

    def update(source_id: str, facts: Mapping[str, object], sequence: int | None = None) -> None:
        """New facts about a change under way; they replace those of the same names."""

    def end(source_id: str, outcome: str, sequence: int | None = None) -> None:
        """It is over: ``done``, ``cancelled`` or ``failed``."""

    def under_way() -> tuple[str, ...]:
        """The ``source_id`` of each change that this sink has begun and not ended, oldest first.

        After a new connection an adapter asks its platform for the present state, ends what is over,
        and begins what it has missed.
        """

    def connected(where: str) -> None:
        """The platform can be heard; ``where`` names it for people."""

    def lost(problem: str) -> None:
        """It cannot be heard now, and why; the adapter goes on trying.  Logged once, however often it is said."""

    def paused(pause_s: float, evidence: str) -> None:
        """This node was stopped for about ``pause_s`` without a word; ``evidence`` says how that is known."""

    def stop_node(reason: str) -> None:
        """This node must not go on, whatever the protocol says: it is not the machine that it was."""


@attrs.frozen
class Surroundings:
    """What an adapter is given to work with.

    :ivar reactor: timers, connections, processes and threads.
    :ivar node_id: this node.
    :ivar node_name: its name, by which a platform may know it.
    :ivar members: the node id of each member's name.
    :ivar data_dir: where an adapter may keep a file of its own, named after its plugin.
    """

    reactor: Any
    node_id: int
    node_name: str
    members: Mapping[str, int]
    data_dir: Path


class IChangeAdapter(Interface):
    """Learns of configuration changes from a virtualization layer.

    It never blocks the reactor, and loses nothing for good: when its platform cannot be heard it says so,
    tries again with growing pauses, and then asks for the present state.
    """

    kinds = Attribute("The kinds of change that it can tell of.")

    def start(sink: IChangeSink) -> None:
        """Register for the changes; tell ``sink`` of them from now on."""

    def stop() -> Deferred[None] | None:
        """Tell of no more, and let go of whatever is held.  It is never called while the adapter calls its sink."""


class IChangeAdapterFactory(Interface):
    """Makes adapters from a configuration; found as a Twisted plugin."""

    plugin = Attribute("The name by which an item of ``adapters`` asks for it.")

    def make(options: Mapping[str, object], surroundings: Surroundings) -> IChangeAdapter:
        """A new adapter, not yet started.

        :raises ValueError: ``options`` cannot be used; the text names the one and what was expected.
        """
