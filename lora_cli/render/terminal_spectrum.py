"""What ``inspect --spectrum`` prints: a heat map for each stack of layers, a table of kinds, and what stands out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from lora_cli.core.module_grid import Grid
from lora_cli.core.spectrum import Spectrum
from lora_cli.core.text import brief, cut, safe
from lora_cli.render.spectrum_facts import EXPLAINED, Layout, layout, summary, title
from lora_cli.render.terminal import Paragraph, facts, hints, in_json, table, table_or_blocks, text

SHADES = ("░░", "░▒", "▒▒", "▒▓", "▓▓", "▓█", "██")
PLAIN_SHADES = ("..", ".:", "::", ":+", "++", "+#", "##")
COLOURS = ("blue", "bright_blue", "cyan", "green", "yellow", "bright_red", "red")
"""The colour of each shade, from the least to the most."""

OUTLIER = "reverse"
"""How a module that stands out is marked where there is colour."""

MOST_STACKS, MOST_OUTSIDE = 4, 12
MOST_ROWS, MOST_KINDS = 48, 40
"""Rows of one map (of more layers some are drawn together), and columns of all maps of one stack."""

CELL, GAP = 8, 2
"""Columns of a shade with its number, and between two of them."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Layers by kinds of modules, in as many blocks of columns below each other as the width asks for.

    The shades are sevenths of ``full``, the last for all above; ``plain`` draws them in ASCII.
    """

    grid: Grid
    drawn: Layout
    full: float
    plain: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The blocks; of several layers in a row the largest number is shown."""
        layers, together = self.grid.layers, -(-len(self.grid.layers) // MOST_ROWS)
        rows = [layers[start : start + together] for start in range(0, len(layers), together)]
        labels = [str(row[0]) if row[0] == row[-1] else f"{row[0]}-{row[-1]}" for row in rows]
        column = max(len("layer"), *map(len, labels))
        longest = max(CELL, min(options.max_width - column - GAP, 40))
        names = {kind: cut(safe(kind), longest) for kind in self.grid.kinds[:MOST_KINDS]}
        for number, block in enumerate(_blocks(names, options.max_width - column)):
            yield from [""] * bool(number)
            cells = [
                [label, *(self._cell(row, kind) for kind in block)] for label, row in zip(labels, rows, strict=True)
            ]
            yield table(("layer", *(f"{names[kind]:>{CELL}}" for kind in block)), cells, left=0)

    def _cell(self, row: Sequence[int], kind: str) -> Text:
        """The shade of the largest value with that as a number: blank for 0, ``none`` where no module has a value."""
        found = [self.grid.cells[layer, kind] for layer in row if (layer, kind) in self.grid.cells]
        numbers = [number for number in map(self.drawn.value, found) if number is not None]
        if not numbers:
            return Text("none" if found else "", "red")
        most, last = max(numbers), len(SHADES) - 1
        number = min(last, int((last + 1) * most / self.full)) if self.full > 0 else last
        cell = _shade(number, plain=self.plain) if most > 0 else Text("  ")
        cell.append(f" {brief(most):>5}")
        if any(path in self.drawn.outliers for paths in found for path in paths):
            cell.stylize(OUTLIER)
        return cell


def _shade(number: int, *, plain: bool) -> Text:
    return Text.assemble(((PLAIN_SHADES if plain else SHADES)[number], COLOURS[number]))


def _blocks(names: Mapping[str, str], width: int) -> list[list[str]]:
    """Kinds as they fit next to each other."""
    blocks: list[list[str]] = [[]]
    used = 0
    for kind, name in names.items():
        wide = GAP + max(CELL, len(name))
        if blocks[-1] and used + wide > width:
            blocks.append([])
            used = 0
        blocks[-1].append(kind)
        used += wide
    return blocks


def spectrum_parts(spectrum: Spectrum, *, plain: bool = False) -> Iterator[RenderableType]:
    """The heat maps, a table of kinds for each, the modules outside of layers, and the summary."""
    if spectrum.unread:
        yield Text.assemble(("spectrum", "bold"), " (none)")
        yield from (Paragraph(spectrum.unread, indent=2), *hints(spectrum.hint))
        return
    drawn = layout(spectrum)
    full = drawn.full()
    yield Paragraph(f"({title(spectrum)})", Text.assemble(("spectrum", "bold"), " "))
    for grid in drawn.grids[:MOST_STACKS]:
        yield ""
        yield from [text(grid.stack)] if len(drawn.grids) > 1 else []
        yield HeatMap(grid, drawn, full, plain)
        if groups := drawn.by_kind(grid, MOST_KINDS):
            # The median, the least and the most of each kind.
            yield from ("", table_or_blocks(drawn.header(), drawn.rows(groups)))
        yield from in_json(len(grid.kinds) - MOST_KINDS, " kinds")
    if drawn.grids and full > 0:
        yield from ("", *_legend(drawn, full, plain=plain))
    yield from _outside(drawn)
    yield from ("", *facts(summary(spectrum, drawn.far)))


def _outside(drawn: Layout) -> Iterator[RenderableType]:
    """The modules outside of layers."""
    known = sum(path in drawn.modules for path in drawn.outside)
    if not known:
        return
    yield from ("", "outside of layers")
    header, *single = [(row[0], row[2], *row[5:]) for row in (drawn.header(), *drawn.single(MOST_OUTSIDE))]
    yield table_or_blocks(header, single)
    yield from in_json(known - MOST_OUTSIDE)


def _legend(drawn: Layout, full: float, *, plain: bool) -> Iterator[RenderableType]:
    """What the shades, with the number from which each is drawn, and the columns mean."""
    shades = [_shade(i, plain=plain).append(f" {brief(full * i / len(SHADES))}") for i in range(len(SHADES))]
    yield Columns([Text("shades from"), *shades], padding=(0, 2))
    yield Paragraph(EXPLAINED)
    if any(len(grid.layers) > MOST_ROWS for grid in drawn.grids):
        yield "a row of several layers shows the largest"
    if any(len(paths) > 1 for grid in drawn.grids for paths in grid.cells.values()):
        yield "a cell of several modules (experts) shows them together"
    if len(drawn.grids) > MOST_STACKS:
        yield f"{len(drawn.grids) - MOST_STACKS} more stacks of layers are in --format json"
