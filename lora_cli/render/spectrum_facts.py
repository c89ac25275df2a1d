"""What the spectrum of an adapter says, in words and figures: the same on a terminal and on a page."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lora_cli.core.factors import Unreadable
from lora_cli.core.grouping import by_key
from lora_cli.core.module_grid import Grid, grids, places
from lora_cli.core.spectrum import OUTSTANDING, ModuleSpectrum, Spectrum, outstanding
from lora_cli.core.text import brief, counted, cut, names, percent, safe, span, times

Rows = list[tuple[str, str]]

MOST_TOLD = 5
"""Modules that are named of those that stand out, and of those that have no spectrum for one reason."""
LONGEST = 60

EXPLAINED = (
    "top-1, top-4: the energy in so many singular values; 99 %: in how many it is; all are medians but 99 %, the most"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the modules of a spectrum are drawn, and which stand out.

    ``modules`` has them by their paths. What is drawn of each is its norm or, with ``relative``, its share of the norm
    of the base's weight in percent. ``far`` are those that stand out, each with its ratio to the median of its kind.
    """

    modules: Mapping[str, ModuleSpectrum]
    relative: bool
    grids: tuple[Grid, ...]
    outside: tuple[str, ...]
    far: tuple[tuple[ModuleSpectrum, float], ...]
    outliers: frozenset[str]
    """The paths of those that stand out."""

    def value(self, paths: Sequence[str]) -> float | None:
        """Of several modules the common norm, or the largest share; None where none has any."""
        known = [self.modules[path] for path in paths if path in self.modules]
        if not self.relative:
            return math.hypot(*(one.norm for one in known)) if known else None
        return max((100 * one.relative for one in known if one.relative is not None), default=None)

    def full(self) -> float:
        """The value that is shown as the most: by a few outliers the others are not bleached."""
        cells = [value for grid in self.grids for paths in grid.cells.values() if (value := self.value(paths))]
        return min(max(cells), OUTSTANDING * median(cells)) if cells else 0.0

    def by_kind(self, grid: Grid, most: int) -> list[tuple[str, list[ModuleSpectrum]]]:
        """The modules of the first ``most`` kinds."""
        paths = by_key((kind, path) for (_, kind), paths in grid.cells.items() for path in paths)
        known = {
            kind: [self.modules[path] for path in paths[kind] if path in self.modules] for kind in grid.kinds[:most]
        }
        return [(kind, found) for kind, found in known.items() if found]

    def header(self) -> tuple[str, ...]:
        """The header of a table of modules; the first column is what they are called."""
        shown = "% of W" if self.relative else "norm"
        return ("", "modules", shown, "least", "most", "eff. rank", "r", "top-1", "top-4", "99 %")

    def rows(self, groups: Iterable[tuple[str, Sequence[ModuleSpectrum]]]) -> list[tuple[str, ...]]:
        """The rows under ``header`` for groups of modules."""
        return [self._row(*group) for group in groups]

    def single(self, most: int) -> list[tuple[str, ...]]:
        """The rows under ``header`` for the first ``most`` modules outside of layers."""
        known = [self.modules[path] for path in self.outside if path in self.modules]
        return [self._row(one.path, [one]) for one in known[:most]]

    def _row(self, name: str, found: Sequence[ModuleSpectrum]) -> tuple[str, ...]:
        """Of the modules ``found`` the medians, the least and the most."""
        known = [value for one in found if (value := self.value([one.path])) is not None]
        numbers = [brief(of(known)) if known else "-" for of in (median, min, max)]
        r, trained = span([one.r for one in found]), [one for one in found if one.norm]
        rank, energy, most = "-", ["-", "-"], "-"
        if trained:
            rank = f"{median(one.effective_rank for one in trained):.1f}"
            energy = [percent(median(one.energy.get(k, 1.0) for one in trained)) for k in (1, 4)]
            most = str(max(one.rank_99 for one in trained))
        return (cut(safe(name), LONGEST), str(len(found)), *numbers, rank, r, *energy, most)


