"""Blobs: bytes that are named by their sha256 and never change.

Their modification time is always the same. One that has another was touched: it is hashed before it is used again.

One that is a hard link to a file outside the cache has a mark. Such an inode does not belong to the cache: its mode and
its times stay as they are, so its own times are noted instead. Its owner can set the modification time back, but not
the time of the inode's own change (ctime). That one also changes when a hard link comes or goes: then the file is
hashed once more.
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

MODE = 0o444
STAMP_NS = 946_684_800 * 10**9
"""2000-01-01: archives that know no earlier year than 1980 take it, and no real file has that time."""

SETTLED_NS = 1_000_000_000
"""Two changes within a tick of the clock look alike: a file that changed a moment ago is not known by its ctime yet."""

log = logger(__name__)


class LostBlob(Exception):
    """What was written vanished before it was used: another process removed it, or took it over. Fetch it again."""


def keep_blob(
    store: Store, written: Path, descriptor: int, blob: Blob, *, foreign: os.stat_result | None = None
) -> Path:
    """Gives the bytes that were written to ``written`` (open as ``descriptor``) their final name, durably.

    Where they are already, the file of old stays, and the new one is left to be removed. With ``foreign`` the file is
    outside the cache, and that is its status before it was hashed: neither its mode nor its times are touched.

    Raises:
        LostBlob: ``written`` is not that file any more.
        MachineError: this machine does not let us.
    """
    target = store.blob(blob.sha256)
    with on_disk("writing", target):
        if not _is_same(written, descriptor):
            raise LostBlob(str(written))
        if has_blob(store, blob):
            return target
        if foreign is None:
            os.fchmod(descriptor, MODE)
            os.utime(descriptor, ns=(STAMP_NS, STAMP_NS))
        else:
            write_mark(store, blob.sha256, foreign)
        os.fsync(descriptor)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            written.replace(target)
        except FileNotFoundError as error:
            raise LostBlob(str(written)) from error
    return target


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def has_blob(store: Store, blob: Blob) -> bool:
    """Whether those bytes are here and what they were. One that is not any more goes to the quarantine."""
    path = store.blob(blob.sha256)
    if not os.path.lexists(path):
        return False
    return is_sound(store, path, blob) or isolate_rotten(store, path, lambda there: is_sound(store, there, blob))


def is_sound(store: Store, path: Path, blob: Blob) -> bool:
    """Whether ``path`` holds ``blob``. Its bytes are read only when its times say that it was touched.

    Raises:
        OSError: this process has no descriptor or memory left to look.
    """
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_size != blob.size:
        return False
    mark = read_mark(store, blob.sha256)
    if status.st_mtime_ns == STAMP_NS if mark is None else mark == mark_of(status):
        return True
    with _opened(path) as descriptor:
        if descriptor is None:
            return False
        seen = os.fstat(descriptor)
        if sha256_of(descriptor) != blob.sha256:
            return False
        # A copy of a cache has new times, and so has a foreign file that somebody touched. Where that may be written,
        # it is set right, once; what is not ours is only noted.
        with suppress(OSError):
            if mark is None:
                os.utime(descriptor, ns=(STAMP_NS, STAMP_NS))
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


def mark_of(status: os.stat_result) -> str:
    """What changes with every edit in place."""
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def write_mark(store: Store, sha256: str, status: os.stat_result) -> None:
    """Notes what the foreign file of that blob was like just before it was hashed.

    Raises:
        OSError: as it comes.
    """
    settled = time.time_ns() - status.st_ctime_ns > SETTLED_NS
    replace_file(store.links / sha256, (mark_of(status) if settled else "changed a moment ago").encode())


def read_mark(store: Store, sha256: str) -> str | None:
    """The mark of that blob; None if it belongs to the cache."""
    data = read_small(store.links / sha256, 200)
    return None if data is None else data.decode("ascii", "replace")


def drop_mark(store: Store, sha256: str) -> None:
    """Forgets a blob that is gone, if this user may."""
    with suppress(OSError):
        (store.links / sha256).unlink(missing_ok=True)
        store.links.rmdir()


def isolate(store: Store, path: Path) -> Path | None:
    """Moves what is corrupt out of the way, and says where to; None when this user may not."""
    target = store.quarantine / f"{path.name}.{new_writer().token}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    except OSError:
        return None
    return target


def isolate_rotten(store: Store, path: Path, is_good: Callable[[Path], bool]) -> bool:
    """Moves what is there and seemed corrupt out of the way, unless it ``is_good`` after all; whether it is.

    Another process may put a good one there at any moment: what was taken away is looked at once more, and put back.
    """
    if is_good(path):
        return True
    taken = isolate(store, path)
    if taken is None or not is_good(taken):
        if taken is not None:
            log.warning("the cached file was corrupt and was moved to the quarantine: %s", taken)
        return False
    put_back(taken, path)
    return True


def put_back(taken: Path, path: Path) -> None:
    """Gives back its name to what was isolated, unless another process put the same there meanwhile."""
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
