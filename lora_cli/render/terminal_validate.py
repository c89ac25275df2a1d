"""The terminal output of ``validate``: one adapter in detail, or a table and findings by rule, and a summary."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from lora_cli.finding import EngineOutcome, Finding, Problem, Severity, Skipped
from lora_cli.judging.report import Report
from lora_cli.judging.result import Result
from lora_cli.render.terminal import FittedTable, Paragraph, hints
from lora_cli.render.text import engine_counts, summary
from lora_cli.text import by_key, counted, safe

STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "blue"}
OUTCOMES: Mapping[str | None, str] = {
    "ok": "green",
    "accepted": "yellow",
    "unchecked": "yellow",
    "refused": "red",
    "failed": "red",
}
NOT_COUNTED = "not counted: all findings are ignored or baselined"
MARK = "[*]"
"""Beside a finding: ``repair`` mends it."""
MAX_NAMES = 20
"""The most adapters that are listed for one finding."""

Found = Sequence[tuple[str, Finding]]
"""Findings with the names of their adapters."""


def report_parts(report: Report, *, quiet: bool = False) -> Iterator[RenderableType]:
    """The whole output; ``quiet`` leaves out notes, skipped checks and the summary."""
    shown = [one for one in report.adapters if not quiet or _has_problems(one)]
    found = [
        (one.name, finding) for one in shown for finding in one.worst_first if not (quiet and _is_ignorable(finding))
    ]
    if len(report.adapters) > 1:
        yield from _multiple_adapters(shown, found)
    else:
        for one in shown:
            yield from _outcome(one, with_base=report.base is None)
            if one.error is not None:
                yield from (Paragraph(one.error.message, indent=2), *hints(one.error.hint, style="dim"))
        yield from _findings(finding for _, finding in found)
    if not quiet:
        for accepted, codes in by_key((one.accepted, one.code) for _, one in found if one.accepted).items():
            reason = f"{accepted.reason}: " if accepted.reason else ""
            yield from _group("known", "finding", codes, reason, f" ({accepted.at})")
        yield from skipped_checks(check for one in shown for check in one.skipped)
        yield from ("",) if report.adapters else ()
        yield Paragraph(summary(report.summary))
        yield from _repair_command(report)


def _repair_command(report: Report) -> Iterator[RenderableType]:
    """The command that mends what is marked, if anything is."""
    if mendable := [one for one in report.adapters if any(map(_is_mendable, one.findings))]:
        first = mendable[0]
        ref = first.name if first.source.endswith(first.name.rstrip("/")) else first.source
        failing = [each for each in first.engines if each.fails] or first.engines
        engine = "@".join(filter(None, (failing[0].engine, failing[0].version))) if failing else "NAME"
        base = f" --base {first.base}" if first.base is not None else ""
        command = f"lora-cli repair {ref if len(mendable) == 1 else 'REF'} --engine {engine}{base} --to DIRECTORY"
        yield Paragraph(command, f"{MARK} {counted(len(mendable), 'adapter')} can be repaired: ")


def _is_mendable(finding: Finding) -> bool:
    """Whether its hint is a repair that mends it."""
    hint = finding.problem.hint
    return finding.accepted is None and "`lora-cli repair" in hint and "--base-name" not in hint


def _findings(found: Iterable[Finding]) -> Iterator[RenderableType]:
    """Message, location and hint of each finding that counts, of one adapter."""
    for finding in found:
        problem = finding.problem
        if finding.accepted is None and finding.severity is Severity.NOTE:
            line = "; ".join(filter(None, (problem.message, problem.hint)))
            yield from ("", Paragraph(line, _finding_header(finding).append(": "), hanging=4))
        elif finding.accepted is None:
            yield from ("", _finding_header(finding), *_problem(problem))


def _multiple_adapters(shown: Sequence[Result], found: Found) -> Iterator[RenderableType]:
    """A table, the errors, then by rule, the worst first, each problem and its adapters."""
    if shown:
        yield _outcomes(shown)
    for one in shown:
        if one.error is not None:
            yield from ("", Paragraph(one.error.message, Text.assemble(safe(one.name), ": ", ("failed", "red"), ": ")))
            yield from hints(one.error.hint, style="dim")
    rules = by_key(((-one.severity, one.code), (name, one)) for name, one in found if one.accepted is None)
    for _, group in sorted(rules.items(), key=lambda item: item[0]):
        hit = counted(len({name for name, _ in group}), "adapter")
        yield from ("", _finding_header(group[0][1]).append(f": {counted(len(group), 'finding')} in {hit}"))
        for number, (problem, names) in enumerate(by_key((one.problem, name) for name, one in group).items()):
            yield from [""] * bool(number)
            yield from _problem(problem, names)


def _outcomes(checked: Sequence[Result]) -> RenderableType:
    """Adapter by engine: the result, and how many of its modules apply by the engine's rules; the bases, if several."""
    engines = list(dict.fromkeys(str(engine) for one in checked for engine in one.engines))
    with_base = len({one.base for one in checked if one.error is None}) > 1
    rows = []
    for one in checked:
        on = {str(engine): _cell(one, engine) for engine in one.engines}
        cells = (
            one.name,
            *([one.base] if with_base else []),
            Text(one.outcome or "", OUTCOMES[one.outcome]),
            one.applied,
        )
        rows.append((*cells, *map(on.get, engines)))
    blocks = [part for one in checked for part in _outcome(one, with_base=with_base)]
    columns = ("adapter", *(["base"] if with_base else []), "result", "modules", *engines)
    return FittedTable(columns, rows, blocks, left=len(columns))


