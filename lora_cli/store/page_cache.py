"""Residency of files in the kernel's page cache.

It is read by ``cachestat(2)`` where the kernel has it (Linux 6.5), else by ``mincore(2)``. Since Linux 5.2 ``mincore``
reports every page as resident to users who neither own the file nor may write to it, and gVisor always does: what
cannot be known is None here. On a tmpfs the numbers show what has not been swapped out.
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
"""The owner of a file that has none in this user namespace: no capability applies to it."""

_WINDOW = 1 << 30
"""Bytes that are mapped at once."""


@dataclass(frozen=True, slots=True)
class Resident:
    """Of the ``bytes`` of some files, ``resident_bytes`` are in the page cache; None if the system hides it."""

    bytes: int
    resident_bytes: int | None


def residency(paths: Iterable[Path]) -> Resident:
    """The residency of these files; unknown if one is no regular file, missing, or cannot be opened."""
    total, resident = 0, 0
    known = True
    for path in paths:
        size, cached = _file_residency(path)
        total += size
        known = known and cached is not None
        resident += cached or 0
    return Resident(total, resident if known else None)


def folder_residency(directory: Path) -> Resident:
    """The residency of all files below a directory; 0 of 0 bytes if it does not exist."""
    return residency(Path(folder, name) for folder, _, names in os.walk(directory) for name in names)


def _file_residency(path: Path) -> tuple[int, int | None]:
    """Its size and its resident bytes."""
    with suppress(OSError), opened(path) as descriptor:
        status = os.fstat(descriptor)
        return status.st_size, resident_bytes(descriptor, status) if stat.S_ISREG(status.st_mode) else None
    with suppress(OSError):
        return path.stat(follow_symlinks=False).st_size, None
    return 0, None


def resident_bytes(descriptor: int, status: os.stat_result) -> int | None:
    """Resident bytes of an open regular file, in whole pages; None if the system does not report them."""
    if sys.platform != "linux":
        return None
    if status.st_size == 0:
        return 0
    try:
        pages = by_cachestat(descriptor)
        if pages is None and is_mincore_reliable(descriptor, status):
            pages = by_mincore(descriptor, status.st_size)
    except (OSError, ValueError):  # a file system that cannot be mapped, one that went away, or a file that shrank
        return None
    return None if pages is None else min(pages * mmap.PAGESIZE, status.st_size)


def by_cachestat(descriptor: int) -> int | None:
    """Resident pages of an open file by ``cachestat``; None where kernel, file or sandbox does not support it."""
    if os.uname().machine not in _MACHINES or sys.maxsize < 2**32:
        return None
    import ctypes

    everything = (ctypes.c_uint64 * 2)(0, 0)
    counts = (ctypes.c_uint64 * 5)()
    failed = _libc().syscall(_CACHESTAT, descriptor, ctypes.byref(everything), ctypes.byref(counts), 0)
    return int(counts[0]) if failed == 0 else None


def by_mincore(descriptor: int, size: int) -> int:
    """Resident pages of an open file of ``size`` bytes by ``mincore``.

    Raises:
        OSError, ValueError: it cannot be mapped, or became shorter.
    """
    windows = ((at, min(_WINDOW, size - at)) for at in range(0, size, _WINDOW))
    return sum(_in_core(mmap.mmap(descriptor, length, prot=mmap.PROT_READ, offset=at)) for at, length in windows)


def _in_core(mapped: mmap.mmap) -> int:
    import ctypes

    import numpy as np

    with mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        if _libc().mincore(np.frombuffer(mapped, np.uint8).ctypes.data, len(mapped), pages) != 0:
            number = ctypes.get_errno() or errno.EIO
            raise OSError(number, os.strerror(number))
        return sum(page & 1 for page in pages)


def is_mincore_reliable(descriptor: int, status: os.stat_result) -> bool:
    """Whether ``mincore`` is reliable for an open file in this process: ``can_do_mincore`` in ``mm/mincore.c``."""
    if not _mincore_works():
        return False
    if status.st_uid == os.geteuid() or (status.st_uid != _NOBODY and _has_cap_fowner()):
        return True
    return os.access(f"/proc/self/fd/{descriptor}", os.W_OK, effective_ids=os.access in os.supports_effective_ids)


@functools.cache
def _mincore_works() -> bool:
    """Whether ``mincore`` reports real values: untouched memory must not be resident."""
    with suppress(OSError):
        return _in_core(mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ)) == 0
    return False


@functools.cache
def _has_cap_fowner() -> bool:
    """Whether this process has CAP_FOWNER, and so the rights of each file's owner."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        capabilities = next(line for line in lines if line.startswith("CapEff:")).split()[1]
        return bool(int(capabilities, 16) >> _CAP_FOWNER & 1)
    return False


@functools.cache
def _libc() -> Any:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.syscall.restype = ctypes.c_long
    return libc
