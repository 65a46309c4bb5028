"""EC2's instance metadata: scheduled maintenance, the interruption of spot instances, and advice to rebalance.

Wire facts: Amazon's pages "Scheduled events for your instances", "Spot Instance interruption notices", "EC2 instance
rebalance recommendations" and "Use the Instance Metadata Service", version 2.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Final, TypeVar

import attrs
import msgspec
from twisted.logger import Logger
from zope.interface import implementer

from txvbcast.interfaces import IChangeAdapter, IChangeSink, Surroundings
from txvbcast.virt.metadata import Answer, Appointments, Metadata, parse_time
from txvbcast.virt.options import Options
from txvbcast.virt.polling import Poller

log = Logger()

ENDPOINT: Final = "http://169.254.169.254"
TOKEN_PATH: Final = "/latest/api/token"
SCHEDULED_PATH: Final = "/latest/meta-data/events/maintenance/scheduled"
SPOT_PATH: Final = "/latest/meta-data/spot/instance-action"
REBALANCE_PATH: Final = "/latest/meta-data/events/recommendations/rebalance"
TOKEN_HEADER: Final = "X-aws-ec2-metadata-token"
TOKEN_LIFE_HEADER: Final = "X-aws-ec2-metadata-token-ttl-seconds"
#: Six hours, the longest that there is.
TOKEN_LIFE_S: Final = 21600
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,1024}", re.ASCII)

#: What each code of a scheduled event is to the cluster.
KINDS: Final[Mapping[str, str]] = {
    "instance-reboot": "reboot",
    "system-reboot": "reboot",
    "system-maintenance": "network",
    "instance-stop": "redeploy",
    "instance-retirement": "redeploy",
}
#: A code that is not known yet is an interruption all the same.
UNKNOWN_KIND: Final = "custom"
#: A machine that was started after one of these began has it behind it, though it may be listed for a while.
RESTARTING: Final = ("instance-reboot", "system-reboot", "instance-stop", "instance-retirement")
#: States of a scheduled event; there is also ``completed``.
ACTIVE: Final = "active"
CANCELED: Final = "canceled"
#: What each action is that interrupts a spot instance; any other takes the machine away.
SPOT_KINDS: Final[Mapping[str, str]] = {"hibernate": "suspend"}
SPOT_KIND: Final = "redeploy"

#: Texts of the platform that are kept for people are cut at this length.
TEXT_CHARS_MAX: Final = 200

_Name = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)]
Form = TypeVar("Form")


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """An item of ``events/maintenance/scheduled``.

    :ivar not_before: as ``21 Jan 2019 09:00:43 GMT``; not_after: the latest end.
    """

    event_id: _Name
    code: _Name
    not_before: str
    not_after: str = ""
    state: str = ACTIVE
    description: str = ""


class SpotAction(msgspec.Struct, frozen=True):
    """``spot/instance-action``: the action comes at about that time, two minutes ahead."""

    action: _Name
    time: str = ""


class Rebalance(msgspec.Struct, frozen=True, rename="camel"):
    """``events/recommendations/rebalance``: an interruption has become more likely."""

    notice_time: _Name


@attrs.define(eq=False)
class _Change:
    """An interruption that the platform has announced; times are seconds since 1970.

    :ivar announce_s: when the cluster is told.
    :ivar starts_s: when it starts at the earliest, ends_s: when it ends at the latest; None if that is not said.
    :ivar begun: the cluster was told.
    """

    source_id: str
    kind: str
    announce_s: float
    starts_s: float | None
    ends_s: float | None
    facts: Mapping[str, object]
    begun: bool = False


@attrs.frozen
class _Settings:
    endpoint: str
    interval_s: float
    timeout_s: float
    lead_s: float
    rebalance: bool


def make(options: Mapping[str, object], surroundings: Surroundings) -> IChangeAdapter:
    """The factory's ``make``.

    :raises ValueError: an option that is unknown or makes no sense.
    """
    given = Options(options)
    settings = _Settings(
        endpoint=given.url("endpoint", ENDPOINT),
        interval_s=given.duration_s("interval", "5s"),
        timeout_s=given.duration_s("timeout", "5s"),
        lead_s=given.duration_s("lead", "30s"),
        rebalance=given.flag("rebalance", True),
    )
    given.finish()
    return Aws(settings, surroundings)


@implementer(IChangeAdapter)
class Aws:
    """Tells of scheduled events shortly before they may start, and of a spot interruption at once."""

    kinds = ("reboot", "redeploy", "network", "suspend", "custom")

    def __init__(self, settings: _Settings, surroundings: Surroundings) -> None:
        self._settings = settings
        self._reactor = surroundings.reactor
        self._metadata = Metadata(surroundings.reactor, settings.endpoint, settings.timeout_s, "Amazon EC2")
        self._appointments = Appointments(surroundings.reactor)
        self._changes: dict[str, _Change] = {}
        self._token = ""
        self._noticed = ""
        self._called_off: frozenset[str] = frozenset()
        self._unreadable: frozenset[str] = frozenset()

    def start(self, sink: IChangeSink) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.start`."""
        self._sink = sink
        # Every question has its own time limit; this one is for all questions of one poll, tokens among them.
        poll_s = 10 * self._settings.timeout_s
        self._poller = Poller(self._reactor, self._poll, self._settings.interval_s, poll_s, sink.lost)
        self._poller.start()

    def stop(self) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.stop`."""
        self._poller.stop()
        self._appointments.close()

    # --- questions -------------------------------------------------------------------------

    async def _poll(self) -> None:
        spot = await self._page(SPOT_PATH, SpotAction)
        scheduled = await self._page(SCHEDULED_PATH, tuple[Event, ...])
        advice = await self._page(REBALANCE_PATH, Rebalance) if self._settings.rebalance else None
        self._sink.connected(f"EC2's instance metadata at {self._metadata.endpoint}")
        now_s = time.time()
        announced = [*self._interruptions(spot), *self._planned(scheduled or (), now_s)]
        self._called_off = frozenset(event.event_id for event in scheduled or () if event.state == CANCELED)
        self._heed({change.source_id: change for change in announced}, now_s)
        self._pass_on(advice)

    async def _page(self, path: str, form: type[Form]) -> Form | None:
        """A page, or None if there is none, which is the usual case."""
        answer = await self._ask(path)
        return None if answer.status == 404 else answer.document(form)

    async def _ask(self, path: str) -> Answer:
        if self._token:
            answer = await self._metadata.ask("GET", path, {TOKEN_HEADER: self._token}, also=(401, 404))
            if answer.status != 401:
                return answer
        self._token = await self._ask_token()
        return await self._metadata.ask("GET", path, {TOKEN_HEADER: self._token}, also=(404,))

    async def _ask_token(self) -> str:
        answer = await self._metadata.ask("PUT", TOKEN_PATH, {TOKEN_LIFE_HEADER: str(TOKEN_LIFE_S)})
        token = answer.text()
        if not _TOKEN.fullmatch(token):
            raise answer.misunderstood("no token")
        return token

    # --- answers ---------------------------------------------------------------------------

    def _interruptions(self, spot: SpotAction | None) -> Iterator[_Change]:
        """At most one, announced at once: two minutes are left, and nothing is gained by waiting."""
        if spot is not None:
            kind = SPOT_KINDS.get(spot.action, SPOT_KIND)
            facts = {"spot_action": spot.action, "spot_time": spot.time[:TEXT_CHARS_MAX]}
            yield _Change(f"spot {spot.action}", kind, 0.0, parse_time(spot.time), None, facts)

    def _planned(self, events: tuple[Event, ...], now_s: float) -> Iterator[_Change]:
        """Scheduled events that are still to come, or under way."""
        unreadable = {}
        for event in events:
            starts_s, ends_s = parse_time(event.not_before), parse_time(event.not_after)
            if event.state != ACTIVE or (ends_s is not None and ends_s <= now_s):
                continue
            if starts_s is None:
                unreadable[event.event_id] = event.not_before
            elif event.code not in RESTARTING or starts_s >= _booted_s(now_s):
                kind = KINDS.get(event.code, UNKNOWN_KIND)
                facts = {"code": event.code, "description": event.description[:TEXT_CHARS_MAX]}
                announce_s = starts_s - self._settings.lead_s
                yield _Change(event.event_id, kind, announce_s, starts_s, ends_s, facts)
        self._complain(unreadable)

    def _complain(self, unreadable: Mapping[str, str]) -> None:
        for event_id in unreadable.keys() - self._unreadable:
            text = unreadable[event_id][:TEXT_CHARS_MAX]
            log.warn("EC2's event {id} is passed over: NotBefore {text!r} is no time", id=event_id, text=text)
        self._unreadable = frozenset(unreadable)

    def _heed(self, announced: Mapping[str, _Change], now_s: float) -> None:
        """Bring what was said before in line with what is announced now."""
        for source_id in sorted(self._changes.keys() - announced.keys()):
            self._appointments.drop(source_id)
            self._end(self._changes.pop(source_id), now_s)
        for source_id, change in announced.items():
            free_s = change.announce_s - now_s
            before = self._changes.get(source_id)
            if before is not None and before.begun and free_s <= 0 and before.ends_s == change.ends_s:
                continue
            if before is not None and free_s > 0:
                self._end(before, now_s)  # it was put off
            self._changes[source_id] = change
            self._appointments.make(source_id, free_s, partial(self._begin, change))

    def _begin(self, change: _Change) -> None:
        change.begun = True
        facts = dict(change.facts)
        if change.ends_s is not None:
            facts["expected_s"] = max(0.0, change.ends_s - time.time())
        self._sink.begin(change.kind, facts, change.source_id, False)

    def _end(self, change: _Change, now_s: float) -> None:
        if change.begun and change.source_id in self._sink.under_way():
            early = change.starts_s is not None and now_s < change.starts_s
            called_off = early or change.source_id in self._called_off
            self._sink.end(change.source_id, "cancelled" if called_off else "done")

    def _pass_on(self, advice: Rebalance | None) -> None:
        """Nothing happens to the machine yet, so nothing is announced; but people may want to know."""
        noticed = "" if advice is None else advice.notice_time
        if noticed and noticed != self._noticed:
            log.warn("Amazon says since {since} that this spot instance is likely to be interrupted", since=noticed)
        self._noticed = noticed


def _booted_s(now_s: float) -> float:
    """When this machine was started, in seconds since 1970."""
    return now_s - time.clock_gettime(time.CLOCK_BOOTTIME)
