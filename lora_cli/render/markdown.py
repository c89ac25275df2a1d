"""Markdown for a job summary: a table of the adapters, then the findings of each.

Whatever an adapter calls itself or its tensors is text here: no link, no mention, no markup and no HTML comes of it.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from lora_cli.finding import Finding
from lora_cli.judging.report import Report, summarize
from lora_cli.judging.result import Result
from lora_cli.render.text import engine_counts, summary
from lora_cli.text import counted, safe

STEP_LIMIT = 1024 * 1024
"""The most bytes in the summary of one step: GitHub drops longer ones."""

_ACTIVE = re.compile(r"[&<>\\`*\[\]#|~@$]|(?<!\w)_|_(?!\w)|:(?=\S)|(?<=www)\.", re.IGNORECASE)


def render_report(report: Report, limit: int = STEP_LIMIT) -> str:
    """The page in at most ``limit`` bytes; a longer one is truncated, with a note."""
    blocks = [block for block in (_head(report), *(_details(report, one) for one in report.adapters)) if block]
    sizes = list(accumulate((len(block.encode()) for block in blocks), initial=0))
    for count in range(len(blocks), -1, -1):
        left = counted(len(blocks) - count, "part")
        cut = f"\nThis summary is truncated: {left} left out; `--format json` has all.\n" if count < len(blocks) else ""
        if sizes[count] + len(cut) <= limit:
            return "".join(blocks[:count]) + cut
    return ""


def _head(report: Report) -> str:
    """The counts, the notices, and a row for each adapter."""
    engines = list(dict.fromkeys(str(engine) for one in report.adapters for engine in one.engines))
    columns = ["", "adapter", "modules", *map(_text, engines), "errors", "warnings", "skipped"]
    rows = [columns, ["---"] * len(columns), *(_row(report, one, engines) for one in report.adapters)]
    lines = ["### lora-cli validate", "", f"**{_text(summary(report.summary))}**", ""]
    lines += [f"> {_text(notice)}\n" for notice in report.notices]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _row(report: Report, one: Result, engines: Sequence[str]) -> Iterator[str]:
    counts = summarize([one])
    yield {"failed": "⚠️ failed", "refused": "❌ refused", "unchecked": "⚠️ unchecked"}.get(one.outcome or "", "✅ ok")
    yield _code(report.naming.identity(one))
    yield str(one.applied) if one.applied is not None else "–"
    known = {str(engine): engine for engine in one.engines}
    for engine in map(known.get, engines):
        is_counted = engine is None or not engine.fails or engine_counts(one, engine)
        yield (engine.outcome.label if engine is not None else "–") + ("" if is_counted else " (does not count)")
    yield from map(str, (counts.errors, counts.warnings, counts.skipped))


def _details(report: Report, one: Result) -> str:
    body = [_item(finding) for finding in one.worst_first]
    body += [f"- **unchecked**: {_text(reason)}" for reason in one.unchecked]
    if one.error is not None:
        body.insert(0, f"- **failed**: {_text(one.error.message)}{_hint(one.error.hint)}")
    if not body:
        return ""
    opened = " open" if one.exit_code else ""
    head = f"<details{opened}><summary>{_code(report.naming.identity(one))}</summary>"
    return "\n".join(["", head, "", *body, "", "</details>", ""])


def _item(finding: Finding) -> str:
    problem, accepted = finding.problem, finding.accepted
    head = f"**{finding.severity} {finding.code}** {_text(finding.name)}"
    if accepted is not None:
        head += f" (known{': ' + _text(accepted.reason) if accepted.reason else ''})"
    at = f"<br>at {_code(str(problem.at))}" if str(problem.at) else ""
    return f"- {head}: {_text(problem.message)}{at}{_hint(problem.hint)}"


def _hint(hint: str) -> str:
    return f"<br>hint: {_text(hint)}" if hint else ""


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _text(text: str) -> str:
    """``text`` on one line, with characters that have a meaning in Markdown or HTML as numeric entities.

    Behind ``@`` and ``#`` is a space of no width: mentions and references to issues are made of finished text.
    """
    return _ACTIVE.sub(lambda one: f"&#{ord(one[0])};" + "&#8203;" * (one[0] in "@#"), safe(text))
