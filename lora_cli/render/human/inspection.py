"""What ``inspect`` says to people: what an adapter is, and what is odd about it."""

from collections.abc import Iterator

from lora_cli.core.finding import Severity
from lora_cli.core.inspection import Inspection
from lora_cli.core.text import safe
from lora_cli.render.described import identity, origin, shape
from lora_cli.render.text import paint, pairs, wrap
from lora_cli.validation import Checked

STYLE = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "blue"}


def render_inspection(checked: Checked, inspection: Inspection | None, width: int, *, colour: bool = False) -> str:
    """One adapter: labelled facts, then each oddity in a line or two."""
    lines = [paint(safe(checked.name), "bold", colour=colour)]
    if inspection is not None:
        lines += pairs([*identity(checked, inspection), *shape(checked, inspection), *origin(inspection)], width)
    if checked.error is not None:
        lines += wrap(checked.error.message, width, "  ", "  ")
        lines += wrap(checked.error.hint, width, "    ", "  hint: ") if checked.error.hint else []
    lines += _odd(checked, width, colour)
    return "\n".join(lines) + "\n"


def _odd(checked: Checked, width: int, colour: bool) -> Iterator[str]:
    if checked.verdict is None:
        return
    for finding in sorted(checked.verdict.findings, key=lambda found: -found.severity):
        label = f"  {finding.severity.label} {finding.code}: "
        first, *rest = wrap(finding.problem.message, width, "    ", label)
        yield first.replace(
            finding.severity.label, paint(finding.severity.label, STYLE[finding.severity], colour=colour), 1
        )
        yield from rest
