"""The number of slots and places in memory that meet a goal, found by simulation; or the result of given numbers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count, product

from lora_cli.bench.optimal_bounds import belady_run
from lora_cli.bench.process_pool import Mapper, parallel_map
from lora_cli.bench.report import LoadsReport, Plan, PlanAnswer, PlanReport, PolicyPlan
from lora_cli.bench.server_model import simulate_requests
from lora_cli.bench.simulator import OPT, Fleet, run_report, stalls_ms
from lora_cli.bench.thresholds import PLAN_METRICS, Condition, policy_metrics
from lora_cli.bench.trace import Trace
from lora_cli.tiers.memory_accounting import Budget

SLOT_ONLY_METRICS = frozenset({"hit_ratio"})
"""Metrics that depend on the places in memory only a little."""

DEFINITIONS = {
    "slots": "the smallest number of slots that reaches all goals, found by bisection: more slots are not worse",
    "places": "the smallest number of adapters in memory with this many slots; more slots may need fewer",
    "hits": "share of requests that find their adapter in a slot; the first request of each adapter is a miss",
    "p99 ms": "how long a request waits for its adapter, one load at a time; by nearest rank",
}
"""The definitions of a plan's numbers."""

SWEEP_DEFINITIONS = {
    "slots, places": "as given by --sweep: the adapters in slots, and in memory",
    "hits": DEFINITIONS["hits"],
    "p99 ms": DEFINITIONS["p99 ms"],
    "metrics": "lru.8x32.hit_ratio is that of lru with 8 slots and 32 places",
}
"""The definitions of a sweep's numbers."""

SIZES = ("slots", "places")
SLOT_MULTIPLES = (1, 2, 4)
"""Multiples of the fewest slots to try: with more slots less memory may suffice."""


def plan_capacity(
    trace: Trace,
    fleet: Fleet,
    policies: Sequence[str],
    goals: Sequence[Condition],
    mapper: Mapper = parallel_map,
) -> PlanReport:
    """The slots and places that each policy needs to meet all goals; limits in bytes are ignored.

    Ctrl-C leaves out the policies that are not done.
    """
    found: dict[str, PolicyPlan] = {}
    one_policy = partial(_plan_policy, trace, fleet, tuple(goals))
    with suppress(KeyboardInterrupt):
        found.update(mapper(one_policy, policies, parallel=len(trace) >= 5_000))
    ordered = {policy: found[policy] for policy in policies if policy in found}
    return PlanReport(_loads(fleet), Plan(tuple(map(str, goals)), ordered))


def sweep_sizes(
    trace: Trace,
    fleet: Fleet,
    policies: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    mapper: Mapper = parallel_map,
) -> PlanReport:
    """Each policy with each of these numbers of slots and places in memory; limits in bytes are ignored.

    Ctrl-C leaves out the policies that are not done.
    """
    everybody = (len(fleet.sizes), len(fleet.sizes))
    tasks = [(policy, *one) for policy, one in product(policies, dict.fromkeys([*sizes, everybody]))]
    found: dict[tuple[str, int, int], PlanAnswer] = {}
    with suppress(KeyboardInterrupt):
        found.update(mapper(partial(_with_sizes, trace, fleet), tasks, parallel=len(trace) >= 5_000))
    plans = {
        policy: PolicyPlan(tuple(found[policy, *one] for one in sizes), found[policy, *everybody])
        for policy in policies
        if all((policy, *one) in found for one in (*sizes, everybody))
    }
    return PlanReport(_loads(fleet), Plan((), plans))


def _with_sizes(trace: Trace, fleet: Fleet, task: tuple[str, int, int]) -> tuple[tuple[str, int, int], PlanAnswer]:
    policy, slots, places = task
    return task, _answer(trace, replace(fleet, gpu=Budget(slots), cpu=Budget(places)), policy)


