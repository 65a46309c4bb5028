"""A run as a space-time diagram: a lane per node, time downwards, messages as arrows.

Time is stretched where much happens and squeezed where nothing does, so that a flight of two
milliseconds can be read next to an absence of two seconds; the left margin says what time it is.
"""

from __future__ import annotations

import math
import textwrap
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import attrs

from txvbcast.core import epochs
from txvbcast.sim.svg import Drawing, shortened, width_of
from txvbcast.sim.trace import STANDINGS, Happening, Passage, Phase, Trace
from txvbcast.sim.wording import message_text, short_text
from txvbcast.wire import messages

#: So many messages are drawn at most, so many lines of text and so many small marks: the latest.
ARROWS_MAX, ROWS_MAX, MARKS_MAX = 500, 300, 1000

#: A moment's height: by its length, within these bounds.
_PX_PER_S, _GAP_MIN, _GAP_MAX = 1200.0, 4.0, 40.0
_ROW = 14.0
_LANE, _OFFICE, _STOPPED = 12.0, 20.0, 30.0
_TIME_WIDTH, _EDGE, _TEXT_WIDTH = 86.0, 34.0, 470.0

#: A node's own state, in the order of an absence.
OWN = {
    "normal": "#7cbf7c",
    "leaving": "#f4a95c",
    "inactive": "#b4b9bf",
    "returning": "#f2d14e",
    "catching_up": "#74abdf",
}  # fmt: skip
#: What stands around a lane for a role.
OFFICES = {
    "master": "#27335e",
    "starting": "#8794cf",
    "handing_over": "#8794cf",
    "claiming": "#e79ac0",
    "probing": "#f6d5e4",
}
#: The stripe beside a lane: another colour for another epoch.
EPOCHS = ("#0b7a75", "#c8553d", "#6a4c93", "#e0a100", "#1982c4", "#8a5a44", "#7b9e00")
#: Families of messages: colour, and the beginning and end of their opcodes.
FAMILIES = {
    "flights": ("#2b8a4b", range(10, 13)),
    "log": ("#1f5fbf", range(13, 16)),
    "release": ("#777f88", range(16, 30)),
    "masters": ("#9036b5", range(30, 37)),
    "fetching": ("#8a5a2b", range(37, 40)),
    "moves": ("#9036b5", range(40, 50)),
    "absence": ("#d96b0b", range(50, 60)),
    "heartbeats": ("#b9bec4", range(60, 62)),
    "reads": ("#3c8c99", range(62, 70)),
}
_FAMILY_OF = {
    type_: name
    for opcode, type_ in messages.OPCODES.items()
    for name, (_, codes) in FAMILIES.items()
    if opcode in codes
}
#: What is said in a row of its own, besides the first of those who see a member's standing.
_TOLD = ("fault", "cut", "life", "death", "frozen", "thawed", "own_standing", "mastership", "quorum_lost")
#: What is a small mark at a lane, and on which side.
_MARKED = ("applied", "submitted", "answered", "read")

