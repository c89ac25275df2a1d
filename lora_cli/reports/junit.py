"""JUnit XML, as Jenkins, GitLab and other CI servers read it: a test for each adapter.

It fails where findings or ``--strict`` refuse the adapter, is an error where it cannot be read, and is skipped where it
is only unchecked. A lock that does not fit is a test that fails.
What it was compared with, what engines do, and all else that was found is its output.
"""

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from lora_cli.finding import Finding
from lora_cli.judging.result import Report, Result
from lora_cli.reports.words import outcome_text, problem_lines
from lora_cli.text import by_key, safe


def render_report(report: Report) -> str:
    """The document; characters of names that XML does not allow are escaped.

    No line of it is a command on a CI server's console.
    """
    root = ET.Element("testsuites", name="lora-cli validate")
    suite = ET.SubElement(root, "testsuite", name="lora-cli validate")
    for one in report.adapters:
        case = ET.SubElement(suite, "testcase", classname="validate", name=safe(report.naming.identity(one)))
        case.set("time", f"{sum(one.stage_ms.values()) / 1000:.3f}")
        refusing = [each for each in one.findings if each.accepted is None and each.severity >= report.fail_on]
        if one.error is not None:
            why = ET.SubElement(case, "error", type=type(one.error).__name__, message=safe(one.error.message))
            why.text = problem_lines(one.error.message, one.error.hint)
        if refusing:
            first, more = refusing[0], f" (and {len(refusing) - 1} more)" if len(refusing) > 1 else ""
            message = f"{first.code} {first.name}: {safe(first.problem.message)}{more}"
            failure = ET.SubElement(case, "failure", type=str(first.severity), message=message)
            failure.text = "\n".join(map(_paragraph, refusing))
        elif one.outcome == "unchecked":
            kind = {"type": "unchecked"} if one.exit_code else {}
            ET.SubElement(case, "failure" if kind else "skipped", kind, message=safe("; ".join(one.incomplete)))
        ET.SubElement(case, "system-out").text = "\n".join(_output(one, [*map(id, refusing)]))
    if report.error is not None:
        case = ET.SubElement(suite, "testcase", classname="validate", name="lock", time="0")
        ET.SubElement(case, "failure", type="lock", message=safe(report.error.message)).text = safe(report.error.hint)
    for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(total, str(sum(case.find(tag) is not None for case in suite)))
    for element in (root, suite):
        element.set("tests", str(len(suite)))
        element.set("failures", suite.get("failures", "0"))
        element.set("errors", suite.get("errors", "0"))
    if report.notices:
        ET.SubElement(suite, "system-out").text = "\n".join(map(safe, report.notices))
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode").replace("##", "#&#35;")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _output(one: Result, told: list[int]) -> Iterator[str]:
    """The facts of an adapter, its findings that are not ``told`` yet, and the checks that were skipped by reason."""
    facts = {"result": one.outcome, "source": one.source, "revision": one.revision, "base": one.base}
    facts["modules applied"] = str(one.applied or "")
    facts |= {str(engine): outcome_text(engine) for engine in one.engines}
    yield from (f"{key}: {safe(value).strip()}" for key, value in facts.items() if value)
    yield from (_paragraph(each) for each in one.findings if id(each) not in told)
    for reason, codes in by_key((check.reason, check.code) for check in one.skipped).items():
        yield f"skipped {', '.join(codes)}: {safe(reason)}"


def _paragraph(finding: Finding) -> str:
    problem, accepted = finding.problem, finding.accepted
    mark = f" (known: {accepted.reason or accepted.at})" if accepted is not None else ""
    head = f"{finding.severity} {finding.code} {finding.name}{mark}"
    return problem_lines(f"{head}: {problem.message}", problem.hint, problem.at)
