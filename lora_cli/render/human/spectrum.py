"""What ``inspect --spectrum`` says to people: a heat map for each stack of layers, the kinds, and what stands out."""

from collections.abc import Iterator, Sequence

from lora_cli.core.module_grid import Grid
from lora_cli.core.spectrum import ModuleSpectrum, Spectrum
from lora_cli.core.text import cut, safe
from lora_cli.render.human.heat_map import MOST_KINDS, MOST_ROWS, Scale, heat_map
from lora_cli.render.spectrum_facts import EXPLAINED, Laid, Sizes, columns_of, heads, laid, summary, title
from lora_cli.render.text import columns, paint, pairs, wrap

MOST_STACKS = 4
MOST_OUTSIDE = 12


def render_spectrum(spectrum: Spectrum, width: int, *, colour: bool = False, plain: bool = False) -> str:
    """The heat maps, a table of kinds for each, the modules outside of layers, and the summary."""
    if spectrum.unread:
        lines = [paint("spectrum", "bold", colour=colour) + " (none)"]
        lines += wrap(spectrum.unread, width, "  ", "  ")
        lines += wrap(spectrum.hint, width, "    ", "  hint: ") if spectrum.hint else []
        return "\n".join(lines) + "\n"
    drawn = laid(spectrum)
    maps, sizes, scale = drawn.maps, drawn.sizes, Scale(drawn.full(), plain)
    lines = wrap(f"spectrum ({title(spectrum)})", width, "  ", "")
    lines[0] = lines[0].replace("spectrum", paint("spectrum", "bold", colour=colour), 1)
    marked = {one.path: "yellow" for one, _ in drawn.far}
    for grid in maps[:MOST_STACKS]:
        lines += ["", *([cut(safe(grid.stack), width)] if len(maps) > 1 else [])]
        lines += heat_map(grid, sizes.of_cell, scale, width, marked=marked, colour=colour)
        lines += [""] * bool(kinds := _kinds(grid, drawn, width)) + kinds
    if maps and scale.full > 0:
        lines += ["", *_legend(maps, scale, width)]
    if told := [path for path in drawn.outside if path in sizes.by_path]:
        lines += ["", "outside of layers"]
        lines += _table([(path, [sizes.by_path[path]]) for path in told[:MOST_OUTSIDE]], sizes, width)
        if len(told) > MOST_OUTSIDE:
            lines += wrap(f"and {len(told) - MOST_OUTSIDE} more, in --format json", width, "  ", "")
    return "\n".join([*lines, "", *pairs(summary(spectrum, drawn.far), width)]) + "\n"


def _kinds(grid: Grid, drawn: Laid, width: int) -> list[str]:
    lines = _table(drawn.by_kind(grid, MOST_KINDS), drawn.sizes, width)
    more = len(grid.kinds) - MOST_KINDS
    return lines if more <= 0 else [*lines, *wrap(f"and {more} more kinds, in --format json", width, "  ", "")]


def _legend(maps: Sequence[Grid], scale: Scale, width: int) -> Iterator[str]:
    yield from wrap(f"shades: {scale.legend()}", width, "  ")
    notes = [EXPLAINED]
    if any(len(grid.layers) > MOST_ROWS for grid in maps):
        notes.append("a row of several layers shows the largest")
    if any(len(paths) > 1 for grid in maps for paths in grid.cells.values()):
        notes.append("a cell of several modules (experts) shows them together")
    if len(maps) > MOST_STACKS:
        notes.append(f"{len(maps) - MOST_STACKS} more stacks of layers are in --format json")
    for note in notes:
        yield from wrap(note, width, "    ", "  ")


def _table(groups: Sequence[tuple[str, Sequence[ModuleSpectrum]]], sizes: Sizes, width: int) -> list[str]:
    """The median, the least and the most of each group; one below the other where the table is too wide."""
    if not groups:
        return []
    rows = [columns_of(name, found, sizes) for name, found in groups]
    lines = columns(heads(sizes), rows)
    if max(map(len, lines), default=0) <= width:
        return lines
    stacked: list[str] = []
    for row in rows:
        name, modules, norm, least, most, rank, of, first, four, nearly_all = row
        size, number = (norm, "") if modules == "1" else (f"{norm} ({least} to {most})", f"{modules} modules, ")
        energy = f"energy {first} in 1 and {four} in 4, 99 % in {nearly_all}"
        text = f"{name}: {number}norm {size}, effective rank {rank} of {of}, {energy}"
        stacked += wrap(text, width, "  ", "")
    return stacked
