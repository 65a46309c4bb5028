"""The resource managers of a node: votes, performing, and repeats of a request."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from tests.core_samples import entry, examples, flight, standing
from tests.ledger import BatchLedger, Ledger, item
from txvbcast import requests as requests_module
from txvbcast.applications import Applications, Performed
from txvbcast.core.ordering import accepted_part
from txvbcast.errors import Committed
from txvbcast.interfaces import IResourceManager, Refused, Tx
from txvbcast.wire.items import Request, Transaction, pack
from txvbcast.wire.messages import Entry, Flight, Mode, Refusal, Standing


def asked(*items: bytes, number: int = 1, mode: Mode = Mode.TWO_PHASE) -> Flight:
    """A flight of node 3."""
    return flight(number, origin=3, items=items, mode=mode)


class ApplicationsCase(unittest.TestCase):
    """A node with one resource manager."""

    def setUp(self) -> None:
        self.ledger = Ledger()
        self.applications = Applications([self.ledger])
        self.votes: list[tuple[Refusal, ...]] = []

    def prepare(self, some_flight: Flight) -> None:
        """Ask for the votes."""
        self.applications.prepare(some_flight, self.votes.append)

    def apply(
        self, what: Flight, seq: int = 1, accepted: tuple[int, ...] | None = None, dead: bool = False
    ) -> list[Any]:
        """The log has decided; the results."""
        performed = self.applications.apply(Entry(seq, 1, flight=accepted_part(what, accepted)), dead)
        committed = [Committed(seq, index, result) for index, result in enumerate(performed.results)]
        return [performed.repeats.get(index, each) for index, each in enumerate(committed)]

    def heard(self) -> list[tuple[str, bytes]]:
        """What the manager was told since the last look."""
        told, self.ledger.told = self.ledger.told, []
        return told


class Voting(ApplicationsCase):
    """prepare."""

    def test_the_ledger_is_a_manager(self) -> None:
        """So what it hears is what any manager hears."""
        self.assertTrue(verifyObject(IResourceManager, self.ledger))

    def test_yes(self) -> None:
        """No refusals; and a manager is told enough to know the transaction again."""
        self.prepare(asked(item(b"a"), item(b"b", "r1"), number=9))
        self.assertEqual(self.votes, [()])
        self.assertEqual(self.heard(), [("prepare", b"a"), ("prepare", b"b")])
        expected = Tx("ledger", b"b", Mode.TWO_PHASE, "3.1.9", index=1, seq=0, request_id="r1")
        self.assertEqual(self.ledger.transactions[1], expected)

    def test_no(self) -> None:
        """With the manager's own reason if it gives one; in the order of the items."""
        self.ledger.answers = {
            b"a": lambda: Refused("no stock"),
            b"c": lambda: False,
            b"d": lambda: None,
            b"e": lambda: 1,
        }
        self.prepare(asked(*(item(payload) for payload in (b"a", b"b", b"c", b"d", b"e"))))
        refused = "refused by the resource manager"
        self.assertEqual(
            self.votes, [(Refusal(0, "no stock"), Refusal(2, refused), Refusal(3, refused), Refusal(4, refused))]
        )

    def test_deferred(self) -> None:
        """The vote is complete with the last answer, whichever comes last."""
        first, second = Deferred[bool](), Deferred[Refused]()
        self.ledger.answers = {b"a": lambda: first, b"b": lambda: second, b"c": lambda: succeed(False)}
        self.prepare(asked(item(b"a"), item(b"b"), item(b"c")))
        second.callback(Refused("no stock"))
        self.assertEqual(self.votes, [])
        first.callback(True)
        self.assertEqual(self.votes, [(Refusal(1, "no stock"), Refusal(2, "refused by the resource manager"))])

    def test_failing(self) -> None:
        """An error is a No, and is logged; the others' votes count."""

        def broken() -> bool:
            raise ZeroDivisionError("by zero")

        self.ledger.answers = {b"a": broken, b"b": lambda: fail(OSError("disk full"))}
        self.prepare(asked(item(b"a"), item(b"b"), item(b"c")))
        failed = "resource manager ledger failed to vote: "
        self.assertEqual(self.votes, [(Refusal(0, f"{failed}by zero"), Refusal(1, f"{failed}disk full"))])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.applications.release(asked().id)
        self.assertEqual(self.heard()[-1], ("abort", b"c"))
        self.assertEqual(len(self.ledger.transactions), 4, "what failed to vote has prepared nothing")

    def test_unknown_manager(self) -> None:
        """Refused by name."""
        self.prepare(asked(item(b"a", rm="stock"), item(b"b")))
        self.assertEqual(self.votes, [(Refusal(0, "this node has no resource manager named 'stock'"),)])

    def test_malformed_item(self) -> None:
        """Refused, and nothing else suffers."""
        self.prepare(asked(b"\xc1", item(b"b"), b""))
        ((first, second),) = self.votes
        self.assertEqual((first.index, second.index), (0, 2))
        for refusal in (first, second):
            self.assertIn("an item of a flight is not a transaction: ", refusal.reason)
        self.assertEqual(self.heard(), [("prepare", b"b")])

    def test_each_manager_by_name(self) -> None:
        """A transaction goes to the one that it names, in voting, performing and aborting."""
        other = Ledger("other")
        self.applications = Applications([other, self.ledger])
        self.assertEqual(self.applications.names, ("ledger", "other"))
        both = asked(item(b"a"), item(b"b", rm="other"), item(b"c", rm="other"))
        self.prepare(both)
        self.apply(both, accepted=(0, 1))
        self.assertEqual(self.heard(), [("prepare", b"a"), ("commit", b"a")])
        self.assertEqual(other.told, [("prepare", b"b"), ("prepare", b"c"), ("abort", b"c"), ("commit", b"b")])


