"""Making room: what is no longer referenced, leftovers of dead processes, and what the user removes."""

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_cli.core.adapter_request import NAME
from lora_cli.core.json_schema import Count
from lora_cli.store import Store
from lora_cli.store.atomic_swap import aside, clear, take_away
from lora_cli.store.blobs import drop_mark
from lora_cli.store.cachedir_tag import check_cache
from lora_cli.store.disk import on_disk, read_small
from lora_cli.store.in_use import PREFIX, held
from lora_cli.store.inventory import Inode, Item, entries, packed, tree_bytes
from lora_cli.store.leases import lease
from lora_cli.store.quarantine import moved_s, quarantined
from lora_cli.store.resolution_records import all_records, forget_record, read_record
from lora_cli.store.snapshots import is_digest
from lora_cli.store.usage import BlobFile, Usage, cache_bytes, survey
from lora_cli.store.writer_ids import parse_writer, state

GRACE_S = 3600.0
"""How long something new may be here without a reference: a process is about to reference it."""

LEFT_S = 86_400.0
"""How long what a dead writer left is kept, to be gone on with; what is from elsewhere stays seven times as long."""
QUARANTINE_S = 7 * 86_400.0
LEASE_S = 1.0
"""How long another one who looks at the same snapshot is waited for; else it stays for now."""

