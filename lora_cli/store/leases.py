"""Leases: one process downloads, the others wait for it. Nothing is wrong without one; it is only done twice.

Who takes a snapshot away has the lease of its digest meanwhile: its holder then waits, and checks the holds
(``holds``).
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
"""A lease whose owner gave no sign of life for so long is taken over. The waiter measures that by its own monotonic
clock; of the file's time only whether it changed counts, because the clocks of the file server and of this machine may
differ.
"""

SHORTEST_S, LONGEST_S = 0.01, 0.5


@contextmanager
def lease(store: Store, key: str, wait_s: float, on_wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Holds the lease of ``key`` inside, after waiting for a living owner for at most ``wait_s``.

    Gives False when it is not held: the owner is slow, or this user cannot write there. Then go on all the same.
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
    heart = threading.Thread(target=_beat, args=(descriptor, over), name="lease", daemon=True)
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
    """The lease, open; None if it is still taken after ``wait_s``, or cannot be made here."""
    deadline = time.monotonic() + wait_s
    pause, told = SHORTEST_S, False
    seen, since = 0, time.monotonic()
    try:
        while (descriptor := in_folder(path.parent, lambda: _create(path, name))) is None:
            owner, beat = _owner(path)
            if beat != seen:
                seen, since = beat, time.monotonic()
            writer = parse_writer(owner.decode("ascii", "replace"))
            if (writer is not None and state(writer) == "dead") or time.monotonic() - since > STALE_S:
                _remove(path, owner)
            elif not told:
                on_wait()
                told = True
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
        # Without a name in it the others would wait for nobody.
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _owner(path: Path) -> tuple[bytes, int]:
    """What is in the lease, and the time of its heartbeat; nothing when it is gone."""
    with suppress(OSError):
        return read_small(path, 200) or b"", path.stat().st_mtime_ns
    return b"", 0


def _remove(path: Path, owner: bytes) -> None:
    """Removes a dead owner's lease, and puts it back when it turns out to be a new one."""
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


def _beat(descriptor: int, over: threading.Event) -> None:
    """Touches the file that we made; one that took its place is another owner's, and is left alone."""
    while not over.wait(HEARTBEAT_S):
        with suppress(OSError):
            os.utime(descriptor)
