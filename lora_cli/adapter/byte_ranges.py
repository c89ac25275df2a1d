"""Byte ranges of files, headers of safetensors files, and detection of placeholders such as Git LFS pointers."""

import io
from functools import partial

from lora_cli.adapter.formats import STAND_INS, by_start
from lora_cli.adapter.safetensors import Header, header_length, parse_header
from lora_cli.errors import FormatError
from lora_cli.refs.adapter_files import MOST_HEADER
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files

FIRST_READ = 1 << 17
"""Bytes of the first range of a weights file: the whole header of nearly every adapter, in one request."""

HEAD, TAIL = 1 << 12, 1 << 16
"""Bytes at the start and at the end of a torch file that are read first."""

MOST_AT_ONCE = 32 << 20
"""Bytes of a pickle, or of a zip's directory: 150,000 tensors have 24 MiB."""


def read_range(files: Files, file: RemoteFile, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop``, fewer if the file is shorter."""
    read = bytearray()
    for chunk in files.read(file, start, stop) if start < stop else ():
        if not read and len(chunk) == stop - start:
            return bytes(chunk)  # no copy if it is bytes already
        read += chunk
    return bytes(read)


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
    check_stand_in(first, file)
    end = 8 + header_length(first[:8], file.size, file.path, most)
    header = first[8:end] + read_range(files, file, len(first), end)
    if 8 + len(header) < end:
        why = f"truncated: the header has {end - 8} bytes, but only {len(header)} are present"
        raise FormatError(why, where=file.path)
    return parse_header(header, file.size, file.path)


def check_stand_in(first: bytes, file: RemoteFile) -> None:
    """Checks that the file is no placeholder: a pointer file, or a web page.

    Raises:
        FormatError: it is one.
    """
    found = by_start(first, STAND_INS)
    if found is not None:
        raise FormatError(f"is {found.title}, not the file itself", where=file.path, hint=found.advice)


class RangeStream(io.RawIOBase):
    """A file of a source as a stream. ``head`` and ``tail`` are read first: a zip has its directory at its end."""

    def __init__(self, files: Files, file: RemoteFile) -> None:
        if file.defect or file.size is None:
            raise FormatError(file.defect or "its source does not report its size, so it cannot be read by ranges")
        self.size, self._at, self.fetch = file.size, 0, partial(read_range, files, file)
        self.head = self.fetch(0, min(HEAD, self.size))
        self.tail = self.fetch(max(0, self.size - TAIL), self.size) if self.head.startswith(b"PK") else b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As a file does. Raises ``OSError`` for a place before the first byte."""
        at = offset + (0, self._at, self.size)[whence]
        if at < 0:
            raise OSError("before the first byte")
        self._at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        """As a file does. Raises ``FormatError`` for more than ``MOST_AT_ONCE`` bytes."""
        start = self._at
        stop = self.size if size is None or size < 0 else min(start + size, self.size)
        if stop - start > MOST_AT_ONCE:
            raise FormatError(f"has {stop - start} bytes to read at once, more than any weights need")
        self._at, first = max(start, stop), self.size - len(self.tail)
        if stop <= len(self.head):
            return self.head[start:stop]
        return self.tail[start - first : stop - first] if start >= first else self.fetch(start, stop)
