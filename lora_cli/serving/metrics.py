"""What a server measures, as Prometheus reads it."""

from lora_cli.render.prometheus import Metric, Sample, render_metrics
from lora_cli.serving.host import Host


def metrics_text(host: Host) -> str:
    """All metrics of a server, now. What the warm process knows is left out while it does not stand.

    Of one that does not answer it is what it said last (``lora_cli_tiers_age_seconds``).
    """
    return render_metrics([*_server(host), *_tiers(host)])


def _server(host: Host) -> list[Metric]:
    counters, process = host.counters, host.process
    known, failing = host.known, len(host.failures)
    return [
        Metric("lora_cli_ready", "gauge", "Whether the first adapters were tried.", [Sample(host.ready)]),
        Metric("lora_cli_adapters", "gauge", "Adapters that the server knows.", [Sample(known)]),
        Metric("lora_cli_failing_adapters", "gauge", "Adapters whose last load failed.", [Sample(failing)]),
        Metric(
            "lora_cli_queue", "gauge", "Adapters that wait to be loaded or are being loaded.", [Sample(host.queued)]
        ),
        Metric(
            "lora_cli_starts_total",
            "counter",
            "Starts of the process that owns the device.",
            [Sample(process.starts if process is not None else 0)],
        ),
        Metric(
            "lora_cli_requests_total",
            "counter",
            "Requests by the tier where their adapter was found.",
            [Sample(count, {"tier": tier}) for tier, count in sorted(counters.requests.items())],
        ),
        Metric("lora_cli_loads_total", "counter", "Adapters loaded and proved.", [Sample(counters.loads)]),
        Metric("lora_cli_load_bytes_total", "counter", "Bytes of factors loaded.", [Sample(counters.load_bytes)]),
        Metric(
            "lora_cli_load_seconds_total",
            "counter",
            "Seconds of loads by stage.",
            [Sample(seconds, {"stage": stage}) for stage, seconds in sorted(counters.stage_s.items())],
        ),
        Metric(
            "lora_cli_load_failures_total",
            "counter",
            "Loads that failed, by stage.",
            [Sample(count, {"stage": stage}) for stage, count in sorted(counters.failures.items())],
        ),
    ]


def _tiers(host: Host) -> list[Metric]:
    holdings, age_s = host.looking.last()
    if holdings is None or age_s is None:
        return []
    held = {"gpu": holdings.gpu, "cpu": holdings.cpu}

    def by_tier(field: str) -> list[Sample]:
        return [Sample(getattr(one, field), {"tier": tier}) for tier, one in held.items()]

    adapters = [Sample(len(one.keys), {"tier": tier}) for tier, one in held.items()]
    return [
        Metric(
            "lora_cli_tiers_age_seconds", "gauge", "Seconds since the tiers were last asked.", [Sample(round(age_s, 3))]
        ),
        Metric("lora_cli_resident_adapters", "gauge", "Adapters in a tier.", adapters),
        Metric("lora_cli_resident_bytes", "gauge", "Bytes of the adapters in a tier.", by_tier("used_bytes")),
        Metric("lora_cli_tier_hits_total", "counter", "Requests of a tier that found their adapter.", by_tier("hits")),
        Metric("lora_cli_tier_misses_total", "counter", "Requests of a tier that loaded it.", by_tier("loads")),
        Metric("lora_cli_tier_evictions_total", "counter", "Adapters that left a tier.", by_tier("evictions")),
    ]
