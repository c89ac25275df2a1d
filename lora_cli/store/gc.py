"""Garbage collection, and what the user removes. A blob's link count is its reference count.

One link: it is in no snapshot. More links than the snapshots have: it was published, or written by ``fetch --to``.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lora_cli.errors import MachineError
from lora_cli.refs.adapter_files import BASE_CONFIG
from lora_cli.store import TAG, Store
from lora_cli.store.disk import on_disk, remove_path
from lora_cli.store.inventory import StoredSnapshot, blob_files, files_in, inode_of, inventory, list_folder, tree_bytes
from lora_cli.store.records import all_records, record_path
from lora_cli.store.snapshots import discard, is_written

GRACE_S = 3600.0
"""How long new files stay without a reference: a process may be about to write one."""

MOMENT_S = 60.0
"""How long snapshots without a reference stay where the cache is too large."""

LEFTOVER_S = 86_400.0
"""How long unfinished files stay, to be resumed."""

_UNFINISHED = re.compile(
    r"[0-9a-f]{12}|[0-9a-f]{64}(\.[0-9a-f]{12})?\.part|\.([0-9a-f]{64}\.json|CACHEDIR\.TAG)\.[0-9a-f]{12}"
)
"""Only files and folders with these names are ours; any others stay."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What stays: snapshots used in the last ``unused_for_s``, and the last used ones within ``max_bytes`` of all.

    ``grace_s`` is how long new files without a reference stay.
    """

    unused_for_s: float = math.inf
    max_bytes: float = math.inf
    grace_s: float = GRACE_S


@dataclass(frozen=True, slots=True)
class Removed:
    """One removed thing; ``kind``: reference, snapshot, blob or partial."""

    kind: str
    name: str
    bytes: int
    """What that frees. Those of a blob are counted for the removed snapshot that had it."""
    references: tuple[str, ...] | None = None
    """Of a snapshot: the references that meant it."""


def collect(store: Store, retention: Retention, *, dry_run: bool = False) -> list[Removed]:
    """Removes what exceeds the limits, unreferenced files, and leftovers. With ``dry_run`` only reports.

    Snapshots in use stay whatever the limits are: those that a process has locked or that have hard links outside the
    cache, and the config of a base, which is small. What is removed under a concurrent fetch, that fetches again.
    Raises ``UsageError`` if this is no cache, ``MachineError`` also if the file system has no locks.
    """
    store.check_cache()
    with on_disk("cleaning", store.root):
        cache = _Contents(store, dry_run)
        before_s, left = cache.now_s - retention.grace_s, _leftovers(store, cache.now_s - LEFTOVER_S)
        total = cache_bytes(store) - sum(map(tree_bytes, left))
        unlinked = (one for one in map(cache.files.__getitem__, cache.blobs.values()) if one.st_nlink == 1)
        total -= sum(one.st_size for one in unlinked if one.st_ctime < before_s)
        for item in sorted(cache.items, key=lambda item: (item.used_s, item.digest)):
            if item.records:
                exceeds = total > retention.max_bytes or item.used_s < cache.now_s - retention.unused_for_s
            else:  # An earlier version: it goes first. Or it was published this moment.
                age_s = cache.now_s - _changed_s(item.directory)
                exceeds = age_s > retention.grace_s or (total > retention.max_bytes and age_s > MOMENT_S)
            if not exceeds or item.files.keys() == {BASE_CONFIG} or cache.outside & cache.links[item.digest].keys():
                continue
            # Who uses it locks it, then looks whether it exists: it stays, or is found missing.
            with store.lock(item.digest) as held:
                if held is None:
                    what = "no lock can be taken (flock), so nobody knows what is in use: no snapshot was removed"
                    raise MachineError(f"{store.locks}: {what}", hint="lora-cli cache rm removes what you name")
                if held and _changed_s(item.directory) <= cache.now_s:
                    total -= cache.remove(item)
        return cache.remove_unreferenced(before_s, left)


def remove(
    store: Store, items: Sequence[StoredSnapshot], *, everything: bool = False, dry_run: bool = False
) -> list[Removed]:
    """Removes these snapshots with their references, and blobs of no other snapshot.

    With ``everything`` also unreferenced files and the downloads of dead processes. With ``dry_run`` only reports.
    Raises ``UsageError`` if this is no cache, and ``MachineError``.
    """
    store.check_cache()
    with on_disk("cleaning", store.root):
        cache, before_s = _Contents(store, dry_run), math.inf if everything else 0.0
        current = {item.digest: item for item in cache.items}
        for item in items:
            cache.remove(current.get(item.digest, item))
        return cache.remove_unreferenced(before_s, _leftovers(store, before_s), forced=True)


def cache_bytes(store: Store) -> int:
    """Bytes of all weights and files in the cache, each inode once; without records."""
    found = chain(*map(files_in, (store.blobs, store.snapshots, store.partials)))
    return sum({inode_of(status): status.st_size for _, status in found}.values())


class _Contents:
    """The snapshots and blobs of a cache at ``now_s``, and what is removed of them.

    ``links`` counts those of each file in a snapshot, ``inside`` in all that stay; files ``outside`` have other links.
    """

    def __init__(self, store: Store, dry_run: bool) -> None:
        self.store, self.dry_run, self.now_s, self.items = store, dry_run, time.time(), inventory(store)
        files = {item.digest: [status for _, status in files_in(item.directory)] for item in self.items}
        blobs, self.gone = dict(blob_files(store)), list[StoredSnapshot]()
        self.files = {inode_of(status): status for status in (*chain(*files.values()), *blobs.values())}
        self.blobs = {path: inode_of(status) for path, status in blobs.items()}
        self.links = {digest: Counter(map(inode_of, found)) for digest, found in files.items()}
        self.inside = Counter(chain(*map(Counter.elements, self.links.values())))
        known = self.inside + Counter(self.blobs.values())
        self.outside = {inode for inode, status in self.files.items() if status.st_nlink > known[inode]}

    def remove(self, item: StoredSnapshot) -> int:
        """Removes a snapshot in one step, its references first; returns the bytes of files that only it had."""
        if not self.dry_run:
            for record in item.records:
                record_path(self.store, *record.key).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                discard(self.store, item.directory)
        self.gone.append(item)
        links = self.links.setdefault(item.digest, Counter())
        self.inside -= links
        return sum(self.files[inode].st_size for inode in links if not self.inside[inode])

    def remove_unreferenced(self, before_s: float, left: Sequence[Path], *, forced: bool = False) -> list[Removed]:
        """Removes the blobs that only removed snapshots had, what has no reference since ``before_s``, and ``left``.

        Unless ``forced``, blobs that are linked outside the cache stay. Returns all that was removed.
        """
        had = set().union(*(self.links[item.digest] for item in self.gone))
        names = set().union(*(item.blob_names for item in self.gone))
        staying, blobs = self.outside | self.inside.keys(), list[Removed]()
        for path, inode in self.blobs.items():
            is_unused = inode in had or path.name in names or self.files[inode].st_ctime < before_s
            if not is_unused or self.inside[inode] or (inode in self.outside and not forced):
                continue
            with suppress(FileNotFoundError):
                if not (self.dry_run or forced) and path.stat().st_nlink > 1:
                    staying.add(inode)  # another process has just used it
                    continue
            blobs.append(Removed("blob", path.name, 0 if inode in had | staying else self.files[inode].st_size))
            if not self.dry_run:
                path.unlink(missing_ok=True)
        removed = [Removed("reference", record.ref, 0) for item in self.gone for record in item.records]
        for item in sorted(self.gone, key=lambda item: item.digest):
            freed = self.links[item.digest].keys() - staying
            staying |= freed  # counted once
            size = sum(self.files[inode].st_size for inode in freed)
            removed.append(Removed("snapshot", item.digest, size, tuple(record.ref for record in item.records)))
        removed += blobs
        dangling = [one for one in all_records(self.store) if one.snapshot not in self.links and one.used_s < before_s]
        removed += [Removed("reference", record.ref, 0) for record in dangling]
        removed += [Removed("partial", path.relative_to(self.store.root).as_posix(), tree_bytes(path)) for path in left]
        if not self.dry_run:
            for record in dangling:
                record_path(self.store, *record.key).unlink(missing_ok=True)
            for path in left:
                remove_path(path)
            for path in list_folder(self.store.locks):
                if re.fullmatch(r"[0-9a-f]{12}|[0-9a-f]{64}", path.name):
                    with self.store.lock(path.name) as held:
                        if held:
                            path.unlink(missing_ok=True)
        return removed


def _leftovers(store: Store, before_s: float) -> list[Path]:
    """Unfinished files and folders from before ``before_s`` that no process writes."""
    found = chain(store.root.glob(f".{TAG}.*"), *map(list_folder, (store.partials, store.snapshots, store.refs)))
    ours = (path for path in found if _UNFINISHED.fullmatch(path.name))
    return [path for path in ours if _changed_s(path) < before_s and not is_written(path)]


def _changed_s(path: Path) -> float:
    """When a file or folder was last changed, in seconds since 1970; in the future if it is missing."""
    with suppress(OSError):
        return path.stat(follow_symlinks=False).st_mtime
    return math.inf
