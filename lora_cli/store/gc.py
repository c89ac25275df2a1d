"""Garbage collection, and what the user removes. A blob's link count is its reference count.

One link: it is in no snapshot. More links than the snapshots have: it was published, or written by ``fetch --to``.
"""

import math
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_cli.core.adapter_files import BASE_CONFIG
from lora_cli.core.json_schema import Count
from lora_cli.errors import MachineError
from lora_cli.store import Store
from lora_cli.store.blobs import trash_path
from lora_cli.store.cachedir_tag import check_cache
from lora_cli.store.disk import age_s, on_disk, remove_path
from lora_cli.store.inventory import Inode, StoredSnapshot, blob_files, files_in, inventory, list_folder, tree_bytes
from lora_cli.store.locks import exclusive
from lora_cli.store.partials import is_written
from lora_cli.store.records import all_records, forget_record
from lora_cli.store.snapshots import is_digest

GRACE_S = 3600.0
"""How long new files stay without a reference: a process may be about to write one."""

LEFTOVER_S = 86_400.0
"""How long unfinished files stay, to be resumed."""

# Only files and folders with these names are ours, or those of earlier versions; any others stay.
_UNFINISHED = re.compile(r"[0-9a-f]{12}(\.\d+\.\d+\.[0-9a-f]{12})?|[0-9a-f]{64}(\.[0-9a-f]{12})?\.part")
_LOCK = re.compile(r"[0-9a-f]{12}|[0-9a-f]{64}")
_LEASE = re.compile(r"[0-9a-f]{64}|run-[0-9a-f.]+")
_HALF_RECORD = re.compile(r"\.[0-9a-f]{64}\.json\.[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Retention:
    """What stays: snapshots used in the last ``unused_for_s``, and the last used ones within ``max_bytes`` of all.

    ``grace_s`` is how long new files without a reference stay.
    """

    unused_for_s: float | None = None
    max_bytes: int | None = None
    grace_s: float = GRACE_S


@dataclass(frozen=True, slots=True)
class Removed:
    """One removed thing; ``kind``: reference, snapshot, blob or partial."""

    kind: str
    name: str
    bytes: int
    """What that frees."""
    linked_bytes: Count | None = None
    """Of a blob: the bytes that hard links outside of the cache keep on the disk."""
    shared_bytes: Count | None = None
    """Of a snapshot: the bytes of its files that stay in the cache, because other snapshots or processes use them."""
    references: tuple[str, ...] | None = None
    """Of a snapshot: the references that meant it."""
    snapshot_bytes: Count | None = None
    """Of a snapshot: the bytes of all its files, also of those that stay; its blobs say what that frees."""


def collect(store: Store, retention: Retention, *, dry_run: bool = False) -> list[Removed]:
    """Removes what exceeds the limits, unreferenced files, and leftovers. With ``dry_run`` only reports.

    Snapshots in use stay whatever the limits are: those that a process has locked or that have hard links outside the
    cache, and the config of a base, which is small. What is removed under a concurrent fetch, that fetches again.

    Raises:
        UsageError: this is no cache.
        MachineError: a disk error, or the file system has no locks.
    """
    check_cache(store)
    with on_disk("cleaning", store.root):
        found = _Contents(store)
        before_s = found.now_s - retention.grace_s
        left = [*_leftovers(store, found.now_s, LEFTOVER_S)]
        total = cache_bytes(store) - sum(tree_bytes(path) for path in left)
        total -= sum(one.st_size for one in found.blobs.values() if one.st_nlink == 1 and one.st_ctime < before_s)
        gone = []
        for item in sorted(found.items, key=lambda item: (item.used_s, item.digest)):
            # Without a reference it may have been published this moment: it is not old, it was never used.
            exceeds = retention.max_bytes is not None and total > retention.max_bytes and item.records
            if not (exceeds or _is_expired(item, retention, found.now_s)) or item.files.keys() == {BASE_CONFIG}:
                continue
            if not found.is_linked_outside(item) and _remove_unused(store, item, found.now_s, dry_run=dry_run):
                gone.append(item)
                total -= found.take_out(item)
        removed = _remove_dangling_references(store, found, retention.grace_s, dry_run=dry_run)
        removed += _remove_blobs(found, gone, before_s, dry_run=dry_run)
        removed += _remove_leftovers(store, left, dry_run=dry_run)
        if not dry_run:
            _sweep(store)
    return removed


def remove(
    store: Store, items: Sequence[StoredSnapshot], *, everything: bool = False, dry_run: bool = False
) -> list[Removed]:
    """Removes these snapshots with their references, and blobs of no other snapshot.

    With ``everything`` also unreferenced files and the downloads of dead processes. With ``dry_run`` only reports.

    Raises:
        UsageError: this is no cache.
        MachineError: a disk error.
    """
    check_cache(store)
    with on_disk("cleaning", store.root):
        found = _Contents(store)
        current = {item.digest: item for item in found.items}
        items = [current.get(item.digest, item) for item in items]
        for item in items:
            found.take_out(item)
            if not dry_run:
                _remove_snapshot(store, item)
        removed = _remove_blobs(found, items, math.inf if everything else 0.0, dry_run=dry_run, forced=True)
        if everything:
            removed += _remove_dangling_references(store, found, -1.0, dry_run=dry_run)
            removed += _remove_leftovers(store, [*_leftovers(store, found.now_s, -1.0)], dry_run=dry_run)
    return removed


def cache_bytes(store: Store, *, partials: bool = True) -> int:
    """Bytes of all weights and files in the cache, each inode once; without records.

    With ``partials``, unfinished downloads count, too.

    Raises:
        OSError: as it comes.
    """
    folders = [store.blobs, store.snapshots, *([store.partials] if partials else [])]
    return sum({_inode(status): status.st_size for folder in folders for _, status in files_in(folder)}.values())


class _Contents:
    """The snapshots and blobs of a cache at ``now_s``.

    ``inside`` counts the links of each file in the snapshots that stay, ``outside`` those that no snapshot had.
    """

    def __init__(self, store: Store) -> None:
        self.now_s, self.items = time.time(), inventory(store)
        self.files = {item.digest: [status for _, status in files_in(item.directory)] for item in self.items}
        self.inside = Counter(_inode(status) for files in self.files.values() for status in files)
        self.blobs = dict[Path, os.stat_result]()
        for path in blob_files(store):
            with suppress(FileNotFoundError):
                self.blobs[path] = path.stat(follow_symlinks=False)
        known = ((_inode(status), status.st_nlink - 1) for status in self.blobs.values())
        self.outside = {inode for inode, links in known if links > self.inside[inode]}

    def is_linked_outside(self, item: StoredSnapshot) -> bool:
        """Whether removing a snapshot would free nothing of a file."""
        return any(_inode(status) in self.outside for status in self.files[item.digest])

    def take_out(self, item: StoredSnapshot) -> int:
        """Counts a snapshot as removed, and returns the bytes of files that only it had."""
        self.inside -= Counter(_inode(status) for status in self.files.get(item.digest, ()))
        only = {_inode(one): one.st_size for one in self.files.get(item.digest, ())}
        return sum(size for inode, size in only.items() if not self.inside[inode])


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def _is_expired(item: StoredSnapshot, retention: Retention, now_s: float) -> bool:
    if not item.records:
        return age_s(item.directory, now_s) > retention.grace_s
    return retention.unused_for_s is not None and now_s - item.used_s > retention.unused_for_s


def _remove_unused(store: Store, item: StoredSnapshot, now_s: float, *, dry_run: bool) -> bool:
    """Removes a snapshot unless a process has its lock, or used it since ``now_s``; returns whether it did.

    A user locks it, then checks whether it exists. So it stays, or the user finds it missing.
    """
    with exclusive(store, item.digest) as held:
        if held is None:
            raise MachineError(
                f"{store.locks}: no lock can be taken (flock), so nobody knows what is in use: no snapshot was removed",
                hint="lora-cli cache rm removes what you name",
            )
        if not held or age_s(item.directory, now_s) < 0:
            return False
        if not dry_run:
            _remove_snapshot(store, item)
    return True


def _remove_snapshot(store: Store, item: StoredSnapshot) -> None:
    """Removes a snapshot in one step, its references first."""
    trash = trash_path(store)
    for record in item.records:
        forget_record(store, record)
    with suppress(FileNotFoundError):
        item.directory.rename(trash)
    remove_path(trash)


def _remove_blobs(
    found: _Contents, gone: Sequence[StoredSnapshot], before_s: float, *, dry_run: bool, forced: bool = False
) -> list[Removed]:
    """Removes the blobs that only the removed snapshots had, and unreferenced ones from before ``before_s``.

    Unless ``forced``, those that are linked outside the cache stay. Returns all that was removed.
    """
    freed = {_inode(status) for item in gone for status in found.files.get(item.digest, ())}
    names = set().union(*(item.blob_names for item in gone))
    blobs, staying = list[Removed](), dict[Inode, int]()
    for path, status in found.blobs.items():
        inode = _inode(status)
        is_linked = inode in found.outside
        is_unused = inode in freed or path.name in names or status.st_ctime < before_s
        if found.inside[inode] or (is_linked and not forced) or not is_unused:
            staying[inode] = status.st_size
            continue
        with suppress(FileNotFoundError):
            if not (dry_run or forced) and path.stat().st_nlink > 1:
                continue  # another process has just used it
        blobs.append(
            Removed("blob", path.name, 0 if is_linked else status.st_size, status.st_size if is_linked else None)
        )
        if not dry_run:
            path.unlink(missing_ok=True)
    removed = [Removed("reference", record.ref, 0) for item in gone for record in item.records]
    for item in sorted(gone, key=lambda item: item.digest):
        kept = sum(staying.pop(_inode(status), 0) for status in found.files.get(item.digest, ()))
        refs = tuple(record.ref for record in item.records)
        removed.append(Removed("snapshot", item.digest, 0, None, kept or None, refs, item.size))
    return removed + blobs


def _remove_dangling_references(store: Store, found: _Contents, grace_s: float, *, dry_run: bool) -> list[Removed]:
    """Removes references whose snapshot no longer exists and that were not used for longer than the grace."""
    there = {item.digest for item in found.items}
    records = [
        record
        for record in all_records(store)
        if record.snapshot not in there and found.now_s - record.used_s > grace_s
    ]
    for record in records if not dry_run else ():
        forget_record(store, record)
    return [Removed("reference", record.ref, 0) for record in records]


def _leftovers(store: Store, now_s: float, unused_for_s: float) -> Iterator[Path]:
    """Unfinished files and folders that no process writes."""
    earlier = (one for path in list_folder(store.partials) if is_digest(path.name) for one in list_folder(path))
    for path in (*list_folder(store.partials), *earlier, *list_folder(store.snapshots)):
        if _UNFINISHED.fullmatch(path.name) and age_s(path, now_s) > unused_for_s and not _is_written(store, path):
            yield path
    for path in list_folder(store.refs):
        if _HALF_RECORD.fullmatch(path.name) and age_s(path, now_s) > LEFTOVER_S:
            yield path


def _is_written(store: Store, path: Path) -> bool:
    if not path.is_dir():
        return is_written(path)
    with exclusive(store, path.name) as held:
        return held is False


def _sweep(store: Store) -> None:
    """Removes the locks of killed processes, and the empty folders and the leases of earlier versions."""
    for path in list_folder(store.locks):
        if _LOCK.fullmatch(path.name):
            with exclusive(store, path.name):
                pass
    leases = store.root / "leases"
    for path in list_folder(leases):
        if _LEASE.fullmatch(path.name):
            remove_path(path)
    for folder in (leases, *(path for path in list_folder(store.partials) if is_digest(path.name))):
        with suppress(OSError):
            folder.rmdir()


def _remove_leftovers(store: Store, left: Collection[Path], *, dry_run: bool) -> list[Removed]:
    """Removes each of these paths."""
    removed = []
    for path in left:
        removed.append(Removed("partial", path.relative_to(store.root).as_posix(), tree_bytes(path)))
        if not dry_run:
            _delete(path)
    return removed


def _delete(path: Path) -> None:
    """Removes a file or folder that other processes may be removing, too."""
    while path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):
            shutil.rmtree(path)
    path.unlink(missing_ok=True)
