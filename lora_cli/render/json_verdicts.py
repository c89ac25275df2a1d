"""``validate`` as JSON: each adapter's findings, and what could not be checked."""

from collections.abc import Iterable
from typing import TypeVar

from lora_cli import __version__
from lora_cli.core.base_model import BaseModel
from lora_cli.core.engine_outcome import EngineOutcome, Reason
from lora_cli.core.finding import Applied, Finding, Skipped
from lora_cli.errors import LoraCliError
from lora_cli.render.json import encoded
from lora_cli.render.validate_report import (
    Acceptance,
    AppliedModules,
    BaseModelSummary,
    CheckedAdapter,
    EngineReason,
    EngineReport,
    ErrorReport,
    FindingReport,
    FingerprintedFinding,
    SkippedCheck,
    ValidateReport,
    ValidateSummary,
)
from lora_cli.validation import Checked
from lora_cli.validation.report import Counts, Report

F = TypeVar("F")


def render_report(report: Report) -> str:
    """The document of ``validate``: each adapter's findings and skipped checks, and counts over all.

    Its JSON Schema is ``manifests/schemas/validate.schema.json``.
    """
    return encoded(validate_report(report))


def validate_report(report: Report) -> ValidateReport:
    """The report of one run of ``validate``."""
    fail_on = report.fail_on.label
    assert fail_on != "note"
    return ValidateReport(
        schema="lora_cli/validate/1",
        version=__version__,
        base=base_summary(report.base),
        fail_on=fail_on,
        adapters=tuple(_validated(one, report) for one in report.checked),
        notices=report.notices,
        summary=_summary(report.counts, report.exit_code),
    )


def _summary(counts: Counts, exit_code: int) -> ValidateSummary:
    return ValidateSummary(
        adapters=counts.adapters,
        refused=counts.refused,
        failed=counts.failed,
        errors=counts.errors,
        warnings=counts.warnings,
        notes=counts.notes,
        known=counts.known,
        suppressed=counts.suppressed,
        skipped=counts.skipped,
        engines=counts.engines,
        exit_code=exit_code,
    )


def _validated(one: Checked, report: Report) -> CheckedAdapter[FingerprintedFinding]:
    findings = one.verdict.findings if one.verdict is not None else ()
    told = tuple(FingerprintedFinding(finding_report(found), report.fingerprint(one, found)) for found in findings)
    return checked_adapter(one, one.exit_code(report.fail_on), told)


def checked_adapter(one: Checked, exit_code: int, findings: tuple[F, ...]) -> CheckedAdapter[F]:
    """One adapter: its name and source, its ``findings``, and what could not be checked."""
    verdict = one.verdict
    return CheckedAdapter(
        name=one.name,
        source=one.source,
        revision=one.revision.id if one.revision is not None else None,
        digest=one.digest,
        exit_code=exit_code,
        applied=applied_modules(verdict.applied) if verdict is not None else None,
        findings=findings,
        skipped=skipped_checks(verdict.skipped) if verdict is not None else (),
        engines=tuple(_engine(engine) for engine in verdict.engines) if verdict is not None else (),
        error=_error(one.error),
        stage_ms=one.stage_ms,
    )


def finding_report(found: Finding) -> FindingReport:
    """One finding of a rule."""
    accepted, problem = found.accepted, found.problem
    return FindingReport(
        code=found.code,
        name=found.name,
        severity=found.severity.label,
        message=problem.message,
        file=problem.at.file,
        field=problem.at.field,
        hint=problem.hint,
        accepted=None if accepted is None else Acceptance(accepted.by, accepted.at, accepted.reason),
    )


def base_summary(base: BaseModel | None) -> BaseModelSummary | None:
    """The base model that adapters were judged against, or None."""
    return None if base is None else BaseModelSummary(base.name, base.model_type, base.source)


def applied_modules(one: Applied | None) -> AppliedModules | None:
    """How many modules apply, or None."""
    return None if one is None else AppliedModules(one.matched, one.total)


def skipped_checks(skipped: Iterable[Skipped]) -> tuple[SkippedCheck, ...]:
    """The rules that could not check."""
    return tuple(SkippedCheck(one.code, one.name, one.reason) for one in skipped)


def _error(error: LoraCliError | None) -> ErrorReport | None:
    return None if error is None else ErrorReport(error.message, error.hint, error.exit_code)


def _engine(one: EngineOutcome) -> EngineReport:
    return EngineReport(
        engine=one.engine,
        version=one.version or None,
        profile=one.profile,
        proven=one.proven,
        note=one.note,
        outcome=one.outcome.slug,
        applied=applied_modules(one.applied),
        reasons=tuple(map(_reason, one.reasons)),
    )


def _reason(reason: Reason) -> EngineReason:
    return EngineReason(
        outcome=reason.outcome.slug,
        feature=reason.feature,
        code=reason.code,
        message=reason.message,
        file=reason.at.file,
        field=reason.at.field,
        limit=reason.limit,
        mend=reason.mend,
        evidence=reason.evidence,
    )
