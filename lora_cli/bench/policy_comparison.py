"""Several policies over one trace, each in its own process if that is faster."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from lora_cli.bench.engine_steps import StepModel, simulate_steps
from lora_cli.bench.optimal_bounds import belady_run, least_cost_ms, max_hits
from lora_cli.bench.process_pool import Mapper, parallel_map
from lora_cli.bench.report import Bounds, PolicyReport, SimulationReport, TierReport, TiersReport
from lora_cli.bench.server_model import simulate_requests
from lora_cli.bench.simulator import (
    GPU,
    OPT,
    SHARES,
    Fleet,
    policy_report,
    run_report,
    stalls_ms,
)
from lora_cli.bench.trace import Trace

DEFINITIONS = {
    "hit_ratio": "share of requests that find their adapter in a slot; the first request of each adapter is a miss",
    "miss_cost_ms": "total milliseconds of all loads, into memory and into slots",
    "stall_ms": "from a request's arrival until its adapter is in a slot; one load at a time",
    "stall_ms (inf)": "with --request-rate inf a request arrives when the last one is done: it waits for its own load",
    "gap_closed": "(hits - LRU's) / (the maximum - LRU's)",
    "cost_gap_closed": "(LRU's - miss_cost_ms) / (LRU's - the minimum cost)",
    "opt": "Belady's policy, which knows the whole trace: exact if slots are equal, otherwise an upper bound",
    "percentiles": "nearest rank (no interpolation): the smallest value that this share of values does not exceed",
}
"""The definitions of the numbers, printed next to them."""

PARALLEL_FROM = 200_000
"""With so many simulated requests in all, processes are faster."""


ROUNDING = 1e-9
"""Rounding error of costs, which are sums of fractions: a smaller relative distance counts as zero."""


def simulate_all(
    trace: Trace,
    fleet: Fleet,
    policies: Sequence[str],
    *,
    model: StepModel | None = None,
    on_done: Callable[[str], None] = lambda _policy: None,
    mapper: Mapper = parallel_map,
) -> SimulationReport:
    """Simulate every policy on the same trace, with a ``model`` through the steps of an engine.

    ``on_done`` is called with each policy that is done; ``mapper`` runs the policies.

    Ctrl-C leaves out the others.

    Raises:
        MachineError: an adapter is larger than a tier, or a process was killed.
    """
    one_policy = partial(_simulate_policy, trace, fleet, model)
    parallel = len(trace) * len(policies) >= PARALLEL_FROM
    found: dict[str, PolicyReport] = {}
    least: float | None = None
    with suppress(KeyboardInterrupt):
        for policy, one, cost in mapper(one_policy, policies, parallel=parallel):
            found[policy] = one
            least = cost if cost is not None else least
            on_done(policy)
    gpu = TierReport(fleet.gpu.items, fleet.gpu.max_bytes, fleet.links.gpu)
    cpu = TierReport(fleet.cpu.items, fleet.cpu.max_bytes, fleet.links.disk)
    return SimulationReport(
        tiers=TiersReport(fleet.adapter_bytes(), gpu, cpu, fleet.links.source),
        policies=_with_gaps({policy: found[policy] for policy in policies if policy in found}, least),
        bounds=Bounds(least),
        stall_cdf_shares=SHARES,
    )


def _with_gaps(found: Mapping[str, PolicyReport], least_ms: float | None) -> Mapping[str, PolicyReport]:
    """Each policy with its part of the distance from LRU to the best, in hits and in milliseconds of loads.

    They stay None without LRU or the best, and where LRU is the best.
    """
    lru = found.get("lru")
    if lru is None:
        return found
    hits = found[OPT].hits - lru.hits if OPT in found else 0
    cost_ms = lru.miss_cost_ms - least_ms if least_ms is not None else 0.0
    known = least_ms is not None and lru.miss_cost_ms > least_ms * (1 + ROUNDING)
    return {
        name: replace(
            one,
            gap_closed=(one.hits - lru.hits) / hits if hits > 0 else None,
            cost_gap_closed=min((lru.miss_cost_ms - one.miss_cost_ms) / cost_ms, 1.0) if known else None,
        )
        for name, one in found.items()
    }


def _simulate_policy(
    trace: Trace, fleet: Fleet, model: StepModel | None, policy: str
) -> tuple[str, PolicyReport, float | None]:
    if model is not None:
        run = simulate_steps(trace, fleet, policy, model)
        return policy, replace(run_report("online", run.tiers, run.stalls_ms), engine=run.report), None
    keys = trace.keys()
    if policy != OPT:
        return policy, run_report("online", *simulate_requests(trace, fleet, policy)), None
    least = least_cost_ms(keys, fleet)
    bound = None if any(fleet.links.loads_ms.values()) else least  # a measured load may be a faster one
    if fleet.gpu.max_bytes is not None:
        return OPT, policy_report("bound", len(trace), {"gpu": int(max_hits(keys, fleet))}, least, {}), bound
    course = belady_run(keys, fleet)
    if fleet.cpu.max_bytes is not None:
        return OPT, policy_report("exact", len(trace), {"gpu": course.found.count(GPU)}, least, {}), bound
    return OPT, run_report("exact", course, stalls_ms(trace, course, side_by_side=fleet.links.side_by_side)), bound
