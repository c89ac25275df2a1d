"""The page of ``serve-bench --simulate``: policies in a table and in charts, what they are of and what is meant."""

from collections.abc import Sequence

from lora_cli.bench.outcome import SHARES
from lora_cli.bench.regression import Change, Judged
from lora_cli.bench.simulated import DEFINITIONS, SimulatedRun
from lora_cli.bench.simulation import Simulated
from lora_cli.core.text import counted, milliseconds
from lora_cli.render.html.bench_judgement import judgement
from lora_cli.render.html.charts import Axis, curves, hbars
from lora_cli.render.html.markup import Child, Markup, tag
from lora_cli.render.html.page import facts, page, table
from lora_cli.render.human.simulation import facts as told
from lora_cli.render.human.simulation import row

HEADS = ("policy", "hits", "of the gap", "from disk", "ms a request", "of the gap", "p99 stall, ms")


def render_simulation(run: SimulatedRun, compared: Sequence[Change] = (), verdicts: Sequence[Judged] = ()) -> str:
    """The whole page."""
    setting, found = run.setting, run.found
    title = f"{counted(setting.num_prompts, 'request')} over {counted(setting.adapters, 'adapter')}, simulated"
    rows = [row(one, found.gap_closed(name), found.cost_gap_closed(name)) for name, one in found.outcomes.items()]
    return page(
        title,
        tag("h1", title),
        judgement(compared, verdicts),
        tag("h2", "Policies"),
        table("Each policy over the same requests", HEADS, rows),
        tag("section", _charts(found)),
        tag("h2", "What was simulated"),
        facts([(label, str(value)) for label, value in told(run)]),
        tag("h2", "What the numbers mean"),
        facts(list(DEFINITIONS.items())),
    )


def _charts(found: Simulated) -> list[Child]:
    outcomes = found.outcomes
    costs = [(name, one.miss_cost_ms / (one.requests or 1)) for name, one in outcomes.items()]
    charts: list[Child] = [
        hbars("Milliseconds of loads a request", [(name, ms, milliseconds(ms)) for name, ms in costs])
    ]
    charts += _over_time({name: one.hit_ratio_over_time for name, one in outcomes.items() if one.hit_ratio_over_time})
    charts += _stalls({name: one.stall_cdf_ms for name, one in outcomes.items() if one.stall_cdf_ms})
    return charts


def _over_time(courses: dict[str, tuple[float, ...]]) -> list[Markup]:
    if not courses:
        return []
    lines = {
        name: [((number + 0.5) / len(course), value) for number, value in enumerate(course)]
        for name, course in courses.items()
    }
    most = max(value for course in courses.values() for value in course)
    return [curves("Hits over time", Axis("part of the requests", 0, 1), Axis("hit ratio", 0, most or 1), lines)]


def _stalls(waits: dict[str, tuple[float, ...]]) -> list[Markup]:
    values = [value for curve in waits.values() for value in curve if value > 0]
    if not values:
        return []
    low, high = min(values), max(values)
    x = Axis("stall in ms", low, high if high > low else low * 10, logarithmic=True)
    lines = {
        name: [(max(value, low), share) for share, value in zip(SHARES, curve, strict=True)]
        for name, curve in waits.items()
    }
    return [curves("Share of requests that wait at most", x, Axis("share", 0, 1), lines)]
