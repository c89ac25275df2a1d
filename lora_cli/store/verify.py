"""``cache verify``: every byte in a cache is hashed again."""

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lora_cli.core.json_schema import EXCLUDED, FilePath
from lora_cli.store import Store
from lora_cli.store.blobs import remove_if_corrupt, sha256_of
from lora_cli.store.cachedir_tag import check_cache
from lora_cli.store.inventory import Inode, blob_files, files_in, folder_digest, list_folder, tree_bytes
from lora_cli.store.locks import shared
from lora_cli.store.snapshots import is_digest

THREADS = 4


@dataclass(frozen=True, slots=True)
class Verified:
    """One blob, snapshot or record; ``problem`` is empty when it is intact.

    ``removed`` says that it is gone, ``linked`` that hard links outside the cache (``fetch --to``, ``--publish``) have
    the same bytes. Of records, only those that conflict with others are listed; they stay.
    """

    kind: str
    path: FilePath
    size: int = field(metadata=EXCLUDED)
    problem: str = ""
    removed: bool = False
    linked: bool = field(default=False, metadata=EXCLUDED)


def verify(store: Store, only: Collection[str] | None = None) -> Iterator[Verified]:
    """Verifies each blob and snapshot, and the records that conflict with each other.

    Corrupt ones are removed, if this user may; the next fetch restores them. Files with other names are ignored.
    ``only`` has the names of what is verified: sha256 of blobs and digests of snapshots (None: all).

    Raises:
        UsageError: this is no cache.
        MachineError: this is no folder.
    """
    check_cache(store)
    known: dict[Inode, str | None] = {}

    def chosen(paths: Iterable[Path]) -> list[Path]:
        return [path for path in paths if only is None or path.name in only]

    with ThreadPoolExecutor(THREADS) as pool:
        paths = chosen(blob_files(store))
        for path, (status, digest) in zip(paths, pool.map(_stat_and_hash, paths), strict=True):
            if status is not None:
                known[status.st_dev, status.st_ino] = digest
                yield from _verify_one(store, "blob", path, partial(_blob_problem, path, digest))
    sound = set()
    for directory in (path for path in chosen(list_folder(store.snapshots)) if is_digest(path.name)):
        for one in _verify_snapshot(store, directory, known):
            sound.update([] if one.problem else [directory.name])
            yield one


def _verify_snapshot(store: Store, directory: Path, known: Mapping[Inode, str | None]) -> list[Verified]:
    """Verifies one snapshot. One that seems corrupt is hashed again while it is locked, so that nobody removes it.

    Since its blobs were hashed, an inode number may be another file's, or the folder may be a new one.
    """
    name, size = directory.name, tree_bytes(directory)
    if _snapshot_problem(name, known, directory):
        with shared(store, name):
            return list(_verify_one(store, "snapshot", directory, partial(_snapshot_problem, name, {})))
    return [Verified("snapshot", directory, size)] if os.path.lexists(directory) else []


def _verify_one(store: Store, kind: str, path: Path, problem_of: Callable[[Path], str]) -> Iterator[Verified]:
    """The result for one path; none if it no longer exists.

    Other processes may replace it by an intact one meanwhile.
    """
    if not os.path.lexists(path):
        return
    problem, size = problem_of(path), tree_bytes(path)
    linked = bool(problem) and kind == "blob" and _is_linked_outside(store, path)
    found = remove_if_corrupt(store, path, lambda there: not problem_of(there)) if problem else True
    if found is False or os.path.lexists(path):
        yield Verified(kind, path, size, "" if found else problem, found is False, linked)


def _is_linked_outside(store: Store, blob: Path) -> bool:
    """Whether a blob has a name outside of the cache."""
    try:
        status = blob.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    inside = sum(os.path.samestat(status, other) for _, other in files_in(store.snapshots))
    return status.st_nlink > inside + 1


def _stat_and_hash(path: Path) -> tuple[os.stat_result | None, str | None]:
    """Status and sha256; no status if it is missing, no sha256 if it is no regular file or cannot be read."""
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None, None
    return status, sha256_of(path) if stat.S_ISREG(status.st_mode) else None


def _blob_problem(path: Path, digest: str | None, there: Path) -> str:
    """The problem of the blob ``path`` with that ``digest``; after it was moved, of the file ``there``."""
    digest = digest if there == path else _stat_and_hash(there)[1]
    if digest is None:
        return "is not a readable file"
    if path.name != digest:
        return f"its bytes have the sha256 {digest}"
    return "" if path.parent.name == digest[:2] else "is in the wrong folder"


def _snapshot_problem(name: str, known: Mapping[Inode, str | None], directory: Path) -> str:
    try:
        digest = folder_digest(directory, known)
    except ValueError as error:
        return str(error)
    return "" if digest == name else f"its files have the digest {digest}"
