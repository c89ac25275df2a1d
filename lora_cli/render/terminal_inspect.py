"""The terminal output of ``inspect``: overview, facts and findings of each adapter, spectra, engine flags."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from lora_cli.core.comparison import Comparison
from lora_cli.core.module_grid import Grid
from lora_cli.core.spectrum import Spectrum
from lora_cli.core.text import between, brief, cut, safe, size, span
from lora_cli.render import inspect_facts
from lora_cli.render.engine_flags import costs, title
from lora_cli.render.inspect_facts import Layout, Rows
from lora_cli.render.inspect_report import InspectedAdapter, InspectReport
from lora_cli.render.terminal import (
    MIN_NAME_WIDTH,
    Paragraph,
    facts,
    hints,
    more_in_json,
    separated,
    table,
    table_or_blocks,
    text,
)
from lora_cli.render.terminal_validate import STYLES
from lora_cli.validation.engine_args import EngineArgs

WORDS = {"equal": "green", "scaled": "yellow", "related": "yellow", "unrelated": "cyan", "unknown": "red"}
MAX_ROWS = 20
HEADER = ("adapter", "base", "targets", "dtype", "rank", "scaling", "size")

SHADES = ("░░", "░▒", "▒▒", "▒▓", "▓▓", "▓█", "██")
PLAIN_SHADES = ("..", ".:", "::", ":+", "++", "+#", "##")
COLOURS = ("blue", "bright_blue", "cyan", "green", "yellow", "bright_red", "red")
"""The colour of each shade, from the least to the most."""

OUTLIER = "reverse"
"""The style of outliers in colour output."""

MAX_STACKS, MAX_OUTSIDE = 4, 12
MAX_LAYERS, MAX_KINDS = 48, 40
"""The most rows of a heat map (more layers share rows), and the most columns."""

CELL, GAP = 8, 2
"""The widths of a cell, and of the gap between two."""


def inspection_parts(report: InspectReport, width: int, *, plain: bool = False) -> Iterator[RenderableType]:
    """All adapters of the report, in ``width`` columns; ``plain`` draws in ASCII."""
    several = len(report.adapters) > 1
    described = [_facts(one) for one in report.adapters]
    read = [rows for rows in described if rows]
    common = [row for row in read[0] if all(row in rows for rows in read)] if several and len(read) > 1 else []
    whose = f"all {len(read)} adapters{' that were read' if len(read) < len(described) else ''}"
    blocks: list[Iterable[RenderableType]] = [[_overview(report.adapters, width)]] if several else []
    blocks += [[Text(whose, "bold"), *facts(common)]] if common else []
    for one, rows in zip(report.adapters, described, strict=True):
        shown_above = {*common, *zip(HEADER[1:], _cells(one), strict=True)} if several else set()
        own = facts(row for row in rows if row not in shown_above)
        blocks += [[text(one.checked.name, "bold"), *own, *_finding_parts(one)], *_tensor_parts(one, plain=plain)]
    return separated(*blocks)


def _overview(adapters: Sequence[InspectedAdapter], width: int) -> Table:
    """A row for each adapter; without the base if it is the same for all."""
    rows = [
        HEADER,
        *((cut(safe(one.checked.name), max(MIN_NAME_WIDTH, width // 4 - 3)), *_cells(one)) for one in adapters),
    ]
    bases = {one.inspection.base for one in adapters if one.inspection is not None}
    header, *cells = [(row[0], *row[2:]) for row in rows] if len(bases) < 2 else rows
    compared = table(header, cells, left=len(header) - 3)
    compared.columns[0].no_wrap = True
    return compared


def _cells(one: InspectedAdapter) -> tuple[str, ...]:
    """The cells below ``HEADER`` after the name."""
    found = one.inspection
    if found is None:
        return ("-", "not read", *["-"] * 4)
    return (
        found.base.rpartition("/")[2] or "-",
        ", ".join(sorted(found.targets)) or "-",
        ", ".join(found.dtypes) or "-",
        span(list(found.ranks)) if found.ranks else "-",
        between(found.scalings, "{:.6g}".format),
        size(found.total_bytes),
    )


def _facts(one: InspectedAdapter) -> Rows:
    """The facts of an adapter; empty if it could not be read."""
    checked, found = one.checked, one.inspection
    if found is None:
        return []
    rows = inspect_facts.identity(checked, found) + inspect_facts.contents(checked, found) + inspect_facts.origin(found)
    rows += one.provenance.rows if one.provenance is not None else []
    return [row for row in rows if row[1]]


def _finding_parts(one: InspectedAdapter) -> Iterable[RenderableType]:
    """The error of reading the adapter, and the findings, the worst first."""
    if (error := one.checked.error) is not None:
        yield from (Paragraph(error.message, indent=2), *hints(error.hint))
    for finding in sorted(one.checked.findings, key=lambda found: -found.severity):
        label = Text.assemble((str(finding.severity), STYLES[finding.severity]), f" {finding.code}: ")
        yield Paragraph(finding.problem.message, label, indent=2)


def _tensor_parts(one: InspectedAdapter, *, plain: bool) -> Iterator[Iterable[RenderableType]]:
    """The spectrum and the comparison of an adapter, as far as there are any."""
    if one.spectrum is not None:
        yield spectrum_parts(one.spectrum, plain=plain)
    if one.diff is not None:
        yield comparison_parts(one.checked.name, one.diff)


def comparison_parts(name: str, one: Comparison) -> Iterator[RenderableType]:
    """The relation, the distances and the tables of differences; ``name`` is A, the other adapter is B."""
    yield Text("diff", "bold")
    yield Paragraph(one.reason, Text.assemble((one.word, WORDS[one.word]), ": "), indent=2)
    yield from (*hints(one.hint), "", *facts(inspect_facts.comparison_facts(name, one)))
    for part in inspect_facts.comparison_tables(one):
        rows = [[Text(cell, WORDS.get(cell, "")) for cell in row] for row in part.rows[:MAX_ROWS]]
        yield from ("", Text(part.caption, "bold"), table_or_blocks(part.header, rows, left=part.text))
        yield from more_in_json(len(part.rows) - MAX_ROWS)


def engine_args_parts(
    report: InspectReport, args: EngineArgs, *, plain: bool = False, command: bool = True
) -> Iterator[RenderableType]:
    """A title, the command that starts the engine, its costs, and the spectra and comparisons, if there are any.

    The command has an option per line; there is no command if no adapter is served.
    """
    below = facts(costs(args))
    for one in report.adapters:
        if values := list(separated(*_tensor_parts(one, plain=plain))):
            below += ["", text(one.checked.name), *values]
    lines = [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in args.lines if command]
    return separated([Text(safe(title(args, report.base)), "bold", overflow="fold")], lines, below)


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A heat map of layers by kinds of modules, split into blocks of columns that fit the width.

    The shades are sevenths of ``scale_max``, the last for all above; ``plain`` draws them in ASCII.
    """

    grid: Grid
    layout: Layout
    full: float
    plain: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the blocks; a row of several layers shows the largest value."""
        layers, together = self.grid.layers, -(-len(self.grid.layers) // MAX_LAYERS)
        rows = [layers[start : start + together] for start in range(0, len(layers), together)]
        labels = [str(row[0]) if row[0] == row[-1] else f"{row[0]}-{row[-1]}" for row in rows]
        column = max(len("layer"), *map(len, labels))
        longest = max(CELL, min(options.max_width - column - GAP, 40))
        names = {kind: cut(safe(kind), longest) for kind in self.grid.kinds[:MAX_KINDS]}
        for number, block in enumerate(_blocks(names, options.max_width - column)):
            yield from [""] * bool(number)
            cells = [
                [label, *(self._cell(row, kind) for kind in block)] for label, row in zip(labels, rows, strict=True)
            ]
            yield table(("layer", *(f"{names[kind]:>{CELL}}" for kind in block)), cells, left=0)

    def _cell(self, row: Sequence[int], kind: str) -> Text:
        """The largest value with its shade: blank for 0, ``none`` if no module has a value."""
        found = [self.grid.cells[layer, kind] for layer in row if (layer, kind) in self.grid.cells]
        numbers = [number for number in map(self.layout.value, found) if number is not None]
        if not numbers:
            return Text("none" if found else "", "red")
        most, last = max(numbers), len(SHADES) - 1
        number = min(last, int((last + 1) * most / self.full)) if self.full > 0 else last
        cell = _shade(number, plain=self.plain) if most > 0 else Text("  ")
        cell.append(f" {brief(most):>5}")
        if any(path in self.layout.outliers for paths in found for path in paths):
            cell.stylize(OUTLIER)
        return cell


def _shade(number: int, *, plain: bool) -> Text:
    return Text.assemble(((PLAIN_SHADES if plain else SHADES)[number], COLOURS[number]))


def _blocks(names: Mapping[str, str], width: int) -> list[list[str]]:
    """The kinds in blocks that fit ``width``."""
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
    """The heat maps, a table of kinds for each, the modules outside layers, and the summary."""
    if spectrum.unread:
        yield Text.assemble(("spectrum", "bold"), " (none)")
        yield from (Paragraph(spectrum.unread, indent=2), *hints(spectrum.hint))
        return
    layout = inspect_facts.layout(spectrum)
    full = layout.scale_max()
    yield Paragraph(f"({inspect_facts.spectrum_title(spectrum)})", Text.assemble(("spectrum", "bold"), " "))
    for grid in layout.grids[:MAX_STACKS]:
        yield ""
        yield from [text(grid.stack)] if len(layout.grids) > 1 else []
        yield HeatMap(grid, layout, full, plain)
        if groups := layout.by_kind(grid, MAX_KINDS):
            yield from ("", table_or_blocks(layout.header(), layout.rows(groups)))
        yield from more_in_json(len(grid.kinds) - MAX_KINDS, " kinds")
    if layout.grids and full > 0:
        yield from ("", *_legend(layout, full, plain=plain))
    if known := sum(path in layout.modules for path in layout.outside):
        yield from ("", "outside layers")
        header, *single = [(row[0], row[2], *row[5:]) for row in (layout.header(), *layout.outside_rows(MAX_OUTSIDE))]
        yield table_or_blocks(header, single)
        yield from more_in_json(known - MAX_OUTSIDE)
    yield from ("", *facts(inspect_facts.spectrum_facts(spectrum, layout.far)))


def _legend(layout: Layout, full: float, *, plain: bool) -> Iterator[RenderableType]:
    """The legend: the least value of each shade, and the columns of the tables."""
    shades = [_shade(i, plain=plain).append(f" {brief(full * i / len(SHADES))}") for i in range(len(SHADES))]
    yield Columns([Text("shades from"), *shades], padding=(0, 2))
    yield Paragraph(inspect_facts.SPECTRUM_LEGEND)
    if any(len(grid.layers) > MAX_LAYERS for grid in layout.grids):
        yield "a row of several layers shows the largest"
    if any(len(paths) > 1 for grid in layout.grids for paths in grid.cells.values()):
        yield "a cell of several modules (experts) shows them together"
    if len(layout.grids) > MAX_STACKS:
        yield f"{len(layout.grids) - MAX_STACKS} more stacks of layers are in --format json"
