"""Whether what clients heard is what the log says, and the log is what the clients' times allow.

The log is a witness: it claims in which order everything happened, so nothing has to be searched.
Every answered operation names its place; the model is led through the log, must give the same
answers, and no operation may stand before one that had returned when it was called.  This takes
O(n log n), and complements :mod:`txvbcast.sim.linearizability`, which believes nobody but the clients.

Pure: histories in, complaints out (none: all is well); times are of any unit, on one clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Union

import attrs

from txvbcast.sim.linearizability import NEVER, Action, Operation, Read, Swap, Write

#: Where something is in the log: the seq of the entry, and the index in it.
Place = tuple[int, int]

#: The index of a read that saw all of an entry: above any that a transaction can have.
AFTER_ALL: Final = 1 << 62

#: So many complaints of one kind are told; the rest are counted.
TOLD_MAX: Final = 5


@attrs.frozen
class Get:
    """A linearizable read of a key."""

    key: str


@attrs.frozen
class Set:
    """A write of a key; ``value`` None removes it, ``if_version`` is the one that it must have (0: none)."""

    key: str
    value: bytes | None
    if_version: int | None = None


Request = Union[Get, Set]


@attrs.frozen
class Found:
    """The answer to a :class:`Get`: value and version, None and 0 if there is no such key."""

    value: bytes | None
    version: int


@attrs.frozen
class Done:
    """The answer to a :class:`Set`: whether it did it, the version afterwards and that before."""

    ok: bool
    version: int
    found_version: int


Answer = Union[Found, Done]


@attrs.frozen
class Asked:
    """What one client asked and heard.

    :ivar name: tells it from all others; the log knows a write by it.
    :ivar answer, place: None if it was never answered.  A read's index is :data:`AFTER_ALL`.
    :ivar returned: :data:`~txvbcast.sim.linearizability.NEVER` if it was never answered.
    :ivar refused: the client was told that it did not happen.
    """

    name: str
    request: Request
    called: float
    returned: float = NEVER
    answer: Answer | None = None
    place: Place | None = None
    refused: bool = False


@attrs.frozen
class Logged:
    """A write in the log."""

    place: Place
    name: str
    request: Set


class Registers:
    """The model: keys with values and versions.

    The version of a key is the seq of the entry that wrote it last.
    """

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, int]] = {}

    def get(self, key: str) -> Found:
        """What a read of ``key`` hears now."""
        return Found(*self.values.get(key, (None, 0)))

    def perform(self, request: Set, seq: int) -> Done:
        """What the writer hears; it is done, if it may be."""
        found = self.get(request.key).version
        if request.if_version not in (None, found):
            return Done(False, found, found)
        if request.value is None:
            self.values.pop(request.key, None)
        else:
            self.values[request.key] = (request.value, seq)
        return Done(True, self.get(request.key).version, found)


def check(history: Sequence[Asked], log: Sequence[Logged]) -> list[str]:
    """What does not fit: between history and log, between the model and the answers, between the log and the times.

    :param log: all that takes effect, in order; a request that a client repeated is there once.
    """
    return [
        *_told("the log is out of order", _disorder(log)),
        *_told("the log and the clients disagree", _differences(history, log)),
        *_told("an answer is not what the log leads to", _wrong_answers(history, log)),
        *_told("the log turns the order of two operations round", _reversals(history, log)),
    ]


def check_prefixes(delivered: Mapping[str, Sequence[object]]) -> list[str]:
    """Total order: each node's list must be a beginning of the longest one.

    :param delivered: by name of a node (and of its life), what it performed, in order.
    """
    if not delivered:
        return []
    longest_name = max(delivered, key=lambda name: len(delivered[name]))
    longest = delivered[longest_name]
    complaints = []
    for name, items in delivered.items():
        for number, (own, others) in enumerate(zip(items, longest, strict=False), 1):
            if own != others:
                complaints.append(f"number {number} at {name} is {own}, at {longest_name} it is {others}")
                break
    return _told("two nodes performed different things", complaints)


def operations(history: Iterable[Asked]) -> list[Operation]:
    """The same history without the log's part: for :func:`txvbcast.sim.linearizability.check`.

    What was refused is left out.  A version stands for the value that a client found with it.

    :raises ValueError: a version was expected that no client had found.
    """
    history = [asked for asked in history if not asked.refused]
    values: dict[tuple[str, int], bytes | None] = {
        (asked.request.key, asked.answer.version): asked.answer.value
        for asked in history
        if isinstance(asked.answer, Found)
    }
    return [
        Operation(asked.name, asked.request.key, _action(asked, values), asked.called, asked.returned)
        for asked in history
    ]


def _action(asked: Asked, values: Mapping[tuple[str, int], bytes | None]) -> Action:
    request, answer = asked.request, asked.answer
    if isinstance(request, Get):
        return Read(answer.value if isinstance(answer, Found) else None)
    if request.if_version is None:
        return Write(request.value)
    if request.if_version == 0:
        expected = None
    elif (request.key, request.if_version) in values:
        expected = values[request.key, request.if_version]
    else:
        raise ValueError(f"{asked} expects a version that no client had found")
    return Swap(expected, request.value, answer.ok if isinstance(answer, Done) else None)


def _told(what: str, cases: Sequence[str]) -> list[str]:
    more = [f"{what}: {len(cases) - TOLD_MAX} cases more"] if len(cases) > TOLD_MAX else []
    return [f"{what}: {case}" for case in cases[:TOLD_MAX]] + more


def _disorder(log: Sequence[Logged]) -> list[str]:
    pairs = zip(log, log[1:], strict=False)
    return [f"{after} comes after {before}" for before, after in pairs if after.place <= before.place]


def _differences(history: Sequence[Asked], log: Sequence[Logged]) -> list[str]:
    asked = {operation.name: operation for operation in history if isinstance(operation.request, Set)}
    logged: dict[str, Logged] = {}
    cases = []
    for entry in log:
        if entry.name in logged:
            cases.append(f"{entry} takes effect a second time, it did at {logged[entry.name].place}")
        logged[entry.name] = entry
        operation = asked.get(entry.name)
        if operation is None:
            cases.append(f"nobody has asked for {entry}")
        elif operation.request != entry.request:
            cases.append(f"{operation} was asked for, the log has {entry}")
        elif operation.refused:
            cases.append(f"{operation} was refused, the log has it at {entry.place}")
        elif operation.place not in (None, entry.place):
            cases.append(f"{operation} has another place in the log: {entry.place}")
    return cases + [
        f"{operation} was answered and is not in the log"
        for operation in asked.values()
        if operation.place is not None and operation.name not in logged
    ]


def _wrong_answers(history: Sequence[Asked], log: Sequence[Logged]) -> list[str]:
    """Lead the model through the log; reads come after the whole entry that they name."""
    writers = {operation.name: operation for operation in history if isinstance(operation.request, Set)}
    steps: list[tuple[Place, Logged | Asked]] = [(entry.place, entry) for entry in log]
    steps += [
        (operation.place, operation)
        for operation in history
        if isinstance(operation.request, Get) and operation.place is not None
    ]
    steps.sort(key=lambda step: step[0])
    registers = Registers()
    cases = []
    for place, step in steps:
        if isinstance(step, Logged):
            answer: Answer = registers.perform(step.request, place[0])
            operation = writers.get(step.name)
        else:
            assert isinstance(step.request, Get)
            answer = registers.get(step.request.key)
            operation = step
        if operation is not None and operation.answer not in (None, answer):
            cases.append(f"{operation}: the model says {answer}")
    return cases


def _reversals(history: Sequence[Asked], log: Sequence[Logged]) -> list[str]:
    """Operations that stand in the log before one that had returned before they were called.

    Two reads may share a place.  A write that was never answered counts too, if the log has it.
    """
    places = {entry.name: entry.place for entry in log}
    placed = [
        (operation, place)
        for operation in history
        if (place := operation.place or places.get(operation.name)) is not None
    ]
    returns = sorted((pair for pair in placed if pair[0].returned != NEVER), key=lambda pair: pair[0].returned)
    calls = sorted(placed, key=lambda pair: pair[0].called)
    cases = []
    number = 0
    latest: tuple[Asked, Place] | None = None  # the one that stands last, of those that have returned
    for operation, place in calls:
        while number < len(returns) and returns[number][0].returned < operation.called:
            if latest is None or returns[number][1] > latest[1]:
                latest = returns[number]
            number += 1
        if latest is not None and place < latest[1]:
            cases.append(f"{operation} at {place} was called after the return of {latest[0]} at {latest[1]}")
    return cases
