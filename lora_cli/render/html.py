"""Reports as self-contained HTML pages without scripts, from the templates in ``templates/``.

Whatever enters a template passes ``safe`` and is escaped: no name of an adapter becomes markup.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lora_cli import __version__
from lora_cli.bench.report import BenchReport, LiveReport, MeasurementReport, PlanReport, SimulationReport
from lora_cli.core.text import counted, milliseconds, safe
from lora_cli.render import bench_summary, charts

MAX_ADAPTERS = 200
"""The most rows of the table of adapters; the number of omitted ones is shown."""

PAGES: Mapping[type, tuple[str, str, str]] = {
    SimulationReport: ("simulated", "Each policy over the same requests", "stall in ms"),
    PlanReport: ("", "Fewest slots first, then more slots with less memory", ""),
    MeasurementReport: ("in process", "Milliseconds by tier", "ms"),
    LiveReport: ("live", "Milliseconds by tier", "ms"),
}
"""The kind of run, the caption of its table, and the axis of its curves."""


@cache
def templates() -> Environment:
    """The jinja2 environment: text is escaped, undefined variables are errors, and no text can be marked as safe."""
    environment = Environment(
        loader=PackageLoader("lora_cli.render"),
        autoescape=True,
        undefined=StrictUndefined,
        # Markup of macros stays; control characters of all other values are escaped.
        finalize=lambda value: value if isinstance(value, Markup) else safe(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    del environment.filters["safe"]
    environment.filters["counted"] = counted
    environment.globals |= {"version": __version__, "bench": bench_summary}
    return environment


def render_bench(report: BenchReport) -> str:
    """The page of ``serve-bench``: table, charts, workload and definitions."""
    result, request_count = report.result, bench_summary.request_count(report)
    how, caption, unit = PAGES[type(result)]
    share = bench_summary.CURVES.get(type(result), "")
    curves = charts.distribution(share, unit, bench_summary.curves_of(report))
    values: dict[str, Any] = {"title": f"{request_count}, {how}", "caption": caption, "charts": [curves]}
    values |= {"terms": report.definitions, "costs": (), "adapters": None}
    if isinstance(result, PlanReport):
        values["title"] = f"Slots and memory for {' and '.join(result.plan.goals)}"
        if not result.plan.goals:
            values |= {"title": f"{request_count}, simulated", "caption": "Each policy with each size"}
    elif isinstance(result, SimulationReport):
        costs = {name: one.miss_cost_ms_per_request for name, one in result.policies.items()}
        most = max(costs.values(), default=0.0) or 1.0
        values["costs"] = [(name, cost / most, [milliseconds(cost)]) for name, cost in costs.items()]
        values["charts"] = [charts.over_time(bench_summary.hits_over_time(result)), curves]
        values["terms"] = dict(bench_summary.simulation_terms(report, result)) | dict(report.definitions)
    elif isinstance(result, LiveReport):
        values["adapters"] = list(_adapters(result))
    return templates().get_template("serve_bench.html.j2").render(values, report=report)


def _adapters(result: LiveReport) -> Iterator[Sequence[str]]:
    for name, numbers in bench_summary.slowest_adapters(result)[:MAX_ADAPTERS]:
        times = [numbers[f"{what}_ms"] for what in ("ttft_p50", "ttft_p99", "e2el_p50", "e2el_p99")]
        counts = (f"{numbers[what]:.0f}" for what in ("requests", "failed"))
        yield name, *counts, *("-" if value is None else milliseconds(value) for value in times)
