"""The terminal output of ``serve-bench``: tables, workload, definitions, and conditions."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from lora_cli.bench.live.result import SERVER
from lora_cli.bench.report import BenchReport, LiveReport, MetricChange, SimulationReport
from lora_cli.core.text import cut, safe
from lora_cli.render import bench_summary as summary
from lora_cli.render.terminal import Paragraph, facts, table_or_blocks, text

MEASURED_TERMS = {
    "hot, warm, cold": "the request's adapter was in a slot, in memory, on disk",
    "ms": "from request to response: its loads, and a small batch through the adapter's modules",
}
"""Definitions of the terms of an in-process run; the JSON document defines all metrics."""

PLACES = {"hot": "in a slot", "warm": "in memory", "cold": "on disk or elsewhere"}
VLLM_TITLE = "as in vllm bench serve: latencies from when a request was sent, without failed ones"
INFERRED = {
    "hot": "requested recently: among as many of the last adapters as there are slots",
    "warm": "not requested recently",
    "cold": "sent before the first response of its adapter",
    "later": "sent after that; its adapter may have been unloaded since",
}
STYLES = {"better": "green", "worse": "red"}
MAX_CHANGES = 40


def report_parts(report: BenchReport, width: int) -> Iterator[RenderableType]:
    """The result, the changes since the baseline, and a line for each condition of ``--fail-if``."""
    yield from _run_parts(report)
    yield from _change_parts(report.baseline or (), width)
    for one in report.fail_if or ():
        word = Text("failed  ", "red") if one.failed else Text("passed  ", "green")
        yield from ("", Paragraph(one, word))


def _run_parts(report: BenchReport) -> Iterator[RenderableType]:
    """A table, the metrics of ``vllm bench serve`` for a live run, the workload, failures and definitions."""
    yield table_or_blocks(*summary.table_of(report))
    terms: Iterable[tuple[str, object]] = MEASURED_TERMS.items()
    if isinstance(report.result, SimulationReport):
        terms = summary.simulation_terms(report.result)
    if isinstance(report.result, LiveReport):
        yield from ("", Text(VLLM_TITLE, "bold", overflow="fold"), *facts(summary.vllm_facts(report), 0))
        if rows := summary.vllm_latencies(report):
            yield table_or_blocks(summary.VLLM_HEADER, rows)
        terms = _live_terms(report, report.result)
    yield from ("", *facts(summary.run_facts(report), 0))
    yield from _failure_parts(report)
    yield from ("", *facts(terms, 0))


def _live_terms(report: BenchReport, result: LiveReport) -> Iterator[tuple[str, object]]:
    """Definitions of the terms above; the JSON document defines all metrics."""
    metrics = report.metrics
    yield "ttft, e2el", "from the scheduled time of a request to the first and to the last chunk of its response"
    yield "tpot", "from the first chunk to the last, divided by the tokens after the first"
    if result.tiers_from == SERVER:
        kinds = [kind for kind in PLACES if metrics.get(f"{kind}_requests")]
        yield ", ".join(kinds), f"its adapter was {', '.join(PLACES[kind] for kind in kinds)}"
    else:
        yield from ((kind, word) for kind, word in INFERRED.items() if metrics.get(f"{kind}_requests"))
    if metrics.get("failed"):
        yield "failures", "infinitely slow in percentiles, and missed in goodput"
    if result.slo_ms:
        yield "adapters do", "99 % of an adapter's requests meet the SLOs"
    if metrics.get("stalled_others_ms") is not None:
        yield "interference", "the median of probes during the load of another adapter, minus that of all other probes"
    if result.late:
        yield "lateness", "how late the load generator was in starting a request"


def _failure_parts(report: BenchReport) -> Iterator[RenderableType]:
    for name, why in summary.failures_of(report).items():
        yield from ("", Paragraph(why, f"{name}: "))


def _change_parts(compared: Sequence[MetricChange], width: int) -> Iterator[RenderableType]:
    """A table of the changed metrics; empty without a baseline."""
    if compared:
        caption, changed = summary.changes(compared)
        rows = [
            (cut(safe(metric), max(width - 44, 12)), *numbers, text(verdict, STYLES.get(verdict, "")))
            for metric, *numbers, verdict in changed[:MAX_CHANGES]
        ]
        yield from ("", table_or_blocks(("metric", "before", "now", "by", ""), rows), caption)
