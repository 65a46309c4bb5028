"""The state machines as tables: what each of them does with every input in every state.

Made from the machines themselves, for ``docs/states.md`` and for the test that nothing was
left undecided.  Automat has no public way to look into a machine; what there is of it is
used here and nowhere else.  Nothing here depends on the order of a set, so the page is the
same under any hash seed.
"""

from __future__ import annotations

import enum
import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from automat import TypeMachine

from txvbcast.core.flights import CoordinatorInputs, CoordinatorMachine, ParticipantInputs, ParticipantMachine
from txvbcast.core.mastership import MastershipInputs, MastershipMachine
from txvbcast.core.standing import OwnInputs, OwnMachine, PeerInputs, PeerMachine

#: What Automat calls the behaviour of ``.returns(None)``.
_NO_BEHAVIOUR = "returns(None)"


class Decision(enum.Enum):
    """What was decided about an input in a state."""

    HANDLED = "handled"
    IGNORED = "ignored"
    FORBIDDEN = "forbidden"


@attrs.frozen
class Never:
    """Inputs that cannot come in some states, and who sees to it; one that comes all the same is a defect."""

    states: tuple[str, ...]
    inputs: tuple[str, ...]
    why: str


@attrs.frozen(order=True)
class Cell:
    """What a machine does with ``input`` in ``state``.

    :ivar to: the state afterwards; empty where the input is forbidden.
    :ivar behaviour: the function that is called, empty for none.
    :ivar never: where the input is forbidden, which of the chart's reasons holds, from 1; else 0.
    """

    state: str
    input: str
    decision: Decision = attrs.field(order=False)
    to: str = ""
    behaviour: str = ""
    never: int = 0


