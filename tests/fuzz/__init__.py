"""Coverage-guided fuzzing of whatever reads bytes from outside; ``docs/fuzzing.md`` tells how to run it.

Each module in :data:`TARGETS` has ``check(data)``, which raises if ``data`` breaks a property, and
``mutate(data, bytes_max, seed, blind)``, which makes another input of one: mostly one that still gets past
checksums, or else by the fuzzer's own blind changes.  No target needs the fuzzer, so an input is replayed by calling
``check``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Final

#: The modules of this package that are targets, each with a folder of the same name in :data:`CORPUS`.
TARGETS: Final = ("frames", "client_frames", "datagrams", "config")

CORPUS: Final = Path(__file__).parent / "corpus"

#: Longer inputs are not tried: what they could show, shorter ones do, and faster.
INPUT_BYTES_MAX: Final = 2048

#: A target's word that its input is of this kind, where no branch of Python tells: MessagePack is read in C.  The
#: fuzzer keeps one input of each kind, and makes others of it; without the fuzzer nothing hears it.
reached: Callable[[Hashable], None] = lambda kind: None  # noqa: E731


def target(name: str) -> Any:
    """The module of the target ``name``."""
    return importlib.import_module(f"tests.fuzz.{name}")


def check_of(name: str) -> Callable[[bytes], None]:
    """The properties of the target ``name``, as a function that raises if its input breaks one."""
    check: Callable[[bytes], None] = target(name).check
    return check
