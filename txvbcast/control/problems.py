"""Errors as problem documents (RFC 9457): one kind, one status, one ``type`` that ends in the kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from txvbcast import errors

TYPE_PREFIX = "urn:txvbcast:error:"

#: kind: HTTP status and title.  504 for an unknown outcome because that is what a gateway says
#: that has passed a request on and has not heard the end of it.
KINDS: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be understood"),
    "forbidden": (403, "The request came from another site"),
    "not-found": (404, "There is no such thing"),
    "method-not-allowed": (405, "This cannot be done here"),
    "aborted": (409, "It did not happen and will not happen"),
    "too-large": (413, "The request is too large"),
    "overloaded": (429, "A bound is reached; nothing happened, try again later"),
    "internal-error": (500, "The node failed to answer; the reason is in its log"),
    "no-quorum": (503, "No majority of the voters can be reached; nothing happened"),
    "outcome-unknown": (504, "It may have happened, or may yet happen"),
}

#: Kinds that are worth another try, and after how many seconds.
RETRY_AFTER_S = {"overloaded": 1, "no-quorum": 1}


class Problem(Exception):
    """An answer that is an error.

    :ivar kind: a key of :data:`KINDS`.
    :ivar detail: what was wrong with this request, for people.
    :ivar facts: members of the document besides the standard ones, such as ``who`` and ``seq``.
    """

    def __init__(self, kind: str, detail: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.facts = dict(facts or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KINDS[self.kind][0]

    def document(self) -> dict[str, Any]:
        """The JSON object to send."""
        status, title = KINDS[self.kind]
        return {
            "type": TYPE_PREFIX + self.kind,
            "title": title,
            "status": status,
            "detail": self.detail,
            **self.facts,
        }


def bad_field(field: str, detail: str) -> Problem:
    """A bad request in which ``field`` (of the body, the query or the path) is to blame."""
    return Problem("bad-request", f"{field}: {detail}", {"field": field})


def of_submission(error: errors.SubmissionError) -> Problem:
    """What a client hears of a submission that did not end in committed."""
    kind = {
        errors.Aborted: "aborted",
        errors.OutcomeUnknown: "outcome-unknown",
        errors.Overloaded: "overloaded",
        errors.NoQuorum: "no-quorum",
    }[type(error)]
    return Problem(kind, str(error), {"who": list(error.who)})
