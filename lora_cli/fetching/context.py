"""The shared state of the fetches of one run: cache, settings, threads and limits."""

from typing import Self

from lora_cli.fetching.disk_space import DiskSpace
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.fetching.readers import Readers
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.locks import InUse


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
        self.readers = Readers(settings.jobs)
        self.disk_space = DiskSpace(store, settings.keep_free, settings.cache_budget)

    def with_own_threads(self, sources: Sources | None = None) -> "FetchContext":
        """A context for another adapter of this run, within the same limits, with download threads of its own."""
        sources = sources or self.sources
        other = FetchContext(self.store, self.settings, self.progress, in_use=self.in_use, sources=sources)
        other.disk_space = self.disk_space
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.readers.close()
        if self._owns_locks:
            self.in_use.close()
