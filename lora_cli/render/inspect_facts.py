"""What an adapter is, as labelled values in words: the same on a terminal and on a page. Empty ones are not told."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lora_cli.core.card import Card
from lora_cli.core.finding import Finding
from lora_cli.core.inspection import Inspection
from lora_cli.core.module_facts import layer_of, leaf_of
from lora_cli.core.text import counted, size
from lora_cli.core.writers import PEFT, Writer
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
        ("slot", _slot(one.slot_bytes, one.slot_dtype)),
        ("features", ", ".join(one.features)),
        ("task", one.task_type),
    ]


def origin(one: Inspection) -> Rows:
    """Who made it, and what stands beside it."""
    return [
        (PEFT, next((_peft(writer) for writer in one.writers if writer.tool == PEFT), "")),
        ("trainer", ", ".join(_trainer(writer) for writer in one.writers if writer.tool != PEFT) or UNKNOWN),
        ("metadata", _some([f"{key}={value}" for key, value in one.metadata.items()], MOST_METADATA)),
        *_card(one.card, one.base),
    ]


def _by_value(modules: Mapping[str, float | None], form: str) -> str:
    """One value alone; of several each with how many modules have it, and of all but the commonest with which."""
    by_value: dict[float, list[str]] = {}
    for module, value in modules.items():
        if value is not None:
            by_value.setdefault(value, []).append(module)
    if len(by_value) < 2:
        return "".join(map(form.format, by_value))
    common, *others = sorted(by_value, key=lambda value: -len(by_value[value]))
    told, every = (
        [f"{form.format(common)} ({counted(len(by_value[common]), 'module')})"],
        Counter(map(leaf_of, modules)),
    )
    for value in others[: MOST_VALUES - 1]:
        where = _some(list(_places(by_value[value], every)), MOST_PLACES)
        told.append(f"{form.format(value)} ({counted(len(by_value[value]), 'module')}: {where})")
    return ", ".join(told) + (f" and {len(others) - MOST_VALUES + 1} others" if len(others) >= MOST_VALUES else "")


def _places(modules: Iterable[str], every: Mapping[str, int]) -> Iterator[str]:
    """The last names of ``modules``, each with its layers where others of the ``every`` have that name, too."""
    by_leaf: dict[str, list[str]] = {}
    for module in modules:
        by_leaf.setdefault(leaf_of(module), []).append(module)
    for leaf, held in by_leaf.items():
        layers = sorted({layer for module in held if (layer := layer_of(module)) is not None})
        is_whole = len(held) == every[leaf] or not layers
        yield leaf if is_whole else f"{leaf} in layer{'s' * (len(layers) > 1)} {ranges(layers)}"


def _some(words: Sequence[str], most: int) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def _dtypes(counts: Mapping[str, int]) -> str:
    """One dtype alone, or each with how many tensors have it."""
    if len(counts) == 1:
        return next(iter(counts))
    told = [f"{dtype} ({counted(number, 'tensor')})" for dtype, number in list(counts.items())[:MOST_VALUES]]
    return ", ".join(told) + (f" and {len(counts) - MOST_VALUES} others" if len(counts) > MOST_VALUES else "")


def _slot(nbytes: int | None, dtype: str) -> str:
    """What it needs of a GPU by itself: no engine is as frugal."""
    if nbytes is None:
        return ""
    return f"{size(nbytes)} on the GPU at its own ranks, in {dtype}; an engine's slots are larger (--engine-args)"


def _peft(writer: Writer) -> str:
    """The version of PEFT, and what told it, which usually is the config."""
    return writer.version if "config" in writer.told_by else f"{writer.version} ({writer.told_by})"


def _trainer(writer: Writer) -> str:
    return f"{writer.tool}{' ' + writer.version if writer.version else ''} ({writer.told_by})"


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


def ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers, with runs drawn together: ``0-15, 18``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(str(end) for end in run) for run in runs)
