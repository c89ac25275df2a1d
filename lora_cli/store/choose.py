"""Which snapshots go, and which blobs then: pure decisions over what ``usage`` saw."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_cli.store.inventory import Item
from lora_cli.store.usage import BlobFile, Inode, Usage

GRACE_S = 3600.0
"""So long something new may lie here without a reference: somebody is about to name it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What stays: snapshots used in the last ``unused_for_s``, the last used ones within ``max_bytes`` of all.

    Packed weights go before any snapshot does: they can be made again.
    ``grace_s`` is how long what has no reference yet stays.
    """

    unused_for_s: float | None = None
    max_bytes: int | None = None
    grace_s: float = GRACE_S


def going(usage: Usage, limits: Limits, total: int, ages_s: Mapping[str, float]) -> list[Item]:
    """The snapshots that go, the longest unused first; what is in use stays, whatever the limits are.

    ``total`` is the bytes of the whole cache without what goes in any case, ``ages_s`` for each digest the seconds
    since it was published. A snapshot that no reference means goes when it is older than the grace.
    """
    in_use = usage.in_use()
    free = [item for item in usage.items if item.digest not in in_use]
    free.sort(key=lambda item: (item.used_s, item.digest))
    chosen = [item for item in free if _is_done_with(item, usage, limits, ages_s[item.digest])]
    if limits.max_bytes is None:
        return chosen
    counts = _counts(usage)
    total -= sum(_leave(usage, item, counts) for item in chosen)
    for item in free:
        if total <= limits.max_bytes:
            break
        # What was published this moment, and has no reference yet, is not old: it was never used.
        if item not in chosen and item.records:
            chosen.append(item)
            total -= _leave(usage, item, counts)
    return chosen


def _is_done_with(item: Item, usage: Usage, limits: Limits, age_s: float) -> bool:
    if not item.records:
        return age_s > limits.grace_s
    return limits.unused_for_s is not None and usage.now_s - item.used_s > limits.unused_for_s


def _counts(usage: Usage) -> dict[Inode, int]:
    """How many snapshots have each file."""
    counts: dict[Inode, int] = {}
    for item in usage.items:
        for inode in usage.inodes[item.directory]:
            counts[inode] = counts.get(inode, 0) + 1
    return counts


def _leave(usage: Usage, item: Item, counts: dict[Inode, int]) -> int:
    """Takes a snapshot out of ``counts``, and says how many bytes nobody has then."""
    freed = 0
    for inode in usage.inodes[item.directory]:
        counts[inode] -= 1
        if not counts[inode] and inode not in usage.foreign:
            freed += usage.sizes[inode]
    return freed


def going_blobs(
    usage: Usage,
    items: Collection[Item],
    staying_names: Collection[str],
    before_s: float,
    *,
    forced: bool = False,
    views: Collection[Path] = (),
) -> list[BlobFile]:
    """The blobs that only these snapshots had, and those that nothing means and that are older than ``before_s``.

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