# What we name so is ours; anything else in our folders is left alone.
_KEY = re.compile(r"[0-9a-f]{64}|views|links")
_LEASE = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{12}")
_HALF_RECORD = re.compile(r"\.[0-9a-f]{64}\.json\.[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What stays: snapshots used in the last ``unused_for_s``, the last used ones within ``max_bytes`` of all.

    Packed weights go before any snapshot does: they can be made again.
    ``grace_s`` is how long what has no reference yet stays.
    """

    unused_for_s: float | None = None
    max_bytes: int | None = None
    grace_s: float = GRACE_S


@dataclass(frozen=True, slots=True)
class Removed:
    """One removed thing; ``kind``: reference, view, snapshot, packed, blob, partial, lease or quarantine."""

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


def collect(store: Store, limits: Limits, *, dry_run: bool = False) -> list[Removed]:
    """Removes what is beyond the limits, unreferenced files, and leftovers. With ``dry_run`` only reports.

    A snapshot that is in use stays whatever the limits are: one that has a view, was written to a folder as hard links,
    or that a living process holds. A fetch that runs meanwhile is not harmed: what is taken away under it, it fetches
    again.

    Raises:
        UsageError: this is no cache.
        MachineError: this machine does not let us.
    """
    check_cache(store)
    with on_disk("cleaning", store.root):
        usage = survey(store)
        left = [*_leftovers(store, usage.now_s)]
        total = cache_bytes(store) - sum(tree_bytes(path) for _, path in left)
        meant = {blob.sha256 for record in all_records(store) for blob in record.files.values()}
        total -= sum(blob.size for blob in _removable_blobs(usage, (), meant, usage.now_s - limits.grace_s))
        if limits.max_bytes is not None and total > limits.max_bytes:
            rotten = [("quarantine", path) for _, path in quarantined(store) if ("quarantine", path) not in left]
            total -= sum(tree_bytes(path) for _, path in rotten)
            left += rotten
        away = _packed_beyond(store, usage, limits, total)
        total -= sum(tree_bytes(path) for path in away)
        items = _removable_snapshots(usage, limits, total)
        left += [("packed", path) for path in away if path.name not in {item.digest for item in items}]
        removed = _remove_dangling_references(store, usage, limits.grace_s, dry_run=dry_run)
        removed += _sweep(store, usage, items, usage.now_s - limits.grace_s, dry_run=dry_run)
        removed += _remove_leftovers(store, left, dry_run=dry_run)
        if not dry_run:
            _tidy(store, usage.now_s)
    return removed


def remove(store: Store, items: Sequence[Item], *, everything: bool = False, dry_run: bool = False) -> list[Removed]:
    """Removes these snapshots, all references that mean them, their views, and the blobs that no other snapshot has.

    What is in the quarantine of them goes, too. With ``everything`` all views, the whole quarantine, what no reference
    means and downloads that dead processes left go as well. With ``dry_run`` only reports.

    Raises:
        UsageError: this is no cache.
        MachineError: this machine does not let us.
    """
    check_cache(store)
    with on_disk("cleaning", store.root):
        usage = survey(store)
        current = {item.digest: item for item in usage.items}
        items = [current.get(item.digest, item) for item in items]
        named = {name for item in items for name in item.names}
        views = [path.name for path in usage.inodes if path.parent == store.adapters]
        views = [name for name in views if name in named or (everything and re.fullmatch(NAME, name, re.ASCII))]
        for name in () if dry_run else views:
            take_away(store, store.adapters / name)
        removed = [Removed("view", name, usage.copied_bytes(store.adapters / name)) for name in views]
        before_s = math.inf if everything else 0.0
        removed += _sweep(store, usage, items, before_s, dry_run=dry_run, forced=True, views=views)
        if everything:
            removed += _remove_dangling_references(store, usage, -1.0, dry_run=dry_run)
        gone = named.union(*({item.digest} | _blob_names(item) for item in items))
        left = [("quarantine", path) for name, path in quarantined(store) if everything or name in gone]
        if everything:
            # Nobody knows whether a process of another machine lives, unless its files are old.
            left += [(kind, path) for kind, path in _leftovers(store, usage.now_s + LEFT_S) if kind == "partial"]
        removed += _remove_leftovers(store, left, dry_run=dry_run)
    return removed


def _blob_names(item: Item) -> set[str]:
    return {blob.sha256 for record in item.records for blob in record.files.values()}


def _remove_leftovers(store: Store, left: Sequence[tuple[str, Path]], *, dry_run: bool) -> list[Removed]:
    """Removes each of these paths, given with its kind."""
    removed = []
    for kind, path in left:
        removed.append(Removed(kind, path.relative_to(store.root).as_posix(), tree_bytes(path)))
        if not dry_run:
            take_away(store, path) if kind == "packed" else _delete(path)
    return removed


def _sweep(
    store: Store,
    usage: Usage,
    items: Sequence[Item],
    before_s: float,
    *,
    dry_run: bool = False,
    forced: bool = False,
    views: Sequence[str] = (),
) -> list[Removed]:
    """Removes snapshots with their references, and the blobs that were only theirs or are older than ``before_s``.

    Unless it is ``forced``, what was used since ``usage`` was made stays. ``views`` go with the snapshots.
    """
    if not dry_run:
        now_s = None if forced else usage.now_s
        meant = set() if forced else _meant_by_others(store, items)
        items = [item for item in items if item.digest not in meant and _taken_away(store, item, now_s)]
    removed = [Removed("reference", record.ref, 0) for item in items for record in item.records]
    gone = sorted(items, key=lambda item: item.digest)
    forgotten = {record.key for item in gone for record in item.records}
    staying = {
        blob.sha256 for record in all_records(store) if record.key not in forgotten for blob in record.files.values()
    }
    folders = [store.adapters / name for name in views]
    blobs = _removable_blobs(usage, gone, staying, before_s, forced=forced, views=folders)
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
    removed += [Removed("packed", item.digest, item.packed_bytes) for item in gone if item.packed_bytes]
    linked = usage.linked_elsewhere()
    for blob in blobs:
        is_linked = blob.inode in linked
        removed.append(Removed("blob", blob.path.name, 0 if is_linked else blob.size, blob.size if is_linked else None))
        if not dry_run:
            blob.path.unlink(missing_ok=True)
            drop_mark(store, blob.path.name)
    return removed


def _used_since(store: Store, item: Item) -> bool:
    """Whether a snapshot was used, or one of its references changed, since it was checked."""
    found = [(record, read_record(store, *record.key)) for record in item.records]
    return any(now is not None and now != record for record, now in found)


def _meant_by_others(store: Store, items: Sequence[Item]) -> set[str]:
    """The snapshots that references mean which came since these were looked at, and so are not among theirs."""
    seen = {record.key for item in items for record in item.records}
    return {record.snapshot for record in all_records(store) if record.key not in seen}


def _taken_away(store: Store, item: Item, now_s: float | None) -> bool:
    """Whether a snapshot is gone now, all of it at once, its references first; without ``now_s`` even if it is in use.

    Its lease is taken, then is looked whether it is used, then it goes. A fetch holds it, then waits while another
    process has the lease, then looks whether it is there. So it stays as it is, or the fetch finds it gone.
    """

    def is_used() -> bool:
        return now_s is not None and (item.digest in held(store, now_s) or _used_since(store, item))

    there = aside(store)
    try:
        with lease(store, item.digest, LEASE_S) as ours:
            if is_used() or (now_s is not None and not ours and os.path.lexists(store.leases / item.digest)):
                return False
            for record in item.records:
                forget_record(store, record)
            item.directory.rename(there)
            # Without a lease, as on a full disk, or after a stop so long that it was lost, somebody may use it by now.
            if is_used():
                with suppress(OSError):
                    there.rename(item.directory)
                    return False
    except FileNotFoundError:
        pass
    finally:
        clear(there)
    take_away(store, store.packed / item.digest)
    return True


def _packed_beyond(store: Store, usage: Usage, limits: Limits, total: int) -> list[Path]:
    """Packed weights of snapshots that are not here, and, before any snapshot, the longest unused beyond the limit."""
    items = {item.digest: item for item in usage.items}
    paths = sorted(packed(store), key=lambda path: (items[path.name].used_s if path.name in items else 0.0, path.name))
    away = []
    for path in paths:
        over = limits.max_bytes is not None and total > limits.max_bytes and path.name not in usage.held
        if over or path.name not in items:
            away.append(path)
            total -= tree_bytes(path)
    return away


def _remove_dangling_references(store: Store, usage: Usage, grace_s: float, *, dry_run: bool) -> list[Removed]:
    """Removes references whose snapshot no longer exists and that were not used for longer than the grace.

    Those of snapshots in the quarantine stay: they say where to fetch these again.
    """
    there = {item.digest for item in usage.items}.union(name for name, _ in quarantined(store))
    found = [
        record
        for record in all_records(store)
        if record.snapshot not in there and usage.now_s - record.used_s > grace_s
    ]
    for record in found if not dry_run else ():
        forget_record(store, record)
    return [Removed("reference", record.ref, 0) for record in found]


def _tidy(store: Store, now_s: float) -> None:
    """Marks of blobs that are gone, and folders that are empty."""
    for mark in entries(store.links):
        if is_digest(mark.name) and not os.path.lexists(store.blob(mark.name)) and _age(mark, now_s) > LEFT_S:
            drop_mark(store, mark.name)
    for folder in entries(store.partials):
        if _KEY.fullmatch(folder.name):
            with suppress(OSError):
                folder.rmdir()


def _leftovers(store: Store, now: float) -> Iterator[tuple[str, Path]]:
    # A snapshot that is being built, or that goes, has its writer's own name.
    for folder in (*entries(store.partials), *(path for path in entries(store.snapshots) if not is_digest(path.name))):
        if parse_writer(folder.name) is not None and _is_left(folder, folder.name, now):
            yield "partial", folder
        for path in entries(folder) if _KEY.fullmatch(folder.name) else ():
            if parse_writer(path.name) is not None and _is_left(path, path.name, now):
                yield "partial", path
    for path in entries(store.leases):
        text = _text(path) if _LEASE.fullmatch(path.name) else None
        # An owner that died before it wrote its name leaves an empty one.
        if text is not None and (not text or parse_writer(text)) and _is_left(path, text, now):
            yield "lease", path
    for path in entries(store.leases):
        if path.name.startswith(PREFIX) and _is_left(path, path.name.removeprefix(PREFIX), now):
            yield "lease", path
    for _, path in quarantined(store):
        if now - moved_s(path) > QUARANTINE_S:
            yield "quarantine", path
    for path in entries(store.refs):
        if _HALF_RECORD.fullmatch(path.name) and _age(path, now) > LEFT_S:
            yield "partial", path


def _text(path: Path) -> str | None:
    """What is in a lease; None if it is not one."""
    data = read_small(path, 200)
    return None if data is None else data.decode("ascii", "replace")


def _is_left(path: Path, name: str, now: float) -> bool:
    writer = parse_writer(name)
    what = state(writer) if writer is not None else "elsewhere"
    return what != "alive" and _age(path, now) > LEFT_S * (1 if what == "dead" else 7)


def _age(path: Path, now: float) -> float:
    """Seconds since the last change; nothing that is gone is old."""
    with suppress(OSError):
        return now - path.stat(follow_symlinks=False).st_mtime
    return 0.0


def _delete(path: Path) -> None:
    """Removes what others may be removing, too."""
    while path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):
            shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _removable_snapshots(usage: Usage, limits: Limits, total: int) -> list[Item]:
    """The snapshots to remove, least recently used first; those in use stay, whatever the limits are.

    ``total`` is the bytes of the whole cache without what is removed in any case. A snapshot without references is
    removed when it was published longer ago than the grace.
    """
    in_use = usage.in_use()
    free = [item for item in usage.items if item.digest not in in_use]
    free.sort(key=lambda item: (item.used_s, item.digest))
    chosen = [item for item in free if _is_expired(item, usage, limits)]
    if limits.max_bytes is None:
        return chosen
    counts = Counter(inode for item in usage.items for inode in usage.inodes[item.directory])
    total -= sum(_freed_bytes(usage, item, counts) for item in chosen)
    for item in free:
        if total <= limits.max_bytes:
            break
        # What was published this moment, and has no reference yet, is not old: it was never used.
        if item not in chosen and item.records:
            chosen.append(item)
            total -= _freed_bytes(usage, item, counts)
    return chosen


def _is_expired(item: Item, usage: Usage, limits: Limits) -> bool:
    if not item.records:
        return _age(item.directory, usage.now_s) > limits.grace_s
    return limits.unused_for_s is not None and usage.now_s - item.used_s > limits.unused_for_s


def _freed_bytes(usage: Usage, item: Item, counts: Counter[Inode]) -> int:
    """Takes a snapshot out of ``counts`` (how many have each file), and returns the bytes of files only it has."""
    freed = 0
    for inode in usage.inodes[item.directory]:
        counts[inode] -= 1
        if not counts[inode] and inode not in usage.foreign:
            freed += usage.sizes[inode]
    return freed


def _removable_blobs(
    usage: Usage,
    items: Collection[Item],
    staying_names: Collection[str],
    before_s: float,
    *,
    forced: bool = False,
    views: Collection[Path] = (),
) -> list[BlobFile]:
    """The blobs that only these snapshots had, and those that are unreferenced and older than ``before_s``.

    ``staying_names`` are the sha256 that references which stay have. What is held or has a name elsewhere stays, unless
    it is ``forced``. ``views`` go with the snapshots.
    """
    gone = {*(item.directory for item in items), *views}
    used = {inode for folder, files in usage.inodes.items() if folder not in gone for inode in files}
    freed = {inode for folder in gone for inode in usage.inodes.get(folder, ())}
    freed_names = {blob.sha256 for item in items for record in item.records for blob in record.files.values()}
    kept = used if forced else used | usage.handed_out()
    return [
        blob
        for blob in usage.blobs
        if blob.inode not in kept
        and blob.path.name not in staying_names
        and (forced or blob.path.name not in usage.held)
        and (blob.inode in freed or blob.path.name in freed_names or blob.changed_s < before_s)
    ]