@attrs.frozen
class Chart:
    """A machine with everything that was decided about it.

    :ivar introduction: for the page, what the machine is there for.
    :ivar states: in the order in which the page shows them.
    """

    name: str
    title: str
    introduction: str
    machine: TypeMachine[Any, Any]
    protocol: type
    states: tuple[str, ...]
    never: tuple[Never, ...]

    @property
    def inputs(self) -> Mapping[str, str]:
        """What each input means, in the order in which they are declared."""
        members = vars(self.protocol).items()
        return {name: _line(each) for name, each in members if inspect.isfunction(each) and not name.startswith("__")}

    @property
    def known_states(self) -> frozenset[str]:
        """The states that the machine itself knows; ``states`` has them in the order to read them in."""
        return frozenset(state.name for state in self.machine.__automat_automaton__.states())

    @property
    def first_state(self) -> str:
        """Where the machine begins."""
        return self.machine.__automat_automaton__.initialState.name

    @property
    def transitions(self) -> tuple[Cell, ...]:
        """What the machine itself knows, sorted."""
        return tuple(
            sorted(
                _transition(state.name, name, to.name, [output.name for output in outputs])
                for state, name, to, outputs in self.machine.__automat_automaton__.allTransitions()
            )
        )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every decision, sorted: the transitions, and what cannot happen."""
        forbidden = [
            Cell(state, name, Decision.FORBIDDEN, never=number)
            for number, never in enumerate(self.never, 1)
            for state in never.states
            for name in never.inputs
        ]
        return tuple(sorted([*self.transitions, *forbidden]))

    def at(self, state: str, core: object) -> Any:
        """A machine that has come to ``state``, to see what it does there."""
        states: dict[str, Any] = {known.name: known for known in self.machine.__automat_automaton__.states()}
        return self.machine(core, states[state])


def _line(method: object) -> str:
    """A docstring as one line of Markdown."""
    text = " ".join((inspect.getdoc(method) or "").split())
    return re.sub(r"``([^`]*)``", r"`\1`", text)


def _transition(state: str, name: str, to: str, outputs: Sequence[str]) -> Cell:
    behaviour = ", ".join(output for output in outputs if output != _NO_BEHAVIOUR)
    ignored = state == to and not behaviour
    return Cell(state, name, Decision.IGNORED if ignored else Decision.HANDLED, to, behaviour)


# --- what cannot happen ------------------------------------------------------------------

_COORDINATOR_LATER = ("voted", "excused", "expired", "sent_again", "applied", "everywhere", "died")

FORBIDDEN: Mapping[str, tuple[Never, ...]] = {
    "PeerMachine": (),
    "OwnMachine": (
        Never(
            ("returning", "catching_up", "normal"),
            ("changes_over",),
            "The first change that begins leads to leaving or inactive, and until the last one ends nothing leads "
            "on from there but cleared, to inactive.",
        ),
        Never(
            ("returning", "catching_up", "normal", "inactive"),
            ("cleared",),
            "Only a node that is leaving is looked at for what still keeps it.",
        ),
        Never(
            ("returning", "catching_up", "normal", "inactive"),
            ("_was_announced", "_was_silent"),
            "The machine sends it to itself when changes_over comes in leaving, and takes it before anything else.",
        ),
    ),
    "CoordinatorMachine": (
        Never(
            ("new",),
            (*_COORDINATOR_LATER, "_settled", "_refused"),
            "A flight is proposed as soon as it is made, before anything can reach it.",
        ),
        Never(
            ("voting", "decided", "applied", "done"),
            ("proposed",),
            "A flight is proposed once; its transactions are proposed anew in another flight.",
        ),
        Never(
            ("voting",),
            ("applied",),
            "The master orders a flight of a voted mode only when it has DECIDE, which leaves with the step to "
            "decided; a flight of mode broadcast is decided as soon as it is proposed.",
        ),
        Never(
            ("applied",),
            ("applied", "died"),
            "The log performs a flight once, and only flights that it does not hold yet are told that they are dead.",
        ),
        Never(
            ("decided", "applied"),
            ("_settled", "_refused"),
            "The machine sends it to itself while it is voting, at most once, and takes it before anything else.",
        ),
        Never(
            ("done",),
            (*_COORDINATOR_LATER, "_settled", "_refused"),
            "A flight that is done is taken off the coordinator's desk before the next input.",
        ),
    ),
    "ParticipantMachine": (
        Never(
            ("held", "voted"),
            ("prepared",),
            "The resource managers are asked on the way to preparing, and their answer counts only there.",
        ),
        Never(
            ("over",),
            ("asked", "applied", "released"),
            "A flight that is over is taken off the participant's desk before the next input.",
        ),
    ),
    "MastershipMachine": (
        Never(
            ("probing", "claiming", "starting", "master", "handing_over"),
            ("suspect",),
            "Only a follower waits for the signs of life of a master.",
        ),
        Never(
            ("follower", "claiming", "starting", "master", "handing_over"),
            ("found",),
            "Only a round of Probe under way can come to nothing.",
        ),
        Never(
            ("starting", "master", "handing_over"),
            ("claim",),
            "A node that holds an office stands down before it claims another.",
        ),
        Never(
            ("follower", "probing", "starting", "master", "handing_over"),
            ("won",),
            "The adopted log counts only for the claim under way.",
        ),
        Never(
            ("follower", "probing", "claiming", "master", "handing_over"),
            ("opened",),
            "Only a master that starts waits for a majority to adopt its log.",
        ),
        Never(
            ("follower", "probing", "claiming", "handing_over"),
            ("hand_over",),
            "Only a master can hand over, and only once.",
        ),
        Never(
            ("follower", "probing", "claiming", "starting", "master"),
            ("handed",),
            "The promise to a successor counts only for a handover under way.",
        ),
    ),
}

# --- the machines ------------------------------------------------------------------------


CHARTS: tuple[Chart, ...] = (
    Chart(
        "PeerMachine",
        "A member, as another node sees it",
        "Every node keeps one of these machines for each member, itself included (`txvbcast/core/standing.py`). It "
        "follows two voices: the member's own announcements, which are believed at once, and the log, which decides. "
        "What the log says of an older absence does not overrule a newer announcement, and a late or repeated "
        "announcement changes nothing; both are seen to before an input reaches the machine.",
        PeerMachine,
        PeerInputs,
        ("normal", "inactive", "catching_up", "failed"),
        FORBIDDEN["PeerMachine"],
    ),
    Chart(
        "OwnMachine",
        "A node's own life",
        "What a node does about its own absences (`txvbcast/core/standing.py`). It begins as returning: a node that "
        "has just started takes itself for absent until the log, or the master, says otherwise. While it is leaving "
        "it still votes and stores, finishes its own flights and gives the office away; while it is inactive it is "
        "deaf to what others say of it, until its last change is over. To the others, who know four standings, "
        "leaving counts as normal and returning as catching_up.",
        OwnMachine,
        OwnInputs,
        ("normal", "leaving", "inactive", "returning", "catching_up"),
        FORBIDDEN["OwnMachine"],
    ),
    Chart(
        "CoordinatorMachine",
        "A flight, at its coordinator",
        "One machine for each flight that this node proposed (`txvbcast/core/flights.py`), from the proposal to the "
        "last answer. A flight of mode broadcast waits for no vote and is decided at once. The clients hear committed "
        "on the way to done: in mode 3pc when every normal member holds the flight, else as soon as this node has "
        "applied it. The transactions of a flight that died are proposed anew in another one.",
        CoordinatorMachine,
        CoordinatorInputs,
        ("new", "voting", "decided", "applied", "done"),
        FORBIDDEN["CoordinatorMachine"],
    ),
    Chart(
        "ParticipantMachine",
        "A flight, at a participant",
        "One machine for each proposal that this node holds and that is not applied yet, its own included "
        "(`txvbcast/core/flights.py`). The payload of every mode is held; the resource managers are asked only about "
        "the voted modes, and only while this node is normal or leaving. What they prepared ends in exactly one "
        "commit or abort.",
        ParticipantMachine,
        ParticipantInputs,
        ("held", "preparing", "voted", "over"),
        FORBIDDEN["ParticipantMachine"],
    ),
    Chart(
        "MastershipMachine",
        "The office of master",
        "A node's own part in who is master (`txvbcast/core/mastership.py`). When to suspect, to claim and to hand "
        "over is worked out in `txvbcast/core/succession.py`; nothing about the time of it matters for safety. From "
        "starting on the node orders flights; that anything is committed, and that standings are ordered and "
        "linearizable reads are answered, waits until it is master.",
        MastershipMachine,
        MastershipInputs,
        ("follower", "probing", "claiming", "starting", "master", "handing_over"),
        FORBIDDEN["MastershipMachine"],
    ),
)

# --- the page ----------------------------------------------------------------------------

_HEAD = """\
# The state machines

