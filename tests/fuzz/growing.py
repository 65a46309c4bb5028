"""Chooses, of what the fuzzer found, the few inputs that are worth shipping: each goes a way through the code that no
other goes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import yaml

import txvbcast
from tests.fuzz import CORPUS, check_of

_FOLDERS: Final = tuple(str(Path(str(module.__file__)).parent) for module in (txvbcast, yaml))

#: A step from one line to another in one function.
Step = tuple[CodeType, int, int]


def steps(check: Callable[[bytes], None], data: bytes) -> set[Step]:
    """The steps through the code under test that ``check`` takes with ``data``."""
    taken: set[Step] = set()

    def entered(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(_FOLDERS):
            return None
        at = 0

        def moved(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal at
            taken.add((frame.f_code, at, frame.f_lineno))
            at = frame.f_lineno
            return moved

        return moved

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        check(data)
    finally:
        sys.settrace(before)
    return taken


def chosen(check: Callable[[bytes], None], shipped: Iterable[bytes], found: Iterable[bytes]) -> list[bytes]:
    """Those of ``found``, shortest first, that take a step which neither ``shipped`` nor one chosen before takes."""
    known = set[Step]().union(*(steps(check, data) for data in shipped))
    new = []
    for data in sorted(found, key=len):
        taken = steps(check, data)
        if not taken <= known:
            known |= taken
            new.append(data)
    return new


def keep(target: str, folder: Path) -> int:
    """Copy the inputs in ``folder`` that are worth it into the corpus; how many."""
    shipped = [path.read_bytes() for path in (CORPUS / target).iterdir()]
    found = {path.read_bytes(): path for path in folder.iterdir()}
    new = chosen(check_of(target), shipped, found)
    for data in new:
        shutil.copy(found[data], CORPUS / target / f"found-{found[data].name[:12]}")
    return len(new)
