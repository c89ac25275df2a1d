"""Snapshots: directories that an engine can load, with hard links to blobs, published by one rename."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lora_cli.core.snapshot import Blob, Snapshot, snapshot_digest
from lora_cli.errors import Corrupt, Refused
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob, has_blob, is_intact, is_sound, seal
from lora_cli.store.disk import on_disk
from lora_cli.store.locks import exclusive

MOST_FILES = 10_000
NO_LINK = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS, errno.EACCES})
"""No hard links on this file system, another file system, too many links, or another user's file."""

_NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def check_paths(paths: Mapping[str, object]) -> None:
    """Raises ``Refused`` for paths that would leave a snapshot, or that cannot be in one directory.

    One is absolute or empty, has ``.``, ``..``, a control character or bytes that are not UTF-8, is too long, or is a
    file where another one needs a folder; or there are over 10 000.
    """
    if len(paths) > MOST_FILES:
        raise Refused(f"{len(paths)} files are too many for an adapter", hint=f"the limit is {MOST_FILES} files")
    hint = "do not trust this source"
    for path in paths:
        parts = path.split("/")
        is_long = len(path) > 1024 or any(len(part.encode(errors="replace")) > 255 for part in parts)
        if is_long or _NO_NAME.search(path) or not {"", ".", ".."}.isdisjoint(parts):
            raise Refused(f"the file name {path!r} would leave its folder, or is not a name", hint=hint)
        for parent in PurePosixPath(path).parents:
            if str(parent) in paths:
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
    if (present := find_snapshot(store, files)) is not None:
        check(present)
        return present
    digest = snapshot_digest(files.items())
    target, building = store.snapshot(digest), store.partials / os.urandom(6).hex()
    snapshot = Snapshot(digest, target, dict(sorted(files.items())))
    with exclusive(store, building.name):  # garbage collection leaves it alone
        try:
            with on_disk("writing", target):
                building.mkdir(parents=True)
                build_directory(store, files, building)
            check(replace(snapshot, directory=building))
            with on_disk("writing", target):
                target.parent.mkdir(parents=True, exist_ok=True)
                renamed = rename_into_place(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
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
        target.parent.mkdir(parents=True, exist_ok=True)
        source = store.blob(blob.sha256)
        if not has_blob(store, blob):
            source = snapshot / path
            if not is_sound(source, blob):
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