<!-- Generated from txvbcast/core/charts.py: TXVBCAST_REWRITE_DOCS=1 python -m twisted.trial tests.test_core_charts -->

What a node does is decided by five small state machines. Each has a table below that says, for every input in every
state, one of four things:

- **→ state** `on_something`: the machine goes to that state and calls that function.
- `on_something`: the function is called and the state stays.
- ignored: the input is expected there and changes nothing, by rule.
- never (n): the input cannot come there, for the reason given under that number. One that comes all the same is a
  defect: the node stops rather than guess.

An input whose name begins with `_` is sent by the machine to itself. The diagrams show only what leads to another
state.
"""
_LINE_CHARS_MAX = 120


def page() -> str:
    """The whole of ``docs/states.md``."""
    return "\n".join([_HEAD, *(_section(chart) for chart in CHARTS)])


def _section(chart: Chart) -> str:
    cells = {(cell.state, cell.input): cell for cell in chart.cells}
    meanings = _table(("input", "what happened"), ((f"`{name}`", text) for name, text in chart.inputs.items()))
    heads = ("input", *(f"`{state}`" for state in chart.states))
    rows = ((f"`{name}`", *(_text(cells[state, name]) for state in chart.states)) for name in chart.inputs)
    reasons = (_wrapped(f"{number}. {never.why}", "   ") for number, never in enumerate(chart.never, 1))
    parts = [
        f"## {chart.title}",
        _wrapped(f"`{chart.name}`. {chart.introduction}"),
        meanings,
        _table(heads, rows),
        "\n".join(reasons),
        _diagram(chart),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, _LINE_CHARS_MAX, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _text(cell: Cell) -> str:
    if cell.decision is Decision.FORBIDDEN:
        return f"never ({cell.never})"
    if cell.decision is Decision.IGNORED:
        return "ignored"
    behaviour = f"`{cell.behaviour}`" if cell.behaviour else ""
    return behaviour if cell.to == cell.state else f"**→ {cell.to}** {behaviour}".strip()


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _diagram(chart: Chart) -> str:
    leading = {(cell.state, cell.input): cell.to for cell in chart.transitions if cell.to != cell.state}
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {chart.first_state}"]
    for state in chart.states:
        for to in chart.states:
            names = [name for name in chart.inputs if leading.get((state, name)) == to]
            if names:
                lines.append(f"    {state} --> {to} : {', '.join(names)}")
    return "\n".join([*lines, "```"])
