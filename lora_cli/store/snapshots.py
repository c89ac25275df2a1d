"""Blobs: files that are named by their sha256 and never change. Snapshots: directories of hard links to them.

All blobs have the same modification time. One with another was touched: it is hashed before it is used again. An engine
can load a snapshot, which is published by one rename.
"""

import errno
import fcntl
import functools
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_cli.errors import Corrupt, Refused
from lora_cli.redaction import logger
from lora_cli.refs.snapshot import Blob, Snapshot, snapshot_digest
from lora_cli.store import OTHERS_S, Store, claim, is_named
from lora_cli.store.disk import EXHAUSTED, create, on_disk, opened, remove_path, write_all

SYNCED = 64 << 20
"""Bytes of a file that are synced while the next ones are written."""

BLOB_MTIME_NS = 946_684_800 * 10**9
"""2000-01-01: valid in archives that start in 1980, and no real file has that time."""

NO_LINK = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS, errno.EACCES})
"""No hard links on this file system, another file system, too many links, or another user's file."""

_NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


log = logger(__name__)


class LostBlob(Exception):
    """A file was removed or taken over by another process before it was used. Fetch it again."""


def seal(descriptor: int) -> None:
    """Gives a file of the cache the mode and time by which it is known to be unchanged. Raises ``OSError``."""
    os.fchmod(descriptor, 0o444)
    os.utime(descriptor, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS))


def store_blobs(store: Store, written: "Sequence[tuple[Partial, Blob]]") -> None:
    """Renames files to their blobs, durably: all are synced together, then renamed.

    An existing blob stays, and the file is removed. Raises ``LostBlob`` if a file is gone, and ``MachineError``.
    """
    with on_disk("writing", store.blobs):
        # Config and weights are synced here: to wait for threads takes longer.
        in_turn = map if len(written) <= 2 else _syncing(os.getpid()).map
        list(in_turn(Partial.sync, [partial for partial, _ in written]))
        for partial, blob in written:
            path = partial.path
            target = store.blob(blob.sha256)
            if os.path.lexists(target) and has_blob(store, blob):  # under another name, or from another process
                path.unlink(missing_ok=True)
                continue
            # If the path is another file by now, that is not sealed, and hashed before it is used.
            seal(partial.descriptor)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(target)
            except FileNotFoundError as error:
                raise LostBlob(str(path)) from error


@functools.cache
def _syncing(_process: int) -> ThreadPoolExecutor:
    """The threads of a process that sync files. A fork has none of its parent's."""
    return ThreadPoolExecutor(16)


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
    if (found := is_good(path)) or not os.path.lexists(path):
        return found
    with store.lock(path.name, OTHERS_S, shared=True), store.lock(path.name[:12], OTHERS_S):
        if (found := is_good(path)) or not os.path.lexists(path):
            return found
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


def check_paths(paths: Mapping[str, object]) -> None:
    """Raises ``Refused`` for paths that would leave a snapshot, or that cannot be in one directory.

    One is absolute or empty, has ``.``, ``..``, a control character or bytes that are not UTF-8, is too long, or is a
    file where another one needs a folder.
    """
    hint = "do not trust this source"
    for path in paths:
        parts = path.split("/")
        is_long = len(path) > 1024 or any(len(part.encode(errors="replace")) > 255 for part in parts)
        if is_long or _NO_NAME.search(path) or not {"", ".", ".."}.isdisjoint(parts):
            raise Refused(f"the file name {path!r} would leave its folder, or is not a name", hint=hint)
        for end in range(1, len(parts)):
            if (parent := "/".join(parts[:end])) in paths:
                raise Refused(f"{parent} is both a file and a folder of {path}", hint=hint)


def is_digest(text: object) -> bool:
    """Whether ``text`` is a sha256 in lower-case hex."""
    return isinstance(text, str) and bool(re.fullmatch(r"[0-9a-f]{64}", text))


def find_snapshot(store: Store, files: Mapping[str, Blob]) -> Snapshot | None:
    """The snapshot of exactly these files, if it is cached and intact. A corrupt one is removed."""
    digest = snapshot_digest(files.items())
    found = Snapshot(digest, store.snapshot(digest), dict(sorted(files.items())))
    is_good = files and is_intact(store, found.directory, lambda path: _is_sound_snapshot(path, files))
    return found if is_good else None


def _is_sound_snapshot(directory: Path, files: Mapping[str, Blob]) -> bool:
    return all(is_sound(directory / path, blob) for path, blob in files.items())


