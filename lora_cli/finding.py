"""What rules and engines say about an adapter: ``Finding`` and ``EngineOutcome``."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from lora_cli.json_schema import EXCLUDED, INLINE, Count, Fingerprint, RuleCode

ENGINE_NAMES = ("vllm", "sglang", "peft")
"""The engines that have profiles (``lora_cli.engines``)."""


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
    fingerprint: Fingerprint | None = None
    """The same as long as the rule finds something there, on every machine; missing outside of a report."""
    consequences: tuple[tuple[str, str], ...] = field(default=(), metadata=EXCLUDED)
    """Code and engine (may be empty) of the findings that follow from this one, which are reported as a part of it."""


NO_BASE, NO_VALUES = "no base model was given", "--no-values was given"
"""Reasons for skipping a check that the user has given."""


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


class Outcome(IntEnum):
    """The engine's result for an adapter. Of several the largest counts: what is rejected is never served."""

    OK = 0
    UNKNOWN = 1
    SERVES_WRONG = 2
    CRASHES = 3
    REJECTS = 4

    @property
    def label(self) -> str:
        """As people read it: ``serves wrong``, ``crashes on first use``."""
        return "crashes on first use" if self is Outcome.CRASHES else str(self).replace("-", " ")

    @property
    def phrase(self) -> str:
        """What an engine does with "it", to be put behind the engine's name."""
        phrases = "serves it correctly", "may not serve it correctly", "serves it incorrectly"
        return (*phrases, "crashes on it at first use", "rejects it")[self]

    def __str__(self) -> str:
        """As machines read it: ``ok``, ``unknown``, ``serves-wrong``, ``crashes``, ``rejects``."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing about the adapter that the engine does not serve as it was trained."""

    outcome: Outcome
    feature: str
    """The row of the engine's profile, or the code of a rule that holds without an engine."""
    code: RuleCode
    """The rule under which it is a finding."""
    message: str
    at: Location = field(metadata=INLINE)
    limit: str = ""
    """The engine's own limit, in words; may be empty."""
    mend: str = ""
    """The flag or the repair that fixes it; may be empty."""
    evidence: str = ""
    """The engine's source file in which this was read; may be empty."""
    causes: tuple[str, ...] = field(default=(), metadata=EXCLUDED)
    """Rules that report the same without an engine."""


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
    proven: bool = field(metadata=EXCLUDED)
    """Whether it is established what the engine does with such an adapter, on such a base, at this version."""
    note: str
    """Why the profile is that of another version, or the outcome is unknown; may be empty."""
    outcome: Outcome
    applied: Applied | None
    """How many modules apply by the engine's own naming rules, or null."""
    reasons: tuple[Reason, ...]

    @property
    def fails(self) -> bool:
        """Whether the engine is known not to serve the adapter as it was trained."""
        return self.outcome > Outcome.UNKNOWN

    def __str__(self) -> str:
        return f"{self.title} {self.version or self.profile}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The flags of the engine that will serve; None is the engine's default.

    ``lora_target_modules`` are the only modules that the engine puts LoRA on. ``max_loras`` is how many adapters one
    batch may hold, ``pinned`` those that are never to leave it.
    """

    max_lora_rank: int | None = None
    lora_target_modules: tuple[str, ...] | None = None
    max_loras: int | None = None
    pinned: int = 0
