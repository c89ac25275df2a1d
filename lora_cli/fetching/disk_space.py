"""Space on the disk and in the cache budget: reserved for each adapter of a run before its first byte is read."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lora_cli.errors import MachineError, Refused
from lora_cli.settings import Settings, bytes_kept_free
from lora_cli.store import Store
from lora_cli.store.disk import nearest_folder, on_disk
from lora_cli.text import size


@dataclass(eq=False, slots=True)
class Reservation:
    """The bytes that an adapter has still to write; whoever writes them counts them down."""

    left: int


class DiskSpace:
    """The free space on the cache's disk, without what is kept free, and in the cache budget."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
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
        with self._lock:
            others = sum(max(0, one.left) for one in self._reservations)
            if needed > 0:
                self._check(name, needed, others)
            self._reservations.append(mine := Reservation(needed))
        try:
            yield mine
        finally:
            with self._lock:
                self._reservations.remove(mine)

    def _check(self, name: str, needed: int, others: int) -> None:
        root, budget = self._store.root, self._settings.cache_budget
        beside = f", {size(others)} reserved for other adapters of this run" if others else ""
        if budget is not None:
            from lora_cli.store.gc import Retention, cache_bytes, collect

            if budget - others - cache_bytes(self._store) < needed <= budget - others:
                collect(self._store, Retention(max_bytes=budget - others - needed))
            if (used := cache_bytes(self._store)) + others + needed > budget:
                found = f"{size(needed)} needed, the cache budget is {size(budget)}, with {size(used)} in use{beside}"
                hint = "raise cache_budget (LORA_CLI_CACHE_BUDGET), or remove adapters (lora-cli cache rm)"
                raise Refused(f"{name}: {found}", hint=hint)
        with on_disk("reading", root):
            status = os.statvfs(nearest_folder(root))
        kept = bytes_kept_free(self._settings.keep_free, status.f_blocks * status.f_frsize)
        free = status.f_bavail * status.f_frsize
        if needed + others + kept > free:
            found = f"{size(needed)} needed, {size(free)} free, with {size(kept)} to be kept free{beside}"
            hint = "run lora-cli cache gc, use a larger disk, or lower keep_free (LORA_CLI_KEEP_FREE)"
            raise MachineError(f"{root}: {found}", hint=hint) from OSError(errno.ENOSPC, "")
