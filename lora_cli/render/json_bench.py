"""``serve-bench`` as JSON: vLLM's keys where it has one for it, and ours beside them.

Its JSON Schema is ``manifests/schemas/serve-bench.schema.json``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import isfinite
from typing import Literal

from lora_cli import __version__
from lora_cli.bench.links import Link
from lora_cli.bench.measured import DEFINITIONS as MEASURED_DEFINITIONS
from lora_cli.bench.measured import MeasuredRun, measured_metrics
from lora_cli.bench.metrics import simulation_metrics
from lora_cli.bench.outcome import SHARES, Outcome
from lora_cli.bench.plan import DEFINITIONS as PLAN_DEFINITIONS
from lora_cli.bench.plan import PlannedRun, plan_metrics
from lora_cli.bench.regression import Change, Judged
from lora_cli.bench.setting import Mode, Setting
from lora_cli.bench.simulated import DEFINITIONS, SimulatedRun
from lora_cli.bench.sizing import Answer
from lora_cli.render.bench_report import (
    VLLM_KEYS,
    BenchReport,
    BenchSetting,
    Bounds,
    ConditionResult,
    LinkReport,
    LiveReport,
    LoadsReport,
    MeasurementReport,
    MetricChange,
    Plan,
    PlanAnswer,
    PlanReport,
    PolicyMetrics,
    PolicyPlan,
    PolicyReport,
    SimulationReport,
    TierReport,
    TiersReport,
    VllmLatencies,
    VllmRun,
)
from lora_cli.tiers.budget import Budget

BACKENDS: Mapping[Mode, str] = {
    "simulate": "lora-cli simulation",
    "in-process": "lora-cli warm process",
    "live": "openai",
}


def simulation(run: SimulatedRun) -> BenchReport:
    """The report of ``serve-bench --simulate``."""
    found, fleet = run.found, run.fleet
    result = SimulationReport(
        objective=run.objective,
        tiers=TiersReport(
            adapter_bytes=sum(fleet.sizes.values()),
            largest_adapter_bytes=max(fleet.sizes.values(), default=0),
            gpu=_tier(fleet.gpu, fleet.links.gpu),
            cpu=_tier(fleet.cpu, fleet.links.disk),
        ),
        policies={
            name: _policy(one, found.gap_closed(name), found.cost_gap_closed(name))
            for name, one in found.outcomes.items()
        },
        bounds=Bounds(found.least_cost_ms),
        stall_cdf_shares=SHARES,
    )
    return bench_report(run.setting, vllm_run(run.setting, {}), {}, result, DEFINITIONS, simulation_metrics(found))


def measured(run: MeasuredRun) -> BenchReport:
    """The report of a run in process. An adapter answers a small batch at once: its first token is its last."""
    result, metrics = run.result, measured_metrics(run.result)
    ttft = {name: value for name, value in metrics.items() if name.endswith("_ttft_ms")}
    e2el = {name.replace("_ttft_", "_e2el_"): value for name, value in ttft.items()}
    found = MeasurementReport(
        requests=result.requests,
        max_loras=result.max_loras,
        max_cpu_loras=result.max_cpu_loras,
        hits=result.hits,
        evictions=result.evictions,
        latency_ms=result.latency_ms,
        failures=result.failed,
    )
    known = vllm_run(run.setting, metrics, model_id=result.environment.get("base"), max_concurrency=1)
    return bench_report(run.setting, known, ttft | e2el, found, MEASURED_DEFINITIONS, metrics)


def plan(run: PlannedRun) -> BenchReport:
    """The report of ``serve-bench --simulate --plan``."""
    sizes, links = run.fleet.sizes.values(), run.fleet.links
    policies = {
        name: PolicyPlan(tuple(_answer(run, answer) for answer in one.answers), _answer(run, one.most))
        for name, one in run.found.items()
    }
    result = PlanReport(
        objective=run.objective,
        loads=LoadsReport(sum(sizes), max(sizes), gpu=_load(links.gpu), cpu=_load(links.disk)),
        plan=Plan(tuple(map(str, run.goals)), policies),
    )
    return bench_report(run.setting, vllm_run(run.setting, {}), {}, result, PLAN_DEFINITIONS, plan_metrics(run))


def bench_report(
    setting: Setting,
    run: VllmRun,
    summaries: Mapping[str, float | None],
    result: SimulationReport | PlanReport | MeasurementReport | LiveReport,
    definitions: Mapping[str, str],
    metrics: Mapping[str, float | None],
) -> BenchReport:
    """The report of one run; ``summaries`` are of latencies, under vLLM's names."""
    return BenchReport(
        schema="lora_cli/serve-bench/1",
        version=__version__,
        run=run,
        latencies=VllmLatencies(**{one.name: summaries.get(one.name) for one in fields(VllmLatencies)}),
        setting=BenchSetting(
            mode=setting.mode,
            span_s=setting.span_s,
            adapters=setting.adapters,
            seed=setting.seed,
            workload=setting.workload,
            environment=setting.environment,
        ),
        summaries={name: value for name, value in summaries.items() if name not in VLLM_KEYS},
        result=result,
        definitions=definitions,
        metrics=metrics,
    )


