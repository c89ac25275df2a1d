"""Whether a file is in the page cache, as the kernel says (mincore): without it a warm number proves nothing."""

import ctypes
import mmap
from pathlib import Path


def resident_share(path: Path) -> float:
    """The share of a file's pages that are in memory."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE) as view,
    ):
        place = (ctypes.c_char * size).from_buffer(view)
        failed = libc.mincore(ctypes.byref(place), ctypes.c_size_t(size), found)
        del place
    if failed:
        raise OSError(ctypes.get_errno(), "mincore", str(path))
    return sum(byte & 1 for byte in found) / pages


def make_resident(path: Path) -> None:
    """Read a file until all of it is in memory, and written to its disk; raises where it will not stay."""
    import os

    with path.open("rb") as file:
        os.fsync(file.fileno())
        while file.read(1 << 24):
            pass
    share = resident_share(path)
    if share < 1:
        raise SystemExit(f"{path} does not stay in memory: {share:.0%} of it is there")
