"""A file by ranges: its bytes, the header of a safetensors file, and what was put in a file's place."""

from collections.abc import Callable
from dataclasses import dataclass

from lora_cli.core.foreign_formats import PICKLE, STAND_INS, Format, by_start
from lora_cli.core.pickles.machine import ReadBudget
from lora_cli.core.safetensors import MOST_HEADER, Header, header_length, parse_header
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.sources import Source

FIRST_READ = 1 << 17
"""Bytes of the first range of a weights file: the whole header of nearly every adapter, in one request."""

HEAD = 1 << 12
"""Bytes of a file's beginning that are read to know it."""


def read_range(source: Source, revision: Revision, file: RemoteFile, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop``, or as many of them as the file has."""
    read = bytearray()
    if stop <= start:
        return b""
    for chunk in source.read(revision, file, start, stop):
        if not read and len(chunk) == stop - start:
            return bytes(chunk)  # which copies nothing where it is bytes already
        read += chunk
        if len(read) >= stop - start:
            break
    return bytes(read[: stop - start])


def read_beginning(source: Source, revision: Revision, file: RemoteFile, most: int) -> bytes:
    """The first ``most`` bytes, or all where there are fewer.

    Raises:
        FormatError: the file cannot be read as plain bytes (``defect``).
        LoraCliError: what the source raises.
    """
    if file.defect:
        raise FormatError(file.defect, where=file.path)
    return read_range(source, revision, file, 0, most if file.size is None else min(most, file.size))


def read_header(source: Source, revision: Revision, file: RemoteFile, most: int = MOST_HEADER) -> Header:
    """The header of one safetensors file, in one range for a usual one and two for a large one.

    Of over ``most`` bytes it is not read.

    Raises:
        FormatError: the file cannot be read as plain bytes (``defect``), or its header is malformed.
        LoraCliError: what the source raises.
    """
    first = read_beginning(source, revision, file, FIRST_READ)
    check_stand_in(first, file, (*STAND_INS, PICKLE))
    length = header_length(first[:8], file.size, file.path)
    if length > most:
        raise FormatError(
            f"its header has {length} bytes, but {most} are allowed",
            where=file.path,
            hint="the limit is set by LORA_CLI_MAX_HEADER_BYTES or max_header_bytes in the settings",
        )
    header = first[8 : 8 + length]
    if len(header) < length:
        header += read_range(source, revision, file, 8 + len(header), 8 + length)
    if len(header) < length:
        raise FormatError(
            f"truncated: the header has {length} bytes, but only {len(header)} are present", where=file.path
        )
    return parse_header(header, file.size, file.path)


def check_stand_in(first: bytes, file: RemoteFile, formats: tuple[Format, ...] = STAND_INS) -> None:
    """Whether something else was put in the file's place: a pointer, a web page, a server's message.

    Raises:
        FormatError: so it is; what it is, and what to do.
    """
    found = by_start(first, formats)
    if found is not None:
        raise FormatError(f"is {found.title}, not the file itself", where=file.path, hint=found.advice)


@dataclass(frozen=True, slots=True, eq=False)
class Readable:
    """``size`` bytes, whose ``head`` is here; what else is read of them is taken off ``budget``.

    ``path`` names them in errors. ``near`` says that a range costs no round trip.
    """

    path: str
    size: int
    head: bytes
    fetch: Callable[[int, int], bytes]
    budget: ReadBudget
    near: bool = True

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``.

        Raises:
            TooLarge: no more is to be read.
            LoraCliError: what the source raises.
        """
        if stop <= len(self.head):
            return self.head[start:stop]
        self.budget.read(stop - start)
        return self.fetch(start, stop)

    def part(self, path: str, start: int, size: int) -> "Readable":
        """What is within it from ``start`` on, under a name of its own."""
        head = self.read(start, start + min(HEAD, size))
        return Readable(path, size, head, lambda a, b: self.read(start + a, start + b), self.budget, self.near)
