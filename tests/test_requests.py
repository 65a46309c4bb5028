"""The request window against the plainest one that could be."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from txvbcast import requests as requests_module
from txvbcast.errors import Committed
from txvbcast.requests import RequestWindow
from txvbcast.wire.items import Request

ANSWERS_MAX, SESSIONS_MAX, NUMBER_MAX = 7, 2, 12

#: What a client may ask in one message: a first number, how many, and how far behind the first its ``done`` is.
Asked = tuple[str, int, int, int]


class Plain:
    """Remembers each request by itself."""

    def __init__(self) -> None:
        self.sessions: OrderedDict[str, tuple[int, dict[int, Committed]]] = OrderedDict()

    def knows(self, request: Request) -> bool:
        floor, answers = self.sessions.get(request.session, (0, {}))
        return 0 < request.number <= floor or request.number in answers

    def answer(self, request: Request) -> Committed | None:
        return self.sessions.get(request.session, (0, {}))[1].get(request.number)

    def perform(self, requests: Sequence[Request | None], seq: int, results: Sequence[bytes]) -> frozenset[int]:
        repeats = set()
        for place, request in enumerate(requests):
            if request is None:
                continue
            if self.knows(request):
                repeats.add(place)
            floor, answers = self.sessions.pop(request.session, (0, {}))
            if place not in repeats:
                answers[request.number] = Committed(seq, place, results[place])
            self.sessions[request.session] = (max(floor, request.done), answers)
            self._forget(request.session)
        self._shrink()
        return frozenset(repeats)

    def _forget(self, name: str) -> None:
        floor, answers = self.sessions[name]
        for number in [number for number in answers if 0 < number <= floor]:
            del answers[number]

    def _shrink(self) -> None:
        while len(self.sessions) > SESSIONS_MAX:
            self.sessions.popitem(last=False)
        while sum(len(answers) for _, answers in self.sessions.values()) > ANSWERS_MAX:
            name, (floor, answers) = next(iter(self.sessions.items()))
            if answers:
                lowest = min(answers)
                del answers[lowest]
                self.sessions[name] = (max(floor, lowest), answers)
                self.sessions.move_to_end(name, last=False)
            if not answers:
                del self.sessions[name]


def requests_of(asked: Sequence[Asked | None]) -> list[Request | None]:
    """One request for each number."""
    requests: list[Request | None] = []
    for each in asked:
        if each is None:
            requests.append(None)
            continue
        session, first, count, behind = each
        done = max(0, first - 1 - behind)
        requests += [Request(session, number, done) for number in range(first, first + (count if first else 1))]
    return requests


ASKED = st.tuples(
    st.sampled_from("abc"), st.integers(0, NUMBER_MAX), st.integers(1, 5), st.integers(0, NUMBER_MAX)
) | st.none()  # fmt: skip


class WindowTests(unittest.SynchronousTestCase):
    """Stretches of numbers are a matter of cost alone."""

    def setUp(self) -> None:
        self.patch(requests_module, "ANSWERS_MAX", ANSWERS_MAX)
        self.patch(requests_module, "SESSIONS_MAX", SESSIONS_MAX)

    @settings(max_examples=500)
    @given(entries=st.lists(st.lists(ASKED, min_size=1, max_size=4), max_size=12))
    def test_as_if_one_by_one(self, entries: list[list[Asked | None]]) -> None:
        """Repeats, answers and what is over, after every entry."""
        window, plain = RequestWindow(), Plain()
        for seq, asked in enumerate(entries, 1):
            requests = requests_of(asked)
            results = [b"%d.%d" % (seq, place) for place in range(len(requests))]
            known = window.repeats(requests)
            self.assertEqual(known, {place for place, each in enumerate(requests) if each and plain.knows(each)})
            repeats = window.take(requests)
            window.keep(seq, results)
            self.assertEqual(repeats, plain.perform(requests, seq, results))
            for session in "abc":
                for number in range(NUMBER_MAX + 6):
                    request = Request(session, number)
                    self.assertEqual(window.answer(request), plain.answer(request), (seq, request))
                    self.assertEqual(bool(window.repeats([request])), plain.knows(request), (seq, request))

    def test_heard_before_it_is_asked(self) -> None:
        """What a client says it has heard the outcome of is performed once and forgotten."""
        window = RequestWindow()
        asked = [Request("a", number, done=9) for number in (1, 2, 3)]
        self.assertEqual(window.take(asked), frozenset())
        window.keep(1, [b"one", b"two", b"three"])
        self.assertEqual([window.answer(request) for request in asked], [None] * 3)
        self.assertEqual(window.take(asked), frozenset({0, 1, 2}))

    def test_cost(self) -> None:
        """What is asked side by side is kept as one."""
        self.patch(requests_module, "ANSWERS_MAX", 65_536)
        window = RequestWindow()
        for seq in range(1, 6):
            window.take([Request("a", number) for number in range(seq * 1000, seq * 1000 + 1000)])
            window.keep(seq, [b""] * 1000)
        self.assertEqual(len(window._sessions["a"].stretches), 5)
