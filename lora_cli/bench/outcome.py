"""What a simulation found, by policy: small enough to be saved, compared and drawn."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import fsum

from lora_cli.bench.quantiles import nearest_rank, summary
from lora_cli.bench.report import PolicyKind, PolicyReport
from lora_cli.bench.simulate import GPU, Course

WINDOWS = 40
"""Parts of the trace whose hit ratios are reported."""

SHARES = (*(number / 100 for number in range(100)), 0.995, 0.999, 1.0)
"""Where the distribution of stalls is reported."""


def outcome(kind: PolicyKind, course: Course, stalls: Sequence[float]) -> PolicyReport:
    """The numbers of a course."""
    counts = dict(zip(("gpu", "cpu", "disk"), (course.found.count(place) for place in range(3)), strict=True))
    evictions = dict(zip(("gpu", "cpu"), course.evictions, strict=True))
    cost_ms, ordered = fsum(course.load_ms), sorted(stalls)
    return policy_report(kind, len(course.found), counts, cost_ms, evictions, ordered, _over_time(course.found))


def policy_report(
    kind: PolicyKind,
    requests: int,
    hits_by_tier: Mapping[str, int],
    miss_cost_ms: float,
    evictions: Mapping[str, int],
    stalls: Sequence[float] = (),
    hit_ratio_over_time: tuple[float, ...] = (),
) -> PolicyReport:
    """One policy, without the gaps that it closes: they are known once all policies are done.

    ``stalls`` has the least first, and is empty where only the hits in slots and the least cost are known.
    """
    return PolicyReport(
        kind=kind,
        requests=requests,
        hits=hits_by_tier["gpu"],
        hit_ratio=hits_by_tier["gpu"] / (requests or 1),
        hits_by_tier=hits_by_tier,
        evictions=evictions,
        miss_cost_ms=miss_cost_ms,
        miss_cost_ms_per_request=miss_cost_ms / (requests or 1),
        stalled=sum(one > 0 for one in stalls),
        stall_ms={name: value for name, value in summary(stalls).items() if value is not None},
        gap_closed=None,
        cost_gap_closed=None,
        hit_ratio_over_time=hit_ratio_over_time,
        stall_cdf_ms=tuple(nearest_rank(stalls, share) for share in SHARES) if stalls else (),
    )


def _over_time(found: bytearray) -> tuple[float, ...]:
    """The hit ratio of each window, in order; of a short trace there are as many windows as requests."""
    windows = min(WINDOWS, len(found))
    edges = [len(found) * number // windows for number in range(windows + 1)] if windows else []
    return tuple(found[first:last].count(GPU) / (last - first) for first, last in pairwise(edges))
