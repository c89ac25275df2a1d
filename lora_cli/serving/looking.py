"""What the tiers hold, as the warm process last said: nobody waits long for one that is busy or stopped."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic

from lora_cli.errors import LoraCliError
from lora_cli.runtime.messages import Holdings, Look
from lora_cli.runtime.process import WarmProcess

PATIENCE_S, FIRST_PATIENCE_S = 0.5, 0.8
"""So long an answer is waited for where there is one before it, which has to do then; and so long the first one is."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What child number ``by`` said at ``at`` (``time.monotonic``)."""

    holdings: Holdings
    by: int
    at: float


class Looking:
    """Asks the warm process for its holdings, once at a time for all who want to know; any thread may ask."""

    def __init__(self, process: Callable[[], WarmProcess | None]) -> None:
        self._process = process
        self._threads = ThreadPoolExecutor(2, "look")
        self._under_way: dict[bool, Future[Holdings | None]] = {}
        self._asked_at = 0.0
        self._seen: Seen | None = None
        self._lock = threading.Lock()

    def ask(self, *, with_history: bool = False) -> "Future[Holdings | None]":
        """What it says now, some time; None while nothing stands. One question that is under way is not asked again."""
        with self._lock:
            asked = self._under_way.get(with_history)
            if asked is None or asked.done():
                self._asked_at = self._asked_at if with_history else monotonic()
                asked = self._under_way[with_history] = self._threads.submit(self._look, with_history=with_history)
            return asked

    def wait(self, *, with_history: bool = False) -> Holdings | None:
        """What it says now, or None when that takes too long."""
        with suppress(TimeoutError):
            return self.ask(with_history=with_history).result(FIRST_PATIENCE_S)
        return None

    def patience_s(self) -> float:
        """How long an answer is worth waiting for now: one that is due for some time is not waited for."""
        patience_s = PATIENCE_S if self.last()[0] is not None else FIRST_PATIENCE_S
        return max(0.0, self._asked_at + patience_s - monotonic())

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
