"""Facts of ``inspect``: the adapter, its spectrum, and its comparison with another one, for the terminal and HTML.

Facts are labelled values in words; empty ones are not reported.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lora_cli.core.companions import PEFT, Card
from lora_cli.core.comparison import WORDS, Comparison, ModuleComparison, Side, TensorComparison, shown_cosine
from lora_cli.core.factors import Unreadable
from lora_cli.core.finding import Finding
from lora_cli.core.grouping import by_key
from lora_cli.core.inspection import Inspection
from lora_cli.core.lora_config import FieldChange
from lora_cli.core.module_grid import Grid, grids, module_positions, ordered
from lora_cli.core.spectrum import OUTSTANDING, ModuleSpectrum, Spectrum, find_outliers
from lora_cli.core.tensor_keys import layer_of, leaf_of
from lora_cli.core.text import between, brief, counted, cut, names, percent, safe, shown, size, span, times
from lora_cli.validation.report import CheckedAdapter

UNKNOWN = "unknown"

MAX_VALUES, MAX_PLACES, MAX_WORDS, MAX_METADATA, MAX_TARGETS = 6, 4, 12, 4, 16
"""The most values, places of a value, words of a card, keys of a header, and targets that are listed."""

Rows = list[tuple[str, str]]


def identity(checked: CheckedAdapter[Finding], one: Inspection) -> Rows:
    """The source, revision and digests."""
    return [
        ("source", checked.source),
        ("revision", checked.revision or ""),
        ("sha256", one.sha256),
        ("snapshot", one.snapshot),
    ]


def contents(checked: CheckedAdapter[Finding], one: Inspection) -> Rows:
    """The adapter's config and tensors, the memory that it needs, and the number of modules that apply to the base."""
    applied = checked.applied
    targets = ", ".join(sorted(one.targets)[:MAX_TARGETS]) + (" …" if len(one.targets) > MAX_TARGETS else "")
    slot = ""
    if one.slot_bytes is not None:  # without the padding of an engine's slots
        needs = f"{size(one.slot_bytes)} on the GPU at its own ranks, in {one.slot_dtype}"
        slot = f"{needs}; an engine's slots are larger (--engine-args)"
    tensors = f"{size(one.weight_bytes)} of tensors, " if one.weight_bytes else ""
    return [
        ("format", one.format),
        ("base", one.base + (f" at {one.base_revision}" if one.base_revision else "")),
        ("applies", f"{applied.matched}/{applied.total} modules" if applied is not None else ""),
        ("rank", _by_value({module.module: module.r for module in one.by_module}, "{}")),
        ("scaling", _by_value({module.module: module.scaling for module in one.by_module}, "{:.6g}")),
        ("targets", f"{targets} ({counted(one.modules, 'module')})" if targets else ""),
        ("layers", f"{ranges(one.layers)} ({len(one.layers)})" if one.layers else ""),
        ("dtype", _dtypes(one.dtypes)),
        ("parameters", f"{one.parameters:,}" if one.modules else ""),
        ("size", f"{tensors}{size(one.total_bytes)} in {counted(one.files, 'file')}"),
        ("slot", slot),
        ("features", ", ".join(one.features)),
        ("task", one.task_type),
    ]


def origin(one: Inspection) -> Rows:
    """The tools that wrote it, its metadata and its model card. The version of PEFT is usually in the config."""
    tools = {by.tool: f"{by.version} ({by.told_by})".lstrip() for by in one.writers}
    peft = next((by.version for by in one.writers if by.tool == PEFT and "config" in by.told_by), tools.pop(PEFT, ""))
    return [
        (PEFT, peft),
        ("trainer", ", ".join(f"{tool} {version}" for tool, version in tools.items()) or UNKNOWN),
        ("metadata", _listed([f"{key}={value}" for key, value in one.metadata.items()], MAX_METADATA)),
        *_card(one.card, one.base),
    ]


