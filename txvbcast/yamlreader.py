"""Reads YAML by a description of its keys, and names file, line and key of whatever is wrong.

A :class:`Kind` says what a key may hold; :func:`section` puts kinds together into mappings.  Problems are
gathered in a :class:`Report`, so that one reading tells of all of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs
import yaml

from txvbcast.errors import ConfigError

#: How deep mappings and lists may be nested.
DEPTH_MAX: Final = 16

#: How many problems one error tells of.
PROBLEMS_TOLD_MAX: Final = 20

#: How much of a wrong value is quoted.
QUOTED_CHARS_MAX: Final = 60

#: The most that is told of what a parser said, since that may quote the whole file.
DETAIL_CHARS_MAX: Final = 500


class Refused(Exception):
    """A value is not what was wanted; the text says both."""


class Report:
    """The problems so far, and the line of every key.

    :param where: the file's name.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._lines: dict[str, int] = {}
        self._problems: list[tuple[int, str]] = []

    def note(self, path: str, line: int) -> None:
        """Remember where a key stands."""
        self._lines.setdefault(path, line)

    def line_of(self, path: str) -> int:
        """The line of a key, or of the nearest one around it that is in the file."""
        while path and path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._lines[path]

    def add(self, line: int, path: str, text: str) -> None:
        """One more problem."""
        about = f"{path}: {text}" if path else text
        self._problems.append((line, f"{self._where}:{line}: {about}"))

    def raise_if_any(self) -> None:
        """Tell of the problems, in the file's order.

        :raises ConfigError: there are some; a line for each.
        """
        if not self._problems:
            return
        lines = [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]
        if len(lines) > PROBLEMS_TOLD_MAX:
            lines[PROBLEMS_TOLD_MAX:] = [f"{self._where}: and {len(lines) - PROBLEMS_TOLD_MAX} more problems"]
        raise ConfigError("\n".join(lines))


@attrs.frozen
class Spot:
    """A value in the file, the path and line of its key, and the report about both."""

    node: yaml.Node
    path: str
    line: int
    report: Report

    def __attrs_post_init__(self) -> None:
        self.report.note(self.path, self.line)

    def wrong(self, text: str) -> None:
        """Report a problem with this value."""
        self.report.add(self.line, self.path, text)

    def path_of(self, name: str) -> str:
        """The path of a key of this mapping."""
        shown = _shown(name)
        return f"{self.path}.{shown}" if self.path else shown

    def key(self, key: yaml.ScalarNode, node: yaml.Node) -> Spot:
        """A value of this mapping."""
        return Spot(node, self.path_of(str(key.value)), _line(key), self.report)

    def item(self, place: int, node: yaml.Node) -> Spot:
        """An item of this list."""
        return Spot(node, f"{self.path}[{place}]", _line(node), self.report)


@attrs.frozen
class Kind:
    """What a key may hold: ``wanted`` in words; ``read`` makes the value or raises :class:`Refused`."""

    wanted: str
    read: Callable[[Spot], object]


@attrs.frozen
class Key:
    """A key of a section.

    :ivar name: by which the value is known in Python, if not by the key itself.
    """

    kind: Kind
    name: str = ""
    required: bool = False


