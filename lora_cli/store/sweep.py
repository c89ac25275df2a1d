"""Making room: what no reference means any more, what the dead left, and what was asked to go."""

import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.disk import on_disk, read_small
from lora_cli.store.inventory import Item, blobs, entries, files_in, inventory, packed, tree_bytes, views
from lora_cli.store.marks import drop_mark
from lora_cli.store.records import Record, all_records, forget_record
from lora_cli.store.snapshots import is_digest
from lora_cli.store.tag import check_cache
from lora_cli.store.views import drop_view
from lora_cli.store.writers import parse_writer, state

GRACE_S = 3600.0
"""So long something new may lie here without a reference: somebody is about to name it."""
LEFT_S = 86_400.0
"""So long what a dead writer left is kept, to be gone on with; what is from elsewhere stays seven times as long."""
QUARANTINE_S = 7 * 86_400.0

# What we name so is ours; anything else in our folders is left alone.
_KEY = re.compile(r"[0-9a-f]{64}|views|links")
_LEASE = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{12}")
_ISOLATED = re.compile(r".+\.[0-9a-f]{12}")
_HALF_RECORD = re.compile(r"\.[0-9a-f]{64}\.json\.[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Removed:
    """One thing that went; ``kind``: reference, view, snapshot, packed, blob, partial, lease or quarantine."""

    kind: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What stays: references used in the last ``older_than_s``, the last used ones within ``max_bytes``.

    Packed weights go before any reference does: they can be made again.
    """

    older_than_s: float | None = None
    max_bytes: int | None = None
    grace_s: float = GRACE_S


def collect(store: Store, limits: Limits, *, dry_run: bool = False) -> list[Removed]:
    """Removes what is beyond the limits, what nothing means, and leftovers. Tells with ``dry_run``, does nothing.

    A snapshot is meant by references and by views; what has a view is in use, and stays whatever the limits are.
    A fetch that runs meanwhile is not harmed: what is taken away under it, it fetches again.

    Raises:
        UsageError: this is no cache.
        MachineError: this machine does not let us.
    """
    check_cache(store)
    now = time.time()
    with on_disk("cleaning", store.root):
        viewed = set(views(store).values())
        kept, dropped = _chosen(store, limits, now, viewed)
        for record in dropped if not dry_run else ():
            forget_record(store, record)
        removed = [Removed("reference", record.ref, 0) for record in dropped]
        meant = {record.snapshot for record in kept}
        items = [item for item in inventory(store) if item.digest not in meant]
        lost = {record.snapshot for record in dropped}
        gone = [item for item in items if item.digest in lost or _age(item.directory, now) > limits.grace_s]
        removed += _remove_items(store, gone, dropped, now - limits.grace_s, dry_run)
        going = {item.digest for item in gone}
        for kind, path in (*_leftovers(store, now), *_packed_beyond(store, limits, kept, going)):
            removed.append(Removed(kind, path.relative_to(store.root).as_posix(), tree_bytes(path)))
            if not dry_run:
                _delete(path)
        for mark in entries(store.links) if not dry_run else ():
            if is_digest(mark.name) and not os.path.lexists(store.blob(mark.name)) and _age(mark, now) > LEFT_S:
                drop_mark(store, mark.name)
        for folder in entries(store.partials) if not dry_run else ():
            if _KEY.fullmatch(folder.name):
                with suppress(OSError):
                    folder.rmdir()
    return removed


def remove(store: Store, items: Sequence[Item]) -> list[Removed]:
    """Removes these snapshots, all references that mean them, their views, and the blobs that no other snapshot has.

    Raises:
        UsageError: this is no cache.
        MachineError: this machine does not let us.
    """
    check_cache(store)
    records = [record for item in items for record in item.records]
    with on_disk("cleaning", store.root):
        for record in records:
            forget_record(store, record)
        removed = [Removed("reference", record.ref, 0) for record in records]
        for name in sorted(name for item in items for name in item.names):
            drop_view(store, name)
            removed.append(Removed("view", name, 0))
        return removed + _remove_items(store, items, records, 0.0, dry_run=False)


def _chosen(
    store: Store, limits: Limits, now: float, viewed: Collection[str | None]
) -> tuple[list[Record], list[Record]]:
    """The references that stay, and those that go: unused for too long, or beyond the bytes that are allowed."""
    kept: list[Record] = []
    dropped: list[Record] = []
    sizes: dict[str, int] = {}
    # What has a view stays, and so its bytes are the first that count.
    for record in sorted(all_records(store), key=lambda one: (one.snapshot in viewed, one.used_s), reverse=True):
        with_it = sizes | {blob.sha256: blob.size for blob in record.files.values()}
        old = limits.older_than_s is not None and now - record.used_s > limits.older_than_s
        large = limits.max_bytes is not None and sum(with_it.values()) > limits.max_bytes
        lost = not store.snapshot(record.snapshot).is_dir() and now - record.used_s > limits.grace_s
        if lost or ((old or large) and record.snapshot not in viewed):
            dropped.append(record)
        else:
            kept.append(record)
            sizes = with_it
    return kept, dropped


def _remove_items(
    store: Store, items: Sequence[Item], dropped: Sequence[Record], before_s: float, dry_run: bool
) -> list[Removed]:
    """Removes snapshots that no reference means, and the blobs that were in them or are older than ``before_s``."""
    records = [record for record in all_records(store) if record not in dropped]
    meant = {record.snapshot for record in records} | set(views(store).values())
    # Somebody may have asked for one of them since we looked.
    items = sorted((item for item in items if item.digest not in meant), key=lambda item: item.digest)
    going = {item.digest for item in items}
    freed = _inodes(item.directory for item in items)
    freed_names = {blob.sha256 for record in dropped for blob in record.files.values()}
    staying = [path for path in entries(store.snapshots) if path.name not in going]
    used = _inodes(iter([*staying, *entries(store.adapters)]))
    used_names = {blob.sha256 for record in records for blob in record.files.values()}
    for item in items if not dry_run else ():
        _delete(item.directory)
        _delete(store.packed / item.digest)
    removed = [Removed("snapshot", item.digest, 0) for item in items]
    removed += [Removed("packed", item.digest, item.packed_bytes) for item in items if item.packed_bytes]
    for path in blobs(store):
        with suppress(FileNotFoundError):
            status = path.stat(follow_symlinks=False)
            ours = status.st_ino in freed or path.name in freed_names or status.st_ctime < before_s
            if ours and status.st_ino not in used and path.name not in used_names:
                removed.append(Removed("blob", path.name, status.st_size))
                if not dry_run:
                    path.unlink()
                    drop_mark(store, path.name)
    return removed


def _packed_beyond(
    store: Store, limits: Limits, kept: Sequence[Record], going: Collection[str]
) -> Iterator[tuple[str, Path]]:
    """Packed weights of snapshots that are not here, and those that have no room beside what is ``kept``."""
    taken = sum({blob.sha256: blob.size for record in kept for blob in record.files.values()}.values())
    order = {record.snapshot: place for place, record in reversed(list(enumerate(kept)))}
    for path in sorted(packed(store), key=lambda path: (order.get(path.name, len(order)), path.name)):
        if path.name in going:
            continue
        taken += tree_bytes(path)
        if not store.snapshot(path.name).is_dir() or (limits.max_bytes is not None and taken > limits.max_bytes):
            taken -= tree_bytes(path)
            yield "packed", path


def _inodes(directories: Iterator[Path]) -> Collection[int]:
    found = set()
    for directory in directories:
        for path, _ in files_in(directory):
            with suppress(OSError):
                found.add((directory / path).stat(follow_symlinks=False).st_ino)
    return found


def _leftovers(store: Store, now: float) -> Iterator[tuple[str, Path]]:
    for folder in entries(store.partials):
        for path in entries(folder) if _KEY.fullmatch(folder.name) else ():
            if parse_writer(path.name) is not None and _is_left(path, path.name, now):
                yield "partial", path
    for path in entries(store.leases):
        text = _text(path) if _LEASE.fullmatch(path.name) else None
        # An owner that died before it wrote its name leaves an empty one.
        if text is not None and (not text or parse_writer(text)) and _is_left(path, text, now):
            yield "lease", path
    for path in entries(store.quarantine):
        if _ISOLATED.fullmatch(path.name) and _age(path, now) > QUARANTINE_S:
            yield "quarantine", path
    for path in entries(store.refs):
        if _HALF_RECORD.fullmatch(path.name) and _age(path, now) > LEFT_S:
            yield "partial", path


def _text(path: Path) -> str | None:
    """What stands in a lease; None when it is none."""
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
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
