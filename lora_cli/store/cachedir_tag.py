"""``CACHEDIR.TAG`` (https://bford.info/cachedir/), which identifies a cache and excludes it from backups.

A folder without it is never cleaned.
"""

import os

from lora_cli.errors import MachineError, UsageError
from lora_cli.store import Store
from lora_cli.store.disk import on_disk, read_small, replace_file

TAG = "CACHEDIR.TAG"
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
TEXT = b"""%s
# This file is a cache directory tag created by lora-cli.
# For information about cache directory tags, see https://bford.info/cachedir/
"""


def is_cache(store: Store) -> bool:
    """Whether the tag is lora-cli's: other programs tag their caches, too."""
    data = read_small(store.root / TAG, 4096) or b""
    return data.startswith(SIGNATURE) and b"lora-cli" in data


def tag_cache(store: Store) -> None:
    """Tags a missing or empty folder before the first file is written to it.

    A folder with other files stays untagged, since backups must not skip these. Raises ``OSError``.
    """
    if not is_cache(store) and _is_empty(store):
        replace_file(store.root / TAG, TEXT % SIGNATURE)


def check_folder(store: Store) -> None:
    """Checks that the cache is a folder, or missing. Raises ``MachineError``."""
    # lexists comes first: another thread may create it. isdir never raises: who needs the folder reports that.
    if os.path.lexists(store.root) and not os.path.isdir(store.root):  # noqa: PTH112
        what = "a file" if store.root.exists() else "a dangling link"
        raise MachineError(f"{store.root}: the cache is {what}", hint="set --cache-dir to a folder")


def check_cache(store: Store) -> None:
    """Raises ``UsageError`` unless files there may be removed: the folder is tagged, empty or missing.

    ``MachineError`` if it is no folder, or cannot be read.
    """
    check_folder(store)
    with on_disk("reading", store.root):
        if not (_is_empty(store) or is_cache(store)):
            hint = f"check --cache-dir; if it is a cache, copy the {TAG} of another one into it"
            raise UsageError(f"{store.root} is not a cache of lora-cli: its {TAG} is missing", hint=hint)


def _is_empty(store: Store) -> bool:
    """Whether there are no files, except those of a file system or of a dead writer of the tag."""
    names = [path.name for path in store.root.iterdir()] if store.root.is_dir() else []
    return all(name == "lost+found" or name.startswith(f".{TAG}.") for name in names)
