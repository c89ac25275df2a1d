"""Blobs: files that are named by their sha256 and never change.

All have the same modification time. A blob with another one was touched: it is hashed before it is used again.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from lora_cli.core.log import logger
from lora_cli.core.snapshot import Blob
from lora_cli.store import Store
from lora_cli.store.disk import EXHAUSTED, on_disk, opened, remove_path
from lora_cli.store.locks import OTHERS_S, exclusive, is_named, shared

BLOB_MTIME_NS = 946_684_800 * 10**9
"""2000-01-01: valid in archives that start in 1980, and no real file has that time."""

log = logger(__name__)


class LostBlob(Exception):
    """A file was removed or taken over by another process before it was used. Fetch it again."""


def seal(descriptor: int) -> None:
    """Gives a file of the cache the mode and time by which it is known to be unchanged. Raises ``OSError``."""
    os.fchmod(descriptor, 0o444)
    os.utime(descriptor, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS))


def store_blobs(store: Store, written: Sequence[tuple[Path, int, Blob]]) -> None:
    """Renames files to their blobs, durably: all are synced together, then renamed. Each has its path and descriptor.

    An existing blob stays; the caller removes the file then. Raises ``LostBlob`` if a path is no longer that file, and
    ``MachineError``.
    """
    with on_disk("writing", store.blobs), ThreadPoolExecutor(16) as pool:
        new = [one for one in written if not has_blob(store, one[2])]
        list(pool.map(os.fsync, [descriptor for _, descriptor, _ in new]))
        for path, descriptor, blob in new:
            if not is_named(path, descriptor):
                raise LostBlob(str(path))
            if has_blob(store, blob):
                continue  # the same bytes under another name, or from another process
            seal(descriptor)
            target = store.blob(blob.sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(target)
            except FileNotFoundError as error:
                raise LostBlob(str(path)) from error


def has_blob(store: Store, blob: Blob) -> bool:
    """Whether the blob is cached and intact. A corrupt one is removed."""
    return is_intact(store, store.blob(blob.sha256), lambda path: is_sound(path, blob))


def is_sound(path: Path, blob: Blob) -> bool:
    """Whether ``path`` has the bytes of ``blob``. They are hashed only if its times show that it was touched.

    Raises ``OSError`` if this process has no descriptor or memory left to check.
    """
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_size != blob.size:
        return False
    if status.st_mtime_ns != BLOB_MTIME_NS:
        if sha256_of(path) != blob.sha256:
            return False
        with suppress(OSError):  # A copied cache has new times. They are reset where this user may write.
            os.utime(path, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS), follow_symlinks=False)
    return True


def sha256_of(path: Path) -> str | None:
    """The sha256 of a plain file; None when it is none or cannot be read. Raises as ``is_sound``."""
    try:
        with opened(path) as descriptor, open(descriptor, "rb", buffering=0, closefd=False) as stream:
            is_plain = stat.S_ISREG(os.fstat(descriptor).st_mode)
            return hashlib.file_digest(stream, "sha256").hexdigest() if is_plain else None
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        return None


def is_intact(store: Store, path: Path, is_good: Callable[[Path], bool], *, quiet: bool = False) -> bool:
    """Whether a blob or snapshot is there and ``is_good``; a corrupt one is removed, with a warning unless ``quiet``.

    Nobody else removes it meanwhile: not garbage collection, and not who takes it for corrupt, too.
    """
    if not os.path.lexists(path) or is_good(path):
        return os.path.lexists(path)
    with shared(store, path.name), exclusive(store, path.name[:12], OTHERS_S):
        if not os.path.lexists(path) or is_good(path):
            return os.path.lexists(path)
        with suppress(OSError):  # where this user may not remove it
            discard(store, path)
            if not quiet:
                log.warning("the cached file was corrupt and was removed: %s", path)
    return False


def discard(store: Store, path: Path) -> None:
    """Removes a file or folder of the cache in one step. Raises ``OSError``."""
    store.snapshots.mkdir(parents=True, exist_ok=True)
    trash = store.snapshots / os.urandom(6).hex()  # which exists: a full disk has no space for another folder
    path.rename(trash)
    remove_path(trash)
