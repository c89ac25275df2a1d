"""Several policies over one trace, each in a process of its own where that is worth it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lora_cli.bench.bounds import least_cost_ms, most_hits
from lora_cli.bench.fleet import Fleet
from lora_cli.bench.optimum import best_course
from lora_cli.bench.outcome import Outcome, outcome
from lora_cli.bench.policies import OPT, slowest_first
from lora_cli.bench.simulate import GPU, simulate
from lora_cli.bench.spread import spread
from lora_cli.bench.stalls import stalls_ms
from lora_cli.bench.trace import Trace
from lora_cli.tiers.view import Objective

WORTH_PROCESSES = 200_000
"""So many requests, over all policies, take longer than a process does to start."""


ROUNDING = 1e-9
"""Costs are sums of fractions, added up in several orders: a distance of so little is none."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Outcomes by policy, in the order asked for; ``least_cost_ms`` is what no policy can go below, where OPT is."""

    outcomes: Mapping[str, Outcome]
    least_cost_ms: float | None = None

    def gap_closed(self, policy: str) -> float | None:
        """The part of the distance in hits from LRU to the best there is; None without both, or when LRU is that."""
        lru, best = self.outcomes.get("lru"), self.outcomes.get(OPT)
        if lru is None or best is None or best.hits["gpu"] <= lru.hits["gpu"]:
            return None
        return (self.outcomes[policy].hits["gpu"] - lru.hits["gpu"]) / (best.hits["gpu"] - lru.hits["gpu"])

    def cost_gap_closed(self, policy: str) -> float | None:
        """The same in milliseconds of loads, to the least that there can be."""
        lru = self.outcomes.get("lru")
        if lru is None or self.least_cost_ms is None or lru.miss_cost_ms <= self.least_cost_ms * (1 + ROUNDING):
            return None
        return (lru.miss_cost_ms - self.outcomes[policy].miss_cost_ms) / (lru.miss_cost_ms - self.least_cost_ms)


def simulate_all(
    trace: Trace,
    fleet: Fleet,
    policies: Sequence[str],
    objective: Objective = "stall",
    *,
    told: Callable[[str], None] = lambda _policy: None,
) -> Simulated:
    """Every policy over the same trace. ``told`` hears of each that is done. Ctrl-C leaves out those that are not.

    Raises:
        MachineError: an adapter is larger than a tier, or a process was killed.
    """
    tasks = [(trace, fleet, policy, objective) for policy in slowest_first(policies)]
    worth = len(trace) * len(tasks) >= WORTH_PROCESSES
    found: dict[str, Outcome] = {}
    least: float | None = None
    with suppress(KeyboardInterrupt):
        for one, cost in spread(_one, tasks, worth=worth):
            found[one.policy] = one
            least = cost if cost is not None else least
            told(one.policy)
    return Simulated({policy: found[policy] for policy in policies if policy in found}, least)


_Task = tuple[Trace, Fleet, str, Objective]


def _one(task: _Task) -> tuple[Outcome, float | None]:
    trace, fleet, policy, objective = task
    keys = trace.keys()
    if policy != OPT:
        course = simulate(keys, fleet, policy, objective)
        return outcome(policy, "online", course, stalls_ms(trace, course)), None
    least = least_cost_ms(keys, fleet)
    if fleet.gpu.max_bytes is not None:
        return Outcome(OPT, "bound", len(trace), {"gpu": int(most_hits(keys, fleet))}, least), least
    course = best_course(keys, fleet)
    if fleet.cpu.max_bytes is not None:
        return Outcome(OPT, "exact", len(trace), {"gpu": course.found.count(GPU)}, least), least
    return outcome(OPT, "exact", course, stalls_ms(trace, course)), least
