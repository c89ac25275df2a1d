"""One tensor's entry in the header of a safetensors file: an object of three fields that holds no other object."""

import json
from collections.abc import Container
from typing import Any, NoReturn

from lora_cli.core.tensor_info import DTYPE_BITS, LIMIT, LONGEST_NAME, TensorInfo
from lora_cli.errors import FormatError

ENTRY_CAP = 1 << 16
"""Bytes of JSON that one tensor's entry may have; with it, memory stays in proportion to the header."""


def read_entry(text: str, at: int, name: str, known: Container[str], offset: int, file: str) -> tuple[TensorInfo, int]:
    """The tensor called ``name``, whose entry begins at ``at`` of the header's ``text``, and where that ends.

    ``known`` are the names before it, and ``offset`` is where the tensors' bytes begin.

    Raises:
        FormatError: it is malformed, or its name stands twice or is longer than any.
    """
    _check_name(name, known)
    piece = _piece(text, at)
    usual = _usual(piece, name, offset, file)
    if usual is not None:
        return usual, at + len(piece)
    entry, end = _entry(piece, at)
    return _tensor(name, entry, offset, file), end


def _unsigned(digits: str) -> int:
    if digits.startswith("-") or len(digits) > 20 or int(digits) > LIMIT:
        raise FormatError(f"{digits[:24]} is not an unsigned 64-bit integer")
    return int(digits)


def _no_number(digits: str) -> NoReturn:
    raise FormatError(f"{digits[:24]} is not an unsigned 64-bit integer")


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise FormatError("a field stands twice in its entry")
    return fields


_PLAIN = json.JSONDecoder()
DECODER = json.JSONDecoder(
    parse_int=_unsigned, parse_float=_no_number, parse_constant=_no_number, object_pairs_hook=_fields
)


def _check_name(name: str, tensors: Container[str]) -> None:
    if name in tensors:
        raise FormatError("stands twice in the header")
    if len(name) > LONGEST_NAME:
        raise FormatError(f"its name has {len(name)} characters, and at most {LONGEST_NAME} are read")


def _piece(text: str, at: int) -> str:
    """The entry that begins there: it holds no other object."""
    if text[at : at + 1] != "{":
        raise FormatError(f"its entry is not an object, at character {at}")
    close = text.find("}", at, at + ENTRY_CAP)
    if close < 0:
        raise FormatError(f"its entry does not end within {ENTRY_CAP} characters")
    return text[at : close + 1]


def _usual(piece: str, name: str, offset: int, file: str) -> TensorInfo | None:
    """The tensor of an entry in which nothing is odd: three fields, each once, and no negative zero."""
    if piece.count('"') != 8 or "-" in piece:
        return None
    try:
        entry, end = _PLAIN.raw_decode(piece)
        return usual_tensor(name, entry, offset, file) if end == len(piece) else None
    except (ValueError, RecursionError, TypeError, KeyError):
        return None


def _entry(piece: str, at: int) -> tuple[dict[str, Any], int]:
    try:
        entry, end = DECODER.raw_decode(piece)
    except json.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error.msg} at character {at + error.pos}") from error
    except RecursionError as error:
        raise FormatError("its entry is nested too deep") from error
    return entry, at + end


_FIELDS = frozenset({"dtype", "shape", "data_offsets"})


def _tensor(name: str, entry: dict[str, Any], offset: int, file: str) -> TensorInfo:
    if entry.keys() != _FIELDS:
        missing = ", ".join(sorted(_FIELDS - entry.keys()))
        extra = ", ".join(sorted(entry.keys() - _FIELDS))[:100]
        raise FormatError(f"{missing} is missing" if missing else f"{extra} is not in the format")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise FormatError(f"unknown dtype {str(dtype)[:40]!r}")
    if not _counts(shape):
        raise FormatError("shape is not a list of unsigned integers")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError("data_offsets are not [start, stop] with start <= stop")
    start, stop = offsets
    wanted = _nbytes(dtype, shape)
    if stop - start != wanted:
        raise FormatError(f"{dtype} {str(shape)[:60]} takes {wanted} bytes, and data_offsets span {stop - start}")
    return TensorInfo(name, dtype, tuple(shape), offset + start, offset + stop, file)


def _counts(value: Any) -> bool:
    # type() and not isinstance(): a bool is an int to Python, and none to the format.
    return isinstance(value, list) and all(type(one) is int for one in value)


def _nbytes(dtype: str, shape: list[int]) -> int:
    # The running product must fit 64 bits at every step, even when a later dimension is 0: so the reference counts.
    elements = 1
    for dimension in shape:
        elements *= dimension
        if elements > LIMIT:
            break
    bits = elements * DTYPE_BITS[dtype]
    if bits > LIMIT:
        raise FormatError(f"its shape {str(shape)[:60]} overflows 64 bits")
    if bits % 8:
        raise FormatError(f"{dtype} {str(shape)[:60]} does not fill whole bytes")
    return bits // 8


def usual_tensor(name: str, entry: Any, offset: int, file: str) -> TensorInfo:
    """The tensor of an entry of three fields. Raises one of Python's own errors where something may be odd."""
    dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(shape) is not list:
        raise ValueError
    elements = 1
    for number in shape:
        if type(number) is not int or not 0 <= number <= LIMIT:
            raise ValueError
        elements *= number
        if elements > LIMIT:
            raise ValueError
    if type(start) is not int or type(stop) is not int or not 0 <= start <= stop <= LIMIT:
        raise ValueError
    bits = elements * DTYPE_BITS[dtype]
    if bits != (stop - start) * 8 or bits > LIMIT or len(name) > LONGEST_NAME:
        raise ValueError
    return TensorInfo(name, dtype, tuple(shape), offset + start, offset + stop, file)
