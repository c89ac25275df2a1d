"""The terminal output of ``engines`` and ``rules``."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from lora_cli.checks import CHECKS
from lora_cli.checks.check import Check
from lora_cli.engines import Profile
from lora_cli.finding import Outcome
from lora_cli.render.catalog_report import RuleEntry
from lora_cli.render.terminal import Paragraph, separated, table, text
from lora_cli.render.text import without_markup
from lora_cli.text import by_key

LETTERS: Mapping[Outcome, str] = {
    Outcome.UNKNOWN: "?",
    Outcome.OK: "·",
    Outcome.REJECTS: "R",
    Outcome.CRASHES: "C",
    Outcome.SERVES_WRONG: "W",
}
STYLES = {"R": "red", "C": "red", "W": "yellow"}
LEGEND = "· works, R rejected, C crashes on first use, W served incorrectly, ? unknown"
ORDER = (Outcome.REJECTS, Outcome.CRASHES, Outcome.SERVES_WRONG)
HUNDREDS = {"LC1": "files", "LC2": "config", "LC3": "tensors", "LC4": "engines", "LC5": "values", "LC6": "supply chain"}


def told_apart(profiles: Sequence[Profile]) -> list[Check]:
    """The checks of which not every engine makes the same."""
    return [one for one in CHECKS if len({one.effects[profile.engine.name] for profile in profiles}) > 1]


def matrix_parts(profiles: Sequence[Profile]) -> Iterator[RenderableType]:
    """The table of checks by engines, with a letter for each outcome, and its legend."""
    heads = [Text(f"{one.engine.title}\n{one.version}") for one in profiles]
    rows = [
        (f"{check.code} {check.name}", *(text(cell, STYLES.get(cell, "")) for cell in letters(check, profiles)))
        for check in told_apart(profiles)
    ]
    matrix = table(("", *heads), rows)
    matrix.padding = (0, 1, 0, 0)
    yield from (matrix, "", Paragraph(LEGEND))
    yield Paragraph("`lora-cli rules CODE` says more of each, `lora-cli engines NAME[@VERSION]` shows the fixes.")


def letters(check: Check, profiles: Sequence[Profile]) -> list[str]:
    """The engines' outcomes for what a check finds, as letters of the legend."""
    return [LETTERS[check.effects[profile.engine.name]] for profile in profiles]


def engine_parts(profile: Profile, profiles: Sequence[Profile]) -> Iterator[RenderableType]:
    """One of the profiles: its ranks, and what it rejects, crashes on or serves incorrectly, with the fix."""
    yield text(profile.title, "bold")
    lines = (profile.note, profile.allowed, f"profiles: {', '.join(profile.engine.versions)}")
    yield from (Paragraph(one) for one in lines if one)
    name, checks = profile.engine.name, told_apart(profiles)
    for outcome in ORDER:
        minded = [one for one in checks if one.effects[name] is outcome]
        yield from ("", text(outcome.label, "bold")) if minded else ()
        for one in minded:
            yield Paragraph(without_markup(one.summary), f"{one.code}: ", indent=2)
            yield from (Paragraph(one.hint.format(engine=name), "fix: ", indent=4),) if one.hint else ()
            yield from (Paragraph(one.evidence[name], "source: ", indent=4),) if name in one.evidence else ()


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
