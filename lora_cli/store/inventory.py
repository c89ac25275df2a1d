"""The contents of a cache: snapshots with their references."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.records import Record, all_records
from lora_cli.store.snapshots import is_digest
from lora_cli.text import by_key


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """One snapshot in the cache: path → size of its files, and its records."""

    digest: str
    directory: Path
    files: dict[str, int]
    records: tuple[Record, ...]

    @property
    def blob_names(self) -> set[str]:
        """The sha256 of its files."""
        return set().union(*(record.blob_names for record in self.records))

    @property
    def used_s(self) -> float:
        """When it was last used, in seconds since 1970; 0 without a reference."""
        return max((record.used_s for record in self.records), default=0.0)


def inventory(store: Store, *, lost: bool = False) -> list[StoredSnapshot]:
    """Every snapshot, the last used one first; with ``lost`` also those that are recorded but missing."""
    records = by_key((record.snapshot, record) for record in all_records(store))
    digests = {path.name for path in list_folder(store.snapshots) if is_digest(path.name)}
    items = []
    for digest in digests | (records.keys() if lost else set()):
        directory = store.snapshot(digest)
        files = {path: status.st_size for path, status in files_in(directory)}
        items.append(StoredSnapshot(digest, directory, files, tuple(records.get(digest, ()))))
    return sorted(items, key=lambda item: (-item.used_s, item.digest))


def list_folder(folder: Path) -> Iterator[Path]:
    """The paths in a folder, sorted; none if it does not exist."""
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted(folder.iterdir())


def blob_files(store: Store) -> Iterator[tuple[Path, os.stat_result]]:
    """Path and status of every blob, by its name."""
    for path in sorted(store.blobs.glob("??/*")):
        with suppress(FileNotFoundError):
            if is_digest(path.name):
                yield path, path.stat(follow_symlinks=False)


def files_in(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Relative path and status of each file below a directory; links are not followed."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            with suppress(OSError):
                yield path.relative_to(directory).as_posix(), path.stat(follow_symlinks=False)


def inode_of(status: os.stat_result) -> tuple[int, int]:
    """The device and inode number of a file."""
    return status.st_dev, status.st_ino


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    if path.is_dir() and not path.is_symlink():
        return sum(status.st_size for _, status in files_in(path))
    with suppress(OSError):
        return path.stat(follow_symlinks=False).st_size
    return 0
