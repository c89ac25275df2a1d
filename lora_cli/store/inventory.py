"""The contents of a cache: snapshots with their references."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_cli.core.grouping import by_key
from lora_cli.core.snapshot import Blob, snapshot_digest
from lora_cli.store import Store
from lora_cli.store.blobs import sha256_of
from lora_cli.store.records import Record, all_records
from lora_cli.store.snapshots import is_digest

Inode = tuple[int, int]
"""Device and inode number of a file."""


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """One snapshot in the cache: path → size of its files, and its records."""

    digest: str
    directory: Path
    files: dict[str, int]
    records: tuple[Record, ...]

    @property
    def size(self) -> int:
        """Bytes of all files, including those that are shared with other snapshots."""
        return sum(self.files.values())

    @property
    def blob_names(self) -> set[str]:
        """The sha256 of its files."""
        return set().union(*(record.blob_names for record in self.records))

    @property
    def used_s(self) -> float:
        """When it was last used, in seconds since 1970; 0 without a reference."""
        return max((record.used_s for record in self.records), default=0.0)


def inventory(store: Store) -> list[StoredSnapshot]:
    """Every snapshot, the last used one first."""
    records = by_key((record.snapshot, record) for record in all_records(store))
    items = [
        StoredSnapshot(
            path.name,
            path,
            {file: status.st_size for file, status in files_in(path)},
            tuple(records.get(path.name, ())),
        )
        for path in list_folder(store.snapshots)
        if is_digest(path.name)
    ]
    return sorted(items, key=lambda item: (-item.used_s, item.digest))


def lost_snapshots(store: Store) -> list[StoredSnapshot]:
    """The recorded snapshots that are missing."""
    records = by_key((record.snapshot, record) for record in all_records(store))
    return [
        StoredSnapshot(digest, store.snapshot(digest), {}, tuple(known))
        for digest, known in records.items()
        if not os.path.lexists(store.snapshot(digest))
    ]


def find_items(items: Sequence[StoredSnapshot], text: str, ref: str) -> list[StoredSnapshot]:
    """The snapshots whose digest starts with ``text`` (8 digits or more), else of ``ref``."""
    if re.fullmatch(r"[0-9a-f]{8,64}", text) and (found := [item for item in items if item.digest.startswith(text)]):
        return found
    return [item for item in items if any(record.ref == ref for record in item.records)]


def folder_digest(directory: Path, known: Mapping[Inode, str | None]) -> str:
    """The snapshot digest of the files below a directory; those whose device and inode are ``known`` are not read.

    Raises:
        ValueError: it is no directory, or one is no plain file, cannot be read or has a name that is not UTF-8.
    """
    if not directory.is_dir() or directory.is_symlink():
        raise ValueError("is not a folder")
    files = []
    for path, status in files_in(directory):
        key = status.st_dev, status.st_ino
        digest = known[key] if key in known else sha256_of(directory / path)
        if digest is None:
            raise ValueError(f"{path} is not a readable file")
        files.append((path, Blob(digest, status.st_size)))
    try:
        return snapshot_digest(files)
    except UnicodeEncodeError as error:
        raise ValueError("contains a file whose name is not UTF-8") from error


def list_folder(folder: Path) -> Iterator[Path]:
    """The paths in a folder, sorted; none if it does not exist."""
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from paths


def blob_files(store: Store) -> Iterator[Path]:
    """Every blob, by its name."""
    for folder in list_folder(store.blobs):
        if re.fullmatch(r"[0-9a-f]{2}", folder.name) and not folder.is_symlink():
            yield from (path for path in list_folder(folder) if is_digest(path.name))


def files_in(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Relative path and status of each file below a directory; links are not followed."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            with suppress(OSError):
                yield path.relative_to(directory).as_posix(), path.stat(follow_symlinks=False)


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    if path.is_dir() and not path.is_symlink():
        return sum(status.st_size for _, status in files_in(path))
    with suppress(OSError):
        return path.stat(follow_symlinks=False).st_size
    return 0
