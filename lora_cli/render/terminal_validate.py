"""What ``validate`` says to people: of one adapter its facts, of several a table and findings by rule, and a total."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from lora_cli.core.engine_outcome import EngineOutcome
from lora_cli.core.finding import Accepted, Finding, Problem, Severity, Skipped
from lora_cli.core.text import counted, safe
from lora_cli.render.terminal import FittedTable, Paragraph, table, text
from lora_cli.render.text import summary
from lora_cli.validation.report import Report, Validated, engine_counts, findings_of, outcome_of

STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "blue"}
OUTCOMES = {"ok": "green", "accepted": "yellow", "refused": "red", "failed": "red"}
NOT_COUNTED = "does not count: what is wrong is left out, known or suppressed"
MOST_NAMES = 20
"""Adapters that are named with a finding that many have."""

Found = Sequence[tuple[str, Finding]]
"""Findings with the names of their adapters."""


def report_parts(report: Report, *, quiet: bool = False) -> Iterator[RenderableType]:
    """All that is said; ``quiet`` leaves out what is not wrong: notes, skipped checks, and the last line."""
    several = len(report.adapters) > 1
    for one in report.adapters if not several else ():
        if not quiet or _is_wrong(one):
            yield from adapter_parts(one, report.fail_on, quiet=quiet)
    if several:
        yield from _several(report, quiet)
    if not quiet:
        yield from ("", Paragraph(summary(report.summary)))


def adapter_parts(checked: Validated, fail_on: Severity, *, quiet: bool = False) -> Iterator[RenderableType]:
    """One adapter: its outcome, engine by engine, then what, where and hint of each finding, then what was skipped."""
    yield from _outcome(checked, fail_on)
    if checked.error is not None:
        yield Paragraph(checked.error.message, indent=2)
        yield from _hint(checked.error.hint, 2)
    found = [(checked.name, finding) for finding in findings_of(checked) if not (quiet and _is_noise(finding))]
    for _, finding in found:
        if finding.accepted is None and finding.severity is Severity.NOTE:
            said = "; ".join(filter(None, (finding.problem.message, finding.problem.hint)))
            yield from ("", Paragraph(said, _head(finding).append(": "), hanging=4))
        elif finding.accepted is None:
            yield from ("", _head(finding))
            yield from _problem(finding.problem, 4)
    if not quiet:
        yield from _accepted(found)
        yield from skipped_checks([(checked.name, one) for one in checked.skipped])


def _several(report: Report, quiet: bool) -> Iterator[RenderableType]:
    shown = [one for one in report.adapters if not quiet or _is_wrong(one)]
    if shown:
        yield _outcomes(shown, report.fail_on)
    for one in shown:
        if one.error is not None:
            yield from ("", Paragraph(one.error.message, Text.assemble(safe(one.name), ": ", ("failed", "red"), ": ")))
            yield from _hint(one.error.hint, 2)
    found = [(one.name, finding) for one in shown for finding in findings_of(one)]
    for head, group in _by_rule([pair for pair in found if not (quiet and _is_noise(pair[1]))]):
        yield from ("", head)
        for number, (problem, names) in enumerate(group.items()):
            yield from ("",) * bool(number)
            yield from _problem(problem, 4, names)
    if not quiet:
        yield from _accepted(found)
        yield from skipped_checks((one.name, left) for one in shown for left in one.skipped)


def _outcomes(checked: Sequence[Validated], fail_on: Severity) -> RenderableType:
    """Adapter by engine: what becomes of it, and how many of its modules apply by the engine's rules."""
    engines = list(dict.fromkeys(str(engine) for one in checked for engine in one.engines))
    rows = []
    for one in checked:
        word = outcome_of(one, fail_on)
        on = {str(engine): _on(engine) for engine in one.engines}
        cells = (one.name, Text(word, OUTCOMES[word]), one.applied or "-")
        rows.append((*cells, *(on.get(name, "-") for name in engines)))
    whole = table(("adapter", "result", "modules", *engines), rows, left=3 + len(engines))
    return FittedTable(whole, (part for one in checked for part in _outcome(one, fail_on)))


def _on(engine: EngineOutcome) -> Text:
    tail = f" {engine.applied}" if engine.applied is not None else ""
    return Text.assemble((engine.label, _style(engine)), tail)


def _style(engine: EngineOutcome) -> str:
    return "red" if engine.outcome else "green" if engine.proven else "yellow"


def _outcome(checked: Validated, fail_on: Severity) -> Iterator[RenderableType]:
    """How one adapter came out, where it is if its name does not tell, and a line for each engine."""
    word = outcome_of(checked, fail_on)
    tail = f", {checked.applied} modules apply" if checked.applied is not None else ""
    yield Paragraph(f"{word}{tail}", f"{checked.name}: ", word=(word, OUTCOMES[word]))
    if not checked.source.endswith(checked.name.rstrip("/")):
        yield Paragraph(checked.source, indent=2)
    yield from _engines(checked)


