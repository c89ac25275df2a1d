"""Holds: what a living process is about to use, so that cleanup leaves it alone.

One small file a process, ``leases/run-<writer>``: a line for each sha256 of a blob or digest of a snapshot. Nothing is
wrong without it: what is taken away under a process, that process fetches again. A snapshot that is held and was looked
for then (``Hold.keeps``) stays.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.cachedir_tag import tag_cache
from lora_cli.store.disk import in_folder, read_small
from lora_cli.store.inventory import entries
from lora_cli.store.snapshots import is_digest
from lora_cli.store.writer_ids import new_writer, parse_writer, state

PREFIX = "run-"
LARGEST = 64 << 20
ELSEWHERE_S = 86_400.0
"""How long a process of another machine is believed to live after its last new hold."""


class Hold:
    """What one process holds; the file comes with the first thing in it. Threads share it."""

    def __init__(self, store: Store) -> None:
        self._path = store.leases / f"{PREFIX}{new_writer()}"
        self._store = store
        self._held: set[str] = set()
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def add(self, sha256: str) -> None:
        """Holds a blob or a snapshot from now on, where this user may write."""
        with self._lock, suppress(OSError):
            if sha256 not in self._held:
                self._held.add(sha256)
                if self._descriptor is None:
                    self._descriptor = self._opened()
                os.write(self._descriptor, f"{sha256}\n".encode())

    def keeps(self, digest: str) -> bool:
        """Holds a snapshot, and says whether it is there; it stays as long as it is held.

        Who takes one away has its lease meanwhile, and looks then who holds it (``sweep``). So one sees the other.
        """
        self.add(digest)
        if os.path.lexists(self._store.leases / digest):
            from lora_cli.store.leases import STALE_S, lease

            with lease(self._store, digest, 2 * STALE_S):
                pass
        return self._store.snapshot(digest).is_dir()

    def _opened(self) -> int:
        tag_cache(self._store)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return in_folder(self._path.parent, lambda: os.open(self._path, flags, 0o644))

    def end(self) -> None:
        """Lets go of everything."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
                with suppress(OSError):
                    self._path.unlink()


@contextmanager
def holding(store: Store) -> Iterator[Hold]:
    """A hold for as long as something of the cache is fetched or used."""
    hold = Hold(store)
    try:
        yield hold
    finally:
        hold.end()


def held(store: Store, now_s: float) -> frozenset[str]:
    """The sha256 of every blob and snapshot that a living process holds; ``now_s`` is the file system's own time."""
    found: set[str] = set()
    for path in entries(store.leases):
        if path.name.startswith(PREFIX) and _lives(path, now_s):
            text = (read_small(path, LARGEST) or b"").decode("ascii", "replace")
            # What is only half written is not relied on yet.
            found.update(line for line in text.split("\n")[:-1] if is_digest(line))
    return frozenset(found)


def _lives(path: Path, now_s: float) -> bool:
    writer = parse_writer(path.name.removeprefix(PREFIX))
    if writer is None or (what := state(writer)) == "dead":
        return False
    with suppress(OSError):
        return what == "alive" or now_s - path.stat(follow_symlinks=False).st_mtime <= ELSEWHERE_S
    return False