# --- text to nodes ---------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Composes nodes; refuses what could make a short file mean an endless one."""

    depth = 0

    def fetch_more_tokens(self) -> None:
        """The next tokens; a number in them that is out of range is an error like any other."""
        try:
            super().fetch_more_tokens()
        except (ValueError, OverflowError) as error:  # of chr and int, which PyYAML lets through
            problem = "an escape is beyond U+10FFFF, or a version number is endless"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark()) from error

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node, with all in it."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias (*name) is not supported, write it out", problem_mark=mark)
        if self.depth == DEPTH_MAX:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {DEPTH_MAX} levels", problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def compose(text: str, where: str) -> Spot:
    """The root of the YAML ``text``, with a new report for the file ``where``.

    :raises ConfigError: it is no YAML, or empty.
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_error(text, where, error)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"the character {error.character:#x}"
        raise ConfigError(f"{where}:{line}: {character} is not allowed in YAML: remove it") from error
    if node is None:
        raise ConfigError(f"{where}: is empty; 'vbcast init' writes a configuration to begin with")
    return Spot(node, "", _line(node), Report(where))


_BARE_IPV6: Final = re.compile(r"[:-]\s+\[[0-9A-Fa-f:.]*:[0-9A-Za-z:.%]*\]:[0-9]")


def _syntax_error(text: str, where: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    line = mark.line if mark else 0
    source = "".join(text.splitlines()[line : line + 1])
    said = ", ".join(part for part in (error.context, error.problem) if part)[:DETAIL_CHARS_MAX]
    hint = ""
    if "\t" in source:
        hint = "; YAML is indented by spaces, and this line has a tab"
    elif _BARE_IPV6.search(source):
        hint = '; put an IPv6 address into quotes, as in "[::1]:8410"'
    elif "single document" in said:
        hint = "; one file holds one node's configuration, so remove the '---'"
    return f"{where}:{line + 1}: is not valid YAML: {said}{hint}"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


# --- single values ---------------------------------------------------------------------

_TAG: Final = "tag:yaml.org,2002:"
_WHOLE_DIGITS: Final = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})", re.ASCII)
_DECIMAL_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?", re.ASCII)
_TYPES: Final = {"str": "text", "int": "number", "float": "number", "bool": "truth value", "timestamp": "date"}


def scalar(parse: Callable[[str], object], wanted: str, *types: str) -> Kind:
    """A scalar that YAML takes for one of ``types`` and that ``parse`` understands.

    :param parse: given the text as it stands in the file; its ValueError tells what is wrong.
    """

    def read(spot: Spot) -> object:
        node = spot.node
        if not isinstance(node, yaml.ScalarNode) or _type(node) not in types:
            raise Refused(f"expected {wanted}, got {_got(node)}")
        try:
            return parse(node.value)
        except ValueError as error:
            said = str(error)
            raise Refused(said if len(said) <= DETAIL_CHARS_MAX else f"expected {wanted}, got {_got(node)}") from error

    return Kind(wanted, read)


def one_of(names: Iterable[str]) -> Kind:
    """One of a few words."""
    known = tuple(names)
    wanted = f"one of {', '.join(known)}"

    def parse(raw: str) -> str:
        if raw not in known:
            raise ValueError(f"expected {wanted}, got {_quoted(raw)}")
        return raw

    return scalar(parse, wanted, "str")


def never(text: str) -> Kind:
    """A key that is refused with ``text``, whatever it holds."""

    def read(spot: Spot) -> object:
        raise Refused(text)

    return Kind("nothing", read)


def _read_text(spot: Spot) -> object:
    node = spot.node
    if isinstance(node, yaml.ScalarNode) and _type(node) in ("int", "float", "bool", "timestamp"):
        raise Refused(f'expected a text, got {_got(node)}: put it into quotes, as in "{_shortened(node.value)}"')
    return _BARE_TEXT.read(spot)


def parse_text(raw: str) -> str:
    """A text of characters only, which can be written into a file, or name one.

    :raises ValueError: there is something else in it.
    """
    if "\0" in raw or any("\ud800" <= character <= "\udfff" for character in raw):
        raise ValueError("expected a text, got one with an escape that is no character")
    return raw


def _parse_whole(raw: str) -> int:
    if not _WHOLE_DIGITS.fullmatch(raw):
        raise ValueError(f"expected a whole number in plain digits, got {_quoted(raw)}")
    return int(raw)


def _parse_number(raw: str) -> float:
    if not _DECIMAL_DIGITS.fullmatch(raw):
        raise ValueError(f"expected a number such as 1.5, got {_quoted(raw)}")
    return float(raw)


def _parse_truth(raw: str) -> bool:
    truth = yaml.SafeLoader.bool_values.get(raw.lower())
    if truth is None:
        raise ValueError(f"expected true or false, got {_quoted(raw)}")
    return truth


_BARE_TEXT: Final = scalar(parse_text, "a text", "str")
TEXT: Final = Kind("a text", _read_text)
WHOLE: Final = scalar(_parse_whole, "a whole number", "int")
NUMBER: Final = scalar(_parse_number, "a number such as 1.5", "int", "float")
TRUTH: Final = scalar(_parse_truth, "true or false", "bool")


def _type(node: yaml.Node) -> str:
    return str(node.tag).removeprefix(_TAG)


def _got(node: yaml.Node) -> str:
    """A wrong value in words."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if _type(node) == "null":
        return "nothing"
    said = f"the {_TYPES[_type(node)]}" if _type(node) in _TYPES else f"a value of the type {_shown(_type(node))},"
    return f"{said} {_quoted(node.value)}"


def _shown(raw: str) -> str:
    """As it is, if that fits into a line."""
    return raw if raw.isprintable() and len(raw) <= QUOTED_CHARS_MAX else _quoted(raw)


