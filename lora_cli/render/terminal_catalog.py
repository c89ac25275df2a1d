"""The terminal output of ``engines`` and ``rules``."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from lora_cli.engines import Profile
from lora_cli.engines.profile import Row
from lora_cli.finding import Outcome
from lora_cli.render.catalog_report import RuleEntry
from lora_cli.render.terminal import Paragraph, separated, table, text
from lora_cli.render.text import without_markup
from lora_cli.rules.features import FEATURES
from lora_cli.text import by_key

LETTERS: Mapping[Outcome | None, str] = {
    None: "?",
    Outcome.OK: "·",
    Outcome.REJECTS: "R",
    Outcome.CRASHES: "C",
    Outcome.SERVES_WRONG: "W",
}
STYLES = {"R": "red", "C": "red", "W": "yellow"}
LEGEND = "· works, R rejected, C crashes on first use, W served incorrectly, ? unknown"
ORDER = (Outcome.REJECTS, Outcome.CRASHES, Outcome.SERVES_WRONG)
PROOFS = {"run": "tested", "read": "from source", "reasoned": "inferred"}
HUNDREDS = {"LC1": "files", "LC2": "config", "LC3": "tensors", "LC4": "engine", "LC5": "values", "LC6": "supply chain"}


def matrix_parts(profiles: Sequence[Profile]) -> Iterator[RenderableType]:
    """The table of features by engines, with a letter for each outcome, and its legend."""
    heads = [Text(f"{one.engine.title}\n{one.version}") for one in profiles]
    rows = [
        (feature.title, *(text(cell, STYLES.get(cell, "")) for cell in (letter(name, one) for one in profiles)))
        for name, feature in FEATURES.items()
    ]
    matrix = table(("", *heads), rows)
    matrix.padding = (0, 1, 0, 0)
    yield from (matrix, "", Paragraph(LEGEND))
    yield Paragraph("`lora-cli engines NAME[@VERSION]` shows the reasons and the fixes.")


def letter(name: str, profile: Profile) -> str:
    """The engine's outcome for a feature, as a letter of the legend."""
    return LETTERS[FEATURES[name].outcome(name, profile)]


def engine_parts(profile: Profile) -> Iterator[RenderableType]:
    """One profile: its ranks, and the features that it rejects, crashes on or serves incorrectly, with the fix."""
    yield text(profile.title, "bold")
    lines = (profile.note, profile.allowed, f"profiles: {', '.join(profile.engine.versions)}")
    yield from (Paragraph(one) for one in lines if one)
    if not profile.rows:
        yield from ("", Paragraph("It defines the format: rules without an engine follow it."))
    for outcome in ORDER:
        rows = [part for row in profile.rows if row.outcome is outcome for part in _row(row)]
        yield from ("", text(outcome.label, "bold"), *rows) if rows else ()


def _row(row: Row) -> Iterator[RenderableType]:
    reason = f": {row.reason}" if row.reason else ""
    yield Paragraph(FEATURES[row.feature].title + reason, indent=2)
    if row.mend and not row.mend.startswith("{"):
        # The fields of the text have values only for an adapter.
        yield Paragraph(row.mend.format_map(defaultdict(lambda: "…")), "fix: ", indent=4)
    yield Paragraph(f"{row.evidence} ({PROOFS[row.proof]})", "source: ", indent=4)


def rules_parts(rules: Sequence[RuleEntry]) -> Iterator[RenderableType]:
    """All rules by hundreds: code, severity, name and summary."""
    hundreds = by_key((rule.code[:3], rule) for rule in rules)
    return separated(
        *(
            [text(HUNDREDS.get(hundred, hundred), "bold"), *(part for rule in found for part in _listed(rule))]
            for hundred, found in hundreds.items()
        )
    )


def _listed(rule: RuleEntry) -> Iterator[RenderableType]:
    yield f"  {rule.code}  {rule.severity!s:<7}  {rule.name}"
    yield Paragraph(without_markup(rule.summary), indent=9)


def rule_parts(rule: RuleEntry) -> Iterator[RenderableType]:
    """The documentation of one rule."""
    needs = f"; needs {', '.join(rule.needs)}" if rule.needs else ""
    yield from (text(f"{rule.code} {rule.name}", "bold"), f"{rule.severity}{needs}")
    for paragraph in rule.documentation.split("\n\n"):
        yield from ("", Paragraph(without_markup(" ".join(paragraph.split()))))
