"""What tells a cache from a folder of somebody else's: ``CACHEDIR.TAG`` (https://bford.info/cachedir/).

It also keeps backups away. What has none is never cleaned.
"""

import os
from contextlib import suppress

from lora_cli.errors import MachineError, UsageError
from lora_cli.store import Store
from lora_cli.store.disk import on_disk, read_small, replace_file

TAG = "CACHEDIR.TAG"
TEXT = b"""Signature: 8a477f597d28d172789f06886806bc55
# This file is a cache directory tag created by lora-cli.
# For information about cache directory tags, see https://bford.info/cachedir/
"""
LARGEST = 4096


def is_cache(store: Store) -> bool:
    """Whether the folder says that it is a cache, and ours: other programs tag theirs too."""
    data = read_small(store.root / TAG, LARGEST) or b""
    return data.startswith(TEXT.split(b"\n", 1)[0]) and b"lora-cli" in data


def tag_cache(store: Store) -> None:
    """Tags a folder that is missing or empty, before the first file is written to it.

    One that holds anything else stays untagged: no backup must miss somebody's files. The same folder is looked into
    once in a process.

    Raises:
        OSError: as it comes.
    """
    folder = _identity(store)
    if folder in _looked:
        return
    if not is_cache(store) and _is_empty(store):
        replace_file(store.root / TAG, TEXT)
        folder = _identity(store)
    if folder is not None:
        _looked.add(folder)


_looked: set[tuple[int, int]] = set()


def _identity(store: Store) -> tuple[int, int] | None:
    with suppress(OSError):
        status = os.stat(store.root)  # noqa: PTH116 - it is asked for often
        return status.st_dev, status.st_ino
    return None


def check_folder(store: Store) -> None:
    """Whether a cache can be there.

    Raises:
        MachineError: there is something else than a folder.
    """
    # As os.path says it: what this user may not look at is no file, and whoever needs it says so. In this order: one
    # that is not there yet may be made by another thread meanwhile.
    if os.path.lexists(store.root) and not os.path.isdir(store.root):  # noqa: PTH112
        what = "a file" if store.root.exists() else "a link that leads nowhere"
        raise MachineError(f"{store.root}: the cache is {what}", hint="set --cache-dir to a folder")


def check_cache(store: Store) -> None:
    """Whether anything there may be moved or removed: it is tagged, or empty, or not there.

    Raises:
        UsageError: it is a folder of somebody else's.
        MachineError: it is no folder, or cannot be read.
    """
    check_folder(store)
    with on_disk("reading", store.root):
        empty = _is_empty(store)
    if not empty and not is_cache(store):
        raise UsageError(
            f"{store.root} is no cache of lora-cli: its {TAG} is missing",
            hint=f"check --cache-dir; if it is one all the same, copy the {TAG} of another one into it",
        )


def _is_empty(store: Store) -> bool:
    """Whether there is nothing, or only what a file system or a writer of the tag that died put there."""
    names = [path.name for path in store.root.iterdir()] if store.root.is_dir() else []
    return all(name == "lost+found" or name.startswith(f".{TAG}.") for name in names)
