"""The server's metrics, on a Prometheus registry of its own."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lora_cli.results import LoadReport


class Metrics(Collector):
    """Counters since the process began; ``gauges`` of the moment are set by who renders them: name, text, values.

    ``failed`` has the last report of each adapter that failed, by name.
    """

    def __init__(self, starts: int = 1) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("lora_cli_requests_total", "Requests by the tier of their adapter.", "tier")
        self._loads = self._counter("lora_cli_loads_total", "Adapters loaded and proved.")
        self._load_bytes = self._counter("lora_cli_load_bytes_total", "Bytes of factors loaded.")
        self._seconds = self._counter("lora_cli_load_seconds_total", "Seconds of loads by stage.", "stage")
        self._failures = self._counter("lora_cli_load_failures_total", "Loads that failed, by stage.", "stage")
        self._counter("lora_cli_starts_total", "Starts of the server's process.").inc(starts)
        self.gauges: dict[tuple[str, str], dict[str, float] | float] = {}
        self.failed: dict[str, LoadReport] = {}
        self._registry.register(self)

    def loaded(self, report: LoadReport) -> None:
        """Count one load."""
        for stage, ms in report.stage_ms.items():
            self._seconds.labels(_label(stage)).inc(ms / 1e3)
        if report.error:
            self._failures.labels(_label(report.stage or "load")).inc()
        else:
            self._loads.inc()
            self._load_bytes.inc(report.bytes)

    def collect(self) -> Iterable[Metric]:
        """What is of the moment."""
        for (name, text), values in self.gauges.items():
            gauge = GaugeMetricFamily(name, text, labels=["tier"] if isinstance(values, dict) else [])
            for tier, value in values.items() if isinstance(values, dict) else [("", values)]:
                gauge.add_metric([tier] if tier else [], value)
            yield gauge
        text = "1 for each adapter whose last load failed."
        failed = GaugeMetricFamily("lora_cli_adapter_failed", text, labels=["adapter", "rule"])
        for name, report in self.failed.items():
            failed.add_metric([_label(name), _label(report.rule)], 1)
        yield failed

    def text(self) -> str:
        """Prometheus' text."""
        return generate_latest(self._registry).decode()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)


def _label(text: str) -> str:
    """A label's value: a name may have come from a file system, with what UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()
