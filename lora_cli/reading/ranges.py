"""A range of a file, in memory."""

from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.sources import Source


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
