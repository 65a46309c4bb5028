"""The check by log position: what it lets pass, and every way in which it must not."""

from __future__ import annotations

import attrs
from twisted.trial import unittest

from txvbcast.sim import linearizability
from txvbcast.sim.linearizability import NEVER, Operation, Read, Swap, Write
from txvbcast.sim.witness import (
    AFTER_ALL,
    TOLD_MAX,
    Asked,
    Done,
    Found,
    Get,
    Logged,
    Place,
    Set,
    check,
    check_prefixes,
    operations,
)


def write(
    name: str, place: Place, called: float, returned: float, value: bytes | None = None, found: int = 0, key: str = "k"
) -> Asked:
    """An answered write; the value is its name if nothing else is said."""
    request = Set(key, name.encode() if value is None else value)
    return Asked(name, request, called, returned, Done(True, place[0], found), place)


def read(name: str, seq: int, called: float, returned: float, found: Found) -> Asked:
    """An answered read of the key."""
    return Asked(name, Get("k"), called, returned, found, (seq, AFTER_ALL))


def logged(asked: Asked, place: Place | None = None) -> Logged:
    """A write in the log, where its client was told."""
    where = place or asked.place
    assert where is not None and isinstance(asked.request, Set)
    return Logged(where, asked.name, asked.request)


FIRST = write("first", (1, 0), 0, 1)
SECOND = write("second", (2, 0), 2, 3, found=1)
READ = read("read", 2, 4, 5, Found(b"second", 2))
LOG = [logged(FIRST), logged(SECOND)]


class WitnessTests(unittest.TestCase):
    """Two writes and a read, and what can be wrong with them."""

    def assert_complaint(self, words: str, history: list[Asked], log: list[Logged]) -> None:
        """There is a complaint with these words, and all complaints are about that."""
        complaints = check(history, log)
        self.assertNotEqual(complaints, [])
        for complaint in complaints:
            self.assertIn(words, complaint)

    def test_fine(self) -> None:
        self.assertEqual(check([], []), [])
        self.assertEqual(check([READ, SECOND, FIRST], LOG), [])

    def test_unknown_write_may_be_there_or_not(self) -> None:
        unknown = Asked("unknown", Set("k", b"u"), 0.5)
        self.assertEqual(check([unknown, FIRST, SECOND, READ], LOG), [])
        later = [attrs.evolve(FIRST, place=(2, 0), answer=Done(True, 2, 1)), unknown]
        self.assertEqual(check(later, [logged(unknown, (1, 0)), logged(FIRST, (2, 0))]), [])

    def test_lost_write(self) -> None:
        self.assert_complaint("answered and is not in the log", [FIRST], [])

    def test_refused_and_in_the_log(self) -> None:
        refused = Asked("first", FIRST.request, 0, refused=True)
        self.assert_complaint("was refused", [refused], [logged(FIRST)])
        self.assertEqual(check([refused], []), [])

    def test_nobody_asked(self) -> None:
        self.assert_complaint("nobody has asked", [], [logged(FIRST)])

    def test_other_content(self) -> None:
        self.assert_complaint("was asked for, the log has", [FIRST], [Logged((1, 0), "first", Set("k", b"other"))])

    def test_other_place(self) -> None:
        later = attrs.evolve(FIRST, place=(2, 0))
        self.assert_complaint("another place", [later], [logged(FIRST)])

    def test_twice(self) -> None:
        unknown = Asked("first", FIRST.request, 0)
        self.assert_complaint("a second time", [unknown], [logged(FIRST), logged(FIRST, (2, 0))])

    def test_log_out_of_order(self) -> None:
        other = write("other", (2, 0), 0, 9, key="l")
        self.assert_complaint("comes after", [FIRST, other], [logged(other), logged(FIRST)])

    def test_wrong_answers(self) -> None:
        for wrong in (Done(True, 1, 7), Done(False, 1, 0)):
            self.assert_complaint("the model says", [attrs.evolve(FIRST, answer=wrong)], [logged(FIRST)])
        for found in (Found(b"first", 1), Found(b"second", 1), Found(None, 0)):
            self.assert_complaint("the model says", [FIRST, SECOND, attrs.evolve(READ, answer=found)], LOG)

    def test_versions(self) -> None:
        """A write that expects a version is done if that is found; one that is not done changes nothing."""
        won = Asked("won", Set("k", b"w", 1), 2, 3, Done(True, 2, 1), (2, 0))
        late = Asked("late", Set("k", b"l", 1), 2, 3, Done(False, 2, 2), (2, 1))
        gone = Asked("gone", Set("k", None, 2), 4, 5, Done(True, 0, 2), (3, 0))
        after = read("after", 3, 6, 7, Found(None, 0))
        everything = [FIRST, won, late, gone, after]
        log = [logged(each) for each in everything[:-1]]
        self.assertEqual(check(everything, log), [])
        both_won = attrs.evolve(late, answer=Done(True, 2, 1))
        self.assert_complaint("the model says", [FIRST, won, both_won, gone, after], log)

    def test_entry_of_two(self) -> None:
        """Two transactions of one entry: a read of that entry sees both."""
        other = write("other", (1, 1), 0, 9, found=1)
        self.assertEqual(
            check([FIRST, other, read("r", 1, 4, 5, Found(b"other", 1))], [logged(FIRST), logged(other)]), []
        )

    def test_stale_read(self) -> None:
        """Right for its place, and wrong for its time."""
        stale = read("stale", 1, 4, 5, Found(b"first", 1))
        self.assert_complaint("was called after the return of", [FIRST, SECOND, stale], LOG)

    def test_overlapping_read_may_be_old(self) -> None:
        self.assertEqual(check([FIRST, SECOND, read("old", 1, 2.5, 5, Found(b"first", 1))], LOG), [])
        self.assertEqual(check([FIRST, SECOND, read("touching", 1, 3, 5, Found(b"first", 1))], LOG), [])

    def test_reads_do_not_go_back(self) -> None:
        early = read("early", 2, 2.2, 2.3, Found(b"second", 2))
        late = read("late", 1, 2.5, 2.6, Found(b"first", 1))
        self.assert_complaint("was called after the return of", [FIRST, SECOND, early, late], LOG)

    def test_write_before_an_earlier_read(self) -> None:
        """Also one of another key, and one that was never answered."""
        early = read("early", 2, 4, 5, Found(b"second", 2))
        for returned, answer, place in ((9.0, Done(True, 2, 0), (2, 1)), (NEVER, None, None)):
            late = Asked("late", Set("l", b"late"), 6, returned, answer, place)
            log = [*LOG, logged(late, (2, 1))]
            self.assert_complaint("was called after the return of", [FIRST, SECOND, early, late], log)

    def test_many_complaints(self) -> None:
        """A few are told, and how many there are more."""
        complaints = check([write(f"w{seq}", (seq, 0), seq, seq + 0.5) for seq in range(1, 21)], [])
        self.assertEqual(len(complaints), TOLD_MAX + 1)
        self.assertIn(f"{20 - TOLD_MAX} cases more", complaints[-1])


