"""Azure's Scheduled Events: a machine asks its metadata service what is planned for it, and may let it begin.

Wire facts: Microsoft's page "Scheduled Events for Linux VMs", API version 2020-07-01.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Final

import attrs
import msgspec
from twisted.logger import Logger
from zope.interface import implementer

from txvbcast.interfaces import Go, IChangeAdapter, IChangeSink, Surroundings
from txvbcast.virt.metadata import Appointments, Metadata, parse_time
from txvbcast.virt.options import Options
from txvbcast.virt.polling import Poller, Unreachable

log = Logger()

ENDPOINT: Final = "http://169.254.169.254"
API_VERSION: Final = "2020-07-01"
INSTANCE_API_VERSION: Final = "2021-02-01"
_HEADERS: Final = {"Metadata": "true"}
_EVENTS_PATH: Final = "/metadata/scheduledevents"
_INSTANCE_PATH: Final = "/metadata/instance"

#: What each type of event is to the cluster.  Preempt and Terminate take the machine away, perhaps for good.
KINDS: Final[Mapping[str, str]] = {
    "Freeze": "freeze",
    "Reboot": "reboot",
    "Redeploy": "redeploy",
    "Preempt": "redeploy",
    "Terminate": "redeploy",
}
#: A type that is not known yet is an interruption all the same.
UNKNOWN_KIND: Final = "custom"
#: An approval of any other type would only take the machine away sooner.
APPROVABLE: Final = ("Freeze", "Reboot", "Redeploy")
#: After these the machine starts anew, while its event is still listed as Started for minutes.
RESTARTING: Final = ("Reboot", "Redeploy")

#: An approval that is refused so often is given up: the platform goes by itself at NotBefore.
APPROVALS_MAX: Final = 3
#: Texts of the platform that are kept for people are cut at this length.
TEXT_CHARS_MAX: Final = 200

_Name = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)]


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """An item of ``Events``.

    :ivar not_before: RFC 1123; empty once it has started.
    :ivar duration_in_seconds: of the interruption; -1: not known; 0: there is none.
    """

    event_id: _Name
    event_type: _Name
    event_status: str
    resources: tuple[str, ...] = ()
    not_before: str | None = None
    duration_in_seconds: int = -1
    description: str = ""
    event_source: str = ""

    @property
    def started(self) -> bool:
        """Whether the platform has begun with it."""
        return self.event_status == "Started"

    @property
    def ahead(self) -> bool:
        """Whether it is still to come, or under way.  There is no status for what is over: it is not listed."""
        return self.event_status in ("Scheduled", "Started")

    @property
    def kind(self) -> str:
        """What it is to the cluster."""
        return KINDS.get(self.event_type, UNKNOWN_KIND)


class Document(msgspec.Struct, frozen=True, rename="pascal"):
    """The answer to a question for events."""

    document_incarnation: int
    events: tuple[Event, ...]


class _Compute(msgspec.Struct, frozen=True):
    name: _Name


class _Instance(msgspec.Struct, frozen=True):
    compute: _Compute


@attrs.define(eq=False)
class _Change:
    """An event as it concerns one member.

    :ivar member: the node id of another member; None for this one.
    :ivar approvable: the cluster has confirmed, so the platform may be told to go on.
    :ivar approved: it was told; refusals counts when it did not take that.
    :ivar over: it has been ended, or was over before it was first seen.
    """

    source_id: str
    member: int | None
    event: Event
    approvable: bool = False
    approved: bool = False
    refusals: int = 0
    over: bool = False


@attrs.frozen
class _Settings:
    endpoint: str
    api_version: str
    name: str | None
    approve: bool
    third_party: bool
    interval_s: float
    timeout_s: float
    first_timeout_s: float
    lead_s: float
    start_within_s: float
    unknown_length_s: float


def make(options: Mapping[str, object], surroundings: Surroundings) -> IChangeAdapter:
    """The factory's ``make``.

    :raises ValueError: an option that is unknown or makes no sense.
    """
    given = Options(options)
    settings = _Settings(
        endpoint=given.url("endpoint", ENDPOINT),
        api_version=given.text("api_version", API_VERSION),
        name=given.text_or_none("name"),
        approve=given.flag("approve", True),
        third_party=given.flag("third_party", True),
        interval_s=given.duration_s("interval", "1s"),
        timeout_s=given.duration_s("timeout", "5s"),
        first_timeout_s=given.duration_s("first_timeout", "130s"),
        lead_s=given.duration_s("lead", "10s"),
        start_within_s=given.duration_s("start_within", "30s"),
        unknown_length_s=given.duration_s("unknown_length", "5m"),
    )
    given.finish()
    return Azure(settings, surroundings)


@implementer(IChangeAdapter)
class Azure:
    """Tells of the events that name this machine, and of those of other members once they have started."""

    kinds = ("freeze", "reboot", "redeploy", "custom")

    def __init__(self, settings: _Settings, surroundings: Surroundings) -> None:
        self._settings = settings
        self._metadata = Metadata(surroundings.reactor, settings.endpoint, settings.timeout_s, "Azure")
        self._reactor = surroundings.reactor
        self._others = {
            name.casefold(): node_id
            for name, node_id in surroundings.members.items()
            if node_id != surroundings.node_id
        }
        self._name = settings.name
        self._changes: dict[str, _Change] = {}
        self._appointments = Appointments(surroundings.reactor)
        self._renewals = Appointments(surroundings.reactor)
        self._heard_s: float | None = None
        self._incarnation = 0
        self._incarnations_before = 0
        self._said_backwards = False

    def start(self, sink: IChangeSink) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.start`."""
        self._sink = sink
        settings = self._settings
        # Every question has its own time limit; this one is for all questions of one poll together.
        poll_s = settings.first_timeout_s + 2 * settings.timeout_s + 1.0
        self._poller = Poller(self._reactor, self._poll, settings.interval_s, poll_s, sink.lost)
        self._poller.start()

    def stop(self) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.stop`."""
        self._poller.stop()
        self._appointments.close()
        self._renewals.close()

    # --- questions -------------------------------------------------------------------------

    async def _poll(self) -> None:
        name = self._name = self._name or await self._ask_name()
        document = await self._ask_events()
        self._sink.connected(f"the scheduled events of {name} at {self._metadata.endpoint}")
        self._heed(document, name.casefold())
        self._heard_s = self._reactor.seconds()
        await self._approve_next()

    async def _ask_name(self) -> str:
        query = {"api-version": INSTANCE_API_VERSION}
        answer = await self._metadata.ask("GET", _INSTANCE_PATH, _HEADERS, query)
        name = answer.document(_Instance).compute.name
        if not name:
            raise answer.misunderstood("compute.name is empty; give the option name")
        return name

    async def _ask_events(self) -> Document:
        # The first question ever turns the service on, which may take two minutes.
        timeout_s = self._settings.first_timeout_s if self._heard_s is None else self._settings.timeout_s
        query = {"api-version": self._settings.api_version}
        answer = await self._metadata.ask("GET", _EVENTS_PATH, _HEADERS, query, timeout_s=timeout_s)
        return answer.document(Document)

    async def _approve_next(self) -> None:
        """Tell the platform to go on with one event that was just listed, and whose absence stands confirmed."""
        under_way = self._sink.under_way()
        for change in self._changes.values():
            waits = change.approvable and not change.approved and not change.event.started
            if waits and change.source_id in under_way:
                await self._approve(change)
                return

    async def _approve(self, change: _Change) -> None:
        query = {"api-version": self._settings.api_version}
        start = {"StartRequests": [{"EventId": change.event.event_id}]}
        try:
            await self._metadata.ask("POST", _EVENTS_PATH, _HEADERS, query, start)
        except Unreachable as error:
            change.refusals += 1
            change.approvable = change.refusals < APPROVALS_MAX
            if not change.approvable:
                log.warn(
                    "Azure takes no approval of {id}, and will begin by itself: {why}",
                    id=change.source_id,
                    why=str(error),
                )
            return
        change.approved = True
        log.info("approved Azure's {type} {id}", type=change.event.event_type, id=change.source_id)

    # --- answers ---------------------------------------------------------------------------

    def _heed(self, document: Document, name: str) -> None:
        """Bring what was said before in line with a document."""
        sequence = self._sequence(document.document_incarnation)
        listed = {
            source_id: (event, member)
            for event in document.events
            for source_id, member in self._concerned(event, name)
        }
        for source_id in sorted(self._changes.keys() - listed.keys()):
            self._on_gone(self._changes.pop(source_id), sequence)
        for source_id, (event, member) in listed.items():
            self._on_listed(source_id, event, member, sequence)

    def _sequence(self, incarnation: int) -> int:
        """A number that rises, though the document's begins anew when nobody has asked for a day."""
        if incarnation < self._incarnation:
            self._incarnations_before += self._incarnation
            if not self._said_backwards:
                self._said_backwards = True
                log.warn(
                    "Azure's document went back from {old} to {new}; everything in it is read anew",
                    old=self._incarnation,
                    new=incarnation,
                )
        self._incarnation = incarnation
        return self._incarnations_before + incarnation

    def _concerned(self, event: Event, name: str) -> Iterator[tuple[str, int | None]]:
        """Whom an event interrupts: names of changes, and the other member, or None for this one."""
        if not event.ahead or event.duration_in_seconds == 0:
            return
        resources = {resource.casefold() for resource in event.resources}
        if name in resources:
            yield event.event_id, None
        if self._settings.third_party:
            for other, node_id in self._others.items():
                if other in resources and other != name:
                    yield f"{event.event_id} {other}", node_id

    def _on_listed(self, source_id: str, event: Event, member: int | None, sequence: int) -> None:
        change = self._changes.get(source_id)
        if change is None:
            change = self._changes[source_id] = _Change(source_id, member, event)
            change.over = event.started and self._was_before(change)
        elif change.event == event:
            return
        change.event = event
        if change.over:
            return
        if event.started:
            self._on_started(change, sequence)
        elif member is None:
            self._on_scheduled(change, sequence)

    def _was_before(self, change: _Change) -> bool:
        """Whether an event that is Started when it is first seen had its effect before: it stays so for minutes."""
        if change.member is None:
            # This machine has just restarted because of it.
            before = self._heard_s is None and change.event.event_type in RESTARTING
        else:
            # Perhaps that member is long back; nobody can tell here.
            fresh_s = self._settings.start_within_s
            before = self._heard_s is None or self._reactor.seconds() - self._heard_s > fresh_s
        if before:
            log.info("Azure's {type} {id} is taken for over", type=change.event.event_type, id=change.source_id)
        return before

    def _on_scheduled(self, change: _Change, sequence: int) -> None:
        """Hold it if it may be approved; at the latest shortly before NotBefore the absence is announced."""
        not_before = parse_time(change.event.not_before or "")
        lead_s = self._settings.lead_s
        free_s = 0.0 if not_before is None else max(0.0, not_before - time.time() - lead_s)
        if free_s and self._may_approve(change.event):
            facts = self._facts(change.event, 0.0)
            go = self._sink.begin(change.event.kind, facts, change.source_id, True, sequence, hold_s=free_s)
            go.addCallback(partial(self._on_go, change))
            self._renew_later(change, free_s)
        self._appointments.make(change.source_id, free_s, partial(self._begin, change, lead_s))

    def _renew_later(self, change: _Change, free_s: float) -> None:
        """Once it is approved it may start at any moment, but also wait for other machines' approvals."""
        pause_s = self._settings.start_within_s / 2
        if free_s > 0:
            self._renewals.make(change.source_id, pause_s, partial(self._renew, change, free_s - pause_s))

    def _renew(self, change: _Change, free_s: float) -> None:
        self._sink.update(change.source_id, {"expected_s": self._length_s(change.event)})
        self._renew_later(change, free_s)

    def _may_approve(self, event: Event) -> bool:
        """An approval holds for every machine of the event, so it must not name another one."""
        return self._settings.approve and event.event_type in APPROVABLE and len(event.resources) == 1

    def _on_go(self, change: _Change, go: Go) -> None:
        change.approvable = go.confirmed

    def _begin(self, change: _Change, wait_s: float) -> None:
        if change.source_id not in self._sink.under_way():
            facts = self._facts(change.event, wait_s)
            self._sink.begin(change.event.kind, facts, change.source_id, False, member=change.member)

    def _on_started(self, change: _Change, sequence: int) -> None:
        facts = self._facts(change.event, 0.0)
        self._sink.begin(change.event.kind, facts, change.source_id, False, sequence, member=change.member)
        self._appointments.drop(change.source_id)
        self._renewals.drop(change.source_id)
        if change.event.duration_in_seconds > 0:
            # The event stays listed for minutes after an interruption of seconds.
            over_s = self._length_s(change.event)
            self._appointments.make(change.source_id, over_s, partial(self._on_over, change))

    def _on_over(self, change: _Change) -> None:
        change.over = True
        self._sink.end(change.source_id, "done")

    def _on_gone(self, change: _Change, sequence: int) -> None:
        self._appointments.drop(change.source_id)
        self._renewals.drop(change.source_id)
        if change.source_id in self._sink.under_way():
            happened = change.event.started or change.approved
            self._sink.end(change.source_id, "done" if happened else "cancelled", sequence)

    def _facts(self, event: Event, wait_s: float) -> dict[str, object]:
        """What is known of an event that begins within ``wait_s``."""
        return {
            "expected_s": wait_s + self._length_s(event),
            "event_type": event.event_type,
            "event_source": event.event_source[:TEXT_CHARS_MAX],
            "description": event.description[:TEXT_CHARS_MAX],
        }

    def _length_s(self, event: Event) -> float:
        """From Started to the end of the interruption, at most."""
        known_s = event.duration_in_seconds
        return self._settings.start_within_s + (known_s if known_s > 0 else self._settings.unknown_length_s)
