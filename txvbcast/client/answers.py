"""Answers as a user gets them; the Twisted client and the blocking one have them in common."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, cast, overload

import attrs

from txvbcast.client.effects import TellCommitted, TellFailed
from txvbcast.errors import Committed, SubmissionError
from txvbcast.wire import client_messages as wire
from txvbcast.wire.messages import Mode

#: Keys in one part of a listing.
LISTING_KEYS = 1000


@attrs.frozen
class KeyValue:
    """A key's value; ``version`` is the seq that wrote it, ``applied`` that of the state in which it was read."""

    value: bytes
    version: int
    applied: int


class Outcomes(Sequence[Committed | SubmissionError]):
    """What became of transactions that were handed in together, by their places.

    An element is made when it is asked for; there may be very many.

    :ivar committed: how many are.
    """

    def __init__(self, count: int) -> None:
        self.committed = 0
        self._count = count
        self._answered = 0
        self._runs: list[TellCommitted] = []
        self._sorted = True
        self._failed: dict[int, tuple[TellFailed, str | None]] = {}

    # --- what a session tells ---

    def on_committed(self, told: TellCommitted) -> None:
        """Some are committed."""
        count = len(told.results)
        self._sorted = self._sorted and (not self._runs or self._runs[-1].place < told.place)
        self._runs.append(told)
        self.committed += count
        self._answered += count

    def on_failed(self, told: TellFailed) -> None:
        """Some failed."""
        if told.request_ids:
            names = told.request_ids
            self._failed.update({place: (told, name) for place, name in zip(told.places, names, strict=True)})
        else:
            self._failed.update(dict.fromkeys(told.places, (told, None)))
        self._answered += len(told.places)

    @property
    def complete(self) -> bool:
        """Whether every place is answered."""
        return self._answered == self._count

    # --- what a user asks ---

    @property
    def failures(self) -> dict[int, SubmissionError]:
        """What failed, by place; all that failed together, and are not asked for by name, have one exception."""
        errors: dict[tuple[int, str | None], SubmissionError] = {}
        failures = {}
        for place, (told, name) in sorted(self._failed.items()):
            fate = id(told), name
            if fate not in errors:
                errors[fate] = told.failure.error(name)
            failures[place] = errors[fate]
        return failures

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Committed | SubmissionError: ...
    @overload
    def __getitem__(self, place: slice) -> list[Committed | SubmissionError]: ...

    def __getitem__(self, place: int | slice) -> Committed | SubmissionError | list[Committed | SubmissionError]:
        if isinstance(place, slice):
            return [self._at(each) for each in range(self._count)[place]]
        return self._at(range(self._count)[place])

    def __iter__(self) -> Iterator[Committed | SubmissionError]:
        return map(self._at, range(self._count))

    def _at(self, place: int) -> Committed | SubmissionError:
        failed = self._failed.get(place)
        if failed is not None:
            told, name = failed
            return told.failure.error(name)
        if not self._sorted:
            self._runs.sort(key=lambda run: run.place)
            self._sorted = True
        run = self._runs[bisect_right(self._runs, place, key=lambda run: run.place) - 1]
        offset = place - run.place
        return Committed(run.seq, run.index + offset, run.results[offset])


def mode_of(mode: Mode | str) -> Mode:
    """The mode that a user names.

    :raises ValueError: there is none of that name.
    """
    try:
        return Mode(mode)
    except ValueError:
        names = ", ".join(each.value for each in Mode)
        raise ValueError(f"{mode!r} is no mode; there are: {names}") from None


def is_linearizable(consistency: str) -> bool:
    """What a user means by ``consistency``.

    :raises ValueError: it is neither ``linearizable`` nor ``local``.
    """
    if consistency not in ("linearizable", "local"):
        raise ValueError(f"consistency is linearizable or local, got {consistency!r}")
    return consistency == "linearizable"


def get_keys(rm: str, key: str, consistency: str) -> wire.GetKeys:
    """The question for a key's value.

    :raises ValueError: there is no such consistency.
    """
    return wire.GetKeys(1, rm, (key,), is_linearizable(consistency), 1)


def list_keys(rm: str, prefix: str, after: str, consistency: str) -> wire.ListKeys:
    """The question for a part of a listing.

    :raises ValueError: there is no such consistency.
    """
    return wire.ListKeys(1, rm, prefix, after, LISTING_KEYS, is_linearizable(consistency), 1)


def key_value(values: wire.Values) -> KeyValue | None:
    """The answer to :func:`get_keys`; None: there is no such key."""
    (value,) = values.values
    return KeyValue(value.value, value.version, values.applied) if value.version else None


def committed_or_none(outcome: wire.Outcome) -> Committed | None:
    """The answer to AskOutcome; None is not a No."""
    return Committed(outcome.seq, outcome.index, outcome.result) if outcome.seq else None


def status_document(status: wire.Status) -> dict[str, Any]:
    """The document that a node gives of itself."""
    return cast(dict[str, Any], json.loads(status.document))
