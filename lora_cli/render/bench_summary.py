"""The tables, facts and curves of a ``serve-bench`` report, for the terminal and the HTML page."""

from collections.abc import Iterator, Mapping, Sequence

from lora_cli.bench.live.result import KINDS, LATE_MS, MEASURES, SERVER
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.report import (
    BenchReport,
    LiveReport,
    PolicyReport,
    SimulationReport,
)
from lora_cli.text import by_key, counted, milliseconds, safe

SIMULATION_HEADER = ("policy", "hits", "closed", "disk")
LIVE_HEADER = ("ms", "requests", "ttft p50", "p99", "tpot p50", "e2el p50", "p99")
LIVE_COLUMNS = ("ttft_p50", "ttft_p99", "tpot_p50", "e2el_p50", "e2el_p99")
VLLM_HEADER = ("ms", "mean", "median", "p90", "p99")
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

SHARES = (*(number / 100 for number in range(100)), 0.995, 0.999, 1.0)
"""Where the distribution of times is drawn."""

SLOWEST = 5
"""Number of adapters that are listed, the slowest first."""

Rows = Sequence[Sequence[object]]
Facts = Iterator[tuple[str, object]]


def table_of(report: BenchReport) -> tuple[Sequence[str], Rows]:
    """The header and the rows of the main table."""
    match report.result:
        case SimulationReport() as result:
            return SIMULATION_HEADER, [_policy_row(name, one) for name, one in result.policies.items()]
        case LiveReport() as result:
            return LIVE_HEADER, list(_live_rows(report, result))


def run_facts(report: BenchReport) -> Facts:
    """Facts about the run, without those that ``vllm bench serve`` prints."""
    match report.result:
        case SimulationReport() as result:
            yield from _simulation_facts(report, result)
        case LiveReport() as result:
            yield from _live_facts(report, result)


def hits_over_time(result: SimulationReport) -> Mapping[str, Sequence[float]]:
    """The hit ratio over the run, by policy."""
    return {name: one.hit_ratio_over_time for name, one in result.policies.items() if one.hit_ratio_over_time}


def ttft_curves(result: LiveReport) -> Mapping[str, Sequence[float]]:
    """Milliseconds from the scheduled time to the first token at each of ``SHARES``, by the kind of request."""
    run = result.requests
    found = by_key(
        (kind, (start_s + ttft_s - scheduled_s) * 1e3)
        for kind, scheduled_s, start_s, ttft_s in zip(
            run.tiers, run.scheduled_times, run.start_times, run.ttfts, strict=True
        )
        if kind and ttft_s is not None
    )
    return {kind: [nearest_rank(sorted(found[kind]), share) for share in SHARES] for kind in KINDS if kind in found}


def simulation_terms(result: SimulationReport) -> Facts:
    """The definitions of the columns that have values."""
    policies = result.policies
    yield "hits", "the share of requests whose adapter is already in a slot"
    if any(one.gap_closed is not None for one in policies.values()):
        yield "closed", "the share of the gap between lru's hits and the maximum"
    yield "disk", "the share of requests whose adapter is read from disk"
    for name, one in policies.items():
        if one.kind == "exact":
            yield name, "knows all future requests"


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


def _policy_row(name: str, one: PolicyReport) -> Sequence[str]:
    gap = "-" if one.gap_closed is None else f"{one.gap_closed + 0.0:.0%}".replace("-0%", "0%")
    return name, f"{one.hit_ratio:.3f}", gap, f"{one.hits_by_tier['disk'] / (one.requests or 1):.3f}"


def _live_rows(report: BenchReport, result: LiveReport) -> Iterator[Sequence[object]]:
    """The rows of each kind of request, and of all requests."""
    metrics, mark = report.metrics, "" if result.tiers_from == SERVER else " (inferred)"

    def cells(prefix: str) -> Iterator[str]:
        return (_ms(metrics.get(f"{prefix}{name}_ms")) for name in LIVE_COLUMNS)

    for kind in KINDS:
        if number := int(metrics.get(f"{kind}_requests") or 0):
            yield f"{kind}{mark}", number, *cells(f"{kind}_")
    yield "all", int((metrics.get("completed") or 0) + (metrics.get("failed") or 0)), *cells("")


def _ms(number: float | None) -> str:
    return "-" if number is None else milliseconds(number)


def request_count(report: BenchReport) -> str:
    """The numbers of requests and adapters."""
    return f"{counted(report.run.num_prompts, 'request')} over {counted(report.setting.adapters, 'adapter')}"


def _environment(report: BenchReport) -> str:
    return ", ".join(f"{key} {value}" for key, value in report.setting.environment.items())


def _workload_facts(report: BenchReport) -> Facts:
    """The workload and the environment."""
    yield "requests", f"{request_count(report)}, seed {report.setting.seed}"
    yield "workload", ", ".join(f"{key} {safe(value)}" for key, value in report.setting.workload.items())
    yield "on", _environment(report)


def _simulation_facts(report: BenchReport, result: SimulationReport) -> Facts:
    yield from _workload_facts(report)
    yield "slots", counted(result.tiers.gpu.places, "adapter")
    yield "memory", counted(result.tiers.cpu.places, "adapter")


def _live_facts(report: BenchReport, result: LiveReport) -> Facts:
    """Facts about a live run that ``vllm bench serve`` does not print."""
    metrics = report.metrics
    yield from _workload_facts(report)
    yield "tiers", "as reported by the server" if result.tiers_from == SERVER else "inferred from the order of requests"
    if result.slo_ms:
        yield "goodput", _goodput(report, result)
    if (penalty_ms := metrics.get("cold_penalty_ms")) is not None:
        yield "cold costs", f"{'-' if penalty_ms < 0 else ''}{milliseconds(abs(penalty_ms))} ms to the first token"
    if metrics.get("load_p50_ms") is not None:
        p50, p99 = _ms(metrics["load_p50_ms"]), _ms(metrics["load_p99_ms"])
        yield "loads", f"p50 {p50} ms, p99 {p99} ms, as reported by the server"
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
