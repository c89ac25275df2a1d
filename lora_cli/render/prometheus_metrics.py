"""Prometheus' text format, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lora_cli.results import LoadReport

Labels = Mapping[str, str]


def metric(name: str, help_text: str, values: float | Mapping[str, float], by: str = "") -> Metric:
    """A value, or values by the label ``by``. ``name`` ends with its unit; that of a counter ends with ``_total``."""
    family = (CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily)(name, help_text, labels=[by])
    if isinstance(values, Mapping):
        for label, value in values.items():
            family.add_metric([_printable(label)], value)
    else:
        family.add_metric([], values)
    return family


def labelled(name: str, help_text: str, values: Iterable[tuple[Labels, float]]) -> Metric:
    """A gauge with several labels for each value."""
    family = GaugeMetricFamily(name, help_text)
    for labels, value in values:
        family.add_sample(name, {key: _printable(text) for key, text in labels.items()}, value)
    return family


def render_metrics(metrics: Sequence[Metric]) -> str:
    """The exposition of all of them; one without values is left out."""

    class Given(Collector):
        def collect(self) -> Iterable[Metric]:
            return [one for one in metrics if one.samples]

    registry = CollectorRegistry()
    registry.register(Given())
    return generate_latest(registry).decode()


def _printable(label: str) -> str:
    """A name that may have come from a file system, without what UTF-8 cannot encode."""
    return label.encode("utf-8", "backslashreplace").decode()


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
            metric("lora_cli_loads_total", "Adapters loaded and verified.", len(proved)),
            metric("lora_cli_load_bytes_total", "Bytes of factors loaded.", sum(proved)),
            metric("lora_cli_load_seconds_total", "Seconds of loads by stage.", seconds, "stage"),
            metric("lora_cli_load_failures_total", "Loads that failed, by stage.", failed, "stage"),
            metric("lora_cli_load_exit_code", "Exit code of each adapter.", codes, "adapter"),
        ]
    )
