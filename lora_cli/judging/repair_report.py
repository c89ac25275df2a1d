"""The report of ``repair``; its JSON output has the same fields."""

from dataclasses import dataclass, field
from typing import Literal

from lora_cli.finding import Applied, EngineOutcome, Outcome, Skipped
from lora_cli.json_schema import EXCLUDED, Count, ErrorReport, NonNegative, Version
from lora_cli.repair import Change, Refusal
from lora_cli.version import __version__

ARITHMETIC = 1e-12
"""What our own arithmetic in float64 may leave, as a share of the update."""


@dataclass(frozen=True, slots=True)
class TargetEngine:
    """The engine that the adapter is repaired for."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class OutcomeReason:
    """One thing about the adapter that the engine does not serve as it was trained."""

    feature: str
    message: str


@dataclass(frozen=True, slots=True)
class OutcomeReport:
    """What the engine does with the adapter."""

    outcome: Outcome
    applied: Applied | None
    """How many modules apply by the engine's own naming rules; null if no base was given."""
    reasons: tuple[OutcomeReason, ...]
    judged: EngineOutcome = field(metadata=EXCLUDED)
    """All that was found of the engine."""


def outcome_report(one: EngineOutcome) -> OutcomeReport:
    """The part of the report about one engine."""
    reasons = tuple(OutcomeReason(reason.feature, reason.message) for reason in one.reasons)
    return OutcomeReport(one.outcome, one.applied, reasons, one)


@dataclass(frozen=True, slots=True)
class EngineFlag:
    """One thing that is fixed by how the engine is started."""

    message: str
    mend: str


@dataclass(frozen=True, slots=True)
class Sameness:
    """The comparison of every update before and after the repair."""

    modules: Count
    rewritten: Count
    """The number of modules whose bits differ from before."""
    worst_change: NonNegative
    """The largest change of an update, relative to the norm of that update."""
    allowed_change: NonNegative
    """The change there that rounding to its dtype explains."""
    worst_module: str | None
    holds: bool = field(default=True, metadata=EXCLUDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What repair did. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/repair/1"] = "lora_cli/repair/1"
    version: Version = __version__
    name: str
    """The adapter as it was written on the command line."""
    source: str
    """Its canonical reference."""
    engine: TargetEngine
    before: OutcomeReport
    """What the engine does with the adapter as it is."""
    after: OutcomeReport
    """What the engine does with the adapter as it is written, or would be."""
    repairable: bool
    """False where refusals has entries: then nothing was written."""
    changes: tuple[Change, ...]
    """What was repaired, in order."""
    refusals: tuple[Refusal, ...]
    """What cannot be repaired without changing what the adapter does."""
    flags: tuple[EngineFlag, ...]
    """What is fixed by how the engine is started."""
    skipped: tuple[Skipped, ...]
    """What could not be checked; without a base, whether the names and shapes exist."""
    proof: Sameness | None
    """The proof that every update is what it was; null if nothing was written."""
    directory: str | None
    """The absolute path of the folder that was written; null with --check and where the repair was refused."""


@dataclass(frozen=True, slots=True)
class RepairedAdapter:
    """The result for one adapter of a set."""

    name: str
    """Its name in the manifest."""
    repair: RepairReport | None
    """Null where it could not be read or written."""
    error: ErrorReport | None
    """Why there is no report, or null."""
    exit_code: Count
    """What this adapter alone would end the command with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairSetReport:
    """What repair did with the adapters of a manifest. A field may be added under the same number."""

    schema: Literal["lora_cli/repair-set/1"] = "lora_cli/repair-set/1"
    version: Version = __version__
    adapters: tuple[RepairedAdapter, ...]
    """In the order of the manifest."""
    exit_code: Count
    """The largest of theirs."""
