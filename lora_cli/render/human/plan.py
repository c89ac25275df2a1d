"""What ``serve-bench --simulate --plan`` prints: how many slots and places each policy takes."""

from collections.abc import Iterator

from lora_cli.bench.plan import DEFINITIONS, PlannedRun
from lora_cli.bench.sizing import Answer
from lora_cli.core.text import milliseconds, size
from lora_cli.render.human.simulation import load_facts, work_facts
from lora_cli.render.text import columns, paint, pairs, wrap

HEADER = ("policy", "slots", "gpu", "places", "cpu", "hits", "disk", "p99 ms")


def render_plan(run: PlannedRun, width: int, *, colour: bool = False) -> str:
    """A table of answers in 60 columns, who has none, then the workload and the definitions."""
    header, *table = columns(HEADER, list(rows(run)))
    lines = wrap(f"for {goals(run)}", width)
    lines += ["", paint(header, "bold", colour=colour), *table] if table else []
    for told in unmet(run):
        lines += ["", *wrap(told, width, "  ", "")]
    lines += ["", *pairs([*work_facts(run.setting), *load_facts(run.fleet), ("objective", run.objective)], width, "")]
    lines += ["", *pairs(DEFINITIONS.items(), width, "")] if table else []
    return "\n".join(lines) + "\n"


def goals(run: PlannedRun) -> str:
    """All of them in words."""
    return " and ".join(map(str, run.goals))


def rows(run: PlannedRun) -> Iterator[tuple[str, ...]]:
    """The cells of each answer."""
    for name, one in run.found.items():
        for answer in one.answers:
            yield name, *_cells(run, answer)


def unmet(run: PlannedRun) -> Iterator[str]:
    """Each policy that does not meet the goals however many slots there are, and what it has then."""
    for name, one in run.found.items():
        if not one.answers:
            told = ", ".join(f"{goal.metric} {one.most.metrics[goal.metric] or 0:.4g}" for goal in run.goals)
            yield f"{name}: not with all {one.most.slots} adapters in slots at once: {told}"


def _cells(run: PlannedRun, answer: Answer) -> tuple[str, ...]:
    told = answer.metrics
    return (
        str(answer.slots),
        size(run.gpu_bytes(answer)).replace(" ", ""),
        str(answer.places),
        size(run.cpu_bytes(answer)).replace(" ", ""),
        f"{told['hit_ratio'] or 0:.3f}",
        f"{1 - (told['memory_hit_ratio'] or 0):.3f}",
        milliseconds(told["stall_p99_ms"] or 0),
    )
