"""A node under cProfile: ``profiled_node.py FILE WORDS...`` runs ``twist WORDS...``.

Between SIGUSR1 and SIGUSR2 the calls of Python functions are counted, on the thread of the reactor; then FILE gets a
JSON object that says how often each function was called.  No time shows in it.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from cProfile import Profile
from pathlib import Path

from twisted.application.twist._twist import Twist


def main(path: Path, words: list[str]) -> None:
    """Run the node; it ends as twist does."""
    profile = Profile(builtins=False)

    def begin(*_: object) -> None:
        profile.enable()

    def end(*_: object) -> None:
        profile.disable()
        calls: Counter[str] = Counter()
        for entry in profile.getstats():
            assert not isinstance(entry.code, str)  # a function of C: they are not counted
            calls[f"{Path(entry.code.co_filename).name}:{entry.code.co_qualname}"] += entry.callcount
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(calls))
        unfinished.rename(path)

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    Twist.main(["twist", *words])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