def _cell(checked: Result, engine: EngineOutcome) -> Text:
    tail = "" if not engine.fails or engine_counts(checked, engine) else " (not counted)"
    return Text.assemble((engine.outcome.label, _style(engine)), f" {engine.applied or ''}".rstrip(), tail)


def _style(engine: EngineOutcome) -> str:
    return "red" if engine.fails else "yellow" if engine.outcome else "green"


def _outcome(checked: Result, *, with_base: bool) -> Iterator[RenderableType]:
    """The outcome of one adapter, its source if the name does not show it, and a line for each engine."""
    to = f" to {checked.base}" if with_base else ""
    tail = f", {checked.applied} modules apply{to}" if checked.applied is not None else ""
    yield Paragraph(tail, Text.assemble(safe(checked.name), ": ", (checked.outcome or "", OUTCOMES[checked.outcome])))
    if not checked.source.endswith(checked.name.rstrip("/")):
        yield Paragraph(checked.source, indent=2)
    width = max((len(str(one)) for one in checked.engines), default=0)
    wide = max((len(one.outcome.label) for one in checked.engines), default=0)
    yield from (Paragraph(reason, indent=2) for reason in checked.unchecked if checked.outcome == "unchecked")
    for one in checked.engines:
        label = (f"{one.outcome.label:<{wide}}", _style(one))
        yield Paragraph("", Text.assemble(f"{one!s:<{width}}  ", label, f"  {one.applied or '-'}"), indent=2)
        if one.note:
            yield Paragraph(one.note, indent=4)
        if one.fails and not engine_counts(checked, one):
            yield Paragraph(NOT_COUNTED, indent=4)


def _finding_header(finding: Finding) -> Text:
    label = (str(finding.severity), STYLES[finding.severity])
    mark = f" {MARK}" if _is_mendable(finding) else ""
    return Text.assemble("  ", label, f" {finding.code} {safe(finding.name)}{mark}")


def _problem(problem: Problem, names: Sequence[str] = ()) -> Iterator[RenderableType]:
    """The message, its location, the adapters if there are several, and the hint."""
    yield Paragraph(problem.message, indent=4)
    if str(problem.at):
        yield Paragraph(problem.at, Text("at: ", "dim"), indent=4)
    if names:
        yield Paragraph(_names(names, MAX_NAMES), Text("in: ", "dim"), indent=4)
    yield from hints(problem.hint, 4, "dim")


def _names(names: Sequence[str], most: int | None = None) -> str:
    named = [name if times == 1 else f"{name} ×{times}" for name, times in Counter(names).items()]
    more = f" and {len(named) - most} more" if most is not None and len(named) > most else ""
    return ", ".join(named[:most]) + more


def skipped_checks(skipped: Iterable[Skipped]) -> Iterator[RenderableType]:
    """The skipped checks by reason: each reason once, with all its rules."""
    for reason, codes in by_key((one.reason, one.code) for one in skipped).items():
        yield from _group("skipped", "check", codes, f"{reason}: ")


def _group(label: str, noun: str, codes: Sequence[str], before: str, after: str = "") -> Iterator[RenderableType]:
    yield from ("", Text.assemble("  ", (label, "dim"), f" {counted(len(codes), noun)}"))
    yield Paragraph(f"{before}{_names(codes)}{after}", indent=4)


def _has_problems(checked: Result) -> bool:
    return checked.outcome not in {"ok", "accepted"} or not all(map(_is_ignorable, checked.worst_first))


def _is_ignorable(finding: Finding) -> bool:
    return finding.accepted is not None or finding.severity is Severity.NOTE
