"""What machines read of ``validate``: each adapter's findings, and what could not be looked at."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lora_cli.core.base_model import BaseModel
from lora_cli.core.finding import Finding, Severity, Verdict
from lora_cli.render.json import document, error_fields
from lora_cli.validation import Checked
from lora_cli.validation.report import Report

if TYPE_CHECKING:
    from lora_cli.core.engine_outcome import EngineOutcome


NOT_JUDGED: Mapping[str, Any] = {"applied": None, "findings": [], "skipped": [], "engines": []}


def render_report(report: Report) -> str:
    """The document of ``validate``: each adapter's findings and skipped checks, and counts over all.

    Its JSON Schema is ``manifests/schemas/validate.schema.json``.
    """
    body = {
        "base": base_fields(report.base),
        "fail_on": report.fail_on.label,
        "adapters": [_reported(one, report) for one in report.checked],
        "notices": list(report.notices),
        "summary": {**asdict(report.counts), "exit_code": report.exit_code},
    }
    return document("validate", body)


def base_fields(base: BaseModel | None) -> dict[str, Any] | None:
    """What adapters were judged against, as the documents have it, or None."""
    return None if base is None else {"name": base.name, "model_type": base.model_type, "source": base.source}


def _reported(one: Checked, report: Report) -> dict[str, Any]:
    fields = checked_fields(one, report.fail_on)
    if one.verdict is not None:
        for said, finding in zip(fields["findings"], one.verdict.findings, strict=True):
            said["fingerprint"] = report.fingerprint(one, finding)
    return fields


def checked_fields(one: Checked, fail_on: Severity) -> dict[str, Any]:
    """One adapter: what it is called and where it is from, its findings, and what could not be looked at."""
    return {
        "name": one.name,
        "source": one.source,
        "revision": one.revision.id if one.revision is not None else None,
        "digest": one.digest,
        "exit_code": one.exit_code(fail_on),
        **(_verdict(one.verdict) if one.verdict is not None else NOT_JUDGED),
        "error": error_fields(one.error),
        "stage_ms": dict(one.stage_ms),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "applied": None if verdict.applied is None else asdict(verdict.applied),
        "findings": [_finding(found) for found in verdict.findings],
        "skipped": [asdict(one) for one in verdict.skipped],
        "engines": [_engine(one) for one in verdict.engines],
    }


def _engine(one: "EngineOutcome") -> dict[str, Any]:
    return {
        "engine": one.engine,
        "version": one.version or None,
        "profile": one.profile,
        "proven": one.proven,
        "note": one.note,
        "outcome": one.outcome.slug,
        "applied": None if one.applied is None else asdict(one.applied),
        "reasons": [
            {
                "outcome": reason.outcome.slug,
                "feature": reason.feature,
                "code": reason.code,
                "message": reason.message,
                "file": reason.at.file,
                "field": reason.at.field,
                "limit": reason.limit,
                "mend": reason.mend,
                "evidence": reason.evidence,
            }
            for reason in one.reasons
        ],
    }


def _finding(found: Finding) -> dict[str, Any]:
    return {
        "code": found.code,
        "name": found.name,
        "severity": found.severity.label,
        "message": found.problem.message,
        "file": found.problem.at.file,
        "field": found.problem.at.field,
        "hint": found.problem.hint,
        "accepted": None if found.accepted is None else asdict(found.accepted),
    }
