"""Percentiles, by the nearest rank."""

from collections.abc import Sequence


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed; there is at least one."""
    rank = -(-share * len(ordered) // 1)
    return ordered[max(int(rank) - 1, 0)]