def _by_value(modules: Mapping[str, float | None], form: str) -> str:
    """One value; of several, each with its number of modules, and all but the most common with their modules."""
    by_value = by_key((value, module) for module, value in modules.items() if value is not None)
    if len(by_value) < 2:
        return "".join(map(form.format, by_value))
    parts: list[str] = []
    every = Counter(map(leaf_of, modules))
    for value, found in sorted(by_value.items(), key=lambda item: -len(item[1]))[:MAX_VALUES]:
        where = f": {_listed(list(_places(found, every)), MAX_PLACES)}" if parts else ""
        parts.append(f"{form.format(value)} ({counted(len(found), 'module')}{where})")
    return ", ".join(parts) + _others(len(by_value))


def _others(number: int) -> str:
    return f" and {number - MAX_VALUES} others" if number > MAX_VALUES else ""


def _places(modules: Iterable[str], every: Mapping[str, int]) -> Iterator[str]:
    """The last names of ``modules``, with layers if only some modules of that name (``every``) are among them."""
    for leaf, layers in by_key((leaf_of(module), layer_of(module)) for module in modules).items():
        is_whole = len(layers) == every[leaf]
        yield leaf if is_whole else leaf + in_layers({layer for layer in layers if layer is not None})


def _listed(words: Sequence[str], most: int) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def _dtypes(counts: Mapping[str, int]) -> str:
    """One dtype, or each with its number of tensors."""
    if len(counts) == 1:
        return next(iter(counts))
    parts = [f"{dtype} ({counted(number, 'tensor')})" for dtype, number in list(counts.items())[:MAX_VALUES]]
    return ", ".join(parts) + _others(len(counts))


def _card(card: Card | None, base: str) -> Rows:
    """Facts of the model card; its base only if it differs from the config."""
    if card is None:
        return [("license", f"{UNKNOWN} (no README.md)")]
    if card.error:
        return [("license", UNKNOWN), ("card", f"not read: {card.error}")]
    words = [word for word in (card.license, card.license_name) if word]
    return [
        ("license", " ".join((*words, f"({card.license_link})")) if card.license_link else " ".join(words) or UNKNOWN),
        ("card base", _listed(card.base_model, MAX_WORDS) if set(card.base_model) - {base} else ""),
        ("library", card.library_name),
        ("pipeline", card.pipeline_tag),
        ("language", _listed(card.language, MAX_WORDS)),
        ("datasets", _listed(card.datasets, MAX_WORDS)),
        ("tags", _listed(card.tags, MAX_WORDS)),
    ]


def in_layers(layers: Collection[int], width: int | None = None) -> str:
    """`` in layers 0-15, 18``, cut to ``width`` columns; empty without any."""
    text = ranges(sorted(layers))
    return f" in layer{'s' * (len(layers) > 1)} {text if width is None else cut(text, width)}" if layers else ""


def ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers as ranges: ``0-15, 18``."""
    runs = by_key((number - place, number) for place, number in enumerate(numbers)).values()
    return ", ".join(span(run) for run in runs)


MAX_LISTED = 5
"""The most outliers, and modules without a spectrum for one reason, that are listed."""
MAX_LENGTH = 60

SPECTRUM_LEGEND = (
    "top-1, top-4: energy in the largest singular values; 99 %: how many hold 99 % of it (the maximum, else medians)"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a spectrum's modules in heat maps, and its outliers.

    ``modules`` has them by their paths. What is drawn of each is its norm or, with ``relative``, its share of the norm
    of the base's weight in percent. ``far`` are those that stand out, each with its ratio to the median of its kind.
    """

    modules: Mapping[str, ModuleSpectrum]
    relative: bool
    grids: tuple[Grid, ...]
    outside: tuple[str, ...]
    far: tuple[tuple[ModuleSpectrum, float], ...]
    outliers: frozenset[str]
    """The paths of the outliers."""

    def value(self, paths: Sequence[str]) -> float | None:
        """The joint norm of modules, or their largest share; None without values."""
        known = [self.modules[path] for path in paths if path in self.modules]
        if not self.relative:
            return math.hypot(*(one.norm for one in known)) if known else None
        return max((100 * one.relative for one in known if one.relative is not None), default=None)

    def scale_max(self) -> float:
        """The top of the colour scale, which a few outliers do not stretch."""
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

    def outside_rows(self, most: int) -> list[tuple[str, ...]]:
        """The rows under ``header`` for the first ``most`` modules outside of layers."""
        known = [self.modules[path] for path in self.outside if path in self.modules]
        return [self._row(one.path, [one]) for one in known[:most]]

    def _row(self, name: str, found: Sequence[ModuleSpectrum]) -> tuple[str, ...]:
        """Medians, minima and maxima of some modules."""
        known = [value for one in found if (value := self.value([one.path])) is not None]
        numbers = [brief(of(known)) if known else "-" for of in (median, min, max)]
        r, trained = span([one.r for one in found]), [one for one in found if one.norm]
        rank, energy, most = "-", ["-", "-"], "-"
        if trained:
            rank = f"{median(one.effective_rank for one in trained):.1f}"
            energy = [percent(median(one.energy.get(k, 1.0) for one in trained)) for k in (1, 4)]
            most = str(max(one.rank_99 for one in trained))
        return (cut(safe(name), MAX_LENGTH), str(len(found)), *numbers, rank, r, *energy, most)


