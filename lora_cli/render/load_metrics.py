"""``warm --once`` as Prometheus reads it."""

from collections import defaultdict
from collections.abc import Sequence

from lora_cli.core.results import LoadReport
from lora_cli.render.prometheus import Metric, Sample, render_metrics


def render_load_metrics(reports: Sequence[LoadReport]) -> str:
    """How many adapters were proved and how many failed, and where the time went."""
    seconds: dict[str, float] = defaultdict(float)
    failed: dict[str, int] = defaultdict(int)
    for report in reports:
        for stage, ms in report.stage_ms.items():
            seconds[stage] += ms / 1e3
        if report.error:
            failed[report.stage or "load"] += 1
    proved = [report for report in reports if not report.error]
    stages = [Sample(value, {"stage": stage}) for stage, value in seconds.items()]
    failures = [Sample(count, {"stage": stage}) for stage, count in failed.items()]
    codes = [Sample(report.exit_code, {"adapter": report.name}) for report in reports]
    return render_metrics(
        [
            Metric("lora_cli_loads_total", "counter", "Adapters loaded and proved.", [Sample(len(proved))]),
            Metric(
                "lora_cli_load_bytes_total",
                "counter",
                "Bytes of factors loaded.",
                [Sample(sum(report.bytes for report in proved))],
            ),
            Metric("lora_cli_load_seconds_total", "counter", "Seconds of loads by stage.", stages),
            Metric("lora_cli_load_failures_total", "counter", "Loads that failed, by stage.", failures),
            Metric("lora_cli_load_exit_code", "gauge", "What each adapter alone would end the run with.", codes),
        ]
    )
