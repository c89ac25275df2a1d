"""What ``serve-bench --simulate`` prints: a line for each policy, and what the numbers are of and mean."""

from collections.abc import Iterator

from lora_cli.bench.outcome import Outcome
from lora_cli.bench.simulated import DEFINITIONS, SimulatedRun
from lora_cli.render.text import columns, counted, milliseconds, paint, pairs, safe, size

HEADER = ("policy", "hits", "closed", "disk", "ms/req", "closed", "p99 ms")


def render_simulation(run: SimulatedRun, width: int, *, colour: bool = False) -> str:
    """A table of policies in 60 columns, then the workload, the tiers and the definitions."""
    found = run.found
    rows = [_row(one, found.gap_closed(name), found.cost_gap_closed(name)) for name, one in found.outcomes.items()]
    header, *table = columns(HEADER, rows)
    lines = [paint(header, "bold", colour=colour), *table, ""]
    lines += pairs(facts(run), width, indent="")
    lines += ["", *pairs(DEFINITIONS.items(), width, indent="")]
    return "\n".join(lines) + "\n"


def _row(one: Outcome, gap: float | None, cost_gap: float | None) -> tuple[str, ...]:
    requests = one.requests or 1
    return (
        one.policy,
        f"{'<=' if one.kind == 'bound' else ''}{one.hit_ratio:.3f}",
        _share(gap),
        f"{one.hits['disk'] / requests:.3f}" if "disk" in one.hits else "-",
        f"{'' if one.stall_ms else '>='}{milliseconds(one.miss_cost_ms / requests)}",
        _share(cost_gap),
        milliseconds(one.stall_ms["p99"]) if one.stall_ms else "-",
    )


def _share(gap: float | None) -> str:
    return "-" if gap is None else f"{gap + 0.0:.0%}".replace("-0%", "0%")


def facts(run: SimulatedRun) -> Iterator[tuple[str, object]]:
    """What was simulated, as labelled values."""
    setting, fleet, least = run.setting, run.fleet, run.found.least_cost_ms
    work = f"{counted(setting.num_prompts, 'request')} over {counted(setting.adapters, 'adapter')}, seed {setting.seed}"
    yield "requests", work
    yield "workload", ", ".join(f"{key} {safe(value)}" for key, value in setting.workload.items())
    for name, budget, link in (("slots", fleet.gpu, fleet.links.gpu), ("memory", fleet.cpu, fleet.links.disk)):
        limit = f", {size(budget.max_bytes)}" if budget.max_bytes is not None else ""
        yield name, f"{counted(budget.items, 'adapter')}{limit}; a load takes {link}"
    sizes = fleet.sizes.values()
    yield "adapters", f"{size(sum(sizes))}, from {size(min(sizes))} to {size(max(sizes))}"
    if least is not None:
        yield "least cost", f"no policy takes less than {milliseconds(least / (setting.num_prompts or 1))} ms/req"
    yield "objective", run.objective
    yield "on", ", ".join(f"{key} {value}" for key, value in setting.environment.items())