def layout(spectrum: Spectrum) -> Layout:
    """The layout of ``spectrum``; modules without values have a cell, too."""
    placed = module_positions(
        dict.fromkeys((*(one.path for one in spectrum.modules), *(one.module for one in spectrum.without)))
    )
    far = find_outliers(spectrum.modules, {path: f"{at.stack}\0{at.kind}" for path, at in placed.items()})
    modules, outliers = {one.path: one for one in spectrum.modules}, frozenset(one.path for one, _ in far)
    return Layout(modules, spectrum.relative is not None, *grids(placed), far, outliers)


def spectrum_title(spectrum: Spectrum) -> str:
    """The quantity in the heat maps."""
    return "norm of s * B @ A" + ", in percent of the norm of the base's weight" * (spectrum.relative is not None)


def spectrum_facts(spectrum: Spectrum, far: Sequence[tuple[ModuleSpectrum, float]]) -> Rows:
    """Totals of all modules, and outliers, as labelled values."""
    trained = sorted((one for one in spectrum.modules if one.norm), key=lambda one: -one.size)
    zero = [one.path for one in spectrum.modules if not one.norm]
    rows: Rows = [("modules", _module_counts(spectrum, len(trained), len(zero)))]
    if trained:
        share = (
            f", {percent(spectrum.relative)} of the norm of the base's weights" if spectrum.relative is not None else ""
        )
        rows.append(("total", f"a norm of {spectrum.norm:.4g}{share}"))
        rows += [
            ("largest", _norm_and_path(trained[0])),
            ("smallest", _norm_and_path(trained[-1])),
            ("rank", _rank_summary(trained)),
        ]
    if zero:
        rows.append(("zero", f"{counted(len(zero), 'update')} of zeros: {safe(names(zero, width=MAX_LENGTH))}"))
    rows += [
        ("stands out", f"{safe(one.path)}: {times(ratio)} the median of its kind") for one, ratio in far[:MAX_LISTED]
    ]
    if len(far) > MAX_LISTED:
        rows.append(("", f"and {len(far) - MAX_LISTED} more"))
    rows += [("no spectrum", text) for text in _unreadable_reasons(spectrum.without)]
    if spectrum.base_reason:
        rows.append(("base", f"not compared: {spectrum.base_reason}"))
    if spectrum.left_out:
        rows.append(("left out", f"the spectrum is of s * B @ A only; not included: {'; '.join(spectrum.left_out)}"))
    return rows


def _module_counts(spectrum: Spectrum, trained: int, zero: int) -> str:
    if not spectrum.modules and not spectrum.without:
        return "no module has LoRA factors"
    parts = [f"{trained} with an update"]
    parts += [f"{zero} of zeros"] * bool(zero)
    parts += [f"{len(spectrum.without)} without a spectrum"] * bool(spectrum.without)
    fused = [one.experts for one in spectrum.modules if one.experts > 1]
    return ", ".join(parts) + (f"; {len(fused)} hold {sum(fused)} fused experts" if fused else "")


