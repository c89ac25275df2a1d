"""A trace served in process, one request after the other: latencies by the tier that each request hit."""

import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lora_cli import __version__
from lora_cli.bench.quantiles import summary, vllm_summary
from lora_cli.bench.report import BenchReport, BenchSetting, MeasurementReport, VllmRun, bench_report
from lora_cli.errors import LoraCliError

TIERS = ("gpu", "cpu", "disk")


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """One request: the tier where its adapter was found, milliseconds from asked to answered, evictions by tier."""

    tier: str
    ms: float
    evicted: Mapping[str, int] = field(default_factory=dict)


def run_trace(
    trace: Sequence[str],
    serve: Callable[[str], ServedRequest],
    max_loras: int,
    max_cpu_loras: int,
    *,
    failed: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> MeasurementReport:
    """Each request of ``trace`` through ``serve``, one at a time: a request waits for the one before.

    An adapter whose request raises ``LoraCliError`` is reported, and is not asked again; the run goes on. ``failed``
    are adapters known to be broken before (name → why): their requests are not sent either. ``progress`` is called with
    how many requests are done. An interrupt ends the run; what was done until then is its result.
    """
    broken = dict(failed or {})
    latency_ms: dict[str, list[float]] = {tier: [] for tier in TIERS}
    evictions: Counter[str] = Counter(dict.fromkeys(TIERS[:2], 0))
    done = 0
    try:
        for adapter in trace:
            if adapter not in broken:
                try:
                    served = serve(adapter)
                except LoraCliError as error:
                    broken[adapter] = error.message
                else:
                    latency_ms.setdefault(served.tier, []).append(served.ms)
                    evictions.update(served.evicted)
            done += 1
            progress(done)
    except KeyboardInterrupt:
        pass
    return MeasurementReport(
        requests=done,
        max_loras=max_loras,
        max_cpu_loras=max_cpu_loras,
        hits={tier: len(values) for tier, values in latency_ms.items()},
        evictions=dict(evictions),
        latency_ms={tier: tuple(values) for tier, values in latency_ms.items()},
        failures=broken,
    )


def run_environment(**more: str) -> dict[str, str]:
    """Where a run was made: versions, processor, cores; ``more`` is added (device, popularity, …)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "lora_cli": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": str(cores),
        **more,
    }


KIND_OF_TIER: Mapping[str, Literal["hot", "warm", "cold"]] = {
    "gpu": "hot",
    "cpu": "warm",
    "disk": "cold",
    "remote": "cold",
}
"""The kind of a request by the tier that its adapter was found in."""

KINDS = ("hot", "warm", "cold")

DEFINITIONS = {
    "hot, warm, cold": "the request's adapter was in a slot, in memory, on disk",
    "ttft_ms": "from request to response: its loads, and a small batch through the adapter's modules, as one response",
    "cold_penalty_ms": "the median of cold requests minus that of hot ones",
    "hit_ratio": "share of requests that find their adapter in a slot; memory_hit_ratio: or in memory",
    "duration": "seconds of all requests, one at a time, without the time between them",
    "percentiles": "nearest rank (no interpolation): the smallest value that this share of values does not exceed",
}
"""The definitions of the numbers, printed next to them."""


def measured_report(run: VllmRun, setting: BenchSetting, result: MeasurementReport) -> BenchReport:
    """The report of a run in process. An adapter answers a small batch at once: its first token is its last."""
    metrics = measured_metrics(result)
    ttft = {name: value for name, value in metrics.items() if name.endswith("_ttft_ms")}
    e2el = {name.replace("_ttft_", "_e2el_"): value for name, value in ttft.items()}
    run = replace(run, model_id=setting.environment.get("base"), max_concurrency=1)
    return bench_report(run, setting, result, DEFINITIONS, metrics, ttft | e2el)


def by_kind(result: MeasurementReport) -> dict[str, list[float]]:
    """Milliseconds of requests that were hot, warm and cold, the least first."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for tier, values in result.latency_ms.items():
        found[KIND_OF_TIER.get(tier, tier)].extend(values)
    return {kind: sorted(values) for kind, values in found.items()}


def measured_metrics(result: MeasurementReport) -> dict[str, float | None]:
    """Every metric of ``MEASURED_METRICS``; None if there was no such request."""
    kinds = by_kind(result)
    found = {
        f"{kind}_ttft_{name}_ms": value for kind, values in kinds.items() for name, value in summary(values).items()
    }
    everything = sorted(value for values in kinds.values() for value in values)
    completed, duration = len(everything), sum(everything) / 1e3
    hot, cold = found["hot_ttft_p50_ms"], found["cold_ttft_p50_ms"]
    found |= {f"{name}_ttft_ms": value for name, value in vllm_summary(everything).items()}
    return found | {
        "hit_ratio": len(kinds["hot"]) / completed if completed else None,
        "memory_hit_ratio": 1 - len(kinds["cold"]) / completed if completed else None,
        "cold_penalty_ms": cold - hot if hot is not None and cold is not None else None,
        "completed": completed,
        "failed": result.requests - completed,
        "duration": duration,
        "request_throughput": completed / duration if duration else None,
    }


MEASURED_METRICS = frozenset(measured_metrics(MeasurementReport(0, 0, 0, {}, {}, {}, {})))
"""The names of all metrics that a measured run has."""
