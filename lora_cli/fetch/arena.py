"""Memory for what comes in many threads, from one place: glibc would give each thread one that keeps what was freed."""

import functools
import sys

_M_ARENA_MAX = -8
"""As in glibc's ``malloc.h``."""


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
