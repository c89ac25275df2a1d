"""``validate`` for people: the adapters that are not ok, each problem once with its adapters, and a summary."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lora_cli.finding import Finding, Problem, Severity
from lora_cli.judging.result import Report, Result
from lora_cli.reports.terminal import Paragraph, failure, hints, table, text
from lora_cli.reports.words import (
    OUTCOMES,
    engine_counts,
    is_repairable,
    outcome_text,
    repairable,
    result_of,
    summary,
)
from lora_cli.text import by_key, counted, names

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from lora_cli.finding import Skipped
    from lora_cli.reports.terminal import Parts

STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "blue"}
MARK = "[*]"
"""Next to a finding: ``repair`` fixes it."""

MAX_NAMES, MAX_CODES = 20, 6
"""The most adapters that are listed for a problem, and checks that are listed for a reason."""

Cause = tuple[Finding, dict[Problem, list[str]]]
"""The first finding of a check, and each of its problems with the names of the adapters that have it."""


def human(report: Report, *, quiet: bool = False, verbose: bool = False) -> "Parts":
    """The whole output, errors last; ``verbose`` has all adapters, ``quiet`` only problems."""
    several = len(report.adapters) > 1
    shown = [one for one in report.adapters if verbose or not (is_fine(one, quiet=quiet) and (quiet or several))]
    if any(one.error is None for one in shown):
        header, rows = adapter_table(shown)
        yield table(header, rows, left=len(header))
        notes = by_key((engine.note, str(engine)) for one in shown for engine in one.engines if engine.note)
        yield from (Paragraph(note, f"{names(list(dict.fromkeys(engines)))}: ") for note, engines in notes.items())
        reasons = by_key((why, one.name) for one in shown if one.outcome == "unchecked" for why in one.unchecked)
        for why, adapters in reasons.items():
            yield from _group(f"unchecked {counted(len(adapters), 'adapter')}", f"{why}: {names(adapters, MAX_NAMES)}")
    if not quiet:
        known = ((one.accepted, (one.code, each.name)) for each, one in report.found() if one.accepted)
        for accepted, found in by_key(known).items():
            reason = f"{accepted.reason}: " if accepted.reason else ""
            line = f"{reason}{codes_of([code for code, _ in found])} ({accepted.at})"
            within = names(list(dict.fromkeys(name for _, name in found)), MAX_NAMES)
            yield from _group(f"known {counted(len(found), 'finding')}", f"{line}: {within}")
        told = {why for one in shown if one.outcome == "unchecked" for why in one.unchecked}
        skipped = (check for one in report.adapters for check in one.skipped)
        yield from skipped_checks(check for check in skipped if check.reason not in told)
    for first, problems in sorted(causes(report), key=lambda cause: cause[0].severity):
        if not (quiet and first.severity is Severity.NOTE):
            yield from _cause(first, problems, several=several)
    for one in report.adapters:
        if one.error is not None:
            yield from ("", *failure(one.name, "not read", one.error.message, one.error.hint))
    if not quiet:
        yield from ("",) if shown or any(one.skipped for one in report.adapters) else ()
        yield from _repair_command(report)
        hidden = len(report.adapters) - len(shown)
        yield Paragraph(summary(report) + (f"; {hidden} without a row: -v lists all" if shown and hidden else ""))


def is_fine(one: Result, *, quiet: bool) -> bool:
    """Whether an adapter is ok, with nothing else to say; ``quiet`` says no notes and no known findings."""
    word = result_of(one)[0]
    told = [found for found in one.findings if not quiet or (found.accepted is None and found.severity)]
    return word in {"ok", "accepted"} and not told and not any(engine.fails for engine in one.engines)


def causes(report: Report) -> list[Cause]:
    """The findings that count, by check: the worst first."""
    found = [(one.name, finding) for one, finding in report.found() if finding.accepted is None]
    by_check = by_key(((-finding.severity, finding.code), (name, finding)) for name, finding in found)
    return [
        (found[0][1], by_key((finding.problem, name) for name, finding in found))
        for _, found in sorted(by_check.items(), key=lambda item: item[0])
    ]


def adapter_table(shown: Sequence[Result]) -> "tuple[list[str], list[list[Text]]]":
    """Adapters by engines: the result, and how many modules apply; the bases, if there are several."""
    engines = list(dict.fromkeys(str(engine) for one in shown for engine in one.engines))
    with_base = len({one.base for one in shown if one.error is None}) > 1
    rows = []
    for one in shown:
        cells = {str(engine): text((outcome_text(engine), OUTCOMES[engine.outcome][1])) for engine in one.engines}
        for engine in one.engines:
            if engine.fails and not engine_counts(one, engine):
                cells[str(engine)] = text(cells[str(engine)], " (not counted)")
        own = [text(cells.get(engine)) for engine in engines] or [text(one.applied)]
        rows.append([text(one.name), *[text(one.base)] * with_base, text(result_of(one)), *own])
    return ["adapter", *["base"] * with_base, "result", *(engines or ["modules"])], rows


def _cause(first: Finding, problems: dict[Problem, list[str]], *, several: bool) -> "Parts":
    """The check, and each of its problems: message, location, adapters and hint."""
    mark = f" {MARK}" if is_repairable(first) else ""
    hit = f": {counted(len({name for found in problems.values() for name in found}), 'adapter')}" if several else ""
    yield from ("", text("  ", (first.severity, STYLES[first.severity]), f" {first.code} {first.name}{mark}{hit}"))
    for number, (problem, adapters) in enumerate(problems.items()):
        yield from [""] * bool(number)
        yield Paragraph(problem.message, indent=4)
        yield from [Paragraph(problem.at, text(("at: ", "dim")), indent=4)] if str(problem.at) else []
        if several:
            yield Paragraph(names(list(dict.fromkeys(adapters)), MAX_NAMES), text(("in: ", "dim")), indent=4)
        yield from hints(problem.hint, 4)


def codes_of(codes: Sequence[str]) -> str:
    """The first codes of checks, and how many more."""
    return names(sorted({*codes}), MAX_CODES)


def skipped_checks(skipped: "Iterable[Skipped]") -> "Parts":
    """The skipped checks by reason."""
    for reason, codes in by_key((one.reason, one.code) for one in skipped).items():
        yield from _group(f"skipped {counted(len(codes), 'check')}", f"{reason}: {codes_of(codes)}")


def _group(label: str, line: str) -> "Iterator[RenderableType]":
    yield from ("", text("  ", (label, "dim")), Paragraph(line, indent=4))


def _repair_command(report: Report) -> "Parts":
    """The command that fixes what is marked, if anything is; on one line, to be pasted."""
    adapters = repairable(report)
    for first in adapters[:1]:
        failing = [each for each in first.engines if each.fails] or first.engines
        engine = failing[0].asked if failing else "NAME"
        manifest = report.naming.manifest.get(first.name, "").rpartition(":")[0]
        if manifest:  # which has the base, too
            what, base = f"-f {manifest} {first.name if len(adapters) == 1 else 'NAME'}", ""
        else:
            ref = first.name if first.source.endswith(first.name.rstrip("/")) else first.source
            what = ref if len(adapters) == 1 else "REF"
            base = f" --base {first.base}" if first.base is not None else ""
        yield text(f"{MARK} lora-cli repair {what} --engine {engine}{base} --to DIRECTORY")
