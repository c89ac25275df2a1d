"""Space on the disk and in the cache budget: reserved for each adapter of a run before its first byte is read."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lora_cli.core.text import size as shown
from lora_cli.errors import MachineError, Refused
from lora_cli.settings import bytes_kept_free
from lora_cli.store import Store
from lora_cli.store.disk import nearest_folder


@dataclass(eq=False, slots=True)
class Reservation:
    """The bytes of one adapter, of which ``left`` are still to be written."""

    size: int
    left: int


class DiskSpace:
    """The free space on the cache's disk without ``keep_free`` bytes (None: a part of it), and in the cache budget."""

    def __init__(self, store: Store, keep_free: int | None = None, budget: int | None = None) -> None:
        self._store, self._keep_free, self._budget = store, keep_free, budget
        self._others: list[Reservation] = []
        self._lock = threading.Lock()

    @contextmanager
    def reserve(self, name: str, size: int, resumed: int = 0) -> Iterator[Reservation]:
        """Reserves ``size`` bytes for the adapter ``name``, of which ``resumed`` are in partial files already.

        Where the budget is exceeded, the least recently used snapshots are removed.

        Raises:
            MachineError: the disk is too small.
            Refused: the budget is too small, and everything in the cache is in use.
        """
        mine, root = Reservation(size, size - resumed), self._store.root
        with self._lock:
            if self._budget is not None and size:
                self._make_room(name, size, self._budget)
            with suppress(OSError):
                status = os.statvfs(nearest_folder(root))
                free, others = status.f_bavail * status.f_frsize, sum(max(0, one.left) for one in self._others)
                kept = bytes_kept_free(self._keep_free, status.f_blocks * status.f_frsize)
                if mine.left and mine.left + others + kept > free:
                    found = f"{shown(mine.left)} needed, {shown(free)} free, with {shown(kept)} to be kept free"
                    hint = "run lora-cli cache gc, use a larger disk, or lower keep_free (LORA_CLI_KEEP_FREE)"
                    raise MachineError(f"{root}: {found}{_reserved(others)}", hint=hint) from OSError(errno.ENOSPC, "")
            self._others.append(mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._others.remove(mine)

    def _make_room(self, name: str, size: int, budget: int) -> None:
        from lora_cli.store.gc import Retention, cache_bytes, collect

        others, in_use = sum(one.size for one in self._others), cache_bytes(self._store, partials=False)
        if in_use > budget - size - others >= 0:
            partials = cache_bytes(self._store) - in_use
            collect(self._store, Retention(max_bytes=budget - size - others + partials))
            in_use = cache_bytes(self._store, partials=False)
        if in_use > budget - size - others:
            found = f"{shown(size)} needed, the cache budget is {shown(budget)}, with {shown(in_use)} in use"
            hint = "raise cache_budget (LORA_CLI_CACHE_BUDGET), or remove adapters (lora-cli cache rm)"
            raise Refused(f"{name}: {found}{_reserved(others)}", hint=hint)


def _reserved(others: int) -> str:
    return f", {shown(others)} reserved for other adapters of this run" if others else ""
