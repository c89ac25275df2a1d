"""``repair`` as JSON."""

from lora_cli import __version__
from lora_cli.core.engine_outcome import EngineOutcome
from lora_cli.render.json import encoded
from lora_cli.render.repair_report import (
    EngineFlag,
    OutcomeReason,
    OutcomeReport,
    RepairChange,
    RepairProof,
    RepairRefusal,
    RepairReport,
    TargetEngine,
)
from lora_cli.validation.repaired import Repaired
from lora_cli.validation.sameness import Sameness


def render_repaired(found: Repaired) -> str:
    """The document of ``repair``; ``manifests/schemas/repair.schema.json`` is its schema."""
    return encoded(repair_report(found))


def repair_report(found: Repaired) -> RepairReport:
    """The report of one repair."""
    return RepairReport(
        schema="lora_cli/repair/1",
        version=__version__,
        name=found.name,
        source=found.source,
        engine=TargetEngine(found.after.engine, found.after.version or found.after.profile),
        before=_outcome(found.before),
        after=_outcome(found.after),
        repairable=not found.refusals,
        changes=tuple(RepairChange(one.step, one.what, one.why, one.modules) for one in found.changes),
        refusals=tuple(RepairRefusal(one.what, one.hint) for one in found.refusals),
        flags=tuple(EngineFlag(one.message, one.mend) for one in found.flags),
        skipped=tuple(found.skipped),
        proof=None if found.same is None else _proof(found.same),
        directory=str(found.directory) if found.directory is not None else None,
    )


def _proof(same: Sameness) -> RepairProof:
    return RepairProof(
        modules=same.modules,
        rewritten=same.moved,
        worst_change=same.worst,
        allowed_change=same.allowed,
        worst_module=same.module or None,
    )


def _outcome(one: EngineOutcome) -> OutcomeReport:
    reasons = tuple(OutcomeReason(reason.feature, reason.message) for reason in one.reasons)
    return OutcomeReport(one.outcome, one.applied, reasons)
