"""Ends a child process when its parent is gone, also in the middle of a base of many gigabytes. Torch-free."""

import fcntl
import os
import select
import sys
import threading


def end_when_orphaned(descriptor: int) -> None:
    """Ends this process, whatever it is at, when the other end of this socket is gone.

    One that is only shut for writing is not gone: nothing more will come, and what is under way is waited for.
    The thread that watches it needs the interpreter, which a long import or one long match keeps to itself.
    """
    threading.Thread(target=_watch, args=(descriptor,), name="orphan", daemon=True).start()


def end_with_pipe(lifeline: int) -> None:
    """Ends this process at once when the other end of this pipe, into which nobody writes, is closed.

    The kernel sends SIGIO then, which needs no thread of ours. Only Linux does so.
    """
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _watch(descriptor: int) -> None:
    waiting = select.poll()
    waiting.register(descriptor, 0)  # asks for nothing: that the line is dead is always said
    waiting.poll()
    os._exit(0)
