"""Writes the generated pages, ``docs/rules.md`` and ``docs/engines.md``, from the rules and the engines' profiles.

``make docs`` runs it; a test compares what it would write with what is there.
"""

from collections.abc import Iterator
from pathlib import Path

from lora_cli.core.engine_outcome import Outcome
from lora_cli.engines import ENGINES, Profile, all_profiles, profiles_of
from lora_cli.render.human.engines import LEGEND, PROOFS, Ellipses, letter
from lora_cli.render.human.rules import HUNDREDS
from lora_cli.rules import RULES
from lora_cli.rules.features import FEATURES

HERE = Path(__file__).parent


def pages() -> dict[str, str]:
    """Each page's text by its file name."""
    return {"rules.md": "\n".join(rules_page()) + "\n", "engines.md": "\n".join(engines_page()) + "\n"}


def rules_page() -> Iterator[str]:
    """Every rule of ``validate``, as it documents itself."""
    yield from ("# The rules of `lora-cli validate`", "", "Generated from the rules by `make docs`.")
    hundred = ""
    for rule in RULES:
        if rule.code[:3] != hundred:
            hundred = rule.code[:3]
            yield from ("", f"## {hundred}xx: {HUNDREDS[hundred]}")
        needs = f"; needs {', '.join(rule.needs)}" if rule.needs else ""
        yield from ("", f"### {rule.code} {rule.name}", f"{rule.severity.label}{needs}", "")
        yield rule.documentation.replace("``", "`")


def engines_page() -> Iterator[str]:
    """The matrix of features and engines, then each engine's rows with their evidence."""
    profiles = all_profiles()
    yield from ("# What engines do with which adapters", "", "Generated from `lora_cli/engines` by `make docs`.", "")
    yield "| feature of the adapter | " + " | ".join(one.title for one in profiles) + " |"
    yield "|---|" + ":-:|" * len(profiles)
    for name, feature in FEATURES.items():
        yield f"| {feature.title} | " + " | ".join(_plain(letter(name, profile)) for profile in profiles) + " |"
    yield from ("", f"{_plain(LEGEND)}.", "")
    yield "Of damaged files, broken configs and values that are not finite the rules without an engine say what is so."
    for engine in ENGINES.values():
        for profile in reversed(profiles_of(engine)):
            if profile.rows:
                yield from ("", f"## {profile.title}", "", f"{profile.allowed}.", "", *_rows(profile))


def _rows(profile: Profile) -> Iterator[str]:
    yield "| feature | outcome | why | what mends it | evidence |"
    yield "|---|---|---|---|---|"
    for outcome in (Outcome.REJECTS, Outcome.CRASHES, Outcome.SERVES_WRONG):
        for row in profile.rows:
            if row.outcome is outcome:
                mend = row.mend.format_map(Ellipses()).removeprefix("…")
                evidence = f"`{row.evidence}`; {PROOFS[row.proof]}"
                cells = (FEATURES[row.feature].title, outcome.label, row.reason, mend, evidence)
                yield f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    for file, text in pages().items():
        (HERE / file).write_text(text, encoding="utf-8")
