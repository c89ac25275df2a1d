"""What several formats say alike: outcomes, a problem line by line, a check's documentation, and the summary."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lora_cli.finding import EngineOutcome, Outcome
from lora_cli.text import counted, safe

if TYPE_CHECKING:
    from lora_cli.finding import Finding
    from lora_cli.judging.result import Report, Result

Styled = tuple[str, str]
"""A text and its rich style."""

RESULTS: Mapping[str | None, Styled] = {
    "ok": ("ok", "green"),
    "accepted": ("accepted", "yellow"),
    "unchecked": ("unchecked", "yellow"),
    "refused": ("failed", "red"),
    "failed": ("not read", "red"),
}
"""The result of an adapter in words, the best first."""

OUTCOMES: Mapping[Outcome, Styled] = {
    Outcome.OK: ("ok", "green"),
    Outcome.UNKNOWN: ("unknown", "yellow"),
    Outcome.WRONG_OUTPUT: ("wrong output", "red"),
    Outcome.CRASHES: ("crashes", "red"),
    Outcome.REJECTS: ("rejects", "red"),
}
"""What an engine does, in words."""


def result_of(one: "Result") -> Styled:
    """The result of an adapter; what an engine does not know is not ok."""
    is_unknown = any(engine.outcome is Outcome.UNKNOWN for engine in one.engines)
    return RESULTS["unchecked" if one.outcome == "ok" and is_unknown else one.outcome]


def outcome_text(one: EngineOutcome) -> str:
    """What an engine does, and how many modules apply: ``ok 14/14``."""
    return f"{OUTCOMES[one.outcome][0]} {one.applied or ''}".rstrip()


def engine_counts(one: "Result", engine: EngineOutcome) -> bool:
    """Whether a finding counts that ``engine`` does not serve right: its check was selected, and it is not accepted."""
    return any(finding.accepted is None and engine.asked in finding.effects for finding in one.findings)


def is_repairable(finding: "Finding") -> bool:
    """Whether its hint is a repair that fixes it."""
    hint = finding.problem.hint
    return finding.accepted is None and "`lora-cli repair" in hint and "--base-name" not in hint


def repairable(report: "Report") -> "list[Result]":
    """The adapters with a finding that ``repair`` fixes."""
    return [one for one in report.adapters if any(map(is_repairable, one.findings))]


def summary(report: "Report") -> str:
    """``33 adapters: 28 ok, 5 failed, 2 can be repaired``."""
    counts = Counter(result_of(one)[0] for one in report.adapters)
    parts = [f"{counts[word]} {word}" for word, _ in RESULTS.values() if counts[word]]
    parts += [f"{number} can be repaired" for number in (len(repairable(report)),) if number]
    return f"{counted(len(report.adapters), 'adapter')}: {', '.join(parts)}".removesuffix(": ")


def without_markup(documentation: str) -> str:
    """A check's documentation without markup."""
    return documentation.replace("``", "").replace("*Fix*", "Fix")


def problem_lines(message: str, hint: str, at: object = "") -> str:
    """The message, the location and the hint, a line each."""
    lines = (message, f"at: {at}" if str(at) else "", f"hint: {hint}" if hint else "")
    return "\n".join(safe(line) for line in lines if line)
