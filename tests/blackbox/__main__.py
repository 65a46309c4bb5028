"""``python -m tests.blackbox --seed N --minutes M``: a session in namespaces of its own.

The exit status is 0 if all was well, 1 if not, 2 if this machine cannot do it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.blackbox import machine, nemesis
from tests.blackbox.session import Plan, Report, Session
from tests.blackbox.stories import STORIES

REPORT: Final = "report.json"
#: What the inner of the two processes is called with, besides what the outer was.
_INSIDE: Final = "--inside"
_CANNOT: Final = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.blackbox", description="Attack a cluster of real processes.")
    parser.add_argument("--story", default="attack", choices=("attack", *STORIES), help="what is done (default attack)")
    parser.add_argument("--seed", type=int, default=1, help="what is done to the cluster follows from it (default 1)")
    parser.add_argument("--nodes", type=int, default=3, choices=range(3, 8), help="3 to 7 (default 3)")
    parser.add_argument("--episodes", type=int, help="how many disturbances, or pairs of them, at most")
    parser.add_argument("--minutes", type=float, help="how long it may take, without the checks at the end")
    kinds = [kind.__name__ for kind in nemesis.KINDS]
    parser.add_argument("--only", action="append", choices=kinds, help="a kind of disturbance; may be given repeatedly")
    parser.add_argument("--directory", type=Path, help="where files are left (default: a new one in the system's)")
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    """Run the outer process, or the inner one in its namespaces."""
    parser = _parser()
    options = parser.parse_args()
    if options.story == "attack" and options.episodes is None and options.minutes is None:
        parser.error("say when it is enough: --minutes M or --episodes E")
    directory = options.directory or Path(tempfile.mkdtemp(prefix="txvbcast-blackbox-")) / "session"
    if options.inside:
        only = frozenset(options.only or [kind.__name__ for kind in nemesis.KINDS])
        limits = (options.episodes, options.minutes)
        return _inside(Plan(options.story, options.seed, options.nodes, directory, only, *limits))
    why = machine.lack("namespaces")
    if not why:
        again = [
            sys.executable,
            "-m",
            "tests.blackbox",
            *sys.argv[1:],
            _INSIDE,
            "--directory",
            str(directory.absolute()),
        ]
        words = machine.isolated(*again)
        os.execvp(words[0], words)  # whoever ends this process ends the session and all that it has started
    _tell(f"this machine cannot do it: {why}")
    return _CANNOT


def _inside(plan: Plan) -> int:
    report = Session(plan, _tell).run()
    report.save(plan.directory / REPORT)
    _summarize(plan, report)
    return 1 if report.complaints else 0


def _summarize(plan: Plan, report: Report) -> None:
    for need, why in report.missing.items():
        _tell(f"left out, for want of {need}: {why}")
    for lie, noticed in report.lies.items():
        _tell(f"planted and noticed: {lie}: {noticed[:200]}")
    _tell(f"kinds: {dict(report.kinds)}")
    _tell(f"{len(report.episodes)} episodes, {report.lives} lives of {report.nodes} nodes, {report.outcomes}")
    for complaint in report.complaints:
        _tell(f"WRONG: {complaint}")
    _tell(f"seed {plan.seed}: {'FAILED' if report.complaints else 'all is well'}; files in {plan.directory}")


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
