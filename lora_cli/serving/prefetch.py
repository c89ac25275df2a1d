"""What is loaded ahead of its requests: a queue with priorities, processed by a few tasks."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

AT_ONCE = 2
"""Adapters fetched ahead at once, next to those that a request waits for."""


class Prefetcher:
    """Calls ``load`` with each name that was added, the lowest priority first; what it raises is its own business.

    A name that waits already is worked off once, by the better of its priorities.
    """

    def __init__(self, load: Callable[[str], Awaitable[object]], at_once: int = AT_ONCE) -> None:
        self._load, self._at_once = load, at_once
        self._queue: asyncio.PriorityQueue[tuple[int, int, str]] = asyncio.PriorityQueue()
        self._order = count()
        self._waiting: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, name: str, priority: int) -> None:
        """Have ``name`` loaded some time."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._work()) for _ in range(self._at_once)]
        self._waiting.add(name)
        self._queue.put_nowait((priority, next(self._order), name))

    async def wait(self) -> None:
        """Wait until nothing waits and nothing is under way."""
        await self._queue.join()

    def close(self) -> None:
        """Begin nothing more."""
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
