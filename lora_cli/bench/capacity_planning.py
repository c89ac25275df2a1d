"""The number of slots and places in memory that meet a goal, found by simulation."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from lora_cli.bench.process_pool import parallel_map
from lora_cli.bench.report import LoadsReport, Plan, PlanAnswer, PlanReport, PolicyPlan
from lora_cli.bench.simulator import Fleet, run_report, simulate, stalls_ms
from lora_cli.bench.thresholds import Condition, policy_metrics
from lora_cli.bench.trace import Trace
from lora_cli.tiers.budget import Budget, Objective

SLOT_ONLY_METRICS = frozenset({"hit_ratio"})
"""Metrics that depend on the places in memory only a little."""

DEFINITIONS = {
    "slots": "the smallest number of slots that reaches all goals, found by bisection: more slots are not worse",
    "places": "the smallest number of adapters in memory with this many slots; more slots may need fewer",
    "hits": "share of requests that find their adapter in a slot; the first request of each adapter is a miss",
    "p99 ms": "how long a request waits for its adapter, one load at a time; by nearest rank",
}
"""The definitions of a plan's numbers."""

SIZES = ("slots", "places")
SLOT_MULTIPLES = (1, 2, 4)
"""Multiples of the fewest slots to try: with more slots less memory may suffice."""


def plan_capacity(
    trace: Trace, fleet: Fleet, policies: Sequence[str], goals: Sequence[Condition], objective: Objective
) -> PlanReport:
    """The slots and places that each policy needs to meet all goals; limits in bytes are ignored.

    Ctrl-C leaves out the policies that are not done.
    """
    tasks = [(trace, fleet, policy, tuple(goals), objective) for policy in policies]
    found: dict[str, PolicyPlan] = {}
    with suppress(KeyboardInterrupt):
        found.update(parallel_map(_plan_policy, tasks, parallel=len(trace) >= 5_000))
    loads = LoadsReport(fleet.adapter_bytes(), fleet.links.gpu, fleet.links.disk, fleet.links.source)
    ordered = {policy: found[policy] for policy in policies if policy in found}
    return PlanReport(objective, loads, Plan(tuple(map(str, goals)), ordered))


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


def smallest_that_meets(low: int, high: int, meets: Callable[[int], bool]) -> int:
    """The least number from ``low`` on that meets the goal, where ``high`` does and more is never worse."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle + 1, high)
    return high


def _plan_policy(task: tuple[Trace, Fleet, str, tuple[Condition, ...], Objective]) -> tuple[str, PolicyPlan]:
    trace, fleet, policy, goals, objective = task
    keys, everybody = trace.keys(), len(fleet.sizes)
    largest, total = max(fleet.sizes.values()), sum(fleet.sizes.values())
    tried: dict[tuple[int, int], PlanAnswer] = {}

    def with_places(slots: int, places: int) -> PlanAnswer:
        if (slots, places) not in tried:
            course = simulate(keys, replace(fleet, gpu=Budget(slots), cpu=Budget(places)), policy, objective)
            metrics = policy_metrics(run_report("online", course, stalls_ms(trace, course)))
            tried[slots, places] = PlanAnswer(slots, places, slots * largest, places * total // everybody, metrics)
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
        least = next(slots for slots in range(least, everybody + 1) if meets(slots, slots))
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
