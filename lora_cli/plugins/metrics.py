"""Counters of a resolver, in the engine's own Prometheus registry."""

import re

from prometheus_client import Counter

from lora_cli.results import LoadReport
from lora_cli.serving.adapter_state import STATUS

RESOLUTIONS = Counter(
    "lora_cli_resolutions_total", "Adapters fetched and validated for the engine, by outcome.", ["outcome"]
)
SECONDS = Counter("lora_cli_resolve_seconds_total", "Seconds of fetching and validating, by stage.", ["stage"])
REFUSALS = Counter("lora_cli_refusals_total", "Adapters that were refused, by rule.", ["rule"])
DOWNLOADED = Counter("lora_cli_downloaded_bytes_total", "Bytes of the adapters that were downloaded.")

_RULE = re.compile(r"LC\d{3}(?= )")
_OUTCOMES = {404: "not-found", 422: "refused", 502: "corrupt", 503: "unavailable"}


def observe(report: LoadReport, downloaded: int) -> None:
    """Counts one attempt, and the bytes that it ``downloaded``."""
    status, _ = STATUS.get(report.exit_code, (500, ""))
    RESOLUTIONS.labels(_OUTCOMES.get(status, "failed") if report.error else "resolved").inc()
    for stage, ms in report.stage_ms.items():
        SECONDS.labels(stage).inc(ms / 1e3)
    if (rule := _RULE.match(report.error)) is not None:
        REFUSALS.labels(rule[0]).inc()
    DOWNLOADED.inc(downloaded)
