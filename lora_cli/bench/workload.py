"""A seeded sequence of requests, the same on every machine."""

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, cycle, islice

from lora_cli.bench.popularity import Popularity, weights


def make_trace(names: Sequence[str], popularity: Popularity, requests: int, seed: int) -> tuple[str, ...]:
    """``requests`` adapter names, drawn independently by ``popularity``; the first of ``names`` is the most popular.

    ``round-robin`` takes the names in turn. ``seed`` is at least 0. Only ``random.Random(seed).random()`` is used, a
    sequence that Python's documentation promises to keep; all else is arithmetic on whole numbers.

    Raises:
        ValueError: there are no names, or a number is negative.
    """
    if not names or requests < 0 or seed < 0:
        raise ValueError("a trace needs names, and numbers that are not negative")
    if popularity.family == "round-robin":
        return tuple(islice(cycle(names), requests))
    upto = list(accumulate(weights(popularity, len(names))))
    draw = random.Random(seed).random  # noqa: S311 - a workload, not a secret
    return tuple(names[bisect_right(upto, int(draw() * (1 << 53)) * upto[-1] >> 53)] for _ in range(requests))
