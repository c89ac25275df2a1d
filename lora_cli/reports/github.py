"""Workflow commands of GitHub Actions: each finding an annotation, next to the file that it is in.

GitHub shows the first ten errors, ten warnings and ten notices of a step, and all in its log: so the worst of each
adapter comes before the second worst of any, and one notice counts them all.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from lora_cli.finding import Finding, Location, Severity
from lora_cli.judging.report import Report
from lora_cli.judging.result import Result
from lora_cli.reports.places import place_of
from lora_cli.reports.words import problem_lines, summary
from lora_cli.text import safe

COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
SHOWN = 10
TITLE = {"title": "lora-cli validate"}


def render_report(report: Report) -> str:
    """A command per line. Known findings are counted, but not annotated."""
    lines = []
    for one in report.adapters:
        if one.error is not None:
            text = problem_lines(one.error.message, one.error.hint)
            lines.append(_command("error", _properties(report, one, Location(), "not read"), text))
        reasons = one.unchecked if one.outcome == "unchecked" else ()
        where = _properties(report, one, Location(), "unchecked")
        lines += [_command("warning", where, safe(reason)) for reason in reasons]
    for one, finding in _interleaved(report.found()):
        problem, title = finding.problem, f"{finding.code} {finding.name}"
        properties = _properties(report, one, problem.at, title)
        lines.append(
            _command(COMMANDS[finding.severity], properties, problem_lines(problem.message, problem.hint, problem.at))
        )
    errors = report.summary.errors + report.summary.failed
    more = f"; GitHub shows {SHOWN} errors per step, see the log for all" if errors > SHOWN else ""
    first_notice = next((number for number, line in enumerate(lines) if line.startswith("::notice")), len(lines))
    notices = [_command("warning", TITLE, safe(notice)) for notice in report.notices]
    notices.append(_command("notice", TITLE, summary(report) + more))
    return "\n".join([*lines[:first_notice], *notices, *lines[first_notice:]]) + "\n"


def _interleaved(found: Iterable[tuple[Result, Finding]]) -> Iterator[tuple[Result, Finding]]:
    """The findings that count by severity; within one, the first of each adapter, then the second of each."""
    turns: Counter[tuple[int, Severity]] = Counter()
    ranked: list[tuple[int, int, Result, Finding]] = []
    for one, finding in found:
        if finding.accepted is None:
            ranked.append((-finding.severity, turns[id(one), finding.severity], one, finding))
            turns[id(one), finding.severity] += 1
    for *_, one, finding in sorted(ranked, key=lambda row: row[:2]):
        yield one, finding


def _properties(report: Report, one: Result, at: Location, title: str) -> dict[str, str]:
    """The title of an annotation, and its file and line, if the file is in the repository."""
    place, titled = place_of(report.naming, one, at), {"title": f"{title} ({report.naming.identity(one)})"}
    if place.kind != "below":
        return titled
    return {"file": place.path} | ({"line": str(place.line)} if place.line else {}) | titled


def _command(command: str, properties: dict[str, str], data: str) -> str:
    """``::error file=…,title=…::…``, with the characters escaped that have a meaning for the runner."""
    escaped = {key: _data(safe(value)).replace(":", "%3A").replace(",", "%2C") for key, value in properties.items()}
    return f"::{command} {','.join(f'{key}={value}' for key, value in escaped.items())}::{_data(data)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
