"""Means and percentiles; percentiles are by the nearest rank."""

from collections.abc import Iterable, Sequence
from math import inf
from statistics import fmean, pstdev

PERCENTILES = (50, 90, 95, 99)
SUMMARIES = ("mean", *(f"p{one}" for one in PERCENTILES), "max")
VLLM_SUMMARIES = ("mean", "median", "std", *(f"p{one}" for one in PERCENTILES))


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed; there is at least one."""
    rank = -(-share * len(ordered) // 1)
    return ordered[max(int(rank) - 1, 0)]


def summary(values: Iterable[float], failures: int = 0) -> dict[str, float | None]:
    """``SUMMARIES`` of the values; ``failures`` more of them are infinite, and in no mean."""
    finite = sorted(values)
    ordered = finite + [inf] * failures
    if not ordered:
        return dict.fromkeys(SUMMARIES)
    shares = {f"p{one}": nearest_rank(ordered, one / 100) for one in PERCENTILES}
    return {"mean": fmean(finite) if finite else None, **shares, "max": ordered[-1]}


def vllm_summary(values: Sequence[float]) -> dict[str, float | None]:
    """``VLLM_SUMMARIES`` of the values."""
    found = summary(values)
    known = found | {"median": found["p50"], "std": pstdev(values) if values else None}
    return {name: known[name] for name in VLLM_SUMMARIES}
