"""``Tally``: what is known of a fetch while it is under way, in numbers."""

import threading
from collections import deque

from lora_cli.render.human.meter import Meter, Row

SPEED_OVER_S = 3.0


class Tally:
    """What is known of a fetch: every file that began, with what is here of it and its size; which are under way."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._files: dict[str, tuple[int, int | None]] = {}
        self._under_way: set[str] = set()
        self._through: set[str] = set()
        self._arrived = 0
        self._samples: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def began(self, file: str, size: int | None, have: int) -> None:
        """So much of a file is here already."""
        with self._lock:
            self._files[file] = (have, size)
            self._under_way.add(file)

    def advanced(self, file: str, count: int) -> None:
        """So much more."""
        with self._lock:
            have, size = self._files.get(file, (0, None))
            self._files[file] = (have + count, size)
            self._arrived += count

    def ended(self, file: str) -> None:
        """Nothing more comes of it."""
        with self._lock:
            self._under_way.discard(file)

    def through(self, adapter: str) -> None:
        """Nothing more comes of that adapter."""
        with self._lock:
            self._through.add(adapter)

    def meter(self, now_s: float) -> Meter:
        """All of it at this moment of a monotonic clock."""
        with self._lock:
            by_adapter: dict[str, list[tuple[int, int | None]]] = {}
            for file, amount in self._files.items():
                by_adapter.setdefault(_adapter(file), []).append(amount)
            busy = dict.fromkeys(_adapter(file) for file in self._files if file in self._under_way)
            rows = (Row(name, *_summed(by_adapter[name])) for name in busy)
            known = sum(have if size is None else max(size, have) for have, size in self._files.values())
            seen = len(by_adapter.keys() | self._through) or 1
            return Meter(
                rows=tuple(rows),
                ended=min(len((by_adapter.keys() | self._through) - busy.keys()), self._count),
                count=self._count,
                done=sum(have for have, _ in self._files.values()),
                expected=known * max(self._count, seen) // seen,
                exact=seen >= self._count,
                per_s=self._speed(now_s),
            )

    def _speed(self, now_s: float) -> float:
        self._samples.append((now_s, self._arrived))
        while now_s - self._samples[0][0] > SPEED_OVER_S:
            self._samples.popleft()
        since_s, before = self._samples[0]
        return max((self._arrived - before) / (now_s - since_s), 0.0) if now_s > since_s else 0.0


def _adapter(file: str) -> str:
    return file.rpartition(": ")[0] or file


def _summed(amounts: list[tuple[int, int | None]]) -> tuple[int, int | None]:
    sizes = [size for _, size in amounts]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    return sum(have for have, _ in amounts), total
