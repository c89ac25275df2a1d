"""Whether an adapter's tensors hold numbers that can be served: streamed, in bounded memory, without torch.

Below ``SMALL`` bytes the leading bytes of the elements tell nearly always that nothing is wrong (``read.estimate``);
where they do not, the lanes are tested in Python's own big integers, many at once. Both are done before numpy is
imported. Above, numpy does the same with the same masks.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from lora_cli.core.adapter import Adapter
from lora_cli.core.safetensors import TensorInfo
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.reading.estimate import SIZES, Estimate, estimate
from lora_cli.reading.magnitude import MEASURED, NOTHING, Magnitude, measure, usual
from lora_cli.reading.pieces import PIECE, pieces
from lora_cli.sources import Source

SMALL = 4 << 20
"""Bytes of tensors up to which numpy, many times as fast, does not win back its import (0.1 s), where it is to come."""

TINY = 1024
"""Bytes of a tensor up to which numpy takes longer to be called than the rest does."""


@dataclass(frozen=True, slots=True)
class TensorStats:
    """``nonfinite``: an infinity or NaN is among the values. ``zero``: every value is 0 (so is an empty tensor's).

    ``magnitude`` is None where a value is not finite, and for dtypes whose values are not their elements alone.
    """

    nonfinite: bool
    zero: bool
    magnitude: Magnitude | Estimate | None = field(default=None, compare=False)


class Lane(NamedTuple):
    """How one element lies in its ``size`` bytes.

    ``exponent`` masks the bits that are all ones in an infinity or NaN (0: the type has none), and ``carry`` is its
    lowest bit: added to a masked element it reaches the sign bit exactly when they all are. ``sign`` masks the sign.
    """

    size: int
    exponent: int
    carry: int
    sign: int


LANES: Mapping[str, Lane] = {
    "F64": Lane(8, 0x7FF0 << 48, 0x0010 << 48, 0x8000 << 48),
    "F32": Lane(4, 0x7F80_0000, 0x0080_0000, 0x8000_0000),
    "C64": Lane(4, 0x7F80_0000, 0x0080_0000, 0x8000_0000),
    "C128": Lane(8, 0x7FF0 << 48, 0x0010 << 48, 0x8000 << 48),
    "F16": Lane(2, 0x7C00, 0x0400, 0x8000),
    "BF16": Lane(2, 0x7F80, 0x0080, 0x8000),
    "F8_E5M2": Lane(1, 0x7C, 0x04, 0x80),
    # No infinity, and only the pattern of all ones is NaN.
    "F8_E4M3": Lane(1, 0x7F, 0x01, 0x80),
    "F6_E2M3": Lane(1, 0, 0, 0),
    "F6_E3M2": Lane(1, 0, 0, 0),
    "F4": Lane(1, 0, 0, 0x88),
}
"""The float types whose infinities and NaNs are an all-ones exponent, or which have none."""

SINGLE_NAN: Mapping[str, int] = {"F8_E8M0": 0xFF, "F8_E4M3FNUZ": 0x80, "F8_E5M2FNUZ": 0x80}
"""The float types of one byte that have one NaN and no infinity: its byte."""

WHOLE = Lane(1, 0, 0, 0)
"""Integers and booleans: any bit is a value, and none is infinite."""

LaneTest = Callable[[memoryview, Lane], tuple[bool, bool]]
"""(something is nonfinite, everything is zero) of whole lanes."""


def scan_values(source: Source, revision: Revision, adapter: Adapter) -> dict[str, TensorStats]:
    """Read every tensor of the adapter once and say what is wrong with its values, by full tensor name.

    Takes memory for a few chunks, whatever the size of the file.

    Raises:
        Corrupt: the bytes end before the header says.
        LoraCliError: what the source raises.
    """
    stats: dict[str, TensorStats] = {}
    for path in adapter.weight_files:
        file = revision.file(path)
        tensors = [tensor for tensor in adapter.tensors.values() if tensor.file == path]
        if file is not None and tensors:
            stats |= _scan_file(source, revision, file, sorted(tensors, key=lambda tensor: (tensor.start, tensor.stop)))
    return stats


def _scan_file(
    source: Source, revision: Revision, file: RemoteFile, tensors: list[TensorInfo]
) -> dict[str, TensorStats]:
    small = sum(tensor.nbytes for tensor in tensors) <= SMALL and "numpy" not in sys.modules
    stats = {tensor.name: _unread(tensor) for tensor in tensors}
    for tensor, piece in pieces(source, revision, file, tensors, SMALL if small else PIECE):
        if small and len(piece) == tensor.nbytes and (size := _bounded(tensor.dtype, piece)) is not None:
            stats[tensor.name] = TensorStats(nonfinite=False, zero=False, magnitude=size)
            continue
        numpy = not small and tensor.nbytes > TINY
        for start in range(0, len(piece), PIECE):
            part = piece[start : start + PIECE]
            stats[tensor.name] = _with(stats[tensor.name], tensor.dtype, part, numpy=numpy)
    return stats


def _with(so_far: TensorStats, dtype: str, piece: memoryview, *, numpy: bool) -> TensorStats:
    """What was told of a tensor so far, and of the next piece of it."""
    test = numpy_test if numpy else integers_test
    known = None if so_far.magnitude is None else so_far.magnitude.exact
    sound = usual(dtype, piece) if known is not None and numpy else None
    nonfinite, zero = (False, False) if sound is not None else judge(dtype, piece, test)
    if nonfinite:
        known = None
    elif known is not None and not zero:
        known = known.with_(sound or measure(dtype, piece, numpy=numpy))
    return TensorStats(so_far.nonfinite or nonfinite, so_far.zero and zero, known)


def _bounded(dtype: str, piece: memoryview) -> Estimate | None:
    return estimate(dtype, piece) if dtype in SIZES else None


def _unread(tensor: TensorInfo) -> TensorStats:
    return TensorStats(nonfinite=False, zero=True, magnitude=NOTHING if tensor.dtype in MEASURED else None)


def judge(dtype: str, piece: memoryview, test: LaneTest) -> tuple[bool, bool]:
    """(Something is nonfinite, everything is zero) in a piece of whole elements of ``dtype``."""
    if dtype in SINGLE_NAN:
        data = bytes(piece)
        zero = not any(data) if dtype != "F8_E8M0" else not data
        return SINGLE_NAN[dtype] in data, zero
    return test(piece, LANES.get(dtype, WHOLE))


def integers_test(piece: memoryview, lane: Lane) -> tuple[bool, bool]:
    """A ``LaneTest`` with big integers: all lanes of the piece are one number."""
    number = int.from_bytes(piece, "little")
    if not number:
        return False, True
    count = len(piece) // lane.size
    zero = not number & ~repeated(lane.sign, lane.size, count) if lane.sign else False
    if not lane.exponent:
        return False, zero
    exponents = number & repeated(lane.exponent, lane.size, count)
    carried = exponents + repeated(lane.carry, lane.size, count)
    return bool(carried & repeated(lane.sign, lane.size, count)), zero


def numpy_test(piece: memoryview, lane: Lane) -> tuple[bool, bool]:
    """A ``LaneTest`` with numpy."""
    import numpy as np

    lanes = np.frombuffer(piece, dtype=f"<u{lane.size}")
    absolute = (1 << 8 * lane.size) - 1 - lane.sign
    zero = not (lanes & lanes.dtype.type(absolute)).any()
    if not lane.exponent:
        return False, zero
    exponent = lanes.dtype.type(lane.exponent)
    return bool(((lanes & exponent) == exponent).any()), zero


@lru_cache(maxsize=64)
def repeated(mask: int, size: int, count: int) -> int:
    """``mask`` in each of ``count`` lanes of ``size`` bytes."""
    return int.from_bytes(mask.to_bytes(size, "little") * count, "little")
