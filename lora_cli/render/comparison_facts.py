"""How two adapters differ, in words and figures: the same on a terminal and on a page."""

from collections.abc import Mapping, Sequence
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
    if one.total is None:
        return []
    cosine, difference = one.total.cosine, one.total.difference
    return [
        ("cosine", "" if cosine is None else f"{shown_cosine(cosine)}, of all updates as one vector"),
        ("difference", "" if difference is None else f"{share_of_a(difference)} of the norm of A's updates"),
        ("norms", f"A {one.total.norm:.4g}, B {one.total.other_norm:.4g}"),
    ]


def values(change: FieldChange) -> str:
    """What a field of the config is in A and in B."""
    if change.only_a or change.only_b:
        sides = (("A", change.only_a), ("B", change.only_b))
        said = [f"only in {side}: {safe(names(only, MOST_NAMES, 80))}" for side, only in sides if only]
        return "; ".join(said)
    return f"{_value(change.a)} -> {_value(change.b)}"


def _value(value: Any) -> str:
    return shown(value, LONGEST_VALUE) if not isinstance(value, str) else shown(f'"{value}"', LONGEST_VALUE)


def by_kind(modules: Sequence[ModuleComparison]) -> list[tuple[str, ...]]:
    """Rows under ``KINDS``: kinds of modules by what they are to each other, the worst first."""
    placed = places(one.path for one in modules)
    groups: dict[tuple[str, str], list[ModuleComparison]] = {}
    for one in modules:
        groups.setdefault((one.word, placed[one.path].kind), []).append(one)
    order = sorted(groups, key=lambda key: (WORDS.index(key[0]), -_worst(groups[key])))
    return [_row(word, kind, groups[word, kind]) for word, kind in order]


def farthest(modules: Sequence[ModuleComparison]) -> list[tuple[str, ...]]:
    """Rows of the single modules that are not equal, the worst first: as under ``KINDS`` without ``modules``."""
    apart = (one for one in modules if one.word != "equal")
    return [_single(one) for one in sorted(apart, key=lambda one: (WORDS.index(one.word), -_worst([one])))]


def _worst(modules: Sequence[ModuleComparison]) -> float:
    found = [one.distance.difference for one in modules if one.distance is not None]
    return max((value if value is not None else float("inf") for value in found), default=float("inf"))


def _row(word: str, kind: str, found: Sequence[ModuleComparison]) -> tuple[str, ...]:
    distances = [one.distance for one in found if one.distance is not None]
    return (
        cut(safe(kind), 40),
        str(len(found)),
        word,
        _between([one.cosine for one in distances], shown_cosine),
        _between([one.difference for one in distances], share_of_a),
        _between([one.factor for one in distances if one.norm and one.word in MULTIPLES], "{:.3g}".format),
    )


def _single(one: ModuleComparison) -> tuple[str, ...]:
    return (cut(safe(one.path), 120), *_row(one.word, "", [one])[2:])


def _between(values: Sequence[float | None], told: Any) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, high = told(min(known)), told(max(known))
    return low if low == high else f"{low} to {high}"


def share_of_a(value: float) -> str:
    """A share of A's norm: in percent where that is readable."""
    return (
        f"{100 * value:.3g} %"
        if value == 0 or 1e-4 <= value < 10
        else f"{value:.2g}"
        if value < 10
        else f"{brief(value)} x"
    )
