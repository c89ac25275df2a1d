"""Facts of ``inspect`` for the terminal: the adapter, and its comparison with another one.

Facts are labelled values in words; empty ones are not reported.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from lora_cli.adapter.comparison import Comparison, FieldChange, Stored
from lora_cli.adapter.names import layer_of, leaf_of
from lora_cli.documents.model_card import Card
from lora_cli.grouping import by_key
from lora_cli.judging.inspection import Inspection
from lora_cli.judging.result import Result
from lora_cli.text import counted, cut, names, safe, shown, size, span

UNKNOWN = "unknown"

MAX_VALUES, MAX_PLACES, MAX_WORDS, MAX_TARGETS = 6, 4, 12, 16
"""The most values, places of a value, words of a card, and targets that are listed."""

Rows = list[tuple[str, str]]


def identity(result: Result, one: Inspection) -> Rows:
    """The source, revision and digests."""
    return [
        ("source", result.source),
        ("revision", result.revision or ""),
        ("sha256", one.sha256),
        ("snapshot", result.digest or ""),
    ]


def contents(result: Result, one: Inspection) -> Rows:
    """The adapter's config and tensors, and the number of modules that apply to the base."""
    applied = result.applied
    targets = ", ".join(sorted(one.targets)[:MAX_TARGETS]) + (" …" if len(one.targets) > MAX_TARGETS else "")
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
        ("values", "not read: lora-cli validate reads them"),
        ("parameters", f"{one.parameters:,}" if one.modules else ""),
        ("size", f"{tensors}{size(one.total_bytes)} in {counted(one.files, 'file')}"),
        ("features", ", ".join(one.features)),
        ("task", one.task_type),
    ]


def origin(one: Inspection) -> Rows:
    """The version of PEFT that wrote it, its licence, and the base of its model card."""
    return [
        ("PEFT", one.peft_version[:40]),
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
    ]


def in_layers(layers: Collection[int]) -> str:
    """`` in layers 0-15, 18``; empty without any."""
    return f" in layer{'s' * (len(layers) > 1)} {ranges(sorted(layers))}" if layers else ""


def ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers as ranges: ``0-15, 18``."""
    runs = by_key((number - place, number) for place, number in enumerate(numbers)).values()
    return ", ".join(span(run) for run in runs)


MAX_NAMES = 6
MAX_VALUE_WIDTH = 200


def changed_values(change: FieldChange) -> str:
    """The values of a config field in A and B."""
    a, b = change.a, change.b
    if isinstance(a, tuple) and isinstance(b, tuple) and all(isinstance(one, str) for one in (*a, *b)):
        alone = (("A", sorted({*a} - {*b})), ("B", sorted({*b} - {*a})))
        return "; ".join(f"only in {side}: {safe(names(only, MAX_NAMES, 80))}" for side, only in alone if only)
    sides = (f'"{one}"' if isinstance(one, str) else one for one in (a, b))
    return " -> ".join(shown(one, MAX_VALUE_WIDTH) for one in sides)


def comparison_facts(name: str, one: Comparison) -> Iterator[tuple[str, str]]:
    """Both adapters, and how much of their configs and headers differs; ``name`` is A, the inspected adapter."""
    yield from (("A", name), ("B", one.with_.name), ("source of B", one.with_.source))
    number = len(one.fields)
    yield "config", f"{counted(number, 'field')} differ{'s' * (number == 1)}" if number else "no field differs"
    number = len(one.tensors or ())
    differ = f"{counted(number, 'tensor')} differ{'s' * (number == 1)}" if number else "no tensor differs"
    yield "header", "not compared: not both could be read" if one.tensors is None else differ


def comparison_tables(one: Comparison) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Caption, header and rows of the tables of fields and tensors that differ; those of all layers are one row."""
    fields = [(change.field, changed_values(change)) for change in one.fields]
    alike = by_key(((re.sub(r"\b\d+\b", "*", change.name), change.a, change.b), change) for change in one.tensors or ())
    tensors = [
        (cut(safe(name if len(found) > 1 else found[0].name), 160), _stored(a), _stored(b), str(len(found)))
        for (name, a, b), found in alike.items()
    ]
    if fields:
        yield "fields of the config that differ", ("field", "A -> B"), fields
    if tensors:
        yield "tensors that differ", ("tensors", "A", "B", "number"), tensors


def _stored(one: Stored | None) -> str:
    return "-" if one is None else f"{one.dtype} {list(one.shape)}"
