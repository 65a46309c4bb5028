"""What a client tells its user when an answer is not the one that was hoped for."""

from __future__ import annotations

from typing import Final

import attrs

from txvbcast.errors import Aborted, NoQuorum, OutcomeUnknown, Overloaded, SubmissionError, VbcastError
from txvbcast.wire.client_messages import FailureKind


class BadRequest(SubmissionError, ValueError):
    """What was asked for makes no sense to the node: an unknown resource manager, a payload above its limit."""


class Unreachable(VbcastError):
    """No node of the cluster could be reached, or all refused; the text says what each address answered."""


_CLASSES: Final[dict[FailureKind, type[SubmissionError]]] = {
    FailureKind.ABORTED: Aborted,
    FailureKind.OVERLOADED: Overloaded,
    FailureKind.NO_QUORUM: NoQuorum,
    FailureKind.BAD_REQUEST: BadRequest,
}


@attrs.frozen
class Failure:
    """Why something was not answered as hoped; becomes an exception when somebody asks for one."""

    kind: FailureKind
    reason: str
    who: tuple[int, ...] = ()

    def error(self, request_id: str | None = None) -> SubmissionError:
        """The exception that says so.

        :param request_id: of the transaction, so that its outcome can be asked for.
        """
        if self.kind is FailureKind.OUTCOME_UNKNOWN:
            return OutcomeUnknown(self.reason, self.who, request_id)
        return _CLASSES[self.kind](self.reason, self.who)
