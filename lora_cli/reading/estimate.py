"""Between which bounds the norm of a tensor lies, by the leading bytes of its elements; exactly where somebody asks.

The highest byte of a float is its sign and seven bits of its exponent (or, of a float16, of exponent and mantissa).
How often each stands there is counted many times as fast as Python makes floats of the elements, and nearly always
tells enough: that no value is remarkable.
"""

import math
from functools import cache
from itertools import pairwise

from lora_cli.reading.magnitude import NOTHING, Magnitude, measure

STEP = 1 << 18
"""Bytes of which floats are made at once."""

SIZES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of an element, of the dtypes whose first byte tells the most of a value."""

BEYOND = {"F32": 0x7F, "F16": 0x7C, "BF16": 0x7F}
"""From this first byte on a value may be infinite or NaN."""

BOTH_SIGNS = [bytes((byte, byte | 0x80)) for byte in range(0x80)]


class Estimate:
    """The norm is at least ``least`` and at most ``most``, and so is every value; ``largest`` and ``norm`` are exact.

    It keeps the elements' bytes until it goes.
    """

    def __init__(self, dtype: str, piece: memoryview, least: float, most: float) -> None:
        self.least, self.most = least, most
        self._dtype, self._piece = dtype, piece
        self._exact: Magnitude | None = None

    @property
    def largest(self) -> float:
        """The largest absolute value, as ``Magnitude`` has it."""
        return self.exact.largest

    @property
    def norm(self) -> float:
        """The Frobenius norm."""
        return self.exact.norm

    @property
    def exact(self) -> Magnitude:
        """Both, of the elements themselves."""
        if self._exact is None:
            self._exact = NOTHING
            for start in range(0, len(self._piece), STEP):
                part = measure(self._dtype, self._piece[start : start + STEP], numpy=False)
                self._exact = self._exact.with_(part)
        return self._exact


def estimate(dtype: str, piece: memoryview) -> Estimate | None:
    """Bounds for whole elements of a dtype of ``SIZES``; None where all may be zero, or one infinite or NaN."""
    size = SIZES[dtype]
    left = bytes(piece)[size - 1 :: size]
    bounds, beyond = squares(dtype), BEYOND[dtype]
    least = most = 0.0
    while left:
        byte = left[0] & 0x7F
        if byte >= beyond:
            return None
        others = left.translate(None, BOTH_SIGNS[byte])
        count = len(left) - len(others)
        low, high = bounds[byte]
        least += count * low
        most += count * high
        left = others
    # Wider by more than the sums are off.
    return Estimate(dtype, piece, math.sqrt(least) * 0.999999, math.sqrt(most) * 1.000001) if least else None


@cache
def squares(dtype: str) -> list[tuple[float, float]]:
    """The least and the most that the square of a finite value can be, by its first byte without the sign."""
    if dtype == "F16":
        steps = [_float16(byte << 8) for byte in range(0x7D)]
    else:  # a bit less than a power of four
        steps = [0.0, *(2.0 ** (2 * byte - 127) for byte in range(1, 0x80))]
    return [(low * low, high * high) for low, high in pairwise(steps)]


def _float16(bits: int) -> float:
    exponent, mantissa = bits >> 10, bits & 0x3FF
    return math.ldexp(mantissa, -24) if not exponent else math.ldexp(1024 + mantissa, exponent - 25)
