"""Atomic and durable writes to local disks, and their errors with hints."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_cli.errors import MachineError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""This user may not write here, or the file system is read-only."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""The process or the machine has no more descriptors or memory: no error of the file itself."""


@contextmanager
def on_disk(doing: str, path: Path, option: str = "--cache-dir") -> Iterator[None]:
    """Translates an ``OSError`` into one with a hint; its message names what it was ``doing`` (``"writing"``).

    ``option`` is the command-line option of the path. Raises ``MachineError``.
    """
    try:
        yield
    except OSError as error:
        hint = f"check {option}"
        if error.errno in FULL:
            hint = f"free some space (lora-cli cache gc), or set {option} to a larger disk"
        elif error.errno in FORBIDDEN:
            hint = f"{_who_may(path)}; set {option} to a writable folder"
        raise MachineError(f"{doing} {path}: {error.strerror or error}", hint=hint) from error


def _who_may(path: Path) -> str:
    """The user of this process, and the owner of the nearest existing folder."""
    folder = nearest_folder(path)
    status, runs = folder.stat(), f"this process runs as uid {os.geteuid()}, gid {os.getegid()}"
    return f"{runs}; {folder} belongs to {status.st_uid}:{status.st_gid} with mode {status.st_mode & 0o7777:o}"


def nearest_folder(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    return next((one for one in (path, *path.parents) if os.path.exists(one)), Path("/"))  # noqa: PTH110 - never raises


def write_file(path: Path, data: str | bytes) -> None:
    """Writes a file that the user named: regular files atomically, through links; devices and pipes in place.

    Its folder is not created. Raises ``OSError``.
    """
    data = data.encode() if isinstance(data, str) else data
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        replace_file(Path(os.path.realpath(path)), data, durable=False, parents=False)


def replace_file(path: Path, data: bytes, *, durable: bool = True, parents: bool = True) -> None:
    """Replaces a small file atomically: every reader sees all of the old or all of the new one.

    If it is not ``durable``, it may be empty after a power failure. Raises ``OSError``.
    """
    temporary = path.with_name(f".{path.name[:100]}.{os.urandom(6).hex()}")
    try:
        descriptor = create(temporary, os.O_WRONLY | os.O_EXCL, parents=parents)
        try:
            write_all(descriptor, data, 0)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException as error:
        remove_path(temporary)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def create(path: Path, flags: int, mode: int = 0o666, *, parents: bool = True) -> int:
    """A descriptor of a file that is created if it is missing, with its folders (``parents``). Raises ``OSError``."""
    flags |= os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        if not parents:
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, mode)


def reflink(source: int, target: int) -> bool:
    """Clones ``source`` into the empty ``target`` (open for writing): they share their blocks until one changes.

    False where that is not supported: not Linux, the file system has no reflinks, or there are two file systems.
    """
    with suppress(OSError):
        fcntl.ioctl(target, 0x40049409, source)  # FICLONE
        return True
    return False


def write_all(descriptor: int, data: bytes, at: int) -> None:
    """Writes all of ``data`` at offset ``at``, however little the kernel takes at a time. Raises ``OSError``."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def remove_path(path: Path) -> None:
    """Removes a folder, file or link as far as this user may."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file, open for reading. Links are not followed, and opening a pipe does not block. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_small(path: Path, limit: int) -> bytes | None:
    """The bytes of a file; None if it is missing, cannot be read, or has more than ``limit`` bytes."""
    with suppress(OSError), opened(path) as descriptor:
        data = os.read(descriptor, limit + 1)
        return data if len(data) <= limit else None
    return None
