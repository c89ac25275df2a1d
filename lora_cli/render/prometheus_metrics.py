"""Prometheus' text format, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_cli.core.results import LoadReport


@dataclass(frozen=True, slots=True)
class Metric:
    """A value, or values by the label ``by``. ``name`` ends with its unit; that of a counter ends with ``_total``."""

    name: str
    help: str
    values: float | Mapping[str, float]
    by: str = ""


def render_metrics(metrics: Sequence[Metric]) -> str:
    """The exposition of metrics; those without values are left out."""
    lines: list[str] = []
    for metric in metrics:
        name, values = metric.name, metric.values if isinstance(metric.values, Mapping) else {"": metric.values}
        if values:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {kind}"]
        for label, value in values.items():
            printable = label.encode("utf-8", "backslashreplace").decode()
            escaped = printable.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            labels = f'{{{metric.by}="{escaped}"}}' if metric.by else ""
            is_whole = value == int(value) and abs(value) < 1 << 53
            lines.append(f"{name}{labels} {int(value) if is_whole else repr(value)}")
    return "\n".join(lines) + "\n"


def render_load_metrics(reports: Sequence[LoadReport]) -> str:
    """The metrics of ``warm --once``: proved and failed adapters, and the time of each stage."""
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        for stage, ms in report.stage_ms.items():
            seconds[stage] += ms / 1e3
    failed = Counter(report.stage or "load" for report in reports if report.error)
    proved = [report.bytes for report in reports if not report.error]
    codes = {report.name: report.exit_code for report in reports}
    return render_metrics(
        [
            Metric("lora_cli_loads_total", "Adapters loaded and verified.", len(proved)),
            Metric("lora_cli_load_bytes_total", "Bytes of factors loaded.", sum(proved)),
            Metric("lora_cli_load_seconds_total", "Seconds of loads by stage.", seconds, "stage"),
            Metric("lora_cli_load_failures_total", "Loads that failed, by stage.", failed, "stage"),
            Metric("lora_cli_load_exit_code", "Exit code of each adapter.", codes, "adapter"),
        ]
    )
