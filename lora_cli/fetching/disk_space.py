"""Space on the disk and in the cache budget: reserved for each adapter of a run before its first byte is read."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    """The free space on the cache's disk, and in the cache budget, for the adapters of a run.

    ``keep_free`` bytes are left (None: a part of the disk); ``budget`` limits the cache (None: it is not limited).
    """

    def __init__(self, store: Store, keep_free: int | None = None, budget: int | None = None) -> None:
        self._store, self._keep_free, self._budget = store, keep_free, budget
        self._reserved: list[Reservation] = []
        self._lock = threading.Lock()

    @contextmanager
    def reserve(self, name: str, size: int, resumed: int = 0) -> Iterator[Reservation]:
        """Reserves ``size`` bytes for the adapter ``name``, of which ``resumed`` are in partial files already.

        Where the budget is exceeded, the least recently used snapshots are removed.

        Raises:
            MachineError: the disk is too small.
            Refused: the budget is too small, and everything in the cache is in use.
        """
        mine = Reservation(size, size - resumed)
        with self._lock:
            self._check_budget(name, size)  # which may make room
            self._check_disk(mine.left)
            self._reserved.append(mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._reserved.remove(mine)

    def _check_disk(self, needed: int) -> None:
        root, others = self._store.root, sum(max(0, one.left) for one in self._reserved)
        try:
            status = os.statvfs(nearest_folder(root))
        except OSError:
            return
        kept = bytes_kept_free(self._keep_free, status.f_blocks * status.f_frsize)
        free = status.f_bavail * status.f_frsize
        if needed and needed + others + kept > free:
            raise MachineError(
                f"{root}: {shown(needed)} needed, {shown(free)} free, with {shown(kept)} to be kept free"
                + (f" and {shown(others)} reserved for other adapters of this run" if others else ""),
                hint="free some space (lora-cli cache gc), use a larger disk, or lower keep_free (LORA_CLI_KEEP_FREE)",
            ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _check_budget(self, name: str, needed: int) -> None:
        if self._budget is None or not needed:
            return
        from lora_cli.store.gc import Retention, cache_bytes, collect

        others = sum(one.size for one in self._reserved)
        most, in_use = self._budget - needed - others, cache_bytes(self._store, partials=False)
        if in_use > most >= 0:
            partials = cache_bytes(self._store) - in_use
            collect(self._store, Retention(max_bytes=most + partials))
            in_use = cache_bytes(self._store, partials=False)
        if in_use > most:
            raise Refused(
                f"{name}: {shown(needed)} needed, the cache budget is {shown(self._budget)}, "
                f"with {shown(in_use)} in use"
                + (f", {shown(others)} reserved for other adapters of this run" if others else ""),
                hint="raise cache_budget (LORA_CLI_CACHE_BUDGET), or remove adapters (lora-cli cache rm)",
            )
