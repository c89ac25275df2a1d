"""Memory for what comes in many threads, from one place: glibc would give each thread one that keeps what was freed.

What was freed last stays ours for a while: given back to the kernel each time, it would have to be cleared for us anew.
"""

import functools
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""As in glibc's ``malloc.h``."""

KEPT = 16 << 20
"""So much free memory at its end is kept."""

LARGE = 4 << 20
"""What is as large as this is the kernel's at once when it is freed; pieces of a download are smaller."""


@functools.cache
def share_memory() -> None:
    """Lets threads that begin from now on share what memory is free; where that cannot be said, nothing happens.

    What a thread freed is then the next one's, whichever that is: less memory is held, and less of it is new, which the
    kernel would have to clear first.
    """
    if sys.platform != "linux":
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
        mallopt(_M_MMAP_THRESHOLD, LARGE)
