"""Eviction policies by name: LRU, and LFU by rates that age.

Pure, without torch. Time is logical: a policy that needs a clock counts requests, so that a replay of a trace and the
life that it was recorded from are the same, and both can be repeated.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from lora_cli.tiers.access_history import History
from lora_cli.tiers.memory_accounting import Budget, EvictionPolicy, Ledger


class Ranked:
    """Ranks by a score that a request only raises; LFU, where that is the logarithm of the rate of requests.

    The rate is over a key's whole history, not only since it was loaded: who comes back is known at once. A key is
    moved when it is found at the front with an old score: a hit costs nothing, and a look costs a few moves. Where a
    score falls, its key stays where it was until it is at the front.
    """

    def __init__(self, score: Callable[[str], float]) -> None:
        self._score = score
        self._order: list[tuple[float, str]] = []
        self._placed: dict[str, float] = {}

    def hit(self, key: str) -> None:
        """Nothing to do: the score has risen."""

    def loaded(self, key: str) -> None:
        """Rank ``key``."""
        self._place(key, self._score(key), 0)

    def removed(self, key: str) -> None:
        """Forget ``key``."""
        del self._order[bisect_left(self._order, (self._placed.pop(key), key))]

    def eviction_order(self) -> Iterator[str]:
        """The lowest score first."""
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


class Lru:
    """Holds the keys in the order of their last request."""

    def __init__(self) -> None:
        self._order: OrderedDict[str, None] = OrderedDict()

    def hit(self, key: str) -> None:
        """``key`` is the latest."""
        self._order.move_to_end(key)

    def loaded(self, key: str) -> None:
        """``key`` is the latest; one that is loaded ahead has its request soon."""
        self._order[key] = None

    def removed(self, key: str) -> None:
        """Forget ``key``."""
        del self._order[key]

    def eviction_order(self) -> Iterator[str]:
        """The one whose last request is the oldest first."""
        return iter(self._order)


PolicyName = Literal["lru", "lfu"]

POLICIES: Mapping[PolicyName, Callable[[History], EvictionPolicy]] = {
    "lru": lambda _history: Lru(),
    "lfu": lambda history: Ranked(history.rate),
}
"""Each makes a policy for one tier over its history, which the ledger provides."""


def new_ledger(make: Callable[[History], EvictionPolicy], name: str, budget: Budget) -> Ledger:
    """The empty books of one tier with one of ``POLICIES``, over a history of its own.

    A history belongs to one tier: requests that one answers are not asked of the next.
    """
    history = History()
    return Ledger(budget, make(history), history, name)
