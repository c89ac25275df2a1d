"""What machines read of ``repair``."""

from dataclasses import asdict
from typing import Any

from lora_cli.core.engine_outcome import EngineOutcome
from lora_cli.render.json import document
from lora_cli.validation.repaired import Repaired


def render_repaired(found: Repaired) -> str:
    """The document of ``repair``; ``manifests/schemas/repair.schema.json`` is its schema."""
    same = found.same
    return document(
        "repair",
        {
            "name": found.name,
            "source": found.source,
            "engine": {"name": found.after.engine, "version": found.after.version or found.after.profile},
            "before": _outcome(found.before),
            "after": _outcome(found.after),
            "repairable": not found.refusals,
            "changes": [
                {"step": one.step, "what": one.what, "why": one.why, "modules": one.modules} for one in found.changes
            ],
            "refusals": [{"what": one.what, "hint": one.hint} for one in found.refusals],
            "flags": [{"message": one.message, "mend": one.mend} for one in found.flags],
            "skipped": [asdict(one) for one in found.skipped],
            "proof": None
            if same is None
            else {
                "modules": same.modules,
                "rewritten": same.moved,
                "worst_change": same.worst,
                "allowed_change": same.allowed,
                "worst_module": same.module or None,
            },
            "directory": str(found.directory) if found.directory is not None else None,
        },
    )


def _outcome(one: EngineOutcome) -> dict[str, Any]:
    applied = one.applied
    return {
        "outcome": one.outcome.slug,
        "applied": {"matched": applied.matched, "total": applied.total} if applied is not None else None,
        "reasons": [{"feature": reason.feature, "message": reason.message} for reason in one.reasons],
    }
