"""The tiers' contents, as last reported by the warm process: callers do not wait for a busy or stopped one."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

from lora_cli.errors import LoraCliError
from lora_cli.runtime.messages import Holdings, Look
from lora_cli.runtime.warm_process import WarmProcess

PATIENCE_S, FIRST_PATIENCE_S = 0.5, 0.8
"""How long an answer is waited for where there is one before it, which has to do then; and so long the first one is."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What child number ``by`` said at ``at`` (``time.monotonic``)."""

    holdings: Holdings
    by: int
    at: float


class Looking:
    """Asks the warm process for its holdings, once at a time for all who want to know."""

    def __init__(self, process: Callable[[], WarmProcess | None]) -> None:
        self._process = process
        self._threads = ThreadPoolExecutor(2, "look")
        self._under_way: dict[bool, asyncio.Future[Holdings | None]] = {}
        self._asked_at = 0.0
        self._seen: Seen | None = None

    async def ask(self, *, with_history: bool = False, or_last: bool = False) -> Holdings | None:
        """What it says now; None while nothing is ready, or when it takes too long.

        One question that is under way is not asked again. With ``or_last`` what it said last will do, if it said
        anything; then an answer that is due for some time is not waited for.
        """
        asked = self._under_way.get(with_history)
        if asked is None or asked.done():
            self._asked_at = self._asked_at if with_history else monotonic()
            look = partial(self._look, with_history=with_history)
            asked = asyncio.get_running_loop().run_in_executor(self._threads, look)
            self._under_way[with_history] = asked
        patience_s = FIRST_PATIENCE_S
        if or_last:
            patience_s = self._asked_at + (FIRST_PATIENCE_S if self.last()[0] is None else PATIENCE_S) - monotonic()
        await asyncio.wait([asked], timeout=max(0.0, patience_s))
        return asked.result() if asked.done() else None

    def last(self) -> tuple[Holdings | None, float | None]:
        """What the child that there is said last, and how many seconds ago; None while it has said nothing."""
        process, seen = self._process(), self._seen
        if process is None or seen is None or process.pid is None or process.starts != seen.by:
            return None, None
        return seen.holdings, monotonic() - seen.at

    def _look(self, *, with_history: bool) -> Holdings | None:
        process = self._process()
        if process is None or not process.stands:
            return None
        by = process.starts
        with suppress(LoraCliError):
            holdings = process.submit("", Look(with_history)).answer(Holdings)
            self._seen = Seen(replace(holdings, history={}), by, monotonic())
            return holdings
        return None
