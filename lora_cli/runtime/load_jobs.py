"""From validation to the warm process: an admission as a report and a ``LoraRequest``."""

from dataclasses import replace

from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.runtime.messages import LoraRequest


def report_of_admission(item: Request, admission: Result) -> tuple[LoadReport, LoraRequest | None]:
    """One adapter's report as far as it came, and its job when nothing kept it out."""
    snapshot = admission.snapshot
    report = LoadReport(
        item.name,
        digest=snapshot.digest if snapshot is not None else "",
        applied=str(admission.applied or ""),
        stage_ms=admission.stage_ms,
        signers=admission.signers or (),
    )
    refusal = admission.refusal
    if refusal is not None:
        return report.failed(admission.stage, refusal), None
    assert snapshot is not None
    assert admission.adapter is not None
    return report, LoraRequest(item.name, snapshot.directory, admission.adapter, snapshot.digest, item.pinned)


def merge_reports(report: LoadReport, loaded: LoadReport) -> LoadReport:
    """The report of an admission, and that of the load which followed it, in one."""
    return replace(
        loaded,
        applied=report.applied,
        stage_ms={**report.stage_ms, **loaded.stage_ms},
        signers=report.signers,
    )
