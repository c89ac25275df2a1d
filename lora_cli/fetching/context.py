"""The shared state of the fetches of one run: cache, settings, threads and limits."""

import threading
from typing import Self

from lora_cli.errors import Refused
from lora_cli.fetching.disk_space import DiskSpace
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.fetching.scheduler import RangeScheduler
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.locks import InUse


class TotalBytesLimit:
    """``max_total_bytes``: the limit for the adapters of one run together, whether they are cached or not.

    It is applied in the order of the adapters, so that every run refuses the same ones: each waits until all before it
    are resolved or have failed.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._sizes: dict[int, int] = {}
        self._changed = threading.Condition()

    def check(self, turn: int, name: str, size: int) -> None:
        """Counts the ``size`` in bytes of adapter number ``turn`` (from 0); a second call replaces the first size.

        Raises:
            Refused: it is more than is left.
        """
        if self._limit is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: all(number in self._sizes for number in range(turn)))
            others = sum(other for number, other in self._sizes.items() if number != turn)
            fits = others + size <= self._limit
            self._sizes[turn] = size if fits else 0
            self._changed.notify_all()
        if not fits:
            raise Refused(
                f"{name} has {size} bytes: with the {others} of the others over the limit of {self._limit} for a run",
                hint="raise max_total_bytes (LORA_CLI_MAX_TOTAL_BYTES), or fetch fewer adapters at once",
            )

    def finish(self, turn: int) -> None:
        """The adapter is done or has failed: those after it need not wait for it."""
        with self._changed:
            self._sizes.setdefault(turn, 0)
            self._changed.notify_all()


class FetchContext:
    """The shared state of the fetches of one run; closed when the run is over.

    ``in_use`` keeps what is fetched from being garbage-collected; by default, until the context is closed.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        progress: Progress = SILENT,
        *,
        in_use: InUse | None = None,
        sources: Sources | None = None,
    ) -> None:
        self.store, self.settings, self.progress = store, settings, progress
        self.in_use, self._owns_locks = in_use or InUse(store), in_use is None
        self.sources = sources or Sources(settings)
        self.scheduler = RangeScheduler(settings.jobs)
        self.disk_space = DiskSpace(store, settings.keep_free, settings.cache_budget)
        self.total = TotalBytesLimit(settings.max_total_bytes)

    def with_own_threads(self, sources: Sources | None = None) -> "FetchContext":
        """A context for another adapter of this run, within the same limits, with download threads of its own."""
        sources = sources or self.sources
        other = FetchContext(self.store, self.settings, self.progress, in_use=self.in_use, sources=sources)
        other.disk_space, other.total = self.disk_space, self.total
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.scheduler.close()
        if self._owns_locks:
            self.in_use.close()
