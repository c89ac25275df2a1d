"""Marks: what tells that a blob is a hard link to somebody's file, and whether that was edited since it was hashed.

Such an inode is not ours: its mode and its times stay as they are, so its own times are noted instead. Its owner can
set the modification time back, but not the time of the inode's own change (ctime). That one also changes when a hard
link comes or goes: then the file is hashed once more.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.disk import read_small, replace_file

SETTLED_NS = 1_000_000_000
"""Two changes within a tick of the clock look alike: a file that changed a moment ago is not known by its ctime yet."""


def mark_of(status: os.stat_result) -> str:
    """What changes with every edit in place."""
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def write_mark(store: Store, sha256: str, status: os.stat_result) -> None:
    """Notes what the foreign file of that blob was like just before it was hashed.

    Raises:
        OSError: as it comes.
    """
    settled = time.time_ns() - status.st_ctime_ns > SETTLED_NS
    replace_file(_path(store, sha256), (mark_of(status) if settled else "changed a moment ago").encode())


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
