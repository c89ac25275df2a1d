"""The header of a safetensors file: names, dtypes, shapes and places of its tensors.

The format: 8 bytes of little-endian length, that many bytes of JSON, then the tensors' bytes without gap or rest
(https://github.com/huggingface/safetensors#format). What the reference refuses is refused here, and besides it a key
that appears twice, a field that the format does not have, and an entry that is no object.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lora_cli.errors import FormatError

MOST_TENSORS = 150_000
"""Tensors of one adapter: one with factors for each of 384 experts in 60 layers has 138 240."""

LONGEST_NAME = 1024
"""Characters of a tensor's name, and of a module's path: those of models have a tenth of it."""

TORCH_NAMES: Mapping[str, str] = {
    **{"BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
    **{"U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64"},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64"},
    **{"F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
}
"""The names of dtypes in torch and ``safetensors.TensorSpec``, for those whose elements fill whole bytes."""

DTYPE_BITS = {name: int(re.sub(r"_.*|\D", "", name) or 8) for name in (*TORCH_NAMES, "F6_E2M3", "F6_E3M2", "F4")}
"""Bits of one element, by safetensors' own dtype name (0.8), which has them; a boolean has 8."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: bytes ``start`` to ``stop`` of ``file``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    file: str

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.stop - self.start


@lru_cache(maxsize=1)  # adapters that were trained alike have the same header
def parse_header(header: bytes, size: int | None, file: str) -> dict[str, TensorInfo]:
    """The tensors in a header, its JSON without the length, of a file of ``size`` bytes, in the order of their bytes.

    Raises:
        FormatError: anything that the format does not allow, with the tensor's name where it is one tensor's.
    """
    if not header.startswith(b"{"):
        raise FormatError("the header does not start with {", where=file)
    # A tensor has one { and eight of the others. With these limits, memory stays in proportion to the header.
    tensors, others = header.count(b"{") - 1 - (b'"__metadata__"' in header), header.count(b",") + header.count(b"[")
    if tensors > MOST_TENSORS or others > 10 * MOST_TENSORS:
        raise FormatError(f"the header has over {MOST_TENSORS} tensors, or ten times as many values", where=file)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(fields := dict(pairs)) < len(pairs):
            raise ValueError("a key appears twice")
        return fields

    at, end = "", 8 + len(header)
    try:
        fields = json.loads(header.decode(), object_pairs_hook=once, parse_int=lambda digits: int(f"+{digits}"))
        metadata = {} if (given := fields.pop("__metadata__", None)) is None else dict(given.items())
        "".join([*fields, *metadata, *metadata.values()]).encode()  # all are strings, none has half a surrogate pair
        found = [_tensor(at := name, entry, end, file) for name, entry in fields.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = error if isinstance(error, ValueError) else "a value is missing, or not of the type that belongs there"
        where = f"{file}: {at[:200]}" if at else file
        raise FormatError(f"not as the format says: {why}", where=where) from error
    found.sort(key=lambda one: (one.start, one.stop))
    for one in found:
        if one.start != end:
            raise FormatError(f"starts at byte {one.start} and not at {end}", where=f"{file}: {one.name}")
        end = one.stop
    if size is not None and end != size:
        raise FormatError("truncated: " * (end > size) + f"tensors end at byte {end}, the file at {size}", where=file)
    return {one.name: one for one in found}


def _tensor(name: str, entry: dict[str, Any], offset: int, file: str) -> TensorInfo:
    dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers, is_entry = [start, stop, *shape], len(entry) == 3 and dtype in DTYPE_BITS and type(shape) is list
    if not is_entry or {*map(type, numbers)} != {int} or max(numbers) >= 2**64:
        raise ValueError(f"a known dtype, a list and a pair of 64-bit integers belong there, not {str(entry)[:200]}")
    elements = 1
    for dimension in shape:
        if (elements := elements * dimension) >= 2**64:  # so counts the reference, even before a dimension of 0
            raise ValueError("its shape overflows 64 bits")
    if elements * DTYPE_BITS[dtype] != 8 * (stop - start):
        raise ValueError(f"{dtype} {shape} does not take the {stop - start} bytes that data_offsets span")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"its name has {len(name)} characters, over the limit of {LONGEST_NAME}")
    return TensorInfo(name, dtype, tuple(shape), offset + start, offset + stop, file)