def vllm_run(
    setting: Setting,
    numbers: Mapping[str, float | None],
    *,
    model_id: str | None = None,
    endpoint_type: str | None = None,
    max_concurrency: int | None = None,
) -> VllmRun:
    """What was run and what came of it, under vLLM's keys; ``numbers`` are the metrics that were measured, by name."""

    def whole(key: str) -> int | None:
        return int(numbers[key] or 0) if key in numbers else None

    tokens_in, tokens_out = whole("total_input_tokens"), whole("total_output_tokens")
    return VllmRun(
        date=None,
        endpoint_type=endpoint_type,
        backend=BACKENDS[setting.mode],
        label=None,
        model_id=model_id,
        tokenizer_id=None,
        num_prompts=setting.num_prompts,
        request_rate=_or_inf(setting.request_rate),
        burstiness=_or_inf(setting.burstiness),
        max_concurrency=max_concurrency,
        duration=numbers.get("duration"),
        completed=whole("completed"),
        failed=whole("failed"),
        total_input_tokens=setting.input_tokens if tokens_in is None else tokens_in,
        total_output_tokens=setting.output_tokens if tokens_out is None else tokens_out,
        request_throughput=numbers.get("request_throughput"),
        request_goodput=numbers.get("request_goodput"),
        output_throughput=numbers.get("output_throughput"),
        total_token_throughput=numbers.get("total_token_throughput"),
        max_output_tokens_per_s=numbers.get("max_output_tokens_per_s"),
        max_concurrent_requests=whole("max_concurrent_requests"),
    )


def _or_inf(value: float) -> float | Literal["inf"]:
    return value if isfinite(value) else "inf"


def metric_changes(found: Sequence[Change]) -> tuple[MetricChange, ...]:
    """What changed since an older result."""
    return tuple(MetricChange(one.metric, one.before, one.now, one.by, one.verdict) for one in found)


def condition_results(found: Sequence[Judged]) -> tuple[ConditionResult, ...]:
    """The conditions of ``--fail-if``, each with its value."""
    return tuple(ConditionResult(str(one.condition), one.value, one.failed) for one in found)


def _answer(run: PlannedRun, answer: Answer) -> PlanAnswer:
    return PlanAnswer(
        slots=answer.slots,
        places=answer.places,
        gpu_bytes=run.gpu_bytes(answer),
        cpu_bytes=run.cpu_bytes(answer),
        metrics=PolicyMetrics(**answer.metrics),
    )


def _tier(budget: Budget, link: Link) -> TierReport:
    return TierReport(places=budget.items, max_bytes=budget.max_bytes, load=_load(link))


def _load(link: Link) -> LinkReport:
    return LinkReport(link.ms, link.gb_per_s if isfinite(link.gb_per_s) else None, link.origin)


def _policy(one: Outcome, gap: float | None, cost_gap: float | None) -> PolicyReport:
    return PolicyReport(
        kind=one.kind,
        requests=one.requests,
        hits=one.hits["gpu"],
        hit_ratio=one.hit_ratio,
        hits_by_tier=one.hits,
        evictions=one.evictions,
        miss_cost_ms=one.miss_cost_ms,
        miss_cost_ms_per_request=one.miss_cost_ms / (one.requests or 1),
        stalled=one.stalled,
        stall_ms=one.stall_ms,
        gap_closed=gap,
        cost_gap_closed=cost_gap,
        hit_ratio_over_time=one.hit_ratio_over_time,
        stall_cdf_ms=one.stall_cdf_ms,
    )
