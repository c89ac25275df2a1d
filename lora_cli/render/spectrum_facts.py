"""What the spectrum of an adapter says, in words and figures: the same on a terminal and on a page."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from lora_cli.core.factors import Unreadable
from lora_cli.core.module_grid import Grid, Place, grids, places
from lora_cli.core.spectrum import OUTSTANDING, ModuleSpectrum, Spectrum, median, outstanding
from lora_cli.core.text import brief, counted, cut, names, percent, safe, span, times

Rows = list[tuple[str, str]]

MOST_TOLD = 5
"""Modules that are named of those that stand out, and of those that have no spectrum for one reason."""
LONGEST = 60

EXPLAINED = (
    "top-1, top-4: the energy in so many singular values; 99 %: in how many it is; all are medians but 99 %, the most"
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The modules, and what is shown of them: the norm, or in percent the share of the base's weight."""

    by_path: Mapping[str, ModuleSpectrum]
    relative: bool

    def of(self, one: ModuleSpectrum) -> float | None:
        """None where the base's weight was not read."""
        if not self.relative:
            return one.norm
        return None if one.relative is None else 100 * one.relative

    def of_cell(self, paths: Sequence[str]) -> float | None:
        """Of several modules the common norm, or the largest share; None where none has any."""
        known = [size for path in paths if path in self.by_path if (size := self.of(self.by_path[path])) is not None]
        return None if not known else max(known) if self.relative else math.hypot(*known)


@dataclass(frozen=True, slots=True)
class Laid:
    """The modules in grids and outside of them, what is shown of each, and which stand out, with how many times."""

    maps: tuple[Grid, ...]
    outside: tuple[str, ...]
    sizes: Sizes
    far: tuple[tuple[ModuleSpectrum, float], ...]

    def full(self) -> float:
        """The size that is shown as the most: by a few outliers the others are not bleached."""
        cells = [size for grid in self.maps for paths in grid.cells.values() if (size := self.sizes.of_cell(paths))]
        return min(max(cells), OUTSTANDING * median(cells)) if cells else 0.0

    def by_kind(self, grid: Grid, most: int) -> list[tuple[str, list[ModuleSpectrum]]]:
        """The modules of the first ``most`` kinds."""
        groups: dict[str, list[ModuleSpectrum]] = {kind: [] for kind in grid.kinds[:most]}
        known = self.sizes.by_path
        for (_, kind), paths in grid.cells.items():
            if kind in groups:
                groups[kind] += [known[path] for path in paths if path in known]
        return [(kind, found) for kind, found in groups.items() if found]


def laid(spectrum: Spectrum) -> Laid:
    """The modules of ``spectrum`` as they are drawn."""
    placed = places(dict.fromkeys((*(one.path for one in spectrum.modules), *(one.module for one in spectrum.without))))
    sizes = Sizes({one.path: one for one in spectrum.modules}, relative=spectrum.relative is not None)
    return Laid(*grids(placed), sizes, outstanding(spectrum.modules, {path: _kind(at) for path, at in placed.items()}))


def _kind(place: Place) -> str:
    return f"{place.stack}\0{place.kind}"


def title(spectrum: Spectrum) -> str:
    """What the numbers are."""
    what = "norm of s * B @ A"
    if spectrum.relative is not None:
        what += ", in percent of the norm of the base's weight"
    return what


def heads(sizes: Sizes) -> tuple[str, ...]:
    """The heads of a table of modules; the first column is what they are called."""
    return (
        "",
        "modules",
        "% of W" if sizes.relative else "norm",
        "least",
        "most",
        "eff. rank",
        "r",
        "top-1",
        "top-4",
        "99 %",
    )