def _norm_and_path(one: ModuleSpectrum) -> str:
    size = f"{one.norm:.4g}" if one.relative is None else f"{percent(one.relative)} (norm {one.norm:.4g})"
    return f"{size}  {safe(one.path)}"


def _rank_summary(trained: Sequence[ModuleSpectrum]) -> str:
    effective, usual = median(one.effective_rank for one in trained), median(one.rank_99 for one in trained)
    return (
        f"effective rank {effective:.1f} of {span([one.r for one in trained])} (median); 99 % of the energy is in at "
        f"most {max(one.rank_99 for one in trained)} directions of a module, {usual:.0f} in the median"
    )


def _unreadable_reasons(without: Sequence[Unreadable]) -> Iterator[str]:
    reasons = list(by_key((one.reason, one.module) for one in without).items())
    for reason, modules in reasons[:MAX_LISTED]:
        yield f"{reason} ({counted(len(modules), 'module')}: {safe(names(modules, width=MAX_LENGTH))})"
    if rest := sum(len(modules) for _, modules in reasons[MAX_LISTED:]):
        yield f"for other reasons: {counted(rest, 'module')}, in --format json"


EFFECTS: Mapping[str, str] = {
    "scaling": "changes the scale",
    "meaning": "changes the computation",
    "base": "different base",
    "modules": "changes the selected modules",
    "unknown": "not a PEFT field",
    "training": "only used for training",
}

MULTIPLES = frozenset({"scaled", "related"})
"""The relations for which the factor between A and B is meaningful."""

MAX_NAMES = 6
MAX_VALUE_WIDTH = 200

NUMBERS = ("relation", "cosine", "difference", "factor")

