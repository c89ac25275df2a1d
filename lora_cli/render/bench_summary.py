"""The tables, facts and curves of a ``serve-bench`` report, for the terminal and the HTML page."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from lora_cli.bench.link_model import Link
from lora_cli.bench.live.result import KINDS, LATE_MS, MEASURES, SERVER
from lora_cli.bench.measured_run import by_kind
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.report import (
    AdapterBytes,
    BenchReport,
    EngineReport,
    LiveComparison,
    LiveReport,
    MeasurementReport,
    MetricChange,
    PlanAnswer,
    PlanReport,
    PolicyReport,
    SimulationReport,
)
from lora_cli.bench.simulator import SHARES
from lora_cli.core.text import counted, milliseconds, safe, size

SIMULATION_HEADER = ("policy", "hits", "closed", "disk", "ms/req", "ms closed", "p99 ms")
PLAN_HEADER = ("policy", "slots", "gpu", "places", "cpu", "hits", "disk", "p99 ms")
TIER_HEADER = ("ms by tier", "requests", "p50", "p95", "p99", "max")
LIVE_HEADER = ("ms", "requests", "ttft p50", "p99", "tpot p50", "e2el p50", "p99")
LIVE_COLUMNS = ("ttft_p50", "ttft_p99", "tpot_p50", "e2el_p50", "e2el_p99")
VLLM_HEADER = ("ms", "mean", "median", "p90", "p99")
TIERS = {"gpu": "hot (gpu)", "cpu": "warm (cpu)", "disk": "cold (disk)", "remote": "cold (remote)"}
VLLM_LABELS = {
    "completed": "Successful requests",
    "failed": "Failed requests",
    "duration": "Benchmark duration (s)",
    "total_input_tokens": "Total input tokens",
    "total_output_tokens": "Total generated tokens",
    "request_throughput": "Request throughput (req/s)",
    "output_throughput": "Output token throughput (tok/s)",
    "total_token_throughput": "Total token throughput (tok/s)",
    "max_concurrent_requests": "Peak concurrent requests",
}
"""The keys of vLLM's result about a whole run, and their labels in ``vllm bench serve``."""

CURVES: Mapping[type, str] = {
    SimulationReport: "CDF of the wait for an adapter",
    MeasurementReport: "CDF of the time to the response",
    LiveReport: "CDF of the time to first token",
}
"""The titles of ``curves_of``."""

SLOWEST = 5
"""Number of adapters that are listed, the slowest first."""

Rows = Sequence[Sequence[object]]
Facts = Iterator[tuple[str, object]]


def table_of(report: BenchReport) -> tuple[Sequence[str], Rows]:
    """The header and the rows of the main table."""
    match report.result:
        case SimulationReport() as result:
            return SIMULATION_HEADER, [_policy_row(name, one) for name, one in result.policies.items()]
        case PlanReport() as result:
            policies = result.plan.policies.items()
            return PLAN_HEADER, [_answer_row(name, answer) for name, one in policies for answer in one.answers]
        case MeasurementReport() as result:
            timed = [(tier, sorted(values)) for tier, values in result.latency_ms.items() if values]
            ranks = (0.5, 0.95, 0.99, 1.0)
            return TIER_HEADER, [
                (TIERS.get(tier, tier), len(ms), *(milliseconds(nearest_rank(ms, share)) for share in ranks))
                for tier, ms in timed
            ]
        case LiveReport() as result:
            return LIVE_HEADER, list(_live_rows(report, result))


def run_facts(report: BenchReport) -> Facts:
    """Facts about the run, without those that ``vllm bench serve`` prints."""
    match report.result:
        case SimulationReport() as result:
            yield from _simulation_facts(report, result)
        case PlanReport() as result:
            yield from _workload_facts(report)
            yield from _load_facts(result.loads.sizes, result.loads.gpu, result.loads.cpu, result.loads.links)
        case MeasurementReport() as result:
            hits = sum(result.hits.values()) or 1
            by_tier = (f"{tier} {number} ({number / hits:.0%})" for tier, number in result.hits.items())
            yield "hits", ", ".join(by_tier) or "0"
            yield "evictions", ", ".join(f"{tier} {number}" for tier, number in result.evictions.items()) or "0"
            yield "workload", f"{request_count(report)}, seed {report.setting.seed}"
            yield "tiers", f"max_loras {result.max_loras}, max_cpu_loras {result.max_cpu_loras}"
            yield "on", _environment(report)
        case LiveReport() as result:
            yield from _live_facts(report, result)


def hits_over_time(result: SimulationReport) -> Mapping[str, Sequence[float]]:
    """The hit ratio over the run, by policy."""
    return {name: one.hit_ratio_over_time for name, one in result.policies.items() if one.hit_ratio_over_time}