class Settling(ApplicationsCase):
    """Exactly one commit or abort for each prepare that said yes, and none for another."""

    def setUp(self) -> None:
        super().setUp()
        self.flight = asked(item(b"a"), item(b"b"), item(b"c"))
        self.ledger.answers[b"b"] = lambda: False

    def test_all_accepted(self) -> None:
        """Performed in order; also what this node refused, if the others had to decide without it."""
        self.prepare(self.flight)
        self.heard()
        self.assertEqual(
            self.apply(self.flight, 4),
            [Committed(4, 0, b"did a"), Committed(4, 1, b"did b"), Committed(4, 2, b"did c")],
        )
        self.assertEqual(self.heard(), [("commit", b"a"), ("commit", b"b"), ("commit", b"c")])
        self.assertEqual([tx.seq for tx in self.ledger.transactions[-3:]], [4, 4, 4])

    def test_partly_accepted(self) -> None:
        """What was prepared and not accepted is aborted; a transaction keeps its place of the proposal."""
        self.prepare(self.flight)
        self.heard()
        self.assertEqual(self.apply(self.flight, 4, (2,)), [Committed(4, 0, b"did c")])
        self.assertEqual(self.heard(), [("abort", b"a"), ("commit", b"c")])
        self.assertEqual([(tx.index, tx.seq) for tx in self.ledger.transactions[-2:]], [(0, 0), (2, 4)])

    def test_released(self) -> None:
        """Only what said yes is aborted, and once."""
        self.prepare(self.flight)
        self.heard()
        self.applications.release(self.flight.id)
        self.assertEqual(self.heard(), [("abort", b"a"), ("abort", b"c")])
        self.applications.release(self.flight.id)
        self.assertEqual(self.heard(), [])

    def test_dead(self) -> None:
        """An entry that takes no effect ends like one that never came."""
        self.prepare(self.flight)
        self.heard()
        self.assertEqual(self.apply(self.flight, dead=True), [])
        self.assertEqual(self.heard(), [("abort", b"a"), ("abort", b"c")])

    def test_never_asked(self) -> None:
        """Mode broadcast, or decided while this node was away."""
        self.assertEqual(len(self.apply(self.flight)), 3)
        self.applications.release(self.flight.id)
        self.assertEqual([what for what, _ in self.heard()], ["commit"] * 3)

    def test_standing(self) -> None:
        """Concerns no manager."""
        self.assertEqual(self.applications.apply(entry(1, standing(2, Standing.FAILED)), False), Performed())
        self.assertEqual(self.heard(), [])

    def test_yes_after_release(self) -> None:
        """It is aborted as soon as it is known, and nobody hears a vote any more."""
        late = Deferred[bool]()
        self.ledger.answers[b"c"] = lambda: late
        self.prepare(self.flight)
        self.heard()
        self.applications.release(self.flight.id)
        self.assertEqual(self.heard(), [("abort", b"a")])
        late.callback(True)
        self.assertEqual((self.heard(), self.votes), ([("abort", b"c")], []))

    def test_no_after_release(self) -> None:
        """There is nothing to abort."""
        late = Deferred[bool]()
        self.ledger.answers[b"c"] = lambda: late
        self.prepare(self.flight)
        self.applications.release(self.flight.id)
        self.heard()
        late.callback(False)
        self.assertEqual((self.heard(), self.votes), ([], []))

    def test_yes_after_apply(self) -> None:
        """What is performed has been performed; what was not accepted is aborted when the yes comes."""
        first, last = Deferred[bool](), Deferred[bool]()
        self.ledger.answers |= {b"a": lambda: first, b"c": lambda: last}
        self.prepare(self.flight)
        self.heard()
        self.apply(self.flight, accepted=(0, 1))
        self.assertEqual(self.heard(), [("commit", b"a"), ("commit", b"b")])
        first.callback(True)
        self.assertEqual(self.heard(), [])
        last.callback(True)
        self.assertEqual((self.heard(), self.votes), ([("abort", b"c")], []))

    def test_failure_after_apply(self) -> None:
        """It is logged, and changes nothing."""
        late = Deferred[bool]()
        self.ledger.answers[b"c"] = lambda: late
        self.prepare(self.flight)
        self.apply(self.flight, accepted=(0,))
        self.heard()
        late.errback(OSError("disk full"))
        self.assertEqual((self.heard(), self.votes), ([], []))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_exception_from_commit(self) -> None:
        """Is not swallowed: this manager's state is not the others' any more."""
        self.ledger.commit = self.broken_commit  # type: ignore[method-assign]
        with self.assertRaises(ZeroDivisionError):
            self.apply(self.flight)

    def broken_commit(self, tx: Tx) -> bytes:
        """A defect."""
        raise ZeroDivisionError


