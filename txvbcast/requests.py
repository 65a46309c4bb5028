"""What was asked before: the answers that are kept so that a repeat takes effect once.

The window is part of the replicated state: it follows from the log alone, so it is the same on every
node at the same seq.  A numbered session says with each request how far its client has heard
the answers; those are forgotten.  Both bounds drop what has not been used for longest.

Clients count without gaps and send many requests at a time, so answers are kept by the stretch: what is
asked side by side costs one object, however many they are.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import attrs

from txvbcast.errors import Committed
from txvbcast.wire.items import Request

#: How many answers are remembered, those of all sessions together.
ANSWERS_MAX = 65_536
#: How many sessions are.
SESSIONS_MAX = 10_000


@attrs.define(eq=False)
class Stretch:
    """Requests of one session whose numbers follow each other, side by side in one entry.

    :ivar first: the number of the first of ``count``; it stands in the place ``index`` of the entry ``seq``.
    :ivar results: those of ``count`` places from ``index`` on; None while the entry is being performed.
    """

    first: int
    count: int
    index: int
    seq: int = 0
    results: Sequence[bytes] | None = None

    @property
    def end(self) -> int:
        """The number behind its last one."""
        return self.first + self.count

    def answer(self, number: int) -> Committed | None:
        """What the request of that number led to, if it is one of these and performed."""
        place = number - self.first
        if self.results is None or place >= self.count:
            return None
        return Committed(self.seq, self.index + place, self.results[place])

    def drop(self, count: int) -> None:
        """Forget the first ones."""
        self.first += count
        self.index += count
        self.count -= count
        if self.results is not None:
            self.results = self.results[count:]


def _first(stretch: Stretch) -> int:
    return stretch.first


@attrs.define(eq=False)
class Session:
    """The requests of one client.

    :ivar floor: numbers from 1 to this are over: they are never performed any more.
    :ivar stretches: what is kept above it, in the order of their numbers; and first of all the number 0, which stands
        by itself.
    :ivar count: how many requests these are.
    """

    floor: int = 0
    stretches: list[Stretch] = attrs.field(factory=list)
    count: int = 0

    def find(self, number: int) -> Stretch | None:
        """The stretch in which the request of that number is."""
        at = bisect_right(self.stretches, number, key=_first) - 1
        return self.stretches[at] if at >= 0 and number < self.stretches[at].end else None

    def knows(self, number: int) -> bool:
        """Whether the log holds the request of that number, or it is over."""
        return 0 < number <= self.floor or self.find(number) is not None

    def knows_none_of(self, stretch: Stretch) -> bool:
        """Whether all of ``stretch`` is new for the simplest reason: it lies above all there was."""
        top = self.stretches[-1].end if self.stretches else 0
        return stretch.first >= max(top, self.floor + 1)

    def add(self, stretch: Stretch) -> None:
        """Keep what is not known."""
        insort(self.stretches, stretch, key=_first)
        self.count += stretch.count

    def raise_floor(self, floor: int) -> None:
        """The numbers up to this are over."""
        self.floor = max(self.floor, floor)
        begin = 1 if self.stretches and not self.stretches[0].first else 0
        end = bisect_right(self.stretches, self.floor, lo=begin, key=_first)
        if begin < end:
            last = self.stretches[end - 1]
            last_count = min(last.count, self.floor + 1 - last.first)
            self.count -= sum(stretch.count for stretch in self.stretches[begin : end - 1]) + last_count
            last.drop(last_count)
            del self.stretches[begin : end if not last.count else end - 1]

    def drop_lowest(self, count: int) -> None:
        """Make room; what is forgotten is not performed again."""
        while count:
            lowest = self.stretches[0]
            number = lowest.first + min(count, lowest.count) - 1
            count -= number + 1 - lowest.first
            if number:
                self.raise_floor(number)
            else:
                self.count -= 1
                del self.stretches[0]


class RequestWindow:
    """The requests that the log has answered lately, and their answers."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._kept = 0
        self._taken: list[Stretch] = []

    def repeats(self, requests: Sequence[Request | None]) -> frozenset[int]:
        """The places of those that the log has answered, though the answers may be forgotten."""
        places: list[int] = []
        for request, stretch in _stretches(requests):
            session = self._sessions.get(request.session)
            if session is not None and not session.knows_none_of(stretch):
                numbers = range(stretch.first, stretch.end)
                places += [place for place, number in enumerate(numbers, stretch.index) if session.knows(number)]
        return frozenset(places)

    def answer(self, request: Request) -> Committed | None:
        """What ``request`` led to; None if that is not known here, or not any more."""
        session = self._sessions.get(request.session)
        found = session.find(request.number) if session is not None else None
        return found.answer(request.number) if found is not None else None

    def take(self, requests: Sequence[Request | None]) -> frozenset[int]:
        """Note the requests of an entry that is about to be performed; the places of those that are repeats."""
        repeats: list[int] = []
        for request, stretch in _stretches(requests):
            session = self._session(request.session)
            before = session.count
            if session.knows_none_of(stretch):
                self._add(session, stretch)
            else:
                repeats += self._add_unknown(session, stretch)
            if request.done > session.floor:
                session.raise_floor(request.done)
            self._kept += session.count - before
        return frozenset(repeats)

    def keep(self, seq: int, results: Sequence[bytes]) -> None:
        """The answers to what was taken, in the places where they stand; then the bounds are kept."""
        for stretch in self._taken:
            stretch.seq = seq
            stretch.results = results[stretch.index : stretch.index + stretch.count]
        self._taken.clear()
        self._shrink()

    def _add(self, session: Session, stretch: Stretch) -> None:
        session.add(stretch)
        self._taken.append(stretch)

    def _add_unknown(self, session: Session, stretch: Stretch) -> Iterator[int]:
        """Keep what is new of ``stretch``, one by one; the places of the rest."""
        for place in range(stretch.count):
            if session.knows(stretch.first + place):
                yield stretch.index + place
            else:
                self._add(session, Stretch(stretch.first + place, 1, stretch.index + place))

    def _session(self, name: str) -> Session:
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = Session()
        else:
            self._sessions.move_to_end(name)
        return session

    def _shrink(self) -> None:
        # Not while an entry is performed: what was found to be a repeat stays one to its end.
        while self._kept > ANSWERS_MAX or len(self._sessions) > SESSIONS_MAX:
            name, session = next(iter(self._sessions.items()))
            surplus = self._kept - ANSWERS_MAX
            if len(self._sessions) > SESSIONS_MAX or session.count <= surplus:
                self._kept -= session.count
                del self._sessions[name]
            else:
                session.drop_lowest(surplus)
                self._kept -= surplus


def _stretches(requests: Sequence[Request | None]) -> Iterator[tuple[Request, Stretch]]:
    """The requests divided into stretches, each with its first one, which stands for all of them."""
    begin, count = 0, len(requests)
    while begin < count:
        first = requests[begin]
        if first is None:
            begin += 1
            continue
        end = begin + 1
        session, done, number = first.session, first.done, first.number + 1
        # The number 0 means that its client does not count.
        while first.number and end < count and (request := requests[end]) is not None:
            if request.number != number or request.done != done or request.session != session:
                break
            number += 1
            end += 1
        yield first, Stretch(first.number, end - begin, begin)
        begin = end
