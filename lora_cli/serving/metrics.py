"""What a server measures, as Prometheus reads it."""

from operator import attrgetter

from lora_cli.render.prometheus_metrics import Metric, render_metrics
from lora_cli.serving.host import Host


def metrics_text(host: Host) -> str:
    """All metrics of a server, now. What the warm process knows is left out while it does not stand.

    Of one that does not answer it is what it said last (``lora_cli_tiers_age_seconds``).
    """
    return render_metrics([*_server(host), *_tiers(host)])


def _server(host: Host) -> list[Metric]:
    counters, starts = host.counters, host.process.starts if host.process is not None else 0
    requests, stage_s, failures = (
        dict(sorted(one.items())) for one in (counters.requests, counters.stage_s, counters.failures)
    )
    return [
        Metric("lora_cli_ready", "Whether the first adapters were tried.", host.ready),
        Metric("lora_cli_adapters", "Adapters that the server knows.", len(host.entries)),
        Metric("lora_cli_failing_adapters", "Adapters whose last load failed.", len(host.failures)),
        Metric("lora_cli_queue", "Adapters that wait to be loaded or are being loaded.", host.queued),
        Metric("lora_cli_starts_total", "Starts of the process that owns the device.", starts),
        Metric("lora_cli_requests_total", "Requests by the tier where their adapter was found.", requests, "tier"),
        Metric("lora_cli_loads_total", "Adapters loaded and proved.", counters.loads),
        Metric("lora_cli_load_bytes_total", "Bytes of factors loaded.", counters.load_bytes),
        Metric("lora_cli_load_seconds_total", "Seconds of loads by stage.", stage_s, "stage"),
        Metric("lora_cli_load_failures_total", "Loads that failed, by stage.", failures, "stage"),
    ]


def _tiers(host: Host) -> list[Metric]:
    holdings, age_s = host.looking.last()
    if holdings is None or age_s is None:
        return []

    def by_tier(name: str, told: str, field: str) -> Metric:
        value = attrgetter(field)
        return Metric(name, told, {"gpu": value(holdings.gpu), "cpu": value(holdings.cpu)}, "tier")

    adapters = {"gpu": len(holdings.gpu.keys), "cpu": len(holdings.cpu.keys)}
    return [
        Metric("lora_cli_tiers_age_seconds", "Seconds since the tiers were last asked.", round(age_s, 3)),
        Metric("lora_cli_resident_adapters", "Adapters in a tier.", adapters, "tier"),
        by_tier("lora_cli_resident_bytes", "Bytes of the adapters in a tier.", "used_bytes"),
        by_tier("lora_cli_tier_hits_total", "Requests of a tier that found their adapter.", "hits"),
        by_tier("lora_cli_tier_misses_total", "Requests of a tier that loaded it.", "loads"),
        by_tier("lora_cli_tier_evictions_total", "Adapters that left a tier.", "evictions"),
    ]
