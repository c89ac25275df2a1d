"""Marks: what tells that a blob is a hard link to somebody's file, and whether that was edited since it was hashed.

Such an inode is not ours: its mode and its times stay as they are, so its own modification time is noted instead.
"""

import os
from contextlib import suppress
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.disk import read_small, replace_file


def mark_of(status: os.stat_result) -> str:
    """What changes with every edit in place. The time of the inode's own change does not count: a link changes it."""
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def write_mark(store: Store, sha256: str, mark: str) -> None:
    """Notes what the foreign file of that blob was like when it was hashed.

    Raises:
        OSError: as it comes.
    """
    replace_file(_path(store, sha256), mark.encode())


def read_mark(store: Store, sha256: str) -> str | None:
    """The mark of that blob; None when it is ours."""
    data = read_small(_path(store, sha256), 200)
    return None if data is None else data.decode("ascii", "replace")


def drop_mark(store: Store, sha256: str) -> None:
    """Forgets a blob that is gone, if this user may."""
    with suppress(OSError):
        _path(store, sha256).unlink()
    with suppress(OSError):
        store.links.rmdir()


def _path(store: Store, sha256: str) -> Path:
    return store.links / sha256
