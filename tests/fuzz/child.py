"""One run of the fuzzer, in a process of its own, because the fuzzer ends it: ``python -m tests.fuzz.child``.

The first argument names the target, the second a planted defect or nothing; the rest are the fuzzer's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable

import atheris
from twisted.logger import globalLogBeginner

from tests import fuzz

#: Whose branches and comparisons guide the fuzzer: what reads bytes.  That costs time, and in YAML's
#: innermost loops so much of it that less would be found.
INSTRUMENTED = ("txvbcast", "yaml")
NOT_INSTRUMENTED = ("yaml.reader", "yaml.scanner", "yaml.constructor")


#: Kinds of input that are told apart; each costs a counter.
KINDS_MAX = 20_000


class Kinds:
    """Gives each kind of input a branch of its own, which the fuzzer sees."""

    def __init__(self) -> None:
        self._branches: dict[Hashable, Callable[[], None]] = {}

    def reached(self, kind: Hashable) -> None:
        """Go through the branch of ``kind``."""
        branch = self._branches.get(kind)
        if branch is None:
            if len(self._branches) == KINDS_MAX:
                return
            branch = self._branches[kind] = atheris.instrument_func(lambda: None)
        branch()


def main() -> None:
    """Fuzz until a limit or a failure; does not return."""
    _, name, defect, *options = sys.argv
    fuzz.reached = Kinds().reached
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    with atheris.instrument_imports(include=INSTRUMENTED, exclude=NOT_INSTRUMENTED):
        module = fuzz.target(name)
    if defect:
        from tests.fuzz.planted import DEFECTS

        DEFECTS[defect].plant()

    def mutate(data: bytes, bytes_max: int, seed: int) -> bytes:
        other: bytes = module.mutate(data, bytes_max, seed, atheris.Mutate)
        return other

    atheris.Setup([name, *options], module.check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
