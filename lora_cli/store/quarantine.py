"""The quarantine: corrupt blobs, snapshots and views, each under its name and a token."""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lora_cli.core.grouping import by_key
from lora_cli.core.snapshot import Blob
from lora_cli.store import Store
from lora_cli.store.blobs import sha256_of
from lora_cli.store.export import is_weights
from lora_cli.store.inventory import StoredSnapshot, files_in, list_folder
from lora_cli.store.resolution_records import all_records
from lora_cli.store.snapshots import is_digest

_ENTRY = re.compile(r"(.+)\.[0-9a-f]{12}")


def quarantined(store: Store) -> list[tuple[str, Path]]:
    """The name that each entry had in the cache, and its path; the last moved first."""
    found = [(match[1], path) for path in list_folder(store.quarantine) if (match := _ENTRY.fullmatch(path.name))]
    return sorted(found, key=lambda entry: -moved_at_s(entry[1]))


def is_linked_outside(store: Store) -> bool:
    """Whether a file in the quarantine has a name outside of the cache (``fetch --to``, ``--publish``)."""
    isolated = {status.st_ino: status.st_nlink for _, status in files_in(store.quarantine) if status.st_nlink > 1}
    if not isolated:
        return False
    inside = Counter(status.st_ino for _, status in files_in(store.root) if status.st_ino in isolated)
    return any(links > inside[inode] for inode, links in isolated.items())


def quarantined_views(store: Store) -> dict[str, set[str]]:
    """The views that are only in the quarantine, each with the digests of the snapshots that it may have been."""
    isolated = quarantined(store)
    files = {record.snapshot: record.files for record in all_records(store)}
    return {
        name: _snapshots_of(path, files, isolated)
        for name, path in reversed(isolated)
        if not is_digest(name) and path.is_dir() and not os.path.lexists(store.adapters / name)
    }


def quarantined_items(store: Store) -> list[StoredSnapshot]:
    """The referenced snapshots that are only in the quarantine, with the names of their views there."""
    names, views = {name for name, _ in quarantined(store)}, quarantined_views(store)
    missing = by_key(
        (record.snapshot, record)
        for record in all_records(store)
        if record.snapshot in names and not os.path.lexists(store.snapshot(record.snapshot))
    )
    return [
        StoredSnapshot(
            digest,
            store.snapshot(digest),
            {path: blob.size for path, blob in records[0].files.items()},
            tuple(records),
            tuple(name for name, digests in views.items() if digests == {digest}),
        )
        for digest, records in missing.items()
    ]


def _snapshots_of(
    view: Path, files: Mapping[str, Mapping[str, Blob]], isolated: Sequence[tuple[str, Path]]
) -> set[str]:
    """The snapshots that a view may have been: those with the same paths and the weights that it links.

    Corrupt weights are identified by the blob in the quarantine with the same inode.
    """
    names = {}
    for name, entry in isolated:
        if is_digest(name):
            with suppress(OSError):
                names[entry.stat(follow_symlinks=False).st_ino] = name
    found = dict(files_in(view))
    weights = {}
    for path in filter(is_weights, found):
        with suppress(OSError):
            status = (view / path).stat(follow_symlinks=False)
            weights[path] = names.get(status.st_ino) or sha256_of(view / path)
    return {
        digest
        for digest, blobs in files.items()
        if blobs.keys() == found.keys() and weights and all(blobs[path].sha256 == sha for path, sha in weights.items())
    }


def moved_at_s(path: Path) -> float:
    """When an entry was moved to the quarantine, in seconds since 1970, by its ctime."""
    with suppress(FileNotFoundError):
        return path.stat(follow_symlinks=False).st_ctime
    return math.inf
