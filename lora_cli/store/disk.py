"""Writing to this machine's disks: atomically, durably, and with errors that say what to do."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from lora_cli.errors import MachineError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""The process or the machine is at an end, which says nothing about a file."""

NO_LINK = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS, errno.EACCES})
"""A file system without hard links, another one, an inode with no room for one more, or a file of another user."""

ATTEMPTS = 50
"""So often something is made in a folder that others remove when they leave it empty."""

_FICLONE = 0x40049409
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

Made = TypeVar("Made")


@contextmanager
def on_disk(doing: str, path: Path, option: str = "--cache-dir") -> Iterator[None]:
    """Turns what the operating system says inside into one message: ``doing`` (``"writing"``) and ``path``.

    ``option`` is what set the path.

    Raises:
        MachineError: disk full, read-only, no permission, or another fault of this machine.
    """
    try:
        yield
    except OSError as error:
        raise _explained(error, doing, path, option) from error


def _explained(error: OSError, doing: str, path: Path, option: str) -> MachineError:
    message = f"{doing} {path}: {error.strerror or error}"
    if error.errno in FULL:
        return MachineError(message, hint=f"free some space (lora-cli cache gc), or set {option} to a larger disk")
    if error.errno in FORBIDDEN:
        return MachineError(message, hint=f"{_who_may(path)}; set {option} to a writable folder")
    return MachineError(message, hint=f"check {option}")


def _who_may(path: Path) -> str:
    """Who runs, and who owns the nearest folder that exists."""
    runs = f"this process runs as uid {os.geteuid()}, gid {os.getegid()}"
    for folder in (path, *path.parents):
        with suppress(OSError):
            status = folder.stat()
            return f"{runs}; {folder} belongs to {status.st_uid}:{status.st_gid} with mode {status.st_mode & 0o7777:o}"
    return runs


def nearest_folder(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    return next((folder for folder in (path, *path.parents) if folder.exists()), path)


def is_read_only(error: OSError) -> bool:
    """Whether ``error`` says that this user or this file system does not write here."""
    return error.errno in FORBIDDEN


def make_folder(path: Path) -> Path:
    """Makes a new folder, and those above it as far as they are missing.

    Raises:
        OSError: as it comes.
    """
    in_folder(path.parent, path.mkdir)
    return path


def in_folder(folder: Path, make: Callable[[], Made]) -> Made:
    """What ``make`` makes in ``folder``, which comes first. Another process may remove that, empty, at any moment.

    Raises:
        OSError: as it comes.
    """
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError):
            return make()
        # Either error can mean that a folder went between two looks at it.
        with suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return make()


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Writes a small file so that every reader sees all of the old or all of the new one.

    One that is not ``durable`` may be empty after the power failed, for a reader who takes that as none.

    Raises:
        OSError: as it comes.
    """
    in_folder(path.parent, lambda: _replace(path, data, 0o644, durable=durable))


def write_file(path: Path, data: str | bytes) -> None:
    """Writes what a person names: the file that a link leads to as ``replace_file``, a device or a pipe as it is.

    Raises:
        OSError: as it comes; its folder is not made.
    """
    data = data.encode() if isinstance(data, str) else data
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        _replace(Path(os.path.realpath(path)), data, 0o666, durable=False)


def _replace(path: Path, data: bytes, mode: int, *, durable: bool) -> None:
    temporary = path.with_name(f".{path.name[:100]}.{os.urandom(6).hex()}")
    try:
        descriptor = os.open(temporary, _NEW, mode)
        try:
            write_all(descriptor, data, 0)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path)
        with suppress(OSError):
            temporary.unlink()
        raise


def reflink(source: int, target: int) -> bool:
    """Makes ``target`` (open for writing, empty) share the bytes of ``source``, until one of them is changed.

    False where that cannot be done: another system than Linux, a file system that cannot, or two different ones.
    """
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def write_all(descriptor: int, data: bytes | memoryview, at: int) -> None:
    """Writes all of ``data`` at offset ``at``, however little the kernel takes at a time.

    Raises:
        OSError: as it comes.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        at += written
        view = view[written:]


def flush(descriptor: int) -> None:
    """Waits until what was written is on the disk. Others may write on meanwhile.

    Raises:
        OSError: as it comes.
    """
    os.fdatasync(descriptor) if hasattr(os, "fdatasync") else os.fsync(descriptor)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file, open for reading. No link is followed, and no pipe is waited for: others may have put one there.

    Raises:
        OSError: as it comes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_small(path: Path, limit: int) -> bytes | None:
    """The bytes of a plain file of at most ``limit`` bytes; None when there is none such or it cannot be read."""
    try:
        with opened(path) as descriptor:
            data = os.read(descriptor, limit + 1)
    except OSError:
        return None
    return data if len(data) <= limit else None
