"""What a rule says about an adapter: ``Problem`` as it is yielded, ``Finding`` with its rule, ``Verdict`` over all."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

from lora_cli.core.json_schema import EXCLUDED, INLINE, Count, RuleCode

if TYPE_CHECKING:
    from lora_cli.core.engine_outcome import EngineOutcome


class Severity(IntEnum):
    """How bad a finding is."""

    NOTE = 0
    WARNING = 1
    ERROR = 2

    def __str__(self) -> str:
        """Lower-case name, as it is in every output."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Location:
    """Where in an adapter: a file, and what in it (a tensor, a module path, a config field)."""

    file: str = ""
    """The adapter's file, relative to its folder; empty if the finding is about no file."""
    field: str = ""
    """The field, module or tensor in the file; may be empty."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.field) if part)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    message: str
    """What was found, with the numbers. The wording may change."""
    at: Location = field(default=Location(), metadata=INLINE)
    hint: str = ""
    """What fixes it; may be empty."""
    by: str = field(default="", metadata=EXCLUDED)
    """The engine for which it is a problem, where it is for one: for another engine it is another problem."""
    causes: tuple[str, ...] = field(default=(), metadata=EXCLUDED)
    """Rules that report the cause of this problem: it is not reported beside a finding of the first that has one."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Why a finding does not count."""

    by: Literal["baseline", "policy"]
    at: str
    """The file that says so, and the line where there is one."""
    reason: str = ""

    @property
    def label(self) -> str:
        """What the finding then is, as it is in every text."""
        return "known" if self.by == "baseline" else "suppressed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a rule."""

    code: RuleCode
    """The rule: LC and three digits. A code never changes its meaning."""
    name: str
    """The rule in words."""
    severity: Severity
    problem: Problem = field(metadata=INLINE)
    accepted: Accepted | None
    """Why the finding does not count, or null."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rule that could not check, and why."""

    code: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Applied:
    """How many of the adapter's modules exist in the base model, and fit on it."""

    matched: Count
    total: Count

    def __str__(self) -> str:
        return f"{self.matched}/{self.total}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All that was found about one adapter. ``applied`` is None when no base model was given.

    ``engines`` has what each engine that was named does with it, in the order in which they were named.
    """

    adapter: str
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    applied: Applied | None = None
    engines: "tuple[EngineOutcome, ...]" = ()

    def worst(self) -> Severity | None:
        """The highest severity of what counts, or None for a clean adapter."""
        return max((finding.severity for finding in self.findings if finding.accepted is None), default=None)

    def refused(self, fail_on: Severity = Severity.ERROR) -> bool:
        """Whether any finding that counts is at or above ``fail_on``."""
        worst = self.worst()
        return worst is not None and worst >= fail_on
