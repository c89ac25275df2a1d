"""The values of tensors: loaded whole or in pieces, decoded, and scanned for NaN, infinities and zeros.

numpy has no bfloat16 and no 8-bit floats: importing ml_dtypes registers them by name. ``NUMPY`` maps safetensors'
dtypes to numpy's.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401
import numpy as np
from numpy.typing import NDArray

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.byte_ranges import read_range
from lora_cli.adapter.safetensors import DTYPE_BITS, TORCH_NAMES, TensorInfo
from lora_cli.errors import Corrupt, FormatError
from lora_cli.sources.files import Files

Bits = NDArray[np.unsignedinteger[Any]]
"""A tensor's elements as they are stored: unsigned integers of their width."""

Floats = NDArray[np.floating[Any]]
"""A tensor's values: float64 if it is stored so, else float32, which represents every narrower float exactly."""

_DECODED = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
NUMPY: Mapping[str, str] = {dtype: TORCH_NAMES[dtype] for dtype in _DECODED}
"""The dtypes whose elements can be decoded."""

SCANNED: Mapping[str, str] = {**NUMPY, "F8_E8M0": TORCH_NAMES["F8_E8M0"], "C64": "<f4"}
"""The dtypes that can hold NaN; a complex number is two floats."""

MEASURED = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes whose elements are the values themselves; narrower ones need their scales."""

PIECE = 1 << 18
"""Bytes that are scanned at once."""


class Magnitude(NamedTuple):
    """How large a tensor's values are: the ``largest`` absolute value, and the Frobenius ``norm``."""

    largest: float
    norm: float


@dataclass(frozen=True, slots=True)
class TensorStats:
    """``nonfinite``: an infinity or NaN is among the values. ``zero``: every value is 0 (so is an empty tensor's).

    ``magnitude`` is None if a value is not finite, and for dtypes whose elements mean nothing without their scales.
    """

    nonfinite: bool
    zero: bool
    magnitude: Magnitude | None = field(default=None, compare=False)


def load(files: Files, tensor: TensorInfo) -> Bits:
    """The elements of ``tensor`` as they are stored, in its shape, contiguous by rows.

    Raises:
        FormatError: its elements do not fill whole bytes.
        Corrupt: the file ends before the header says.
        LoraCliError: what the source raises.
    """
    bits = DTYPE_BITS.get(tensor.dtype, 0)
    if bits not in {8, 16, 32, 64}:
        why = f"{tensor.name} is stored as {tensor.dtype}, which cannot be read as numbers"
        raise FormatError(why, where=tensor.file)
    file = files.file(tensor.file)
    data = read_range(files, file, tensor.start, tensor.stop) if file is not None else b""
    if len(data) < tensor.nbytes:
        raise _truncated(tensor, tensor.nbytes - len(data))
    return np.frombuffer(data, dtype=f"<u{bits // 8}").reshape(tensor.shape)


def decode(bits: Bits, dtype: str) -> Floats:
    """The values of a tensor's bits.

    Raises:
        FormatError: they are no floats.
    """
    if dtype not in NUMPY:
        raise FormatError(f"{dtype} is not a float type", hint="save the adapter again in bfloat16")
    return _floats(bits, NUMPY[dtype])


def _floats(bits: NDArray[Any], dtype: str) -> Floats:
    values: Floats = _eight_bits(dtype)[bits] if bits.itemsize == 1 else bits.view(dtype)
    return values if values.itemsize >= 4 else values.astype("<f4")


@cache
def _eight_bits(dtype: str) -> Floats:
    """All 256 values of an 8-bit float, by their bits: a look-up is many times as fast as decoding."""
    values: Floats = np.arange(256, dtype="u1").view(dtype).astype("<f4")
    return values


def scan_values(files: Files, adapter: Adapter) -> dict[str, TensorStats]:
    """Statistics of every tensor of the adapter, by full tensor name; each is read once.

    Memory is that of a few chunks, whatever the size of the file.

    Raises:
        Corrupt: the bytes end before the header says.
        LoraCliError: what the source raises.
    """
    stats = {name: stats_of(tensor.dtype, b"") for name, tensor in adapter.tensors.items()}
    for tensor, piece in _pieces(files, adapter.tensors.values()):
        one, other, magnitude = stats[tensor.name], stats_of(tensor.dtype, piece), None
        if one.magnitude is not None and other.magnitude is not None:
            largest = max(one.magnitude.largest, other.magnitude.largest)
            magnitude = Magnitude(largest, math.hypot(one.magnitude.norm, other.magnitude.norm))
        stats[tensor.name] = TensorStats(one.nonfinite or other.nonfinite, one.zero and other.zero, magnitude)
    return stats


@np.errstate(all="ignore")
def stats_of(dtype: str, piece: bytes | memoryview) -> TensorStats:
    """The statistics of contiguous whole elements of ``dtype``."""
    if dtype not in SCANNED or not piece:
        zero = not np.frombuffer(piece, "u1").any()
        return TensorStats(nonfinite=False, zero=zero, magnitude=Magnitude(0.0, 0.0) if dtype in MEASURED else None)
    values = _floats(np.frombuffer(piece, f"<u{np.dtype(SCANNED[dtype]).itemsize}"), SCANNED[dtype])
    largest = float(max(-np.min(values), np.max(values)))
    if not math.isfinite(largest) or dtype not in MEASURED:
        return TensorStats(nonfinite=not math.isfinite(largest), zero=largest == 0)
    unit = largest if largest and not 1e-10 < largest < 1e10 else 1.0  # the squares stay within float32
    scaled = values if unit == 1 else values / values.dtype.type(unit)
    return TensorStats(
        nonfinite=False, zero=largest == 0, magnitude=Magnitude(largest, unit * math.sqrt(scaled @ scaled))
    )


def _pieces(files: Files, tensors: Iterable[TensorInfo]) -> Iterator[tuple[TensorInfo, memoryview]]:
    """The bytes of ``tensors`` in their order, in pieces of at most ``PIECE`` bytes and whole elements, none empty.

    Those that adjoin are read together.
    """
    buffer, end = bytearray(), ("", 0)
    chunks: Iterator[bytes] = iter(())
    for tensor in tensors:
        if not tensor.nbytes:
            continue
        if end != (tensor.file, tensor.start):
            file = files.file(tensor.file)
            buffer, chunks = bytearray(), files.read(file, tensor.start) if file is not None else iter(())
        end = tensor.file, tensor.stop
        for left in range(tensor.nbytes, 0, -PIECE):
            wanted = min(left, PIECE)
            while len(buffer) < wanted:
                chunk = next(chunks, b"")
                if not chunk:
                    raise _truncated(tensor, left - len(buffer))
                buffer += chunk
            yield tensor, memoryview(bytes(buffer[:wanted]))
            del buffer[:wanted]


def _truncated(tensor: TensorInfo, missing: int) -> Corrupt:
    why = f"{tensor.file}: the data ends {missing} bytes before the end of {tensor.name}"
    return Corrupt(why, hint="fetch it again; the file is shorter than its header requires")
