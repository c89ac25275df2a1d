"""Space on the disk and in the cache budget: reserved for each adapter of a run before its first byte is read."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lora_cli.errors import MachineError, Refused
from lora_cli.settings import bytes_kept_free
from lora_cli.store import Store
from lora_cli.store.disk import nearest_folder, on_disk
from lora_cli.text import size

AHEAD = 16 << 20
"""Bytes that are reserved at a time for what has no known size."""


@dataclass(eq=False, slots=True)
class Reservation:
    """The bytes that an adapter has still to write; whoever writes them counts them down."""

    left: int


class DiskSpace:
    """The free space on the cache's disk without ``keep_free`` bytes (None: a part of it), and in the cache budget."""

    def __init__(self, store: Store, keep_free: int | None = None, budget: int | None = None) -> None:
        self._store, self._keep_free, self._budget = store, keep_free, budget
        self._reservations: list[Reservation] = []
        self._lock = threading.Lock()

    @contextmanager
    def reserve(self, name: str, needed: int) -> Iterator[Reservation]:
        """Reserves ``needed`` bytes for the adapter ``name``, beside what others of this run have still to write.

        Where the budget is exceeded, the least recently used snapshots are removed.

        Raises:
            MachineError: the disk is too small.
            Refused: the budget is too small, and everything in the cache is in use.
        """
        self._reservations.append(mine := Reservation(0))
        try:
            self.add(name, mine, needed)
            yield mine
        finally:
            with self._lock:
                self._reservations.remove(mine)

    def add(self, name: str, mine: Reservation, needed: int = AHEAD) -> None:
        """Reserves more, for a file of unknown size; raises as ``reserve``."""
        with self._lock, on_disk("reading", self._store.root):
            others = sum(max(0, one.left) for one in self._reservations)
            beside = f", {size(others)} reserved for other adapters of this run" if others else ""
            if needed and self._budget is not None:
                self._make_room(name, needed, self._budget - others, beside)
            status = os.statvfs(nearest_folder(self._store.root))
            kept = bytes_kept_free(self._keep_free, status.f_blocks * status.f_frsize)
            free = status.f_bavail * status.f_frsize
            if needed and needed + others + kept > free:
                found = f"{size(needed)} needed, {size(free)} free, with {size(kept)} to be kept free{beside}"
                hint = "run lora-cli cache gc, use a larger disk, or lower keep_free (LORA_CLI_KEEP_FREE)"
                raise MachineError(f"{self._store.root}: {found}", hint=hint) from OSError(errno.ENOSPC, "")
            mine.left += needed

    def _make_room(self, name: str, needed: int, budget: int, beside: str) -> None:
        from lora_cli.store.gc import Retention, cache_bytes, collect

        if (in_use := cache_bytes(self._store)) + needed > budget >= needed:
            collect(self._store, Retention(max_bytes=budget - needed))
            in_use = cache_bytes(self._store)
        if in_use + needed > budget:
            found = f"{size(needed)} needed, the cache budget is {size(self._budget or 0)}, with {size(in_use)} in use"
            hint = "raise cache_budget (LORA_CLI_CACHE_BUDGET), or remove adapters (lora-cli cache rm)"
            raise Refused(f"{name}: {found}{beside}", hint=hint)
