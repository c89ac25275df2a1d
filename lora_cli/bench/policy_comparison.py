"""Several policies over one trace."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from lora_cli.bench.optimal_bounds import belady_run
from lora_cli.bench.report import PolicyReport, SimulationReport, TierReport, TiersReport
from lora_cli.bench.simulator import OPT, Fleet, run_report, simulate
from lora_cli.bench.trace import Trace

DEFINITIONS = {
    "hit_ratio": "share of requests that find their adapter in a slot; the first request of each adapter is a miss",
    "gap_closed": "(hits - LRU's) / (the maximum - LRU's)",
    "opt": "Belady's policy, which knows the whole trace",
}
"""The definitions of the numbers, printed next to them."""


def simulate_all(
    trace: Trace, fleet: Fleet, policies: Sequence[str], *, on_done: Callable[[str], None] = lambda _policy: None
) -> SimulationReport:
    """Simulate every policy on the same trace. ``on_done`` is called with each policy that is done.

    Ctrl-C leaves out the others.
    """
    keys, found = trace.keys(), dict[str, PolicyReport]()
    with suppress(KeyboardInterrupt):
        for policy in policies:
            if policy == OPT:
                found[policy] = run_report("exact", belady_run(keys, fleet))
            else:
                found[policy] = run_report("online", simulate(keys, fleet, policy))
            on_done(policy)
    tiers = TiersReport(TierReport(fleet.gpu.items), TierReport(fleet.cpu.items))
    return SimulationReport(tiers=tiers, policies=_with_gaps(found))


def _with_gaps(found: Mapping[str, PolicyReport]) -> Mapping[str, PolicyReport]:
    """Each policy with its part of the distance in hits from LRU to the best.

    It stays None without LRU or the best, and where LRU is the best.
    """
    if "lru" not in found or OPT not in found or found[OPT].hits <= found["lru"].hits:
        return found
    least, most = found["lru"].hits, found[OPT].hits
    return {name: replace(one, gap_closed=(one.hits - least) / (most - least)) for name, one in found.items()}
