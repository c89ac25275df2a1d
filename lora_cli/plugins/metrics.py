"""Counters of a resolver, in the engine's own Prometheus registry."""

from prometheus_client import Counter, Gauge

from lora_cli.isolation import STATUS, Admission

RESOLUTIONS = Counter(
    "lora_cli_resolutions_total", "Adapters fetched and validated for the engine, by outcome.", ["outcome"]
)
SECONDS = Counter("lora_cli_resolve_seconds_total", "Seconds of fetching and validating, by stage.", ["stage"])
FAILED = Gauge("lora_cli_adapter_failed", "1 for each adapter whose last attempt failed.", ["adapter", "rule"])
DOWNLOADED = Counter("lora_cli_downloaded_bytes_total", "Bytes of the adapters that were downloaded.")

_OUTCOMES = {404: "not-found", 422: "refused", 502: "corrupt", 503: "unavailable"}
_failed: dict[str, str] = {}


def observe(admission: Admission, is_listed: bool) -> None:
    """Counts one attempt. What does not exist is named only if a manifest lists it: clients may ask for any name."""
    report = admission.report
    status, _ = STATUS.get(report.exit_code, (500, ""))
    RESOLUTIONS.labels(_OUTCOMES.get(status, "failed") if report.error else "resolved").inc()
    for stage, ms in report.stage_ms.items():
        SECONDS.labels(stage).inc(ms / 1e3)
    if (before := _failed.pop(report.name, None)) is not None:
        FAILED.remove(report.name, before)
    if report.error and (is_listed or status != 404):
        _failed[report.name] = report.rule
        FAILED.labels(report.name, _failed[report.name]).set(1)
    DOWNLOADED.inc(0 if admission.cached else admission.size)
