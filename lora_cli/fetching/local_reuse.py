"""Files that are on this machine already: those of a local folder, or of the cache of huggingface_hub.

Where the file system supports it they share their bytes with the cache. They are hashed before they are used.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lora_cli.core.log import logger
from lora_cli.core.snapshot import Blob, RemoteFile, Revision
from lora_cli.errors import Corrupt
from lora_cli.fetching.file_download import Transfer
from lora_cli.fetching.resolution_history import FetchPlan
from lora_cli.sources import ClientCacheSource, LocalFileSource, Source
from lora_cli.store import Store
from lora_cli.store.atomic_swap import remove_unfinished
from lora_cli.store.blobs import has_blob, sha256_of, store_blob
from lora_cli.store.disk import NO_LINK, make_folder, nearest_folder, on_disk, reflink, write_all
from lora_cli.store.export import is_weights
from lora_cli.store.partial_downloads import Partial
from lora_cli.store.writer_ids import new_writer

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


def link_weights(
    name: str, source: Source, revision: Revision, store: Store, files: Sequence[RemoteFile]
) -> dict[str, Blob]:
    """Path → blob of the local weights that are now in the store as hard links, or were there before.

    A file that cannot be linked (another file system, or no permission) is copied later; the log says so.

    Raises:
        Corrupt: a file changed meanwhile.
        MachineError: a disk error.
        LostBlob: another process cleaned up. Try again.
    """
    blobs = {}
    if isinstance(source, LocalFileSource):
        for file in files:
            if is_weights(file.path):
                blob = _link_blob(f"{name}: {file.path}", source, revision, store, file)
                if blob is not None:
                    blobs[file.path] = blob
    return blobs


def _link_blob(label: str, source: LocalFileSource, revision: Revision, store: Store, file: RemoteFile) -> Blob | None:
    """Hashes the open inode and links exactly that one into the store."""
    path = Path(revision.ref.location, file.path)
    with source.open_file(revision, file, linked=True) as descriptor:
        if not _is_same_file_system(descriptor, store):
            log.info("%s is on a different file system than %s: it is copied", label, store.root)
            return None
        status = os.fstat(descriptor)
        digest = sha256_of(descriptor)
        now = os.fstat(descriptor)
        # Only the ctime may change: another hard link changes it, too.
        if digest is None or (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise Corrupt(f"{path} changed while it was read", hint="try again when it is no longer being written")
        blob = Blob(digest, status.st_size)
        if has_blob(store, blob):
            return blob
        # No download resumes partials from this folder: a linked file must never be written to.
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
            store_blob(store, link, descriptor, blob, foreign=status)
        finally:
            remove_unfinished(folder)
    return blob


def _is_same_file_system(descriptor: int, store: Store) -> bool:
    """Whether the cache is on the file system of the open file, as far as is known before it is hashed."""
    with suppress(OSError):
        return nearest_folder(store.root).stat().st_dev == os.fstat(descriptor).st_dev
    return True


def relist_after_linking(source: Source, plan: FetchPlan) -> FetchPlan:
    """``plan`` with the folder listed again: hard links to its weights change the ctime of these inodes.

    A folder that changed otherwise keeps its old listing.
    """
    again = source.resolve(plan.revision.ref)
    before, after = (
        [(file.path, file.locator.rpartition(":")[0] if is_weights(file.path) else file.locator) for file in one.files]
        for one in (plan.revision, again)
    )
    if before != after:
        return plan
    return replace(plan, revision=again)
