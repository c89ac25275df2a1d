"""Random choices that are the same on every machine."""

import random
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import sha256
from math import frexp, ldexp, sqrt
from typing import Self

LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""ln 2 in two parts, as in fdlibm: a multiple of the first by an exponent is exact."""

ROOT_HALF = 0.7071067811865476
LOG_TERMS, EXP_TERMS = 10, 14


def log(x: float) -> float:
    """The natural logarithm of a number above 0, to 15 digits or so."""
    part, exponent = frexp(x)
    if part < ROOT_HALF:
        part, exponent = 2 * part, exponent - 1
    ratio = (part - 1) / (part + 1)
    square, total = ratio * ratio, 0.0
    for odd in range(2 * LOG_TERMS + 1, 0, -2):  # artanh, from its smallest term on
        total = total * square + 1 / odd
    return exponent * LN2_HIGH + (exponent * LN2_LOW + 2 * ratio * total)


def exp(x: float) -> float:
    """The exponential of a number from -700 to 700, to 15 digits or so."""
    twos = int(x / (LN2_HIGH + LN2_LOW) + (0.5 if x >= 0 else -0.5))
    rest = (x - twos * LN2_HIGH) - twos * LN2_LOW
    total = 1.0
    for term in range(EXP_TERMS, 0, -1):
        total = 1 + total * rest / term
    return ldexp(total, twos)


SMALLEST = 2.0**-54
"""Half of the smallest step of a draw, used for 0 in logarithms."""


class RandomStream:
    """Holds a seeded sequence. ``seed`` is at least 0.

    Only ``random.Random(seed).random()`` is used, a sequence that Python's documentation promises to keep; all else is
    arithmetic that is the same everywhere.
    """

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed).random  # noqa: S311 - a workload, not a secret

    @classmethod
    def derive(cls, purpose: str, seed: int) -> Self:
        """A separate stream of the same seed, so that the draws for one purpose do not shift those for another."""
        return cls(int.from_bytes(sha256(f"{purpose} {seed}".encode(errors="surrogatepass")).digest()[:8], "big"))

    def below(self, bound: int) -> int:
        """A whole number from 0 to ``bound - 1``."""
        return int(self._draw() * (1 << 53)) * bound >> 53

    def index_by_weight(self, cumulative_weights: Sequence[int]) -> int:
        """A random index by weights: ``cumulative_weights[i]`` is the sum of the first ``i + 1`` weights."""
        return bisect_right(cumulative_weights, self.below(cumulative_weights[-1]))

    def gamma(self, shape: float) -> float:
        """A gamma variate of scale 1; with shape 1 an exponential one.

        Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26(3), 2000.
        """
        if shape == 1:
            return -log(self._draw() or SMALLEST)
        if shape < 1:
            return self.gamma(shape + 1) * exp(max(log(self._draw() or SMALLEST) / shape, -700.0))
        d = shape - 1 / 3
        c = 1 / sqrt(9 * d)
        while True:
            x = self._normal()
            root = 1 + c * x
            v = root * root * root if root > 0 else 0.0
            if v > 0 and log(self._draw() or SMALLEST) < x * x / 2 + d - d * v + d * log(v):
                return d * v

    def _normal(self) -> float:
        """A standard normal variate, by Marsaglia's polar method."""
        while True:
            x, y = 2 * self._draw() - 1, 2 * self._draw() - 1
            square = x * x + y * y
            if 0 < square < 1:
                return x * sqrt(-2 * log(square) / square)
