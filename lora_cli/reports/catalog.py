"""What ``rules`` and ``engines`` show: the JSON document of ``rules``, and what people read."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lora_cli.checks import CHECKS
from lora_cli.checks.check import Check
from lora_cli.engines import Profile
from lora_cli.finding import Outcome
from lora_cli.reports.terminal import Paragraph, separated, table, text
from lora_cli.reports.words import OUTCOMES, without_markup
from lora_cli.text import by_key
from lora_cli.version import __version__

if TYPE_CHECKING:
    from lora_cli.reports.terminal import Parts

Document = Mapping[str, object]

LETTERS: Mapping[Outcome, str] = {
    Outcome.UNKNOWN: "?",
    Outcome.OK: "·",
    Outcome.REJECTS: "R",
    Outcome.CRASHES: "C",
    Outcome.WRONG_OUTPUT: "W",
}
LEGEND = "· ok, R rejects, C crashes on first use, W wrong output, ? unknown: the usual outcome; a finding has its own"
HUNDREDS = {"LC1": "files", "LC2": "config", "LC3": "tensors", "LC4": "engines", "LC5": "values", "LC6": "supply chain"}


def rules_document(rules: Sequence[Check]) -> Document:
    """The JSON document of ``rules``."""
    keys = ("code", "name", "severity", "needs", "summary", "documentation")
    entries = [{key: getattr(rule, key) for key in keys} for rule in rules]
    return {"schema": "lora_cli/rules/1", "version": __version__, "rules": entries}


def told_apart(profiles: Sequence[Profile]) -> list[Check]:
    """The checks of which not every engine makes the same."""
    return [check for check in CHECKS if len({*letters(check, profiles)}) > 1]


def letters(check: Check, profiles: Sequence[Profile]) -> list[str]:
    """The engines' outcomes for what a check finds, as letters of the legend."""
    return [LETTERS[check.effects[profile.engine.name]] for profile in profiles]


def human_matrix(profiles: Sequence[Profile]) -> "Parts":
    """The table of checks by engines, with a letter for each outcome, and its legend."""
    styles = {LETTERS[outcome]: style for outcome, (_, style) in OUTCOMES.items() if outcome > Outcome.UNKNOWN}
    rows = [
        (f"{check.code} {check.name}", *(text((cell, styles.get(cell, ""))) for cell in letters(check, profiles)))
        for check in told_apart(profiles)
    ]
    yield table(("", *(text(one.engine.title).append(f"\n{one.version}") for one in profiles)), rows)
    yield from ("", Paragraph(LEGEND))
    yield Paragraph("`lora-cli rules CODE` explains each, `lora-cli engines NAME[@VERSION]` shows the fixes.")


def human_engine(profile: Profile, profiles: Sequence[Profile]) -> "Parts":
    """One of the profiles: its ranks, and what it rejects, crashes on or serves incorrectly, with the fix."""
    yield text((profile.title, "bold"))
    lines = (profile.note, profile.allowed, f"profiles: {', '.join(profile.engine.versions)}")
    yield from (Paragraph(one) for one in lines if one)
    name, checks = profile.engine.name, told_apart(profiles)
    for outcome in (Outcome.REJECTS, Outcome.CRASHES, Outcome.WRONG_OUTPUT):
        minded = [one for one in checks if one.effects[name] is outcome]
        yield from ("", text((OUTCOMES[outcome][0], "bold"))) if minded else ()
        for one in minded:
            yield Paragraph(without_markup(one.summary), f"{one.code}: ", indent=2)
            yield from (Paragraph(one.hint.format(engine=name), "fix: ", indent=4),) if one.hint else ()
            yield from (Paragraph(one.evidence[name], "source: ", indent=4),) if name in one.evidence else ()


def human_rules(rules: Sequence[Check]) -> "Parts":
    """All rules by hundreds: code, severity, name and summary."""

    def listed(hundred: str, found: Sequence[Check]) -> "Parts":
        yield text((HUNDREDS.get(hundred, hundred), "bold"))
        for rule in found:
            yield f"  {rule.code}  {rule.severity!s:<7}  {rule.name}"
            yield Paragraph(without_markup(rule.summary), indent=9)

    hundreds = by_key((rule.code[:3], rule) for rule in rules)
    return separated(*(listed(hundred, found) for hundred, found in hundreds.items()))


def human_rule(rule: Check) -> "Parts":
    """The documentation of one rule."""
    needs = f"; needs {', '.join(rule.needs)}" if rule.needs else ""
    yield from (text((f"{rule.code} {rule.name}", "bold")), f"{rule.severity}{needs}")
    for paragraph in rule.documentation.split("\n\n"):
        yield from ("", Paragraph(without_markup(" ".join(paragraph.split()))))
