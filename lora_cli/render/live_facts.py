"""What ``serve-bench --url`` found, in words and cells: the same on a terminal and on a page."""

from collections.abc import Iterator, Sequence

from lora_cli.bench.live.numbers import LATE_MS, MEASURES
from lora_cli.bench.live.result import LiveRun
from lora_cli.bench.live.tiers import KINDS, SERVER
from lora_cli.bench.outcome import SHARES
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.core.text import milliseconds, safe
from lora_cli.render.bench_facts import work_facts

HEADER = ("ms", "requests", "ttft p50", "p99", "tpot p50", "e2el p50", "p99")
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
"""The keys of vLLM's result about a whole run, and what ``vllm bench serve`` calls them."""

COLUMNS = ("ttft_p50", "ttft_p99", "tpot_p50", "e2el_p50", "e2el_p99")
WORST = 5
"""So many adapters are named, the slowest first."""


def live_rows(run: LiveRun) -> list[tuple[object, ...]]:
    """The cells of all requests, of each kind that there was and of the base, in the order of the header."""
    metrics, found = run.metrics, []
    for kind in KINDS:
        if number := int(metrics.get(f"{kind}_requests") or 0):
            mark = "" if run.tiers_from == SERVER else " (inferred)"
            found.append((f"{kind}{mark}", number, *(interval(run, f"{kind}_{name}_ms") for name in COLUMNS)))
    number = int((metrics.get("completed") or 0) + (metrics.get("failed") or 0))
    found.append(("all", number, *(interval(run, f"{name}_ms") for name in COLUMNS)))
    if any(one.control is not None for one in run.runs):
        asked = sum(len(one.control or ()) for one in run.runs)
        found.append(("base alone", asked, *(interval(run, f"control_{name}_ms") for name in COLUMNS)))
    return found


def interval(run: LiveRun, name: str) -> str:
    """A metric and half the width of its interval, as far as they are known."""
    number, half = run.metrics.get(name), run.interval.get(name)
    if number is None:
        return "-"
    sign = "-" if number < 0 else ""
    return sign + milliseconds(abs(number)) + (f"±{milliseconds(half)}" if half is not None else "")


def live_curves(run: LiveRun) -> dict[str, list[float]]:
    """Milliseconds to the first token at each of ``SHARES``, by kind, of what did not fail."""
    found: dict[str, list[float]] = {}
    for one in run.runs:
        for answer, kind in zip(one.course.answers, one.kinds, strict=True):
            if not answer.error and kind:
                found.setdefault(kind, []).append(answer.ttft_s * 1e3)
        for answer in one.control or ():
            if not answer.error:
                found.setdefault("base", []).append(answer.ttft_s * 1e3)
    ordered = {kind: sorted(found[kind]) for kind in (*KINDS, "base") if kind in found}
    return {kind: [nearest_rank(values, share) for share in SHARES] for kind, values in ordered.items()}


def live_facts(run: LiveRun) -> Iterator[tuple[str, object]]:
    """What was measured, as labelled values."""
    yield from vllm_facts(run)
    yield from run_facts(run)


def vllm_facts(run: LiveRun) -> Iterator[tuple[str, object]]:
    """Counts and rates over the whole run, as ``vllm bench serve`` calls them."""
    for name, label in VLLM_LABELS.items():
        if (number := run.metrics.get(name)) is not None:
            yield label, f"{number:.2f}" if label.endswith(")") else f"{number:.0f}"


def vllm_latencies(run: LiveRun) -> list[tuple[str, ...]]:
    """Rows under ``VLLM_HEADER``, from vLLM's own keys; of what was measured."""
    rows = [
        (what.upper(), *(_ms(run.metrics.get(f"{name}_{what}_ms")) for name in VLLM_HEADER[1:])) for what in MEASURES
    ]
    return [row for row in rows if set(row[1:]) != {"-"}]


def run_facts(run: LiveRun) -> Iterator[tuple[str, object]]:
    """What was run, and what else was measured."""
    metrics = run.metrics
    yield from work_facts(run.setting)
    seeds = ", ".join(str(one.seed) for one in run.runs)
    yield "seeds", seeds + ("; ± is the 95 % interval over them (Student's t)" if len(run.runs) > 1 else "")
    yield "tiers", "as the server says" if run.tiers_from == SERVER else "inferred: by who was asked for first"
    if run.slo:
        yield "goodput", _goodput(run)
    yield from _costs(run)
    late = metrics.get("lateness_p99_ms")
    if late is not None:
        word = f"unreliable, the load generator lagged (limit {LATE_MS:g} ms): " if run.is_late else ""
        yield (
            "lateness",
            f"{word}p50 {_ms(metrics['lateness_p50_ms'])}, p99 {_ms(late)}, max {_ms(metrics['lateness_max_ms'])} ms",
        )
    yield "slowest", ", ".join(f"{safe(name)} {_ms(p99)} ms" for name, p99 in slowest(run))


def slowest(run: LiveRun) -> Sequence[tuple[str, float]]:
    """The adapters with the highest p99 of ttft."""
    known = [(name, numbers["ttft_p99_ms"]) for name, numbers in run.adapters.items()]
    ordered = sorted(((name, p99) for name, p99 in known if p99 is not None), key=lambda one: -one[1])
    return ordered[:WORST]


def _goodput(run: LiveRun) -> str:
    limits = " ".join(f"{name}:{most:g}" for name, most in run.slo.items())
    kept, adapters = run.metrics.get("slo_attainment"), run.metrics.get("adapters_slo_attainment")
    if kept is None or adapters is None:
        return limits
    rate = run.metrics.get("request_goodput") or 0.0
    return f"{kept:.1%} of requests keep {limits}, {rate:.1f} a second; {adapters:.1%} of adapters do"


def _costs(run: LiveRun) -> Iterator[tuple[str, object]]:
    metrics = run.metrics
    if metrics.get("cold_penalty_ms") is not None:
        yield "cold costs", f"{interval(run, 'cold_penalty_ms')} ms to the first token"
    if metrics.get("load_p50_ms") is not None:
        yield (
            "loads",
            f"p50 {interval(run, 'load_p50_ms')} ms, p99 {interval(run, 'load_p99_ms')} ms, as the server says",
        )
    if metrics.get("probe_quiet_p50_ms") is not None or metrics.get("probe_loading_p50_ms") is not None:
        beside, apart = interval(run, "probe_loading_p50_ms"), interval(run, "probe_quiet_p50_ms")
        yield (
            "interference",
            f"{interval(run, 'stalled_others_ms')} ms: a probe takes {beside} ms during a load, {apart} ms otherwise",
        )
    ratios = [
        f"{what} {ratio:.2f}×"
        for what in ("ttft", "tpot", "e2el")
        if (ratio := metrics.get(f"control_ratio_{what}_p50")) is not None
    ]
    if ratios:
        yield "vs. the base", f"medians: {', '.join(ratios)}"


def _ms(number: float | None) -> str:
    return "-" if number is None else milliseconds(number)
