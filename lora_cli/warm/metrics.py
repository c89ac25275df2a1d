"""The server's metrics in Prometheus' text format."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lora_cli.warm.adapters import Adapters
from lora_cli.warm.failures import rule_of


def metrics_text(adapters: Adapters, *, ready: bool, starts: int) -> str:
    """All metrics of a server. Those of the tiers are left out until the base is loaded."""

    class Server(Collector):
        def collect(self) -> Iterable[Metric]:
            return (one for one in _metrics(adapters, ready=ready, starts=starts) if one.samples)

    registry = CollectorRegistry()
    registry.register(Server())
    return generate_latest(registry).decode()


def _metrics(adapters: Adapters, *, ready: bool, starts: int) -> Iterable[Metric]:
    counters = adapters.counters
    yield _metric("lora_cli_ready", "Whether the first adapters are loaded, or were tried.", ready)
    yield _metric("lora_cli_adapters", "Adapters registered in the server.", len(adapters))
    yield _metric("lora_cli_loading", "Adapters that are being loaded.", sum(one.is_loading for one in adapters))
    failed = GaugeMetricFamily(
        "lora_cli_adapter_failed", "1 for each adapter whose last load failed.", labels=["adapter", "rule"]
    )
    for state in adapters:
        if state.failure is not None:
            failed.add_metric([_printable(state.request.name), rule_of(state.failure)], 1)
    yield failed
    yield _metric("lora_cli_starts_total", "Starts of the server's process.", starts)
    yield _metric("lora_cli_requests_total", "Requests by the tier of their adapter.", counters.requests, "tier")
    yield _metric("lora_cli_loads_total", "Adapters loaded and proved.", counters.loads)
    yield _metric("lora_cli_load_bytes_total", "Bytes of factors loaded.", counters.load_bytes)
    yield _metric("lora_cli_load_seconds_total", "Seconds of loads by stage.", counters.stage_s, "stage")
    yield _metric("lora_cli_load_failures_total", "Loads that failed, by stage.", counters.failures, "stage")
    if not adapters.worker.done() or adapters.worker.exception() is not None:
        return
    worker = adapters.worker.result()
    tiers = {"gpu": worker.slots.status(), "cpu": worker.memory.status()}
    for name, text, key in (
        ("lora_cli_resident_adapters", "Adapters in a tier.", "adapters"),
        ("lora_cli_resident_bytes", "Bytes of the adapters in a tier.", "bytes"),
        ("lora_cli_tier_hits_total", "Requests that found their adapter in a tier.", "hits"),
        ("lora_cli_tier_misses_total", "Requests that loaded their adapter into a tier.", "loads"),
        ("lora_cli_tier_evictions_total", "Adapters evicted from a tier.", "evictions"),
    ):
        yield _metric(name, text, {tier: status[key] or 0 for tier, status in tiers.items()}, "tier")


def _metric(name: str, text: str, values: float | Mapping[str, float], label: str = "") -> Metric:
    """A value, or values by ``label``. The name of a counter ends with ``_total``."""
    family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    if not isinstance(values, Mapping):
        return family(name, text, value=values)
    metric = family(name, text, labels=[label])
    for key, value in values.items():
        metric.add_metric([key], value)
    return metric


def _printable(label: str) -> str:
    """A name that may have come from a file system, without what UTF-8 cannot encode."""
    return label.encode("utf-8", "backslashreplace").decode()
