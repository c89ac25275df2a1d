"""The JSON document of ``serve-bench``: the keys of a result of ``vllm bench serve`` (0.33), and our own."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf, isfinite
from typing import Any, Literal

from lora_cli.bench.trace import Trace
from lora_cli.json_schema import INLINE, AtMostOne, Count, Positive, Share, Version
from lora_cli.version import __version__

Mode = Literal["simulate", "live"]
PolicyKind = Literal["online", "exact"]
LiveTier = Literal["hot", "warm", "cold", "later", ""]
TiersFrom = Literal["server", "inferred"]

BACKENDS: Mapping[Mode, str] = {
    "simulate": "lora-cli simulation",
    "live": "openai",
}


@dataclass(frozen=True, slots=True)
class VllmRun:
    """The keys of vLLM's result about the whole run, in its order; null is what was not measured."""

    date: str | None
    endpoint_type: str | None
    backend: str
    label: str | None
    model_id: str | None
    tokenizer_id: str | None
    num_prompts: Count
    request_rate: Positive | Literal["inf"]
    burstiness: Positive | Literal["inf"]
    max_concurrency: int | None
    duration: float | None
    completed: int | None
    failed: int | None
    total_input_tokens: Count
    total_output_tokens: Count
    request_throughput: float | None
    request_goodput: float | None
    output_throughput: float | None
    total_token_throughput: float | None
    max_output_tokens_per_s: float | None
    max_concurrent_requests: int | None


@dataclass(frozen=True, slots=True)
class VllmLatencies:
    """The keys of vLLM's result about latencies, in its order; null is what was not measured."""

    mean_ttft_ms: float | None
    median_ttft_ms: float | None
    std_ttft_ms: float | None
    p99_ttft_ms: float | None
    mean_tpot_ms: float | None
    median_tpot_ms: float | None
    std_tpot_ms: float | None
    p99_tpot_ms: float | None
    mean_itl_ms: float | None
    median_itl_ms: float | None
    std_itl_ms: float | None
    p99_itl_ms: float | None
    mean_e2el_ms: float | None
    median_e2el_ms: float | None
    std_e2el_ms: float | None
    p99_e2el_ms: float | None


@dataclass(frozen=True, slots=True)
class BenchSetting:
    """What was run, next to the keys of vLLM."""

    mode: Mode
    span_s: float
    """Seconds from the start to the last arrival."""
    adapters: Count
    seed: Count
    workload: Mapping[str, str]
    """The workload that was asked for, in words."""
    environment: Mapping[str, str]
    """Where it was run."""


@dataclass(frozen=True, slots=True)
class TierReport:
    """How many adapters a tier may hold."""

    places: Count


