"""How large the values of a tensor are: its largest element and its norm, piece by piece."""

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Magnitude(NamedTuple):
    """``norm`` is the Frobenius norm (root of the sum of squares), ``largest`` the largest absolute value.

    Up to ``UNREMARKABLE`` the norm may stand in for the largest value, which cannot be larger.
    """

    largest: float
    norm: float

    @property
    def least(self) -> float:
        """The norm is at least this."""
        return self.norm

    @property
    def most(self) -> float:
        """The norm and every value are at most this."""
        return self.norm

    @property
    def exact(self) -> "Magnitude":
        """Itself: it was measured."""
        return self

    def with_(self, other: "Magnitude") -> "Magnitude":
        """That of two pieces of one tensor together."""
        return Magnitude(max(self.largest, other.largest), math.hypot(self.norm, other.norm))


UNREMARKABLE = 1000.0
"""A norm up to which nobody asks how large the largest value is: the narrowest dtype ends at 65504."""

LEAST_SQUARE = 1e-12
"""Sums of squares below it may have lost those of the smallest elements."""

NOTHING = Magnitude(0.0, 0.0)
MEASURED = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes whose elements are the values themselves; in narrower ones they mean something only with their scales."""


def measure(dtype: str, piece: memoryview, *, numpy: bool) -> Magnitude:
    """The magnitude of a piece of whole elements, all finite, of a dtype of ``MEASURED``."""
    return _with_numpy(dtype, piece) if numpy else _with_floats(_floats(dtype, piece))


def _with_floats(floats: "memoryview[float] | tuple[float, ...]") -> Magnitude:
    norm = math.hypot(*floats)
    return Magnitude(norm if norm <= UNREMARKABLE else max(map(abs, floats)), norm)


def _floats(dtype: str, piece: memoryview) -> "memoryview[float] | tuple[float, ...]":
    if dtype == "F16":
        return struct.unpack(f"<{len(piece) // 2}e", piece)
    if dtype == "BF16":
        # A bfloat16 is the upper half of the float32 of the same value.
        wide = bytearray(2 * len(piece))
        wide[2::4], wide[3::4] = piece[0::2], piece[1::2]
        return memoryview(wide).cast("f")
    return piece.cast("d" if dtype == "F64" else "f")


def usual(dtype: str, piece: memoryview) -> Magnitude | None:
    """The magnitude with numpy in one pass; None where an element may not be finite, all may be zero, or one be large.

    The sum of the squares tells: it is finite only if each element is, and positive only if one is not zero.
    """
    values = _array(dtype, piece)
    with np_errors_ignored():
        square = float(values @ values)
    return Magnitude(norm := math.sqrt(square), norm) if LEAST_SQUARE <= square <= UNREMARKABLE**2 else None


def np_errors_ignored() -> "np.errstate":
    """What is out of range is looked at again; nothing need be printed of it."""
    import numpy as np

    return np.errstate(over="ignore", invalid="ignore", under="ignore")


def _with_numpy(dtype: str, piece: memoryview) -> Magnitude:
    values = _array(dtype, piece)
    if not values.size:
        return NOTHING
    largest = float(max(values.max(), -values.min()))
    # Scaled so that neither large nor small squares leave the range of the type.
    scaled = values / values.dtype.type(largest) if not 1e-10 < largest < 1e10 and largest else values
    norm = math.sqrt(float(scaled @ scaled))
    return Magnitude(largest, norm * largest if scaled is not values else norm)


def _array(dtype: str, piece: memoryview) -> "NDArray[np.floating]":
    import numpy as np

    if dtype == "BF16":
        wide: NDArray[np.floating] = (np.frombuffer(piece, "<u2").astype("<u4") << 16).view("<f4")
        return wide
    if dtype == "F16":
        return np.frombuffer(piece, "<f2").astype("<f4")
    return np.frombuffer(piece, "<f8" if dtype == "F64" else "<f4")
