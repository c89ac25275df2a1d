"""Every byte in a cache, hashed again."""

import os
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lora_cli.core.names import NAME
from lora_cli.core.snapshot import Blob, snapshot_digest
from lora_cli.store import Store
from lora_cli.store.blobs import isolate, sha256_of
from lora_cli.store.inventory import blobs, digest_of, entries, files_in, packed, tree_bytes
from lora_cli.store.snapshots import is_digest
from lora_cli.store.tag import check_cache

THREADS = 4


@dataclass(frozen=True, slots=True)
class Verified:
    """One blob, snapshot, view or packed weights; ``problem`` is empty when all is well.

    ``moved_to`` is in the quarantine.
    """

    kind: str
    path: Path
    size: int
    problem: str = ""
    moved_to: Path | None = None


def verify(store: Store) -> Iterator[Verified]:
    """Each blob, each snapshot, each view, all packed weights.

    What is rotten goes to the quarantine, unless this user may not move it.

    A rotten snapshot is fetched again when it is asked for the next time. A view must hold a snapshot that is sound,
    and packed weights what their snapshot has. What has no name of ours is left alone.

    Raises:
        UsageError: this is no cache.
        MachineError: this is no folder.
    """
    check_cache(store)
    known: dict[tuple[int, int], str | None] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        paths = list(blobs(store))
        for path, (status, digest) in zip(paths, pool.map(_hashed, paths), strict=True):
            if status is None:
                continue
            known[status.st_dev, status.st_ino] = digest
            yield _said(store, "blob", path, status.st_size, _blob_problem(path, digest))
    sound = set()
    for directory in (path for path in entries(store.snapshots) if is_digest(path.name)):
        if not (problem := _snapshot_problem(directory, known)):
            sound.add(directory.name)
        yield _said(store, "snapshot", directory, tree_bytes(directory), problem)
    for directory in (path for path in entries(store.adapters) if re.fullmatch(NAME, path.name, re.ASCII)):
        problem = "" if digest_of(directory, known) in sound else "its files are no sound snapshot's"
        yield _said(store, "view", directory, tree_bytes(directory), problem)
    for directory in (path for path in packed(store) if path.name in sound):
        from lora_cli.store.packed import packed_problem

        yield _said(store, "packed", directory, tree_bytes(directory), packed_problem(store, directory))


def _said(store: Store, kind: str, path: Path, size: int, problem: str) -> Verified:
    return Verified(kind, path, size, problem, isolate(store, path) if problem else None)


def _hashed(path: Path) -> tuple[os.stat_result | None, str | None]:
    """Status and sha256; no status when it is gone, no sha256 when it is no plain file or cannot be read."""
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None, None
    return status, sha256_of(path) if stat.S_ISREG(status.st_mode) else None


def _blob_problem(path: Path, digest: str | None) -> str:
    if digest is None:
        return "is no file that can be read"
    if path.name != digest:
        return f"its bytes have the sha256 {digest}"
    return "" if path.parent.name == digest[:2] else "lies in the wrong folder"


def _snapshot_problem(directory: Path, known: dict[tuple[int, int], str | None]) -> str:
    if not directory.is_dir() or directory.is_symlink():
        return "is no folder"
    files = []
    for path, size in files_in(directory):
        status = (directory / path).stat(follow_symlinks=False)
        key = status.st_dev, status.st_ino
        digest = known[key] if key in known else _hashed(directory / path)[1]
        if digest is None:
            return f"{path} is no file that can be read"
        files.append((path, Blob(digest, size)))
    try:
        digest = snapshot_digest(files)
    except UnicodeEncodeError:
        return "holds a file whose name is not UTF-8"
    return "" if digest == directory.name else f"its files make the digest {digest}"
