"""The tiers' contents, as last reported by the warm process: callers do not wait for a busy or stopped one."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from lora_cli.errors import LoraCliError
from lora_cli.runtime.messages import QueryTiers, TierContents
from lora_cli.runtime.warm_process import WarmProcess

PATIENCE_S, FIRST_PATIENCE_S = 0.5, 0.8
"""How long to wait for an answer if there is an earlier one to fall back on, and for the first one."""


@dataclass(frozen=True, slots=True)
class CachedTiers:
    """The answer of child number ``process`` at ``received_at`` (``time.monotonic``)."""

    contents: TierContents
    process: int
    received_at: float


class TierStatusCache:
    """Queries the warm process for the contents of its tiers; all callers share one query at a time."""

    def __init__(self, process: Callable[[], WarmProcess | None]) -> None:
        self._process = process
        self._threads = ThreadPoolExecutor(2, "query")
        self._pending: asyncio.Future[TierContents | None] | None = None
        self._queried_at = 0.0
        self._seen: CachedTiers | None = None

    async def refresh(self, *, or_last: bool = False) -> TierContents | None:
        """Query the tiers. None while the process is not ready, or if its answer takes too long.

        A query under way is shared. With ``or_last`` the caller is content with ``latest``: it then waits less, counted
        from when the query was sent.
        """
        asked = self._pending
        if asked is None or asked.done():
            self._queried_at = monotonic()
            asked = self._pending = asyncio.get_running_loop().run_in_executor(self._threads, self._query)
        patience_s = FIRST_PATIENCE_S
        if or_last:
            patience_s = self._queried_at + (FIRST_PATIENCE_S if self.latest()[0] is None else PATIENCE_S) - monotonic()
        await asyncio.wait([asked], timeout=max(0.0, patience_s))
        return asked.result() if asked.done() else None

    def latest(self) -> tuple[TierContents | None, float | None]:
        """The latest answer of the running child, and its age in seconds; None before its first answer."""
        process, seen = self._process(), self._seen
        if process is None or seen is None or process.pid is None or process.starts != seen.process:
            return None, None
        return seen.contents, monotonic() - seen.received_at

    def _query(self) -> TierContents | None:
        process = self._process()
        if process is None or not process.is_started:
            return None
        starts = process.starts
        with suppress(LoraCliError):
            contents = process.submit("", QueryTiers()).answer(TierContents)
            self._seen = CachedTiers(contents, starts, monotonic())
            return contents
        return None
