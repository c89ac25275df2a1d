"""Workflow commands of GitHub Actions: each finding an annotation, beside the file that it is in.

GitHub shows the first ten errors, ten warnings and ten notices of a step, and all in its log: so the worst of each
adapter comes before the second worst of any, and one notice counts them all.
"""

from collections import Counter
from collections.abc import Iterator

from lora_cli.core.finding import Finding, Severity
from lora_cli.core.text import safe
from lora_cli.render.text import summary
from lora_cli.validation.report import Report, Validated

COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
SHOWN = 10
TITLE = {"title": "lora-cli validate"}


def render_report(report: Report) -> str:
    """One command to a line. What is known or suppressed is counted, and not annotated."""
    lines = [_unread(report, one) for one in report.adapters if one.error is not None]
    found = [(one, found.finding) for one, found in report.found() if found.finding.accepted is None]
    lines += [_annotation(report, one, finding) for one, finding in _by_turns(found)]
    errors = report.summary.errors + report.summary.failed
    more = f"; GitHub shows {SHOWN} errors of a step, the log has all" if errors > SHOWN else ""
    first_notice = next((number for number, line in enumerate(lines) if line.startswith("::notice")), len(lines))
    said = [_command("warning", TITLE, safe(notice)) for notice in report.notices]
    said.append(_command("notice", TITLE, summary(report.summary) + more))
    return "\n".join([*lines[:first_notice], *said, *lines[first_notice:]]) + "\n"


def _by_turns(found: list[tuple[Validated, Finding]]) -> Iterator[tuple[Validated, Finding]]:
    """The worst first; among equals the first of each adapter, then the second of each."""
    turns: Counter[tuple[int, Severity]] = Counter()
    ranked: list[tuple[int, int, int, Validated, Finding]] = []
    for one, finding in found:
        turn = turns[id(one), finding.severity]
        turns[id(one), finding.severity] += 1
        ranked.append((-finding.severity, turn, len(ranked), one, finding))
    for *_, one, finding in sorted(ranked, key=lambda row: row[:3]):
        yield one, finding


def _annotation(report: Report, one: Validated, finding: Finding) -> str:
    problem = finding.problem
    lines = [problem.message, f"at: {problem.at}" if str(problem.at) else "", f"hint: {problem.hint}"]
    title = f"{finding.code} {finding.name} ({report.naming.identity(one)})"
    text = "\n".join(safe(line) for line in lines if line and line != "hint: ")
    return _command(COMMANDS[finding.severity], {**_file(report, one, problem.at.file), "title": title}, text)


def _unread(report: Report, one: Validated) -> str:
    assert one.error is not None
    hint = f"\nhint: {safe(one.error.hint)}" if one.error.hint else ""
    title = f"not read ({report.naming.identity(one)})"
    return _command("error", {**_file(report, one, ""), "title": title}, safe(one.error.message) + hint)


def _file(report: Report, one: Validated, file: str) -> dict[str, str]:
    """The file that GitHub puts the annotation beside, where it is one of the repository."""
    place = report.naming.place(one, file)
    if place.kind != "below":
        return {}
    return {"file": place.path} | ({"line": str(place.line)} if place.line else {})


def _command(command: str, properties: dict[str, str], data: str) -> str:
    """``::error file=…,title=…::…``, with everything in it escaped that the runner would take for its own."""
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{command} {listed}::{_data(data)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(safe(text)).replace(":", "%3A").replace(",", "%2C")
