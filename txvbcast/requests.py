"""What was asked before: the answers that are kept so that a repeat takes effect once.

The window is part of the replicated state: it follows from the log alone, so it is the same on every
node at the same seq.  A numbered session says with each request how far its client has heard
the answers; those are forgotten.  Both bounds drop what has not been used for longest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import Final

import attrs

from txvbcast.errors import Committed
from txvbcast.wire.items import Request

#: How many answers are remembered, those of all sessions together.
ANSWERS_MAX = 65_536
#: How many sessions are.
SESSIONS_MAX = 10_000

#: Where a request stands, and its result: (seq, index, result).
Answer = tuple[int, int, bytes]

#: Stands for an answer that is not kept.
_OVER: Final[Answer] = (0, 0, b"")


@attrs.define(eq=False)
class Session:
    """The requests of one client.

    :ivar floor: numbers from 1 to this are over: they are never performed any more.
    :ivar answers: by number; None while the entry that holds the request is being performed.
    """

    floor: int = 0
    answers: dict[int, Answer | None] = attrs.field(factory=dict)

    def knows(self, number: int) -> bool:
        """Whether the log holds the request of that number, or it is over."""
        return number in self.answers or 0 < number <= self.floor


class RequestWindow:
    """The requests that the log has answered lately, and their answers."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._kept = 0

    def knows(self, request: Request) -> bool:
        """Whether the log has answered ``request``, though the answer may be forgotten."""
        session = self._sessions.get(request.session)
        return session is not None and session.knows(request.number)

    def answer(self, request: Request) -> Committed | None:
        """What ``request`` led to; None if that is not known here, or not any more."""
        session = self._sessions.get(request.session)
        answer = session.answers.get(request.number) if session is not None else None
        return Committed(*answer) if answer is not None else None

    def take(self, requests: Sequence[Request | None]) -> frozenset[int]:
        """Note the requests of an entry that is about to be performed; the places of those that are repeats."""
        repeats = []
        session, name = Session(), ""
        for place, request in enumerate(requests):
            if request is None:
                continue
            if request.session != name or not name:
                session, name = self._session(request.session), request.session
            number = request.number
            if number in session.answers or 0 < number <= session.floor:
                repeats.append(place)
                continue
            session.answers[number] = None
            self._kept += 1
            if request.done > session.floor:
                self._raise_floor(session, request.done)
        return frozenset(repeats)

    def keep(self, requests: Sequence[Request | None], seq: int, results: Sequence[bytes]) -> None:
        """The answers to what was taken, in the places where they stand; then the bounds are kept."""
        session, name = Session(), ""
        for index, request in enumerate(requests):
            if request is None:
                continue
            if request.session != name or not name:
                session, name = self._session(request.session), request.session
            if session.answers.get(request.number, _OVER) is None:
                session.answers[request.number] = (seq, index, results[index])
        self._shrink()

    def _session(self, name: str) -> Session:
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = Session()
        else:
            self._sessions.move_to_end(name)
        return session

    def _raise_floor(self, session: Session, done: int) -> None:
        answers = session.answers
        # The numbers of a client that plays by the rules have no gaps; of another's there may be few in a wide range.
        span = range(session.floor + 1, done + 1)
        over = span if len(span) <= len(answers) else [number for number in answers if number in span]
        for number in over:
            if answers.pop(number, _OVER) is not _OVER:
                self._kept -= 1
        session.floor = done

    def _shrink(self) -> None:
        # Not while an entry is performed: what was found to be a repeat stays one to its end.
        while self._kept > ANSWERS_MAX or len(self._sessions) > SESSIONS_MAX:
            name, session = next(iter(self._sessions.items()))
            surplus = self._kept - ANSWERS_MAX
            if len(self._sessions) > SESSIONS_MAX or len(session.answers) <= surplus:
                self._kept -= len(session.answers)
                del self._sessions[name]
            else:
                self._drop_oldest(session, surplus)

    def _drop_oldest(self, session: Session, count: int) -> None:
        oldest = list(islice(session.answers, count))
        for number in oldest:
            del session.answers[number]
        self._kept -= count
        session.floor = max(session.floor, *oldest)  # what is forgotten is not performed again
