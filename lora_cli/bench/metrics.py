"""The numbers of a result by name: what a goal, ``--fail-if`` and a comparison with an older result speak of."""

from collections.abc import Mapping
from dataclasses import asdict, fields

from lora_cli.bench.quantiles import SUMMARIES
from lora_cli.bench.report import PolicyMetrics, PolicyReport

OF_A_POLICY = (*(one.name for one in fields(PolicyMetrics)), "gap_closed", "cost_gap_closed")

GOOD_SHARES = ("hit_ratio", "gap_closed", "attainment")
"""What such a name ends in is at most 1, and should be large."""
SHARES = (*GOOD_SHARES, "stalled_ratio")
MORE_IS_BETTER = (*GOOD_SHARES, "throughput", "goodput", "completed")
"""What such a name ends in should be large; everything else should be small."""


def is_share(metric: str) -> bool:
    """Whether ``metric`` is a part of a whole, which is at most 1."""
    return metric.endswith(SHARES)


def more_is_better(metric: str) -> bool:
    """Whether a larger value of ``metric`` is the better one."""
    return metric.endswith(MORE_IS_BETTER)


def policy_metrics(one: PolicyReport) -> PolicyMetrics:
    """The metrics of one policy by itself; None is what is not known of it.

    ``memory_hit_ratio`` counts the requests that need no disk: their adapter is in a slot or in memory.
    """
    requests, stall_ms = one.requests or 1, one.stall_ms
    return PolicyMetrics(
        hit_ratio=one.hit_ratio,
        memory_hit_ratio=1 - one.hits_by_tier["disk"] / requests if "disk" in one.hits_by_tier else None,
        miss_cost_ms=one.miss_cost_ms,
        miss_cost_ms_per_request=one.miss_cost_ms_per_request,
        stalled_ratio=one.stalled / requests if stall_ms else None,
        **{f"stall_{share}_ms": stall_ms.get(share) for share in SUMMARIES},
    )


def simulation_metrics(policies: Mapping[str, PolicyReport]) -> dict[str, float | None]:
    """The metrics of all policies, as ``lru.hit_ratio``; where there is one policy, without its name as well."""
    found: dict[str, float | None] = {}
    for name, one in policies.items():
        own = asdict(policy_metrics(one)) | {"gap_closed": one.gap_closed, "cost_gap_closed": one.cost_gap_closed}
        found |= {f"{name}.{metric}": value for metric, value in own.items()}
        found |= own if len(policies) == 1 else {}
    return found


def simulated_names(policies: Mapping[str, object] | tuple[str, ...]) -> set[str]:
    """The names of all metrics that a simulation of these policies has."""
    own = {f"{policy}.{metric}" for policy in policies for metric in OF_A_POLICY}
    return own | set(OF_A_POLICY if len(policies) == 1 else ())
