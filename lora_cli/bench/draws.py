"""Random choices that are the same on every machine."""

import random
from bisect import bisect_right
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """Holds a seeded sequence. ``seed`` is at least 0.

    Only ``random.Random(seed).random()`` is used, a sequence that Python's documentation promises to keep; all else is
    arithmetic on whole numbers.
    """

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed).random  # noqa: S311 - a workload, not a secret

    def below(self, bound: int) -> int:
        """A whole number from 0 to ``bound - 1``."""
        return int(self._draw() * (1 << 53)) * bound >> 53

    def of(self, upto: Sequence[int]) -> int:
        """An index, by weights that were added up: ``upto[i]`` is the sum of the first ``i + 1``."""
        return bisect_right(upto, self.below(upto[-1]))

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The same items in another order, each order as likely as every other."""
        found = list(items)
        for last in range(len(found) - 1, 0, -1):
            other = self.below(last + 1)
            found[last], found[other] = found[other], found[last]
        return found
