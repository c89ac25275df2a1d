"""A process that its parent left behind ends, also in the middle of a base of many gigabytes. Torch-free."""

import os
import select
import threading


def end_when_orphaned(descriptor: int) -> None:
    """Ends this process, whatever it is at, when the other end of this socket is gone.

    One that is only shut for writing is not gone: nothing more will come, and what is under way is waited for.
    """
    threading.Thread(target=_watch, args=(descriptor,), name="orphan", daemon=True).start()


def _watch(descriptor: int) -> None:
    waiting = select.poll()
    waiting.register(descriptor, 0)  # asks for nothing: that the line is dead is always said
    waiting.poll()
    os._exit(0)
