"""What a check says when something does not hold."""

from __future__ import annotations

import re

_NUMBERED = re.compile(r"invariant (\d+): ")


class Violation(AssertionError):
    """An invariant of section 9 of the protocol does not hold.

    Its text begins with ``invariant N:`` where a check has found it; a node whose core stopped by
    itself, for instance, has no number.
    """

    @property
    def invariant(self) -> int:
        """The number of the invariant; 0 if it has none."""
        found = _NUMBERED.match(str(self))
        return int(found.group(1)) if found else 0
