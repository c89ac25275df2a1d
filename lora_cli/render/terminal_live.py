"""What ``serve-bench --url`` prints: latencies by tier, the block of ``vllm bench serve``, and other measurements."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from lora_cli.bench.live.result import LiveRun
from lora_cli.bench.live.tiers import SERVER
from lora_cli.bench.outcome import SHARES
from lora_cli.core.text import safe
from lora_cli.render import live_facts as told
from lora_cli.render.plots import distribution
from lora_cli.render.terminal import Paragraph, facts, table_or_blocks
from lora_cli.render.terminal_bench import plot

PLACES = {"hot": "in a slot", "warm": "in memory", "cold": "on disk or elsewhere"}
VLLM_TITLE = "as in vllm bench serve: latencies from when a request was sent, without failed ones"
INFERRED = {
    "hot": "asked for lately: among the last as many adapters as there are slots",
    "warm": "not asked for so lately",
    "cold": "sent before its adapter had answered any request",
    "later": "sent after that; its adapter may have been unloaded since",
}


def live_parts(run: LiveRun, width: int) -> Iterator[RenderableType]:
    """A table by tier, curves, what ``vllm bench serve`` prints, facts, failures and what words mean."""
    yield table_or_blocks(told.HEADER, told.live_rows(run))
    yield from plot(
        "CDF of the time to first token (% of requests)", distribution(told.live_curves(run), SHARES, width)
    )
    yield from ("", Text(VLLM_TITLE, "bold", overflow="fold"), *facts(told.vllm_facts(run), 0))
    if rows := told.vllm_latencies(run):
        yield table_or_blocks(told.VLLM_HEADER, rows)
    yield from ("", *facts(told.run_facts(run), 0))
    for name, why in run.failures.items():
        yield from ("", Paragraph(why, f"{safe(name)}: "))
    yield from ("", *facts(_live_terms(run), 0))


def _live_terms(run: LiveRun) -> Iterator[tuple[str, object]]:
    """What the words mean that occur above; the JSON defines all of its numbers."""
    metrics = run.metrics
    yield "ttft, e2el", "from when a request was to be sent to the first and to the last piece of its answer"
    yield "tpot", "from the first piece to the last, by the tokens after the first"
    if run.tiers_from == SERVER:
        kinds = [kind for kind in PLACES if metrics.get(f"{kind}_requests")]
        yield ", ".join(kinds), f"its adapter was {', '.join(PLACES[kind] for kind in kinds)}"
    else:
        yield from ((kind, word) for kind, word in INFERRED.items() if metrics.get(f"{kind}_requests"))
    if metrics.get("failed"):
        yield "failures", "infinitely slow in percentiles, and missed in goodput"
    if run.slo:
        yield "adapters do", "99 % of an adapter's requests keep it"
    if metrics.get("stalled_others_ms") is not None:
        yield "interference", "the median probe while another adapter was loaded, less that of all others"
    if run.is_late:
        yield "lateness", "by how much the generator was late to wake up for a request"
