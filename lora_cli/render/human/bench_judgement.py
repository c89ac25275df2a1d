"""What people read below the numbers: what changed since an older result, and what the run is failed for."""

from collections.abc import Sequence

from lora_cli.bench.regression import Change, Judged
from lora_cli.core.text import counted, cut, safe
from lora_cli.render.text import columns, paint, wrap

STYLES = {"better": "green", "worse": "red"}
MOST = 40
"""So many changes are told, the worst first."""


def render_judgement(compared: Sequence[Change], verdicts: Sequence[Judged], width: int, *, colour: bool) -> str:
    """A table of metrics that changed, and a line for each condition; nothing where nobody asked."""
    lines: list[str] = []
    if compared:
        changed = ranked(compared)
        rows = [
            (cut(safe(one.metric), max(width - 44, 12)), f"{one.before:.4g}", f"{one.now:.4g}", by(one), one.verdict)
            for one in changed[:MOST]
        ]
        lines += ["", *(_painted(line, colour) for line in columns(("metric", "before", "now", "by", ""), rows))]
        same = len(compared) - len(changed)
        lines += wrap(f"{counted(len(changed), 'metric')} changed, {same} as before", width)
    for judged in verdicts:
        word = paint("failed", "red", colour=colour) if judged.failed else "passed"
        lines += ["", f"{word}  {safe(judged)}"]
    return "\n".join(lines) + "\n" if lines else ""


def ranked(compared: Sequence[Change]) -> list[Change]:
    """Those that are not the same, the worse ones first, each kind by how much it changed."""
    changed = [one for one in compared if one.verdict != "same"]
    return sorted(changed, key=lambda one: (one.verdict != "worse", -abs(one.by or 0)))


def by(one: Change) -> str:
    """The change as people say it."""
    return "from 0" if one.by is None else f"{one.by:+.1%}"


def _painted(line: str, colour: bool) -> str:
    word = line.rpartition(" ")[2]
    return line.removesuffix(word) + paint(word, STYLES[word], colour=colour) if word in STYLES else line
