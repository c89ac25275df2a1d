"""What machines read: one JSON document per command, with raw integers and a ``schema`` that says what it is.

A field may be added under the same schema number; a change of meaning makes a new number.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lora_cli import __version__
from lora_cli.check import Checked
from lora_cli.core.base_model import BaseModel
from lora_cli.core.finding import Severity, Verdict
from lora_cli.core.inspection import Inspection
from lora_cli.core.results import Answers, BenchResult, LoadReport
from lora_cli.errors import LoraCliError
from lora_cli.rules.rule import Rule


def document(thing: str, body: Mapping[str, Any]) -> str:
    """``body`` as a JSON document of schema ``lora_cli/<thing>/1``; a float that is not finite is null."""
    whole = {"schema": f"lora_cli/{thing}/1", "version": __version__, **body}
    return json.dumps(_finite(whole), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, str):
        # A lone surrogate (a path that is not UTF-8) has no bytes in a JSON file.
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and (value != value or value in {float("inf"), float("-inf")}):  # noqa: PLR0124 - NaN
        return None
    return value


def render_checked(checked: Sequence[Checked], base: BaseModel | None, fail_on: Severity) -> str:
    """The document of ``validate``: each adapter's findings and skipped checks, and counts over all."""
    findings = [found.severity for one in checked if one.verdict is not None for found in one.verdict.findings]
    summary = {
        "adapters": len(checked),
        "refused": sum(one.error is None and one.exit_code(fail_on) != 0 for one in checked),
        "failed": sum(one.error is not None for one in checked),
        "errors": findings.count(Severity.ERROR),
        "warnings": findings.count(Severity.WARNING),
        "notes": findings.count(Severity.NOTE),
        "skipped": sum(len(one.verdict.skipped) for one in checked if one.verdict is not None),
        "exit_code": max((one.exit_code(fail_on) for one in checked), default=0),
    }
    body = {
        "base": _base(base),
        "fail_on": fail_on.label,
        "adapters": [_checked(one, fail_on) for one in checked],
        "summary": summary,
    }
    return document("validate", body)


def _base(base: BaseModel | None) -> dict[str, Any] | None:
    return None if base is None else {"name": base.name, "model_type": base.model_type, "source": base.source}


def _checked(one: Checked, fail_on: Severity) -> dict[str, Any]:
    return {
        "name": one.name,
        "source": one.source,
        "revision": one.revision.id if one.revision is not None else None,
        "exit_code": one.exit_code(fail_on),
        **(_verdict(one.verdict) if one.verdict is not None else {"applied": None, "findings": [], "skipped": []}),
        "error": error_fields(one.error),
        "stage_ms": dict(one.stage_ms),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "applied": None if verdict.applied is None else asdict(verdict.applied),
        "findings": [
            {
                "code": found.code,
                "name": found.name,
                "severity": found.severity.label,
                "message": found.problem.message,
                "file": found.problem.at.file,
                "field": found.problem.at.field,
                "hint": found.problem.hint,
            }
            for found in verdict.findings
        ],
        "skipped": [asdict(one) for one in verdict.skipped],
    }


def error_fields(error: LoraCliError | None) -> dict[str, Any] | None:
    """An error as the documents have it, or None."""
    if error is None:
        return None
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def render_inspections(inspected: Iterable[tuple[Checked, Inspection | None]]) -> str:
    """The document of ``inspect``: what each adapter is, or the error that kept it from being read.

    Counts by rank, scaling, target and dtype map the value, as a string, to how many have it.
    """
    adapters = [
        {**_checked(one, Severity.ERROR), "inspection": None if inspection is None else asdict(inspection)}
        for one, inspection in inspected
    ]
    return document("inspect", {"adapters": adapters})


def render_load_reports(reports: Sequence[LoadReport], answers: Sequence[Answers] = ()) -> str:
    """The document of ``warm``: each adapter's stages and proof, and the answers where a prompt was given."""
    adapters = []
    for report in reports:
        fields = asdict(report)
        if report.proof is not None:
            fields["proof"]["holds"] = report.proof.holds
        adapters.append(fields)
    return document("warm", {"adapters": adapters, "answers": [asdict(answer) for answer in answers]})


def render_bench(result: BenchResult) -> str:
    """The document of ``serve-bench``: every request's milliseconds, by the tier that it hit."""
    return document("serve-bench", asdict(result))


def render_rules(rules: Sequence[Rule]) -> str:
    """The document of ``rules``."""
    listed = [
        {
            "code": rule.code,
            "name": rule.name,
            "severity": rule.severity.label,
            "needs": list(rule.needs),
            "summary": rule.summary,
            "documentation": rule.documentation,
        }
        for rule in rules
    ]
    return document("rules", {"rules": listed})
