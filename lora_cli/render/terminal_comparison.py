"""What ``inspect --diff`` prints: one word, the configs, and how far the modules are apart, the farthest first."""

from collections.abc import Callable, Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from lora_cli.core.comparison import Comparison, ModuleComparison, Side, TensorComparison
from lora_cli.core.config_changes import FieldChange
from lora_cli.core.module_grid import ordered, places
from lora_cli.core.text import counted, cut, safe
from lora_cli.render.comparison_facts import EFFECTS, KINDS, MOST_NAMES, by_kind, farthest, share_of_a, total, values
from lora_cli.render.inspect_facts import ranges
from lora_cli.render.terminal import Paragraph, facts, table_or_blocks

STYLES = {"equal": "green", "scaled": "yellow", "related": "yellow", "unrelated": "cyan", "unknown": "red"}
MOST_MODULES = 10


def comparison_parts(name: str, one: Comparison) -> Iterator[RenderableType]:
    """``name`` is A, the adapter that is inspected; B is the other."""
    yield Text("diff", "bold")
    yield from facts([("A", name), ("B", one.with_.name)])
    yield ""
    yield Paragraph(one.reason, Text.assemble((one.word, STYLES[one.word]), ": "), indent=2)
    yield from [Paragraph(one.hint, "hint: ", indent=2)] if one.hint else []
    if rows := total(one):
        yield from ("", *facts(rows))
    yield from ("", *_config(one.fields), "", *_headers(one))
    yield from _tensors(one.tensors)
    yield from _groups(one.modules)


def _config(fields: Sequence[FieldChange]) -> Iterator[RenderableType]:
    if not fields:
        yield "config: no field differs"
        return
    yield f"config: {counted(len(fields), 'field')} differ{'s' * (len(fields) == 1)}"
    effect = ""
    for change in fields:
        if change.effect != effect:
            effect = change.effect
            yield f"  {EFFECTS[effect]}"
        yield Paragraph(values(change), f"{change.field}: ", indent=4)


def _headers(one: Comparison) -> Iterator[RenderableType]:
    """Which modules are where, and what their headers and scales say that differs."""
    counts = f"{len(one.modules)} in both, {len(one.only_a)} only in A, {len(one.only_b)} only in B"
    yield Paragraph(counts, "modules: ")
    for side, alone in (("A", one.only_a), ("B", one.only_b)):
        for told in _gathered([module.module for module in alone]):
            yield Paragraph(told, f"only in {side}: ", indent=2)
    for label, tell in CHANGES.items():
        by_change: dict[str, list[str]] = {}
        for module in one.modules:
            if label in module.differing:
                by_change.setdefault(f"{tell(module.a)} -> {tell(module.b)}", []).append(module.path)
        for change, paths in list(by_change.items())[:MOST_NAMES]:
            whose = "all" if len(paths) == len(one.modules) else "; ".join(_gathered(paths))
            yield Paragraph(f"{label} {change}: {whose}", indent=2, hanging=4)
        yield from _more(len(by_change) - MOST_NAMES, f"other changes of {label}", indent=2)


CHANGES: dict[str, Callable[[Side], str]] = {
    "rank": lambda side: "none" if side.r is None else str(side.r),
    "scaling": lambda side: "none" if side.scaling is None else f"{side.scaling:.4g}",
    "dtype": lambda side: " and ".join(side.dtypes) or "none",
    "shape": lambda side: f"A {list(side.lora_A or ())}, B {list(side.lora_B or ())}",
}
"""How each thing that a header or the scale says is written."""


def _gathered(paths: Sequence[str]) -> list[str]:
    """Modules by kind, with their layers: ``q_proj in layers 0-15 (16)``."""
    by_kind: dict[str, list[str]] = {}
    placed = places(paths)
    for path, place in placed.items():
        by_kind.setdefault(place.kind, []).append(path)
    told = []
    first = ordered(by_kind)[:MOST_NAMES]
    for kind in first:
        layers = sorted({layer for path in by_kind[kind] if (layer := placed[path].layer) is not None})
        where = f" in {'layer' if len(layers) == 1 else 'layers'} {cut(ranges(layers), 100)}" if layers else ""
        told.append(cut(safe(kind), 80) + where + (f" ({len(by_kind[kind])})" if len(by_kind[kind]) > 1 else ""))
    if len(by_kind) > MOST_NAMES:
        told.append(f"{len(paths) - sum(len(by_kind[kind]) for kind in first)} others")
    return told


def _tensors(tensors: Sequence[TensorComparison]) -> Iterator[RenderableType]:
    if not tensors:
        return
    apart = [one for one in tensors if not one.equal]
    yield ""
    yield Paragraph(f"other tensors: {len(apart)} of {counted(len(tensors), 'tensor')} differ")
    apart.sort(key=lambda one: -(one.difference if one.difference is not None else float("inf")))
    for one in apart[:MOST_MODULES]:
        how = f"only in {one.within.upper()}" if one.within != "both" else one.reason
        how = how or (f"differs by {share_of_a(one.difference)}" if one.difference is not None else "differs")
        yield Paragraph(f"{cut(safe(one.name), 160)}: {how}", indent=2, hanging=4)
    yield from _more(len(apart) - MOST_MODULES, "more", indent=2)


def _groups(modules: Sequence[ModuleComparison]) -> Iterator[RenderableType]:
    """Kinds of modules by their relation, the farthest first; then single modules, and those that are not compared."""
    compared = [one for one in modules if one.update is not None]
    if compared:
        yield from _table(KINDS, by_kind(compared), 4 * MOST_MODULES, "more groups")
    if apart := farthest(compared):
        yield from _table(("largest differences", *KINDS[2:]), apart, MOST_MODULES, "more that are not equal")
    unknown: dict[str, list[str]] = {}
    for one in modules:
        if one.reason:
            unknown.setdefault(one.reason, []).append(one.path)
    yield from [""] * bool(unknown)
    for reason, paths in list(unknown.items())[:MOST_NAMES]:
        yield Paragraph(f"{'; '.join(_gathered(paths))}: {reason}", "not compared: ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], most: int, more: str) -> Iterator[RenderableType]:
    yield ""
    yield table_or_blocks(head, [[Text(cell, STYLES.get(cell, "")) for cell in row] for row in rows[:most]])
    yield from _more(len(rows) - most, more)


def _more(number: int, what: str, indent: int = 0) -> list[RenderableType]:
    return [Paragraph(f"and {number} {what}, in --format json", indent=indent)] if number > 0 else []
