"""The report of a run in process: latencies by the tier that each request hit, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Literal

from lora_cli.bench.outcome import PERCENTILES
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.report import BenchReport, BenchSetting, MeasurementReport, VllmRun, bench_report

WORDS: Mapping[str, Literal["hot", "warm", "cold"]] = {"gpu": "hot", "cpu": "warm", "disk": "cold", "remote": "cold"}
"""What a request is called by the tier in which its adapter was."""

KINDS = ("hot", "warm", "cold")
SUMMARIES = ("mean", *(f"p{one}" for one in PERCENTILES), "max")
MEASURED = frozenset(
    {
        *(f"{kind}_ttft_{one}_ms" for kind in KINDS for one in SUMMARIES),
        *(f"{one}_ttft_ms" for one in ("mean", "median", "std", *(f"p{one}" for one in PERCENTILES))),
        "hit_ratio",
        "memory_hit_ratio",
        "cold_penalty_ms",
        "completed",
        "failed",
        "duration",
        "request_throughput",
    }
)
"""The names of all metrics that a measured run has."""

DEFINITIONS = {
    "hot, warm, cold": "the request's adapter was in a slot, in memory, on disk",
    "ttft_ms": "from asked to answered: its loads, and a small batch through the adapter's modules, answered whole",
    "cold_penalty_ms": "the median of cold requests less that of hot ones",
    "hit_ratio": "requests that find their adapter in a slot, of all that are answered; memory_hit_ratio: or in memory",
    "duration": "seconds of all requests, one after the other, without what is done between them",
    "percentiles": "nearest rank: the smallest value that so many do not exceed, without interpolation",
}
"""What the numbers mean, printed beside them."""


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
        found[WORDS.get(tier, tier)].extend(values)
    return {kind: sorted(values) for kind, values in found.items()}


def measured_metrics(result: MeasurementReport) -> dict[str, float | None]:
    """Every metric of ``MEASURED``; None where there was no such request."""
    kinds = by_kind(result)
    told: dict[str, float | None] = {}
    for kind, ordered in kinds.items():
        told |= {f"{kind}_ttft_{name}_ms": value for name, value in _summary(ordered).items()}
    everything = sorted(value for values in kinds.values() for value in values)
    whole, completed = _summary(everything), len(everything)
    hot, cold = told["hot_ttft_p50_ms"], told["cold_ttft_p50_ms"]
    duration = sum(everything) / 1e3
    return told | {
        "mean_ttft_ms": whole["mean"],
        "median_ttft_ms": whole["p50"],
        "std_ttft_ms": pstdev(everything) if everything else None,
        **{f"p{one}_ttft_ms": whole[f"p{one}"] for one in PERCENTILES},
        "hit_ratio": len(kinds["hot"]) / completed if completed else None,
        "memory_hit_ratio": 1 - len(kinds["cold"]) / completed if completed else None,
        "cold_penalty_ms": cold - hot if hot is not None and cold is not None else None,
        "completed": completed,
        "failed": result.requests - completed,
        "duration": duration,
        "request_throughput": completed / duration if duration else None,
    }


def _summary(ordered: Sequence[float]) -> dict[str, float | None]:
    if not ordered:
        return dict.fromkeys(SUMMARIES)
    shares = {f"p{one}": nearest_rank(ordered, one / 100) for one in PERCENTILES}
    return {"mean": fmean(ordered), **shares, "max": ordered[-1]}
