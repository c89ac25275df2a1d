"""The header of a safetensors file: names, dtypes, shapes and byte ranges. Every malformation is one ``FormatError``.

The format: 8 bytes of little-endian length, that many bytes of JSON, then the tensors' bytes without gap or rest
(https://github.com/huggingface/safetensors#format). We refuse all that the reference implementation refuses, and
besides it a name that stands twice and fields that the format does not have.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from lora_cli.core.plain_header import read_plain
from lora_cli.core.tensor_entry import DECODER, read_entry
from lora_cli.core.tensor_info import DTYPE_BITS, LIMIT, TensorInfo
from lora_cli.errors import FormatError

HEADER_CAP = 100_000_000
"""The format's own limit on the header, in bytes."""

MOST_HEADER = 32 << 20
"""Bytes of a header that are read unless an operator says otherwise: that of 138 240 tensors has 20 MiB."""

MOST_TENSORS = 150_000
"""Tensors of one adapter: one with factors for each of 384 experts in 60 layers has 138 240."""

MOST_METADATA = 10_000
"""Entries of the metadata: trainers of images write a hundred or so."""

__all__ = ["DTYPE_BITS", "HEADER_CAP", "LIMIT", "Header", "TensorInfo", "header_length", "parse_header"]

_SPACE = re.compile(r"[ \t\n\r]*")
_KEY = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
"""A key without escapes, and the colon behind it."""


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

_kept = lru_cache(maxsize=16)(_parsed)


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
        try:
            tensors[name], members.end = read_entry(text, at, name, tensors, offset, file)
        except FormatError as error:
            raise FormatError(error.reason, where=_at(file, name)) from error.__cause__
        if len(tensors) > MOST_TENSORS:
            raise FormatError(f"the header has over {MOST_TENSORS} tensors, more than any adapter", where=file)
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
            if plain := _KEY.match(self.text, at):
                yield plain[1], plain.end()
                continue
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
        if len(metadata) >= MOST_METADATA:
            raise FormatError(f"__metadata__ has over {MOST_METADATA} entries", where=file)
        metadata[key], members.end = _string(text, value_at, file)
    return metadata, members.end


def _string(text: str, at: int, file: str) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise FormatError(f"the header is not JSON: expected a string at character {at}", where=file)
    try:
        value, end = DECODER.raw_decode(text, at)
        value.encode("utf-8")
    except json.JSONDecodeError as error:
        raise FormatError(f"the header is not JSON: {error.msg} at character {error.pos}", where=file) from error
    except UnicodeEncodeError as error:
        raise FormatError(f"the string at character {at} holds half a surrogate pair", where=file) from error
    return value, end


def _at(file: str, name: str) -> str:
    return f"{file}: {name if len(name) <= 200 and name.isprintable() else ascii(name[:200])}"