@dataclass(frozen=True, slots=True)
class TiersReport:
    """Slots, and memory."""

    gpu: TierReport
    cpu: TierReport


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """One eviction policy on the trace."""

    kind: PolicyKind
    """online: the policy knows only what was already asked for. exact: no policy has more hits."""
    requests: Count
    hits: Count
    """Requests whose adapter was in a slot."""
    hit_ratio: Share
    hits_by_tier: Mapping[str, Count]
    evictions: Mapping[str, Count]
    gap_closed: AtMostOne | None
    hit_ratio_over_time: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What only --simulate has."""

    tiers: TiersReport
    policies: Mapping[str, PolicyReport]


@dataclass(frozen=True, slots=True)
class RequestsReport:
    """Every request in columns, as vllm bench serve --save-detailed has them."""

    adapters: tuple[str, ...]
    tiers: tuple[LiveTier, ...]
    load_ms: tuple[float | None, ...]
    scheduled_times: tuple[float, ...]
    """Seconds from the start of the run, as all times are; ttfts and latencies count from start_times."""
    start_times: tuple[float, ...]
    ttfts: tuple[float | None, ...]
    itls: tuple[tuple[float, ...], ...]
    latencies: tuple[float | None, ...]
    input_lens: tuple[Count, ...]
    output_lens: tuple[Count, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveReport:
    """What only a run of a server has."""

    slo_ms: Mapping[str, float]
    tiers_from: TiersFrom
    """What says where adapters were: the server, in x-lora-tier, or the order of requests."""
    hits: Mapping[str, Count]
    late: bool
    """Whether the generator could not keep to its times: the run then says little about the server."""
    requests: RequestsReport
    per_adapter: Mapping[str, Mapping[str, float | None]]
    failures: Mapping[str, str]
    """For each adapter, how many of its requests failed, and the error of the first."""


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """One condition of --fail-if."""

    condition: str
    value: float | None
    """Null was not measured."""
    failed: bool
    """Whether the condition is true, or has no value."""

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.condition}: there is no value"
        return f"{self.condition} is {'true' if self.failed else 'not true'}: the value is {self.value:.6g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What adapters cost.

    It has every key of a result of vllm bench serve; null is what was not measured. A field may be added under the same
    number; a change of meaning makes a new number.
    """

    schema: Literal["lora_cli/serve-bench/1"] = "lora_cli/serve-bench/1"
    version: Version = __version__
    run: VllmRun = field(metadata=INLINE)
    latencies: VllmLatencies = field(metadata=INLINE)
    setting: BenchSetting = field(metadata=INLINE)
    summaries: Mapping[str, float | None] = field(metadata=INLINE)
    """More summaries of latencies under vLLM's names, such as p90_ttft_ms."""
    result: SimulationReport | LiveReport = field(metadata=INLINE)
    definitions: Mapping[str, str]
    """What the numbers mean."""
    metrics: Mapping[str, float | None]
    """Every number that --fail-if can name; null is not known."""
    fail_if: tuple[ConditionResult, ...] | None = None
    """The conditions of --fail-if."""


VLLM_KEYS = tuple(one.name for part in (VllmRun, VllmLatencies) for one in fields(part))
"""The keys of a result of ``vllm bench serve``, in its order."""


def run_environment(**more: str) -> dict[str, str]:
    """Where a run was made: versions, processor, cores; ``more`` is added (the server, its base, …)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "lora_cli": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": str(cores),
        **more,
    }


def describe_run(
    mode: Mode,
    trace: Trace,
    seed: int,
    workload: Mapping[str, str],
    environment: Mapping[str, str],
    request_rate: float | None = None,
    burstiness: float = 1.0,
) -> tuple[VllmRun, BenchSetting]:
    """What is run, before anything is measured: vLLM's keys, and lora-cli's.

    The times of ``trace`` say how many requests come in a second where ``request_rate`` is None.
    """
    span_s = trace.times_s[-1] if trace.timed else 0.0
    unknown: dict[str, Any] = dict.fromkeys(one.name for one in fields(VllmRun))
    run = replace(
        VllmRun(**unknown),
        backend=BACKENDS[mode],
        num_prompts=len(trace),
        request_rate=_or_inf(request_rate or (len(trace) / span_s if span_s else inf)),
        burstiness=_or_inf(burstiness),
        total_input_tokens=sum(trace.prompt_tokens),
        total_output_tokens=sum(trace.output_tokens),
    )
    return run, BenchSetting(mode, span_s, len(trace.names), seed, workload, environment)


def _or_inf(value: float) -> float | Literal["inf"]:
    return value if isfinite(value) else "inf"


def bench_report(
    run: VllmRun,
    setting: BenchSetting,
    result: SimulationReport | LiveReport,
    definitions: Mapping[str, str],
    metrics: Mapping[str, float | None],
    summaries: Mapping[str, float | None] | None = None,
) -> BenchReport:
    """The report of one run; ``summaries`` are of latencies, under vLLM's names."""
    latencies = summaries or {}
    measured: dict[str, Any] = {one.name: metrics[one.name] for one in fields(VllmRun) if one.name in metrics}
    return BenchReport(
        run=replace(run, **measured),
        latencies=VllmLatencies(**{one.name: latencies.get(one.name) for one in fields(VllmLatencies)}),
        setting=setting,
        summaries={name: value for name, value in latencies.items() if name not in VLLM_KEYS},
        result=result,
        definitions=definitions,
        metrics=metrics,
    )
