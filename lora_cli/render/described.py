"""What an adapter is, as labelled values in words: the same on a terminal and on a page. Empty ones are not told."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from lora_cli.core.card import Card
from lora_cli.core.inspection import Inspection
from lora_cli.core.module_facts import LeafGroup, ModuleFacts, by_leaf
from lora_cli.core.text import counted, size
from lora_cli.core.writers import PEFT, Writer
from lora_cli.render.inspect_report import AdapterSummary, ModelCard, ModuleSummary, WriterReport
from lora_cli.validation import Checked

UNKNOWN = "unknown"

MOST_VALUES, MOST_PLACES, MOST_WORDS, MOST_METADATA = 6, 4, 12, 4
"""So many values, places of a value, words of a card and keys of a header are named, and how many more there are."""

Rows = list[tuple[str, str]]


def identity(checked: Checked, one: Inspection) -> Rows:
    """Which bytes these are."""
    return [
        ("source", checked.source),
        ("revision", checked.revision.id if checked.revision is not None else ""),
        ("sha256", one.sha256),
        ("snapshot", one.snapshot),
    ]


def shape(checked: Checked, one: Inspection) -> Rows:
    """What is in them, and what that needs."""
    applied = checked.verdict.applied if checked.verdict is not None else None
    return contents(one, f"{applied} modules" if applied is not None else "")


def contents(one: Inspection | AdapterSummary, applied: str = "") -> Rows:
    """What an adapter has in its files, what that needs, and how many of its modules are ``applied``."""
    return [
        ("format", one.format),
        ("base", one.base + (f" at {one.base_revision}" if one.base_revision else "")),
        ("applies", applied),
        ("rank", _by_value(one.by_module, lambda module: module.r, str)),
        ("scaling", _by_value(one.by_module, lambda module: module.scaling, "{:.6g}".format)),
        ("targets", _targets(one)),
        ("layers", f"{ranges(one.layers)} ({len(one.layers)})" if one.layers else ""),
        ("dtype", _spread(one.dtypes, "tensor")),
        ("parameters", f"{one.parameters:,}" if one.modules else ""),
        ("size", _size(one)),
        ("slot", _slot(one)),
        ("features", ", ".join(one.features)),
        ("task", one.task_type),
    ]


def origin(one: Inspection | AdapterSummary) -> Rows:
    """Who made it, and what stands beside it."""
    return [
        (PEFT, next((_writer(writer, ours=True) for writer in one.writers if writer.tool == PEFT), "")),
        ("trainer", ", ".join(_writer(writer) for writer in one.writers if writer.tool != PEFT) or UNKNOWN),
        ("metadata", _some((f"{key}={value}" for key, value in one.metadata.items()), MOST_METADATA)),
        *_card(one.card, one.base),
    ]


def _by_value(
    modules: Sequence[ModuleFacts | ModuleSummary],
    value_of: Callable[[ModuleFacts | ModuleSummary], float | None],
    form: Callable[[float], str],
) -> str:
    """One value alone; of several each with how many modules have it, and of all but the commonest with which."""
    by_value: dict[float, list[str]] = {}
    for module in modules:
        if (value := value_of(module)) is not None:
            by_value.setdefault(value, []).append(module.module)
    if len(by_value) < 2:
        return "".join(map(form, by_value))
    among = [module.module for module in modules]
    common, *others = sorted(by_value, key=lambda value: -len(by_value[value]))
    told = [f"{form(common)} ({counted(len(by_value[common]), 'module')})"]
    for value in others[: MOST_VALUES - 1]:
        where = _some(map(_place, by_leaf(by_value[value], among)), MOST_PLACES)
        told.append(f"{form(value)} ({counted(len(by_value[value]), 'module')}: {where})")
    return ", ".join(told) + (f" and {len(others) - MOST_VALUES + 1} others" if len(others) >= MOST_VALUES else "")


def _place(place: LeafGroup) -> str:
    if place.whole or not place.layers:
        return place.leaf
    return f"{place.leaf} in layer{'s' if len(place.layers) > 1 else ''} {ranges(place.layers)}"


def _some(words: Iterable[str], most: int) -> str:
    listed = list(words)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _spread(counts: Mapping[str, int], noun: str, most: int = MOST_VALUES) -> str:
    """One value alone, or each with how many have it."""
    if len(counts) == 1:
        return str(next(iter(counts)))
    told = [f"{value} ({counted(number, noun)})" for value, number in list(counts.items())[:most]]
    return ", ".join(told) + (f" and {len(counts) - most} others" if len(counts) > most else "")


def _targets(one: Inspection | AdapterSummary, most: int = 16) -> str:
    told = ", ".join(sorted(one.targets)[:most]) + (" …" if len(one.targets) > most else "")
    return f"{told} ({counted(one.modules, 'module')})" if one.targets else ""


def _size(one: Inspection | AdapterSummary) -> str:
    tensors = f"{size(one.weight_bytes)} of tensors, " if one.weight_bytes else ""
    return f"{tensors}{size(one.total_bytes)} in {counted(one.files, 'file')}"


def _slot(one: Inspection | AdapterSummary) -> str:
    """What it needs of a GPU by itself: no engine is as frugal."""
    if one.slot_bytes is None:
        return ""
    return (
        f"{size(one.slot_bytes)} on the GPU at its own ranks, in {one.slot_dtype}; "
        "an engine's slots are larger (--engine-args)"
    )


def _writer(writer: Writer | WriterReport, *, ours: bool = False) -> str:
    """Tool, version, and what told it; of ``ours`` the label names the tool, and its config usually tells it."""
    if ours:
        return writer.version if "config" in writer.told_by else f"{writer.version} ({writer.told_by})"
    return f"{writer.tool}{' ' + writer.version if writer.version else ''} ({writer.told_by})"


def _card(card: Card | ModelCard | None, base: str) -> Rows:
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


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers, with runs drawn together: ``0-15, 18``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(str(end) for end in run) for run in runs)
