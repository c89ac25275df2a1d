"""Keys in the order of a score, for policies that rank."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator


class Standing:
    """Keys by a score that a request only raises, the lowest first.

    A key is moved when somebody looks and finds it at the front with a score of long ago: a hit costs nothing, and a
    look costs a few moves. Where a score falls, its key stays where it was until it is at the front.
    """

    def __init__(self, score: Callable[[str], float]) -> None:
        self._score = score
        self._order: list[tuple[float, str]] = []
        self._placed: dict[str, float] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._placed

    def add(self, key: str) -> None:
        """Rank ``key``, which is not here yet."""
        self._place(key, self._score(key), 0)

    def remove(self, key: str) -> None:
        """Forget ``key``, which is here."""
        del self._order[bisect_left(self._order, (self._placed.pop(key), key))]

    def __iter__(self) -> Iterator[str]:
        at = 0
        while at < len(self._order):
            placed, key = self._order[at]
            now = self._score(key)
            if now > placed:
                del self._order[at]
                self._place(key, now, at)
            else:
                yield key
                at += 1

    def _place(self, key: str, score: float, at_least: int) -> None:
        self._placed[key] = score
        insort(self._order, (score, key), at_least)
