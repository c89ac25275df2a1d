"""Folders appear, change places and go in one step, as far as the system can, for concurrent readers."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_cli.store.disk import remove_path

LOCK = ".lora-cli-lock"
"""The suffix of the file beside a hidden folder that its process has locked."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})


@contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """A new empty hidden folder beside ``target``; what has its name at the end is removed.

    Raises:
        OSError: as it comes.
    """
    import fcntl

    lock = target.with_name(f".{target.name[:50]}.{os.urandom(6).hex()}{LOCK}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, hidden = os.open(lock, flags, 0o600), lock.with_suffix("")
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        hidden.mkdir()
        yield hidden
    finally:
        remove_path(hidden)
        remove_path(lock)
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Removes the hidden folders in ``folder`` whose processes were killed, as far as this user may."""
    import fcntl

    for lock in folder.glob(f".*{LOCK}"):
        with suppress(OSError), lock.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_path(lock.with_suffix(""))
            lock.unlink()


def swap_folders(one: Path, other: Path) -> None:
    """Exchanges two folders in one step; where the system cannot, ``other`` is missing for a moment, never a mixture.

    Raises:
        OSError: as it comes.
    """
    if sys.platform == "linux":
        import ctypes

        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if rename is not None:
            if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
                return
            if (number := ctypes.get_errno()) not in _CANNOT:
                raise OSError(number, os.strerror(number), str(other))
    with hidden_folder(other) as old:
        other.rename(old)
        try:
            one.rename(other)
        except OSError:
            old.rename(other)
            raise
        old.rename(one)
