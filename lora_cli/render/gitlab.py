"""GitLab's code quality report: a list of findings that a merge request shows next to the lines that it changes.

https://docs.gitlab.com/ci/testing/code_quality/ has the format, which is a part of Code Climate's.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lora_cli.core.finding import Location, Severity
from lora_cli.core.text import safe
from lora_cli.render.json import to_json
from lora_cli.validation.report import Report, Validated

SEVERITIES = {Severity.ERROR: "major", Severity.WARNING: "minor"}


def render_report(report: Report) -> str:
    """The errors and warnings that are not known or suppressed. An adapter that cannot be read is a blocker."""
    return to_json([*_unreadable(report), *_counted_findings(report)])


def _unreadable(report: Report) -> Iterator[dict[str, Any]]:
    for one in report.adapters:
        if one.error is not None:
            text = "; ".join(filter(None, (one.error.message, one.error.hint)))
            fingerprint = f"not-read:{report.naming.identity(one)}"
            yield _entry(report, one, Location(), "not-read", "blocker", text, fingerprint)


def _counted_findings(report: Report) -> Iterator[dict[str, Any]]:
    times: Counter[str] = Counter()
    for one, entry in report.found():
        finding, problem = entry.finding, entry.finding.problem
        if finding.accepted is None and finding.severity in SEVERITIES:
            times[entry.fingerprint] += 1
            fingerprint = f"{entry.fingerprint}:{times[entry.fingerprint]}"
            text = "; ".join(filter(None, (f"{finding.code} {finding.name}: {problem.message}", problem.hint)))
            yield _entry(report, one, problem.at, finding.code, SEVERITIES[finding.severity], text, fingerprint)


def _entry(
    report: Report, one: Validated, at: Location, check: str, severity: str, text: str, fingerprint: str
) -> dict[str, Any]:
    place = report.naming.place(one, at)
    return {
        "description": safe(f"{report.naming.identity(one)}: {text}"),
        "check_name": check,
        "fingerprint": safe(fingerprint),
        "severity": severity,
        "location": {"path": safe(place.path), "lines": {"begin": place.line or 1}},
    }
