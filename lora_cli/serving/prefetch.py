"""Prefetching: a priority queue of adapter names, processed by a few tasks."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

AT_ONCE = 2
"""Concurrent prefetches, besides the loads that a request waits for."""


class Prefetcher:
    """Calls ``load``, which must not raise, with each name that was added, the lowest priority first.

    A name that is added again while it waits is loaded once, at the better priority.
    """

    def __init__(self, load: Callable[[str], Awaitable[object]], at_once: int = AT_ONCE) -> None:
        self._load, self._at_once = load, at_once
        self._queue: asyncio.PriorityQueue[tuple[int, int, str]] = asyncio.PriorityQueue()
        self._order = count()
        self._waiting: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        """The number of waiting names."""
        return len(self._waiting)

    def add(self, name: str, priority: int) -> None:
        """Queue ``name``."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._work()) for _ in range(self._at_once)]
        self._waiting.add(name)
        self._queue.put_nowait((priority, next(self._order), name))

    async def wait(self) -> None:
        """Wait until the queue is empty and every load has ended."""
        await self._queue.join()

    def close(self) -> None:
        """Cancel the tasks."""
        for task in self._tasks:
            task.cancel()

    async def _work(self) -> None:
        while True:
            _, _, name = await self._queue.get()
            try:
                if name in self._waiting:
                    self._waiting.discard(name)
                    await self._load(name)
            finally:
                self._queue.task_done()
