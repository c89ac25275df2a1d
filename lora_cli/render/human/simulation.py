"""What ``serve-bench --simulate`` prints: a line for each policy, and what the numbers are of and mean."""

from collections.abc import Iterator

from lora_cli.bench.fleet import Fleet
from lora_cli.bench.outcome import SHARES, Outcome
from lora_cli.bench.policies import OPT
from lora_cli.bench.setting import Setting
from lora_cli.bench.simulated import SimulatedRun
from lora_cli.bench.simulation import Simulated
from lora_cli.core.text import counted, milliseconds, safe, size
from lora_cli.render.human.plots import bars, courses, distribution
from lora_cli.render.text import columns, paint, pairs

HEADER = ("policy", "hits", "closed", "disk", "ms/req", "ms closed", "p99 ms")


def render_simulation(run: SimulatedRun, width: int, *, colour: bool = False, plain: bool = False) -> str:
    """A table of policies in 60 columns, three plots, then the workload, the tiers and what the columns mean."""
    found = run.found
    rows = [row(one, found.gap_closed(name), found.cost_gap_closed(name)) for name, one in found.outcomes.items()]
    header, *table = columns(HEADER, rows)
    lines = [paint(header, "bold", colour=colour), *table, ""]
    for title, plot in _plots(found, width, plain=plain):
        lines += [paint(title, "bold", colour=colour), *plot, ""] if plot else []
    lines += pairs(facts(run), width, indent="")
    lines += ["", *pairs(terms(run), width, indent="")]
    return "\n".join(lines) + "\n"


def _plots(found: Simulated, width: int, *, plain: bool) -> Iterator[tuple[str, list[str]]]:
    outcomes = found.outcomes
    costs = [(name, one.miss_cost_ms / (one.requests or 1)) for name, one in outcomes.items()]
    yield "ms of loads a request", bars([(name, cost, milliseconds(cost)) for name, cost in costs], width, plain=plain)
    over_time = {name: one.hit_ratio_over_time for name, one in outcomes.items() if one.hit_ratio_over_time}
    yield "hits over time (first and last part)", courses(over_time, width, plain=plain)
    waits = {name: one.stall_cdf_ms for name, one in outcomes.items() if one.stall_cdf_ms}
    yield "% of requests that wait at most", distribution(waits, SHARES, width)


def row(one: Outcome, gap: float | None, cost_gap: float | None) -> tuple[str, ...]:
    """The cells of one policy, in the order of the header."""
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
    yield from work_facts(setting)
    for name, budget in (("slots", fleet.gpu), ("memory", fleet.cpu)):
        limit = f", {size(budget.max_bytes)}" if budget.max_bytes is not None else ""
        yield name, f"{counted(budget.items, 'adapter')}{limit}"
    yield from load_facts(fleet)
    if least is not None:
        yield "least cost", f"no policy takes less than {milliseconds(least / (setting.num_prompts or 1))} ms/req"
    yield "objective", run.objective


def terms(run: SimulatedRun) -> Iterator[tuple[str, object]]:
    """What the columns mean that have something in them."""
    outcomes = run.found.outcomes
    yield "hits", "the share of requests whose adapter is in a slot already"
    if any(run.found.gap_closed(name) is not None for name in outcomes):
        yield "closed", "the part of the way from lru's hits to the most there can be"
    yield "disk", "the share of requests whose adapter is read from disk"
    yield "ms/req", "what all loads take, by the number of requests"
    if any(run.found.cost_gap_closed(name) is not None for name in outcomes):
        yield "ms closed", "the part of the way from lru's ms/req to the least there can be"
    queue = "loads go one after the other" if run.setting.span_s else "without --request-rate none queues"
    yield "p99 ms", f"how long a request waits for its adapter; {queue}"
    if (best := outcomes.get(OPT)) is not None:
        yield OPT, "who knows all requests to come" + ("; a bound that none passes" if best.kind == "bound" else "")


def work_facts(setting: Setting) -> Iterator[tuple[str, object]]:
    """The workload, and where it was run."""
    work = f"{counted(setting.num_prompts, 'request')} over {counted(setting.adapters, 'adapter')}, seed {setting.seed}"
    yield "requests", work
    yield "workload", ", ".join(f"{key} {safe(value)}" for key, value in setting.workload.items())
    yield "on", ", ".join(f"{key} {value}" for key, value in setting.environment.items())


def load_facts(fleet: Fleet) -> Iterator[tuple[str, object]]:
    """How large adapters are, and what their loads take."""
    sizes = fleet.sizes.values()
    yield "adapters", f"{size(sum(sizes))}, from {size(min(sizes))} to {size(max(sizes))}"
    yield "from disk", fleet.links.disk
    yield "into a slot", fleet.links.gpu
