"""What is loaded ahead of its requests: a queue with priorities, worked off by a few threads."""

import threading
from collections.abc import Callable
from itertools import count
from queue import PriorityQueue

THREADS = 2
"""Adapters fetched ahead at once: requests that somebody waits for have threads of their own."""

LAST = 1 << 62


class Prefetcher:
    """Calls ``load`` with each name that was added, the lowest priority first; what it raises is its own business.

    A name that waits already is worked off once, by the better of its priorities.
    """

    def __init__(self, load: Callable[[str], object], threads: int = THREADS) -> None:
        self._load = load
        self._queue: PriorityQueue[tuple[int, int, str]] = PriorityQueue()
        self._order = count()
        self._waiting: set[str] = set()
        self._busy = 0
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name="prefetch", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, name: str, priority: int) -> None:
        """Have ``name`` loaded some time."""
        with self._changed:
            self._waiting.add(name)
        self._queue.put((priority, next(self._order), name))

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing waits and nothing is under way; whether it came to that."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self) -> None:
        """Begin nothing more; what is under way goes on."""
        self._closed = True
        for _ in self._threads:
            self._queue.put((LAST, next(self._order), ""))

    def _work(self) -> None:
        while True:
            _, _, name = self._queue.get()
            if self._closed:
                return
            with self._changed:
                if name not in self._waiting:
                    continue
                self._waiting.discard(name)
                self._busy += 1
            try:
                self._load(name)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()
