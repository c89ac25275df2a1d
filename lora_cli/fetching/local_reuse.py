"""Files that are on this machine already: those of a local folder, or of the cache of huggingface_hub."""

import os
from contextlib import suppress

from lora_cli.core.log import logger
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.sources import ClientCacheSource, LocalFileSource, Source
from lora_cli.store.disk import reflink, write_all
from lora_cli.store.partials import Partial

CHUNK = 1 << 20

log = logger(__name__)


def reuse_local_bytes(source: Source, revision: Revision, file: RemoteFile, target: Partial) -> None:
    """Fills a partial file with bytes that are on this machine, shared with them where the file system can.

    The caller hashes them as a leftover's. Files of a local folder are shared or read as those of any source. Of the
    cache of huggingface_hub only files with a known digest and size are taken, as far as they can be copied.

    Raises:
        Corrupt: a local file changed meanwhile.
        MachineError: this user may not read a local file.
    """
    size = file.size or 0
    if target.size >= size:
        return
    if isinstance(source, LocalFileSource) and not target.size:
        with source.open_file(revision, file) as descriptor:
            reflink(descriptor, target.descriptor)
    elif isinstance(source, ClientCacheSource) and (file.sha256 or file.git_sha1):
        # The cache names it by the origin's own digest: a lock may have added a sha256.
        with source.cached_file(revision, revision.file(file.path) or file) as found:
            if found is None:
                return
            log.info("%s: %s copied from the cache of the Hub's own client", revision.ref, file.path)
            if not target.size and reflink(found, target.descriptor):
                return
            at = target.size
            with suppress(OSError):  # the rest is fetched, and says what is wrong with the disk
                while chunk := os.pread(found, min(CHUNK, size - at), at):
                    write_all(target.descriptor, chunk, at)
                    at += len(chunk)
