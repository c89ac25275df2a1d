"""The terminal output of ``inspect``: overview and facts of each adapter, differences, and an engine's flags.

Facts are labelled values in words; empty ones are not reported.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lora_cli.adapter.comparison import Change, Comparison
from lora_cli.adapter.names import layer_of, leaf_of
from lora_cli.judging.engine_args import EngineArgs
from lora_cli.judging.inspection import Inspected, InspectReport
from lora_cli.render.terminal import (
    MIN_NAME_WIDTH,
    Paragraph,
    facts,
    hints,
    separated,
    table,
    table_or_blocks,
    text,
)
from lora_cli.text import between, by_key, counted, cut, names, safe, shown, size, span

MAX_VALUES, MAX_PLACES, MAX_WORDS, MAX_TARGETS = 6, 4, 12, 16
"""The most values, places of a value, words of a card, and targets that are listed."""

MAX_LISTED = 8
"""The most adapters that are listed for one reason."""

MAX_ROWS, MAX_NAMES, MAX_VALUE_WIDTH = 20, 6, 200
HEADER = ("adapter", "base", "targets", "dtype", "rank", "scaling", "size")

Rows = list[tuple[str, str]]


def inspection_parts(report: InspectReport, width: int) -> Iterator[RenderableType]:
    """All adapters of the report, in ``width`` columns."""
    several = len(report.adapters) > 1
    described = [_facts(one) for one in report.adapters]
    read = [rows for rows in described if rows]
    common = [row for row in read[0] if all(row in rows for rows in read)] if several and len(read) > 1 else []
    whose = f"all {len(read)} adapters{' that were read' if len(read) < len(described) else ''}"
    blocks: list[Iterable[RenderableType]] = [[_overview(report.adapters, width)]] if several else []
    blocks += [[Text(whose, "bold"), *facts(common)]] if common else []
    for one, rows in zip(report.adapters, described, strict=True):
        shown_above = {*common, *zip(HEADER[1:], _cells(one), strict=True)} if several else set()
        own = facts(row for row in rows if row not in shown_above)
        error = one.result.error
        why = () if error is None else (Paragraph(error.message, indent=2), *hints(error.hint))
        blocks += [[text(one.result.name, "bold"), *own, *why], _diff_parts(one)]
    return separated(*blocks)


def _overview(adapters: Sequence[Inspected], width: int) -> Table:
    """A row for each adapter; without the base if it is the same for all."""
    rows = [
        HEADER,
        *((cut(safe(one.result.name), max(MIN_NAME_WIDTH, width // 4 - 3)), *_cells(one)) for one in adapters),
    ]
    bases = {one.inspection.base for one in adapters if one.inspection is not None}
    header, *cells = [(row[0], *row[2:]) for row in rows] if len(bases) < 2 else rows
    compared = table(header, cells, left=len(header) - 3)
    compared.columns[0].no_wrap = True
    return compared


def _cells(one: Inspected) -> tuple[str, ...]:
    """The cells below ``HEADER`` after the name."""
    found = one.inspection
    if found is None:
        return ("-", "not read", *["-"] * 4)
    return (
        found.base.rpartition("/")[2] or "-",
        ", ".join(sorted(found.targets)) or "-",
        ", ".join(found.dtypes) or "-",
        span(list(found.ranks)) if found.ranks else "-",
        between(found.scalings, "{:.6g}".format),
        size(found.total_bytes),
    )


def _facts(one: Inspected) -> Rows:
    """What the adapter is and where it is from, and how many modules apply to the base; empty if it was not read."""
    result, found = one.result, one.inspection
    if found is None:
        return []
    targets = ", ".join(sorted(found.targets)[:MAX_TARGETS]) + (" …" if len(found.targets) > MAX_TARGETS else "")
    tensors = f"{size(found.weight_bytes)} of tensors, " if found.weight_bytes else ""
    dtypes = [f"{dtype} ({counted(number, 'tensor')})" for dtype, number in list(found.dtypes.items())[:MAX_VALUES]]
    card, words, others = found.card, list[str](), tuple[str, ...]()
    if card is not None:
        others = card.base_model
        words = [card.license, card.license_name, f"({card.license_link})" if card.license_link else ""]
    rows = [
        ("source", result.source),
        ("revision", result.revision or ""),
        ("sha256", found.sha256),
        ("snapshot", result.digest or ""),
        ("format", found.format),
        ("base", found.base + (f" at {found.base_revision}" if found.base_revision else "")),
        ("applies", f"{result.applied} modules" if result.applied is not None else ""),
        ("rank", _by_value({module.module: module.r for module in found.by_module}, "{}")),
        ("scaling", _by_value({module.module: module.scaling for module in found.by_module}, "{:.6g}")),
        ("targets", f"{targets} ({counted(found.modules, 'module')})" if targets else ""),
        ("layers", f"{ranges(found.layers)} ({len(found.layers)})" if found.layers else ""),
        ("dtype", next(iter(found.dtypes)) if len(dtypes) == 1 else ", ".join(dtypes) + _others(len(found.dtypes))),
        ("values", "not read: lora-cli validate reads them"),
        ("parameters", f"{found.parameters:,}" if found.modules else ""),
        ("size", f"{tensors}{size(found.total_bytes)} in {counted(found.files, 'file')}"),
        ("features", ", ".join(found.features)),
        ("task", found.task_type),
        ("PEFT", found.peft_version[:40]),
        ("license", " ".join(filter(None, words)) or "unknown" + " (no README.md)" * (card is None)),
        ("card", f"not read: {card.error}" if card is not None and card.error else ""),
        ("card base", _listed(others, MAX_WORDS) if {*others} - {found.base} else ""),
        ("signed by", safe(", ".join(result.signers or ()))),
    ]
    return [row for row in rows if row[1]]


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


def in_layers(layers: Collection[int]) -> str:
    """`` in layers 0-15, 18``; empty without any."""
    return f" in layer{'s' * (len(layers) > 1)} {ranges(sorted(layers))}" if layers else ""


def ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers as ranges: ``0-15, 18``."""
    runs = by_key((number - place, number) for place, number in enumerate(numbers)).values()
    return ", ".join(span(run) for run in runs)


