"""The search for a linear order: histories written by hand, made-up ones, and what the search costs in steps."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

import attrs
from twisted.trial import unittest

from txvbcast.sim.linearizability import (
    NEVER,
    Action,
    Operation,
    Read,
    Swap,
    Verdict,
    Write,
    check,
    perform,
)

A, B, C = b"a", b"b", b"c"
GOOD, BAD, OPEN = Verdict.LINEARIZABLE, Verdict.NOT_LINEARIZABLE, Verdict.NOT_DECIDED


def history(*lines: tuple[float, float, Action]) -> list[Operation]:
    """Operations on one key."""
    return [Operation(f"op{number}", "k", action, *times) for number, (*times, action) in enumerate(lines)]


class ByHand(unittest.TestCase):
    """Histories of one key whose verdict can be seen at a glance."""

    def verdict(self, wanted: Verdict, *lines: tuple[float, float, Action]) -> None:
        """The search comes to this verdict."""
        finding = check(history(*lines))
        self.assertIs(finding.verdict, wanted, str(finding))

    def test_nothing(self) -> None:
        self.verdict(GOOD)

    def test_one_after_the_other(self) -> None:
        self.verdict(
            GOOD, (0, 1, Read(None)), (2, 3, Write(A)), (4, 5, Read(A)), (6, 7, Write(None)), (8, 9, Read(None))
        )

    def test_stale_read(self) -> None:
        self.verdict(BAD, (0, 1, Write(A)), (2, 3, Write(B)), (4, 5, Read(A)))

    def test_read_of_what_nobody_wrote(self) -> None:
        self.verdict(BAD, (0, 1, Write(A)), (2, 3, Read(B)))

    def test_read_from_the_future(self) -> None:
        self.verdict(BAD, (0, 1, Read(A)), (2, 3, Write(A)))

    def test_overlapping_reads_may_differ(self) -> None:
        self.verdict(GOOD, (0, 9, Write(A)), (1, 2, Read(None)), (3, 4, Read(A)))

    def test_a_value_does_not_go_away_again(self) -> None:
        """Two reads during a write: once one has seen it, a later one must too."""
        self.verdict(BAD, (0, 9, Write(A)), (1, 2, Read(A)), (3, 4, Read(None)))

    def test_order_of_overlapping_writes_is_seen(self) -> None:
        writes = ((0, 9, Write(A)), (0, 9, Write(B)))
        self.verdict(GOOD, *writes, (1, 2, Read(B)), (3, 4, Read(A)))
        self.verdict(BAD, *writes, (1, 2, Read(B)), (3, 4, Read(A)), (5, 6, Read(B)))

    def test_touching_is_overlapping(self) -> None:
        """An operation that returned at the very time at which another was called did not return before."""
        self.verdict(GOOD, (0, 2, Write(A)), (2, 3, Read(None)))
        self.verdict(BAD, (0, 2, Write(A)), (2.1, 3, Read(None)))
        self.verdict(GOOD, (1, 1, Write(A)), (1, 1, Read(None)), (1, 1, Read(A)))

    def test_unknown_write_that_took_effect(self) -> None:
        self.verdict(GOOD, (0, NEVER, Write(A)), (5, 6, Read(None)), (7, 8, Read(A)))

    def test_unknown_write_that_did_not(self) -> None:
        self.verdict(GOOD, (0, NEVER, Write(A)), (5, 6, Read(None)))

    def test_unknown_write_takes_effect_once(self) -> None:
        self.verdict(BAD, (0, NEVER, Write(A)), (1, 2, Read(A)), (3, 4, Write(B)), (5, 6, Read(B)), (7, 8, Read(A)))

    def test_unknown_write_not_before_it_was_called(self) -> None:
        self.verdict(BAD, (0, 1, Read(A)), (2, NEVER, Write(A)))

    def test_unknown_read_says_nothing(self) -> None:
        self.verdict(GOOD, (0, 1, Write(A)), (2, NEVER, Read(B)))

    def test_swap(self) -> None:
        self.verdict(GOOD, (0, 1, Swap(None, A, True)), (2, 3, Swap(None, B, False)), (4, 5, Read(A)))
        self.verdict(BAD, (0, 1, Swap(None, A, True)), (2, 3, Swap(None, B, True)))
        self.verdict(BAD, (0, 1, Write(A)), (2, 3, Swap(A, B, False)))

    def test_only_one_of_two_swaps_wins(self) -> None:
        self.verdict(GOOD, (0, 9, Swap(None, A, True)), (0, 9, Swap(None, B, False)))
        self.verdict(BAD, (0, 9, Swap(None, A, True)), (0, 9, Swap(None, B, True)))

    def test_unknown_swap(self) -> None:
        """It may have happened, or found another value and done nothing."""
        self.verdict(GOOD, (0, NEVER, Swap(None, A)), (1, 2, Read(A)))
        self.verdict(GOOD, (0, NEVER, Swap(B, A)), (1, 2, Read(None)))
        self.verdict(BAD, (0, NEVER, Swap(B, A)), (1, 2, Read(A)))

    def test_two_writes_in_any_order(self) -> None:
        """The first order that is tried need not be the right one."""
        self.verdict(GOOD, (0, 9, Write(A)), (0, 9, Write(B)), (0, 9, Write(C)), (10, 11, Read(A)))

    def test_who_is_to_blame(self) -> None:
        fine = [attrs.evolve(operation, key="fine") for operation in history((0, 1, Write(A)), (2, 3, Read(A)))]
        finding = check([*fine, *history((0, 1, Write(A)), (2, 3, Write(B)), (4, 5, Read(A)))])
        self.assertEqual(finding.key, "k")
        self.assertEqual(finding.stuck, Operation("op2", "k", Read(A), 4, 5))
        self.assertIn("op2", str(finding))

    def test_keys_are_apart(self) -> None:
        """What would be wrong of one key is right of two."""
        one, two = history((0, 1, Write(A)), (2, 3, Read(None)))
        self.assertIs(check([one, attrs.evolve(two, key="other")]).verdict, GOOD)


def by_chance(seed: int, count: int, clients: int, keys: int, unknown: float = 0.0) -> list[Operation]:
    """A linearizable history: each operation takes effect at a time between its call and its return."""
    chance = random.Random(seed)
    values: dict[str, bytes | None] = {}
    free_at = [chance.random() for _ in range(clients)]
    drafts = []
    for number in range(count):
        client = min(range(clients), key=lambda each: free_at[each])
        called = free_at[client]
        effect = called + chance.random()
        free_at[client] = effect + chance.random() + 0.01
        drafts.append((effect, number, called, free_at[client] - 0.01))
    made = []
    for _, number, called, returned in sorted(drafts):
        key, new = f"k{chance.randrange(keys)}", b"%d" % number
        before = values.get(key)
        kind = chance.choice(("read", "read", "write", "swap"))
        expected = chance.choice((before, b"never"))
        action: Action = Read(before) if kind == "read" else Write(new)
        if kind == "swap":
            action = Swap(expected, new, expected == before)
        _, values[key] = perform(action, before)
        made.append(Operation(f"op{number}", key, action, called, returned))
        if kind != "read" and chance.random() < unknown:
            heard_nothing = attrs.evolve(action, happened=None) if isinstance(action, Swap) else action
            made[-1] = attrs.evolve(made[-1], action=heard_nothing, returned=NEVER)
    return made


def with_stale_read(operations: Iterable[Operation]) -> list[Operation]:
    """One read in the last tenth hears the first value that its key has ever had."""
    operations = sorted(operations, key=lambda operation: operation.called)
    for place in range(len(operations) * 9 // 10, len(operations)):
        read = operations[place]
        writes = [each for each in operations if each.key == read.key and isinstance(each.action, Write)]
        if isinstance(read.action, Read) and isinstance(writes[0].action, Write):
            lie = attrs.evolve(read, action=Read(writes[0].action.value))
            return [*operations[:place], lie, *operations[place + 1 :]]
    raise AssertionError("no read")


def at_random(chance: random.Random) -> list[Operation]:
    """A few overlapping operations on one key, with answers that may be right or not."""
    made = []
    for number in range(chance.randint(1, 6)):
        called = chance.randint(0, 8)
        returned = NEVER if chance.random() < 0.2 else called + chance.randint(0, 5)
        value, expected = chance.choice((None, A, B)), chance.choice((None, A, B))
        action: Action = chance.choice((Read(value), Write(value), Swap(expected, value, chance.random() < 0.5)))
        if returned == NEVER and isinstance(action, Swap):
            action = attrs.evolve(action, happened=None)
        made.append(Operation(f"op{number}", "k", action, called, returned))
    return made


def by_trying_all(operations: Sequence[Operation]) -> bool:
    """Whether some order of all answered operations, and of any of the others, is legal."""
    answered = [operation for operation in operations if operation.returned != NEVER]
    unknown = [operation for operation in operations if operation.returned == NEVER]
    return any(
        is_legal(order)
        for count in range(len(unknown) + 1)
        for happened in itertools.combinations(unknown, count)
        for order in itertools.permutations([*answered, *happened])
    )


def is_legal(order: Sequence[Operation]) -> bool:
    """Whether a register answers so in this order, and nobody returned before an earlier one was called."""
    if any(later.returned < earlier.called for earlier, later in itertools.combinations(order, 2)):
        return False
    value = None
    for operation in order:
        legal, value = perform(operation.action, value)
        if not legal:
            return False
    return True


class ByChance(unittest.TestCase):
    """Histories made so that the verdict is known; the bounds are counts of steps, the same on every machine."""

    def test_linearizable(self) -> None:
        for seed in range(30):
            finding = check(by_chance(seed, 300, 5, 3, unknown=0.02))
            self.assertIs(finding.verdict, GOOD, f"seed {seed}: {finding}")

    def test_same_as_trying_all_orders(self) -> None:
        chance = random.Random(1)
        verdicts = []
        for number in range(1500):
            operations = at_random(chance)
            verdicts.append(by_trying_all(operations))
            self.assertIs(check(operations).verdict, GOOD if verdicts[-1] else BAD, f"number {number}: {operations}")
        self.assertGreater(min(verdicts.count(True), verdicts.count(False)), 300)

    def test_one_lie_is_found(self) -> None:
        for seed in range(30):
            finding = check(with_stale_read(by_chance(seed, 300, 4, 6, unknown=0.02)))
            self.assertIs(finding.verdict, BAD, f"seed {seed}: {finding}")

    def test_many_keys_cost_few_steps(self) -> None:
        """A hundred thousand operations, and at most three steps for each."""
        operations = by_chance(1, 100_000, 20, 1000, unknown=0.01)
        finding = check(operations)
        self.assertIs(finding.verdict, GOOD, str(finding))
        self.assertLess(finding.steps, 3 * len(operations))
        finding = check(with_stale_read(operations))
        self.assertIs(finding.verdict, BAD, str(finding))
        self.assertLess(finding.steps, 4 * len(operations))

    def test_one_key_costs_more(self) -> None:
        operations = by_chance(2, 5_000, 5, 1)
        finding = check(operations)
        self.assertIs(finding.verdict, GOOD, str(finding))
        self.assertLess(finding.steps, 40 * len(operations))

    def test_bound(self) -> None:
        """A search that would take too long says so; it is no verdict in anyone's favour."""
        writes = [Operation(f"w{number}", "k", Write(b"%d" % number), 0, NEVER) for number in range(30)]
        finding = check([*writes, Operation("r", "k", Read(b"none of them"), 1, 2)], steps_max=10_000)
        self.assertIs(finding.verdict, OPEN)
        self.assertEqual(finding.steps, 10_000)
        self.assertIn("not decided", str(finding))

    def test_bound_is_for_all_keys(self) -> None:
        operations = by_chance(3, 300, 3, 10)
        needed = check(operations).steps
        self.assertIs(check(operations, needed).verdict, GOOD)
        self.assertIs(check(operations, needed - 1).verdict, OPEN)
