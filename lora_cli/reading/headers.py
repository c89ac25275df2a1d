"""The header of a safetensors file, read by ranges; and what was put in a file's place."""

from lora_cli.core.formats import PICKLE, STAND_INS, Format, by_start
from lora_cli.core.safetensors import MOST_HEADER, Header, header_length, parse_header
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.reading.ranges import read_range
from lora_cli.sources import Source

FIRST_READ = 1 << 17
"""Bytes of the first range of a weights file: the whole header of nearly every adapter, in one request."""


def read_header(source: Source, revision: Revision, file: RemoteFile, most: int = MOST_HEADER) -> Header:
    """The header of one safetensors file, in one range for a usual one and two for a large one.

    Of over ``most`` bytes it is not read.

    Raises:
        FormatError: the file cannot be read as plain bytes (``defect``), or its header is malformed.
        LoraCliError: what the source raises.
    """
    if file.defect:
        raise FormatError(file.defect, where=file.path)
    stop = FIRST_READ if file.size is None else min(FIRST_READ, file.size)
    first = read_range(source, revision, file, 0, stop)
    check_stand_in(first, file, (*STAND_INS, PICKLE))
    length = header_length(first[:8], file.size, file.path)
    if length > most:
        raise FormatError(
            f"its header has {length} bytes, and {most} are allowed",
            where=file.path,
            hint="LORA_CLI_MAX_HEADER_BYTES and max_header_bytes in the settings say how many",
        )
    header = first[8 : 8 + length]
    if len(header) < length:
        header += read_range(source, revision, file, 8 + len(header), 8 + length)
    if len(header) < length:
        raise FormatError(f"truncated: the header has {length} bytes, and {len(header)} are there", where=file.path)
    return parse_header(header, file.size, file.path)


def check_stand_in(first: bytes, file: RemoteFile, formats: tuple[Format, ...] = STAND_INS) -> None:
    """Whether something else was put in the file's place: a pointer, a web page, a server's message.

    Raises:
        FormatError: so it is; what it is, and what to do.
    """
    found = by_start(first, formats)
    if found is not None:
        raise FormatError(f"is {found.title}, not the file itself", where=file.path, hint=found.advice)
