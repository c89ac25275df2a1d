"""What ``serve-bench`` prints: tables, plots, what was run, what the words mean, and how it compares with goals."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from lora_cli.bench.measured import by_kind
from lora_cli.bench.outcome import SHARES
from lora_cli.bench.plan import DEFINITIONS, PlannedRun
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.regression import Change, Judged
from lora_cli.bench.simulated import SimulatedRun
from lora_cli.core.results import BenchResult
from lora_cli.core.text import counted, cut, milliseconds, safe
from lora_cli.render import bench_facts as told
from lora_cli.render.plots import bars, courses, distribution
from lora_cli.render.terminal import Paragraph, facts, table_or_blocks, text

TERMS = {
    "hot, warm, cold": "the request's adapter was in a slot, in memory, on disk",
    "ms": "from asked to answered whole: its loads, and a small batch through the adapter's modules",
}
"""What the words of a run in process mean; the JSON defines all of its numbers."""

STYLES = {"better": "green", "worse": "red"}
MOST_CHANGES = 40


def simulation_parts(run: SimulatedRun, width: int, *, plain: bool = False) -> Iterator[RenderableType]:
    """A table of policies, three plots, then the workload, the tiers and what the columns mean."""
    found, outcomes = run.found, run.found.outcomes
    gaps = [(one, found.gap_closed(name), found.cost_gap_closed(name)) for name, one in outcomes.items()]
    yield table_or_blocks(told.SIMULATION_HEADER, [told.simulation_row(*one) for one in gaps])
    costs = [(name, one.miss_cost_ms / (one.requests or 1)) for name, one in outcomes.items()]
    loads = bars([(name, cost, milliseconds(cost)) for name, cost in costs], width, plain=plain)
    over_time = {name: one.hit_ratio_over_time for name, one in outcomes.items() if one.hit_ratio_over_time}
    waits = {name: one.stall_cdf_ms for name, one in outcomes.items() if one.stall_cdf_ms}
    yield from plot("loads per request (ms)", loads)
    yield from plot("hit ratio over time (first and last part)", courses(over_time, width, plain=plain))
    yield from plot("CDF of the wait for an adapter (% of requests)", distribution(waits, SHARES, width))
    yield from ("", *facts(told.simulation_facts(run), 0), "", *facts(told.simulation_terms(run), 0))


def plan_parts(run: PlannedRun) -> Iterator[RenderableType]:
    """A table of answers, the policies that have none, then the workload and the definitions."""
    rows = list(told.plan_rows(run))
    yield Paragraph(f"for {told.plan_goals(run)}")
    if rows:
        yield from ("", table_or_blocks(told.PLAN_HEADER, rows))
    for unmet in told.plan_unmet(run):
        yield from ("", Paragraph(unmet, hanging=2))
    work = [*told.work_facts(run.setting), *told.load_facts(run.fleet), ("objective", run.objective)]
    yield from ("", *facts(work, 0))
    yield from ["", *facts(DEFINITIONS.items(), 0)] if rows else []


def measured_parts(result: BenchResult, width: int) -> Iterator[RenderableType]:
    """A table of milliseconds by tier, their curves, then hits, evictions, the run, and what the words mean."""
    yield table_or_blocks(told.TIER_HEADER, told.tier_rows(result))
    kinds = {kind: values for kind, values in by_kind(result).items() if values}
    curves = {kind: [nearest_rank(values, share) for share in SHARES] for kind, values in kinds.items()}
    yield from plot("CDF of the time to the answer (% of requests)", distribution(curves, SHARES, width))
    yield from ("", *facts(told.measured_facts(result), 0))
    for name, reason in result.failed.items():
        yield from ("", Paragraph(reason, f"{name}: "))
    yield from ("", *facts(TERMS.items(), 0))


def judgement_parts(compared: Sequence[Change], verdicts: Sequence[Judged], width: int) -> Iterator[RenderableType]:
    """A table of the metrics that changed, and a line for each condition; nothing where none was asked for."""
    if compared:
        changed = told.ranked(compared)
        rows = [
            (
                cut(safe(one.metric), max(width - 44, 12)),
                f"{one.before:.4g}",
                f"{one.now:.4g}",
                told.change_by(one),
                text(one.verdict, STYLES.get(one.verdict, "")),
            )
            for one in changed[:MOST_CHANGES]
        ]
        yield from ("", table_or_blocks(("metric", "before", "now", "by", ""), rows))
        yield f"{counted(len(changed), 'metric')} changed, {len(compared) - len(changed)} as before"
    for judged in verdicts:
        word = Text("failed", "red") if judged.failed else Text("passed", "green")
        yield from ("", Paragraph(judged, word.append("  ")))


def plot(title: str, lines: Sequence[RenderableType]) -> list[RenderableType]:
    """A plot below its title, or nothing."""
    return ["", Text(title, "bold"), *lines] if lines else []
