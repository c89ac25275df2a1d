"""Blobs: files that are named by their sha256 and never change.

All have the same modification time. A blob with another one was touched: it is hashed before it is used again.

A blob that is a hard link to a file outside the cache has a mark. Its inode does not belong to the cache, so mode and
times stay as they are, and the mark records the times. The owner can reset the modification time, but not the ctime of
the inode. The ctime also changes when a hard link is added or removed: then the file is hashed once more.
"""

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lora_cli.core.log import logger
from lora_cli.core.snapshot import Blob
from lora_cli.store import Store
from lora_cli.store.disk import EXHAUSTED, on_disk, opened, read_small, replace_file
from lora_cli.store.writer_ids import new_writer

BLOB_MODE = 0o444
BLOB_MTIME_NS = 946_684_800 * 10**9
"""2000-01-01: valid in archives that start in 1980, and no real file has that time."""

SETTLED_NS = 1_000_000_000
"""Two changes within a clock tick have one ctime: a file that changed a moment ago is not identified by it."""

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


def store_blob(
    store: Store, written: Path, descriptor: int, blob: Blob, *, foreign: os.stat_result | None = None
) -> None:
    """Renames the file ``written`` (open as ``descriptor``) to its blob, durably.

    An existing blob stays; the caller removes ``written`` then. ``foreign`` is the status, before it was hashed, of a
    file that also belongs to others: its mode and times stay.

    Raises:
        LostBlob: ``written`` is no longer that file.
        MachineError: a disk error.
    """
    target = store.blob(blob.sha256)
    with on_disk("writing", target):
        if not _is_same_inode(written, descriptor):
            raise LostBlob(str(written))
        if has_blob(store, blob):
            return
        if foreign is None:
            seal(descriptor)
        else:
            write_mark(store, blob.sha256, foreign)
        os.fsync(descriptor)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            written.replace(target)
        except FileNotFoundError as error:
            raise LostBlob(str(written)) from error


def _is_same_inode(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def has_blob(store: Store, blob: Blob) -> bool:
    """Whether the blob is cached and intact. A corrupt one is moved to the quarantine."""
    path = store.blob(blob.sha256)
    if not os.path.lexists(path):
        return False
    return is_sound(store, path, blob) or quarantine_if_corrupt(store, path, lambda there: is_sound(store, there, blob))


def is_sound(store: Store, path: Path, blob: Blob) -> bool:
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
    mark = read_mark(store, blob.sha256)
    if status.st_mtime_ns == BLOB_MTIME_NS if mark is None else mark == link_mark(status):
        return True
    with _opened(path) as descriptor:
        if descriptor is None:
            return False
        seen = os.fstat(descriptor)
        if sha256_of(descriptor) != blob.sha256:
            return False
        # A copied cache has new times, and so has a foreign file that was touched. They are reset where this user may
        # write; those of a foreign file are recorded in its mark.
        with suppress(OSError):
            if mark is None:
                os.utime(descriptor, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS))
            else:
                write_mark(store, blob.sha256, seen)
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


def link_mark(status: os.stat_result) -> str:
    """The text of a mark, which every edit in place changes."""
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def write_mark(store: Store, sha256: str, status: os.stat_result) -> None:
    """Records the ``status`` that the foreign file of a blob had before it was hashed.

    Raises:
        OSError: as it comes.
    """
    settled = time.time_ns() - status.st_ctime_ns > SETTLED_NS
    replace_file(store.links / sha256, (link_mark(status) if settled else "changed a moment ago").encode())


def read_mark(store: Store, sha256: str) -> str | None:
    """The mark of that blob; None if it belongs to the cache."""
    data = read_small(store.links / sha256, 200)
    return None if data is None else data.decode("ascii", "replace")


def drop_mark(store: Store, sha256: str) -> None:
    """Removes the mark of a blob that no longer exists, if this user may."""
    with suppress(OSError):
        (store.links / sha256).unlink(missing_ok=True)
        store.links.rmdir()


def move_to_quarantine(store: Store, path: Path) -> Path | None:
    """Moves a corrupt file or folder to the quarantine and returns its path there; None when this user may not."""
    target = store.quarantine / f"{path.name}.{new_writer().token}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    except OSError:
        return None
    return target


def quarantine_if_corrupt(store: Store, path: Path, is_good: Callable[[Path], bool]) -> bool:
    """Moves what seemed corrupt to the quarantine, unless it ``is_good`` after all; returns whether it is.

    Another process may replace it by a good one at any moment: what was moved is checked again, and restored.
    """
    if is_good(path):
        return True
    taken = move_to_quarantine(store, path)
    if taken is None or not is_good(taken):
        if taken is not None:
            log.warning("the cached file was corrupt and was moved to the quarantine: %s", taken)
        return False
    restore(taken, path)
    return True


def restore(taken: Path, path: Path) -> None:
    """Moves an entry back from the quarantine, unless another process has created the same meanwhile."""
    try:
        taken.rename(path)
    except OSError:
        shutil.rmtree(taken) if taken.is_dir() else taken.unlink(missing_ok=True)


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
