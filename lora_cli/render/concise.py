"""One line for each finding, never wrapped: ``adapter:file:key: LC301 message``."""

from lora_cli.core.finding import Severity
from lora_cli.core.text import safe
from lora_cli.validation.report import Report


def render_report(report: Report, *, quiet: bool = False) -> str:
    """A line for each adapter that could not be read, and for each finding that counts; ``quiet`` leaves out notes."""
    lines = []
    for one in report.adapters:
        if one.error is not None:
            hint = f" (hint: {one.error.hint})" if one.error.hint else ""
            lines.append(f"{one.name}: error: {one.error.message}{hint}")
        for finding in (found.finding for found in one.findings):
            if finding.accepted is None and not (quiet and finding.severity is Severity.NOTE):
                at = finding.problem.at
                place = ":".join(filter(None, (one.name, at.file, at.field)))
                lines.append(f"{place}: {finding.code} {finding.problem.message}")
    return "".join(f"{safe(line)}\n" for line in lines)
