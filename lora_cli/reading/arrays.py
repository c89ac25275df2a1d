"""Tensors in memory: one at a time, as the bits that they are stored in, and as numbers where that is asked for."""

import math
from typing import TYPE_CHECKING, Any

from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.core.tensor_info import DTYPE_BITS, TensorInfo
from lora_cli.errors import Corrupt, FormatError
from lora_cli.reading.ranges import read_range
from lora_cli.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bits = NDArray[np.unsignedinteger[Any]]
    Numbers = NDArray[np.floating[Any]]

WIDEST = {"F64": "<f8"}
"""What is worked with in float64; everything else in float32, which holds its values exactly."""

F8 = {"F8_E4M3": (4, 7), "F8_E5M2": (5, 15), "F8_E4M3FNUZ": (4, 8), "F8_E5M2FNUZ": (5, 16)}
"""Bits of the exponent, and its bias, of the narrow floats that can be read as numbers."""


def load(source: Source, revision: Revision, file: RemoteFile, tensor: TensorInfo) -> "Bits":
    """The elements of ``tensor`` as unsigned integers of their width, in its shape and in the order of its rows.

    Raises:
        FormatError: its elements do not fill whole bytes.
        Corrupt: the file ends before the header says.
        LoraCliError: what the source raises.
    """
    import numpy as np

    bits = DTYPE_BITS.get(tensor.dtype, 0)
    if bits % 8 or bits not in {8, 16, 32, 64}:
        raise FormatError(f"{tensor.name} is stored as {tensor.dtype}, which is not read as numbers", where=file.path)
    data = read_range(source, revision, file, tensor.start, tensor.stop)
    if len(data) < tensor.nbytes:
        missing = tensor.nbytes - len(data)
        hint = "fetch it again; the file is shorter than its header says"
        raise Corrupt(f"{file.path}: the bytes end {missing} bytes before the end of {tensor.name}", hint=hint)
    lanes = np.frombuffer(data, dtype=f"<u{bits // 8}")
    if not tensor.strides:
        return lanes.reshape(tensor.shape)
    strides = [stride * bits // 8 for stride in tensor.strides]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(lanes, tensor.shape, strides, writeable=False))


def numbers(bits: "Bits", dtype: str) -> "Numbers":
    """The values of a tensor's bits: float32, or float64 where that is their type.

    Raises:
        FormatError: they are no floats.
    """
    if dtype == "BF16":
        wide: Numbers = (bits.astype("<u4") << 16).view("<f4")
        return wide
    if dtype == "F16":
        return bits.view("<f2").astype("<f4")
    if dtype in {"F32", "F64"}:
        return bits.view(WIDEST.get(dtype, "<f4"))
    if dtype in F8:
        return _table(dtype)[bits]
    raise FormatError(f"{dtype} holds no floats", hint="save the adapter again in bfloat16")


def rounded(values: "Numbers", dtype: str) -> "Bits":
    """The bits of ``values`` in ``dtype`` (F64, F32, F16 or BF16), rounded to the nearest, ties to even."""
    import numpy as np

    with np.errstate(over="ignore"):
        if dtype == "BF16":
            wide = np.ascontiguousarray(values, "<f4").view("<u4")
            halves = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype("<u2")
            return np.where(np.isnan(values), np.uint16(0x7FC0), halves)
        kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]
        return np.ascontiguousarray(values, kind).view(f"<u{int(kind[2:])}")


def _table(dtype: str) -> "Numbers":
    """All 256 values of a float of 8 bits, by their bits.

    Sources: OCP 8-bit floating point, revision 1.0; for those without infinities and a negative zero, whose place NaN
    takes, Noune et al. (8-bit numerical formats for deep neural networks, 2022).
    """
    import numpy as np

    exponent_bits, bias = F8[dtype]
    fraction_bits = 7 - exponent_bits
    values = []
    for bits in range(256):
        exponent, fraction = (bits & 0x7F) >> fraction_bits, bits & ((1 << fraction_bits) - 1)
        part = fraction / (1 << fraction_bits)
        value = math.ldexp(part, 1 - bias) if exponent == 0 else math.ldexp(1 + part, exponent - bias)
        if dtype == "F8_E4M3" and bits & 0x7F == 0x7F:
            value = math.nan
        if dtype == "F8_E5M2" and exponent == (1 << exponent_bits) - 1:
            value = math.nan if fraction else math.inf
        if dtype.endswith("FNUZ") and bits == 0x80:
            value = math.nan
        values.append(-value if bits & 0x80 else value)
    return np.array(values, "<f4")
