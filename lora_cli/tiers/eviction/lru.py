"""Least recently used: who was asked for longest ago leaves first."""

from collections.abc import Sequence


class Lru:
    """Holds the moment of the last request for every key in the tier."""

    def __init__(self) -> None:
        self._clock = 0
        self._last: dict[str, int] = {}

    def seen(self, key: str) -> None:
        """``key`` was asked for now."""
        self._clock += 1
        self._last[key] = self._clock

    def gone(self, key: str) -> None:
        """``key`` left the tier."""
        self._last.pop(key, None)

    def victim(self, keys: Sequence[str]) -> str:
        """The key of ``keys`` whose last request is the oldest; one never asked for is older than all."""
        return min(keys, key=lambda key: self._last.get(key, 0))