def curves_of(report: BenchReport) -> Mapping[str, Sequence[float]]:
    """Milliseconds at each of ``SHARES``: the wait times by policy, or the latencies by tier."""
    found: Mapping[str, Sequence[float]]
    match report.result:
        case SimulationReport() as result:
            return {name: one.stall_cdf_ms for name, one in result.policies.items() if one.stall_cdf_ms}
        case MeasurementReport() as result:
            found = by_kind(result)
        case LiveReport() as result:
            found = _ttft_by_kind(result)
        case _:
            return {}
    return {kind: [nearest_rank(sorted(values), share) for share in SHARES] for kind, values in found.items() if values}


def failures_of(report: BenchReport) -> Mapping[str, str]:
    """Failed adapters, or policies that do not meet the goals of ``--plan`` with any number of slots, and why."""
    if isinstance(report.result, MeasurementReport | LiveReport):
        return report.result.failures
    if not isinstance(report.result, PlanReport):
        return {}
    found = {}
    for name, one in report.result.plan.policies.items():
        if not one.answers:
            metrics = [goal.partition(" ")[0] for goal in report.result.plan.goals]
            reached = ", ".join(f"{metric} {getattr(one.with_all.metrics, metric) or 0:.4g}" for metric in metrics)
            found[name] = f"not reached even with a slot for each of the {one.with_all.slots} adapters: {reached}"
    return found


def simulation_terms(report: BenchReport, result: SimulationReport) -> Facts:
    """The definitions of the columns that have values."""
    policies = result.policies
    yield "hits", "the share of requests whose adapter is already in a slot"
    if any(one.gap_closed is not None for one in policies.values()):
        yield "closed", "the share of the gap between lru's hits and the maximum"
    yield "disk", "the share of requests whose adapter is read from disk"
    yield "ms/req", "the time of all loads, divided by the number of requests"
    if any(one.cost_gap_closed is not None for one in policies.values()):
        yield "ms closed", "the share of the gap between lru's ms/req and the minimum"
    queue = "one load at a time" if report.setting.span_s else "without --request-rate requests do not queue"
    if any(one.engine is not None for one in policies.values()):
        yield "p99 ms", "from the arrival of a request until it is in a batch, with its adapter in a slot"
    else:
        yield "p99 ms", f"how long a request waits for its adapter; {queue}"
    for name, one in policies.items():
        if one.kind != "online":
            yield name, "knows all future requests" + ("; an upper bound" if one.kind == "bound" else "")


def vllm_facts(report: BenchReport) -> Facts:
    """Counts and rates over the whole run, with the labels of ``vllm bench serve``."""
    for name, label in VLLM_LABELS.items():
        if (number := report.metrics.get(name)) is not None:
            yield label, f"{number:.2f}" if label.endswith(")") else f"{number:.0f}"


def vllm_latencies(report: BenchReport) -> Rows:
    """The rows under ``VLLM_HEADER`` that have values."""
    rows = [
        (what.upper(), *(_ms(report.metrics.get(f"{name}_{what}_ms")) for name in VLLM_HEADER[1:])) for what in MEASURES
    ]
    return [row for row in rows if set(row[1:]) != {"-"}]


def slowest_adapters(result: LiveReport) -> list[tuple[str, Mapping[str, float | None]]]:
    """The metrics of each adapter, the highest p99 of TTFT first."""
    return sorted(result.per_adapter.items(), key=lambda one: -(one[1]["ttft_p99_ms"] or 0))


def changes(compared: Sequence[MetricChange]) -> tuple[str, Sequence[Sequence[str]]]:
    """The number of changed metrics, and a row for each: worse ones first, then by the size of the change."""
    changed = [one for one in compared if one.verdict != "same"]
    changed.sort(key=lambda one: (one.verdict != "worse", -abs(one.change or 0)))
    rows = [(one.metric, f"{one.before:.4g}", f"{one.now:.4g}", _by(one.change), one.verdict) for one in changed]
    return f"{counted(len(changed), 'metric')} changed, {len(compared) - len(changed)} unchanged", rows


def _by(change: float | None) -> str:
    return "from 0" if change is None else f"{change:+.1%}"


def _policy_row(name: str, one: PolicyReport) -> Sequence[str]:
    return (
        name,
        f"{'<=' if one.kind == 'bound' else ''}{one.hit_ratio:.3f}",
        _share(one.gap_closed),
        f"{one.hits_by_tier['disk'] / (one.requests or 1):.3f}" if "disk" in one.hits_by_tier else "-",
        f"{'' if one.stall_ms else '>='}{milliseconds(one.miss_cost_ms_per_request)}",
        _share(one.cost_gap_closed),
        _ms(one.stall_ms.get("p99")),
    )