def publish_snapshot(
    store: Store, files: Mapping[str, Blob], check: Callable[[Snapshot], object] = lambda _: None
) -> Snapshot:
    """Publishes the snapshot of these files by one rename; all of their blobs are in the store.

    ``check`` gets it before that, in a temporary directory; if it raises, nothing is published. Raises ``Refused``
    for a path that leaves it, ``LostBlob``, ``Corrupt`` if what is in its place cannot be removed, ``MachineError``.
    """
    check_paths(files)
    digest = snapshot_digest(files.items())
    target, building = store.snapshot(digest), store.snapshots / os.urandom(6).hex()
    snapshot = Snapshot(digest, target, dict(sorted(files.items())))
    if os.path.lexists(target) and find_snapshot(store, files) is not None:
        check(snapshot)
        return snapshot
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, building, ignore_errors=True)
        with on_disk("writing", target):
            building.mkdir(parents=True)
            descriptor = stack.enter_context(opened(building))
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # garbage collection leaves it alone
            build_directory(store, files, building)
        check(replace(snapshot, directory=building))
        with on_disk("writing", target):
            renamed = rename_into_place(building, target)
    if not renamed and not _is_sound_snapshot(target, files):
        if not target.exists():
            raise LostBlob(digest)  # removed meanwhile
        raise Corrupt(f"{target} is corrupt and cannot be replaced", hint="remove it by hand")
    return snapshot


def build_directory(
    store: Store, files: Mapping[str, Blob], directory: Path, linked: Callable[[str], bool] = lambda _: True
) -> None:
    """Fills an empty directory: hard links to blobs for the paths that are ``linked``, writable copies for the others.

    Where a blob is missing or corrupt, the file of the cached snapshot is used. Raises ``LostBlob`` if that is missing,
    too, and ``OSError``.
    """
    snapshot = store.snapshot(snapshot_digest(files.items()))
    for path, blob in sorted(files.items()):
        target, is_linked = directory / path, linked(path)
        if "/" in path:
            target.parent.mkdir(parents=True, exist_ok=True)
        source = store.blob(blob.sha256)
        if not (is_sound(source, blob) or has_blob(store, blob) or is_sound(source := snapshot / path, blob)):
            raise LostBlob(path)
        try:
            if is_linked:
                try:
                    target.hardlink_to(source)
                    continue
                except OSError as error:
                    if error.errno not in NO_LINK:
                        raise
            with source.open("rb") as stream, target.open("xb") as written:
                shutil.copyfileobj(stream, written, 1 << 20)
                written.flush()
                seal(written.fileno()) if is_linked else os.fchmod(written.fileno(), 0o644)
                os.fsync(written.fileno())
        except FileNotFoundError as error:
            raise LostBlob(path) from error


def rename_into_place(building: Path, target: Path) -> bool:
    """Renames a folder; False if something is there already that is no empty folder. Raises ``OSError``."""
    try:
        building.rename(target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise
        return False
    return True


@dataclass(frozen=True, slots=True)
class Partial:
    """A file that only this process writes, open for reading and writing; ``size`` is its length when it was opened."""

    path: Path
    descriptor: int
    size: int
    _syncs: list[Future[None]] = field(default_factory=list)

    def write(self, data: bytes, at: int) -> None:
        """Writes ``data`` at offset ``at``, and begins to sync what is there every 64 MiB. Raises ``OSError``."""
        write_all(self.descriptor, data, at)
        if at // SYNCED < (at + len(data)) // SYNCED:
            self._syncs.append(_syncing(os.getpid()).submit(os.fsync, self.descriptor))

    def sync(self) -> None:
        """Waits until all that was written is on the disk. Raises ``OSError``, also of a sync that began earlier."""
        for sync in self._syncs:
            sync.result()
        os.fsync(self.descriptor)

    def close(self, *, keep: bool = False) -> None:
        """Closes the file, and removes it unless the next process is to go on with it."""
        wait(self._syncs)
        with suppress(OSError):
            if not keep and is_named(self.path, self.descriptor):
                self.path.unlink()
        os.close(self.descriptor)


def open_partial(store: Store, key: str, longest: int, *, digest_known: bool = True) -> Partial:
    """The file of ``key``, resumed if nobody writes it and it has at most ``longest`` bytes.

    The caller verifies the bytes. Unless a digest is known (``digest_known``), a file from before this machine
    started is not resumed: a power failure may have lost some of them. Raises ``MachineError``.
    """
    path, descriptor = store.partials / f"{key}.part", None
    with on_disk("writing", path):
        store.tag()
        with suppress(OSError):  # another process has it, or it cannot be known that none has
            descriptor = claim(path, mode=0o600)
        if descriptor is None:
            path = store.partials / f"{key}.{os.urandom(6).hex()}.part"
            descriptor = create(path, os.O_RDWR | os.O_EXCL, 0o600)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        status = os.fstat(descriptor)
        lost = not digest_known and status.st_mtime <= time.time() - time.monotonic()
        if not (lost or status.st_size > longest):
            return Partial(path, descriptor, status.st_size)
        os.ftruncate(descriptor, 0)
        return Partial(path, descriptor, 0)


def is_written(path: Path) -> bool:
    """Whether a process writes this partial file or folder; False where that cannot be told."""
    with suppress(OSError), opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
