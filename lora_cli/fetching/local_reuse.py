"""Files that are on this machine already: those of a local folder, or of the cache of huggingface_hub.

Where the file system supports it they share their bytes with the cache. They are hashed before they are used.
"""

import os
from contextlib import suppress

from lora_cli.core.log import logger
from lora_cli.core.snapshot import Revision
from lora_cli.fetching.file_download import Transfer
from lora_cli.sources import ClientCacheSource, LocalFileSource, Source
from lora_cli.store.disk import on_disk, reflink, write_all
from lora_cli.store.partials import Partial

CHUNK = 1 << 20

log = logger(__name__)


def reflink_local_file(source: Source, revision: Revision, transfer: Transfer) -> None:
    """Lets an empty partial file share the bytes of a local file; they are hashed as a leftover partial is.

    Where the file system has no reflinks, nothing happens, and the bytes are read.

    Raises:
        Corrupt: the file changed meanwhile.
        MachineError: this user may not read it.
    """
    partial = transfer.partial
    if isinstance(source, LocalFileSource) and partial.size == 0 and transfer.file.size:
        with source.open_file(revision, transfer.file) as descriptor:
            reflink(descriptor, partial.descriptor)


def copy_from_hub_cache(source: Source, revision: Revision, transfer: Transfer) -> None:
    """Continues a partial file with the copy in the cache of huggingface_hub; the bytes are hashed as a leftover's are.

    Only files with a known digest and size are taken. Where there is no copy, nothing happens.

    Raises:
        MachineError: the partial file cannot be written.
    """
    file, target = transfer.file, transfer.partial
    promised = file.sha256 or file.git_sha1
    if not isinstance(source, ClientCacheSource) or not promised or not file.size or target.size >= file.size:
        return
    # The cache names it by the origin's own digest: a lock may have added a sha256.
    with source.cached_file(revision, revision.file(file.path) or file) as descriptor:
        if descriptor is None:
            return
        log.info("%s: copied from the cache of the Hub's own client", transfer.label)
        if target.size or not reflink(descriptor, target.descriptor):
            _copy(descriptor, transfer, target)


def _copy(descriptor: int, transfer: Transfer, target: Partial) -> None:
    """Copies what can be read; the rest is fetched."""
    at, size = target.size, transfer.file.size or 0
    with on_disk("writing", target.path):
        while chunk := _read(descriptor, min(CHUNK, size - at), at):
            write_all(target.descriptor, chunk, at)
            at += len(chunk)


def _read(descriptor: int, count: int, at: int) -> bytes:
    """Bytes of another tool's file; empty if it cannot be read."""
    with suppress(OSError):
        return os.pread(descriptor, count, at)
    return b""
