"""``inspect`` for people: an overview of several adapters, the facts of one, differences, and an engine's flags."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lora_cli.adapter.adapter import Change
from lora_cli.judging.engine_args import EngineArgs
from lora_cli.judging.inspection import Inspected, Inspection, InspectReport
from lora_cli.reports.terminal import Paragraph, facts, failure, separated, table, text
from lora_cli.text import between, by_key, counted, cut, names, safe, shown, size, span

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lora_cli.reports.terminal import Parts

MAX_VALUES, MAX_TARGETS = 6, 16
"""The most values of a fact, and targets that are listed."""

MAX_LISTED, MAX_ROWS, MAX_NAMES, MAX_VALUE_WIDTH = 8, 20, 6, 200
"""The most adapters for one reason, rows of a table of differences, and names and characters of a value in it."""


def human(report: InspectReport, *, verbose: bool = False) -> "Parts":
    """One adapter in detail; of several what differs in a table, and what they share (``verbose``: each in detail)."""
    adapters = report.adapters
    described = [(one, _facts(one, one.inspection)) for one in adapters if one.inspection is not None]
    blocks: list[Iterable[RenderableType]] = []
    if len(described) > 1:
        overview = [_overview(found) for one in adapters if (found := one.inspection) is not None]
        vary = [name for name in overview[0] if len({row[name] for row in overview}) > 1]
        rows = [(one.result.name, *map(row.get, vary)) for (one, _), row in zip(described, overview, strict=True)]
        blocks.append([table(("adapter", *vary), rows, left=1 + len({*vary} & {"base", "targets", "dtype"}))])
        common = [row for row in described[0][1] if all(row in rows for _, rows in described)]
        read = "" if len(described) == len(adapters) else " that were read"
        blocks += [[text((f"all {len(described)} adapters{read}", "bold")), *facts(common)]] if common else []
    if len(described) == 1 or verbose:
        for one, own in described:
            blocks += [[text((one.result.name, "bold")), *facts(own)], _diff_parts(one)]
    failed = [(one.result.name, error) for one in adapters if (error := one.result.error) is not None]
    blocks += [failure(name, "not read", error.message, error.hint) for name, error in failed]
    if len(adapters) > 1:
        counts = f"{len(adapters) - len(failed)} read" + (f", {len(failed)} not read" if failed else "")
        blocks.append([Paragraph(f"{counted(len(adapters), 'adapter')}: {counts}")])
    return separated(*blocks)


def _overview(found: Inspection) -> Mapping[str, str]:
    """What adapters are compared by."""
    return {
        "base": found.base.rpartition("/")[2] or "-",
        "targets": names(sorted(found.targets), 2) or "-",
        "dtype": ", ".join(found.dtypes) or "-",
        "rank": span(list(found.ranks)) if found.ranks else "-",
        "scaling": between(found.scalings, "{:.6g}".format),
        "size": size(found.total_bytes),
    }


def _facts(one: Inspected, found: Inspection) -> list[tuple[str, str]]:
    """What the adapter is and where it is from, and how many modules apply to the base."""
    result = one.result
    targets = ", ".join(sorted(found.targets)[:MAX_TARGETS]) + " …" * (len(found.targets) > MAX_TARGETS)
    tensors = f"{size(found.weight_bytes)} of tensors, " if found.weight_bytes else ""
    rows = [
        ("source", result.source),
        ("revision", result.revision or ""),
        ("snapshot", result.digest or ""),
        ("format", found.format),
        ("base", found.base + (f" at {found.base_revision}" if found.base_revision else "")),
        ("applies", f"{result.applied} modules" if result.applied is not None else ""),
        ("rank", _by_value(found.ranks, "module")),
        ("scaling", _by_value({f"{value:.6g}": number for value, number in found.scalings.items()}, "module")),
        ("targets", f"{targets} ({counted(found.modules, 'module')})" if targets else ""),
        ("layers", f"{span(found.layers)} ({len(found.layers)})" if found.layers else ""),
        ("dtype", _by_value(found.dtypes, "tensor")),
        ("values", "not read: lora-cli validate reads them"),
        ("parameters", f"{found.parameters:,}" if found.modules else ""),
        ("size", f"{tensors}{size(found.total_bytes)} in {counted(found.files, 'file')}"),
        ("features", ", ".join(found.features)),
        ("task", found.task_type),
        ("PEFT", found.peft_version[:40]),
        ("signed by", ", ".join(result.signers or ())),
    ]
    return [row for row in rows if row[1]]


def _by_value(counts: Mapping[Any, int], noun: str) -> str:
    """One value; of several, each with its number, the most common first: ``8 (5 modules), 16 (1 module)``."""
    parts = [f"{value} ({counted(number, noun)})" for value, number in Counter(counts).most_common()]
    return names(parts, MAX_VALUES) if len(parts) > 1 else "".join(map(str, counts))


def _diff_parts(one: Inspected) -> "Parts":
    """The differences from another adapter, if that was asked for; the adapter is A, the other one is B."""
    if (diff := one.diff) is None:
        return

    def differing(number: int, noun: str) -> str:
        return f"{counted(number, noun)} differ{'s' * (number == 1)}" if number else f"no {noun} differs"

    header = "not compared: not both could be read" if diff.tensors is None else differing(len(diff.tensors), "tensor")
    config = differing(len(diff.fields), "field")
    rows = [("A", one.result.name), ("B", diff.name), ("source of B", diff.source)]
    yield from (
        text(("diff", "bold")),
        *facts([*rows, ("config", config), ("header", header), ("values", "not compared")]),
    )
    if diff.fields:
        yield from ("", table(("field", "A -> B"), ((one.name, _changed_values(one)) for one in diff.fields), left=2))
    alike = by_key(((re.sub(r"\b\d+\b", "*", one.name), one.a, one.b), one.name) for one in diff.tensors or ())
    tensors = [
        (cut(safe(name if len(found) > 1 else found[0]), 160), safe(a or "-"), safe(b or "-"), len(found))
        for (name, a, b), found in alike.items()
    ]
    if tensors:
        yield from ("", table(("tensors", "A", "B", "number"), tensors[:MAX_ROWS], left=3))
    if len(tensors) > MAX_ROWS:
        yield Paragraph(f"and {len(tensors) - MAX_ROWS} more, in --format json")


def _changed_values(change: Change) -> str:
    """The values of a config field in A and B."""
    a, b = change.a, change.b
    if isinstance(a, tuple) and isinstance(b, tuple) and all(isinstance(one, str) for one in (*a, *b)):
        alone = (("A", sorted({*a} - {*b})), ("B", sorted({*b} - {*a})))
        return "; ".join(f"only in {side}: {safe(names(only, MAX_NAMES, 80))}" for side, only in alone if only)
    sides = (f'"{one}"' if isinstance(one, str) else one for one in (a, b))
    return " -> ".join(shown(one, MAX_VALUE_WIDTH) for one in sides)


def human_engine_args(report: InspectReport, args: EngineArgs, *, command: bool = True) -> "Parts":
    """A title, the command that starts the engine, its costs, and the differences from another adapter, if any.

    The command has an option per line; there is no command if no adapter is served.
    """
    from lora_cli.engines import ENGINES

    number = len(args.served) + len(args.left_out)
    few = f"{len(args.served)} of " if len(args.served) < number else ""
    on = f" on {report.base.name}" if report.base is not None else ""
    title = text((f"{ENGINES[args.engine].title} {args.version} for {few}{counted(number, 'adapter')}{on}", "bold"))
    below = facts(_costs(args))
    for one in report.adapters:
        if differences := list(_diff_parts(one)):
            below += ["", text(one.result.name), *differences]
    lines = [text(f"  {line}") for line in args.command.splitlines() if command]
    for line in lines:  # it is copied as it is
        line.no_wrap, line.overflow = True, "ignore"
    return separated([title], lines, below)


def _costs(args: EngineArgs) -> Iterator[tuple[str, str]]:
    """The least memory, and the adapters that are not served as they were trained."""
    if args.served:
        own = f"rank {args.max_lora_rank} in half precision for the adapters' own modules"
        yield "slot", f"at least {size(args.slot_bytes)} on the GPU: {own}"
        total = f"{args.max_loras} x {size(args.slot_bytes)} = at least {size(args.max_loras * args.slot_bytes)}"
        is_small = len(args.served) > args.max_loras
        yield "slots", f"{total}: {'adapters are swapped' if is_small else 'every adapter stays on the GPU'}"
        yield "warning", "adapters loaded later are silently served without modules that are not listed here"
    for one in args.left_out[:MAX_LISTED]:
        yield "left out", f"{one.name}: {one.reason}{f' ({one.hint})' if one.hint else ''}"
    if len(args.left_out) > MAX_LISTED:
        yield "left out", f"and {len(args.left_out) - MAX_LISTED} more: --format json has all"
    if args.note:
        yield "note", args.note
    yield "note", "weights may still be NaN, zero or too large: run lora-cli validate first"
    if args.absent:
        resolver = ", or with --publish DIR for vLLM's resolver" if args.engine == "vllm" else ""
        yield "not cached", f"{safe(names(args.absent, MAX_LISTED))}: lora-cli fetch -f downloads them{resolver}"
