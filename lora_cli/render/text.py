"""Sentences that several formats have: a rule's documentation without markup, and the counts of a validation."""

from typing import TYPE_CHECKING

from lora_cli.core.text import counted

if TYPE_CHECKING:
    from lora_cli.validation.report import ValidateSummary


def unmarked(documentation: str) -> str:
    """A rule's documentation, as it reads without markup."""
    return documentation.replace("``", "").replace("*Why is this bad?*", "Why is this bad?").replace("*Fix*", "Fix")


def summary(counts: "ValidateSummary") -> str:
    """``3 adapters (1 ok, 2 refused); 2 errors; no warnings; no skipped checks``, and what does not count, if any."""
    parts = [
        f"{counts.ok} ok",
        f"{counts.accepted} accepted",
        f"{counts.refused} refused",
        f"{counts.failed} failed",
    ]
    outcome = ", ".join(part for part in parts if not part.startswith("0 "))
    said = [
        f"{counted(counts.adapters, 'adapter')} ({outcome})" if outcome else counted(0, "adapter"),
        *(
            f"{engine}: {', '.join(f'{label} {number}' for label, number in outcomes.items())}"
            for engine, outcomes in counts.engines.items()
        ),
        counted(counts.errors, "error"),
        counted(counts.warnings, "warning"),
        counted(counts.skipped, "skipped check"),
    ]
    said += [f"{counts.known} known"] * bool(counts.known)
    said += [f"{counts.suppressed} suppressed"] * bool(counts.suppressed)
    return "; ".join(said)
