"""Reports as self-contained HTML pages without scripts, from the templates in ``templates/``.

Whatever enters a template passes ``safe`` and is escaped: no name of an adapter becomes markup.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lora_cli.bench.report import BenchReport, LiveReport
from lora_cli.render import bench_summary, charts
from lora_cli.text import counted, milliseconds, safe
from lora_cli.version import __version__

MAX_ADAPTERS = 200
"""The most rows of the table of adapters; the number of omitted ones is shown."""


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
    result, count = report.result, bench_summary.request_count(report)
    values: dict[str, Any]
    if isinstance(result, LiveReport):
        curves = charts.distribution("CDF of the time to first token", "ms", bench_summary.ttft_curves(result))
        values = {"title": f"{count}, live", "caption": "Milliseconds by tier", "chart": curves}
        values |= {"terms": report.definitions, "adapters": list(_adapters(result))}
    else:
        curves = charts.over_time(bench_summary.hits_over_time(result))
        values = {"title": f"{count}, simulated", "caption": "Each policy over the same requests", "chart": curves}
        terms = dict(bench_summary.simulation_terms(result)) | dict(report.definitions)
        values |= {"terms": terms, "adapters": None}
    return templates().get_template("serve_bench.html.j2").render(values, report=report)


def _adapters(result: LiveReport) -> Iterator[Sequence[str]]:
    for name, numbers in bench_summary.slowest_adapters(result)[:MAX_ADAPTERS]:
        times = [numbers[f"{what}_ms"] for what in ("ttft_p50", "ttft_p99", "e2el_p50", "e2el_p99")]
        counts = (f"{numbers[what]:.0f}" for what in ("requests", "failed"))
        yield name, *counts, *("-" if value is None else milliseconds(value) for value in times)
