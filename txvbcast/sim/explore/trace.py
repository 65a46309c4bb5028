"""A counterexample as text: for people to read, to keep in a file, and to replay.

A line says what happens to which node; lines that begin with ``#`` are for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from txvbcast.sim.explore.nodes import Event
from txvbcast.sim.explore.scopes import SCOPES, Scope
from txvbcast.sim.explore.search import Counterexample, Happening
from txvbcast.sim.wording import message_text


class TraceError(ValueError):
    """A line of a trace that cannot be understood, or that does not fit the run."""


@attrs.frozen
class Line:
    """One happening as it is written down; ``sender`` and ``text`` are those of a message that arrives."""

    number: int
    node_id: int
    event: Event
    sender: int = 0
    text: str = ""


@attrs.frozen
class Trace:
    """A counterexample as it stands in a file."""

    scope: Scope
    lines: tuple[Line, ...]
    what: str


def text_of(happening: Happening) -> str:
    """A happening as a line."""
    if happening.packet is not None:
        packet = happening.packet
        return f"{happening.node_id} receives {packet.sender} {message_text(packet.message)}"
    return " ".join(map(str, (happening.node_id, *happening.event)))


def written(found: Counterexample) -> str:
    """The whole of a trace file."""
    lines = [f"scope {found.scope.name}", f"# {found.scope.about}", "", "# The cluster settles."]
    lines += map(text_of, found.settling)
    for number, step in enumerate(found.steps, 1):
        lines += ["", f"# Step {number}.", *map(text_of, step)]
    return "\n".join([*lines, "", f"violation {found.what}", ""])


def shown(found: Counterexample) -> str:
    """What people want to see first: the steps after the cluster has settled, and what is wrong then."""
    lines = [f"scope {found.scope.name}: {found.scope.about}", f"({len(found.settling)} events until it has settled)"]
    for number, step in enumerate(found.steps, 1):
        first, *rest = [text_of(happening) for happening in step] or ["(nothing)"]
        lines += [f"{number:3d}. node {first}", *(f"     node {each}" for each in rest)]
    return "\n".join([*lines, f"     {found.what}"])


def read(text: str) -> Trace:
    """The trace in a file.

    :raises TraceError: a line cannot be understood.
    """
    scope: Scope | None = None
    what = ""
    lines: list[Line] = []
    for number, words in _words(text):
        if words[0] == "scope":
            scope = _scope(number, words)
        elif words[0] == "violation":
            what = " ".join(words[1:])
        else:
            lines.append(_line(number, words))
    if scope is None:
        raise TraceError("the first line of a trace must be 'scope NAME'")
    return Trace(scope, tuple(lines), what)


def _words(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line.split(" ")


def _scope(number: int, words: list[str]) -> Scope:
    name = words[1] if len(words) == 2 else ""
    if name not in SCOPES:
        raise TraceError(f"line {number}: no scope is called {name!r}; there are: {', '.join(SCOPES)}")
    return SCOPES[name]


def _line(number: int, words: list[str]) -> Line:
    try:
        if words[1] == "receives":
            return Line(number, int(words[0]), ("receives",), int(words[2]), " ".join(words[3:]))
        return Line(number, int(words[0]), (words[1], *_numbers(words[2:])))
    except (IndexError, ValueError) as error:
        raise TraceError(f"line {number}: {' '.join(words)!r} says nothing that can happen to a node") from error


def _numbers(words: Iterable[str]) -> tuple[int, ...]:
    return tuple(map(int, words))
