"""What ``serve-bench`` found, in words and cells: the same on a terminal and on a page."""

from collections.abc import Iterator, Sequence

from lora_cli.bench.fleet import Fleet
from lora_cli.bench.outcome import Outcome
from lora_cli.bench.plan import PlannedRun
from lora_cli.bench.policies import OPT
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.regression import Change
from lora_cli.bench.setting import Setting
from lora_cli.bench.simulated import SimulatedRun
from lora_cli.bench.sizing import Answer
from lora_cli.core.results import BenchResult
from lora_cli.core.text import counted, milliseconds, safe, size

SIMULATION_HEADER = ("policy", "hits", "closed", "disk", "ms/req", "ms closed", "p99 ms")
PLAN_HEADER = ("policy", "slots", "gpu", "places", "cpu", "hits", "disk", "p99 ms")
TIER_HEADER = ("ms by tier", "requests", "p50", "p95", "p99", "max")
TIERS = {"gpu": "hot (gpu)", "cpu": "warm (cpu)", "disk": "cold (disk)", "remote": "cold (remote)"}


def simulation_row(one: Outcome, gap: float | None, cost_gap: float | None) -> tuple[str, ...]:
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


def simulation_facts(run: SimulatedRun) -> Iterator[tuple[str, object]]:
    """What was simulated, as labelled values."""
    setting, fleet, least = run.setting, run.fleet, run.found.least_cost_ms
    yield from work_facts(setting)
    for name, budget in (("slots", fleet.gpu), ("memory", fleet.cpu)):
        limit = f", {size(budget.max_bytes)}" if budget.max_bytes is not None else ""
        yield name, f"{counted(budget.items, 'adapter')}{limit}"
    yield from load_facts(fleet)
    if least is not None:
        yield "lower bound", f"{milliseconds(least / (setting.num_prompts or 1))} ms/req, whatever the policy"
    yield "objective", run.objective


def simulation_terms(run: SimulatedRun) -> Iterator[tuple[str, object]]:
    """What the columns mean that have something in them."""
    outcomes = run.found.outcomes
    yield "hits", "the share of requests whose adapter is already in a slot"
    if any(run.found.gap_closed(name) is not None for name in outcomes):
        yield "closed", "the share of the gap between lru's hits and the maximum"
    yield "disk", "the share of requests whose adapter is read from disk"
    yield "ms/req", "the time of all loads, divided by the number of requests"
    if any(run.found.cost_gap_closed(name) is not None for name in outcomes):
        yield "ms closed", "the share of the gap between lru's ms/req and the minimum"
    queue = "loads go one after the other" if run.setting.span_s else "without --request-rate no request queues"
    yield "p99 ms", f"how long a request waits for its adapter; {queue}"
    if (best := outcomes.get(OPT)) is not None:
        yield OPT, "knows all future requests" + ("; an upper bound" if best.kind == "bound" else "")


def work_facts(setting: Setting) -> Iterator[tuple[str, object]]:
    """The workload, and where it was run."""
    work = f"{counted(setting.num_prompts, 'request')} over {counted(setting.adapters, 'adapter')}, seed {setting.seed}"
    yield "requests", work
    yield "workload", ", ".join(f"{key} {safe(value)}" for key, value in setting.workload.items())
    yield "on", ", ".join(f"{key} {value}" for key, value in setting.environment.items())


def load_facts(fleet: Fleet) -> Iterator[tuple[str, object]]:
    """How large adapters are, and what their loads take."""
    sizes = fleet.sizes.values()
    low, high = size(min(sizes)), size(max(sizes))
    yield "adapters", f"{size(sum(sizes))}, {f'{low} each' if low == high else f'from {low} to {high}'}"
    yield "from disk", fleet.links.disk
    yield "into a slot", fleet.links.gpu


def plan_goals(run: PlannedRun) -> str:
    """All of them in words."""
    return " and ".join(map(str, run.goals))


def plan_rows(run: PlannedRun) -> Iterator[tuple[str, ...]]:
    """The cells of each answer."""
    for name, one in run.found.items():
        for answer in one.answers:
            yield name, *_cells(run, answer)


def plan_unmet(run: PlannedRun) -> Iterator[str]:
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


def tier_rows(result: BenchResult) -> list[tuple[object, ...]]:
    """The cells of each tier that was hit, in the order of the header."""
    return [
        (
            TIERS.get(tier, tier),
            len(values),
            *(milliseconds(nearest_rank(sorted(values), share)) for share in (0.5, 0.95, 0.99, 1.0)),
        )
        for tier, values in result.latency_ms.items()
        if values
    ]


def measured_facts(result: BenchResult) -> list[tuple[str, object]]:
    """What was measured, as labelled values."""
    hits = sum(result.hits.values())
    shares = [f"{tier} {number} ({number / (hits or 1):.0%})" for tier, number in result.hits.items()]
    work = f"{counted(result.requests, 'request')} over {counted(result.adapters, 'adapter')}"
    return [
        ("hits", ", ".join(shares) or "0"),
        ("evictions", ", ".join(f"{tier} {number}" for tier, number in result.evictions.items()) or "0"),
        ("workload", f"{work}, seed {result.seed}"),
        ("tiers", f"max_loras {result.max_loras}, max_cpu_loras {result.max_cpu_loras}"),
        ("on", ", ".join(f"{key} {value}" for key, value in result.environment.items())),
    ]


def ranked(compared: Sequence[Change]) -> list[Change]:
    """Those that are not the same, the worse ones first, each kind by how much it changed."""
    changed = [one for one in compared if one.verdict != "same"]
    return sorted(changed, key=lambda one: (one.verdict != "worse", -abs(one.by or 0)))


def change_by(one: Change) -> str:
    """The change as people say it."""
    return "from 0" if one.by is None else f"{one.by:+.1%}"
