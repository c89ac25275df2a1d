"""The terminal output of ``serve-bench``: tables, workload, definitions, and conditions."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from lora_cli.bench.live.result import SERVER
from lora_cli.bench.report import BenchReport, LiveReport
from lora_cli.render import bench_summary as summary
from lora_cli.render.terminal import Paragraph, facts, table_or_blocks

PLACES = {"hot": "in a slot", "warm": "in memory", "cold": "on disk or elsewhere"}
VLLM_TITLE = "as in vllm bench serve: latencies from when a request was sent, without failed ones"
INFERRED = {
    "hot": "requested recently: among as many of the last adapters as there are slots",
    "warm": "not requested recently",
    "cold": "sent before the first response of its adapter",
    "later": "sent after that; its adapter may have been unloaded since",
}


def report_parts(report: BenchReport) -> Iterator[RenderableType]:
    """A table, the metrics of ``vllm bench serve`` for a live run, the workload, failures, definitions and conditions.

    There is a line for each condition of ``--fail-if``.
    """
    yield table_or_blocks(*summary.table_of(report))
    result = report.result
    if isinstance(result, LiveReport):
        yield from ("", Text(VLLM_TITLE, "bold", overflow="fold"), *facts(summary.vllm_facts(report), 0))
        if rows := summary.vllm_latencies(report):
            yield table_or_blocks(summary.VLLM_HEADER, rows)
    yield from ("", *facts(summary.run_facts(report), 0))
    if isinstance(result, LiveReport):
        for name, why in result.failures.items():
            yield from ("", Paragraph(why, f"{name}: "))
        terms = _live_terms(report, result)
    else:
        terms = summary.simulation_terms(result)
    yield from ("", *facts(terms, 0))
    for one in report.fail_if or ():
        word = Text("failed  ", "red") if one.failed else Text("passed  ", "green")
        yield from ("", Paragraph(one, word))


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
    if result.late:
        yield "lateness", "how late the load generator was in starting a request"
