"""What a simulation found, by policy: small enough to be kept, compared and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import fsum
from typing import Literal

from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.simulate import GPU, Course

WINDOWS = 40
"""Parts of the trace whose hit ratios are told."""

SHARES = (*(number / 100 for number in range(100)), 0.995, 0.999, 1.0)
"""Where the distribution of stalls is told."""

PERCENTILES = (50, 90, 95, 99)
PolicyKind = Literal["online", "exact", "bound"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One policy on one trace.

    ``kind`` is ``online`` (a policy that knows no more than what was asked for), ``exact`` (Belady's: no policy has
    more hits) or ``bound`` (no policy has more hits; perhaps none has as many). ``hits`` are by the tier in which the
    adapter was. ``miss_cost_ms`` adds up all loads. Where bytes bind, only ``hits["gpu"]`` of the best is known, and
    what it costs at least.
    """

    policy: str
    kind: PolicyKind
    requests: int
    hits: Mapping[str, int]
    miss_cost_ms: float
    evictions: Mapping[str, int] = field(default_factory=dict)
    stall_ms: Mapping[str, float] = field(default_factory=dict)
    stalled: int = 0
    hit_ratio_over_time: tuple[float, ...] = ()
    stall_cdf_ms: tuple[float, ...] = ()

    @property
    def hit_ratio(self) -> float:
        """Requests whose adapter was in a slot, of all."""
        return self.hits["gpu"] / (self.requests or 1)


def outcome(policy: str, kind: PolicyKind, course: Course, stalls: Sequence[float]) -> Outcome:
    """The numbers of a course."""
    counts = [course.found.count(place) for place in range(3)]
    ordered = sorted(stalls)
    told = {"mean": fsum(ordered) / (len(ordered) or 1)}
    if ordered:
        told |= {f"p{one}": nearest_rank(ordered, one / 100) for one in PERCENTILES} | {"max": ordered[-1]}
    return Outcome(
        policy,
        kind,
        len(course.found),
        dict(zip(("gpu", "cpu", "disk"), counts, strict=True)),
        fsum(course.load_ms),
        dict(zip(("gpu", "cpu"), course.evictions, strict=True)),
        told,
        sum(one > 0 for one in ordered),
        _over_time(course.found),
        tuple(nearest_rank(ordered, share) for share in SHARES) if ordered else (),
    )


def _over_time(found: bytearray) -> tuple[float, ...]:
    """The hit ratio of each window, in order; of a short trace there are as many windows as requests."""
    windows = min(WINDOWS, len(found))
    edges = [len(found) * number // windows for number in range(windows + 1)] if windows else []
    return tuple(found[first:last].count(GPU) / (last - first) for first, last in pairwise(edges))