def layout(spectrum: Spectrum) -> Layout:
    """The modules of ``spectrum`` as they are drawn; those without a spectrum have a place, too."""
    placed = places(dict.fromkeys((*(one.path for one in spectrum.modules), *(one.module for one in spectrum.without))))
    far = outstanding(spectrum.modules, {path: f"{at.stack}\0{at.kind}" for path, at in placed.items()})
    modules, outliers = {one.path: one for one in spectrum.modules}, frozenset(one.path for one, _ in far)
    return Layout(modules, spectrum.relative is not None, *grids(placed), far, outliers)


def title(spectrum: Spectrum) -> str:
    """What the numbers are."""
    return "norm of s * B @ A" + ", in percent of the norm of the base's weight" * (spectrum.relative is not None)


def summary(spectrum: Spectrum, far: Sequence[tuple[ModuleSpectrum, float]]) -> Rows:
    """What all modules come to, and what of them is odd: labelled values in words."""
    trained = sorted((one for one in spectrum.modules if one.norm), key=lambda one: -one.size)
    zero = [one.path for one in spectrum.modules if not one.norm]
    rows: Rows = [("modules", _count(spectrum, len(trained), len(zero)))]
    if trained:
        share = f", {percent(spectrum.relative)} of that of the base's weights" if spectrum.relative is not None else ""
        rows.append(("total", f"a norm of {spectrum.norm:.4g}{share}"))
        rows += [("largest", _named(trained[0])), ("smallest", _named(trained[-1])), ("rank", _rank(trained))]
    if zero:
        rows.append(("zero", f"{counted(len(zero), 'update')} of zeros: {safe(names(zero, width=LONGEST))}"))
    rows += [
        ("stands out", f"{safe(one.path)}: {times(ratio)} the median of its kind") for one, ratio in far[:MOST_TOLD]
    ]
    if len(far) > MOST_TOLD:
        rows.append(("", f"and {len(far) - MOST_TOLD} more"))
    rows += [("no spectrum", text) for text in _without(spectrum.without)]
    if spectrum.base_reason:
        rows.append(("base", f"not compared: {spectrum.base_reason}"))
    if spectrum.left_out:
        rows.append(("left out", f"the spectrum is of s * B @ A alone, and not of {'; '.join(spectrum.left_out)}"))
    return rows


def _count(spectrum: Spectrum, trained: int, zero: int) -> str:
    if not spectrum.modules and not spectrum.without:
        return "none has factors of a LoRA"
    told = [f"{trained} with an update"]
    told += [f"{zero} of zeros"] * bool(zero)
    told += [f"{len(spectrum.without)} without a spectrum"] * bool(spectrum.without)
    fused = [one.experts for one in spectrum.modules if one.experts > 1]
    return ", ".join(told) + (f"; {len(fused)} hold {sum(fused)} fused experts" if fused else "")


def _named(one: ModuleSpectrum) -> str:
    size = f"{one.norm:.4g}" if one.relative is None else f"{percent(one.relative)} (norm {one.norm:.4g})"
    return f"{size}  {safe(one.path)}"


def _rank(trained: Sequence[ModuleSpectrum]) -> str:
    effective, usual = median(one.effective_rank for one in trained), median(one.rank_99 for one in trained)
    return (
        f"effective rank {effective:.1f} of {span([one.r for one in trained])} (median); 99 % of the energy lies in at "
        f"most {max(one.rank_99 for one in trained)} directions of a module, {usual:.0f} in the median"
    )


def _without(without: Sequence[Unreadable]) -> Iterator[str]:
    reasons = list(by_key((one.reason, one.module) for one in without).items())
    for reason, modules in reasons[:MOST_TOLD]:
        yield f"{reason} ({counted(len(modules), 'module')}: {safe(names(modules, width=LONGEST))})"
    if rest := sum(len(modules) for _, modules in reasons[MOST_TOLD:]):
        yield f"for other reasons: {counted(rest, 'module')}, in --format json"
