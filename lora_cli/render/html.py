"""Reports as self-contained HTML pages without scripts, from the templates in ``templates/``.

Whatever enters a template passes ``safe`` and is escaped: no name of an adapter becomes markup.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lora_cli import __version__
from lora_cli.bench.report import BenchReport, LiveReport
from lora_cli.core.base_model import HALF_BYTES
from lora_cli.core.grouping import by_key
from lora_cli.core.inspection import ModuleFacts
from lora_cli.core.tensor_keys import layer_of, leaf_of
from lora_cli.core.text import between, brief, counted, milliseconds, safe, size
from lora_cli.render import bench_summary, charts, engine_flags, inspect_facts
from lora_cli.render.inspect_facts import Layout
from lora_cli.render.inspect_report import InspectReport
from lora_cli.validation import Checked

MAX_ROWS = {
    "adapters": 200, "differences": 500, "files": 1000, "kinds": 200, "modules": 2000,
    "stacks": 8, "layers": 256, "columns": 40, "outside": 40,
}  # fmt: skip
"""The most rows of each table and columns of a heat map; the number of omitted ones is shown."""

NO_VALUE = "–"


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
    environment.filters |= {"brief": brief, "counted": counted, "number": _number, "size": size}
    environment.globals |= {
        "version": __version__,
        "most": MAX_ROWS,
        "drawings": charts,
        "half_bytes": HALF_BYTES,
        "engine_flags": engine_flags,
        "inspect": inspect_facts,
        "modules_by_kind": modules_by_kind,
        "kind_rows": kind_rows,
        "memory_rows": memory_rows,
        "module_rows": module_rows,
        "spectrum_notes": spectrum_notes,
        "bench": bench_summary,
    }
    return environment


def render_inspections(report: InspectReport, checked: Sequence[Checked]) -> str:
    """The page of ``inspect``; ``checked`` has the verdicts and the files of the same adapters."""
    title = checked[0].name if len(checked) == 1 else counted(len(checked), "LoRA adapter")
    adapters = list(zip(report.adapters, checked, strict=True))
    return templates().get_template("inspect.html.j2").render(title=title, report=report, adapters=adapters)


def modules_by_kind(modules: Iterable[ModuleFacts]) -> Mapping[str, Sequence[ModuleFacts]]:
    """Modules by the last part of their paths."""
    return by_key((leaf_of(one.module), one) for one in modules)


def kind_rows(kinds: Mapping[str, Sequence[ModuleFacts]]) -> Iterator[Sequence[str]]:
    """The rows of the table of kinds."""
    for kind, of_kind in list(kinds.items())[: MAX_ROWS["kinds"]]:
        layers = sorted({layer for one in of_kind if (layer := layer_of(one.module)) is not None})
        dtypes = ", ".join(dict.fromkeys(one.dtype for one in of_kind))
        yield kind, inspect_facts.ranges(layers) or NO_VALUE, str(len(of_kind)), *_spans(of_kind), dtypes


def module_rows(modules: Sequence[ModuleFacts]) -> Iterator[Sequence[str]]:
    """The rows of the table of modules, layer 2 before layer 10."""
    for one in sorted(modules, key=lambda one: natural_sort_key(one.module))[: MAX_ROWS["modules"]]:
        yield one.module, *_spans([one]), one.dtype, _number(one.bytes)


def _spans(modules: Sequence[ModuleFacts]) -> Iterator[str]:
    """The ranks, scalings and both dimensions: one value each, or the range."""
    for values in zip(*((one.r, one.scaling, one.d_in, one.d_out) for one in modules), strict=True):
        yield between(values, "{:.6g}".format, NO_VALUE)


def memory_rows(kinds: Mapping[str, Sequence[ModuleFacts]]) -> list[tuple[str, float, Sequence[str]]]:
    """The bytes in a slot of each kind, in half precision and as a share of the slot; empty for an empty slot."""
    taken = {kind: HALF_BYTES * sum(one.parameters for one in of_kind) for kind, of_kind in kinds.items()}
    whole = sum(taken.values())
    largest = sorted(taken.items(), key=lambda item: -item[1])[: MAX_ROWS["kinds"]]
    return [(kind, part / whole, (size(part), f"{100 * part / whole:.0f} %")) for kind, part in largest if whole]


def natural_sort_key(path: str) -> list[tuple[int, str]]:
    """A sort key that compares numbers within names by value."""
    parts = re.split(r"([0-9]+)", path)
    return [(len(part.lstrip("0")), part.lstrip("0")) if at % 2 else (0, part) for at, part in enumerate(parts)]


def _number(value: int | None) -> str:
    return NO_VALUE if value is None else f"{value:,}"


def spectrum_notes(shown: Layout) -> Iterator[str]:
    """The legend of the spectrum, and what is not drawn."""
    yield f"{inspect_facts.SPECTRUM_LEGEND}."
    if shown.far:
        yield "* stands out: see below."
    if any(len(paths) > 1 for grid in shown.grids for paths in grid.cells.values()):
        yield "A cell of several modules (experts) shows them together."
    stacks = shown.grids[: MAX_ROWS["stacks"]]
    left = {
        ("stack of layers", "stacks of layers"): len(shown.grids) - MAX_ROWS["stacks"],
        ("layer", "layers"): sum(max(0, len(grid.layers) - MAX_ROWS["layers"]) for grid in stacks),
        ("kind", "kinds"): sum(max(0, len(grid.kinds) - MAX_ROWS["columns"]) for grid in stacks),
        ("module outside layers", "modules outside layers"): len(shown.outside) - MAX_ROWS["outside"],
    }
    for (one, many), number in left.items():
        if number > 0:
            yield f"{counted(number, f'more {one}', f'more {many}')} in --format json."


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
    for name, numbers in bench_summary.slowest_adapters(result)[: MAX_ROWS["adapters"]]:
        times = [numbers[f"{what}_ms"] for what in ("ttft_p50", "ttft_p99", "e2el_p50", "e2el_p99")]
        counts = (f"{numbers[what]:.0f}" for what in ("requests", "failed"))
        yield name, *counts, *("-" if value is None else milliseconds(value) for value in times)
