"""What the fetches of one run share: cache, settings, sources, threads, disk space, and how progress is told."""

from functools import cached_property
from typing import TYPE_CHECKING, Self

from lora_cli.redaction import logger
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.locks import InUse

if TYPE_CHECKING:
    from lora_cli.fetching.disk_space import DiskSpace
    from lora_cli.fetching.readers import Readers

log = logger(__name__)


class Progress:
    """How a fetch reports its progress, from many threads, each with its ``adapter``'s name; logs waits alone."""

    def began(self, adapter: str, size: int) -> None:
        """A download begins; ``size`` bytes are missing, as far as their number is known."""

    def advanced(self, adapter: str, count: int) -> None:
        """``count`` more bytes are here; a negative ``count`` takes wrong ones back."""

    def waiting(self, adapter: str) -> None:
        """This process waits for another one that downloads the same adapter."""
        log.warning("%s: waiting for another process that fetches it", adapter)

    def adapter_ended(self, adapter: str) -> None:
        """The adapter is done or has failed."""


SILENT = Progress()


class FetchContext:
    """The shared state of the fetches of one run: cache, settings, sources, threads and limits.

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
        store.check_folder()
        self.store, self.settings, self.progress = store, settings, progress
        self.in_use, self._owns_locks = in_use or InUse(store), in_use is None
        self.sources = sources or Sources(settings)

    @cached_property
    def readers(self) -> "Readers":
        """The threads that read from origins."""
        from lora_cli.fetching.readers import Readers

        readers: Readers = vars(self).setdefault("readers", Readers(self.settings.jobs))  # threads may ask at once
        return readers

    @cached_property
    def disk_space(self) -> "DiskSpace":
        """The space that the adapters of this run share."""
        from lora_cli.fetching.disk_space import DiskSpace

        own = DiskSpace(self.store, self.settings.keep_free, self.settings.cache_budget)
        shared: DiskSpace = vars(self).setdefault("disk_space", own)
        return shared

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if "readers" in vars(self):
            self.readers.close()
        if self._owns_locks:
            self.in_use.close()
