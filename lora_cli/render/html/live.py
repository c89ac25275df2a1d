"""The page of ``serve-bench --url``: latency by where requests found their adapter, in a table and as curves."""

from collections.abc import Sequence

from lora_cli.bench.live.numbers import DEFINITIONS
from lora_cli.bench.live.result import LiveRun
from lora_cli.bench.outcome import SHARES
from lora_cli.bench.regression import Change, Judged
from lora_cli.core.text import counted, milliseconds, safe
from lora_cli.render.html.bench_judgement import judgement
from lora_cli.render.html.charts import Axis, curves
from lora_cli.render.html.markup import Child, tag
from lora_cli.render.html.page import badge, facts, page, table
from lora_cli.render.human.live import HEADER, rows
from lora_cli.render.human.live import curves as points
from lora_cli.render.human.live import facts as told

ADAPTERS = ("adapter", "requests", "failed", "ttft p50", "ttft p99", "e2el p50", "e2el p99")
MOST_ADAPTERS = 200


def render_live(run: LiveRun, compared: Sequence[Change] = (), verdicts: Sequence[Judged] = ()) -> str:
    """The whole page."""
    title = f"{counted(run.setting.num_prompts, 'request')} over {counted(run.setting.adapters, 'adapter')}, live"
    return page(
        title,
        tag("h1", title),
        tag("p", badge("the generator was late", "warning")) if run.is_late else "",
        judgement(compared, verdicts),
        table("Milliseconds by tier", HEADER, [tuple(map(str, row)) for row in rows(run)]),
        tag("section", _latencies(run)),
        [tag("p", tag("strong", safe(name)), f": {safe(why)}", class_="error") for name, why in run.failures.items()],
        tag("h2", "What was measured"),
        facts([(label, str(value)) for label, value in told(run)]),
        tag("h2", "By adapter"),
        table("The slowest first, in milliseconds", ADAPTERS, _adapters(run)),
        tag("h2", "What the numbers mean"),
        facts(list(DEFINITIONS.items())),
    )


def _latencies(run: LiveRun) -> Child:
    found = points(run)
    if not found:
        return ""
    low, high = min(values[0] for values in found.values()), max(values[-1] for values in found.values())
    lines = {kind: list(zip(values, SHARES, strict=True)) for kind, values in found.items()}
    x = Axis("ms", low or 1e-3, high if high > low else (low or 1e-3) * 10, logarithmic=True)
    return curves("Share of requests whose first token comes within", x, Axis("share", 0, 1), lines)


def _adapters(run: LiveRun) -> list[tuple[str, ...]]:
    ordered = sorted(run.adapters.items(), key=lambda one: -(one[1]["ttft_p99_ms"] or 0))
    return [
        (
            safe(name),
            f"{numbers['requests']:.0f}",
            f"{numbers['failed']:.0f}",
            *(
                "-" if (number := numbers[f"{what}_{share}_ms"]) is None else milliseconds(number)
                for what in ("ttft", "e2el")
                for share in ("p50", "p99")
            ),
        )
        for name, numbers in ordered[:MOST_ADAPTERS]
    ]
