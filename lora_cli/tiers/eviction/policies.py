"""The simple eviction policies: LRU, LFU, GDSF, and a window of the latest over a score."""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Iterator


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

    def loaded(self, key: str, *, ahead: bool) -> None:
        """Rank ``key``."""
        self._place(key, self._score(key), 0)

    def removed(self, key: str, *, evicted: bool) -> None:
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

    def loaded(self, key: str, *, ahead: bool) -> None:
        """``key`` is the latest; one that is loaded ahead has its request soon."""
        self._order[key] = None

    def removed(self, key: str, *, evicted: bool) -> None:
        """Forget ``key``."""
        del self._order[key]

    def eviction_order(self) -> Iterator[str]:
        """The one whose last request is the oldest first."""
        return iter(self._order)


class Gdsf(Ranked):
    """Ranks by ``H = L + f * worth``: requests since it was loaded times load cost per size, over an age ``L``.

    ``L`` is the H of the last one evicted, so that what was popular once is overtaken in the end (Cherkasova,
    "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs 1998).
    """

    def __init__(self, worth: Callable[[str], float]) -> None:
        self._worth = worth
        self._age = 0.0
        self._times: dict[str, int] = {}
        self._value: dict[str, float] = {}
        super().__init__(self._value.__getitem__)

    def hit(self, key: str) -> None:
        """One request more."""
        self._times[key] += 1
        self._value[key] = self._age + self._times[key] * self._worth(key)

    def loaded(self, key: str, *, ahead: bool) -> None:
        """Rank it by its first request, made or to come."""
        self._times[key] = 0
        self.hit(key)
        super().loaded(key, ahead=ahead)

    def removed(self, key: str, *, evicted: bool) -> None:
        """Forget ``key``; when it was evicted, what it was worth is the age."""
        super().removed(key, evicted=evicted)
        value = self._value.pop(key)
        del self._times[key]
        if evicted:
            self._age = max(self._age, value)


ROUNDING = 1e-9
"""Shares are fractions that are added and taken away again: more than the window counts as infinite."""


class Windowed:
    """Two parts: the adapters asked for last, as many as fill ``window`` of the tier, and the rest by ``score``.

    The window goes by recency, which a session needs whose adapter was never seen before; the rest by rate. ``share``
    is how much of the tier a key takes, 1 for all of it.
    """

    def __init__(self, score: Callable[[str], float], share: Callable[[str], float], window: float) -> None:
        self._latest: OrderedDict[str, float] = OrderedDict()
        self._rest = Ranked(score)
        self._share, self._free = share, window

    def hit(self, key: str) -> None:
        """``key`` is the latest, in the window again if it was not."""
        if key in self._latest:
            self._latest.move_to_end(key)
        else:
            self._rest.removed(key, evicted=False)
            self._enter(key)

    def loaded(self, key: str, *, ahead: bool) -> None:
        """``key`` is the latest."""
        self._enter(key)

    def removed(self, key: str, *, evicted: bool) -> None:
        """Forget ``key``."""
        if key in self._latest:
            self._free += self._latest.pop(key)
        else:
            self._rest.removed(key, evicted=evicted)

    def eviction_order(self) -> Iterator[str]:
        """The rest, the lowest score first; then the window, the oldest first."""
        yield from self._rest.eviction_order()
        yield from self._latest

    def _enter(self, key: str) -> None:
        """``key`` into the window; the oldest ones, itself when it is too large, leave it for the rest."""
        share = self._latest[key] = self._share(key)
        self._free -= share
        while self._free < -ROUNDING:
            oldest, freed = self._latest.popitem(last=False)
            self._free += freed
            self._rest.loaded(oldest, ahead=False)