def _answer(trace: Trace, fleet: Fleet, policy: str) -> PlanAnswer:
    """What a policy reaches with the slots and places of a fleet."""
    slots, places = fleet.gpu.items, fleet.cpu.items
    if policy == OPT:
        run = belady_run(trace.keys(), fleet)
        report = run_report("exact", run, stalls_ms(trace, run, side_by_side=fleet.links.side_by_side))
    else:
        report = run_report("online", *simulate_requests(trace, fleet, policy))
    largest, total = max(fleet.sizes.values()), sum(fleet.sizes.values())
    return PlanAnswer(slots, places, slots * largest, places * total // len(fleet.sizes), policy_metrics(report))


def _loads(fleet: Fleet) -> LoadsReport:
    return LoadsReport(fleet.adapter_bytes(), fleet.links.gpu, fleet.links.disk, fleet.links.source)


def plan_metrics(policies: Mapping[str, PolicyPlan]) -> dict[str, float | None]:
    """``lru.slots`` and ``lru.places`` of the first answer; None if there is none."""
    return {
        f"{name}.{what}": getattr(one.answers[0], what) if one.answers else None
        for name, one in policies.items()
        for what in SIZES
    }


def plan_metric_names(policies: Sequence[str]) -> set[str]:
    """The names of these metrics."""
    return {f"{policy}.{what}" for policy in policies for what in SIZES}


def sweep_metrics(policies: Mapping[str, PolicyPlan]) -> dict[str, float | None]:
    """``lru.8x32.hit_ratio`` and the like: the policy, its slots and its places in memory."""
    answers = ((name, answer) for name, one in policies.items() for answer in one.answers)
    return {
        f"{name}.{answer.slots}x{answer.places}.{metric}": getattr(answer.metrics, metric)
        for name, answer in answers
        for metric in PLAN_METRICS
    }


def sweep_metric_names(policies: Sequence[str], sizes: Sequence[tuple[int, int]]) -> set[str]:
    """The names of these metrics."""
    return {
        f"{policy}.{slots}x{places}.{metric}"
        for policy in policies
        for slots, places in sizes
        for metric in PLAN_METRICS
    }


def smallest_that_meets(low: int, high: int, meets: Callable[[int], bool]) -> int:
    """The least number from ``low`` on that meets the goal, where ``high`` does and more is never worse."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle + 1, high)
    return high


def _plan_policy(trace: Trace, fleet: Fleet, goals: tuple[Condition, ...], policy: str) -> tuple[str, PolicyPlan]:
    everybody = len(fleet.sizes)
    tried: dict[tuple[int, int], PlanAnswer] = {}

    def with_places(slots: int, places: int) -> PlanAnswer:
        if (slots, places) not in tried:
            sized = replace(fleet, gpu=Budget(slots), cpu=Budget(places))
            tried[slots, places] = _answer(trace, sized, policy)
        return tried[slots, places]

    def meets(slots: int, places: int) -> bool:
        metrics = with_places(slots, places).metrics
        return all(goal.holds(getattr(metrics, goal.metric) or 0.0) for goal in goals)

    most = with_places(everybody, everybody)
    if not meets(everybody, everybody):
        return policy, PolicyPlan((), most)
    least = smallest_that_meets(1, everybody, lambda slots: meets(slots, everybody))
    if all(goal.metric in SLOT_ONLY_METRICS for goal in goals):
        # What a policy knows of loads depends a little on memory, too: the answer itself has to meet the goals.
        least = next(slots for slots in count(least) if meets(slots, slots))
        return policy, PolicyPlan((with_places(least, least),), most)
    answers: list[PlanAnswer] = []
    for slots in dict.fromkeys(min(least * times, everybody) for times in SLOT_MULTIPLES):
        most_places = answers[-1].places if answers else everybody
        if slots > most_places or not meets(slots, most_places):
            break
        places = smallest_that_meets(slots, most_places, partial(meets, slots))
        if not answers or places < most_places:
            answers.append(with_places(slots, places))
    return policy, PolicyPlan(tuple(answers), most)
