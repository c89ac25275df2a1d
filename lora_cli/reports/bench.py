"""What ``serve-bench`` shows, on the terminal and as a page: latencies by tier at a server, or the hits of slots."""

from collections.abc import Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING

from lora_cli.bench.measure import LATE_MS, MEASURES, PERCENTILES, TIERS, BenchReport
from lora_cli.bench.simulate import POLICY_NAMES
from lora_cli.reports.terminal import Paragraph, facts, table, text
from lora_cli.text import milliseconds

if TYPE_CHECKING:
    from lora_cli.reports.terminal import Parts

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""A header and rows."""

COUNTS = {
    "Successful requests": "completed",
    "Failed requests": "failed",
    "Benchmark duration (s)": "duration",
    "Total input tokens": "total_input_tokens",
    "Total generated tokens": "total_output_tokens",
    "Request throughput (req/s)": "request_throughput",
    "Request goodput (req/s)": "request_goodput",
    "Output token throughput (tok/s)": "output_throughput",
    "Peak concurrent requests": "max_concurrent_requests",
    "Total token throughput (tok/s)": "total_token_throughput",
}
LATENCIES = {
    "Time to First Token": "ttft",
    "Time per Output Token (excl. 1st token)": "tpot",
    "End-to-end Latency": "e2el",
}


def human(report: BenchReport) -> "Parts":
    """The result on the terminal: tables, facts, failures, and a line for each condition of ``--fail-if``."""
    if not report.simulated:
        yield from map(text, vllm_block(report).splitlines())
        yield ""
    yield table(*hits_table(report) if report.simulated else latency_table(report))
    yield from ("", *facts(run_facts(report), 0))
    for name, why in report.failures.items():
        yield Paragraph(why, text(name, ": "))
    for one in report.fail_if:
        yield Paragraph(one, text(("failed  ", "red") if one.failed else ("passed  ", "green")))


def render_report(report: BenchReport) -> str:
    """The result as an HTML page."""
    from lora_cli.reports.html import page

    metrics = report.metrics
    if report.simulated:
        title, rows = "Hits by number of slots", hits_table(report)
        bars = [
            (f"{policy}, {slots} slots", metrics[f"{policy}_hit_ratio_{slots}"] or 0.0)
            for slots in report.simulated
            for policy in POLICY_NAMES
        ]
    else:
        title, rows = "Latency by where the adapter was", latency_table(report)
        medians = {tier: metrics[f"{tier}_p50_ttft_ms"] or 0.0 for tier in TIERS}
        most = max((value for value in medians.values() if value < inf), default=0.0) or 1.0
        bars = [(tier, min(value / most, 1.0)) for tier, value in medians.items()]
    block = "" if report.simulated else vllm_block(report)
    run = list(run_facts(report))
    return page("serve_bench", title=title, table_of=rows, bars_of=bars, run=run, report=report, block=block)


def hits_table(report: BenchReport) -> Table:
    """A row for each number of slots: the share of hits of each policy, and with memory that of reads from disk."""
    ratios = [
        (what, policy)
        for what in ("hit", "disk")
        for policy in POLICY_NAMES
        if f"{policy}_{what}_ratio_{report.simulated[0]}" in report.metrics
    ]
    header = ("slots", *(policy if what == "hit" else f"{policy} {what}" for what, policy in ratios))
    rows = [
        (str(slots), *(f"{report.metrics[f'{policy}_{what}_ratio_{slots}']:.3f}" for what, policy in ratios))
        for slots in report.simulated
    ]
    return header, rows


def latency_table(report: BenchReport) -> Table:
    """A row for each measure and percentile, and a column for each tier."""
    metrics, prefixes = report.metrics, (*(f"{tier}_" for tier in TIERS), "")
    total = (metrics["completed"] or 0) + (metrics["failed"] or 0)
    counts = [f"{metrics.get(f'{prefix}requests', total):.0f}" for prefix in prefixes]
    rows = [
        (f"{measure} p{percent}", *(_ms(metrics[f"{prefix}p{percent}_{measure}_ms"]) for prefix in prefixes))
        for measure in MEASURES
        for percent in PERCENTILES
    ]
    return ("ms", *TIERS, "all"), [("requests", *counts), *rows]


def _ms(value: float | None) -> str:
    return "-" if value is None else milliseconds(value)


def vllm_block(report: BenchReport) -> str:
    """The block that ``vllm bench serve`` prints."""
    lines = [f"{' Serving Benchmark Result ':=^50}"]
    for label, name in COUNTS.items():
        if (value := report.metrics[name]) is not None:
            lines.append(f"{f'{label}:':<40} {value:.{2 if label.endswith(')') else 0}f}")
    for title, measure in LATENCIES.items():
        lines.append(f"{title:-^50}")
        for word, statistic in {"Mean": "mean", "Median": "p50", "P99": "p99"}.items():
            if (value := report.metrics[f"{statistic}_{measure}_ms"]) is not None:
                lines.append(f"{f'{word} {measure.upper()} (ms):':<40} {value:.2f}")
    return "\n".join([*lines, "=" * 50])


def run_facts(report: BenchReport) -> Iterator[tuple[str, str]]:
    """What was run, and what the tables do not have."""
    metrics = report.metrics
    yield "workload", ", ".join(f"{key} {value}" for key, value in report.workload.items())
    if report.simulated:
        return
    yield "server", ", ".join(f"{key} {value}" for key, value in report.server.items())
    yield "tiers", report.tiers_from
    if (penalty_ms := metrics["cold_penalty_ms"]) is not None:
        yield "cold costs", f"{penalty_ms:.1f} ms to the first token (p50)"
    if metrics["p50_load_ms"] is not None:
        yield "loads", f"p50 {_ms(metrics['p50_load_ms'])} ms, p99 {_ms(metrics['p99_load_ms'])} ms, as the server says"
    if (attained := metrics["slo_attainment"]) is not None:
        yield "goodput", f"{attained:.1%} of the requests sent"
    if (late_ms := metrics["p99_late_ms"]) is not None and late_ms > LATE_MS:
        yield "unreliable", f"the load generator itself was {_ms(late_ms)} ms late (p99)"
