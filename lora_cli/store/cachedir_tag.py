"""What distinguishes a cache from any other folder: ``CACHEDIR.TAG`` (https://bford.info/cachedir/).

It also keeps backups away. What has none is never cleaned.
"""

import os

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
    """Whether the folder is marked as a cache of lora-cli: other programs tag theirs too."""
    data = read_small(store.root / TAG, LARGEST) or b""
    return data.startswith(TEXT.split(b"\n", 1)[0]) and b"lora-cli" in data


def tag_cache(store: Store) -> None:
    """Tags a folder that is missing or empty, before the first file is written to it.

    One that holds anything else stays untagged: no backup may miss other files.

    Raises:
        OSError: as it comes.
    """
    if not is_cache(store) and _is_empty(store):
        replace_file(store.root / TAG, TEXT)


def check_folder(store: Store) -> None:
    """Whether a cache can be there.

    Raises:
        MachineError: there is something else than a folder.
    """
    # As os.path says it: what this user may not look at is no file, and whoever needs it says so. In this order: one
    # that is not there yet may be made by another thread meanwhile.
    if os.path.lexists(store.root) and not os.path.isdir(store.root):  # noqa: PTH112
        what = "a file" if store.root.exists() else "a dangling link"
        raise MachineError(f"{store.root}: the cache is {what}", hint="set --cache-dir to a folder")


def check_cache(store: Store) -> None:
    """Whether anything there may be moved or removed: it is tagged, or empty, or not there.

    Raises:
        UsageError: it is another program's folder.
        MachineError: it is no folder, or cannot be read.
    """
    check_folder(store)
    with on_disk("reading", store.root):
        empty = _is_empty(store)
    if not empty and not is_cache(store):
        raise UsageError(
            f"{store.root} is not a cache of lora-cli: its {TAG} is missing",
            hint=f"check --cache-dir; if it is a cache, copy the {TAG} of another one into it",
        )


def _is_empty(store: Store) -> bool:
    """Whether there is nothing, or only what a file system or a writer of the tag that died put there."""
    names = [path.name for path in store.root.iterdir()] if store.root.is_dir() else []
    return all(name == "lost+found" or name.startswith(f".{TAG}.") for name in names)
