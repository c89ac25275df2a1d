"""The spectrum of an adapter on a page: a heat map for each stack of layers, the kinds, and what stands out."""

from collections.abc import Sequence

from lora_cli.core.module_grid import Grid
from lora_cli.core.spectrum import Spectrum
from lora_cli.core.text import brief, counted, names, safe
from lora_cli.render.html.heat import Cell, heat
from lora_cli.render.html.markup import Child, Markup, tag
from lora_cli.render.html.page import facts, prose, table
from lora_cli.render.spectrum_facts import EXPLAINED, Laid, columns_of, heads, laid, summary, title

MOST_STACKS, MOST_LAYERS, MOST_KINDS, MOST_OUTSIDE = 8, 256, 40, 40
"""So many stacks, rows and columns of each, and modules outside of layers; how many more there are is said."""


def spectrum(one: Spectrum | None) -> Child:
    """All that is said of it; nothing where it was not asked for."""
    if one is None:
        return ""
    heading = tag("h3", "Spectrum")
    if one.unread:
        return [heading, tag("p", "none: ", prose(one.unread)), tag("p", "hint: ", prose(one.hint)) if one.hint else ""]
    drawn = laid(one)
    maps = [_stack(grid, drawn, title(one)) for grid in drawn.maps[:MOST_STACKS]]
    return [heading, maps, _outside(drawn), tag("p", f"{EXPLAINED}.{_more(drawn)}"), facts(summary(one, drawn.far))]


def _stack(grid: Grid, drawn: Laid, what: str) -> list[Markup]:
    named = f"{grid.stack}: " if len(drawn.maps) > 1 else ""
    kinds, full, far = grid.kinds[:MOST_KINDS], drawn.full(), {one.path for one, _ in drawn.far}
    rows = [
        (str(layer), [_cell(grid.cells.get((layer, kind), ()), drawn, full, far) for kind in kinds])
        for layer in grid.layers[:MOST_LAYERS]
    ]
    found = [columns_of(kind, modules, drawn.sizes) for kind, modules in drawn.by_kind(grid, MOST_KINDS)]
    by_kind = table(f"{named}by kind of module", ("kind", *heads(drawn.sizes)[1:]), found)
    return [heat(f"{named}{what}", "layer", [safe(kind) for kind in kinds], rows), by_kind]


def _cell(paths: Sequence[str], drawn: Laid, full: float, far: set[str]) -> Cell | None:
    """What stands out is marked with a star, which is seen without colour too."""
    size = drawn.sizes.of_cell(paths)
    if size is None:
        return None
    star = "*" if far.intersection(paths) else ""
    return Cell(size / full if full > 0 else 0.0, brief(size) + star, f"{safe(names(paths, 2))}: {size:.4g}")


def _outside(drawn: Laid) -> Child:
    known = drawn.sizes.by_path
    told = [path for path in drawn.outside if path in known]
    if not told:
        return ""
    rows = [columns_of(path, [known[path]], drawn.sizes) for path in told[:MOST_OUTSIDE]]
    return table("Outside of layers", ("module", *heads(drawn.sizes)[1:]), rows)


def _more(drawn: Laid) -> str:
    """What stands where, and what is not drawn."""
    notes = [" * stands out: see below."] if drawn.far else []
    if any(len(paths) > 1 for grid in drawn.maps for paths in grid.cells.values()):
        notes.append("A cell of several modules (experts) shows them together.")
    left = (
        ("stack of layers", len(drawn.maps) - MOST_STACKS),
        ("layer", sum(max(0, len(grid.layers) - MOST_LAYERS) for grid in drawn.maps[:MOST_STACKS])),
        ("kind", sum(max(0, len(grid.kinds) - MOST_KINDS) for grid in drawn.maps[:MOST_STACKS])),
        ("module outside of layers", len(drawn.outside) - MOST_OUTSIDE),
    )
    notes += [f"{counted(number, f'more {what}')} in --format json." for what, number in left if number > 0]
    return " ".join(notes)