_STYLE = """
svg { background: #fff; font-family: "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; fill: #22262b; }
.title { font-size: 18px; font-weight: bold; } .note { font-size: 11px; fill: #505963; }
.legend { font-size: 10.5px; } .head { font-size: 13px; font-weight: bold; text-anchor: middle; }
.time { font-size: 9.5px; text-anchor: end; fill: #6b747d; } .grid { stroke: #eceff2; }
.row { font-size: 10.5px; } .fault { fill: #b3261e; font-weight: bold; } .world { fill: #b3261e; }
.lead { stroke: #c9ced4; stroke-width: .7; stroke-dasharray: 1 3; }
.cut { fill: #b3261e; fill-opacity: .07; } .dead { stroke: #9aa2aa; stroke-width: 1.5; stroke-dasharray: 2 4; }
.stopped { fill: url(#hatch); stroke: #7d8791; stroke-width: .6; } .lane { stroke: #fff; stroke-width: .5; }
.id { font-size: 9px; font-weight: bold; text-anchor: middle; fill: #22262b; }
.crash { stroke: #b3261e; stroke-width: 2.4; fill: none; } .birth { fill: #fff; stroke: #22262b; stroke-width: 1.6; }
.seq { font-size: 8.5px; text-anchor: end; paint-order: stroke; stroke: #fff; stroke-width: 2px; }
.applied { fill: #22262b; }
.submitted { fill: #22262b; } .committed { fill: #2b8a4b; } .refused { fill: #b3261e; } .unknown { fill: #d99a00; }
.read { fill: #3c8c99; }
.epoch { font-size: 9px; font-weight: bold; }
.label { font-size: 9px; text-anchor: middle; paint-order: stroke; stroke: #fff; stroke-width: 2.5px;
  stroke-opacity: .85; pointer-events: none; }
.hit { stroke: transparent; stroke-width: 7; } .link { stroke-width: 1.3; } .datagram { stroke-width: .7; }
.waiting { stroke-dasharray: 4 3; } g:hover > .way { stroke-width: 2.6; } .cross { stroke-width: 1.6; fill: none; }
.violation { stroke: #b3261e; stroke-width: 2.5; } .box { fill: #fdeceb; stroke: #b3261e; }
.what { font-size: 11.5px; fill: #7a1712; } .what-title { font-size: 13px; font-weight: bold; fill: #b3261e; }
"""


def draw(trace: Trace, title: str, notes: Sequence[str] = (), violation: str = "") -> str:
    """The run in ``trace`` as an SVG document, once it has ended.

    :param notes: lines below the title; violation: what does not hold, if it was at the end of the trace.
    """
    return _Diagram(trace, violation).draw(title, notes)


class _Scale:
    """Where on the page a time is."""

    def __init__(self, rows: Counter[float], top: float) -> None:
        """:param rows: the moments of interest, and how many rows of text each needs."""
        self._times = sorted(rows)
        self._ys: list[float] = []
        y, free = top, top
        for at_s, before_s in zip(self._times, [self._times[0], *self._times], strict=False):
            y += min(_GAP_MAX, max(_GAP_MIN, (at_s - before_s) * _PX_PER_S))
            if rows[at_s]:
                y = max(y, free)
                free = y + rows[at_s] * _ROW
            self._ys.append(y)
        self.bottom = max(y, free) + _GAP_MAX / 2

    def y(self, at_s: float) -> float:
        """A time before the first moment is at the top, one after the last at the bottom."""
        place = bisect_left(self._times, at_s)
        if place == len(self._times):
            return self.bottom
        if place == 0 or self._times[place] == at_s:
            return self._ys[place]
        (before_s, after_s), (above, below) = self._times[place - 1 : place + 1], self._ys[place - 1 : place + 1]
        return above + (below - above) * (at_s - before_s) / (after_s - before_s)

    def moments(self) -> Iterator[tuple[float, float]]:
        """Times of interest and where they are, from the top on."""
        return zip(self._times, self._ys, strict=True)


