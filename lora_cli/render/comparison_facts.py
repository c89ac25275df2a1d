"""How two adapters differ, in words and figures: the same on a terminal and on a page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_cli.core.comparison import WORDS, Comparison, ModuleComparison
from lora_cli.core.config_changes import FieldChange
from lora_cli.core.likeness import shown_cosine
from lora_cli.core.module_grid import places
from lora_cli.core.text import brief, cut, names, safe, shown

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

KINDS = ("kind", "modules", "relation", "cosine", "difference", "factor")


def total(one: Comparison) -> list[tuple[str, str]]:
    """How far all updates as one vector lie apart, as labelled values."""
    found = one.distance
    if found.norm_a is None:
        return []
    return [
        ("cosine", "" if found.cosine is None else f"{shown_cosine(found.cosine)}, of all updates as one vector"),
        (
            "difference",
            "" if found.difference is None else f"{share_of_a(found.difference)} of the norm of A's updates",
        ),
        ("norms", f"A {found.norm_a:.4g}, B {found.norm_b:.4g}"),
    ]


def values(change: FieldChange) -> str:
    """What a field of the config is in A and in B."""
    if change.only_a or change.only_b:
        sides = (("A", change.only_a), ("B", change.only_b))
        return "; ".join(f"only in {side}: {safe(names(only, MOST_NAMES, 80))}" for side, only in sides if only)
    return " -> ".join(map(_value, (change.a, change.b)))


def _value(value: Any) -> str:
    return shown(f'"{value}"' if isinstance(value, str) else value, LONGEST_VALUE)


def by_kind(modules: Sequence[ModuleComparison]) -> list[tuple[str, ...]]:
    """Rows under ``KINDS``: kinds of modules by what they are to each other, the worst first."""
    placed = places(one.path for one in modules)
    groups: dict[tuple[str, str], list[ModuleComparison]] = {}
    for one in modules:
        groups.setdefault((one.word, placed[one.path].kind), []).append(one)
    ordered = sorted(groups.items(), key=lambda group: _worst(group[1]))
    return [(cut(safe(kind), 40), str(len(found)), *_numbers(found)) for (_, kind), found in ordered]


def farthest(modules: Sequence[ModuleComparison]) -> list[tuple[str, ...]]:
    """Rows of the single modules that are not equal, the worst first: as under ``KINDS`` without ``modules``."""
    apart = sorted((one for one in modules if one.word != "equal"), key=lambda one: _worst([one]))
    return [(cut(safe(one.path), 120), *_numbers([one])) for one in apart]


def _worst(modules: Sequence[ModuleComparison]) -> tuple[int, float]:
    """What sorts groups of one word: the worst word first, and the largest difference."""
    found = [one.distance.difference for one in modules]
    return WORDS.index(modules[0].word), -max(float("inf") if value is None else value for value in found)


def _numbers(found: Sequence[ModuleComparison]) -> tuple[str, ...]:
    """What the modules, of one word, are to each other, and how far they lie apart."""
    distances = [one.distance for one in found]
    return (
        found[0].word,
        _between([one.cosine for one in distances], shown_cosine),
        _between([one.difference for one in distances], share_of_a),
        _between([one.factor for one in distances if found[0].word in MULTIPLES], "{:.3g}".format),
    )


def _between(values: Sequence[float | None], told: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    return " to ".join(dict.fromkeys((told(min(known)), told(max(known))))) if known else "-"


def share_of_a(value: float) -> str:
    """A share of A's norm: in percent where that is readable."""
    if value == 0 or 1e-4 <= value < 10:
        return f"{100 * value:.3g} %"
    return f"{value:.2g}" if value < 10 else f"{brief(value)} x"
