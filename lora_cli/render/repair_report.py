"""The JSON document of ``repair``."""

from dataclasses import dataclass
from typing import Literal

from lora_cli.core.engine_outcome import Outcome
from lora_cli.core.finding import Applied, Skipped
from lora_cli.core.json_schema import Count, NonNegative
from lora_cli.repair.draft import Step


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
    """How many modules apply by the engine's own naming rules; null where no base was given. Then "ok" only means that
    nothing else is wrong."""
    reasons: tuple[OutcomeReason, ...]


@dataclass(frozen=True, slots=True)
class RepairChange:
    """One thing that was repaired."""

    step: Step
    what: str
    why: str
    modules: Count
    """The number of modules that changed; 0 for the config or the files."""


@dataclass(frozen=True, slots=True)
class RepairRefusal:
    """One thing that cannot be repaired without changing what the adapter does."""

    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class EngineFlag:
    """One thing that is fixed by how the engine is started."""

    message: str
    mend: str


@dataclass(frozen=True, slots=True)
class RepairProof:
    """The comparison of every update before and after the repair."""

    modules: Count
    rewritten: Count
    """The number of modules whose bits differ from before."""
    worst_change: NonNegative
    """The largest change of an update, relative to the norm of that update."""
    allowed_change: NonNegative
    """The change there that rounding to its dtype explains."""
    worst_module: str | None


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What repair did. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/repair/1"]
    version: str
    """The version of lora-cli."""
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
    changes: tuple[RepairChange, ...]
    """What was repaired, in order."""
    refusals: tuple[RepairRefusal, ...]
    """What cannot be repaired without changing what the adapter does."""
    flags: tuple[EngineFlag, ...]
    """What is fixed by how the engine is started."""
    skipped: tuple[Skipped, ...]
    """What could not be checked; without a base, whether the names and shapes exist."""
    proof: RepairProof | None
    """The proof that every update is what it was; null where nothing was written."""
    directory: str | None
    """The absolute path of the folder that was written; null with --check and where the repair was refused."""
