"""Blobs: files that are named by their sha256 and never change.

All have the same modification time. A blob with another one was touched: it is hashed before it is used again.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lora_cli.core.log import logger
from lora_cli.core.snapshot import Blob
from lora_cli.store import Store
from lora_cli.store.disk import EXHAUSTED, on_disk, opened, remove_path
from lora_cli.store.locks import is_named

BLOB_MODE = 0o444
BLOB_MTIME_NS = 946_684_800 * 10**9
"""2000-01-01: valid in archives that start in 1980, and no real file has that time."""

SYNCED_AT_ONCE = 16

log = logger(__name__)


class LostBlob(Exception):
    """A file was removed or taken over by another process before it was used. Fetch it again."""


def seal(descriptor: int) -> None:
    """Gives a file of the cache the mode and time by which it is known to be unchanged.

    Raises:
        OSError: as it comes.
    """
    os.fchmod(descriptor, BLOB_MODE)
    os.utime(descriptor, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS))


def store_blobs(store: Store, written: Sequence[tuple[Path, int, Blob]]) -> None:
    """Renames files to their blobs, durably: all are synced together, then renamed. Each has its path and descriptor.

    An existing blob stays; the caller removes the file then.

    Raises:
        LostBlob: a path is no longer that file.
        MachineError: a disk error.
    """
    with on_disk("writing", store.blobs), ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
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
    path = store.blob(blob.sha256)
    if not os.path.lexists(path):
        return False
    return is_intact(store, path, lambda there: is_sound(there, blob))


def is_sound(path: Path, blob: Blob) -> bool:
    """Whether ``path`` has the bytes of ``blob``. They are hashed only if its times show that it was touched.

    Raises:
        OSError: this process has no descriptor or memory left to check.
    """
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_size != blob.size:
        return False
    if status.st_mtime_ns == BLOB_MTIME_NS:
        return True
    with _opened(path) as descriptor:
        if descriptor is None:
            return False
        if sha256_of(descriptor) != blob.sha256:
            return False
        # A copied cache has new times. They are reset where this user may write.
        with suppress(OSError):
            os.utime(descriptor, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS))
    return True


def sha256_of(file: int | Path) -> str | None:
    """The sha256 of a plain file, by path or descriptor; None when it cannot be read."""
    if isinstance(file, Path):
        with _opened(file) as descriptor:
            return None if descriptor is None else sha256_of(descriptor)
    with suppress(OSError), open(file, "rb", buffering=0, closefd=False) as stream:
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest()
    return None


def trash_path(store: Store) -> Path:
    """A new path for what is to be removed, in an existing folder: a full disk has no space for another one.

    Raises:
        OSError: as it comes.
    """
    store.snapshots.mkdir(parents=True, exist_ok=True)
    return store.snapshots / os.urandom(6).hex()


def remove_if_corrupt(store: Store, path: Path, is_good: Callable[[Path], bool]) -> bool | None:
    """Removes a file or folder unless it ``is_good``; whether it is, or None where it is gone or cannot be removed.

    Another process may replace it by a good one at any moment: it is moved away, checked again there, and moved back.
    """
    if is_good(path):
        return True
    try:
        taken = trash_path(store)
        path.rename(taken)
    except OSError:
        return None
    good = is_good(taken)
    if good:
        with suppress(OSError):  # unless another process has created the same meanwhile
            taken.rename(path)
    remove_path(taken)
    return good


def is_intact(store: Store, path: Path, is_good: Callable[[Path], bool]) -> bool:
    """Whether a file or folder ``is_good``; a corrupt one is removed, with a warning."""
    found = remove_if_corrupt(store, path, is_good)
    if found is False:
        log.warning("the cached file was corrupt and was removed: %s", path)
    return bool(found)


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    with ExitStack() as stack:
        try:
            descriptor: int | None = stack.enter_context(opened(path))
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            descriptor = None
        yield descriptor if descriptor is not None and stat.S_ISREG(os.fstat(descriptor).st_mode) else None
