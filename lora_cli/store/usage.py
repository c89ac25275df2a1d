"""The files of a cache and which of them are in use, read once: the input of garbage collection."""

import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_cli.core.adapter_files import BASE_CONFIG
from lora_cli.store import Store
from lora_cli.store.cachedir_tag import TAG
from lora_cli.store.in_use import names_in_use
from lora_cli.store.inventory import Inode, StoredSnapshot, blob_files, files_in, inventory


@dataclass(frozen=True, slots=True)
class BlobFile:
    """One blob: ``links`` is the number of its hard links, in the cache or not, ``changed_s`` its ctime."""

    path: Path
    inode: Inode
    size: int
    links: int
    changed_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """A cache at ``now_s``, by the file system's own clock.

    ``inodes`` has the files of each snapshot by directory, and how many names each has there; ``sizes`` are
    bytes. ``names_in_use`` are the digests that living processes use.
    """

    now_s: float
    items: tuple[StoredSnapshot, ...]
    blobs: tuple[BlobFile, ...]
    inodes: Mapping[Path, Mapping[Inode, int]]
    sizes: Mapping[Inode, int]
    names_in_use: frozenset[str]

    def linked_outside(self) -> frozenset[Inode]:
        """The blobs with hard links outside the cache (``fetch --to``, ``--publish``): removing these frees nothing."""
        known = Counter[Inode]()
        for files in self.inodes.values():
            known.update(files)
        return frozenset(blob.inode for blob in self.blobs if blob.links > known[blob.inode] + 1)

    def in_use(self) -> set[str]:
        """The digests of the snapshots that stay, whatever the limits are.

        A process uses them, they have links outside the cache, or are the config of a base, which is small.
        """
        exported = self.linked_outside()
        return {
            item.digest
            for item in self.items
            if item.digest in self.names_in_use
            or item.files.keys() == {BASE_CONFIG}
            or exported & self.inodes[item.directory].keys()
        }


def scan_usage(store: Store) -> Usage:
    """Reads every blob and snapshot.

    Raises:
        OSError: as it comes.
    """
    now_s = file_system_time(store)
    items = tuple(inventory(store))
    # The in-use markers are read last: what is marked later is newer than everything that was read before.
    files = tuple(_blob_files(store))
    sizes = {file.inode: file.size for file in files}
    inodes = {item.directory: _inodes(item.directory, sizes) for item in items}
    return Usage(now_s, items, files, inodes, sizes, names_in_use(store, now_s))


def file_system_time(store: Store) -> float:
    """Seconds since 1970 by the clock of the cache's file system, which may be a file server's.

    If nothing can be written there, the clock of this machine is used.
    """
    path = store.root / f".{TAG}.{secrets.token_hex(6)}"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            return path.stat().st_mtime
        finally:
            path.unlink()
    except OSError:
        return time.time()


def cache_bytes(store: Store, *, partials: bool = True) -> int:
    """Bytes of all weights and files in the cache, each inode once; without records.

    With ``partials``, unfinished downloads count, too.

    Raises:
        OSError: as it comes.
    """
    sizes: dict[Inode, int] = {}
    folders = [store.blobs, store.snapshots]
    for folder in [*folders, store.partials] if partials else folders:
        _inodes(folder, sizes)
    return sum(sizes.values())


def _blob_files(store: Store) -> Iterator[BlobFile]:
    for path in blob_files(store):
        with suppress(FileNotFoundError):
            status = path.stat(follow_symlinks=False)
            yield BlobFile(path, (status.st_dev, status.st_ino), status.st_size, status.st_nlink, status.st_ctime)


def _inodes(directory: Path, sizes: dict[Inode, int]) -> Counter[Inode]:
    """The number of hard links of each inode below a directory; their sizes are added to ``sizes``."""
    found = Counter[Inode]()
    for _, status in files_in(directory):
        inode = status.st_dev, status.st_ino
        found[inode] += 1
        sizes[inode] = status.st_size
    return found
