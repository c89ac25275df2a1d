"""The JSON document of ``validate``, and what it has in common with those of ``inspect`` and ``repair``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from lora_cli.core.engine_outcome import OutcomeSlug
from lora_cli.core.finding import SeverityLabel
from lora_cli.core.json_schema import INLINE, Count, Fingerprint, PositiveCount, RuleCode, Sha256

F = TypeVar("F")
"""What is reported of a finding."""


@dataclass(frozen=True, slots=True)
class BaseModelSummary:
    """The base model that adapters are compared with."""

    name: str
    model_type: str
    source: str
    """Where its facts come from."""


@dataclass(frozen=True, slots=True)
class AppliedModules:
    """How many of the adapter's modules exist in the base model."""

    matched: Count
    total: Count


@dataclass(frozen=True, slots=True)
class SkippedCheck:
    """A rule that could not check, and why."""

    code: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Why a finding does not count."""

    by: Literal["baseline", "policy"]
    at: str
    """The file that says so, and the line where there is one."""
    reason: str


@dataclass(frozen=True, slots=True)
class FindingReport:
    """One finding of a rule."""

    code: RuleCode
    """The rule: LC and three digits. A code never changes its meaning."""
    name: str
    """The rule in words."""
    severity: SeverityLabel
    message: str
    """What was found, with the numbers. The wording may change."""
    file: str
    """The adapter's file, relative to its folder; empty where the finding is about no file."""
    field: str
    """The field, module or tensor in the file; may be empty."""
    hint: str
    """What fixes it; may be empty."""
    accepted: Acceptance | None
    """Why the finding does not count, or null."""


@dataclass(frozen=True, slots=True)
class FingerprintedFinding:
    """One finding of a rule, with an identity that can be compared between runs."""

    finding: FindingReport = field(metadata=INLINE)
    fingerprint: Fingerprint
    """The same as long as the rule finds something there, on every machine."""


@dataclass(frozen=True, slots=True)
class EngineReason:
    """One thing about the adapter that the engine does not serve as it was trained."""

    outcome: OutcomeSlug
    feature: str
    """The row of the engine's profile, or the code of a rule that holds without an engine."""
    code: RuleCode
    """The rule under which it is a finding."""
    message: str
    file: str
    field: str
    limit: str
    """The engine's own limit, in words; may be empty."""
    mend: str
    """The flag or the repair that fixes it; may be empty."""
    evidence: str
    """The engine's source file in which this was read; may be empty."""


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What one engine does with the adapter."""

    engine: str
    """The engine's name, as --engine takes it."""
    version: str | None
    """The version that was asked for, or null for the newest."""
    profile: str
    """The version whose profile judged the adapter."""
    proven: bool
    """Whether the source of a version as old as that was read."""
    note: str
    """Why the profile is that of another version; may be empty."""
    outcome: OutcomeSlug
    applied: AppliedModules | None
    """How many modules apply by the engine's own naming rules, or null."""
    reasons: tuple[EngineReason, ...]


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An error that ended the work on one adapter."""

    message: str
    hint: str
    exit_code: Count


@dataclass(frozen=True, slots=True)
class CheckedAdapter(Generic[F]):
    """One adapter, its findings, and what could not be checked."""

    name: str
    """As it was asked for, or as the manifest calls it."""
    source: str
    """The canonical reference."""
    revision: str | None
    """What the reference was resolved to: a commit, or a fingerprint of the folder."""
    digest: Sha256 | None
    """The snapshot digest, where a policy with suppressions needed it."""
    exit_code: Count
    """The exit code of the command for this adapter alone."""
    applied: AppliedModules | None
    """How many of its modules the base model has, by PEFT's naming rules."""
    findings: tuple[F, ...]
    skipped: tuple[SkippedCheck, ...]
    engines: tuple[EngineReport, ...]
    """What each engine that was named does with it."""
    error: ErrorReport | None
    """What prevented the adapter from being read, or null."""
    stage_ms: Mapping[str, float]
    """Milliseconds by stage."""


@dataclass(frozen=True, slots=True)
class ValidateSummary:
    """Counts over all adapters. Errors, warnings and notes are those that count; known and suppressed do not."""

    adapters: Count
    refused: Count
    failed: Count
    errors: Count
    warnings: Count
    notes: Count
    known: Count
    suppressed: Count
    skipped: Count
    engines: Mapping[str, Mapping[str, PositiveCount]]
    """For each engine, how many adapters have each outcome."""
    exit_code: Count


@dataclass(frozen=True, slots=True)
class ValidateReport:
    """What validate found. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/validate/1"]
    version: str
    """The version of lora-cli."""
    base: BaseModelSummary | None
    """The base model that the adapters were judged against, or null."""
    fail_on: Literal["error", "warning"]
    """The lowest severity that refuses an adapter."""
    adapters: tuple[CheckedAdapter[FingerprintedFinding], ...]
    notices: tuple[str, ...]
    """Notices about the run itself."""
    summary: ValidateSummary
