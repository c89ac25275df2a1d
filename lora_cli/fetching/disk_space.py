"""Room on the disk and in the cache, for all adapters of one run together: asked for before a byte of one is read."""

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
from lora_cli.store import Store
from lora_cli.store.disk import nearest_folder

LARGEST_RESERVE = 1 << 30
RESERVED_PART = 20
"""Unless ``--keep-free`` says otherwise, a twentieth of the disk stays free, and at most 1 GiB: a node whose disk is
full evicts what runs on it."""


AHEAD = 2 << 20
"""Of a file of unknown size this many bytes more than have arrived are reserved; it is looked again at half of them."""


class _Reservation:
    """What one adapter still has to write, in bytes, and all that it was given."""

    def __init__(self, size: int) -> None:
        self.left = self.size = size


class Room:
    """What is free on the cache's disk beyond the reserve, and in the cache's budget.

    ``keep_free`` is the reserve in bytes (None: a part of the disk), ``budget`` what the cache may have (None: all).
    Threads share it: each adapter reserves what it is going to write.
    """

    def __init__(self, store: Store, keep_free: int | None = None, budget: int | None = None) -> None:
        self._store, self._keep_free, self._budget = store, keep_free, budget
        self._reservations: list[_Reservation] = []
        self._in_cache: int | None = None
        self._lock = threading.Lock()

    @contextmanager
    def reserved(self, name: str, size: int, here: int, progress: Progress) -> Iterator[Progress]:
        """Room for ``size`` bytes of the adapter ``name``, of which ``here`` are in partial files to go on with.

        Gives ``progress`` back, watched: what is written needs no room any more, and a file of unknown size is given
        more as it comes. Where the budget is used up, what was not used for longest goes.

        Raises:
            MachineError: the disk is too small.
            Refused: the budget is, and everything in the cache is in use.
        """
        with self._lock:
            self._check_disk(max(0, size - here))
            self._make_room(name, size)
            reservation = _Reservation(size)
            self._reservations.append(reservation)
        try:
            yield _Watched(progress, reservation, partial(self._grow, name, reservation))
        finally:
            with self._lock:
                self._reservations.remove(reservation)
                if not self._reservations:
                    self._in_cache = None  # others may write before the next one comes
                elif self._in_cache is not None:
                    self._in_cache += reservation.size

    def _grow(self, name: str, reservation: _Reservation, count: int) -> None:
        """Gives an adapter room for ``count`` bytes more; raises as ``reserved``."""
        with self._lock:
            self._check_disk(count)
            self._make_room(name, reservation.size + count, besides=reservation)
            reservation.left += count
            reservation.size += count

    def _promised(self, besides: _Reservation | None = None) -> int:
        return sum(max(0, one.left) for one in self._reservations if one is not besides)

    def _check_disk(self, needed: int) -> None:
        root = self._store.root
        try:
            status = os.statvfs(nearest_folder(root))
        except OSError:
            return
        reserve = self._keep_free
        if reserve is None:
            reserve = min(LARGEST_RESERVE, status.f_blocks * status.f_frsize // RESERVED_PART)
        free, promised = status.f_bavail * status.f_frsize, self._promised()
        if needed and needed + promised + reserve > free:
            others = f" and {size(promised)} reserved for other adapters of this run" if promised else ""
            raise MachineError(
                f"{root}: {size(needed)} needed, {size(free)} free, with {size(reserve)} to be kept free{others}",
                hint="free some space (lora-cli cache gc), lower --keep-free, or set --cache-dir to a larger disk",
            ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _make_room(self, name: str, needed: int, besides: _Reservation | None = None) -> None:
        if self._budget is None or not needed:
            return
        from lora_cli.store.garbage_collection import Limits, collect
        from lora_cli.store.usage import cache_bytes

        promised = self._promised(besides)
        most = self._budget - needed - promised
        if self._in_cache is None or self._in_cache > most:
            self._in_cache = cache_bytes(self._store, partials=False)
        if self._in_cache > most >= 0:
            partials = cache_bytes(self._store) - self._in_cache
            collect(self._store, Limits(max_bytes=most + partials))
            self._in_cache = cache_bytes(self._store, partials=False)
        if self._in_cache > most:
            others = f", {size(promised)} reserved for other adapters of this run" if promised else ""
            raise Refused(
                f"{name}: {size(needed)} needed, the cache budget is {size(self._budget)}, "
                f"with {size(self._in_cache)} in use{others}",
                hint="raise --cache-budget, or remove unused adapters: lora-cli cache ls, lora-cli cache rm",
            )


@dataclass(frozen=True, slots=True)
class _Watched(Progress):
    """``progress``, and what is written leaves the reservation; ``ahead`` is what files of unknown size still have."""

    progress: Progress
    reservation: _Reservation
    grow: Callable[[int], None]
    ahead: dict[str, int] = field(default_factory=dict)

    def began(self, file: str, size: int | None, have: int) -> None:
        if size is None:
            self.ahead[file] = 0
        self._took(file, have)
        self.progress.began(file, size, have)

    def advanced(self, file: str, count: int) -> None:
        self._took(file, count)
        self.progress.advanced(file, count)

    def _took(self, file: str, count: int) -> None:
        if file in self.ahead and (left := self.ahead[file] - count) < AHEAD // 2:
            self.grow(AHEAD - left)
            self.ahead[file] = AHEAD
        elif file in self.ahead:
            self.ahead[file] = left
        self.reservation.left -= count

    def ended(self, file: str) -> None:
        self.progress.ended(file)
