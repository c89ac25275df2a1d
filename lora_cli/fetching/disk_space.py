"""Space on the disk and in the cache budget: reserved for each adapter of a run before its first byte is read."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from lora_cli.core.text import size
from lora_cli.errors import MachineError, Refused
from lora_cli.fetching.progress import Progress
from lora_cli.settings import bytes_kept_free
from lora_cli.store import Store
from lora_cli.store.disk import nearest_folder

AHEAD = 2 << 20
"""For a file of unknown size this many bytes beyond those received are reserved; more when half of them are used."""


class _Reservation:
    """The bytes that one adapter still has to write, and its whole reservation."""

    def __init__(self, size: int) -> None:
        self.left = self.size = size


class DiskSpace:
    """The free space on the cache's disk beyond the reserve, and in the cache budget.

    ``keep_free`` is the reserve in bytes (None: a part of the disk), ``budget`` the limit for the cache (None: no
    limit). Threads share it: each adapter reserves what it is going to write.
    """

    def __init__(self, store: Store, keep_free: int | None = None, budget: int | None = None) -> None:
        self._store, self._keep_free, self._budget = store, keep_free, budget
        self._reservations: list[_Reservation] = []
        self._in_cache: int | None = None
        self._lock = threading.Lock()

    @contextmanager
    def reserve(self, name: str, size: int, resumed: int, progress: Progress) -> Iterator[Progress]:
        """Reserves ``size`` bytes for the adapter ``name``, of which ``resumed`` are in partial files already.

        Yields a ``progress`` that releases what is written, and reserves more for files of unknown size as they grow.
        Where the budget is exceeded, the least recently used snapshots are removed.

        Raises:
            MachineError: the disk is too small.
            Refused: the budget is too small, and everything in the cache is in use.
        """
        with self._lock:
            self._check_budget(name, size)  # which may make room
            self._check_disk(max(0, size - resumed))
            reservation = _Reservation(size)
            self._reservations.append(reservation)
        try:
            yield _ReservingProgress(progress, reservation, partial(self._grow, name, reservation))
        finally:
            with self._lock:
                self._reservations.remove(reservation)
                if not self._reservations:
                    self._in_cache = None  # other processes may write before the next reservation
                elif self._in_cache is not None:
                    self._in_cache += reservation.size

    def _grow(self, name: str, reservation: _Reservation, count: int) -> None:
        """Reserves ``count`` more bytes for an adapter; raises as ``reserve``."""
        with self._lock:
            self._check_budget(name, reservation.size + count, besides=reservation)
            self._check_disk(count)
            reservation.left += count
            reservation.size += count

    def _reserved_bytes(self, besides: _Reservation | None = None) -> int:
        return sum(max(0, one.left) for one in self._reservations if one is not besides)

    def _check_disk(self, needed: int) -> None:
        root = self._store.root
        try:
            status = os.statvfs(nearest_folder(root))
        except OSError:
            return
        reserve = bytes_kept_free(self._keep_free, status.f_blocks * status.f_frsize)
        free, reserved = status.f_bavail * status.f_frsize, self._reserved_bytes()
        if needed and needed + reserved + reserve > free:
            others = f" and {size(reserved)} reserved for other adapters of this run" if reserved else ""
            raise MachineError(
                f"{root}: {size(needed)} needed, {size(free)} free, with {size(reserve)} to be kept free{others}",
                hint="free some space (lora-cli cache gc), use a larger disk, or lower keep_free (LORA_CLI_KEEP_FREE)",
            ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _check_budget(self, name: str, needed: int, besides: _Reservation | None = None) -> None:
        if self._budget is None or not needed:
            return
        from lora_cli.store.gc import Retention, cache_bytes, collect

        reserved = self._reserved_bytes(besides)
        most = self._budget - needed - reserved
        if self._in_cache is None or self._in_cache > most:
            self._in_cache = cache_bytes(self._store, partials=False)
        if self._in_cache > most >= 0:
            partials = cache_bytes(self._store) - self._in_cache
            collect(self._store, Retention(max_bytes=most + partials))
            self._in_cache = cache_bytes(self._store, partials=False)
        if self._in_cache > most:
            others = f", {size(reserved)} reserved for other adapters of this run" if reserved else ""
            raise Refused(
                f"{name}: {size(needed)} needed, the cache budget is {size(self._budget)}, "
                f"with {size(self._in_cache)} in use{others}",
                hint="raise cache_budget (LORA_CLI_CACHE_BUDGET), or remove adapters (lora-cli cache rm)",
            )


@dataclass(frozen=True, slots=True)
class _ReservingProgress(Progress):
    """Releases from the reservation what is written; ``ahead`` is what files of unknown size still have reserved."""

    progress: Progress
    reservation: _Reservation
    grow: Callable[[int], None]
    ahead: dict[str, int] = field(default_factory=dict)

    def began(self, file: str, size: int | None, have: int) -> None:
        if size is None:
            self.ahead[file] = 0
        self._count(file, have)
        self.progress.began(file, size, have)

    def advanced(self, file: str, count: int) -> None:
        self._count(file, count)
        self.progress.advanced(file, count)

    def _count(self, file: str, count: int) -> None:
        if file in self.ahead and (left := self.ahead[file] - count) < AHEAD // 2:
            self.grow(AHEAD - left)
            self.ahead[file] = AHEAD
        elif file in self.ahead:
            self.ahead[file] = left
        self.reservation.left -= count

    def ended(self, file: str) -> None:
        self.progress.ended(file)
