"""Charts of HTML reports as data for the templates: axes and curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_cli.render.bench_summary import SHARES


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
