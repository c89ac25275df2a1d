"""In-use markers: what a living process is about to use, so that garbage collection leaves it alone.

One small file per process, ``leases/run-<writer>``: a line for each sha256 of a blob or digest of a snapshot. No result
depends on it: what is removed under a process, that process fetches again. A snapshot that was marked and then looked
for (``InUseMarker.add_snapshot``) stays.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from lora_cli.store import Store
from lora_cli.store.cachedir_tag import tag_cache
from lora_cli.store.disk import age_s, in_folder, read_small
from lora_cli.store.inventory import list_folder
from lora_cli.store.leases import STALE_S, lease
from lora_cli.store.snapshots import is_digest
from lora_cli.store.writer_ids import new_writer, parse_writer, state

MARKER_PREFIX = "run-"
LARGEST = 64 << 20
ELSEWHERE_S = 86_400.0
"""How long a process of another machine counts as alive after its last new line."""


class InUseMarker:
    """The marker of one process; its file is created with the first line. Threads share it."""

    def __init__(self, store: Store) -> None:
        self._path = store.leases / f"{MARKER_PREFIX}{new_writer()}"
        self._store = store
        self._names: set[str] = set()
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add(self, sha256: str) -> None:
        """Marks a blob or a snapshot as in use, where this user may write."""
        with self._lock, suppress(OSError):
            if sha256 not in self._names:
                self._names.add(sha256)
                if self._descriptor is None:
                    self._descriptor = self._create()
                os.write(self._descriptor, f"{sha256}\n".encode())

    def add_snapshot(self, digest: str) -> bool:
        """Marks a snapshot and returns whether it is there; if so, it stays as long as it is marked.

        Garbage collection holds the lease of a snapshot while it looks for markers and removes it; this method waits
        for that lease. So one sees the other.
        """
        self.add(digest)
        if os.path.lexists(self._store.leases / digest):
            with lease(self._store, digest, 2 * STALE_S):
                pass
        return self._store.snapshot(digest).is_dir()

    def _create(self) -> int:
        tag_cache(self._store)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return in_folder(self._path.parent, lambda: os.open(self._path, flags, 0o644))

    def close(self) -> None:
        """Removes the marker."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
                with suppress(OSError):
                    self._path.unlink()


def names_in_use(store: Store, now_s: float) -> frozenset[str]:
    """The sha256 of every blob and snapshot that a living process uses; ``now_s`` is the file system's own time."""
    found: set[str] = set()
    for path in list_folder(store.leases):
        if path.name.startswith(MARKER_PREFIX) and _is_alive(path, now_s):
            text = (read_small(path, LARGEST) or b"").decode("ascii", "replace")
            # The last line may be half written.
            found.update(line for line in text.split("\n")[:-1] if is_digest(line))
    return frozenset(found)


def _is_alive(path: Path, now_s: float) -> bool:
    writer = parse_writer(path.name.removeprefix(MARKER_PREFIX))
    if writer is None or (what := state(writer)) == "dead":
        return False
    return what == "alive" or age_s(path, now_s) <= ELSEWHERE_S
