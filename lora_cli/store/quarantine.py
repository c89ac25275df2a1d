"""The quarantine: corrupt blobs and snapshots, each under its name and a token."""

import math
import os
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from lora_cli.core.grouping import by_key
from lora_cli.store import Store
from lora_cli.store.inventory import StoredSnapshot, files_in, list_folder
from lora_cli.store.resolution_records import all_records

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


def quarantined_items(store: Store) -> list[StoredSnapshot]:
    """The referenced snapshots that are only in the quarantine."""
    names = {name for name, _ in quarantined(store)}
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
        )
        for digest, records in missing.items()
    ]


def moved_at_s(path: Path) -> float:
    """When an entry was moved to the quarantine, in seconds since 1970, by its ctime."""
    with suppress(FileNotFoundError):
        return path.stat(follow_symlinks=False).st_ctime
    return math.inf
