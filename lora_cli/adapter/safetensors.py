"""The header of a safetensors file: names, dtypes, shapes and byte ranges; and what a scan of a tensor's values found.

The format: 8 bytes of little-endian length, that many bytes of JSON, then the tensors' bytes without gap or rest
(https://github.com/huggingface/safetensors#format). We refuse all that the reference implementation refuses, and
besides it a name that appears twice and fields that the format does not have. Every malformation is one
``FormatError``.

The JSON is read member by member, because a whole document of hostile JSON takes many times its size in memory.
"""

import json
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn, cast

from lora_cli.errors import FormatError

HEADER_CAP = 100_000_000
"""The format's own limit on the header, in bytes."""

MOST_TENSORS = 150_000
"""Tensors of one adapter: one with factors for each of 384 experts in 60 layers has 138 240."""

MOST_METADATA = 10_000
"""Entries of the metadata: trainers of images write a hundred or so."""

ENTRY_CAP = 1 << 16
"""Characters of JSON that one tensor's entry may have; with it, memory stays in proportion to the header."""

CACHED_HEADER = 1 << 18
"""Bytes of a header up to which it is cached: a usual one has a tenth of them."""

LIMIT = 2**64 - 1
"""The largest count that the format knows: it is an unsigned 64-bit integer."""

LONGEST_NAME = 1024
"""Characters of a tensor's name, and of a module's path: those of models have a tenth of it."""

