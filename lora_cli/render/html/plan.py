"""The page of ``serve-bench --simulate --plan``."""

from collections.abc import Sequence

from lora_cli.bench.plan import DEFINITIONS, PlannedRun
from lora_cli.bench.regression import Change, Judged
from lora_cli.render.html.bench_judgement import judgement
from lora_cli.render.html.markup import tag
from lora_cli.render.html.page import facts, page, table
from lora_cli.render.human.plan import HEADER, goals, rows, unmet
from lora_cli.render.human.simulation import load_facts, work_facts


def render_plan(run: PlannedRun, compared: Sequence[Change] = (), verdicts: Sequence[Judged] = ()) -> str:
    """The whole page."""
    title = f"Slots and memory for {goals(run)}"
    told = [*work_facts(run.setting), *load_facts(run.fleet), ("objective", run.objective)]
    return page(
        title,
        tag("h1", title),
        judgement(compared, verdicts),
        table("The fewest slots first, then more slots with less memory", HEADER, list(rows(run))),
        [tag("p", one, class_="error") for one in unmet(run)],
        tag("h2", "What was simulated"),
        facts([(label, str(value)) for label, value in told]),
        tag("h2", "What the numbers mean"),
        facts(list(DEFINITIONS.items())),
    )