class Performing(ApplicationsCase):
    """What else an entry may hold."""

    def test_malformed_item(self) -> None:
        """Changes nothing, and takes its place."""
        results = self.apply(asked(b"\xc1", item(b"b"), mode=Mode.BROADCAST), 4)
        self.assertEqual(results, [Committed(4, 0, b""), Committed(4, 1, b"did b")])
        self.assertEqual(self.heard(), [("commit", b"b")])

    def test_unknown_manager(self) -> None:
        """The same; its name is logged, once."""
        with capturedLogs() as notes:
            for number in (1, 2):
                results = self.apply(asked(item(b"a", rm="stock"), item(b"b"), number=number), number)
                self.assertEqual(results, [Committed(number, 0, b""), Committed(number, 1, b"did b")])
        self.assertEqual([note["rm"] for note in notes], ["stock"])

    def test_manager_that_has_it_already(self) -> None:
        """A manager that keeps its state on disk does not perform twice what it had at start."""
        self.ledger = Ledger(applied_seq=5)
        self.applications = Applications([self.ledger])
        for seq in (4, 5, 6):
            self.apply(asked(item(b"a"), number=seq), seq)
        self.assertEqual([tx.seq for tx in self.ledger.transactions], [6])


class Together(ApplicationsCase):
    """A manager that votes on whole runs, and performs them."""

    def setUp(self) -> None:
        super().setUp()
        self.ledger = BatchLedger()
        self.applications = Applications([self.ledger])

    def test_votes(self) -> None:
        """As if it were asked one by one; what is given up is aborted, but not what it has refused."""
        self.ledger.answers = {b"a": lambda: Refused("no stock"), b"c": lambda: False}
        flight = asked(*(item(payload) for payload in (b"a", b"b", b"c", b"d")), number=9)
        self.prepare(flight)
        self.assertEqual(self.votes, [(Refusal(0, "no stock"), Refusal(2, "refused by the resource manager"))])
        self.assertEqual(self.ledger.transactions[1], Tx("ledger", b"b", Mode.TWO_PHASE, "3.1.9", index=1))
        self.heard()
        self.apply(flight, 4, accepted=(3,))
        self.assertEqual(self.heard(), [("abort", b"b"), ("commit", b"d")])

    def test_failing(self) -> None:
        """An error is a No to all of them, and is logged."""
        self.patch(self.ledger, "prepare_many", lambda run: 1 // 0)
        self.prepare(asked(item(b"a"), item(b"b")))
        failed = "resource manager ledger failed to vote: integer division or modulo by zero"
        self.assertEqual(self.votes, [(Refusal(0, failed), Refusal(1, failed))])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.applications.release(asked().id)
        self.assertEqual(self.heard(), [])

    def test_answers_that_do_not_fit(self) -> None:
        """One too few: nobody knows whose they are, so the node stops."""
        applications = Applications([self.ledger])
        for name, act in (("prepare_many", self.prepare), ("commit_many", self.apply)):
            self.applications = applications
            self.patch(self.ledger, name, lambda run: [b""])
            with self.assertRaises(ValueError) as caught:
                act(asked(item(b"a"), item(b"b")))
            self.assertIn("resource manager ledger gave 1 ", str(caught.exception))

    def test_runs(self) -> None:
        """Repeats, strangers and what is no transaction divide them; each result stays in its place."""
        self.apply(asked(item(b"a", "r1")), 3)
        self.heard()
        items = (item(b"b"), item(b"c"), item(b"a", "r1"), item(b"d"), b"\xc1", item(b"e", rm="stock"), item(b"f"))
        found = self.apply(asked(*items, number=2, mode=Mode.BROADCAST), 4)
        self.assertEqual(self.heard(), [("commit", payload) for payload in (b"b", b"c", b"d", b"f")])
        self.assertEqual(
            [committed.result for committed in found],
            [b"did b", b"did c", b"did a", b"did d", b"", b"", b"did f"],
        )
        self.assertEqual(found[2], Committed(3, 0, b"did a"))


class Numbered(ApplicationsCase):
    """The requests of a client that counts them."""

    def ask(self, seq: int, *numbers: int, done: int = 0) -> list[Any]:
        """Perform these in one entry."""
        items = [pack(Transaction("ledger", b"%d" % number, Request("client", number, done))) for number in numbers]
        return self.apply(asked(*items, number=seq, mode=Mode.BROADCAST), seq)

    def test_in_any_order(self) -> None:
        """A number that comes late is no repeat."""
        self.ask(1, 2, 3)
        self.assertEqual(self.ask(2, 1, 3), [Committed(2, 0, b"did 1"), Committed(1, 1, b"did 3")])
        self.assertEqual(self.heard(), [("commit", b"2"), ("commit", b"3"), ("commit", b"1")])
        self.assertEqual(self.applications.outcome("client#2"), Committed(1, 0, b"did 2"))

    def test_what_its_client_has_heard_is_forgotten(self) -> None:
        """And never performed again."""
        self.ask(1, 1, 2, 3)
        self.ask(2, 4, done=2)
        self.assertEqual([self.applications.outcome(f"client#{k}") is None for k in (1, 2, 3)], [True, True, False])
        self.heard()
        self.assertEqual((self.ask(3, 2, done=2), self.heard()), ([None], []))

    def test_a_client_that_hears_nothing(self) -> None:
        """Its oldest answers make room, and are not performed again."""
        self.patch(requests_module, "ANSWERS_MAX", 3)
        self.ask(1, 1, 2)
        self.ask(2, 3, 4, 5)
        self.assertEqual(
            [self.applications.outcome(f"client#{k}") is None for k in range(1, 6)], [True, True] + [False] * 3
        )
        self.heard()
        self.assertEqual((self.ask(3, 1), self.heard()), ([None], []))

    def test_many_clients(self) -> None:
        """Who has not asked for longest is forgotten as a whole."""
        self.patch(requests_module, "SESSIONS_MAX", 2)
        for seq, name in enumerate(("x", "y", "x", "z"), 1):
            self.apply(asked(item(b"a", f"{name}#{seq}"), number=seq, mode=Mode.BROADCAST), seq)
        found = [self.applications.outcome(name) is None for name in ("x#1", "y#2", "x#3", "z#4")]
        self.assertEqual(found, [False, True, False, False])

    def test_a_wide_gap(self) -> None:
        """A client that counts in leaps costs no more than one that does not."""
        self.ask(1, 1)
        self.ask(2, 10**15, done=10**15 - 1)
        self.assertIsNone(self.applications.outcome("client#1"))
        self.assertEqual(self.applications.outcome(f"client#{10**15}"), Committed(2, 0, b"did %d" % 10**15))


class Repeats(ApplicationsCase):
    """The window of request ids."""

    def test_repeat(self) -> None:
        """Gets the first result, wherever it was handed in, and is performed once."""
        first = self.apply(asked(item(b"a"), item(b"b", "r1")), 4)
        self.assertEqual(self.applications.outcome("r1"), Committed(4, 1, b"did b"))
        self.heard()
        self.assertEqual(self.apply(asked(item(b"other", "r1"), number=2), 5), first[1:])
        self.assertEqual(self.heard(), [])
        self.assertIsNone(self.applications.outcome("r2"))

    def test_no_request_id(self) -> None:
        """Two transactions without a name are two transactions."""
        self.apply(asked(item(b"a"), item(b"a")))
        self.assertEqual(self.heard(), [("commit", b"a")] * 2)

    def test_repeat_within_one_entry(self) -> None:
        """The first of them is performed; the other, though prepared, is aborted and answered the same."""
        twice = asked(item(b"a", "r1"), item(b"b", "r1"))
        self.prepare(twice)
        self.heard()
        self.assertEqual(self.apply(twice, 4), [Committed(4, 0, b"did a")] * 2)
        self.assertEqual(self.heard(), [("abort", b"b"), ("commit", b"a")])

    def test_repeat_is_not_voted_on(self) -> None:
        """It is answered, not performed, so no manager need prepare it."""
        self.apply(asked(item(b"a", "r1")), 4)
        self.heard()
        again = asked(item(b"a", "r1"), number=2)
        self.prepare(again)
        self.assertEqual((self.votes, self.heard()), ([()], []))
        self.assertEqual(self.apply(again, 5), [Committed(4, 0, b"did a")])
        self.assertEqual(self.heard(), [])

    def test_repeat_that_was_prepared_too_early(self) -> None:
        """Both were voted on before either was in the log: the later one is aborted."""
        first, second = asked(item(b"a", "r1")), asked(item(b"a", "r1"), number=2)
        self.prepare(first)
        self.prepare(second)
        self.heard()
        self.apply(first, 4)
        self.assertEqual(self.apply(second, 5), [Committed(4, 0, b"did a")])
        self.assertEqual(self.heard(), [("commit", b"a"), ("abort", b"a")])

    def test_dead_entry_names_no_request(self) -> None:
        """What took no effect is no first time."""
        self.apply(asked(item(b"a", "r1")), 4, dead=True)
        self.assertIsNone(self.applications.outcome("r1"))
        self.assertEqual(self.apply(asked(item(b"a", "r1"), number=2), 5), [Committed(5, 0, b"did a")])

    def test_window(self) -> None:
        """The latest ones are remembered, by when they were asked last."""
        self.patch(requests_module, "ANSWERS_MAX", 3)
        for number, name in enumerate(("r1", "r2", "r3", "r1"), 1):
            self.apply(asked(item(b"a", name), number=number), number)
        self.assertEqual([self.applications.outcome(f"r{k}") is None for k in (1, 2, 3)], [False] * 3)
        self.apply(asked(item(b"a", "r4"), number=5), 5)
        forgotten = [self.applications.outcome(f"r{k}") is None for k in (1, 2, 3, 4)]
        self.assertEqual(forgotten, [False, True, False, False])
        self.heard()
        self.assertEqual(self.apply(asked(item(b"a", "r2"), number=6), 6), [Committed(6, 0, b"did a")])

    def test_window_is_full_in_the_middle_of_an_entry(self) -> None:
        """A repeat of the oldest stays one: it is not both aborted and performed."""
        self.patch(requests_module, "ANSWERS_MAX", 2)
        repeat = asked(item(b"x", "r3"), item(b"a", "r1"), number=9)
        self.prepare(repeat)
        for number in (1, 2):
            self.apply(asked(item(b"a", f"r{number}"), number=number), number)
        self.heard()
        self.assertEqual(self.apply(repeat, 3), [Committed(3, 0, b"did x"), Committed(1, 0, b"did a")])
        self.assertEqual(self.heard(), [("abort", b"a"), ("commit", b"x")])
        self.assertEqual([self.applications.outcome(f"r{k}") is None for k in (1, 2, 3)], [False, True, False])


def _same(answer: Any) -> Any:
    return answer


@attrs.frozen
class Case:
    """An item of a flight: how the manager votes on it, and when."""

    yes: bool
    late: bool
    request_id: str | None


cases = st.builds(Case, st.booleans(), st.booleans(), st.sampled_from([None, None, "r1", "r2", "r3"]))
decisions = st.sampled_from(["all", "accepted", "some", "release", "dead"])


class SettlingInGeneral(unittest.TestCase):
    """Invariant 18, whatever is asked, answered and decided in whatever order."""

    @examples(150)
    @given(
        st.lists(st.tuples(st.lists(cases, min_size=1, max_size=4), decisions, st.booleans()), max_size=6), st.randoms()
    )
    def test_exactly_one(self, flights: list[tuple[list[Case], str, bool]], random: Any) -> None:
        """Every yes ends in one commit or abort, and what said no is never aborted."""
        self.patch(requests_module, "ANSWERS_MAX", 2)
        ledger = Ledger()
        applications = Applications([ledger])
        late: list[tuple[Deferred[bool], bool]] = []
        waiting: list[tuple[Flight, list[Case], str]] = []
        answers: dict[bytes, bool] = {}

        def decide() -> None:
            what, its_cases, decision = waiting.pop(random.randrange(len(waiting)))
            places = [place for place, case in enumerate(its_cases) if case.yes or decision == "all"]
            if decision == "some":
                places = places[::2]
            if decision == "release" or not places:
                applications.release(what.id)
            else:
                seq = what.id.number
                applications.apply(Entry(seq, 1, flight=accepted_part(what, tuple(places))), decision == "dead")

        for number, (its_cases, decision, at_once) in enumerate(flights, 1):
            items = []
            for place, case in enumerate(its_cases):
                payload = b"%d.%d" % (number, place)
                answers[payload] = case.yes
                answer: Deferred[bool] = Deferred()
                ledger.answers[payload] = partial(_same, answer if case.late else case.yes)
                if case.late:
                    late.append((answer, case.yes))
                items.append(item(payload, case.request_id))
            waiting.append((asked(*items, number=number), its_cases, decision))
            applications.prepare(waiting[-1][0], lambda refused: None)
            while late and random.random() < 0.5:
                answer, yes = late.pop(random.randrange(len(late)))
                answer.callback(yes)
            while at_once and waiting:
                decide()
        while waiting:
            decide()
        for answer, yes in late:
            answer.callback(yes)
        self.assert_balance(ledger, answers)

    def assert_balance(self, ledger: Ledger, answers: dict[bytes, bool]) -> None:
        """Of each transaction."""
        prepared = {payload for what, payload in ledger.told if what == "prepare"}
        for payload, yes in answers.items():
            commits = ledger.told.count(("commit", payload))
            aborts = ledger.told.count(("abort", payload))
            self.assertLessEqual(commits, 1)
            if payload in prepared and yes:
                self.assertEqual(commits + aborts, 1, payload)
            else:
                self.assertEqual(aborts, 0, payload)
