"""The server's metrics in Prometheus' text format."""

from collections.abc import Callable

from lora_cli.render.prometheus_metrics import Metric, render_metrics
from lora_cli.runtime.messages import TierStatus
from lora_cli.serving.adapter_manager import AdapterManager


def metrics_text(manager: AdapterManager) -> str:
    """All metrics of a server. Those of the tiers are left out until the warm process is ready.

    If it does not answer, they are the latest known (``lora_cli_tiers_age_seconds``).
    """
    return render_metrics([*_server(manager), *_tiers(manager)])


def _server(manager: AdapterManager) -> list[Metric]:
    counters, starts = manager.counters, manager.process.starts if manager.process is not None else 0
    failing = sum(adapter.failure is not None for adapter in manager.adapters)
    requests, stage_s, failures = (
        dict(sorted(one.items())) for one in (counters.requests, counters.stage_s, counters.failures)
    )
    return [
        Metric("lora_cli_ready", "Whether loading the initial adapters was attempted.", manager.ready),
        Metric("lora_cli_adapters", "Adapters registered in the server.", len(manager.adapters)),
        Metric(
            "lora_cli_failing_adapters",
            "Adapters whose last load failed.",
            failing,
        ),
        Metric("lora_cli_queue", "Adapters waiting to be loaded or being loaded.", manager.queued),
        Metric("lora_cli_starts_total", "Starts of the process that owns the device.", starts),
        Metric("lora_cli_requests_total", "Requests by the tier where their adapter was found.", requests, "tier"),
        Metric("lora_cli_loads_total", "Adapters loaded and proved.", counters.loads),
        Metric("lora_cli_load_bytes_total", "Bytes of factors loaded.", counters.load_bytes),
        Metric("lora_cli_load_seconds_total", "Seconds of loads by stage.", stage_s, "stage"),
        Metric("lora_cli_load_failures_total", "Loads that failed, by stage.", failures, "stage"),
    ]


def _tiers(manager: AdapterManager) -> list[Metric]:
    contents, age_s = manager.tier_status.latest()
    if contents is None or age_s is None:
        return []

    def by_tier(name: str, text: str, value: Callable[[TierStatus], float]) -> Metric:
        return Metric(name, text, {tier: value(status) for tier, status in contents.tiers.items()}, "tier")

    return [
        Metric("lora_cli_tiers_age_seconds", "Seconds since the last state of the tiers.", round(age_s, 3)),
        by_tier("lora_cli_resident_adapters", "Adapters in a tier.", lambda tier: tier.adapters),
        by_tier("lora_cli_resident_bytes", "Bytes of the adapters in a tier.", lambda tier: tier.bytes),
        by_tier("lora_cli_tier_hits_total", "Requests that found their adapter in a tier.", lambda tier: tier.hits),
        by_tier(
            "lora_cli_tier_misses_total", "Requests that loaded their adapter into a tier.", lambda tier: tier.loads
        ),
        by_tier("lora_cli_tier_evictions_total", "Adapters evicted from a tier.", lambda tier: tier.evictions),
    ]
