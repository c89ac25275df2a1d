"""The contents of a cache: snapshots with their references."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lora_cli.refs.snapshot import Blob, snapshot_digest
from lora_cli.store import Store
from lora_cli.store.records import Record, all_records
from lora_cli.store.snapshots import is_digest, is_intact, sha256_of
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


@dataclass(frozen=True, slots=True)
class Verified:
    """One blob or snapshot; ``problem`` is empty when it is intact, ``removed`` says that it is gone."""

    kind: str
    path: Path
    size: int
    problem: str = ""
    removed: bool = False


def verify(store: Store, only: Collection[str] | None = None) -> Iterator[Verified]:
    """Verifies each blob and snapshot.

    Corrupt ones are removed, if this user may; the next fetch restores them. Files with other names are ignored.
    ``only`` has the names of what is verified: sha256 of blobs and digests of snapshots (None: all). Raises
    ``UsageError`` if this is no cache, ``MachineError`` if it is no folder.
    """
    store.check_cache()
    known: dict[tuple[int, int], str | None] = {}
    with ThreadPoolExecutor(4) as pool:
        blobs = {path: status for path, status in blob_files(store) if only is None or path.name in only}
        for (path, status), digest in zip(blobs.items(), pool.map(sha256_of, blobs), strict=True):
            known[inode_of(status)] = digest
            yield from _verified("blob", store, path, digest, sha256_of)
    for path in list_folder(store.snapshots):
        if is_digest(path.name) and (only is None or path.name in only):
            yield from _verified("snapshot", store, path, _digest_of(path, known), _digest_of)


def _verified(
    kind: str, store: Store, path: Path, digest: str | None, digest_of: Callable[[Path], str | None]
) -> Iterator[Verified]:
    """The result for one path; none if it no longer exists. If the ``digest`` is wrong, it is hashed again, locked."""
    size, problem = tree_bytes(path), ""

    def is_good(path: Path) -> bool:
        nonlocal problem
        digest = digest_of(path)
        what = "is not a readable file" if digest is None else f"its bytes have the sha256 {digest}"
        problem = "" if digest == path.name else what
        return not problem

    if digest != path.name and os.path.lexists(path):
        is_intact(store, path, is_good, quiet=True)
    is_there = os.path.lexists(path)
    if is_there or problem:
        yield Verified(kind, path, size, problem, removed=not is_there)


def _digest_of(directory: Path, known: Mapping[tuple[int, int], str | None] = MappingProxyType({})) -> str:
    """The digest of what is in a snapshot; files with a ``known`` inode are not read."""
    files = []
    for path, status in files_in(directory):
        sha256 = known.get(inode_of(status)) or sha256_of(directory / path) or ""
        files.append((path.encode(errors="replace").decode(), Blob(sha256, status.st_size)))
    return snapshot_digest(files)
