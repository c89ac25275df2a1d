"""Files that are on this machine already: a folder's, or what another tool has downloaded.

They are shared with the cache instead of copied, where the file system can, and hashed before they are believed.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lora_cli.core.log import logger
from lora_cli.core.snapshot import Blob, RemoteFile, Revision
from lora_cli.errors import Corrupt
from lora_cli.fetching.file_download import Transfer
from lora_cli.sources import ClientCacheSource, LocalFileSource, Source
from lora_cli.store import Store
from lora_cli.store.atomic_swap import discard
from lora_cli.store.blobs import has_blob, keep_blob, sha256_of
from lora_cli.store.disk import NO_LINK, make_folder, nearest_folder, on_disk, reflink, write_all
from lora_cli.store.export import is_weights
from lora_cli.store.partial_downloads import Partial
from lora_cli.store.writer_ids import new_writer

CHUNK = 1 << 20

log = logger(__name__)


def clone(source: Source, revision: Revision, transfer: Transfer) -> None:
    """Lets an empty partial file share the bytes of a near one; it is hashed as what an earlier writer left is.

    Where the file system cannot, nothing happens, and the bytes are read.

    Raises:
        Corrupt: the file changed meanwhile.
        MachineError: this user may not read it.
    """
    partial = transfer.partial
    if isinstance(source, LocalFileSource) and partial.size == 0 and transfer.file.size:
        with source.open_file(revision, transfer.file) as descriptor:
            reflink(descriptor, partial.descriptor)


def adopt(source: Source, revision: Revision, transfer: Transfer) -> None:
    """Lets a partial file go on with what this machine has of it; it is hashed as an earlier writer's bytes are.

    Only a file with a digest and a size to be held to is taken. Where there is none, nothing happens.

    Raises:
        MachineError: it cannot be written.
    """
    file, target = transfer.file, transfer.partial
    promised = file.sha256 or file.git_sha1
    if not isinstance(source, ClientCacheSource) or not promised or not file.size or target.size >= file.size:
        return
    # It is kept under the name that its origin has for it: a lock may have told more of it.
    with source.cached_file(revision, revision.file(file.path) or file) as descriptor:
        if descriptor is None:
            return
        log.info("%s: copied from the cache of the Hub's own client", transfer.label)
        if target.size or not reflink(descriptor, target.descriptor):
            _copy(descriptor, transfer, target)


def _copy(descriptor: int, transfer: Transfer, target: Partial) -> None:
    """As far as it can be read: the rest is fetched."""
    at, size = target.size, transfer.file.size or 0
    with on_disk("writing", target.path):
        while chunk := _read(descriptor, min(CHUNK, size - at), at):
            write_all(target.descriptor, chunk, at)
            at += len(chunk)


def _read(descriptor: int, count: int, at: int) -> bytes:
    """Bytes of another tool's file; none if it cannot be read."""
    with suppress(OSError):
        return os.pread(descriptor, count, at)
    return b""


def link_weights(
    name: str, source: Source, revision: Revision, store: Store, files: Sequence[RemoteFile]
) -> dict[str, Blob]:
    """Path → blob of the near weights that are in the store now as hard links, or were there before.

    A file that cannot be linked (another file system, or not allowed) is left to be copied, and the log says so.

    Raises:
        Corrupt: a file changed meanwhile.
        MachineError: this machine does not let us.
        LostBlob: another process cleaned up. Try again.
    """
    blobs = {}
    if isinstance(source, LocalFileSource):
        for file in files:
            if is_weights(file.path):
                blob = _linked(f"{name}: {file.path}", source, revision, store, file)
                if blob is not None:
                    blobs[file.path] = blob
    return blobs


def _linked(label: str, source: LocalFileSource, revision: Revision, store: Store, file: RemoteFile) -> Blob | None:
    """Hashes the inode that is open, and gives that very one a name in the store; nobody else's."""
    path = Path(revision.ref.location, file.path)
    with source.open_file(revision, file, linked=True) as descriptor:
        if not _may_link(descriptor, store):
            log.info("%s is on a different file system than %s: it is copied", label, store.root)
            return None
        status = os.fstat(descriptor)
        digest = sha256_of(descriptor)
        now = os.fstat(descriptor)
        # A hard link that came or went does not count.
        if digest is None or (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise Corrupt(f"{path} changed while it was read", hint="try again when it is no longer being written")
        blob = Blob(digest, status.st_size)
        if has_blob(store, blob):
            return blob
        # A folder that no download takes a partial from: what is linked here must never be written to.
        folder = store.partials / "links" / str(new_writer())
        link = folder / "weights"
        try:
            with on_disk("linking", path):
                make_folder(folder)
                try:
                    link.hardlink_to(path.resolve())
                except OSError as error:
                    if error.errno not in NO_LINK:
                        raise
                    log.info("%s cannot be linked (%s): it is copied", label, error.strerror)
                    return None
            keep_blob(store, link, descriptor, blob, foreign=status)
        finally:
            discard(folder)
    return blob


def _may_link(descriptor: int, store: Store) -> bool:
    """Whether the cache is on the file's own file system, as far as is known before it is hashed."""
    with suppress(OSError):
        return nearest_folder(store.root).stat().st_dev == os.fstat(descriptor).st_dev
    return True


def settled(source: Source, revision: Revision) -> Revision:
    """``revision`` as it is found after its weights were linked, which changes the inodes' own times and nothing else.

    One that changed otherwise is given back as it was.
    """
    again = source.resolve(revision.ref)
    before, after = (
        [(file.path, file.locator.rpartition(":")[0] if is_weights(file.path) else file.locator) for file in one.files]
        for one in (revision, again)
    )
    return again if before == after else revision
