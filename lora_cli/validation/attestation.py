"""What ``validate`` found as in-toto statements, to be signed: another machine accepts them in place of validating.

The predicate is in-toto's test result (https://in-toto.io/attestation/test-result/v0.1). Its additional field
``lora-cli`` has what the others cannot say.
"""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

from lora_cli import __version__
from lora_cli.core.adapter_request import BASE
from lora_cli.core.base_model import BaseModel
from lora_cli.core.finding import Deployment, EngineOutcome, Severity
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import Refused, UsageError
from lora_cli.fetching.verdicts import TEST_RESULT
from lora_cli.settings import Settings
from lora_cli.signing.attestation import STATEMENT_TYPE
from lora_cli.signing.trusted_files import read_trusted
from lora_cli.sources.registry import Sources
from lora_cli.validation.report import Report, Validated, findings_of
from lora_cli.validation.validate import cached_or_origin, ref_of
from lora_cli.validation.verdict import Checked

LARGEST_REPORT = 64 << 20
"""Bytes of a report of ``warm --once``."""

WARM_HINT = "lora-cli warm -f set.yaml --once --format json > warm.json, with the same base"


def describe_base(base: str | AdapterRef, model: BaseModel, settings: Settings) -> dict[str, Any]:
    """The base model as an in-toto resource: its reference at its revision, and the sha256 of its ``config.json``.

    Raises:
        LoraCliError: what its source raises.
    """
    ref = ref_of(base)
    described: dict[str, Any] = {"name": str(base), "uri": str(ref)}
    if not (ref.scheme == "file" and Path(ref.location).is_file()):
        revision = cached_or_origin(ref, settings, Sources(settings).of(ref), BASE).resolve(ref)
        described |= {"uri": str(revision.ref), "annotations": {"revision": revision.id}}
    if model.config_sha256:
        described["digest"] = {"sha256": model.config_sha256}
    return described


def read_proofs(file: Path, model: BaseModel | None) -> dict[str, dict[str, Any]]:
    """Snapshot digest → its proof, from a report of ``warm --once --format json`` with the base ``model``.

    Of files that the report has twice, a proof that does not hold counts.

    Raises:
        UsageError: it cannot be read, is no such report, or is about another base.
    """
    try:
        report = json.loads(read_trusted(file, LARGEST_REPORT))
        is_one, base = report["schema"] == "lora_cli/warm/1", report.get("base_sha256")
        found = [(one["digest"], _proof(one)) for one in report["adapters"] if one["digest"]]
        proofs = dict(sorted(found, key=lambda one: not one[1]["holds"]))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UsageError(f"{file} is not a report of warm --once", hint=WARM_HINT) from error
    if not is_one or model is None or base != model.config_sha256:
        raise UsageError(f"{file} is not a report of warm --once on this base", hint=WARM_HINT)
    return proofs


def _proof(one: Mapping[str, Any]) -> dict[str, Any]:
    """How one adapter was loaded and proved: the worst of its modules, and what it does to the whole model."""
    proof = one["proof"] or {"holds": False, "modules": []}

    def excess(module: Mapping[str, Any]) -> float:  # JSON has null for NaN
        return inf if module["error"] is None else module["error"] / module["tolerance"]

    return {
        "holds": proof["holds"] and not one["error"],
        "error": one["error"],
        "weights": proof.get("weights"),
        "dtype": proof.get("dtype"),
        "modules": len(proof["modules"]),
        "worst": max(proof["modules"], key=excess, default=None),
        "moved": one["moved"],
    }


def statements(
    report: Report,
    checked: Sequence[Checked],
    base: Mapping[str, Any] | None,
    deployment: Deployment | None,
    proofs: Mapping[str, Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """A statement for each adapter that was validated: its files, its snapshot digest, and the result of each rule.

    ``checked`` are the same adapters as in ``report``, validated with ``Terms.digests``. ``proofs`` are those of
    ``read_proofs``: an adapter whose proof does not hold has failed.

    Raises:
        Refused: the digest of an adapter is unknown, as of a remote one that is not in the cache.
    """
    for one, found in zip(report.adapters, checked, strict=True):
        if one.error is not None:
            continue
        if found.digest is None or found.files is None:
            hint = f"lora-cli fetch {shlex.quote(one.source)}, then validate it again"
            raise Refused(f"{one.name} cannot be attested: its digest is unknown before it is fetched", hint=hint)
        yield {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": path, "digest": {"sha256": blob.sha256}} for path, blob in sorted(found.files.items())
            ],
            "predicateType": TEST_RESULT,
            "predicate": {
                **_test_result(report, one, proofs.get(found.digest)),
                "configuration": [] if base is None else [base],
                "lora-cli": {
                    "version": __version__,
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "snapshot": found.digest,
                    "source": one.source,
                    "revision": one.revision,
                    "deployment": None if deployment is None else asdict(deployment),
                    "engines": [
                        {
                            "engine": engine.engine,
                            "version": engine.version or engine.profile,
                            "outcome": _outcome(engine),
                        }
                        for engine in one.engines
                    ],
                    "findings": [
                        {
                            "code": finding.code,
                            "severity": str(finding.severity),
                            "message": finding.problem.message,
                            "accepted": finding.accepted.reason if finding.accepted is not None else None,
                        }
                        for finding in findings_of(one)
                    ],
                    "skipped": [skipped.code for skipped in one.skipped],
                    "proof": proofs.get(found.digest),
                },
            },
        }


def _test_result(report: Report, one: Validated, proof: Mapping[str, Any] | None) -> dict[str, Any]:
    """The result for the adapter with its ``proof``, and for each rule that ran; accepted findings do not count."""
    counting = [finding for finding in findings_of(one) if finding.accepted is None]
    failed = {finding.code for finding in counting if finding.severity >= report.fail_on}
    warned = {finding.code for finding in counting if finding.severity is Severity.WARNING} - failed
    ran = {rule.code for rule in report.rules} - {skipped.code for skipped in one.skipped}
    is_disproved = proof is not None and not proof["holds"]
    result = "FAILED" if one.exit_code or is_disproved else "WARNED" if warned else "PASSED"
    return {
        "result": result,
        "passedTests": sorted(ran - failed - warned),
        "warnedTests": sorted(warned),
        "failedTests": sorted(failed),
    }


def _outcome(engine: EngineOutcome) -> str:
    """As machines read it; what is not established is unknown."""
    return str(engine.outcome) if engine.proven and engine.known else "unknown"
