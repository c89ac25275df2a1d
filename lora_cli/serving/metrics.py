"""The server's metrics in Prometheus' text format."""

import time
from collections.abc import Callable

from prometheus_client.metrics_core import Metric

from lora_cli.render.prometheus_metrics import labelled, metric, render_metrics
from lora_cli.runtime.messages import TierStatus
from lora_cli.serving.adapter_manager import AdapterManager
from lora_cli.serving.responses import tiers_of
from lora_cli.serving.scheduler import Activity


def metrics_text(manager: AdapterManager, activity: Activity) -> str:
    """All metrics of a server. Those of the tiers are left out until the warm process is ready.

    If it does not answer, they are the latest known (``lora_cli_tiers_age_seconds``).
    """
    return render_metrics([*_server(manager), *_tiers(manager), *_for_routers(manager, activity)])


def _server(manager: AdapterManager) -> list[Metric]:
    counters, starts = manager.counters, manager.process.starts if manager.process is not None else 0
    failing = sum(adapter.failure is not None for adapter in manager.adapters)
    requests, stage_s, failures = (
        dict(sorted(one.items())) for one in (counters.requests, counters.stage_s, counters.failures)
    )
    return [
        metric("lora_cli_ready", "Whether loading the initial adapters was attempted.", manager.ready),
        metric("lora_cli_adapters", "Adapters registered in the server.", len(manager.adapters)),
        metric(
            "lora_cli_failing_adapters",
            "Adapters whose last load failed.",
            failing,
        ),
        metric("lora_cli_queue", "Adapters waiting to be loaded or being loaded.", manager.queued),
        metric("lora_cli_starts_total", "Starts of the process that owns the device.", starts),
        metric("lora_cli_requests_total", "Requests by the tier where their adapter was found.", requests, "tier"),
        metric("lora_cli_loads_total", "Adapters loaded and proved.", counters.loads),
        metric("lora_cli_load_bytes_total", "Bytes of factors loaded.", counters.load_bytes),
        metric("lora_cli_load_seconds_total", "Seconds of loads by stage.", stage_s, "stage"),
        metric("lora_cli_load_failures_total", "Loads that failed, by stage.", failures, "stage"),
    ]


def _tiers(manager: AdapterManager) -> list[Metric]:
    contents, age_s = manager.tier_status.latest()
    if contents is None or age_s is None:
        return []

    def by_tier(name: str, text: str, value: Callable[[TierStatus], float]) -> Metric:
        return metric(name, text, {tier: value(status) for tier, status in contents.tiers.items()}, "tier")

    return [
        metric("lora_cli_tiers_age_seconds", "Seconds since the last state of the tiers.", round(age_s, 3)),
        by_tier("lora_cli_resident_adapters", "Adapters in a tier.", lambda tier: tier.adapters),
        by_tier("lora_cli_resident_bytes", "Bytes of the adapters in a tier.", lambda tier: tier.bytes),
        by_tier("lora_cli_tier_hits_total", "Requests that found their adapter in a tier.", lambda tier: tier.hits),
        by_tier(
            "lora_cli_tier_misses_total", "Requests that loaded their adapter into a tier.", lambda tier: tier.loads
        ),
        by_tier("lora_cli_tier_evictions_total", "Adapters evicted from a tier.", lambda tier: tier.evictions),
    ]


def _for_routers(manager: AdapterManager, activity: Activity) -> list[Metric]:
    """The metrics by which routers find an adapter, under vLLM's names.

    ``vllm:lora_requests_info`` is as in vLLM 0.33 (``v1/metrics/loggers.py``): its value is the time. The others are
    those that vllm-project/vllm#54830 proposes, and that llm-d's ``lora-load-state-scorer`` reads.
    """
    info = {
        "max_lora": str(manager.max_loras),
        "running_lora_adapters": ",".join(activity.running),
        "waiting_lora_adapters": ",".join(activity.waiting),
    }
    metrics = [labelled("vllm:lora_requests_info", "Running stats on lora requests.", [(info, time.time())])]
    contents, _ = manager.tier_status.latest()
    if contents is None:
        return metrics
    loaded, tiers = [], tiers_of(contents)
    for state in manager.adapters:
        level = tiers.get(state.lora.key) if state.lora is not None else None
        if level is not None and state.report is not None:
            pinned, rank = str(state.item.pinned).lower(), str(state.report.rank)
            loaded.append(({"adapter_name": state.item.name, "level": level, "pinned": pinned, "rank": rank}, 1.0))
    return [
        *metrics,
        labelled("vllm:lora_adapter_loaded", "Adapters in a slot (gpu) or in memory (cpu).", loaded),
        metric("vllm:num_gpu_loaded_lora_adapters", "Adapters in slots.", len(contents.gpu)),
        metric("vllm:num_cpu_loaded_lora_adapters", "Adapters in memory.", len(contents.cpu)),
        metric("vllm:max_gpu_lora_adapters", "Slots.", manager.max_loras),
    ]
