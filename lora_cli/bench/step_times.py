"""How long a server's steps take, by the number of their tokens, measured from the times at which clients got these."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import NamedTuple

TOGETHER_S = 0.004
"""Tokens that come within so many seconds are of one step."""

LEAST_STEPS, MOST_SIZES = 3, 64
"""Steps of one size that are needed to know it, and how many sizes are kept."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """``ms`` are milliseconds by the number of tokens: one for each request that has a first one, else its prompt."""

    ms: Mapping[int, float] = field(default_factory=dict)

    def of(self, tokens: int) -> float:
        """Milliseconds of a step: between those that are known; in proportion to the largest for more; 0 if unknown."""
        sizes = sorted(self.ms)
        place = bisect_left(sizes, tokens)
        if place == len(sizes):
            return self.ms[sizes[-1]] * tokens / sizes[-1] if sizes else 0.0
        if place == 0 or sizes[place] == tokens:
            return self.ms[sizes[place]]
        below, above = sizes[place - 1], sizes[place]
        return self.ms[below] + (self.ms[above] - self.ms[below]) * (tokens - below) / (above - below)


class TokenTimes(NamedTuple):
    """The seconds at which a request had its adapter in a slot, and got its tokens; ``prompt_tokens`` is its prompt."""

    begin_s: float
    prompt_tokens: int
    tokens_s: Sequence[float]


class _Token(NamedTuple):
    time_s: float
    is_first: bool
    cost: int
    begin_s: float


def measure_steps(requests: Iterable[TokenTimes]) -> StepTimes:
    """The median time of the steps of each size.

    Prompts and further tokens are steps of their own, as in ``runtime.generation``. A step began when the last one
    ended, or when its last prompt was there.
    """
    tokens = sorted(
        _Token(time_s, place == 0, one.prompt_tokens if place == 0 else 1, one.begin_s)
        for one in requests
        for place, time_s in enumerate(one.tokens_s)
    )
    steps: list[list[_Token]] = []
    for token in tokens:
        last = steps[-1][-1] if steps else None
        if last and token.is_first == last.is_first and token.time_s - last.time_s < TOGETHER_S:
            steps[-1].append(token)
        else:
            steps.append([token])
    times_ms = defaultdict[int, list[float]](list)
    for before, step in pairwise(steps):
        begins_s = [before[-1].time_s, *(one.begin_s for one in step if one.is_first)]
        times_ms[sum(one.cost for one in step)].append((step[0].time_s - max(begins_s)) * 1e3)
    known = {size: median(several) for size, several in times_ms.items() if len(several) >= LEAST_STEPS and size > 0}
    return StepTimes(dict(sorted(known.items(), key=lambda one: -len(times_ms[one[0]]))[:MOST_SIZES]))