_DTYPES: Mapping[str, tuple[int, str]] = {
    "BOOL": (8, "bool"),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "I16": (16, "int16"),
    "U16": (16, "uint16"),
    "I32": (32, "int32"),
    "U32": (32, "uint32"),
    "I64": (64, "int64"),
    "U64": (64, "uint64"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "F32": (32, "float32"),
    "F64": (64, "float64"),
    "C64": (64, "complex64"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "F6_E2M3": (6, ""),
    "F6_E3M2": (6, ""),
    "F4": (4, ""),
}

DTYPE_BITS: Mapping[str, int] = {dtype: bits for dtype, (bits, _) in _DTYPES.items()}
"""Bits of one element, by safetensors' own dtype name (0.8)."""

TORCH_NAMES: Mapping[str, str] = {dtype: name for dtype, (_, name) in _DTYPES.items() if name}
"""The names of dtypes in torch and ``safetensors.TensorSpec``, for those whose elements fill whole bytes."""


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

    The last few are cached: adapters that were trained alike have the same header, and then share one ``Header``.
    Linear in time. Takes no more memory than a small multiple of the header, whatever is in it.

    Raises:
        FormatError: anything that the format does not allow, with the tensor's name or the byte where it is.
    """
    return (_parse_cached if len(header) <= CACHED_HEADER else _parse)(bytes(header), file_size, file)


def _parse(header: bytes, file_size: int | None, file: str) -> Header:
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"the header is not UTF-8 at byte {8 + error.start}", where=file) from error
    tensors, metadata = _Scanner(text, 8 + len(header), file).read()
    ordered = sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.stop))
    _check_layout(ordered, 8 + len(header), file_size, file)
    return Header({tensor.name: tensor for tensor in ordered}, metadata)


_parse_cached = lru_cache(maxsize=16)(_parse)


def _check_layout(ordered: list[TensorInfo], end: int, file_size: int | None, file: str) -> None:
    """Raises ``FormatError`` unless the tensors' bytes follow each other from ``end`` to the end of the file."""
    for tensor in ordered:
        if tensor.start != end:
            what = "overlaps the tensor before it" if tensor.start < end else "leaves a gap after the tensor before it"
            raise FormatError(
                f"starts at byte {tensor.start} and {what}, which ends at {end}", where=_at(file, tensor.name)
            )
        end = tensor.stop
    if file_size is not None and end > file_size:
        raise FormatError(f"truncated: the tensors end at byte {end}, the file at {file_size}", where=file)
    if file_size is not None and end < file_size:
        raise FormatError(f"{file_size - end} bytes follow the last tensor, which ends at byte {end}", where=file)


def _unsigned(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else LIMIT + 1
    if number > LIMIT or digits[0] == "-":
        _no_number(digits)
    return number


def _no_number(digits: str) -> NoReturn:
    raise FormatError(f"{digits[:24]} is not an unsigned 64-bit integer")


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise FormatError("a field appears twice in its entry")
    return fields


_DECODER = json.JSONDecoder(
    parse_int=_unsigned, parse_float=_no_number, parse_constant=_no_number, object_pairs_hook=_fields
)
_OPENING, _COLON, _SEPARATOR = (
    re.compile(mark.replace("_", r"[ \t\n\r]*")) for mark in (r"\{_(}?)_", "_(:?)_", "_([,}]?)_")
)
"""The punctuation before, within and after a member of an object, with the white space around it."""


class _Scanner:
    """Reads the JSON ``text`` of a header from left to right; the tensors' bytes begin at ``offset`` of the file."""

    def __init__(self, text: str, offset: int, file: str) -> None:
        self.text, self.offset, self.file = text, offset, file
        self.position = 0

    def read(self) -> tuple[dict[str, TensorInfo], dict[str, str]]:
        """The tensors by name, and the metadata. Raises ``FormatError``."""
        if not self.text.startswith("{"):
            raise self._error("the header does not start with {")
        tensors: dict[str, TensorInfo] = {}
        metadata: dict[str, str] | None = None
        for name in self._keys():
            if name == "__metadata__":
                if metadata is not None:
                    raise self._error("__metadata__ appears twice in the header")
                metadata = self._metadata()
                continue
            try:
                _check_name(name, tensors)
                tensors[name] = _tensor(name, self._entry(), self.offset, self.file)
            except FormatError as error:
                raise FormatError(error.reason, where=_at(self.file, name)) from error.__cause__
            if len(tensors) > MOST_TENSORS:
                raise self._error(f"the header has over {MOST_TENSORS} tensors, more than any adapter")
        if self.position != len(self.text):
            raise self._error(f"the header has text after the end of its JSON, at character {self.position}")
        return tensors, metadata or {}

    def _keys(self) -> Iterator[str]:
        """The keys of the object that begins here; the caller reads each value before it asks for the next key."""
        mark = self._match(_OPENING)
        while mark != "}":
            name = self._string()
            if not self._match(_COLON):
                raise self._error(f"the header is not JSON: expected : at character {self.position}")
            yield name
            mark = self._match(_SEPARATOR)
            if not mark:
                raise self._error(f"the header is not JSON: expected , or }} at character {self.position}")

    def _match(self, pattern: re.Pattern[str]) -> str:
        """The punctuation that ``pattern`` finds here, behind which ``position`` then is; empty if it is not there."""
        found = pattern.match(self.text, self.position)
        assert found is not None  # both the white space and the mark are optional
        self.position = found.end()
        return found[1]

    def _metadata(self) -> dict[str, str]:
        if self.text.startswith("null", self.position):
            self.position += 4
            return {}
        if self.text[self.position : self.position + 1] != "{":
            raise self._error("__metadata__ is not an object")
        metadata: dict[str, str] = {}
        for key in self._keys():
            if self.text[self.position : self.position + 1] != '"':
                raise self._error(f"__metadata__ contains a value that is not a string, under {key[:100]!r}")
            if key in metadata:
                raise self._error(f"__metadata__ has {key[:100]!r} twice")
            if len(metadata) >= MOST_METADATA:
                raise self._error(f"__metadata__ has over {MOST_METADATA} entries")
            metadata[key] = self._string()
        return metadata

    def _string(self) -> str:
        start = self.position
        if self.text[start : start + 1] != '"':
            raise self._error(f"the header is not JSON: expected a string at character {start}")
        try:
            value, self.position = _DECODER.raw_decode(self.text, start)
            value.encode("utf-8")
        except json.JSONDecodeError as error:
            raise self._error(f"the header is not JSON: {error.msg} at character {error.pos}") from error
        except UnicodeEncodeError as error:
            raise self._error(f"the string at character {start} contains half a surrogate pair") from error
        return str(value)

    def _entry(self) -> dict[str, Any]:
        """The fields of one tensor: an object that holds no other object."""
        start = self.position
        if self.text[start : start + 1] != "{":
            raise FormatError(f"its entry is not an object, at character {start}")
        close = self.text.find("}", start, start + ENTRY_CAP)
        if close < 0:
            raise FormatError(f"its entry does not end within {ENTRY_CAP} characters")
        self.position = close + 1
        try:
            entry, _ = _DECODER.raw_decode(self.text[start : close + 1])
        except json.JSONDecodeError as error:
            raise FormatError(f"not JSON: {error.msg} at character {start + error.pos}") from error
        except RecursionError as error:
            raise FormatError("its entry is nested too deeply") from error
        return cast("dict[str, Any]", entry)

    def _error(self, reason: str) -> FormatError:
        return FormatError(reason, where=self.file)


def _check_name(name: str, known: Container[str]) -> None:
    if name in known:
        raise FormatError("appears twice in the header")
    if len(name) > LONGEST_NAME:
        raise FormatError(f"its name has {len(name)} characters, over the limit of {LONGEST_NAME}")


_FIELDS = frozenset({"dtype", "shape", "data_offsets"})


def _tensor(name: str, entry: dict[str, Any], offset: int, file: str) -> TensorInfo:
    if entry.keys() != _FIELDS:
        missing = ", ".join(sorted(_FIELDS - entry.keys()))
        extra = ", ".join(sorted(entry.keys() - _FIELDS))[:100]
        raise FormatError(f"{missing} is missing" if missing else f"{extra} is not a field of the format")
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
    return isinstance(value, list) and {*map(type, value)} <= {int}


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


def _at(file: str, name: str) -> str:
    return f"{file}: {name if len(name) <= 200 and name.isprintable() else ascii(name[:200])}"
