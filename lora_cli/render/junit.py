"""JUnit XML, as Jenkins, GitLab and other CI servers read it: a suite per adapter, a case per rule.

A rule fails where a finding refuses the adapter, and is skipped where it could not look, or where all that it found is
known or suppressed. A warning that refuses nothing stands in a case that passes. What cannot be read is an error.
"""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from lora_cli.core.finding import Finding, Skipped
from lora_cli.core.text import safe
from lora_cli.rules.rule import Rule
from lora_cli.validation.report import Report, Validated, findings_of


def render_report(report: Report) -> str:
    """The document; names out of an adapter have no character that XML does not take."""
    root = ET.Element("testsuites", name="lora-cli validate")
    for one in report.adapters:
        root.append(_suite(report, one))
    for total in ("tests", "failures", "errors"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _unheard(ET.tostring(root, encoding="unicode")) + "\n"


def _unheard(text: str) -> str:
    """So that no line of it is a command on a CI server's console."""
    return text.replace("##", "#&#35;")


def _suite(report: Report, one: Validated) -> ET.Element:
    name = safe(report.naming.identity(one))
    suite = ET.Element("testsuite", name=name)
    facts = {"source": one.source, "revision": one.revision, "modules applied": str(one.applied or "")}
    facts |= {str(engine): engine.label for engine in one.engines}
    properties = ET.SubElement(suite, "properties")
    for key, value in facts.items():
        if value:
            ET.SubElement(properties, "property", name=safe(key), value=safe(value))
    suite.extend(_unread(one, name) if one.error is not None else _cases(report, one, name))
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(total, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("time", f"{sum(one.stage_ms.values()) / 1000:.3f}")
    return suite


def _unread(one: Validated, name: str) -> list[ET.Element]:
    assert one.error is not None
    case = ET.Element("testcase", classname=name, name="read the adapter")
    error = ET.SubElement(case, "error", type=one.error.kind, message=safe(one.error.message))
    error.text = _lines(one.error.message, *([f"hint: {one.error.hint}"] if one.error.hint else []))
    return [case]


def _cases(report: Report, one: Validated, name: str) -> list[ET.Element]:
    found: dict[str, list[Finding]] = {}
    for finding in findings_of(one):
        found.setdefault(finding.code, []).append(finding)
    skipped = {said.code: said for said in one.skipped}
    return [_case(report, name, rule, found.get(rule.code, ()), skipped.get(rule.code)) for rule in report.rules]


def _case(report: Report, name: str, rule: Rule, found: Sequence[Finding], skipped: Skipped | None) -> ET.Element:
    case = ET.Element("testcase", classname=name, name=f"{rule.code} {rule.name}")
    counting = [one for one in found if one.accepted is None]
    refusing = [one for one in counting if one.severity >= report.fail_on]
    if refusing:
        first = refusing[0]
        message = safe(first.problem.message) + (f" (and {len(refusing) - 1} more)" if len(refusing) > 1 else "")
        failure = ET.SubElement(case, "failure", type=str(first.severity), message=message)
        failure.text = "\n".join(map(_paragraph, refusing))
    elif found and not counting:
        ET.SubElement(case, "skipped", message=safe(_why(found[0])))
    elif skipped is not None:
        ET.SubElement(case, "skipped", message=safe(skipped.reason))
    rest = [one for one in found if one not in refusing]
    if rest:
        ET.SubElement(case, "system-out").text = "\n".join(map(_paragraph, rest))
    return case


def _why(finding: Finding) -> str:
    accepted = finding.accepted
    assert accepted is not None
    return f"{accepted.label}: {accepted.reason or accepted.at}"


def _paragraph(finding: Finding) -> str:
    problem = finding.problem
    mark = f" ({_why(finding)})" if finding.accepted is not None else ""
    lines = [f"{finding.severity} {finding.code} {finding.name}{mark}: {problem.message}"]
    lines += [f"at: {problem.at}"] * bool(str(problem.at)) + [f"hint: {problem.hint}"] * bool(problem.hint)
    return _lines(*lines)


def _lines(*texts: str) -> str:
    return "\n".join(map(safe, texts))
