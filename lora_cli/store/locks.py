"""Locks of a cache, by flock(2): the kernel lets them go however a process ends.

Correctness never depends on one: without it the same bytes are downloaded twice, or fetched again.
"""

import fcntl
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.disk import FULL, create

SHORTEST_S, LONGEST_S = 0.01, 0.2
OTHERS_S = 60.0
"""How long to wait for another process that removes a snapshot or publishes an adapter, which takes moments."""


def exclusive(
    store: Store, key: str, wait_s: float = 0.0, on_wait: Callable[[], None] = lambda: None
) -> AbstractContextManager[bool | None]:
    """Holds the lock of ``key`` alone: True; False if another process has it after ``wait_s``, None if nobody can.

    ``on_wait`` is called once if another process has it. On a full disk a lock that does not exist counts as held.
    """
    return _locked(store, key, fcntl.LOCK_EX, wait_s, on_wait)


def shared(store: Store, key: str) -> AbstractContextManager[bool | None]:
    """Holds the lock of ``key`` together with others, where this user may write."""
    return _locked(store, key, fcntl.LOCK_SH, OTHERS_S, lambda: None)


class InUse(ExitStack):
    """The snapshots that this process uses, which garbage collection leaves alone until ``close``. Threads share it."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store, self._held, self._lock = store, set[str](), threading.Lock()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # The other half is for files and connections. Beyond it, a snapshot is protected by being the last used.
        self._most = sys.maxsize if files == resource.RLIM_INFINITY else files // 2

    def add(self, digest: str) -> bool:
        """Holds the lock of a snapshot and returns whether it is there; if so, it stays."""
        with self._lock:
            if digest not in self._held and len(self._held) < self._most:
                self._held.add(digest)
                self.callback(self._held.discard, digest)
                self.enter_context(shared(self._store, digest))
        directory = self._store.snapshot(digest)
        try:
            os.utime(directory)  # by which garbage collection sees a use since it began
        except OSError:  # it is gone, or another user's
            return directory.is_dir()
        return True


@contextmanager
def _locked(store: Store, key: str, how: int, wait_s: float, on_wait: Callable[[], None]) -> Iterator[bool | None]:
    """Holds a lock, whose file stays: ext4 looks longer for room for new files the more were just removed."""
    path, descriptor, held, pause, until = store.locks / key, None, None, 0.0, time.monotonic() + wait_s
    try:
        with suppress(OSError):
            store.tag()
        while descriptor is None:
            try:
                descriptor = claim(path, how)
            except BlockingIOError:
                if time.monotonic() >= until:
                    break
                if not pause:
                    on_wait()
                pause = min(max(pause * 1.5, SHORTEST_S), LONGEST_S)
                time.sleep(pause)
        held = descriptor is not None
    except OSError as error:
        held = True if error.errno in FULL else None
    try:
        yield held
    finally:
        if descriptor is not None:
            with suppress(OSError):  # also for forks of this process
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def claim(path: Path, how: int = fcntl.LOCK_EX, mode: int = 0o666) -> int | None:
    """The file, locked and open; None if it was replaced meanwhile. ``BlockingIOError`` if another process has it."""
    with ExitStack() as stack:
        descriptor = create(path, os.O_RDWR | os.O_NOFOLLOW, mode)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        if is_named(path, descriptor):
            stack.pop_all()
            return descriptor
    return None


def is_named(path: Path, descriptor: int) -> bool:
    """Whether ``path`` is the open file: another process may have removed, renamed or replaced it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    return False
