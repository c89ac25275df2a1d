"""How much of a file is in memory: the pages of it that the kernel's page cache holds at this moment.

``cachestat(2)`` tells where the kernel has it (Linux 6.5), else ``mincore(2)``. Since Linux 5.2 ``mincore`` calls every
page of a file resident for whoever neither owns the file nor may write to it, and gVisor does so for every page there
is: what cannot be known is None here, never a guess. On a tmpfs the same numbers say what has not been swapped out.
"""

import errno
import functools
import mmap
import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cli.store.disk import opened

_CACHESTAT = 451
"""Its number on every 64-bit machine of ``_MACHINES``; ``asm-generic/unistd.h``."""

_MACHINES = frozenset({"x86_64", "aarch64", "riscv64", "ppc64le", "s390x", "loongarch64"})
_CAP_FOWNER = 3
_NOBODY = 65534
"""The owner of a file whose own one a user namespace does not know: no capability reaches it."""

_WINDOW = 1 << 30
"""Bytes that are mapped at once."""


@dataclass(frozen=True, slots=True)
class Resident:
    """Files together: ``resident_bytes`` of their ``bytes`` are in the page cache, None where the system hides it."""

    bytes: int
    resident_bytes: int | None


def residency(paths: Iterable[Path]) -> Resident:
    """What of these plain files is in memory; one that is none, is gone or cannot be opened is not known."""
    total, resident = 0, 0
    known = True
    for path in paths:
        size, there = _of_file(path)
        total += size
        known = known and there is not None
        resident += there or 0
    return Resident(total, resident if known else None)


def folder_residency(directory: Path) -> Resident:
    """What of all files below a directory is in memory; without a directory that is nothing of nothing."""
    return residency(Path(folder, name) for folder, _, names in os.walk(directory) for name in names)


def _of_file(path: Path) -> tuple[int, int | None]:
    """Its size, and how much of it is in memory."""
    with suppress(OSError), opened(path) as descriptor:
        status = os.fstat(descriptor)
        return status.st_size, resident_bytes(descriptor, status) if stat.S_ISREG(status.st_mode) else None
    with suppress(OSError):
        return path.stat(follow_symlinks=False).st_size, None
    return 0, None


def resident_bytes(descriptor: int, status: os.stat_result) -> int | None:
    """How many bytes of an open plain file are in memory, in whole pages; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    if status.st_size == 0:
        return 0
    try:
        pages = by_cachestat(descriptor)
        if pages is None and is_told(descriptor, status):
            pages = by_mincore(descriptor, status.st_size)
    except OSError:  # a file system that cannot be mapped, or one that went away
        return None
    return None if pages is None else min(pages * mmap.PAGESIZE, status.st_size)


def by_cachestat(descriptor: int) -> int | None:
    """Pages of an open file in the page cache; None where this kernel, this file or a sandbox does not say."""
    if os.uname().machine not in _MACHINES or sys.maxsize < 2**32:
        return None
    import ctypes

    everything = (ctypes.c_uint64 * 2)(0, 0)
    counts = (ctypes.c_uint64 * 5)()
    told = _libc().syscall(_CACHESTAT, descriptor, ctypes.byref(everything), ctypes.byref(counts), 0)
    return int(counts[0]) if told == 0 else None


def by_mincore(descriptor: int, size: int) -> int:
    """Pages of an open file of ``size`` bytes in the page cache, as ``mincore`` has them.

    Raises:
        OSError: it cannot be mapped.
    """
    return sum(_mapped(descriptor, at, min(_WINDOW, size - at)) for at in range(0, size, _WINDOW))


def _mapped(descriptor: int, at: int, length: int) -> int:
    import ctypes

    libc = _libc()
    address = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, at)
    if address == ctypes.c_void_p(-1).value:
        raise _last_error()
    try:
        return _in_core(address, length)
    finally:
        libc.munmap(address, length)


def _in_core(address: int, length: int) -> int:
    import ctypes

    pages = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
    if _libc().mincore(address, length, pages) != 0:
        raise _last_error()
    return sum(page & 1 for page in pages)


def is_told(descriptor: int, status: os.stat_result) -> bool:
    """Whether ``mincore`` tells this process the truth about an open file: ``can_do_mincore`` in ``mm/mincore.c``."""
    if not _mincore_looks():
        return False
    if status.st_uid == os.geteuid() or (status.st_uid != _NOBODY and _owns_all()):
        return True
    return os.access(f"/proc/self/fd/{descriptor}", os.W_OK, effective_ids=os.access in os.supports_effective_ids)


@functools.cache
def _mincore_looks() -> bool:
    """Whether ``mincore`` looks at all: memory that nobody has touched yet is not resident."""
    import ctypes

    libc = _libc()
    address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, 0)
    if address == ctypes.c_void_p(-1).value:
        return False
    try:
        return _in_core(address, mmap.PAGESIZE) == 0
    except OSError:
        return False
    finally:
        libc.munmap(address, mmap.PAGESIZE)


@functools.cache
def _owns_all() -> bool:
    """Whether this process may do what the owner of a file may."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        held = next(line for line in lines if line.startswith("CapEff:")).split()[1]
        return bool(int(held, 16) >> _CAP_FOWNER & 1)
    return False


@functools.cache
def _libc() -> Any:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.syscall.restype = ctypes.c_long
    return libc


def _last_error() -> OSError:
    import ctypes

    number = ctypes.get_errno() or errno.EIO
    return OSError(number, os.strerror(number))
