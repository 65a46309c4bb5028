"""Reads an adapter's options strictly: what is not understood is refused, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from txvbcast.units import parse_duration

Wanted = TypeVar("Wanted")

#: A name, or an address; urlsplit has taken the brackets off an IPv6 address, and looked at it.
_HOST = re.compile(r"[\w.:-]+", re.ASCII)


class Options:
    """The options of one adapter.  Take each that is known, then call :meth:`finish`.

    :raises ValueError: from every method: the option, and what was expected.
    """

    def __init__(self, given: Mapping[str, object]) -> None:
        self._given = given
        self._known: list[str] = []

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty; without ``default`` it must be given."""
        value = self._take(name, str, default, "a text")
        if not value:
            raise ValueError(f"{name}: expected a text that is not empty")
        return value

    def text_or_none(self, name: str) -> str | None:
        """A text that is not empty, or None when it is not given."""
        self._known.append(name)
        return self.text(name) if name in self._given else None

    def url(self, name: str, default: str) -> str:
        """Where a service is: scheme, host and perhaps a port, such as ``http://169.254.169.254``."""
        value = self.text(name, default)
        wanted = "a URL of scheme, host and perhaps a port, such as http://169.254.169.254"
        try:
            parts = urlsplit(value)
            port = parts.port  # looked at because it is checked only then
        except ValueError as error:
            raise ValueError(f"{name}: expected {wanted}, got {value!r}: {error}") from error
        rest = (parts.username, parts.password, parts.path.rstrip("/"), parts.query, parts.fragment)
        host = _HOST.fullmatch(parts.hostname or "")
        if parts.scheme not in ("http", "https") or host is None or port == 0 or any(rest):
            raise ValueError(f"{name}: expected {wanted}, got {value!r}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """``true`` or ``false``."""
        return self._take(name, bool, default, "true or false")

    def duration_s(self, name: str, default: str, least_s: float = 0.001) -> float:
        """A duration such as ``5s``, in seconds."""
        text = self._take(name, str, default, "a duration with its unit, such as 250ms or 5s")
        try:
            value = parse_duration(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if value < least_s:
            raise ValueError(f"{name}: expected at least {least_s:g}s, got {text}")
        return value

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number."""
        value = self._take(name, int, default, f"a whole number from {least} to {most}")
        if isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name}: expected a whole number from {least} to {most}, got {value!r}")
        return value

    def texts(self, name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list of texts that are not empty."""
        values = self._take(name, list, list(default), "a list of texts")
        if not all(isinstance(value, str) and value for value in values):
            raise ValueError(f"{name}: expected a list of texts that are not empty, got {values!r}")
        return tuple(values)

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """One of ``allowed``."""
        value = self._take(name, str, default, f"one of {', '.join(allowed)}")
        if value not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
        return value

    def finish(self) -> None:
        """Refuse whatever else is given."""
        for name in self._given:
            if name not in self._known:
                known = ", ".join(self._known) or "none"
                raise ValueError(f"{name}: there is no such option; expected one of: {known}")

    def _take(self, name: str, kind: type[Wanted], default: Wanted | None, wanted: str) -> Wanted:
        self._known.append(name)
        value: Any = self._given.get(name, default)
        if value is None:
            raise ValueError(f"{name}: it must be given: {wanted}")
        if not isinstance(value, kind):
            raise ValueError(f"{name}: expected {wanted}, got {value!r}")
        return value
