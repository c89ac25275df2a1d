"""What an adapter is, as labelled values in words: the same on a terminal and on a page. Empty ones are not told."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from lora_cli.core.card import Card
from lora_cli.core.finding import Finding
from lora_cli.core.grouping import by_key
from lora_cli.core.inspection import Inspection
from lora_cli.core.module_facts import layer_of, leaf_of
from lora_cli.core.text import counted, cut, size, span
from lora_cli.core.writers import PEFT
from lora_cli.validation.report import CheckedAdapter

UNKNOWN = "unknown"

MOST_VALUES, MOST_PLACES, MOST_WORDS, MOST_METADATA, MOST_TARGETS = 6, 4, 12, 4, 16
"""So many values, places of a value, words of a card, keys of a header and targets are named; of more it is said."""

Rows = list[tuple[str, str]]


def identity(checked: CheckedAdapter[Finding], one: Inspection) -> Rows:
    """Which bytes these are."""
    return [
        ("source", checked.source),
        ("revision", checked.revision or ""),
        ("sha256", one.sha256),
        ("snapshot", one.snapshot),
    ]


def contents(checked: CheckedAdapter[Finding], one: Inspection) -> Rows:
    """What an adapter has in its files, what that needs, and how many of its modules the base model has."""
    applied = checked.applied
    targets = ", ".join(sorted(one.targets)[:MOST_TARGETS]) + (" …" if len(one.targets) > MOST_TARGETS else "")
    slot = ""
    if one.slot_bytes is not None:  # what it needs of a GPU by itself: no engine is as frugal
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
    """Who made it, and what stands beside it. The version of PEFT usually is in the config."""
    told = {by.tool: f"{by.version} ({by.told_by})".lstrip() for by in one.writers}
    peft = next((by.version for by in one.writers if by.tool == PEFT and "config" in by.told_by), told.pop(PEFT, ""))
    return [
        (PEFT, peft),
        ("trainer", ", ".join(f"{tool} {version}" for tool, version in told.items()) or UNKNOWN),
        ("metadata", _some([f"{key}={value}" for key, value in one.metadata.items()], MOST_METADATA)),
        *_card(one.card, one.base),
    ]


def _by_value(modules: Mapping[str, float | None], form: str) -> str:
    """One value alone; of several each with how many modules have it, and of all but the commonest with which."""
    by_value = by_key((value, module) for module, value in modules.items() if value is not None)
    if len(by_value) < 2:
        return "".join(map(form.format, by_value))
    told: list[str] = []
    every = Counter(map(leaf_of, modules))
    for value, found in sorted(by_value.items(), key=lambda item: -len(item[1]))[:MOST_VALUES]:
        where = f": {_some(list(_places(found, every)), MOST_PLACES)}" if told else ""
        told.append(f"{form.format(value)} ({counted(len(found), 'module')}{where})")
    return ", ".join(told) + _others(len(by_value))


def _others(number: int) -> str:
    return f" and {number - MOST_VALUES} others" if number > MOST_VALUES else ""


def _places(modules: Iterable[str], every: Mapping[str, int]) -> Iterator[str]:
    """The last names of ``modules``, each with its layers where others of the ``every`` have that name, too."""
    for leaf, layers in by_key((leaf_of(module), layer_of(module)) for module in modules).items():
        is_whole = len(layers) == every[leaf]
        yield leaf if is_whole else leaf + in_layers({layer for layer in layers if layer is not None})


def _some(words: Sequence[str], most: int) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def _dtypes(counts: Mapping[str, int]) -> str:
    """One dtype alone, or each with how many tensors have it."""
    if len(counts) == 1:
        return next(iter(counts))
    told = [f"{dtype} ({counted(number, 'tensor')})" for dtype, number in list(counts.items())[:MOST_VALUES]]
    return ", ".join(told) + _others(len(counts))


def _card(card: Card | None, base: str) -> Rows:
    """What the model card says. A base that it names otherwise than the config is told; the same one is not."""
    if card is None:
        return [("license", f"{UNKNOWN} (no README.md)")]
    if card.error:
        return [("license", UNKNOWN), ("card", f"not read: {card.error}")]
    words = [word for word in (card.license, card.license_name) if word]
    return [
        ("license", " ".join((*words, f"({card.license_link})")) if card.license_link else " ".join(words) or UNKNOWN),
        ("card base", _some(card.base_model, MOST_WORDS) if set(card.base_model) - {base} else ""),
        ("library", card.library_name),
        ("pipeline", card.pipeline_tag),
        ("language", _some(card.language, MOST_WORDS)),
        ("datasets", _some(card.datasets, MOST_WORDS)),
        ("tags", _some(card.tags, MOST_WORDS)),
    ]


def in_layers(layers: Collection[int], width: int | None = None) -> str:
    """`` in layers 0-15, 18``, cut to ``width`` columns; empty without any."""
    told = ranges(sorted(layers))
    return f" in layer{'s' * (len(layers) > 1)} {told if width is None else cut(told, width)}" if layers else ""


def ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers, with runs drawn together: ``0-15, 18``."""
    runs = by_key((number - place, number) for place, number in enumerate(numbers)).values()
    return ", ".join(span(run) for run in runs)
