"""Plots in text: bars, sparklines, and CDFs, with a colour for each series; ``plain`` ones are ASCII."""

from collections.abc import Mapping, Sequence
from math import floor, log, log10

from rich.columns import Columns
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from lora_cli.core.text import safe

BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
BAR, PLAIN_BAR = "█", "#"
COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
MAX_WIDTH = 76
ROWS = 9
MIN_MS = 1e-6
"""The least value on the axis; smaller ones are drawn there."""

MARGIN = 5
"""Columns to the left of the curves."""


def bars(rows: Sequence[tuple[str, float, str]], width: int, *, plain: bool = False) -> list[Text]:
    """A bar for each label, value and its text; the largest fills the width."""
    label = max((len(safe(name)) for name, _, _ in rows), default=0)
    number = max((len(text) for _, _, text in rows), default=0)
    room = max(min(width, MAX_WIDTH) - label - number - 4, 4)
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    mark = PLAIN_BAR if plain else BAR
    styles = series_colours([name for name, _, _ in rows])
    return [
        _line(f"{safe(name):<{label}}  {text:>{number}}  ", (mark * round(room * value / most), styles[name]))
        for name, value, text in rows
    ]


def sparklines(rows: Mapping[str, Sequence[float]], width: int, *, plain: bool = False) -> list[Text]:
    """A sparkline for each series on a common scale, with its first and last value."""
    label = max((len(safe(name)) for name in rows), default=0)
    room = max(min(width, MAX_WIDTH) - label - 14, 8)
    values = [value for course in rows.values() for value in course]
    low, high = min(values, default=0.0), max(values, default=1.0)
    marks = PLAIN_BLOCKS if plain else BLOCKS

    def drawn(course: Sequence[float]) -> str:
        places = [course[place * len(course) // min(room, len(course))] for place in range(min(room, len(course)))]
        return "".join(marks[round((one - low) / ((high - low) or 1) * (len(marks) - 1))] for one in places)

    styles = series_colours(list(rows))
    return [
        _line(f"{safe(name):<{label}}  {course[0]:.3f} ", (drawn(course), styles[name]), f" {course[-1]:.3f}")
        for name, course in rows.items()
        if course
    ]


def distribution(curves: Mapping[str, Sequence[float]], shares: Sequence[float], width: int) -> list[RenderableType]:
    """A CDF of letters for each series, over a logarithmic axis in ms.

    ``curves[name][i]`` is the value that ``shares[i]`` of all do not exceed. Curves that
    meet take turns in their cells, and each ends at its largest value.
    """
    values = [value for curve in curves.values() for value in curve if value > 0]
    if not values:
        return []
    axis = _round_numbers(max(min(values), MIN_MS), max(*values, MIN_MS))
    room = max(min(width, MAX_WIDTH) - MARGIN - 1, 16)
    cells: dict[tuple[int, int], list[str]] = {}
    for name, curve in curves.items():
        below = 0.0
        for column in range(room):
            if below >= max(shares):
                break
            at = axis[0] * (axis[-1] / axis[0]) ** (column / (room - 1)) * (1 + 1e-9)
            below = max((share for share, value in zip(shares, curve, strict=True) if value <= at), default=0.0)
            if below:
                cells.setdefault((ROWS - 1 - round(below * (ROWS - 1)), column), []).append(name)
    marks, styles = series_letters(list(curves)), series_colours(list(curves))
    legend = Columns([_line((f"{mark} {safe(name)}", styles[name])) for name, mark in marks.items()], padding=(0, 2))
    lines: list[RenderableType] = []
    for row in range(ROWS):
        line = _line(f"{100 - 100 * row // (ROWS - 1) if row % 2 == 0 else '':>{MARGIN - 1}} ")
        for column in range(room):
            names = cells.get((row, column))
            name = names[column % len(names)] if names else ""
            line.append(marks[name] if name else " ", styles.get(name))
        lines.append(line)
    return [*lines, _line(" " * MARGIN + _ticks(axis, room)), Padding(legend, (0, 0, 0, MARGIN))]


def series_letters(names: Sequence[str]) -> dict[str, str]:
    """A unique letter for each name, from the name if possible."""
    found: dict[str, str] = {}
    for name in names:
        free = [char for char in f"{name.lower()}abcdefghijklmnopqrstuvwxyz" if char.isalpha()]
        found[name] = next((char for char in free if char not in found.values()), "?")
    return found


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def _line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ignore")


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from the last not above ``low`` to the first not below ``high``."""
    first = floor(log10(low))
    numbers = [step * 10.0**power for power in range(first, floor(log10(high)) + 2) for step in (1, 2, 5)]
    start = max(i for i, number in enumerate(numbers) if number <= low * (1 + 1e-9))
    end = min(i for i, number in enumerate(numbers) if number >= high * (1 - 1e-9))
    return numbers[start : max(end, start + 1) + 1]


def _ticks(axis: Sequence[float], room: int) -> str:
    """The line of tick labels: both ends, and those between them that fit."""
    line = list(" " * room)
    inner = [number for number in axis[1:-1] if log10(number).is_integer()] or axis[1:-1]
    for number in (axis[0], axis[-1], *inner):
        text = f"{number:.0f} ms" if 1 <= number < 1e7 else f"{number:g} ms"
        place = round((room - 1) * log(number / axis[0]) / log(axis[-1] / axis[0])) - len(text) // 2
        place = min(max(place, 0), room - len(text))
        if not "".join(line[max(place - 2, 0) : place + len(text) + 2]).strip():
            line[place : place + len(text)] = text
    return "".join(line)
