"""The values of tensors: loaded whole, or in pieces and scanned for NaN, infinities and zeros.

numpy has no bfloat16 and no 8-bit floats: importing ml_dtypes registers them by the names of ``TORCH_NAMES``.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401
import numpy as np
from numpy.typing import NDArray

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.safetensors import DTYPE_BITS, TORCH_NAMES, TensorInfo
from lora_cli.errors import Corrupt, FormatError
from lora_cli.sources.files import Files, read_range

MEASURED = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes whose elements are the values themselves; narrower ones need their scales."""

SCANNED = {dtype: name for dtype, name in TORCH_NAMES.items() if dtype in MEASURED or dtype.startswith("F8")}
SCANNED["C64"] = "float32"
"""The dtypes that can hold NaN, as numpy reads them; a complex number is two floats."""

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


def load(files: Files, tensor: TensorInfo) -> NDArray[np.unsignedinteger[Any]]:
    """The elements of ``tensor`` as they are stored, unsigned integers of their width, in its shape.

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
    values: NDArray[Any] = np.frombuffer(piece, "u1").view(SCANNED[dtype])
    values = values if values.itemsize >= 4 else values.astype("<f4")  # which holds every narrower float exactly
    largest = float(max(-np.min(values), np.max(values)))
    if not math.isfinite(largest) or dtype not in MEASURED:
        return TensorStats(nonfinite=not math.isfinite(largest), zero=largest == 0)
    unit = largest if largest and not 1e-10 < largest < 1e10 else 1.0  # the squares stay within float32
    scaled = values if unit == 1 else values / values.dtype.type(unit)
    norm = unit * math.sqrt(scaled @ scaled)
    return TensorStats(nonfinite=False, zero=largest == 0, magnitude=Magnitude(largest, norm))


def _pieces(files: Files, tensors: Iterable[TensorInfo]) -> Iterator[tuple[TensorInfo, bytes]]:
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
            yield tensor, bytes(buffer[:wanted])
            del buffer[:wanted]


def _truncated(tensor: TensorInfo, missing: int) -> Corrupt:
    why = f"{tensor.file}: the data ends {missing} bytes before the end of {tensor.name}"
    return Corrupt(why, hint="fetch it again; the file is shorter than its header requires")
