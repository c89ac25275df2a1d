"""Folders are added, exchanged and removed in one step, as far as the system can, for concurrent readers."""

import errno
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.disk import FORBIDDEN

TRIES = 5
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})


def exchange(one: Path, other: Path) -> bool:
    """Swaps two paths atomically; False where the system cannot.

    Raises:
        OSError: as it comes.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    if (number := ctypes.get_errno()) in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


def replace_folder(building: Path, target: Path, prefix: str = "") -> Path | None:
    """Renames the folder ``building`` to ``target``, in place of what is there; returns where that is now, if any.

    Where names cannot be swapped, there is nothing of that name for a moment, never a mixture; the old folder is then
    next to ``building``, named by ``prefix`` and at random.

    Raises:
        OSError: as it comes.
    """
    for attempt in range(TRIES):
        try:
            if not os.path.lexists(target):
                building.rename(target)
                return None
            return building if exchange(building, target) else _in_two_steps(building, target, prefix)
        except OSError as error:
            # Another process created or removed the target since it was checked.
            if error.errno in FORBIDDEN or attempt + 1 == TRIES:
                raise
    raise AssertionError


def _in_two_steps(building: Path, target: Path, prefix: str) -> Path:
    old = building.with_name(f"{prefix}{os.urandom(6).hex()}")
    target.rename(old)
    try:
        building.rename(target)
    except OSError:
        try:
            old.rename(target)
        except OSError:
            remove_path(old)
        raise
    return old


def remove_path(path: Path) -> None:
    """Removes a folder, file or link as far as this user may."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def trash_path(store: Store) -> Path:
    """A new path for what is to be removed, in an existing folder: a full disk has no space for another one.

    Raises:
        OSError: as it comes.
    """
    store.snapshots.mkdir(parents=True, exist_ok=True)
    return store.snapshots / os.urandom(6).hex()