def _engines(checked: Validated) -> Iterator[RenderableType]:
    """A line for each named engine: what it does with the adapter, and how many modules apply by its rules."""
    width = max((len(str(one)) for one in checked.engines), default=0)
    wide = max((len(one.label) for one in checked.engines), default=0)
    for one in checked.engines:
        label = (f"{one.label:<{wide}}", _style(one))
        yield Paragraph("", Text.assemble(f"{one!s:<{width}}  ", label, f"  {one.applied or '-'}"), indent=2)
        if one.note:
            yield Paragraph(one.note, indent=4)
        if one.outcome and not engine_counts(checked, one):
            yield Paragraph(NOT_COUNTED, indent=4)


def _by_rule(found: Found) -> Iterator[tuple[RenderableType, Mapping[Problem, list[str]]]]:
    """For each rule that found something that counts, the worst first: its problems, and which adapters have each."""
    counting = [(name, finding) for name, finding in found if finding.accepted is None]
    rules = dict.fromkeys((-finding.severity, finding.code) for _, finding in counting)
    for _, code in sorted(rules):
        group = [(name, finding) for name, finding in counting if finding.code == code]
        problems: dict[Problem, list[str]] = {}
        for name, finding in group:
            problems.setdefault(finding.problem, []).append(name)
        hit = len({name for name, _ in group})
        yield _head(group[0][1]).append(f": {counted(len(group), 'finding')} in {counted(hit, 'adapter')}"), problems


def _head(finding: Finding) -> Text:
    label = (str(finding.severity), STYLES[finding.severity])
    return Text.assemble("  ", label, f" {finding.code} {safe(finding.name)}")


def _problem(problem: Problem, indent: int, names: Sequence[str] = ()) -> Iterator[RenderableType]:
    """What is wrong, where, in which adapters if several were judged, and what to do."""
    yield Paragraph(problem.message, indent=indent, hanging=indent)
    if str(problem.at):
        yield Paragraph(problem.at, Text("at: ", "dim"), indent=indent)
    if names:
        yield Paragraph(_names(names, MOST_NAMES), Text("in: ", "dim"), indent=indent)
    yield from _hint(problem.hint, indent)


def _hint(hint: str, indent: int) -> Iterator[RenderableType]:
    if hint:
        yield Paragraph(hint, Text("hint: ", "dim"), indent=indent)


def _names(names: Sequence[str], most: int | None = None) -> str:
    counts = Counter(names)
    named = [name if times == 1 else f"{name} ×{times}" for name, times in counts.items()]
    more = f" and {len(named) - most} more" if most is not None and len(named) > most else ""
    return ", ".join(named[:most]) + more


def skipped_checks(skipped: Iterable[tuple[str, Skipped]]) -> Iterator[RenderableType]:
    """What could not be checked, by reason: the same reason is given once, for all the rules that it stopped."""
    by_reason: dict[str, list[str]] = {}
    for _, one in skipped:
        by_reason.setdefault(one.reason, []).append(one.code)
    for reason, codes in by_reason.items():
        yield from ("", Text.assemble("  ", ("skipped", "dim"), f" {counted(len(codes), 'check')}"))
        yield Paragraph(f"{reason}: {_names(codes)}", indent=4)


def _accepted(found: Found) -> Iterator[RenderableType]:
    """What does not count: known findings by their number, suppressed ones by their reason."""
    by_reason: dict[Accepted, list[str]] = {}
    for _, finding in found:
        if finding.accepted is not None:
            by_reason.setdefault(finding.accepted, []).append(finding.code)
    for accepted, codes in by_reason.items():
        yield from ("", Text.assemble("  ", (accepted.label, "dim"), f" {counted(len(codes), 'finding')}"))
        reason = f"{accepted.reason}: " if accepted.reason else ""
        yield Paragraph(f"{reason}{_names(codes)} ({accepted.at})", indent=4)


def _is_wrong(checked: Validated) -> bool:
    return checked.exit_code != 0 or not all(map(_is_noise, findings_of(checked)))


def _is_noise(finding: Finding) -> bool:
    return finding.accepted is not None or finding.severity is Severity.NOTE


def statistics_parts(report: Report) -> Iterator[RenderableType]:
    """How often each rule found something that counts, the most often first, and in how many adapters."""
    counting = [(one.name, found.finding) for one, found in report.found() if found.finding.accepted is None]
    times = Counter((finding.code, finding.name, finding.severity) for _, finding in counting)
    rows = [
        (
            text(severity, STYLES[severity]),
            f"{code} {name}",
            number,
            len({one for one, found in counting if found.code == code}),
        )
        for (code, name, severity), number in sorted(times.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    if rows:
        yield from (table(("severity", "rule", "findings", "adapters"), rows, left=2), "")
    yield Paragraph(summary(report.summary))
