"""One tensor: its name, dtype, shape and bytes, as a header describes them; and what a scan of its values found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

LIMIT = 2**64 - 1
"""The largest count that the format knows: it is an unsigned 64-bit integer."""

LONGEST_NAME = 1024
"""Characters of a tensor's name, and of a module's path: those of models have a tenth of it."""

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "I16": 16,
    "U16": 16,
    "I32": 32,
    "U32": 32,
    "I64": 64,
    "U64": 64,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
"""Bits of one element, by safetensors' own dtype name (0.8)."""

TORCH_NAMES: Mapping[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""What torch, and ``safetensors.TensorSpec``, call the dtypes whose elements fill whole bytes."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor, bytes ``start`` to ``stop`` of ``file``; ``strides`` (in elements) where it is not contiguous."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    file: str
    strides: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.stop - self.start


class Magnitude(NamedTuple):
    """How large a tensor's values are: the ``largest`` absolute value, and the Frobenius ``norm``."""

    largest: float
    norm: float


@dataclass(frozen=True, slots=True)
class TensorStats:
    """``nonfinite``: an infinity or NaN is among the values. ``zero``: every value is 0 (so is an empty tensor's).

    ``magnitude`` is None where a value is not finite, and for dtypes whose elements mean nothing without their scales.
    """

    nonfinite: bool
    zero: bool
    magnitude: Magnitude | None = field(default=None, compare=False)
