"""The JSON document of ``serve-bench``: the keys of a result of ``vllm bench serve`` (0.33), and our own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf, isfinite
from typing import Any, Literal

from lora_cli import __version__
from lora_cli.bench.link_model import Link
from lora_cli.bench.trace import Trace
from lora_cli.core.json_schema import EXCLUDED, INLINE, AtMostOne, Count, Positive, Share, Version

Mode = Literal["simulate", "in-process", "live"]
PolicyKind = Literal["online", "exact", "bound"]
ChangeVerdict = Literal["better", "worse", "same"]
LiveTier = Literal["hot", "warm", "cold", "later", ""]
TiersFrom = Literal["server", "inferred"]

BACKENDS: Mapping[Mode, str] = {
    "simulate": "lora-cli simulation",
    "in-process": "lora-cli warm process",
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
    """What a tier may hold, and what a load into it takes."""

    places: Count
    max_bytes: int | None
    load: Link


@dataclass(frozen=True, slots=True)
class AdapterBytes:
    """The bytes of all adapters, of the largest and of the smallest one."""

    adapter_bytes: Count
    largest_adapter_bytes: Count
    smallest_adapter_bytes: Count = field(metadata=EXCLUDED)


@dataclass(frozen=True, slots=True)
class TiersReport:
    """The adapters' bytes, and the tiers."""

    sizes: AdapterBytes = field(metadata=INLINE)
    gpu: TierReport
    cpu: TierReport
    links: str
    """Where the costs of loads come from."""


@dataclass(frozen=True, slots=True)
class LoadsReport:
    """The adapters' bytes, and what a load into each tier takes."""

    sizes: AdapterBytes = field(metadata=INLINE)
    gpu: Link
    cpu: Link
    links: str
    """Where they come from."""


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What only --simulate --step has: an engine's steps with one eviction policy."""

    ttft_ms: Mapping[str, float]
    e2el_ms: Mapping[str, float]
    steps: Count
    requests_per_step: float
    adapters_per_step: float
    load_share: Share
    """The share of the time of all steps in which the batch waits for loads."""


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """One eviction policy on the trace."""

    kind: PolicyKind
    """online: the policy knows only what was already asked for. exact: no policy has more hits. bound: no policy has
    more hits, and possibly none has as many."""
    requests: Count
    hits: Count
    """Requests whose adapter was in a slot."""
    hit_ratio: Share
    hits_by_tier: Mapping[str, Count]
    evictions: Mapping[str, Count]
    miss_cost_ms: float
    """The sum of all loads, into memory and into slots."""
    miss_cost_ms_per_request: float
    stalled: Count
    stall_ms: Mapping[str, float]
    gap_closed: AtMostOne | None
    cost_gap_closed: AtMostOne | None
    hit_ratio_over_time: tuple[float, ...]
    stall_cdf_ms: tuple[float, ...]
    """The stalls at the shares of stall_cdf_shares."""
    engine: EngineReport | None = None
    """The steps of --step."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no policy can improve on."""

    miss_cost_ms: float | None
    """No policy takes less."""


@dataclass(frozen=True, slots=True)
class LoadedAdapters:
    """The adapters that a server had loaded before the first request, the first to be evicted first."""

    slots: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    """Those whose first load is over, with its proof, loaded still or not."""


@dataclass(frozen=True, slots=True)
class LiveError:
    """How far the simulation of a policy is from the live run; null is not known."""

    hit_ratio_error: float | None
    """The distance of the hit ratios."""
    stall_p99_error: float | None
    """The distance of the p99 stalls, as a share of the live one."""


@dataclass(frozen=True, slots=True)
class LiveComparison:
    """A live run of the same requests, and the distance of each simulated policy from it."""

    file: str
    tiers_from: TiersFrom
    hit_ratio: float | None
    """Null if no request is known to be hot, warm or cold."""
    stall_p99_ms: float | None
    """Of the load times that the server reported, else of times to first token beyond the median of hot requests."""
    policies: Mapping[str, LiveError]
    at_start: LoadedAdapters | None = None
    """The adapters that the server had loaded, which the simulation begins with; null if it did not report them."""


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What only --simulate has."""

    tiers: TiersReport
    policies: Mapping[str, PolicyReport]
    bounds: Bounds
    stall_cdf_shares: tuple[float, ...]
    live: LiveComparison | None = None
    """The live run of --live-result."""


@dataclass(frozen=True, slots=True)
class PolicyMetrics:
    """The metrics of one policy; null is not known."""

    hit_ratio: float | None
    memory_hit_ratio: float | None
    miss_cost_ms: float | None
    miss_cost_ms_per_request: float | None
    stalled_ratio: float | None
    stall_mean_ms: float | None
    stall_p50_ms: float | None
    stall_p90_ms: float | None
    stall_p95_ms: float | None
    stall_p99_ms: float | None
    stall_max_ms: float | None


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """A number of slots and of places in memory, and what a policy reaches with them."""

    slots: Count
    places: Count
    gpu_bytes: Count
    cpu_bytes: Count
    metrics: PolicyMetrics = field(metadata=INLINE)


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """What one policy needs to meet the goals."""

    answers: tuple[PlanAnswer, ...]
    """The fewest slots first; empty when no number of slots meets the goals. With --sweep all its sizes, as given."""
    with_all: PlanAnswer
    """The result with all adapters in slots at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The goals, and what each policy needs to meet them; or what it reaches with the sizes of --sweep."""

    goals: tuple[str, ...]
    """Empty with --sweep."""
    policies: Mapping[str, PolicyPlan]


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What only --simulate with --plan or --sweep has."""

    loads: LoadsReport
    plan: Plan


