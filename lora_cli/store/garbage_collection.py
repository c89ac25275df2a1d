"""Garbage collection: files without references, leftovers of dead processes, and what the user removes."""

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_cli.core.json_schema import Count
from lora_cli.store import Store
from lora_cli.store.blobs import trash_path
from lora_cli.store.cachedir_tag import check_cache
from lora_cli.store.disk import age_s, on_disk, read_small, remove_path
from lora_cli.store.in_use import MARKER_PREFIX, names_in_use
from lora_cli.store.inventory import Inode, StoredSnapshot, list_folder, tree_bytes
from lora_cli.store.leases import lease
from lora_cli.store.resolution_records import all_records, forget_record, read_record
from lora_cli.store.snapshots import is_digest
from lora_cli.store.usage import BlobFile, Usage, cache_bytes, scan_usage
from lora_cli.store.writer_ids import parse_writer, state

GRACE_S = 3600.0
"""How long new files stay without a reference: a process may be about to write one."""

LEFTOVER_S = 86_400.0
"""How long leftovers of dead writers stay, to be resumed; those of other machines stay seven times as long."""
LEASE_S = 1.0
"""How long to wait for the lease of a snapshot; if it is not free then, the snapshot stays for now."""

# Only files with these names are ours; any others stay.
_LEASE = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{12}")
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
    """One removed thing; ``kind``: reference, snapshot, blob, partial or lease."""

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

    Snapshots in use stay whatever the limits are: those with hard links outside the cache, or marked by a living
    process. A concurrent fetch is safe: what is removed under it, it fetches again.

    Raises:
        UsageError: this is no cache.
        MachineError: a disk error.
    """
    check_cache(store)
    with on_disk("cleaning", store.root):
        usage = scan_usage(store)
        left = [*_leftovers(store, usage.now_s)]
        total = cache_bytes(store) - sum(tree_bytes(path) for _, path in left)
        meant = set().union(*(record.blob_names for record in all_records(store)))
        total -= sum(blob.size for blob in _removable_blobs(usage, (), meant, usage.now_s - retention.grace_s))
        items = _removable_snapshots(usage, retention, total)
        removed = _remove_dangling_references(store, usage, retention.grace_s, dry_run=dry_run)
        removed += _remove_snapshots(store, usage, items, usage.now_s - retention.grace_s, dry_run=dry_run)
        removed += _remove_leftovers(store, left, dry_run=dry_run)
        if not dry_run:
            _remove_empty_folders(store)
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
        usage = scan_usage(store)
        current = {item.digest: item for item in usage.items}
        items = [current.get(item.digest, item) for item in items]
        before_s = math.inf if everything else 0.0
        removed = _remove_snapshots(store, usage, items, before_s, dry_run=dry_run, forced=True)
        if everything:
            removed += _remove_dangling_references(store, usage, -1.0, dry_run=dry_run)
            # Nobody knows whether a process of another machine lives, unless its files are old.
            left = [(kind, path) for kind, path in _leftovers(store, usage.now_s + LEFTOVER_S) if kind == "partial"]
            removed += _remove_leftovers(store, left, dry_run=dry_run)
    return removed


def _remove_leftovers(store: Store, left: Sequence[tuple[str, Path]], *, dry_run: bool) -> list[Removed]:
    """Removes each of these paths, given with its kind."""
    removed = []
    for kind, path in left:
        removed.append(Removed(kind, path.relative_to(store.root).as_posix(), tree_bytes(path)))
        if not dry_run:
            _delete(path)
    return removed


def _remove_snapshots(
    store: Store,
    usage: Usage,
    items: Sequence[StoredSnapshot],
    before_s: float,
    *,
    dry_run: bool = False,
    forced: bool = False,
) -> list[Removed]:
    """Removes snapshots with their references, and unreferenced blobs that only they had or from before ``before_s``.

    Unless ``forced``, what was used since ``usage`` was read stays.
    """
    if not dry_run:
        now_s = None if forced else usage.now_s
        referenced = set() if forced else _newly_referenced(store, items)
        items = [item for item in items if item.digest not in referenced and _remove_snapshot(store, item, now_s)]
    removed = [Removed("reference", record.ref, 0) for item in items for record in item.records]
    gone = sorted(items, key=lambda item: item.digest)
    forgotten = {record.key for item in gone for record in item.records}
    staying = set().union(*(record.blob_names for record in all_records(store) if record.key not in forgotten))
    blobs = _removable_blobs(usage, gone, staying, before_s, forced=forced)
    shared = {blob.inode for blob in usage.blobs} - {blob.inode for blob in blobs}
    for item in gone:
        kept = shared & usage.inodes.get(item.directory, {}).keys()
        shared -= kept
        references = tuple(record.ref for record in item.records)
        kept_bytes = sum(usage.sizes[inode] for inode in kept)
        removed.append(
            Removed(
                "snapshot",
                item.digest,
                0,
                shared_bytes=kept_bytes or None,
                references=references,
                snapshot_bytes=item.size,
            )
        )
    linked = usage.linked_outside()
    for blob in blobs:
        is_linked = blob.inode in linked
        removed.append(Removed("blob", blob.path.name, 0 if is_linked else blob.size, blob.size if is_linked else None))
        if not dry_run:
            blob.path.unlink(missing_ok=True)
    return removed


def _used_since(store: Store, item: StoredSnapshot) -> bool:
    """Whether a snapshot was used, or one of its references changed, since its usage was read."""
    found = [(record, read_record(store, *record.key)) for record in item.records]
    return any(now is not None and now != record for record, now in found)


def _newly_referenced(store: Store, items: Sequence[StoredSnapshot]) -> set[str]:
    """The snapshots of references that were written since the usage was read."""
    seen = {record.key for item in items for record in item.records}
    return {record.snapshot for record in all_records(store) if record.key not in seen}


def _remove_snapshot(store: Store, item: StoredSnapshot, now_s: float | None) -> bool:
    """Removes a snapshot in one step, its references first, and returns whether it did; without ``now_s`` also in use.

    This takes its lease, then checks whether it is in use, then removes it. A fetch marks it as in use, then waits
    while another process has the lease, then checks whether it exists. So it stays, or the fetch finds it missing.
    """

    def is_used() -> bool:
        return now_s is not None and (item.digest in names_in_use(store, now_s) or _used_since(store, item))

    trash = trash_path(store)
    try:
        with lease(store, item.digest, LEASE_S) as ours:
            if is_used() or (now_s is not None and not ours and os.path.lexists(store.leases / item.digest)):
                return False
            for record in item.records:
                forget_record(store, record)
            item.directory.rename(trash)
            # Without a lease (a full disk, or one lost in a long pause) another process may use it by now.
            if is_used():
                with suppress(OSError):
                    trash.rename(item.directory)
                    return False
    except FileNotFoundError:
        pass
    finally:
        remove_path(trash)
    return True


def _remove_dangling_references(store: Store, usage: Usage, grace_s: float, *, dry_run: bool) -> list[Removed]:
    """Removes references whose snapshot no longer exists and that were not used for longer than the grace."""
    there = {item.digest for item in usage.items}
    found = [
        record
        for record in all_records(store)
        if record.snapshot not in there and usage.now_s - record.used_s > grace_s
    ]
    for record in found if not dry_run else ():
        forget_record(store, record)
    return [Removed("reference", record.ref, 0) for record in found]


def _remove_empty_folders(store: Store) -> None:
    """Removes empty folders of partial files."""
    for folder in list_folder(store.partials):
        if is_digest(folder.name):
            with suppress(OSError):
                folder.rmdir()


def _leftovers(store: Store, now: float) -> Iterator[tuple[str, Path]]:
    # A snapshot that is being built, or that goes, has its writer's own name.
    for folder in (
        *list_folder(store.partials),
        *(path for path in list_folder(store.snapshots) if not is_digest(path.name)),
    ):
        if parse_writer(folder.name) is not None and _is_abandoned(folder, folder.name, now):
            yield "partial", folder
        for path in list_folder(folder) if is_digest(folder.name) else ():
            if parse_writer(path.name) is not None and _is_abandoned(path, path.name, now):
                yield "partial", path
    for path in list_folder(store.leases):
        text = _lease_owner(path) if _LEASE.fullmatch(path.name) else None
        # An owner that died before it wrote its name leaves an empty file.
        if text is not None and (not text or parse_writer(text)) and _is_abandoned(path, text, now):
            yield "lease", path
    for path in list_folder(store.leases):
        if path.name.startswith(MARKER_PREFIX) and _is_abandoned(path, path.name.removeprefix(MARKER_PREFIX), now):
            yield "lease", path
    for path in list_folder(store.refs):
        if _HALF_RECORD.fullmatch(path.name) and age_s(path, now) > LEFTOVER_S:
            yield "partial", path


def _lease_owner(path: Path) -> str | None:
    """The content of a lease; None if it is none."""
    data = read_small(path, 200)
    return None if data is None else data.decode("ascii", "replace")


def _is_abandoned(path: Path, name: str, now: float) -> bool:
    writer = parse_writer(name)
    what = state(writer) if writer is not None else "elsewhere"
    return what != "alive" and age_s(path, now) > LEFTOVER_S * (1 if what == "dead" else 7)


def _delete(path: Path) -> None:
    """Removes a file or folder that other processes may be removing, too."""
    while path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):
            shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _removable_snapshots(usage: Usage, retention: Retention, total: int) -> list[StoredSnapshot]:
    """The snapshots to remove, least recently used first; those in use stay, whatever the limits are.

    ``total`` is the bytes of the whole cache without what is removed in any case. A snapshot without references is
    removed when it was published longer ago than the grace.
    """
    in_use = usage.in_use()
    free = [item for item in usage.items if item.digest not in in_use]
    free.sort(key=lambda item: (item.used_s, item.digest))
    chosen = [item for item in free if _is_expired(item, usage, retention)]
    if retention.max_bytes is None:
        return chosen
    counts = Counter(inode for item in usage.items for inode in usage.inodes[item.directory])
    total -= sum(_freed_bytes(usage, item, counts) for item in chosen)
    for item in free:
        if total <= retention.max_bytes:
            break
        # A snapshot without a reference may have been published this moment: it is not old, it was never used.
        if item not in chosen and item.records:
            chosen.append(item)
            total -= _freed_bytes(usage, item, counts)
    return chosen


def _is_expired(item: StoredSnapshot, usage: Usage, retention: Retention) -> bool:
    if not item.records:
        return age_s(item.directory, usage.now_s) > retention.grace_s
    return retention.unused_for_s is not None and usage.now_s - item.used_s > retention.unused_for_s


def _freed_bytes(usage: Usage, item: StoredSnapshot, counts: Counter[Inode]) -> int:
    """Takes a snapshot out of ``counts`` (how many have each file), and returns the bytes of files only it has."""
    freed = 0
    for inode in usage.inodes[item.directory]:
        counts[inode] -= 1
        if not counts[inode]:
            freed += usage.sizes[inode]
    return freed


def _removable_blobs(
    usage: Usage,
    items: Collection[StoredSnapshot],
    staying_names: Collection[str],
    before_s: float,
    *,
    forced: bool = False,
) -> list[BlobFile]:
    """The blobs that only these snapshots had, and unreferenced ones from before ``before_s``.

    ``staying_names`` are the sha256 of references that stay. Unless ``forced``, blobs that are in use or linked outside
    the cache stay.
    """
    gone = {item.directory for item in items}
    used = {inode for folder, files in usage.inodes.items() if folder not in gone for inode in files}
    freed = {inode for folder in gone for inode in usage.inodes.get(folder, ())}
    freed_names = set().union(*(item.blob_names for item in items))
    kept = used if forced else used | usage.linked_outside()
    return [
        blob
        for blob in usage.blobs
        if blob.inode not in kept
        and blob.path.name not in staying_names
        and (forced or blob.path.name not in usage.names_in_use)
        and (blob.inode in freed or blob.path.name in freed_names or blob.changed_s < before_s)
    ]