def _diff_parts(one: Inspected) -> Iterator[RenderableType]:
    """The differences from another adapter, if that was asked for; the adapter is A, the other one is B."""
    if (diff := one.diff) is None:
        return
    number = len(diff.fields)
    config = f"{counted(number, 'field')} differ{'s' * (number == 1)}" if number else "no field differs"
    number = len(diff.tensors or ())
    header = f"{counted(number, 'tensor')} differ{'s' * (number == 1)}" if number else "no tensor differs"
    rows = [
        ("A", one.result.name),
        ("B", diff.with_.name),
        ("source of B", diff.with_.source),
        ("config", config),
        ("header", "not compared: not both could be read" if diff.tensors is None else header),
    ]
    yield from (Text("diff", "bold"), *facts(rows))
    for caption, columns, cells in _diff_tables(diff):
        yield from ("", Text(caption, "bold"), table_or_blocks(columns, cells[:MAX_ROWS], left=3))
        if len(cells) > MAX_ROWS:
            yield Paragraph(f"and {len(cells) - MAX_ROWS} more, in --format json")


def _changed_values(change: Change) -> str:
    """The values of a config field in A and B."""
    a, b = change.a, change.b
    if isinstance(a, tuple) and isinstance(b, tuple) and all(isinstance(one, str) for one in (*a, *b)):
        alone = (("A", sorted({*a} - {*b})), ("B", sorted({*b} - {*a})))
        return "; ".join(f"only in {side}: {safe(names(only, MAX_NAMES, 80))}" for side, only in alone if only)
    sides = (f'"{one}"' if isinstance(one, str) else one for one in (a, b))
    return " -> ".join(shown(one, MAX_VALUE_WIDTH) for one in sides)


def _diff_tables(one: Comparison) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Caption, header and rows of the tables of fields and tensors that differ; those of all layers are one row."""
    fields = [(change.name, _changed_values(change)) for change in one.fields]
    alike = by_key(((re.sub(r"\b\d+\b", "*", change.name), change.a, change.b), change) for change in one.tensors or ())
    tensors = [
        (cut(safe(name if len(found) > 1 else found[0].name), 160), safe(a or "-"), safe(b or "-"), str(len(found)))
        for (name, a, b), found in alike.items()
    ]
    if fields:
        yield "fields of the config that differ", ("field", "A -> B"), fields
    if tensors:
        yield "tensors that differ", ("tensors", "A", "B", "number"), tensors


def engine_args_parts(report: InspectReport, args: EngineArgs, *, command: bool = True) -> Iterator[RenderableType]:
    """A title, the command that starts the engine, its costs, and the differences from another adapter, if any.

    The command has an option per line; there is no command if no adapter is served.
    """
    from lora_cli.engines import ENGINES

    number = len(args.served) + len(args.left_out) + len(args.served_wrong)
    few = f"{len(args.served)} of " if len(args.served) < number else ""
    on = f" on {report.base.name}" if report.base is not None else ""
    title = f"{ENGINES[args.engine].title} {args.version} for {few}{counted(number, 'adapter')}{on}"
    below = facts(_costs(args))
    for one in report.adapters:
        if differences := list(_diff_parts(one)):
            below += ["", text(one.result.name), *differences]
    lines = [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in args.command.splitlines() if command]
    return separated([Text(safe(title), "bold", overflow="fold")], lines, below)


def _costs(args: EngineArgs) -> Iterator[tuple[str, str]]:
    """The least memory, and the adapters that are not served, or served incorrectly."""
    if args.served:
        own = f"rank {args.max_lora_rank} in half precision for the adapters' own modules"
        yield "slot", f"at least {size(args.slot_bytes)} on the GPU: {own}"
        total = f"{args.max_loras} x {size(args.slot_bytes)} = at least {size(args.max_loras * args.slot_bytes)}"
        is_small = len(args.served) > args.max_loras
        yield "slots", f"{total}: {'adapters are swapped' if is_small else 'every adapter stays on the GPU'}"
        yield "warning", "adapters loaded later are silently served without modules that are not listed here"
    for label, remarks in (("left out", args.left_out), ("wrong", args.served_wrong)):
        for one in remarks[:MAX_LISTED]:
            yield label, f"{one.name}: {one.reason}{f' ({one.hint})' if one.hint else ''}"
        if len(remarks) > MAX_LISTED:
            yield label, f"and {len(remarks) - MAX_LISTED} more: --format json has all"
    if args.note:
        yield "note", args.note
    yield "note", "values were not read: lora-cli validate finds NaN, zeros and updates that are too large"
    if args.absent:
        resolver = ", or with --publish DIR for vLLM's resolver" if args.engine == "vllm" else ""
        yield "not cached", f"{safe(names(args.absent, MAX_LISTED))}: lora-cli fetch -f downloads them{resolver}"
