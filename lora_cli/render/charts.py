"""Charts of HTML reports as data for the templates: axes, curves and heat maps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median

from lora_cli.core.module_grid import Grid
from lora_cli.core.spectrum import ModuleSpectrum
from lora_cli.core.text import brief, names
from lora_cli.render.bench_summary import SHARES
from lora_cli.render.inspect_facts import Layout

COLOURS = 8
"""Curves that differ in colour and dashes (``templates/style.css``)."""

SHADES = 9
"""Shades of a heat map."""

MIN_SHARE = 1e-3
"""The least singular value that is drawn, as a share of the largest."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a chart: its name, its range, whether it is logarithmic, and whether ticks are integers."""

    name: str
    low: float
    high: float
    logarithmic: bool = False
    whole: bool = False

    def place(self, value: float) -> float:
        """The position of a value, in percent of the axis."""
        low, high, at = (math.log10(max(v, 1e-12)) if self.logarithmic else v for v in (self.low, self.high, value))
        return round(100 * min(max((at - low) / ((high - low) or 1), 0.0), 1.0), 2)

    def ticks(self) -> list[float]:
        """Up to a dozen round values within the range."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) <= 3 else (1,)
            found = [10.0**power * step for power in powers for step in steps]
            within = [one for one in found if self.low * (1 - 1e-9) <= one <= self.high * (1 + 1e-9)]
            if len(within) > 1:
                return within
        rough = (self.high - self.low) / 5 or 1.0
        unit: float = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough * (1 - 1e-9))
        step = max(step, 1.0) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        return [step * number for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Chart:
    """Named curves of points, from left to right."""

    title: str
    x: Axis
    y: Axis
    lines: Mapping[str, Sequence[tuple[float, float]]]

    def points(self, name: str) -> str:
        """The points of a curve in an area of 100 x 100, as SVG has them."""
        return " ".join(f"{self.x.place(x):g},{100 - self.y.place(y):g}" for x, y in self.lines[name])


def distribution(title: str, name: str, curves: Mapping[str, Sequence[float]]) -> Chart | None:
    """A CDF; ``curves`` has the values at each of ``SHARES``. None without values."""
    values = [value for curve in curves.values() for value in curve if 0 < value < math.inf]
    if not values:
        return None
    low, high = min(values), max(values)
    x = Axis(name, low, high if high > low else low * 10, logarithmic=True)
    lines = {kind: [(max(value, low), at) for value, at in zip(v, SHARES, strict=True)] for kind, v in curves.items()}
    return Chart(title, x, Axis("share", 0, 1), lines)


def over_time(courses: Mapping[str, Sequence[float]]) -> Chart | None:
    """The hit ratio over the run; None without values."""
    if not courses:
        return None
    lines = {name: [((at + 0.5) / len(v), value) for at, value in enumerate(v)] for name, v in courses.items()}
    most = max(value for course in courses.values() for value in course)
    return Chart("Hits over time", Axis("part of the requests", 0, 1), Axis("hit ratio", 0, most or 1), lines)


def singular_values(kinds: Sequence[tuple[str, Sequence[ModuleSpectrum]]]) -> Chart | None:
    """The median singular values of the first kinds of modules; None for fewer than two values."""
    lines = {}
    for kind, modules in kinds:
        columns = zip_longest(*(one.singular_values for one in modules if one.norm and math.isfinite(one.norm)))
        medians = [median([value for value in column if value is not None]) for column in columns]
        if medians:
            lines[kind] = list(enumerate(medians, 1))
    of = "each kind of module" if len(lines) <= COLOURS else f"the first {COLOURS} of {len(lines)} kinds of modules"
    lines = dict(list(lines.items())[:COLOURS])
    most = max((value for line in lines.values() for _, value in line), default=0.0)
    longest = max(map(len, lines.values()), default=0)
    if longest < 2 or not most:
        return None
    least = min(value for line in lines.values() for _, value in line)
    y = Axis("singular value", max(least, most * MIN_SHARE), most, logarithmic=True)
    x = Axis("index of the singular value", 1, longest, whole=True)
    return Chart(f"Singular values, largest first: the median of {of}", x, y, lines)


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in a heat map: its shade, its short text, and its tooltip."""

    shade: int
    text: str
    title: str


def heat_map(grid: Grid, layout: Layout, most_kinds: int, most_layers: int) -> list[tuple[int, list[Cell | None]]]:
    """The first layers, each with a cell for each of the first kinds; None for a cell without a value."""
    full, kinds = layout.scale_max(), grid.kinds[:most_kinds]
    return [
        (layer, [_cell(grid.cells.get((layer, kind), ()), layout, full) for kind in kinds])
        for layer in grid.layers[:most_layers]
    ]


def _cell(paths: Sequence[str], layout: Layout, full: float) -> Cell | None:
    """The cell of some modules; outliers have a star, which does not depend on colour."""
    value = layout.value(paths)
    if value is None:
        return None
    star = "*" if layout.outliers.intersection(paths) else ""
    return Cell(shade(value / full if full > 0 else 0.0), brief(value) + star, f"{names(paths, 2)}: {value:.4g}")


def shade(level: float) -> int:
    """The shade of a level, which is clamped to 0..1."""
    return min(int(min(max(level, 0.0), 1.0) * SHADES), SHADES - 1)