class _Places:
    """Where text stands already."""

    _CELL = 16.0

    def __init__(self) -> None:
        self._boxes: dict[int, list[tuple[float, float, float, float]]] = defaultdict(list)

    def take(self, x1: float, y1: float, x2: float, y2: float) -> bool:
        """Occupy a box, unless something is there."""
        cells = range(int(y1 // self._CELL), int(y2 // self._CELL) + 1)
        for cell in cells:
            if any(x1 < right and left < x2 and y1 < low and high < y2 for left, high, right, low in self._boxes[cell]):
                return False
        for cell in cells:
            self._boxes[cell].append((x1, y1, x2, y2))
        return True


@attrs.frozen
class _Part:
    """What of a trace is drawn: all of it, or the latest that is not too much to look at.

    :ivar omitted: whether something was left out before ``from_s``.
    """

    from_s: float
    to_s: float
    omitted: bool
    passages: Sequence[Passage]
    rows: Sequence[Happening]
    marks: Sequence[Happening]

    @classmethod
    def of(cls, trace: Trace) -> _Part:
        rows = list(_rows(trace.happenings))
        marks = [each for each in trace.happenings if each.kind in _MARKED and each.node_id]
        from_s = max(
            trace.from_s,
            _latest_s([each.sent_s for each in trace.passages], ARROWS_MAX),
            _latest_s([each.at_s for each in rows], ROWS_MAX),
            _latest_s([each.at_s for each in marks], MARKS_MAX),
        )
        return cls(
            from_s,
            min(trace.to_s, trace.world.clock.seconds()),
            from_s > trace.from_s,
            [each for each in trace.passages if each.sent_s >= from_s],
            [each for each in rows if each.at_s >= from_s],
            [each for each in marks if each.at_s >= from_s],
        )


def _latest_s(times: Iterable[float], count: int) -> float:
    """From when on no more than ``count`` of these are left."""
    ordered = sorted(times)
    return math.nextafter(ordered[-count - 1], math.inf) if len(ordered) > count else 0.0


def _rows(happenings: Iterable[Happening]) -> Iterator[Happening]:
    """What is said in words; of those who see the same standing of a member only the first."""
    seen: dict[int, str] = {}
    for each in happenings:
        if each.kind in STANDINGS:
            if seen.get(each.about) != each.kind:
                seen[each.about] = each.kind
                yield each
        elif each.kind in _TOLD:
            yield each


class _Diagram:
    """The picture while it is drawn."""

    def __init__(self, trace: Trace, violation: str) -> None:
        self.trace = trace
        self.part = _Part.of(trace)
        self.violation = violation if trace.to_s >= trace.world.clock.seconds() else ""
        self.nodes = list(trace.world.nodes)
        self.spacing = max(102.0, 132.0 - 5.0 * len(self.nodes))
        self.words_x = self.x(self.nodes[-1]) + _EDGE + 6.0
        self.width = self.words_x + _TEXT_WIDTH
        self.drawing = Drawing()
        self.places = _Places()

    def x(self, node_id: int) -> float:
        """The middle of a node's lane."""
        return _TIME_WIDTH + _EDGE + self.nodes.index(node_id) * self.spacing

    def draw(self, title: str, notes: Sequence[str]) -> str:
        """All of it, from the back to the front."""
        top = self.draw_head(title, notes)
        self.scale = _Scale(self._moments(), top)
        self.draw_cuts()
        self.draw_times()
        self.draw_rows()
        for node_id in self.nodes:
            self.draw_lane(node_id)
        for passage in self.part.passages:
            self.draw_passage(passage)
        for mark in self.part.marks:
            self.draw_mark(mark)
        for passage in self.part.passages:
            self.draw_label(passage)
        for node_id in self.nodes:
            self.draw_ids(node_id)
        bottom = self.draw_violation()
        return self.drawing.document(self.width, bottom, title, _STYLE + _colours(), _definitions())

    def _moments(self) -> Counter[float]:
        """When anything happens, and how many rows of text that takes."""
        part = self.part
        rows = Counter({part.from_s: 0, part.to_s: 0})
        rows.update(each.at_s for each in part.rows)
        times = [each.at_s for each in part.marks]
        for passage in part.passages:
            times += [passage.sent_s, passage.sent_s if passage.received_s is None else passage.received_s]
        times += [phase.at_s for phases in self.trace.phases.values() for phase in phases]
        times += [at_s for at_s, _ in self.trace.cuts]
        for at_s in times:
            if part.from_s <= at_s <= part.to_s:
                rows[at_s] += 0
        return rows

    # --- around the lanes -----------------------------------------------------------------

    def draw_head(self, title: str, notes: Sequence[str]) -> float:
        """Title, notes, legend and the nodes' names; where the lanes begin."""
        drawing, part = self.drawing, self.part
        drawing.text("title", 16.0, 28.0, title)
        said = [*notes, f"from {part.from_s:.4f} s to {part.to_s:.4f} s; time is stretched where much happens"]
        if part.omitted:
            said.append(f"earlier events are left out: more than {ARROWS_MAX} messages or {ROWS_MAX} lines")
        y = 46.0
        for line in said:
            for piece in textwrap.wrap(line, int((self.width - 32.0) / 6.0)):
                drawing.text("note", 16.0, y, piece)
                y += 15.0
        y = _Legend(drawing, self.width).draw(y + 6.0, {_FAMILY_OF[type(each.message)] for each in part.passages})
        for node_id in self.nodes:
            drawing.text("head", self.x(node_id), y + 22.0, f"node {node_id}")
        return y + 40.0

    def draw_cuts(self) -> None:
        """A band across all lanes while some nodes cannot reach others."""
        ends = [at_s for at_s, _ in self.trace.cuts][1:] + [self.part.to_s]
        for (from_s, cut), to_s in zip(self.trace.cuts, ends, strict=True):
            if cut and to_s > self.part.from_s:
                y1, y2 = self.scale.y(from_s), self.scale.y(to_s)
                pairs = ", ".join(f"{one} to {other}" for one, other in sorted(cut))
                x1 = self.x(self.nodes[0]) - _EDGE
                self.drawing.rect("cut", x1, y1, self.words_x - 8.0 - x1, y2 - y1, f"nothing passes from {pairs}")

    def draw_times(self) -> None:
        """What time it is, wherever there is room to say so."""
        free = 0.0
        for at_s, y in self.scale.moments():
            if y >= free:
                self.drawing.text("time", _TIME_WIDTH - 8.0, y + 3.0, f"{at_s:.4f}")
                self.drawing.line("grid", (_TIME_WIDTH, y, self.words_x - 8.0, y))
                free = y + 26.0

    def draw_rows(self) -> None:
        """What is said in words, to the right of the lanes."""
        taken = Counter[float]()
        for row in self.part.rows:
            y = self.scale.y(row.at_s)
            row_y = y + taken[row.at_s] * _ROW
            taken[row.at_s] += 1
            from_x = self.x(row.node_id) if row.node_id else self.x(self.nodes[0]) - _EDGE
            self.drawing.line("lead", (from_x, y, self.words_x - 4.0, row_y))
            text = f"{row.node_id} {row.text}" if row.node_id else row.text
            name = "row" if row.node_id else f"row {'fault' if row.kind == 'fault' else 'world'}"
            shown = shortened(text, _TEXT_WIDTH - 10.0, 10.5)
            self.drawing.text(name, self.words_x, row_y + 3.5, shown, f"{row.at_s:.6f} s: {text}")

    def draw_violation(self) -> float:
        """What does not hold, where the run ended; the lower end of the picture."""
        y = self.scale.bottom
        if not self.violation:
            return y + 20.0
        self.drawing.line("violation", (_TIME_WIDTH, y, self.width - 12.0, y))
        letters = int((self.width - 64.0) / 6.4)
        lines = [piece for line in self.violation.splitlines() for piece in textwrap.wrap(line, letters) or [""]]
        shown = lines if len(lines) <= 16 else [*lines[:16], f"{len(lines) - 16} lines more"]
        self.drawing.rect("box", 16.0, y + 12.0, self.width - 32.0, 34.0 + 16.0 * len(shown))
        self.drawing.text("what-title", 28.0, y + 32.0, "Violation")
        for number, line in enumerate(shown):
            self.drawing.text("what", 28.0, y + 50.0 + 16.0 * number, line)
        return y + 66.0 + 16.0 * len(shown)

    # --- lanes ------------------------------------------------------------------------------

    def _spans(self, node_id: int) -> Iterator[tuple[Phase, float, float]]:
        """A node's phases in the picture, from where to where."""
        phases = list(self.trace.phases.get(node_id, ()))
        for phase, to_s in zip(phases, [*(each.at_s for each in phases[1:]), self.part.to_s], strict=True):
            if to_s >= self.part.from_s:
                yield phase, self.scale.y(phase.at_s), self.scale.y(to_s)

    def draw_lane(self, node_id: int) -> None:
        """How a node was all the time."""
        self.drawing.begin("node", f"node {node_id}")
        spans = list(self._spans(node_id))
        for phase, y1, y2 in spans:
            self.draw_phase(self.x(node_id), phase, y1, y2)
        for (before, _, _), (after, y, _) in pairwise(spans):
            self.draw_change(self.x(node_id), before, after, y)
        self.drawing.end()

    def draw_phase(self, x: float, phase: Phase, y1: float, y2: float) -> None:
        """As long as nothing about a node changes."""
        if not phase.life:
            self.drawing.line("dead", (x, y1, x, y2), "does not run")
            return
        told = f"{phase.own}, {phase.role}, life {phase.life}, epoch {epochs.text(phase.epoch)}"
        told += ", stopped" if phase.frozen else ""
        if phase.frozen:
            self.drawing.rect("stopped", x - _STOPPED / 2, y1, _STOPPED, y2 - y1, told)
        if phase.role in OFFICES:
            self.drawing.rect("office", x - _OFFICE / 2, y1, _OFFICE, y2 - y1, told, OFFICES[phase.role])
        self.drawing.rect("lane", x - _LANE / 2, y1, _LANE, y2 - y1, told, OWN[phase.own])
        if phase.epoch:
            self.drawing.rect("stripe", x + _OFFICE / 2 + 1.0, y1, 3.0, y2 - y1, told, _epoch_colour(phase.epoch))

    def draw_change(self, x: float, before: Phase, after: Phase, y: float) -> None:
        """A death, a new life, another epoch."""
        if before.life and not after.life:
            for dx in (-6.0, 6.0):
                self.drawing.line("crash", (x - dx, y - 6.0, x + dx, y + 6.0), "killed")
        elif after.life != before.life:
            self.drawing.circle("birth", x, y, 5.0, f"life {after.life}")
        if after.life and after.epoch != before.epoch:
            text = epochs.text(after.epoch)
            x1 = x + _OFFICE / 2 + 6.0
            if self.places.take(x1, y, x1 + width_of(text, 9.0), y + 10.0):
                self.drawing.text("epoch", x1, y + 9.0, text, f"follows the log of epoch {text}")

    def draw_ids(self, node_id: int) -> None:
        """Whose lane it is, now and then."""
        y = self.scale.y(self.part.from_s) + 120.0
        while y < self.scale.bottom:
            self.drawing.text("id", self.x(node_id), y, str(node_id))
            y += 240.0

    def draw_mark(self, mark: Happening) -> None:
        """An entry that takes effect, or a client's coming and going."""
        x, y = self.x(mark.node_id), self.scale.y(mark.at_s)
        told = f"{mark.at_s:.6f} s: node {mark.node_id}: {mark.text}"
        edge = x - _OFFICE / 2
        if mark.kind == "applied":
            self.drawing.circle("applied", x, y, 2.4, told)
            width = width_of(mark.label, 8.5)
            if self.places.take(edge - 3.0 - width, y - 8.0, edge - 3.0, y + 1.0):
                self.drawing.text("seq", edge - 3.0, y + 0.5, mark.label, told)
        elif mark.kind == "submitted":
            points = [(edge - 8.0, y - 3.5), (edge - 1.0, y), (edge - 8.0, y + 3.5)]
            self.drawing.path("submitted", points, True, told)
        else:
            points = [(edge - 1.0, y - 3.5), (edge - 8.0, y), (edge - 1.0, y + 3.5)]
            self.drawing.path(_ANSWERS.get(mark.label, "unknown"), points, True, told)

    # --- messages -----------------------------------------------------------------------------

    def _ends(self, passage: Passage) -> tuple[float, float, float, float]:
        """Where a message begins and ends; a lost one ends before its receiver."""
        way = 1 if self.x(passage.to) > self.x(passage.sender) else -1
        edge = way * (_OFFICE / 2 + 1.0)
        x1, x2, y1 = self.x(passage.sender) + edge, self.x(passage.to) - edge, self.scale.y(passage.sent_s)
        if passage.received_s is not None:
            return x1, y1, x2, self.scale.y(passage.received_s)
        return x1, y1, x2 - way * 0.25 * self.spacing, y1 + 10.0

    def draw_passage(self, passage: Passage) -> None:
        """A message from where it was sent to where it was received, or to nowhere."""
        ends = self._ends(passage)
        _, _, x2, y2 = ends
        family = _FAMILY_OF[type(passage.message)]
        sent = f"{passage.sender} to {passage.to}: {message_text(passage.message)}\nsent at {passage.sent_s:.6f} s"
        way = f"way {'link' if passage.by_link else 'datagram'} f-{family}"
        if passage.received_s is not None:
            self.drawing.begin("message arrived", f"{sent}, received at {passage.received_s:.6f} s")
            shown = passage.received_s <= self.part.to_s
            self._draw_way(way if shown else f"{way} waiting", ends, f"a-{family}" if shown else "")
        elif self.trace.lost(passage):
            self.drawing.begin("message lost", f"{sent}, lost")
            self._draw_way(way, ends)
            self.drawing.path(f"cross f-{family}", [(x2 - 3.5, y2 - 3.5), (x2 + 3.5, y2 + 3.5)])
            self.drawing.path(f"cross f-{family}", [(x2 - 3.5, y2 + 3.5), (x2 + 3.5, y2 - 3.5)])
        else:
            self.drawing.begin("message on-its-way", f"{sent}, on its way when the run ended")
            self._draw_way(f"{way} waiting", ends)
        self.drawing.end()

    def _draw_way(self, name: str, ends: tuple[float, float, float, float], arrow: str = "") -> None:
        self.drawing.line("hit", ends)
        self.drawing.line(name, ends, arrow=arrow)

    def draw_label(self, passage: Passage) -> None:
        """A message's name, in the first gap between lanes that has room for it."""
        x1, y1, x2, y2 = self._ends(passage)
        text = short_text(passage.message)
        half = width_of(text, 9.0) / 2
        first, last = self.nodes.index(passage.sender), self.nodes.index(passage.to)
        step = 1 if last > first else -1
        for place in range(first, last, step):
            x = self.x(self.nodes[place]) + step * self.spacing / 2
            part = (x - x1) / (x2 - x1)
            if part > 1.0 or half > (self.spacing - _OFFICE) / 2 - 4.0:
                return
            for y in (y1 + (y2 - y1) * part - 2.0, y1 + (y2 - y1) * part + 9.0):
                if self.places.take(x - half, y - 8.0, x + half, y + 1.0):
                    self.drawing.text(f"label l-{_FAMILY_OF[type(passage.message)]}", x, y, text)
                    return


#: The class of a mark by what the client heard.
_ANSWERS = {
    "committed": "committed",
    "Aborted": "refused",
    "NoQuorum": "refused",
    "Overloaded": "refused",
    "served": "read",
    "failed": "refused",
}


def _epoch_colour(epoch: int) -> str:
    return EPOCHS[epochs.number_of(epoch) % len(EPOCHS)]


def _colours() -> str:
    """The style of each family of messages."""
    return "\n".join(
        f".f-{name} {{ stroke: {colour}; }} .l-{name} {{ fill: {colour}; }}" for name, (colour, _) in FAMILIES.items()
    )


def _definitions() -> str:
    """Arrowheads, and the hatching of a stopped process."""
    heads = "".join(
        f'<marker id="a-{name}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M 0 .6 L 8 4 L 0 7.4 Z" fill="{colour}"/></marker>'
        for name, (colour, _) in FAMILIES.items()
    )
    hatch = '<rect width="6" height="6" fill="#eef1f4"/><line y2="6" stroke="#9aa4ae" stroke-width="2.4"/>'
    return (
        f'{heads}<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)">{hatch}</pattern>'
    )


#: Draws a sample at the left end of a line of text.
_Show = Callable[[float, float], None]


class _Legend:
    """What shapes and colours mean, in as many lines as it takes."""

    def __init__(self, drawing: Drawing, width: float) -> None:
        self._drawing = drawing
        self._right = width - 16.0

    def draw(self, y: float, families: set[str]) -> float:
        """All of it; its lower end."""
        for items in (self._lanes(), self._offices(), self._ways(families), self._marks()):
            y = self._row(y, items)
        return y

    def _lanes(self) -> list[tuple[str, _Show]]:
        return [
            *((state.replace("_", " "), self._box("lane", 4.0, 12.0, colour)) for state, colour in OWN.items()),
            ("stopped", self._box("stopped", 0.0, 20.0)),
            ("does not run", self._line("dead")),
        ]

    def _offices(self) -> list[tuple[str, _Show]]:
        return [
            *((role.replace("_", " "), self._box("office", 0.0, 20.0, colour)) for role, colour in OFFICES.items()),
            ("epoch followed", self._box("stripe", 8.0, 3.0, EPOCHS[0])),
            ("nodes cut off from each other", self._box("cut", 0.0, 20.0)),
        ]

    def _ways(self, families: set[str]) -> list[tuple[str, _Show]]:
        return [
            *((name, self._line(f"way link f-{name}", f"a-{name}")) for name in FAMILIES if name in families),
            ("datagram", self._line("way datagram f-heartbeats")),
        ]

    def _marks(self) -> list[tuple[str, _Show]]:
        return [
            ("lost", self._cross),
            ("applies an entry (its seq)", self._dot),
            ("a client hands in", self._triangle("submitted", 1)),
            ("hears committed", self._triangle("committed", -1)),
            ("hears aborted, or not at all begun", self._triangle("refused", -1)),
            ("hears that the outcome is unknown", self._triangle("unknown", -1)),
            ("a read is answered", self._triangle("read", -1)),
        ]

    def _row(self, y: float, items: Sequence[tuple[str, _Show]]) -> float:
        x = 16.0
        for text, show in items:
            width = 28.0 + width_of(text, 10.5) + 14.0
            if x + width > self._right:
                x, y = 16.0, y + 17.0
            show(x, y + 7.0)
            self._drawing.text("legend", x + 27.0, y + 10.5, text)
            x += width
        return y + 17.0

    def _box(self, name: str, left: float, width: float, fill: str = "") -> _Show:
        return lambda x, y: self._drawing.rect(name, x + left, y - 6.0, width, 12.0, fill=fill)

    def _line(self, name: str, arrow: str = "") -> _Show:
        return lambda x, y: self._drawing.line(name, (x, y, x + 20.0, y), arrow=arrow)

    def _triangle(self, name: str, way: int) -> _Show:
        left, right = (6.5, 13.5) if way > 0 else (13.5, 6.5)
        return lambda x, y: self._drawing.path(
            name, [(x + left, y - 3.5), (x + right, y), (x + left, y + 3.5)], closed=True
        )

    def _dot(self, x: float, y: float) -> None:
        self._drawing.circle("applied", x + 10.0, y, 2.4)

    def _cross(self, x: float, y: float) -> None:
        for way in (-3.5, 3.5):
            self._drawing.path("cross f-log", [(x + 10.0 - way, y - 3.5), (x + 10.0 + way, y + 3.5)])
