"""The little of SVG that a diagram needs: shapes with a class and a tooltip, as text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape

#: What XML 1.0 cannot hold, not even escaped.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
#: The width of a letter of the sans-serif font, in units of its size: a little more than the average.
_LETTER = 0.56


def plain(text: str) -> str:
    """``text`` as it may stand in an element or an attribute."""
    return escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text), {'"': "&quot;"})


def width_of(text: str, size: float) -> float:
    """About how wide a text is."""
    return len(text) * size * _LETTER


def shortened(text: str, width: float, size: float) -> str:
    """The beginning of ``text`` that fits; what is left out is three dots."""
    fitting = int(width / (size * _LETTER))
    return text if len(text) <= fitting else f"{text[: max(0, fitting - 1)]}\N{HORIZONTAL ELLIPSIS}"


class Drawing:
    """Elements one after the other; the later ones cover the earlier ones."""

    def __init__(self) -> None:
        self._elements: list[str] = []

    def line(self, name: str, ends: tuple[float, float, float, float], title: str = "", arrow: str = "") -> None:
        """A straight line; ``arrow``: the id of the marker at its second end."""
        x1, y1, x2, y2 = ends
        marker = f' marker-end="url(#{arrow})"' if arrow else ""
        self._add("line", name, f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{marker}', title)

    def rect(self, name: str, x: float, y: float, width: float, height: float, title: str = "", fill: str = "") -> None:
        """A rectangle by its upper left corner; ``fill`` instead of what the class says."""
        style = f' style="fill:{fill}"' if fill else ""
        place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(0.0, height):.1f}"'
        self._add("rect", name, place + style, title)

    def path(self, name: str, points: Iterable[tuple[float, float]], closed: bool = False, title: str = "") -> None:
        """Straight lines from point to point."""
        steps = " L ".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._add("path", name, f'd="M {steps}{" Z" if closed else ""}"', title)

    def circle(self, name: str, x: float, y: float, radius: float, title: str = "") -> None:
        """A circle."""
        self._add("circle", name, f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"', title)

    def text(self, name: str, x: float, y: float, text: str, title: str = "") -> None:
        """A line of text; ``y``: where it stands."""
        tooltip = f"<title>{plain(title)}</title>" if title else ""
        self._elements.append(f'<text class="{name}" x="{x:.1f}" y="{y:.1f}">{tooltip}{plain(text)}</text>')

    def begin(self, name: str, title: str = "") -> None:
        """What follows belongs together, until :meth:`end`."""
        tooltip = f"<title>{plain(title)}</title>" if title else ""
        self._elements.append(f'<g class="{name}">{tooltip}')

    def end(self) -> None:
        """The end of what belongs together."""
        self._elements.append("</g>")

    def _add(self, kind: str, name: str, attributes: str, title: str) -> None:
        body = f"><title>{plain(title)}</title></{kind}>" if title else "/>"
        self._elements.append(f'<{kind} class="{name}" {attributes}{body}')

    def document(self, width: float, height: float, title: str, style: str, definitions: str) -> str:
        """The whole picture."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}">'
        )
        parts = [head, f"<title>{plain(title)}</title>", f"<style>{style}</style>", f"<defs>{definitions}</defs>"]
        return "\n".join([*parts, *self._elements, "</svg>", ""])