@dataclass(frozen=True, slots=True)
class MeasurementReport:
    """What only a run in process has."""

    requests: Count
    max_loras: Count
    max_cpu_loras: Count
    hits: Mapping[str, Count]
    evictions: Mapping[str, Count]
    latency_ms: Mapping[str, tuple[float, ...]]
    """Every request that was answered, by the tier in which its adapter was."""
    failures: Mapping[str, str]
    """For each adapter that could not be served, the reason."""


@dataclass(frozen=True, slots=True)
class SeedReport:
    """The run of one seed, with every request in columns as vllm bench serve --save-detailed has them."""

    seed: Count
    tiers_from: TiersFrom
    metrics: Mapping[str, float | None]
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
    probes: tuple[tuple[float, float | None], ...]
    """For each probe, the seconds when it was sent and the milliseconds until its token."""
    control_ttft_ms: tuple[float | None, ...] | None = field(metadata=EXCLUDED)
    """For each request to the base, the milliseconds from its scheduled time; None if there was no --control."""


@dataclass(frozen=True, slots=True)
class LiveReport:
    """What only a run with --url has."""

    slo_ms: Mapping[str, float]
    tiers_from: TiersFrom
    """What says where adapters were: the server, in x-lora-tier, or the order of requests."""
    hits: Mapping[str, Count]
    late: bool
    """Whether the generator could not keep to its times: the run then says little about the server."""
    interval_95: Mapping[str, float]
    """For each metric, half the width of its 95 % interval over the seeds, by Student's t."""
    seeds: tuple[Count, ...]
    runs: tuple[SeedReport, ...]
    per_adapter: Mapping[str, Mapping[str, float | None]]
    failures: Mapping[str, str]
    """For each model, how many of its requests failed, and the error of the first."""
    at_start: LoadedAdapters | None = None
    """The adapters that were loaded before the first request; null if the server does not report them."""


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric in the older result and in this one."""

    metric: str
    before: float
    now: float
    change: float | None
    """The change as a share of the older value."""
    verdict: ChangeVerdict


@dataclass(frozen=True, slots=True)
class WorkloadDifference:
    """What was asked for in another way by the older result than by this one, so that their metrics do not compare."""

    key: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.key} was {self.before}, and is {self.now}"


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

    It has every key of a result of vllm bench serve; null is what was not measured. --metadata adds keys. A field may
    be added under the same number; a change of meaning makes a new number.
    """

    schema: Literal["lora_cli/serve-bench/1"] = "lora_cli/serve-bench/1"
    version: Version = __version__
    run: VllmRun = field(metadata=INLINE)
    latencies: VllmLatencies = field(metadata=INLINE)
    setting: BenchSetting = field(metadata=INLINE)
    summaries: Mapping[str, float | None] = field(metadata=INLINE)
    """More summaries of latencies under vLLM's names, such as p90_ttft_ms."""
    result: SimulationReport | PlanReport | MeasurementReport | LiveReport = field(metadata=INLINE)
    definitions: Mapping[str, str]
    """What the numbers mean."""
    metrics: Mapping[str, float | None]
    """Every number that --fail-if and --baseline can name; null is not known."""
    baseline: tuple[MetricChange, ...] | None = None
    """What changed since the result of --baseline."""
    baseline_differs: tuple[WorkloadDifference, ...] | None = None
    """How the workload of --baseline differs from this one, if it does."""
    fail_if: tuple[ConditionResult, ...] | None = None
    """The conditions of --fail-if."""
    metadata: Mapping[str, str] = field(default_factory=dict, metadata=INLINE)
    """The keys of --metadata."""
    trace: str | None = None
    """The file next to this one that has the requests."""
    traces: Mapping[str, str] | None = None
    """The files next to this one that have the requests, by seed."""


VLLM_KEYS = tuple(one.name for part in (VllmRun, VllmLatencies) for one in fields(part))
"""The keys of a result of ``vllm bench serve``, in its order."""

OWN_PARTS = (BenchReport, BenchSetting, SimulationReport, PlanReport, MeasurementReport, LiveReport)
KEYS = frozenset(VLLM_KEYS).union(
    one.name for part in OWN_PARTS for one in fields(part) if not one.metadata.get("inline")
)
"""Every key at the top of a result, of whatever mode: what --metadata adds is none of them."""

WHOLE_NUMBERS = ("completed", "failed", "total_input_tokens", "total_output_tokens", "max_concurrent_requests")
"""The keys of ``VllmRun`` that are counts; among the metrics, which may be means over seeds, they are floats."""


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
    result: SimulationReport | PlanReport | MeasurementReport | LiveReport,
    definitions: Mapping[str, str],
    metrics: Mapping[str, float | None],
    summaries: Mapping[str, float | None] | None = None,
) -> BenchReport:
    """The report of one run; ``summaries`` are of latencies, under vLLM's names."""
    latencies = summaries or {}
    measured: dict[str, Any] = {one.name: metrics[one.name] for one in fields(VllmRun) if one.name in metrics}
    measured |= {name: int(measured[name] or 0) for name in WHOLE_NUMBERS if name in measured}
    return BenchReport(
        run=replace(run, **measured),
        latencies=VllmLatencies(**{one.name: latencies.get(one.name) for one in fields(VllmLatencies)}),
        setting=setting,
        summaries={name: value for name, value in latencies.items() if name not in VLLM_KEYS},
        result=result,
        definitions=definitions,
        metrics=metrics,
    )
