"""What a rule says about an adapter: ``Problem`` as it is yielded, ``Finding`` with its rule, ``Verdict`` over all."""

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lora_cli.core.engine_outcome import EngineOutcome


SeverityLabel = Literal["note", "warning", "error"]
_LABELS: tuple[SeverityLabel, ...] = ("note", "warning", "error")


class Severity(IntEnum):
    """How bad a finding is, ordered so that ``>=`` means "at least as bad"."""

    NOTE = 0
    WARNING = 1
    ERROR = 2

    @property
    def label(self) -> SeverityLabel:
        """Lower-case name, as it stands in every output."""
        return _LABELS[self]


@dataclass(frozen=True, slots=True)
class Location:
    """Where in an adapter: a file, and what in it (a tensor, a module path, a config field)."""

    file: str = ""
    field: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.field) if part)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what is so (with the numbers), where, and what mends it.

    ``by`` names the engine for which it is, where it is for one: for another engine it is another problem.
    """

    message: str
    at: Location = Location()
    hint: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Why a finding does not count: it stands in a baseline, or a policy suppresses it for a ``reason``.

    ``at`` is where that is written: a file, and the line where there is one.
    """

    by: Literal["baseline", "policy"]
    at: str
    reason: str = ""

    @property
    def label(self) -> str:
        """What the finding then is, as it stands in every text."""
        return "known" if self.by == "baseline" else "suppressed"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem under the rule that found it. One that is ``accepted`` is told, and refuses nothing."""

    code: str
    name: str
    severity: Severity
    problem: Problem
    accepted: Accepted | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rule that could not look, and why. Nothing read is never reported as clean."""

    code: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Applied:
    """How many of an adapter's modules exist in the base by PEFT's name rules: ``matched`` of ``total``."""

    matched: int
    total: int

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

    def counts(self, engine: "EngineOutcome") -> bool:
        """Whether a reason for what ``engine`` does is a finding that counts: asked for, and not accepted."""
        found = {one.code for one in self.findings if one.accepted is None and one.problem.by in {"", engine.engine}}
        return not found.isdisjoint(reason.code for reason in engine.reasons)

    def refused(self, fail_on: Severity = Severity.ERROR) -> bool:
        """Whether any finding that counts is at or above ``fail_on``."""
        worst = self.worst()
        return worst is not None and worst >= fail_on
