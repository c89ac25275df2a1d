"""Markdown for a job summary of GitHub: a table of the adapters that are not ok, then the findings by cause.

Whatever an adapter calls itself or its tensors is text here: no link, no mention, no markup and no HTML comes of it.
"""

import re
from collections.abc import Iterator
from itertools import accumulate

from lora_cli.judging.report import Report
from lora_cli.reports.validate import adapter_table, causes, is_fine
from lora_cli.reports.words import summary
from lora_cli.text import names, safe

STEP_LIMIT = 1024 * 1024
"""The most bytes in the summary of one step: GitHub drops longer ones."""

MAX_NAMES = 20
CUT = "\nThis summary is truncated; `--format json` has all.\n"
_ACTIVE = re.compile(r"[&<>\\`*\[\]#|~@$]|(?<!\w)_|_(?!\w)|:(?=\S)|(?<=www)\.", re.IGNORECASE)


def render_report(report: Report, limit: int = STEP_LIMIT) -> str:
    """The page in at most ``limit`` bytes; a longer one is truncated, with a note."""
    text = "".join(blocks := list(_blocks(report)))
    if len(text.encode()) <= limit:
        return text
    ends = accumulate(len(block.encode()) for block in blocks)
    return "".join([*(block for block, end in zip(blocks, ends, strict=True) if end <= limit - len(CUT)), CUT])[:limit]


def _blocks(report: Report) -> Iterator[str]:
    """The summary and the notices, a row for each adapter that is not ok, and each cause."""
    yield f"### lora-cli validate\n\n**{_text(summary(report))}**\n\n"
    yield from (f"> {_text(notice)}\n\n" for notice in report.notices)
    header, rows = adapter_table([one for one in report.adapters if not is_fine(one)])
    for row in (header, ["---"] * len(header), *rows) if rows else ():
        yield f"| {' | '.join(_text(str(cell)) for cell in row)} |\n"
    for one in report.adapters:
        reasons = [one.error.message] if one.error is not None else one.unchecked
        yield from (f"\n- {_text(one.name)}: {_text(reason)}\n" for reason in reasons)
    for first, problems in causes(report):
        yield f"\n**{first.severity} {first.code}** {_text(first.name)}\n\n"
        for problem, adapters in problems.items():
            at = f"<br>at {_text(str(problem.at))}" if str(problem.at) else ""
            hint = f"<br>hint: {_text(problem.hint)}" if problem.hint else ""
            who = names([_text(name) for name in dict.fromkeys(adapters)], MAX_NAMES, 2000)
            yield f"- {_text(problem.message)}{at}<br>in {who}{hint}\n"


def _text(text: str) -> str:
    """``text`` on one line, with characters that have a meaning in Markdown or HTML as numeric entities.

    Behind ``@`` and ``#`` is a space of no width: mentions and references to issues are made of finished text.
    """
    return _ACTIVE.sub(lambda one: f"&#{ord(one[0])};" + "&#8203;" * (one[0] in "@#"), safe(text))
