"""The header of a safetensors file: names, dtypes, shapes and byte ranges. Every malformation is one ``FormatError``.

The format: 8 bytes of little-endian length, that many bytes of JSON, then the tensors' bytes without gap or rest
(https://github.com/huggingface/safetensors#format). We refuse all that the reference implementation refuses, and
besides it a name that stands twice and fields that the format does not have.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NoReturn

from lora_cli.core.frozen import dataclass
from lora_cli.core.late import late
from lora_cli.core.plain_header import read_plain
from lora_cli.core.recent import MOST
from lora_cli.core.tensor_info import DTYPE_BITS, LIMIT, TensorInfo
from lora_cli.errors import FormatError

HEADER_CAP = 100_000_000
"""The format's own limit on the header, in bytes."""

ENTRY_CAP = 1 << 16
"""Bytes of JSON that one tensor's entry may have; with it, memory stays in proportion to the header."""

__all__ = ["DTYPE_BITS", "HEADER_CAP", "LIMIT", "Header", "TensorInfo", "header_length", "parse_header"]

_SPACE = late(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Header:
    """Tensors by name in the order of their bytes, and the file's string-to-string metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def header_length(first8: bytes, file_size: int | None, file: str) -> int:
    """Bytes of JSON that follow the first 8 bytes of a file of ``file_size`` bytes (None: not known).

    Raises:
        FormatError: fewer than 8 bytes, a length beyond the format's cap or the file's end, or no header at all.
    """
    if len(first8) < 8:
        raise FormatError(f"truncated: {len(first8)} bytes, and the length of the header alone takes 8", where=file)
    length = int.from_bytes(first8[:8], "little")
    if length > HEADER_CAP:
        raise FormatError(
            f"not a safetensors file: its first 8 bytes claim a header of {length} bytes, and the format's limit is "
            f"{HEADER_CAP}",
            where=file,
        )
    if file_size is not None and 8 + length > file_size:
        raise FormatError(f"truncated: the header ends at byte {8 + length}, the file at {file_size}", where=file)
    if length < 2:
        raise FormatError(f"the header has {length} bytes; the smallest, {{}}, has 2", where=file)
    return length


def parse_header(header: bytes, file_size: int | None, file: str) -> Header:
    """Read a header (its JSON bytes, without the 8 of the length) of a file of ``file_size`` bytes (None: not known).

    Recent ones are kept: adapters that were trained alike have the same header, and then share one ``Header``.
    Linear in time. Takes no more memory than a small multiple of the header, whatever stands in it.

    Raises:
        FormatError: anything that the format does not allow, with the tensor's name or the byte where it is.
    """
    return (_kept if len(header) <= KEPT else _parsed)(bytes(header), file_size, file)


def _parsed(header: bytes, file_size: int | None, file: str) -> Header:
    text, offset = _decoded(header, file), 8 + len(header)
    tensors, metadata = read_plain(text, offset, file) or _scan(text, offset, file)
    ordered = sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.stop))
    end = 8 + len(header)
    for tensor in ordered:
        if tensor.start != end:
            what = "overlaps the tensor before it" if tensor.start < end else "leaves a gap after the tensor before it"
            raise FormatError(
                f"starts at byte {tensor.start} and {what}, which ends at {end}", where=_at(file, tensor.name)
            )
        end = tensor.stop
    if file_size is not None and end != file_size:
        if end > file_size:
            raise FormatError(f"truncated: the tensors end at byte {end}, the file at {file_size}", where=file)
        raise FormatError(f"{file_size - end} bytes follow the last tensor, which ends at byte {end}", where=file)
    return Header({tensor.name: tensor for tensor in ordered}, metadata)


KEPT = 1 << 18
"""Bytes of a header up to which it is kept: a usual one has a tenth of them."""

_kept = lru_cache(maxsize=MOST)(_parsed)


def _decoded(header: bytes, file: str) -> str:
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"the header is not UTF-8 at byte {8 + error.start}", where=file) from error
    if not text.startswith("{"):
        raise FormatError("the header does not start with {", where=file)
    return text


def _scan(text: str, offset: int, file: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] | None = None
    end = 0
    for name, at in (members := _Members(text, 0, file)):
        if name == "__metadata__":
            if metadata is not None:
                raise FormatError("__metadata__ stands twice in the header", where=file)
            metadata, members.end = _metadata(text, at, file)
            continue
        if name in tensors:
            raise FormatError("stands twice in the header", where=_at(file, name))
        entry, members.end = _entry(text, at, _at(file, name))
        tensors[name] = _tensor(name, entry, offset, file)
    end = _SPACE.match(text, members.end).end()  # type: ignore[union-attr]
    if end != len(text):
        raise FormatError(f"the header's JSON goes on after its end, at character {end}", where=file)
    return tensors, metadata or {}


class _Members:
    """The members of the JSON object at ``start``: iterating gives each key and where its value begins.

    The consumer sets ``end`` to where the value ends; after the last member it is where the object ends.
    """

    def __init__(self, text: str, start: int, file: str) -> None:
        self.text, self.start, self.end, self.file = text, start, start + 1, file

    def __iter__(self) -> Iterator[tuple[str, int]]:
        first = True
        while True:
            at = self._skip(self.end)
            mark = self.text[at : at + 1]
            if mark == "}":
                self.end = at + 1
                return
            if not first:
                if mark != ",":
                    self._expected(", or }", at)
                at = self._skip(at + 1)
            first = False
            name, at = _string(self.text, at, self.file)
            at = self._skip(at)
            if self.text[at : at + 1] != ":":
                self._expected(":", at)
            yield name, self._skip(at + 1)

    def _skip(self, at: int) -> int:
        return _SPACE.match(self.text, at).end()  # type: ignore[union-attr]

    def _expected(self, what: str, at: int) -> NoReturn:
        raise FormatError(f"the header is not JSON: expected {what} at character {at}", where=self.file)


def _metadata(text: str, at: int, file: str) -> tuple[dict[str, str], int]:
    if text.startswith("null", at):
        return {}, at + 4
    if text[at : at + 1] != "{":
        raise FormatError("__metadata__ is not an object", where=file)
    metadata: dict[str, str] = {}
    for key, value_at in (members := _Members(text, at, file)):
        if text[value_at : value_at + 1] != '"':
            raise FormatError(f"__metadata__ holds something that is not a string, under {key[:100]!r}", where=file)
        if key in metadata:
            raise FormatError(f"__metadata__ has {key[:100]!r} twice", where=file)
        metadata[key], members.end = _string(text, value_at, file)
    return metadata, members.end


def _string(text: str, at: int, file: str) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise FormatError(f"the header is not JSON: expected a string at character {at}", where=file)
    try:
        value, end = _DECODER.raw_decode(text, at)
        value.encode("utf-8")
    except json.JSONDecodeError as error:
        raise FormatError(f"the header is not JSON: {error.msg} at character {error.pos}", where=file) from error
    except UnicodeEncodeError as error:
        raise FormatError(f"the string at character {at} holds half a surrogate pair", where=file) from error
    return value, end


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


_DECODER = json.JSONDecoder(
    parse_int=_unsigned, parse_float=_no_number, parse_constant=_no_number, object_pairs_hook=_fields
)


def _entry(text: str, at: int, where: str) -> tuple[dict[str, Any], int]:
    if text[at : at + 1] != "{":
        raise FormatError(f"its entry is not an object, at character {at}", where=where)
    close = text.find("}", at, at + ENTRY_CAP)
    if close < 0:
        raise FormatError(f"its entry does not end within {ENTRY_CAP} characters", where=where)
    try:
        entry, end = _DECODER.raw_decode(text[at : close + 1])
    except json.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error.msg} at character {at + error.pos}", where=where) from error
    except FormatError as error:
        raise FormatError(error.reason, where=where) from error
    except RecursionError as error:
        raise FormatError("its entry is nested too deep", where=where) from error
    return entry, at + end


def _tensor(name: str, entry: dict[str, Any], offset: int, file: str) -> TensorInfo:
    where = _at(file, name)
    if entry.keys() != {"dtype", "shape", "data_offsets"}:
        missing = ", ".join(sorted({"dtype", "shape", "data_offsets"} - entry.keys()))
        extra = ", ".join(sorted(entry.keys() - {"dtype", "shape", "data_offsets"}))[:100]
        raise FormatError(f"{missing} is missing" if missing else f"{extra} is not in the format", where=where)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise FormatError(f"unknown dtype {str(dtype)[:40]!r}", where=where)
    if not _counts(shape):
        raise FormatError("shape is not a list of unsigned integers", where=where)
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError("data_offsets are not [start, stop] with start <= stop", where=where)
    start, stop = offsets
    wanted = _nbytes(dtype, shape, where)
    if stop - start != wanted:
        raise FormatError(f"{dtype} {shape} takes {wanted} bytes, and data_offsets span {stop - start}", where=where)
    return TensorInfo(name, dtype, tuple(shape), offset + start, offset + stop, file)


def _counts(value: Any) -> bool:
    # type() and not isinstance(): a bool is an int to Python, and none to the format.
    return isinstance(value, list) and all(type(one) is int for one in value)


def _nbytes(dtype: str, shape: list[int], where: str) -> int:
    # The running product must fit 64 bits at every step, even when a later dimension is 0: so the reference counts.
    elements = 1
    for dimension in shape:
        elements *= dimension
        if elements > LIMIT:
            break
    bits = elements * DTYPE_BITS[dtype]
    if bits > LIMIT:
        raise FormatError(f"its shape {str(shape)[:60]} overflows 64 bits", where=where)
    if bits % 8:
        raise FormatError(f"{dtype} {shape} does not fill whole bytes", where=where)
    return bits // 8


def _at(file: str, name: str) -> str:
    return f"{file}: {name if len(name) <= 200 and name.isprintable() else ascii(name[:200])}"
