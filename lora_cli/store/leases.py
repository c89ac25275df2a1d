"""Leases: one process downloads while the others wait. Without a lease the result is the same, downloaded twice.

Who removes a snapshot holds the lease of its digest meanwhile (``garbage_collection``, ``in_use``).
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.cachedir_tag import tag_cache
from lora_cli.store.disk import in_folder, read_small
from lora_cli.store.writer_ids import new_writer, parse_writer, state

HEARTBEAT_S = 5.0
STALE_S = 60.0
"""A lease without a heartbeat for so long is taken over. The waiter measures this by its own monotonic clock, and only
checks whether the time of the file changes: the clock of a file server may differ.
"""

SHORTEST_S, LONGEST_S = 0.01, 0.5


@contextmanager
def lease(store: Store, key: str, wait_s: float, on_wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Holds the lease of ``key`` inside, after waiting at most ``wait_s`` for a living owner.

    Yields False if it is not held: the owner is slow, or this user cannot write there. The caller continues without it.
    ``on_wait`` is called once if another process has it.
    """
    path = store.leases / key
    with suppress(OSError):
        tag_cache(store)
    name = str(new_writer())
    descriptor = _acquire(path, name, wait_s, on_wait)
    if descriptor is None:
        yield False
        return
    over = threading.Event()
    heart = threading.Thread(target=_heartbeat, args=(descriptor, over), name="lease", daemon=True)
    heart.start()
    try:
        yield True
    finally:
        over.set()
        heart.join()
        os.close(descriptor)
        if read_small(path, 200) == name.encode():
            with suppress(OSError):
                path.unlink()


def _acquire(path: Path, name: str, wait_s: float, on_wait: Callable[[], None]) -> int | None:
    """The lease, open; None if it is still taken after ``wait_s``, or cannot be created."""
    deadline = time.monotonic() + wait_s
    pause, waited = SHORTEST_S, False
    seen, since = 0, time.monotonic()
    try:
        while (descriptor := in_folder(path.parent, lambda: _create(path, name))) is None:
            owner, beat = _read_owner(path)
            if beat != seen:
                seen, since = beat, time.monotonic()
            writer = parse_writer(owner.decode("ascii", "replace"))
            if (writer is not None and state(writer) == "dead") or time.monotonic() - since > STALE_S:
                _remove(path, owner)
            elif not waited:
                on_wait()
                waited = True
            if time.monotonic() >= deadline:
                return None
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_S)
    except OSError:
        return None
    return descriptor


def _create(path: Path, name: str) -> int | None:
    """The lease with our name in it, open; None if it is taken."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return None
    try:
        os.write(descriptor, name.encode())
    except OSError:
        # Without a name in it the others would wait for nothing.
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _read_owner(path: Path) -> tuple[bytes, int]:
    """The content of the lease, and the time of its heartbeat; b"" and 0 if it is gone."""
    with suppress(OSError):
        return read_small(path, 200) or b"", path.stat().st_mtime_ns
    return b"", 0


def _remove(path: Path, owner: bytes) -> None:
    """Removes a dead owner's lease; if it turns out to be a new one, it is restored."""
    aside = path.with_name(f".{new_writer().token}")
    try:
        path.rename(aside)
        if read_small(aside, 200) != owner:
            path.hardlink_to(aside)
    except OSError:
        pass
    finally:
        with suppress(OSError):
            aside.unlink()


def _heartbeat(descriptor: int, over: threading.Event) -> None:
    """Touches the open file; a file that replaced it is another owner's, and stays as it is."""
    while not over.wait(HEARTBEAT_S):
        with suppress(OSError):
            os.utime(descriptor)
