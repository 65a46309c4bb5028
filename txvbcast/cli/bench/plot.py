"""The figures of a run as a picture: one panel for each setting, one line for each way of submitting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

import attrs

from txvbcast.cli.bench.measuring import Measured
from txvbcast.cli.bench.report import WAY_TITLES, Case, by_way, cases

#: Distinct also for the colour-blind (the palette of Okabe and Ito), and each with a mark of its own.
COLOURS = {"client": "#0072b2", "HTTP": "#56b4e9", "etcd": "#d55e00", "nats": "#009e73"}
_PANEL_WIDTH, _PANEL_HEIGHT = 440.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 86.0, 100.0, 44.0, 46.0
_COLUMNS = 2
_HEAD, _FOOT = 76.0, 30.0
#: Between the names at the ends of the lines.
_LABEL_STEP = 14.0
_STYLE = """
text { font: 12px sans-serif; fill: #222 }
.title { font-size: 16px; font-weight: bold } .panel { font-weight: bold } .small { font-size: 11px; fill: #555 }
.grid { stroke: #ddd; stroke-width: 1 } .axis { stroke: #555; stroke-width: 1 }
.end { text-anchor: end } .middle { text-anchor: middle }
polyline { fill: none; stroke-width: 2 }
"""


@attrs.frozen
class Axis:
    """A logarithmic scale: ``low`` to ``high``, drawn from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Where a value is drawn."""
        if self.high == self.low:
            return (self.start + self.end) / 2
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def rates_picture(found: Sequence[Measured], conditions: Mapping[str, Any]) -> str:
    """An SVG of committed transactions per second against transactions under way, both on logarithmic scales."""
    panels: dict[Case, list[Case]] = {}
    for case in cases(found):
        panels.setdefault(attrs.evolve(case, outstanding=0), []).append(case)
    columns = min(_COLUMNS, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    width, height = max(600.0, columns * _PANEL_WIDTH), _HEAD + rows * _PANEL_HEIGHT + _FOOT
    size = f'width="{width:.0f}" height="{height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width:.0f} {height:.0f}">',
        "<title>Committed transactions per second</title>",
        f"<style>{_STYLE}</style>",
        f'<rect {size} fill="#fff"/>',
        _text(16, 26, "Committed transactions per second, by transactions under way", "title"),
        *(_text(16, 46 + 16 * place, line, "small") for place, line in enumerate(_subtitles(conditions))),
    ]
    for place, (setting, panel_cases) in enumerate(panels.items()):
        x, y = place % columns * _PANEL_WIDTH, _HEAD + place // columns * _PANEL_HEIGHT
        parts.append(f'<g transform="translate({x:.0f} {y:.0f})">')
        parts += _panel(setting, {case: by_way(found, case) for case in panel_cases})
        parts.append("</g>")
    foot = "Logarithmic scales. Point at a mark for its figures."
    return "\n".join([*parts, _text(16, height - 12, foot, "small"), "</svg>", ""])


def _subtitles(conditions: Mapping[str, Any]) -> list[str]:
    machine = "{cores} cores ({processor}), {kernel}, Python {python}; nodes and clients on one machine"
    peers = "; ".join(conditions["peers"].values())
    return [machine.format(**conditions), f"txvbcast {conditions['txvbcast']}{f'; {peers}' if peers else ''}"]


def _panel(setting: Case, measured: Mapping[Case, Mapping[str, Measured]]) -> list[str]:
    rates = [each.committed_per_s for ways in measured.values() for each in ways.values() if each.committed_per_s > 0]
    nodes = f"{setting.nodes} nodes, " if setting.nodes else ""
    title = f"{nodes}{setting.mode}, {setting.payload_bytes} bytes, via {setting.via}"
    parts = [_text(_LEFT, 20, title, "panel")]
    if not rates:
        return [*parts, _text(_LEFT, 60, "nothing was committed", "small")]
    outstanding = [case.outstanding for case in measured]
    x = Axis(min(outstanding), max(outstanding), _LEFT, _PANEL_WIDTH - _RIGHT)
    low, high = 10.0 ** math.floor(math.log10(min(rates))), 10.0 ** math.ceil(math.log10(max(rates)))
    y = Axis(low, high if high > low else low * 10, _PANEL_HEIGHT - _BOTTOM, _TOP)
    parts += _axes(x, y, outstanding)
    ends: list[tuple[float, str]] = []
    for way in dict.fromkeys(way for ways in measured.values() for way in ways):
        points = [
            (x.place(case.outstanding), y.place(ways[way].committed_per_s), ways[way])
            for case, ways in measured.items()
            if way in ways and ways[way].committed_per_s > 0
        ]
        parts += _line(way, points)
        if points:
            ends.append((points[-1][1], way))
    return parts + _labels(ends)


def _axes(x: Axis, y: Axis, outstanding: Sequence[int]) -> list[str]:
    parts = []
    rate = y.low
    while rate <= y.high * 1.001:
        height = y.place(rate)
        parts.append(_ruler("grid", x.start, height, x.end, height))
        parts.append(_text(x.start - 8, height + 4, f"{rate:,.0f}", "end"))
        rate *= 10
    for number in sorted(set(outstanding)):
        parts.append(_ruler("grid", x.place(number), y.start, x.place(number), y.end))
        parts.append(_text(x.place(number), y.start + 18, f"{number:,}", "middle"))
    parts.append(_ruler("axis", x.start, y.start, x.end, y.start))
    parts.append(_text((x.start + x.end) / 2, y.start + 36, "transactions under way", "small middle"))
    return parts


def _line(way: str, points: Sequence[tuple[float, float, Measured]]) -> list[str]:
    colour = COLOURS[way]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    parts = [f'<polyline points="{path}" stroke="{colour}"/>']
    for x, y, measured in points:
        told = (
            f"{WAY_TITLES[way]}: {measured.committed_per_s:,.0f}/s with {measured.point.outstanding} under way; "
            f"p50 {measured.p50_ms} ms, p99 {measured.p99_ms} ms; {measured.cores_used:.2f} cores"
        )
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(told)}</title></circle>')
    return parts


def _labels(ends: Sequence[tuple[float, str]]) -> list[str]:
    """The names of the lines, at their ends, pushed apart where they would cover each other."""
    parts, last = [], -math.inf
    for height, way in sorted(ends):
        last = max(height, last + _LABEL_STEP)
        text = f'<text x="{_PANEL_WIDTH - _RIGHT + 10:.1f}" y="{last + 4:.1f}" style="fill:{COLOURS[way]}">'
        parts.append(f"{text}{escape(WAY_TITLES[way])}</text>")
    return parts


def _ruler(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, name: str) -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
