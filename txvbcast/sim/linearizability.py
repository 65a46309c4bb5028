"""Whether what clients heard of registers can have happened one operation after the other.

The search is that of Wing and Gong (Testing and verifying concurrent objects, 1993) with the memo of
Lowe (Testing for linearizability, 2017).  Every key is a register of its own, so a history is
linearizable exactly if the history of each key is (Herlihy and Wing's locality), and each is searched
alone.  Pure: a history in, a finding out; times are of any unit, on one clock.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final, Union

import attrs

#: None: there is no such key.
Value = Union[bytes, None]

#: When an operation returned that was never answered: it may take effect at any later time, or never.
NEVER: Final = math.inf

#: How many steps all keys of a history may take together.
STEPS_MAX: Final = 5_000_000


@attrs.frozen
class Read:
    """A client asked for the value and heard ``heard``."""

    heard: Value


@attrs.frozen
class Write:
    """A client set the value; None removes the key."""

    value: Value


@attrs.frozen
class Swap:
    """A client set the value if it was ``expected``.

    :ivar happened: what the client heard; None if it heard nothing.
    """

    expected: Value
    value: Value
    happened: bool | None = None


Action = Union[Read, Write, Swap]


@attrs.frozen
class Operation:
    """An operation of one client on one register.

    :ivar name: tells it from the others, for whoever reads a finding.
    :ivar called: when the client asked.
    :ivar returned: when it had the answer; :data:`NEVER` if it had none.
    """

    name: str
    key: str
    action: Action
    called: float
    returned: float = NEVER


class Verdict(Enum):
    """What a search has come to."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    #: The bound was reached: a failure of the run, which has to be designed so that it can be checked.
    NOT_DECIDED = "not decided"


@attrs.frozen
class Finding:
    """The verdict on a history.

    :ivar steps: how many steps the search took, over all keys.
    :ivar key: of the register that is to blame; empty if none is.
    :ivar stuck: the operation that the longest order found could not take in.
    """

    verdict: Verdict
    steps: int
    key: str = ""
    stuck: Operation | None = None

    def __str__(self) -> str:
        if self.verdict is Verdict.LINEARIZABLE:
            return f"linearizable, found in {self.steps} steps"
        if self.verdict is Verdict.NOT_DECIDED:
            return f"key {self.key!r}: not decided within {self.steps} steps; use more keys, or fewer unknown outcomes"
        return f"key {self.key!r}: not linearizable; no order has a place for {self.stuck}"


def check(history: Iterable[Operation], steps_max: int = STEPS_MAX) -> Finding:
    """Search an order of ``history`` that explains every answer and never puts A after B if A returned before B was
    called.

    Unanswered reads say nothing and are left out.  Keys have no value at first.

    :param steps_max: for all keys together; beyond it the verdict is ``NOT_DECIDED``.
    """
    of_key: dict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.returned != NEVER or not isinstance(operation.action, Read):
            of_key[operation.key].append(operation)
    steps = 0
    for key, operations in of_key.items():
        search = _Search(operations)
        verdict = search.run(steps_max - steps)
        steps += search.steps
        if verdict is not Verdict.LINEARIZABLE:
            return Finding(verdict, steps, key, search.stuck)
    return Finding(Verdict.LINEARIZABLE, steps)


def perform(action: Action, value: Value) -> tuple[bool, Value]:
    """Whether a register of ``value`` would have answered ``action`` so, and its value afterwards."""
    if isinstance(action, Read):
        return action.heard == value, value
    if isinstance(action, Write):
        return True, action.value
    matches = action.expected == value
    return action.happened in (None, matches), action.value if matches else value


_HEAD: Final = 0


class _Search:
    """The search for one key.

    Calls and returns are events in a doubly linked list in the order of time, after a head.  An operation that has
    been given its place in the order is lifted out of the list; what it stood between is found again when it is put
    back, because that is done in the reverse order.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.steps = 0
        self.stuck: Operation | None = None
        self._operations = operations
        self._unplaced = sum(operation.returned != NEVER for operation in operations)
        self._fewest_unplaced = self._unplaced + 1
        events = [(operation.called, False, number) for number, operation in enumerate(operations)]
        events += [
            (operation.returned, True, number)
            for number, operation in enumerate(operations)
            if operation.returned != NEVER
        ]
        events.sort()  # at the same time calls come first: such operations overlap
        self._is_return = [False, *(is_return for _, is_return, _ in events)]
        self._number = [-1, *(number for _, _, number in events)]
        self._return_of = {number: event for event, (_, is_return, number) in enumerate(events, 1) if is_return}
        self._next = [*range(1, len(events) + 1), _HEAD]
        self._before = [len(events), *range(len(events))]

    def run(self, steps_max: int) -> Verdict:
        """Search; the verdict on this key."""
        value: Value = None
        placed = 0  # a set of numbers, as bits
        seen: set[tuple[int, Value]] = set()
        undo: list[tuple[int, Value]] = []
        event = self._next[_HEAD]
        while self._unplaced:
            if self.steps >= steps_max:
                return Verdict.NOT_DECIDED
            self.steps += 1
            number = self._number[event]
            if self._is_return[event]:  # an operation is over that no order so far has taken in
                self._note(number)
                if not undo:
                    return Verdict.NOT_LINEARIZABLE
                event, value = undo.pop()
                placed ^= 1 << self._number[event]
                self._put_back(event)
                event = self._next[event]
                continue
            legal, after = perform(self._operations[number].action, value)
            if legal and (reached := (placed | 1 << number, after)) not in seen:
                seen.add(reached)
                undo.append((event, value))
                placed, value = reached
                self._lift(event)
                event = self._next[_HEAD]
            else:
                event = self._next[event]
        return Verdict.LINEARIZABLE

    def _note(self, number: int) -> None:
        if self._unplaced < self._fewest_unplaced:
            self._fewest_unplaced = self._unplaced
            self.stuck = self._operations[number]

    def _lift(self, event: int) -> None:
        self._unlink(event)
        returned = self._return_of.get(self._number[event])
        if returned is not None:
            self._unlink(returned)
            self._unplaced -= 1

    def _put_back(self, event: int) -> None:
        returned = self._return_of.get(self._number[event])
        if returned is not None:
            self._link(returned)
            self._unplaced += 1
        self._link(event)

    def _unlink(self, event: int) -> None:
        before, after = self._before[event], self._next[event]
        self._next[before], self._before[after] = after, before

    def _link(self, event: int) -> None:
        before, after = self._before[event], self._next[event]
        self._next[before] = self._before[after] = event
