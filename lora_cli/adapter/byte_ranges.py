"""Byte ranges of files, headers of safetensors files, and detection of placeholders such as Git LFS pointers."""

from collections.abc import Callable
from dataclasses import dataclass

from lora_cli.adapter.formats import PICKLE, STAND_INS, Format, by_start
from lora_cli.adapter.pickle_machine import ReadBudget
from lora_cli.adapter.safetensors import Header, header_length, parse_header
from lora_cli.errors import FormatError
from lora_cli.refs.adapter_files import MOST_HEADER
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files

FIRST_READ = 1 << 17
"""Bytes of the first range of a weights file: the whole header of nearly every adapter, in one request."""

HEAD = 1 << 12
"""Bytes at the start of a file that are read to recognise it."""


def read_range(files: Files, file: RemoteFile, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop``, fewer if the file is shorter."""
    read = bytearray()
    if stop <= start:
        return b""
    for chunk in files.read(file, start, stop):
        if not read and len(chunk) == stop - start:
            return bytes(chunk)  # no copy if it is bytes already
        read += chunk
        if len(read) >= stop - start:
            break
    return bytes(read[: stop - start])


def read_beginning(files: Files, file: RemoteFile, most: int) -> bytes:
    """The first ``most`` bytes, fewer if the file is shorter.

    Raises:
        FormatError: the file cannot be read as plain bytes (``defect``).
        LoraCliError: what the source raises.
    """
    if file.defect:
        raise FormatError(file.defect, where=file.path)
    return read_range(files, file, 0, most if file.size is None else min(most, file.size))


def read_header(files: Files, file: RemoteFile, most: int = MOST_HEADER) -> Header:
    """The header of a safetensors file, by one range, or two for a large one; at most ``most`` bytes.

    Raises:
        FormatError: the file cannot be read as plain bytes (``defect``), or its header is malformed or too large.
        LoraCliError: what the source raises.
    """
    first = read_beginning(files, file, FIRST_READ)
    check_stand_in(first, file, (*STAND_INS, PICKLE))
    length = header_length(first[:8], file.size, file.path, most)
    header = first[8 : 8 + length]
    if len(header) < length:
        header += read_range(files, file, 8 + len(header), 8 + length)
    if len(header) < length:
        raise FormatError(
            f"truncated: the header has {length} bytes, but only {len(header)} are present", where=file.path
        )
    return parse_header(header, file.size, file.path)


def check_stand_in(first: bytes, file: RemoteFile, formats: tuple[Format, ...] = STAND_INS) -> None:
    """Checks that the file is no placeholder: a pointer file, or a web page.

    Raises:
        FormatError: it is one.
    """
    found = by_start(first, formats)
    if found is not None:
        raise FormatError(f"is {found.title}, not the file itself", where=file.path, hint=found.advice)


@dataclass(frozen=True, slots=True, eq=False)
class RangeReader:
    """``size`` bytes that are read by ranges; ``head`` is in memory. Other reads count against ``budget``.

    ``path`` names them in errors. ``near``: a range costs no round trip.
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
            TooLarge: the limit of ``budget`` is reached.
            LoraCliError: what the source raises.
        """
        if stop <= len(self.head):
            return self.head[start:stop]
        self.budget.read(stop - start)
        return self.fetch(start, stop)

    def part(self, path: str, start: int, size: int) -> "RangeReader":
        """A part of it, with a path of its own."""
        head = self.read(start, start + min(HEAD, size))
        return RangeReader(path, size, head, lambda a, b: self.read(start + a, start + b), self.budget, self.near)
