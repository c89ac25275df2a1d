"""How two adapters differ, in words and figures: the same on a terminal and on a page."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_cli.core.comparison import WORDS, Comparison, ModuleComparison, Side, TensorComparison
from lora_cli.core.config_changes import FieldChange
from lora_cli.core.grouping import by_key
from lora_cli.core.likeness import shown_cosine
from lora_cli.core.module_grid import ordered, places
from lora_cli.core.text import between, brief, counted, cut, names, safe, shown
from lora_cli.render.inspect_facts import in_layers

EFFECTS: Mapping[str, str] = {
    "scaling": "changes the scale",
    "meaning": "changes what is computed",
    "base": "another base",
    "modules": "changes which modules are reached",
    "unknown": "no field of PEFT's",
    "training": "of training alone",
}

MULTIPLES = frozenset({"scaled", "related"})
"""The words with which the factor that B is of A says something."""

MOST_NAMES = 6
LONGEST_VALUE = 200

NUMBERS = ("relation", "cosine", "difference", "factor")

CHANGES: Mapping[str, Callable[[Side], str]] = {
    "rank": lambda side: "none" if side.r is None else str(side.r),
    "scaling": lambda side: "none" if side.scaling is None else f"{side.scaling:.4g}",
    "dtype": lambda side: " and ".join(side.dtypes) or "none",
    "shape": lambda side: f"A {list(side.lora_A or ())}, B {list(side.lora_B or ())}",
}
"""How each thing that a header or the scale says is written."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a header, the most important first; the first columns, so many as ``text``, are words."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 1


def facts_of(name: str, one: Comparison) -> Iterator[tuple[str, str]]:
    """What all updates and the headers say, as labelled values; ``name`` is A, the adapter that is inspected."""
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
        yield f"only in {side}", "; ".join(_gathered([module.module for module in alone]))
    for label, tell in CHANGES.items():
        differing = [module for module in one.modules if label in module.differing]
        by_change = by_key((f"{tell(module.a)} -> {tell(module.b)}", module.path) for module in differing)
        for change, paths in list(by_change.items())[:MOST_NAMES]:
            whose = "all" if len(paths) == len(one.modules) else "; ".join(_gathered(paths))
            yield label, f"{change}: {whose}"
        if len(by_change) > MOST_NAMES:
            yield label, f"and {len(by_change) - MOST_NAMES} other changes, in --format json"
    unknown = by_key((module.reason, module.path) for module in one.modules if module.reason)
    for reason, paths in list(unknown.items())[:MOST_NAMES]:
        yield "not compared", f"{'; '.join(_gathered(paths))}: {reason}"


def tables_of(one: Comparison) -> Iterator[Table]:
    """What differs: fields, tensors, kinds of modules and single modules, the worst first; those that have rows."""
    changes = [(change.field, EFFECTS[change.effect], values(change)) for change in one.fields]
    apart = [tensor for tensor in one.tensors if not tensor.equal]
    apart.sort(key=lambda tensor: -math.inf if tensor.difference is None else -tensor.difference)
    told = f"other tensors: {len(apart)} of {counted(len(one.tensors), 'tensor')} differ"
    compared = [module for module in one.modules if module.update is not None]
    placed = places(module.path for module in compared)
    groups = by_key(((module.word, placed[module.path].kind), module) for module in compared)
    kinds = sorted(((kind, found) for (_, kind), found in groups.items()), key=lambda group: _worst(group[1]))
    unequal = sorted((module for module in compared if module.word != "equal"), key=lambda one: _worst([one]))
    single = [(cut(safe(module.path), 120), *_numbers([module])) for module in unequal]
    by_kind = [(cut(safe(kind), 40), str(len(found)), *_numbers(found)) for kind, found in kinds]
    tables = (
        Table("fields of the config that differ", ("field", "effect", "A -> B"), changes, 3),
        Table(told, ("tensor", "how"), [(cut(safe(tensor.name), 160), _how(tensor)) for tensor in apart], 2),
        Table("modules by kind", ("kind", "modules", *NUMBERS), by_kind),
        Table(f"{counted(len(single), 'module')} not equal", ("module", *NUMBERS), single),
    )
    yield from (table for table in tables if table.rows)


def _how(one: TensorComparison) -> str:
    """How a tensor beside the factors differs."""
    if one.within != "both":
        return f"only in {one.within.upper()}"
    return one.reason or (f"differs by {share_of_a(one.difference)}" if one.difference is not None else "differs")


def _gathered(paths: Sequence[str]) -> list[str]:
    """Modules by kind, with their layers: ``q_proj in layers 0-15 (16)``."""
    placed = places(paths)
    by_kind = by_key((place.kind, place.layer) for place in placed.values())
    told, left = [], len(paths)
    for kind in ordered(by_kind)[:MOST_NAMES]:
        found = by_kind[kind]
        left -= len(found)
        number = f" ({len(found)})" if len(found) > 1 else ""
        told.append(cut(safe(kind), 80) + in_layers({layer for layer in found if layer is not None}, 100) + number)
    return [*told, f"{left} others"] if len(by_kind) > MOST_NAMES else told


def values(change: FieldChange) -> str:
    """What a field of the config is in A and in B."""
    if change.only_a or change.only_b:
        alone = (("A", change.only_a), ("B", change.only_b))
        return "; ".join(f"only in {side}: {safe(names(only, MOST_NAMES, 80))}" for side, only in alone if only)
    sides = (f'"{one}"' if isinstance(one, str) else one for one in (change.a, change.b))
    return " -> ".join(shown(one, LONGEST_VALUE) for one in sides)


def _worst(modules: Sequence[ModuleComparison]) -> tuple[int, float]:
    """What sorts groups of one word: the worst word first, and the largest difference."""
    found = [one.distance.difference for one in modules]
    return WORDS.index(modules[0].word), -max(math.inf if value is None else value for value in found)


def _numbers(found: Sequence[ModuleComparison]) -> tuple[str, ...]:
    """What the modules, of one word, are to each other, and how far they lie apart."""
    distances = [one.distance for one in found]
    return (
        found[0].word,
        between((one.cosine for one in distances), shown_cosine),
        between((one.difference for one in distances), share_of_a),
        between((one.factor for one in distances if found[0].word in MULTIPLES), "{:.3g}".format),
    )


def share_of_a(value: float) -> str:
    """A share of A's norm: in percent where that is readable."""
    if value == 0 or 1e-4 <= value < 10:
        return f"{100 * value:.3g} %"
    return f"{value:.2g}" if value < 10 else f"{brief(value)} x"
