"""JUnit XML, as Jenkins, GitLab and other CI servers read it: a suite per adapter, a case per rule.

A rule fails where a finding refuses the adapter, and is skipped where it could not look, or where all that it found is
known. A warning that refuses nothing is in a case that passes. What cannot be read is an error.
"""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from lora_cli.finding import Finding
from lora_cli.judging.report import Report
from lora_cli.judging.result import Result
from lora_cli.reports.words import problem_lines
from lora_cli.text import safe


def render_report(report: Report) -> str:
    """The document; characters of names that XML does not allow are escaped.

    No line of it is a command on a CI server's console.
    """
    root = ET.Element("testsuites", name="lora-cli validate")
    for one in report.adapters:
        root.append(_suite(report, one))
    for total in ("tests", "failures", "errors"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode").replace("##", "#&#35;")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite(report: Report, one: Result) -> ET.Element:
    name = safe(report.naming.identity(one))
    suite = ET.Element("testsuite", name=name)
    facts = {"result": one.outcome, "source": one.source, "revision": one.revision, "base": one.base}
    facts["modules applied"] = str(one.applied or "")
    facts |= {str(engine): engine.outcome.label for engine in one.engines}
    properties = ET.SubElement(suite, "properties")
    for key, value in facts.items():
        if value:
            ET.SubElement(properties, "property", name=safe(key), value=safe(value))
    if (error := one.error) is not None:
        case = ET.SubElement(suite, "testcase", classname=name, name="read the adapter")
        why = ET.SubElement(case, "error", type=type(error).__name__, message=safe(error.message))
        why.text = problem_lines(error.message, error.hint)
    found, skipped = one.worst_first, {check.code: check.reason for check in one.skipped}
    if one.error is None or found or skipped:
        for rule in report.rules:
            case = ET.SubElement(suite, "testcase", classname=name, name=f"{rule.code} {rule.name}")
            _fill(case, report, [each for each in found if each.code == rule.code], skipped.get(rule.code))
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(total, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("time", f"{sum(one.stage_ms.values()) / 1000:.3f}")
    return suite


def _fill(case: ET.Element, report: Report, found: Sequence[Finding], skipped: str | None) -> None:
    """Adds the failure or the reason for skipping a rule, then its other findings."""
    refusing = [one for one in found if one.accepted is None and one.severity >= report.fail_on]
    if refusing:
        first = refusing[0]
        message = safe(first.problem.message) + (f" (and {len(refusing) - 1} more)" if len(refusing) > 1 else "")
        failure = ET.SubElement(case, "failure", type=str(first.severity), message=message)
        failure.text = "\n".join(map(_paragraph, refusing))
    elif found and all(one.accepted for one in found):
        ET.SubElement(case, "skipped", message=safe(_accepted(found[0])))
    elif skipped is not None:
        ET.SubElement(case, "skipped", message=safe(skipped))
    if rest := [one for one in found if one not in refusing]:
        ET.SubElement(case, "system-out").text = "\n".join(map(_paragraph, rest))


def _accepted(finding: Finding) -> str:
    """The reason why a finding does not count; empty if it does."""
    accepted = finding.accepted
    return f"known: {accepted.reason or accepted.at}" if accepted is not None else ""


def _paragraph(finding: Finding) -> str:
    problem, mark = finding.problem, f" ({_accepted(finding)})" if finding.accepted is not None else ""
    head = f"{finding.severity} {finding.code} {finding.name}{mark}"
    return problem_lines(f"{head}: {problem.message}", problem.hint, problem.at)
