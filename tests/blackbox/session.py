"""A session: a cluster, its clients, what is done to it, and whether all was well.

What is done is either drawn from a seed (``attack``), or one of the stories of :mod:`tests.blackbox.stories`.
"""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from tests.blackbox import calibration, machine, nemesis
from tests.blackbox.clients import Clients
from tests.blackbox.disturbance import Violation
from tests.blackbox.history import defects, gather, judge, outcomes, save
from tests.blackbox.lab import Lab
from tests.blackbox.stories import STORIES

#: How long a cluster may take to recover from whatever was done to it.
RECOVERY_S: Final = 90.0
#: How many requests must be answered after the last disturbance.
ANSWERS_AFTER: Final = 200
CLIENTS: Final = 10
PAUSE_S: Final = 0.04


@attrs.frozen
class Plan:
    """What a session does.

    :ivar story: ``attack``, or one of :data:`~tests.blackbox.stories.STORIES`.
    :ivar only: the kinds of disturbance of an attack, by name.
    :ivar episodes, minutes: when an attack is enough, whichever comes first.
    """

    story: str
    seed: int
    nodes: int
    directory: Path
    only: frozenset[str]
    episodes: int | None = None
    minutes: float | None = None


@attrs.define(eq=False)
class Report:
    """What came of a session.

    :ivar episodes: as they were done.
    :ivar kinds: how often each kind of disturbance was done.
    :ivar missing: what this machine cannot do, and why.
    :ivar outcomes: how many requests of clients came to which end.
    :ivar steps: of the search for a linear order.
    :ivar lives: how many lives all nodes have had together.
    :ivar lies: what was planted, and that it was noticed.
    :ivar complaints: what must not be; empty if all is well.
    """

    seed: int
    nodes: int
    episodes: list[str] = attrs.field(factory=list)
    kinds: Counter[str] = attrs.field(factory=Counter)
    missing: dict[str, str] = attrs.field(factory=dict)
    outcomes: dict[str, int] = attrs.field(factory=dict)
    steps: int = 0
    lives: int = 0
    lies: dict[str, str] = attrs.field(factory=dict)
    complaints: list[str] = attrs.field(factory=list)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(attrs.asdict(self), indent=1))


class Session:
    """Runs a :class:`Plan`.

    :param tell: hears what goes on, line by line.
    """

    def __init__(self, plan: Plan, tell: Callable[[str], Any]) -> None:
        self._plan = plan
        self._tell = tell
        self._began_s = time.monotonic()
        self.report = Report(plan.seed, plan.nodes)
        self.report.missing = {need: why for need in machine.CAPABILITIES if (why := machine.lack(need))}

    def run(self) -> Report:
        """Do it all; whatever is wrong is among the complaints of the report."""
        story = STORIES.get(self._plan.story)
        lab = Lab(self._plan.directory, self._plan.nodes, story.settings if story is not None else "")
        clients = Clients(lab.http_addresses(), CLIENTS, self._plan.seed, PAUSE_S)
        try:
            try:
                self._start(lab)
                with clients:
                    if story is None:
                        self._attack(lab, clients)
                    else:
                        story.tell(lab, clients)
                    self._recover(lab, clients, ANSWERS_AFTER)
                self._judge(lab, clients)
            finally:
                lab.stop()
        except Exception as error:  # noqa: BLE001 - whatever it is, the report has to tell it
            self.report.complaints.append(f"{type(error).__name__}: {error}")
            self._tell(traceback.format_exc())
        self.report.complaints += defects(lab)
        if self.report.complaints:
            save(clients.history, self._plan.directory / "history.jsonl")
        return self.report

    def _start(self, lab: Lab) -> None:
        for node in lab.nodes.values():
            node.start()
        lab.wait("every node is normal", lab.recovered, RECOVERY_S)

    def _attack(self, lab: Lab, clients: Clients) -> None:
        kinds = [kind for kind in nemesis.available() if kind.__name__ in self._plan.only]
        for number, episode in enumerate(nemesis.episodes(self._plan.seed, list(lab.nodes), kinds)):
            if self._is_enough(number):
                return
            clients.era = number
            self._do(lab, clients, number, episode)

    def _is_enough(self, done: int) -> bool:
        minutes = (time.monotonic() - self._began_s) / 60
        return (self._plan.episodes is not None and done >= self._plan.episodes) or (
            self._plan.minutes is not None and minutes >= self._plan.minutes
        )

    def _do(self, lab: Lab, clients: Clients, number: int, episode: nemesis.Episode) -> None:
        before, began_s = clients.answered(), time.monotonic()
        self.report.episodes.append(str(episode))
        for disturbance in episode.disturbances:
            disturbance.begin(lab)
            self.report.kinds[type(disturbance).__name__] += 1
        time.sleep(episode.hold_s)
        for disturbance in episode.disturbances:
            disturbance.heal(lab)
        if episode.rest:
            self._recover(lab, clients, 1)
        _check_alive(lab)
        took_s = time.monotonic() - began_s
        self._tell(f"{number + 1:3} {episode}: {clients.answered() - before} answers in {took_s:.1f} s")

    def _recover(self, lab: Lab, clients: Clients, answers: int) -> None:
        """Wait until all nodes are normal, and so many requests have been answered since."""
        lab.wait("every node is normal again", lambda: _check_alive(lab) and lab.recovered(), RECOVERY_S)
        wanted = clients.answered() + answers
        lab.wait(f"{answers} requests are answered", lambda: clients.answered() >= wanted, RECOVERY_S)

    def _judge(self, lab: Lab, clients: Clients) -> None:
        stale = calibration.stale_read(lab)
        lab.wait("every entry is on every disk", lab.at_rest, RECOVERY_S)
        evidence = gather(lab, [*clients.history, *stale[:-1]])
        self.report.outcomes = outcomes(evidence.asked)
        self.report.lives = sum(map(len, evidence.delivered.values()))
        opinion = judge(evidence)
        self.report.steps = opinion.finding.steps
        self.report.complaints += opinion.complaints
        if opinion.is_good:
            opinions = calibration.calibrate(evidence, stale[-1:], self._plan.seed)
            self.report.lies = {name: "; ".join(each.complaints[:2]) for name, each in opinions.items()}
            self.report.complaints += calibration.unnoticed(opinions)


def _check_alive(lab: Lab) -> bool:
    """True.

    :raises Violation: a node has ended that nobody has ended.
    """
    for k, node in lab.nodes.items():
        if node.process is not None and (code := node.process.poll()) is not None:
            raise Violation(f"node {k} has ended by itself, with {code}; its log is {node.log}")
    return True
