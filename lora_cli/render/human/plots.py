"""Plots in characters: bars, one line of blocks for a course, and curves of letters. Plain ones are ASCII."""

from collections.abc import Mapping, Sequence
from math import log10

from lora_cli.core.text import safe

BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
BAR, PLAIN_BAR = "█", "#"
WIDEST = 76
ROWS = 9


def bars(rows: Sequence[tuple[str, float, str]], width: int, *, plain: bool = False) -> list[str]:
    """A bar for each label, value and what is said of it; the largest fills the width."""
    label = max((len(safe(name)) for name, _, _ in rows), default=0)
    said = max((len(text) for _, _, text in rows), default=0)
    room = max(min(width, WIDEST) - label - said - 4, 4)
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    mark = PLAIN_BAR if plain else BAR
    return [
        f"{safe(name):<{label}}  {text:>{said}}  {mark * round(room * value / most)}".rstrip()
        for name, value, text in rows
    ]


def courses(rows: Mapping[str, Sequence[float]], width: int, *, plain: bool = False) -> list[str]:
    """Each course as a line of blocks over one scale, with its first and last value."""
    label = max((len(safe(name)) for name in rows), default=0)
    room = max(min(width, WIDEST) - label - 14, 8)
    values = [value for course in rows.values() for value in course]
    low, high = min(values, default=0.0), max(values, default=1.0)
    marks = PLAIN_BLOCKS if plain else BLOCKS

    def drawn(course: Sequence[float]) -> str:
        places = [course[place * len(course) // min(room, len(course))] for place in range(min(room, len(course)))]
        return "".join(marks[round((one - low) / ((high - low) or 1) * (len(marks) - 1))] for one in places)

    return [
        f"{safe(name):<{label}}  {course[0]:.3f} {drawn(course)} {course[-1]:.3f}"
        for name, course in rows.items()
        if course
    ]


def letters(names: Sequence[str]) -> dict[str, str]:
    """A letter for each name, out of its own as far as they are free."""
    found: dict[str, str] = {}
    for name in names:
        free = [char for char in f"{name.lower()}abcdefghijklmnopqrstuvwxyz" if char.isalpha()]
        found[name] = next((char for char in free if char not in found.values()), "?")
    return found


def distribution(curves: Mapping[str, Sequence[float]], shares: Sequence[float], width: int) -> list[str]:
    """Which share of all is at most so large: one curve of letters each, on a logarithmic scale from left to right.

    ``curves[name][i]`` is the value that ``shares[i]`` of all do not exceed.
    """
    values = [value for curve in curves.values() for value in curve if value > 0]
    if not values:
        return []
    low, high = log10(min(values)), log10(max(values))
    room = max(min(width, WIDEST) - 6, 16)
    grid = [[" "] * room for _ in range(ROWS)]
    for name, letter in letters(list(curves)).items():
        for column in range(room):
            at = 10 ** (low + (high - low) * column / (room - 1)) * (1 + 1e-9)
            below = max((share for share, value in zip(shares, curves[name], strict=True) if value <= at), default=0.0)
            if below:
                grid[ROWS - 1 - round(below * (ROWS - 1))][column] = letter
    lines = [
        f"{100 - 100 * row // (ROWS - 1) if row % 2 == 0 else '':>4} {''.join(cells)}".rstrip()
        for row, cells in enumerate(grid)
    ]
    left, right = f"{10**low:.3g} ms", f"{10**high:.3g} ms"
    keys = "  ".join(f"{letter} {safe(name)}" for name, letter in letters(list(curves)).items())
    return [*lines, f"{'':5}{left}{right:>{room - len(left)}}", f"{'':5}{keys}"]