class PrefixTests(unittest.TestCase):
    """Total order of what nodes have performed."""

    def test_fine(self) -> None:
        self.assertEqual(check_prefixes({}), [])
        self.assertEqual(check_prefixes({"a": [1, 2, 3], "b": [1, 2], "c": []}), [])

    def test_reordered(self) -> None:
        (complaint,) = check_prefixes({"a": [1, 2, 3], "b": [2, 1]})
        self.assertIn("number 1 at b is 2, at a it is 1", complaint)

    def test_left_out(self) -> None:
        (complaint,) = check_prefixes({"a": [1, 2, 3], "b": [1, 3]})
        self.assertIn("number 2 at b is 3, at a it is 2", complaint)


class OperationsTests(unittest.TestCase):
    """The same history for the search."""

    def test_translation(self) -> None:
        refused = Asked("refused", Set("k", b"r"), 0, refused=True)
        unknown = Asked("unknown", Set("k", b"u", 2), 6)
        fresh = Asked("fresh", Set("k", b"f", 0), 6, 7, Done(False, 2, 2), (3, 0))
        self.assertEqual(
            operations([FIRST, READ, refused, unknown, fresh]),
            [
                Operation("first", "k", Write(b"first"), 0, 1),
                Operation("read", "k", Read(b"second"), 4, 5),
                Operation("unknown", "k", Swap(b"second", b"u"), 6, NEVER),
                Operation("fresh", "k", Swap(None, b"f", False), 6, 7),
            ],
        )

    def test_unheard_of_version(self) -> None:
        error = self.assertRaises(ValueError, operations, [Asked("guess", Set("k", b"g", 5), 0)])
        self.assertIn("no client had found", str(error))

    def test_both_see_the_stale_read(self) -> None:
        stale = read("stale", 1, 4, 5, Found(b"first", 1))
        finding = linearizability.check(operations([FIRST, SECOND, stale]))
        self.assertIs(finding.verdict, linearizability.Verdict.NOT_LINEARIZABLE)
