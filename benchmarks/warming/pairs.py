"""Work timed beside its peers in one process: every round runs all of them, in an order of its own."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio of medians is at most ``most`` (or at least, for ``speed``); ``stretch`` is what would be splendid."""

    most: float
    stretch: float | None = None
    speed: bool = False

    def said(self, value: float) -> str:
        """Whether ``value`` meets it."""
        better = value >= self.most if self.speed else value <= self.most
        return "met" if better else "MISSED"

    def __str__(self) -> str:
        """As ``<= 1.25 (1.15)``."""
        stretch = "" if self.stretch is None else f" ({self.stretch:g})"
        return f"{'>=' if self.speed else '<='} {self.most:g}{stretch}"


def rounds(work: Mapping[str, Work], count: int, reset: Work = lambda: None) -> dict[str, list[float]]:
    """Seconds of each, round by round, after one that does not count. ``reset`` runs after each, untimed."""
    took: dict[str, list[float]] = {name: [] for name in work}
    order, shuffle = list(work), random.Random(0).shuffle
    for number in range(count + 1):
        shuffle(order)
        for name in order:
            began = time.perf_counter()
            work[name]()
            seconds = time.perf_counter() - began
            reset()
            if number:
                took[name].append(seconds)
    return took


def ratio(took: Mapping[str, list[float]], ours: str, peer: str) -> tuple[float, float, float]:
    """The median over the rounds of ours by the peer's, the smallest and the largest."""
    ratios = [mine / theirs for mine, theirs in zip(took[ours], took[peer], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


HEAD = f"{'work':52} {'beside':26} {'ratio':>7} {'(range)':>15} {'goal':>14}"


def line(work: str, beside: str, found: tuple[float, float, float], goal: Goal | None) -> str:
    """A row of the table."""
    median, least, most = found
    judged = "" if goal is None else f"{goal!s:>14}  {goal.said(median)}"
    return f"{work:52} {beside:26} {median:7.3f} {f'({least:.2f}-{most:.2f})':>15} {judged}"
