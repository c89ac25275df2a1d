"""Charts as inline SVG: curves and bars in the page's own colours, with their numbers in words for who sees neither."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from lora_cli.core.text import safe
from lora_cli.render.html.markup import Markup, joined, tag
from lora_cli.render.html.page import wide

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40
DASHES = ("", "8 4", "2 3", "10 3 2 3", "14 4", "4 6", "1 5", "12 2 2 2")
"""Curves differ in their dashes too, so that they are told apart without colour."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What a direction of a chart is: what it is called, from where to where, and whether by powers of ten."""

    name: str
    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value is, from 0 to 1."""
        low, high, at = (log10(max(one, 1e-12)) if self.logarithmic else one for one in (self.low, self.high, value))
        return min(max((at - low) / ((high - low) or 1), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Up to a dozen round values within it."""
        if self.logarithmic:
            powers = range(floor(log10(self.low)), floor(log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) <= 3 else (1,)
            found = [10.0**power * step for power in powers for step in steps]
            return [one for one in found if self.low * (1 - 1e-9) <= one <= self.high * (1 + 1e-9)]
        rough = (self.high - self.low) / 5 or 1.0
        unit: float = 10.0 ** floor(log10(rough))
        step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough)
        first = ceil(self.low / step - 1e-9)
        return [step * number for number in range(first, floor(self.high / step + 1e-9) + 1)]


def curves(title: str, x: Axis, y: Axis, lines: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """Named curves of points, from left to right, with a legend."""
    parts = [_grid(x, y)]
    for number, (_, points) in enumerate(lines.items()):
        path = " ".join(f"{_x(x, one):.1f},{_y(y, two):.1f}" for one, two in points)
        parts.append(
            tag("polyline", points=path, class_=f"curve c{number % 8}", stroke_dasharray=DASHES[number % 8] or None)
        )
    told = f"{title}: {', '.join(safe(name) for name in lines)}, by {x.name} and {y.name}"
    return _figure(title, told, joined(parts), HEIGHT, _legend(list(lines)))


def hbars(title: str, rows: Sequence[tuple[str, float, str]]) -> Markup:
    """A bar for each label, value and what is said of it."""
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    row, label = 26, 90
    parts = []
    for number, (name, value, said) in enumerate(rows):
        top, length = 6 + number * row, (WIDTH - label - 100) * value / most
        parts += [
            tag("text", safe(name), x=label - 8, y=top + 14, text_anchor="end"),
            tag("rect", x=label, y=top, width=f"{max(length, 1):.1f}", height=row - 8, class_=f"bar c{number % 8}"),
            tag("text", said, x=f"{label + length + 8:.1f}", y=top + 14),
        ]
    told = f"{title}: " + ", ".join(f"{safe(name)} {said}" for name, _, said in rows)
    return _figure(title, told, joined(parts), 12 + row * len(rows))


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis, y: Axis) -> Markup:
    parts = []
    for value in y.ticks():
        at = f"{_y(y, value):.1f}"
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", f"{value:g}", x=LEFT - 6, y=f"{_y(y, value) + 4:.1f}", text_anchor="end"))
    for value in x.ticks():
        at = f"{_x(x, value):.1f}"
        parts.append(tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
        parts.append(tag("text", f"{value:g}", x=at, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    parts.append(tag("text", x.name, x=WIDTH - RIGHT, y=HEIGHT - 6, text_anchor="end"))
    return joined(parts)


def _legend(names: Sequence[str]) -> Markup:
    entries = []
    for number, name in enumerate(names):
        line = tag(
            "line", x1=0, x2=28, y1=6, y2=6, class_=f"curve c{number % 8}", stroke_dasharray=DASHES[number % 8] or None
        )
        entries.append(tag("li", tag("svg", line, viewBox="0 0 28 12", aria_hidden="true"), f" {safe(name)}"))
    return tag("ul", entries, class_="legend")


def _figure(title: str, told: str, inside: Markup, height: int, below: Markup | str = "") -> Markup:
    drawn = tag("svg", tag("title", told), inside, viewBox=f"0 0 {WIDTH} {height}", role="img", class_="chart")
    return tag("figure", tag("figcaption", title), wide(title, drawn), below)