CHANGES: Mapping[str, Callable[[Side], str]] = {
    "rank": lambda side: "none" if side.r is None else str(side.r),
    "scaling": lambda side: "none" if side.scaling is None else f"{side.scaling:.4g}",
    "dtype": lambda side: " and ".join(side.dtypes) or "none",
    "shape": lambda side: f"A {list(side.lora_A or ())}, B {list(side.lora_B or ())}",
}
"""The text of each property of a module that can differ."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table, the most important rows first; the first ``text`` columns are text, the others numbers."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 1


def comparison_facts(name: str, one: Comparison) -> Iterator[tuple[str, str]]:
    """The comparison of all updates and of the headers, as labelled values; ``name`` is A, the inspected adapter."""
    yield from (("A", name), ("B", one.with_.name), ("source of B", one.with_.source))
    all_updates = one.distance
    if all_updates.norm_a is not None:
        if all_updates.cosine is not None:
            yield "cosine", f"{shown_cosine(all_updates.cosine)}, of all updates as one vector"
        if all_updates.difference is not None:
            yield "difference", f"{share_of_a(all_updates.difference)} of the norm of A's updates"
        yield "norms", f"A {all_updates.norm_a:.4g}, B {all_updates.norm_b:.4g}"
    number = len(one.fields)
    yield "config", f"{counted(number, 'field')} differ{'s' * (number == 1)}" if number else "no field differs"
    yield "modules", f"{len(one.modules)} in both, {len(one.only_a)} only in A, {len(one.only_b)} only in B"
    for side, alone in (("A", one.only_a), ("B", one.only_b)):
        yield f"only in {side}", "; ".join(_by_kind_and_layer([module.module for module in alone]))
    for label, tell in CHANGES.items():
        differing = [module for module in one.modules if label in module.differing]
        by_change = by_key((f"{tell(module.a)} -> {tell(module.b)}", module.path) for module in differing)
        for change, paths in list(by_change.items())[:MAX_NAMES]:
            whose = "all" if len(paths) == len(one.modules) else "; ".join(_by_kind_and_layer(paths))
            yield label, f"{change}: {whose}"
        if len(by_change) > MAX_NAMES:
            yield label, f"and {len(by_change) - MAX_NAMES} other changes, in --format json"
    unknown = by_key((module.reason, module.path) for module in one.modules if module.reason)
    for reason, paths in list(unknown.items())[:MAX_NAMES]:
        yield "not compared", f"{'; '.join(_by_kind_and_layer(paths))}: {reason}"


def comparison_tables(one: Comparison) -> Iterator[Table]:
    """Tables of differing fields, tensors, kinds of modules and modules, the largest differences first."""
    changes = [(change.field, EFFECTS[change.effect], changed_values(change)) for change in one.fields]
    differing = [tensor for tensor in one.tensors if not tensor.equal]
    differing.sort(key=lambda tensor: -math.inf if tensor.difference is None else -tensor.difference)
    caption = f"other tensors: {len(differing)} of {counted(len(one.tensors), 'tensor')} differ"
    compared = [module for module in one.modules if module.update is not None]
    placed = module_positions(module.path for module in compared)
    groups = by_key(((module.word, placed[module.path].kind), module) for module in compared)
    kinds = sorted(((kind, found) for (_, kind), found in groups.items()), key=lambda group: _sort_key(group[1]))
    unequal = sorted((module for module in compared if module.word != "equal"), key=lambda one: _sort_key([one]))
    single = [(cut(safe(module.path), 120), *_relation_cells([module])) for module in unequal]
    by_kind = [(cut(safe(kind), 40), str(len(found)), *_relation_cells(found)) for kind, found in kinds]
    tables = (
        Table("fields of the config that differ", ("field", "effect", "A -> B"), changes, 3),
        Table(
            caption, ("tensor", "how"), [(cut(safe(tensor.name), 160), _difference(tensor)) for tensor in differing], 2
        ),
        Table("modules by kind", ("kind", "modules", *NUMBERS), by_kind),
        Table(f"{counted(len(single), 'module')} not equal", ("module", *NUMBERS), single),
    )
    yield from (table for table in tables if table.rows)


def _difference(one: TensorComparison) -> str:
    """The difference of a tensor that is not a LoRA factor."""
    if one.within != "both":
        return f"only in {one.within.upper()}"
    return one.reason or (f"differs by {share_of_a(one.difference)}" if one.difference is not None else "differs")


def _by_kind_and_layer(paths: Sequence[str]) -> list[str]:
    """Modules by kind, with their layers: ``q_proj in layers 0-15 (16)``."""
    placed = module_positions(paths)
    by_kind = by_key((place.kind, place.layer) for place in placed.values())
    parts, left = [], len(paths)
    for kind in ordered(by_kind)[:MAX_NAMES]:
        found = by_kind[kind]
        left -= len(found)
        number = f" ({len(found)})" if len(found) > 1 else ""
        parts.append(cut(safe(kind), 80) + in_layers({layer for layer in found if layer is not None}, 100) + number)
    return [*parts, f"{left} others"] if len(by_kind) > MAX_NAMES else parts


def changed_values(change: FieldChange) -> str:
    """The values of a config field in A and B."""
    if change.only_a or change.only_b:
        alone = (("A", change.only_a), ("B", change.only_b))
        return "; ".join(f"only in {side}: {safe(names(only, MAX_NAMES, 80))}" for side, only in alone if only)
    sides = (f'"{one}"' if isinstance(one, str) else one for one in (change.a, change.b))
    return " -> ".join(shown(one, MAX_VALUE_WIDTH) for one in sides)


def _sort_key(modules: Sequence[ModuleComparison]) -> tuple[int, float]:
    """A sort key for groups of one relation: the worst relation and the largest difference first."""
    found = [one.distance.difference for one in modules]
    return WORDS.index(modules[0].word), -max(math.inf if value is None else value for value in found)


def _relation_cells(found: Sequence[ModuleComparison]) -> tuple[str, ...]:
    """The relation of some modules in A and B, and the ranges of their distances."""
    distances = [one.distance for one in found]
    return (
        found[0].word,
        between((one.cosine for one in distances), shown_cosine),
        between((one.difference for one in distances), share_of_a),
        between((one.factor for one in distances if found[0].word in MULTIPLES), "{:.3g}".format),
    )


def share_of_a(value: float) -> str:
    """A share of A's norm, in percent if that is readable."""
    if value == 0 or 1e-4 <= value < 10:
        return f"{100 * value:.3g} %"
    return f"{value:.2g}" if value < 10 else f"{brief(value)} x"
