"""The tables of ``docs/wire.md`` that follow from the classes: a test compares them."""

from __future__ import annotations

import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from txvbcast.wire.client_messages import CLIENT_OPCODES
from txvbcast.wire.messages import DATAGRAM_TYPES, OPCODES, U64_MAX, EachInRange, Entry, InRange

_PLAIN = {bool: "bool", str: "str", bytes: "bin", int: "int"}


def message_tables() -> str:
    """Markdown: the type numbers, then the fields of every message and part, then the enumerations."""
    roots = [*OPCODES.values(), Entry]
    return _tables("nodes", _type_numbers(), list(OPCODES.values()), _reached(roots))


def client_tables() -> str:
    """The same for what clients and nodes say to each other, without what the other tables have."""
    messages = list(CLIENT_OPCODES.values())
    told = _reached([*OPCODES.values(), Entry])
    return _tables("clients", _client_type_numbers(), messages, _reached(messages) - told)


def _tables(whose: str, numbers: str, messages: Sequence[type], reached: set[type]) -> str:
    classes = sorted(reached, key=lambda cls: cls.__name__)
    parts = [cls for cls in classes if attrs.has(cls) and cls not in messages]
    enums = [cls for cls in classes if issubclass(cls, enum.Enum)]
    sections = [f"### Type numbers of {whose}", numbers, f"### Fields of the messages of {whose}"]
    sections += [_fields(cls) for cls in messages]
    sections += [f"### Fields of the parts of messages of {whose}", *(_fields(cls) for cls in parts)]
    sections += [f"### Enumerations in messages of {whose}", *(_enumeration(cls) for cls in enums)]
    return "\n\n".join(sections) + "\n"


def _reached(roots: list[type]) -> set[type]:
    """The classes that travel in messages: the roots, and what their fields are made of."""
    found: set[type] = set()
    waiting = list(roots)
    while waiting:
        cls = waiting.pop()
        if cls not in found:
            found.add(cls)
            hints = typing.get_type_hints(cls).values() if attrs.has(cls) else ()
            waiting += [part for hint in hints for part in _named(hint)]
    return found


def _named(hint: object) -> Iterator[type]:
    if isinstance(hint, type) and (attrs.has(hint) or issubclass(hint, enum.Enum)):
        yield hint
    for inner in typing.get_args(hint):
        yield from _named(inner)


def _type_numbers() -> str:
    rows = [
        (str(number), _link(cls), "yes" if cls in DATAGRAM_TYPES else "", _summary(cls))
        for number, cls in OPCODES.items()
    ]
    return _table(("type", "message", "datagram too", "says"), rows)


def _client_type_numbers() -> str:
    rows = [(str(number), _link(cls), _summary(cls)) for number, cls in CLIENT_OPCODES.items()]
    return _table(("type", "message", "says"), rows)


def _fields(cls: type) -> str:
    hints = typing.get_type_hints(cls)
    meanings = _meanings(cls)
    rows = [
        (f"`{field.name}`", _shape(hints[field.name], field.validator), _default(field), meanings.get(field.name, ""))
        for field in attrs.fields(cls)
    ]
    return f"#### {_title(cls)}\n\n{_summary(cls)}\n\n{_table(('field', 'value', 'if absent', 'meaning'), rows)}"


def _shape(hint: Any, rule: object) -> str:
    """In words of MessagePack, what a field of type ``hint`` may hold; ``rule`` is its validator."""
    if isinstance(hint, types.UnionType):
        (inner,) = (arm for arm in typing.get_args(hint) if arm is not type(None))
        return f"{_shape(inner, rule)} or nil"
    if typing.get_origin(hint) is tuple:
        return f"array of {_shape(typing.get_args(hint)[0], rule)}"
    if isinstance(rule, EachInRange):
        rule = rule.element
    if isinstance(rule, InRange):
        return f"int {rule.low} to {'2^63-1' if rule.high == U64_MAX else rule.high}"
    if hint in _PLAIN:
        return _PLAIN[hint]
    kind = "str" if issubclass(hint, enum.Enum) else "map"
    return f"{kind} {_link(hint)}"


def _default(field: attrs.Attribute[Any]) -> str:
    if field.default is attrs.NOTHING:
        return "refused"
    return "nil" if field.default is None else json.dumps(field.default)


def _summary(cls: type) -> str:
    """The first paragraph of the docstring, as one line."""
    return _prose((inspect.getdoc(cls) or "").split("\n\n")[0])


def _meanings(cls: type) -> dict[str, str]:
    """What the docstring says of single fields: ``:ivar a, b: text`` speaks of both."""
    found: dict[str, str] = {}
    for names, text in re.findall(r":ivar ([\w, ]+): (.*?)(?=\n:|\n\n|\Z)", inspect.getdoc(cls) or "", re.DOTALL):
        found |= dict.fromkeys(re.split(r", *", names), _prose(text))
    return found


def _prose(text: str) -> str:
    """reStructuredText of a docstring as a line of Markdown."""
    text = re.sub(r":\w+:`~?(?:[\w]+\.)*(\w+)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").split())


def _enumeration(cls: type[enum.Enum]) -> str:
    values = ", ".join(f'`"{member.value}"`' for member in cls)
    return f"#### {cls.__name__}\n\n{_summary(cls)} One of {values}."


def _title(cls: type) -> str:
    """A client's message may have the same name as one of the nodes."""
    return f"client {cls.__name__}" if cls in CLIENT_OPCODES.values() else cls.__name__


def _link(cls: type) -> str:
    return f"[{cls.__name__}](#{_title(cls).lower().replace(' ', '-')})"


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
