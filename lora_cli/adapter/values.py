"""The values of tensors: loaded whole, or in pieces and scanned for NaN, infinities and zeros.

numpy has no bfloat16 and no 8-bit floats: importing ml_dtypes registers them by the names of ``TORCH_NAMES``.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401
import numpy as np
from numpy.typing import NDArray

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.safetensors import DTYPE_BITS, TORCH_NAMES, TensorInfo
from lora_cli.errors import Corrupt, FormatError
from lora_cli.sources.files import Files

MEASURED = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes whose elements are the values themselves; narrower ones need their scales."""

SCANNED = {dtype: name for dtype, name in TORCH_NAMES.items() if dtype in MEASURED or dtype.startswith("F8")}
SCANNED["C64"] = "float32"
"""The dtypes that can hold NaN, as numpy reads them; a complex number is two floats."""

PIECE = 1 << 18
"""Bytes that are scanned at once."""


class TensorStats(NamedTuple):
    """How large the values of a tensor are: the ``largest`` absolute value, infinity if one is that or NaN; their norm.

    ``norm`` (Frobenius) is NaN if one is not finite, and for dtypes whose elements mean nothing without their scales.
    """

    largest: float
    norm: float


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
    data = b"".join(piece for _, piece in _pieces(files, [tensor]))
    return np.frombuffer(data, dtype=f"<u{bits // 8}").reshape(tensor.shape)


def scan_values(files: Files, adapter: Adapter) -> dict[str, TensorStats]:
    """Statistics of every tensor of the adapter, by full tensor name; each is read once.

    Memory is that of a few chunks, whatever the size of the file. Raises as ``load``.
    """
    stats = {name: stats_of(tensor.dtype, b"") for name, tensor in adapter.tensors.items()}
    for tensor, piece in _pieces(files, adapter.tensors.values()):
        one, other = stats[tensor.name], stats_of(tensor.dtype, piece)
        stats[tensor.name] = TensorStats(max(one.largest, other.largest), math.hypot(one.norm, other.norm))
    return stats


@np.errstate(all="ignore")
def stats_of(dtype: str, piece: bytes) -> TensorStats:
    """The statistics of contiguous whole elements of ``dtype``."""
    if dtype not in SCANNED or not piece:
        return TensorStats(float(piece.count(0) < len(piece)), 0.0 if dtype in MEASURED else math.nan)
    values: NDArray[Any] = np.frombuffer(piece, "u1").view(SCANNED[dtype])
    values = values if values.itemsize >= 4 else values.astype("<f4")  # which holds every narrower float exactly
    largest = float(max(-np.min(values), np.max(values)))
    if not math.isfinite(largest) or dtype not in MEASURED:
        return TensorStats(largest if math.isfinite(largest) else math.inf, math.nan)
    unit = largest if largest and not 1e-10 < largest < 1e10 else 1.0  # the squares stay within float32
    scaled = values if unit == 1 else values / values.dtype.type(unit)
    return TensorStats(largest, unit * math.sqrt(scaled @ scaled))


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
                if not (chunk := next(chunks, b"")):
                    at = f"{left - len(buffer)} bytes before the end of {tensor.name}"
                    hint = "fetch it again; the file is shorter than its header requires"
                    raise Corrupt(f"{tensor.file}: the data ends {at}", hint=hint)
                buffer += chunk
            yield tensor, bytes(buffer[:wanted])
            del buffer[:wanted]
