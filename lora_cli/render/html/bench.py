"""The page of a measured ``serve-bench``: latency by the tier that a request hit, in a table and as curves."""

from collections.abc import Sequence

from lora_cli.bench.measured import DEFINITIONS, MeasuredRun, by_kind
from lora_cli.bench.outcome import SHARES
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.regression import Change, Judged
from lora_cli.core.text import counted
from lora_cli.render.html.bench_judgement import judgement
from lora_cli.render.html.charts import Axis, curves
from lora_cli.render.html.markup import Child, tag
from lora_cli.render.html.page import facts, page, table
from lora_cli.render.human.bench import HEADER, bench_facts, tier_rows


def render_bench(run: MeasuredRun, compared: Sequence[Change] = (), verdicts: Sequence[Judged] = ()) -> str:
    """The whole page."""
    result = run.result
    title = f"{counted(result.requests, 'request')} over {counted(result.adapters, 'adapter')}, in process"
    return page(
        title,
        tag("h1", title),
        judgement(compared, verdicts),
        table("Milliseconds by tier", HEADER, [tuple(map(str, row)) for row in tier_rows(result)]),
        tag("section", _latencies(run)),
        [tag("p", tag("strong", name), f": {why}", class_="error") for name, why in result.failed.items()],
        tag("h2", "What was measured"),
        facts([(label, str(value)) for label, value in bench_facts(result)]),
        tag("h2", "What the numbers mean"),
        facts(list(DEFINITIONS.items())),
    )


def _latencies(run: MeasuredRun) -> Child:
    kinds = {kind: values for kind, values in by_kind(run.result).items() if values}
    if not kinds:
        return ""
    low, high = min(values[0] for values in kinds.values()), max(values[-1] for values in kinds.values())
    lines = {kind: [(nearest_rank(values, share), share) for share in SHARES] for kind, values in kinds.items()}
    x = Axis("ms", low or 1e-3, high if high > low else (low or 1e-3) * 10, logarithmic=True)
    return curves("Share of requests that are answered within", x, Axis("share", 0, 1), lines)
