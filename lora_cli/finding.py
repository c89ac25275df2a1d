"""What checks say about an adapter: ``Finding``, and ``EngineOutcome`` for each engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from lora_cli.json_schema import EXCLUDED, INLINE, Count, Fingerprint, RuleCode


class Severity(IntEnum):
    """How bad a finding is."""

    NOTE = 0
    WARNING = 1
    ERROR = 2

    def __str__(self) -> str:
        """Lower-case name, as it is in every output."""
        return self.name.lower()


class Outcome(IntEnum):
    """What an engine does with an adapter. Of several the largest counts: what is rejected is never served."""

    OK = 0
    UNKNOWN = 1
    WRONG_OUTPUT = 2
    CRASHES = 3
    REJECTS = 4

    @property
    def phrase(self) -> str:
        """What an engine does with "it", to be put behind the engine's name."""
        phrases = "serves it correctly", "may not serve it correctly", "serves it incorrectly"
        return (*phrases, "crashes on it at first use", "rejects it")[self]

    def __str__(self) -> str:
        """``ok``, ``unknown``, ``wrong output``, ``crashes`` or ``rejects``, as in every output."""
        return self.name.lower().replace("_", " ")


Effects = Mapping[str, Outcome]
"""What each engine does because of a finding, by the engine's name."""


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
    effects: Effects = field(default_factory=dict, metadata=EXCLUDED, compare=False)
    """What engines do because of it, where that is not what they do because of the check's other problems."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Why a finding does not count."""

    at: str
    """The file that says so."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a check."""

    code: RuleCode
    """The check: LC and three digits. A code never changes its meaning."""
    name: str
    """The check in words."""
    severity: Severity
    problem: Problem = field(metadata=INLINE)
    accepted: Accepted | None
    """Why the finding does not count, or null."""
    fingerprint: Fingerprint | None = None
    """The same as long as the check finds something there, on every machine; missing outside of a report."""
    effects: Mapping[str, Outcome] = field(default_factory=dict)
    """What each engine that was asked for does because of it, as far as it does not serve the adapter right."""

    @property
    def message(self) -> str:
        """What was found, with the numbers."""
        return self.problem.message

    def __str__(self) -> str:
        place = f"{self.problem.at}: " if str(self.problem.at) else ""
        return f"{place}{self.severity} {self.code} {self.name}: {self.message}"


NO_BASE, NO_VALUES = "no base model was given", "--no-values was given"
NO_NAME = "the base has no name to compare with"
WAIVED = frozenset({NO_BASE, NO_VALUES, NO_NAME})
"""Reasons for skipping a check that the user has given: ``--strict`` allows them."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A check that could not look, and why."""

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
class EngineOutcome:
    """What one engine does with the adapter."""

    engine: str
    """The engine's name, as --engine takes it."""
    title: str = field(metadata=EXCLUDED)
    """The name as the engine writes it, vLLM."""
    version: str | None
    """The version that was asked for, or null for the newest."""
    profile: str
    """The version whose profile was used."""
    note: str
    """Why the outcome is unknown; may be empty."""
    outcome: Outcome
    applied: Applied | None
    """How many modules apply by the engine's own naming rules, or null."""

    @property
    def asked(self) -> str:
        """The engine as --engine takes it, with the version if one was asked for: the key in a finding's effects."""
        return f"{self.engine}@{self.version}" if self.version else self.engine

    @property
    def fails(self) -> bool:
        """Whether the engine is known not to serve the adapter as it was trained."""
        return self.outcome > Outcome.UNKNOWN

    def __str__(self) -> str:
        return f"{self.title} {self.version or self.profile}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The flags of the engine that will serve; None is the engine's default.

    ``lora_target_modules`` are the only modules that the engine puts LoRA on, ``tp`` is its tensor-parallel size.
    """

    max_lora_rank: int | None = None
    lora_target_modules: tuple[str, ...] | None = None
    tp: int = 1
