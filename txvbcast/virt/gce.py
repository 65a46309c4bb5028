"""Compute Engine's maintenance-event: Google's machines hear of a live migration a minute ahead, by a long poll.

Wire facts: Google's pages "Query metadata server for maintenance event notices" and "View and query VM metadata".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
from twisted.logger import Logger
from zope.interface import implementer

from txvbcast.interfaces import IChangeAdapter, IChangeSink, Surroundings
from txvbcast.virt.metadata import Answer, Appointments, Metadata
from txvbcast.virt.options import Options
from txvbcast.virt.polling import Poller, Unreachable

log = Logger()

ENDPOINT: Final = "http://169.254.169.254"
PATH: Final = "/computeMetadata/v1/instance/maintenance-event"
_HEADERS: Final = {"Metadata-Flavor": "Google"}
#: No ETag is equal to it, so that the present value is told at once.
NO_ETAG: Final = "0"
ETAG_CHARS_MAX: Final = 200
#: During maintenance the service answers 503, and is asked again after this long.
UNAVAILABLE_S: Final = 1.0
#: Between two long polls; only a service that does not wait makes it felt.
PAUSE_S: Final = 0.1

NONE: Final = "NONE"
#: What each value is to the cluster.
KINDS: Final[Mapping[str, str]] = {
    "MIGRATE_ON_HOST_MAINTENANCE": "migrate_out",
    "TERMINATE_ON_HOST_MAINTENANCE": "redeploy",
    "SHUTDOWN_ON_HOST_MAINTENANCE": "redeploy",  # its name in older documentation
}


@attrs.frozen
class _Course:
    """How a kind of maintenance goes.

    :ivar notice_s: from the platform's word to the maintenance; length_s: from there to its end, at most.
    """

    notice_s: float
    length_s: float


@attrs.frozen
class _Settings:
    endpoint: str
    wait_s: int
    timeout_s: float
    lead_s: float
    courses: Mapping[str, _Course]


def make(options: Mapping[str, object], surroundings: Surroundings) -> IChangeAdapter:
    """The factory's ``make``.

    :raises ValueError: an option that is unknown or makes no sense.
    """
    given = Options(options)
    settings = _Settings(
        endpoint=given.url("endpoint", ENDPOINT),
        wait_s=round(given.duration_s("wait", "60s", least_s=1.0)),
        timeout_s=given.duration_s("timeout", "5s"),
        lead_s=given.duration_s("lead", "60s"),
        courses={
            "migrate_out": _Course(
                given.duration_s("migration_notice", "60s"), given.duration_s("migration_length", "60s")
            ),
            "redeploy": _Course(
                given.duration_s("termination_notice", "60s"), given.duration_s("termination_length", "5m")
            ),
        },
    )
    given.finish()
    return Gce(settings, surroundings)


@implementer(IChangeAdapter)
class Gce:
    """Tells of maintenance from (about) the platform's word until the platform takes it back."""

    kinds = ("migrate_out", "redeploy")

    def __init__(self, settings: _Settings, surroundings: Surroundings) -> None:
        self._settings = settings
        self._reactor = surroundings.reactor
        self._metadata = Metadata(surroundings.reactor, settings.endpoint, settings.timeout_s, "Google Cloud")
        self._appointments = Appointments(surroundings.reactor)
        self._etag = NO_ETAG
        self._value = NONE
        self._source_id = ""

    def start(self, sink: IChangeSink) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.start`."""
        self._sink = sink
        # The question has its own time limit, which is met first.
        poll_s = self._settings.wait_s + self._settings.timeout_s + 1.0
        self._poller = Poller(self._reactor, self._poll, PAUSE_S, poll_s, sink.lost)
        self._poller.start()

    def stop(self) -> None:
        """See :meth:`txvbcast.interfaces.IChangeAdapter.stop`."""
        self._poller.stop()
        self._appointments.close()

    async def _poll(self) -> None:
        try:
            answer = await self._ask()
        except Unreachable:
            self._etag = NO_ETAG  # after silence the present value is asked for, whatever it was
            raise
        value = answer.text()
        if value != NONE and value not in KINDS:
            raise answer.misunderstood("no value of maintenance-event")
        self._etag = answer.header("ETag")[:ETAG_CHARS_MAX] or NO_ETAG
        self._sink.connected(f"maintenance-event at {self._metadata.endpoint}")
        if value != self._value:
            self._on_value(value)

    async def _ask(self) -> Answer:
        wait_s = self._settings.wait_s
        query = {"wait_for_change": "true", "last_etag": self._etag, "timeout_sec": str(wait_s)}
        timeout_s = self._settings.timeout_s if self._etag == NO_ETAG else wait_s + self._settings.timeout_s
        answer = await self._metadata.ask("GET", PATH, _HEADERS, query, timeout_s=timeout_s, also=(503,))
        if answer.status == 503:
            unavailable = answer.refused()
            raise Unreachable(str(unavailable), unavailable.retry_after_s or UNAVAILABLE_S)
        if answer.header("Metadata-Flavor") != "Google":
            raise answer.misunderstood("it is not Google's metadata server")
        return answer

    def _on_value(self, value: str) -> None:
        """Maintenance comes, is over, or becomes another: a migration that failed ends as a termination."""
        self._appointments.drop("begin")
        if self._source_id in self._sink.under_way():
            self._sink.end(self._source_id, "done" if value == NONE else "failed")
        log.info("Google's maintenance-event is {value}", value=value)
        self._value = value
        if value != NONE:
            course = self._settings.courses[KINDS[value]]
            self._source_id = f"{value} {self._etag}"
            self._appointments.make("begin", course.notice_s - self._settings.lead_s, self._begin)

    def _begin(self) -> None:
        kind = KINDS[self._value]
        course = self._settings.courses[kind]
        facts = {
            "expected_s": min(course.notice_s, self._settings.lead_s) + course.length_s,
            "maintenance_event": self._value,
        }
        self._sink.begin(kind, facts, self._source_id, False)