def _share(gap: float | None) -> str:
    return "-" if gap is None else f"{gap + 0.0:.0%}".replace("-0%", "0%")


def _answer_row(policy: str, answer: PlanAnswer) -> Sequence[str]:
    return (
        policy,
        str(answer.slots),
        size(answer.gpu_bytes).replace(" ", ""),
        str(answer.places),
        size(answer.cpu_bytes).replace(" ", ""),
        f"{answer.metrics.hit_ratio or 0:.3f}",
        f"{1 - (answer.metrics.memory_hit_ratio or 0):.3f}",
        milliseconds(answer.metrics.stall_p99_ms or 0),
    )


def _live_rows(report: BenchReport, result: LiveReport) -> Iterator[Sequence[object]]:
    """The rows of each kind of request, of all requests, and of the base."""
    metrics, mark = report.metrics, "" if result.tiers_from == SERVER else " (inferred)"

    def cells(prefix: str) -> Iterator[str]:
        return (_interval(report, result, f"{prefix}{name}_ms") for name in LIVE_COLUMNS)

    for kind in KINDS:
        if number := int(metrics.get(f"{kind}_requests") or 0):
            yield f"{kind}{mark}", number, *cells(f"{kind}_")
    yield "all", int((metrics.get("completed") or 0) + (metrics.get("failed") or 0)), *cells("")
    control = [run.control_ttft_ms for run in result.runs if run.control_ttft_ms is not None]
    if control:
        yield "base alone", sum(map(len, control)), *cells("control_")


def _interval(report: BenchReport, result: LiveReport, name: str) -> str:
    """A metric with half the width of its confidence interval, as far as they are known."""
    number, half = report.metrics.get(name), result.interval_95.get(name)
    if number is None:
        return "-"
    sign = "-" if number < 0 else ""
    return sign + milliseconds(abs(number)) + (f"±{milliseconds(half)}" if half is not None else "")


def _ms(number: float | None) -> str:
    return "-" if number is None else milliseconds(number)


def request_count(report: BenchReport) -> str:
    """The numbers of requests and adapters."""
    result = report.result
    requests = result.requests if isinstance(result, MeasurementReport) else report.run.num_prompts
    return f"{counted(requests, 'request')} over {counted(report.setting.adapters, 'adapter')}"


def _environment(report: BenchReport) -> str:
    return ", ".join(f"{key} {value}" for key, value in report.setting.environment.items())


def _workload_facts(report: BenchReport) -> Facts:
    """The workload and the environment."""
    yield "requests", f"{request_count(report)}, seed {report.setting.seed}"
    yield "workload", ", ".join(f"{key} {safe(value)}" for key, value in report.setting.workload.items())
    yield "on", _environment(report)


def _load_facts(sizes: AdapterBytes, gpu: Link, cpu: Link, links: str) -> Facts:
    """The sizes of the adapters, and the load times."""
    low, high = size(sizes.smallest_adapter_bytes), size(sizes.largest_adapter_bytes)
    yield "adapters", f"{size(sizes.adapter_bytes)}, {f'{low} each' if low == high else f'from {low} to {high}'}"
    yield "from disk", cpu
    yield "into a slot", gpu
    yield "load costs", links


def _simulation_facts(report: BenchReport, result: SimulationReport) -> Facts:
    tiers, least_ms = result.tiers, result.bounds.miss_cost_ms
    yield from _workload_facts(report)
    for name, tier in (("slots", tiers.gpu), ("memory", tiers.cpu)):
        limit = f", {size(tier.max_bytes)}" if tier.max_bytes is not None else ""
        yield name, f"{counted(tier.places, 'adapter')}{limit}"
    yield from _load_facts(tiers.sizes, tiers.gpu.load, tiers.cpu.load, tiers.links)
    if least_ms is not None:
        yield "lower bound", f"{milliseconds(least_ms / (report.run.num_prompts or 1))} ms/req for any policy"
    for name, one in result.policies.items():
        if one.engine is not None:
            yield f"{name} steps", _steps(one.engine)
    if result.live is not None:
        yield from _live_error_facts(result, result.live)


def _steps(engine: EngineReport) -> str:
    """The latencies and the batches of an engine's steps."""
    times = (("ttft", engine.ttft_ms), ("e2el", engine.e2el_ms))
    shown = ", ".join(f"{what} p50 {_ms(one.get('p50'))}, p99 {_ms(one.get('p99'))} ms" for what, one in times)
    batch = f"{engine.requests_per_step:.1f} requests and {engine.adapters_per_step:.1f} adapters in a step"
    return f"{shown}; {batch}; loads are {engine.load_share:.1%} of the time"


