"""Folders that are added, exchanged and removed in one step, as far as the system can, for concurrent readers."""

import errno
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.disk import is_read_only
from lora_cli.store.writer_ids import new_writer

TRIES = 5
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})


def exchange(one: Path, other: Path) -> bool:
    """Swaps what two paths name, so that a reader meets the one or the other; False where the system cannot.

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


def put(building: Path, target: Path, prefix: str = "") -> Path | None:
    """Gives the folder ``building`` the name ``target``, whatever had it before; where that is now, None for nothing.

    Where names cannot be swapped, for a moment there is nothing of that name, never a mixture; the old folder then is
    next to ``building``, under a new writer's name after ``prefix``.

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
            # Another process put its own there, or took it away, since we looked.
            if is_read_only(error) or attempt + 1 == TRIES:
                raise
    raise AssertionError


def _in_two_steps(building: Path, target: Path, prefix: str) -> Path:
    aside = building.with_name(f"{prefix}{new_writer()}")
    target.rename(aside)
    try:
        building.rename(target)
    except OSError:
        try:
            aside.rename(target)
        except OSError:
            clear(aside)
        raise
    return aside


def clear(path: Path) -> None:
    """Removes a folder, file or link as far as this user may."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def discard(building: Path) -> None:
    """Removes what was in the making, and its folder when that is empty then."""
    clear(building)
    with suppress(OSError):
        building.parent.rmdir()


def aside(store: Store) -> Path:
    """A new name for what is to go, in a folder that is there: a full disk has no room for another one.

    Raises:
        OSError: as it comes.
    """
    store.snapshots.mkdir(parents=True, exist_ok=True)
    return store.snapshots / str(new_writer())


def take_away(store: Store, folder: Path) -> None:
    """Removes ``folder``; nothing happens when it is gone already.

    Raises:
        OSError: as it comes.
    """
    there = aside(store)
    with suppress(FileNotFoundError):
        folder.rename(there)
    clear(there)
