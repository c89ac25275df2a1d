"""What changed since an older result, and what the run is failed for, on a page."""

from collections.abc import Sequence

from lora_cli.bench.regression import Change, Judged
from lora_cli.core.text import counted
from lora_cli.render.html.markup import Child, Markup, tag
from lora_cli.render.html.page import badge, table
from lora_cli.render.human.bench_judgement import by, ranked

KINDS = {"better": "good", "worse": "error"}
FAILED, PASSED = badge("failed", "error"), badge("passed", "good")


def judgement(compared: Sequence[Change], verdicts: Sequence[Judged]) -> list[Child]:
    """Nothing where nobody asked."""
    told: list[Child] = [tag("p", FAILED if one.failed else PASSED, str(one)) for one in verdicts]
    if compared:
        changed = ranked(compared)
        rows = [(one.metric, f"{one.before:.4g}", f"{one.now:.4g}", by(one), _verdict(one.verdict)) for one in changed]
        told.append(tag("h2", "Since the older result"))
        same = f"{counted(len(changed), 'metric')} changed, {len(compared) - len(changed)} as before"
        told.append(table(same, ("metric", "before", "now", "by", "verdict"), rows) if rows else tag("p", same))
    return told


def _verdict(word: str) -> Markup:
    return tag("span", word, class_=KINDS[word])
