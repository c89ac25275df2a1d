"""A heat map for a terminal: layers by kinds of modules, each with a shade and a number; with or without colour."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lora_cli.core.module_grid import Grid
from lora_cli.core.text import brief, cut, safe
from lora_cli.render.text import paint

SHADES = ("░░", "░▒", "▒▒", "▒▓", "▓▓", "▓█", "██")
PLAIN_SHADES = ("..", ".:", "::", ":+", "++", "+#", "##")
MOST_ROWS = 48
"""Rows of one map; of more layers some are drawn together."""
MOST_KINDS = 40
"""Columns of all maps of one stack; no model has as many kinds."""
CELL = 7
GAP = 2


@dataclass(frozen=True, slots=True)
class Scale:
    """What the shades stand for: sevenths of ``full``, the last for all above; ``plain`` draws them in ASCII."""

    full: float
    plain: bool = False

    def shade(self, value: float) -> str:
        """Two characters for ``value``; blank for 0."""
        shades = PLAIN_SHADES if self.plain else SHADES
        last = len(shades) - 1
        return "  " if value <= 0 else shades[min(last, int((last + 1) * value / self.full)) if self.full > 0 else last]

    def legend(self) -> str:
        """Which shade is what."""
        shades = PLAIN_SHADES if self.plain else SHADES
        ends = [brief(self.full * i / len(shades)) for i in range(len(shades) + 1)]
        middle = [f"{shades[i]} {ends[i]} to {ends[i + 1]}" for i in (2, 4)]
        return f"{shades[0]} below {ends[1]}, {', '.join(middle)}, {shades[6]} from {ends[6]}"


def heat_map(
    grid: Grid,
    value: Callable[[Sequence[str]], float | None],
    scale: Scale,
    width: int,
    *,
    marked: Mapping[str, str],
    colour: bool,
) -> list[str]:
    """The lines of the map; as many blocks of columns below each other as ``width`` asks for.

    ``value`` gives the number of the modules of one cell, None where it has none. ``marked`` maps the paths of modules
    that stand out to a style.
    """
    rows = _rows(grid.layers)
    labels = [str(row[0]) if row[0] == row[-1] else f"{row[0]}-{row[-1]}" for row in rows]
    column = max(len("layer"), *map(len, labels))
    kinds = grid.kinds[:MOST_KINDS]
    heads = {kind: cut(safe(kind), max(CELL, min(width - column - GAP, 40))) for kind in kinds}
    lines: list[str] = []
    for block in _blocks(kinds, heads, width - column):
        lines += [""] * bool(lines)
        lines.append("layer".rjust(column) + "".join(" " * GAP + heads[kind].rjust(CELL) for kind in block))
        for label, row in zip(labels, rows, strict=True):
            cells = [_cell(grid, row, kind, value, scale, marked, colour) for kind in block]
            padded = [
                " " * (GAP + max(0, len(heads[kind]) - CELL)) + cell for kind, cell in zip(block, cells, strict=True)
            ]
            lines.append((label.rjust(column) + "".join(padded)).rstrip())
    return lines


def _rows(layers: Sequence[int]) -> list[Sequence[int]]:
    together = -(-len(layers) // MOST_ROWS)
    return [layers[start : start + together] for start in range(0, len(layers), together)]


def _blocks(kinds: Sequence[str], heads: Mapping[str, str], width: int) -> list[list[str]]:
    """Kinds as they fit beside each other."""
    blocks: list[list[str]] = [[]]
    used = 0
    for kind in kinds:
        wide = GAP + max(CELL, len(heads[kind]))
        if blocks[-1] and used + wide > width:
            blocks.append([])
            used = 0
        blocks[-1].append(kind)
        used += wide
    return blocks


def _cell(
    grid: Grid,
    row: Sequence[int],
    kind: str,
    value: Callable[[Sequence[str]], float | None],
    scale: Scale,
    marked: Mapping[str, str],
    colour: bool,
) -> str:
    """Seven columns: of several layers the largest."""
    found = [grid.cells[layer, kind] for layer in row if (layer, kind) in grid.cells]
    if not found:
        return " " * CELL
    numbers = [number for number in map(value, found) if number is not None]
    if not numbers:
        return paint("none".rjust(CELL), "red", colour=colour)
    style = next((marked[path] for paths in found for path in paths if path in marked), "")
    text = f"{scale.shade(max(numbers))} {brief(max(numbers)):>4}"
    return paint(text, style, colour=colour) if style else text
