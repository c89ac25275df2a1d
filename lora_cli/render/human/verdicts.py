"""What ``validate`` says to people: one block per finding, and a last line that counts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from lora_cli.core.finding import Accepted, Finding, Severity, Skipped, Verdict
from lora_cli.core.text import counted, safe
from lora_cli.render.text import columns, paint, summary, wrap
from lora_cli.validation import Checked
from lora_cli.validation.report import count, findings_of

STYLE = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "blue"}


def render_checked(checked: Checked, width: int, *, fail_on: Severity = Severity.ERROR, colour: bool = False) -> str:
    """One adapter's block: its outcome, then what, where and hint of each finding, then what was not looked at."""
    lines = list(_headline(checked, width, fail_on, colour))
    if checked.error is not None:
        lines += wrap(checked.error.message, width, "  ", "  ")
        lines += _labelled("hint", checked.error.hint, width, colour)
    if checked.verdict is not None:
        lines += _engines(checked.verdict, width, colour)
        found = findings_of(checked)
        for finding in found:
            if finding.accepted is None:
                lines += (_note if finding.severity is Severity.NOTE else _finding)(finding, width, colour)
        lines += _accepted(found, width, colour)
        lines += skipped_checks(checked.verdict.skipped, width, colour)
    return "\n".join(lines) + "\n"


def separated(blocks: Iterable[str]) -> Iterator[str]:
    """The blocks of many adapters: those of one line stand together, a longer one between empty lines.

    Behind the last one there is an empty line, before what counts them.
    """
    before = 0
    for block in blocks:
        lines = block.count("\n")
        yield ("\n" if before and max(lines, before) > 1 else "") + block
        before = lines
    if before:
        yield "\n"


def _headline(checked: Checked, width: int, fail_on: Severity, colour: bool) -> Iterator[str]:
    word, style = _outcome(checked, fail_on)
    applied = checked.verdict.applied if checked.verdict is not None else None
    tail = f", {applied} modules apply" if applied is not None else ""
    said = "\n".join(wrap(f"{safe(checked.name)}: {word}{tail}", width, "  ", "") or [word])
    name, colon, outcome = said.rpartition(f":\n  {word}" if f":\n  {word}" in said else f": {word}")
    yield from (name + colon.replace(word, paint(word, style, colour=colour)) + outcome).split("\n")
    if not checked.source.endswith(checked.name.rstrip("/")):
        yield from wrap(checked.source, width, "  ", "  ")


def _engines(verdict: Verdict, width: int, colour: bool) -> Iterator[str]:
    """A line for each named engine: what it does with the adapter, and how many modules apply by its rules."""
    rows = [(str(one), one.outcome.label, f"{one.applied or '-'}") for one in verdict.engines]
    for one, line in zip(verdict.engines, columns(("", "", ""), rows, left=2)[1:], strict=True):
        label, style = one.outcome.label, "red" if one.outcome else "green"
        yield "  " + line.replace(label, paint(label, style, colour=colour), 1)
        if one.note:
            yield from wrap(one.note, width, "    ", "    ")
        if one.outcome and not verdict.counts(one):
            yield from wrap("does not count: what is wrong is left out, known or suppressed", width, "    ", "    ")


def _outcome(checked: Checked, fail_on: Severity) -> tuple[str, str]:
    if checked.error is not None:
        return "failed", "red"
    verdict = checked.verdict
    if verdict is not None and verdict.refused(fail_on):
        return "refused", "red"
    return "ok", "green"


def _finding(finding: Finding, width: int, colour: bool) -> Iterator[str]:
    label = finding.severity.label
    yield ""
    yield f"  {paint(label, STYLE[finding.severity], colour=colour)} {finding.code} {finding.name}"
    yield from wrap(finding.problem.message, width, "    ", "    ")
    yield from _labelled("at", str(finding.problem.at), width, colour, "    ")
    yield from _labelled("hint", finding.problem.hint, width, colour, "    ")


def _note(finding: Finding, width: int, colour: bool) -> Iterator[str]:
    """A note on a line of its own, where it has the room: what is so, and what would be better."""
    label = finding.severity.label
    problem = finding.problem
    text = f"{label} {finding.code} {finding.name}: {'; '.join(filter(None, (problem.message, problem.hint)))}"
    yield ""
    first, *rest = wrap(text, width, "    ", "  ")
    yield first.replace(label, paint(label, STYLE[finding.severity], colour=colour), 1)
    yield from rest


def _labelled(label: str, text: str, width: int, colour: bool, indent: str = "  ") -> Iterator[str]:
    if not text:
        return
    first, *rest = wrap(text, width, indent + "  ", f"{indent}{label}: ")
    yield first.replace(f"{label}:", paint(f"{label}:", "dim", colour=colour), 1)
    yield from rest


def skipped_checks(skipped: Iterable[Skipped], width: int, colour: bool) -> Iterator[str]:
    """What was not looked at, by reason: the same reason is said once, for all the rules that it stopped."""
    by_reason: dict[str, list[str]] = {}
    for one in skipped:
        by_reason.setdefault(one.reason, []).append(one.code)
    for reason, codes in by_reason.items():
        yield ""
        yield f"  {paint('skipped', 'dim', colour=colour)} {counted(len(codes), 'check')}"
        yield from wrap(f"{reason}: {', '.join(codes)}", width, "    ", "    ")


def _accepted(found: Iterable[Finding], width: int, colour: bool) -> Iterator[str]:
    """What does not count: known findings by their number, suppressed ones by their reason."""
    by_reason: dict[Accepted, list[str]] = {}
    for finding in found:
        if finding.accepted is not None:
            by_reason.setdefault(finding.accepted, []).append(finding.code)
    for accepted, codes in by_reason.items():
        reason, at = accepted.reason, accepted.at
        times = ", ".join(f"{code} ×{number}" if number > 1 else code for code, number in Counter(codes).items())
        yield ""
        yield f"  {paint(accepted.label, 'dim', colour=colour)} {counted(len(codes), 'finding')}"
        yield from wrap(f"{reason}: {times} ({at})" if reason else f"{times} ({at})", width, "    ", "    ")


def render_summary(checked: Sequence[Checked], width: int, *, fail_on: Severity = Severity.ERROR) -> str:
    """The last line: how many adapters, errors, warnings, and checks that could not look."""
    return "\n".join(wrap(summary(count(checked, fail_on)), width)) + "\n"
