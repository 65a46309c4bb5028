"""Durations and sizes as people write them: ``250ms``, ``5s``, ``2m``, ``1h``; ``64KiB``, ``1MiB``, ``1GiB``."""

from __future__ import annotations

import re
from typing import Final

DURATION_WANTED: Final = "a duration with its unit, such as 250ms, 5s, 2m or 1h"
SIZE_WANTED: Final = "a size, such as 64KiB, 1MiB, 1GiB or a whole number of bytes"

#: The longest duration that is read: a year.
DURATION_S_MAX: Final = 365 * 86400.0

#: The largest size that is read: a pebibyte.
SIZE_BYTES_MAX: Final = 1 << 50

# Milliseconds of each unit: whole factors keep "300ms" at exactly three times "100ms".
_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_UNITS_BYTES: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_BINARY_UNITS: Final = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}

_QUANTITY: Final = re.compile(r"(?P<sign>[+-]?)(?P<number>[0-9]{1,18}(\.[0-9]{1,9})?) ?(?P<unit>[A-Za-z]*)", re.ASCII)


def parse_duration(text: str) -> float:
    """The seconds that ``text`` says.

    :raises ValueError: it is no duration, has no unit, is negative or longer than a year.
    """
    found = _split(text, DURATION_WANTED)
    number, unit = found["number"], found["unit"]
    if not unit:
        raise ValueError(f"{text!r} has no unit: write {number}s or {number}ms")
    if unit not in _UNITS_MS:
        raise ValueError(f"{text!r} has the unknown unit {unit!r}: expected {DURATION_WANTED}")
    duration_s = float(number) * _UNITS_MS[unit] / 1000
    if duration_s > DURATION_S_MAX:
        raise ValueError(f"{text!r} is longer than a year, the longest that is accepted")
    return duration_s


def parse_size(text: str) -> int:
    """The bytes that ``text`` says.

    :raises ValueError: it is no size, is negative, has a decimal unit, or is no whole number of bytes.
    """
    found = _split(text, SIZE_WANTED)
    number, unit = found["number"], found["unit"]
    if unit not in _UNITS_BYTES:
        meant = _BINARY_UNITS.get(unit[:1].lower())
        hint = f"write {number}{meant}" if meant else f"expected {SIZE_WANTED}"
        raise ValueError(f"{text!r} has the unknown unit {unit!r}: {hint}")
    size_bytes = float(number) * _UNITS_BYTES[unit]
    if not size_bytes.is_integer():
        raise ValueError(f"{text!r} is not a whole number of bytes")
    if size_bytes > SIZE_BYTES_MAX:
        raise ValueError(f"{text!r} is more than {format_size(SIZE_BYTES_MAX)}, the largest that is accepted")
    return int(size_bytes)


def format_duration(duration_s: float) -> str:
    """``duration_s`` in its largest unit that needs no fraction; rounded to a microsecond."""
    duration_ms = round(duration_s * 1000, 3)
    for unit in ("h", "m", "s"):
        count, rest = divmod(duration_ms, _UNITS_MS[unit])
        if count and not rest:
            return f"{int(count)}{unit}"
    return f"{duration_ms:.3f}".rstrip("0").rstrip(".") + "ms" if duration_ms else "0s"


def format_size(size_bytes: int) -> str:
    """``size_bytes`` in its largest unit that needs no fraction."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        count, rest = divmod(size_bytes, _UNITS_BYTES[unit])
        if count and not rest:
            return f"{count}{unit}"
    return str(size_bytes)


def _split(text: str, wanted: str) -> re.Match[str]:
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"expected {wanted}, got {text!r}")
    if found["sign"] == "-":
        raise ValueError(f"{text!r} is negative: expected {wanted}")
    return found
