"""What ``inspect`` says to people: what an adapter is, and what is odd about it."""

from collections.abc import Iterator, Mapping, Sequence

from lora_cli.check import Checked
from lora_cli.core.finding import Severity
from lora_cli.core.inspection import Inspection
from lora_cli.render.text import counted, paint, pairs, safe, size, wrap

STYLE = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "blue"}


def render_inspection(checked: Checked, inspection: Inspection | None, width: int, *, colour: bool = False) -> str:
    """One adapter: labelled facts, then each oddity in a line or two."""
    lines = [paint(safe(checked.name), "bold", colour=colour)]
    if inspection is not None:
        lines += pairs(_facts(checked, inspection), width)
    if checked.error is not None:
        lines += wrap(checked.error.message, width, "  ", "  ")
        lines += wrap(checked.error.hint, width, "    ", "  hint: ") if checked.error.hint else []
    lines += _odd(checked, width, colour)
    return "\n".join(lines) + "\n"


def _facts(checked: Checked, one: Inspection) -> list[tuple[str, object]]:
    applied = checked.verdict.applied if checked.verdict is not None else None
    return [
        ("source", checked.source),
        ("revision", checked.revision.id if checked.revision is not None else ""),
        ("sha256", one.sha256),
        ("snapshot", one.snapshot),
        ("format", one.format),
        ("base", one.base + (f" at {one.base_revision}" if one.base_revision else "")),
        ("applies", f"{applied} modules" if applied is not None else ""),
        ("rank", _spread(one.ranks, "module")),
        ("scaling", _spread({f"{scaling:.6g}": number for scaling, number in one.scalings.items()}, "module")),
        ("targets", _targets(one)),
        ("layers", f"{ranges(one.layers)} ({len(one.layers)})" if one.layers else ""),
        ("dtype", _spread(one.dtypes, "tensor")),
        ("parameters", f"{one.parameters:,}" if one.modules else ""),
        ("size", _size(one)),
        ("features", ", ".join(one.features)),
        ("task", one.task_type),
        ("PEFT", one.peft_version),
    ]


def _spread(counts: Mapping[int, int] | Mapping[str, int], noun: str, most: int = 6) -> str:
    """One value alone, or each with how many have it."""
    if len(counts) == 1:
        return str(next(iter(counts)))
    told = [f"{value} ({counted(number, noun)})" for value, number in list(counts.items())[:most]]
    return ", ".join(told) + (f" and {len(counts) - most} others" if len(counts) > most else "")


def _targets(one: Inspection, most: int = 16) -> str:
    told = ", ".join(sorted(one.targets)[:most]) + (" …" if len(one.targets) > most else "")
    return f"{told} ({counted(one.modules, 'module')})" if one.targets else ""


def _size(one: Inspection) -> str:
    tensors = f"{size(one.weight_bytes)} of tensors, " if one.weight_bytes else ""
    return f"{tensors}{size(one.total_bytes)} in {counted(one.files, 'file')}"


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers, with runs drawn together: ``0-15, 18``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(str(end) for end in run) for run in runs)


def _odd(checked: Checked, width: int, colour: bool) -> Iterator[str]:
    if checked.verdict is None:
        return
    for finding in sorted(checked.verdict.findings, key=lambda found: -found.severity):
        label = f"  {finding.severity.label} {finding.code}: "
        first, *rest = wrap(finding.problem.message, width, "    ", label)
        yield first.replace(
            finding.severity.label, paint(finding.severity.label, STYLE[finding.severity], colour=colour), 1
        )
        yield from rest