def _live_error_facts(result: SimulationReport, live: LiveComparison) -> Facts:
    """The live run, and each policy's distance from it."""
    how = "as reported by the server" if live.tiers_from == SERVER else "inferred"
    yield "live run", f"{live.file}: hits {_ratio(live.hit_ratio)}, p99 stall {_ms(live.stall_p99_ms)} ms, {how}"
    for name, one in live.policies.items():
        policy = result.policies[name]
        hits = f"hits {policy.hit_ratio:.3f} (off by {_ratio(one.hit_ratio_error)})"
        off = "-" if one.stall_p99_error is None else f"{one.stall_p99_error:.1%}"
        yield f"{name} to live", f"{hits}, p99 stall {_ms(policy.stall_ms['p99'])} ms (off by {off})"


def _ratio(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def _live_facts(report: BenchReport, result: LiveReport) -> Facts:
    """Facts about a live run that ``vllm bench serve`` does not print."""
    metrics = report.metrics
    yield from _workload_facts(report)
    several = "; ± is the 95 % interval over them (Student's t)" if len(result.seeds) > 1 else ""
    yield "seeds", ", ".join(map(str, result.seeds)) + several
    yield "tiers", "as reported by the server" if result.tiers_from == SERVER else "inferred from the order of requests"
    if result.slo_ms:
        yield "goodput", _goodput(report, result)
    yield from _cost_facts(report, result)
    if metrics.get("lateness_p99_ms") is not None:
        late = f"unreliable, the load generator lagged (limit {LATE_MS:g} ms): " if result.late else ""
        p50, p99, most = (_ms(metrics[f"lateness_{name}_ms"]) for name in ("p50", "p99", "max"))
        yield "lateness", f"{late}p50 {p50}, p99 {p99}, max {most} ms"
    known = [(name, numbers["ttft_p99_ms"]) for name, numbers in slowest_adapters(result)]
    named = [(name, p99) for name, p99 in known if p99 is not None][:SLOWEST]
    yield "slowest", ", ".join(f"{safe(name)} {_ms(p99)} ms" for name, p99 in named)


def _goodput(report: BenchReport, result: LiveReport) -> str:
    metrics, limits = report.metrics, " ".join(f"{name}:{most:g}" for name, most in result.slo_ms.items())
    requests, adapters = metrics.get("slo_attainment"), metrics.get("adapters_slo_attainment")
    if requests is None or adapters is None:
        return limits
    rate = metrics.get("request_goodput") or 0.0
    return f"{requests:.1%} of requests meet {limits}, {rate:.1f} per second; {adapters:.1%} of adapters do"


def _cost_facts(report: BenchReport, result: LiveReport) -> Facts:
    """The cost of loads for their own and other requests, and of adapters compared with the base."""
    metrics, shown = report.metrics, partial(_interval, report, result)
    if metrics.get("cold_penalty_ms") is not None:
        yield "cold costs", f"{shown('cold_penalty_ms')} ms to the first token"
    if metrics.get("load_p50_ms") is not None:
        yield "loads", f"p50 {shown('load_p50_ms')} ms, p99 {shown('load_p99_ms')} ms, as reported by the server"
    if metrics.get("probe_quiet_p50_ms") is not None or metrics.get("probe_loading_p50_ms") is not None:
        loading, quiet = shown("probe_loading_p50_ms"), shown("probe_quiet_p50_ms")
        probes = f"a probe takes {loading} ms during a load, {quiet} ms otherwise"
        yield "interference", f"{shown('stalled_others_ms')} ms: {probes}"
    ratios = {what: metrics.get(f"control_ratio_{what}_p50") for what in ("ttft", "tpot", "e2el")}
    known = [f"{what} {ratio:.2f}×" for what, ratio in ratios.items() if ratio is not None]
    if known:
        yield "vs. the base", f"medians: {', '.join(known)}"


def _ttft_by_kind(result: LiveReport) -> Mapping[str, Sequence[float]]:
    """Milliseconds from the scheduled time to the first token, of successful requests."""
    found: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "base")}
    for run in result.runs:
        for kind, scheduled_s, start_s, ttft_s in zip(
            run.tiers, run.scheduled_times, run.start_times, run.ttfts, strict=True
        ):
            if kind and ttft_s is not None:
                found[kind].append((start_s + ttft_s - scheduled_s) * 1e3)
        found["base"] += [ttft_ms for ttft_ms in run.control_ttft_ms or () if ttft_ms is not None]
    return found
