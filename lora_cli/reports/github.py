"""Workflow commands of GitHub Actions: each finding an annotation, next to the file that it is in.

GitHub shows the first ten errors, ten warnings and ten notices of a step, and all in its log: so the worst of each
adapter comes before the second worst of any, and one notice counts them all.
"""

import re
from collections import Counter
from collections.abc import Iterable

from lora_cli.finding import Finding, Location, Severity
from lora_cli.judging.result import Report, Result
from lora_cli.reports.sarif import place_of
from lora_cli.reports.terminal import rendered
from lora_cli.reports.validate import human
from lora_cli.reports.words import problem_lines, summary
from lora_cli.text import safe

STEP_LIMIT = 1024 * 1024
"""The most bytes in the summary of one step: GitHub drops longer ones."""

COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
SHOWN = 10
TITLE = {"title": "lora-cli validate"}


def render_report(report: Report) -> str:
    """A command per line. Known findings are counted, but not annotated."""
    lines = []
    if report.error is not None:
        lines.append(_command("error", TITLE, problem_lines(report.error.message, report.error.hint)))
    for one in report.adapters:
        if one.error is not None:
            text = problem_lines(one.error.message, one.error.hint)
            title = "refused" if one.exit_code == 1 else "not read"
            lines.append(_command("error", _properties(report, one, Location(), title), text))
        if one.outcome == "unchecked":
            where = _properties(report, one, Location(), "unchecked")
            lines.append(_command("error" if one.exit_code else "warning", where, safe("; ".join(one.incomplete))))
    for one, finding in _interleaved(report.found()):
        problem, title = finding.problem, f"{finding.code} {finding.name}"
        properties = _properties(report, one, problem.at, title)
        lines.append(
            _command(COMMANDS[finding.severity], properties, problem_lines(problem.message, problem.hint, problem.at))
        )
    errors = sum(line.startswith("::error") for line in lines)
    more = f"; GitHub shows {SHOWN} errors per step, see the log for all" if errors > SHOWN else ""
    first_notice = next((number for number, line in enumerate(lines) if line.startswith("::notice")), len(lines))
    notices = [_command("warning", TITLE, safe(notice)) for notice in report.notices]
    notices.append(_command("notice", TITLE, summary(report) + more))
    return "\n".join([*lines[:first_notice], *notices, *lines[first_notice:]]) + "\n"


def _interleaved(found: Iterable[tuple[Result, Finding]]) -> list[tuple[Result, Finding]]:
    """The findings that count by severity; within one, the first of each adapter, then the second of each."""
    turns: Counter[tuple[int, Severity]] = Counter()
    ranked = []
    for one, finding in found:
        if finding.accepted is None:
            turns[turn := (id(one), finding.severity)] += 1
            ranked.append(((-finding.severity, turns[turn]), (one, finding)))
    return [pair for _, pair in sorted(ranked, key=lambda row: row[0])]


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


def job_summary(report: Report, limit: int = STEP_LIMIT) -> str:
    """What people read, as Markdown for a job summary, in at most ``limit`` bytes.

    It is a block of code, in which nothing is a link, a mention or HTML; its fence is longer than any in it.
    """
    text = "".join(f"warning: {safe(notice)}\n" for notice in report.notices) + rendered(human(report), 100)
    text += f"\nerror: {safe(report.error.message)}\n" if report.error else ""
    if len(text.encode()) > limit - 100:
        text = f"{summary(report)}; for a job summary that is too long, --format json has all\n"
    fence = "`" * max([2, *map(len, re.findall("`+", text))]) + "`"
    page = f"### lora-cli validate\n\n{fence}text\n{text}{fence}\n"
    return page if len(page.encode()) <= limit else ""
