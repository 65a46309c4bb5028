"""What the HTTP interface needs of a node, as structural types: the driver and the key-value store have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred

from txvbcast.absences import Notice
from txvbcast.errors import Committed
from txvbcast.wire.messages import Mode

#: An event as observers see it: ``id``, ``kind``, ``node_id``, ``reason``, ``time_s`` and facts.
Event = dict[str, Any]


class EventLog(Protocol):
    """The node's last events, and those to come."""

    @property
    def oldest_id(self) -> int:
        """The first event that is still kept."""

    @property
    def newest_id(self) -> int:
        """The last event, 0 before the first."""

    def since(self, event_id: int, /) -> list[Event]:
        """The kept events with an id above ``event_id``."""

    def subscribe(self, callback: Callable[[Event], None], /) -> Callable[[], None]:
        """Call back with each event from now on, until the returned function is called."""


class HeldChange(Protocol):
    """An absence that waits for its turn, or is announced; see :class:`txvbcast.absences.HeldChange`."""

    @property
    def change_id(self) -> int | None:
        """Names the change on this node, once it is announced."""

    @property
    def member(self) -> int:
        """Whose absence it is."""

    @property
    def announced_s(self) -> float:
        """How long it is expected to take."""

    @property
    def go(self) -> Deferred[Any]:
        """Fires with a :class:`txvbcast.interfaces.Go`."""


class Absences(Protocol):
    """The absences announced on this node; see :class:`txvbcast.absences.Absences`."""

    def hold(self, notice: Notice, /) -> HeldChange:
        """Announce an absence in its turn."""

    def update(self, change_id: int, expected_s: float | None, /) -> None:
        """Estimate anew."""

    def end(self, change_id: int, outcome: str = "done", /) -> None:
        """The absence is over."""

    def refusal(self, member: int | None = None, expected_s: float | None = None, /) -> str:
        """Whether a member may be absent: empty for yes, else why not now."""

    def documents(self) -> list[dict[str, Any]]:
        """All of them, the latest last."""


class Node(Protocol):
    """The driver, as far as the HTTP interface uses it; see there for duties and errors."""

    @property
    def applied(self) -> int:
        """The last seq that this node has performed."""

    @property
    def events(self) -> EventLog:
        """What happened in the cluster, as this node saw it."""

    def submit(
        self,
        rm: str,
        payload: bytes,
        mode: Mode = Mode.BROADCAST,
        timeout_s: float = 5.0,
        request_id: str | None = None,
    ) -> Deferred[Committed]:
        """Hand in a transaction."""

    def outcome(self, request_id: str) -> Committed | None:
        """What became of a transaction with that ``request_id``, if it is known."""

    def read_barrier(self, timeout_s: float = 5.0) -> Deferred[int]:
        """Fires when a read here is linearizable."""

    @property
    def absences(self) -> Absences:
        """The absences announced here."""

    def history(self) -> dict[str, Any]:
        """What ``GET /v1/inactive/history`` shows."""

    def move_master(self, to: int) -> Deferred[None]:
        """Hand the office over."""

    def status(self) -> dict[str, Any]:
        """What ``GET /v1/status`` shows."""


class KvResult(Protocol):
    """What came of a transaction of the key-value store."""

    @property
    def ok(self) -> bool:
        """Whether it did what it was asked to."""

    @property
    def version(self) -> int:
        """The key's version afterwards, 0 for none."""

    @property
    def found_version(self) -> int:
        """The key's version before, 0 for none."""

    @property
    def reason(self) -> str:
        """Why not ``ok``."""


class KeyValues(Protocol):
    """The key-value resource manager, as far as the HTTP interface uses it; see there."""

    @property
    def name(self) -> str:
        """The name by which transactions address it."""

    def put_payload(self, key: str, value: bytes, if_version: int | None = None, /) -> bytes:
        """A transaction that sets ``key``."""

    def delete_payload(self, key: str, if_version: int | None = None, /) -> bytes:
        """A transaction that removes ``key``."""

    def decode_result(self, result: bytes, /) -> KvResult:
        """What came of it."""

    def get(self, key: str, /) -> tuple[bytes, int] | None:
        """Value and version."""

    def items(self, prefix: str = "", /) -> list[tuple[str, bytes, int]]:
        """Keys, values and versions in order."""


@attrs.frozen
class HttpLimits:
    """Bounds of one HTTP interface.

    :ivar payload_bytes_max: of one transaction (``limits.payload``).
    :ivar event_streams_max: clients that follow the events at once.
    :ivar event_backlog_bytes_max: a client that leaves more events than this unread is disconnected.
    :ivar keep_alive_s: a silent event stream shows a sign of life this often.
    """

    payload_bytes_max: int = 1 << 20
    event_streams_max: int = 64
    event_backlog_bytes_max: int = 1 << 18
    keep_alive_s: float = 15.0

    @property
    def body_bytes_max(self) -> int:
        """The largest request body: a full payload in base64, and room for what surrounds it."""
        return 2 * self.payload_bytes_max + 65536