def _quoted(raw: str) -> str:
    return repr(_shortened(raw))


def _shortened(raw: str) -> str:
    return raw if len(raw) <= QUOTED_CHARS_MAX else f"{raw[:QUOTED_CHARS_MAX]}..."


# --- lists and mappings ----------------------------------------------------------------


def list_of(kind: Kind) -> Kind:
    """A list of values of one kind, read as a tuple without the items that are wrong."""
    wanted = f"a list, each item {kind.wanted}"

    def read(spot: Spot) -> tuple[object, ...]:
        if not isinstance(spot.node, yaml.SequenceNode):
            raise Refused(f"expected {wanted}, got {_got(spot.node)}")
        items: list[object] = []
        for place, node in enumerate(spot.node.value):
            items.extend(_read_or_report(kind, spot.item(place, node)))
        return tuple(items)

    return Kind(wanted, read)


def section(keys: Mapping[str, Key]) -> Kind:
    """A mapping with these keys, read as a dict by their names in Python, without those that are wrong."""
    wanted = f"a mapping with the keys {', '.join(keys)}"

    def read(spot: Spot) -> dict[str, Any]:
        values: dict[str, Any] = {}
        missing = dict(keys)
        for name, inner in _pairs(spot, wanted):
            key = missing.pop(name, None)
            if key is None:
                inner.wrong(f"unknown key{_suggestion(name, keys)}")
                continue
            for value in _read_or_report(key.kind, inner):
                values[key.name or name] = value
        for name, key in missing.items():
            if key.required:
                spot.wrong(f"the key {name!r} is missing: expected {key.kind.wanted}")
        return values

    return Kind(wanted, read)


def mapping_of(kind: Kind, names: Iterable[str], what: str) -> Kind:
    """A mapping from some of ``names``, each a ``what``, to values of one kind, read as a dict."""
    known = tuple(names)
    wanted = f"a mapping from each {what} to {kind.wanted}"

    def read(spot: Spot) -> dict[str, object]:
        values: dict[str, object] = {}
        for name, inner in _pairs(spot, wanted):
            if name not in known:
                inner.wrong(f"unknown {what}{_suggestion(name, known)}")
                continue
            for value in _read_or_report(kind, inner):
                values[name] = value
        return values

    return Kind(wanted, read)


def _read_options(spot: Spot) -> dict[str, object]:
    return {name: _read_free(inner) for name, inner in _pairs(spot, OPTIONS.wanted)}


def _read_free(spot: Spot) -> object:
    """Any plain value; one that is not is reported, and None."""
    node = spot.node
    if isinstance(node, yaml.MappingNode):
        return _read_options(spot)
    if isinstance(node, yaml.SequenceNode):
        return [_read_free(spot.item(place, item)) for place, item in enumerate(node.value)]
    values = _read_or_report(_FREE.get(_type(node), _BARE_TEXT), spot)
    return values[0] if values else None


OPTIONS: Final = Kind("a mapping of the plugin's own options", _read_options)

# What options may hold, by the type that YAML sees.
_FREE: Final = {"int": WHOLE, "float": NUMBER, "bool": TRUTH, "null": Kind("nothing", lambda spot: None)}


def _read_or_report(kind: Kind, spot: Spot) -> tuple[object, ...]:
    """The value, or nothing when it is wrong."""
    try:
        return (kind.read(spot),)
    except Refused as refused:
        spot.wrong(str(refused))
        return ()


def _pairs(spot: Spot, wanted: str) -> Iterator[tuple[str, Spot]]:
    """Each key of a mapping with its value; a key that is no text, or there for the second time, is reported.

    :raises Refused: it is no mapping.
    """
    if not isinstance(spot.node, yaml.MappingNode):
        raise Refused(f"expected {wanted}, got {_got(spot.node)}")
    lines: dict[str, int] = {}
    for key, value in spot.node.value:
        if not isinstance(key, yaml.ScalarNode) or _type(key) != "str":
            spot.report.add(_line(key), spot.path, f"a key must be a text, got {_got(key)}")
        elif key.value in lines:
            text = f"is given twice, first on line {lines[key.value]}: remove one"
            spot.report.add(_line(key), spot.path_of(key.value), text)
        else:
            lines[key.value] = _line(key)
            yield key.value, spot.key(key, value)


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    meant = f", did you mean {near[0]!r}?" if near else ":"
    return f"{meant} expected one of {', '.join(known)}"
