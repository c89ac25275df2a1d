"""Text shared by several formats: a rule's documentation, a problem line by line, and the summary of a validation."""

from typing import TYPE_CHECKING

from lora_cli.text import counted, safe

if TYPE_CHECKING:
    from lora_cli.finding import EngineOutcome
    from lora_cli.judging.report import ValidateSummary
    from lora_cli.judging.result import Result


def without_markup(documentation: str) -> str:
    """A rule's documentation without markup."""
    return documentation.replace("``", "").replace("*Why is this bad?*", "Why is this bad?").replace("*Fix*", "Fix")


def problem_lines(message: str, hint: str, at: object = "") -> str:
    """The message, the location and the hint, a line each."""
    lines = (message, f"at: {at}" if str(at) else "", f"hint: {hint}" if hint else "")
    return "\n".join(safe(line) for line in lines if line)


def summary(counts: "ValidateSummary") -> str:
    """``3 adapters (1 ok, 2 refused); 2 errors; no warnings; no skipped checks``, and known findings."""
    outcomes = [(name, getattr(counts, name)) for name in ("ok", "accepted", "unchecked", "refused", "failed")]
    outcome = ", ".join(f"{number} {name}" for name, number in outcomes if number)
    return "; ".join(
        [
            f"{counted(counts.adapters, 'adapter')} ({outcome})" if outcome else counted(0, "adapter"),
            *(
                f"{engine}: {', '.join(f'{label} {number}' for label, number in labels.items())}"
                for engine, labels in counts.engines.items()
            ),
            counted(counts.errors, "error"),
            counted(counts.warnings, "warning"),
            counted(counts.skipped, "skipped check"),
            *[f"{counts.known} known"] * bool(counts.known),
        ]
    )


def engine_counts(one: "Result", engine: "EngineOutcome") -> bool:
    """Whether a finding counts that ``engine`` does not serve right: its check was selected, and it is not accepted."""
    return any(finding.accepted is None and engine.asked in finding.effects for finding in one.findings)