def columns_of(name: str, found: Sequence[ModuleSpectrum], sizes: Sizes) -> tuple[str, ...]:
    """The columns under ``heads`` for the modules ``found``: medians, the least and the most."""
    known = [size for one in found if (size := sizes.of(one)) is not None]
    trained = [one for one in found if one.norm]
    numbers = [brief(of(known)) if known else "-" for of in (median, min, max)]
    ranks = [
        f"{median([one.effective_rank for one in trained]):.1f}" if trained else "-",
        span([one.r for one in found]),
    ]
    energy = [percent(median([_energy(one, k) for one in trained])) if trained else "-" for k in (1, 4)]
    most = str(max(one.rank_99 for one in trained)) if trained else "-"
    return (cut(safe(name), LONGEST), str(len(found)), *numbers, *ranks, *energy, most)


def summary(spectrum: Spectrum, far: Sequence[tuple[ModuleSpectrum, float]]) -> Rows:
    """What all modules come to, and what of them is odd: labelled values in words."""
    trained = sorted((one for one in spectrum.modules if one.norm), key=lambda one: -one.size)
    zero = [one.path for one in spectrum.modules if not one.norm]
    rows: Rows = [("modules", _count(spectrum, trained, zero))]
    if trained:
        rows += [("total", _total(spectrum)), ("largest", _named(trained[0])), ("smallest", _named(trained[-1]))]
        rows.append(("rank", _rank(trained)))
    if zero:
        rows.append(("zero", f"{counted(len(zero), 'update')} of zeros: {safe(names(zero, width=LONGEST))}"))
    rows += [
        ("stands out", f"{safe(one.path)}: {times(ratio)} the median of its kind")
        for one, ratio in islice(far, MOST_TOLD)
    ]
    if len(far) > MOST_TOLD:
        rows.append(("", f"and {len(far) - MOST_TOLD} more"))
    rows += [("no spectrum", text) for text in _without(spectrum.without)]
    if spectrum.base_reason:
        rows.append(("base", f"not compared: {spectrum.base_reason}"))
    if spectrum.left_out:
        rows.append(("left out", f"the spectrum is of s * B @ A alone, and not of {'; '.join(spectrum.left_out)}"))
    return rows


def _energy(one: ModuleSpectrum, k: int) -> float:
    return one.energy.get(k, 1.0)


def _count(spectrum: Spectrum, trained: Sequence[ModuleSpectrum], zero: Sequence[str]) -> str:
    if not spectrum.modules and not spectrum.without:
        return "none has factors of a LoRA"
    told = [f"{len(trained)} with an update"]
    told += [f"{len(zero)} of zeros"] * bool(zero)
    told += [f"{len(spectrum.without)} without a spectrum"] * bool(spectrum.without)
    experts = sum(one.experts for one in spectrum.modules if one.experts > 1)
    fused = sum(one.experts > 1 for one in spectrum.modules)
    return ", ".join(told) + (f"; {fused} hold {experts} fused experts" if fused else "")


def _total(spectrum: Spectrum) -> str:
    share = f", {percent(spectrum.relative)} of that of the base's weights" if spectrum.relative is not None else ""
    return f"a norm of {spectrum.norm:.4g}{share}"


def _named(one: ModuleSpectrum) -> str:
    size = f"{one.norm:.4g}" if one.relative is None else f"{percent(one.relative)} (norm {one.norm:.4g})"
    return f"{size}  {safe(one.path)}"


def _rank(trained: Sequence[ModuleSpectrum]) -> str:
    effective = median([one.effective_rank for one in trained])
    most = max(trained, key=lambda one: one.rank_99)
    return (
        f"effective rank {effective:.1f} of {span([one.r for one in trained])} (median); 99 % of the energy lies in at "
        f"most {most.rank_99} directions of a module, {median([one.rank_99 for one in trained]):.0f} in the median"
    )


def _without(without: Sequence[Unreadable]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for one in without:
        by_reason.setdefault(one.reason, []).append(one.module)
    for reason, modules in islice(by_reason.items(), MOST_TOLD):
        yield f"{reason} ({counted(len(modules), 'module')}: {safe(names(modules, width=LONGEST))})"
    if len(by_reason) > MOST_TOLD:
        rest = sum(map(len, list(by_reason.values())[MOST_TOLD:]))
        yield f"for other reasons: {counted(rest, 'module')}, in --format json"
